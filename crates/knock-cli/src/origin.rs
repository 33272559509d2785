//! Where the hosts and the knocks of a command line come from.

use std::io::Read;

use clap::error::ErrorKind;
use knock_proto::{Knock, SEQUENCE_MAX};

use crate::args::{Args, is_port, usage};
use crate::error::{Error, Refusal};
use crate::host::Host;

/// The origin of the knocks on the command line.
pub(crate) enum Origin {
    Knocks(Vec<Knock>),
    /// `-r`.
    Rule(String),
    /// A single word: the name of a rule, or a host that a rule has.
    Word(String),
}

/// A host on the command line, or all hosts of a rule.
#[derive(Clone, Debug)]
pub(crate) enum HostWord {
    Host(Host),
    /// `@NAME`.
    HostsOf(String),
}

impl HostWord {
    fn read(text: &str) -> HostWord {
        match text.strip_prefix('@') {
            Some(name) if !name.is_empty() => HostWord::HostsOf(name.to_owned()),
            _ => HostWord::Host(Host::read(text)),
        }
    }
}

/// The hosts of `-h`, else of the operands; and where the knocks come from.
pub(crate) fn hosts_and_origin(args: &Args) -> Result<(Vec<HostWord>, Origin), Refusal> {
    let missing = |message: &str| Refusal::from(usage(ErrorKind::MissingRequiredArgument, message));
    let mut hosts: Vec<HostWord> = args.host.iter().map(|host| HostWord::read(host)).collect();
    let mut operands = &args.operands[..];
    let elsewhere = args.rule.is_some() || args.sequence.is_some();
    // One word that is not a port, and no other knocks: a rule. Else the first operand is the host.
    let is_word = |word: &String| !elsewhere && !word.starts_with(|c: char| c.is_ascii_digit());
    let word = match operands {
        [word] if is_word(word) || (!elsewhere && hosts.is_empty() && !is_port(word)) => Some(word.clone()),
        _ => None,
    };
    if let (None, true, [first, rest @ ..]) = (&word, hosts.is_empty(), operands) {
        if is_port(first) {
            return Err(missing(
                "the host is missing: the first word is a port; write HOST before the ports, or -h HOST",
            ));
        }
        hosts.push(HostWord::Host(Host::read(first)));
        operands = rest;
    }
    if hosts.iter().any(|host| matches!(host, HostWord::Host(host) if host.name.is_empty())) {
        return Err(usage(ErrorKind::ValueValidation, "the name of the host is empty").into());
    }
    let origin = match (&args.rule, &args.sequence, operands, word) {
        (Some(name), None, [], None) => Origin::Rule(name.clone()),
        (None, None, [_], Some(word)) => Origin::Word(word),
        (None, Some(list), [], None) if list == "-" => Origin::Knocks(from_standard_input()?),
        (None, Some(list), [], None) => Origin::Knocks(knocks(list.split(',').map(str::trim))?),
        (None, None, [_, ..], None) => Origin::Knocks(knocks(operands.iter().map(String::as_str))?),
        (None, None, [], _) if hosts.is_empty() => {
            return Err(missing("the host is missing; name a rule that has one, or the host with -h HOST"));
        }
        (None, None, [], _) => return Err(missing("the knocks are missing; name a rule with -r, or write the ports")),
        _ => {
            let message = "the knocks are those of -r, of -s or of operands; write only one of them";
            return Err(usage(ErrorKind::ArgumentConflict, message).into());
        }
    };
    if let Origin::Knocks(_) = origin {
        if hosts.is_empty() {
            return Err(missing("the host is missing; name it with -h HOST"));
        }
        if args.config.is_some() && !hosts.iter().any(|host| matches!(host, HostWord::HostsOf(_))) {
            return Err(usage(ErrorKind::ArgumentConflict, "-c names the file of a rule; name the rule with -r").into());
        }
    }
    Ok((hosts, origin))
}

/// The most bytes of a sequence on standard input.
const INPUT_MAX: u64 = 4096;

/// `-s -`: knocks with commas, blanks or line ends between them.
fn from_standard_input() -> Result<Vec<Knock>, Refusal> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_MAX).read_to_string(&mut text);
    read.map_err(|error| Error::Io { what: "cannot read the sequence from standard input".to_owned(), error })?;
    let words = || text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    if words().next().is_none() {
        let message = "standard input has no knocks; write ports with commas between them";
        return Err(usage(ErrorKind::MissingRequiredArgument, message).into());
    }
    // It is a secret: an error says which knock is wrong, and does not show it.
    let wrong = words().position(|word| !is_port(word));
    if let Some(index) = wrong {
        let message = format!("knock {} of standard input is not a port; write 7000 or 7000/udp", index + 1);
        return Err(usage(ErrorKind::ValueValidation, &message).into());
    }
    Ok(knocks(words())?)
}

fn knocks<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Knock>, clap::Error> {
    let mut knocks = Vec::new();
    for text in texts {
        let knock = text.parse::<Knock>();
        knocks.push(knock.map_err(|error| usage(ErrorKind::ValueValidation, &format!("`{text}`: {error}")))?);
    }
    if knocks.len() > SEQUENCE_MAX {
        let message =
            format!("{} knocks are more than the limit of {SEQUENCE_MAX}; write a shorter sequence", knocks.len());
        return Err(usage(ErrorKind::ValueValidation, &message));
    }
    Ok(knocks)
}
