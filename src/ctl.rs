//! The control tool: sends requests to the daemon over its control socket, and prints the answers.

pub(crate) mod args;
mod client;
mod doctor;
mod fleet;
mod history;
pub(crate) mod import;
mod local_time;
mod prometheus;
mod report;
mod rules;
mod secret_file;
mod sequence;
mod spa;
mod status;
mod table;
mod trial;
mod watch;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use knock_config::printable;
use knock_proto::InterfaceName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use systemd_journal_logger::connected_to_journal;

use crate::control::client::{ClientError, follow, request};
use crate::control::protocol::{
    Code, Command, Confirmed, Followed, Following, Granted, Grants, Keys, Refusal, Reloaded, Revoked, RuleState,
    Status, Tried,
};
use args::Args;
use import::ImportOptions;

/// No daemon answers: `EX_UNAVAILABLE` of sysexits.h(3head).
const EXIT_UNAVAILABLE: u8 = 69;
/// `EX_NOPERM`.
const EXIT_NOT_PERMITTED: u8 = 77;
/// `EX_CONFIG`.
const EXIT_CONFIGURATION: u8 = 78;
/// Anything else.
const EXIT_OTHER: u8 = 1;

/// An error, with the exit status that it leads to.
struct Failure {
    status: u8,
    message: String,
    /// Whether the daemon has logged it.
    is_logged: bool,
}

impl Failure {
    fn new(status: u8, message: impl fmt::Display) -> Failure {
        Failure { status, message: message.to_string(), is_logged: false }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let status = match &error {
            ClientError::NoDaemon { .. } => EXIT_UNAVAILABLE,
            ClientError::NotPermitted { .. } => EXIT_NOT_PERMITTED,
            ClientError::Broken { .. } | ClientError::NotUnderstood { .. } => EXIT_OTHER,
            ClientError::Refused(refusal) => match refusal.code {
                Code::NotPermitted => EXIT_NOT_PERMITTED,
                Code::InvalidConfiguration => EXIT_CONFIGURATION,
                Code::Busy => EXIT_UNAVAILABLE,
                _ => EXIT_OTHER,
            },
        };
        let is_logged = matches!(&error, ClientError::Refused(Refusal { code, .. })
            if matches!(code, Code::InvalidConfiguration | Code::Failed));
        Failure { is_logged, ..Failure::new(status, error) }
    }
}

