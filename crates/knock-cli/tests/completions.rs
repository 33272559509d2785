//! The completions of bash know the rules of the user's file.

mod support;

use std::path::Path;
use std::process::Command;

use support::*;

#[test]
fn bash_completes_the_names_of_the_rules() {
    let directory =
        with_config(r#"{"rules": [{"name": "home", "sequence": [1]}, {"name": "office", "sequence": [2]}]}"#);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../completions/bash/knock-cli.bash");
    let complete = |words: &str| {
        let run = format!(
            r#"source "$1"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
               _knock__cli knock-cli "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"; printf '%s ' "${{COMPREPLY[@]}}""#
        );
        let path = format!("{}:/usr/bin:/bin", program().parent().expect("a folder").display());
        let mut bash = Command::new("bash");
        bash.args(["-c", &run, "bash"]).arg(&script).env("PATH", path);
        stdout(&bash.env("KNOCK_CONFIG", directory.path().join("config.json")).output().expect("bash"))
    };
    assert_eq!(complete("knock-cli ho"), "home ");
    assert_eq!(complete("knock-cli -r o"), "office ");
    assert_eq!(complete("knock-cli --rule ''"), "home office ");
    assert_eq!(complete("knock-cli li"), "list ");
}
