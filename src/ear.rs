//! The ear: the process that reads strangers' packets, and has no privilege. What it needs it is handed by the keeper, and
//! what it has heard it can only ask the keeper for: a knock, or a packet that it cannot verify.

mod last_knocks;
pub(crate) mod listener;
pub(crate) mod message;
mod packet_source;
pub(crate) mod plan;
mod signed;
mod tracing;

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::ExitCode;

use knock_capture::{LinkSockets, Links};
use knock_proto::{Completion, Engine, Packet, Protocol, Rule, RuleId, Settings, Time};

use crate::os::channel::{Channel, Sent, decode, is_end, of_parent, unseal};
use crate::os::clock::{now, unix_now};
use crate::os::poller::Poller;
use crate::os::privileges::confine_ear;
use crate::os::signals;
use last_knocks::LastKnocks;
use message::{State, ToEar, ToKeeper};
use packet_source::{PacketSource, Wanted};
use plan::{Plan, RuleKey, knocks};
use signed::{Look, SignedPackets};
use tracing::Tracing;

/// Packets that are taken from one socket before the others, and the keeper, have their turn.
const PACKETS_IN_A_ROW: usize = 512;
/// Packets that are taken from all sockets before a question is answered: where there are more, they are too many.
const PACKETS_BEFORE_ANSWER: usize = 4096;
/// The longest text in a message, in bytes.
const TEXT_MAX: usize = 300;
/// Messages that are taken before packets have their turn.
const MESSAGES_IN_A_ROW: usize = 64;

/// The events that the loop waits for.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Keeper,
    Links,
    Socket(u32),
}

/// A plan that can be committed.
struct Prepared {
    rules: Vec<Rule>,
    settings: Settings,
    signed: Option<SignedPackets>,
    doors: Vec<RuleId>,
    wanted: Wanted,
    sockets: Vec<u32>,
}

/// Everything that the ear holds.
struct Ear {
    channel: Channel<BorrowedFd<'static>>,
    /// The first of both sockets for links, until there is the other.
    changes: Option<OwnedFd>,
    /// `None` until both have come.
    packets: Option<PacketSource>,
    rules: Vec<Rule>,
    settings: Settings,
    engine: Engine,
    signed: Option<SignedPackets>,
    last_knocks: LastKnocks,
    prepared: Option<Prepared>,
    tracing: Tracing,
    completions: Vec<Completion>,
    received: u64,
    malformed: u64,
    counters: signed::Counters,
    not_sent: u64,
}

/// The process `knockd: ear`.
pub(crate) fn main() -> ExitCode {
    // There is no log here: the keeper has it. It ends with this process.
    std::panic::set_hook(Box::new(|panic| {
        let _ = of_parent().send(&ToKeeper::Problem(short(&panic.to_string())), None);
    }));
    match run() {
        // The keeper has ended.
        Err(error) if is_end(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = of_parent().send(&ToKeeper::Problem(short(&error.to_string())), None);
            ExitCode::FAILURE
        }
        Ok(never) => match never {},
    }
}

fn run() -> io::Result<std::convert::Infallible> {
    let mut channel = of_parent();
    signals::leave_to_keeper()?;
    // The first look at the clock asks the kernel where the vDSO is (vdso(7)), by a call that the filter does not know.
    let _ = now();
    let confinement = confine_ear().map_err(io::Error::other)?;
    channel.send(&ToKeeper::Confined(confinement), None)?;
    let settings = Settings { sources: 1, tripwires: false, guarded: Vec::new() };
    let engine = Engine::new(Vec::new(), &settings);
    let mut ear = Ear {
        channel,
        changes: None,
        packets: None,
        rules: Vec::new(),
        last_knocks: LastKnocks::new(Vec::new(), &engine),
        engine,
        settings,
        signed: None,
        prepared: None,
        tracing: Tracing::default(),
        completions: Vec::new(),
        received: 0,
        malformed: 0,
        counters: signed::Counters::default(),
        not_sent: 0,
    };
    let mut poller = Poller::new()?;
    poller.watch(rustix::stdio::stdin(), Ready::Keeper)?;
    loop {
        poller.wait([ear.engine.next_silent(), ear.tracing.next_summary()].into_iter().flatten().min())?;
        while let Some(ready) = poller.next() {
            match ready {
                Ready::Keeper => ear.listen_to_keeper(&mut poller)?,
                Ready::Links => ear.follow_links()?,
                Ready::Socket(socket) => {
                    if ear.drain(socket, PACKETS_IN_A_ROW)?.1 {
                        ear.tell_who_is_near()?;
                    }
                }
            }
        }
        ear.tick(now())?;
    }
}

