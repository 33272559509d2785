//! What the daemon does with what the ear says.

use std::io;
use std::net::IpAddr;

use knock_proto::Time;

use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::daemon::ear::{Explained, Heard};
use crate::daemon::questions::Asker;
use crate::ear::plan::RuleKey;
use crate::os::clock::{clock_reading, now};
use crate::triggers::signed_packets::Outcome;

/// Messages that are taken before the control socket and the others have their turn, however much the ear says.
const MESSAGES_IN_A_ROW: usize = 64;

impl Daemon {
    /// Does at once what the ear asks for.
    ///
    /// # Errors
    ///
    /// Where it has ended, or says what no ear says.
    pub(super) fn listen_to_ear(&mut self) -> io::Result<()> {
        for _ in 0..MESSAGES_IN_A_ROW {
            let Some(heard) = self.ear.next()? else { return Ok(()) };
            self.on_heard(now(), heard)?;
        }
        Ok(())
    }

    fn on_heard(&mut self, now: Time, heard: Heard) -> io::Result<()> {
        match heard {
            Heard::Completed { rule, source } => return self.on_completion(now, rule, source),
            Heard::Almost { rule, source, until } => self.on_almost(now, rule, source, until),
            Heard::StillAlmost { token, source, until } => self.on_still_almost(now, token, source, until),
            Heard::Opened { source, packet } => {
                let Some(signed) = &mut self.signed else { return Ok(()) };
                if let Outcome::Signed(signed) = signed.take_over(clock_reading(), &packet, source) {
                    self.follow_signed(now, source, *signed);
                }
            }
            Heard::Prepared { token, result } => self.on_prepared(token, result),
            Heard::Committed => self.on_committed(),
            Heard::Answered { asker, explained } => self.on_answer(now, asker, explained),
            Heard::Meant(meant) => self.show_meant(now, &meant),
            Heard::AtGuardedPort { source, port } => self.note_at_guarded_port(now, source, port),
            Heard::LeftOut(number) => self.note_left_out(number),
            Heard::Problem(problem) => log::error!("the ear: {problem}"),
            Heard::Nothing => {}
        }
        Ok(())
    }

    /// A source has completed a rule. One that has changed meanwhile, or whose sequence was used, has another key.
    fn on_completion(&mut self, now: Time, key: RuleKey, source: IpAddr) -> io::Result<()> {
        let Some(rule) = self.sequences.rule(key).cloned() else { return Ok(()) };
        self.carry_out(now, &rule, source)?;
        self.confirm_armed(now, &rule, source);
        Ok(())
    }

    fn on_answer(&mut self, now: Time, asker: Asker, explained: Explained) {
        match asker {
            Asker::Log(lines) => lines.iter().for_each(|(level, line)| log::log!(*level, "{line}")),
            Asker::Status(_) | Asker::Watchdog => self.ask_runner(now, asker),
            Asker::Explain(slot, address) => {
                let answer = self.explanation(now, address, explained);
                self.answer(now, slot, answer);
            }
        }
    }

    /// When the watchdog is to be pinged, which shows that ear and runner run too.
    pub(super) fn next_ping(&self) -> Option<Time> {
        let runner_waits = self.runner.as_ref().is_some_and(|runner| runner.questions.is_watchdog_waiting());
        self.notifier.next_ping().filter(|_| !self.ear.questions.is_watchdog_waiting() && !runner_waits)
    }

    /// Does what is due with the ear, and at the watchdog.
    pub(super) fn tick_ear(&mut self, now: Time) -> io::Result<()> {
        self.give_up_reload(now);
        while let Some(asker) = self.ear.questions.overdue(now) {
            log::error!("the ear does not answer");
            if !matches!(asker, Asker::Watchdog) {
                self.on_answer(now, asker, Explained::default());
            }
        }
        if self.next_ping().is_some_and(|due| due <= now) {
            self.ear.ask(Asker::Watchdog)?;
        }
        self.notifier.retry(now);
        Ok(())
    }

    /// Answers a client of the control socket that waits.
    pub(super) fn answer(&mut self, now: Time, slot: usize, answer: Response) {
        if let Some(control) = &mut self.control {
            control.answer(slot, answer, now);
        }
    }

    /// Has a client wait for what the ear has to be asked. Where the ear does not listen, what is known is the answer.
    pub(super) fn ask_ear(&mut self, now: Time, slot: usize, asker: Asker) {
        let Some(control) = &mut self.control else { return };
        control.wait_briefly(slot);
        let known = match &asker {
            Asker::Explain(slot, address) => Asker::Explain(*slot, *address),
            _ => Asker::Status(slot),
        };
        if let Err(error) = self.ear.ask(asker) {
            log::error!("{error}");
            self.on_answer(now, known, Explained::default());
        }
    }
}
