//! iptables(8), ip6tables(8) and their extensions (iptables-extensions(8)).

use knock_config::excerpt;

use super::Draft;

/// Options with a value that changes nothing for a grant.
const WITHOUT_EFFECT: [&str; 6] = ["--comment", "-W", "--wait-interval", "--reject-with", "--log-prefix", "-c"];

pub(super) fn draft<'a>(arguments: &[&'a str]) -> Result<Draft<'a>, String> {
    let mut draft = Draft::default();
    // `--dport=22` is `--dport 22`.
    let mut rest = arguments
        .iter()
        .flat_map(|word| match word.split_once('=').filter(|_| word.starts_with("--")) {
            Some((option, value)) => [Some(option), Some(value)],
            None => [Some(*word), None],
        })
        .flatten()
        .peekable();
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    while let Some(option) = rest.next() {
        if matches!(option, "-w" | "--wait") {
            rest.next_if(is_number);
            continue;
        }
        if matches!(option, "--syn" | "-4" | "-6" | "--ipv4" | "--ipv6" | "-v" | "--verbose") {
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("its option `{}` has no value", excerpt(option)))?;
        match option {
            "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" => {
                draft.adds = Some(!matches!(option, "-D" | "--delete"));
                if value != "INPUT" {
                    return Err(format!("it changes the chain `{}`; a grant is for what INPUT sees", excerpt(value)));
                }
                if rest.next_if(is_number).is_some() && draft.adds == Some(false) {
                    return Err("it deletes a rule by its number, which says not which one".to_owned());
                }
            }
            "-t" | "--table" if value == "filter" => {}
            "-s" | "--source" | "--src" => draft.source = Some(value),
            "-p" | "--protocol" | "--proto" => draft.protocol = Some(value),
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => draft.ports = Some(value),
            "-i" | "--in-interface" => draft.limit = Some(format!("{option} {}", excerpt(value))),
            "-j" | "--jump" => draft.accepts = verdict(value)?,
            "-m" | "--match" if matches!(value, "tcp" | "udp" | "multiport" | "state" | "conntrack" | "comment") => {}
            "--state" | "--ctstate" if value.split(',').any(|state| state == "NEW") => {}
            _ if WITHOUT_EFFECT.contains(&option) => {}
            _ => {
                return Err(format!("no grant has the condition `{} {}`", excerpt(option), excerpt(value)));
            }
        }
    }
    Ok(draft)
}

fn verdict(target: &str) -> Result<Option<bool>, String> {
    match target {
        "ACCEPT" => Ok(Some(true)),
        "DROP" | "REJECT" => Ok(Some(false)),
        other => Err(format!("its target is `{}`, not ACCEPT", excerpt(other))),
    }
}
