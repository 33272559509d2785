use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use knock_config::Command;
use proptest::prelude::*;

use super::entries::SLACK;
use super::*;
use crate::commands::{Commands, Refused};
use crate::logging::events::EventLog;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    source: IpAddr,
    due: Time,
}

impl StopSchedule {
    /// What is pending, the next first.
    fn pending(&self) -> Vec<Pending> {
        let pending = |entry: &Entry| Pending { source: entry.record.source, due: entry.record.due() };
        let mut list: Vec<_> = self.entries().by_id.values().map(pending).collect();
        list.sort_by_key(|pending| pending.due);
        list
    }
}

const BOOT: &str = "0c6a6d4e-boot-one";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const PATIENCE: Duration = Duration::from_secs(20);

/// `seconds` after the start of the boot, with the wall clock at 1,000,000 then.
fn at(seconds: u64) -> ClockReading {
    moment(seconds, 1_000_000 + seconds)
}

fn moment(boottime: u64, wall: u64) -> ClockReading {
    let wall = std::time::UNIX_EPOCH + Duration::from_secs(wall);
    ClockReading { boottime: Time::from_millis(boottime * 1000), wall }
}

fn seconds(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

fn start(line: &str) -> Job {
    Job::new(Kind::Start, "ssh", ADDRESS, line, Duration::from_secs(30))
}

fn stop(line: &str, on_shutdown: StopOnShutdown) -> Stop {
    let command = Command { any: line.to_owned(), v6: None };
    Stop { command, after: Duration::from_secs(10), on_shutdown }
}

fn run(line: &str) -> Stop {
    stop(line, StopOnShutdown::Run)
}

fn open_once(directory: &Path, at: ClockReading, boot: &str) -> (Arc<StopSchedule>, Vec<Problem>) {
    StopSchedule::open(directory, at, boot, EventLog::default())
}

/// A process that another test starts in this moment has the descriptors of this one, and so its locks, until execve(2).
fn try_open(directory: &Path, at: ClockReading, boot: &str) -> (Arc<StopSchedule>, Vec<Problem>) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let (stops, problems) = open_once(directory, at, boot);
        let is_locked =
            matches!(&problems[..], [Problem::Unusable(error)] if error.to_string().contains("is using it"));
        if !is_locked || std::time::Instant::now() > deadline {
            return (stops, problems);
        }
    }
}

fn open(directory: &Path, at: ClockReading, boot: &str) -> Arc<StopSchedule> {
    let (stops, problems) = try_open(directory, at, boot);
    assert!(problems.is_empty(), "{problems:?}");
    stops
}

/// What a daemon that starts now would find, were this one killed.
fn after_a_crash(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(directory).expect("the state directory").flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    copy
}

fn commands() -> Arc<Commands> {
    Commands::new(4, 100, EventLog::default()).expect("descriptors")
}

/// Runs jobs to their end.
fn carry_out(jobs: impl IntoIterator<Item = Job>) {
    let commands = commands();
    for job in jobs {
        commands.submit(job).expect("room");
    }
    assert_eq!(commands.drain(PATIENCE), 0);
}

/// Enters a stop command that is not pending yet.
fn arm_for(stops: &Arc<StopSchedule>, now: u64, start: Job, stop: &Stop) -> Job {
    stops.arm(at(now), start, stop).expect("room").expect("it is not pending")
}

fn arm(stops: &Arc<StopSchedule>, now: u64, stop: &Stop) -> Job {
    arm_for(stops, now, start("true"), stop)
}

/// Puts a pending stop command off.
fn put_off(stops: &Arc<StopSchedule>, now: u64, stop: &Stop) {
    assert!(stops.arm(at(now), start("true"), stop).expect("room").is_none(), "nothing is opened");
}

fn lines(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().filter_map(Job::line).collect()
}

fn state_file(directory: &Path) -> PathBuf {
    directory.join("stops.json")
}

