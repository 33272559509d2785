//! Writes the manual pages and completions below a directory, by default the top of the repository.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> io::Result<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let top = match (arguments.next().map(PathBuf::from), arguments.next()) {
        (None, _) => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")),
        (Some(directory), None) if directory.is_dir() => directory,
        _ => {
            eprintln!(
                "usage: knock-manual [DIRECTORY], a directory that exists; without it, the top of the repository"
            );
            return Ok(ExitCode::from(2));
        }
    };
    for document in knock_manual::documents()? {
        let path = top.join(document.path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, document.text)?;
    }
    Ok(ExitCode::SUCCESS)
}
