//! The answers of the daemon, as text for people.

use knock_config::printable;

use super::table::{count, duration, table};
use crate::control::protocol::{Granted, Grants, Interface, Reloaded, Revoked, Status};
use crate::ctl::doctor::{Finding, Severity};
use crate::os::privileges::Protections;

fn interface(interface: &Interface) -> String {
    let hint = interface.nearest.as_ref().map(|nearest| format!(" (did you mean {}?)", printable(nearest)));
    format!("{} {}{}", interface.name, interface.state, hint.unwrap_or_default())
}

/// The state of the daemon.
pub(crate) fn status(status: &Status) -> String {
    let counters = &status.counters;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: String| rows.push(vec![label.to_owned(), value]);
    if let Some(trial) = &status.trial {
        let (file, time) = (&trial.file, duration(trial.remaining_seconds));
        row("TRIAL", format!("{file} is in force for {time}, unless it is confirmed: knockctl confirm"));
    }
    if let Some(problem) = &status.configuration_problem {
        row("PROBLEM", format!("the configuration in force is not that of its file: {problem}"));
    }
    row("version", status.version.clone());
    row("running", format!("for {} (process {})", duration(status.uptime_seconds), status.pid));
    row("configuration", format!("{} ({})", status.configuration, count(status.rules, "rule")));
    let interfaces: Vec<_> = status.interfaces.iter().map(interface).collect();
    row("interfaces", interfaces.join(", "));
    if let Some((in_force, lacking)) = status.protections.as_ref().map(Protections::in_words) {
        let lacking = lacking.map(|lacking| format!("; not: {lacking}")).unwrap_or_default();
        row("protections", in_force + &lacking);
    }
    row(
        "table",
        match &status.table {
            None => "none: no rule guards a port".to_owned(),
            Some(table) => {
                let owner = if table.owned { "owned" } else { "watched" };
                let end = if table.on_stop == "keep" { "kept at stop" } else { "removed at stop" };
                format!("inet {}, {owner}, {end}; guards {}", table.name, table.guarded.join(", "))
            }
        },
    );
    for (number, set) in status.sets.iter().enumerate() {
        let state = set.problem.as_deref().unwrap_or("in use");
        row(if number == 0 { "user sets" } else { "" }, format!("{}: {state}", set.name));
    }
    row(
        "grants",
        format!(
            "{} live; {} made, {} failed, {} revoked",
            status.grants, counters.granted, counters.grants_failed, counters.revoked
        ),
    );
    row(
        "knocks",
        format!(
            "{} heard; {} sources remembered, {} evicted; {} sequences completed; {} retransmissions, {} \
             tripwires touched",
            counters.knocks,
            status.sources,
            counters.evicted,
            counters.completed,
            counters.retransmissions,
            counters.tripwires
        ),
    );
    row(
        "packets",
        format!(
            "{} taken, {} lost by the kernel, {} malformed, {} ignored",
            counters.packets, counters.kernel_dropped, counters.malformed, counters.ignored
        ),
    );
    row(
        "commands",
        format!(
            "{} running, {} queued; {} started, {} failed, {} timed out, {} dropped",
            status.commands_running,
            status.commands_queued,
            counters.commands_started,
            counters.commands_failed,
            counters.commands_timed_out,
            counters.commands_dropped
        ),
    );
    row("other", format!("{} reloads, {} repairs of table or sets", counters.reloads, counters.restored));
    row(
        "log",
        format!(
            "{} lines above the rate limit, {} not written because nobody read the log",
            counters.events_left_out, counters.log_lines_left_out
        ),
    );
    table(&["", ""], &rows)
}

/// The live grants.
pub(crate) fn grants(grants: &Grants) -> String {
    if grants.grants.is_empty() {
        return "no live grants\n".to_owned();
    }
    let rows: Vec<Vec<String>> = grants
        .grants
        .iter()
        .map(|grant| {
            vec![
                grant.rule.clone(),
                grant.address.clone(),
                format!("{} ago", duration(grant.age_seconds)),
                duration(grant.remaining_seconds),
                grant.opens.join(", "),
            ]
        })
        .collect();
    table(&["RULE", "ADDRESS", "SINCE", "REMAINING", "OPENS"], &rows)
}

/// The answer to a request for a grant.
pub(crate) fn granted(granted: &Granted) -> String {
    format!("{} granted to {} for {}\n", granted.rule, granted.address, duration(granted.timeout_seconds))
}

/// How many grants were revoked, and how many stray elements were deleted.
pub(crate) fn revoked(revoked: &Revoked) -> String {
    let strays = match revoked.strays {
        0 => String::new(),
        strays => format!("; {} deleted", count(strays, "stray element")),
    };
    format!("{} revoked{strays}\n", count(revoked.revoked, "grant"))
}

/// The findings, problems first. A command for the administrator to copy is on one line, however long.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut text = String::new();
    for finding in sorted {
        let severity = match finding.severity {
            Severity::Ok => "ok     ",
            Severity::Warning => "WARNING",
            Severity::Problem => "PROBLEM",
        };
        text.push_str(&table(
            &["", ""],
            &[vec![severity.to_owned(), format!("{}: {}", finding.subject, finding.text)]],
        ));
        for line in &finding.evidence {
            text.push_str(&format!("         seen in: {}\n", printable(line)));
        }
        for line in &finding.fix {
            text.push_str(&format!("         to fix: {}\n", printable(line)));
        }
    }
    text
}

/// How many problems and warnings there are; `None` where there are none.
pub(crate) fn found(findings: &[Finding]) -> Option<String> {
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts = [(of(Severity::Problem), "problem"), (of(Severity::Warning), "warning")];
    let texts: Vec<String> =
        counts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| count(*number, what)).collect();
    (!texts.is_empty()).then(|| format!("{} found", texts.join(" and ")))
}

/// The answer to a reload.
pub(crate) fn reloaded(reloaded: &Reloaded) -> String {
    format!("reloaded: {}\n", count(reloaded.rules, "rule"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_and_warnings_are_counted_and_all_else_is_not() {
        let [ok, warning, problem] = [Severity::Ok, Severity::Warning, Severity::Problem];
        for (severities, text) in [
            (&[][..], None),
            (&[ok, ok], None),
            (&[problem, ok], Some("1 problem found")),
            (&[problem, problem], Some("2 problems found")),
            (&[warning], Some("1 warning found")),
            (&[warning, problem, warning], Some("1 problem and 2 warnings found")),
        ] {
            let finding = |&severity| Finding { severity, ..Finding::ok("", "") };
            let findings: Vec<Finding> = severities.iter().map(finding).collect();
            assert_eq!(found(&findings).as_deref(), text);
        }
    }

    #[test]
    fn a_finding_is_printed_with_its_evidence_and_its_fix() {
        let finding = Finding::problem("22/tcp", "is closed").because(["there".to_owned()]).fix("open it");
        let text = findings(&[Finding::ok("gate", "works"), finding]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines, ["PROBLEM  22/tcp: is closed", "seen in: there", "to fix: open it", "ok       gate: works"]);
    }
}