#[test]
fn a_stop_command_is_on_disk_before_the_command_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    let file = state_file(directory.path());
    let found = directory.path().join("found");
    let line = format!("grep -c 'close 192.0.2.7' {} > {}", file.display(), found.display());
    let job = arm_for(&stops, 0, start(&line), &run("close %IP%"));
    assert!(!file.exists(), "the event loop does not wait for the disk");
    carry_out([job]);
    assert_eq!(fs::read_to_string(found).expect("the command has run"), "1\n");
}

#[test]
fn without_the_disk_the_command_does_not_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    let ran = directory.path().join("ran");
    fs::create_dir_all(directory.path().join("stops.json.new")).expect("what is in the way of the new file");
    let line = format!("touch {}", ran.display());
    carry_out([arm_for(&stops, 0, start(&line), &run("close"))]);
    assert!(!ran.exists());
    assert_eq!(stops.next_due(), None, "there is nothing to undo");
    fs::remove_dir(directory.path().join("stops.json.new")).expect("out of the way");
    carry_out([arm_for(&stops, 0, start(&line), &run("close"))]);
    assert!(ran.exists(), "it is tried again with the next knock");
}

#[test]
fn a_stop_command_runs_when_it_is_due_and_then_leaves_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 5, &run("true %IP%"))]);
    assert_eq!(stops.next_due(), Some(seconds(15)));
    assert!(stops.due(Time::from_millis(14_999)).is_empty());
    let due = stops.due(seconds(15));
    assert_eq!(lines(&due), ["true 192.0.2.7"]);
    let crashed = after_a_crash(directory.path());
    assert_eq!(open(crashed.path(), at(15), BOOT).pending().len(), 1, "it is there until it has run");
    carry_out(due);
    assert_eq!((stops.next_due(), stops.pending()), (None, vec![]));
    let crashed = after_a_crash(directory.path());
    assert_eq!(open(crashed.path(), at(15), BOOT).pending(), []);
}

#[test]
fn knocking_again_puts_the_one_stop_command_off_and_opens_no_second_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("close"))]);
    put_off(&stops, 7, &run("close"));
    put_off(&stops, 7, &run("close"));
    assert_eq!(stops.next_due(), Some(seconds(8)), "the file learns of it a second later");
    carry_out(stops.due(seconds(8)));
    assert_eq!(stops.next_due(), Some(seconds(17)));
    assert!(stops.due(seconds(16)).is_empty());
    assert_eq!(stops.pending().len(), 1);
    let crashed = open(after_a_crash(directory.path()).path(), at(8), BOOT);
    assert_eq!(crashed.next_due(), Some(seconds(17)), "on disk too");
    put_off(&crashed, 9, &run("close"));
    assert_eq!(lines(&stops.due(seconds(17))), ["close"]);
}

#[test]
fn a_knock_while_the_stop_command_is_under_way_opens_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true"))]);
    let mut jobs = stops.due(seconds(10));
    let again = arm(&stops, 10, &run("true"));
    assert_eq!(again.line(), Some("true"));
    jobs.push(again);
    carry_out(jobs);
    assert_eq!(stops.next_due(), Some(seconds(20)), "the one that ended was the first");
}

#[test]
fn after_a_failed_command_the_next_knock_tries_again_and_the_stop_command_still_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm_for(&stops, 0, start("false"), &run("close"))]);
    assert_eq!(stops.pending().len(), 1);
    assert_eq!(arm(&stops, 1, &run("close")).line(), Some("true"));
    assert_eq!(stops.pending().len(), 1);
}

#[test]
fn a_refused_command_leaves_nothing_to_undo() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    let commands = commands();
    commands.close();
    assert_eq!(commands.submit(arm(&stops, 0, &run("close"))), Err(Refused::Stopping));
    assert_eq!(stops.pending(), []);
}

