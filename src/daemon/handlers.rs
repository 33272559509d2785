//! What the daemon does for each request, and what it answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use knock_config::{OnStop, Rule, Trigger, nearest};
use knock_grant::{Cause, Grant, Opens, Revoked, SetState};
use knock_proto::{Protocol, RuleId, Time};
use serde_json::Value;

use crate::control::Request;
use crate::control::counters::Counters;
use crate::control::protocol::{
    self, Code, Command, Granted, Interface, Process, Refusal, Reloaded, RuleState, Set, Status, Table, Trial, Tried,
};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::daemon::questions::Asker;
use crate::daemon::reload_thread::{Job, NotReloaded};
use crate::daemon::runner::Runner;
use crate::daemon::trial::not_for_the_group;
use crate::ear::listener::InterfaceState;
use crate::logging;
use crate::os::child::Role;
use crate::os::clock::{now, unix_now};
use crate::os::local_socket::Peer;
use crate::os::privileges::Protections;
use crate::triggers::signed_packets::SignedPackets;

impl Daemon {
    /// Serves the control socket and its connections.
    pub(crate) fn serve(&mut self) {
        let requests = self.control.as_mut().map(|control| control.on_ready(now())).unwrap_or_default();
        for Request { slot, peer, command } in requests {
            let Some(answer) = self.reply(now(), slot, peer, command) else { continue };
            let Some(control) = &mut self.control else { return };
            control.answer(slot, answer.unwrap_or_else(Response::refusal), now());
        }
    }

    fn try_by_hand(&mut self, slot: usize, peer: Peer, file: PathBuf, time: &Value) {
        let time = match knock_config::grant_timeout(time) {
            _ if !peer.may_know_secrets() => Err(not_for_the_group()),
            Err(cause) => Err(Refusal::new(Code::BadValue, format!("the time: {cause}"))),
            Ok(time) => Ok(time),
        };
        let Some(control) = &mut self.control else { return };
        match time {
            Err(refusal) => control.answer(slot, Response::refusal(refusal), now()),
            Ok(time) => {
                if control.wait(slot, now()) {
                    log::info!("uid {} tries {}", peer.uid, file.display());
                    self.try_file(now(), file, time, slot);
                }
            }
        }
    }

    /// Answers the clients that asked for a reload or a trial.
    pub(super) fn answer_reload(&mut self, slot: usize, job: &Job, result: &Result<Vec<String>, NotReloaded>) {
        let rules = self.config.rules.len();
        let Some(control) = &mut self.control else { return };
        let Some(peer) = control.peer(slot) else { return };
        let answer = match (result, job) {
            (Ok(warnings), Job::Try { file, time }) => Response::result(&Tried {
                file: file.display().to_string(),
                rules,
                timeout_seconds: time.as_secs_f64(),
                warnings: warnings.clone(),
            }),
            (Ok(warnings), _) => Response::result(&Reloaded { rules, warnings: for_peer(peer, warnings) }),
            (Err(NotReloaded::Invalid(reasons)), _) => {
                let reasons = if peer.may_know_secrets() { reasons } else { NOT_FOR_THE_GROUP };
                Response::refusal(Refusal::new(Code::InvalidConfiguration, reasons))
            }
            (Err(NotReloaded::Failed(reasons)), _) => Response::refusal(Refusal::new(Code::Failed, reasons)),
        };
        control.answer(slot, answer, now());
    }

    /// Does what is asked. `None`: it is answered when it has ended, or by events.
    fn reply(&mut self, now: Time, slot: usize, peer: Peer, command: Command) -> Option<Result<Response, Refusal>> {
        Some(match command {
            Command::Reload {} => {
                if self.control.as_mut().is_some_and(|control| control.wait(slot, now)) {
                    log::info!("uid {} asks for a reload", peer.uid);
                    self.reload(Some(slot));
                }
                return None;
            }
            Command::Try { file, time } => {
                self.try_by_hand(slot, peer, file, &time);
                return None;
            }
            Command::Watch { address, rule } => {
                self.watch(slot, address.map(|a| a.to_canonical()), rule.as_deref());
                return None;
            }
            Command::Status {} => {
                self.ask_ear(now, slot, Asker::Status(slot));
                return None;
            }
            Command::Grants { rule, address } => self.grants(now, rule.as_deref(), address.map(|a| a.to_canonical())),
            Command::Grant { rule, address, timeout } => {
                self.grant_by_hand(now, peer, &rule, address.to_canonical(), timeout.as_ref())
            }
            Command::Revoke { address, rule } => {
                let revoked = self.revoke_by_hand(now, peer, rule.as_deref(), address.to_canonical());
                revoked.map(|revoked| Response::result(&revoked))
            }
            Command::RevokeAll {} => self.revoke_all(now, peer).map(|revoked| Response::result(&revoked)),
            Command::Confirm {} => self.confirm(now, peer),
            Command::Explain { address } => return self.explain(now, slot, address.to_canonical()),
            Command::Keys {} => self.keys(now),
            Command::Submit { address, packet } => self.submit(now, peer, address.to_canonical(), &packet),
            Command::FleetStatus {} => self.fleet_status(),
            Command::FleetNodes {} => self.fleet_nodes(),
            Command::FleetGrants { rule, address } => {
                self.fleet_grants(rule.as_deref(), address.map(|a| a.to_canonical()))
            }
            Command::FleetRevoke { address, rule } => {
                self.fleet_revoke(now, peer, rule.as_deref(), address.to_canonical())
            }
            Command::FleetSettings {} => self.fleet_settings(peer),
        })
    }

