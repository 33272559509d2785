//! Finds the warnings about a valid configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Knock, Port, PortRange, Protocol, RuleId};
use knock_spa::RuleName;

use crate::contained::{SequenceIndex, sequence};
use crate::model::{Allow, Config, Fleet, Rule};
use crate::path::FieldPath;
use crate::warning::{Concern, ScanOrder};

/// The most warnings of one file.
pub const WARNINGS_MAX: usize = 100;

/// A sequence takes seconds. More than this may be a number of milliseconds, as a fork of knock-rs has it.
const LONG_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The concerns about `config` and their fields, at most [`WARNINGS_MAX`].
pub(crate) fn concerns(config: &Config) -> Vec<(FieldPath, Concern)> {
    let mut found = Vec::new();
    if config.rules.is_empty() {
        found.push((FieldPath::default().key("rules"), Concern::NoRules));
    }
    if config.timeout > LONG_TIMEOUT {
        found.push((FieldPath::default().key("timeout"), Concern::LongTimeout { timeout: config.timeout }));
    }
    if config.spa.is_some() && !config.rules.iter().any(|rule| rule.spa) {
        found.push((FieldPath::default().key("spa"), Concern::SpaUnused));
    }
    if let Some(fleet) = &config.fleet {
        fleet_concerns(fleet, &config.rules, &mut found);
    }
    let ports = Ports::of(config);
    let sequences = SequenceIndex::of(&config.rules);
    for (index, rule) in config.rules.iter().enumerate() {
        let path = FieldPath::default().key("rules").index(index);
        if let (Some(cooldown), Some(allow)) = (rule.cooldown, &rule.allow)
            && cooldown > allow.timeout()
        {
            found.push((path.key("cooldown"), Concern::CooldownOutlastsGrant { grant: allow.timeout() }));
        }
        if rule.timeout > LONG_TIMEOUT && rule.timeout != config.timeout {
            found.push((path.key("timeout"), Concern::LongTimeout { timeout: rule.timeout }));
        }
        let Some(sequence) = sequence(rule) else { continue };
        let path = path.key("sequence");
        if sequence.len() == 1 {
            found.push((path.clone(), Concern::SinglePort));
        }
        if let Some(order) = scan_order(sequence) {
            let caught = ports.catch_scan(sequence, config.tripwires);
            found.push((path.clone(), Concern::ScanOrder { order, caught, tripwires: config.tripwires }));
        }
        if let Some(range) = ports.without_tripwires(sequence)
            && config.tripwires
        {
            found.push((path.clone(), Concern::NoTripwires { range }));
        }
        for (position, knock) in sequence.iter().enumerate() {
            if let Some(rule) = ports.guarded.get(knock)
                && !sequence[..position].contains(knock)
            {
                let concern = Concern::KnockIsGuarded { port: *knock, rule: (*rule).to_owned() };
                found.push((path.index(position), concern));
            }
        }
        for (other, place) in sequences.contained_in(index, rule, sequence, WARNINGS_MAX) {
            found.push((path.clone(), Concern::Contains { rule: config.rules[other].name.to_string(), place }));
        }
        if found.len() >= WARNINGS_MAX {
            break;
        }
    }
    found.truncate(WARNINGS_MAX);
    found
}

fn fleet_concerns(fleet: &Fleet, rules: &[Rule], found: &mut Vec<(FieldPath, Concern)>) {
    let path = FieldPath::default().key("fleet");
    for (key, servers) in [("servers", &fleet.servers), ("read_from", &fleet.read_from)] {
        if let Some(index) = servers.iter().position(|server| !is_loopback(server))
            && fleet.tls.is_none()
        {
            let concern = Concern::FleetPlain { server: servers[index].clone() };
            found.push((path.key(key).index(index), concern));
        }
    }
    if fleet.publish.is_empty() {
        found.push((path.key("publish"), Concern::FleetPublishesNothing));
    }
    let vouched: BTreeSet<&str> = fleet.nodes.iter().flat_map(|node| &node.vouch).map(RuleName::as_str).collect();
    let published: BTreeSet<&str> = fleet.publish.iter().map(RuleId::as_str).collect();
    // What a user signs needs no word of a node.
    for rule in rules.iter().filter(|rule| !rule.spa && published.contains(rule.name.as_str())) {
        if !vouched.contains(rule.name.as_str()) {
            found.push((path.key("nodes"), Concern::FleetVouchedByNone { rule: rule.name.to_string() }));
        }
    }
}