#[test]
fn an_edited_stop_command_does_not_replace_that_of_what_is_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("close old"))]);
    let job = arm(&stops, 5, &run("close new"));
    assert_eq!(job.line(), Some("true"));
    assert_eq!(lines(&stops.due(seconds(10))), ["close old"]);
    assert_eq!(lines(&stops.due(seconds(15))), ["close new"]);
}

#[test]
fn a_stop_command_that_was_dropped_is_tried_again_and_later_each_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true"))]);
    let commands = commands();
    commands.drain(Duration::ZERO);
    for job in stops.due(seconds(10)) {
        assert_eq!(commands.submit(job), Err(Refused::Stopping));
    }
    assert_eq!(stops.next_due(), Some(seconds(20)));
    let second = stops.due(seconds(20));
    assert_eq!(second.len(), 1);
    assert_eq!(stops.next_due(), Some(seconds(40)));
    assert!(stops.due(seconds(40)).is_empty(), "it has not ended yet");
    carry_out(second);
    assert_eq!(stops.pending(), []);
}

#[test]
fn after_a_crash_the_monotonic_clock_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    carry_out([arm(&open(directory.path(), at(0), BOOT), 100, &run("close"))]);
    // The wall clock was stepped an hour either way meanwhile.
    for wall in [1_000_105 - 3600, 1_000_105 + 3600] {
        let stops = open(after_a_crash(directory.path()).path(), moment(105, wall), BOOT);
        assert_eq!(stops.next_due(), Some(seconds(110)));
    }
    let late = open(after_a_crash(directory.path()).path(), at(500), BOOT);
    assert_eq!(late.due(seconds(500)).len(), 1, "what is due runs at once");
}

#[test]
fn after_a_reboot_the_wall_clock_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    carry_out([arm(&open(directory.path(), at(0), BOOT), 100, &run("close"))]);
    let reboot = |boottime, wall| {
        let copy = after_a_crash(directory.path());
        let stops = open(copy.path(), moment(boottime, wall), "another boot");
        (stops.next_due(), arm(&stops, boottime, &run("close")).line().map(str::to_owned))
    };
    let opens_anew = Some("true".to_owned());
    assert_eq!(reboot(3, 1_000_104), (Some(seconds(9)), opens_anew.clone()), "on time");
    assert_eq!(reboot(30, 1_009_000), (Some(seconds(30)), opens_anew.clone()), "at once");
    assert_eq!(reboot(3, 50), (Some(seconds(13)), opens_anew), "a clock without a battery puts nothing off for ever");
}

#[test]
fn a_due_time_that_no_calendar_has_is_put_off_for_no_longer_than_stop_after() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("close"))]);
    drop(stops);
    let text = fs::read_to_string(state_file(directory.path())).expect("the file");
    let (before, after) = text.split_once("\"due_unix_ms\":").expect("the time");
    let after = after.trim_start_matches(|character: char| character.is_ascii_digit());
    fs::write(state_file(directory.path()), format!("{before}\"due_unix_ms\":{}{after}", u64::MAX)).expect("a file");
    let stops = open(directory.path(), at(5), "another boot");
    assert_eq!(stops.next_due(), Some(seconds(15)));
}

#[test]
fn when_the_daemon_stops_they_run_or_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true run")), arm(&stops, 0, &stop("true keep", StopOnShutdown::Keep))]);
    let jobs = stops.at_stop(at(3));
    assert_eq!(lines(&jobs), ["true run"]);
    stops.flush().expect("written");
    let crashed = open(after_a_crash(directory.path()).path(), at(4), BOOT);
    assert_eq!(lines(&crashed.due(seconds(4))), ["true run"], "what there was no time for runs at the next start");
    carry_out(jobs);
    drop(stops);
    let next = open(directory.path(), at(5), BOOT);
    assert_eq!(next.next_due(), Some(seconds(10)));
    assert_eq!(lines(&next.due(seconds(10))), ["true keep"]);
}

