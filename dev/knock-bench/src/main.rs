//! `scripts/bench`: knockd side by side with other knock daemons, the in-kernel knock and no daemon, in one run.
//!
//! Everything happens in namespaces that this made; the script puts it into a process namespace of its own, which takes
//! every daemon with it when it ends.

mod armed;
mod candidate;
mod client;
mod error;
mod flood;
mod idle;
mod latency;
mod machine;
mod priority;
mod process;
mod report;
mod signed;
mod statistics;
mod transfer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::candidate::{Candidate, Preparation};
use crate::error::{Attempt, Error, Result};
use crate::machine::{Machine, first_line, load};
use crate::report::{Flooded, Goal, Report};

/// The name of the candidate that the others are compared with.
const KERNEL: &str = "in-kernel nftables";

/// Measures knockd side by side with Debian's knockd, fwknop, the in-kernel nftables knock and no daemon.
#[derive(Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    /// A run of a minute, with fewer knocks, grants and packets, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Measure the client in place of the daemon: beside those of knock and fwknop, as ProxyCommand of ssh, over bad
    /// paths; about 20 minutes
    #[arg(long)]
    client: bool,
    /// Measure signed packets in place of everything else: beside a sequence and fwknop, in floods, with many keys; about 2
    /// minutes
    #[arg(long, conflicts_with = "client")]
    signed: bool,
    /// Measure what a higher priority of the daemon brings on a busy machine in place of everything else; about 12 minutes
    #[arg(long, conflicts_with_all = ["client", "signed"])]
    priority: bool,
    /// Measure what the kernel brings that opens at the last knock in place of everything else; about 3 minutes
    #[arg(long, conflicts_with_all = ["client", "signed", "priority"])]
    armed: bool,
    /// Where the figures go as JSON; default: target/bench/DATE.json
    #[arg(long)]
    output: Option<PathBuf>,
    /// The daemon to be measured; default: beside this program
    #[arg(long)]
    knockd: Option<PathBuf>,
    /// Another build of the daemon, to be measured beside it in the same run
    #[arg(long, conflicts_with_all = ["client", "signed", "priority"])]
    beside: Option<PathBuf>,
    /// Debian's daemon; left out where it is not there
    #[arg(long, default_value = "/usr/sbin/knockd")]
    debian_knockd: PathBuf,
    /// fwknop's daemon; left out where it is not there
    #[arg(long, default_value = "/usr/sbin/fwknopd")]
    fwknopd: PathBuf,
    /// fwknop's client
    #[arg(long, default_value = "/usr/bin/fwknop")]
    fwknop: PathBuf,
}

