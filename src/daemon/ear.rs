//! The ear as the keeper sees it: what it is told, and what of its answers is believed. An ear that was taken over can ask for
//! what a knock can ask for, at a bounded rate, and can be silent; more it cannot do.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use knock_capture::LinkSockets;
use knock_proto::{Budget, Time};
use knock_spa::HANDED_OVER;
use rustix::event::PollFlags;

use crate::daemon::interfaces::NewSocket;
use crate::daemon::questions::{Asker, Questions};
use crate::ear::message::{Meant, State, ToEar, ToKeeper};
use crate::ear::plan::{Plan, Port, RuleKey, ports};
use crate::os::channel::{Sent, decode, seal};
use crate::os::child::{Child, Role};
use crate::os::clock::now;
use crate::os::privileges::{Confinement, Missing, Protections};
use crate::triggers::sequences::Next;

/// How long it may take to follow its first plan.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the ear asks for, at once and in a second.
const REQUESTS: u32 = 10_000;
const REQUEST: Duration = Duration::from_micros(100);
/// Problems of the ear that are logged at once, and the time for one more.
const PROBLEMS: u32 = 10;
const PROBLEM: Duration = Duration::from_secs(10);
/// The steps of an explanation.
const STEPS: usize = 200;

/// The ear.
pub(crate) struct Ear {
    child: Child,
    protections: Protections,
    /// What was last heard of it.
    state: State,
    /// What it was asked and has not answered.
    pub(super) questions: Questions,
    /// The steps of the explanation that it gives, and the token of that.
    explaining: (u64, Vec<Meant>),
    requests: Budget,
    problems: Budget,
}

/// What the ear said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A source has completed a rule.
    Completed { rule: RuleKey, source: IpAddr },
    /// A source lacks the last knock of a rule, until that time.
    Almost { rule: RuleKey, source: IpAddr, until: Time },
    /// Whether it still does, where that was asked with this token.
    StillAlmost { token: u64, source: IpAddr, until: Option<Time> },
    /// A source has sent a signed packet.
    Opened { source: IpAddr, packet: [u8; HANDED_OVER] },
    /// A plan can be committed, or why not.
    Prepared { token: u64, result: Result<(), String> },
    /// The plan that was committed is followed.
    Committed,
    /// A question is answered, or its time is over.
    Answered { asker: Asker, explained: Explained },
    /// What a packet meant.
    Meant(Meant),
    /// A packet came to a port that may be guarded.
    AtGuardedPort { source: IpAddr, port: Port },
    /// So many packets are not shown.
    LeftOut(u64),
    /// Something does not work.
    Problem(String),
    /// Nothing that has to be done.
    Nothing,
}

/// What the packets of a source meant, where that was asked.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    pub(crate) meant: Vec<Meant>,
    /// How long ago the oldest packet came that is kept of any source.
    pub(crate) since: Option<Duration>,
    /// How many packets were not kept.
    pub(crate) left_out: u64,
}

