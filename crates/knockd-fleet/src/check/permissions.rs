//! What the user of the store may do: enough, and no more.

use super::Report;
use super::server::Server;
use crate::problem::{StoreError, shown};
use crate::resp::{Answer, Command};

/// Tries each command that the program uses, on a key that nothing else uses, and what it does not use.
pub(super) fn check(server: &mut Server, writes: bool, report: &mut Report) -> Result<(), StoreError> {
    let name = server.name.clone();
    let mut refused = false;
    for command in commands(&server.key, writes) {
        if let Answer::Error(text) = server.ask(&command)? {
            if text.contains("EXEC without MULTI") {
                continue;
            }
            let text = shown(&text);
            report.fail(format_args!(
                "{name}: {} was refused: {text}; give the user what docs/fleet-protocol.md lists",
                command.name
            ));
            refused = true;
        }
    }
    if !refused {
        let what = if writes { "write and read" } else { "read" };
        report.ok(format_args!("{name}: the user may {what} records"));
    }
    let mut may = |command: &Command| Ok::<bool, StoreError>(!matches!(server.ask(command)?, Answer::Error(_)));
    // Both are in the ACL LOG of the server then.
    let (other_keys, settings) = (
        may(&Command::new("GET").arg("knockd-fleet-check"))?,
        may(&Command::new("CONFIG").arg("GET").arg("maxmemory"))?,
    );
    match (other_keys, settings) {
        (false, false) => report.ok(format_args!("{name}: the user may do no more")),
        (true, _) => report.warn(format_args!(
            "{name}: the user may read other keys than those of the realm; docs/fleet-protocol.md has a line for the server"
        )),
        (_, true) => report.warn(format_args!(
            "{name}: the user may read the server's settings; docs/fleet-protocol.md has a line for the server"
        )),
    }
    Ok(())
}

/// The commands, so that nothing is left of them: each kind of value is overwritten by a text that expires at once.
fn commands(key: &str, writes: bool) -> Vec<Command> {
    let on = |name: &'static str, suffix: &str| Command::new(name).arg(format!("{key}:{suffix}"));
    let gone = |suffix: &str| on("SET", suffix).arg("").arg("PX").arg("1");
    let reads = [
        on("GET", "text"),
        on("ZRANGE", "set").arg("+inf").arg("0").arg("BYSCORE").arg("REV").arg("LIMIT").arg("0").arg("1"),
        on("XREVRANGE", "stream").arg("+").arg("-").arg("COUNT").arg("1"),
        Command::new("XREAD").arg("COUNT").arg("1").arg("STREAMS").arg(format!("{key}:stream")).arg("0-0"),
    ];
    if !writes {
        return reads.into();
    }
    let writes = [
        on("ZADD", "set").arg("1").arg("check"),
        on("ZREMRANGEBYSCORE", "set").arg("-inf").arg("+inf"),
        on("XADD", "stream").arg("MAXLEN").arg("~").arg("1").arg("*").arg("r").arg("check"),
        on("HSET", "hash").arg("check").arg("check"),
        on("HGETALL", "hash"),
        Command::new("MULTI"),
        Command::new("EXEC"),
    ];
    let ends = ["set", "stream", "hash", "text"].map(gone);
    writes.into_iter().chain(reads).chain(ends).collect()
}
