//! The facts about the host, and the findings about them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::other_gates::{self, OtherGate};
use super::ruleset::Ruleset;
use super::silent::ConfigFile;
use super::translation::{self, Translations};
use super::{Finding, interfaces};
use crate::control::client::{ClientError, request};
use crate::control::protocol::{self, FleetNode, FleetNodes, Key, Keys, Status};
use crate::os::privileges::Protections;

/// No knockd was built before this: 2024-01-01.
const EARLIEST: Duration = Duration::from_secs(1_704_067_200);
/// Bits of `CapEff` in proc_pid_status(5).
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
/// Other services that change the ruleset.
const SERVICES: [&str; 4] = ["firewalld", "ufw", "docker", "nftables"];

/// What the diagnosis depends on.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The state of the daemon, or why it is not known.
    pub(crate) status: Option<Status>,
    pub(crate) no_status: Option<String>,
    /// The configuration file, where no daemon answers.
    pub(crate) file: Option<ConfigFile>,
    /// The ruleset, or why it can't be read.
    pub(crate) ruleset: Option<Ruleset>,
    pub(crate) no_ruleset: Option<String>,
    /// Translations of destinations (DNAT, redirect).
    pub(crate) translations: Translations,
    /// What the kernel guards: `22/tcp` …
    pub(crate) guarded: Option<Vec<String>>,
    /// The managed tables of other daemons.
    pub(crate) other_gates: Vec<OtherGate>,
    /// The daemon's effective capabilities.
    pub(crate) capabilities: Option<u64>,
    /// Time since 1970, by the wall clock.
    pub(crate) wall: Duration,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Services that are active or start at boot.
    pub(crate) services: Vec<&'static str>,
    /// Ports at which something listens, on more than the loopback interface.
    pub(crate) listening: Vec<String>,
    /// The keys of signed packets, where they are received.
    pub(crate) keys: Vec<Key>,
    /// The nodes of the fleet, where there is one.
    pub(crate) nodes: Vec<FleetNode>,
    /// Whether the clock is synchronised; `None`: not known.
    pub(crate) clock_is_synchronised: Option<bool>,
}

/// Asks the daemon, nft, ufw, systemctl and /proc. `file`: the configuration file, which is checked where no daemon answers.
pub(crate) fn gather(socket: &Path, file: &Path) -> Facts {
    let mut facts = Facts::default();
    match request::<Status>(socket, &protocol::Command::Status {}) {
        Ok(status) => facts.status = Some(status),
        Err(error) => {
            facts.file = matches!(error, ClientError::NoDaemon { .. }).then(|| ConfigFile::check(file));
            facts.no_status = Some(error.to_string());
        }
    }
    if facts.status.as_ref().is_some_and(|status| status.signed_packets.is_some()) {
        let keys = request::<Keys>(socket, &protocol::Command::Keys {});
        facts.keys = keys.map(|keys| keys.keys).unwrap_or_default();
        facts.clock_is_synchronised = clock_is_synchronised();
    }
    if facts.status.as_ref().is_some_and(|status| status.fleet.is_some()) {
        let nodes = request::<FleetNodes>(socket, &protocol::Command::FleetNodes {});
        facts.nodes = nodes.map(|nodes| nodes.nodes).unwrap_or_default();
    }
    gather_rest(facts)
}

/// As [`gather`], where the state of the daemon is known.
pub(crate) fn gather_about(status: Status) -> Facts {
    gather_rest(Facts { status: Some(status), ..Facts::default() })
}

