//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser};
use knock_client::spa::RuleName;
use knock_client::{Family, GrantFor};
use serde_json::Value;

const AFTER_HELP: &str = "\
Exit status:
  0   the port is open; without --wait: every knock or packet was sent, and the effect is unknown
  1   a knock or packet could not be sent
  2   the command line is wrong
  68  the host has no address, or none of the IP version
  69  the port did not open in time
  75  the port was reached, but connections were refused to the end
  77  no ssh key signs the packet
  78  the configuration is missing or invalid, or does not have the rule
  With -- COMMAND, once the port is open: the status of the command

Examples:
  knock-cli home
  knock-cli home -- rsync -a notes/ home:notes/
  knock-cli -r enable_ssh -h example.com
  knock-cli example.com 7000 8000/udp 9000
  knock-cli --wait 22 -s 7000,8000/udp,9000 -h example.com
  knock-cli ssh -p 2222 user@example.com
  knock-cli add web < url
  knock-cli --close web

Keys of a rule in the file, beside `name` and `sequence`:
  host      a name or an address, or a list of them
  wait      the TCP port that the rule opens
  delay     the gap between two knocks, as \"100ms\"
  family    \"both\", \"ipv4\" or \"ipv6\"
  source    the address of this machine that knocks and connects
  spa       instead of a sequence: what a signed packet needs; `knock-cli add` writes it
  identity  with `spa`: the file of the ssh key that signs

Lines of ssh_config, for all hosts of the file:
  Host *
      ProxyCommand knock-cli --proxy %h %p";

/// The heading of the options for signed packets.
const SIGNED: &str = "Options for signed packets";

const USAGE: &str = "\
knock-cli [OPTIONS] RULE [-- COMMAND...]
       knock-cli [OPTIONS] -r RULE -h HOST
       knock-cli [OPTIONS] -s PORT[/udp],... -h HOST
       knock-cli [OPTIONS] HOST PORT[/udp]...
       knock-cli [OPTIONS] --proxy HOST PORT
       knock-cli ssh ARGUMENTS...
       knock-cli list|add [OPTIONS]";

