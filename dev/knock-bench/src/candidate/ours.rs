//! The daemon of this repository.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::candidate::{Candidate, GUARDED, Knocks, SEQUENCE, directory};
use crate::error::{Attempt, Error, Result, write_secret};
use crate::process::Daemon;

/// Elements that the sets hold in every variant: the 100,000 and those of the measured knocks.
const GRANTS_MAX: u32 = 131_072;
/// The first address of the prepared grants, none of which ever knocks.
const FIRST_GRANTED: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);

/// What the daemon has to carry beside the measured rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preparation {
    /// Rules, the measured one among them.
    pub(crate) rules: u16,
    /// Live grants.
    pub(crate) grants: u32,
}

impl Candidate {
    /// Our daemon.
    pub(crate) fn ours(program: &Path, scratch: &Path, name: &str, prepared: Preparation) -> Result<Candidate> {
        let mut candidate = Candidate::new(name)?;
        let directory = directory(scratch, &format!("ours-{}-{}", prepared.rules, prepared.grants))?;
        let configuration = json!({ "rules": rules(prepared.rules), "limits": { "grants": GRANTS_MAX } });
        candidate.start_ours(program, &directory, configuration)?;
        candidate.knocks = Knocks::Sequence(SEQUENCE);
        for number in 0..prepared.grants {
            let address = Ipv4Addr::from(u32::from(FIRST_GRANTED).wrapping_add(number));
            let command = json!({ "command": "grant", "rule": "bench", "address": address, "timeout": "1d" });
            candidate.ask(command)?;
        }
        Ok(candidate)
    }

    /// Our daemon where the kernel opens at the last knock.
    pub(crate) fn armed(program: &Path, scratch: &Path) -> Result<Candidate> {
        let mut candidate = Candidate::new("ours, last knock by the kernel")?;
        let directory = directory(scratch, "armed")?;
        let configuration = json!({
            "rules": rules(1), "limits": { "grants": GRANTS_MAX }, "nftables": { "last_knock": "kernel" }
        });
        candidate.start_ours(program, &directory, configuration)?;
        candidate.knocks = Knocks::Sequence(SEQUENCE);
        Ok(candidate)
    }

    /// Starts our daemon in that directory, with what every configuration here has.
    pub(super) fn start_ours(&mut self, program: &Path, directory: &Path, mut configuration: Value) -> Result<()> {
        let (path, log, control) =
            (directory.join("config.json"), directory.join("log"), directory.join("control.sock"));
        configuration["interface"] = json!("eth0");
        configuration["log"] = json!({ "target": "stderr" });
        configuration["control_socket"] = json!(control);
        configuration["state_dir"] = json!(directory);
        write_secret(&path, &configuration.to_string())?;
        let mut command = Command::new(program);
        command.arg("-c").arg(path);
        self.daemon = Some(Daemon::start(&self.network.server, &mut command, &log, &log, "ready: ")?);
        self.control = Some(control);
        Ok(())
    }

    /// Asks our daemon over its control socket (docs/control-protocol.md); its result.
    pub(crate) fn ask(&self, mut request: Value) -> Result<Value> {
        let Some(control) = &self.control else { return Ok(Value::Null) };
        request["version"] = json!(1);
        let mut answer = String::new();
        UnixStream::connect(control)
            .and_then(|mut stream| {
                stream.write_all(request.to_string().as_bytes())?;
                stream.shutdown(Shutdown::Write)?;
                stream.read_to_string(&mut answer)
            })
            .attempt(|| format!("ask {request} at {}", control.display()))?;
        let result = serde_json::from_str(&answer).ok().and_then(|mut answer: Value| {
            let result = answer.get_mut("result")?.take();
            Some(result)
        });
        result.ok_or(Error::Unexpected { origin: control.display().to_string(), text: answer, expected: "a result" })
    }

    /// A counter of our daemon's `status`.
    pub(crate) fn counter(&self, name: &str) -> Result<Option<u64>> {
        let status = self.ask(json!({ "command": "status" }))?;
        Ok(status["counters"][name].as_u64())
    }
}

/// The measured rule, in the midst of others which share no port with it or each other.
fn rules(count: u16) -> Vec<Value> {
    let allow = json!({ "ports": [GUARDED], "timeout": "1h" });
    let mut rules: Vec<Value> = (0..count.saturating_sub(1))
        .map(|number| {
            // Every third port, so that the tripwires beside each are its own.
            let port = |place: u16| 10_001 + 3 * (number + place * (count - 1));
            json!({ "name": format!("rule{number}"), "sequence": [port(2), port(0), port(1)], "allow": allow })
        })
        .collect();
    let measured = json!({ "name": "bench", "sequence": SEQUENCE, "allow": allow });
    rules.insert(rules.len() / 2, measured);
    rules
}
