//! The state of the daemon, for people: first whether all is well, then the rules.

use super::fleet;
use super::spa::state;
use super::table::{BAD, GOOD, count, duration, span, styled, table};
use crate::control::counters::Counters;
use crate::control::protocol::{Doors, Interface, RuleState, Status};
use crate::os::privileges::Protections;

/// The state of the daemon, the verdict first. What is zero is left out, unless all is asked for.
pub(super) fn text(status: &Status, all: bool) -> String {
    let mut text = verdict(&problems(status));
    text.push_str(&trial(status));
    text.push_str(&table(&["", ""], &rows(status, all)));
    if !status.by_rule.is_empty() {
        let rules: Vec<Vec<String>> = status.by_rule.iter().map(|rule| rule_row(rule, all)).collect();
        text.push_str(&table(&["RULE", "FOR", "IN NOW", "OPENED", "FAILED", "OPENS"], &rules));
    }
    text
}

/// Why not all is well. Nothing where all is.
pub(super) fn problems(status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(problem) = &status.configuration_problem {
        problems.push(format!("the configuration in force is not that of its file: {problem}"));
    }
    for interface in status.interfaces.iter().filter(|interface| interface.state != "up") {
        problems.push(format!("interface {}: no knock is heard on it", state(interface)));
    }
    for set in &status.sets {
        problems.extend(set.problem.as_ref().map(|problem| format!("user set {}: {problem}", set.name)));
    }
    problems.extend(status.signed_packets.as_ref().and_then(state::problem));
    problems.extend(status.fleet.iter().flat_map(fleet::state::problems));
    problems
}

/// Whether all is well, or each reason why not.
pub(super) fn verdict(problems: &[String]) -> String {
    let mut text = if problems.is_empty() { styled(GOOD, "all is well\n") } else { String::new() };
    for problem in problems {
        // The errors of a file have a line each.
        let label = |index: usize| if index == 0 { "PROBLEM" } else { "       " }.to_owned();
        let lines = problem.lines().enumerate();
        let rows: Vec<Vec<String>> = lines.map(|(index, line)| vec![label(index), line.to_owned()]).collect();
        text.push_str(&styled(BAD, &table(&["", ""], &rows)));
    }
    text
}

fn trial(status: &Status) -> String {
    let Some(trial) = &status.trial else { return String::new() };
    let (file, time) = (&trial.file, duration(trial.remaining_seconds));
    let trial = format!("{file} is in force for {time}, unless it is confirmed: knockctl confirm");
    table(&["", ""], &[vec!["TRIAL".to_owned(), trial]])
}

/// The capabilities of a process, in a few words.
fn held(protections: Option<&Protections>) -> String {
    match protections.map(|protections| protections.capabilities.as_slice()) {
        None => "unknown".to_owned(),
        Some([]) => "no capabilities".to_owned(),
        Some(names) if names.len() <= 4 => names.join(" "),
        Some(names) => format!("{} capabilities", names.len()),
    }
}

fn state(interface: &Interface) -> String {
    let hint = interface.nearest.as_ref().map(|nearest| format!(" (did you mean {nearest}?)"));
    format!("{} {}{}", interface.name, interface.state, hint.unwrap_or_default())
}

fn rows(status: &Status, all: bool) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: String| rows.push(vec![label.to_owned(), value]);
    let running = duration(status.uptime_seconds);
    row("knockd", format!("{}, running for {running} (process {})", status.version, status.pid));
    row("configuration", format!("{} ({})", status.configuration, count(status.rules, "rule")));
    let interfaces: Vec<_> = status.interfaces.iter().map(state).collect();
    row("interfaces", interfaces.join(", "));
    for process in &status.processes {
        let protections = match process.protections.as_ref() {
            Some(protections) if all => {
                let (in_force, lacking) = protections.in_words();
                in_force + &lacking.map(|lacking| format!("; not: {lacking}")).unwrap_or_default()
            }
            protections => held(protections),
        };
        row(&process.name, format!("process {}: {protections}", process.pid));
    }
    let none = || "none: no rule guards a port".to_owned();
    let managed = status.table.as_ref().map_or_else(none, |table| {
        let owner = if table.owned { "owned" } else { "watched" };
        let end = if table.on_stop == "keep" { "kept at stop" } else { "removed at stop" };
        format!("inet {}, {owner}, {end}; guards {}", table.name, table.guarded.join(", "))
    });
    row("table", managed);
    if let Some(doors) = &status.doors {
        row("last knock", last_knock(doors, &status.counters));
    }
    for (number, set) in status.sets.iter().enumerate() {
        let state = set.problem.as_deref().unwrap_or("in use");
        row(if number == 0 { "user sets" } else { "" }, format!("{}: {state}", set.name));
    }
    if let Some(signed) = &status.signed_packets {
        row("signed packets", state::in_words(signed, &status.counters));
    }
    if let Some(fleet) = &status.fleet {
        row("fleet", fleet::state::in_words(fleet));
    }
    for (label, numbers) in numbers(status) {
        let shown = numbers.iter().filter(|(number, _)| all || *number > 0);
        let shown: Vec<String> = shown.map(|(number, what)| counted(*number, what)).collect();
        if !shown.is_empty() {
            row(label, shown.join(", "));
        }
    }
    rows
}