/// Sends the knocks of a sequence, or a signed packet, to a host, and waits until its port is open.
#[derive(Debug, Parser)]
#[command(name = "knock-cli", version, disable_help_flag = true, disable_help_subcommand = true)]
#[command(override_usage = USAGE, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The file with the rules; default: $KNOCK_CONFIG, else ~/.config/knock/config.json, else config.json in the current
    /// directory, else in the directory of this program
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The rule of the file; or a rule of the server, at a host to which the file has the way for signed packets
    #[arg(short, long, value_name = "RULE")]
    pub(crate) rule: Option<String>,

    /// The host: a name or an address; or @NAME, all hosts of the rule NAME. Several with several -h. Default: `host` of the
    /// rule
    #[arg(short = 'h', long, value_name = "HOST")]
    pub(crate) host: Vec<String>,

    /// Knock these ports, separated by commas, instead of the sequence of a rule; `-` reads them from standard input,
    /// because every user of this machine can see a command line
    #[arg(short, long, value_name = "PORTS")]
    pub(crate) sequence: Option<String>,

    /// Knock over IPv4 only; default: over IPv4 and IPv6
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Knock over IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Knock and connect from this address of this machine
    #[arg(long, value_name = "ADDR")]
    pub(crate) source: Option<IpAddr>,

    /// The gap between two knocks, in milliseconds; default: 40. Each knock is a separate flow, and a network can send
    /// flows along different routes: without a gap a later knock can overtake an earlier one
    #[arg(short, long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub(crate) delay: Option<u64>,

    /// Send every knock by UDP
    #[arg(short, long)]
    pub(crate) udp: bool,

    /// Wait until this TCP port is open, and knock again if it stays shut; default: `wait` of the rule
    #[arg(short, long, value_name = "PORT", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "clap's type for an option with an optional value")]
    wait: Option<Option<String>>,

    /// The limit of the waiting, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) within: Duration,

    /// Knock, wait, and carry the connection on standard input and output, as ProxyCommand of ssh. The rule is that with
    /// this host, or -r; a host without a rule is connected to without knocks
    #[arg(long, conflicts_with_all = ["host", "sequence", "wait", "json", "command"])]
    pub(crate) proxy: bool,

    /// Sign the packet with the ssh key of this file; a public key means one that the ssh agent holds. Default: `identity`
    /// of the rule, else the first key of the agent and of ~/.ssh that can
    #[arg(short, long, value_name = "FILE", help_heading = SIGNED)]
    pub(crate) identity: Option<PathBuf>,

    /// End the grant instead of opening the rule
    #[arg(long, conflicts_with_all = ["lifetime", "wait", "proxy", "command"], help_heading = SIGNED)]
    pub(crate) close: bool,

    /// Open the rule for so long, as 90s, 10m or 2h; not longer than the rule says
    #[arg(long, value_name = "TIME", value_parser = lifetime, help_heading = SIGNED)]
    pub(crate) lifetime: Option<NonZeroU32>,

    /// Open the rule for this address; or for `source`, the address from which the server receives the packet. Default: the
    /// own address, and `source` where that is a private one
    #[arg(long, value_name = "ADDR", value_parser = grant_for, help_heading = SIGNED)]
    pub(crate) address: Option<GrantFor>,

    /// Open the rule for the prefix of the address, /24 or /64, where key and rule permit it
    #[arg(long, help_heading = SIGNED)]
    pub(crate) widen: bool,

    /// Print the result as JSON, without the sequence
    #[arg(long, conflicts_with = "verbose")]
    pub(crate) json: bool,

    /// Show what would be done, and send nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    /// Print each knock and its destination address
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Print only errors
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// A rule of the file; or the host, unless -h names it, and the knock ports
    #[arg(value_name = "RULE | HOST PORT[/udp]")]
    pub(crate) operands: Vec<String>,

    /// Run this command when the port is open
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// List the rules of the file with their hosts and ports, without the sequences
#[derive(Debug, Parser)]
#[command(name = "list", bin_name = "knock-cli list")]
pub(crate) struct ListArgs {
    /// The file with the rules
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print only the names, for completions
    #[arg(long, conflicts_with = "json")]
    pub(crate) names: bool,
    /// Print a JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// Add what an administrator sent to the file: rules in JSON, or a knock:// URL for signed packets. A rule with the same name
/// and host is replaced; of one with signed packets, a URL replaces only what it says
#[derive(Debug, Parser)]
#[command(name = "add", bin_name = "knock-cli add", override_usage = "knock-cli add [OPTIONS] [NAME] [URL]")]
pub(crate) struct AddArgs {
    /// The file with the rules; default: $KNOCK_CONFIG, else ~/.config/knock/config.json
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Call the rule NAME, as the first operand does; default: its name, or the host of the URL
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// With a URL: wait until this TCP port is open
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) wait: Option<u16>,
    /// With a URL: the name of the rule on the server; default: the only one that the key may use
    #[arg(short, long, value_name = "NAME")]
    pub(crate) rule: Option<RuleName>,
    /// With a URL: sign with the ssh key of this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// The name, and the URL. It is a secret, and other users of this machine can see a command line: without a URL, it or
    /// JSON is read from standard input
    #[arg(value_name = "NAME | URL", num_args = 0..=2)]
    pub(crate) operands: Vec<String>,
}

/// Run ssh with these arguments, through a knock at each host that has a rule
#[derive(Debug, Parser)]
#[command(name = "ssh", disable_help_flag = true)]
pub(crate) struct SshArgs {
    /// The arguments of ssh
    #[arg(required = true, allow_hyphen_values = true, trailing_var_arg = true)]
    arguments: Vec<OsString>,
}

/// The command line as the manual page and the completions describe it.
pub(crate) fn documented() -> clap::Command {
    Args::command().subcommands([ListArgs::command(), AddArgs::command(), SshArgs::command()])
}

/// A first word that is a command and not a rule or a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    List,
    Add,
    Ssh,
}

impl Verb {
    /// The command that `arguments` begin with. Where only ports follow, the word is a host; `ssh` by itself is a rule.
    pub(crate) fn of(arguments: &[OsString]) -> Option<Verb> {
        let (first, rest) = arguments.split_first()?;
        let verb = match first.to_str()? {
            "list" => Verb::List,
            "add" => Verb::Add,
            "ssh" if !rest.is_empty() => Verb::Ssh,
            _ => return None,
        };
        let ports = |word: &OsString| word.to_str().is_some_and(is_port);
        (rest.is_empty() || !rest.iter().all(ports)).then_some(verb)
    }
}

/// Whether the word is a port and nothing else.
pub(crate) fn is_port(word: &str) -> bool {
    word.parse::<knock_proto::Knock>().is_ok()
}

