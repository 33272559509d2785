//! The protocol of Valkey and Redis, RESP2: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
//!
//! The store is nobody's friend: an answer has a limit of bytes, of values, and of depth.

use std::io::{self, BufRead, Read as _};

/// The most bytes of an answer: 1000 records are 0.5 MiB, the table of 10,000 nodes is 1 MiB.
pub(crate) const BYTES_MAX: usize = 4 << 20;
/// The most values of an answer: 1000 entries are 5000, the table of 10,000 nodes is 20,000.
const VALUES_MAX: usize = 1 << 16;
/// The longest line: a number, or an error.
const LINE_MAX: usize = 1024;
/// How deep lists are in lists: streams, entries, fields.
const DEPTH_MAX: usize = 6;

/// What a store says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(Vec<u8>),
    Number(i64),
    Nothing,
    List(Vec<Answer>),
    /// The command was refused.
    Error(String),
}

/// The bytes are no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RespError {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too many bytes, values, or lists in lists.
    #[error("the answer is too long")]
    Long,
    /// Something else than the protocol.
    #[error("the answer is not one of a Valkey or Redis server")]
    Foreign,
}

/// A command: its name and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    arguments: usize,
    bytes: Vec<u8>,
}

impl Command {
    pub(crate) fn new(name: &'static str) -> Command {
        Command { name, arguments: 0, bytes: Vec::new() }.arg(name)
    }

    /// With another argument. No byte in it has a meaning for the protocol.
    pub(crate) fn arg(mut self, argument: impl AsRef<[u8]>) -> Command {
        let argument = argument.as_ref();
        self.arguments += 1;
        self.bytes.extend(format!("${}\r\n", argument.len()).as_bytes());
        self.bytes.extend(argument);
        self.bytes.extend(b"\r\n");
        self
    }

    pub(crate) fn number(self, number: impl ToString) -> Command {
        self.arg(number.to_string())
    }

    pub(crate) fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.extend(format!("*{}\r\n", self.arguments).as_bytes());
        bytes.extend(&self.bytes);
    }
}

/// Reads one answer.
pub(crate) fn read(from: &mut impl BufRead) -> Result<Answer, RespError> {
    Budget { bytes: BYTES_MAX, values: VALUES_MAX }.read(from, 0)
}

/// What an answer may still have.
struct Budget {
    bytes: usize,
    values: usize,
}

impl Budget {
    fn read(&mut self, from: &mut impl BufRead, depth: usize) -> Result<Answer, RespError> {
        self.values = self.values.checked_sub(1).ok_or(RespError::Long)?;
        let line = self.line(from)?;
        let (&kind, rest) = line.split_first().ok_or(RespError::Foreign)?;
        match kind {
            b'+' => Ok(Answer::Text(rest.to_vec())),
            b'-' => Ok(Answer::Error(String::from_utf8_lossy(rest).into_owned())),
            b':' => Ok(Answer::Number(number(rest)?)),
            b'$' => match length(rest)? {
                None => Ok(Answer::Nothing),
                Some(length) => self.text(from, length).map(Answer::Text),
            },
            b'*' => {
                let Some(length) = length(rest)? else { return Ok(Answer::Nothing) };
                if length > self.values || depth == DEPTH_MAX {
                    return Err(RespError::Long);
                }
                // No room in advance: a list of lists would get it many times.
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(self.read(from, depth + 1)?);
                }
                Ok(Answer::List(list))
            }
            _ => Err(RespError::Foreign),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(), RespError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(RespError::Long)?;
        Ok(())
    }

    /// A line, without its end.
    fn line(&mut self, from: &mut impl BufRead) -> Result<Vec<u8>, RespError> {
        let mut line = Vec::new();
        let length = from.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        self.take(length)?;
        match line.strip_suffix(b"\r\n") {
            Some(text) => Ok(text.to_vec()),
            None if length == LINE_MAX => Err(RespError::Long),
            None if line.ends_with(b"\n") => Err(RespError::Foreign),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn text(&mut self, from: &mut impl BufRead, length: usize) -> Result<Vec<u8>, RespError> {
        self.take(length.saturating_add(2))?;
        let mut text = vec![0; length + 2];
        from.read_exact(&mut text)?;
        if !text.ends_with(b"\r\n") {
            return Err(RespError::Foreign);
        }
        text.truncate(length);
        Ok(text)
    }
}

fn number(text: &[u8]) -> Result<i64, RespError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(RespError::Foreign)
}

/// A length; `None`: there is nothing.
fn length(text: &[u8]) -> Result<Option<usize>, RespError> {
    match number(text)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| RespError::Foreign),
    }
}

