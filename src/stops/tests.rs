use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use knock_config::Command;

use super::*;
use crate::commands::{Commands, Refused};
use crate::events::EventLog;

const BOOT: &str = "0c6a6d4e-boot-one";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const PATIENCE: Duration = Duration::from_secs(20);

/// `seconds` after the start of the boot, with the wall clock at 1,000,000 then.
fn at(seconds: u64) -> Moment {
    moment(seconds, 1_000_000 + seconds)
}

fn moment(boottime: u64, wall: u64) -> Moment {
    let wall = std::time::UNIX_EPOCH + Duration::from_secs(wall);
    Moment { boottime: Time::from_millis(boottime * 1000), wall }
}

fn seconds(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

fn start(line: &str) -> Job {
    Job::new(Kind::Start, "ssh", ADDRESS, line, Duration::from_secs(30))
}

fn stop(line: &str, on_stop: StopOnStop) -> Stop {
    let command = Command { any: line.to_owned(), v6: None };
    Stop { command, after: Duration::from_secs(10), on_stop }
}

fn run(line: &str) -> Stop {
    stop(line, StopOnStop::Run)
}

fn open(directory: &Path, at: Moment, boot: &str) -> StopSchedule {
    let (stops, problems) = StopSchedule::open(directory, at, boot);
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

fn commands() -> Commands {
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

fn arm(stops: &StopSchedule, now: u64, stop: &Stop) -> Job {
    stops.arm(at(now), start("true"), stop).expect("room")
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
    let job = stops.arm(at(0), start(&line), &run("close %IP%")).expect("room");
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
    carry_out([stops.arm(at(0), start(&line), &run("close")).expect("room")]);
    assert!(!ran.exists());
    assert_eq!(stops.next_due(), None, "there is nothing to undo");
    fs::remove_dir(directory.path().join("stops.json.new")).expect("out of the way");
    carry_out([stops.arm(at(0), start(&line), &run("close")).expect("room")]);
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
    let again = arm(&stops, 7, &run("close"));
    assert_eq!(again.line(), None);
    carry_out([again]);
    assert!(stops.due(seconds(16)).is_empty());
    assert_eq!(stops.pending().len(), 1);
    let crashed = open(after_a_crash(directory.path()).path(), at(8), BOOT);
    assert_eq!(crashed.next_due(), Some(seconds(17)), "on disk too");
    let again = arm(&crashed, 9, &run("close"));
    assert_eq!(again.line(), None, "nor after a restart");
    assert_eq!(stops.due(seconds(17)).len(), 1);
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
    carry_out([stops.arm(at(0), start("false"), &run("close")).expect("room")]);
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
fn when_the_daemon_stops_they_run_or_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("true run")), arm(&stops, 0, &stop("true keep", StopOnStop::Keep))]);
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

#[test]
fn a_file_cut_off_anywhere_is_set_aside_and_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let stops = open(directory.path(), at(0), BOOT);
    carry_out([arm(&stops, 0, &run("close 'ü' %IP%")), arm(&stops, 1, &run("other"))]);
    let whole = fs::read(state_file(directory.path())).expect("the file");
    // Without the last line feed nothing is missing.
    for length in 0..whole.len() - 1 {
        let cut = tempfile::tempdir().expect("a directory");
        fs::write(state_file(cut.path()), &whole[..length]).expect("a file");
        let (stops, problems) = StopSchedule::open(cut.path(), at(2), BOOT);
        let [Problem::Damaged { kept, .. }] = &problems[..] else { panic!("{length}: {problems:?}") };
        assert_eq!(fs::read(kept).expect("it is kept"), &whole[..length]);
        assert_eq!(stops.pending(), []);
        assert!(stops.flush().is_ok());
    }
}

#[test]
fn a_file_that_is_none_of_ours_is_set_aside_each_time_under_another_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let two = r#"{"version":2,"boot_id":"","stops":[],"more":1}"#;
    for (number, text) in ["[]", "\0\u{1}", two, r#"{"version":1,"boot_id":"","stops":[{}]}"#].iter().enumerate() {
        fs::write(state_file(directory.path()), text).expect("a file");
        let (stops, problems) = StopSchedule::open(directory.path(), at(0), BOOT);
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
    let (stops, problems) = StopSchedule::open(directory.path(), at(0), BOOT);
    let [problem @ Problem::Unusable(_)] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("another user may write there"), "{problem}");
    assert!(stops.pending().is_empty());
}

#[test]
fn a_second_daemon_in_the_same_directory_opens_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path(), at(0), BOOT);
    carry_out([arm(&first, 0, &run("close"))]);
    let (second, problems) = StopSchedule::open(directory.path(), at(0), BOOT);
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
    let (stops, problems) = StopSchedule::open(&file.join("state"), at(0), BOOT);
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
        stops.arm(at(0), job, &run("true")).expect("room")
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
        stops.arm(at(0), job, &run("true")).expect("room");
    }
    assert_eq!(stops.arm(at(0), start("true"), &run("true")).expect_err("full"), ScheduleFull);
    stops.flush().expect("written");
    assert_eq!(open(after_a_crash(directory.path()).path(), at(1), BOOT).pending().len(), PENDING_MAX);
}