impl Ear {
    /// Starts the ear, and hands it the sockets for links.
    ///
    /// # Errors
    ///
    /// Where it can't be started or confined.
    pub(crate) fn start() -> io::Result<Ear> {
        let child = Child::start(Role::Ear)?;
        let mut ear = Ear {
            child,
            protections: Protections::default(),
            state: State::default(),
            questions: Questions::default(),
            explaining: (0, Vec::new()),
            requests: Budget::default(),
            problems: Budget::default(),
        };
        let LinkSockets { changes, dumps } = LinkSockets::open().map_err(io::Error::other)?;
        ear.tell(&ToEar::LinkChanges, Some(changes.as_fd()))?;
        ear.tell(&ToEar::LinkDumps, Some(dumps.as_fd()))?;
        Ok(ear)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its protections, as it said when it began.
    pub(crate) fn protections(&self) -> &Protections {
        &self.protections
    }

    /// What was last heard of it.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Has it get ready for that plan, with these sockets. It says [`Heard::Prepared`], with the token that is returned.
    ///
    /// # Errors
    ///
    /// Where it does not listen.
    pub(crate) fn prepare(&mut self, plan: &Plan, sockets: &[NewSocket]) -> io::Result<u64> {
        for NewSocket { listener, socket } in sockets {
            let message = ToEar::Socket { number: listener.number, name: listener.name.as_deref() };
            self.tell(&message, Some(socket.as_fd()))?;
        }
        let file = seal(plan)?;
        let token = self.questions.token();
        self.tell(&ToEar::Prepare { token }, Some(file.as_fd()))?;
        Ok(token)
    }

    /// Waits until it is ready for the plan, then until it follows it, at the start of the daemon.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        let deadline = now().after(PATIENCE);
        let mut problem = None;
        loop {
            match self.next() {
                Ok(Some(Heard::Prepared { result, .. })) => {
                    result.map_err(io::Error::other)?;
                    self.commit()?;
                }
                Ok(Some(Heard::Committed)) => {
                    problem.iter().for_each(|problem| log::error!("the ear: {problem}"));
                    return Ok(());
                }
                // It may be its last word.
                Ok(Some(Heard::Problem(text))) => problem = Some(text),
                // Knocks that come before are not followed.
                Ok(Some(_)) => {}
                Ok(None) => self.child.channel.wait(PollFlags::IN, deadline).map_err(no_answer)?,
                Err(error) => return Err(problem.map_or(error, io::Error::other)),
            }
        }
    }

