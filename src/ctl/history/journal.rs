//! The events of knockd in the journal, as journalctl(1) prints them.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use super::stays::{Event, Grant, What, Who};
use crate::ctl::{EXIT_NOT_PERMITTED, EXIT_OTHER, Failure};
use crate::logging::events::Event as Logged;

/// A longer line is none of knockd's events.
const LINE_MAX: u64 = 64 * 1024;
/// The events that are asked for. `ready` says that knockd logs to the journal at all.
const EVENTS: [Logged; 6] =
    [Logged::Ready, Logged::Stopping, Logged::Granted, Logged::Extended, Logged::Revoked, Logged::Expired];
const FIELDS: &str = "KNOCK_EVENT,KNOCK_RULE,KNOCK_SOURCE,KNOCK_PREFIX,KNOCK_OPENS,KNOCK_SECONDS,KNOCK_BY,KNOCK_USER,KNOCK_GRANTS,\
                      _SYSTEMD_UNIT,_UID";

/// Hands each event in the journal to `visit`, the oldest first. The whole journal is read: what is live now may have begun
/// long ago. Returns how many there were.
pub(super) fn read(mut visit: impl FnMut(Event)) -> Result<u64, Failure> {
    let mut child = Command::new("journalctl")
        .args(["--no-pager", "--output=json", "--output-fields", FIELDS])
        .args(EVENTS.map(|event| format!("KNOCK_EVENT={}", event.name())))
        .stdin(Stdio::null())
        // What it says about itself goes to the user.
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::new(
                EXIT_OTHER,
                "there is no journalctl: the history is read from the journal of systemd, and this host has none; \
                 where knockd logs to syslog or standard error, its lines are there (`log.target`)",
            ),
            _ => Failure::new(EXIT_OTHER, format!("cannot run journalctl: {error}")),
        })?;
    let broken =
        |error: std::io::Error| Failure::new(EXIT_OTHER, format!("cannot read what journalctl prints: {error}"));
    let mut count = 0;
    if let Some(output) = child.stdout.take() {
        let mut reader = Entries::default();
        lines(output, |line| reader.entry(line, &mut visit)).map_err(broken)?;
        count = reader.of_knockd;
    }
    let status = child.wait().map_err(broken)?;
    if !status.success() {
        let code = if rustix::process::geteuid().is_root() { EXIT_OTHER } else { EXIT_NOT_PERMITTED };
        return Err(Failure::new(code, format!("journalctl failed ({status}); {READABLE}")));
    }
    Ok(count)
}

/// Who can read the journal.
pub(super) const READABLE: &str = "the journal is readable for root and for members of the group systemd-journal";

/// Hands each line to `visit`, without those that are too long.
fn lines(input: impl Read, mut visit: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let mut goes_on = false;
    loop {
        line.clear();
        if input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let ends = line.ends_with(b"\n") || (line.len() as u64) < LINE_MAX;
        if ends && !goes_on {
            visit(&line);
        }
        goes_on = !ends;
    }
}

/// An entry of the journal. A field that was logged twice or is no text is not a string.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_BOOT_ID", default)]
    boot: Value,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: Value,
    #[serde(rename = "_UID", default)]
    uid: Value,
    #[serde(rename = "KNOCK_EVENT", default)]
    event: Value,
    #[serde(rename = "KNOCK_RULE", default)]
    rule: Value,
    #[serde(rename = "KNOCK_SOURCE", default)]
    source: Value,
    #[serde(rename = "KNOCK_PREFIX", default)]
    prefix: Value,
    #[serde(rename = "KNOCK_OPENS", default)]
    opens: Value,
    #[serde(rename = "KNOCK_SECONDS", default)]
    seconds: Value,
    #[serde(rename = "KNOCK_BY", default)]
    by: Value,
    #[serde(rename = "KNOCK_USER", default)]
    user: Value,
    #[serde(rename = "KNOCK_GRANTS", default)]
    grants: Value,
}

/// The entries one after the other.
#[derive(Default)]
struct Entries {
    boot: Option<String>,
    of_knockd: u64,
}

impl Entries {
    /// Reads an entry. Lines that are none, and entries that knockd did not write, are left out.
    fn entry(&mut self, line: &[u8], mut visit: impl FnMut(Event)) {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return };
        let Some(instance) = instance(&entry) else { return };
        let Some(time) =
            entry.time.parse::<u64>().ok().map(|time| std::time::Duration::from_micros(time).as_secs_f64())
        else {
            return;
        };
        self.of_knockd += 1;
        let boot = entry.boot.as_str().map(str::to_owned);
        if self.boot.is_some() && boot != self.boot {
            visit(Event::Booted { time });
        }
        self.boot = boot;
        if let Some(event) = event(&entry, time, instance) {
            visit(event);
        }
    }
}

