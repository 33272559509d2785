#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| knock_fuzz_checks::fleet_record(bytes));
