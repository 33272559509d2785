//! This crate reads the configurations and the schema that the repository ships.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_shipped_schema_is_generated_from_the_types() {
    let path = root().join("config.schema.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, knock_config::schema()).expect("the repository is writable");
    }
    let shipped = std::fs::read_to_string(&path).expect("config.schema.json is in the repository");
    assert!(shipped == knock_config::schema(), "config.schema.json is stale: run this test with BLESS=1");
}

#[test]
fn the_sample_configuration_loads_without_a_warning_about_its_content() {
    let text = std::fs::read_to_string(root().join("config.json")).expect("config.json is in the repository");
    let loaded = knock_config::parse("config.json", &text).expect("the sample is valid");
    assert_eq!(loaded.warnings, []);
    let names: Vec<&str> = loaded.config.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["enable_ssh", "disable_ssh"]);
}

#[test]
fn the_configuration_that_packages_install_guards_no_port() {
    let path = root().join("packaging/config.json");
    let text = std::fs::read_to_string(path).expect("packaging/config.json is in the repository");
    let loaded = knock_config::parse("config.json", &text).expect("it is valid");
    assert!(loaded.config.rules.is_empty());
}

#[test]
fn every_example_loads() {
    let examples = root().join("examples");
    let mut loaded = 0;
    for entry in std::fs::read_dir(&examples).expect("examples/ is in the repository") {
        let path = entry.expect("examples can be listed").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            // The client's file is not a whole configuration; the sequences in it are also in the server's file.
            knock_config::client::load(&path).unwrap_or_else(|error| panic!("{error}"));
            if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"client")) {
                knock_config::load(&path).unwrap_or_else(|error| panic!("{error}"));
            }
            loaded += 1;
        }
    }
    assert!(loaded > 0, "{} has no configuration", examples.display());
}