/// Which knockd wrote the entry. Every local user can write an entry with all these fields, but not those that journald
/// adds (systemd.journal-fields(7), "Trusted Journal Fields").
fn instance(entry: &Entry) -> Option<String> {
    let unit = entry.unit.as_str().unwrap_or_default();
    let name = unit.strip_suffix(".service").unwrap_or_default();
    match name.strip_prefix("knockd") {
        Some("") => Some(String::new()),
        Some(instance) if instance.starts_with('@') => Some(instance[1..].to_owned()),
        _ => (entry.uid.as_str() == Some("0")).then(String::new),
    }
}

fn event(entry: &Entry, time: f64, instance: String) -> Option<Event> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = EVENTS.into_iter().find(|event| entry.event.as_str() == Some(event.name()))?;
    if kind == Logged::Stopping {
        return Some(Event::Stopped { time, instance, grants_end: entry.grants.as_str() == Some("ended") });
    }
    // Of a signed packet, the user is known.
    let by = match entry.user.as_str().filter(|user| entry.by.as_str() == Some("packet") && !user.is_empty()) {
        Some(user) => format!("packet of {user}"),
        None => text(&entry.by),
    };
    let grant = || {
        let seconds = entry.seconds.as_str()?.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
        Some(Grant { by: by.clone(), opens: text(&entry.opens), seconds })
    };
    let what = match kind {
        Logged::Granted => What::Granted(grant()?),
        Logged::Extended => What::Extended(grant()?),
        Logged::Revoked => What::Revoked { by: by.clone() },
        Logged::Expired => What::Expired,
        _ => return None,
    };
    let address = entry.prefix.as_str().or(entry.source.as_str())?.to_owned();
    Some(Event::Grant { time, who: Who { instance, rule: entry.rule.as_str()?.to_owned(), address }, what })
}

#[cfg(test)]
mod tests {
    use super::super::stays::{End, Stays};
    use super::*;

    fn events(lines: &str) -> (Vec<Event>, u64) {
        let (mut entries, mut events) = (Entries::default(), Vec::new());
        self::lines(lines.as_bytes(), |line| entries.entry(line, |event| events.push(event))).expect("read");
        (events, entries.of_knockd)
    }

    #[test]
    fn the_entries_that_a_real_journal_has_become_stays() {
        let (events, of_knockd) = events(include_str!("journal.jsonl"));
        assert_eq!((events.len(), of_knockd), (7, 8), "all but `ready`");
        let mut stays = Stays::new(0.0);
        events.into_iter().for_each(|event| stays.add(event));
        let (stays, _) = stays.finish(1_796_090_760.0);
        let shown: Vec<_> = stays
            .iter()
            .map(|stay| {
                let long = (stay.until - stay.from.expect("it began")).round();
                (stay.who.rule.as_str(), stay.who.address.as_str(), long, stay.end, stay.revoked_by.as_str())
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("ssh", "198.51.100.7", 4.0, End::Expired, ""),
                ("ssh", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", 0.0, End::Revoked, "uid 0"),
                ("ssh", "203.0.113.9", 7200.0, End::Live, ""),
                ("web", "198.51.100.7", 7200.0, End::Live, ""),
            ]
        );
        assert_eq!((stays[3].by.as_str(), stays[3].extended, stays[3].opens.as_str()), ("knock", 1, "8443/tcp"));
    }

    #[test]
    fn what_others_write_is_left_out() {
        let line = |unit: &str, uid: &str| {
            format!(
                r#"{{"__REALTIME_TIMESTAMP": "1764547200000000", "KNOCK_EVENT": "expired", "KNOCK_RULE": "ssh",
                "KNOCK_SOURCE": "192.0.2.7", "_SYSTEMD_UNIT": "{unit}", "_UID": "{uid}"}}"#
            )
            .replace('\n', " ")
                + "\n"
        };
        for (unit, uid, count) in [
            ("knockd.service", "997", 1),
            ("knockd@lan.service", "997", 1),
            ("session-3.scope", "0", 1),
            ("session-3.scope", "1000", 0),
            ("user@1000.service", "1000", 0),
            ("knockd-of-mallory.service", "1000", 0),
        ] {
            assert_eq!(events(&line(unit, uid)).1, count, "{unit} {uid}");
        }
    }

    #[test]
    fn lines_that_are_no_entries_do_no_harm() {
        let long = format!("{{\"__REALTIME_TIMESTAMP\": \"{}\"}}\n", "1".repeat(200_000));
        let bad = [
            "-- No entries --\n",
            "{}\n",
            "[1\n",
            &long,
            r#"{"__REALTIME_TIMESTAMP": "x", "_UID": "0"}"#,
            "\n",
            r#"{"__REALTIME_TIMESTAMP": "1", "_UID": "0", "KNOCK_EVENT": "granted", "KNOCK_RULE": ["a", "b"], "KNOCK_SECONDS": null}"#,
        ];
        assert_eq!(events(&bad.concat()), (Vec::new(), 1));
    }
}
