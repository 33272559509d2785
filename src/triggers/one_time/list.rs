//! The text of a file of one-time sequences: a sequence a line, comments and used ones behind `#`.

use knock_proto::{Knock, ParseKnockError, SEQUENCE_MAX};

/// Why a line is no usable sequence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// An item is no knock.
    #[error("{0}")]
    Knock(#[from] ParseKnockError),
    /// Two commas with nothing between them, or one at an end.
    #[error("a comma has no knock on one side of it; write as many knocks as the sequence has")]
    EmptyItem,
    /// More than [`SEQUENCE_MAX`] knocks.
    #[error("{0} knocks are more than {SEQUENCE_MAX}; write a shorter sequence")]
    TooLong(usize),
    /// Neither a comment nor anything like knocks: too long for one, or not printable.
    #[error("the line has no knocks; write knocks as in \"7000, 8000/udp, 9000\", or `#` before a comment")]
    NotText,
    /// The file begins with U+FEFF.
    #[error("the file begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Another line has the same sequence.
    #[error("line {0} has the same sequence, and each sequence works once; write another one")]
    Duplicate(usize),
    /// When used, the first character of a line becomes `#`. Without it, another line's sequence looks the same.
    #[error(
        "it differs from line {0} only in the first digit, and `#` replaces the first character of a used line; begin \
         both lines with a blank, or write another sequence"
    )]
    Ambiguous(usize),
}

/// A line that is not empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    /// Where its first byte is in the file.
    pub(super) offset: usize,
    /// With the blanks before it, without the end of line.
    text: &'a [u8],
}

/// The lines of a file, empty ones left out.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut offset = 0;
    text.split(|byte| *byte == b'\n').enumerate().filter_map(move |(index, text)| {
        let line = Line { number: index + 1, offset, text: text.trim_ascii_end() };
        offset += text.len() + 1;
        (!line.text.is_empty()).then_some(line)
    })
}

impl Line<'_> {
    /// Whether it is a comment or a sequence that was used.
    pub(super) fn is_used(&self) -> bool {
        self.text.trim_ascii_start().first() == Some(&b'#')
    }

    /// Its sequence, where it is not used.
    pub(super) fn sequence(&self) -> Result<Vec<Knock>, LineError> {
        if self.text.starts_with(b"\xef\xbb\xbf") {
            return Err(LineError::ByteOrderMark);
        }
        parse(str::from_utf8(self.text).map_err(|_| LineError::NotText)?)
    }

    /// The sequences that it may have held before its first byte became `#`, now or when it is used, and whether each
    /// is there in full: that byte was a blank, or the first digit of a port.
    pub(super) fn once(&self) -> impl Iterator<Item = (Vec<Knock>, bool)> {
        let text = if self.is_used() { self.text.trim_ascii_start() } else { self.text };
        let rest = text.get(1..).and_then(|rest| str::from_utf8(rest).ok());
        rest.into_iter().flat_map(|rest| {
            let first = [" ", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
            first.into_iter().filter_map(move |first| Some((parse(&format!("{first}{rest}")).ok()?, first == " ")))
        })
    }

    /// Whether it is used and may have held that sequence.
    pub(super) fn has_used(&self, sequence: &[Knock]) -> bool {
        // The mark leaves the last knock alone where it is not the first too, and that is quickly compared.
        let last = || self.text.rsplit(|byte| *byte == b',' || byte.is_ascii_whitespace()).next();
        let last = || last().and_then(|last| str::from_utf8(last).ok()?.parse::<Knock>().ok());
        self.is_used()
            && (sequence.len() < 2 || last().as_ref() == sequence.last())
            && self.once().any(|(once, _)| once == sequence)
    }
}

/// More characters than any knock has; messages quote no more.
const ITEM_MAX: usize = 40;

/// Knocks with commas or blanks between them.
fn parse(text: &str) -> Result<Vec<Knock>, LineError> {
    let mut sequence = Vec::new();
    let mut count = 0;
    for item in text.split(',') {
        let before = count;
        for knock in item.split_ascii_whitespace() {
            if knock.len() > ITEM_MAX || !knock.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(LineError::NotText);
            }
            count += 1;
            if count <= SEQUENCE_MAX {
                sequence.push(knock.parse()?);
            }
        }
        if count == before {
            return Err(LineError::EmptyItem);
        }
    }
    if count > SEQUENCE_MAX { Err(LineError::TooLong(count)) } else { Ok(sequence) }
}