impl Ear {
    /// Tells the keeper something.
    ///
    /// # Errors
    ///
    /// Where it has ended. One that does not read is not waited for.
    fn tell(&mut self, message: &ToKeeper<'_>) -> io::Result<()> {
        if self.channel.send(message, None)? == Sent::NoRoom {
            self.not_sent += 1;
        }
        Ok(())
    }

    fn tell_problem(&mut self, result: Result<(), impl std::fmt::Display>) -> io::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.tell(&ToKeeper::Problem(short(&error.to_string()))),
        }
    }

    fn listen_to_keeper(&mut self, poller: &mut Poller<Ready>) -> io::Result<()> {
        for _ in 0..MESSAGES_IN_A_ROW {
            let mut bytes = [0; crate::os::channel::MESSAGE_MAX];
            let Some(received) = self.channel.receive()? else { return Ok(()) };
            let (length, descriptor) = (received.bytes.len(), received.descriptor);
            bytes[..length].copy_from_slice(received.bytes);
            self.follow(decode(&bytes[..length])?, descriptor, poller)?;
        }
        Ok(())
    }

    fn follow(
        &mut self,
        message: ToEar<'_>,
        descriptor: Option<OwnedFd>,
        poller: &mut Poller<Ready>,
    ) -> io::Result<()> {
        match (message, descriptor) {
            (ToEar::LinkChanges, Some(changes)) => self.changes = Some(changes),
            (ToEar::LinkDumps, Some(dumps)) => {
                let Some(changes) = self.changes.take() else { return Err(unexpected()) };
                let links = Links::new(LinkSockets { changes, dumps }).map_err(io::Error::other)?;
                poller.watch(&links, Ready::Links)?;
                self.packets = Some(PacketSource::new(links));
            }
            (ToEar::Socket { number, name }, Some(socket)) => {
                let name = name.map(|name| name.parse().map_err(io::Error::other)).transpose()?;
                self.packets()?.add(number, name, socket).map_err(io::Error::other)?;
            }
            (ToEar::Prepare { token }, Some(plan)) => match self.prepare(&plan)? {
                Ok(()) => self.tell(&ToKeeper::Prepared { token })?,
                Err(reason) => {
                    self.tell(&ToKeeper::NotPrepared { token, reason: short(&reason) })?;
                }
            },
            (ToEar::Commit, None) => {
                self.commit()?;
                let packets = self.packets()?;
                for socket in packets.sockets() {
                    poller.watch(socket.capture(), Ready::Socket(socket.number()))?;
                }
                let coarse = packets.is_coarse();
                self.tell(&ToKeeper::Committed { coarse })?;
            }
            (ToEar::Abort, None) => {
                self.prepared = None;
                let aborted = self.packets()?.abort();
                self.tell_problem(aborted)?;
            }
            (ToEar::NextSequence { used, next, sequence }, None) => {
                let changed = self.rules.iter_mut().find(|rule| plan::key(rule) == used);
                let (Some(rule), Some(sequence)) = (changed, knocks(&sequence)) else { return Ok(()) };
                rule.sequence = sequence;
                debug_assert_eq!(plan::key(rule), next);
                self.rules_have_changed()?;
            }
            (ToEar::Trace(true), None) => {
                self.tracing.begin(now(), &self.rules, &self.settings);
                self.receive_wanted()?;
            }
            (ToEar::Trace(false), None) => {
                self.tracing.end();
                self.receive_wanted()?;
            }
            (ToEar::Ask { token }, None) => {
                // What the kernel has told about links so far is done then.
                self.follow_links()?;
                let state = self.state()?;
                self.tell(&ToKeeper::State { token, state })?;
            }
            (ToEar::AskAlmost { token, rule, source }, None) => {
                let until = if self.drain_all()? { self.still_almost(rule, source) } else { None };
                self.tell(&ToKeeper::StillAlmost { token, source, until: until.map(Time::as_nanos) })?;
                self.tell_who_is_near()?;
            }
            (ToEar::Explain { token, address }, None) => {
                for meant in self.tracing.explain(address, &self.rules, &self.settings) {
                    self.tell(&ToKeeper::Explained { token, meant })?;
                }
                let (since, left_out) = (self.tracing.since(now()), self.tracing.not_kept());
                self.tell(&ToKeeper::ExplainedAll { token, since, left_out })?;
            }
            _ => return Err(unexpected()),
        }
        Ok(())
    }

    fn packets(&mut self) -> io::Result<&mut PacketSource> {
        self.packets.as_mut().ok_or_else(unexpected)
    }

    /// Reads a plan, and receives its packets too from now on.
    fn prepare(&mut self, file: &OwnedFd) -> io::Result<Result<(), String>> {
        let mut plan: Plan = unseal(file)?;
        let (rules, settings) = plan.engine().ok_or_else(unexpected)?;
        let wall = unix_now();
        let signed = match plan.signed.take() {
            Some(signed) => Some(SignedPackets::new(signed, wall).ok_or_else(unexpected)?),
            None => None,
        };
        let watches = Engine::new(rules.clone(), &settings).watches();
        let wanted = Wanted { watches, whole: signed.as_ref().map(SignedPackets::datagrams) };
        if let Err(error) = self.packets()?.prepare(&wanted) {
            return Ok(Err(error.to_string()));
        }
        let doors = plan.doors();
        self.prepared = Some(Prepared { rules, settings, signed, doors, wanted, sockets: plan.sockets });
        Ok(Ok(()))
    }

    /// Follows the plan that was prepared. Progress is kept for rules that do not change.
    fn commit(&mut self) -> io::Result<()> {
        let prepared = self.prepared.take().ok_or_else(unexpected)?;
        let Prepared { rules, settings, mut signed, doors, wanted, sockets } = prepared;
        if let (Some(signed), Some(before)) = (&mut signed, self.signed.take()) {
            signed.take_memory_of(before);
        }
        self.engine.reconfigure(now(), rules.clone(), &settings);
        self.last_knocks = LastKnocks::new(doors, &self.engine);
        (self.rules, self.settings, self.signed) = (rules, settings, signed);
        self.tracing.rules_have_changed(&self.rules, &self.settings);
        let wanted = if self.tracing.is_active() { self.wanted() } else { wanted };
        let committed = self.packets()?.commit(wanted, &sockets);
        self.tell_problem(committed)
    }

    /// The packets that are received: more of them while somebody watches.
    fn wanted(&self) -> Wanted {
        let watches = match self.tracing.is_active() {
            true => self.engine.watches_of_mistakes(&self.settings.guarded),
            false => self.engine.watches(),
        };
        Wanted { watches, whole: self.signed.as_ref().map(SignedPackets::datagrams) }
    }

    fn receive_wanted(&mut self) -> io::Result<()> {
        let wanted = self.wanted();
        let received = self.packets()?.receive(wanted);
        self.tell_problem(received)
    }

    /// Follows the rules, of which one has another sequence.
    fn rules_have_changed(&mut self) -> io::Result<()> {
        self.engine.reconfigure(now(), self.rules.clone(), &self.settings);
        self.tracing.rules_have_changed(&self.rules, &self.settings);
        self.receive_wanted()
    }

    fn follow_links(&mut self) -> io::Result<()> {
        let followed = self.packets()?.follow();
        self.tell_problem(followed)
    }

    /// Takes so many packets from a socket at most, and tells the keeper at once what follows. Returns how many there were, and
    /// whether none are left.
    fn drain(&mut self, socket: u32, most: usize) -> io::Result<(usize, bool)> {
        for taken in 0..most {
            let next = match &mut self.packets {
                Some(packets) => packets.next(socket),
                None => return Ok((taken, true)),
            };
            let (bytes, links) = match next {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok((taken, true)),
                Err(error) => {
                    self.tell_problem(Err(error))?;
                    return Ok((taken, false));
                }
            };
            self.received += 1;
            let Ok(packet) = knock_proto::parse(bytes) else {
                self.malformed += 1;
                continue;
            };
            let (at, local) = (now(), links.is_local(packet.destination));
            if let Some(signed) = self.signed.as_mut().filter(|signed| local && signed.concerns(packet.knock))
                && let Some(payload) = knock_proto::udp_payload(bytes)
            {
                match signed.look(at, unix_now(), payload, &mut self.counters) {
                    Look::Foreign => {}
                    Look::Dropped => continue,
                    Look::Opened(opened) => {
                        self.tell(&ToKeeper::Opened { source: packet.source, packet: &opened[..] })?;
                        continue;
                    }
                }
            }
            self.hear(at, &packet, local)?;
        }
        Ok((most, false))
    }

    /// Takes all packets that have come so far, from each socket. Returns whether it has.
    fn drain_all(&mut self) -> io::Result<bool> {
        let sockets: Vec<u32> = self.packets()?.sockets().iter().map(packet_source::PacketSocket::number).collect();
        let mut room = PACKETS_BEFORE_ANSWER;
        for socket in sockets {
            let (taken, is_empty) = self.drain(socket, room)?;
            if !is_empty {
                return Ok(false);
            }
            room -= taken;
        }
        Ok(true)
    }

    /// Tells the keeper which sources lack one knock, of those that have knocked since.
    fn tell_who_is_near(&mut self) -> io::Result<()> {
        if !self.last_knocks.is_somebody_near() {
            return Ok(());
        }
        for (source, almost) in self.last_knocks.take(now(), &self.engine) {
            if let Some(rule) = self.tracing.key(&almost.rule) {
                self.tell(&ToKeeper::Almost { rule, source, until: almost.until.as_nanos() })?;
            }
        }
        Ok(())
    }

    /// Until when a source lacks the last knock of that rule; `None`: it does not.
    fn still_almost(&self, rule: RuleKey, source: IpAddr) -> Option<Time> {
        let almost = self.last_knocks.almost(now(), &self.engine, source)?;
        (self.tracing.key(&almost.rule) == Some(rule)).then_some(almost.until)
    }

    /// Follows the knocks of a source. Who watches sees the knock before what follows from it.
    fn hear(&mut self, at: Time, packet: &Packet, local: bool) -> io::Result<()> {
        let knocked = self.engine.handle(at, packet, local, &mut self.completions);
        self.last_knocks.note(packet.source, knocked);
        if self.tracing.is_active() {
            self.show(at, packet, local, knocked)?;
            return self.tell_completions();
        }
        self.tell_completions()?;
        if self.engine.concerns(packet.knock) {
            self.tracing.note(at, packet, local, knocked);
        }
        Ok(())
    }

    fn tell_completions(&mut self) -> io::Result<()> {
        // Almost always there is none.
        for Completion { rule, source } in std::mem::take(&mut self.completions) {
            if let Some(rule) = self.tracing.key(&rule) {
                self.tell(&ToKeeper::Completed { rule, source })?;
            }
        }
        Ok(())
    }

    /// Tells what a packet meant.
    fn show(&mut self, at: Time, packet: &Packet, local: bool, knocked: u8) -> io::Result<()> {
        let Some(meant) = self.tracing.note(at, packet, local, knocked) else { return Ok(()) };
        for meant in meant {
            self.tell(&ToKeeper::Meant(meant))?;
        }
        let port = knock_proto::Port { protocol: packet.knock.protocol, number: packet.knock.port };
        if local && self.settings.guarded.iter().any(|range| range.contains(port)) {
            let port = (Protocol::number(packet.knock.protocol), packet.knock.port);
            self.tell(&ToKeeper::AtGuardedPort { source: packet.source, port })?;
        }
        Ok(())
    }

    fn state(&mut self) -> io::Result<State> {
        let (engine, sources) = (self.engine.counters(), self.engine.sources() as u64);
        let signed = self.counters;
        let statistics = self.packets()?.statistics();
        let kernel = statistics.as_ref().map_or_else(|_| knock_capture::Statistics::default(), |known| *known);
        self.tell_problem(statistics.map(|_| ()))?;
        Ok(State {
            kernel_received: kernel.received,
            kernel_dropped: kernel.dropped,
            packets: self.received,
            malformed: self.malformed,
            sources,
            ignored: engine.ignored,
            knocks: engine.knocks,
            retransmissions: engine.retransmissions,
            tripwires: engine.tripwires,
            evicted: engine.evicted,
            completed: engine.completed,
            signed_received: signed.received,
            signed_foreign: signed.foreign,
            signed_over_budget: signed.over_budget,
            not_sent: self.not_sent,
        })
    }

    /// Does what is due.
    fn tick(&mut self, now: Time) -> io::Result<()> {
        if self.engine.next_silent().is_some_and(|due| due <= now) {
            self.engine.forget_silent(now);
        }
        match self.tracing.summary(now) {
            Some(left_out) => self.tell(&ToKeeper::LeftOut(left_out)),
            None => Ok(()),
        }
    }
}

/// As much of a text as there is room for in a message.
fn short(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A message that this keeper would not send: it is another version, or another program.
fn unexpected() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "an unexpected message from the keeper")
}
