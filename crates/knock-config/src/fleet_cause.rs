//! What is wrong with `fleet`.

use knock_fleet::NodeKeyError;

/// A value of `fleet` is wrong. No message has any part of a private key or a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant means")]
pub enum FleetCause {
    #[error("`fleet` has no `{key}`; write `realm`, `servers` and `nodes`")]
    Missing { key: &'static str },
    #[error(
        "{value} is not a server; write a host and a port, as in \"store.example.com:6379\" or \"[2001:db8::1]:6379\""
    )]
    Server { value: String },
    #[error(
        "this is a URL; write only the host and the port, as in \"store.example.com:6379\", and use `tls`, `user` and \
         `password_file` for the rest"
    )]
    ServerUrl,
    #[error("server {server} is in the list twice; delete one of the two")]
    ServerTwice { server: String },
    #[error("{value} is not the user of a store; write a name without spaces")]
    User { value: String },
    #[error("the node has no `{key}`; write `name` and `key`, as `knockctl fleet keygen` prints them")]
    NodeIncomplete { key: &'static str },
    #[error("{name} is not the name of a node; write 1 to 64 letters, digits, `_`, `.` or `-`")]
    NodeName { name: String },
    #[error("duplicate node name `{name}`, first in fleet.nodes[{first}]; write a unique name")]
    NodeNameTaken { name: String, first: usize },
    #[error(transparent)]
    NodeKey(NodeKeyError),
    #[error("fleet.nodes[{first}] has the same key; make a key for each node with `knockctl fleet keygen`")]
    NodeKeyTaken { first: usize },
    #[error("there is no rule `{name}`; {}write the name of a rule with `allow`",
        suggestion.as_ref().map(|known| format!("did you mean `{known}`? ")).unwrap_or_default())]
    RuleUnknown { name: String, suggestion: Option<String> },
    #[error("rule `{name}` has no `allow`, so it has no grants to share; write the name of a rule with `allow`")]
    RuleWithoutAllow { name: String },
    #[error("rule `{name}` is in the list twice; delete one of the two")]
    RuleTwice { name: String },
}
