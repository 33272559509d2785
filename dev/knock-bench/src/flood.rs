//! Knocks in the midst of a flood of spoofed first knocks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::{Flood, Packet, Sent};
use serde::Serialize;

use crate::candidate::Candidate;
use crate::error::Result;
use crate::latency;
use crate::process::Daemon;
use crate::statistics::{Openings, Summary};

/// The spoofed sources: 100.64.0.0/12, of the shared address space (RFC 6598).
const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const SOURCES: u32 = 1_000_000;
/// After this time a knock counts as lost.
const OPENING_TIMEOUT: Duration = Duration::from_secs(1);
/// A flood and the knocks in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Packets a second; `None`: as fast as they come.
    pub(crate) rate: Option<u32>,
    /// How often each candidate is flooded, in turn with the others.
    pub(crate) passes: u32,
    /// Before the first knock.
    pub(crate) lead: Duration,
    /// The time of a pass, over which the knocks are spread; it takes longer where they do.
    pub(crate) time: Duration,
    /// Knocks of a pass, where no command is run for each.
    pub(crate) knocks: u32,
    /// Knocks of a pass, where one is.
    pub(crate) slow_knocks: u32,
}

/// How a candidate stood the flood.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) candidate: String,
    /// Packets of the flood, and how many a second.
    pub(crate) packets: u64,
    pub(crate) rate: f64,
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// The processor time of the daemon for a packet, in microseconds.
    pub(crate) processor_us_per_packet: Option<f64>,
    /// The daemon's resident memory after the flood, in KiB.
    pub(crate) resident_kib: Option<u64>,
    /// Packets that the kernel dropped because the daemon did not read them, where the daemon reports it.
    pub(crate) kernel_dropped: Option<u64>,
}

#[derive(Clone, Default)]
struct Tally {
    openings: Openings,
    packets: u64,
    elapsed: Duration,
    processor: Duration,
}

/// Floods each candidate in turn.
pub(crate) fn measure(candidates: &mut [&mut Candidate], plan: Plan) -> Result<Vec<Row>> {
    let mut tallies = vec![Tally::default(); candidates.len()];
    let mut dropped_before = Vec::new();
    for candidate in &*candidates {
        dropped_before.push(candidate.counter("kernel_dropped")?.unwrap_or(0));
    }
    for pass in 0..plan.passes {
        for (candidate, tally) in candidates.iter_mut().zip(&mut tallies) {
            let example = candidate.first_knock(SocketAddr::new(first_source(pass, plan).into(), 0));
            one_pass(candidate, plan, pass, &example, tally)?;
        }
    }
    let all = candidates.iter().zip(&tallies).zip(dropped_before);
    all.map(|((candidate, tally), before)| tally.row(candidate, before)).collect()
}

fn knocks(quick: bool) -> u32 {
    if quick { 20 } else { 100 }
}

/// One pass of some seconds.
pub(crate) fn short_plan(rate: Option<u32>, quick: bool) -> Plan {
    let time = Duration::from_secs(if quick { 2 } else { 5 });
    Plan { rate, passes: 1, lead: Duration::from_millis(500), time, knocks: knocks(quick), slow_knocks: 1 }
}

/// Times from the last knock to the answer of the port, alone or beside a flood of that rate, a short one where it is `quick`.
pub(crate) fn openings(candidates: &mut [&mut Candidate], rate: Option<u32>, quick: bool) -> Result<Vec<latency::Row>> {
    if rate.is_none() {
        return latency::measure(candidates, knocks(quick));
    }
    let rows = measure(candidates, short_plan(rate, quick))?.into_iter();
    Ok(rows.map(|row| latency::Row { candidate: row.candidate, summary: row.summary }).collect())
}

/// Floods one candidate with packets that are like an example.
pub(crate) fn measure_like(candidate: &mut Candidate, plan: Plan, example: &Packet) -> Result<Row> {
    let before = candidate.counter("kernel_dropped")?.unwrap_or(0);
    let mut tally = Tally::default();
    for pass in 0..plan.passes {
        one_pass(candidate, plan, pass, example, &mut tally)?;
    }
    tally.row(candidate, before)
}

impl Tally {
    fn row(&self, candidate: &Candidate, dropped_before: u64) -> Result<Row> {
        let sent = Sent { packets: self.packets, elapsed: self.elapsed };
        let per_packet = self.processor.as_secs_f64() * 1e6 / (self.packets.max(1) as f64);
        Ok(Row {
            candidate: candidate.name.clone(),
            packets: self.packets,
            rate: sent.rate().round(),
            summary: self.openings.summary(),
            processor_us_per_packet: candidate.daemon.as_ref().map(|_| (per_packet * 1000.0).round() / 1000.0),
            resident_kib: candidate.daemon.as_ref().map(Daemon::usage).transpose()?.map(|usage| usage.resident),
            kernel_dropped: candidate.counter("kernel_dropped")?.map(|now| now.saturating_sub(dropped_before)),
        })
    }
}

/// Each pass begins where the one before may have ended, so that together they come to all the sources.
fn first_source(pass: u32, plan: Plan) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST_SOURCE) + pass * (SOURCES / plan.passes.max(1)))
}

fn one_pass(candidate: &mut Candidate, plan: Plan, pass: u32, example: &Packet, tally: &mut Tally) -> Result<()> {
    let example = example.clone();
    let flood =
        Flood { example, sources: SOURCES, ports: Vec::new(), count: None, rate: plan.rate, seed: u64::from(pass) + 1 };
    // From another client: its frames do not fill the queue in which the knocking one awaits answers.
    let wire = candidate.network.clients[1].wire(&candidate.network.server)?;
    let knocks = if candidate.runs_commands() { plan.slow_knocks } else { plan.knocks };
    let before = candidate.daemon.as_ref().map(Daemon::usage).transpose()?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (sent, result) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood.run(&wire, &stop));
        thread::sleep(plan.lead);
        let mut knock = || -> Result<()> {
            // Over the whole of it: what is bounded fills up as it goes on.
            let pause = plan.time.saturating_sub(plan.lead) / knocks.max(1);
            for number in 1..=knocks {
                tally.openings.add(candidate.knock(OPENING_TIMEOUT)?);
                thread::sleep((plan.lead + pause * number).saturating_sub(start.elapsed()));
            }
            Ok(())
        };
        let result = knock();
        stop.store(true, Ordering::Relaxed);
        (flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), result)
    });
    result?;
    let sent = sent?;
    tally.packets += sent.packets;
    tally.elapsed += sent.elapsed;
    if let (Some(daemon), Some(before)) = (&candidate.daemon, before) {
        tally.processor += daemon.usage()?.processor.saturating_sub(before.processor);
    }
    Ok(())
}
