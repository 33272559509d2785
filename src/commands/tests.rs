//! With real processes. What happens is waited for, never slept for.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn commands(workers: usize, queue: usize) -> Arc<Commands> {
    Commands::new(workers, queue, EventLog::default()).expect("descriptors")
}

fn start(line: &str) -> Job {
    Job::new(Kind::Start, "ssh", ADDRESS, line, LONG)
}

fn now(line: &str, timeout: Duration) -> Outcome {
    commands(1, 1).run_now("ssh", "setup", line, timeout)
}

/// A job that tells its outcome.
fn telling(job: Job, to: &Sender<String>) -> Job {
    let to = to.clone();
    job.after(move |outcome| to.send(outcome.to_string()).expect("the test still waits"))
}

fn next(from: &Receiver<String>) -> String {
    from.recv_timeout(PATIENCE).expect("an outcome in time")
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The state letter of a process (proc_pid_stat(5)), `None` where there is none.
fn state_of(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_gone(pid: &str) -> bool {
    // A process whose parent has ended is process 1's to reap.
    matches!(state_of(pid), None | Some('Z'))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn path(directory: &tempfile::TempDir, name: &str) -> (std::path::PathBuf, String) {
    let path = directory.path().join(name);
    let text = path.to_str().expect("UTF-8").to_owned();
    (path, text)
}

#[test]
fn a_command_sees_the_address_and_a_clean_environment() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, name) = path(&directory, "env");
    let (told, outcomes) = channel();
    let commands = commands(1, 1);
    let line = format!("{{ env; echo ip=%IP%; pwd; cat; }} > {name}");
    let v6: IpAddr = "2001:db8::1".parse().expect("an address");
    for (source, family) in [(ADDRESS, "4"), (v6, "6")] {
        commands.submit(telling(Job::new(Kind::Start, "ssh", source, &line, LONG), &told)).expect("room");
        assert_eq!(next(&outcomes), "succeeded");
        let seen = read(&file);
        let mut lines: Vec<&str> = seen.lines().collect();
        let shells = ["PWD=", "SHLVL=", "_=", "OLDPWD=", "PATH=", "LANG=", "TZ="];
        lines.retain(|line| !shells.iter().any(|name| line.starts_with(name)));
        lines.sort_unstable();
        let expected = [
            "/".to_owned(),
            format!("KNOCK_FAMILY={family}"),
            format!("KNOCK_IP={source}"),
            "KNOCK_RULE=ssh".to_owned(),
            format!("ip={source}"),
        ];
        assert_eq!(lines, expected, "and nothing from standard input");
        assert!(seen.contains("PATH=/") || seen.contains("\nPATH="), "{seen}");
    }
}

#[test]
fn a_setup_command_is_for_no_address() {
    assert!(matches!(
        now("test \"$KNOCK_RULE\" = ssh && test -z \"$KNOCK_IP$KNOCK_FAMILY\" && test '%IP%' = \"%\"IP%", LONG),
        Outcome::Succeeded
    ));
}

#[test]
fn no_descriptor_of_ours_and_no_signal_setting_is_inherited() {
    let directory = tempfile::tempdir().expect("a directory");
    let (list, list_name) = path(&directory, "list");
    let _open = fs::File::create(directory.path().join("open")).expect("a file");
    let _socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    assert!(matches!(now(&format!("ls -l /proc/self/fd > {list_name}"), LONG), Outcome::Succeeded));
    // What whoever started this test passed on to it is not ours: a build tool, a shell.
    let parent = std::os::unix::process::parent_id();
    let foreign = |target: &str| {
        let descriptors = fs::read_dir(format!("/proc/{parent}/fd")).expect("the descriptors of the parent");
        descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == target))
    };
    let list = read(&list);
    let descriptors = list.lines().filter_map(|line| line.rsplit_once(" -> "));
    let inherited: Vec<_> = descriptors
        .filter(|(left, _)| !["0", "1", "2"].iter().any(|number| left.ends_with(&format!(" {number}"))))
        .filter(|(_, target)| !foreign(target))
        .collect();
    // The one left is that with which ls reads the directory.
    assert!(matches!(&inherited[..], [(_, target)] if target.starts_with("/proc/")), "{list}");
    // The Rust runtime ignores SIGPIPE (bit 12).
    let outcome = now(
        "awk '/^SigBlk/ && $2 !~ /^0+$/ {exit 1} /^SigIgn/ && substr($2, 13, 1) ~ /[13579bdf]/ {exit 1}' /proc/self/status",
        LONG,
    );
    assert!(matches!(outcome, Outcome::Succeeded), "{outcome}");
}

