//! `knockctl fleet keygen`: the key of this node. It can run again and again, as configuration management does it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use knock_fleet::{NodeKey, NodeKeyError};
use serde_json::json;
use zeroize::Zeroizing;

use crate::ctl::{EXIT_NOT_PERMITTED, EXIT_OTHER, Failure, complain, print, secret_file};

/// The key can't be made or used. No message has any part of it.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("cannot make {}: {error}{}", path.display(), remedy(error))]
    Make { path: PathBuf, error: io::Error },
    #[error("cannot read {}: {error}{}", path.display(), remedy(error))]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Key { path: PathBuf, error: NodeKeyError },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; run this as root",
        ErrorKind::NotFound => "; make the directory first, or name another file",
        _ => "",
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        let status = match &error {
            KeyError::Make { error, .. } | KeyError::Read { error, .. }
                if error.kind() == ErrorKind::PermissionDenied =>
            {
                EXIT_NOT_PERMITTED
            }
            _ => EXIT_OTHER,
        };
        Failure::new(status, error)
    }
}

/// Makes the key in that file where there is none, prints its public half, and says what to do with that.
pub(super) fn keygen(file: &Path, as_json: bool) -> Result<(), Failure> {
    let (key, made) = key(file)?;
    let (name, public) = (node_name(), key.public().to_string());
    if as_json {
        let entry = json!({ "name": name, "key": public });
        return print(&crate::ctl::json(&json!({ "file": file, "made": made, "node": entry })));
    }
    let state = if made { "made" } else { "unchanged, as it is there already:" };
    complain("", &format!("{state} {}", file.display()));
    complain("", "write this node into `fleet.nodes` of the configuration on every host:");
    complain("", &format!("{{ \"name\": {}, \"key\": \"{public}\", \"vouch\": [] }}", json!(name)));
    print(&format!("{public}\n"))
}

/// The key in that file, and whether it was made now.
fn key(path: &Path) -> Result<(NodeKey, bool), KeyError> {
    let failed = |error| KeyError::Make { path: path.to_owned(), error };
    let key = NodeKey::from_seed(*secret_file::random().map_err(failed)?);
    if secret_file::make_missing(path, &key.to_file()).map_err(failed)? {
        return Ok((key, true));
    }
    let content = fs::read(path).map_err(|error| KeyError::Read { path: path.to_owned(), error })?;
    let key = NodeKey::from_file(&Zeroizing::new(content));
    key.map(|key| (key, false)).map_err(|error| KeyError::Key { path: path.to_owned(), error })
}

/// The name of this host, where it can be that of a node.
fn node_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if knock_config::is_name(&name) { name } else { "NAME".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_then_only_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("node.key");
        let (first, made) = key(&path).expect("made");
        assert!(made);
        let (again, made) = key(&path).expect("read");
        assert_eq!((again.public(), made), (first.public(), false), "the same one");
        let other = key(&directory.path().join("other.key")).expect("made").0;
        assert!(other.public() != first.public(), "each key is another one");
    }

    #[test]
    fn a_file_without_a_key_stays_and_the_error_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("node.key");
        let error = key(&directory.path().join("none/node.key")).expect_err("no directory").to_string();
        assert!(error.ends_with("; make the directory first, or name another file"), "{error}");
        let public = NodeKey::from_seed([7; 32]).public().to_string();
        for (content, said) in
            [(public.as_str(), "this is the public key of a node"), ("c2VjcmV0", "this is not the key of a node")]
        {
            fs::write(&path, content).expect("written");
            let error = key(&path).expect_err(content).to_string();
            assert!(error.contains(said) && error.contains("node.key") && !error.contains("c2Vj"), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("readable"), content);
        }
    }
}
