//! `knock-cli ssh`: ssh with this program as its ProxyCommand.

use std::ffi::OsString;
use std::path::Path;

use crate::error::Error;
use crate::run;

/// Becomes ssh. Its options are not looked at: ssh says itself, by %h and %p, where it connects to.
pub(crate) fn ssh(arguments: &[OsString]) -> Result<(), Error> {
    let program = std::env::current_exe();
    let program =
        program.map_err(|error| Error::Io { what: "cannot find the path of this program".to_owned(), error })?;
    let proxy = format!("ProxyCommand={} --proxy %h %p", quoted(&program));
    let all: Vec<OsString> =
        [OsString::from("-o"), proxy.into()].into_iter().chain(arguments.iter().cloned()).collect();
    run::run(&OsString::from("ssh"), &all)
}

/// The path for the shell that ssh runs, and for ssh, which replaces what follows a percent sign.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%");
    if cfg!(windows) { format!("\"{text}\"") } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_one_word_for_the_shell() {
        assert_eq!(quoted(Path::new("/a b/100%/it's")), r"'/a b/100%%/it'\''s'");
    }
}
