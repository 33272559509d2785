//! The counts and the report of a soak.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Counts, and what was measured of each daemon.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How often each kind of step was taken.
    pub(super) steps: BTreeMap<&'static str, u64>,
    /// What did not agree, each with the steps that led there.
    pub(super) disagreements: Vec<String>,
    /// Ports asked over the wire, elements looked at in the kernel, grants looked at in the daemon's record.
    pub(super) compared: [u64; 3],
    /// SYNs of strangers that got in while the table was gone by somebody else's hand, or by its removal at a stop.
    pub(super) got_in: u64,
    /// The longest until model and kernel agreed again after somebody else's hand on a table without an owner.
    pub(super) longest_repair: Duration,
    /// Descriptors of daemons with the same kind of configuration: the least and the most.
    descriptors: BTreeMap<(bool, bool, bool), (usize, usize)>,
    /// Resident memory in KiB: of the first daemon at its start, of the last one at the end, and the most of any.
    memory: (u64, u64, u64),
    /// The longest that one daemon ran.
    longest_life: Duration,
}

impl Tally {
    pub(super) fn step(&mut self, kind: &'static str) {
        *self.steps.entry(kind).or_default() += 1;
    }

    /// Looks at a daemon: its descriptors, for this kind of configuration, its memory in KiB, and for how long it has run.
    pub(super) fn look(&mut self, kind: (bool, bool, bool), descriptors: usize, memory: u64, life: Duration) {
        let known = self.descriptors.entry(kind).or_insert((descriptors, descriptors));
        *known = (known.0.min(descriptors), known.1.max(descriptors));
        if self.memory.0 == 0 {
            self.memory.0 = memory;
        }
        self.memory = (self.memory.0, memory, self.memory.2.max(memory));
        self.longest_life = self.longest_life.max(life);
    }

    /// Whether no descriptor was lost, and memory did not grow by more than `most` KiB.
    pub(super) fn is_steady(&self, most: u64) -> bool {
        self.descriptors.values().all(|(least, greatest)| least == greatest) && self.memory.2 <= self.memory.0 + most
    }

    /// The figures.
    pub(super) fn report(&self, elapsed: Duration, seed: u64) -> String {
        let mut text = format!("soak: {:.0} s from seed {seed}\n", elapsed.as_secs_f64());
        let total: u64 = self.steps.values().sum();
        let _ = writeln!(text, "steps: {total}");
        for (kind, count) in &self.steps {
            let _ = writeln!(text, "  {kind}: {count}");
        }
        let [wire, kernel, record] = self.compared;
        let _ = writeln!(text, "compared: {wire} probes of the wire, {kernel} elements, {record} recorded grants");
        let _ = writeln!(
            text,
            "strangers that got in while others had removed a table without an owner, or a stop its own: {}; \
             longest until it was back: {:?}",
            self.got_in, self.longest_repair
        );
        let (first, last, most) = self.memory;
        let _ = writeln!(text, "memory: {first} KiB at the first start, {last} KiB at the end, {most} KiB at most");
        for ((owner, any, own), (least, most)) in &self.descriptors {
            let _ = writeln!(
                text,
                "descriptors: {least} to {most} (owner {owner}, any interface {any}, set of the administrator's {own})"
            );
        }
        let _ = writeln!(text, "longest life of a daemon: {:.0} s", self.longest_life.as_secs_f64());
        let _ = write!(text, "disagreements: {}", self.disagreements.len());
        text
    }
}
