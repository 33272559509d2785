//! What is kept in the repository is what the programs say now.

use std::path::Path;
use std::{env, fs};

/// `BLESS=1 cargo test -p knock-manual` writes them.
#[test]
fn manual_pages_and_completions_are_those_of_the_programs() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut stale = Vec::new();
    for document in knock_manual::documents().expect("documents") {
        let path = top.join(&document.path);
        if env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(&path, &document.text).expect("a file");
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(document.text.as_str()) {
            stale.push(document.path);
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; write them with BLESS=1 cargo test -p knock-manual");
}