impl Answer {
    pub(crate) fn text(self) -> Option<Vec<u8>> {
        if let Answer::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn list(self) -> Option<Vec<Answer>> {
        if let Answer::List(list) = self { Some(list) } else { None }
    }

    /// A number that is written as a text, as most are.
    pub(crate) fn parse<T: std::str::FromStr>(self) -> Option<T> {
        std::str::from_utf8(&self.text()?).ok()?.parse().ok()
    }

    /// The members of a list, two by two.
    pub(crate) fn pairs(self) -> Option<Vec<(Answer, Answer)>> {
        let mut list = self.list()?.into_iter();
        let mut pairs = Vec::new();
        while let Some(first) = list.next() {
            pairs.push((first, list.next()?));
        }
        Some(pairs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes of an answer, as a server writes them.
    fn encode(answer: &Answer) -> Vec<u8> {
        match answer {
            Answer::Text(text) => [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat(),
            Answer::Number(number) => format!(":{number}\r\n").into_bytes(),
            Answer::Nothing => b"$-1\r\n".to_vec(),
            Answer::Error(text) => format!("-{text}\r\n").into_bytes(),
            Answer::List(list) => {
                let members: Vec<u8> = list.iter().flat_map(encode).collect();
                [format!("*{}\r\n", list.len()).as_bytes(), &members].concat()
            }
        }
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let one = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Answer::Text),
            any::<i64>().prop_map(Answer::Number),
            Just(Answer::Nothing),
            "[A-Z]{3,8}( [a-z ]{0,20})?".prop_map(Answer::Error),
        ];
        one.prop_recursive(4, 64, 6, |inner| proptest::collection::vec(inner, 0..6).prop_map(Answer::List))
    }

    proptest! {
        #[test]
        fn any_answer_is_read_as_it_was_written_and_not_before_its_end(answer in answers(), cut in any::<u16>()) {
            let bytes = encode(&answer);
            prop_assert_eq!(of(&bytes).expect("an answer"), answer);
            let cut = usize::from(cut) % bytes.len();
            prop_assert!(matches!(of(&bytes[..cut]), Err(RespError::Io(_))));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(
            parts in proptest::collection::vec(
                prop_oneof![
                    "[-+:$*%_][-0-9]{0,22}(\r\n|\n|\r)",
                    "[ -~]{0,9}(\r\n)?",
                ],
                0..40,
            ),
            noise in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let bytes = [parts.concat().as_bytes(), &noise].concat();
            let mut rest = &bytes[..];
            // To the end, or to what is no answer.
            while let Ok(answer) = read(&mut rest) {
                let _ = (answer.clone().pairs(), answer.parse::<f64>());
            }
        }
    }

    fn of(bytes: &[u8]) -> Result<Answer, RespError> {
        read(&mut &bytes[..])
    }

    #[test]
    fn an_answer_is_read_and_nothing_behind_it() {
        let text = |text: &str| Answer::Text(text.into());
        let mut bytes = &b"*5\r\n+OK\r\n$4\r\na\r\nb\r\n:-7\r\n$-1\r\n*2\r\n*0\r\n-ERR no\r\n+next\r\n"[..];
        let inner = Answer::List(vec![Answer::List(vec![]), Answer::Error("ERR no".to_owned())]);
        let expected = Answer::List(vec![text("OK"), text("a\r\nb"), Answer::Number(-7), Answer::Nothing, inner]);
        assert_eq!(read(&mut bytes).expect("an answer"), expected);
        assert_eq!(read(&mut bytes).expect("an answer"), text("next"));
        assert!(matches!(read(&mut bytes), Err(RespError::Io(_))));
        assert_eq!(of(b"*-1\r\n").expect("an answer"), Answer::Nothing);
        for cut in 0..12 {
            assert!(matches!(of(&b"$6\r\nabcdef\r\n"[..cut]), Err(RespError::Io(_))), "{cut}");
        }
    }

    #[test]
    fn what_is_longer_than_an_answer_may_be_takes_no_memory() {
        let list = |length: usize| [format!("*{length}\r\n").into_bytes(), b":1\r\n".repeat(length)].concat();
        assert!(of(&list(VALUES_MAX - 1)).is_ok());
        assert!(matches!(of(&list(VALUES_MAX)), Err(RespError::Long)));
        let text =
            |length: usize| [format!("${length}\r\n").into_bytes(), vec![b'x'; length], b"\r\n".to_vec()].concat();
        assert!(of(&text(BYTES_MAX - 20)).is_ok());
        for long in [
            &text(BYTES_MAX)[..],
            b"$9223372036854775807\r\n",
            b"*9223372036854775807\r\n",
            &[b"+", &[b'x'; 2 * LINE_MAX][..], b"\r\n"].concat(),
            &[b'1'; 2 * LINE_MAX],
            &b"*1\r\n".repeat(DEPTH_MAX + 2),
        ] {
            assert!(matches!(of(long), Err(RespError::Long)), "{:?}", &long[..20]);
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for foreign in
            ["HTTP/1.1 400\r\n", "\r\n", "+a\n", ":x\r\n", ":\r\n", "$-2\r\n", "*x\r\n", "$1\r\nabc", "%1\r\n", "_\r\n"]
        {
            assert!(matches!(of(foreign.as_bytes()), Err(RespError::Foreign)), "{foreign:?}");
        }
    }

    #[test]
    fn a_command_is_its_words_whatever_bytes_they_have() {
        let mut bytes = Vec::new();
        Command::new("SET").arg("a\r\n").number(-7).encode_into(&mut bytes);
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$2\r\n-7\r\n");
        let words = [&b"SET"[..], b"a\r\n", b"-7"].map(|word| Answer::Text(word.to_vec()));
        assert_eq!(of(&bytes).expect("an answer"), Answer::List(words.into()));
    }

    #[test]
    fn lists_are_pairs_only_where_none_is_left_over() {
        assert_eq!(of(b"*2\r\n:1\r\n:2\r\n").ok().and_then(Answer::pairs).map(|pairs| pairs.len()), Some(1));
        assert!(of(b"*3\r\n:1\r\n:2\r\n:3\r\n").ok().and_then(Answer::pairs).is_none());
        assert_eq!(of(b"$2\r\n17\r\n").ok().and_then(Answer::parse::<u64>), Some(17));
    }
}
