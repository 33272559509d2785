//! The protocol of the ssh agent (draft-miller-ssh-agent): requests and answers as bytes. Who sends them is not decided
//! here.

use crate::key_type::PublicKeyError;
use crate::proof::Presence;
use crate::public_key::PublicKey;
use crate::signature::{AgentSignatureError, Signature};
use crate::wire::{Reader, put_string};

/// OpenSSH's agents answer with at most 256 KiB (`AGENT_MAX_LEN`, authfd.c).
pub const AGENT_ANSWER_MAX: usize = 256 * 1024;
/// The most keys that an agent may offer (`MAX_AGENT_IDENTITIES`, authfd.c).
const IDENTITIES_MAX: u32 = 2048;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// A key that an agent offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentKey {
    /// The key, or why it can't sign packets.
    pub key: Result<PublicKey, PublicKeyError>,
    /// The comment, as it is shown to the user; characters that can't be shown are left out.
    pub comment: String,
}

/// The answer of an agent is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// It does not list its keys.
    #[error("the ssh agent does not list its keys; is it locked? Unlock it with `ssh-add -X`")]
    NoList,
    /// It does not sign.
    #[error(
        "the ssh agent refuses to sign: the key was not confirmed or touched, is limited to hosts (`ssh-add -h`), or the agent \
         is locked; add the key again with `ssh-add`"
    )]
    Refused,
    /// The answer breaks the protocol.
    #[error("the answer of the ssh agent is not valid: {what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// What should be a signature is not one.
    #[error(transparent)]
    Signature(#[from] AgentSignatureError),
}

fn invalid(what: &'static str) -> AgentError {
    AgentError::Invalid { what }
}

/// The request for the keys of an agent, with its length in front.
pub fn list_request() -> Vec<u8> {
    framed(&[REQUEST_IDENTITIES])
}

/// The request for a signature of that key, with its length in front.
pub fn sign_request(key: &PublicKey, to_be_signed: &[u8]) -> Vec<u8> {
    let mut message = vec![SIGN_REQUEST];
    put_string(&mut message, key.blob());
    put_string(&mut message, to_be_signed);
    // Flags; they choose a hash for RSA.
    message.extend_from_slice(&[0; 4]);
    framed(&message)
}

/// The length of the answer that follows these four bytes.
///
/// # Errors
///
/// If it is longer than answers are, or empty.
pub fn answer_length(prefix: [u8; 4]) -> Result<usize, AgentError> {
    let length =
        usize::try_from(u32::from_be_bytes(prefix)).ok().filter(|length| (1..=AGENT_ANSWER_MAX).contains(length));
    length.ok_or(invalid("its length is wrong"))
}

/// Reads the answer to [`list_request`], without its length.
///
/// # Errors
///
/// If it is not a list.
pub fn read_list(answer: &[u8]) -> Result<Vec<AgentKey>, AgentError> {
    let mut reader = answer_of_kind(answer, IDENTITIES_ANSWER, AgentError::NoList)?;
    let short = invalid("its list of keys is cut off");
    let count = reader.u32().ok_or(short)?;
    if count > IDENTITIES_MAX {
        return Err(invalid("it lists more than 2048 keys"));
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        let (Some(blob), Some(comment)) = (reader.string(), reader.string()) else { return Err(short) };
        let comment = String::from_utf8_lossy(comment);
        let comment = comment.chars().filter(|&character| crate::excerpt::is_plain(character)).take(128).collect();
        keys.push(AgentKey { key: PublicKey::from_blob(blob), comment });
    }
    reader.end().ok_or(invalid("something follows its list of keys"))?;
    Ok(keys)
}

/// Reads the answer to [`sign_request`], without its length. That the signature is right is checked too: a packet with a
/// wrong one would be sent in vain, and nobody would say so.
///
/// # Errors
///
/// If it is not a signature of that key over `to_be_signed`.
pub fn read_signature(answer: &[u8], key: &PublicKey, to_be_signed: &[u8]) -> Result<Signature, AgentError> {
    let mut reader = answer_of_kind(answer, SIGN_RESPONSE, AgentError::Refused)?;
    let signature = reader.string().ok_or(invalid("its signature is cut off"))?;
    reader.end().ok_or(invalid("something follows its signature"))?;
    let signature = Signature::from_agent(signature, key)?;
    let verified = signature.verify(key, to_be_signed, Presence::Nothing);
    verified.map_err(|_| invalid("the signature is wrong"))?;
    Ok(signature)
}

fn answer_of_kind(answer: &[u8], wanted: u8, on_failure: AgentError) -> Result<Reader<'_>, AgentError> {
    match answer.split_first() {
        Some((&kind, rest)) if kind == wanted => Ok(Reader::new(rest)),
        Some((&FAILURE, _)) => Err(on_failure),
        _ => Err(invalid("it is of another kind")),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, message);
    out
}
