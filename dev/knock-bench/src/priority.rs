//! `--priority`: what a higher priority of the daemon brings on a busy machine, and what it takes from other work on a single
//! processor while a flood comes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::candidate::{Candidate, Preparation};
use crate::error::{Attempt, Error, Result};
use crate::process::{Usage, usage};
use crate::report::{fixed, table};
use crate::{flood, latency, said};

/// How often each candidate is measured under each condition, in turn with the others.
const ROUNDS: usize = 3;

/// The scheduling of the daemon's event loop, and the program with its arguments that sets it for a thread.
const WAYS: [(&str, &[&str]); 3] = [
    ("ours", &[]),
    ("ours, nice -10", &["renice", "-n", "-10", "-p"]),
    ("ours, round-robin 1", &["chrt", "--rr", "--pid", "1"]),
];

/// What a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    openings: Vec<Openings>,
    shares: Vec<Share>,
}

/// Knocks under one condition.
#[derive(Debug, Serialize)]
struct Openings {
    condition: String,
    rows: Vec<latency::Row>,
}

/// What other work gets of the processor that it shares with the daemon.
#[derive(Debug, Serialize)]
struct Share {
    candidate: String,
    flood: &'static str,
    packets_per_second: f64,
    work: f64,
    daemon: f64,
}

/// Measures everything.
pub(crate) fn measure(knockd: &Path, scratch: &Path, quick: bool) -> Result<Figures> {
    let mut candidates = vec![Candidate::kernel()?];
    for (number, (name, set)) in WAYS.into_iter().enumerate() {
        let scratch = scratch.join(number.to_string());
        let candidate = Candidate::ours(knockd, &scratch, name, Preparation { rules: 1, grants: 0 })?;
        if let (Some((program, arguments)), Some(daemon)) = (set.split_first(), &candidate.daemon) {
            run(program, arguments, daemon.id())?;
        }
        candidates.push(candidate);
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut openings = Vec::new();
    for (busy, rate) in [(false, None), (true, None), (false, Some(30_000)), (true, Some(30_000))] {
        let beside = if busy { format!(", {processors} busy loops") } else { String::new() };
        let flooded = rate.map_or_else(String::new, |rate: u32| format!(", flood of {rate}/s"));
        let condition = format!("{processors} processors{beside}{flooded}");
        for _ in 0..if quick { 1 } else { ROUNDS } {
            said(&condition);
            let _work = (0..if busy { processors } else { 0 }).map(|_| Work::start()).collect::<Result<Vec<_>>>()?;
            let mut all: Vec<&mut Candidate> = candidates.iter_mut().collect();
            let rows = flood::openings(&mut all, rate, quick)?;
            openings.push(Openings { condition: condition.clone(), rows });
        }
    }
    let shares = shares(&mut candidates, processors, quick)?;
    Ok(Figures { openings, shares })
}

/// Daemon and work share the first processor. The flood comes from the second, so that it takes nothing from either; where there
/// is one processor only, all three share it.
fn shares(candidates: &mut [Candidate], processors: usize, quick: bool) -> Result<Vec<Share>> {
    if processors > 1 {
        run("taskset", &["--pid", "--cpu-list", "1"], std::process::id())?;
    }
    let mut shares = Vec::new();
    for (name, rate) in [("none", Some(1)), ("30,000/s", Some(30_000)), ("unpaced", None)] {
        said(&format!("shares, flood: {name}"));
        for candidate in candidates.iter_mut().filter(|candidate| candidate.daemon.is_some()) {
            let id = candidate.daemon.as_ref().map_or(0, |daemon| daemon.id());
            let work = Work::start()?;
            if processors > 1 {
                run("taskset", &["--all-tasks", "--pid", "--cpu-list", "0"], id)?;
                run("taskset", &["--pid", "--cpu-list", "0"], work.0.id())?;
            }
            let before = (work.usage()?, usage(id, "knockd")?, Instant::now());
            let plan = flood::Plan {
                knocks: 0,
                lead: Duration::from_secs(if quick { 2 } else { 5 }),
                ..flood::short_plan(rate, quick)
            };
            let flooded = flood::measure(&mut [candidate], plan)?;
            let seconds = before.2.elapsed().as_secs_f64();
            let share = |after: Usage, before: Usage| (after.processor - before.processor).as_secs_f64() / seconds;
            shares.push(Share {
                candidate: candidate.name.clone(),
                flood: name,
                packets_per_second: flooded.first().map_or(0.0, |row| row.rate),
                work: share(work.usage()?, before.0),
                daemon: share(usage(id, "knockd")?, before.1),
            });
        }
    }
    Ok(shares)
}

/// Other work: a loop that never sleeps.
struct Work(Child);

impl Work {
    fn start() -> Result<Work> {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Ok(Work(command.spawn().attempt(|| "start a busy loop".to_owned())?))
    }

    fn usage(&self) -> Result<Usage> {
        usage(self.0.id(), "a busy loop")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program on a process.
fn run(program: &str, arguments: &[&str], process: u32) -> Result<()> {
    let output =
        Command::new(program).args(arguments).arg(process.to_string()).output().attempt(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Unexpected { origin: format!("{program} {}", arguments.join(" ")), text, expected: "success" })
}

impl Figures {
    /// As aligned tables.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        for Openings { condition, rows } in &self.openings {
            let kernel = rows.first().and_then(|row| row.summary.median_us);
            let rows = rows.iter().map(|row| {
                let s = &row.summary;
                let ratio = s.median_us.zip(kernel).map(|(median, kernel)| median / kernel);
                vec![
                    row.candidate.clone(),
                    s.knocks.to_string(),
                    s.lost.to_string(),
                    fixed(s.median_us, 0),
                    fixed(s.p90_us, 0),
                    fixed(ratio, 2),
                ]
            });
            text.push_str(&table(&[condition, "knocks", "lost", "median µs", "p90 µs", "of in-kernel"], rows));
        }
        let rows = self.shares.iter().map(|share| {
            vec![
                share.candidate.clone(),
                share.flood.to_owned(),
                fixed(Some(share.packets_per_second), 0),
                fixed(Some(share.work * 100.0), 1),
                fixed(Some(share.daemon * 100.0), 1),
            ]
        });
        text.push_str(&table(&["shares of one processor", "flood", "packets/s", "work %", "daemon %"], rows));
        text
    }
}
