//! What can be wrong with a configuration, in the words that the operator reads.

use std::fmt;
use std::io;
use std::path::PathBuf;

use knock_proto::{InvalidName, Port};

use crate::nearest::nearest;
use crate::path::FieldPath;

/// The most problems of one file that are reported.
pub const PROBLEMS_MAX: usize = 20;

/// A place in a text; both numbers count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character of the line.
    pub column: usize,
}

impl Position {
    pub(crate) const START: Position = Position { line: 1, column: 1 };

    /// The place of the byte `offset` of `text`.
    pub(crate) fn of(text: &str, offset: usize) -> Position {
        Places::of(text).at(offset)
    }
}

/// Finds places in a text; those in ascending order in one pass over it.
pub(crate) struct Places<'t> {
    text: &'t str,
    /// Up to where lines are counted.
    counted: usize,
    line: usize,
    line_start: usize,
}

impl<'t> Places<'t> {
    pub(crate) fn of(text: &'t str) -> Places<'t> {
        Places { text, counted: 0, line: 1, line_start: 0 }
    }

    /// The place of the byte `offset`.
    pub(crate) fn at(&mut self, offset: usize) -> Position {
        let offset = if self.text.is_char_boundary(offset) { offset } else { self.text.len() };
        if offset < self.counted {
            *self = Places::of(self.text);
        }
        let piece = &self.text[self.counted..offset];
        if let Some(newline) = piece.rfind('\n') {
            self.line += piece.matches('\n').count();
            self.line_start = self.counted + newline + 1;
        }
        self.counted = offset;
        Position { line: self.line, column: self.text[self.line_start..offset].chars().count() + 1 }
    }
}

/// Why a configuration cannot be used. Displayed it is a line for each problem.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is bigger than [`crate::FILE_MAX`].
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file breaks rules.
    Invalid {
        /// In the order of their places in the file; at least one, at most [`PROBLEMS_MAX`].
        problems: Vec<Problem>,
        /// How many more there are.
        omitted: usize,
    },
}

impl ConfigError {
    pub(crate) fn one(file: &str, position: Position, cause: Cause) -> ConfigError {
        let problem = Problem { file: file.to_owned(), position, path: FieldPath::default(), cause };
        ConfigError::Invalid { problems: vec![problem], omitted: 0 }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Read { path, error } => {
                write!(f, "{}: cannot read the configuration: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::NotFound => write!(f, "; name the file with -c"),
                    io::ErrorKind::PermissionDenied => write!(f, "; let the user that reads it do so"),
                    _ => Ok(()),
                }
            }
            ConfigError::TooLarge { path } => write!(
                f,
                "{}: the file is bigger than {} MiB, so it is hardly a configuration; name the right file with -c",
                path.display(),
                crate::FILE_MAX >> 20
            ),
            ConfigError::Invalid { problems, omitted } => {
                for (index, problem) in problems.iter().enumerate() {
                    if index > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{problem}")?;
                }
                if *omitted > 0 {
                    let file = problems.first().map_or("", |problem| problem.file.as_str());
                    write!(f, "\n{file}: {omitted} more errors are not shown")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Read { error, .. } => Some(error),
            ConfigError::TooLarge { .. } | ConfigError::Invalid { .. } => None,
        }
    }
}

/// One thing that is wrong, and where: `config.json:12:20: rules[1].sequence[0]: port 70000 is not …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the file.
    pub file: String,
    /// Where in the file.
    pub position: Position,
    /// Which field; the top where it is the whole file.
    pub path: FieldPath,
    /// What is wrong and what to write instead.
    pub cause: Cause,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.position.line, self.position.column)?;
        if !self.path.is_top() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.cause)
    }
}

