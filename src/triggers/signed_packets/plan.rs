//! The keys, covers and rules that signed packets need from the configuration and from the files that it names.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use knock_config::{Allow, Config, Spa};
use knock_fleet::Packets;
use knock_grant::{Signer, Signers};
use knock_proto::RuleId;
use knock_spa::{
    AuthorizedKey, AuthorizedKeys, Cover, CoverError, Keyring, LineWarning, RuleTerms, Terms, UnixTime, Verifier,
};
use zeroize::Zeroizing;

use crate::ear;
use crate::os::trusted::{Owners, Untrusted};

/// The biggest file that is read: some hundred thousand keys.
const FILE_MAX: u64 = 16 << 20;
/// Warnings about the lines of one file.
const WARNINGS_MAX: usize = 20;

/// What signed packets need.
pub(crate) struct SignedPlan {
    pub(super) ports: Vec<u16>,
    pub(super) keyring: Keyring,
    pub(super) terms: Terms,
    /// What the administrator should know about the files.
    pub(crate) warnings: Vec<String>,
}

/// Why a file can't be used. No message has any part of a cover.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpaError {
    /// It can't be read.
    #[error("{}: cannot read the {what}: {error}; {remedy}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Others can change it.
    #[error("{0}")]
    Untrusted(Untrusted),
    /// It is bigger than [`FILE_MAX`].
    #[error("{}: the file is bigger than {} MiB and is probably not the {what}", path.display(), FILE_MAX >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// It holds no cover.
    #[error("{}: {error}", path.display())]
    Cover {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: CoverError,
    },
    /// Others than its owner can read a cover.
    #[error("{}: others may read the cover (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    CoverReadable {
        /// The file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// No line of the file of keys can be used.
    #[error(
        "{}{}: no line has a key that can sign packets; write the public key of each user on a line, as in \
         \"ssh-ed25519 AAAA… alice\"", skipped.iter().map(|line| format!("{line}\n")).collect::<String>(), path.display()
    )]
    NoKeys {
        /// The file.
        path: PathBuf,
        /// Its lines that look like keys.
        skipped: Vec<String>,
    },
}

impl SignedPlan {
    /// Reads the files, which must be of these owners; `None` where the configuration has no `spa`.
    ///
    /// # Errors
    ///
    /// Where a file can't be used or trusted.
    pub(crate) fn load(config: &Config, owners: Owners, now: UnixTime) -> Result<Option<SignedPlan>, SpaError> {
        let Some(spa) = &config.spa else { return Ok(None) };
        let covers = spa.cover_files.iter().map(|path| read_cover(path, owners)).collect::<Result<Vec<_>, _>>()?;
        let (keys, warnings) = read_keys(&spa.authorized_keys, owners)?;
        let keyring = Keyring::new(&spa.realm, &covers, keys, now);
        Ok(Some(SignedPlan { ports: spa.ports.clone(), keyring, terms: terms(config, spa), warnings }))
    }

    /// For the ear: what opens packets.
    pub(crate) fn for_the_ear(&self) -> ear::plan::Signed {
        ear::plan::Signed {
            ports: self.ports.clone(),
            window: self.terms.window,
            opener: self.keyring.opener().to_bytes(),
        }
    }

    /// For packets that other nodes of the fleet have accepted.
    pub(crate) fn packets(&self, spa: &Spa) -> Packets {
        Packets { verifier: Verifier::new(&spa.realm, self.keyring.shared_keys()), terms: self.terms.clone() }
    }

    /// For the grant manager: who may ask for what at that time.
    pub(crate) fn signers(&self, now: UnixTime) -> Signers {
        let rules: HashSet<RuleId> = self.terms.rules.keys().map(|rule| RuleId::from(rule.as_str())).collect();
        let signer = |key: &AuthorizedKey| {
            let permitted = key.options.rules.as_ref();
            let permitted = permitted.map(|rules| rules.iter().map(|rule| RuleId::from(rule.as_str())).collect());
            (key.key.fingerprint(), Signer { name: user_name(key).into(), rules: permitted })
        };
        let valid = |key: &&AuthorizedKey| key.options.expires.is_none_or(|end| end > now);
        Signers { rules, keys: self.keyring.keys().iter().filter(valid).map(signer).collect() }
    }
}

/// The comment of a key; its fingerprint, where it has none.
pub(crate) fn user_name(key: &AuthorizedKey) -> String {
    key.user.as_ref().map_or_else(|| key.key.fingerprint().to_string(), ToString::to_string)
}

fn terms(config: &Config, spa: &Spa) -> Terms {
    let of_rule = |rule: &knock_config::Rule| {
        let (lifetime, wide) = match &rule.allow {
            Some(allow) => (allow.timeout(), allow.prefixes() != Allow::WHOLE),
            // Without a grant there is nothing that lasts.
            None => (std::time::Duration::MAX, false),
        };
        // Names of rules are checked by the configuration.
        Some((rule.name.as_str().parse().ok()?, RuleTerms { lifetime, wide }))
    };
    let rules: BTreeMap<_, _> = config.rules.iter().filter(|rule| rule.spa).filter_map(of_rule).collect();
    Terms { window: spa.window, rules }
}

fn read_cover(path: &Path, owners: Owners) -> Result<Cover, SpaError> {
    let remedy = "make one with `knockctl spa init`";
    let (content, mode) = read(path, owners, "cover", remedy)?;
    if mode & 0o004 != 0 {
        return Err(SpaError::CoverReadable { path: path.to_owned(), mode });
    }
    Cover::from_file(&content).map_err(|error| SpaError::Cover { path: path.to_owned(), error })
}

fn read_keys(path: &Path, owners: Owners) -> Result<(Vec<AuthorizedKey>, Vec<String>), SpaError> {
    let remedy = "write the public key of each user on a line, as in \"ssh-ed25519 AAAA… alice\"";
    let (content, _) = read(path, owners, "file of ssh keys", remedy)?;
    let AuthorizedKeys { keys, warnings, mut omitted } = AuthorizedKeys::parse(&content);
    omitted += warnings.len().saturating_sub(WARNINGS_MAX);
    let skipped =
        |warning: &LineWarning| format!("{}:{}: the line is skipped: {}", path.display(), warning.line, warning.error);
    let mut shown: Vec<String> = warnings.iter().take(WARNINGS_MAX).map(skipped).collect();
    if omitted > 0 {
        shown.push(format!("{}: {omitted} more lines are skipped", path.display()));
    }
    if keys.is_empty() {
        return Err(SpaError::NoKeys { path: path.to_owned(), skipped: shown });
    }
    Ok((keys, shown))
}

/// The content of a file, and its permission bits.
fn read(
    path: &Path,
    owners: Owners,
    what: &'static str,
    remedy: &'static str,
) -> Result<(Zeroizing<Vec<u8>>, u32), SpaError> {
    let (content, mode) = owners.read_secret(path, FILE_MAX).map_err(|untrusted| match untrusted {
        Untrusted::Io(error) => SpaError::Read { path: path.to_owned(), what, error, remedy },
        untrusted => SpaError::Untrusted(untrusted),
    })?;
    if content.len() as u64 > FILE_MAX {
        return Err(SpaError::TooLarge { path: path.to_owned(), what });
    }
    Ok((content, mode))
}
