//! The errors of a configuration, with their messages.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use knock_proto::{InvalidName, PortRange};

use crate::excerpt::excerpt;
use crate::fleet_cause::FleetCause;
use crate::nearest::nearest;
use crate::path::FieldPath;
use crate::raw::CLIENT_KEYS;
use crate::spa_cause::SpaCause;

/// The most problems of one file that are reported.
pub const PROBLEMS_MAX: usize = 20;

/// The biggest file that is read, in bytes.
pub const FILE_MAX: usize = 16 << 20;

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
    /// The byte up to which lines are counted.
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

/// The reason why a configuration is refused. Its display is a line for each problem.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The file is bigger than [`FILE_MAX`].
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file breaks rules.
    Invalid {
        /// In the order of their places in the file; at least one, at most [`PROBLEMS_MAX`].
        problems: Vec<Problem>,
        /// The number of further problems.
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
                    io::ErrorKind::NotFound => write!(f, "; is the path right? -c names another file"),
                    io::ErrorKind::PermissionDenied => {
                        write!(
                            f,
                            "; give the user of this program permission to read it (for the packaged service: chgrp knockd {0}; \
                             chmod 640 {0})",
                            path.display()
                        )
                    }
                    _ => Ok(()),
                }
            }
            ConfigError::TooLarge { path } => write!(
                f,
                "{}: the file is bigger than the limit of {} MiB and is probably not a configuration; name the right file with -c",
                path.display(),
                FILE_MAX >> 20
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

/// A problem and its place: `config.json:12:20: rules[1].sequence[0]: port 70000 is not …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the file.
    pub file: String,
    /// The place in the file.
    pub position: Position,
    /// The field; the top for the whole file.
    pub path: FieldPath,
    /// The error, and its remedy.
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

/// An error, the rule that it breaks, and its remedy. Values appear as the file writes them in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message says what its variant means")]
pub enum Cause {
    #[error("not valid JSON: {reason}{}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Syntax { reason: String, hint: Option<&'static str> },
    #[error("not UTF-8 text; save the file as UTF-8")]
    NotUtf8,
    #[error("the file begins with a byte order mark; save the file as UTF-8 without this mark")]
    ByteOrderMark,
    #[error(
        "the file is a knockd.conf of knock, not JSON; convert it with `knockctl import`, and name the new file with -c"
    )]
    KnockFormat,
    #[error(
        "the file is YAML, not JSON; convert a file of knock-rs with `knockctl import`, and name the new file with -c"
    )]
    YamlFormat,
    #[error("the file is empty; write an object with at least `rules`")]
    Empty,
    #[error("a configuration must be an object, but the file contains {found}; write {{\"rules\": […]}}")]
    NotAnObject { found: &'static str },
    #[error("duplicate key `{key}`, first in line {first}; delete one of the two")]
    DuplicateKey { key: String, first: usize },
    #[error("unknown key `{key}`; {}", match suggestion {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("allowed here: {allowed}"),
    })]
    UnknownKey { key: String, suggestion: Option<String>, allowed: String },
    #[error("unknown key `{key}`; write {instead}")]
    ForeignKey { key: String, instead: &'static str },
    #[error(
        "`{key}` is a key of a client's file, which knock-cli reads; name the server's file with -c, or delete the key"
    )]
    ClientKey { key: String },
    #[error("{reason}")]
    Type { reason: String },

    #[error("`rules` is missing; write a list of rules")]
    RulesMissing,
    #[error("{count} rules are more than the limit of {max}; delete some rules")]
    TooManyRules { count: usize, max: usize },

    #[error("the rule has no name; write a unique `name`")]
    NameMissing,
    #[error("{name} is not a rule name; write 1 to 64 letters, digits, `_`, `.` or `-`")]
    Name { name: String },
    #[error("duplicate rule name `{name}`, first in rules[{first}]; write a unique name")]
    NameTaken { name: String, first: usize },

    #[error("the rule has no trigger; write `sequence`, `one_time_sequences` or \"spa\": true")]
    TriggerMissing,
    #[error("the rule has both `sequence` and `one_time_sequences`; delete one of the two")]
    TriggerTwice,
    #[error("a one-time sequence works only once, so it needs no cooldown; delete `cooldown`")]
    CooldownOneTime,
    #[error("the sequence is empty, so every packet would complete it; write 1 to 32 knocks")]
    SequenceEmpty,
    #[error("{count} knocks are more than the limit of {max}; write a shorter sequence")]
    SequenceTooLong { count: usize, max: usize },
    #[error("port {port} is not between 1 and 65535; write a number in this range, or \"7000/udp\" for UDP")]
    PortRange { port: String },
    #[error("{value} is not a port; write 7000 for TCP, \"7000/udp\" for UDP")]
    Port { value: String },
    #[error("{value} is more than one port; write each port as a separate list element")]
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
    #[error("{value} is shorter than the minimum; write at least {min}")]
    DurationShort { value: String, min: &'static str },
    #[error("{value} is longer than the maximum; write at most 365 days")]
    DurationLong { value: String },

    #[error("{value} is not a list of TCP flags; write [\"syn\", \"!ack\"] or \"syn,!ack\"")]
    Flags { value: String },
    #[error(
        "`{flag}` is not a TCP flag; write syn, ack, rst, fin, psh or urg, with `!` before a flag that must be clear"
    )]
    Flag { flag: String },
    #[error(
        "the list of TCP flags is empty; write at least one flag, or delete `tcp_flags` for the default, \"syn,!ack,!rst,!fin\""
    )]
    FlagsEmpty,
    #[error("no segment has `{flag}` both set and clear; write one of `{flag}` and `!{flag}`")]
    FlagContradiction { flag: &'static str },

    #[error(
        "{value} is not an IP address; write an address such as \"192.0.2.1\" or \"2001:db8::1\", without port, prefix or host name"
    )]
    Target { value: String },
    #[error(
        "the list of destination addresses is empty, so no knock would count; write at least one address, or delete \
         `target` to accept knocks to any address of this host"
    )]
    TargetsEmpty,
    #[error("duplicate destination address {address} in the list; delete one of the two")]
    TargetTwice { address: IpAddr },
    #[error("{value} is not a destination address; delete `target` to accept knocks to any address of this host")]
    TargetUnspecified { value: String },
    #[error("{value} is an IPv4 address in IPv6 form; write \"{plain}\"")]
    TargetMapped { value: String, plain: std::net::Ipv4Addr },

    #[error("{value} is not a host; write a name or an address, without user, port or brackets")]
    Host { value: String },
    #[error("{count} hosts are not between 1 and 256; write a name, or a list of names in this range")]
    Hosts { count: usize },
    #[error(
        "{value} is a UDP port, which sends no answer to wait for; write a TCP port that the rule opens, or delete `wait`"
    )]
    WaitUdp { value: String },
    #[error("{value} is longer than the maximum; write at most 60 seconds")]
    DelayLong { value: String },
    #[error("{value} is not an IP version; write \"both\", \"ipv4\" or \"ipv6\"")]
    Family { value: String },
    #[error("{value} is not a source address; write an address of this machine, such as \"192.0.2.7\"")]
    Source { value: String },
    #[error(transparent)]
    ClientSpa(#[from] SpaCause),

    #[error("the command is empty; write a command, or delete the key")]
    CommandEmpty,
    #[error("the command contains a NUL character, which a shell does not accept; delete the character")]
    CommandNul,
    #[error("the rule has no action; write at least one of `allow`, `command` and `revoke`")]
    ActionMissing,
    #[error(
        "no rule has an action, as in a file of knock-cli; name the configuration of knockd with -c, or write at least one of `allow`, `command` and `revoke` in each rule"
    )]
    ActionsMissing,
    #[error("`{key}` needs `{needs}`, {why}; write `{needs}` or delete `{key}`")]
    Needs { key: &'static str, needs: &'static str, why: &'static str },

    #[error(
        "`allow` has no ports and no set; write `ports` (for the managed table), or `set` or `set6` (for user sets)"
    )]
    AllowEmpty,
    #[error("`allow` has both `ports` and a set; delete one of the two, and write another rule for it")]
    AllowTwice,
    #[error("`{key}` needs `ports`, because a user set holds single addresses; delete `{key}`, or write `ports`")]
    PrefixInSet { key: &'static str },
    #[error("`allow` has no `timeout`; write the duration of a grant, as in \"timeout\": \"1h\"")]
    AllowTimeoutMissing,
    #[error("the list of ports is empty; write at least one port")]
    PortsEmpty,
    #[error("{value} is not a list of ports; write a list, as in [22, \"60000-61000/udp\"], or \"any\"")]
    PortsType { value: String },
    #[error("duplicate port {port} in the list; delete one of the two")]
    PortTwice { port: PortRange },
    #[error("{port} is part of {range} in the same list; delete one of the two")]
    PortInRange { port: PortRange, range: PortRange },
    #[error("{value} is not a range of ports; write \"60000-61000\" for TCP, \"60000-61000/udp\" for UDP")]
    RangeForm { value: String },
    #[error("the range {first}-{last} ends below its start; write the lower port first: {last}-{first}")]
    RangeBackwards { first: u16, last: u16 },
    #[error("the rules have more than {max} different ranges of ports; join some of them")]
    TooManyRanges { max: usize },
    #[error(
        "\"any\" opens every guarded port, but no rule guards one; write the ports into the list too, or use `set` to open \
         the whole host"
    )]
    AnyOfNothing,
    #[error("{value} {reason}")]
    InvalidName { value: String, reason: &'static str },
    #[error(
        "`{key}` names a set in a table of family {family}, which sees no {version} packets; name a set for {version} addresses"
    )]
    SetVersion { key: &'static str, family: &'static str, version: &'static str },
    #[error(
        "`set` and `set6` name the same set, but a set holds addresses of one IP version; name a set of type ipv6_addr in `set6`"
    )]
    SetTwice,

    #[error("there is no rule `{name}`; {}write the name of a rule with `allow`",
        suggestion.as_ref().map(|known| format!("did you mean `{known}`? ")).unwrap_or_default())]
    RevokeUnknown { name: String, suggestion: Option<String> },
    #[error("rule `{name}` has no `allow`, so there is no grant to revoke; write the name of a rule with `allow`")]
    RevokeWithoutAllow { name: String },
    #[error("the rule revokes its own grant; write the name of another rule")]
    RevokeItself,

    #[error("{value} is not an interface; write a name, a list of names, or \"any\"")]
    InterfaceType { value: String },
    #[error("the list of interfaces is empty; write at least one interface, or \"any\"")]
    InterfacesEmpty,
    #[error("duplicate interface `{name}` in the list; delete one of the two")]
    InterfaceTwice { name: String },
    #[error("\"any\" means every interface and cannot be in a list; write \"interface\": \"any\"")]
    InterfaceAnyInList,

    #[error(
        "{value} would exempt every interface, so that the gate guards nothing; write the names of the interfaces from \
         which no knock is needed"
    )]
    ExemptAll { value: String },

    #[error(
        "`spa` has no `{key}`; write `realm`, `authorized_keys` and `cover_files`, as `knockctl spa init` prints them"
    )]
    SpaIncomplete { key: &'static str },
    #[error("{0}")]
    Realm(knock_spa::RealmError),
    #[error("the list has {count} items; write 1 to {max}")]
    ListLength { count: usize, max: usize },
    #[error("port {port} is in the list twice; delete one of the two")]
    SpaPortTwice { port: u16 },
    #[error(
        "the window is longer than ten minutes, but each packet must be remembered for twice that time; write at most \"10m\""
    )]
    WindowTooLong,
    #[error(
        "the rule accepts signed packets, but the file does not say how they are received; run `knockctl spa init`, and \
         write the `spa` that it prints beside `rules`"
    )]
    SpaMissing,

    #[error(transparent)]
    Fleet(#[from] FleetCause),

    #[error("{value} is not an absolute path; write a path that begins with `/`")]
    RelativePath { value: String },
    #[error("the path contains a NUL character, which is not valid in a path; delete the character")]
    PathNul,
    #[error(
        "the path is {length} bytes long, but the path of a socket has at most 107 bytes (unix(7)); write a shorter path"
    )]
    SocketPathTooLong { length: usize },
    #[error("{value} is not a whole number from {min} to {max}; write a number in this range")]
    Count { value: String, min: u64, max: u64 },
}

