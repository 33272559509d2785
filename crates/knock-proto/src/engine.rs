//! The engine: packets in, completions out.

mod almost;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::packet::{Packet, RETRANSMITTED};
use crate::ports::PortSet;
use crate::recent::Recent;
use crate::sequence::{Run, SequenceTree, runs};
use crate::source::Requirement;
use crate::sources::{Key, Sources};
use crate::stage::Stages;
use crate::{Knock, Port, PortRange, Protocol, RuleId, TcpFlags, Time};

pub use almost::{Almost, LastKnock};

/// A rule as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is known by; no other rule has the same.
    pub id: RuleId,
    /// What has to be knocked, at most [`crate::SEQUENCE_MAX`]; empty: nothing triggers the rule.
    pub sequence: Vec<Knock>,
    /// The time from the first knock to the last.
    pub timeout: Duration,
    /// The TCP segments that count.
    pub tcp_flags: TcpFlags,
    /// The destinations of which each knock must have one, in ascending order; none: any address of this host.
    pub targets: Vec<IpAddr>,
}

/// A source has knocked the whole sequence of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Completion {
    /// The rule that was completed.
    pub rule: RuleId,
    /// The address that knocked.
    pub source: IpAddr,
}

/// What bounds the engine and what it watches beside the knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sources that are remembered, at least 1.
    pub sources: usize,
    /// Whether the neighbours of knock ports reset a source's progress.
    pub tripwires: bool,
    /// Ports that are guarded: never tripwires, since a client connects to them after its knock.
    pub guarded: Vec<PortRange>,
}

/// What has happened since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that were knocks.
    pub knocks: u64,
    /// Packets that were known already.
    pub retransmissions: u64,
    /// Packets that touched a tripwire.
    pub tripwires: u64,
    /// Sources that lost their place for another one.
    pub evicted: u64,
    /// Sequences that were completed.
    pub completed: u64,
    /// Packets that were nothing of these: for another host, with other flags, to another port.
    pub ignored: u64,
}

/// Ports that the capture has to hand over, and the flags that a segment to them must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The TCP segments; UDP ports are watched whatever this says.
    pub tcp_flags: TcpFlags,
    /// Knock ports and tripwires, sorted.
    pub ports: Vec<Knock>,
}

/// The rules that look at the same packets.
#[derive(Debug)]
struct Track {
    /// Those of rules that a reload leaves keep their number, by which sources name them.
    number: u32,
    tcp_flags: TcpFlags,
    targets: Vec<IpAddr>,
    tree: SequenceTree,
}

impl Track {
    /// Whether its rules look at a packet that is addressed to them.
    fn accepts(&self, packet: &Packet) -> bool {
        packet.knock.protocol == Protocol::Udp || self.tcp_flags.matches(packet.tcp_flags)
    }
}

#[derive(Debug)]
struct Matcher {
    rule: Rule,
    runs: Vec<Run>,
    /// The rule counts knocks after this only: what was knocked before it was changed is not for it.
    since: Option<Time>,
}

/// Follows the knocks of every source.
///
/// All rules progress side by side. The state is a function of the packets and the times that
/// [`Engine::handle`] was given.
#[derive(Debug)]
pub struct Engine {
    /// By a number that no other rule has ever had, so that what a source has completed needs no renumbering.
    matchers: HashMap<u64, Matcher>,
    next_matcher: u64,
    next_track: u32,
    /// Sorted by their targets.
    tracks: Vec<Track>,
    /// The tracks of each target, those of one target in a row.
    targeted: Vec<usize>,
    /// Where the tracks of a target are in that list; `None`: of any address of this host. Keyed by an unknown key
    /// (SipHash): the destination is the sender's choice.
    by_target: HashMap<Option<IpAddr>, Range<usize>>,
    knock_ports: PortSet,
    tripwires: PortSet,
    sources: Sources,
    recent: Recent,
    capacity: usize,
    longest_timeout: Duration,
    seen_most: usize,
    counters: Counters,
}

impl Engine {
    /// An engine that nobody has knocked at yet.
    pub fn new(rules: Vec<Rule>, settings: &Settings) -> Engine {
        let mut engine = Engine {
            matchers: HashMap::new(),
            next_matcher: 0,
            next_track: 0,
            tracks: Vec::new(),
            targeted: Vec::new(),
            by_target: HashMap::new(),
            knock_ports: PortSet::default(),
            tripwires: PortSet::default(),
            sources: Sources::new(settings.sources),
            recent: Recent::new(settings.sources),
            capacity: settings.sources,
            longest_timeout: Duration::ZERO,
            seen_most: 0,
            counters: Counters::default(),
        };
        engine.compile(rules, None, settings);
        engine
    }

