//! Reads a configuration from a file, or from its text.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checker::Checker;
use crate::concerns::concerns;
use crate::document::Document;
use crate::excerpt::{excerpt, shorten};
use crate::keys::check_keys;
use crate::model::{Config, Trigger};
use crate::path::FieldPath;
use crate::problem::{Cause, ConfigError, FILE_MAX, Position};
use crate::raw::RawConfig;
use crate::schema::Shape;
use crate::validate;
use crate::warning::{Concern, Warning};

/// A configuration and its warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// At most [`crate::WARNINGS_MAX`], and one more if every user can read the file.
    pub warnings: Vec<Warning>,
    /// The text that it was read from.
    pub text: String,
}

/// Reads and checks the configuration in the file at `path`.
///
/// # Errors
///
/// Where the file cannot be read, is bigger than [`FILE_MAX`], or breaks a rule of the configuration.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    load_open(path, open(path)?)
}

/// As [`load`], from a file that was opened before, after its caller decided that the file can be trusted. Messages call
/// it `path`.
///
/// # Errors
///
/// Where the file cannot be read, is bigger than [`FILE_MAX`], or breaks a rule of the configuration.
pub fn load_open(path: &Path, file: File) -> Result<Loaded, ConfigError> {
    let name = path.display().to_string();
    let (text, Access { mode, .. }) = read(path, file)?;
    let mut loaded = parse(&name, &text)?;
    let secret = loaded.config.rules.iter().any(|rule| matches!(rule.trigger, Some(Trigger::Sequence(_))));
    if mode & 0o004 != 0 && secret {
        let concern = Concern::WorldReadable { mode };
        let warning = Warning { file: name, position: Position::START, path: FieldPath::default(), concern };
        loaded.warnings.insert(0, warning);
    }
    Ok(loaded)
}

/// Checks the configuration in `text`; each message begins with `file_name`.
///
/// # Errors
///
/// Where the text breaks a rule of the configuration.
pub fn parse(file_name: &str, text: &str) -> Result<Loaded, ConfigError> {
    with_raw(
        file_name,
        text,
        &Shape::of_config(),
        |_| (),
        |raw, (), checker| {
            let config = validate::config(raw, checker);
            checker.finish()?;
            let warnings = checker.warnings(concerns(&config));
            Ok(Loaded { config, warnings, text: text.to_owned() })
        },
    )
}

/// The `state_dir` that a configuration names which is not valid: the first one in its text.
pub fn state_dir_of_invalid(text: &str) -> Option<PathBuf> {
    let value = text.split_once("\"state_dir\"")?.1.trim_start().strip_prefix(':')?;
    serde_json::Deserializer::from_str(value).into_iter::<PathBuf>().next()?.ok().filter(|path| path.is_absolute())
}

/// Opens the file at `path`.
pub(crate) fn open(path: &Path) -> Result<File, ConfigError> {
    File::open(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })
}

/// Who can read a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The permission bits; none where the system has no such bits.
    pub(crate) mode: u32,
    /// Whether it is a file of root.
    pub(crate) owner_is_root: bool,
}

impl Access {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Access {
        use std::os::unix::fs::MetadataExt;
        Access { mode: metadata.mode() & 0o7777, owner_is_root: metadata.uid() == 0 }
    }

    #[cfg(not(unix))]
    fn of(_: &Metadata) -> Access {
        Access { mode: 0, owner_is_root: false }
    }
}

/// Reads the text of a file, which messages call `path`, and who can read it.
pub(crate) fn read(path: &Path, file: File) -> Result<(String, Access), ConfigError> {
    let failed = |error| ConfigError::Read { path: path.to_owned(), error };
    let access = Access::of(&file.metadata().map_err(failed)?);
    let mut bytes = Vec::new();
    file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        ConfigError::one(&path.display().to_string(), Position::of(&before, valid), Cause::NotUtf8)
    })?;
    Ok((text, access))
}

/// Reads `text`, whose keys are those of `shape`, as far as its JSON types, and hands it to `check`, with what `take`
/// took out before.
pub(crate) fn with_raw<T, E>(
    file: &str,
    text: &str,
    shape: &Shape,
    take: impl FnOnce(&mut serde_json::Value) -> E,
    check: impl FnOnce(RawConfig, E, &mut Checker<'_>) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let (document, mut value) =
        Document::parse(text).map_err(|(position, cause)| ConfigError::one(file, position, cause))?;
    let mut checker = Checker::new(file, &document);
    check_keys(&document, shape, &mut checker);
    // What is wrong so far is taken out, so that the rest is checked too.
    match checker.only_unknown_keys() {
        Some(keys) => keys.iter().for_each(|key| checker.overlook(key.take_out_of(&mut value))),
        None => checker.finish()?,
    }
    let taken = take(&mut value);
    loop {
        // serde stops at the first value that has a wrong type.
        let error = match serde_path_to_error::deserialize::<_, RawConfig>(&value) {
            Ok(raw) => return check(raw, taken, &mut checker),
            Err(error) => error,
        };
        let path = FieldPath::from(error.path());
        checker.report(&path, Cause::Type { reason: type_error(&error.inner().to_string()) });
        let removed = path.take_out_of(&mut value);
        if removed.is_none() || checker.is_full() {
            checker.finish()?;
            return Err(ConfigError::one(
                file,
                Position::START,
                Cause::Type { reason: type_error(&error.to_string()) },
            ));
        }
        checker.overlook(removed);
    }
}

/// serde's message in the words of JSON, with a remedy.
fn type_error(message: &str) -> String {
    let message = message
        .replace("a sequence", "a list")
        .replace("map, expected", "object, expected")
        .replace("string or map", "a string");
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        // serde quotes the value: integer `22`.
        let value = found.split('`').nth(1).map(excerpt);
        let hint = match (expected, value) {
            ("a boolean", _) => ", true or false".to_owned(),
            ("a list", Some(value)) => format!(", as in [{value}]"),
            _ => String::new(),
        };
        return format!("{} is not {expected}; write {expected}{hint}", excerpt(found));
    }
    if let Some((found, expected)) =
        message.strip_prefix("unknown variant ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        return format!("{} is not a valid value; write {expected}", excerpt(found));
    }
    shorten(&message, 200)
}
