//! The real daemon in the server's namespace.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use knock_testkit::{DEADLINE, Host, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Marks the daemons of a test run; the value is the process of that run. One that was killed leaves its daemons
/// behind, and the next run ends them.
const RUN_MARK: &str = "KNOCKD_E2E_RUN";

/// What a daemon is started with, beyond its configuration.
#[derive(Default)]
pub(crate) struct Options<'a> {
    /// More command-line arguments.
    pub(crate) arguments: &'a [&'a str],
    /// A program in front of knockd, which becomes it or starts it: `strace …`.
    pub(crate) wrapper: &'a [&'a str],
    /// Environment variables.
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

/// A running knockd. It is killed when dropped, and its log is shown where the test fails.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    directory: TempDir,
}

/// The lines that the daemon wrote to standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

/// What a daemon that ends by itself said.
#[derive(Debug)]
pub(crate) struct Check {
    /// Its exit status; `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Daemon {
    /// Starts knockd on the server and waits until it is ready.
    pub(crate) fn start(server: &Host, configuration: Value) -> Daemon {
        Daemon::start_with(server, configuration, Options::default())
    }

    /// The same, with options.
    pub(crate) fn start_with(server: &Host, configuration: Value, options: Options<'_>) -> Daemon {
        let daemon = Daemon::launch(server, configuration, options);
        daemon.wait_for_log("ready");
        daemon
    }

    /// Starts knockd and does not wait.
    pub(crate) fn launch(server: &Host, configuration: Value, options: Options<'_>) -> Daemon {
        sweep();
        let directory = TempDir::with_prefix("knockd-e2e.").expect("a temporary directory");
        write_configuration(directory.path(), configuration);
        Daemon::launch_in(server, directory, options)
    }

    /// Starts knockd again in the directory of one that ended: the same configuration and state.
    pub(crate) fn start_again(server: &Host, directory: TempDir) -> Daemon {
        Daemon::start_in(server, directory, Options::default())
    }

    /// The same, with options.
    pub(crate) fn start_in(server: &Host, directory: TempDir, options: Options<'_>) -> Daemon {
        let daemon = Daemon::launch_in(server, directory, options);
        daemon.wait_for_log("ready");
        daemon
    }

