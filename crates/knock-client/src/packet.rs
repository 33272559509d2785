//! Signed packets: for which address they ask, who signs them, and how they are sent.

use std::fmt;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use knock_spa::{
    Cover, Fingerprint, NONCE_LENGTH, Operation, PacketKeys, PrivateKey, PublicKey, Realm, Request, RuleName,
    Signature, UnixTime, UnsignedPacket,
};

use crate::addresses::Target;
use crate::error::{PacketError, SignError};

/// What signs packets: a private key, or an ssh agent that holds one.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The key that signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs. It blocks, perhaps until somebody has touched the key.
    ///
    /// # Errors
    ///
    /// Why there is no signature, and what to do.
    fn sign(&self, to_be_signed: &[u8]) -> Result<Signature, SignError>;
}

impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        PrivateKey::public_key(self)
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Signature, SignError> {
        Ok(PrivateKey::sign(self, to_be_signed))
    }
}

/// For which address a packet asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GrantFor {
    /// The address from which the packet is sent. Where that is a private one, which no server sees, it is as
    /// [`GrantFor::Source`].
    #[default]
    Own,
    /// The address from which the server receives the packet. Everybody who can send the packet from another address
    /// before it arrives gets the grant instead.
    Source,
    /// This address.
    Address(IpAddr),
}

/// What packets ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To open the rule, or to end the grant.
    pub operation: Operation,
    /// For which address.
    pub grant_for: GrantFor,
    /// For the whole prefix of the address: /24 or /64.
    pub widen: bool,
    /// For how many seconds; `None`: as long as the rule says. Only with [`Operation::Open`].
    pub lifetime: Option<NonZeroU32>,
    /// The rule; `None`: the only one that the key may use.
    pub rule: Option<RuleName>,
}

impl Default for Ask {
    fn default() -> Ask {
        Ask { operation: Operation::Open, grant_for: GrantFor::Own, widen: false, lifetime: None, rule: None }
    }
}

/// Makes signed packets for a server, a new one each time, and sends them.
#[derive(Clone, Debug)]
pub struct SignedPackets {
    port: NonZeroU16,
    keys: Arc<PacketKeys>,
    signer: Arc<dyn Signer>,
    ask: Ask,
}

/// A packet was not sent.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The network does not take it.
    Io(io::Error),
    /// There is no packet to send.
    NotMade(PacketError),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> SendError {
        SendError::Io(error)
    }
}

impl SignedPackets {
    /// Packets to that UDP port.
    pub fn new(port: NonZeroU16, realm: &Realm, cover: &Cover, signer: Arc<dyn Signer>, ask: Ask) -> SignedPackets {
        let keys = Arc::new(PacketKeys::new(cover, signer.public_key(), realm));
        SignedPackets { port, keys, signer, ask }
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }

    /// The fingerprint of the key that signs.
    pub fn key(&self) -> Fingerprint {
        self.signer.public_key().fingerprint()
    }

    /// Sends a packet to `target`.
    pub(crate) fn send(&self, target: &Target, kept: &mut Kept) -> Result<(), SendError> {
        // Bound to one address from here on, so the packet comes from the address that it names. Where there is no way to
        // the target, nobody is asked to touch a key.
        let socket = UdpSocket::bind((target.source, 0))?;
        socket.connect(target.at(self.port()))?;
        let own = socket.local_addr()?.ip();
        let payload = match kept.packet(target.address.ip()) {
            Some(payload) => payload,
            None => self.make(own, target, kept).map_err(SendError::NotMade)?,
        };
        socket.send(&payload)?;
        Ok(())
    }

    fn make(&self, own: IpAddr, target: &Target, kept: &mut Kept) -> Result<Vec<u8>, PacketError> {
        let mut random = [0; NONCE_LENGTH + 1];
        getrandom::fill(&mut random).map_err(PacketError::Random)?;
        let [nonce @ .., padding] = random;
        let start = Instant::now();
        let unsigned = UnsignedPacket::new(&self.keys, nonce, &self.request(own))?;
        let signature = self.signer.sign(&unsigned.to_be_signed()).map_err(PacketError::Sign)?;
        let payload = unsigned.seal(&signature, padding);
        kept.note(target.address.ip(), start, &payload);
        Ok(payload)
    }

    fn request(&self, own: IpAddr) -> Request {
        let Ask { operation, grant_for, widen, lifetime, ref rule } = self.ask;
        let address = match grant_for {
            GrantFor::Own => Some(own.to_canonical()).filter(|own| !is_translated(*own)),
            GrantFor::Source => None,
            GrantFor::Address(address) => Some(address),
        };
        Request { operation, address, widen, lifetime, time: now(), rule: rule.clone() }
    }
}

