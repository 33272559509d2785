//! The diagnosis: whether strangers can reach a guarded port, and whether granted addresses can.
//!
//! The findings depend only on facts that were gathered before, so that each case has a test.

mod fleet;
mod gate;
mod host;
mod interfaces;
mod other_gates;
mod packet;
mod path;
mod ruleset;
mod shadow;
mod signed;
mod silent;
mod translation;
mod user_set;

use serde::Serialize;

use super::table::span;
use crate::control::protocol::Status;

pub(crate) use host::{Facts, gather, gather_about};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Correct.
    Ok,
    /// Good to know; nothing to do.
    Note,
    /// Possibly a problem.
    Warning,
    /// A stranger gets in, or a granted address does not.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The subject: `22/tcp`, `gate` …
    pub(crate) subject: String,
    pub(crate) text: String,
    /// The facts behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) evidence: Vec<String>,
    /// The fix: commands, or what to write where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fix: Vec<String>,
}

impl Finding {
    fn new(severity: Severity, subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { severity, subject: subject.into(), text: text.into(), evidence: Vec::new(), fix: Vec::new() }
    }

    pub(crate) fn ok(subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Ok, subject, text)
    }

    pub(crate) fn note(subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Note, subject, text)
    }

    fn warning(subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, subject, text)
    }

    pub(crate) fn problem(subject: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Problem, subject, text)
    }

    pub(crate) fn because(mut self, evidence: impl IntoIterator<Item = String>) -> Finding {
        self.evidence.extend(evidence);
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Finding {
        self.fix.push(fix.into());
        self
    }
}

/// All findings.
pub(crate) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = silent::findings(facts);
    findings.extend(host::findings(facts));
    findings.extend(facts.status.iter().filter_map(configuration));
    findings.extend(signed::findings(facts));
    findings.extend(fleet::findings(facts));
    if let (Some(ruleset), Some(status)) = (&facts.ruleset, &facts.status) {
        if let Some(table) = &status.table {
            findings.extend(gate::findings(ruleset, facts.guarded.as_deref(), table));
            findings.extend(other_gates::findings(&facts.other_gates, table));
            findings.extend(shadow::findings(ruleset, table, &facts.other_gates));
            findings.extend(translation::findings(ruleset, &facts.translations, table, &facts.listening));
        }
        findings.extend(status.sets.iter().flat_map(|set| user_set::findings(ruleset, set)));
    }
    findings
}

/// What is behind the gate, for a guarded port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Behind {
    /// `22/tcp`.
    pub(crate) port: String,
    /// Whether the other nftables rules let granted addresses through: a warning where they may drop them, a problem where they
    /// do. `null` where the ruleset can't be read.
    pub(crate) rules: Option<Severity>,
    /// Whether a program of this host listens.
    pub(crate) listens: bool,
}

/// What is behind the gate, for each guarded port.
pub(crate) fn behind_the_gate(facts: &Facts) -> Vec<Behind> {
    let Some(table) = facts.status.as_ref().and_then(|status| status.table.as_ref()) else { return Vec::new() };
    let behind = |port: &String| {
        let findings = facts.ruleset.as_ref().map(|rules| shadow::of_port(rules, table, &facts.other_gates, port));
        let rules =
            findings.map(|findings| findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok));
        Behind { port: port.clone(), rules, listens: facts.listening.contains(port) }
    };
    table.guarded.iter().map(behind).collect()
}

/// Whether the configuration in force is the one that an administrator expects.
fn configuration(status: &Status) -> Option<Finding> {
    if let Some(trial) = &status.trial {
        let text = format!(
            "{} is in force for {}. Knock from another terminal; where that works: knockctl confirm",
            trial.file,
            span(trial.remaining_seconds)
        );
        return Some(Finding::note("trial", text));
    }
    let problem = status.configuration_problem.as_ref()?;
    let text = format!("the configuration in force is not that of its file, {}", status.configuration);
    let finding = Finding::problem("configuration", text).because(problem.lines().map(str::to_owned));
    Some(finding.fix("correct the file, then: knockctl reload"))
}

/// A managed table that guards these ports, for tests.
#[cfg(test)]
pub(crate) fn table(guarded: &[&str]) -> crate::control::protocol::Table {
    crate::control::protocol::Table {
        name: "knockd".to_owned(),
        owned: true,
        on_stop: "remove".to_owned(),
        guarded: guarded.iter().map(|&port| port.to_owned()).collect(),
        exempt_interfaces: Vec::new(),
    }
}