/// What opens at the last knock.
fn last_knock(doors: &Doors, counters: &Counters) -> String {
    match &doors.problem {
        Some(problem) => format!("opened by the daemon: {problem}"),
        None => format!(
            "opened by the kernel for {}; {} armed now; since the start {} armed, {} refused, {} confirmed, {} unconfirmed",
            count(doors.rules.len(), "rule"),
            doors.armed,
            counters.armed,
            counters.armed_refused,
            counters.armed_confirmed,
            counters.armed_unconfirmed
        ),
    }
}

/// The numbers of each row, and what they count.
fn numbers(status: &Status) -> [(&'static str, Vec<(u64, &'static str)>); 7] {
    let counters = &status.counters;
    let now = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    [
        ("gate", vec![(counters.turned_away, "packets turned away")]),
        (
            "grants",
            vec![
                (now(status.grants), "live"),
                (counters.granted, "made"),
                (counters.grants_failed, "failed"),
                (counters.revoked, "revoked"),
            ],
        ),
        (
            "knocks",
            vec![
                (counters.knocks, "heard"),
                (now(status.sources), "sources remembered"),
                (counters.evicted, "evicted"),
                (counters.completed, "sequences completed"),
                (counters.retransmissions, "retransmissions"),
                (counters.tripwires, "tripwires touched"),
            ],
        ),
        (
            "packets",
            vec![
                (counters.packets, "taken"),
                (counters.kernel_dropped, "lost by the kernel"),
                (counters.malformed, "malformed"),
                (counters.ignored, "ignored"),
            ],
        ),
        (
            "commands",
            vec![
                (now(status.commands_running), "running"),
                (now(status.commands_queued), "queued"),
                (counters.commands_started, "started"),
                (counters.commands_failed, "failed"),
                (counters.commands_timed_out, "timed out"),
                (counters.commands_dropped, "dropped"),
            ],
        ),
        ("other", vec![(counters.reloads, "reloads"), (counters.restored, "repairs of table or sets")]),
        (
            "log",
            vec![
                (counters.events_left_out, "lines above the rate limit"),
                (counters.log_lines_left_out, "not written because nobody read the log"),
            ],
        ),
    ]
}

/// A number and what it counts, whose first word may be a plural: `1 source remembered`.
fn counted(number: u64, what: &str) -> String {
    let (noun, rest) = what.split_at(what.find(' ').unwrap_or(what.len()));
    let noun = if number == 1 { noun.strip_suffix('s').unwrap_or(noun) } else { noun };
    format!("{number} {noun}{rest}")
}

