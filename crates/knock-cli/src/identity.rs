//! Which ssh key signs packets: that of -i, that of the rule, or the first that ssh would offer and that can.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knock_client::spa::agent::AgentKey;
use knock_client::spa::{AuthorizedKeys, LineError, PrivateKey, PrivateKeyError, PublicKey, PublicKeyError, Signature};
use knock_client::{SignError, Signer};
use zeroize::Zeroizing;

use crate::agent::{self, AgentError};
use crate::notice::{Notice, SILENCE};

/// The files in ~/.ssh whose keys ssh offers. Those that can't sign packets are there for what is said about them.
const DEFAULT_FILES: [&str; 5] = ["id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa"];
/// As ssh has it.
const FILE_MAX: u64 = 1 << 20;

/// A key that signs, and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) signer: Arc<dyn Signer>,
    /// Its comment, which may be empty.
    pub(crate) comment: String,
    /// Its fingerprint, and where it is.
    pub(crate) shown: String,
}

/// No key signs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("cannot read the key {}: {error}; name another file with -i, or make a key with `ssh-keygen -t ed25519`", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is bigger than any key file; name the file of a private key with -i", path.display())]
    TooBig { path: PathBuf },
    #[error("other users can read the private key {} (mode {mode:04o}), so ssh does not use it either; run: chmod 600 {0}", path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("the key {} cannot sign packets: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("the key {} is encrypted with a passphrase, and {agent}; run: ssh-add {0}", path.display())]
    Encrypted { path: PathBuf, agent: NotHeld },
    #[error("the key {} is in a FIDO device, which only the ssh agent can use, and {agent}; run: ssh-add {0}", path.display())]
    Fido { path: PathBuf, agent: NotHeld },
    #[error("{} is a public key, and {agent}; name the file of its private key, {private}, or run: ssh-add {private}", path.display())]
    Public { path: PathBuf, private: String, agent: NotHeld },
    #[error(
        "there is no ssh key: {agent}, and ~/.ssh has none; make one with `ssh-keygen -t ed25519`, or name its file with -i"
    )]
    None { agent: NotHeld },
}

/// Why the agent does not sign with a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotHeld {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("the ssh agent holds no key (a locked one shows none: `ssh-add -X` unlocks it)")]
    Empty,
    #[error("the ssh agent does not hold it")]
    Others,
    #[error("no key that the ssh agent holds can sign packets ({0})")]
    Unusable(String),
}

/// The key of that file, else the first that ssh would offer. `notices`: somebody is there to be asked for a touch.
pub(crate) fn find(file: Option<&Path>, notices: bool) -> Result<Identity, IdentityError> {
    match file {
        Some(file) => of_file(&expanded(file), notices),
        None => first(notices),
    }
}

fn first(notices: bool) -> Result<Identity, IdentityError> {
    let held = listed(notices);
    let usable: Vec<(&PublicKey, &str)> = held.iter().flatten().filter_map(usable).collect();
    let files: Vec<PathBuf> = DEFAULT_FILES.iter().filter_map(|name| Some(home()?.join(".ssh").join(name))).collect();
    // As ssh: first the keys of these files that the agent holds, then the others that it holds.
    let preferred = files.iter().filter_map(|file| public_of(file)).find_map(|public| {
        let held = usable.iter().find(|(key, _)| **key == public)?;
        Some(*held)
    });
    if let Some((key, comment)) = preferred.or_else(|| usable.first().copied()) {
        return Ok(held_by_agent(key, comment, notices));
    }
    let mut first_error = None;
    for file in files.iter().filter(|file| file.exists()) {
        match of_file(file, notices) {
            // Its type can't sign; the next may.
            Err(error @ IdentityError::Unusable { .. }) => first_error = first_error.or(Some(error)),
            result => return result,
        }
    }
    Err(first_error.unwrap_or_else(|| IdentityError::None { agent: not_held(held) }))
}

fn of_file(path: &Path, notices: bool) -> Result<Identity, IdentityError> {
    let to_path = || path.to_owned();
    let content = match read(path) {
        // As ssh: the public key is enough where the agent holds the private one.
        Err(IdentityError::Read { error, path }) if error.kind() == io::ErrorKind::NotFound => {
            let held = public_of(&path).and_then(|public| in_agent(&public, notices).ok());
            return held.ok_or(IdentityError::Read { path, error });
        }
        content => content?,
    };
    match PrivateKey::from_openssh(&content) {
        Ok(key) => {
            if let Some(mode) = readable_by_others(path) {
                return Err(IdentityError::Readable { path: to_path(), mode });
            }
            let comment = key.comment().to_owned();
            let shown = format!("{}, in {}", key.public_key().fingerprint(), path.display());
            Ok(Identity { signer: Arc::new(key), comment, shown })
        }
        Err(error @ (PrivateKeyError::Encrypted | PrivateKeyError::Fido)) => {
            let public = PublicKey::of_private_key_file(&content).or_else(|| public_of(path));
            let held = public.map_or(Err(NotHeld::Others), |public| in_agent(&public, notices));
            held.map_err(|agent| match error {
                PrivateKeyError::Fido => IdentityError::Fido { path: to_path(), agent },
                _ => IdentityError::Encrypted { path: to_path(), agent },
            })
        }
        Err(error @ (PrivateKeyError::Public | PrivateKeyError::NotAKey)) => {
            of_public_file(path, &content, error, notices)
        }
        Err(error) => Err(IdentityError::Unusable { path: to_path(), reason: error.to_string() }),
    }
}