#[test]
fn a_failure_says_what_to_do() {
    for (line, words) in [
        ("exit 3", "failed: exit status 3"),
        ("/no/such/program", "failed: exit status 127, which is a program that the shell did not find"),
        ("/etc/passwd", "failed: exit status 126, which is a program that could not be executed"),
        ("kill -USR1 $$", "failed: signal 10"),
        ("kill -KILL $$", "failed: signal 9 (SIGKILL)"),
        ("sh -c 'kill -SEGV $$'; exit $?", "failed: exit status 139, as of a program that was ended by signal 11"),
        ("echo 'RTNETLINK answers: Operation not permitted'; exit 2", "grant it what the command needs"),
    ] {
        let outcome = now(line, LONG).to_string();
        assert!(outcome.contains(words), "`{line}` {outcome}");
    }
}

#[test]
fn commands_of_one_rule_and_address_run_in_order_and_others_side_by_side() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, name) = path(&directory, "log");
    let (_, gate) = path(&directory, "gate");
    let (told, outcomes) = channel();
    let commands = commands(4, 100);
    // Side by side, or it would end at its time limit: each of the two waits for the other.
    let wait_for_gate = format!("until test -e {gate}; do sleep 0.01; done; echo waited >> {name}");
    commands.submit(telling(start(&wait_for_gate), &told)).expect("room");
    for number in 0..20 {
        commands.submit(telling(start(&format!("echo {number} >> {name}")), &told)).expect("room");
    }
    let other = Job::new(Kind::Start, "ssh", IpAddr::from([192, 0, 2, 8]), &format!("touch {gate}"), LONG);
    assert_eq!(read(&log), "");
    commands.submit(telling(other, &told)).expect("room");
    for _ in 0..22 {
        assert_eq!(next(&outcomes), "succeeded");
    }
    let expected: String =
        ["waited".to_owned()].into_iter().chain((0..20).map(|n| n.to_string())).map(|l| l + "\n").collect();
    assert_eq!(read(&log), expected);
}

#[test]
fn what_does_not_fit_is_refused_at_once_and_counted_but_a_stop_command_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, gate) = path(&directory, "gate");
    let (told, outcomes) = channel();
    let commands = commands(2, 3);
    let wait = format!("until test -e {gate}; do sleep 0.01; done");
    let from = |last: u8, kind| Job::new(kind, "ssh", IpAddr::from([192, 0, 2, last]), &wait, LONG);
    for last in 0..5 {
        commands.submit(telling(from(last, Kind::Start), &told)).expect("room");
    }
    let refused = commands.submit(telling(from(5, Kind::Start), &told)).expect_err("no room");
    assert!(matches!(refused, Refused::QueueFull { .. }), "{refused}");
    assert!(next(&outcomes).starts_with("was not run: "));
    commands.submit(telling(from(0, Kind::Stop), &told)).expect("a stop command always fits");
    until("both workers run", || commands.counters().running == 2);
    assert_eq!(commands.counters().queued, 4);
    fs::write(&gate, "").expect("the gate");
    for _ in 0..6 {
        assert_eq!(next(&outcomes), "succeeded");
    }
    until("all counted", || commands.counters().running == 0);
    let expected = Counters { started: 6, succeeded: 6, dropped_queue_full: 1, ..Counters::default() };
    assert_eq!(commands.counters(), expected);
    commands.submit(telling(from(6, Kind::Start), &told)).expect("room again");
    assert_eq!(next(&outcomes), "succeeded");
}

