//! Trials: a configuration that is in force until it is confirmed, or its time is over and the one before it is in force
//! again. `knockctl try` and `knockctl confirm` of the control protocol.
//!
//! A restart uses the configuration file, so it ends a trial too. Where the file itself was tried, its copy in the state
//! directory tells the next daemon that it was not confirmed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use knock_proto::Time;

use crate::control::protocol::{Code, Confirmed, Refusal};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::daemon::config_source::has_pending_stops;
use crate::daemon::reload_thread::{Job, NotReloaded};
use crate::logging::events::Event;
use crate::os::clock::now;
use crate::os::local_socket::Peer;
use crate::os::privileges::RequiredPrivileges;

/// The time after which it is tried again to go back, where that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The configuration that is in force.
#[derive(Debug)]
pub(crate) struct InForce {
    /// Its text.
    pub(crate) text: String,
    /// Why it is not that of the configuration file; not where it is tried.
    pub(crate) file_problem: Option<String>,
    /// `None` where it is not a trial.
    pub(crate) trial: Option<Trial>,
}

/// The configuration that is in force is tried.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Its file.
    pub(crate) file: PathBuf,
    /// When it ends.
    pub(crate) deadline: Time,
    /// The text that is in force afterwards, unless it is confirmed.
    before: String,
}

impl InForce {
    /// The text that was read is in force for some time.
    pub(super) fn start_trial(&mut self, now: Time, file: &Path, time: Duration, text: String) {
        let text = std::mem::replace(&mut self.text, text);
        // A trial that follows another one goes back to what was in force before both.
        let before = self.trial.take().map_or(text, |trial| trial.before);
        self.trial = Some(Trial { file: file.to_owned(), deadline: now.after(time), before });
    }
}

impl Daemon {
    /// Goes back to the configuration before a trial whose time is over.
    pub(crate) fn end_trial(&mut self, now: Time) {
        if self.next_trial_end().is_none_or(|due| due > now) {
            return;
        }
        let Some(trial) = &self.in_force.trial else { return };
        let job = Job::GoBack { text: trial.before.clone() };
        self.begin_reload(job, Vec::new());
    }

    /// When [`Daemon::end_trial`] has something to do. A reload that is under way may end the trial itself.
    pub(crate) fn next_trial_end(&self) -> Option<Time> {
        let trial = self.in_force.trial.as_ref()?;
        (!self.reloads.is_busy()).then_some(trial.deadline)
    }

    /// The time of the trial is over, and the configuration before it is in force again, or could not be put in force.
    pub(super) fn went_back(&mut self, result: &Result<bool, NotReloaded>) {
        let Some(trial) = &mut self.in_force.trial else { return };
        match result {
            Ok(file_differs) => {
                let tried = trial.file.display().to_string();
                self.in_force.text = std::mem::take(&mut trial.before);
                self.in_force.trial = None;
                let file = &self.source.file;
                self.in_force.file_problem =
                    file_differs.then(|| format!("{}: was tried and not confirmed", file.display()));
                if !file_differs {
                    self.source.copies(&self.config).forget_tried();
                }
                let message =
                    format_args!("{tried} was not confirmed in time: the configuration before it is in force again");
                self.events.report(now(), Event::WentBack, None, None, message);
            }
            Err(reasons) => {
                trial.deadline = now().after(RETRY_PAUSE);
                log::error!(
                    "{} was not confirmed in time, but stays in force, since the configuration before it cannot be put in \
                     force: {reasons}; trying again in {} seconds",
                    trial.file.display(),
                    RETRY_PAUSE.as_secs()
                );
            }
        }
    }

    /// Makes the tried configuration the one that stays.
    pub(crate) fn confirm(&mut self, now: Time, peer: Peer) -> Result<Response, Refusal> {
        if !peer.may_know_secrets() {
            return Err(not_for_the_group());
        }
        let Some(trial) = self.in_force.trial.take() else {
            let message = "no configuration is being tried; start with: knockctl try FILE";
            return Err(Refusal::new(Code::NothingToConfirm, message));
        };
        let copies = self.source.copies(&self.config);
        if let Err(error) = copies.confirm() {
            log::error!("cannot rename the copy of the tried configuration in the state directory: {error}");
        }
        self.in_force.file_problem = None;
        let (uid, file) = (peer.uid, trial.file.display().to_string());
        self.events.report(now, Event::Confirmed, None, None, format_args!("{file} was confirmed by uid {uid}"));
        let status = self.status_line();
        self.notifier.status(status);
        Ok(Response::result(&Confirmed {
            file,
            configuration: self.configuration(),
            text: self.in_force.text.clone(),
            spare_privileges: self.privileges != RequiredPrivileges::of(&self.config, has_pending_stops(&self.config)),
        }))
    }
}

/// Who may change the configuration file may try another one.
pub(super) fn not_for_the_group() -> Refusal {
    Refusal::new(Code::NotPermitted, "only root and the daemon's own user may try and confirm configurations")
}