/// What is wrong, which rule it breaks and what to write instead. Values appear as the file writes them in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message says what its variant means")]
pub enum Cause {
    #[error("not valid JSON: {reason}{}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Syntax { reason: String, hint: Option<&'static str> },
    #[error("not UTF-8 text; save the file as UTF-8")]
    NotUtf8,
    #[error("the file begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    #[error("the file is empty; a configuration is an object with at least `rules`")]
    Empty,
    #[error("a configuration is an object, {{\"rules\": […]}}, not {found}")]
    NotAnObject { found: &'static str },
    #[error("the key `{key}` stands twice, first in line {first}; delete one of the two")]
    DuplicateKey { key: String, first: usize },
    #[error("unknown key `{key}`; {}allowed here: {allowed}",
        suggestion.as_ref().map(|known| format!("did you mean `{known}`? ")).unwrap_or_default())]
    UnknownKey { key: String, suggestion: Option<String>, allowed: String },
    #[error("unknown key `{key}`; write {instead}")]
    ForeignKey { key: String, instead: &'static str },
    #[error("{reason}")]
    Type { reason: String },

    #[error("`rules` is missing; write a list of rules")]
    RulesMissing,
    #[error("{count} rules are more than {max}; leave out some")]
    TooManyRules { count: usize, max: usize },

    #[error("the rule has no name; write `name`, unique among the rules")]
    NameMissing,
    #[error("{name} is not a rule name; write 1 to 64 letters, digits, `_`, `.` or `-`")]
    Name { name: String },
    #[error("the name `{name}` is that of rules[{first}] too; names are unique")]
    NameTaken { name: String, first: usize },

    #[error("the rule has nothing to knock; write `sequence` (or `one_time_sequences`)")]
    TriggerMissing,
    #[error("the rule has both `sequence` and `one_time_sequences`; write one of them")]
    TriggerTwice,
    #[error("the sequence is empty, which every packet would match; write 1 to 32 knocks")]
    SequenceEmpty,
    #[error("{count} knocks are more than {max}; write a shorter sequence")]
    SequenceTooLong { count: usize, max: usize },
    #[error("port {port} is not between 1 and 65535; write a number from that range, or \"7000/udp\" for UDP")]
    PortRange { port: String },
    #[error("{value} is not a port; write 7000 for TCP, \"7000/udp\" for UDP")]
    Port { value: String },
    #[error("{value} is more than one port; write each port on its own")]
    PortList { value: String },
    #[error("`{protocol}` is not a protocol; write tcp or udp, as in \"7000/udp\"")]
    PortProtocol { protocol: String },

    #[error(
        "{value} is not a duration; write seconds (5, 0.5), or a text with the unit (\"500ms\", \"5s\", \"10m\", \"1h\", \"1d\")"
    )]
    Duration { value: String },
    #[error("{value} has no unit; write the number of seconds without quotes, or a unit: \"{value_bare}s\"", value_bare = value.trim_matches('"'))]
    DurationUnit { value: String },
    #[error("{value} is not longer than zero; write at least {min}")]
    DurationZero { value: String, min: &'static str },
    #[error("{value} is shorter than {min}, the least that is allowed here")]
    DurationShort { value: String, min: &'static str },
    #[error("{value} is longer than 365 days, the most that is allowed")]
    DurationLong { value: String },

    #[error("{value} is not a list of TCP flags; write [\"syn\", \"!ack\"] or \"syn,!ack\"")]
    Flags { value: String },
    #[error(
        "`{flag}` is not a TCP flag; write syn, ack, rst, fin, psh or urg, with `!` before it where it must be clear"
    )]
    Flag { flag: String },
    #[error("there is no TCP flag; name at least one, or leave `tcp_flags` out for \"syn,!ack,!rst,!fin\"")]
    FlagsEmpty,
    #[error("`{flag}` must be both set and clear, which no segment is; write one of `{flag}` and `!{flag}`")]
    FlagContradiction { flag: &'static str },

    #[error(
        "{value} is not an IP address; write one as in \"192.0.2.1\" or \"2001:db8::1\", without port, prefix or name"
    )]
    Target { value: String },
    #[error("{value} is no destination address; leave `target` out for any address of this host")]
    TargetUnspecified { value: String },
    #[error("{value} is an IPv4 address in IPv6 form; write \"{plain}\"")]
    TargetMapped { value: String, plain: std::net::Ipv4Addr },

    #[error("the command is empty; write what to run, or leave the key out")]
    CommandEmpty,
    #[error("the command holds a NUL character, which no shell takes; delete it")]
    CommandNul,
    #[error("the rule does nothing; write at least one of `allow`, `command` and `revoke`")]
    ActionMissing,
    #[error("`{key}` needs `{needs}`, {why}; write `{needs}` or delete `{key}`")]
    Needs { key: &'static str, needs: &'static str, why: &'static str },

    #[error("`allow` opens nothing; write `ports` (for the managed table), or `set` or `set6` (for your own)")]
    AllowEmpty,
    #[error("`allow` has both `ports` and a set; write one of them, and another rule for the other")]
    AllowTwice,
    #[error("`allow` has no `timeout`; write how long a grant lasts, as in \"timeout\": \"1h\"")]
    AllowTimeoutMissing,
    #[error("the list of ports is empty; write at least one")]
    PortsEmpty,
    #[error("{port} stands twice in the list; delete one of the two")]
    PortTwice { port: Port },
    #[error("{value} {reason}")]
    InvalidName { value: String, reason: &'static str },
    #[error("`{key}` names a set in family {family}, where no {version} packet passes; name the {version} set")]
    SetVersion { key: &'static str, family: &'static str, version: &'static str },
    #[error("`set` and `set6` are the same set, but a set holds one kind of address; name an ipv6_addr set in `set6`")]
    SetTwice,

    #[error("there is no rule `{name}`; {}write the name of a rule that has `allow`",
        suggestion.as_ref().map(|known| format!("did you mean `{known}`? ")).unwrap_or_default())]
    RevokeUnknown { name: String, suggestion: Option<String> },
    #[error("rule `{name}` has no `allow`, so there is no grant to revoke; write the name of a rule that has")]
    RevokeWithoutAllow { name: String },
    #[error("the rule revokes its own grant; write the name of another rule")]
    RevokeItself,

    #[error("{value} is not an interface; write a name, a list of names, or \"any\"")]
    InterfaceType { value: String },
    #[error("the list of interfaces is empty; write at least one, or \"any\"")]
    InterfacesEmpty,
    #[error("the interface `{name}` stands twice in the list; delete one of the two")]
    InterfaceTwice { name: String },
    #[error("\"any\" stands for every interface and not beside others; write \"interface\": \"any\"")]
    InterfaceAnyInList,

    #[error("{value} is not an absolute path; begin it with `/`, for the daemon may run in any directory")]
    RelativePath { value: String },
    #[error("the path holds a NUL character, which no path does; delete it")]
    PathNul,
    #[error("the path is {length} bytes long and a socket's is at most 107 (unix(7)); write a shorter one")]
    SocketPathTooLong { length: usize },
    #[error("{value} is not a whole number from {min} to {max}; write one")]
    Count { value: String, min: u64, max: u64 },
}

