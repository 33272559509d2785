//! What the keeper and the runner send each other.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use knock_config::{Command, LogTarget, Stop};
use log::LevelFilter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::commands::Counters;
use crate::os::channel::{Channel, decode};

/// What the runner needs of the configuration. It is sent as a sealed file, beside the order that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The rules with commands, in the order of the configuration.
    pub(crate) rules: Vec<Rule>,
    /// The most commands that run at once; only the first plan decides.
    pub(crate) workers: usize,
    /// The most commands that wait; only the first plan decides.
    pub(crate) queue: usize,
    /// Where the stop schedule is kept.
    pub(crate) state_dir: PathBuf,
    /// Where the log is written; only the first plan decides.
    pub(crate) log_target: LogTarget,
    pub(crate) log_level: LevelFilter,
}

/// What a rule runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) name: Box<str>,
    pub(crate) command: Option<Command>,
    pub(crate) stop: Option<Stop>,
    /// The time limit of each of its commands.
    pub(crate) timeout: Duration,
    pub(crate) setup: Option<String>,
    pub(crate) teardown: Option<String>,
}

impl Rule {
    /// What the runner needs of a rule; `None` where it runs nothing.
    pub(crate) fn of(rule: &knock_config::Rule) -> Option<Rule> {
        let runs = rule.command.is_some() || rule.stop.is_some() || rule.setup.is_some() || rule.teardown.is_some();
        runs.then(|| Rule {
            name: rule.name.as_str().into(),
            command: rule.command.clone(),
            stop: rule.stop.clone(),
            timeout: rule.command_timeout,
            setup: rule.setup.clone(),
            teardown: rule.teardown.clone(),
        })
    }
}

/// From the keeper to the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first one, with a plan. The runner answers [`Report::Configured`] or [`Report::NotConfigured`].
    Configure,
    /// Run the setup commands, and from then on stop commands that are due. The answer is [`Report::SetUp`].
    SetUp,
    /// Run the rule's command for the address.
    Run { rule: Box<str>, address: IpAddr },
    /// Run the rule's pending stop commands for the address now.
    BringForward { rule: Box<str>, address: IpAddr },
    /// Another plan.
    Reconfigure,
    /// The answer is [`Report::State`] with the same token.
    Ask { token: u64 },
    /// Run what runs at the stop of the daemon, and end. Where another daemon is about to follow, stop commands stay pending.
    Stop { hand_over: bool },
}

/// From the runner to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It is ready for orders, and that many stop commands are pending. With a sealed file of its protections.
    Configured { pending: usize },
    /// It can't do what the plan says, and ends.
    NotConfigured { reason: String },
    /// The setup commands have run.
    SetUp,
    /// The rule's command for the address does not run: there is no room for it, or for its stop command. It is logged.
    Refused { rule: Box<str>, address: IpAddr },
    /// What has happened so far, with a sealed file of the failed commands by rule where there are some.
    State { token: u64, counters: Counters, log: LogCounters },
    /// The last one: everything that runs at the stop of the daemon has ended.
    Stopped,
}

/// Lines of the runner that are not in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogCounters {
    /// They came too fast.
    pub(crate) too_fast: u64,
    /// The log did not accept them in time.
    pub(crate) left_out: u64,
}

/// The next message and its file; `None` where none has arrived.
///
/// # Errors
///
/// Where the other process has ended, or what it sent is no such message.
pub(crate) fn next<M: DeserializeOwned>(channel: &mut Channel<impl AsFd>) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let Some(received) = channel.receive()? else { return Ok(None) };
    Ok(Some((decode(received.bytes)?, received.descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::channel::{MESSAGE_MAX, seal, unseal};

    #[test]
    fn every_order_has_room_for_the_longest_name() {
        let (rule, address) = (Box::from("x".repeat(64)), IpAddr::from([0xff; 16]));
        let order = Order::BringForward { rule, address };
        assert!(postcard::to_allocvec(&order).expect("a message").len() <= MESSAGE_MAX);
    }

    #[test]
    fn a_plan_is_received_as_it_was_sent() {
        let text = r#"{"rules": [
            {"name": "a", "sequence": [1000], "command": "on %IP%", "command6": "on6", "stop_command": "off", "stop_after": 9},
            {"name": "b", "sequence": [2000], "allow": {"ports": [22], "timeout": 60}},
            {"name": "c", "sequence": [3000], "command": "true", "setup": "up", "teardown": "down"}]}"#;
        let config = knock_config::parse("test.json", text).expect("a valid configuration").config;
        let plan = Plan {
            rules: config.rules.iter().filter_map(Rule::of).collect(),
            workers: 3,
            queue: 4,
            state_dir: "/var/lib/knockd".into(),
            log_target: LogTarget::Journal,
            log_level: LevelFilter::Debug,
        };
        let received: Plan = unseal(&seal(&plan).expect("a file")).expect("a plan");
        assert_eq!(received, plan);
        assert_eq!(received.rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["a", "c"]);
    }
}
