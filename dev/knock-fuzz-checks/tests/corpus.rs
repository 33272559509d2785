//! What the fuzzer has found worth keeping holds without it too.

use std::fs;
use std::path::Path;

/// Calls `check` with each file of the corpus of that target.
fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut replayed = 0;
    for entry in entries {
        let path = entry.expect("the corpus can be listed").path();
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // The harness shows this where the check panics.
        println!("{}", path.display());
        check(&input);
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty: the corpus belongs into the repository", directory.display());
}

#[test]
fn the_parser_agrees_with_the_bytes_of_every_packet_of_the_corpus() {
    replay("packet", knock_fuzz_checks::packet);
}

#[test]
fn the_engine_opens_nothing_that_was_not_knocked_in_the_corpus() {
    replay("engine", knock_fuzz_checks::engine);
}

#[test]
fn a_configuration_of_the_corpus_is_valid_or_refused_at_a_place_of_it() {
    replay("config", knock_fuzz_checks::config);
}

#[test]
fn what_is_imported_from_the_corpus_is_a_configuration() {
    replay("import", knock_fuzz_checks::import);
}
