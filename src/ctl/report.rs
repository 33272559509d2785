//! The answers of the daemon, as text for people.

use knock_config::printable;

use super::table::{BAD, DIM, DOUBTFUL, GOOD, count, duration, span, styled, table};
use crate::control::protocol::{Grant, Granted, Grants, Reloaded, Revoked};
use crate::ctl::doctor::{Finding, Severity};

/// The live grants.
pub(crate) fn grants(grants: &Grants) -> String {
    if grants.grants.is_empty() {
        return "no live grants\n".to_owned();
    }
    // Users are those of signed packets, which few configurations have.
    let users = grants.grants.iter().any(|grant| grant.user.is_some());
    let row = |grant: &Grant| {
        let mut row = vec![
            grant.rule.clone(),
            grant.address.clone(),
            format!("{} ago", duration(grant.age_seconds)),
            duration(grant.remaining_seconds),
        ];
        row.extend(users.then(|| grant.user.clone().unwrap_or_else(|| "-".to_owned())));
        row.push(grant.opens.join(", "));
        row
    };
    let rows: Vec<Vec<String>> = grants.grants.iter().map(row).collect();
    let mut head = vec!["RULE", "ADDRESS", "SINCE", "REMAINING", "USER", "OPENS"];
    head.retain(|column| users || *column != "USER");
    table(&head, &rows)
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
    fn grants_have_a_column_of_users_where_one_of_them_has_a_user() {
        let grant = |user: Option<&str>| Grant {
            rule: "ssh".to_owned(),
            address: "192.0.2.7".to_owned(),
            opens: vec!["22/tcp".to_owned()],
            age_seconds: 5.0,
            remaining_seconds: 60.0,
            user: user.map(str::to_owned),
            key: None,
        };
        let shown = |list: Vec<Grant>| {
            let text = anstream::adapter::strip_str(&grants(&Grants { grants: list })).to_string();
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(vec![grant(None)]),
            ["RULE ADDRESS SINCE REMAINING OPENS", "ssh 192.0.2.7 5s ago 1m 0s 22/tcp"]
        );
        assert_eq!(
            shown(vec![grant(Some("alice")), grant(None)]),
            [
                "RULE ADDRESS SINCE REMAINING USER OPENS",
                "ssh 192.0.2.7 5s ago 1m 0s alice 22/tcp",
                "ssh 192.0.2.7 5s ago 1m 0s - 22/tcp",
            ]
        );
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
