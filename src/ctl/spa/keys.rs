//! `knockctl spa keys`: who may ask, for what, and who did.

use knock_config::printable;
use time::OffsetDateTime;

use crate::control::protocol::{Key, Keys};
use crate::ctl::table::{count, duration, table};

/// The keys, a few lines for each.
pub(in crate::ctl) fn text(keys: &Keys) -> String {
    keys.keys.iter().map(entry).collect()
}

/// The lines of a key: its user, what it may do, what it did.
fn entry(key: &Key) -> String {
    let rows = [permitted(key), done(key), format!("{} {}", key.kind, key.key)].map(|text| vec!["  ".to_owned(), text]);
    format!("{}\n{}", printable(&key.user), table(&["", ""], &rows))
}

/// `may ask for ssh, web from 192.0.2.0/24, until 2027-12-31 00:00 UTC`.
fn permitted(key: &Key) -> String {
    let expires = key.expires.map(utc).unwrap_or_default();
    if key.expired {
        return format!("EXPIRED at {expires}: gets nothing");
    }
    let rules = key.rules.as_ref().map_or_else(|| "every rule with `spa`".to_owned(), |rules| rules.join(", "));
    let mut text = format!("may ask for {rules}");
    if let Some(from) = &key.from {
        text.push_str(&format!(" from {from}"));
    }
    match key.address.as_str() {
        "strict" => text.push_str(", for the address in the packet only"),
        "any" => text.push_str(", for any address"),
        _ => {}
    }
    if key.wide {
        text.push_str(", for its prefix too");
    }
    if key.expires.is_some() {
        text.push_str(&format!(", until {expires}"));
    }
    text
}

/// `1 grant now; last used 5m 2s ago from 192.0.2.7; 3 accepted, 1 refused`.
fn done(key: &Key) -> String {
    let mut parts = Vec::new();
    if key.grants > 0 {
        parts.push(format!("{} now", count(key.grants, "grant")));
    }
    match &key.last {
        Some(last) => parts.push(format!("last used {} ago from {}", duration(last.age_seconds), last.address)),
        None => parts.push("not used since the start of knockd".to_owned()),
    }
    let numbers = [(key.accepted, "accepted"), (key.refused, "refused")];
    let numbers = numbers.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
    let numbers = numbers.collect::<Vec<_>>().join(", ");
    parts.extend(Some(numbers).filter(|numbers| !numbers.is_empty()));
    parts.join("; ")
}

/// A time as people write it, to the minute.
pub(in crate::ctl) fn utc(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and what is out of range is no date")]
    let Ok(time) = OffsetDateTime::from_unix_timestamp(seconds as i64) else { return "a time far away".to_owned() };
    let (date, hour, minute) = (time.date(), time.hour(), time.minute());
    format!("{}-{:02}-{:02} {hour:02}:{minute:02} UTC", date.year(), u8::from(date.month()), date.day())
}

#[cfg(test)]
pub(in crate::ctl) mod tests {
    use super::*;
    use crate::control::protocol::LastUse;

    /// A key that may ask for everything and did nothing.
    pub(in crate::ctl) fn key(user: &str) -> Key {
        Key {
            user: user.to_owned(),
            key: "SHA256:fe85JkIjo8VPe+XqXJGH5MautEMFdK1OdKvJUFicyA8".to_owned(),
            kind: "ssh-ed25519".to_owned(),
            line: 1,
            rules: None,
            expires: None,
            expired: false,
            from: None,
            address: "source".to_owned(),
            wide: false,
            accepted: 0,
            refused: 0,
            last: None,
            grants: 0,
        }
    }

    #[test]
    fn each_key_has_its_user_what_it_may_do_and_what_it_did() {
        let alice = Key {
            rules: Some(vec!["ssh".to_owned(), "web".to_owned()]),
            from: Some("192.0.2.0/24".to_owned()),
            expires: Some(1_830_297_599.0),
            wide: true,
            accepted: 3,
            refused: 1,
            last: Some(LastUse { age_seconds: 302.0, address: [192, 0, 2, 7].into() }),
            grants: 1,
            ..key("alice@laptop")
        };
        let left = Key { expires: Some(0.0), expired: true, address: "any".to_owned(), ..key("mal\u{1b}[2J") };
        let any = Key { address: "any".to_owned(), ..key("bob") };
        let strict = Key { address: "strict".to_owned(), ..key("carol") };
        let key = "    ssh-ed25519 SHA256:fe85JkIjo8VPe+XqXJGH5MautEMFdK1OdKvJUFicyA8\n";
        let unused = "    not used since the start of knockd\n";
        let expected = format!(
            "alice@laptop\n\
             \x20   may ask for ssh, web from 192.0.2.0/24, for its prefix too, until 2027-12-31\n\
             \x20   23:59 UTC\n\
             \x20   1 grant now; last used 5m 2s ago from 192.0.2.7; 3 accepted, 1 refused\n\
             {key}\
             bob\n    may ask for every rule with `spa`, for any address\n{unused}{key}\
             carol\n    may ask for every rule with `spa`, for the address in the packet only\n{unused}{key}\
             mal\\u{{1b}}[2J\n    EXPIRED at 1970-01-01 00:00 UTC: gets nothing\n{unused}{key}"
        );
        assert_eq!(text(&Keys { keys: vec![alice, any, strict, left] }), expected);
    }

    #[test]
    fn a_time_is_in_utc_to_the_minute() {
        assert_eq!(utc(1_830_297_599.0), "2027-12-31 23:59 UTC");
        assert_eq!(utc(f64::MAX), "a time far away");
    }
}