/// What version 1 wrote for these stop commands.
fn version_1(lines: &[&str]) -> String {
    let record = |line: &&str| {
        format!(
            r#"{{"rule":"ssh","source":"192.0.2.7","command":"{line}","timeout_ms":30000,"after_ms":10000,"on_stop":"run","due_boottime_ns":10000000000,"due_unix_ms":1000010000}}"#
        )
    };
    let records: Vec<String> = lines.iter().map(record).collect();
    format!("{{\"version\":1,\"boot_id\":\"{BOOT}\",\"stops\":[{}]}}\n", records.join(","))
}

#[test]
fn a_file_of_version_1_is_taken_up_and_becomes_a_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(state_file(directory.path()), version_1(&["one", "two"])).expect("a file");
    let stops = open(directory.path(), at(2), BOOT);
    assert_eq!(stops.next_due(), Some(seconds(10)));
    let crashed = open(after_a_crash(directory.path()).path(), at(2), BOOT);
    assert_eq!(crashed.pending().len(), 2, "it is there before the first change");
    carry_out([arm(&stops, 3, &run("three"))]);
    let text = fs::read_to_string(state_file(directory.path())).expect("the file");
    assert!(text.starts_with("{\"version\":2,") && text.lines().count() == 4, "{text}");
    let crashed = open(after_a_crash(directory.path()).path(), at(4), BOOT);
    assert_eq!(lines(&crashed.due(seconds(13))), ["one", "two", "three"]);
}

#[test]
fn of_a_damaged_file_of_version_1_what_can_be_read_is_kept() {
    let whole = version_1(&["close 'ü' %IP%", "two"]);
    let first = whole.find("},{").expect("two records") + 1;
    let second = whole.find("]}").expect("the end");
    // Without the last line feed nothing is missing.
    for length in 0..whole.len() - 1 {
        let cut = tempfile::tempdir().expect("a directory");
        fs::write(state_file(cut.path()), &whole.as_bytes()[..length]).expect("a file");
        let (stops, problems) = try_open(cut.path(), at(2), BOOT);
        let [Problem::Damaged { kept, saved, .. }] = &problems[..] else { panic!("{length}: {problems:?}") };
        assert_eq!(fs::read(kept).expect("it is kept"), &whole.as_bytes()[..length]);
        let expected = usize::from(length >= first) + usize::from(length >= second);
        assert_eq!((*saved, stops.pending().len()), (expected, expected), "{length}");
        let again = try_open(after_a_crash(cut.path()).path(), at(2), BOOT).0;
        assert_eq!(again.pending().len(), expected, "a crash now loses none of it");
        assert!(stops.flush().is_ok());
        drop(stops);
        assert_eq!(open(cut.path(), at(2), BOOT).pending().len(), expected, "and the next start finds it whole");
    }
}

#[test]
fn a_journal_that_ends_anywhere_loses_no_complete_entry() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true 'ü' %IP%"))]);
    carry_out([arm(&stops, 1, &run("true two"))]);
    carry_out(stops.due(seconds(10)));
    let journal = fs::read(state_file(directory.path())).expect("the file");
    let text = String::from_utf8(journal.clone()).expect("JSON");
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    assert_eq!(ends.len(), 4, "{text}");
    for length in ends[0]..=journal.len() {
        let cut = tempfile::tempdir().expect("a directory");
        fs::write(state_file(cut.path()), &journal[..length]).expect("a file");
        let stops = open(cut.path(), at(2), BOOT);
        let expected: &[&str] = match length {
            _ if length < ends[1] => &[],
            _ if length < ends[2] => &["true 'ü' 192.0.2.7"],
            _ if length < ends[3] => &["true 'ü' 192.0.2.7", "true two"],
            _ => &["true two"],
        };
        assert_eq!(lines(&stops.due(seconds(20))), expected, "{length}");
        drop(stops);
        // The next change cuts off what is torn.
        let stops = open(cut.path(), at(2), BOOT);
        carry_out([arm(&stops, 2, &run("three"))]);
        let crashed = open(after_a_crash(cut.path()).path(), at(2), BOOT);
        assert_eq!(crashed.pending().len(), expected.len() + 1, "{length}");
    }
}