/// The program `knockctl`.
pub fn knockctl_main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.message.lines() {
                complain("error: ", line);
            }
            ExitCode::from(failure.status)
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let answer = Ask { socket: &args.socket, json: args.json };
    match args.command {
        args::Command::Status { prometheus: false, .. } if args.json => {
            answer.show::<Status>(&Command::Status {}, json)
        }
        args::Command::Status { prometheus: false, verbose } => {
            let status: Status = request(&args.socket, &Command::Status {})?;
            print(&status::text(&status, verbose))?;
            // The reasons were printed.
            if status::problems(&status).is_empty() { Ok(()) } else { Err(Failure::new(EXIT_OTHER, "")) }
        }
        args::Command::Status { prometheus: true, .. } => {
            let status: Status = request(&args.socket, &Command::Status {})?;
            let mut text = prometheus::metrics(&status);
            if let Some(signed) = &status.signed_packets {
                text += &spa::metrics::of_state(signed);
                // A reload may have ended them meanwhile.
                let keys = request::<Keys>(&args.socket, &Command::Keys {});
                text += &keys.as_ref().map(spa::metrics::of_users).unwrap_or_default();
            }
            text += &status.fleet.as_ref().map(fleet::metrics::of_fleet).unwrap_or_default();
            print(&text)
        }
        args::Command::Rules { dot } => {
            let status: Status = request(&args.socket, &Command::Status {})?;
            if dot {
                return print(&rules::dot(&status));
            }
            let behind = doctor::behind_the_gate(&doctor::gather_about(status.clone()));
            if args.json {
                return print(&json(&Rules { rules: &status.by_rule, guarded: &behind }));
            }
            print(&rules::text(&status, &behind))
        }
        args::Command::Grants { rule, address } => {
            answer.show::<Grants>(&Command::Grants { rule, address }, report::grants)
        }
        args::Command::Grant { rule, address, timeout } => {
            let timeout = timeout.map(time_value);
            answer.show::<Granted>(&Command::Grant { rule, address, timeout }, report::granted)
        }
        args::Command::Revoke { address: Some(address), rule, .. } => {
            answer.show::<Revoked>(&Command::Revoke { address, rule }, report::revoked)
        }
        args::Command::Revoke { address: None, .. } => answer.show::<Revoked>(&Command::RevokeAll {}, report::revoked),
        // `ExecReload=` of the unit: what the daemon has logged is not to be in the journal twice.
        args::Command::Reload if connected_to_journal() => {
            match request::<Reloaded>(&args.socket, &Command::Reload {}).map_err(Failure::from) {
                Err(failure) if failure.is_logged => Err(Failure { message: String::new(), ..failure }),
                result => result.map(drop),
            }
        }
        args::Command::Reload => answer.show::<Reloaded>(&Command::Reload {}, |reloaded| {
            for warning in &reloaded.warnings {
                complain("warning: ", warning);
            }
            report::reloaded(reloaded)
        }),
        args::Command::Try { file, time } => {
            let file = std::path::absolute(&file).unwrap_or(file);
            answer.show::<Tried>(&Command::Try { file, time: time_value(time) }, |tried| {
                for warning in &tried.warnings {
                    complain("warning: ", warning);
                }
                trial::tried(tried)
            })
        }
        args::Command::Confirm => {
            let confirmed: Confirmed = request(&args.socket, &Command::Confirm {})?;
            let text = trial::install(&confirmed).map_err(|error| Failure::new(EXIT_OTHER, error))?;
            if args.json { print(&json(&confirmed)) } else { print(&text) }
        }
        args::Command::Watch { address, rule } => watch(&args.socket, args.json, address, rule),
        args::Command::Explain { address } => answer.show(&Command::Explain { address }, watch::explained),
        args::Command::History { since } => history::history(&since, args.json),
        args::Command::Sequence { knocks } => new_sequence(knocks, args.json),
        args::Command::Client { rule, host, wait, config } => client::client(&config, &rule, &host, wait),
        args::Command::Doctor { config } => doctor(&args.socket, &config, args.json),
        args::Command::Spa(args::Spa::Keys) => answer.show(&Command::Keys {}, spa::keys::text),
        args::Command::Spa(args::Spa::Submit { from }) => spa::submit::submit(&args.socket, args.json, from),
        args::Command::Spa(args::Spa::Init(init)) => spa::init::init(&init, args.json),
        args::Command::Fleet(command) => fleet::fleet(command, &answer),
        args::Command::Import { file, native, interfaces } => import(&file, native, interfaces),
    }
}

/// A time of the command line: a number is seconds.
fn time_value(text: String) -> Value {
    text.parse::<f64>().map_or(Value::from(text), Value::from)
}

/// How to ask, and how to show the answer.
struct Ask<'a> {
    socket: &'a Path,
    json: bool,
}

impl Ask<'_> {
    fn show<T: DeserializeOwned + Serialize>(
        &self,
        command: &Command,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let answer: T = request(self.socket, command)?;
        if self.json { print(&json(&answer)) } else { print(&text(&answer)) }
    }
}

/// A JSON document in which no control character stands as itself.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut safe = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        // serde_json escapes those below U+0020, and U+007F to U+009F drive terminals too.
        if character.is_control() && character != '\n' {
            safe.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            safe.push(character);
        }
    }
    safe.push('\n');
    safe
}

/// Prints it to standard output, with colours where that is a terminal that has them and `NO_COLOR` is not set. A reader that
/// has seen enough is no failure.
fn print(text: &str) -> Result<(), Failure> {
    print_to(anstream::stdout().lock(), text).map(drop)
}

/// Returns whether there is still a reader.
fn print_to(mut stdout: impl Write, text: &str) -> Result<bool, Failure> {
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(EXIT_OTHER, format!("cannot write to standard output: {error}"))),
    }
}