    /// Follows other rules. Knocks that are under way go on for each rule that has the same id and looks for the same
    /// knocks as before; for the others only what is knocked after `now` counts.
    pub fn reconfigure(&mut self, now: Time, rules: Vec<Rule>, settings: &Settings) {
        if self.capacity != settings.sources {
            self.sources = Sources::new(settings.sources);
            self.recent.resize(settings.sources);
            self.capacity = settings.sources;
        }
        self.compile(rules, Some(now), settings);
    }

    /// `since`: rules that were not there before count knocks after this only.
    fn compile(&mut self, rules: Vec<Rule>, since: Option<Time>, settings: &Settings) {
        let before = std::mem::take(&mut self.matchers).into_iter();
        let mut before: HashMap<RuleId, (u64, Matcher)> =
            before.map(|(number, matcher)| (matcher.rule.id.clone(), (number, matcher))).collect();
        let mut numbers = Vec::with_capacity(rules.len());
        for rule in rules {
            let (number, since) = match before.remove(&rule.id) {
                Some((number, matcher)) if matcher.rule.looks_for_the_same(&rule) => (number, matcher.since),
                _ => {
                    self.next_matcher += 1;
                    (self.next_matcher, since)
                }
            };
            numbers.push(number);
            self.matchers.insert(number, Matcher { runs: runs(&rule.sequence), rule, since });
        }

        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for &number in &numbers {
            let rule = &self.matchers[&number].rule;
            kinds.entry((rule.targets.clone(), rule.tcp_flags)).or_default().push((number, rule.sequence.as_slice()));
        }
        let before: HashMap<_, u32> =
            self.tracks.drain(..).map(|track| ((track.targets, track.tcp_flags), track.number)).collect();
        for (kind, sequences) in kinds {
            let number = before.get(&kind).copied().unwrap_or_else(|| {
                self.next_track += 1;
                self.next_track
            });
            let (targets, tcp_flags) = kind;
            self.tracks.push(Track { number, tcp_flags, targets, tree: SequenceTree::new(sequences) });
        }
        let mut targeted: Vec<(Option<IpAddr>, usize)> = Vec::new();
        for (index, track) in self.tracks.iter().enumerate() {
            let any = track.targets.is_empty().then_some((None, index));
            targeted.extend(any.into_iter().chain(track.targets.iter().map(|&target| (Some(target), index))));
        }
        targeted.sort_unstable();
        self.by_target.clear();
        for (place, &(target, _)) in targeted.iter().enumerate() {
            self.by_target.entry(target).or_insert(place..place).end = place + 1;
        }
        self.targeted = targeted.into_iter().map(|(_, track)| track).collect();
        let rules = || self.matchers.values().map(|matcher| &matcher.rule);

        self.knock_ports = PortSet::default();
        self.tripwires = PortSet::default();
        rules().flat_map(|rule| &rule.sequence).for_each(|&knock| self.knock_ports.insert(knock));
        if settings.tripwires {
            let mut guarded = PortSet::default();
            settings.guarded.iter().flat_map(|range| range.ports()).for_each(|port| guarded.insert(port.knock()));
            for knock in self.knock_ports.iter() {
                for port in [knock.port.checked_sub(1), knock.port.checked_add(1)].into_iter().flatten() {
                    let neighbour = Knock { port, ..knock };
                    if port != 0 && !self.knock_ports.contains(neighbour) && !guarded.contains(neighbour) {
                        self.tripwires.insert(neighbour);
                    }
                }
            }
        }
        self.longest_timeout = rules().map(|rule| rule.timeout).max().unwrap_or_default();
        self.seen_most = 2 + 2 * rules().map(|rule| rule.sequence.len()).max().unwrap_or_default();
    }

    /// What the capture has to hand over: knock ports and tripwires, for each kind of TCP segment that any rule
    /// looks for.
    pub fn watches(&self) -> Vec<Watch> {
        let ports: Vec<Knock> = self.knock_ports.iter().chain(self.tripwires.iter()).collect();
        let mut watches: Vec<Watch> = Vec::new();
        for track in &self.tracks {
            if !watches.iter().any(|watch| watch.tcp_flags == track.tcp_flags) {
                let mut ports = ports.clone();
                ports.sort_unstable();
                watches.push(Watch { tcp_flags: track.tcp_flags, ports });
            }
        }
        watches
    }

    /// Whether that is a knock port or a tripwire.
    pub fn concerns(&self, knock: Knock) -> bool {
        self.knock_ports.contains(knock) || self.tripwires.contains(knock)
    }

    /// As [`Engine::watches`], for a look at what clients do wrong: knock ports by the other transport protocol too, and the
    /// guarded TCP ports.
    pub fn watches_of_mistakes(&self, guarded: &[PortRange]) -> Vec<Watch> {
        let mut watches = self.watches();
        for watch in &mut watches {
            let tcp = guarded.iter().filter(|range| range.protocol == Protocol::Tcp);
            let tcp = tcp.flat_map(|range| range.ports()).map(Port::knock);
            watch.ports.extend(self.knock_ports.iter().map(Knock::by_other_protocol).chain(tcp));
            watch.ports.sort_unstable();
            watch.ports.dedup();
        }
        watches
    }

