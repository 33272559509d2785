//! The text of the state file: a journal of the stop commands that became pending, and of those that are done.
//!
//! The first line names the version and the boot. Each further line is one change, `{"pending":[7,{…}]}` or
//! `{"done":7}`, and a later line about the same number replaces the earlier one. Each line can be read without the
//! others: of a journal that ends in the middle of a line, as after a crash, all complete lines count, and a damaged
//! line costs no other.
//!
//! Version 1, one JSON object that each change replaced as a whole, is still read.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};

use super::PENDING_MAX;
use super::record::Record;

/// The format that is written.
const VERSION: u32 = 2;

/// The format before, which is read.
const VERSION_BEFORE: u32 = 1;

/// The bytes that are read of a file. One that knockd wrote is smaller: see [`super::LIVE_MAX`].
const FILE_MAX: u64 = 256 << 20;

/// The bytes that are read of a line. [`super::COMMAND_MAX`] times the six bytes that JSON needs for a control
/// character, and the rest of the record, are fewer.
const LINE_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    /// The boot that the records' monotonic times belong to.
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<R> {
    Pending(u64, R),
    Done(u64),
}

/// A change, for the journal.
#[derive(Debug)]
pub(super) enum Change {
    /// A stop command became pending, or has another time.
    Pending(u64, Record),
    /// It is no longer pending.
    Done(u64),
}

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) boot_id: String,
    pub(super) pending: Vec<Record>,
    /// Why the file may have had more.
    pub(super) damage: Option<String>,
}

/// The first line.
pub(super) fn header(boot_id: &str) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(&Header { version: VERSION, boot_id: boot_id.to_owned() })?;
    text.push(b'\n');
    Ok(text)
}

/// Adds a line for each change.
pub(super) fn write(text: &mut Vec<u8>, changes: &[Change]) -> io::Result<()> {
    for change in changes {
        match change {
            Change::Pending(id, record) => serde_json::to_writer(&mut *text, &Line::Pending(*id, record))?,
            Change::Done(id) => serde_json::to_writer(&mut *text, &Line::<()>::Done(*id))?,
        }
        text.push(b'\n');
    }
    Ok(())
}

/// Reads a file of either version, as far as it can be read.
pub(super) fn read(file: impl Read) -> Found {
    let mut reader = BufReader::new(file.take(FILE_MAX + 1));
    let mut first = Vec::new();
    let result = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut first);
    let mut found = match (result, serde_json::from_slice(&first)) {
        (Ok(_), Ok(Header { version: VERSION, boot_id })) => replay(boot_id, &mut reader),
        (Ok(_), _) => {
            let result = reader.read_to_end(&mut first);
            let mut found = read_object(&first);
            note(&mut found.damage, result.err());
            found
        }
        (Err(error), _) => Found { damage: Some(error.to_string()), ..Found::default() },
    };
    let too_big = reader.get_ref().limit() == 0;
    note(&mut found.damage, too_big.then(|| format!("it is bigger than {} MiB", FILE_MAX >> 20)));
    found
}

/// Keeps the first reason.
fn note(damage: &mut Option<String>, reason: Option<impl ToString>) {
    if damage.is_none() {
        *damage = reason.map(|reason| reason.to_string());
    }
}

/// Reads what follows the first line.
fn replay(boot_id: String, reader: &mut impl BufRead) -> Found {
    let mut pending = BTreeMap::new();
    let mut damage = None;
    let mut line = Vec::new();
    for number in 2_u64.. {
        line.clear();
        let length = match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(length) => length as u64,
            Err(error) => {
                note(&mut damage, Some(error));
                break;
            }
        };
        let complete = line.ends_with(b"\n");
        if !complete && length == LINE_MAX {
            note(&mut damage, Some(format!("line {number} is longer than {LINE_MAX} bytes")));
            let mut skipped = LINE_MAX;
            while skipped == LINE_MAX && line.last() != Some(&b'\n') {
                line.clear();
                skipped = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_or(0, |length| length as u64);
            }
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Pending(id, record)) if pending.len() < PENDING_MAX || pending.contains_key(&id) => {
                pending.insert(id, record);
            }
            Ok(Line::Pending(..)) => note(&mut damage, Some(format!("it has more than {PENDING_MAX} stop commands"))),
            Ok(Line::Done(id)) => drop(pending.remove(&id)),
            // A crash ended this write: the command that waited for it has not run.
            Err(_) if !complete => {}
            Err(error) => note(&mut damage, Some(format!("line {number}: {error}"))),
        }
    }
    Found { boot_id, pending: pending.into_values().collect(), damage }
}

/// Version 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    version: u32,
    boot_id: String,
    stops: Vec<Record>,
}

fn read_object(bytes: &[u8]) -> Found {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }

    let damaged = |damage: String| Found { damage: Some(damage), ..Found::default() };
    let found = serde_json::Deserializer::from_slice(bytes).into_iter::<Version>().next();
    if let Some(Ok(Version { version })) = found
        && version != VERSION_BEFORE
    {
        return damaged(format!("it has version {version}, and this knockd reads {VERSION_BEFORE} and {VERSION}"));
    }
    match serde_json::from_slice(bytes) {
        Ok(Object { boot_id, stops, .. }) if stops.len() <= PENDING_MAX => {
            Found { boot_id, pending: stops, damage: None }
        }
        Ok(_) => Found { damage: Some(format!("it has more than {PENDING_MAX} stop commands")), ..salvage(bytes) },
        Err(error) => Found { damage: Some(error.to_string()), ..salvage(bytes) },
    }
}

/// The records at the beginning of a damaged object, as serde_json wrote it.
fn salvage(bytes: &[u8]) -> Found {
    const LIST: &[u8] = br#""stops":["#;
    let Some(begin) = bytes.windows(LIST.len()).position(|window| window == LIST) else { return Found::default() };
    let (head, mut rest) = bytes.split_at(begin + LIST.len());
    let Ok(Object { version: VERSION_BEFORE, boot_id, .. }) = serde_json::from_slice(&[head, b"]}"].concat()) else {
        return Found::default();
    };
    let mut pending = Vec::new();
    while pending.len() < PENDING_MAX {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Record>();
        let Some(Ok(record)) = values.next() else { break };
        pending.push(record);
        match rest[values.byte_offset()..].strip_prefix(b",") {
            Some(after) => rest = after,
            None => break,
        }
    }
    Found { boot_id, pending, damage: None }
}
