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

#[test]
fn a_signed_packet_of_the_corpus_is_accepted_only_as_it_was_signed() {
    replay("signed_packet", knock_fuzz_checks::signed_packet);
}

#[test]
fn a_line_of_authorized_keys_of_the_corpus_is_a_key_or_a_warning() {
    replay("authorized_keys", knock_fuzz_checks::authorized_keys);
}

#[test]
fn a_private_key_of_the_corpus_signs_or_is_refused() {
    replay("private_key", knock_fuzz_checks::private_key);
}

#[test]
fn a_url_of_the_corpus_comes_back_or_is_refused() {
    replay("knock_url", knock_fuzz_checks::knock_url);
}

#[test]
fn an_answer_of_an_agent_of_the_corpus_is_read_whole_or_refused() {
    replay("agent_answer", knock_fuzz_checks::agent_answer);
}

#[test]
fn a_file_of_accepted_packets_of_the_corpus_is_whole_or_a_gap() {
    replay("replay_file", knock_fuzz_checks::replay_file);
}

#[test]
fn a_record_of_the_corpus_opens_only_what_was_signed_for() {
    replay("fleet_record", knock_fuzz_checks::fleet_record);
}
