//! From the command line and the file to what is sent where.

use std::time::Duration;

use clap::error::ErrorKind;
use knock_client::spa::RuleName;
use knock_client::{Client, Family, GAP, GrantFor, SignedPackets};
use knock_config::client::{self, ClientRule, ClientTrigger};
use knock_proto::{Knock, Protocol};

use crate::args::{Args, usage};
use crate::error::{Error, Refusal};
use crate::file::Rules;
use crate::host::Host;
use crate::origin::{HostWord, Origin, hosts_and_origin};
use crate::packet;

/// What one host gets, and the port to wait for.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) host: String,
    pub(crate) rule: Option<String>,
    pub(crate) client: Client,
    pub(crate) sends: Sends,
    pub(crate) wait: Option<u16>,
}

/// What is sent, as reports say it.
#[derive(Clone, Debug)]
pub(crate) enum Sends {
    /// So many knocks, with that gap between them.
    Knocks(usize, Duration),
    /// A signed packet to that UDP port.
    Packet {
        port: u16,
        /// The key that signs.
        key: String,
        close: bool,
        /// The rule of the server that -r names and the file does not have.
        asked: Option<RuleName>,
    },
}

/// What opens the port.
pub(crate) enum Opener {
    Knocks(Vec<Knock>),
    /// And how the key is called that signs.
    Packets(SignedPackets, String),
}

/// The jobs of a command line without `--proxy`, in the order of its hosts, and a warning about the file.
pub(crate) fn jobs(args: &mut Args) -> Result<(Vec<Job>, Option<String>), Refusal> {
    let wait = args.take_wait()?;
    let (words, origin) = hosts_and_origin(args)?;
    let uses_file =
        !matches!(origin, Origin::Knocks(_)) || words.iter().any(|word| matches!(word, HostWord::HostsOf(_)));
    let rules = if uses_file { Some(Rules::load(args.config.as_deref())?) } else { None };
    let hosts = hosts(words, rules.as_ref())?;
    // `asked` is the name of a rule of the server that the file does not have.
    let (rule, asked) = match (&origin, &rules) {
        (Origin::Rule(name), Some(rules)) => rule_of_file_or_server(name, &hosts, rules)?,
        (Origin::Word(word), Some(rules)) => (Some(rules.named_or_with_host(word, &Host::read(word).name)?), None),
        _ => (None, None),
    };
    let opener = match (origin, rule, &rules) {
        (Origin::Knocks(knocks), ..) => knocks_opener(args, knocks)?,
        (_, Some(rule), Some(rules)) => opener(args, rule, asked.as_ref(), rules)?,
        // Only knocks come from elsewhere than a file.
        _ => knocks_opener(args, Vec::new())?,
    };
    let hosts = match rule {
        Some(rule) if hosts.is_empty() => of_rule(rule)?,
        _ => hosts,
    };
    let of_rule = rule.and_then(|rule| rule.wait).filter(|_| asked.is_none() && opens_here(args));
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
        jobs.push(job(args, host.name, (rule, asked.as_ref()), &opener, port));
    }
    Ok((jobs, rules.and_then(|rules| rules.warning)))
}

/// Whether this machine can connect afterwards.
fn opens_here(args: &Args) -> bool {
    !args.close && !matches!(args.address, Some(GrantFor::Address(_)))
}

/// The rule of that name; or one of the server, at hosts for which the file has the way for signed packets.
fn rule_of_file_or_server<'r>(
    name: &str,
    hosts: &[Host],
    rules: &'r Rules,
) -> Result<(Option<&'r ClientRule>, Option<RuleName>), Error> {
    match (rules.named(name), rules.with_packets_for(hosts), name.parse()) {
        (Err(_), Some(rule), Ok(name)) => Ok((Some(rule), Some(name))),
        (rule, ..) => Ok((Some(rule?), None)),
    }
}

fn hosts(words: Vec<HostWord>, rules: Option<&Rules>) -> Result<Vec<Host>, Error> {
    let mut hosts = Vec::new();
    for word in words {
        match (word, rules) {
            (HostWord::Host(host), _) => hosts.push(host),
            (HostWord::HostsOf(name), Some(rules)) => hosts.extend(of_rule(rules.named(&name)?)?),
            (HostWord::HostsOf(_), None) => {}
        }
    }
    Ok(hosts)
}

fn of_rule(rule: &ClientRule) -> Result<Vec<Host>, Error> {
    if rule.hosts.is_empty() {
        return Err(Error::NoHost { name: rule.name.clone() });
    }
    Ok(rule.hosts.iter().map(|name| Host { name: name.clone(), port: None }).collect())
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
    let job = match (rule, &rules) {
        (Some(rule), Some(rules)) => {
            let opener = opener(args, rule, None, rules)?;
            Some(job(args, host.clone(), (Some(rule), None), &opener, Some(port)))
        }
        _ => None,
    };
    let warning = if job.is_some() { rules.and_then(|rules| rules.warning) } else { None };
    Ok(Proxy { host, port, job, warning })
}

/// What the command line says comes before what the rule says.
fn job(
    args: &Args,
    host: String,
    (rule, asked): (Option<&ClientRule>, Option<&RuleName>),
    opener: &Opener,
    wait: Option<u16>,
) -> Job {
    let of_rule = |rule: &ClientRule| match rule.family {
        client::Family::Both => Family::Both,
        client::Family::V4 => Family::V4,
        client::Family::V6 => Family::V6,
    };
    let family = args.family().or(rule.map(of_rule)).unwrap_or_default();
    let source = args.source.or(rule.and_then(|rule| rule.source));
    let gap = args.delay.map(Duration::from_millis).or(rule.and_then(|rule| rule.delay)).unwrap_or(GAP);
    let (client, sends) = match opener {
        Opener::Knocks(knocks) => (Client::new(&host, &knocks[..]), Sends::Knocks(knocks.len(), gap)),
        Opener::Packets(packets, key) => {
            let (port, key, asked) = (packets.port(), key.clone(), asked.cloned());
            let sends = Sends::Packet { port, key, close: args.close, asked };
            (Client::signed(&host, packets.clone()), sends)
        }
    };
    let client = client.family(family).source(source).gap(gap).within(args.within);
    let rule = asked.map(RuleName::to_string).or(rule.map(|rule| rule.name.clone()));
    Job { host, rule, client, sends, wait }
}

fn opener(args: &Args, rule: &ClientRule, asked: Option<&RuleName>, rules: &Rules) -> Result<Opener, Refusal> {
    match &rule.trigger {
        ClientTrigger::Sequence(knocks) => knocks_opener(args, knocks.clone()),
        ClientTrigger::OneTime(path) => Err(Error::OneTime { name: rule.name.clone(), path: path.clone() }.into()),
        ClientTrigger::Packet(spa) => {
            let (packets, key) = packet::packets(args, rule, spa, asked)?;
            Ok(Opener::Packets(packets, key))
        }
        ClientTrigger::PacketOfServer => {
            Err(Error::PacketOfServer { name: rule.name.clone(), file: rules.file() }.into())
        }
    }
}

fn knocks_opener(args: &Args, mut knocks: Vec<Knock>) -> Result<Opener, Refusal> {
    if let Some(option) = args.first_of_packets() {
        let message = format!("{option} is for signed packets, and this is a sequence; name a rule that has `spa`");
        return Err(usage(ErrorKind::ArgumentConflict, &message).into());
    }
    if args.udp {
        knocks.iter_mut().for_each(|knock| knock.protocol = Protocol::Udp);
    }
    Ok(Opener::Knocks(knocks))
}
