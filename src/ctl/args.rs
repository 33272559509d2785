//! The command line of the control tool.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args as Arguments, Parser, Subcommand};
use knock_proto::InterfaceName;

/// Shows the state of a running knockd, and controls it.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 69 no daemon answers, 77 not permitted, 78 invalid configuration.
#[derive(Debug, Parser)]
#[command(name = "knockctl", version, max_term_width = 100)]
pub struct Args {
    /// The control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = crate::control::DEFAULT_PATH, global = true)]
    pub socket: PathBuf,

    /// Print a JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show whether all is well, and the state of the daemon and of each rule. Exit status 1: not all is well
    Status {
        /// Show all counters, also those that are zero
        #[arg(short, long)]
        verbose: bool,
        /// Print it for the textfile collector of Prometheus' node exporter
        #[arg(long, conflicts_with = "json")]
        prometheus: bool,
    },
    /// Show the plan of the rules: what is guarded, how many knocks each rule has, what it opens, to how many addresses
    Rules {
        /// Print it as a graph for Graphviz: knockctl rules --dot | dot -Tsvg
        #[arg(long, conflicts_with = "json")]
        dot: bool,
    },
    /// List the live grants; the one that expires first is at the top
    Grants {
        /// Only those of this rule
        #[arg(long, value_name = "RULE")]
        rule: Option<String>,
        /// Only those to this address
        #[arg(value_name = "ADDR")]
        address: Option<IpAddr>,
    },
    /// Grant a rule to an address, as if it had knocked; a command of the rule is not run
    Grant {
        /// The rule
        rule: String,
        /// The address
        #[arg(value_name = "ADDR")]
        address: IpAddr,
        /// For how long, such as 90, 90s, 10m, 1h or 7d, instead of what the rule says
        #[arg(long, value_name = "TIME")]
        timeout: Option<String>,
    },
    /// Revoke the grants to an address, or all grants
    Revoke {
        /// The address
        #[arg(value_name = "ADDR", required_unless_present = "all", conflicts_with = "all")]
        address: Option<IpAddr>,
        /// Only the grant of this rule
        #[arg(conflicts_with = "all")]
        rule: Option<String>,
        /// All grants to all addresses
        #[arg(long)]
        all: bool,
    },
    /// Make the daemon read its configuration again; an invalid configuration changes nothing
    Reload,
    /// Put the configuration in FILE in force for some time; without `knockctl confirm` in that time, knockd goes back to the
    /// one before, also after a crash or a restart
    Try {
        /// The configuration; knockd has to be able to read it, so put it beside its configuration file
        file: PathBuf,
        /// For how long, such as 90s, 10m or 1h
        #[arg(long = "for", value_name = "TIME", default_value = "10m")]
        time: String,
    },
    /// Keep the configuration that is being tried, and write it to the configuration file
    Confirm,
    /// Show what packets of sources mean for the rules, as they come: how far each source is, and why it starts again
    Watch {
        /// Only those of this address, and then all of them
        #[arg(value_name = "ADDR")]
        address: Option<IpAddr>,
        /// Only those for this rule
        #[arg(long, value_name = "RULE")]
        rule: Option<String>,
    },
    /// Say what the packets of an address meant in the last minutes, and why nothing opened
    Explain {
        /// The address
        #[arg(value_name = "ADDR")]
        address: IpAddr,
    },
    /// Show who was in when: the grants of the last hours or days, from the journal of systemd
    History {
        /// How far back, such as 90m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "24h")]
        since: String,
    },
    /// Print a random sequence of TCP ports for a rule
    Sequence {
        /// How many knocks
        #[arg(default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=32))]
        knocks: u8,
    },
    /// Print the entry of a rule for a user of knock-cli, one line of JSON with the secret sequence: for `knock-cli add`
    Client {
        /// The rule
        rule: String,
        /// The host as the user writes it; several with several options
        #[arg(long, required = true)]
        host: Vec<String>,
        /// The TCP port to wait for, instead of the first that the rule opens
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        wait: Option<u16>,
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "/etc/knockd/config.json")]
        config: PathBuf,
    },
    /// Check that strangers cannot reach a guarded port and granted addresses can; needs root. Exit status 0: no problem
    /// or warning found
    Doctor {
        /// The configuration file, which is checked where no daemon answers
        #[arg(short, long, value_name = "FILE", default_value = "/etc/knockd/config.json")]
        config: PathBuf,
    },
    /// Show who may ask with signed packets, begin to accept them, or hand one to the daemon
    #[command(subcommand)]
    Spa(Spa),
    /// Show how grants are shared with the other nodes of the fleet, revoke on all of them, or make the key of this node
    #[command(subcommand)]
    Fleet(Fleet),
    /// Convert a file of knock or knock-rs: the configuration goes to standard output, notes on what changes to standard
    /// error
    Import {
        /// knockd.conf of knock (jvinet/knock), or config.yaml or config.json of knock-rs. With /etc/knockd.conf, the
        /// command line of knock's service is read too: /etc/default/knockd, /etc/sysconfig/knockd, the unit and its
        /// drop-ins
        file: PathBuf,
        /// Replace commands that open and close ports of the firewall by `allow` and `revoke`
        #[arg(long)]
        native: bool,
        /// An interface to listen on, or `any`, in place of what the file and the service say; repeat it for several
        #[arg(long = "interface", value_name = "NAME")]
        interfaces: Vec<InterfaceName>,
    },
}

