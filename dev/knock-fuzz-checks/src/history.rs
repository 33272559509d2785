//! What the sources really sent, kept whole, so that it can be asked whether a rule was rightly completed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Identity, Knock, Packet, Port, PortRange, Protocol, Rule, RuleId, Settings, Time};

/// How long a packet that completed a rule counts no more.
const RETRANSMITTED: Duration = Duration::from_secs(130);

/// What a port meant when the packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Knock,
    Tripwire,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Time,
    packet: Packet,
    local: bool,
    meaning: Meaning,
}

/// Everything that was sent, and which rules it completed.
#[derive(Debug)]
pub(crate) struct History {
    rules: Vec<Rule>,
    tripwires: bool,
    guarded: Vec<PortRange>,
    /// Of each rule: only what is knocked later than this counts for it.
    since: HashMap<RuleId, Option<Time>>,
    sent: HashMap<IpAddr, Vec<Sent>>,
    /// Of each source and rule: how many of the source's packets are used up.
    used: HashMap<(IpAddr, RuleId), usize>,
    /// Of each source: which of its packets completed a rule, and when.
    completing: HashMap<IpAddr, Vec<(usize, Time)>>,
}

impl History {
    pub(crate) fn new(rules: Vec<Rule>, settings: &Settings) -> History {
        History {
            since: rules.iter().map(|rule| (rule.id.clone(), None)).collect(),
            rules,
            tripwires: settings.tripwires,
            guarded: settings.guarded.clone(),
            sent: HashMap::new(),
            used: HashMap::new(),
            completing: HashMap::new(),
        }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Other rules: what was knocked goes on counting for those that stay the same.
    pub(crate) fn reconfigure(&mut self, now: Time, rules: Vec<Rule>, settings: &Settings) {
        let stays = |rule: &Rule| {
            self.rules.iter().any(|old| {
                (&old.id, &old.sequence, old.tcp_flags, &old.targets)
                    == (&rule.id, &rule.sequence, rule.tcp_flags, &rule.targets)
            })
        };
        let since = |rule: &Rule| if stays(rule) { self.since[&rule.id] } else { Some(now) };
        self.since = rules.iter().map(|rule| (rule.id.clone(), since(rule))).collect();
        self.used.retain(|(_, id), _| rules.iter().any(|rule| rule.id == *id && stays(rule)));
        self.rules = rules;
        self.tripwires = settings.tripwires;
        self.guarded.clone_from(&settings.guarded);
    }

    /// What the port of a packet means now; `None`: nothing.
    pub(crate) fn meaning(&self, knock: Knock) -> Option<Meaning> {
        let is_knock = |knock: Knock| self.rules.iter().any(|rule| rule.sequence.contains(&knock));
        let neighbours = [knock.port.checked_sub(1), knock.port.checked_add(1)].into_iter().flatten();
        if is_knock(knock) {
            Some(Meaning::Knock)
        } else if self.tripwires
            && knock.port != 0
            && !self.guarded.iter().any(|range| range.contains(Port { protocol: knock.protocol, number: knock.port }))
            && neighbours.map(|port| Knock { port, ..knock }).any(is_knock)
        {
            Some(Meaning::Tripwire)
        } else {
            None
        }
    }

    /// Notes a packet whose port means something.
    pub(crate) fn note(&mut self, at: Time, packet: Packet, local: bool) {
        if let Some(meaning) = self.meaning(packet.knock) {
            self.sent.entry(packet.source).or_default().push(Sent { at, packet, local, meaning });
        }
    }

    /// Checks that the last packet of `source` completes the rule, and uses up what it needed. `latest` is the latest
    /// time that there has been.
    ///
    /// # Panics
    ///
    /// Where it does not, it may be the retransmission of one that completed a rule, or there is no such rule.
    pub(crate) fn complete(&mut self, latest: Time, source: IpAddr, id: &RuleId) {
        let rule = self.rules.iter().find(|rule| rule.id == *id).expect("a rule that was given");
        let all = self.sent.get(&source).map_or(&[][..], Vec::as_slice);
        let used = self.used.get(&(source, id.clone())).copied().unwrap_or(0);
        let earned = is_earned(all, used, rule, self.since[id]);
        assert!(earned, "{source} did not earn {rule:#?}, of which {used} packets are used up: {all:#?}");
        self.used.insert((source, id.clone()), all.len());
        let completing = self.completing.entry(source).or_default();
        let before = completing.iter().filter(|(_, at)| latest.since(*at) <= RETRANSMITTED);
        let known = before.map(|&(index, _)| index).any(|index| is_retransmission(all, index));
        assert!(!known, "{source} completed {id:?} by a packet that had completed a rule: {all:#?}");
        completing.push((all.len() - 1, latest));
    }
}

/// Whether a packet can count for a rule.
pub(crate) fn accepts(rule: &Rule, packet: &Packet, local: bool) -> bool {
    let arrives = if rule.targets.is_empty() { local } else { rule.targets.contains(&packet.destination) };
    arrives && (packet.knock.protocol == Protocol::Udp || rule.tcp_flags.matches(packet.tcp_flags))
}

/// Whether the last packet is surely a retransmission of that one: its number is no constant of its sender.
fn is_retransmission(all: &[Sent], index: usize) -> bool {
    let Some((last, before)) = all.split_last() else { return false };
    let Packet { knock, identity, .. } = last.packet;
    let constant = || all.iter().any(|sent| sent.packet.identity == identity && sent.packet.knock != knock);
    let again = |sent: &Sent| (sent.packet.knock, sent.packet.identity) == (knock, identity);
    knock.protocol == Protocol::Tcp && identity.number != 0 && before.get(index).is_some_and(again) && !constant()
}

/// Whether some of what was sent, the last packet with it and the first `used` ones without, is the rule's sequence.
fn is_earned(all: &[Sent], used: usize, rule: &Rule, since: Option<Time>) -> bool {
    let relevant = || all.iter().enumerate().filter(|(_, sent)| accepts(rule, &sent.packet, sent.local));
    let sent: Vec<Sent> = relevant().map(|(_, sent)| *sent).collect();
    let used = relevant().filter(|(index, _)| *index < used).count();
    // The clock may go backwards; a knock is then taken as later than the one before it.
    let mut latest = Time::ZERO;
    let no_later_than = |sent: &Sent| {
        latest = sent.at.max(latest.after(Duration::from_nanos(1)));
        latest
    };
    let times: Vec<Time> = sent.iter().map(no_later_than).collect();
    let Some(now) = sent.last().map(|sent| sent.at) else { return false };
    for start in (used..sent.len()).rev() {
        if sent[start].meaning == Meaning::Tripwire && !may_be_duplicate(&sent, start) {
            return false;
        }
        let in_time = now.since(times[start]) <= rule.timeout && since.is_none_or(|since| times[start] > since);
        if in_time && is_sequence(&sent, start, &rule.sequence) {
            return true;
        }
    }
    false
}

/// Whether a packet may be taken as a retransmission of one before it: a knock of any, a tripwire of the one touched
/// last alone, or who touches them with the same packets again and again would touch none.
fn may_be_duplicate(sent: &[Sent], index: usize) -> bool {
    let name = |sent: &Sent| -> (Knock, Identity) { (sent.packet.knock, sent.packet.identity) };
    let (before, this) = (&sent[..index], &sent[index]);
    match this.meaning {
        Meaning::Knock => before.iter().any(|sent| name(sent) == name(this)),
        Meaning::Tripwire => {
            before.iter().rfind(|sent| sent.meaning == Meaning::Tripwire).is_some_and(|last| name(last) == name(this))
        }
    }
}

/// Whether the packets from `start` on, duplicates left out or not, are the sequence: with the first of them and with
/// the last.
fn is_sequence(sent: &[Sent], start: usize, sequence: &[Knock]) -> bool {
    if sent[start].packet.knock != sequence[0] || sent[start].meaning != Meaning::Knock {
        return false;
    }
    // A port that the sequence does not itself repeat may be repeated.
    let alone = |position: usize| {
        let repeats = |other: Option<&Knock>| other == Some(&sequence[position]);
        !(repeats(sequence.get(position + 1)) || position > 0 && repeats(sequence.get(position - 1)))
    };
    // Bit n: the packets so far may be the first n knocks.
    let mut reached: u64 = 1 << 1;
    for (index, packet) in sent.iter().enumerate().skip(start + 1) {
        let mut next = if may_be_duplicate(sent, index) { reached } else { 0 };
        if packet.meaning == Meaning::Knock {
            for position in (1..sequence.len()).filter(|position| reached >> position & 1 == 1) {
                next |= u64::from(sequence[position] == packet.packet.knock) << (position + 1);
                let repeat = sequence[position - 1] == packet.packet.knock && alone(position - 1);
                next |= u64::from(repeat) << position;
            }
        }
        reached = next;
        if reached == 0 {
            return false;
        }
    }
    reached >> sequence.len() & 1 == 1
}

#[cfg(test)]
mod tests {
    use knock_proto::TcpFlags;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    /// Whether packets to these ports, with these numbers and at these milliseconds, earn 1000, 2000, 3000 in a second.
    fn earned(sent: &[(u16, u32, u64)], used: usize, since: Option<Time>) -> bool {
        let (history, rule) = history(sent);
        is_earned(&history.sent[&SOURCE], used, &rule, since)
    }

