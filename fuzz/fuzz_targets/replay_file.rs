#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| knock_fuzz_checks::replay_file(bytes));
