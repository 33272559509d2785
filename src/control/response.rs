//! A response to a client, which is made in pieces where it is long.

use std::io::{self, ErrorKind, Write};
use std::rc::Rc;

use knock_grant::Policy;
use knock_proto::Time;
use serde::Serialize;

use super::protocol::{Answer, Grant, Refusal, VERSION};

/// The size of such a piece, in bytes.
const PIECE: usize = 64 << 10;
/// The limit of bytes that are written before the loop looks at packets again.
const BYTES_IN_A_ROW: usize = 256 << 10;

/// A response, and how much of it is written.
pub(crate) struct Response {
    buffer: Vec<u8>,
    written: usize,
    rest: Option<Listing>,
}

/// Whether a response is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it is written.
    Done,
    /// A part is still to be written.
    More,
}

/// Writes the next entry of a list; `false`: there is none.
type NextEntry = Box<dyn FnMut(&mut Vec<u8>) -> bool>;

/// What is still to come of a list.
struct Listing {
    next: NextEntry,
    first: bool,
}

impl Response {
    /// A result.
    pub(crate) fn result(result: &impl Serialize) -> Response {
        Response::whole(&Answer { version: VERSION, result: Some(result), error: None })
    }

    /// A refusal.
    pub(crate) fn refusal(refusal: Refusal) -> Response {
        Response::whole(&Answer::<()> { version: VERSION, result: None, error: Some(refusal) })
    }

    /// The line of a response that is no listing.
    pub(crate) fn into_line(self) -> Vec<u8> {
        self.buffer
    }

    fn whole<T: Serialize>(answer: &Answer<T>) -> Response {
        // All maps of these types have keys of text, so this cannot fail.
        let mut buffer = serde_json::to_vec(answer).unwrap_or_default();
        buffer.push(b'\n');
        Response { buffer, written: 0, rest: None }
    }

    /// Live grants: [`super::protocol::Grants`].
    pub(crate) fn grants(policy: Rc<Policy>, now: Time, grants: Vec<knock_grant::Grant>) -> Response {
        Response::list("grants", grants.into_iter().map(move |grant| entry(&policy, now, &grant)))
    }

    /// A result with one list of that name, whose entries are made when the client takes them.
    pub(crate) fn list<T: Serialize>(name: &str, mut entries: impl Iterator<Item = T> + 'static) -> Response {
        let buffer = format!("{{\"version\":{VERSION},\"result\":{{\"{name}\":[").into_bytes();
        let next = move |buffer: &mut Vec<u8>| {
            let Some(entry) = entries.next() else { return false };
            // As for a whole answer, this cannot fail.
            let _ = serde_json::to_writer(buffer, &entry);
            true
        };
        Response { buffer, written: 0, rest: Some(Listing { next: Box::new(next), first: true }) }
    }

    /// Writes as much as the kernel takes at once.
    ///
    /// # Errors
    ///
    /// Where the client has closed the connection.
    pub(crate) fn write_to(&mut self, mut stream: impl Write) -> io::Result<Progress> {
        let mut in_a_row = 0;
        while in_a_row < BYTES_IN_A_ROW {
            if self.written == self.buffer.len() && !self.refill() {
                return Ok(Progress::Done);
            }
            match stream.write(&self.buffer[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    in_a_row += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::More)
    }

    /// Makes the next piece; `false` after the last one.
    fn refill(&mut self) -> bool {
        let Some(listing) = &mut self.rest else { return false };
        self.buffer.clear();
        self.written = 0;
        while self.buffer.len() < PIECE {
            let end = self.buffer.len();
            if !std::mem::take(&mut listing.first) {
                self.buffer.push(b',');
            }
            if !(listing.next)(&mut self.buffer) {
                self.buffer.truncate(end);
                self.buffer.extend_from_slice(b"]}}\n");
                self.rest = None;
                return true;
            }
        }
        true
    }
}

fn entry(policy: &Policy, now: Time, grant: &knock_grant::Grant) -> Grant {
    let opens = policy.places(&grant.rule, grant.address);
    let signer = grant.basis.key.and_then(|key| policy.signers.keys.get(&key));
    Grant {
        user: signer.map(|signer| signer.name.to_string()),
        key: grant.basis.key.map(|key| key.to_string()),
        rule: grant.rule.to_string(),
        address: grant.prefix.to_string(),
        opens: opens.iter().map(ToString::to_string).collect(),
        age_seconds: now.since(grant.since).as_secs_f64(),
        remaining_seconds: grant.expires.since(now).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use knock_grant::Opens;
    use knock_proto::{Port, RuleId};

    use super::*;
    use crate::control::protocol::Grants;

    /// Takes a few bytes, then none for once, as a slow reader does.
    struct Slow {
        taken: Vec<u8>,
        full: bool,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.full = !self.full;
            if self.full {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(70_001);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn listing(count: u32) -> Response {
        let ports = vec![Port::tcp(22).into(), Port::udp(51820).into()];
        let rules = [(RuleId::from("ssh"), Opens::Ports(ports))].into();
        let policy = Rc::new(Policy { rules, ..Policy::default() });
        let now = Time::from_millis(90_000);
        let address = |number| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let expires = now.after(Duration::from_secs(60));
        let grant = |number| knock_grant::Grant {
            rule: "ssh".into(),
            prefix: address(number).into(),
            address: address(number),
            since: now.before(Duration::from_secs(30)),
            expires,
            timeout: Duration::from_secs(90),
            basis: knock_grant::Basis::default(),
            elements: 2,
        };
        Response::grants(policy, now, (0..count).map(grant).collect())
    }

    #[test]
    fn a_listing_arrives_whole_at_a_slow_reader() {
        for count in [0, 1, 20_000] {
            let mut response = listing(count);
            let mut slow = Slow { taken: Vec::new(), full: false };
            let mut turns = 0;
            while response.write_to(&mut slow).expect("it takes") == Progress::More {
                turns += 1;
                assert!(response.buffer.len() < PIECE + 1024, "one piece is held at a time");
                assert!(turns < 10_000);
            }
            assert!(slow.taken.ends_with(b"\n"));
            let answer: Answer<Grants> = serde_json::from_slice(&slow.taken).expect("one document");
            let grants = answer.result.expect("a result").grants;
            assert_eq!(grants.len(), count as usize);
            if let Some(last) = grants.last() {
                assert_eq!(last.address, Ipv4Addr::from_bits(0x0a00_0000 + count - 1).to_string());
                assert_eq!(last.opens, ["22/tcp", "51820/udp"]);
                assert_eq!((last.age_seconds, last.remaining_seconds), (30.0, 60.0));
            }
        }
    }

    #[test]
    fn a_fast_reader_does_not_keep_packets_waiting() {
        let mut response = listing(20_000);
        let mut taken = Vec::new();
        assert_eq!(response.write_to(&mut taken).expect("it takes"), Progress::More);
        assert!(taken.len() <= BYTES_IN_A_ROW + PIECE + 1024, "{}", taken.len());
    }
}
