//! The pages of the programs: what their command lines say, and what those can't.

use std::io;

use clap::Command;

use crate::page::{Part, Section, command};

pub(crate) fn knockd(program: Command) -> io::Result<String> {
    let signals = [
        (
            "TERM, INT",
            "Stop: pending commands end, teardown commands run, and the table is removed or stays as `nftables.on_stop` says.",
        ),
        (
            "USR1",
            "Stop for a restart: as above, but the table stays in any case, so that no guarded port is open before the next knockd adopts it. The systemd unit uses this signal.",
        ),
        (
            "HUP",
            "Read the configuration again. An invalid one changes nothing, and the log says why; `knockctl reload` says so itself.",
        ),
    ];
    let files = [
        ("/etc/knockd/config.json", "The configuration of the service, see `knockd.json`(5)."),
        ("/run/knockd/control.sock", "The control socket, for `knockctl`(8). With systemd, in $RUNTIME_DIRECTORY."),
        (
            "/var/lib/knockd",
            "The state that outlives the daemon: pending stop commands. With systemd, $STATE_DIRECTORY.",
        ),
    ];
    let privileges = "Changing nftables takes the capability CAP_NET_ADMIN, hearing knocks CAP_NET_RAW, see \
        `capabilities`(7); the systemd unit gives an unprivileged user these two. Started as root, knockd gives up all \
        privileges that its configuration does not need. It can start no program from then on; a process of its own, the runner, runs the commands of rules. \
        A reload that needs a privilege which was given up is refused; a restart is needed. Commands run with the privileges \
        that knockd was started with.";
    let sections = [
        Section { heading: "PRIVILEGES", parts: vec![Part::Text(privileges)] },
        Section { heading: "SIGNALS", parts: vec![Part::List(&signals)] },
        Section {
            heading: "LOG",
            parts: vec![
                Part::Text(
                    "In the journal each event has fields: `KNOCK_EVENT`, `KNOCK_RULE`, `KNOCK_SOURCE` and a `MESSAGE_ID` \
                 of its own, so that one can search for them:",
                ),
                Part::Example(
                    "journalctl -u knockd KNOCK_RULE=ssh\njournalctl -u knockd KNOCK_EVENT=granted KNOCK_SOURCE=192.0.2.7",
                ),
            ],
        },
        Section { heading: "FILES", parts: vec![Part::List(&files)] },
        see_also("`knockctl`(8), `knock-cli`(1), `knockd.json`(5), `nft`(8), `systemd.unit`(5)"),
    ];
    command(program, "8", &sections)
}

pub(crate) fn knockctl(program: Command) -> io::Result<String> {
    let examples = "knockctl status\nknockctl grant ssh 192.0.2.7 --timeout 10m\nknockctl revoke --all\n\
                    knockctl import --native /etc/knockd.conf > config.json";
    let sections = [
        Section { heading: "EXAMPLES", parts: vec![Part::Example(examples)] },
        see_also("`knockd`(8), `knockd.json`(5)"),
    ];
    command(program, "8", &sections)
}

pub(crate) fn knockd_fleet(program: Command) -> io::Result<String> {
    let files = [
        (
            "/run/knockd/fleet.sock",
            "The local socket of `knockd`(8), which admits root, its own user and the user knockd-fleet.",
        ),
        (
            "/etc/knockd-fleet",
            "For the password of the store and the certificate of its authority: what root makes here can be read by the service. Their names are in the configuration of knockd.",
        ),
    ];
    let examples = "knockctl fleet check\nknockctl fleet status\njournalctl -u knockd-fleet";
    let sections = [
        Section { heading: "FILES", parts: vec![Part::List(&files)] },
        Section { heading: "EXAMPLES", parts: vec![Part::Example(examples)] },
        see_also("`knockd`(8), `knockctl`(8), `knockd.json`(5); /usr/share/doc/knockd-fleet/fleet-protocol.md"),
    ];
    command(program, "8", &sections)
}

pub(crate) fn knock_cli(mut program: Command) -> io::Result<String> {
    // It is written for a terminal; the page has the same with headings.
    let after = program.get_after_help().map(ToString::to_string).unwrap_or_default();
    program = program.after_help("");
    let parts: Vec<(&str, String)> = after
        .split("\n\n")
        .filter_map(|block| block.split_once(":\n"))
        .map(|(heading, lines)| (heading, lines.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")))
        .collect();
    let headings: Vec<String> = parts.iter().map(|(heading, _)| heading.to_uppercase()).collect();
    let mut sections: Vec<Section<'_>> = headings
        .iter()
        .zip(&parts)
        .map(|(heading, (_, lines))| Section { heading, parts: vec![Part::Example(lines)] })
        .collect();
    sections.push(see_also("`knockd.json`(5), `knockd`(8)"));
    command(program, "1", &sections)
}

fn see_also(pages: &str) -> Section<'_> {
    Section { heading: "SEE ALSO", parts: vec![Part::Text(pages)] }
}
