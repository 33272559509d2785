//! Writes the manual pages and completions below a directory, by default the top of the repository.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let top = env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")), PathBuf::from);
    for document in knock_manual::documents()? {
        let path = top.join(document.path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, document.text)?;
    }
    Ok(())
}
