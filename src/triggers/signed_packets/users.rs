//! What each user has done since the start of the daemon.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use knock_grant::User;
use knock_proto::{Budget, Time};
use knock_spa::{Fingerprint, Keyring};

use crate::os::clock::ClockReading;

/// Refusals of one user that are logged at once, and the time for one more.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(1);

/// What a user has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct UserState {
    /// Packets that were accepted.
    pub(crate) accepted: u64,
    /// Packets that were refused.
    pub(crate) refused: u64,
    /// When a packet was accepted last, by the wall clock, and where it came from.
    pub(crate) last: Option<(SystemTime, IpAddr)>,
    log: Budget,
    left_out: u64,
}

impl UserState {
    pub(super) fn accepted(&mut self, at: ClockReading, source: IpAddr) {
        self.accepted += 1;
        self.last = Some((at.wall, source));
    }

    /// Notes a refusal. Where the log gets it: how many it did not get since the last one.
    pub(super) fn refused(&mut self, now: Time) -> Option<u64> {
        self.refused += 1;
        if self.log.admit(now, BURST, REFILL) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

/// The users of whom a packet was verified: no more than there are keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users(HashMap<Fingerprint, UserState>);

impl Users {
    pub(super) fn of(&mut self, user: &User) -> &mut UserState {
        self.0.entry(user.key).or_default()
    }

    pub(super) fn keep_only(&mut self, keyring: &Keyring) {
        let keys: std::collections::HashSet<Fingerprint> =
            keyring.keys().iter().map(|key| key.key.fingerprint()).collect();
        self.0.retain(|key, _| keys.contains(key));
    }

    /// What each user has done; those who did nothing are not there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Fingerprint, &UserState)> {
        self.0.iter()
    }
}
