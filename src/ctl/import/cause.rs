//! The errors of an import, with their remedies.

/// An error in a line of the imported file, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportCause {
    #[error("the file has no door; write a section such as [openSSH] with a Sequence")]
    NoDoor,
    #[error("{count} rules are more than the limit of {max}; delete some rules")]
    TooManyRules { count: usize, max: usize },
    #[error(
        "`{text}` is not a [section], not `Key = value` and not a # comment at the start of a line; correct or delete it"
    )]
    Syntax { text: String },
    #[error("`;` begins no comment in knock, which refuses the line; write # instead")]
    Semicolon,
    #[error("`{key}` is before the first [section]; move it into [options] or a door")]
    NoSection { key: String },
    #[error("the section has no name; write one between the brackets")]
    EmptySection,
    #[error("section names of knock are case-sensitive, so [{name}] is a door; write [options]")]
    OptionsCase { name: String },
    #[error("UseSyslog has no value, and knock refuses one too; write `UseSyslog` alone")]
    UseSyslogValue,
    #[error("`{key}` has no value; write `{key} = …`")]
    NoValue { key: String },
    #[error("`{key}` is a key of [options]; move it into that section")]
    OptionInDoor { key: String },
    #[error("`{key}` is a key of a door; move it into a door")]
    DoorKeyInOptions { key: String },
    #[error("knock has no key `{key}`; {}correct or delete it",
        suggestion.map(|key| format!("did you mean `{key}`? ")).unwrap_or_default())]
    UnknownKey { key: String, suggestion: Option<&'static str> },
    #[error("duplicate key `{key}` in the section, first in line {first}; delete one of the two")]
    Twice { key: String, first: usize },
    #[error("the door has no sequence; write `Sequence` or `One_Time_Sequences`")]
    NoSequence,
    #[error("the door has both `Sequence` and `One_Time_Sequences`; delete one of the two")]
    TwoSequences,
    #[error("`{text}` is a range, and knock silently uses only its first port; write each port separately")]
    Range { text: String },
    #[error("`{text}` is not a port, and knock silently reads it as {reading}; write a number from 1 to 65535")]
    NotAPort { text: String, reading: u16 },
    #[error(
        "port {text} is not between 1 and 65535, and knock silently reads it as {reading}; write the intended port"
    )]
    PortRange { text: String, reading: u16 },
    #[error("`{text}` is not a protocol; write tcp or udp")]
    Protocol { text: String },
    #[error("{count} knocks are more than the limit of 32; write a shorter sequence")]
    TooManyKnocks { count: usize },
    #[error("`{text}` is not a whole number of seconds from 1 to 31536000 (a year); write such a number")]
    Seconds { text: String },
    #[error("`{text}` cannot be TCPFlags: {reason}")]
    Flags { text: String, reason: String },
    #[error("Target: {reason}")]
    Target { reason: String },
    #[error("`{text}` is not an absolute path; begin it with `/`")]
    Path { text: String },
    #[error("`{text}` is not the name of an interface; write a name such as `eth0`, without quotes")]
    Interface { text: String },
    #[error("the value contains a NUL character; delete the character")]
    Nul,

    #[error("the file is not valid YAML: {reason}")]
    Yaml { reason: String },
    #[error("{what} is not part of a file of knock-rs; {instead}")]
    YamlFeature { what: &'static str, instead: &'static str },
    #[error("{field} is not {expected}; write {expected}")]
    Kind { field: String, expected: &'static str },
    #[error("duplicate key `{key}`, first in line {first}; delete one of the two")]
    DuplicateKey { key: String, first: usize },
    #[error("the file has no `rules`; write a list of rules")]
    NoRules,
    #[error("knock-rs has no key `{key}`; correct or delete it")]
    NotOfKnockRs { key: String },
    #[error(
        "the file needs no import: knockd and knock-cli read it as it is; check a configuration of knockd with knockd -t -c {file}"
    )]
    NoImportNeeded { file: String },
    #[error("the rule has no `{key}`; write it")]
    Missing { key: &'static str },
    #[error("the sequence is empty, so knock-rs took every packet for it; write 1 to 32 ports")]
    EmptySequence,
    #[error("{text} is not a port; write a number from 1 to 65535")]
    Port { text: String },
    #[error("{text} is not a whole number of {unit} from 1 to {max}; write such a number")]
    Duration { text: String, unit: &'static str, max: u64 },
}
