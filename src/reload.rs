//! Reading the configuration anew, while everything goes on.

use std::rc::Rc;
use std::thread;

use crate::clock::now;
use crate::daemon::Daemon;
use crate::events::Event;
use crate::hooks;
use crate::rules::{engine_rules, engine_settings};
use crate::start::open_stops;

impl Daemon {
    /// Takes up what the configuration file says now. Where it is not valid, or the kernel refuses what it asks for,
    /// everything stays as it is, and the log says why.
    ///
    /// Returns whether the new configuration is in force.
    pub(crate) fn reload(&mut self) -> bool {
        match self.try_reload() {
            Ok(()) => true,
            Err(reasons) => {
                for reason in reasons.lines() {
                    self.events.report(now(), Event::ReloadFailed, None, None, format_args!("not reloaded: {reason}"));
                }
                false
            }
        }
    }

    /// As [`Daemon::reload`].
    ///
    /// # Errors
    ///
    /// The reasons, a line each.
    pub(crate) fn try_reload(&mut self) -> Result<(), String> {
        let loaded = self.source.load().map_err(|error| error.to_string())?;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let config = Rc::new(loaded.config);
        let now = now();
        let rules = engine_rules(&config, |_| Vec::new());
        let settings = engine_settings(&config);

        // The wire first: that packets are heard which mean nothing yet does no harm, and it is easily undone.
        let watches = knock_proto::Engine::new(rules.clone(), &settings).watches();
        self.wire.reconfigure(&config.interfaces, &watches).map_err(|error| error.to_string())?;
        let ended = match self.gate.reconfigure(config.clone(), now) {
            Ok(ended) => ended,
            Err(error) => {
                if let Err(error) = self.wire.reconfigure(&self.config.interfaces, &self.engine.watches()) {
                    log::error!("{error}");
                }
                return Err(error.to_string());
            }
        };
        self.engine.reconfigure(now, rules, &settings);
        for grant in ended {
            let rule = self.config.rules[grant.rule].name.as_str();
            let message = format_args!("rule {rule}: the grant to {} is revoked (reload)", grant.address);
            self.events.report(now, Event::Revoked, Some(rule), Some(grant.address), message);
        }
        let hooks = hooks::changes(&self.config, &config);
        self.config = config;
        if self.stops.is_none() {
            self.stops = open_stops(&self.config);
        }
        if !hooks.is_empty() {
            // Nobody's knock waits for them.
            let commands = self.commands.clone();
            thread::spawn(move || hooks::run(&commands, &hooks));
        }
        log::set_max_level(self.source.log_level.unwrap_or(self.config.log.level));
        self.counters.reloads += 1;
        let names = self.config.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format_args!("reloaded: rules: {names:.200}");
        self.events.report(now, Event::Reloaded, None, None, message);
        Ok(())
    }
}