#[test]
fn a_damaged_line_costs_no_other_and_the_file_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    for line in ["one", "two", "three"] {
        carry_out([arm(&stops, 0, &run(line))]);
    }
    drop(stops);
    let text = fs::read_to_string(state_file(directory.path())).expect("the file");
    let too_long = "x".repeat(3 << 20);
    for damage in ["\0\0\0", "{", too_long.as_str()] {
        let damaged: String =
            text.lines().map(|line| format!("{}\n", if line.contains("\"two\"") { damage } else { line })).collect();
        fs::write(state_file(directory.path()), &damaged).expect("a file");
        let (stops, problems) = try_open(directory.path(), at(2), BOOT);
        let [Problem::Damaged { kept, saved: 2, reason, .. }] = &problems[..] else { panic!("{problems:?}") };
        assert!(reason.starts_with("line 3"), "{reason}");
        assert_eq!(fs::read_to_string(kept).expect("it is kept"), damaged);
        assert_eq!(lines(&stops.due(seconds(10))), ["one", "three"]);
    }
}

#[test]
fn a_file_above_the_limit_is_set_aside_and_what_was_read_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("one"))]);
    drop(stops);
    let file = fs::OpenOptions::new().append(true).open(state_file(directory.path())).expect("the file");
    file.set_len(300 << 20).expect("a file with a hole");
    let (stops, problems) = try_open(directory.path(), at(2), BOOT);
    let [Problem::Damaged { saved: 1, .. }] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(lines(&stops.due(seconds(10))), ["one"]);
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, version_1(&["planted"])).expect("a file");
    std::os::unix::fs::symlink(&elsewhere, state_file(directory.path())).expect("a link");
    let (stops, problems) = try_open(directory.path(), at(2), BOOT);
    let [problem @ Problem::Damaged { .. }] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("it is a symbolic link"), "{problem}");
    assert_eq!(stops.pending(), []);
    drop(stops);
    rustix::fs::mknodat(rustix::fs::CWD, state_file(directory.path()), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a FIFO");
    let (_stops, problems) = try_open(directory.path(), at(2), BOOT);
    let [problem @ Problem::Damaged { .. }] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("it is no regular file"), "{problem}");
}

#[test]
fn the_file_goes_when_nothing_is_pending() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true"))]);
    assert!(StopSchedule::is_in(directory.path()));
    carry_out(stops.due(seconds(10)));
    assert!(!StopSchedule::is_in(directory.path()), "the last one has run");
    drop(stops);
    let empty = format!("{{\"version\":2,\"boot_id\":\"{BOOT}\"}}\n");
    for text in [version_1(&[]), empty] {
        fs::write(state_file(directory.path()), text).expect("a file");
        assert!(open(directory.path(), at(0), BOOT).pending().is_empty());
        assert!(!StopSchedule::is_in(directory.path()), "left behind by a daemon before");
    }
}

#[test]
fn the_journal_is_written_anew_when_most_of_it_is_out_of_date() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("close"))]);
    let (mut longest, mut shorter, mut before) = (0, 0, 0);
    for now in 1..2000 {
        put_off(&stops, 2 * now, &run("close"));
        let generation = stops.entries().generation;
        stops.commit(generation, false).expect("written");
        let length = fs::metadata(state_file(directory.path())).expect("the file").len();
        (longest, shorter) = (longest.max(length), shorter + u32::from(length < before));
        before = length;
    }
    assert!(longest <= SLACK + 1000, "{longest}");
    assert!((1..20).contains(&shorter), "{shorter} times");
    let crashed = open(after_a_crash(directory.path()).path(), at(3998), BOOT);
    assert_eq!(crashed.next_due(), Some(seconds(4008)), "with its last time");
}