#[test]
fn an_equal_command_that_waits_for_the_same_address_runs_for_both() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, name) = path(&directory, "log");
    let (_, gate) = path(&directory, "gate");
    let (told, outcomes) = channel();
    // Full as soon as one runs and one waits.
    let commands = commands(1, 1);
    let line = |source: u8, kind, line: &str| Job::new(kind, "ssh", IpAddr::from([192, 0, 2, source]), line, LONG);
    let slow = format!("until test -e {gate}; do sleep 0.01; done; echo slow >> {name}");
    let (knock, stop) = (format!("echo knock >> {name}"), format!("echo stop >> {name}"));
    commands.submit(line(7, Kind::Start, &slow)).expect("room");
    until("it runs", || commands.counters().running == 1);
    for _ in 0..100 {
        commands.submit(line(7, Kind::Start, &knock)).expect("it waits already");
    }
    assert!(commands.submit(line(7, Kind::Start, "echo other")).is_err(), "another command does not fit");
    assert!(commands.submit(line(8, Kind::Start, &knock)).is_err(), "another address does not fit");
    // What comes after the stop command is not undone by it.
    commands.submit(line(7, Kind::Stop, &stop)).expect("a stop command always fits");
    commands.submit(telling(line(7, Kind::Stop, &stop), &told)).expect("each stop command runs");
    assert!(commands.submit(line(7, Kind::Start, &knock)).is_err(), "it is not the last that waits");
    assert_eq!((commands.counters().queued, commands.counters().merged), (3, 99));
    fs::write(&gate, "").expect("the gate");
    assert_eq!(next(&outcomes), "succeeded");
    assert_eq!(read(&log), "slow\nknock\nstop\nstop\n");
}

#[test]
fn a_command_with_a_step_of_its_own_is_not_merged() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, gate) = path(&directory, "gate");
    let (told, outcomes) = channel();
    let commands = commands(1, 10);
    let wait = format!("until test -e {gate}; do sleep 0.01; done");
    commands.submit(start(&wait)).expect("room");
    until("it runs", || commands.counters().running == 1);
    commands.submit(start("true")).expect("room");
    commands.submit(telling(start("true"), &told)).expect("room");
    commands.submit(start("true")).expect("room");
    assert_eq!((commands.counters().queued, commands.counters().merged), (3, 0));
    fs::write(&gate, "").expect("the gate");
    assert_eq!(next(&outcomes), "succeeded");
}

#[test]
fn at_its_time_limit_the_whole_process_group_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let (pids, name) = path(&directory, "pids");
    let line = format!("echo $$ >> {name}; sh -c 'echo $$ >> {name}; exec sleep 600' & sleep 600; echo not reached");
    let outcome = now(&line, Duration::from_millis(300));
    assert!(matches!(outcome, Outcome::TimedOut { left_behind: None, .. }), "{outcome}");
    let pids = read(&pids);
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        until("it is gone", || is_gone(pid));
    }
    assert_eq!(state_of(pids.lines().next().expect("the shell")), None, "the shell is no zombie");
}

#[test]
fn what_ignores_sigterm_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (pid, name) = path(&directory, "pid");
    let began = Instant::now();
    let outcome =
        now(&format!("trap '' TERM; echo $$ > {name}; while :; do sleep 600; done"), Duration::from_millis(200));
    assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome}");
    assert!(began.elapsed() >= GRACE, "it had no time to end by itself");
    assert_eq!(state_of(&read(&pid)), None);
}

#[test]
fn a_process_left_behind_in_the_group_ends_at_the_time_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let (pid, name) = path(&directory, "pid");
    for redirection in ["", ">/dev/null 2>&1"] {
        let outcome = now(&format!("sleep 600 {redirection} & echo $! > {name}"), Duration::from_millis(300));
        assert!(matches!(outcome, Outcome::TimedOut { left_behind: Some(_), .. }), "{outcome}");
        until("it is gone", || is_gone(&read(&pid)));
    }
}