impl Args {
    /// The IP versions of -4 and -6.
    pub(crate) fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            (false, false) => None,
        }
    }

    /// An option that is there and means nothing without a signed packet.
    pub(crate) fn first_of_packets(&self) -> Option<&'static str> {
        [
            ("-i", self.identity.is_some()),
            ("--close", self.close),
            ("--lifetime", self.lifetime.is_some()),
            ("--address", self.address.is_some()),
            ("--widen", self.widen),
        ]
        .into_iter()
        .find_map(|(option, there)| there.then_some(option))
    }

    /// Whether to wait, and for which port if the command line says it.
    ///
    /// The port of `--wait` is optional, so clap takes the next word for it. A word that does not begin with a digit is
    /// the rule or the host.
    pub(crate) fn take_wait(&mut self) -> Result<Option<Option<u16>>, clap::Error> {
        match self.wait.take() {
            None => Ok(None),
            Some(None) => Ok(Some(None)),
            Some(Some(word)) if word.starts_with(|c: char| c.is_ascii_digit()) && !word.contains('.') => {
                let port = word.parse::<knock_proto::Port>();
                let port =
                    port.map_err(|error| usage(ErrorKind::ValueValidation, &format!("--wait `{word}`: {error}")))?;
                if port.protocol == knock_proto::Protocol::Udp {
                    let message = format!(
                        "--wait {word}: a UDP port sends no answer to wait for; name a TCP port that the rule opens"
                    );
                    return Err(usage(ErrorKind::ValueValidation, &message));
                }
                Ok(Some(Some(port.number)))
            }
            Some(Some(word)) => {
                self.operands.insert(0, word);
                Ok(Some(None))
            }
        }
    }
}

/// A number of seconds from a tenth to an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write a number of seconds from 0.1 to 3600".to_owned())
}

/// The lifetime of a grant.
fn lifetime(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse::<u64>().map(Value::from);
    let time =
        knock_config::grant_timeout(&number.unwrap_or_else(|_| text.into())).map_err(|cause| cause.to_string())?;
    let seconds = u32::try_from(time.as_secs()).ok().and_then(NonZeroU32::new);
    seconds.ok_or_else(|| "write a time from a second on".to_owned())
}

fn grant_for(text: &str) -> Result<GrantFor, String> {
    match text.parse() {
        _ if text == "source" => Ok(GrantFor::Source),
        Ok(address) => Ok(GrantFor::Address(address)),
        Err(_) => Err("write an address, or `source`".to_owned()),
    }
}

/// An error of the command line, in the form of clap's own.
pub(crate) fn usage(kind: ErrorKind, message: &str) -> clap::Error {
    Args::command().error(kind, message)
}

/// An error of the command line of `add`.
pub(crate) fn usage_of_add(message: &str) -> clap::Error {
    AddArgs::command().error(ErrorKind::ArgumentConflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(line: &str) -> Option<Verb> {
        Verb::of(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        documented().debug_assert();
    }

    #[test]
    fn a_command_is_a_host_where_only_ports_follow() {
        for (line, expected) in [
            ("ssh host", Some(Verb::Ssh)),
            ("ssh -p 22 host", Some(Verb::Ssh)),
            ("ssh 7000 8000/udp", None),
            ("ssh", None),
            ("list", Some(Verb::List)),
            ("list 7000", None),
            ("list --json", Some(Verb::List)),
            ("add --name home", Some(Verb::Add)),
            ("add web", Some(Verb::Add)),
            ("home", None),
            ("-r ssh", None),
            ("", None),
        ] {
            assert_eq!(verb(line), expected, "{line}");
        }
    }

    #[test]
    fn a_lifetime_is_a_number_of_seconds_or_has_a_unit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1d", 86_400)] {
            assert_eq!(lifetime(text).map(NonZeroU32::get), Ok(seconds), "{text}");
        }
        for text in ["", "0", "0s", "10 m", "500ms", "-5", "400d", "1.5h"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
        assert_eq!(grant_for("source"), Ok(GrantFor::Source));
        assert_eq!(grant_for("2001:db8::1"), Ok(GrantFor::Address("2001:db8::1".parse().expect("an address"))));
        assert!(grant_for("host").is_err());
    }

    #[test]
    fn the_word_after_wait_is_a_port_or_the_rule() {
        let parse = |line: &str| Args::try_parse_from(line.split_whitespace()).expect("valid");
        for (line, wait, operands) in [
            ("knock-cli home", None, vec!["home"]),
            ("knock-cli --wait home", Some(None), vec!["home"]),
            ("knock-cli --wait 22 home", Some(Some(22)), vec!["home"]),
            ("knock-cli home --wait", Some(None), vec!["home"]),
            ("knock-cli --wait 192.0.2.1 7000", Some(None), vec!["192.0.2.1", "7000"]),
            ("knock-cli home -w 2222/tcp", Some(Some(2222)), vec!["home"]),
        ] {
            let mut args = parse(line);
            assert_eq!(
                (args.take_wait().expect("valid"), args.operands),
                (wait, operands.iter().map(|s| s.to_string()).collect()),
                "{line}"
            );
        }
        assert!(parse("knock-cli home --wait 53/udp").take_wait().is_err());
        assert!(parse("knock-cli home --wait 70000").take_wait().is_err());
    }
}
