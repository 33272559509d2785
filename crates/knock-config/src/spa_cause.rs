//! What is wrong with the keys of a client for signed packets.

use knock_spa::{CoverError, RealmError, RuleNameError};

/// A key of the client for signed packets is wrong. No message has any part of a cover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant means")]
pub enum SpaCause {
    #[error(
        "`spa` is not an object with `port`, `realm` and `cover`; put the URL that `knockctl spa init` printed into the file \
         with `knock-cli add`"
    )]
    Form,
    #[error("`spa` has no `{key}`; put the URL that `knockctl spa init` printed into the file with `knock-cli add`")]
    Missing { key: &'static str },
    #[error("the rule has `spa` and a sequence; delete one of the two")]
    BesideSequence,
    #[error("{value} is not a UDP port; write a number from 1 to 65535")]
    Port { value: String },
    #[error("{value} is not a text; write the {key} in quotes")]
    Text { key: &'static str, value: String },
    #[error(transparent)]
    Realm(RealmError),
    #[error("the cover is not a text; write the line of the cover file, in quotes")]
    CoverType,
    #[error(transparent)]
    Cover(CoverError),
    #[error(transparent)]
    Rule(RuleNameError),
    #[error("{value} is not the path of a file; write the file of a private key, as in \"~/.ssh/id_ed25519\"")]
    Identity { value: String },
    #[error(
        "`identity` is the key of a signed packet, which this rule does not send; delete `identity`, or write `spa`"
    )]
    IdentityAlone,
}
