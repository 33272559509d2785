//! `knock-cli add`: puts what an administrator sent into the user's file.

mod url;

use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use knock_config::client;
use serde_json::{Map, Value};

use crate::args::{AddArgs, usage_of_add};
use crate::error::{Error, Refusal};
use crate::file::to_write;
use crate::host::is_same;
use crate::notice::complain;

/// The most bytes that are read; a rule has some hundred.
const INPUT_MAX: u64 = 1 << 20;
/// The order of the keys of a rule in the file; others follow.
const ORDER: [&str; 6] = ["name", "host", "wait", "sequence", "identity", "spa"];

/// Adds the rule of the URL, or what standard input has, to the file.
pub(crate) fn add(args: &AddArgs) -> Result<(), Refusal> {
    let (name, url) = operands(args)?;
    let name = args.name.as_deref().or(name);
    let path = to_write(args.config.as_deref())?;
    let read;
    let text = match url {
        Some(url) => url,
        None => {
            read = from_standard_input()?;
            &read
        }
    };
    let is_url = url.is_some() || starts_as_url(text);
    let new = if is_url { vec![url::rule(text, name, args)?] } else { new_rules(text, name, args)? };
    let mut file = existing(&path)?;
    let names: Vec<String> = new.iter().map(|rule| self::name(rule).to_owned()).collect();
    let last = merge(&mut file, new, is_url, &path)?;
    let text = format(&file);
    // What is written must be readable, whatever was there before.
    client::parse(&path.display().to_string(), &text).map_err(Error::from)?;
    write(&path, &text).map_err(|error| Error::Io { what: format!("cannot write {}", path.display()), error })?;
    let next = if is_url { url::next_step(&last) } else { String::new() };
    let _ = write!(io::stdout(), "added to {}: {}\n{next}", path.display(), names.join(", "));
    Ok(())
}

/// The name and the URL of the command line.
fn operands(args: &AddArgs) -> Result<(Option<&str>, Option<&str>), clap::Error> {
    let (name, url) = match &args.operands[..] {
        [] => (None, None),
        [url] if url::is_url(url) => (None, Some(url.as_str())),
        [name] => (Some(name.as_str()), None),
        [name, url, ..] => (Some(name.as_str()), Some(url.as_str())),
    };
    if name.is_some() && args.name.is_some() {
        return Err(usage_of_add("the rule has two names; write it as the operand or with --name"));
    }
    Ok((name, url))
}

fn starts_as_url(text: &str) -> bool {
    text.trim_start().starts_with("knock:")
}

/// A URL, which is one line, or else all there is.
fn from_standard_input() -> Result<String, Error> {
    let failed = |error| Error::Io { what: "cannot read standard input".to_owned(), error };
    if io::stdin().is_terminal() {
        complain("paste the knock:// URL and press Enter, or paste JSON and press Ctrl-D");
    }
    let mut input = io::stdin().lock().take(INPUT_MAX);
    let mut text = String::new();
    while text.trim().is_empty() && input.read_line(&mut text).map_err(failed)? > 0 {}
    if !starts_as_url(&text) {
        input.read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

/// The rules of what was sent, which must be valid.
fn new_rules(text: &str, rename: Option<&str>, args: &AddArgs) -> Result<Vec<Value>, Refusal> {
    if args.wait.is_some() || args.rule.is_some() || args.identity.is_some() {
        return Err(usage_of_add(
            "--wait, --rule and --identity are for a URL, and this is JSON, which says it itself",
        )
        .into());
    }
    client::parse("standard input", text).map_err(|error| Error::Add(format!("\n{error}")))?;
    let value: Value = serde_json::from_str(text).map_err(|error| Error::Add(error.to_string()))?;
    let mut rules = value.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
    match (rename, &mut rules[..]) {
        (_, []) => return Err(Error::Add("it has no rules".to_owned()).into()),
        (None, _) => {}
        (Some(name), [rule]) => rule["name"] = name.into(),
        (Some(_), several) => {
            return Err(Error::Add(format!("--name is for one rule, and there are {}", several.len())).into());
        }
    }
    Ok(rules)
}

/// The file as it is; an empty one where there is none.
fn existing(path: &Path) -> Result<Map<String, Value>, Error> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        result => result.map_err(|error| Error::Io { what: format!("cannot read {}", path.display()), error })?,
    };
    client::parse(&path.display().to_string(), &text)?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(file)) => Ok(file),
        _ => Err(Error::Add(format!("{} is not a file with rules", path.display()))),
    }
}

fn name(rule: &Value) -> &str {
    rule.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Replaces the rules with the same names and hosts, and adds the others. Returns the last of them.
fn merge(file: &mut Map<String, Value>, new: Vec<Value>, from_url: bool, path: &Path) -> Result<Value, Error> {
    let rules = file.entry("rules").or_insert_with(|| Value::Array(Vec::new()));
    let Some(rules) = rules.as_array_mut() else {
        return Err(Error::Add(format!("`rules` of {} is not a list", path.display())));
    };
    let mut last = Value::Null;
    for rule in new {
        last = match rules.iter_mut().find(|old| name(old) == name(&rule)) {
            None => {
                rules.push(rule.clone());
                rule
            }
            Some(old) if share_a_host(old, &rule) => {
                *old = if from_url { url::renewed(old, rule) } else { rule };
                old.clone()
            }
            Some(old) => {
                let host = hosts(old).first().map_or("no host".to_owned(), |host| format!("host {host}"));
                return Err(Error::Add(format!(
                    "{} has another rule `{}`, with {host}; choose a name with --name",
                    path.display(),
                    name(&rule)
                )));
            }
        };
    }
    Ok(last)
}

fn hosts(rule: &Value) -> Vec<&str> {
    match rule.get("host") {
        Some(Value::String(host)) => vec![host],
        Some(Value::Array(hosts)) => hosts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn share_a_host(one: &Value, other: &Value) -> bool {
    let others = hosts(other);
    hosts(one) == others || hosts(one).iter().any(|host| others.iter().any(|other| is_same(host, other)))
}

/// A rule on each line, its name first, as people would write it.
fn format(file: &Map<String, Value>) -> String {
    let mut fields: Vec<String> = Vec::new();
    for (key, value) in file {
        let value = match value.as_array().filter(|rules| key == "rules" && !rules.is_empty()) {
            Some(rules) => {
                let rules: Vec<String> = rules.iter().map(|rule| format!("    {}", rule_line(rule))).collect();
                format!("[\n{}\n  ]", rules.join(",\n"))
            }
            None => value.to_string(),
        };
        fields.push(format!("  {}: {value}", Value::from(key.as_str())));
    }
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}

fn rule_line(rule: &Value) -> String {
    let Some(rule) = rule.as_object() else { return rule.to_string() };
    let first = ORDER.iter().filter_map(|key| rule.get_key_value(*key));
    let rest = rule.iter().filter(|(key, _)| !ORDER.contains(&key.as_str()));
    let fields: Vec<String> =
        first.chain(rest).map(|(key, value)| format!("{}: {value}", Value::from(key.as_str()))).collect();
    format!("{{ {} }}", fields.join(", "))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // A link stays a link: the file it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        make_directory(directory)?;
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let written = create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(unix)]
fn make_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(not(unix))]
fn make_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)
}

#[cfg(unix)]
fn create(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// The directory of the user's profile is not readable by other users.
#[cfg(not(unix))]
fn create(path: &Path) -> io::Result<fs::File> {
    fs::File::options().write(true).create_new(true).open(path)
}
