//! `--armed`: what the kernel brings that opens at the last knock, beside the daemon and the knock in the kernel.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::candidate::{Candidate, Preparation};
use crate::error::Result;
use crate::report::{fixed, table};
use crate::{flood, latency, said};

/// How often each condition is measured.
const ROUNDS: usize = 3;
/// Between two knocks of a fast client.
const PAUSE: Duration = Duration::from_millis(2);
/// The same of knock-cli, unless it is told otherwise.
const USUAL_PAUSE: Duration = Duration::from_millis(40);
/// A connection that takes longer has lost its first SYN.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    openings: Vec<Openings>,
    connections: Vec<Connections>,
}

/// Knocks under one condition.
#[derive(Debug, Serialize)]
struct Openings {
    condition: &'static str,
    rows: Vec<latency::Row>,
    /// Sources that were armed, and completions of them.
    armed: u64,
    confirmed: u64,
}

/// Connections right behind the last knock.
#[derive(Debug, Serialize)]
struct Connections {
    candidate: String,
    pause_ms: u128,
    connections: u32,
    late: u32,
}

/// Measures everything.
pub(crate) fn measure(knockd: &Path, scratch: &Path, quick: bool) -> Result<Figures> {
    let mut candidates = vec![
        Candidate::kernel()?,
        Candidate::ours(knockd, scratch, "ours", Preparation { rules: 1, grants: 0 })?,
        Candidate::armed(knockd, scratch)?,
    ];
    for candidate in &mut candidates {
        candidate.pause = PAUSE;
    }
    let mut openings = Vec::new();
    for (condition, rate) in [("idle", None), ("flood of 30,000/s", Some(30_000))] {
        for _ in 0..if quick { 1 } else { ROUNDS } {
            said(condition);
            let before = armed(&candidates)?;
            let mut all: Vec<&mut Candidate> = candidates.iter_mut().collect();
            let rows = flood::openings(&mut all, rate, quick)?;
            let after = armed(&candidates)?;
            openings.push(Openings { condition, rows, armed: after.0 - before.0, confirmed: after.1 - before.1 });
        }
    }
    let count = if quick { 20 } else { 200 };
    let mut connections = Vec::new();
    for pause in [PAUSE, USUAL_PAUSE] {
        said("connections");
        let mut late = vec![0; candidates.len()];
        for _ in 0..count {
            for (candidate, late) in candidates.iter_mut().zip(&mut late) {
                candidate.pause = pause;
                *late += u32::from(!candidate.knock_and_connect(AT_ONCE)?);
            }
        }
        connections.extend(candidates.iter().zip(late).map(|(candidate, late)| Connections {
            candidate: candidate.name.clone(),
            pause_ms: pause.as_millis(),
            connections: count,
            late,
        }));
    }
    Ok(Figures { openings, connections })
}

fn armed(candidates: &[Candidate]) -> Result<(u64, u64)> {
    let Some(candidate) = candidates.last() else { return Ok((0, 0)) };
    Ok((candidate.counter("armed")?.unwrap_or(0), candidate.counter("armed_confirmed")?.unwrap_or(0)))
}

impl Figures {
    /// As aligned tables.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        for Openings { condition, rows, armed, confirmed } in &self.openings {
            let kernel = rows.first().and_then(|row| row.summary.median_us);
            let rows = rows.iter().map(|row| {
                let s = &row.summary;
                let ratio = |of: Option<f64>| s.median_us.zip(of).map(|(median, of)| median / of);
                let tail = s.p90_us.zip(s.median_us).map(|(p90, median)| p90 / median);
                vec![
                    row.candidate.clone(),
                    s.knocks.to_string(),
                    s.lost.to_string(),
                    fixed(s.median_us, 0),
                    fixed(s.p90_us, 0),
                    fixed(ratio(kernel), 2),
                    fixed(tail, 1),
                ]
            });
            let head = [*condition, "knocks", "lost", "median µs", "p90 µs", "of in-kernel", "p90/median"];
            text.push_str(&table(&head, rows));
            text.push_str(&format!("armed {armed}, confirmed {confirmed}\n\n"));
        }
        let rows = self.connections.iter().map(|row| {
            let (pause, count) = (row.pause_ms.to_string(), row.connections.to_string());
            vec![row.candidate.clone(), pause, count, row.late.to_string()]
        });
        let head = ["right behind the last knock", "ms between knocks", "connections", "over 500 ms"];
        text.push_str(&table(&head, rows));
        text
    }
}
