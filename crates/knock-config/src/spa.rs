//! `spa`: how signed packets are received.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use knock_spa::Realm;

use crate::checker::Checker;
use crate::duration::SECOND;
use crate::model::Spa;
use crate::path::FieldPath;
use crate::problem::Cause;
use crate::raw::{RawCount, RawSpa};
use crate::value::{absolute_path, count, optional_duration};

/// The most ports for signed packets.
pub const SPA_PORTS_MAX: usize = 8;
/// The most covers. Each of them costs every key a derivation.
pub const COVER_FILES_MAX: usize = 8;
/// The default port, which is that of fwknop too.
const PORT: u16 = 62_201;
/// The default window.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest window. Packets are remembered for twice that time.
const WINDOW_MAX: Duration = Duration::from_secs(600);

/// Checks the `spa` at `path`; `None` after a reported problem.
pub(crate) fn spa(raw: RawSpa, path: &FieldPath, checker: &mut Checker<'_>) -> Option<Spa> {
    let ports = match raw.ports {
        Some(raw) => ports(&raw, &path.key("ports"), checker),
        None => vec![PORT],
    };
    let realm = required(raw.realm, "realm", path, checker).and_then(|text| {
        let realm = text.parse::<Realm>();
        realm.map_err(|error| checker.report(&path.key("realm"), Cause::Realm(error))).ok()
    });
    let authorized_keys = required(raw.authorized_keys, "authorized_keys", path, checker)
        .map(|file| absolute_path(file, &path.key("authorized_keys"), checker));
    let cover_files = required(raw.cover_files, "cover_files", path, checker)
        .map(|files| cover_files(files, &path.key("cover_files"), checker));
    let window = optional_duration(raw.window.as_ref(), SECOND, &path.key("window"), checker).unwrap_or(WINDOW);
    if window > WINDOW_MAX {
        checker.report(&path.key("window"), Cause::WindowTooLong);
    }
    Some(Spa { ports, realm: realm?, authorized_keys: authorized_keys?, cover_files: cover_files?, window })
}

fn required<T>(value: Option<T>, key: &'static str, path: &FieldPath, checker: &mut Checker<'_>) -> Option<T> {
    if value.is_none() {
        checker.report(path, Cause::SpaIncomplete { key });
    }
    value
}

fn ports(raw: &[RawCount], path: &FieldPath, checker: &mut Checker<'_>) -> Vec<u16> {
    if raw.is_empty() || raw.len() > SPA_PORTS_MAX {
        checker.report(path, Cause::ListLength { count: raw.len(), max: SPA_PORTS_MAX });
        return Vec::new();
    }
    let mut seen = HashSet::new();
    for (index, RawCount(value)) in raw.iter().enumerate() {
        match count(value, u32::from(u16::MAX)).map(|number| u16::try_from(number).unwrap_or(u16::MAX)) {
            Ok(port) if !seen.insert(port) => checker.report(&path.index(index), Cause::SpaPortTwice { port }),
            Ok(_) => {}
            Err(cause) => checker.report(&path.index(index), cause),
        }
    }
    let mut ports: Vec<u16> = seen.into_iter().collect();
    ports.sort_unstable();
    ports
}

fn cover_files(raw: Vec<String>, path: &FieldPath, checker: &mut Checker<'_>) -> Vec<PathBuf> {
    if raw.is_empty() || raw.len() > COVER_FILES_MAX {
        checker.report(path, Cause::ListLength { count: raw.len(), max: COVER_FILES_MAX });
        return Vec::new();
    }
    let each = raw.into_iter().enumerate();
    each.map(|(index, file)| absolute_path(file, &path.index(index), checker)).collect()
}
