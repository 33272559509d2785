//! The answers of the daemon, as text for people.

use knock_config::printable;

use super::table::{BAD, DIM, DOUBTFUL, GOOD, count, duration, span, styled, table};
use crate::control::protocol::{Granted, Grants, Reloaded, Revoked};
use crate::ctl::doctor::{Finding, Severity};

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
    format!("{} granted to {} for {}\n", granted.rule, granted.address, span(granted.timeout_seconds))
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
        let (style, severity) = match finding.severity {
            Severity::Ok => (GOOD, "ok     "),
            Severity::Note => (DIM, "note   "),
            Severity::Warning => (DOUBTFUL, "WARNING"),
            Severity::Problem => (BAD, "PROBLEM"),
        };
        let row = vec![severity.to_owned(), format!("{}: {}", finding.subject, finding.text)];
        text.push_str(&table(&["", ""], &[row]).replacen(severity, &styled(style, severity), 1));
        for line in &finding.evidence {
            text.push_str(&table(&["", ""], &[vec!["         seen in:".to_owned(), line.clone()]]));
        }
        for line in &finding.fix {
            text.push_str(&format!("         to fix:   {}\n", printable(line)));
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
        let [ok, note, warning, problem] = [Severity::Ok, Severity::Note, Severity::Warning, Severity::Problem];
        for (severities, text) in [
            (&[][..], None),
            (&[ok, note], None),
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
        let text = findings(&[Finding::ok("gate", "works"), Finding::note("80/tcp", "is idle"), finding]);
        let text = anstream::adapter::strip_str(&text).to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let problem = ["PROBLEM  22/tcp: is closed", "seen in:  there", "to fix:   open it"];
        assert_eq!(lines, [&problem[..], &["note     80/tcp: is idle", "ok       gate: works"]].concat());
    }
}