/// Whether packets to the server, a host and a port, stay on this machine.
fn is_loopback(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The knock ports and the guarded ports of all rules.
struct Ports<'c> {
    knocks: BTreeSet<Knock>,
    /// Single ports, with the name of the first rule that opens it.
    guarded: BTreeMap<Knock, &'c str>,
    ranges: Vec<PortRange>,
}

impl<'c> Ports<'c> {
    fn of(config: &'c Config) -> Ports<'c> {
        let mut ports = Ports {
            knocks: config.rules.iter().filter_map(sequence).flatten().copied().collect(),
            guarded: BTreeMap::new(),
            ranges: Vec::new(),
        };
        for rule in &config.rules {
            if let Some(Allow::Ports { ports: opened, .. }) = &rule.allow {
                for range in opened {
                    match range.single() {
                        Some(port) => drop(ports.guarded.entry(port.knock()).or_insert(&rule.name)),
                        None => ports.ranges.push(*range),
                    }
                }
            }
        }
        ports.ranges = PortRange::disjoint(ports.ranges);
        ports
    }

    fn is_guarded(&self, knock: Knock) -> bool {
        self.guarded.contains_key(&knock) || self.range_of(knock).is_some()
    }

    /// The guarded range that the port is in.
    fn range_of(&self, knock: Knock) -> Option<PortRange> {
        let port = Port { protocol: knock.protocol, number: knock.port };
        let after = self.ranges.partition_point(|range| (range.protocol, range.first) <= (port.protocol, port.number));
        self.ranges[..after].last().copied().filter(|range| range.contains(port))
    }

    /// A guarded range because of which no port of `sequence` has a tripwire.
    fn without_tripwires(&self, sequence: &[Knock]) -> Option<PortRange> {
        let neighbours = sequence.iter().flat_map(|knock| {
            let numbers = [knock.port.checked_sub(1), knock.port.checked_add(1)];
            numbers.into_iter().flatten().filter(|port| *port > 0).map(|port| Knock { port, ..*knock })
        });
        let mut range = None;
        for neighbour in neighbours.filter(|neighbour| !self.knocks.contains(neighbour)) {
            range = Some(self.range_of(neighbour)?);
        }
        range
    }

    /// Whether a scan that meets the ports of `sequence` in their order touches, between two of them, another knock
    /// port or a tripwire, which resets the progress.
    fn catch_scan(&self, sequence: &[Knock], tripwires: bool) -> bool {
        sequence.windows(2).any(|pair| {
            let (low, high) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
            if high.port - low.port < 2 {
                return false;
            }
            let first = Knock { port: low.port + 1, ..low };
            let last = Knock { port: high.port - 1, ..high };
            let tripwire = tripwires && [first, last].into_iter().any(|neighbour| !self.is_guarded(neighbour));
            tripwire || self.knocks.range(first..=last).next().is_some()
        })
    }
}

/// The scan that meets all of `sequence` in its order. A scan is of one protocol, so a mixed sequence has none.
fn scan_order(sequence: &[Knock]) -> Option<ScanOrder> {
    let protocol = |protocol: Protocol| sequence.iter().all(|knock| knock.protocol == protocol);
    if sequence.len() < 2 || !(protocol(Protocol::Tcp) || protocol(Protocol::Udp)) {
        return None;
    }
    let all = |ordered: fn(u16, u16) -> bool| sequence.windows(2).all(|pair| ordered(pair[0].port, pair[1].port));
    if all(|before, after| before < after) {
        Some(ScanOrder::Ascending)
    } else if all(|before, after| before > after) {
        Some(ScanOrder::Descending)
    } else {
        None
    }
}
