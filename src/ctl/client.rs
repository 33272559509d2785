//! `knockctl client`: what a user of knock-cli needs of a rule, on one line.

use std::path::Path;
use std::time::Duration;

use knock_config::{Allow, Rule, Spa, Trigger, nearest};
use knock_proto::{Knock, Protocol, TcpFlags};
use serde_json::{Value, json};

use super::spa::files::{FileError, existing_cover};
use super::{EXIT_CONFIGURATION, EXIT_NOT_PERMITTED, EXIT_OTHER, Failure, complain, print};

/// The gap of knock-cli between two knocks, with room for a second try with twice the gap.
const USUAL_GAP: Duration = Duration::from_millis(80);

/// Prints the entry of that rule for the file of a client.
pub(super) fn client(config: &Path, name: &str, hosts: &[String], wait: Option<u16>) -> Result<(), Failure> {
    let loaded = knock_config::load(config).map_err(|error| Failure::new(EXIT_CONFIGURATION, error))?;
    let rules = &loaded.config.rules;
    let Some(rule) = rules.iter().find(|rule| rule.name.as_str() == name) else {
        let known = || rules.iter().map(|rule| rule.name.as_str());
        let hint = nearest(name, known()).map(|rule| format!("did you mean `{rule}`? ")).unwrap_or_default();
        let known = known().collect::<Vec<_>>().join(", ");
        let message = format!("{} has no rule `{name}`; {hint}its rules: {known}", config.display());
        return Err(Failure::new(EXIT_OTHER, message));
    };
    let packets = match &loaded.config.spa {
        Some(spa) if rule.spa => Some(packets(rule, spa)?),
        _ => None,
    };
    let (entry, notes) = entry(rule, hosts, wait, packets).map_err(|message| Failure::new(EXIT_OTHER, message))?;
    for note in notes {
        complain("note: ", &note);
    }
    print(&format!("{}\n", json!({ "rules": [entry] })))
}

/// What a client needs for signed packets, with the newest cover.
fn packets(rule: &Rule, spa: &Spa) -> Result<Value, Failure> {
    let failed =
        |error: FileError| Failure::new(if error.is_permission() { EXIT_NOT_PERMITTED } else { EXIT_OTHER }, error);
    let cover = spa.cover_files.first().map(|path| existing_cover(path)).transpose().map_err(failed)?;
    let cover = cover.map(|cover| cover.to_file().trim_end().to_owned());
    Ok(json!({
        "port": spa.ports.first(),
        "realm": spa.realm.as_str(),
        "cover": cover,
        "rule": rule.name.as_str(),
    }))
}

/// The entry, and notes about it. `packets`: for signed packets, instead of the sequence.
fn entry(
    rule: &Rule,
    hosts: &[String],
    wait: Option<u16>,
    packets: Option<Value>,
) -> Result<(Value, Vec<String>), String> {
    let name = rule.name.as_str();
    let mut entry = json!({
        "name": name,
        "host": if let [host] = hosts { json!(host) } else { json!(hosts) },
    });
    let mut notes = Vec::new();
    match packets {
        Some(packets) => {
            entry["spa"] = packets;
            if rule.trigger.is_some() {
                notes.push(format!("rule `{name}` accepts knocks too; this entry is for signed packets"));
            }
        }
        None => knocks(rule, &mut entry)?,
    }
    match wait.or_else(|| opens(rule)) {
        Some(port) => entry["wait"] = port.into(),
        None => notes
            .push(format!("rule `{name}` names no TCP port, so the client cannot wait; if there is one: --wait PORT")),
    }
    let has = |ipv4: bool| rule.targets.iter().any(|target| target.is_ipv4() == ipv4);
    match (has(true), has(false)) {
        (true, false) => entry["family"] = "ipv4".into(),
        (false, true) => entry["family"] = "ipv6".into(),
        _ if rule.command.is_some() => notes.push(format!(
            "the command of rule `{name}` runs for each address of a client, so twice over IPv4 and IPv6; to choose one, \
             write \"family\": \"ipv4\" or \"ipv6\" in the entry"
        )),
        _ => {}
    }
    Ok((entry, notes))
}

