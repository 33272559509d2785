//! Carries the records of a fleet between knockd, on a local socket, and a store, a Valkey or Redis server.
//!
//! It decides nothing: knockd verifies what comes from the store. It holds no key and no capability, and reads no
//! configuration; knockd sends what it needs. `docs/fleet-protocol.md` has both protocols.
//!
//! Three threads: this one receives what knockd sends, `writer.rs` writes to the store, `reader.rs` reads from it.

#![forbid(unsafe_code)]

mod backoff;
mod check;
mod connection;
mod log;
mod own;
mod problem;
mod reader;
mod resp;
mod session;
mod socket;
mod store;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser, Subcommand};
use knock_fleet::link::{Settings, ToFleet};

use own::Own;
use session::{Ends, Session};
use socket::{Socket, SocketError};

/// The least time between two connections to knockd.
const RETRY: Duration = Duration::from_millis(500);

/// Carries the grants of knockd to the other nodes of its fleet, and theirs to knockd, through a Valkey or Redis server.
///
/// knockd decides what is granted; see knockd(8). This program needs no privilege and no configuration: knockd sends what it
/// needs over the local socket.
#[derive(Debug, Parser)]
#[command(name = "knockd-fleet", version)]
struct Arguments {
    /// The local socket of knockd
    #[arg(long, value_name = "FILE", default_value = "/run/knockd/fleet.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check the servers that the settings on standard input name
    ///
    /// The password file, and for each server: name, connection, TLS, user, version, clock, permissions, and whether replicas
    /// follow. Prints a line for each thing that was checked: `ok`, `warning` or `error`, with what to do. The exit status is 0
    /// if there is no error, else 1. `knockctl fleet check` runs it with the settings of the configuration. Nothing of the
    /// fleet is changed. As root it checks as the user knockd-fleet.
    Check,
}

/// The command line, for the manual page and the completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The program.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // There is one provider in this program, and this is the first use of it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match arguments.action {
        Some(Action::Check) => check::run(),
        None => serve(&arguments),
    }
}

/// Serves knockd, again and again.
fn serve(arguments: &Arguments) -> ! {
    log::start();
    let mut last: Option<(Settings, Arc<Mutex<Own>>)> = None;
    let mut reported = String::new();
    loop {
        let began = Instant::now();
        match attend(arguments, &mut last) {
            Ok(()) => {
                reported.clear();
                ::log::info!("the connection to knockd has ended");
            }
            Err(error) => {
                let error = error.to_string();
                // knockd may be away for a long time.
                if error != reported {
                    ::log::warn!("{}: {error}; trying again", arguments.socket.display());
                    reported = error;
                }
            }
        }
        // Not so soon after the last one: its threads need some seconds to end.
        std::thread::sleep(RETRY.saturating_sub(began.elapsed()));
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
    // However this ends, the threads end too.
    let _ends = Ends(Arc::clone(&session));
    writer::spawn(Arc::clone(&session))?;
    reader::spawn(Arc::clone(&session))?;
    // The threads end when they return from the store, at the latest after its timeouts; nobody waits for them.
    loop {
        match socket.receive()? {
            Some(ToFleet::Settings(_)) => return Err(SocketError::NoSettings),
            Some(ToFleet::Publish(record)) => session.publish(*record),
            Some(ToFleet::Claim { nonce, lifetime }) => session.claim(nonce, lifetime),
            None => return Ok(()),
        }
    }
}