/// What to do about signed packets.
#[derive(Debug, Subcommand)]
pub enum Spa {
    /// Make a cover and a file of keys where they are missing, and print what to write into the configuration, and the
    /// secret URL for the users
    Init(SpaInit),
    /// List the ssh keys that may sign packets: users, what they may ask for, and what they have done since the start
    Keys,
    /// Hand a signed packet to the daemon that came another way than by UDP, on standard input, as it is or in base64. Exit
    /// status 1: it was not accepted
    Submit {
        /// The address that it came from
        #[arg(long, value_name = "ADDR")]
        from: IpAddr,
    },
}

/// What to do about the fleet.
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Show whether grants are shared now, and the state of the store. Exit status 1: they are not
    Status,
    /// List the nodes: when each was seen, whether it has the keys and rules of this one, and for which rules it may vouch
    Nodes,
    /// List the live grants that other nodes have made; the one that expires first is at the top
    Grants {
        /// Only those of this rule
        #[arg(long, value_name = "RULE")]
        rule: Option<String>,
        /// Only those to this address
        #[arg(value_name = "ADDR")]
        address: Option<IpAddr>,
    },
    /// Revoke the grants to an address on all nodes
    Revoke {
        /// The address
        #[arg(value_name = "ADDR")]
        address: IpAddr,
        /// Only the grant of this rule
        rule: Option<String>,
    },
    /// Check the way to the store with the settings of the daemon: connection, TLS, permissions of the user, clock; needs root
    Check,
    /// Make the private key of this node where it is missing, and print its public key, for `fleet.nodes` of the
    /// configuration. A key that is there stays as it is
    Keygen {
        /// The file of the private key
        #[arg(default_value = knock_config::NODE_KEY)]
        file: PathBuf,
    },
}

/// How to begin to accept signed packets.
#[derive(Debug, Arguments)]
pub struct SpaInit {
    /// The name or address of this host as clients write it, instead of its own name
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// The UDP port for the URL, instead of the first of the configuration, or 62201
    #[arg(long, value_name = "PORT")]
    pub port: Option<std::num::NonZeroU16>,
    /// The realm, which several hosts may have in common, instead of the host's name
    #[arg(long, value_name = "REALM")]
    pub realm: Option<String>,
    /// Where to make the files, instead of beside the configuration file
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Make another cover, to replace the one that is in use
    #[arg(long)]
    pub new_cover: bool,
    /// Print the URL as a QR code too
    #[arg(long, conflicts_with = "json")]
    pub qr: bool,
    /// The configuration file; where it has `spa`, the URL is made of that
    #[arg(short, long, value_name = "FILE", default_value = "/etc/knockd/config.json")]
    pub config: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_of_all_commands_may_stand_behind_the_command() {
        let args = parse("knockctl grants --json --socket /tmp/s").expect("valid");
        assert!(args.json && args.socket.as_os_str() == "/tmp/s");
    }

    #[test]
    fn revoke_wants_an_address_or_all_and_not_both() {
        for wrong in ["revoke", "revoke --all 192.0.2.1", "revoke 192.0.2.1/24", "revoke ssh"] {
            assert!(parse(&format!("knockctl {wrong}")).is_err(), "{wrong}");
        }
        for right in ["revoke --all", "revoke 192.0.2.1", "revoke 2001:db8::1 ssh"] {
            assert!(parse(&format!("knockctl {right}")).is_ok(), "{right}");
        }
    }
}
