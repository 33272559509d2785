//! What the daemon does for requests about signed packets: the list of keys, and packets that came another way than by UDP.

use std::collections::HashMap;
use std::net::IpAddr;

use base64ct::{Base64, Encoding};
use knock_proto::Time;
use knock_spa::{AddressPolicy, AuthorizedKey, Fingerprint, PAYLOAD_MAX, UnixTime};

use crate::control::protocol::{Code, Key, LastUse, Refusal, Submitted};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::os::clock::{clock_reading, unix_now, unix_time};
use crate::os::local_socket::Peer;
use crate::triggers::signed_packets::Outcome;
use crate::triggers::signed_packets::plan::user_name;

/// What a user has done, and holds.
#[derive(Default)]
struct Activity {
    accepted: u64,
    refused: u64,
    last: Option<LastUse>,
    grants: usize,
}

impl Daemon {
    /// The keys, as they are now. The entries are made while the client reads them.
    pub(super) fn keys(&self, now: Time) -> Result<Response, Refusal> {
        let signed = self.signed.as_ref().ok_or_else(no_signed_packets)?;
        let wall = unix_now();
        let mut activities: HashMap<Fingerprint, Activity> = HashMap::new();
        for (key, state) in signed.users().iter() {
            let age = |time| wall.since(unix_time(time)).as_secs_f64();
            let last = state.last.map(|(time, address)| LastUse { age_seconds: age(time), address });
            let activity = Activity { accepted: state.accepted, refused: state.refused, last, grants: 0 };
            activities.insert(*key, activity);
        }
        for grant in self.grants.ledger().iter().filter(|grant| grant.expires > now) {
            if let Some(key) = grant.basis.key {
                activities.entry(key).or_default().grants += 1;
            }
        }
        let keys = signed.keyring().shared_keys();
        let entries = (0..keys.len()).map(move |index| {
            let key = &keys[index];
            entry(wall, key, activities.remove(&key.key.fingerprint()).unwrap_or_default())
        });
        Ok(Response::list("keys", entries))
    }

    /// Treats a packet as if it had come from that address by UDP.
    pub(super) fn submit(&mut self, now: Time, peer: Peer, address: IpAddr, packet: &str) -> Result<Response, Refusal> {
        let signed = self.signed.as_mut().ok_or_else(no_signed_packets)?;
        let mut buffer = [0; PAYLOAD_MAX];
        let payload = Base64::decode(packet, &mut buffer).map_err(|_| {
            let message = format!("the packet is not base64 of at most {PAYLOAD_MAX} bytes; send one whole packet");
            Refusal::new(Code::BadValue, message)
        })?;
        let Outcome::Signed(signed) = signed.handle(clock_reading(), payload, address) else {
            // As for one that came by UDP: strangers cause no line in the log.
            return Ok(Response::result(&Submitted { accepted: false }));
        };
        let accepted = signed.result.is_ok();
        let rule = match &signed.result {
            Ok(accepted) => Some(accepted.decision.rule.to_string()),
            Err(denied) => denied.rule.clone(),
        };
        let message = format_args!("uid {} submits a signed packet of {} from {address}", peer.uid, signed.user.name);
        self.events.line(now, log::Level::Info, rule.as_deref().unwrap_or_default(), message);
        self.follow_signed(now, address, *signed);
        Ok(Response::result(&Submitted { accepted }))
    }
}

fn entry(wall: UnixTime, key: &AuthorizedKey, activity: Activity) -> Key {
    let options = &key.options;
    let address = match options.address {
        AddressPolicy::Source => "source",
        AddressPolicy::Strict => "strict",
        AddressPolicy::Any => "any",
    };
    let Activity { accepted, refused, last, grants } = activity;
    Key {
        user: user_name(key),
        key: key.key.fingerprint().to_string(),
        kind: key.key.key_type().to_string(),
        line: key.line,
        rules: options.rules.as_ref().map(|rules| rules.iter().map(ToString::to_string).collect()),
        expires: options.expires.map(|end| end.since(UnixTime::from_millis(0)).as_secs_f64()),
        expired: options.expires.is_some_and(|end| end <= wall),
        from: options.from.as_ref().map(ToString::to_string),
        address: address.to_owned(),
        wide: options.wide,
        accepted,
        refused,
        last,
        grants,
    }
}

fn no_signed_packets() -> Refusal {
    let message = "the configuration has no `spa`, so no signed packet is received; begin with: knockctl spa init";
    Refusal::new(Code::NoSignedPackets, message)
}
