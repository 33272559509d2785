//! `knock-cli add`: puts what an administrator sent into the user's file.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use knock_config::client;
use serde_json::{Map, Value};

use crate::args::AddArgs;
use crate::error::Error;
use crate::file::to_write;
use crate::host::is_same;

/// The most bytes that are read; a rule has some hundred.
const INPUT_MAX: u64 = 1 << 20;
/// The order of the keys of a rule in the file; others follow.
const ORDER: [&str; 4] = ["name", "host", "wait", "sequence"];

/// Reads rules from standard input and adds them to the file.
pub(crate) fn add(args: &AddArgs) -> Result<(), Error> {
    let path = to_write(args.config.as_deref())?;
    let mut text = String::new();
    let read = io::stdin().lock().take(INPUT_MAX).read_to_string(&mut text);
    read.map_err(|error| Error::Io { what: "cannot read standard input".to_owned(), error })?;
    let new = new_rules(&text, args.name.as_deref())?;
    let mut file = existing(&path)?;
    let names: Vec<String> = new.iter().map(|rule| name(rule).to_owned()).collect();
    merge(&mut file, new, &path)?;
    let text = format(&file);
    // What is written must be readable, whatever was there before.
    client::parse(&path.display().to_string(), &text)?;
    write(&path, &text).map_err(|error| Error::Io { what: format!("cannot write {}", path.display()), error })?;
    let _ = writeln!(io::stdout(), "added to {}: {}", path.display(), names.join(", "));
    Ok(())
}

/// The rules of what was sent, which must be valid.
fn new_rules(text: &str, rename: Option<&str>) -> Result<Vec<Value>, Error> {
    client::parse("standard input", text).map_err(|error| Error::Add(format!("\n{error}")))?;
    let value: Value = serde_json::from_str(text).map_err(|error| Error::Add(error.to_string()))?;
    let mut rules = value.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
    match (rename, &mut rules[..]) {
        (_, []) => return Err(Error::Add("it has no rules".to_owned())),
        (None, _) => {}
        (Some(name), [rule]) => rule["name"] = name.into(),
        (Some(_), several) => {
            return Err(Error::Add(format!("--name is for one rule, and there are {}", several.len())));
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

/// Replaces the rules with the same names and hosts, and adds the others.
fn merge(file: &mut Map<String, Value>, new: Vec<Value>, path: &Path) -> Result<(), Error> {
    let rules = file.entry("rules").or_insert_with(|| Value::Array(Vec::new()));
    let Some(rules) = rules.as_array_mut() else {
        return Err(Error::Add(format!("`rules` of {} is not a list", path.display())));
    };
    for rule in new {
        match rules.iter_mut().find(|old| name(old) == name(&rule)) {
            None => rules.push(rule),
            Some(old) if share_a_host(old, &rule) => *old = rule,
            Some(old) => {
                let host = hosts(old).first().map_or("no host".to_owned(), |host| format!("host {host}"));
                return Err(Error::Add(format!(
                    "{} has another rule `{}`, with {host}; choose a name with --name",
                    path.display(),
                    name(&rule)
                )));
            }
        }
    }
    Ok(())
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
