//! What ear and runner were asked and have not answered yet.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::Time;

use crate::daemon::interfaces::Line;

/// How long an answer is waited for. Both answer between two turns of their work.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where a client waits for it.
const PATIENCE_OF_CLIENT: Duration = Duration::from_secs(2);

/// Who has asked.
#[derive(Debug)]
pub(crate) enum Asker {
    /// Lines for the log, about changes that the ear has to follow first.
    Log(Vec<Line>),
    /// The client of the control socket in that slot, for the state of everything.
    Status(usize),
    /// The watchdog.
    Watchdog,
    /// The client in that slot, about the packets of that address.
    Explain(usize, IpAddr),
}

impl Asker {
    /// How long the answer is waited for.
    fn patience(&self) -> Duration {
        match self {
            Asker::Log(_) | Asker::Watchdog => PATIENCE,
            Asker::Status(_) | Asker::Explain(..) => PATIENCE_OF_CLIENT,
        }
    }
}

/// The questions to one process, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last_token: u64,
    open: VecDeque<Question>,
}

#[derive(Debug)]
struct Question {
    token: u64,
    asker: Asker,
    due: Time,
}

impl Questions {
    /// A token that no other question has.
    pub(super) fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Notes what was asked with that token.
    pub(super) fn note(&mut self, now: Time, token: u64, asker: Asker) {
        let due = now.after(asker.patience());
        self.open.push_back(Question { token, asker, due });
    }

    /// Whether an answer with that token is waited for.
    pub(super) fn has(&self, token: u64) -> bool {
        self.open.iter().any(|question| question.token == token)
    }

    /// Who has asked with that token. An answer to what was not asked is none.
    pub(super) fn answered(&mut self, token: u64) -> Option<Asker> {
        self.take(|question| question.token == token)
    }

    /// Who has asked a question whose time is over.
    pub(super) fn overdue(&mut self, now: Time) -> Option<Asker> {
        self.take(|question| question.due <= now)
    }

    fn take(&mut self, which: impl Fn(&Question) -> bool) -> Option<Asker> {
        let place = self.open.iter().position(which)?;
        self.open.remove(place).map(|question| question.asker)
    }

    /// Whether the watchdog waits for an answer.
    pub(super) fn is_watchdog_waiting(&self) -> bool {
        self.open.iter().any(|question| matches!(question.asker, Asker::Watchdog))
    }

    /// When an answer is no longer waited for.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.open.iter().map(|question| question.due).min()
    }
}
