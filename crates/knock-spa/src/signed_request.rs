//! A request outside of its packet, with the signature that proves it: for a server that the packet did not reach.

use std::fmt;

use crate::packet::NONCE_LENGTH;
use crate::request::{BODY_LENGTH, Request};
use crate::signature;

/// What was inside a packet: nonce, body and signature, as they were. Nothing shows yet that the holder of a key made it.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedRequest {
    /// The nonce, by which the packet is known.
    pub nonce: [u8; NONCE_LENGTH],
    /// The body.
    pub body: [u8; BODY_LENGTH],
    /// The signature.
    pub signature: [u8; signature::LENGTH],
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedRequest").field("request", &Request::decode(&self.body)).finish_non_exhaustive()
    }
}
