//! The rule of a `knock://` URL.

use std::path::{Path, PathBuf};

use knock_client::spa::{Host, KnockUrl};
use serde_json::{Value, json};

use crate::args::AddArgs;
use crate::error::Error;
use crate::identity;

/// Whether a single operand is meant for a URL and not for a name. Then no message shows it: it may hold a cover.
pub(super) fn is_url(operand: &str) -> bool {
    operand.contains([':', '/', '?', '='])
}

/// The rule of that URL, with what the command line says.
pub(super) fn rule(text: &str, name: Option<&str>, args: &AddArgs) -> Result<Value, Error> {
    let url = KnockUrl::parse(text.trim()).map_err(|error| Error::Add(error.to_string()))?;
    let host = match &url.host {
        Host::Name(name) => name.to_string(),
        Host::Address(address) => address.to_string(),
    };
    let name = match name {
        Some(name) => name,
        None if !host.contains(':') => &host,
        None => return Err(Error::Add("it has no name; write one: knock-cli add NAME".to_owned())),
    };
    let mut rule = json!({ "name": name, "host": host });
    if let Some(port) = args.wait {
        rule["wait"] = port.into();
    }
    if let Some(file) = &args.identity {
        rule["identity"] = absolute(file).display().to_string().into();
    }
    rule["spa"] = json!({ "port": url.port, "realm": url.realm.as_str(), "cover": url.cover.to_file().trim_end() });
    if let Some(rule_of_server) = &args.rule {
        rule["spa"]["rule"] = rule_of_server.as_str().into();
    }
    Ok(rule)
}

/// The rule after a second URL for it: the user's own keys stay.
pub(super) fn renewed(old: &Value, new: Value) -> Value {
    let (Some(old), Some(mut new_keys)) = (old.as_object(), new.as_object().cloned()) else { return new };
    let Some(mut spa) = old.get("spa").and_then(Value::as_object).cloned() else { return new };
    let mut rule = old.clone();
    spa.extend(new_keys.get("spa").and_then(Value::as_object).cloned().unwrap_or_default());
    new_keys.insert("spa".to_owned(), spa.into());
    new_keys.remove("host");
    rule.extend(new_keys);
    rule.into()
}

/// What is left to do: how to see that it works, and the line that the server needs, at the end.
pub(super) fn next_step(rule: &Value) -> String {
    let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
    let file = rule.get("identity").and_then(Value::as_str).map(Path::new);
    let wait = match rule.get("wait") {
        Some(_) => String::new(),
        None => {
            format!("a packet gets no answer; to see whether a port opens: knock-cli --wait PORT {}\n", text("name"))
        }
    };
    wait + &match identity::find(file, false) {
        Ok(found) => format!(
            "signed with {}; the server needs this line in its authorized_keys:\n{} {}\n",
            found.shown,
            found.signer.public_key(),
            if found.comment.is_empty() { text("name") } else { &found.comment }
        ),
        Err(error) => format!("no key signs yet: {error}\n"),
    }
}

/// The file, wherever the program will run.
fn absolute(file: &Path) -> PathBuf {
    if file.starts_with("~") { file.to_owned() } else { std::path::absolute(file).unwrap_or_else(|_| file.to_owned()) }
}