    fn launch_in(server: &Host, directory: TempDir, options: Options<'_>) -> Daemon {
        let mut command = command(directory.path(), options.wrapper);
        command.args(options.arguments).envs(options.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = server.namespace.run(|| command.spawn()).expect("the server's namespace");
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = child.stderr.take().expect("the pipe asked for");
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                shared.add(line);
            }
            shared.end();
        });
        Daemon { child, log, reader: Some(reader), directory }
    }

    /// Its directory: `config.json`, `state/`, `control.sock`; tests may put their own files there.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its runner; `None` where it has none.
    pub(crate) fn runner(&self) -> Option<u32> {
        self.process("knockd-runner")
    }

    /// Its ear.
    pub(crate) fn ear(&self) -> u32 {
        self.process("knockd-ear").expect("the daemon has an ear")
    }

    fn process(&self, name: &str) -> Option<u32> {
        let is_it = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == name);
        children(self.pid()).into_iter().find(is_it)
    }

    /// All its processes.
    fn processes(&self) -> Vec<u32> {
        [Some(self.pid()), self.process("knockd-ear"), self.runner()].into_iter().flatten().collect()
    }

    /// The processes of commands, dead ones that were not collected included.
    pub(crate) fn commands(&self) -> Vec<u32> {
        self.runner().map(children).unwrap_or_default()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for a line that has `pattern` in it, `ready` only as a word of its own; returns the line.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, pattern: &str) -> String {
        self.log.wait(0, pattern).unwrap_or_else(|log| panic!("no log line with `{pattern}` came; the log:\n{log}"))
    }

    /// The same, for lines from `mark` on, which is what [`Daemon::log_mark`] returned.
    #[track_caller]
    pub(crate) fn wait_for_log_after(&self, mark: usize, pattern: &str) -> String {
        self.log.wait(mark, pattern).unwrap_or_else(|log| panic!("no log line with `{pattern}` came; the log:\n{log}"))
    }

    /// A place in the log: now.
    pub(crate) fn log_mark(&self) -> usize {
        self.log.lock().0.len()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(process(self.pid()), signal)
            .unwrap_or_else(|error| panic!("signal {signal:?}: {error}; the log:\n{}", self.log()));
    }

    /// What knockctl prints, which has to succeed.
    pub(crate) fn knockctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
        let output = command.arg("--socket").arg(self.path("control.sock")).args(arguments).output();
        let output = output.expect("knockctl runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Writes another configuration and has it loaded. The log shows the result.
    pub(crate) fn reload(&self, configuration: Value) {
        write_configuration(self.directory(), configuration);
        self.signal(Signal::HUP);
    }

    /// Stops it by SIGTERM; its status.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it by SIGKILL, as a crash would end it; its directory, for [`Daemon::start_again`].
    pub(crate) fn kill(mut self) -> TempDir {
        self.signal(Signal::KILL);
        self.wait();
        self.take_directory()
    }

    /// Its directory, after it ended.
    pub(crate) fn take_directory(mut self) -> TempDir {
        let empty = TempDir::with_prefix("knockd-e2e.").expect("a temporary directory");
        std::mem::replace(&mut self.directory, empty)
    }

    /// Waits until it has ended and all of its log is read.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of this process") {
                break status;
            }
            assert!(start.elapsed() < DEADLINE, "knockd did not end; the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(3));
        };
        wait_until("the end of the log", || self.reader.as_ref().is_none_or(JoinHandle::is_finished));
        status
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of this process").is_none()
    }

    /// A field of /proc/PID/status: `VmRSS` (KiB), `voluntary_ctxt_switches`, `Threads` …
    pub(crate) fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{path} has no number {field}"))
    }

    /// What it answers on its control socket when it is asked for its status.
    pub(crate) fn control_status(&self) -> Value {
        self.ask("status")
    }

    /// What it answers on its control socket to a command without arguments.
    pub(crate) fn ask(&self, command: &str) -> Value {
        let mut stream = UnixStream::connect(self.path("control.sock")).expect("the daemon listens");
        let request = json!({ "version": 1, "command": command });
        stream.write_all(format!("{request}\n").as_bytes()).expect("the request is taken");
        let mut answer: Value = serde_json::from_reader(stream).expect("an answer");
        answer["result"].take()
    }

    /// The processor time that its processes used so far, user and system, all threads, in clock ticks of 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let of_process = |pid: u32| {
            let path = format!("/proc/{pid}/stat");
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            // The fields after the name, which may have blanks in it, begin with the third (proc_pid_stat(5)).
            let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            [14, 15].iter().map(|field| fields[field - 3].parse::<u64>().expect("a number of ticks")).sum::<u64>()
        };
        self.processes().into_iter().map(of_process).sum()
    }

    /// The times that its processes went to sleep or were put to sleep, all threads.
    pub(crate) fn context_switches(&self) -> u64 {
        let tasks = self.processes().into_iter().flat_map(|pid| {
            let path = format!("/proc/{pid}/task");
            fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).flatten()
        });
        let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        status
            .flat_map(|text| {
                let switches =
                    |line: &str| line.contains("ctxt_switches").then(|| line.split_once(':')?.1.trim().parse().ok());
                text.lines().filter_map(switches).flatten().collect::<Vec<u64>>()
            })
            .sum()
    }

    /// The number of open file descriptors of its processes.
    pub(crate) fn open_files(&self) -> usize {
        let of_process = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.processes().into_iter().map(of_process).sum()
    }
}

/// The process with that number, to signal it.
pub(crate) fn process(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a process number")
}

