//! Carries the records of a fleet between knockd, on a local socket, and a store, a Valkey or Redis server.
//!
//! It decides nothing: knockd verifies what comes from the store. It holds no key and no capability, and reads no
//! configuration; knockd sends what it needs. `docs/fleet-protocol.md` has both protocols.
//!
//! Three threads: this one receives what knockd sends, `writer.rs` writes to the store, `reader.rs` reads from it.

#![forbid(unsafe_code)]

mod backoff;
mod log;
mod own;
mod reader;
mod session;
mod socket;
mod store;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use knock_fleet::link::{Settings, ToFleet};

use own::Own;
use session::Session;
use socket::{Socket, SocketError};

/// How long knockd is waited for between attempts.
const RETRY: Duration = Duration::from_millis(500);

/// Carries the grants of knockd to the other nodes of its fleet, and theirs to knockd, through a Valkey or Redis server.
///
/// knockd decides what is granted; see knockd(8). This program needs no privilege and no configuration: knockd sends what it
/// needs over the local socket.
#[derive(Debug, Parser)]
#[command(name = "knockd-fleet", version)]
pub struct Arguments {
    /// The local socket of knockd
    #[arg(long, value_name = "FILE", default_value = "/run/knockd/fleet.sock")]
    socket: PathBuf,
}

/// The program.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    log::start();
    // There is one provider in this program, and this is the first use of it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut last: Option<(Settings, Arc<Mutex<Own>>)> = None;
    let mut reported = String::new();
    loop {
        let error = match attend(&arguments, &mut last) {
            Ok(()) => {
                reported.clear();
                ::log::info!("knockd has closed the connection");
                continue;
            }
            Err(error) => error.to_string(),
        };
        // knockd may be away for a long time.
        if error != reported {
            ::log::warn!("{}: {error}; trying again", arguments.socket.display());
            reported = error;
        }
        std::thread::sleep(RETRY);
    }
}

/// Serves one connection to knockd, until it ends.
fn attend(arguments: &Arguments, last: &mut Option<(Settings, Arc<Mutex<Own>>)>) -> Result<(), SocketError> {
    let socket = Arc::new(Socket::connect(&arguments.socket)?);
    let Some(ToFleet::Settings(settings)) = socket.receive()? else { return Err(SocketError::NoSettings) };
    // What was published lives on when knockd starts again.
    let own = match last {
        Some((known, own)) if (&known.realm, &known.node) == (&settings.realm, &settings.node) => Arc::clone(own),
        _ => Arc::default(),
    };
    *last = Some((*settings.clone(), Arc::clone(&own)));
    let session = Arc::new(Session::new(*settings, Arc::clone(&socket), own).ok_or(SocketError::NoSettings)?);
    ::log::info!("connected to knockd; the realm is {}", session.settings.realm);
    writer::spawn(Arc::clone(&session))?;
    reader::spawn(Arc::clone(&session))?;
    let ended = loop {
        match socket.receive() {
            Ok(Some(ToFleet::Settings(_))) => break Err(SocketError::NoSettings),
            Ok(Some(ToFleet::Publish(record))) => session.publish(*record),
            Ok(Some(ToFleet::Claim { nonce, lifetime })) => session.claim(nonce, lifetime),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The threads end when they return from the store, at the latest after its timeouts; nobody waits for them.
    session.stop();
    ended
}
