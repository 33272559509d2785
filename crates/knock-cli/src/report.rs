//! What the client prints: text, or JSON. Never a sequence, unless `-v` asks for each knock.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use knock_client::Error as ClientError;
use serde_json::{Value, json};

use crate::args::Args;
use crate::error::Error;
use crate::plan::{Job, Sends};

/// How a job ended well.
#[derive(Debug)]
pub(crate) enum Done {
    /// Every knock was sent to these addresses; whether it opened anything is unknown.
    Sent(Vec<IpAddr>),
    /// The port is open.
    Open { address: SocketAddr, rounds: u32, attempts: u32 },
}

/// What `-v` prints before the knocks.
pub(crate) fn heading(job: &Job, addresses: impl Iterator<Item = IpAddr>) -> String {
    let Job { host, sends, .. } = job;
    let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
    let at = match &addresses[..] {
        [one] if one == host => host.clone(),
        [one] => format!("{host}, address {one}"),
        several => format!("{host}, addresses {}", several.join(" and ")),
    };
    match sends {
        Sends::Knocks(..) => format!("knocking at {at}"),
        Sends::Packet { key, .. } => format!("sending packets to {at}\nsigned with {key}"),
    }
}

/// Prints how a job ended. An error as text is for the caller.
pub(crate) fn print(args: &Args, job: &Job, done: &Result<Done, Error>, elapsed: Duration) {
    if args.json {
        return line(&document(job, done, elapsed).to_string());
    }
    if args.quiet || !args.command.is_empty() {
        return;
    }
    match done {
        Ok(Done::Sent(_)) if args.verbose => {}
        Ok(Done::Sent(addresses)) => {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            let addresses = addresses.join(" and ");
            line(&match &job.sends {
                Sends::Knocks(1, _) => format!("knocked at 1 port of {addresses}"),
                Sends::Knocks(count, _) => format!("knocked at {count} ports of {addresses}"),
                Sends::Packet { .. } => {
                    let (what, end) = packet(&job.sends);
                    format!("sent a signed packet{what} to {addresses}{end}")
                }
            });
        }
        Ok(Done::Open { address, .. }) => line(&format!("{address} is open, after {} ms", elapsed.as_millis())),
        Err(_) => {}
    }
}

/// What is said about a signed packet that is not an ordinary one: which rule of the server it asks for, and to do what.
fn packet(sends: &Sends) -> (String, &'static str) {
    match sends {
        Sends::Knocks(..) => (String::new(), ""),
        Sends::Packet { close, asked, .. } => {
            let what = asked.as_ref().map(|rule| format!(" for the server's rule {rule}")).unwrap_or_default();
            (what, if *close { ", which ends the grant" } else { "" })
        }
    }
}

/// Standard output can be closed; the knocks were sent in any case.
fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn document(job: &Job, done: &Result<Done, Error>, elapsed: Duration) -> Value {
    let (result, addresses, attempts) = match done {
        Ok(Done::Sent(addresses)) => ("sent", addresses.clone(), 0),
        Ok(Done::Open { address, attempts, .. }) => ("open", vec![address.ip()], *attempts),
        Err(Error::Knock(ClientError::NotOpen(not_open))) => {
            let result = match not_open {
                not_open if not_open.refused => "refused",
                not_open if not_open.failure.is_some() => "unreachable",
                _ => "closed",
            };
            (result, not_open.addresses.clone(), not_open.attempts)
        }
        Err(_) => ("unreachable", Vec::new(), 0),
    };
    let rounds = match done {
        Ok(Done::Sent(_)) => 1,
        Ok(Done::Open { rounds, .. }) => *rounds,
        Err(Error::Knock(ClientError::NotOpen(not_open))) => not_open.rounds,
        Err(_) => 0,
    };
    let family = match (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6)) {
        (true, true) => Some("both"),
        (true, false) => Some("ipv4"),
        (false, true) => Some("ipv6"),
        (false, false) => None,
    };
    json!({
        "host": job.host,
        "rule": job.rule,
        "port": job.wait,
        "result": result,
        "address": addresses.first(),
        "family": family,
        "knocked": rounds,
        "attempts": attempts,
        "milliseconds": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}

/// What would be done.
pub(crate) fn rehearsal(args: &Args, job: &Job, addresses: &[SocketAddr]) {
    let addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    if args.json {
        let mut document = json!({
            "host": job.host,
            "rule": job.rule,
            "port": job.wait,
            "result": "rehearsed",
            "addresses": addresses,
        });
        match &job.sends {
            Sends::Knocks(count, gap) => {
                document["knocks"] = (*count).into();
                document["gap_milliseconds"] = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX).into();
            }
            Sends::Packet { key, .. } => document["key"] = key.as_str().into(),
        }
        return line(&document.to_string());
    }
    let (of, addresses) = (&job.host, addresses.join(" and "));
    match &job.sends {
        Sends::Knocks(count, gap) => {
            line(&format!("would send {count} knocks to {of} ({addresses}), {} ms apart", gap.as_millis()));
        }
        Sends::Packet { port, key, .. } => {
            let (what, end) = packet(&job.sends);
            line(&format!(
                "would send a signed packet{what} to UDP port {port} of {of} ({addresses}), signed with {key}{end}"
            ));
        }
    }
    if let Some(port) = job.wait {
        line(&format!("would wait for port {port}, for {} s at most", args.within.as_secs_f32()));
    }
    if let Some(program) = args.command.first() {
        line(&format!("would run {}", program.to_string_lossy()));
    }
}