/// Keys of knock's configuration and of other versions of knock-rs, in lower case, and what to write here.
const FOREIGN: [(&str, &str); 14] = [
    ("activate", "`command`"),
    ("cmd_timeout", "`stop_after`, the time between `command` and `stop_command`"),
    ("command_6", "`command6`"),
    ("deactivate", "`stop_command`, with `stop_after` for the time between it and `command`"),
    ("door", "`rules`"),
    ("interfaces", "`interface`, which may be a list"),
    ("ports", "`sequence` for what is knocked, `allow` for what is opened"),
    ("seq_timeout", "`timeout`"),
    ("start_command", "`command`"),
    ("start_command_6", "`command6`"),
    ("stop_command_6", "`stop_command6`"),
    ("tcpflags", "`tcp_flags`"),
    ("usesyslog", "\"log\": {\"target\": \"syslog\"}"),
    ("logfile", "\"log\": {\"target\": \"stderr\"}, and send standard error to the file"),
];

/// The former name of a key, and its present one.
const RENAMED: (&str, &str) = ("on_stop", "stop_on_shutdown");

impl From<InvalidName> for Cause {
    fn from(error: InvalidName) -> Cause {
        Cause::InvalidName { value: format!("\"{}\"", excerpt(&error.text)), reason: error.reason }
    }
}

impl Cause {
    /// The cause for a key that its object does not have.
    pub(crate) fn unknown_key<'a>(key: &str, allowed: impl Iterator<Item = &'a str> + Clone) -> Cause {
        let key = excerpt(key);
        if let Some((_, instead)) = FOREIGN.iter().find(|(foreign, _)| foreign.eq_ignore_ascii_case(&key)) {
            return Cause::ForeignKey { key, instead };
        }
        let renamed = allowed.clone().find(|present| (key.as_str(), *present) == RENAMED);
        let suggestion = renamed.or_else(|| nearest(&key, allowed.clone())).map(str::to_owned);
        let allowed = allowed.filter(|key| !key.starts_with('$')).collect::<Vec<_>>().join(", ");
        Cause::UnknownKey { key, suggestion, allowed }
    }
}

/// A text of the file for a message: at most 60 characters, none of which could drive a terminal.
pub fn excerpt(text: &str) -> String {
    shorten(text, 60)
}

/// At most `length` characters of `text`, none of which could drive a terminal.
pub(crate) fn shorten(text: &str, length: usize) -> String {
    let mut shown: String = text.chars().take(length).flat_map(escape_control).collect();
    if text.chars().nth(length).is_some() {
        shown.push('…');
    }
    shown
}

/// The text with its control characters escaped, so that none can drive a terminal.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(escape_control).collect()
}

fn escape_control(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}
