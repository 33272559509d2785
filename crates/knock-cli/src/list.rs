//! `knock-cli list`: the rules of the file, without their sequences.

use std::io::Write;

use knock_config::client::ClientRule;
use serde_json::json;

use crate::args::ListArgs;
use crate::error::Error;
use crate::file::Rules;
use crate::notice::complain;

/// Prints the list.
pub(crate) fn list(args: &ListArgs) -> Result<(), Error> {
    let rules = Rules::load(args.config.as_deref())?;
    let text = if args.names {
        rules.all().iter().map(|rule| format!("{}\n", rule.name)).collect()
    } else if args.json {
        let rules: Vec<_> = rules
            .all()
            .iter()
            .map(|rule| json!({ "name": rule.name, "host": rule.hosts, "port": rule.wait }))
            .collect();
        format!("{}\n", json!({ "rules": rules }))
    } else {
        table(rules.all())
    };
    if let (Some(warning), false) = (&rules.warning, args.names) {
        complain(warning);
    }
    // Standard output can be closed.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn table(rules: &[ClientRule]) -> String {
    let name = rules.iter().map(|rule| rule.name.len()).chain([4]).max().unwrap_or_default();
    let hosts = |rule: &ClientRule| if rule.hosts.is_empty() { "-".to_owned() } else { rule.hosts.join(", ") };
    let host = rules.iter().map(|rule| hosts(rule).len()).chain([4]).max().unwrap_or_default();
    let mut text = format!("{:name$}  {:host$}  PORT\n", "RULE", "HOST");
    for rule in rules {
        let port = rule.wait.map_or("-".to_owned(), |port| port.to_string());
        text += &format!("{:name$}  {:host$}  {port}\n", rule.name, hosts(rule));
    }
    text
}
