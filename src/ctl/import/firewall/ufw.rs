//! ufw(8): `ufw allow from %IP% to any port 22 proto tcp`, and its other orders of words.

use knock_config::excerpt;

use super::Draft;

pub(super) fn draft<'a>(arguments: &[&'a str]) -> Result<Draft<'a>, String> {
    let mut draft = Draft { adds: Some(true), protocol: Some("any"), ..Draft::default() };
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("`{}` has no value", excerpt(word)));
        match word {
            "--force" | "rule" | "prepend" | "to" | "any" => {}
            "insert" | "comment" => drop(value()?),
            "delete" => draft.adds = Some(false),
            "allow" => draft.accepts = Some(true),
            "deny" | "reject" => draft.accepts = Some(false),
            "from" => draft.source = Some(value()?).filter(|source| *source != "any"),
            "proto" => draft.protocol = Some(value()?),
            "port" => draft.ports = Some(value()?),
            "in" => {
                value()?;
                draft.limit = Some(format!("in on {}", excerpt(value()?)));
            }
            // `ufw allow 22/tcp`: for everybody.
            port if port.starts_with(|first: char| first.is_ascii_digit()) => {
                let (port, protocol) = port.split_once('/').unwrap_or((port, "any"));
                (draft.ports, draft.protocol) = (Some(port), Some(protocol));
            }
            other => return Err(format!("import does not know `{}` of ufw", excerpt(other))),
        }
    }
    Ok(draft)
}