    fn history(sent: &[(u16, u32, u64)]) -> (History, Rule) {
        let rule = Rule {
            id: "rule".into(),
            sequence: [1000, 2000, 3000].map(Knock::tcp).to_vec(),
            timeout: Duration::from_secs(1),
            tcp_flags: TcpFlags::default(),
            targets: Vec::new(),
        };
        let settings = Settings { sources: 1, tripwires: true, guarded: Vec::new() };
        let mut history = History::new(vec![rule.clone()], &settings);
        for &(port, number, at) in sent {
            let identity = Identity { source_port: 1, number };
            let knock = Knock::tcp(port);
            let packet = Packet { source: SOURCE, destination: SOURCE, knock, tcp_flags: TcpFlags::SYN, identity };
            history.note(Time::from_millis(at), packet, true);
        }
        (history, rule)
    }

    #[test]
    fn the_sequence_is_earned_repeats_and_retransmissions_aside() {
        assert!(earned(&[(1000, 1, 1), (2000, 2, 2), (3000, 3, 3)], 0, None));
        assert!(earned(&[(3000, 0, 1), (1000, 1, 1), (1000, 2, 2), (2000, 3, 3), (2000, 4, 3), (3000, 5, 4)], 0, None));
        assert!(earned(&[(1000, 1, 1), (2000, 2, 2), (1000, 1, 2), (443, 7, 2), (3000, 3, 3)], 0, None));
        assert!(earned(&[(1001, 9, 1), (1000, 1, 1), (2000, 2, 2), (1001, 9, 2), (3000, 3, 3)], 0, None));
        // The clock goes backwards.
        assert!(earned(&[(1000, 1, 9000), (2000, 2, 1), (3000, 3, 2)], 0, None));
    }

