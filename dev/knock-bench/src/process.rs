//! A daemon as a child process, and what it costs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use knock_testkit::Host;

use crate::error::{Attempt, Error, Result};

/// How long a daemon may take to come up, with 5,000 rules on a busy machine.
const START: Duration = Duration::from_secs(30);

/// What a process has used so far, all its threads together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Time on a processor.
    pub(crate) processor: Duration,
    /// How often it went to sleep of its own will: each is a wake-up.
    pub(crate) sleeps: u64,
    /// Resident memory, in KiB.
    pub(crate) resident: u64,
}

/// A daemon that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    program: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts it on that host, with its output in the file `log`, and waits until it says `ready` in the file `says`.
    pub(crate) fn start(host: &Host, command: &mut Command, log: &Path, says: &Path, ready: &str) -> Result<Daemon> {
        let program = command.get_program().to_string_lossy().into_owned();
        let file = File::create(log).attempt(|| format!("make {}", log.display()))?;
        let same = file.try_clone().attempt(|| format!("duplicate the descriptor of {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(same);
        let child = host.namespace.run(|| command.spawn())?.attempt(|| format!("run {program}"))?;
        let mut daemon = Daemon { child, program, log: log.to_owned() };
        let start = Instant::now();
        while !fs::read_to_string(says).is_ok_and(|text| text.contains(ready)) {
            let ended = daemon.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || start.elapsed() > START {
                return Err(Error::NotReady {
                    program: daemon.program.clone(),
                    awaited: ready.to_owned(),
                    seconds: start.elapsed().as_secs(),
                    log: daemon.log(),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        usage(self.child.id(), &self.program)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used so far, which runs that program, with those that it has started.
pub(crate) fn usage(process: u32, program: &str) -> Result<Usage> {
    let mut usage = Usage { processor: Duration::ZERO, sleeps: 0, resident: 0 };
    let process = PathBuf::from(format!("/proc/{process}"));
    let tasks = fs::read_dir(process.join("task")).attempt(|| format!("list the threads of {program}"))?;
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let of_child = self::usage(child, program)?;
            usage.processor += of_child.processor;
            usage.sleeps += of_child.sleeps;
            usage.resident += of_child.resident;
        }
        // The first number is the nanoseconds on a processor (Documentation/scheduler/sched-stats.rst).
        usage.processor += Duration::from_nanos(number(&task.path().join("schedstat"), "")?);
        usage.sleeps += number(&task.path().join("status"), "voluntary_ctxt_switches:")?;
    }
    // What several processes share counts once.
    usage.resident += number(&process.join("smaps_rollup"), "Pss:")?;
    Ok(usage)
}

/// The number after `label` at the start of a line.
fn number(file: &Path, label: &str) -> Result<u64> {
    let text = fs::read_to_string(file).attempt(|| format!("read {}", file.display()))?;
    let value = text.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| Error::Unexpected {
        origin: file.display().to_string(),
        text: text.trim().to_owned(),
        expected: "a number after its label",
    })
}
