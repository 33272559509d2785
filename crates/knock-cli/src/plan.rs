//! From the command line and the file to what is sent where.

use std::io::Read;
use std::time::Duration;

use clap::error::ErrorKind;
use knock_client::{Client, Family, GAP};
use knock_config::Trigger;
use knock_config::client::{self, ClientRule};
use knock_proto::{Knock, Protocol, SEQUENCE_MAX};

use crate::args::{Args, is_port, usage};
use crate::error::Error;
use crate::file::Rules;
use crate::host::Host;

/// The knocks of one host, and the port to wait for.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) host: String,
    pub(crate) rule: Option<String>,
    pub(crate) client: Client,
    /// The number of knocks, and the gap between them.
    pub(crate) knocks: (usize, Duration),
    pub(crate) wait: Option<u16>,
}

/// An error of the command line, or of what it names.
pub(crate) enum Refusal {
    Usage(clap::Error),
    Error(Error),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Refusal {
        Refusal::Usage(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

/// The origin of the knocks on the command line.
enum Origin {
    Knocks(Vec<Knock>),
    /// `-r`.
    Rule(String),
    /// A single word: the name of a rule, or a host that a rule has.
    Word(String),
}

/// The jobs of a command line without `--proxy`, in the order of its hosts, and a warning about the file.
pub(crate) fn jobs(args: &mut Args) -> Result<(Vec<Job>, Option<String>), Refusal> {
    let wait = args.take_wait()?;
    let (hosts, origin) = hosts_and_origin(args)?;
    let mut warning = None;
    let loaded;
    let (rule, mut knocks) = match origin {
        Origin::Knocks(knocks) => (None, knocks),
        Origin::Rule(name) => {
            loaded = Rules::load(args.config.as_deref())?;
            let rule = loaded.named(&name)?;
            warning = loaded.warning.clone();
            (Some(rule), sequence(rule)?)
        }
        Origin::Word(word) => {
            loaded = Rules::load(args.config.as_deref())?;
            let rule = loaded.named_or_with_host(&word, &Host::read(&word).name)?;
            warning = loaded.warning.clone();
            (Some(rule), sequence(rule)?)
        }
    };
    if args.udp {
        knocks.iter_mut().for_each(|knock| knock.protocol = Protocol::Udp);
    }
    let hosts = match rule {
        Some(rule) if hosts.is_empty() && rule.hosts.is_empty() => {
            return Err(Error::NoHost { name: rule.name.clone() }.into());
        }
        Some(rule) if hosts.is_empty() => {
            rule.hosts.iter().map(|name| Host { name: name.clone(), port: None }).collect()
        }
        _ => hosts,
    };
    let of_rule = rule.and_then(|rule| rule.wait);
    let mut jobs = Vec::new();
    for host in hosts {
        let port = match wait {
            Some(port) => Some(port.or(host.port).or(of_rule).ok_or_else(|| {
                let message = "the port to wait for is missing; name a TCP port that the rule opens: --wait PORT";
                usage(ErrorKind::MissingRequiredArgument, message)
            })?),
            None => of_rule.map(|of_rule| host.port.unwrap_or(of_rule)),
        };
        if port.is_none() && !args.command.is_empty() {
            let message =
                "a command runs when the port is open; name the port with --wait PORT, or write `wait` in the rule";
            return Err(usage(ErrorKind::MissingRequiredArgument, message).into());
        }
        jobs.push(job(args, host.name, rule, knocks.clone(), port));
    }
    Ok((jobs, warning))
}

/// What `--proxy` does.
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `None`: no rule has the host.
    pub(crate) job: Option<Job>,
    pub(crate) warning: Option<String>,
}

/// The job of `--proxy HOST PORT`.
pub(crate) fn proxy(args: &Args) -> Result<Proxy, Refusal> {
    let [host, port] = &args.operands[..] else {
        return Err(usage(ErrorKind::WrongNumberOfValues, "write --proxy HOST PORT").into());
    };
    let host = Host::read(host).name;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        usage(ErrorKind::ValueValidation, &format!("`{port}` is not a port; write --proxy HOST PORT, as --proxy %h %p"))
    })?;
    let rules = match args.rule {
        Some(_) => Some(Rules::load(args.config.as_deref())?),
        None => Rules::load_if_any(args.config.as_deref())?,
    };
    let rule = match (&args.rule, &rules) {
        (Some(name), Some(rules)) => Some(rules.named(name)?),
        (None, Some(rules)) => rules.with_host(&host, Some(port)),
        (_, None) => None,
    };
    let job = match rule {
        None => None,
        Some(rule) => {
            let mut knocks = sequence(rule)?;
            if args.udp {
                knocks.iter_mut().for_each(|knock| knock.protocol = Protocol::Udp);
            }
            Some(job(args, host.clone(), Some(rule), knocks, Some(port)))
        }
    };
    let warning = if job.is_some() { rules.and_then(|rules| rules.warning) } else { None };
    Ok(Proxy { host, port, job, warning })
}

/// What the command line says comes before what the rule says.
fn job(args: &Args, host: String, rule: Option<&ClientRule>, knocks: Vec<Knock>, wait: Option<u16>) -> Job {
    let of_rule = |rule: &ClientRule| match rule.family {
        client::Family::Both => Family::Both,
        client::Family::V4 => Family::V4,
        client::Family::V6 => Family::V6,
    };
    let family = args.family().or(rule.map(of_rule)).unwrap_or_default();
    let source = args.source.or(rule.and_then(|rule| rule.source));
    let gap = args.delay.map(Duration::from_millis).or(rule.and_then(|rule| rule.delay)).unwrap_or(GAP);
    let count = knocks.len();
    let client = Client::new(&host, knocks).family(family).source(source).gap(gap).within(args.within);
    Job { host, rule: rule.map(|rule| rule.name.clone()), client, knocks: (count, gap), wait }
}

fn sequence(rule: &ClientRule) -> Result<Vec<Knock>, Error> {
    match &rule.trigger {
        Trigger::Sequence(knocks) => Ok(knocks.clone()),
        Trigger::OneTime(path) => Err(Error::OneTime { name: rule.name.clone(), path: path.clone() }),
    }
}

/// The hosts of `-h`, else of the operands; and where the knocks come from.
fn hosts_and_origin(args: &Args) -> Result<(Vec<Host>, Origin), Refusal> {
    let missing = |message: &str| Refusal::from(usage(ErrorKind::MissingRequiredArgument, message));
    let mut hosts: Vec<Host> = args.host.iter().map(|host| Host::read(host)).collect();
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
        hosts.push(Host::read(first));
        operands = rest;
    }
    if let Some(host) = hosts.iter().find(|host| host.name.is_empty()) {
        let message = format!("the name of the host is empty: `{}`", host.name);
        return Err(usage(ErrorKind::ValueValidation, &message).into());
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
        if args.config.is_some() {
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
