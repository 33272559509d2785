//! Does the jobs, one host after the other, and says how each ended.

use std::ffi::OsString;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use knock_client::{Knocked, Opened};

use crate::args::Args;
use crate::carry::carry;
use crate::error::Error;
use crate::notice::{self, Notice, SILENCE};
use crate::plan::{Job, Proxy, Sends};
use crate::report::{self, Done};

/// Knocks at every host, and then runs the command. The error is the first one; the other hosts are tried all the same.
pub(crate) fn knock(args: &Args, jobs: &[Job]) -> Result<(), Error> {
    let mut first_error = None;
    for job in jobs {
        let start = Instant::now();
        let done = one(args, job);
        report::print(args, job, &done, start.elapsed());
        if let Err(error) = done {
            match &first_error {
                None => first_error = Some(error),
                // The caller prints the first one only.
                Some(_) => notice::complain(&error),
            }
        }
    }
    match (first_error, &args.command[..]) {
        (Some(error), _) => Err(error),
        (None, [program, arguments @ ..]) => run(program, arguments),
        (None, []) => Ok(()),
    }
}

fn one(args: &Args, job: &Job) -> Result<Done, Error> {
    // Standard output can be closed; the knocks are sent in any case.
    let mut out = std::io::stdout();
    let mut several = false;
    if args.verbose {
        let targets = job.client.targets()?;
        several = targets.len() > 1;
        let _ = writeln!(out, "{}", report::heading(job, targets.iter().map(|target| target.address.ip())));
    }
    let mut print = |address, knock| {
        if args.verbose {
            let of = if several { format!(" of {address}") } else { String::new() };
            let what = if matches!(job.sends, Sends::Packet { .. }) { "sent a packet to" } else { "knocked at" };
            let _ = writeln!(out, "{what} {knock}{of}");
        }
    };
    match job.wait {
        None => {
            let knocked: Knocked = job.client.knock_each(print)?;
            // An address without a way to it is usual: a network without IPv6.
            for unsent in knocked.unsent.iter().filter(|unsent| !unsent.is_no_route()) {
                notice::complain(unsent);
            }
            Ok(Done::Sent(knocked.addresses))
        }
        Some(port) => {
            let mut notice = None;
            let opened = job.client.open_each(port, |address, knock| {
                notice.get_or_insert_with(|| waiting(args, &job.host, port));
                print(address, knock);
            });
            drop(notice);
            let Opened { address, rounds, attempts, .. } = opened?;
            Ok(Done::Open { address, rounds, attempts })
        }
    }
}

/// The notice that it waits, which begins when something was sent: before that somebody may have to touch a key.
fn waiting(args: &Args, host: &str, port: u16) -> Notice {
    let text = format!("waiting for {host}:{port} to open, for {} s at most", args.within.as_secs_f32());
    Notice::after(SILENCE, notice::wanted(args), text)
}

/// Knocks, waits, and carries the connection. Nothing but what the host sends goes to standard output.
pub(crate) fn proxy(args: &Args, proxy: Proxy) -> Result<(), Error> {
    let stream = match &proxy.job {
        Some(job) => {
            let mut notice = None;
            let opened = job.client.open_each(proxy.port, |_, _| {
                notice.get_or_insert_with(|| waiting(args, &proxy.host, proxy.port));
            });
            opened?.stream
        }
        None => plain(proxy.host, proxy.port)?,
    };
    carry(stream).map_err(|error| Error::Io { what: "the connection cannot be carried".to_owned(), error })
}

/// Connects without a knock.
fn plain(host: String, port: u16) -> Result<TcpStream, Error> {
    TcpStream::connect((host.as_str(), port)).map_err(|error| Error::Plain { host, port, error })
}

/// Shows what would be done.
pub(crate) fn rehearse(args: &Args, jobs: &[Job]) -> Result<(), Error> {
    for job in jobs {
        let addresses: Vec<SocketAddr> = job.client.targets()?.iter().map(|target| target.address).collect();
        report::rehearsal(args, job, &addresses);
    }
    Ok(())
}

/// Becomes that program, where the system can.
#[cfg(unix)]
pub(crate) fn run(program: &OsString, arguments: &[OsString]) -> Result<(), Error> {
    use std::os::unix::process::CommandExt;
    let error = Command::new(program).args(arguments).exec();
    Err(Error::Run { program: program.to_string_lossy().into_owned(), error })
}

/// Runs that program and ends with its status.
#[cfg(not(unix))]
pub(crate) fn run(program: &OsString, arguments: &[OsString]) -> Result<(), Error> {
    let status = Command::new(program).args(arguments).status();
    let status = status.map_err(|error| Error::Run { program: program.to_string_lossy().into_owned(), error })?;
    std::process::exit(status.code().unwrap_or(1));
}
