//! What a daemon costs while a transfer fills the interface that it listens on.

use std::process::Command;
use std::time::Duration;

use knock_testkit::SERVER_V4;
use serde::Serialize;
use serde_json::Value;

use crate::candidate::Candidate;
use crate::error::{Error, Result};
use crate::idle::milliseconds;
use crate::process::Daemon;

/// What a transfer and a daemon did to each other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) candidate: String,
    /// Received by the server, in Gbit/s; the median of the passes.
    pub(crate) gigabits: f64,
    /// The processor time of the daemon, in milliseconds, over all passes.
    pub(crate) processor_ms: Option<f64>,
    /// How often the daemon woke up, over all passes.
    pub(crate) wakeups: Option<u64>,
}

/// A transfer of that length at each candidate in turn, that many times.
pub(crate) fn measure(candidates: &[&Candidate], passes: u32, time: Duration) -> Result<Vec<Row>> {
    let mut rates = vec![Vec::new(); candidates.len()];
    let mut costs = vec![(Duration::ZERO, 0); candidates.len()];
    for _ in 0..passes {
        for ((candidate, rates), cost) in candidates.iter().zip(&mut rates).zip(&mut costs) {
            let before = candidate.daemon.as_ref().map(Daemon::usage).transpose()?;
            rates.push(one_transfer(candidate, time)?);
            if let (Some(daemon), Some(before)) = (&candidate.daemon, before) {
                let now = daemon.usage()?;
                cost.0 += now.processor.saturating_sub(before.processor);
                cost.1 += now.sleeps.saturating_sub(before.sleeps);
            }
        }
    }
    let row = |((candidate, rates), cost): ((&&Candidate, Vec<f64>), (Duration, u64))| {
        let mut rates = rates;
        rates.sort_unstable_by(f64::total_cmp);
        let is_daemon = candidate.daemon.is_some();
        Row {
            candidate: candidate.name.clone(),
            gigabits: rates.get(rates.len() / 2).map_or(0.0, |rate| (rate / 1e7).round() / 100.0),
            processor_ms: is_daemon.then(|| milliseconds(cost.0)),
            wakeups: is_daemon.then_some(cost.1),
        }
    };
    Ok(candidates.iter().zip(rates).zip(costs).map(row).collect())
}

/// Bits a second that arrived at the server.
fn one_transfer(candidate: &Candidate, time: Duration) -> Result<f64> {
    // It leaves by itself after one client.
    let mut server = Command::new("iperf3");
    server.args(["--server", "--one-off", "--daemon"]);
    candidate.network.server.namespace.output(&mut server, "")?;
    let mut client = Command::new("iperf3");
    client.args(["--json", "--time", &time.as_secs().to_string(), "--client", &SERVER_V4.to_string()]);
    let text = candidate.network.client().namespace.output(&mut client, "")?;
    let rate = serde_json::from_str(&text)
        .ok()
        .and_then(|result: Value| result["end"]["sum_received"]["bits_per_second"].as_f64());
    rate.ok_or(Error::Unexpected { origin: "iperf3".to_owned(), text, expected: "a received rate" })
}
