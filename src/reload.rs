//! Reading the configuration anew, while everything goes on.

use std::fmt;
use std::rc::Rc;
use std::thread;

use knock_config::Config;

use crate::clock::now;
use crate::control;
use crate::daemon::{CONTROL_TOKEN, Daemon};
use crate::events::Event;
use crate::hooks;
use crate::privileges::Needs;
use crate::rules::{engine_rules, engine_settings, one_time_sequences};
use crate::start::open_stops;

/// Why the configuration was not read anew: the reasons, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotReloaded {
    /// The file is not valid.
    Invalid(String),
    /// What it asks for could not be had.
    Failed(String),
}

impl NotReloaded {
    fn invalid(reasons: impl fmt::Display) -> NotReloaded {
        NotReloaded::Invalid(reasons.to_string())
    }

    fn failed(reasons: impl fmt::Display) -> NotReloaded {
        NotReloaded::Failed(reasons.to_string())
    }
}

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (NotReloaded::Invalid(reasons) | NotReloaded::Failed(reasons)) = self;
        f.write_str(reasons)
    }
}

impl Daemon {
    /// Takes up what the configuration file says now. Where it is not valid, or the kernel refuses what it asks for,
    /// everything stays as it is, and the log says why.
    pub(crate) fn reload(&mut self) {
        let _ = self.try_reload();
    }

    /// As [`Daemon::reload`]. Returns the warnings about the new configuration.
    ///
    /// # Errors
    ///
    /// The reasons, which are in the log too.
    pub(crate) fn try_reload(&mut self) -> Result<Vec<String>, NotReloaded> {
        self.notifier.reloading();
        let result = self.take_up_configuration();
        let status = self.status_line();
        self.notifier.ready(status);
        if let Err(reasons) = &result {
            for reason in reasons.to_string().lines() {
                self.events.report(now(), Event::ReloadFailed, None, None, format_args!("not reloaded: {reason}"));
            }
        }
        result
    }

    fn take_up_configuration(&mut self) -> Result<Vec<String>, NotReloaded> {
        let loaded = self.source.load().map_err(NotReloaded::invalid)?;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let config = Rc::new(loaded.config);
        self.needs.check(Needs::of(&config, false)).map_err(NotReloaded::failed)?;
        let socket = self.other_control_socket(&config).map_err(NotReloaded::failed)?;
        let now = now();
        let one_time = one_time_sequences(&config, self.source.owners).map_err(NotReloaded::invalid)?;
        let rules = engine_rules(&config, &one_time);
        let settings = engine_settings(&config);

        // The wire first: that packets are heard which mean nothing yet does no harm, and it is easily undone.
        let watches = knock_proto::Engine::new(rules.clone(), &settings).watches();
        self.wire.reconfigure(&config.interfaces, &watches).map_err(NotReloaded::failed)?;
        let ended = match self.gate.reconfigure(config.clone(), now) {
            Ok(ended) => ended,
            Err(error) => {
                if let Err(error) = self.wire.reconfigure(&self.config.interfaces, &self.engine.watches()) {
                    log::error!("{error}");
                }
                return Err(match error {
                    knock_nft::Error::UnusableSet { .. } => NotReloaded::invalid(error),
                    error => NotReloaded::failed(error),
                });
            }
        };
        self.engine.reconfigure(now, rules, &settings);
        self.one_time = one_time;
        for grant in ended {
            let rule = self.config.rules[grant.rule].name.as_str();
            let message = format_args!("rule {rule}: the grant to {} is revoked (reload)", grant.address);
            self.events.report(now, Event::Revoked, Some(rule), Some(grant.address), message);
        }
        for field in fixed_at_start(&self.config, &config) {
            log::warn!("{field} has another value now, which a restart puts in force, not a reload");
        }
        let hooks = hooks::changes(&self.config, &config);
        self.config = config;
        if self.stops.is_none() {
            self.stops = open_stops(&self.config);
        }
        if !hooks.is_empty() {
            // Nobody's knock waits for them.
            let commands = self.commands.clone();
            let run = move || hooks::run(&commands, &hooks);
            if let Err(error) = thread::Builder::new().name("hooks".to_owned()).spawn(run) {
                log::error!(
                    "setup and teardown of the rules that changed were not run: cannot start a thread: {error}"
                );
            }
        }
        log::set_max_level(self.source.log_level.unwrap_or(self.config.log.level));
        match (socket, &mut self.control) {
            (Some(socket), Some(control)) => control.replace(socket),
            (Some(socket), None) => self.control = Some(control::Server::new(socket, CONTROL_TOKEN)),
            (None, _) => {}
        }
        self.counters.reloads += 1;
        let names = self.config.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format_args!("reloaded: rules: {names:.200}");
        self.events.report(now, Event::Reloaded, None, None, message);
        Ok(loaded.warnings.iter().map(ToString::to_string).collect())
    }

    /// The control socket of that configuration, where it is another one.
    fn other_control_socket(&self, config: &Config) -> Result<Option<control::Socket>, control::Error> {
        let path = control::place(config);
        match &self.control {
            Some(control) if control.path() == path => Ok(None),
            // It could not be made at its default place, which was told at the start.
            None if config.control_socket.is_none() => Ok(None),
            _ => control::Socket::listen(&path).map(Some),
        }
    }
}

/// The fields that differ, and that a daemon takes up at its start only.
fn fixed_at_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let fields = [
        ("limits.commands", old.limits.commands != new.limits.commands),
        ("limits.command_queue", old.limits.command_queue != new.limits.command_queue),
        ("log.target", old.log.target != new.log.target),
        ("state_dir", old.state_dir != new.state_dir),
    ];
    fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_restart_can_change_is_told() {
        let config = |text: &str| knock_config::parse("test.json", text).expect("a valid configuration").config;
        let old = config(r#"{"rules": []}"#);
        let new = config(r#"{"rules": [], "limits": {"commands": 2}, "log": {"target": "syslog", "level": "debug"}}"#);
        assert_eq!(fixed_at_start(&old, &new), ["limits.commands", "log.target"]);
        assert!(fixed_at_start(&old, &old).is_empty());
    }
}
