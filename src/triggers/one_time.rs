//! One-time sequences: a file with a sequence a line, each of which opens once, ever.
//!
//! A line is a list of knocks with commas or blanks between them. Where the first character of a line is `#`, it
//! is a comment or was used; a line is marked as used by writing `#` over its first character, as knock does, so
//! the length of the file does not change and a half-written one cannot come about. That character should be a
//! blank, or the mark takes the place of a digit.
//!
//! The file is the only memory: a reload or a restart continues with its first unused line.

mod list;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use knock_proto::Knock;

use crate::os::trusted::{Owners, Untrusted};

pub(crate) use list::LineError;
use list::{Line, lines};

/// The biggest file that is read, in bytes: tens of thousands of sequences.
pub(crate) const FILE_MAX: u64 = 512 << 10;

/// The skipped lines that are reported at a time.
const SKIPPED_MAX: usize = 20;

/// Why a file of one-time sequences cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OneTimeError {
    /// It cannot be read and written.
    #[error(
        "{}: cannot open the one-time sequences for reading and marking the used ones: {error}; \
         let the user that knockd runs as write the file, on a file system that is not read-only", path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is no regular file, or others can change it.
    #[error("{0}")]
    Untrusted(Untrusted),
    /// It is bigger than [`FILE_MAX`].
    #[error("{}: the file is bigger than {} KiB; delete used lines at its beginning", path.display(), FILE_MAX >> 10)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line cannot be used.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: LineError,
    },
}

/// What the operator should know about a file that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Warning {
    /// Others than its owner may read it, and so know what opens.
    #[error("{}: others may read the one-time sequences (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// There is no unused line.
    #[error(
        "{}: all one-time sequences are used, so nothing triggers the rule; add lines to the file and reload knockd",
        path.display()
    )]
    Exhausted {
        /// The file.
        path: PathBuf,
    },
    /// A line that was changed while the daemon ran.
    #[error("{}:{line}: the line is skipped: {reason}", path.display())]
    Skipped {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: LineError,
    },
}

/// The reason why a use could not be marked in the file. The completion must be ignored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsumeError {
    /// The file could not be read or written; the sequence is still the current one.
    #[error("cannot {attempt}: {source}; the completion is ignored, because the sequence could complete again")]
    Write {
        /// What was attempted, with the file's name.
        attempt: String,
        /// Why not.
        source: io::Error,
    },
    /// The file is not usable any more; the sequence is still the current one.
    #[error("{0}; the completion is ignored")]
    File(#[from] OneTimeError),
    /// The sequence is not among the unused ones of the file any more. The current one is now the first that is.
    #[error(
        "{}: the completed sequence is no longer among the unused lines, so the file was changed; the completion is \
         ignored", path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
}

/// The sequences of one file.
#[derive(Debug)]
pub(crate) struct OneTime {
    path: PathBuf,
    owners: Owners,
    current: Option<Vec<Knock>>,
}

impl OneTime {
    /// Reads and checks the whole file. Also for a check of the configuration: nothing is written, but it must be
    /// possible. `owners` are those whose file it may be, now and when a sequence is used.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read and written or cannot be trusted, or an unused line has no usable sequence.
    pub(crate) fn load(path: &Path, owners: Owners) -> Result<(OneTime, Vec<Warning>), OneTimeError> {
        let (file, text) = read(path, owners)?;
        let mut warnings: Vec<Warning> = permissions(path, &file).into_iter().collect();
        let current = check(path, &text)?;
        if current.is_none() {
            warnings.push(Warning::Exhausted { path: path.to_owned() });
        }
        Ok((OneTime { path: path.to_owned(), owners, current }, warnings))
    }

    /// The sequence that opens next; `None` when all are used.
    pub(crate) fn current(&self) -> Option<&[Knock]> {
        self.current.as_deref()
    }

    /// Marks the current sequence as used, on disk, and changes to the next, which [`OneTime::current`] returns from now
    /// on. Only when this has succeeded may the rule grant. Returns what the operator should know.
    ///
    /// It waits for the disk once (fsync(2)), on the event loop, which is bearable since only who knows a sequence
    /// can make it happen, once for each.
    ///
    /// # Errors
    ///
    /// Where the mark cannot be written, or the sequence is no longer there to be marked.
    pub(crate) fn consume(&mut self) -> Result<Vec<Warning>, ConsumeError> {
        let gone = || ConsumeError::Gone { path: self.path.clone() };
        let (file, mut text) = read(&self.path, self.owners)?;
        let used = self.current.clone().ok_or_else(gone)?;
        // An administrator may have moved it: the content counts, not the place.
        let place = lines(&text)
            .find(|line| !line.is_used() && line.sequence().is_ok_and(|sequence| sequence == used))
            .map(|line| line.offset);
        let is_known_as_used = lines(&text).any(|line| line.has_used(&used));
        let mut warnings = Vec::new();
        let result = match place {
            Some(offset) => {
                self.mark(&file, offset)?;
                text[offset] = b'#';
                if is_known_as_used { Err(gone()) } else { Ok(()) }
            }
            None => Err(gone()),
        };
        self.current = first_unused(&self.path, &text, &mut warnings);
        if self.current.is_none() {
            warnings.push(Warning::Exhausted { path: self.path.clone() });
        }
        result.map(|()| warnings)
    }

