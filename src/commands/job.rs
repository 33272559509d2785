//! One command line to run, for the address that knocked.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::outcome::{NotRun, Outcome};

/// A step before the command. Where it fails, the command does not run.
type Before = Box<dyn FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + Send>;
/// Called with the outcome of the command.
type After = Box<dyn FnOnce(&Outcome) + Send>;

/// Which of a rule's commands it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `command`: refused while the queue is full, and dropped from the queue when the daemon stops.
    Start,
    /// `stop_command`: a full queue refuses none, because a port could stay open. The stop schedule limits their
    /// number.
    Stop,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Start => "command",
            Kind::Stop => "stop command",
        }
    }
}

/// A command line for [`super::Commands::submit`].
pub(crate) struct Job {
    pub(super) rule: Arc<str>,
    pub(super) source: IpAddr,
    pub(super) kind: Kind,
    pub(super) line: Option<String>,
    pub(super) timeout: Duration,
    before: Option<Before>,
    after: Option<After>,
}

impl Job {
    /// The command line `line` of `rule` for `source`, each `%IP%` in it replaced by the address. It is ended after
    /// `timeout`.
    pub(crate) fn new(kind: Kind, rule: impl Into<Arc<str>>, source: IpAddr, line: &str, timeout: Duration) -> Job {
        let line = Some(substitute(line, source));
        Job { rule: rule.into(), source, kind, line, timeout, before: None, after: None }
    }

    /// A step for a worker, without a command.
    pub(crate) fn step(
        kind: Kind,
        rule: impl Into<Arc<str>>,
        source: IpAddr,
        step: impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + Send + 'static,
    ) -> Job {
        let before: Option<Before> = Some(Box::new(step));
        Job { rule: rule.into(), source, kind, line: None, timeout: Duration::ZERO, before, after: None }
    }

    /// The command line; `None` for a job without a command.
    #[cfg(test)]
    pub(crate) fn line(&self) -> Option<&str> {
        self.line.as_deref()
    }

    /// With a step that the worker takes before it runs the command, which does not run where the step fails.
    #[must_use]
    pub(crate) fn before(
        mut self,
        step: impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + Send + 'static,
    ) -> Job {
        self.before = Some(Box::new(step));
        self
    }

    /// With a call at its end, made once, before the next command of the same rule and address. The worker makes it, or
    /// the thread that refuses or drops the job.
    #[must_use]
    pub(crate) fn after(mut self, call: impl FnOnce(&Outcome) + Send + 'static) -> Job {
        self.after = Some(Box::new(call));
        self
    }

    /// Whether these are `command`s for the same rule and address that do the same, so that one run is as good as two. A
    /// job with a step of its own is equal to none.
    pub(super) fn is_equal(&self, other: &Job) -> bool {
        let plain = |job: &Job| job.kind == Kind::Start && job.before.is_none() && job.after.is_none();
        plain(self)
            && plain(other)
            && (&self.rule, self.source, &self.line, self.timeout)
                == (&other.rule, other.source, &other.line, other.timeout)
    }

    pub(super) fn take_before(&mut self) -> Option<Before> {
        self.before.take()
    }

    pub(super) fn ended(self, outcome: &Outcome) {
        if let Some(after) = self.after {
            after(outcome);
        }
    }

    pub(super) fn not_run(self, reason: NotRun) {
        self.ended(&Outcome::NotRun(reason));
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("rule", &self.rule)
            .field("source", &self.source)
            .field("kind", &self.kind)
            .field("line", &self.line)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// `line` with each `%IP%` replaced by `address` in numbers: digits, letters a to f, dots and colons, of which none is
/// special to a shell.
pub(crate) fn substitute(line: &str, address: IpAddr) -> String {
    line.replace("%IP%", &address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_becomes_the_address() {
        let v4: IpAddr = [192, 0, 2, 1].into();
        assert_eq!(substitute("open %IP% '%IP%' %ip% 50%", v4), "open 192.0.2.1 '192.0.2.1' %ip% 50%");
        let v6: IpAddr = "2001:DB8:0:0::1".parse().expect("an address");
        assert_eq!(substitute("%IP%%IP%", v6), "2001:db8::12001:db8::1");
    }
}
