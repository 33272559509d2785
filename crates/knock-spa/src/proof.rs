//! What a signature has to prove, and what is missing if it does not.

/// Somebody touched the authenticator: the bit UP of WebAuthn's authenticator data.
const TOUCHED: u8 = 0x01;
/// The authenticator checked a PIN or a finger: the bit UV.
const USER_VERIFIED: u8 = 0x04;

/// What a FIDO key has to prove beside its signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Nothing: the option `no-touch-required`.
    Nothing,
    /// That somebody touched it.
    #[default]
    Touch,
    /// That it checked a PIN or a finger: the option `verify-required`. A touch too, unless `touch` is false.
    Verification {
        /// Whether somebody has to touch it as well.
        touch: bool,
    },
}

impl Presence {
    fn required_flags(self) -> u8 {
        match self {
            Presence::Nothing => 0,
            Presence::Touch => TOUCHED,
            Presence::Verification { touch: false } => USER_VERIFIED,
            Presence::Verification { touch: true } => TOUCHED | USER_VERIFIED,
        }
    }

    /// Checks the flags that an authenticator has signed.
    pub(crate) fn check(self, flags: u8) -> Result<(), SignatureError> {
        let missing = self.required_flags() & !flags;
        if missing & TOUCHED != 0 {
            return Err(SignatureError::NotTouched);
        }
        if missing != 0 {
            return Err(SignatureError::NotVerified);
        }
        Ok(())
    }
}

/// A signature does not prove what it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key did not make it for this packet.
    #[error("the signature is wrong")]
    Wrong,
    /// An ECDSA signature has two forms, and this is the one that packets do not have.
    #[error(
        "the signature has the greater of the two values of s that are valid; the client has to send the smaller one"
    )]
    GreaterS,
    /// Bytes that have to be zero are not.
    #[error("the signature has bytes that must be zero and are not")]
    Reserved,
    /// Nobody touched the FIDO key.
    #[error("nobody touched the FIDO key; touch it when it blinks, or give the key the option `no-touch-required`")]
    NotTouched,
    /// The FIDO key did not check a PIN or a finger.
    #[error("the FIDO key did not check a PIN; make a key with the option `-O verify-required` of `ssh-keygen`")]
    NotVerified,
}