    /// Has it follow the plan that it is ready for. It says [`Heard::Committed`].
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        self.tell(&ToEar::Commit, None)
    }

    /// Has it forget the plan that it is ready for.
    pub(crate) fn abort(&mut self) -> io::Result<()> {
        self.tell(&ToEar::Abort, None)
    }

    /// A one-time sequence was used.
    pub(crate) fn follow_next(&mut self, next: &Next) -> io::Result<()> {
        let &Next { used, next, ref sequence } = next;
        self.tell(&ToEar::NextSequence { used, next, sequence: ports(sequence) }, None)
    }

    /// Whether somebody watches.
    pub(crate) fn trace(&mut self, watched: bool) -> io::Result<()> {
        self.tell(&ToEar::Trace(watched), None)
    }

    /// Asks it; [`Heard::Answered`] is the answer.
    pub(crate) fn ask(&mut self, asker: Asker) -> io::Result<()> {
        let token = self.questions.token();
        let message = match &asker {
            Asker::Explain(_, address) => ToEar::Explain { token, address: *address },
            Asker::Log(_) | Asker::Status(_) | Asker::Watchdog => ToEar::Ask { token },
        };
        self.tell(&message, None)?;
        self.questions.note(now(), token, asker);
        Ok(())
    }

    /// Asks whether a source still lacks the last knock of a rule, when all packets are read that have come so far.
    /// [`Heard::StillAlmost`] is the answer, with the token that is returned.
    pub(crate) fn ask_whether_almost(&mut self, rule: RuleKey, source: IpAddr) -> io::Result<u64> {
        let token = self.questions.token();
        self.tell(&ToEar::AskAlmost { token, rule, source }, None)?;
        Ok(token)
    }

    fn tell(&mut self, message: &ToEar<'_>, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.child.channel.send(message, descriptor)? {
            Sent::Yes => Ok(()),
            Sent::NoRoom => Err(io::Error::new(io::ErrorKind::WouldBlock, "the ear does not read its messages")),
        }
    }

    /// What it says next; `None` where nothing has arrived.
    ///
    /// # Errors
    ///
    /// Where it has ended, or says what no ear says.
    pub(crate) fn next(&mut self) -> io::Result<Option<Heard>> {
        let received = match self.child.channel.receive() {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.end(&error)),
        };
        let now = now();
        let heard = match decode(received.bytes).map_err(no_message)? {
            ToKeeper::Completed { rule, source } if self.requests.admit(now, REQUESTS, REQUEST) => {
                Heard::Completed { rule, source }
            }
            ToKeeper::Opened { source, packet } if self.requests.admit(now, REQUESTS, REQUEST) => {
                let packet = packet.try_into().map_err(no_message)?;
                Heard::Opened { source, packet }
            }
            ToKeeper::Completed { .. } | ToKeeper::Opened { .. } => {
                if self.problems.admit(now, PROBLEMS, PROBLEM) {
                    log::error!("the ear asks for more than {REQUESTS} things at once; what is more is ignored");
                }
                Heard::Nothing
            }
            ToKeeper::Almost { rule, source, until } => Heard::Almost { rule, source, until: Time::from_nanos(until) },
            ToKeeper::StillAlmost { token, source, until } => {
                Heard::StillAlmost { token, source, until: until.map(Time::from_nanos) }
            }
            ToKeeper::Confined(Confinement { protections, missing }) => {
                for missing in missing {
                    match missing {
                        // A second lock behind the system call filter, which lets no socket be opened either. The packaged
                        // unit permits no namespaces, as most services should not make any.
                        Missing::Network(_) if protections.system_call_filter => log::info!("the ear: {missing}"),
                        missing => log::warn!("the ear: {missing}"),
                    }
                }
                self.protections = protections;
                Heard::Nothing
            }
            ToKeeper::Prepared { token } => Heard::Prepared { token, result: Ok(()) },
            ToKeeper::NotPrepared { token, reason } => Heard::Prepared { token, result: Err(plain(reason)) },
            ToKeeper::Committed { coarse } => {
                if coarse {
                    log::warn!(
                        "there are too many knock ports for an exact kernel filter, or too little memory for it \
                         (sysctl net.core.optmem_max): packets to other ports wake the daemon too, which then ignores them"
                    );
                }
                Heard::Committed
            }
            ToKeeper::State { token, state } => {
                if state.not_sent > self.state.not_sent {
                    log::warn!(
                        "{} messages of the ear were lost, since knockd was busy",
                        state.not_sent - self.state.not_sent
                    );
                }
                self.state = state;
                self.answered(token, Explained::default())
            }
            ToKeeper::Meant(meant) => Heard::Meant(meant),
            ToKeeper::AtGuardedPort { source, port } => Heard::AtGuardedPort { source, port },
            ToKeeper::LeftOut(number) => Heard::LeftOut(number),
            ToKeeper::Explained { token, meant } => {
                // One explanation comes after the other.
                if self.explaining.0 != token {
                    self.explaining = (token, Vec::new());
                }
                if self.questions.has(token) && self.explaining.1.len() < STEPS {
                    self.explaining.1.push(meant);
                }
                Heard::Nothing
            }
            ToKeeper::ExplainedAll { token, since, left_out } => {
                let (explained, meant) = std::mem::take(&mut self.explaining);
                let meant = if explained == token { meant } else { Vec::new() };
                self.answered(token, Explained { meant, since, left_out })
            }
            ToKeeper::Problem(text) if self.problems.admit(now, PROBLEMS, PROBLEM) => Heard::Problem(plain(text)),
            ToKeeper::Problem(_) => Heard::Nothing,
        };
        Ok(Some(heard))
    }

    fn answered(&mut self, token: u64, explained: Explained) -> Heard {
        self.questions.answered(token).map_or(Heard::Nothing, |asker| Heard::Answered { asker, explained })
    }

    /// How it ended.
    fn end(&mut self, error: &io::Error) -> io::Error {
        match self.child.ended() {
            Some(status) => io::Error::other(format!("the ear has ended: {status}")),
            None => io::Error::other(format!("the ear cannot be heard: {error}")),
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

fn no_answer(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => io::Error::new(io::ErrorKind::TimedOut, "the ear does not answer"),
        _ => error,
    }
}

/// It is another program, or was taken over.
fn no_message(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("the ear says what is no message: {error}"))
}

/// A text without what would change a line of the log.
fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(300).collect()
}
