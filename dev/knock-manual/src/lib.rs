//! The manual pages and the completions of shells, from the command lines and the schema of the configuration.
//!
//! They are kept in `man/` and `completions/`, so that packages need no run of this; a test compares them with what
//! the programs say now.

mod commands;
mod completions;
mod configuration;
mod page;

use std::io;
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use clap_complete::{Generator, Shell};

/// A file, and where it belongs below the top of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `man/knockd.8`, for example.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// All of them.
///
/// # Errors
///
/// Where a writer fails, which memory does not; or the schema is none.
pub fn documents() -> io::Result<Vec<Document>> {
    let mut documents = vec![
        Document { path: "man/knockd.8".into(), text: commands::knockd(knockd())? },
        Document { path: "man/knockctl.8".into(), text: commands::knockctl(knockctl())? },
        Document { path: "man/knockd-fleet.8".into(), text: commands::knockd_fleet(knockd_fleet::command())? },
        Document { path: "man/knock-cli.1".into(), text: commands::knock_cli(knock_cli::command())? },
        Document { path: "man/knockd.json.5".into(), text: configuration::render(&knock_config::schema())? },
    ];
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        for command in [knockd(), knockctl(), knockd_fleet::command(), knock_cli::command()] {
            let name = command.get_name().to_owned();
            let path = PathBuf::from("completions").join(shell.to_string()).join(shell.file_name(&name));
            documents.push(Document { path, text: completions::completion(shell, command) });
        }
    }
    Ok(documents)
}

fn knockd() -> Command {
    knockd::KnockdArgs::command()
}

fn knockctl() -> Command {
    knockd::KnockctlArgs::command()
}