#[test]
fn what_somebody_did_to_the_file_does_not_lose_what_is_pending() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    let file = state_file(directory.path());
    let spoil: [&dyn Fn(); 3] =
        [&|| fs::remove_file(&file).expect("it is there"), &|| fs::write(&file, "").expect("it is there"), &|| {
            fs::copy(&file, directory.path().join("copy")).expect("a copy");
            fs::rename(directory.path().join("copy"), &file).expect("in its place");
        }];
    for (number, spoil) in spoil.iter().enumerate() {
        carry_out([arm(&stops, 0, &run(&format!("before {number}")))]);
        spoil();
        carry_out([arm(&stops, 0, &run(&format!("after {number}")))]);
        let crashed = open(after_a_crash(directory.path()).path(), at(0), BOOT);
        assert_eq!(crashed.pending().len(), 2 * (number + 1));
    }
}

#[test]
fn a_stop_command_that_no_shell_could_run_opens_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    let long = "x".repeat(COMMAND_MAX + 1);
    assert_eq!(stops.arm(at(0), start("true"), &run(&long)).expect_err("too long"), NotArmed::LongCommand(long.len()));
    let longest = "\u{1}".repeat(COMMAND_MAX);
    carry_out([arm(&stops, 0, &run(&longest))]);
    let crashed = open(after_a_crash(directory.path()).path(), at(0), BOOT);
    assert_eq!(lines(&crashed.due(seconds(10))), [longest.as_str()], "it fits into a line");
    let fill = |number: u32| {
        let job = Job::new(Kind::Start, "ssh", std::net::Ipv4Addr::from(number).into(), "true", PATIENCE);
        stops.arm(at(0), job, &run(&longest))
    };
    assert_eq!((0..200).find_map(|number| fill(number).err()), Some(NotArmed::Bytes));
}

#[test]
fn a_file_that_is_none_of_ours_is_set_aside_each_time_under_another_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let two = r#"{"version":2,"boot_id":"","stops":[],"more":1}"#;
    for (number, text) in ["[]", "\0\u{1}", two, r#"{"version":1,"boot_id":"","stops":[{}]}"#].iter().enumerate() {
        fs::write(state_file(directory.path()), text).expect("a file");
        let (stops, problems) = try_open(directory.path(), at(0), BOOT);
        let [problem @ Problem::Damaged { .. }] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.to_string().contains("stops.json.damaged-1000000"), "{problem}");
        carry_out([arm(&stops, 0, &run("true"))]);
        carry_out(stops.due(seconds(10)));
        let aside = fs::read_dir(directory.path()).expect("listed").flatten();
        let aside = aside.filter(|entry| entry.file_name().to_string_lossy().contains("damaged")).count();
        assert_eq!(aside, number + 1);
    }
}

#[test]
fn what_was_written_by_half_before_a_crash_is_ignored() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("stops.json.new"), "{\"vers").expect("a file");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true"))]);
    assert_eq!(open(after_a_crash(directory.path()).path(), at(1), BOOT).pending().len(), 1);
}

#[test]
fn a_directory_that_everybody_may_write_to_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("stops.json"), "planted").expect("a file");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let (stops, problems) = try_open(directory.path(), at(0), BOOT);
    let [problem @ Problem::Unusable(_)] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("another user may write there"), "{problem}");
    assert!(stops.pending().is_empty());
}

#[test]
fn a_second_daemon_in_the_same_directory_opens_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path(), at(0), BOOT);
    carry_out([arm(&first, 0, &run("close"))]);
    let (second, problems) = open_once(directory.path(), at(0), BOOT);
    let [problem @ Problem::Unusable(_)] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("another knockd is using it"), "{problem}");
    let (told, outcomes) = channel();
    let job = arm(&second, 0, &run("close"));
    let commands = commands();
    commands.submit(job).expect("room");
    commands.submit(start("true").after(move |outcome| drop(told.send(outcome.to_string())))).expect("room");
    assert_eq!(outcomes.recv_timeout(PATIENCE).as_deref(), Ok("succeeded"));
    assert_eq!(commands.counters().started, 1, "only the one without a stop command");
    assert_eq!(second.pending(), []);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("a file");
    let (stops, problems) = try_open(&file.join("state"), at(0), BOOT);
    assert!(matches!(problems[..], [Problem::Unusable(_)]), "{problems:?}");
    arm(&stops, 0, &run("close"));
    let error = stops.flush().expect_err("nowhere to write").to_string();
    assert!(error.starts_with("cannot make the state directory"), "{error}");
}

