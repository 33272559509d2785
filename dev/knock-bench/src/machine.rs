//! On what and of what the figures are.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine and the programs. No name of a host: it says nothing about the figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// When the run began, in UTC.
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    /// How busy the machine was when the run began: runnable processes in the last minute, the last five, and 15.
    pub(crate) load: String,
    pub(crate) versions: Vec<(&'static str, String)>,
}

impl Machine {
    /// What this process runs on, and what these programs say that they are.
    pub(crate) fn look(programs: &[(&'static str, &Path, &str)]) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let model = |text: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"));
            line.map_or("unknown", |value| value.trim_start_matches([' ', '\t', ':'])).to_owned()
        };
        Machine {
            date: first_line(Path::new("date"), &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model(&read("/proc/cpuinfo")),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            load: load(),
            versions: programs.iter().map(|(name, path, option)| (*name, first_line(path, &[option]))).collect(),
        }
    }
}

impl Machine {
    /// A line about the machine, and one for each program.
    pub(crate) fn lines(&self) -> String {
        let Machine { date, kernel, processor, processors, load, versions } = self;
        let mut text = format!("{date}, Linux {kernel}, {processors} x {processor}; load {load}\n");
        for (name, version) in versions {
            text += &format!("{name}: {version}\n");
        }
        text
    }
}

/// Runnable processes in the last minute, the last five, and 15.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The first line that a program prints; empty where it can't be run.
pub(crate) fn first_line(program: &Path, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned()
}
