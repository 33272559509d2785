//! The documents say what the program does: links, examples, keys, events, options and dependencies are compared.
//!
//! No privilege is needed. `cargo build --workspace --bins` first: the help of `knock-cli` is asked too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files of the repository whose names end so, below `folder`; what is built or downloaded is left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && !["target", "corpus", "artifacts"].contains(&name) {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|has| has == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<PathBuf> {
    let found = files(root(), "md");
    assert!(found.len() > 10, "only {} documents were found", found.len());
    found
}

/// The text outside of fenced blocks, and the fenced blocks with what stands behind their fences.
fn split(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some((info.trim().to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    (prose, blocks)
}

/// The name by which GitHub's links know a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    heading.trim().to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let (prose, _) = split(&fs::read_to_string(&document).expect("it is there"));
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = document.parent().expect("a file is in a folder");
            let file = if path.is_empty() { document.clone() } else { folder.join(path) };
            let leads = file.exists() && (heading.is_empty() || has_heading(&file, heading));
            if !leads {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

fn has_heading(file: &Path, wanted: &str) -> bool {
    let (prose, _) = split(&fs::read_to_string(file).unwrap_or_default());
    prose.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn every_configuration_in_a_document_is_valid() {
    let mut loaded = 0;
    for document in documents() {
        for (info, block) in split(&fs::read_to_string(&document).expect("it is there")).1 {
            let name = document.display().to_string();
            if !info.starts_with("json") || !block.contains("\"rules\"") {
                continue;
            }
            match info.as_str() {
                "json client" => {
                    drop(knock_config::client::parse(&name, &block).unwrap_or_else(|e| panic!("{e}\n{block}")))
                }
                _ => {
                    let parsed = knock_config::parse(&name, &block).unwrap_or_else(|error| panic!("{error}\n{block}"));
                    assert_eq!(parsed.warnings, [], "{name}\n{block}");
                }
            }
            loaded += 1;
        }
    }
    assert!(loaded >= 8, "only {loaded} configurations were found");
}

/// The names in the dependency tables of a Cargo.toml.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end().ends_with("dependencies]");
        } else if let Some((key, _)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) {
            found.extend(key.trim().split('.').next().map(str::to_owned));
        }
    }
    found.into_iter().filter(|name| !name.starts_with("knock")).collect()
}

#[test]
fn every_dependency_has_its_reason_and_no_other_has() {
    let mut wanted = BTreeSet::new();
    for path in files(root(), "toml").into_iter().filter(|path| path.ends_with("Cargo.toml")) {
        wanted.extend(dependencies(&fs::read_to_string(path).expect("it is there")));
    }
    let text = read("docs/dependencies.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(listed, wanted, "left: docs/dependencies.md, right: the Cargo.toml files");
}

/// The paths of all keys of the schema, each with its default and its greatest value.
fn keys() -> BTreeMap<String, (Option<Value>, Option<u64>)> {
    let schema: Value = serde_json::from_str(&knock_config::schema()).expect("the schema is JSON");
    let places = [
        ("", &schema),
        ("rules[].", &schema["$defs"]["rule"]),
        ("rules[].allow.", &schema["$defs"]["allow"]),
        ("spa.", &schema["$defs"]["spa"]),
        ("fleet.", &schema["$defs"]["fleet"]),
        ("fleet.tls.", &schema["$defs"]["fleet_tls"]),
        ("fleet.nodes[].", &schema["$defs"]["fleet_node"]),
        ("nftables.", &schema["$defs"]["nftables"]),
        ("limits.", &schema["$defs"]["limits"]),
        ("log.", &schema["$defs"]["log"]),
    ];
    let with_properties = |object: &&Value| object["properties"].is_object();
    let known = schema["$defs"].as_object().expect("there are definitions").values().filter(with_properties).count();
    assert_eq!(known, places.len() - 1, "an object of the schema has no place in this test");
    let mut keys = BTreeMap::new();
    for (prefix, object) in places {
        for (key, property) in object["properties"].as_object().expect("an object has properties") {
            let entry =
                (property.get("default").cloned(), property["maximum"].as_u64().or(property["maxItems"].as_u64()));
            keys.insert(format!("{prefix}{key}"), entry);
        }
    }
    keys
}

#[test]
fn the_configuration_reference_has_every_key_with_its_default() {
    let text = read("docs/configuration.md");
    for (path, (default, maximum)) in keys() {
        let start = format!("| `{path}` |");
        let row = text.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row that begins {start}"));
        if let Some(default) = default {
            let cell = row.split('|').nth(2).unwrap_or_default();
            assert!(cell.contains(&format!("`{default}`")), "the default of {path} is {default}, not {cell}");
        }
        if let Some(maximum) = maximum {
            assert!(row.replace(',', "").contains(&format!(" to {maximum} ")), "{path} is at most {maximum}:\n{row}");
        }
    }
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    for (path, _) in rows.filter(|(path, _)| path.contains('.')) {
        assert!(keys().contains_key(path), "docs/configuration.md has a row for {path}, which is no key");
    }
}

#[test]
fn the_log_reference_has_every_event_with_its_id() {
    let source = read("src/logging/events.rs");
    // `Ready = "ready", "d75956351a9543398edaa6940eebaa16", Info;`
    let definition = |line| -> Option<Vec<&str>> {
        let texts: Vec<&str> = str::split(line, '"').collect();
        (texts.len() == 5 && is_id(texts[3])).then(|| vec![texts[1], texts[3]])
    };
    let events: Vec<Vec<&str>> = source.lines().filter_map(definition).collect();
    assert!(events.len() > 5, "src/logging/events.rs reads otherwise: {events:?}");
    let text = read("docs/logging.md");
    for texts in &events {
        let row = format!("| `{}` | `{}` |", texts[0], texts[1]);
        assert!(text.contains(&row), "docs/logging.md has no row {row}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| `") && line.split('`').any(is_id)).count();
    assert_eq!(rows, events.len(), "docs/logging.md has an event that src/logging/events.rs does not have");
    let catalog = read("systemd/knockd.catalog");
    let explained: Vec<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let ids: Vec<&str> = events.iter().map(|texts| texts[1]).collect();
    assert_eq!(explained, ids, "systemd/knockd.catalog explains each event of src/logging/events.rs, in that order");
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn help(program: &str, subcommands: &[&str]) -> String {
    // Programs of other packages are built beside this one.
    let path = Path::new(env!("CARGO_BIN_EXE_knockd")).with_file_name(program);
    let ask = |arguments: &[&str]| {
        let output = Command::new(&path).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{}: {e}; run cargo build --workspace --bins", path.display()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    subcommands.iter().fold(ask(&["--help"]), |text, subcommand| {
        let words: Vec<&str> = subcommand.split(' ').chain(["--help"]).collect();
        text + &ask(&words)
    })
}

/// Whether that help explains the option.
fn explains(help: &str, option: &str) -> bool {
    help.split(|c: char| c.is_whitespace() || [',', '=', '[', '.', '`'].contains(&c)).any(|word| word == option)
}

#[test]
fn every_option_of_our_programs_in_a_document_is_in_the_help() {
    let subcommands = [
        "status",
        "grants",
        "grant",
        "revoke",
        "reload",
        "doctor",
        "import",
        "client",
        "spa init",
        "spa submit",
        "fleet grants",
    ];
    let helps = [
        ("knockd", &[][..]),
        ("knockctl", &subcommands),
        ("knockd-fleet", &["check"]),
        ("knock-cli", &["list", "add"]),
    ]
    .map(|(program, subcommands)| (program, help(program, subcommands)));
    let mut checked = 0;
    for document in documents() {
        let name = document.strip_prefix(root()).expect("it is below").display().to_string();
        // Its `knockd -D` is that of knock.
        if name == "docs/moving-from-knock.md" {
            continue;
        }
        let (prose, blocks) = split(&fs::read_to_string(&document).expect("it is there"));
        let spans = prose.split('`').skip(1).step_by(2).map(str::to_owned);
        let blocks = blocks.into_iter().filter(|(info, _)| !info.starts_with("json")).map(|(_, block)| block);
        let code: Vec<String> = blocks.chain(spans).collect();
        for segment in code.iter().flat_map(|text| text.split(['\n', ';', '|', '&', '\'', '#'])) {
            let words: Vec<&str> = segment.split_whitespace().collect();
            let wrapped = ["systemd-run", "setsid"].contains(words.first().unwrap_or(&""));
            let start =
                words.iter().position(|word| helps.iter().any(|(name, _)| word.rsplit('/').next() == Some(name)));
            let Some(start) = start.filter(|&start| start == 0 || wrapped) else { continue };
            let (program, help) = helps.iter().find(|(name, _)| words[start].ends_with(name)).expect("it was found");
            for option in words[start..].iter().filter(|word| word.starts_with('-')) {
                assert!(
                    explains(help, option),
                    "{program} --help does not explain {option}, which {name} uses: {segment}"
                );
                checked += 1;
            }
        }
        // An option by itself: in a document where only options of these programs are.
        if ["README.md", "docs/quick-start.md", "docs/logging.md", "docs/control-protocol.md"].contains(&name.as_str())
        {
            for span in code.iter().filter(|text| text.starts_with('-') && !text.contains(' ')) {
                assert!(
                    helps.iter().any(|(_, help)| explains(help, span)),
                    "no --help explains {span}, as {name} says"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "only {checked} options were found in the documents");
}

/// Fails where a tag of the picture is not closed in its place.
fn check_tags(name: &str, picture: &str) {
    let mut open = Vec::new();
    for tag in picture.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("{name}: no end of <{tag}"));
        let element = tag.split([' ', '/']).next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "{name}"),
            None if tag.ends_with('/') => {}
            None => open.push(element),
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{name}: <{tag}>");
    }
    assert_eq!(open, [""; 0], "{name}");
}

#[test]
fn the_pictures_are_current_and_need_nothing_from_elsewhere() {
    for name in ["docs/session.svg", "docs/packet-path.svg"] {
        let picture = read(name);
        assert!(picture.starts_with("<svg xmlns=") && picture.len() < 40_000, "{name}: {} bytes", picture.len());
        check_tags(name, &picture);
        let elsewhere = picture.replace("http://www.w3.org/2000/svg", "").contains("://");
        assert!(!elsewhere && !picture.contains("@import") && !picture.contains("<script"), "{name}");
    }
    let (table, path) = (read("docs/managed-table.md"), read("docs/packet-path.svg"));
    let (_, blocks) = split(&table);
    let chains: BTreeSet<&str> = blocks
        .iter()
        .flat_map(|(_, block)| block.lines())
        .filter_map(|line| line.trim().strip_prefix("chain "))
        .collect();
    assert!(chains.len() >= 5, "{chains:?}");
    for chain in chains.iter().map(|chain| chain.trim_end_matches(" {")).chain(["routing", "your rules", "service"]) {
        assert!(path.contains(&format!(">{chain}")), "docs/packet-path.svg has no {chain}; run scripts/pictures");
    }
    let session = read("docs/session.svg");
    let help = help("knockctl", &[]);
    for command in session.split("knockctl ").skip(1).filter_map(|rest| rest.split(['<', ' ']).next()) {
        assert!(help.lines().any(|line| line.trim().starts_with(command)), "docs/session.svg: knockctl {command}");
    }
    for shown in
        ["Connection timed out", "is open", "turned away at 22/tcp", "●●●●●", "granted, ", "has ended", "all is well"]
    {
        assert!(session.contains(shown), "docs/session.svg does not show `{shown}`; run scripts/pictures");
    }
}
