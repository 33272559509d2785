//! Single values that fields of several kinds have: durations, counts, names, paths.
//!
//! Each function but [`count`] reports a problem itself.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use knock_proto::InvalidName;
use serde_json::Value;

use crate::checker::Checker;
use crate::document::kind;
use crate::duration::{Least, duration};
use crate::excerpt::excerpt;
use crate::path::FieldPath;
use crate::problem::Cause;
use crate::raw::RawDuration;

/// The duration at `path`, if there is one.
pub(crate) fn optional_duration(
    raw: Option<&RawDuration>,
    least: Least,
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> Option<Duration> {
    duration(&raw?.0, least).map_err(|cause| checker.report(path, cause)).ok()
}

/// An absolute path: it does not depend on the working directory of the daemon.
pub(crate) fn absolute_path(text: String, path: &FieldPath, checker: &mut Checker<'_>) -> PathBuf {
    if text.contains('\0') {
        checker.report(path, Cause::PathNul);
    } else if !text.starts_with('/') {
        checker.report(path, Cause::RelativePath { value: format!("\"{}\"", excerpt(&text)) });
    }
    PathBuf::from(text)
}

/// The name at `path`; `None` after a reported problem.
pub(crate) fn parsed<N: FromStr<Err = InvalidName>>(
    text: &str,
    path: &FieldPath,
    checker: &mut Checker<'_>,
) -> Option<N> {
    text.parse().map_err(|error: InvalidName| checker.report(path, error.into())).ok()
}

/// A whole number from 1 to `max`.
pub(crate) fn count(value: &Value, max: u32) -> Result<u32, Cause> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    match number.filter(|number| (1..=max).contains(number)) {
        Some(number) => Ok(number),
        None => {
            let shown = match value {
                Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
                other => excerpt(&other.to_string()),
            };
            Err(Cause::Count { value: shown, min: 1, max: u64::from(max) })
        }
    }
}

pub(crate) fn shown(value: &Value) -> String {
    excerpt(&value.to_string())
}
