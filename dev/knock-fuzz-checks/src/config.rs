//! A configuration that is accepted keeps what its types promise, and a message points into the file.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use knock_config::client::ClientTrigger;
use knock_config::{Allow, Config, ConfigError, Interfaces, Position, Rule, Spa, Trigger};
use knock_config::{COVER_FILES_MAX, PROBLEMS_MAX, RULES_MAX, SPA_PORTS_MAX, WARNINGS_MAX};
use knock_proto::{Family, InterfaceName, PortRange, SEQUENCE_MAX, TcpFlags};

use crate::import::printable;

/// The longest duration of a configuration.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Checks [`knock_config::parse`] and [`knock_config::client::parse`] with the configuration that these bytes are, where
/// they are text.
///
/// # Panics
///
/// Where a configuration breaks a promise of [`Config`], or a message points at nothing.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let client = knock_config::client::parse("c.json", text);
    match knock_config::parse("c.json", text) {
        Ok(loaded) => {
            valid(&loaded.config);
            assert!(loaded.warnings.len() <= WARNINGS_MAX);
            for warning in &loaded.warnings {
                inside(text, warning.position);
                printable(&warning.to_string());
            }
            let client = client.expect("what the daemon takes, the client takes");
            let expected = loaded.config.rules.iter();
            assert_eq!(client.len(), expected.len());
            for (rule, expected) in client.into_iter().zip(expected) {
                assert_eq!(*rule.name, *expected.name);
                let trigger = match &expected.trigger {
                    Some(Trigger::Sequence(knocks)) => ClientTrigger::Sequence(knocks.clone()),
                    Some(Trigger::OneTime(path)) => ClientTrigger::OneTime(path.clone()),
                    None => ClientTrigger::PacketOfServer,
                };
                assert_eq!(rule.trigger, trigger);
            }
        }
        Err(error) => refused(text, &error),
    }
}

fn refused(text: &str, error: &ConfigError) {
    let ConfigError::Invalid { problems, omitted } = error else { panic!("no file was read: {error}") };
    assert!((1..=PROBLEMS_MAX).contains(&problems.len()));
    assert!(*omitted == 0 || problems.len() == PROBLEMS_MAX);
    assert!(problems.is_sorted_by_key(|problem| problem.position), "{error}");
    for problem in problems {
        inside(text, problem.position);
        printable(&problem.to_string());
    }
}

/// Checks that a position is one of the text, or the one behind its last character.
fn inside(text: &str, position: Position) {
    let line = text.split('\n').nth(position.line.wrapping_sub(1));
    let length = line.map(|line| line.chars().count());
    let column = position.column;
    assert!(length.is_some_and(|length| (1..=length + 1).contains(&column)), "{position:?} is outside of the file");
}

fn valid(config: &Config) {
    assert!(config.rules.len() <= RULES_MAX);
    if let Interfaces::Named(names) = &config.interfaces {
        assert!(!names.is_empty());
        interfaces(names);
        assert!(!names.iter().any(|name| **name == *"any"));
    }
    interfaces(&config.nftables.exempt_interfaces);
    let table = &config.nftables.table;
    assert!(is_nft_name(table), "{table}");
    let limits = &config.limits;
    assert!((1..=1 << 20).contains(&limits.sources) && (1..=1 << 20).contains(&limits.grants));
    assert!((1..=1024).contains(&limits.commands) && (1..=65_536).contains(&limits.command_queue));
    if let Some(path) = &config.control_socket {
        absolute(path);
        assert!(path.as_os_str().len() <= 107);
    }
    config.state_dir.as_deref().into_iter().for_each(absolute);
    if let Some(spa) = &config.spa {
        valid_spa(spa);
    }
    let names: HashSet<&str> = config.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names.len(), config.rules.len(), "names are unique");
    for rule in &config.rules {
        valid_rule(rule);
        assert!(config.spa.is_some() || !rule.spa, "a rule waits for packets that nobody receives");
        if let Some(revoked) = &rule.revoke {
            let may_be = |other: &Rule| other.name == *revoked && other.name != rule.name && other.allow.is_some();
            assert!(config.rules.iter().any(may_be), "rule {} revokes {revoked}", rule.name);
        }
    }
}