    /// The configuration file, as an absolute path.
    pub(super) fn configuration(&self) -> String {
        let file = &self.source.file;
        std::path::absolute(file).as_ref().unwrap_or(file).display().to_string()
    }

    pub(super) fn status(&mut self, now: Time, peer: Peer) -> Status {
        let config = self.config.clone();
        let commands = self.runner.as_ref().map(|runner| runner.state().counters).unwrap_or_default();
        let interface = |state: InterfaceState| Interface {
            name: state.name,
            state: state.state.to_owned(),
            nearest: state.nearest,
        };
        let exempt = config.nftables.exempt_interfaces.iter().map(|name| self.interfaces.state_of(name));
        let exempt: Vec<Interface> = exempt.map(interface).collect();
        let table = |owned| Table {
            name: config.nftables.table.to_string(),
            owned,
            on_stop: match config.nftables.on_stop {
                OnStop::Remove => "remove".to_owned(),
                OnStop::Keep => "keep".to_owned(),
            },
            guarded: self
                .grants
                .policy()
                .table
                .iter()
                .flat_map(|table| &table.guarded)
                .map(ToString::to_string)
                .collect(),
            exempt_interfaces: exempt,
        };
        let problem = |problem: &String| match peer.may_know_secrets() {
            true => problem.clone(),
            false => "its file is not valid; as it is secret, only root sees the error".to_owned(),
        };
        let trial = |trial: &crate::daemon::trial::Trial| Trial {
            file: trial.file.display().to_string(),
            remaining_seconds: trial.deadline.since(now).as_secs_f64(),
        };
        let protections = Protections::of_this_process().ok();
        let set = |state: SetState| Set { name: state.name, problem: state.problem };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: now.since(self.started).as_secs_f64(),
            configuration: self.configuration(),
            configuration_problem: self.in_force.file_problem.as_ref().map(problem),
            trial: self.in_force.trial.as_ref().map(trial),
            rules: config.rules.len(),
            interfaces: self.interfaces.states().into_iter().map(interface).collect(),
            protections: protections.clone(),
            processes: self.processes(protections),
            table: self.grants.enforcer().owned().map(table),
            doors: self.doors(),
            sets: self.grants.enforcer().sets().into_iter().map(set).collect(),
            grants: self.grants.ledger().len(),
            sources: usize::try_from(self.ear.state().sources).unwrap_or(usize::MAX),
            commands_running: commands.running,
            commands_queued: commands.queued,
            by_rule: self.rule_states(now),
            signed_packets: self.signed.as_ref().map(signed_state),
            fleet: self.fleet.as_ref().map(|fleet| fleet.status(unix_now())),
            counters: self.all_counters(),
        }
    }

    fn processes(&self, keeper: Option<Protections>) -> Vec<Process> {
        let process = |name: &str, pid, protections| Process { name: name.to_owned(), pid, protections };
        let runner = self.runner.as_ref();
        [
            Some(process("keeper", std::process::id(), keeper)),
            Some(process(Role::Ear.name(), self.ear.id(), Some(self.ear.protections().clone()))),
            runner.map(|runner| process(Role::Runner.name(), runner.id(), runner.protections().cloned())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The rules, in the order of the configuration. One pass over the grants, however many rules there are.
    fn rule_states(&self, now: Time) -> Vec<RuleState> {
        let mut live: HashMap<&RuleId, (usize, Time)> = HashMap::new();
        for grant in self.grants.ledger().iter().filter(|grant| grant.expires > now) {
            let (count, next) = live.entry(&grant.rule).or_insert((0, grant.expires));
            (*count, *next) = (*count + 1, grant.expires.min(*next));
        }
        let failures = self.runner.as_ref().map(|runner| &runner.state().failures);
        let opens = |rule: &Rule| match self.grants.policy().rules.get(&rule.name) {
            None | Some(Opens::Nothing) => Vec::new(),
            Some(Opens::Ports(ports)) => ports.iter().map(ToString::to_string).collect(),
            Some(Opens::Sets { v4, v6 }) => v4.iter().chain(v6).map(ToString::to_string).collect(),
        };
        let state = |rule: &Rule| {
            let knocks = match &rule.trigger {
                Some(Trigger::Sequence(knocks)) => knocks.as_slice(),
                Some(Trigger::OneTime(_)) | None => &[],
            };
            let tcp_knocks = knocks.iter().filter(|knock| knock.protocol == Protocol::Tcp).count();
            let (live, count) = (live.get(&rule.name), self.rule_counters.of(&rule.name));
            RuleState {
                name: rule.name.to_string(),
                opens: opens(rule),
                timeout_seconds: rule.allow.as_ref().map(|allow| allow.timeout().as_secs_f64()),
                command: rule.command.is_some(),
                revoke: rule.revoke.as_ref().map(ToString::to_string),
                one_time: matches!(rule.trigger, Some(Trigger::OneTime(_))),
                signed_packets: rule.spa,
                tcp_knocks,
                udp_knocks: knocks.len() - tcp_knocks,
                sequence_seconds: rule.timeout.as_secs_f64(),
                grants: live.map_or(0, |&(count, _)| count),
                next_expiry_seconds: live.map(|&(_, next)| next.since(now).as_secs_f64()),
                granted: count.granted,
                grants_failed: count.failed,
                commands_failed: failures
                    .and_then(|failures| failures.get(rule.name.as_str()))
                    .copied()
                    .unwrap_or_default(),
            }
        };
        self.config.rules.iter().map(state).collect()
    }

    fn all_counters(&mut self) -> Counters {
        let (ear, own) = (*self.ear.state(), self.counters);
        let runner = self.runner.as_ref().map(Runner::state);
        let (commands, log) = runner.map(|state| (state.counters, state.log)).unwrap_or_default();
        let signed = self.signed.as_ref().map(SignedPackets::counters).unwrap_or_default();
        Counters {
            kernel_received: ear.kernel_received,
            kernel_dropped: ear.kernel_dropped,
            turned_away: self.grants.turned_away(),
            packets: ear.packets,
            malformed: ear.malformed,
            ignored: ear.ignored,
            knocks: ear.knocks,
            retransmissions: ear.retransmissions,
            tripwires: ear.tripwires,
            evicted: ear.evicted,
            completed: ear.completed,
            in_cooldown: own.in_cooldown,
            armed: self.arming.counters.armed,
            armed_refused: self.arming.counters.refused,
            armed_confirmed: self.arming.counters.confirmed,
            armed_unconfirmed: self.arming.counters.unconfirmed,
            signed_received: ear.signed_received.saturating_add(signed.received),
            signed_foreign: ear.signed_foreign.saturating_add(signed.foreign),
            signed_over_budget: ear.signed_over_budget.saturating_add(signed.over_budget),
            signed_wrong_signature: signed.wrong_signature,
            signed_refused: signed.refused,
            signed_accepted: signed.accepted,
            granted: own.grants,
            grants_failed: own.failed_grants,
            revoked: own.revoked,
            restored: own.restored,
            strays: own.strays,
            reloads: own.reloads,
            commands_started: commands.started,
            commands_succeeded: commands.succeeded,
            commands_failed: commands.failed,
            commands_timed_out: commands.timed_out,
            commands_dropped: commands.dropped_queue_full,
            commands_merged: commands.merged,
            events_left_out: self.events.left_out_since_start() + log.too_fast,
            log_lines_left_out: logging::left_out() + log.left_out,
        }
    }

    fn grants(&self, now: Time, rule: Option<&str>, address: Option<IpAddr>) -> Result<Response, Refusal> {
        let rule = rule.map(|name| self.rule(name)).transpose()?;
        let ledger = self.grants.ledger();
        let wanted = |grant: &&Grant| grant.expires > now && rule.is_none_or(|rule| grant.rule == rule.name);
        let mut grants: Vec<_> = match address {
            Some(address) => ledger.of_address(address).filter(wanted).cloned().collect(),
            None => ledger.iter().filter(wanted).cloned().collect(),
        };
        grants.sort_by_key(|grant| grant.expires);
        Ok(Response::grants(self.grants.policy().clone(), now, grants))
    }

    fn grant_by_hand(
        &mut self,
        now: Time,
        peer: Peer,
        name: &str,
        address: IpAddr,
        timeout: Option<&Value>,
    ) -> Result<Response, Refusal> {
        let rule = self.rule(name)?;
        let Some(allow) = &rule.allow else {
            let message = format!("rule {name} has no `allow`, so there is nothing to grant; {}", self.grantable());
            return Err(Refusal::new(Code::NothingToGrant, message));
        };
        if self.grants.policy().places(&rule.name, address).is_empty() {
            let (version, key) = if address.is_ipv4() { ("IPv4", "set") } else { ("IPv6", "set6") };
            let message = format!(
                "rule {name} opens nothing to an {version} address such as {address}; give its `allow` a `{key}`"
            );
            return Err(Refusal::new(Code::NothingToGrant, message));
        }
        let timeout = match timeout {
            None => allow.timeout(),
            Some(value) => knock_config::grant_timeout(value)
                .map_err(|cause| Refusal::new(Code::BadValue, format!("the timeout: {cause}")))?,
        };
        let (rule, cause) = (rule.name.clone(), Cause::Operator { uid: peer.uid });
        let result = self.grants.grant(now, &rule, address, timeout, cause);
        self.observe_grants(now);
        result.map_err(|error| failed(&error))?;
        Ok(Response::result(&Granted { rule: name.to_owned(), address, timeout_seconds: timeout.as_secs_f64() }))
    }

    /// Ends the grants to an address, of a rule or of all.
    pub(super) fn revoke_by_hand(
        &mut self,
        now: Time,
        peer: Peer,
        rule: Option<&str>,
        address: IpAddr,
    ) -> Result<protocol::Revoked, Refusal> {
        let cause = Cause::Operator { uid: peer.uid };
        let result = match rule {
            Some(name) => {
                let rule = self.rule(name)?.name.clone();
                self.grants.revoke(now, &rule, address, cause)
            }
            None => self.grants.revoke_address(address, cause),
        };
        self.revoked(now, result)
    }

    fn revoke_all(&mut self, now: Time, peer: Peer) -> Result<protocol::Revoked, Refusal> {
        let result = self.grants.revoke_all(now, Cause::Operator { uid: peer.uid });
        self.revoked(now, result)
    }

    fn revoked(
        &mut self,
        now: Time,
        result: Result<Revoked, knock_grant::Error>,
    ) -> Result<protocol::Revoked, Refusal> {
        self.observe_grants(now);
        let Revoked { grants, strays } = result.map_err(|error| failed(&error))?;
        Ok(protocol::Revoked { revoked: grants, strays })
    }

    /// The rule of that name.
    pub(super) fn rule(&self, name: &str) -> Result<&Rule, Refusal> {
        self.config.rule(name).ok_or_else(|| {
            let meant = match nearest(name, self.config.rules.iter().map(|rule| rule.name.as_str())) {
                Some(meant) => format!("did you mean {meant}?"),
                None => self.grantable(),
            };
            Refusal::new(Code::NoSuchRule, format!("there is no rule {name:.64}; {meant}"))
        })
    }

    /// The rules that can be granted, for a message.
    fn grantable(&self) -> String {
        const NAMED: usize = 8;
        let rules = self.config.rules.iter().filter(|rule| rule.allow.is_some());
        let names: Vec<&str> = rules.map(|rule| rule.name.as_str()).collect();
        match names.as_slice() {
            [] => "no rule has an `allow`".to_owned(),
            names if names.len() <= NAMED => format!("rules with an `allow`: {}", names.join(", ")),
            names => format!("rules with an `allow`: {} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
        }
    }
}

/// An error in a configuration quotes from it, and so may show a sequence. A member of the socket's group does not get it,
/// and may have no right to read the file.
const NOT_FOR_THE_GROUP: &str = "the configuration is not valid, and the old one stays in force; as it is secret, only \
                                 root sees the error: sudo knockd --check -c FILE, or the log";

/// The warnings about a configuration, which quote from it too.
fn for_peer(peer: Peer, warnings: &[String]) -> Vec<String> {
    match warnings.len() {
        _ if peer.may_know_secrets() => warnings.to_vec(),
        0 => Vec::new(),
        count => {
            let warnings = if count == 1 { "warning" } else { "warnings" };
            vec![format!("{count} {warnings}; as the configuration is secret, only root sees them: see the log")]
        }
    }
}

fn failed(error: &impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Failed, error.to_string())
}

fn signed_state(signed: &SignedPackets) -> protocol::SignedPackets {
    protocol::SignedPackets {
        ports: signed.ports().to_vec(),
        keys: signed.keyring().keys().len(),
        remembered: signed.remembered(),
        problem: signed.problem().map(str::to_owned),
    }
}