/// Adds the sequence, and a gap between knocks where the usual one is too long.
fn knocks(rule: &Rule, entry: &mut Value) -> Result<(), String> {
    let name = rule.name.as_str();
    let knocks = match &rule.trigger {
        Some(Trigger::Sequence(knocks)) => knocks,
        Some(Trigger::OneTime(path)) => {
            return Err(format!(
                "rule `{name}` has one-time sequences, which no client keeps; give the user a copy of {}",
                path.display()
            ));
        }
        None => {
            return Err(format!("rule `{name}` has no sequence; for signed packets, run `knockctl spa init`"));
        }
    };
    if knocks.iter().any(|knock| knock.protocol == Protocol::Tcp) && !rule.tcp_flags.matches(TcpFlags::SYN) {
        return Err(format!("rule `{name}` has `tcp_flags`, but knock-cli sends SYNs only; delete `tcp_flags`"));
    }
    entry["sequence"] = knocks.iter().map(|knock| written(*knock)).collect();
    let gaps = u32::try_from(knocks.len().saturating_sub(1)).unwrap_or(u32::MAX);
    if rule.timeout < USUAL_GAP * gaps {
        let delay = (rule.timeout / (gaps * 2)).as_millis().max(1);
        entry["delay"] = format!("{delay}ms").into();
    }
    Ok(())
}

fn written(knock: Knock) -> Value {
    match knock.protocol {
        Protocol::Tcp => knock.port.into(),
        Protocol::Udp => knock.to_string().into(),
    }
}

/// The first TCP port that the rule opens.
fn opens(rule: &Rule) -> Option<u16> {
    match &rule.allow {
        Some(Allow::Ports { ports, .. }) => {
            ports.iter().find(|ports| ports.protocol == Protocol::Tcp).map(|ports| ports.first)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rule: &str) -> Result<(Value, Vec<String>), String> {
        let text = format!(r#"{{"rules": [{{"name": "a", {rule}}}]}}"#);
        let loaded = knock_config::parse("c.json", &text).expect("valid");
        entry(&loaded.config.rules[0], &["h.example.com".to_owned()], None, None)
    }

    #[test]
    fn the_entry_is_what_the_client_reads() {
        let (entry, notes) =
            of(r#""sequence": [3, "1/udp", 9], "allow": {"ports": ["53/udp", 22], "timeout": 60}"#).expect("an entry");
        let expected = json!({ "name": "a", "host": "h.example.com", "sequence": [3, "1/udp", 9], "wait": 22 });
        assert_eq!((&entry, &notes[..]), (&expected, &[][..]));
        let text = json!({ "rules": [entry] }).to_string();
        let rules = knock_config::client::parse("c.json", &text).expect("valid for the client");
        assert_eq!((rules[0].wait, &rules[0].hosts[..]), (Some(22), &["h.example.com".to_owned()][..]));
    }

    #[test]
    fn the_entry_for_signed_packets_is_what_the_client_reads() {
        let text = r#"{"spa": {"realm": "r", "authorized_keys": "/k", "cover_files": ["/c"]},
            "rules": [{"name": "a", "sequence": [3, 1, 2], "spa": true, "allow": {"ports": [22], "timeout": 60}}]}"#;
        let loaded = knock_config::parse("c.json", text).expect("valid");
        let cover = knock_spa::Cover::from_bytes([7; 32]);
        let packets = json!({ "port": 62201, "realm": "r", "cover": cover.to_file().trim_end(), "rule": "a" });
        let hosts = ["h.example.com".to_owned()];
        let (entry, notes) = entry(&loaded.config.rules[0], &hosts, None, Some(packets)).expect("an entry");
        assert!(notes[0].contains("accepts knocks too"), "{notes:?}");
        let rules = knock_config::client::parse("c.json", &json!({ "rules": [entry] }).to_string()).expect("valid");
        let knock_config::client::ClientTrigger::Packet(spa) = &rules[0].trigger else { panic!("{rules:?}") };
        assert_eq!((&spa.cover, rules[0].wait), (&cover, Some(22)));
    }

    #[test]
    fn a_rule_that_a_client_cannot_use_is_refused() {
        let error = of(r#""one_time_sequences": "/f", "command": "x""#).expect_err("one-time sequences");
        assert_eq!(error, "rule `a` has one-time sequences, which no client keeps; give the user a copy of /f");
        let error = of(r#""sequence": [3, 1], "tcp_flags": "fin,!syn", "command": "x""#).expect_err("flags");
        assert_eq!(error, "rule `a` has `tcp_flags`, but knock-cli sends SYNs only; delete `tcp_flags`");
        assert!(of(r#""sequence": ["3/udp"], "tcp_flags": "fin", "command": "x""#).is_ok());
    }

    #[test]
    fn the_notes_say_what_the_rule_does_not_say() {
        let (entry, notes) = of(r#""sequence": [3, 1, 7], "command": "x", "timeout": "100ms""#).expect("an entry");
        assert_eq!(entry["delay"], json!("25ms"));
        assert!(notes[0].starts_with("rule `a` names no TCP port") && notes[1].contains("twice"), "{notes:?}");
        let (entry, notes) = of(r#""sequence": [3, 1, 7], "command": "x", "target": "192.0.2.1""#).expect("an entry");
        assert_eq!((&entry["family"], notes.len()), (&json!("ipv4"), 1));
    }
}
