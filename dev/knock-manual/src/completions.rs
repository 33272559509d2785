//! The completions of shells, from the command lines; those of the client know the rules of the user's file.

use clap::Command;
use clap_complete::{Shell, generate};

/// Prints the names of the rules, or nothing where there is no valid file.
const NAMES: &str = "knock-cli list --names 2>/dev/null";

/// The script of `command` for `shell`.
pub(crate) fn completion(shell: Shell, mut command: Command) -> String {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    generate(shell, &mut command, &name, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    if name == "knock-cli" { with_rules(shell, &text) } else { text }
}

/// clap_complete writes scripts that know the command line only.
fn with_rules(shell: Shell, text: &str) -> String {
    match shell {
        Shell::Bash => {
            let files = "COMPREPLY=($(compgen -f \"${cur}\"))";
            let rules = format!("COMPREPLY=($(compgen -W \"$({NAMES})\" -- \"${{cur}}\"))");
            let mut text = text.to_owned();
            for option in ["--rule)", "-r)"] {
                text = text.replacen(
                    &format!("{option}\n                    {files}"),
                    &format!("{option}\n                    {rules}"),
                    1,
                );
            }
            text.replacen(" list add ssh\"", &format!(" list add ssh $({NAMES})\""), 1)
        }
        Shell::Zsh => {
            let function = format!(
                "autoload -U is-at-least\n\n_knock-cli_rules() {{\n    compadd -- ${{(f)\"$({NAMES})\"}}\n}}\n"
            );
            let text = text.replace(":RULE:_default'", ":RULE:_knock-cli_rules'");
            let text = text.replace("and the knock ports:_default'", "and the knock ports:_knock-cli_rules'");
            text.replacen("autoload -U is-at-least\n", &function, 1)
        }
        Shell::Fish => {
            let needs = "complete -c knock-cli -n \"__fish_knock_cli_needs_command\"";
            format!("{text}{needs} -s r -l rule -x -a '({NAMES})'\n{needs} -a '({NAMES})'\n")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_asks_for_the_rules_after_the_option_and_as_the_first_word() {
        for (shell, asks) in [(Shell::Bash, 3), (Shell::Zsh, 1), (Shell::Fish, 2)] {
            let text = completion(shell, knock_cli::command());
            assert_eq!(text.matches(NAMES).count(), asks, "{shell}");
        }
        assert_eq!(completion(Shell::Zsh, knock_cli::command()).matches("_knock-cli_rules'").count(), 3);
    }
}
