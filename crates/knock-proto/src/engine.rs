//! The engine: packets in, effects out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::packet::Packet;
use crate::ports::PortSet;
use crate::sequence::{Run, SequenceTree, runs};
use crate::source::Requirement;
use crate::sources::{Key, Sources};
use crate::{Knock, Protocol, TcpFlags, Time};

/// A rule as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What has to be knocked, at most [`crate::SEQUENCE_MAX`]; empty: nothing triggers the rule.
    pub sequence: Vec<Knock>,
    /// The time from the first knock to the last.
    pub timeout: Duration,
    /// The TCP segments that count.
    pub tcp_flags: TcpFlags,
    /// The destination that each knock must have; `None`: any address of this host.
    pub target: Option<IpAddr>,
    /// What follows.
    pub actions: Actions,
}

/// What follows when a rule is completed. All that are set apply, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// The sequence is used up by this.
    pub spend: bool,
    /// The rule of that index loses its grant.
    pub revoke: Option<usize>,
    /// The address is granted what the rule allows.
    pub grant: bool,
    /// The rule's command runs.
    pub run: bool,
}

/// What the daemon has to do, for the rule of that index and the address that knocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Note durably that the sequence is used up. Where that fails, the rule's other effects must not happen.
    Spend {
        /// The rule that was completed.
        rule: usize,
        /// Who knocked.
        source: IpAddr,
    },
    /// End the grant of `granted` to the address.
    Revoke {
        /// The rule that was completed.
        rule: usize,
        /// The rule whose grant ends.
        granted: usize,
        /// Who knocked.
        source: IpAddr,
    },
    /// Grant what the rule allows.
    Grant {
        /// The rule that was completed.
        rule: usize,
        /// Who knocked.
        source: IpAddr,
    },
    /// Run the rule's command.
    Run {
        /// The rule that was completed.
        rule: usize,
        /// Who knocked.
        source: IpAddr,
    },
}

/// What bounds the engine and what it watches beside the knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sources that are remembered, at least 1.
    pub sources: usize,
    /// Whether the neighbours of knock ports reset a source's progress.
    pub tripwires: bool,
    /// Ports that are guarded: never tripwires, since a client connects to them after its knock.
    pub guarded: Vec<Knock>,
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
    tcp_flags: TcpFlags,
    target: Option<IpAddr>,
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
    matchers: Vec<Matcher>,
    /// Sorted by target.
    tracks: Vec<Track>,
    /// The tracks of each target. Keyed by an unknown key (SipHash): the destination is the sender's choice.
    targets: HashMap<Option<IpAddr>, Range<usize>>,
    knock_ports: PortSet,
    tripwires: PortSet,
    sources: Sources,
    capacity: usize,
    longest_timeout: Duration,
    seen_most: usize,
    counters: Counters,
}

impl Engine {
    /// An engine that nobody has knocked at yet.
    pub fn new(rules: Vec<Rule>, settings: &Settings) -> Engine {
        let mut engine = Engine {
            matchers: Vec::new(),
            tracks: Vec::new(),
            targets: HashMap::new(),
            knock_ports: PortSet::default(),
            tripwires: PortSet::default(),
            sources: Sources::new(settings.sources),
            capacity: settings.sources,
            longest_timeout: Duration::ZERO,
            seen_most: 0,
            counters: Counters::default(),
        };
        engine.compile(rules.into_iter().map(|rule| (rule, None)).collect(), settings);
        engine
    }