    #[test]
    fn anything_else_is_not() {
        assert!(!earned(&[(1000, 1, 1), (3000, 3, 3)], 0, None), "not whole");
        assert!(!earned(&[(1000, 1, 1), (3000, 3, 2), (2000, 2, 3)], 0, None), "not in order");
        assert!(!earned(&[(1000, 1, 1), (2000, 2, 2), (1000, 4, 2), (3000, 3, 3)], 0, None), "a new start in between");
        assert!(!earned(&[(1000, 1, 1), (2000, 2, 2), (3000, 3, 3), (3000, 4, 3)], 0, None), "earned before");
        assert!(!earned(&[(1000, 1, 1), (2000, 2, 2), (3000, 3, 1002)], 0, None), "too late");
        assert!(!earned(&[(1000, 1, 1), (1001, 2, 1), (2000, 2, 2), (3000, 3, 3)], 0, None), "a tripwire");
        let again = [(1001, 9, 1), (2001, 9, 1), (1000, 1, 1), (1001, 9, 2), (2000, 2, 2), (3000, 3, 3)];
        assert!(!earned(&again, 0, None), "a tripwire that was touched before, but not last");
        assert!(!earned(&[(1000, 1, 1), (2000, 2, 2), (3000, 3, 3)], 1, None), "used up");
        assert!(!earned(&[(1000, 1, 1), (2000, 2, 2), (3000, 3, 3)], 0, Some(Time::from_millis(1))), "before the rule");
    }

    #[test]
    fn a_packet_that_completed_a_rule_is_known_unless_its_number_is_a_constant() {
        let known = |sent: &[(u16, u32, u64)]| is_retransmission(&history(sent).0.sent[&SOURCE], 0);
        assert!(known(&[(1000, 1, 1), (2000, 2, 2), (1000, 1, 3)]));
        assert!(!known(&[(1000, 1, 1), (1000, 2, 3)]));
        assert!(!known(&[(1000, 1, 1), (2000, 1, 2), (1000, 1, 3)]));
        assert!(!known(&[(1000, 0, 1), (2000, 2, 2), (1000, 0, 3)]));
        assert!(!known(&[(1000, 1, 1)]), "it is not one of itself");
    }
}