/// The processes that a process has started, and that have not been collected.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- knockd's log ----\n{}----", self.log());
        }
        // What it started may hold its standard error open, so that the reader is not waited for.
        self.reader = None;
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        self.lock().0.push(line);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().1 = true;
        self.changed.notify_all();
    }

    fn text(&self) -> String {
        self.lock().0.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// Where no such line comes, the whole log.
    fn wait(&self, from: usize, pattern: &str) -> Result<String, String> {
        let start = Instant::now();
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines.0.iter().skip(from).find(|line| matches(line, pattern)) {
                return Ok(line.clone());
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            if lines.1 || left.is_zero() {
                drop(lines);
                return Err(self.text());
            }
            lines = self.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn matches(line: &str, pattern: &str) -> bool {
    match pattern {
        // The message begins with it; a level, perhaps a time, may stand before the message.
        "ready" => line.split_whitespace().take(3).any(|word| word.trim_matches([':', ',', '.', ']', '[']) == "ready"),
        _ => line.contains(pattern),
    }
}

/// Runs knockd to its end with a configuration file of that text, which may be wrong: `--check`, or a start that fails.
pub(crate) fn check(server: &Host, text: &str, options: Options<'_>) -> Check {
    let directory = TempDir::with_prefix("knockd-e2e.").expect("a temporary directory");
    write_secret(&directory.path().join("config.json"), text);
    start_fails(server, &directory, options)
}

/// Runs knockd to its end in the directory of one that ended.
pub(crate) fn start_fails(server: &Host, directory: &TempDir, options: Options<'_>) -> Check {
    let mut command = command(directory.path(), options.wrapper);
    command.args(options.arguments).envs(options.environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = server.namespace.run(|| command.spawn()).expect("the server's namespace");
    let child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = process(child.id());
    let output = thread::spawn(move || child.wait_with_output().expect("the output of knockd"));
    let start = Instant::now();
    while !output.is_finished() && start.elapsed() < DEADLINE {
        thread::sleep(Duration::from_millis(3));
    }
    if !output.is_finished() {
        let _ = kill_process(pid, Signal::KILL);
        let output = output.join().expect("the thread that reads");
        panic!("knockd did not end by itself; it said:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let output = output.join().expect("the thread that reads");
    Check {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn command(directory: &Path, wrapper: &[&str]) -> Command {
    let knockd = env!("CARGO_BIN_EXE_knockd");
    let mut command = match wrapper {
        [] => Command::new(knockd),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(knockd);
            command
        }
    };
    command.arg("-c").arg(directory.join("config.json"));
    // Nothing of the service manager that may run the tests.
    for variable in ["NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "JOURNAL_STREAM", "WATCHDOG_USEC"] {
        command.env_remove(variable);
    }
    command.env(RUN_MARK, std::process::id().to_string());
    command
}

/// Writes the configuration, with what every test needs unless the test itself says otherwise: paths in the directory,
/// the log on standard error.
fn write_configuration(directory: &Path, mut configuration: Value) {
    let fields = configuration.as_object_mut().expect("a configuration is an object");
    fields.entry("control_socket").or_insert_with(|| json!(directory.join("control.sock")));
    fields.entry("state_dir").or_insert_with(|| json!(directory.join("state")));
    fields.entry("log").or_insert_with(|| json!({ "target": "stderr", "level": "debug" }));
    fs::create_dir_all(directory.join("state")).expect("the state directory is made");
    // Renamed into place, so that no reload sees half of it.
    write_secret(&directory.join("config.new"), &configuration.to_string());
    fs::rename(directory.join("config.new"), directory.join("config.json")).expect("the configuration is in place");
}

/// Writes a file that only its owner reads, as a configuration should be.
fn write_secret(path: &Path, text: &str) {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the configuration is written");
}

/// Ends the daemons of test runs that are dead. Their namespaces and files went with them, or go now.
fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
            let mark = environment.split(|byte| *byte == 0).find_map(|variable| {
                std::str::from_utf8(variable).ok()?.strip_prefix(RUN_MARK)?.strip_prefix('=')?.parse::<u32>().ok()
            });
            let Some(run) = mark else { continue };
            let process = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let (false, Some(process)) = (Path::new(&format!("/proc/{run}")).exists(), process) {
                let _ = kill_process(process, Signal::KILL);
            }
        }
    });
}