/// The time by the clock of this machine.
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a server on the internet sees another address instead of this one, or can't be on the internet.
fn is_translated(own: IpAddr) -> bool {
    match own {
        IpAddr::V4(own) => {
            let [a, b, c, _] = own.octets();
            let shared = a == 100 && b & 0xc0 == 64; // RFC 6598: carriers.
            let to_ipv6 = [a, b, c] == [192, 0, 0]; // RFC 7335: IPv4 over a network of IPv6 only.
            let of_tunnel = a == 198 && b & 0xfe == 18; // RFC 2544: tunnels of proxies use these.
            own.is_private() || own.is_loopback() || own.is_link_local() || shared || to_ipv6 || of_tunnel
        }
        IpAddr::V6(own) => own.is_loopback() || own.is_unique_local() || own.is_unicast_link_local(),
    }
}

/// Longer than any key and agent needs that asks nobody.
const BY_HAND: Duration = Duration::from_millis(400);
/// How long such a packet is sent again; servers accept one for a minute.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// The packets whose signatures took a person's time. They are sent again as they are, for a lost packet must not cost a
/// second touch: a server accepts each once, however often it comes.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    packets: Vec<(IpAddr, Instant, Vec<u8>)>,
    /// The time that was spent on signatures since somebody asked.
    signing: Duration,
}

impl Kept {
    fn packet(&self, to: IpAddr) -> Option<Vec<u8>> {
        let kept = self.packets.iter().rfind(|(address, made, _)| *address == to && made.elapsed() < KEPT_FOR);
        kept.map(|(_, _, packet)| packet.clone())
    }

    fn note(&mut self, to: IpAddr, start: Instant, packet: &[u8]) {
        let took = start.elapsed();
        self.signing += took;
        if took >= BY_HAND {
            self.packets.retain(|(address, ..)| *address != to);
            self.packets.push((to, start, packet.to_vec()));
        }
    }

    /// The time that signing took since the last call: it is not spent on waiting for the port.
    pub(crate) fn take_signing_time(&mut self) -> Duration {
        std::mem::take(&mut self.signing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_translated_on_the_way_is_not_named() {
        let translated = |text: &str| is_translated(text.parse().expect(text));
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.4",
            "198.18.0.1",
            "198.19.255.255",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
        ] {
            assert!(translated(text), "{text}");
        }
        for text in [
            "192.0.2.1",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "fec0::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(!translated(text), "{text}");
        }
    }

    fn packets(ask: Ask) -> SignedPackets {
        let (port, realm) = (NonZeroU16::new(62201).expect("not 0"), "example.com".parse().expect("a realm"));
        SignedPackets::new(
            port,
            &realm,
            &Cover::from_bytes([7; 32]),
            Arc::new(PrivateKey::from_seed([1; 32], "a")),
            ask,
        )
    }

    #[test]
    fn a_packet_asks_for_the_own_address_unless_it_is_translated_or_another_is_named() {
        let (public, private): (IpAddr, IpAddr) = ([192, 0, 2, 7].into(), [10, 0, 0, 7].into());
        let other: IpAddr = [192, 0, 2, 9].into();
        for (grant_for, own, expected) in [
            (GrantFor::Own, public, Some(public)),
            (GrantFor::Own, private, None),
            (GrantFor::Own, "::ffff:192.0.2.7".parse().expect("an address"), Some(public)),
            (GrantFor::Own, "::ffff:10.0.0.7".parse().expect("an address"), None),
            (GrantFor::Source, public, None),
            (GrantFor::Address(other), private, Some(other)),
        ] {
            let request = packets(Ask { grant_for, ..Ask::default() }).request(own);
            assert_eq!(request.address, expected, "{grant_for:?} {own}");
        }
    }

    #[test]
    fn only_a_packet_that_took_a_persons_time_is_sent_again() {
        let to: IpAddr = [192, 0, 2, 1].into();
        let mut kept = Kept::default();
        kept.note(to, Instant::now(), b"quick");
        assert_eq!(kept.packet(to), None);
        let Some(start) = Instant::now().checked_sub(BY_HAND) else { return };
        kept.note(to, start, b"by hand");
        assert_eq!(kept.packet(to).as_deref(), Some(&b"by hand"[..]));
        assert_eq!(kept.packet([192, 0, 2, 2].into()), None);
        assert!(kept.take_signing_time() >= BY_HAND && kept.take_signing_time() == Duration::ZERO);
        let Some(old) = Instant::now().checked_sub(KEPT_FOR) else { return };
        kept.note(to, old, b"old");
        assert_eq!(kept.packet(to), None, "a server may refuse it");
    }
}
