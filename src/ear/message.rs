//! The messages between keeper and ear. The ear believes the keeper; the keeper checks everything that the ear says.

use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Meaning, NotCounted, Reset, Step, Time};
use serde::{Deserialize, Serialize};

use crate::ear::plan::{Port, RuleKey};
use crate::os::privileges::Confinement;

/// What the keeper tells the ear.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToEar<'m> {
    /// With the descriptor of `LinkSockets::changes`. The first message.
    LinkChanges,
    /// With that of `LinkSockets::dumps`. The second.
    LinkDumps,
    /// With a packet socket, for the interface of that name or pattern, or for every one. The next plan uses it.
    Socket { number: u32, name: Option<&'m str> },
    /// With a sealed plan: receive the packets of both plans. The answer is [`ToKeeper::Prepared`] or
    /// [`ToKeeper::NotPrepared`], with that token.
    Prepare { token: u64 },
    /// Follow the plan that was prepared. The answer is [`ToKeeper::Committed`].
    Commit,
    /// Forget it.
    Abort,
    /// The one-time sequence of a rule was used; that is the next one, by which the rule has another key.
    NextSequence { used: RuleKey, next: RuleKey, sequence: Vec<Port> },
    /// Say what packets mean from now on, or no longer.
    Trace(bool),
    /// Say how things stand: [`ToKeeper::State`].
    Ask { token: u64 },
    /// Read every packet that has come so far, and say whether the source still lacks the last knock of that rule:
    /// [`ToKeeper::StillAlmost`].
    AskAlmost { token: u64, rule: RuleKey, source: IpAddr },
    /// Say what the packets of a source meant: [`ToKeeper::Explained`] for each step, then [`ToKeeper::ExplainedAll`].
    Explain { token: u64, address: IpAddr },
}

/// What the ear says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToKeeper<'m> {
    /// The first message: its protections, and which of them cannot be had here.
    Confined(Confinement),
    /// The plan can be committed.
    Prepared { token: u64 },
    /// Why not. Everything is as before.
    NotPrepared { token: u64, reason: &'m str },
    /// The plan is followed: its knocks are heard. `coarse`: the kernel filter lets packets to other ports pass too.
    Committed { coarse: bool },
    /// A source has completed a rule.
    Completed { rule: RuleKey, source: IpAddr },
    /// A source has sent a signed packet, which was opened and is not verified: `Opened::hand_over`.
    Opened { source: IpAddr, packet: &'m [u8] },
    /// How things stand.
    State { token: u64, state: State },
    /// What a packet meant, while somebody watches.
    Meant(Meant),
    /// A packet came to a guarded port, while somebody watches.
    AtGuardedPort { source: IpAddr, port: Port },
    /// That many packets are not shown, because too many came at once.
    LeftOut(u64),
    /// What a packet of a source that the keeper asked for meant.
    Explained { token: u64, meant: Meant },
    /// That is all of it; how long ago the first packet came that is kept of any source, and how many were not kept.
    ExplainedAll { token: u64, since: Option<Duration>, left_out: u64 },
    /// Something does not work.
    Problem(&'m str),
    /// A source lacks the last knock of a rule with a door, until that time, in nanoseconds.
    Almost { rule: RuleKey, source: IpAddr, until: u64 },
    /// Until when it does; `None`: not any more, or there were too many packets to read.
    StillAlmost { token: u64, source: IpAddr, until: Option<u64> },
}

/// How things stand with the ear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Packets that passed the kernel filter, and those of them that were lost because the queue was full.
    pub(crate) kernel_received: u64,
    pub(crate) kernel_dropped: u64,
    /// Packets that the sockets delivered.
    pub(crate) packets: u64,
    /// Packets that were no TCP segment or UDP datagram for a host.
    pub(crate) malformed: u64,
    /// Sources that are remembered.
    pub(crate) sources: u64,
    /// See [`knock_proto::Counters`].
    pub(crate) ignored: u64,
    pub(crate) knocks: u64,
    pub(crate) retransmissions: u64,
    pub(crate) tripwires: u64,
    pub(crate) evicted: u64,
    pub(crate) completed: u64,
    /// Datagrams to the ports of signed packets that have the length of one.
    pub(crate) signed_received: u64,
    /// … those that no known key and cover has sealed.
    pub(crate) signed_foreign: u64,
    /// … those that were not handed over, because there were too many.
    pub(crate) signed_over_budget: u64,
    /// What was not sent because the keeper did not read.
    pub(crate) not_sent: u64,
}

/// What a packet meant for a rule: [`knock_proto::Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meant {
    pub(crate) at: u64,
    pub(crate) source: IpAddr,
    pub(crate) rule: RuleKey,
    pub(crate) knocked: u8,
    pub(crate) of: u8,
    pub(crate) what: What,
}

/// [`knock_proto::Meaning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Knock,
    Completed,
    Tripwire,
    WrongOrder,
    OtherRule,
    TooSlow { took: Duration, timeout: Duration },
    Retransmission,
    Repeated,
    WrongProtocol,
    OtherDestination,
}

impl Meant {
    pub(crate) fn new(step: &Step, rule: RuleKey) -> Meant {
        let count = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        let what = match step.meaning {
            Meaning::Knock => What::Knock,
            Meaning::Completed => What::Completed,
            Meaning::Reset(Reset::Tripwire) => What::Tripwire,
            Meaning::Reset(Reset::WrongOrder) => What::WrongOrder,
            Meaning::Reset(Reset::OtherRule) => What::OtherRule,
            Meaning::Reset(Reset::TooSlow { took, timeout }) => What::TooSlow { took, timeout },
            Meaning::Ignored(NotCounted::Retransmission) => What::Retransmission,
            Meaning::Ignored(NotCounted::Repeated) => What::Repeated,
            Meaning::Ignored(NotCounted::WrongProtocol) => What::WrongProtocol,
            Meaning::Ignored(NotCounted::OtherDestination) => What::OtherDestination,
        };
        let (knocked, of) = (count(step.knocked), count(step.of));
        Meant { at: step.at.as_nanos(), source: step.source, rule, knocked, of, what }
    }

    /// When the packet came.
    pub(crate) fn time(&self) -> Time {
        Time::from_nanos(self.at)
    }
}