#[test]
fn a_process_with_its_own_session_is_left_alone_and_not_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (pid, name) = path(&directory, "pid");
    // It keeps the pipe open. The shell goes on until it has left the group.
    let outcome = now(
        &format!("setsid sh -c 'echo $$ > {name}; exec sleep 600' & until test -s {name}; do sleep 0.01; done"),
        LONG,
    );
    assert!(matches!(outcome, Outcome::Succeeded), "{outcome}");
    let pid = read(&pid);
    assert!(!is_gone(&pid), "it goes on");
    let number = pid.trim().parse().expect("a number");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(number).expect("a process"),
        rustix::process::Signal::KILL,
    )
    .expect("it is ours");
}

#[test]
fn a_flood_of_output_is_read_and_ends_at_the_time_limit() {
    let outcome = now("head -c 10000000 /dev/zero", LONG);
    assert!(matches!(outcome, Outcome::Succeeded), "{outcome}");
    let outcome = now("yes", Duration::from_millis(200));
    assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome}");
}

#[test]
fn a_command_does_not_run_where_the_step_before_it_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, name) = path(&directory, "ran");
    let (told, outcomes) = channel();
    let commands = commands(1, 10);
    let job = start(&format!("touch {name}")).before(|| Err("the disk is full".into()));
    commands.submit(telling(job, &told)).expect("room");
    assert_eq!(next(&outcomes), "was not run: the disk is full");
    assert!(!file.exists());
    commands.submit(telling(Job::step(Kind::Stop, "ssh", ADDRESS, || Ok(())), &told)).expect("room");
    assert_eq!(next(&outcomes), "had nothing to run");
    assert_eq!(commands.counters().started, 0);
}

#[test]
fn when_the_daemon_stops_stop_commands_still_run_and_a_hanging_one_is_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let (pid, name) = path(&directory, "pid");
    let (stopped, stop_name) = path(&directory, "stopped");
    let (told, outcomes) = channel();
    let commands = commands(2, 10);
    commands.submit(telling(start(&format!("echo $$ > {name}; sleep 600")), &told)).expect("room");
    commands.submit(telling(start("true"), &told)).expect("room");
    until("it runs", || !read(&pid).is_empty());
    commands.close();
    assert_eq!(next(&outcomes), "was not run: the daemon is stopping", "the one that waited");
    assert_eq!(commands.submit(start("true")), Err(Refused::Stopping));
    let other = IpAddr::from([192, 0, 2, 8]);
    let stop = |source| Job::new(Kind::Stop, "ssh", source, &format!("touch {stop_name}"), LONG);
    commands.submit(telling(stop(other), &told)).expect("a stop command");
    assert_eq!(next(&outcomes), "succeeded");
    assert!(stopped.exists());
    commands.submit(telling(stop(ADDRESS), &told)).expect("a stop command behind the one that hangs");
    assert_eq!(commands.drain(Duration::from_millis(100)), 2);
    assert_eq!(next(&outcomes), "was not run: the daemon is stopping");
    assert_eq!(next(&outcomes), "was ended because the daemon stops");
    assert_eq!(state_of(&read(&pid)), None);
    assert!(matches!(commands.run_now("ssh", "teardown", "true", LONG), Outcome::Succeeded), "a teardown comes last");
}

#[test]
fn draining_waits_for_what_runs() {
    let (told, outcomes) = channel();
    let commands = commands(2, 10);
    commands.submit(telling(start("sleep 0.2"), &told)).expect("room");
    commands.submit(telling(Job::new(Kind::Stop, "ssh", ADDRESS, "true", LONG), &told)).expect("room");
    until("it runs", || commands.counters().running == 1);
    commands.close();
    assert_eq!(commands.drain(PATIENCE), 0);
    assert_eq!((next(&outcomes), next(&outcomes)), ("succeeded".to_owned(), "succeeded".to_owned()));
}

#[test]
fn a_hundred_addresses_at_once_leave_no_zombie() {
    let (told, outcomes) = channel();
    let commands = commands(8, 200);
    for last in 0..100 {
        let job = Job::new(Kind::Start, "ssh", IpAddr::from([192, 0, 2, last]), "exit 0", LONG);
        commands.submit(telling(job, &told)).expect("room");
    }
    for _ in 0..100 {
        assert_eq!(next(&outcomes), "succeeded");
    }
    assert!(commands.lock().threads <= 8);
    drop(commands);
}
