//! `knockd-fleet check`: whether everything that the fleet needs of the store is there, without disturbing a fleet.

mod permissions;
mod server;

use std::ffi::CString;
use std::fmt::Display;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use knock_fleet::link::{MESSAGE_MAX, Settings};
use nix::unistd::{User, geteuid, initgroups, setgid, setuid};

use server::Server;

/// The user that the service runs as.
const USER: &str = "knockd-fleet";
/// How long a replica has to follow.
const FOLLOWS: Duration = Duration::from_secs(3);

/// What was found: a line for each.
#[derive(Debug, Default)]
pub(crate) struct Report {
    failed: bool,
}

impl Report {
    pub(crate) fn ok(&self, what: impl Display) {
        println!("ok: {what}");
    }

    pub(crate) fn warn(&self, what: impl Display) {
        println!("warning: {what}");
    }

    pub(crate) fn fail(&mut self, what: impl Display) {
        println!("error: {what}");
        self.failed = true;
    }
}

/// Checks the settings on standard input.
pub(crate) fn run() -> ExitCode {
    let mut report = Report::default();
    match settings() {
        Ok(settings) => check(&settings, &mut report),
        Err(error) => report.fail(format_args!("standard input: these are no settings of a fleet: {error}")),
    }
    if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn settings() -> Result<Settings, String> {
    let mut bytes = Vec::new();
    let most = MESSAGE_MAX as u64;
    std::io::stdin().take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let settings: Settings = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if settings.names().is_none() {
        return Err("realm or node is not valid".to_owned());
    }
    Ok(settings)
}

fn check(settings: &Settings, report: &mut Report) {
    become_user(report);
    if let Some(path) = &settings.password_file
        && !check_password_file(settings, path, report)
    {
        return;
    }
    if settings.servers.is_empty() {
        report.fail("`fleet.servers` is empty; name the server of the fleet there, as host:port");
    }
    let mut servers: Vec<Server> = Vec::new();
    for name in &settings.servers {
        servers.extend(Server::check(settings, name, true, report));
    }
    let (mut primaries, replicas): (Vec<Server>, Vec<Server>) = servers.into_iter().partition(Server::accepts);
    if let [first, second, ..] = &primaries[..] {
        report.fail(format_args!(
            "{} and {} both accept records: these are two stores, and half of the nodes may be at each; name a primary and its \
             replicas in `fleet.servers`",
            first.name, second.name
        ));
    }
    let readers = settings.read_from.iter().filter_map(|name| Server::check(settings, name, false, report));
    let mut readers: Vec<Server> = replicas.into_iter().chain(readers.collect::<Vec<_>>()).collect();
    match primaries.first_mut() {
        Some(primary) => check_replicas(primary, &mut readers, report),
        None => report.fail("no server of `fleet.servers` accepts records"),
    }
}

/// What somebody else can read, the service perhaps can't.
fn become_user(report: &mut Report) {
    let Ok(Some(user)) = User::from_name(USER) else {
        return report.warn(format_args!("there is no user {USER}, so this checks what the user who runs it can read"));
    };
    if geteuid() == user.uid {
        return;
    }
    if !geteuid().is_root() {
        let what = "this checks what the user who runs it can read; as root it checks what the service can";
        return report.warn(format_args!("{what}, which runs as {USER}"));
    }
    let name = CString::new(USER).expect("a name without zeros");
    let became = initgroups(&name, user.gid).and_then(|()| setgid(user.gid)).and_then(|()| setuid(user.uid));
    match became {
        Ok(()) => report.ok(format_args!("this checks as the user {USER}, as the service runs")),
        Err(error) => report.fail(format_args!("cannot become the user {USER}: {error}")),
    }
}

/// Whether there is a password.
fn check_password_file(settings: &Settings, path: &Path, report: &mut Report) -> bool {
    if let Err(problem) = crate::connection::password(settings) {
        report.fail(format_args!(
            "{problem}; the user {USER} has to read it: put it into /etc/{USER}, and chmod 640 FILE"
        ));
        return false;
    }
    let (mode, path) = (std::fs::metadata(path).map(|file| file.mode() & 0o777), path.display());
    match mode {
        Ok(mode) if mode & 0o007 != 0 => {
            report.fail(format_args!("{path}: everybody can read the password (mode {mode:o}): chmod o= {path}"));
        }
        Ok(_) => report.ok(format_args!("{path}: the password can be read, and not by everybody")),
        Err(error) => report.fail(format_args!("{path}: cannot look at the file: {error}")),
    }
    true
}

/// What is written to the primary has to come to the replicas.
fn check_replicas(primary: &mut Server, replicas: &mut [Server], report: &mut Report) {
    if replicas.is_empty() {
        return;
    }
    let mark = match primary.mark() {
        Ok(mark) => mark,
        Err(error) => return report.fail(error),
    };
    for replica in replicas {
        let started = Instant::now();
        let follows = loop {
            match replica.has_mark(&mark) {
                Ok(false) if started.elapsed() < FOLLOWS => std::thread::sleep(Duration::from_millis(50)),
                other => break other,
            }
        };
        let (name, of) = (&replica.name, &primary.name);
        match follows {
            Ok(true) if replica.name == primary.name => {}
            Ok(true) => report.ok(format_args!("{name}: it follows {of}")),
            Ok(false) => report.fail(format_args!(
                "{name}: it is not a replica of {of}, or does not follow it; look at `INFO replication` there"
            )),
            Err(error) => report.fail(error),
        }
    }
}
