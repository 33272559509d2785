//! Packets that name no address and wait until it is known whether another node has used them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_grant::User;
use knock_proto::Time;
use knock_spa::NONCE_LENGTH;

use crate::triggers::signed_packets::Accepted;

/// How long the answer of the store is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most packets that wait.
const CLAIMS_MAX: usize = 256;

/// A packet that waits.
pub(crate) struct Claimant {
    /// Where it came from.
    pub(crate) source: IpAddr,
    /// Who signed it.
    pub(crate) user: User,
    /// What it asks for.
    pub(crate) accepted: Accepted,
}

/// The packets that wait, by their nonces.
#[derive(Default)]
pub(super) struct Claims(HashMap<[u8; NONCE_LENGTH], (Time, Claimant)>);

impl Claims {
    /// Whether there is no room for another one.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= CLAIMS_MAX
    }

    /// Has a packet wait.
    pub(super) fn add(&mut self, now: Time, claimant: Claimant) {
        let nonce = claimant.accepted.proof.request.nonce;
        self.0.insert(nonce, (now.after(PATIENCE), claimant));
    }

    /// The packet with that nonce, which waits no longer.
    pub(super) fn take(&mut self, nonce: &[u8; NONCE_LENGTH]) -> Option<Claimant> {
        self.0.remove(nonce).map(|(_, claimant)| claimant)
    }

    /// A packet that has waited for too long.
    pub(super) fn take_overdue(&mut self, now: Time) -> Option<Claimant> {
        let nonce = self.0.iter().find(|(_, (due, _))| *due <= now).map(|(nonce, _)| *nonce)?;
        self.take(&nonce)
    }

    /// All of them: there is no answer any more.
    pub(super) fn take_all(&mut self) -> Vec<Claimant> {
        self.0.drain().map(|(_, (_, claimant))| claimant).collect()
    }

    /// When one has waited for too long.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.values().map(|(due, _)| *due).min()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
