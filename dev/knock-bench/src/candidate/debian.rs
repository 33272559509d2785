//! Debian's package `knockd`: libpcap, and a command for each knock.

use std::path::Path;
use std::process::Command;

use crate::candidate::{Candidate, GUARDED, Knocks, SEQUENCE, directory};
use crate::error::{Result, write_secret};
use crate::process::Daemon;

impl Candidate {
    /// Debian's knockd with the command of the configuration that its package brings.
    pub(crate) fn debian(program: &Path, scratch: &Path) -> Result<Candidate> {
        let mut candidate = Candidate::new("Debian's knockd")?;
        let directory = directory(scratch, "debian")?;
        let (configuration, log) = (directory.join("knockd.conf"), directory.join("log"));
        let sequence = SEQUENCE.map(|port| port.to_string()).join(",");
        write_secret(
            &configuration,
            &format!(
                "[options]\n\tlogfile = {}\n\n[bench]\n\tsequence = {sequence}\n\tseq_timeout = 5\n\ttcpflags = syn\n\
                 \tcommand = iptables -w -I INPUT -s %IP% -p tcp --dport {GUARDED} -j ACCEPT\n",
                log.display()
            ),
        )?;
        candidate.close_by_iptables()?;
        let mut command = Command::new(program);
        command.args(["-i", "eth0", "-c"]).arg(configuration);
        let output = directory.join("output");
        candidate.daemon = Some(Daemon::start(&candidate.network.server, &mut command, &output, &log, "listening on")?);
        candidate.knocks = Knocks::Sequence(SEQUENCE);
        Ok(candidate)
    }

    /// Closes the guarded port to all sources that no earlier rule accepts.
    pub(super) fn close_by_iptables(&self) -> Result<()> {
        let mut iptables = Command::new("iptables");
        iptables.args(["-A", "INPUT", "-p", "tcp", "--syn", "--dport"]).arg(GUARDED.to_string()).args(["-j", "DROP"]);
        self.network.server.namespace.output(&mut iptables, "")?;
        Ok(())
    }
}