/// As with ssh: a public key means the private one that the agent holds.
fn of_public_file(
    path: &Path,
    content: &[u8],
    error: PrivateKeyError,
    notices: bool,
) -> Result<Identity, IdentityError> {
    let listed = AuthorizedKeys::parse(content);
    let Some(line) = listed.keys.first() else {
        let reason = match listed.warnings.into_iter().next().map(|warning| warning.error) {
            Some(LineError::Key(error)) if !matches!(error, PublicKeyError::UnknownType { .. }) => error.to_string(),
            _ => error.to_string(),
        };
        return Err(IdentityError::Unusable { path: path.to_owned(), reason });
    };
    let private = path.display().to_string();
    let private = private.strip_suffix(".pub").unwrap_or("which has the same name without .pub").to_owned();
    in_agent(&line.key, notices).map_err(|agent| IdentityError::Public { path: path.to_owned(), private, agent })
}

fn in_agent(public: &PublicKey, notices: bool) -> Result<Identity, NotHeld> {
    let held = listed(notices);
    let mut usable = held.iter().flatten().filter_map(usable);
    match usable.find(|(key, _)| *key == public) {
        Some((key, comment)) => Ok(held_by_agent(key, comment, notices)),
        None => Err(match not_held(held) {
            NotHeld::Unusable(_) => NotHeld::Others,
            other => other,
        }),
    }
}

/// What the agent holds. One that is locked by a program of its own may ask for something first.
fn listed(notices: bool) -> Result<Vec<AgentKey>, AgentError> {
    let _notice = Notice::after(SILENCE, notices, "waiting for the ssh agent to list its keys".to_owned());
    agent::keys()
}

fn usable(held: &AgentKey) -> Option<(&PublicKey, &str)> {
    held.key.as_ref().ok().map(|key| (key, held.comment.as_str()))
}

fn not_held(held: Result<Vec<AgentKey>, AgentError>) -> NotHeld {
    match held {
        Err(error) => error.into(),
        Ok(keys) if keys.is_empty() => NotHeld::Empty,
        Ok(keys) => match keys.into_iter().find_map(|held| held.key.err()) {
            Some(error) => NotHeld::Unusable(error.to_string()),
            None => NotHeld::Others,
        },
    }
}

fn held_by_agent(key: &PublicKey, comment: &str, notices: bool) -> Identity {
    let shown = match comment {
        "" => format!("{}, in the ssh agent", key.fingerprint()),
        comment => format!("{} ({comment}), in the ssh agent", key.fingerprint()),
    };
    let signer = InAgent { key: key.clone(), shown: shown.clone(), notices };
    Identity { signer: Arc::new(signer), comment: comment.to_owned(), shown }
}

/// A key that an agent holds.
#[derive(Debug)]
struct InAgent {
    key: PublicKey,
    shown: String,
    notices: bool,
}

impl Signer for InAgent {
    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Signature, SignError> {
        let InAgent { key, shown, notices } = self;
        // A FIDO key waits for a touch, and shows only that it does.
        let (after, text) = match key.key_type().is_fido() {
            true => (Duration::from_millis(200), format!("touch your key {shown}")),
            false => {
                (SILENCE, format!("waiting for the ssh agent to sign with {shown}; does it ask you for something?"))
            }
        };
        let notice = Notice::after(after, *notices, text);
        let signature = agent::sign(key, to_be_signed);
        drop(notice);
        signature.map_err(|error| format!("the packet was not signed with {shown}: {error}").into())
    }
}

/// The public key of a private key file, from its own file or from the private one.
fn public_of(private: &Path) -> Option<PublicKey> {
    let mut beside = OsString::from(private);
    beside.push(".pub");
    let of_pub = read(Path::new(&beside)).ok().and_then(|content| AuthorizedKeys::parse(&content).keys.pop());
    let of_private = || PublicKey::of_private_key_file(&read(private).ok()?);
    of_pub.map(|line| line.key).or_else(of_private)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let failed = |error| IdentityError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    // With room for all of it, so that no part stays where it was moved from.
    let length = file.metadata().map_err(failed)?.len().clamp(1 << 14, FILE_MAX);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > FILE_MAX {
        return Err(IdentityError::TooBig { path: path.to_owned() });
    }
    Ok(content)
}

/// The permission bits of a file of this user that others can read. ssh uses no such key.
#[cfg(unix)]
fn readable_by_others(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.metadata().ok()?;
    let own = metadata.uid() == rustix::process::getuid().as_raw();
    Some(metadata.mode() & 0o7777).filter(|mode| own && mode & 0o077 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &Path) -> Option<u32> {
    None
}

/// `~/` is the home directory, as in ssh_config.
fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

fn home() -> Option<PathBuf> {
    let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    env::var_os(name).map(PathBuf::from).filter(|home| home.is_absolute())
}