fn valid_spa(spa: &Spa) {
    assert!((1..=SPA_PORTS_MAX).contains(&spa.ports.len()) && !spa.ports.contains(&0));
    assert!(spa.ports.windows(2).all(|pair| pair[0] < pair[1]));
    assert!((1..=COVER_FILES_MAX).contains(&spa.cover_files.len()));
    spa.cover_files.iter().for_each(|path| absolute(path));
    absolute(&spa.authorized_keys);
    assert!((Duration::from_secs(1)..=Duration::from_secs(600)).contains(&spa.window));
}

fn valid_rule(rule: &Rule) {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    assert!((1..=64).contains(&rule.name.len()) && rule.name.bytes().all(named), "{}", rule.name);
    match &rule.trigger {
        Some(Trigger::Sequence(knocks)) => {
            assert!((1..=SEQUENCE_MAX).contains(&knocks.len()));
            assert!(knocks.iter().all(|knock| knock.port > 0));
        }
        Some(Trigger::OneTime(path)) => absolute(path),
        None => assert!(rule.spa, "nothing triggers the rule"),
    }
    assert!(rule.command.is_some() || rule.allow.is_some() || rule.revoke.is_some(), "the rule does nothing");
    duration(rule.timeout, Duration::from_millis(1));
    duration(rule.command_timeout, Duration::from_millis(1));
    if let Some(cooldown) = rule.cooldown {
        duration(cooldown, Duration::from_millis(1));
        assert!(!matches!(rule.trigger, Some(Trigger::OneTime(_))), "a one-time sequence has a cooldown");
    }
    let TcpFlags { set, clear } = rule.tcp_flags;
    assert!(set & clear == 0 && set | clear != 0, "no segment, or each, is a knock");
    assert!(!rule.targets.iter().any(|target| target.is_unspecified()));
    let stop = rule.stop.as_ref();
    assert!(stop.is_none() || rule.command.is_some());
    stop.into_iter().for_each(|stop| duration(stop.after, Duration::from_millis(1)));
    let commands = [rule.command.as_ref(), stop.map(|stop| &stop.command)].into_iter().flatten();
    let lines = commands.flat_map(|command| [Some(&command.any), command.v6.as_ref()]);
    for line in lines.chain([rule.setup.as_ref(), rule.teardown.as_ref()]).flatten() {
        assert!(!line.trim().is_empty() && !line.contains('\0'), "{line:?}");
    }
    if let Some(allow) = &rule.allow {
        valid_allow(allow);
    }
}

fn valid_allow(allow: &Allow) {
    duration(allow.timeout(), Duration::from_secs(1));
    match allow {
        Allow::Ports { ports, any, prefix4, prefix6, .. } => {
            assert!((8..=32).contains(prefix4) && (16..=128).contains(prefix6));
            let distinct: HashSet<&PortRange> = ports.iter().collect();
            assert!((*any || !ports.is_empty()) && distinct.len() == ports.len());
            assert!(ports.iter().all(|range| 0 < range.first && range.first <= range.last));
        }
        Allow::Sets { v4, v6, .. } => {
            assert!((v4.is_some() || v6.is_some()) && v4 != v6);
            assert!(v4.as_ref().is_none_or(|name| name.family() != Family::Ip6));
            assert!(v6.as_ref().is_none_or(|name| name.family() != Family::Ip));
            let names = [v4.as_ref(), v6.as_ref()].into_iter().flatten();
            names.for_each(|name| assert!(is_nft_name(name.table()) && is_nft_name(name.set())));
        }
    }
}

fn interfaces(names: &[InterfaceName]) {
    let distinct: HashSet<&InterfaceName> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "an interface stands twice");
    for name in names {
        let longest = if name.is_alternative() { 127 } else { 16 };
        assert!((1..=longest).contains(&name.len()), "{name:?}");
        assert!(!name.contains(['/', ':', '\0', '\n', ' ', ',', '@', '%']), "{name:?}");
        let text = name.prefix().unwrap_or(name);
        assert!((1..=longest).contains(&text.len()) && !text.contains('*'), "{name:?}");
    }
}

fn is_nft_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte))
}

fn absolute(path: &Path) {
    assert!(path.is_absolute() && !path.to_string_lossy().contains('\0'), "{}", path.display());
}

fn duration(duration: Duration, least: Duration) {
    assert!((least..=YEAR).contains(&duration), "{duration:?}");
}
