//! `knockctl spa submit`: a signed packet that came another way than by UDP.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use knock_spa::{PAYLOAD_MAX, PAYLOAD_MIN};

use crate::control::client::request;
use crate::control::protocol::{Command, Submitted};
use crate::ctl::{EXIT_OTHER, Failure, json, print};

/// A packet in base64, with room for blanks and ends of lines.
const INPUT_MAX: u64 = 1024;

/// Sends the packet on standard input to the daemon, as one that came from that address. Fails where it is not accepted.
pub(in crate::ctl) fn submit(socket: &Path, as_json: bool, from: IpAddr) -> Result<(), Failure> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(INPUT_MAX + 1).read_to_end(&mut input);
    read.map_err(|error| Failure::new(EXIT_OTHER, format!("cannot read the packet from standard input: {error}")))?;
    let packet = packet(&input).map_err(|message| Failure::new(EXIT_OTHER, message))?;
    let command = Command::Submit { address: from, packet: Base64::encode_string(&packet) };
    let submitted: Submitted = request(socket, &command)?;
    if as_json {
        print(&json(&submitted))?;
    }
    match submitted {
        Submitted { accepted: true } if as_json => Ok(()),
        Submitted { accepted: true } => print("accepted\n"),
        // Whoever sent the packet may see this.
        Submitted { accepted: false } => Err(Failure::new(EXIT_OTHER, "not accepted; the log of knockd may say why")),
    }
}

/// The packet in what was read: its bytes, or their base64, also that of URLs. A packet is random bytes, which are never all
/// letters and digits.
fn packet(input: &[u8]) -> Result<Vec<u8>, String> {
    let text: Vec<u8> = input.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let decoded = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| Base64::decode_vec(text).or_else(|_| Base64UrlUnpadded::decode_vec(text)).ok());
    let packet = decoded.unwrap_or_else(|| input.to_vec());
    match packet.len() {
        PAYLOAD_MIN..=PAYLOAD_MAX => Ok(packet),
        _ if input.len() as u64 > INPUT_MAX => {
            Err(format!("standard input has more than {INPUT_MAX} bytes: no packet"))
        }
        length => Err(format!(
            "standard input has {length} bytes, and a packet has {PAYLOAD_MIN} to {PAYLOAD_MAX}; send the payload of one \
             datagram, as it is or in base64"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_comes_as_bytes_or_in_base64() {
        let bytes: Vec<u8> = (0..=255).collect();
        let base64 = Base64::encode_string(&bytes);
        let lines: String =
            base64.as_bytes().chunks(76).map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect();
        for input in
            [bytes.clone(), base64.into_bytes(), lines.into_bytes(), Base64UrlUnpadded::encode_string(&bytes).into()]
        {
            assert_eq!(packet(&input).as_ref(), Ok(&bytes));
        }
    }

    #[test]
    fn what_has_another_length_is_refused() {
        for (length, said) in
            [(0, "has 0 bytes"), (215, "has 215 bytes"), (472, "has 472 bytes"), (1025, "more than 1024")]
        {
            let error = packet(&vec![0xff; length]).expect_err("no packet");
            assert!(error.contains(said), "{error}");
        }
    }
}
