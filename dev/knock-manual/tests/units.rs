//! The unit for several configurations is that for one, with other paths.

use std::fs;
use std::path::Path;

/// The directives, without comments and blank lines.
fn directives(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn an_instance_differs_from_the_service_by_its_paths_only() {
    let instance = |line: String| match line.as_str() {
        "Description=Port-knocking daemon" => format!("{line} (%i)"),
        "RuntimeDirectory=knockd" | "StateDirectory=knockd" => format!("{line}-%i"),
        _ => line.replace("/etc/knockd/config.json", "/etc/knockd/%i.json"),
    };
    let expected: Vec<String> = directives("knockd.service").into_iter().map(instance).collect();
    assert_eq!(directives("knockd@.service"), expected);
}

#[test]
fn each_directive_of_the_services_is_explained() {
    for unit in ["knockd.service", "knockd-fleet.service"] {
        explained(unit);
    }
}

fn explained(unit: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd").join(unit);
    let text = fs::read_to_string(path).expect("the unit");
    let service = text.split("[Service]").nth(1).and_then(|rest| rest.split("[Install]").next()).expect("a section");
    for paragraph in service.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        assert!(paragraph.starts_with('#'), "{unit}: no comment above: {paragraph}");
    }
}

#[test]
fn the_packages_of_both_daemons_are_of_one_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/knockd-fleet/Cargo.toml");
    let text = fs::read_to_string(path).expect("the manifest");
    let version = env!("CARGO_PKG_VERSION");
    for needs in [
        format!("depends = \"$auto, knockd-nft (>= {version}), knockd-nft (<< {version}+~)\""),
        format!("knockd-nft = \"= {version}\""),
    ] {
        assert!(text.contains(&needs), "crates/knockd-fleet/Cargo.toml lacks {needs}");
    }
}
