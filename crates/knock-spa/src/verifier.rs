//! The keys of a realm for requests that another server has opened.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::authorized_keys::AuthorizedKey;
use crate::keyring::Refusal;
use crate::packet_keys::message;
use crate::public_key::Fingerprint;
use crate::realm::Realm;
use crate::request::Request;
use crate::signature::{Signature, to_be_signed};
use crate::signed_request::SignedRequest;

/// The keys of a realm without its covers: verifies requests that others have opened.
#[derive(Clone)]
pub struct Verifier {
    audience: [u8; 32],
    keys: Arc<[AuthorizedKey]>,
    by_fingerprint: HashMap<Fingerprint, usize>,
}

impl Verifier {
    /// For packets to `realm`, of these keys.
    pub fn new(realm: &Realm, keys: Arc<[AuthorizedKey]>) -> Verifier {
        let by_fingerprint = keys.iter().enumerate().map(|(index, key)| (key.key.fingerprint(), index)).collect();
        Verifier { audience: realm.audience(), keys, by_fingerprint }
    }

    /// The keys.
    pub fn keys(&self) -> &[AuthorizedKey] {
        &self.keys
    }

    /// The key with that fingerprint; `None` if it may not sign here.
    pub fn key(&self, fingerprint: &Fingerprint) -> Option<&AuthorizedKey> {
        self.by_fingerprint.get(fingerprint).map(|&index| &self.keys[index])
    }

    /// Verifies that the holder of `key` signed the request, and reads it.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn verify(&self, key: &AuthorizedKey, signed: &SignedRequest) -> Result<Request, Refusal> {
        let message = message(&self.audience, &key.key.fingerprint(), &signed.nonce, &signed.body);
        Signature::decode(&signed.signature)?.verify(&key.key, &to_be_signed(&message), key.options.presence)?;
        Ok(Request::decode(&signed.body)?)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys).finish_non_exhaustive()
    }
}
