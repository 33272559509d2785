//! firewall-cmd(1) with rich rules (firewalld.richlanguage(5)), services and ports.

use knock_config::excerpt;

use super::{Draft, services, time};

pub(super) fn draft<'a>(arguments: &[&'a str]) -> Result<Draft<'a>, String> {
    let mut draft = Draft::default();
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        if matches!(word, "--quiet" | "-q") {
            continue;
        }
        if word == "--permanent" {
            return Err("with --permanent it changes the firewall at its next reload only".to_owned());
        }
        let (option, value) = word.split_once('=').map_or((word, None), |(option, value)| (option, Some(value)));
        let value = value.or_else(|| rest.next()).ok_or_else(|| format!("`{}` has no value", excerpt(option)))?;
        let (adds, what) = match option.strip_prefix("--add-").map(|what| (true, what)) {
            Some(added) => added,
            None => option.strip_prefix("--remove-").map(|what| (false, what)).unwrap_or_default(),
        };
        match (option, what) {
            ("--zone", _) => draft.limit = Some(format!("--zone={}", excerpt(value))),
            ("--timeout", _) => draft.expires = Some(time(value)?),
            (_, "rich-rule") => {
                draft.adds = Some(adds);
                rich_rule(value, &mut draft)?;
            }
            (_, "service") => {
                (draft.adds, draft.accepts) = (Some(adds), Some(true));
                draft.named = services::firewalld(value)?;
            }
            (_, "port") => {
                (draft.adds, draft.accepts) = (Some(adds), Some(true));
                draft.ports = Some(value.split('/').next().unwrap_or(value));
                draft.protocol = value.split('/').nth(1);
            }
            (_, "source") => {
                return Err(
                    "it gives the address a whole zone, but a grant opens ports; name them in `allow.ports`".to_owned()
                );
            }
            _ => return Err(format!("import does not know `{}` of firewall-cmd", excerpt(option))),
        }
    }
    Ok(draft)
}

fn rich_rule<'a>(rule: &'a str, draft: &mut Draft<'a>) -> Result<(), String> {
    let mut element = "";
    for word in rule.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let value = value.trim_matches(['"', '\'']);
        match (key, element) {
            ("rule" | "family" | "priority", _) => {}
            ("source" | "service", _) | ("port", "" | "source") if value.is_empty() => element = key,
            ("address", "source") => draft.source = Some(value),
            ("name", "service") => draft.named = services::firewalld(value)?,
            ("port", "port") => draft.ports = Some(value),
            ("protocol", "port") => draft.protocol = Some(value),
            ("accept", _) => draft.accepts = Some(true),
            ("drop" | "reject", _) => draft.accepts = Some(false),
            _ => return Err(format!("no grant has the condition `{}` of its rich rule", excerpt(word))),
        }
    }
    Ok(())
}