fn rule_row(rule: &RuleState, all: bool) -> Vec<String> {
    let number = |number: u64| if number > 0 || all { number.to_string() } else { String::new() };
    let live = match rule.next_expiry_seconds {
        Some(next) if rule.grants > 1 => format!("{}, next ends in {}", rule.grants, duration(next)),
        Some(next) => format!("{}, ends in {}", rule.grants, duration(next)),
        None => number(0),
    };
    let revokes = rule.revoke.iter().map(|other| format!("revokes {other}"));
    let command = rule.command.then(|| "runs a command".to_owned());
    let does: Vec<String> = rule.opens.iter().cloned().chain(revokes).chain(command).collect();
    vec![
        rule.name.clone(),
        rule.timeout_seconds.map(span).unwrap_or_default(),
        live,
        number(rule.granted),
        number(rule.grants_failed.saturating_add(rule.commands_failed)),
        does.join(", "),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::protocol::{FleetStatus, Set, Trial};
    use crate::ctl::doctor::table as managed;

    /// A daemon that is well, with three rules.
    pub(crate) fn status() -> Status {
        let rule = |name: &str, opens: &[&str]| RuleState {
            name: name.to_owned(),
            opens: opens.iter().map(|&port| port.to_owned()).collect(),
            tcp_knocks: 4,
            udp_knocks: 1,
            sequence_seconds: 5.0,
            ..RuleState::default()
        };
        Status {
            version: "0.1.0".to_owned(),
            pid: 412,
            uptime_seconds: 273_600.0,
            configuration: "/etc/knockd/config.json".to_owned(),
            configuration_problem: None,
            trial: None,
            rules: 3,
            interfaces: vec![Interface { name: "any".to_owned(), state: "up".to_owned(), nearest: None }],
            protections: None,
            processes: Vec::new(),
            table: Some(managed(&["22/tcp", "51820/udp"])),
            doors: None,
            sets: Vec::new(),
            grants: 2,
            sources: 0,
            commands_running: 0,
            commands_queued: 0,
            by_rule: vec![
                RuleState {
                    grants: 2,
                    next_expiry_seconds: Some(721.0),
                    granted: 14,
                    grants_failed: 3,
                    timeout_seconds: Some(3600.0),
                    ..rule("ssh", &["22/tcp", "51820/udp"])
                },
                RuleState { revoke: Some("ssh".to_owned()), udp_knocks: 0, ..rule("close", &[]) },
                RuleState {
                    command: true,
                    commands_failed: 1,
                    one_time: true,
                    tcp_knocks: 0,
                    udp_knocks: 0,
                    ..rule("notify", &[])
                },
            ],
            signed_packets: None,
            fleet: None,
            counters: Counters {
                turned_away: 1204,
                granted: 14,
                grants_failed: 3,
                knocks: 70,
                packets: 90,
                ..Counters::default()
            },
        }
    }

    fn plain(status: &Status, all: bool) -> String {
        anstream::adapter::strip_str(&text(status, all)).to_string()
    }

    #[test]
    fn the_verdict_is_first_and_zeros_are_left_out() {
        assert_eq!(
            plain(&status(), false),
            "all is well\n\
             knockd         0.1.0, running for 3d 4h (process 412)\n\
             configuration  /etc/knockd/config.json (3 rules)\n\
             interfaces     any up\n\
             table          inet knockd, owned, removed at stop; guards 22/tcp, 51820/udp\n\
             gate           1204 packets turned away\n\
             grants         2 live, 14 made, 3 failed\n\
             knocks         70 heard\n\
             packets        90 taken\n\
             RULE    FOR  IN NOW                  OPENED  FAILED  OPENS\n\
             ssh     1h   2, next ends in 12m 1s  14      3       22/tcp, 51820/udp\n\
             close                                                revokes ssh\n\
             notify                                       1       runs a command\n"
        );
        assert_eq!([counted(1, "sources remembered"), counted(1, "live")], ["1 source remembered", "1 live"]);
        let all = plain(&status(), true);
        for part in ["0 evicted", "0 lost by the kernel", "0 timed out", "0 reloads", "0 lines above the rate limit"] {
            assert!(all.split_whitespace().collect::<Vec<_>>().join(" ").contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn each_reason_why_not_all_is_well_is_in_the_first_lines() {
        let mut ill = status();
        ill.configuration_problem = Some("config.json:3:1: a comma too many\nconfig.json:4:1: one more".to_owned());
        ill.interfaces.push(Interface {
            name: "ehh0".to_owned(),
            state: "absent".to_owned(),
            nearest: Some("eth0".to_owned()),
        });
        ill.sets.push(Set { name: "inet f ssh4".to_owned(), problem: Some("it does not exist".to_owned()) });
        let text = plain(&ill, false);
        let first: Vec<&str> = text.lines().take(5).collect();
        assert_eq!(
            first,
            [
                "PROBLEM  the configuration in force is not that of its file: config.json:3:1: a",
                "         comma too many",
                "         config.json:4:1: one more",
                "PROBLEM  interface ehh0 absent (did you mean eth0?): no knock is heard on it",
                "PROBLEM  user set inet f ssh4: it does not exist",
            ]
        );
        assert!(!text.contains("all is well") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!((problems(&ill).len(), problems(&status()).len()), (3, 0));
    }

    #[test]
    fn a_fleet_has_a_row_and_is_a_reason_where_nothing_is_shared() {
        let fleet = fleet::state::tests::fleet();
        let text = plain(&Status { fleet: Some(fleet.clone()), ..status() }, false);
        assert!(text.contains("\nfleet          web1 in web.example.com, 3 nodes\n"), "{text}");
        let alone = FleetStatus { connected: false, ..fleet };
        assert_eq!(problems(&Status { fleet: Some(alone), ..status() }).len(), 1);
    }

    #[test]
    fn it_says_who_opens_at_the_last_knock_where_that_was_asked_for() {
        let line = |doors| {
            let counters =
                Counters { armed: 7, armed_refused: 1, armed_confirmed: 5, armed_unconfirmed: 1, ..status().counters };
            let text = plain(&Status { doors: Some(doors), counters, ..status() }, false);
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let doors = Doors { rules: vec!["ssh".to_owned()], armed: 2, problem: None };
        let opened = "last knock opened by the kernel for 1 rule; 2 armed now; since the start 7 armed, 1 refused, 5 confirmed, 1 \
                      unconfirmed";
        assert!(line(doors.clone()).contains(opened), "{}", line(doors));
        let none = Doors { problem: Some("the managed table is not owned".to_owned()), ..Doors::default() };
        assert!(
            line(none.clone()).contains("last knock opened by the daemon: the managed table is not owned"),
            "{}",
            line(none)
        );
        assert!(!plain(&status(), true).contains("last knock"));
    }

    #[test]
    fn a_trial_is_no_problem_and_is_shown() {
        let trial = Trial { file: "/etc/knockd/new.json".to_owned(), remaining_seconds: 540.0 };
        let text = plain(&Status { trial: Some(trial), ..status() }, false);
        assert!(text.starts_with("all is well\nTRIAL  /etc/knockd/new.json is in force for 9m 0s"), "{text}");
    }
}