#[test]
fn a_hundred_at_once_share_their_writes_and_all_are_on_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    let jobs = (0..100).map(|last| {
        let job = Job::new(Kind::Start, "ssh", IpAddr::from([192, 0, 2, last]), "true", PATIENCE);
        arm_for(&stops, 0, job, &run("true"))
    });
    carry_out(jobs.collect::<Vec<_>>());
    assert_eq!(open(after_a_crash(directory.path()).path(), at(1), BOOT).pending().len(), 100);
    carry_out(stops.due(seconds(10)));
    assert_eq!(open(after_a_crash(directory.path()).path(), at(11), BOOT).pending(), []);
}

#[test]
fn what_is_pending_is_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    for number in 0..u32::try_from(PENDING_MAX).expect("small") {
        let job = Job::new(Kind::Start, "ssh", std::net::Ipv4Addr::from(number).into(), "true", PATIENCE);
        arm_for(&stops, 0, job, &run("true"));
    }
    assert_eq!(stops.arm(at(0), start("true"), &run("true")).expect_err("full"), NotArmed::Entries);
    stops.flush().expect("written");
    assert_eq!(open(after_a_crash(directory.path()).path(), at(1), BOOT).pending().len(), PENDING_MAX);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Knock(u8),
    Pass(u64),
    Write,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..6).prop_map(Step::Knock),
        3 => (0_u64..8).prop_map(Step::Pass),
        1 => Just(Step::Write),
        2 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a map of what is open and when it has to close.
    #[test]
    fn whatever_happens_all_that_is_open_is_on_disk_and_closes_in_time(steps in prop::collection::vec(step(), 1..40)) {
        let mut directory = tempfile::tempdir().expect("a directory");
        let mut stops = open(directory.path(), at(0), BOOT);
        let mut model = BTreeMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Knock(last) => {
                    let source = IpAddr::from([192, 0, 2, last]);
                    let job = Job::new(Kind::Start, "ssh", source, "true", PATIENCE);
                    let job = stops.arm(at(now), job, &run("true %IP%")).expect("room");
                    prop_assert_eq!(job.is_none(), model.contains_key(&source));
                    carry_out(job);
                    model.insert(source, now + 10);
                }
                Step::Pass(time) => {
                    now += time;
                    let jobs = stops.due(seconds(now));
                    let ran: BTreeSet<String> = jobs.iter().filter_map(Job::line).map(str::to_owned).collect();
                    let due = model.extract_if(.., |_, due| *due <= now);
                    let expected: BTreeSet<String> = due.map(|(source, _)| format!("true {source}")).collect();
                    prop_assert_eq!(ran, expected);
                    carry_out(jobs);
                }
                Step::Write => stops.flush().expect("written"),
                Step::Crash => {
                    directory = after_a_crash(directory.path());
                    stops = open(directory.path(), at(now), BOOT);
                    let found: BTreeMap<_, _> = stops.pending().into_iter().map(|p| (p.source, p.due)).collect();
                    prop_assert!(found.keys().eq(model.keys()), "{found:?} {model:?}");
                    for (source, due) in &mut model {
                        prop_assert!(found[source] <= seconds(*due), "never later");
                        *due = found[source].as_nanos() / 1_000_000_000;
                    }
                }
            }
            let length = fs::metadata(state_file(directory.path())).map_or(0, |file| file.len());
            prop_assert_eq!(length == 0, model.is_empty(), "the file goes when nothing is pending");
            prop_assert_eq!(stops.pending().is_empty(), model.is_empty());
        }
    }
}