    fn mark(&self, file: &File, offset: usize) -> Result<(), ConsumeError> {
        let failed = |attempt: &str| {
            let attempt = format!("{attempt} {}", self.path.display());
            move |source| ConsumeError::Write { attempt, source }
        };
        file.write_all_at(b"#", offset as u64).map_err(failed("mark the used sequence in"))?;
        file.sync_all().map_err(failed("sync"))?;
        // Editors replace a file by another of the same name. The mark has to be in the one that a restart reads.
        let now = fs::metadata(&self.path).map_err(failed("look at"))?;
        let marked = file.metadata().map_err(failed("look at"))?;
        if (now.dev(), now.ino()) != (marked.dev(), marked.ino()) {
            let changed = io::Error::other("the file was replaced while the used sequence was marked");
            return Err(failed("mark the used sequence in")(changed));
        }
        Ok(())
    }
}

fn read(path: &Path, owners: Owners) -> Result<(File, Vec<u8>), OneTimeError> {
    let failed = |error| OneTimeError::Open { path: path.to_owned(), error };
    let file = owners.open(path, true).map_err(|untrusted| match untrusted {
        Untrusted::Io(error) => failed(error),
        untrusted => OneTimeError::Untrusted(untrusted),
    })?;
    let mut text = Vec::new();
    (&file).take(FILE_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_MAX {
        return Err(OneTimeError::TooLarge { path: path.to_owned() });
    }
    Ok((file, text))
}

fn permissions(path: &Path, file: &File) -> Option<Warning> {
    let mode = file.metadata().ok()?.mode() & 0o777;
    (mode & 0o044 != 0).then(|| Warning::Readable { path: path.to_owned(), mode })
}

/// Checks every line, and returns the sequence of the first unused one.
fn check(path: &Path, text: &[u8]) -> Result<Option<Vec<Knock>>, OneTimeError> {
    let failed = |line, reason| OneTimeError::Line { path: path.to_owned(), line, reason };
    let mut first = None;
    let mut unused: HashMap<Vec<Knock>, usize> = HashMap::new();
    // What each line held, or will seem to have held once it is used, and whether that is sure.
    let mut once: HashMap<Vec<Knock>, (usize, bool)> = HashMap::new();
    for line in lines(text).filter(Line::is_used) {
        for (sequence, whole) in line.once() {
            once.entry(sequence).or_insert((line.number, whole));
        }
    }
    for line in lines(text).filter(|line| !line.is_used()) {
        let sequence = line.sequence().map_err(|reason| failed(line.number, reason))?;
        if let Some(other) = unused.insert(sequence.clone(), line.number) {
            return Err(failed(line.number, LineError::Duplicate(other)));
        }
        if let Some((other, whole)) = once.get(&sequence) {
            let reason = if *whole { LineError::Duplicate(*other) } else { LineError::Ambiguous(*other) };
            return Err(failed(line.number, reason));
        }
        for (seeming, _) in line.once() {
            match unused.get(&seeming) {
                Some(other) if *other != line.number => return Err(failed(line.number, LineError::Ambiguous(*other))),
                _ => once.entry(seeming).or_insert((line.number, false)),
            };
        }
        first.get_or_insert(sequence);
    }
    Ok(first)
}

/// The first unused sequence of a file that may have been edited since it was checked.
fn first_unused(path: &Path, text: &[u8], warnings: &mut Vec<Warning>) -> Option<Vec<Knock>> {
    for line in lines(text).filter(|line| !line.is_used()) {
        let reason = match line.sequence() {
            Ok(sequence) => match lines(text).find(|used| used.has_used(&sequence)) {
                None => return Some(sequence),
                Some(used) => LineError::Duplicate(used.number),
            },
            Err(reason) => reason,
        };
        if warnings.len() < SKIPPED_MAX {
            warnings.push(Warning::Skipped { path: path.to_owned(), line: line.number, reason });
        }
    }
    None
}

#[cfg(test)]
mod tests;