/// Keys of knock's configuration and of other versions of knock-rs, in lower case, and their replacements.
const FOREIGN: [(&str, &str); 15] = [
    ("activate", "`command`"),
    ("cmd_timeout", "`stop_after`, the time between `command` and `stop_command`"),
    ("command_6", "`command6`"),
    ("deactivate", "`stop_command`, with `stop_after` for the time between it and `command`"),
    ("door", "`rules`"),
    ("interfaces", "`interface`, which may be a list"),
    ("ports", "`sequence` for the knock ports, `allow` for the guarded ports"),
    ("seq_cooldown", "`cooldown`"),
    ("seq_timeout", "`timeout`"),
    ("start_command", "`command`"),
    ("start_command_6", "`command6`"),
    ("stop_command_6", "`stop_command6`"),
    ("tcpflags", "`tcp_flags`"),
    ("usesyslog", "\"log\": {\"target\": \"syslog\"}"),
    ("logfile", "\"log\": {\"target\": \"stderr\"}, and redirect standard error to the file"),
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
        // Only a rule has a sequence.
        if CLIENT_KEYS.contains(&key.as_str()) && allowed.clone().any(|key| key == "sequence") {
            return Cause::ClientKey { key };
        }
        let renamed = allowed.clone().find(|present| (key.as_str(), *present) == RENAMED);
        let suggestion = renamed.or_else(|| nearest(&key, allowed.clone())).map(str::to_owned);
        let allowed = allowed.filter(|key| !key.starts_with('$')).collect::<Vec<_>>().join(", ");
        Cause::UnknownKey { key, suggestion, allowed }
    }
}