    /// Looks at a packet; `local` tells whether its destination is an address of this host. Each rule that it completes is
    /// appended to `completions`, in the order of the rules. Returns how many different ports in a row the source has
    /// knocked that begin a sequence, this packet included.
    ///
    /// Ignored packets cost no allocation.
    pub fn handle(&mut self, now: Time, packet: &Packet, local: bool, completions: &mut Vec<Completion>) -> u8 {
        let mut progress = 0;
        let is_knock = self.knock_ports.contains(packet.knock);
        let mut looked_at = false;
        let mut counted_before = None;
        if is_knock || self.tripwires.contains(packet.knock) {
            for target in [local.then_some(None), Some(Some(packet.destination))].into_iter().flatten() {
                for place in self.by_target.get(&target).cloned().unwrap_or_default() {
                    let track = self.targeted[place];
                    if self.tracks[track].accepts(packet) {
                        looked_at = true;
                        // Asked once, before any rule counts it.
                        let known = counted_before.get_or_insert_with(|| {
                            self.recent.knows(now, packet.source, packet.knock, packet.identity)
                        });
                        if *known && is_knock {
                            self.counters.retransmissions += 1;
                            continue;
                        }
                        progress = self.handle_in_track(now, packet, track, is_knock, completions).max(progress);
                    }
                }
            }
        }
        self.counters.ignored += u64::from(!looked_at);
        progress
    }

    fn handle_in_track(
        &mut self,
        now: Time,
        packet: &Packet,
        track: usize,
        is_knock: bool,
        completions: &mut Vec<Completion>,
    ) -> u8 {
        let Self { matchers, sources, recent, counters, longest_timeout, seen_most, .. } = self;
        let track = &self.tracks[track];
        let tree = &track.tree;
        let key = Key { address: packet.source, track: track.number };
        let place = match sources.find(&key) {
            Some(place) => place,
            None if is_knock && tree.walk([packet.knock]).is_some() => {
                let (place, evicted) = sources.add(key, now, *longest_timeout);
                counters.evicted += u64::from(evicted);
                place
            }
            None => {
                // Of a source of which nothing is known, neither a tripwire nor the middle of a sequence says anything.
                counters.knocks += u64::from(is_knock);
                counters.tripwires += u64::from(!is_knock);
                return 0;
            }
        };
        sources.update(place, |source| {
            if source.is_retransmission(now, packet, !is_knock, *seen_most) {
                counters.retransmissions += 1;
                return source.progress();
            }
            if !is_knock {
                counters.tripwires += 1;
                source.trip(now);
                return 0;
            }
            counters.knocks += 1;
            let requirement = |number: u64| {
                let Matcher { rule, runs, since } = &matchers[&number];
                Requirement { runs, timeout: rule.timeout, since: *since }
            };
            let counted = source.knock(now, packet.knock, packet.identity, tree, requirement, |number| {
                counters.completed += 1;
                completions.push(Completion { rule: matchers[&number].rule.id.clone(), source: packet.source });
            });
            for (knock, identity) in counted {
                recent.note(now, packet.source, knock, identity);
            }
            source.progress()
        })
    }

    /// Forgets the sources of which nothing can come any more, retransmissions included.
    pub fn forget_silent(&mut self, now: Time) {
        self.sources.forget_silent(now, self.silence());
        self.recent.forget_old(now);
    }

    /// When [`Engine::forget_silent`] has something to do; `None` while nothing is remembered.
    pub fn next_silent(&self) -> Option<Time> {
        [self.sources.next_silent(self.silence()), self.recent.next_old()].into_iter().flatten().min()
    }

    /// After how long a source has no progress any more and retransmits nothing.
    fn silence(&self) -> Duration {
        self.longest_timeout.max(RETRANSMITTED)
    }

    /// How far a source is with each rule of which it has knocked the beginning, by what counts at `now`. It costs time for
    /// each rule, so it is for a look at a few packets only.
    pub(crate) fn stages(&self, now: Time, source: IpAddr) -> Stages {
        let mut stages = Stages::new();
        for track in &self.tracks {
            let Some(place) = self.sources.find(&Key { address: source, track: track.number }) else { continue };
            let source = self.sources.get(place);
            for Matcher { rule, runs, since } in self.matchers.values() {
                if (&rule.targets, rule.tcp_flags) == (&track.targets, track.tcp_flags)
                    && let Some(stage) = source.stage(now, &Requirement { runs, timeout: rule.timeout, since: *since })
                {
                    stages.insert(rule.id.clone(), stage);
                }
            }
        }
        stages
    }

    /// The sources that are remembered.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl Rule {
    fn looks_for_the_same(&self, other: &Rule) -> bool {
        (&self.sequence, self.tcp_flags, &self.targets) == (&other.sequence, other.tcp_flags, &other.targets)
    }
}