fn complain(prefix: &str, line: &str) {
    // Standard error is the last resort: an error of its own cannot be reported.
    let _ = io::stderr().write_all(format!("{prefix}{}\n", printable(line)).as_bytes());
}

/// Prints what packets mean, until the user or the daemon ends it.
fn watch(socket: &Path, as_json: bool, address: Option<IpAddr>, rule: Option<String>) -> Result<(), Failure> {
    let mut printed = Ok(true);
    let _: Following = follow(socket, &Command::Watch { address, rule }, |line: Followed| {
        let text = match &line {
            // A line each, for programs.
            _ if as_json => serde_json::to_string(&line).unwrap_or_default() + "\n",
            Followed::Step(step) => watch::line(step),
            Followed::LeftOut(packets) => watch::left_out(*packets),
        };
        printed = print_to(anstream::stdout().lock(), &text);
        matches!(printed, Ok(true))
    })?;
    printed.map(drop)
}

/// Prints a random sequence.
fn new_sequence(knocks: u8, as_json: bool) -> Result<(), Failure> {
    let no_number = |error| Failure::new(EXIT_OTHER, format!("the kernel has no random numbers: {error}"));
    let ports = sequence::sequence(knocks.into(), sequence::random_number).map_err(no_number)?;
    if as_json {
        return print(&json(&ports));
    }
    print(&(ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ") + "\n"))
}

/// The document of the rules.
#[derive(Serialize)]
struct Rules<'a> {
    rules: &'a [RuleState],
    guarded: &'a [doctor::Behind],
}

/// The document of the diagnosis.
#[derive(Serialize)]
struct Findings<'a> {
    findings: &'a [doctor::Finding],
}

/// Prints the findings, each with its fix. Fails where one is a problem or a warning.
fn doctor(socket: &Path, file: &Path, as_json: bool) -> Result<(), Failure> {
    let facts = doctor::gather(socket, file);
    let findings = doctor::examine(&facts);
    if as_json {
        print(&json(&Findings { findings: &findings }))?;
    } else {
        print(&report::findings(&findings))?;
    }
    if facts.no_ruleset.is_some() && !rustix::process::geteuid().is_root() {
        return Err(Failure::new(EXIT_NOT_PERMITTED, "the ruleset is shown to root only; run knockctl doctor as root"));
    }
    report::found(&findings).map_or(Ok(()), |found| Err(Failure::new(EXIT_OTHER, found)))
}

/// Converts a file of knock or knock-rs.
fn import(file: &Path, native: bool, interfaces: Vec<InterfaceName>) -> Result<(), Failure> {
    let name = file.display().to_string();
    let text = read(file)?;
    let options = ImportOptions { native, interfaces, service: import::service_of(Path::new("/"), file) };
    let imported = import::import(&name, &text, &options).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::new(EXIT_CONFIGURATION, errors.join("\n"))
    })?;
    for note in &imported.notes {
        complain("note: ", &note.to_string());
    }
    print(&imported.json)
}

fn read(file: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| {
        let status = if error.kind() == ErrorKind::PermissionDenied { EXIT_NOT_PERMITTED } else { EXIT_OTHER };
        Failure::new(status, format!("cannot read {}: {error}", file.display()))
    };
    let mut bytes = Vec::new();
    let limit = knock_config::FILE_MAX;
    File::open(file).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() > limit {
        let message =
            format!("{} is bigger than {limit} bytes, so it is hardly a configuration of knock", file.display());
        return Err(Failure::new(EXIT_CONFIGURATION, message));
    }
    String::from_utf8(bytes).map_err(|_| {
        let message =
            format!("{} is not UTF-8; convert it first, perhaps with: iconv -f latin1 -t utf8", file.display());
        Failure::new(EXIT_CONFIGURATION, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_holds_no_control_character_as_itself() {
        let nasty = "\u{1b}[2J\u{9b}31m\u{7f}";
        let text = json(&serde_json::json!({ "configuration": nasty }));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        let back: Value = serde_json::from_str(&text).expect("still JSON");
        assert_eq!(back["configuration"], nasty);
    }
}