fn gather_rest(mut facts: Facts) -> Facts {
    match nft(&["-t", "list", "ruleset"]) {
        Ok(document) => {
            let ruleset = Ruleset::new(&document);
            facts.translations = translation::gather(&ruleset);
            facts.ruleset = Some(ruleset);
        }
        Err(error) => facts.no_ruleset = Some(error),
    }
    if let Some(status) = &facts.status {
        if let Some(table) = &status.table {
            let guarded = |table: &str| nft(&["list", "set", "inet", table, "guarded"]).ok().map(|set| elements(&set));
            facts.guarded = guarded(&table.name);
            let others = facts.ruleset.iter().flat_map(|ruleset| other_gates::tables(ruleset, &table.name));
            let gate = |name: String| OtherGate { guarded: guarded(&name).unwrap_or_default(), table: name };
            facts.other_gates = others.map(gate).collect();
        }
        let text = fs::read_to_string(format!("/proc/{}/status", status.pid)).unwrap_or_default();
        let bits = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
        facts.capabilities = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    }
    facts.wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    facts.kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    facts.services = SERVICES.into_iter().filter(|name| is_in_use(name)).collect();
    for (file, protocol, state) in
        [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")]
    {
        let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        facts.listening.extend(listening(&text, state).into_iter().map(|port| format!("{port}/{protocol}")));
    }
    facts
}

fn nft(arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new("nft").arg("-j").args(arguments).output();
    let output = output.map_err(|error| format!("nft (package nftables): {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("nft -j {}: {}", arguments.join(" "), said.lines().next().unwrap_or("it failed")));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("nft -j {}: {error}", arguments.join(" ")))
}

/// The elements of the set of guarded ports, as the daemon names them.
fn elements(document: &Value) -> Vec<String> {
    let objects = document["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["set"]["elem"].as_array()).flatten();
    elements
        .filter_map(|element| {
            let (protocol, ports) = (element["concat"][0].as_str()?, &element["concat"][1]);
            match ports["range"].as_array().map(Vec::as_slice) {
                Some([first, last]) => Some(format!("{first}-{last}/{protocol}")),
                _ => Some(format!("{}/{protocol}", ports.as_u64()?)),
            }
        })
        .collect()
}

/// Whether the kernel's clock is synchronised (adjtimex(2)), as systemd says.
fn clock_is_synchronised() -> Option<bool> {
    let output = Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output().ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

fn is_in_use(service: &str) -> bool {
    if service == "ufw" {
        // Its unit is active where the package is installed, also while ufw itself is not.
        let output = Command::new("ufw").arg("status").env("LC_ALL", "C").output();
        return output.is_ok_and(|output| output.stdout.starts_with(b"Status: active"));
    }
    let arguments = ["show", "-p", "ActiveState", "-p", "UnitFileState", &format!("{service}.service")];
    let Ok(output) = Command::new("systemctl").args(arguments).output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().any(|line| line == "ActiveState=active" || line == "UnitFileState=enabled")
}

/// The ports of a table of sockets (proc_pid_net(5)) that are in that state, those of the loopback interface apart.
fn listening(text: &str, state: &str) -> Vec<u16> {
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let in_state = fields.nth(1)? == state;
        let loopback = match address.len() {
            8 => address.ends_with("7F"),
            _ => address == "00000000000000000000000001000000",
        };
        (in_state && !loopback).then(|| u16::from_str_radix(port, 16).ok())?
    };
    text.lines().skip(1).filter_map(socket).collect()
}

/// The findings about the host.
pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(error) = &facts.no_ruleset {
        let text = format!("cannot read the ruleset, so most checks were left out: {error}");
        findings.push(Finding::problem("ruleset", text).fix("run knockctl doctor as root, with nft installed"));
    }
    if let Some(status) = &facts.status {
        daemon(facts, status, &mut findings);
    }
    if facts.wall < EARLIEST {
        let text = "the wall clock is years behind: grants do not depend on it, but the times in the log do, and stop \
                    commands that are pending across a reboot";
        findings.push(Finding::warning("clock", text).fix("timedatectl set-ntp true"));
    }
    findings.extend(facts.services.iter().map(|service| neighbour(service, facts.status.as_ref())));
    findings
}

fn daemon(facts: &Facts, status: &Status, findings: &mut Vec<Finding>) {
    findings.push(
        Finding::ok("daemon", format!("knockd {} answers (process {})", status.version, status.pid))
            .because([format!("configuration {}", status.configuration)]),
    );
    for process in &status.processes {
        let Some((in_force, lacking)) = process.protections.as_ref().map(Protections::in_words) else { continue };
        let subject = format!("{} (process {})", process.name, process.pid);
        findings.push(Finding::ok("protections", format!("{subject}: in force: {in_force}")));
        findings.extend(lacking.map(|lacking| {
            let text = format!("{subject}: not in force: {lacking}");
            Finding::note("protections", text)
        }));
    }
    let exempt = status.table.as_ref().map(|table| table.exempt_interfaces.as_slice()).unwrap_or_default();
    findings.extend(interfaces::findings(&status.interfaces, exempt));
    let named = status.interfaces.iter().any(|interface| interface.name != "any");
    let needs = [
        (status.table.is_some() || !status.sets.is_empty(), CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (named, CAP_NET_RAW, "CAP_NET_RAW"),
    ];
    for (_, _, name) in needs.iter().filter(|need| need.0 && facts.capabilities.is_some_and(|held| held & need.1 == 0))
    {
        let text = format!(
            "the daemon lacks {name}: it cannot {}",
            if *name == "CAP_NET_ADMIN" { "make grants" } else { "listen on another interface" }
        );
        findings.push(
            Finding::problem("capabilities", text)
                .because([format!("CapEff in /proc/{}/status", status.pid)])
                .fix(format!("add {name} to AmbientCapabilities= of the unit (systemctl edit knockd)")),
        );
    }
    if let Some(table) = &status.table {
        findings.push(kernel(&facts.kernel, table.owned));
        for port in &table.guarded {
            if !facts.listening.contains(port) {
                let text =
                    "no program on this host listens at this port (for a published port of a container that is normal)";
                findings.push(Finding::note(port, text).because(["ss -lntu".to_owned()]));
            }
        }
    }
}

/// Whether the kernel keeps others from changing the table: `owner` and `persist`, Linux 6.9 on.
fn kernel(release: &str, owned: bool) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (text, because) = match (owned, version >= (6, 9)) {
        (true, _) => ("the kernel lets nobody else change the managed table", "flags owner"),
        (false, true) => (
            "every process with CAP_NET_ADMIN can change the managed table; the daemon repairs it at once",
            "nftables.owner is false",
        ),
        (false, false) => (
            "every process with CAP_NET_ADMIN can change the managed table, which this kernel can't prevent; the daemon \
             repairs it at once",
            "owned tables that persist came with Linux 6.9",
        ),
    };
    let finding = if owned { Finding::ok("kernel", text) } else { Finding::note("kernel", text) };
    finding.because([format!("Linux {release}, {because}")])
}

/// The consequence of another service that changes the ruleset.
fn neighbour(service: &str, status: Option<&Status>) -> Finding {
    let owned = status.and_then(|status| status.table.as_ref()).is_some_and(|table| table.owned);
    let text = match (service, owned) {
        ("nftables", true) => {
            "a reload of it flushes the ruleset; the managed table is owned and stays, and grants in user sets are restored"
        }
        ("nftables", false) => {
            "a reload of it flushes the ruleset; the daemon then restores the managed table and the grants"
        }
        ("docker", _) => "guard the published port of the host, not the port inside the container",
        ("ufw", _) => "it also drops packets of granted addresses: allow the guarded ports in ufw",
        _ => "it also rejects packets of granted addresses: allow the guarded ports in the zone of the interface",
    };
    let seen = if service == "ufw" { "ufw status".to_owned() } else { format!("systemctl status {service}") };
    Finding::note(service, text).because([seen])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::doctor::Severity;

    #[test]
    fn listening_sockets_are_those_that_other_hosts_can_reach() {
        let tcp = "  sl  local_address rem_address   st tx_queue\n\
                   0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
                   1: 0100007F:0050 00000000:0000 0A 00000000:00000000\n\
                   2: 020200C0:E8C8 507100CB:0050 06 00000000:00000000\n";
        assert_eq!(listening(tcp, "0A"), [22]);
        let udp6 = "  sl  local_address\n\
                    0: 00000000000000000000000000000000:CA6C 00000000000000000000000000000000:0000 07 0\n\
                    1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0\n";
        assert_eq!(listening(udp6, "07"), [51_820]);
        assert_eq!(listening("garbage\ngarbage : :\n\n", "0A"), [0_u16; 0]);
    }

    #[test]
    fn the_elements_of_the_guarded_set_are_read_as_the_daemon_names_them() {
        let set = r#"{"nftables": [{"metainfo": {}}, {"set": {"elem": [{"concat": ["tcp", 22]}, {"concat": ["udp", 51820]}]}}]}"#;
        assert_eq!(elements(&serde_json::from_str(set).expect("as recorded")), ["22/tcp", "51820/udp"]);
    }

    #[test]
    fn a_clock_that_is_years_behind_is_found() {
        let found = findings(&Facts::default());
        let subjects: Vec<_> = found.iter().map(|finding| (finding.subject.as_str(), finding.severity)).collect();
        assert_eq!(subjects, [("clock", Severity::Warning)]);
    }

    #[test]
    fn the_finding_about_the_kernel_follows_from_its_release() {
        assert!(kernel("6.1.0-18-amd64", false).text.contains("this kernel can't prevent"));
        assert!(kernel("6.12.1", false).evidence[0].contains("nftables.owner is false"));
        assert!(kernel("", true).text.contains("nobody else"));
        assert_eq!([kernel("", true).severity, kernel("", false).severity], [Severity::Ok, Severity::Note]);
    }
}
