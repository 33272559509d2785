//! `--signed`: signed packets beside a sequence of ours and beside fwknop.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::candidate::{Candidate, Fault, Preparation};
use crate::error::Result;
use crate::process::Daemon;
use crate::report::Goal;
use crate::{flood, latency, said};

/// The numbers of keys with which memory and the time to read them are measured.
const KEYS: [usize; 3] = [1, 1_000, 10_000];
/// Packets of a flood in a second.
const RATE: u32 = 100_000;
/// Packets that are opened at once: the users are served so many in a second.
const BURST: u32 = 500;

/// What a run found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    latency: Vec<latency::Row>,
    floods: Vec<Flooded>,
    opened: Opened,
    keys: Vec<Loaded>,
    goals: Vec<Goal>,
}

/// Junk of one kind.
#[derive(Clone, Debug, Serialize)]
struct Flooded {
    junk: &'static str,
    row: flood::Row,
}

/// Valid packets, all at once.
#[derive(Clone, Debug, Serialize)]
struct Opened {
    packets: u32,
    /// Those that were accepted.
    accepted: u64,
    processor_us_per_packet: f64,
    per_second: f64,
}

/// What keys cost.
#[derive(Clone, Debug, Serialize)]
struct Loaded {
    keys: usize,
    resident_kib: u64,
    /// The median of five reloads.
    reload_ms: f64,
}

/// Measures everything; `fwknop`: its server and its client, where they are there.
pub(crate) fn measure(knockd: &Path, fwknop: Option<(&Path, &Path)>, scratch: &Path, quick: bool) -> Result<Figures> {
    let knocks = if quick { 20 } else { 200 };
    let mut signed = Candidate::signed(knockd, scratch, "ours, signed packet", 100)?;
    let mut sequence = Candidate::ours(knockd, scratch, "ours, three knocks", Preparation { rules: 1, grants: 0 })?;
    let plan = flood::Plan {
        rate: Some(RATE),
        passes: 1,
        lead: Duration::from_millis(500),
        time: Duration::from_secs(if quick { 2 } else { 10 }),
        knocks,
        slow_knocks: if quick { 2 } else { 10 },
    };
    let mut others: Vec<Candidate> = fwknop
        .map(|(server, client)| Candidate::fwknop(server, client, scratch, 1 + knocks + plan.slow_knocks))
        .transpose()?
        .into_iter()
        .collect();
    said(&format!("{knocks} packets each"));
    let mut contest = vec![&mut signed, &mut sequence];
    contest.extend(&mut others);
    let latency = latency::measure(&mut contest, knocks)?;

    let mut floods = Vec::new();
    let from = SocketAddr::new(Ipv4Addr::new(100, 64, 0, 0).into(), 1024);
    for (junk, fault) in [
        ("of an unknown key id", Fault::KeyId),
        ("of a known key id", Fault::Seal),
        ("with a wrong signature", Fault::Signature),
        ("accepted before", Fault::None),
    ] {
        said(&format!("packets {junk}"));
        let Some(example) = signed.packet_with(fault, from) else { continue };
        let row = flood::measure_like(&mut signed, plan, &example)?;
        floods.push(Flooded { junk, row });
    }
    for candidate in &mut others {
        said("packets at fwknop");
        let example = knock_testkit::Packet { payload: vec![b'A'; 300], ..candidate.first_knock(from) };
        let row = flood::measure_like(candidate, plan, &example)?;
        floods.push(Flooded { junk: "at fwknop", row });
    }

    said("packets that open");
    thread::sleep(Duration::from_secs(2));
    let opened = open_at_once(&mut signed)?;
    said("keys");
    let keys = KEYS.into_iter().map(|keys| load(knockd, scratch, keys)).collect::<Result<Vec<_>>>()?;
    let goals = goals(&latency, &floods);
    Ok(Figures { latency, floods, opened, keys, goals })
}

