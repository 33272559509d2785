//! fwknop: one encrypted and authenticated UDP datagram in place of a sequence.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::candidate::{Candidate, GUARDED, Knocks, SPA_PORT, directory};
use crate::error::{Attempt, Error, Result, write_secret};
use crate::process::Daemon;

/// Keys of this benchmark, in base64: they guard nothing.
const KEY: &str = "dGhlIGJlbmNobWFyayBrZXkgZ3VhcmRzIG5vdGhpbmc=";
const HMAC_KEY: &str = "aG1hYyBrZXkgb2YgdGhlIGJlbmNobWFyaywgZ3VhcmRzIG5vdGhpbmc=";

impl Candidate {
    /// fwknop's server as its package configures it, with that many datagrams of its client prepared.
    pub(crate) fn fwknop(server: &Path, client: &Path, scratch: &Path, knocks: u32) -> Result<Candidate> {
        let mut candidate = Candidate::new("fwknop")?;
        let directory = directory(scratch, "fwknop")?;
        let (configuration, access, log) =
            (directory.join("fwknopd.conf"), directory.join("access.conf"), directory.join("log"));
        write_secret(
            &configuration,
            &format!(
                "PCAP_INTF eth0;\nPCAP_FILTER udp port {SPA_PORT};\nENABLE_SPA_PACKET_AGING N;\nFWKNOP_RUN_DIR {};\n",
                directory.join("run").display()
            ),
        )?;
        write_secret(
            &access,
            &format!(
                "SOURCE ANY\nKEY_BASE64 {KEY}\nHMAC_KEY_BASE64 {HMAC_KEY}\nOPEN_PORTS tcp/{GUARDED}\n\
                 FW_ACCESS_TIMEOUT 3600\n"
            ),
        )?;
        candidate.close_by_iptables()?;
        let mut command = Command::new(server);
        command.arg("-f").arg("-c").arg(configuration).arg("-a").arg(access);
        let ready = "main event loop";
        candidate.daemon = Some(Daemon::start(&candidate.network.server, &mut command, &log, &log, ready)?);
        let payloads = (0..knocks).map(|_| datagram(client, &directory)).collect::<Result<Vec<_>>>()?;
        candidate.knocks = Knocks::Datagrams(payloads.into_iter());
        Ok(candidate)
    }
}

/// A datagram that opens the guarded port to the address that it comes from.
fn datagram(client: &Path, directory: &Path) -> Result<Vec<u8>> {
    let packet = directory.join("packet");
    let _ = fs::remove_file(&packet);
    let output = Command::new(client)
        .args(["--test", "--source-ip", "--use-hmac", "--no-home-dir", "--no-rc-file", "--destination", "10.77.0.1"])
        .args(["--access", &format!("tcp/{GUARDED}"), "--key-base64-rijndael", KEY, "--key-base64-hmac", HMAC_KEY])
        .arg("-E")
        .arg(directory.join("arguments"))
        .arg("--save-packet")
        .arg(&packet)
        .output()
        .attempt(|| format!("run {}", client.display()))?;
    let text = fs::read(&packet).unwrap_or_default();
    match text.trim_ascii_end() {
        [] => Err(Error::Unexpected {
            origin: client.display().to_string(),
            text: String::from_utf8_lossy(&output.stderr).into_owned(),
            expected: "a packet in the file given by --save-packet",
        }),
        payload => Ok(payload.to_vec()),
    }
}
