//! One server: is it there, is it the right one, does it let us in, what time does it think it is?

use std::net::IpAddr;

use knock_fleet::link::Settings;

use super::Report;
use super::permissions;
use crate::connection::{Connection, TIMEOUT};
use crate::problem::{Problem, StoreError, shown};
use crate::resp::{Answer, Command};
use crate::session::now;
use crate::store::{self, Store};

/// The clocks may differ by that many milliseconds: a record from 5 s ahead is refused.
const CLOCK_MAX: u64 = 5000;
/// From here on it is worth a look.
const CLOCK_FAIR: u64 = 1000;
/// The oldest version that has all commands as they are used.
const VERSION: (u32, u32) = (6, 2);

/// A server that can be talked to.
pub(super) struct Server {
    pub(super) name: String,
    connection: Connection,
    /// The start of keys that no fleet uses, and no other check: neither of another host nor of a replica.
    pub(super) key: String,
    is_replica: bool,
}

impl Server {
    /// Checks what can be checked at one server; `writes`: whether it is one of those for records.
    pub(super) fn check(settings: &Settings, name: &str, writes: bool, report: &mut Report) -> Option<Server> {
        let mut found = || -> Result<Option<Server>, StoreError> {
            let connection = Connection::open(settings, name)?;
            let unique = format!("{}-{}", std::process::id(), now());
            let key = format!("{}check:{unique}:{name}", store::prefix(settings));
            let mut server = Server { name: name.to_owned(), connection, key, is_replica: false };
            server.introduce(settings, report);
            server.connection.log_in(settings)?;
            match &settings.user {
                Some(user) => report.ok(format_args!("{name}: it accepts the user {user}")),
                None if settings.password_file.is_some() => report.ok(format_args!("{name}: it accepts the password")),
                None => report.warn(format_args!(
                    "{name}: without `fleet.user` everybody who reaches the server can withhold records; give it a user"
                )),
            }
            if !server.check_version(report)? {
                return Ok(None);
            }
            server.check_clock(settings, report)?;
            let writes = writes && server.accepts();
            permissions::check(&mut server, writes, report)?;
            Ok(Some(server))
        };
        match found() {
            Ok(server) => server,
            Err(error) => {
                report.fail(error);
                None
            }
        }
    }

    /// How the connection is.
    fn introduce(&self, settings: &Settings, report: &Report) {
        let name = &self.name;
        let host = name.rsplit_once(':').map_or("", |(host, _)| host);
        let local = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback());
        match &settings.tls {
            Some(_) => report.ok(format_args!("{name}: connected over TLS, and the certificate is the server's")),
            None if local => report.ok(format_args!("{name}: connected")),
            None => report.warn(format_args!(
                "{name}: connected, and nothing is encrypted: the password and the addresses of users can be read on the \
                 way; set `fleet.tls`"
            )),
        }
    }

    /// Whether it is a server of a known kind that can be used.
    fn check_version(&mut self, report: &mut Report) -> Result<bool, StoreError> {
        let name = self.name.clone();
        let fields = match self.ask(&Command::new("HELLO"))? {
            Answer::List(list) => Answer::List(list).pairs().unwrap_or_default(),
            Answer::Error(text) if text.starts_with("NOAUTH") => {
                return Err(self.connection.error(Problem::Refused { command: "HELLO", text }));
            }
            // It does not know the command.
            _ => Vec::new(),
        };
        let field = |wanted: &str| {
            let is_it = |(field, _): &&(Answer, Answer)| *field == Answer::Text(wanted.into());
            let value = fields.iter().find(is_it).and_then(|(_, value)| value.clone().text());
            shown(&String::from_utf8_lossy(&value.unwrap_or_default()))
        };
        let (kind, version, mode) = (field("server"), field("version"), field("mode"));
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < VERSION {
            let what = if version.is_empty() { "an unknown server".to_owned() } else { format!("{kind} {version}") };
            report.fail(format_args!("{name}: this is {what}; it has to be Valkey, or Redis 6.2 or later"));
            return Ok(false);
        }
        if mode == "cluster" {
            report.fail(format_args!("{name}: it is a node of a cluster, which is not supported: use a single server"));
            return Ok(false);
        }
        self.is_replica = field("role") != "master";
        let role = if self.is_replica { ", a replica" } else { "" };
        report.ok(format_args!("{name}: {kind} {version}{role}"));
        Ok(true)
    }

    fn check_clock(&mut self, settings: &Settings, report: &mut Report) -> Result<(), StoreError> {
        let ahead = Store::connect(settings, &self.name)?.measure_clock()?;
        let (name, off) = (&self.name, ahead.unsigned_abs());
        let way = if ahead < 0 { "behind" } else { "ahead of" };
        let seconds = std::time::Duration::from_millis(off).as_secs_f64();
        let text = format!("{name}: its clock is {seconds:.1} s {way} the one of this host");
        match off {
            0..CLOCK_FAIR => report.ok(format_args!("{name}: its clock is the one of this host")),
            CLOCK_FAIR..=CLOCK_MAX => report.warn(format_args!("{text}; set both by NTP")),
            _ => report.fail(format_args!("{text}; set both by NTP: nodes refuse records from more than 5 s ahead")),
        }
        Ok(())
    }

    /// Whether records can be written to it.
    pub(super) fn accepts(&self) -> bool {
        !self.is_replica
    }

    pub(super) fn ask(&mut self, command: &Command) -> Result<Answer, StoreError> {
        let answer = self.connection.ask_all(&[command], TIMEOUT)?.pop();
        answer.ok_or_else(|| self.connection.error(Problem::Answer(command.name)))
    }

    pub(super) fn ask_well(&mut self, command: &Command) -> Result<Answer, StoreError> {
        self.connection.ask(command, TIMEOUT)
    }

    /// Writes something that no other store has, for some seconds; returns its key and its value.
    pub(super) fn mark(&mut self) -> Result<(String, String), StoreError> {
        let mark = (format!("{}:mark", self.key), self.key.clone());
        self.ask_well(&Command::new("SET").arg(&mark.0).arg(&mark.1).arg("PX").number(10_000))?;
        Ok(mark)
    }

    pub(super) fn has_mark(&mut self, mark: &(String, String)) -> Result<bool, StoreError> {
        let found = self.ask_well(&Command::new("GET").arg(&mark.0))?;
        Ok(found == Answer::Text(mark.1.clone().into()))
    }
}