fn open_at_once(candidate: &mut Candidate) -> Result<Opened> {
    let before = candidate.counter("signed_accepted")?.unwrap_or(0);
    let usage = candidate.daemon.as_ref().map(Daemon::usage).transpose()?;
    let source =
        |number: u32| SocketAddr::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 0)) + number).into(), 4000);
    let packets: Vec<_> = (0..BURST).filter_map(|number| candidate.packet_with(Fault::None, source(number))).collect();
    let start = Instant::now();
    candidate.send_all(&packets)?;
    let mut accepted = 0;
    // No longer than all of them can take.
    while accepted < u64::from(BURST) && start.elapsed() < Duration::from_secs(5) {
        accepted = candidate.counter("signed_accepted")?.unwrap_or(0) - before;
    }
    let elapsed = start.elapsed();
    let after = candidate.daemon.as_ref().map(Daemon::usage).transpose()?;
    let used =
        after.zip(usage).map(|(after, before)| after.processor.saturating_sub(before.processor)).unwrap_or_default();
    let count = accepted.max(1) as f64;
    Ok(Opened {
        packets: BURST,
        accepted,
        processor_us_per_packet: (used.as_secs_f64() * 1e6 / count).round(),
        per_second: (count / elapsed.as_secs_f64()).round(),
    })
}

fn load(knockd: &Path, scratch: &Path, keys: usize) -> Result<Loaded> {
    let candidate = Candidate::signed(knockd, scratch, "ours", keys)?;
    let resident_kib = candidate.daemon.as_ref().map(Daemon::usage).transpose()?.map_or(0, |usage| usage.resident);
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        candidate.ask(json!({ "command": "reload" }))?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(Loaded { keys, resident_kib, reload_ms: (times[2].as_secs_f64() * 1e4).round() / 10.0 })
}

fn goals(latency: &[latency::Row], floods: &[Flooded]) -> Vec<Goal> {
    let median = |place: usize| latency.get(place).and_then(|row| row.summary.median_us);
    let ratio = median(0).zip(median(1)).map(|(signed, sequence)| signed / sequence);
    let mut goals = vec![Goal::new("median of a signed packet / of three knocks", ratio, 1.5)];
    for flooded in floods.iter().filter(|flooded| flooded.junk != "at fwknop") {
        let junk = flooded.junk;
        goals.push(Goal::new(format!("µs for a packet {junk}"), flooded.row.processor_us_per_packet, 3.0));
        let lost = Some(f64::from(flooded.row.summary.lost));
        goals.push(Goal::new(format!("packets lost beside packets {junk}"), lost, 0.0));
    }
    goals
}

impl Figures {
    /// As aligned tables.
    pub(crate) fn tables(&self) -> String {
        let us = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let mut text = String::from("\nfrom the packet, or the last knock, to the answer of the port, in µs\n\n");
        let _ = writeln!(text, "{:<24} {:>9} {:>9} {:>5}", "", "median", "p90", "lost");
        for row in &self.latency {
            let summary = &row.summary;
            let (median, p90) = (us(summary.median_us), us(summary.p90_us));
            let _ = writeln!(text, "{:<24} {median:>9} {p90:>9} {:>5}", row.candidate, summary.lost);
        }
        let _ = writeln!(text, "\nfloods of 100,000 packets a second, and packets that open in between\n");
        let heads = ["a second", "µs each", "opened", "lost", "median"];
        let _ = writeln!(
            text,
            "{:<24} {:>9} {:>9} {:>7} {:>5} {:>9}",
            "", heads[0], heads[1], heads[2], heads[3], heads[4]
        );
        for Flooded { junk, row } in &self.floods {
            let opened = row.summary.knocks - row.summary.lost as usize;
            let (each, median) = (us(row.processor_us_per_packet), us(row.summary.median_us));
            let _ = writeln!(
                text,
                "{junk:<24} {:>9.0} {each:>9} {opened:>7} {:>5} {median:>9}",
                row.rate, row.summary.lost
            );
        }
        let Opened { packets, accepted, processor_us_per_packet, per_second } = &self.opened;
        let _ = writeln!(
            text,
            "\n{packets} packets at once: {accepted} opened, {per_second} a second, {processor_us_per_packet} µs of the processor each\n"
        );
        let _ = writeln!(text, "{:>8} {:>14} {:>12}", "keys", "resident KiB", "reload ms");
        for Loaded { keys, resident_kib, reload_ms } in &self.keys {
            let _ = writeln!(text, "{keys:>8} {resident_kib:>14} {reload_ms:>12.1}");
        }
        text.push('\n');
        for goal in &self.goals {
            let value = goal.value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            let reached = if goal.reached { "reached" } else { "NOT REACHED" };
            let _ = writeln!(text, "{reached}: {}: {value}, at most {}", goal.goal, goal.at_most);
        }
        text
    }
}