    /// Takes other rules up. Knocks that are under way go on for the rules that stay as they are; for the others
    /// only what is knocked after `now` counts.
    pub fn reconfigure(&mut self, now: Time, rules: Vec<Rule>, settings: &Settings) {
        let old = std::mem::take(&mut self.matchers);
        let mut same_knock = HashMap::new();
        for (index, before) in old.iter().enumerate() {
            same_knock.entry(before.rule.what_is_knocked()).or_insert(index);
        }
        let before: Vec<Option<usize>> =
            rules.iter().map(|rule| same_knock.get(&rule.what_is_knocked()).copied()).collect();
        let mut after: Vec<Vec<u32>> = vec![Vec::new(); old.len()];
        for (index, before) in before.iter().enumerate() {
            if let Some(before) = *before {
                after[before].push(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
        let since_of = |before: &Option<usize>| before.map_or(Some(now), |before| old[before].since);
        let rules: Vec<_> = rules.into_iter().zip(before.iter().map(since_of)).collect();
        let kinds: Vec<_> = self.tracks.iter().map(|track| (track.tcp_flags, track.target)).collect();
        self.compile(rules, settings);
        // A source's history names its track by number.
        let same_tracks = self.tracks.iter().map(|track| (track.tcp_flags, track.target)).eq(kinds);
        if !same_tracks || self.capacity != settings.sources {
            self.sources = Sources::new(settings.sources);
            self.capacity = settings.sources;
        }
        self.sources.for_each(|source| source.renumber(&after));
    }

    fn compile(&mut self, rules: Vec<(Rule, Option<Time>)>, settings: &Settings) {
        self.matchers =
            rules.into_iter().map(|(rule, since)| Matcher { runs: runs(&rule.sequence), rule, since }).collect();
        let rules = || self.matchers.iter().map(|matcher| &matcher.rule);

        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, rule) in rules().enumerate() {
            kinds.entry((rule.target, rule.tcp_flags)).or_default().push((index, rule.sequence.as_slice()));
        }
        let track = |((target, tcp_flags), sequences)| Track { tcp_flags, target, tree: SequenceTree::new(sequences) };
        self.tracks = kinds.into_iter().map(track).collect();
        self.targets.clear();
        for (index, track) in self.tracks.iter().enumerate() {
            self.targets.entry(track.target).or_insert(index..index).end = index + 1;
        }

        self.knock_ports = PortSet::default();
        self.tripwires = PortSet::default();
        rules().flat_map(|rule| &rule.sequence).for_each(|&knock| self.knock_ports.insert(knock));
        if settings.tripwires {
            let mut guarded = PortSet::default();
            settings.guarded.iter().for_each(|&port| guarded.insert(port));
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

    /// Takes a packet up; `local` tells whether its destination is an address of this host. What has to be done is
    /// appended to `effects`.
    ///
    /// Ignored packets cost no allocation.
    pub fn handle(&mut self, now: Time, packet: &Packet, local: bool, effects: &mut Vec<Effect>) {
        let is_knock = self.knock_ports.contains(packet.knock);
        let mut looked_at = false;
        if is_knock || self.tripwires.contains(packet.knock) {
            for target in [local.then_some(None), Some(Some(packet.destination))].into_iter().flatten() {
                for track in self.targets.get(&target).cloned().unwrap_or_default() {
                    if self.tracks[track].accepts(packet) {
                        looked_at = true;
                        self.handle_in_track(now, packet, track, is_knock, effects);
                    }
                }
            }
        }
        self.counters.ignored += u64::from(!looked_at);
    }

    fn handle_in_track(&mut self, now: Time, packet: &Packet, track: usize, is_knock: bool, effects: &mut Vec<Effect>) {
        let Self { matchers, sources, counters, longest_timeout, seen_most, .. } = self;
        let tree = &self.tracks[track].tree;
        let key = Key { address: packet.source, track: u32::try_from(track).unwrap_or(u32::MAX) };
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
                return;
            }
        };
        sources.update(place, |source| {
            if source.is_retransmission(packet.knock, packet.identity, !is_knock, *seen_most) {
                counters.retransmissions += 1;
                return;
            }
            if !is_knock {
                counters.tripwires += 1;
                source.trip(now);
                return;
            }
            counters.knocks += 1;
            let requirement = |rule: usize| {
                let Matcher { rule, runs, since } = &matchers[rule];
                Requirement { runs, timeout: rule.timeout, since: *since }
            };
            source.knock(now, packet.knock, tree, requirement, |rule| {
                counters.completed += 1;
                matchers[rule].rule.actions.effects(rule, packet.source, effects);
            });
        });
    }

    /// Forgets the sources of which nothing can come any more.
    pub fn forget_silent(&mut self, now: Time) {
        self.sources.forget_silent(now, self.longest_timeout);
    }

    /// When [`Engine::forget_silent`] has something to do; `None` while no source is remembered.
    pub fn next_silent(&self) -> Option<Time> {
        self.sources.next_silent(self.longest_timeout)
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
    /// What counts for one rule counts for each other with the same. A sequence that can be spent is not the same as
    /// one that can't.
    fn what_is_knocked(&self) -> (&[Knock], TcpFlags, Option<IpAddr>, bool) {
        (&self.sequence, self.tcp_flags, self.target, self.actions.spend)
    }
}

impl Actions {
    fn effects(self, rule: usize, source: IpAddr, effects: &mut Vec<Effect>) {
        if self.spend {
            effects.push(Effect::Spend { rule, source });
        }
        if let Some(granted) = self.revoke {
            effects.push(Effect::Revoke { rule, granted, source });
        }
        if self.grant {
            effects.push(Effect::Grant { rule, source });
        }
        if self.run {
            effects.push(Effect::Run { rule, source });
        }
    }
}