/// How much is measured.
struct Extent {
    knocks: u32,
    grants: u32,
    idle: Duration,
    transfer_passes: u32,
    transfer: Duration,
    floods: [(&'static str, flood::Plan); 2],
}

impl Extent {
    fn new(quick: bool) -> Extent {
        let flood = |rate, time| flood::Plan {
            rate,
            passes: if quick { 1 } else { 2 },
            lead: Duration::from_secs(1),
            time: Duration::from_secs(if quick { 2 } else { time }),
            knocks: if quick { 20 } else { 100 },
            slow_knocks: if quick { 3 } else { 10 },
        };
        Extent {
            knocks: if quick { 20 } else { 200 },
            grants: if quick { 10_000 } else { 100_000 },
            idle: Duration::from_secs(if quick { 10 } else { 60 }),
            transfer_passes: if quick { 1 } else { 3 },
            transfer: Duration::from_secs(if quick { 1 } else { 4 }),
            // 30,000 a second for 34 s are a million sources.
            floods: [("flood, 30,000/s", flood(Some(30_000), 17)), ("flood, unpaced", flood(None, 5))],
        }
    }

    /// The knocks at a candidate that runs a command for each, one to warm up included.
    fn slow_knocks(&self) -> u32 {
        let in_floods = self.floods.iter().map(|(_, plan)| plan.passes * plan.slow_knocks).sum::<u32>();
        1 + self.knocks + in_floods
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scripts/bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let extent = Extent::new(arguments.quick);
    let knockd = our_knockd(arguments)?;
    // A package of ours may stand where Debian's did.
    let debian = Some(&arguments.debian_knockd)
        .filter(|path| path.exists() && first_line(path, &["-V"]) != first_line(&knockd, &["-V"]));
    let fwknop =
        Some((&arguments.fwknopd, &arguments.fwknop)).filter(|(server, client)| server.exists() && client.exists());
    let mut programs: Vec<(&'static str, &Path, &str)> = vec![("ours", &knockd, "-V"), ("nft", Path::new("nft"), "-V")];
    match debian {
        Some(path) => programs.push(("Debian's knockd", path, "-V")),
        None => eprintln!(
            "Debian's knockd is left out: it is not at {} (package knockd)",
            arguments.debian_knockd.display()
        ),
    }
    match fwknop {
        Some((path, _)) => programs.push(("fwknop", path, "-V")),
        None => eprintln!("fwknop is left out: packages fwknop-server and fwknop-client are not both there"),
    }
    programs.push(("iperf3", Path::new("iperf3"), "-v"));
    if arguments.client {
        return run_client(arguments, &knockd);
    }
    let machine = Machine::look(&programs);
    if arguments.signed {
        return run_signed(
            arguments,
            &machine,
            &knockd,
            fwknop.map(|(server, client)| (server.as_path(), client.as_path())),
        );
    }

    if arguments.armed {
        return run_armed(arguments, &machine, &knockd);
    }
    if arguments.priority {
        return run_priority(arguments, &machine, &knockd);
    }

    let scratch =
        tempfile::Builder::new().prefix("knock-bench.").tempdir().attempt(|| "make a directory".to_owned())?;
    let scratch = scratch.path();
    said("setting up");
    let mut contest =
        vec![Candidate::ours(&knockd, scratch, "ours", Preparation { rules: 1, grants: 0 })?, Candidate::kernel()?];
    if let Some(path) = &arguments.beside {
        let scratch = scratch.join("beside");
        std::fs::create_dir(&scratch).attempt(|| "make a directory".to_owned())?;
        contest.push(Candidate::ours(path, &scratch, "another build", Preparation { rules: 1, grants: 0 })?);
    }
    if let Some(path) = debian {
        contest.push(Candidate::debian(path, scratch)?);
    }
    if let Some((server, client)) = fwknop {
        contest.push(Candidate::fwknop(server, client, scratch, extent.slow_knocks())?);
    }
    let with_grants = format!("ours, {} grants", extent.grants);
    let mut variants = [
        Candidate::ours(&knockd, scratch, "ours, 5000 rules", Preparation { rules: 5000, grants: 0 })?,
        Candidate::ours(&knockd, scratch, &with_grants, Preparation { rules: 1, grants: extent.grants })?,
    ];
    let nothing = Candidate::nothing()?;

    said(&format!("idle for {} s", extent.idle.as_secs()));
    let idle = idle::measure(contest.iter().chain(&variants), extent.idle)?;
    said(&format!("{} knocks each", extent.knocks));
    let latency = latency::measure(&mut contest.iter_mut().chain(&mut variants).collect::<Vec<_>>(), extent.knocks)?;
    said("transfers");
    let compared: Vec<&Candidate> = std::iter::once(&nothing).chain(&contest).collect();
    let transfers = transfer::measure(&compared, extent.transfer_passes, extent.transfer)?;
    let mut floods = Vec::new();
    for (name, plan) in extent.floods {
        said(name);
        let rows = flood::measure(&mut contest.iter_mut().collect::<Vec<_>>(), plan)?;
        floods.push(Flooded { flood: name, rows });
    }

    let goals = goals(&latency, &floods);
    let report = Report {
        machine,
        load_at_end: load(),
        quick: arguments.quick,
        latency,
        floods,
        idle_seconds: extent.idle.as_secs(),
        idle,
        transfer_seconds: extent.transfer.as_secs(),
        transfers,
        goals,
    };
    print!("{}", report.tables());
    write(arguments.output.as_deref(), &report.machine.date, &report)
}

/// `--client`.
fn run_client(arguments: &Arguments, knockd: &Path) -> Result<()> {
    let knock_cli = knockd.with_file_name("knock-cli");
    if !knock_cli.exists() {
        return Err(Error::NotBuilt { path: knock_cli });
    }
    let there = |path: &'static str| Some(Path::new(path)).filter(|path| path.exists());
    let programs = client::Programs {
        knock_cli: &knock_cli,
        knock: there("/usr/bin/knock"),
        fwknop: Some(arguments.fwknop.as_path()).filter(|path| path.exists()),
    };
    let named = [("ours", Some(knock_cli.as_path())), ("knock", programs.knock), ("fwknop", programs.fwknop)];
    let looked: Vec<_> = named.into_iter().filter_map(|(name, path)| Some((name, path?, "-V"))).collect();
    let machine = Machine::look(&looked);
    let scratch =
        tempfile::Builder::new().prefix("knock-bench.").tempdir().attempt(|| "make a directory".to_owned())?;
    let figures = client::measure(&programs, knockd, scratch.path(), arguments.quick)?;
    print!("{}{}\nload at the end: {}\n", machine.lines(), figures.tables(), load());
    write(arguments.output.as_deref(), &format!("{}-client", machine.date), &figures)
}

/// `--signed`.
fn run_signed(arguments: &Arguments, machine: &Machine, knockd: &Path, fwknop: Option<(&Path, &Path)>) -> Result<()> {
    let scratch =
        tempfile::Builder::new().prefix("knock-bench.").tempdir().attempt(|| "make a directory".to_owned())?;
    let figures = signed::measure(knockd, fwknop, scratch.path(), arguments.quick)?;
    print!("{}{}\nload at the end: {}\n", machine.lines(), figures.tables(), load());
    write(arguments.output.as_deref(), &format!("{}-signed", machine.date), &figures)
}

/// `--armed`.
fn run_armed(arguments: &Arguments, machine: &Machine, knockd: &Path) -> Result<()> {
    let scratch =
        tempfile::Builder::new().prefix("knock-bench.").tempdir().attempt(|| "make a directory".to_owned())?;
    let figures = armed::measure(knockd, scratch.path(), arguments.quick)?;
    print!("{}{}\nload at the end: {}\n", machine.lines(), figures.tables(), load());
    write(arguments.output.as_deref(), &format!("{}-armed", machine.date), &figures)
}

/// `--priority`.
fn run_priority(arguments: &Arguments, machine: &Machine, knockd: &Path) -> Result<()> {
    let scratch =
        tempfile::Builder::new().prefix("knock-bench.").tempdir().attempt(|| "make a directory".to_owned())?;
    let figures = priority::measure(knockd, scratch.path(), arguments.quick)?;
    print!("{}{}\nload at the end: {}\n", machine.lines(), figures.tables(), load());
    write(arguments.output.as_deref(), &format!("{}-priority", machine.date), &figures)
}

fn our_knockd(arguments: &Arguments) -> Result<PathBuf> {
    let path = match &arguments.knockd {
        Some(path) => path.clone(),
        None => {
            std::env::current_exe().attempt(|| "find this program's directory".to_owned())?.with_file_name("knockd")
        }
    };
    if path.exists() { Ok(path) } else { Err(Error::NotBuilt { path }) }
}

/// The present step, for the user who waits.
fn said(what: &str) {
    eprintln!("bench: {what}");
}

fn goals(latency: &[latency::Row], floods: &[Flooded]) -> Vec<Goal> {
    let median = |place: usize| latency.get(place).and_then(|row| row.summary.median_us);
    let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
    let kernel = latency.iter().find(|row| row.candidate == KERNEL).and_then(|row| row.summary.median_us);
    let mut goals = vec![Goal::new("median of ours / of the in-kernel knock", ratio(median(0), kernel), 1.7)];
    for row in latency.iter().filter(|row| row.candidate.starts_with("ours, ")) {
        goals.push(Goal::new(
            format!("median of {} / of ours", row.candidate),
            ratio(row.summary.median_us, median(0)),
            1.2,
        ));
    }
    for flooded in floods {
        let lost = flooded.rows.first().map(|row| f64::from(row.summary.lost));
        goals.push(Goal::new(format!("knocks lost by ours in the {}", flooded.flood), lost, 0.0));
    }
    goals
}

fn write(output: Option<&Path>, name: &str, report: &impl serde::Serialize) -> Result<()> {
    let path = output.map_or_else(|| Path::new("target/bench").join(format!("{name}.json")), Path::to_owned);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).attempt(|| format!("make {}", directory.display()))?;
    }
    let text = serde_json::to_string_pretty(report).unwrap_or_default();
    std::fs::write(&path, text + "\n").attempt(|| format!("write {}", path.display()))?;
    println!("\nwritten to {}", path.display());
    Ok(())
}
