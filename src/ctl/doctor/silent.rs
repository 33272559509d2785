//! What there is where no daemon answers: the managed table, and the configuration file for the next start.

use std::path::{Path, PathBuf};

use knock_config::{Allow, Config};
use knock_proto::PortRange;

use super::{Facts, Finding};

/// The default of `nftables.table`.
const TABLE: &str = "knockd";

/// The configuration file.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// What a daemon with it guards, or the errors.
    guards: Result<Guards, String>,
}

#[derive(Clone, Debug)]
struct Guards {
    table: String,
    ports: Vec<String>,
}

impl ConfigFile {
    /// Reads and checks it.
    pub(super) fn check(path: &Path) -> ConfigFile {
        let guards = knock_config::load(path).map(|loaded| Guards::of(&loaded.config));
        ConfigFile { path: path.to_owned(), guards: guards.map_err(|error| error.to_string()) }
    }
}

impl Guards {
    fn of(config: &Config) -> Guards {
        let ports = config.rules.iter().filter_map(|rule| match &rule.allow {
            Some(Allow::Ports { ports, .. }) => Some(ports),
            _ => None,
        });
        let ports = PortRange::disjoint(ports.flatten().copied()).iter().map(ToString::to_string).collect();
        Guards { table: config.nftables.table.to_string(), ports }
    }
}

/// The findings where the daemon does not answer.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(error) = &facts.no_status else { return Vec::new() };
    let silent = Finding::problem("daemon", error.clone());
    // Otherwise a daemon runs, and a start is no remedy.
    let Some(file) = &facts.file else { return vec![silent] };
    let path = file.path.display();
    let start = match &file.guards {
        Ok(_) => "systemctl start knockd".to_owned(),
        Err(_) => format!("correct {path}, then: systemctl start knockd"),
    };
    let mut findings = vec![silent.fix(start)];
    if let Err(errors) = &file.guards {
        let text = format!("{path} is not valid: the next start cannot use it");
        findings.push(Finding::problem("configuration", text).because(errors.lines().map(str::to_owned)));
    }
    let Some(ruleset) = &facts.ruleset else { return findings };
    let (table, ports) = match &file.guards {
        Ok(guards) => (guards.table.as_str(), Some(guards.ports.as_slice())),
        Err(_) => (TABLE, None),
    };
    if ruleset.table("inet", table).is_some() {
        let text = format!(
            "table inet {table} is in force without the daemon: the guarded ports are closed, no knock opens them, and live \
             grants go on until they expire"
        );
        findings.push(
            Finding::problem("gate", text)
                .because([format!("nft list table inet {table}")])
                .fix(format!("if you are locked out: nft delete table inet {table}; strangers reach the ports then")),
        );
    } else if ports.is_none_or(|ports| !ports.is_empty()) {
        let ports = ports.map_or_else(|| "the guarded ports".to_owned(), |ports| ports.join(", "));
        let text =
            format!("there is no table inet {table}: strangers reach {ports}, unless other nftables rules drop them");
        findings.push(Finding::problem("gate", text).because(["nft list tables".to_owned()]));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::ruleset::Ruleset;

    fn facts(text: &str, ruleset: Ruleset) -> Facts {
        let config = knock_config::parse("config.json", text).map(|parsed| Guards::of(&parsed.config));
        let guards = config.map_err(|error| error.to_string());
        let file = Some(ConfigFile { path: PathBuf::from("/etc/knockd/config.json"), guards });
        Facts { no_status: Some("no knockd answers".to_owned()), file, ruleset: Some(ruleset), ..Facts::default() }
    }

    fn recorded() -> Ruleset {
        Ruleset::new(&serde_json::from_str(include_str!("rulesets/gate.json")).expect("a recorded ruleset"))
    }

    const VALID: &str = r#"{ "rules": [{ "name": "ssh", "sequence": [7000, 9000, 8000],
        "allow": { "ports": [22], "timeout": "1h" } }] }"#;

    #[test]
    fn without_the_daemon_the_ports_are_closed_where_the_table_is_and_open_where_it_is_not() {
        let closed = findings(&facts(VALID, recorded()));
        assert_eq!(closed[0].fix, ["systemctl start knockd"]);
        assert!(closed[1].text.contains("the guarded ports are closed"), "{closed:?}");
        let open = findings(&facts(VALID, Ruleset::default()));
        assert!(open[1].text.contains("strangers reach 22/tcp"), "{open:?}");
        let elsewhere = VALID.replace("\"rules\"", "\"nftables\": { \"table\": \"k3\" }, \"rules\"");
        let open = findings(&facts(&elsewhere, recorded()));
        assert!(open[1].text.contains("no table inet k3"), "{open:?}");
    }

    #[test]
    fn a_file_that_is_not_valid_is_shown_with_its_errors_and_corrected_before_the_start() {
        let found = findings(&facts(&VALID.replace("22]", "22,]"), recorded()));
        assert_eq!(found[0].fix, ["correct /etc/knockd/config.json, then: systemctl start knockd"]);
        assert_eq!(found[1].subject, "configuration");
        assert!(found[1].evidence[0].starts_with("config.json:2:"), "{found:?}");
        assert!(found[2].text.contains("the guarded ports are closed"), "{found:?}");
    }

    #[test]
    fn a_daemon_that_refuses_is_not_to_be_started() {
        let found = findings(&Facts { no_status: Some("not permitted".to_owned()), ..Facts::default() });
        assert!(found.len() == 1 && found[0].fix.is_empty(), "{found:?}");
    }
}
