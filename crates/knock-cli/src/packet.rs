//! The signed packet of a rule.

use knock_client::spa::{Operation, RuleName};
use knock_client::{Ask, SignedPackets};
use knock_config::client::{ClientRule, ClientSpa};

use crate::args::Args;
use crate::error::Error;
use crate::identity;
use crate::notice;

/// The packets that open a rule with `spa`, and how the key is called that signs. `asked`: a rule of the server by another
/// name.
pub(crate) fn packets(
    args: &Args,
    rule: &ClientRule,
    spa: &ClientSpa,
    asked: Option<&RuleName>,
) -> Result<(SignedPackets, String), Error> {
    let identity = identity::find(args.identity.as_deref().or(rule.identity.as_deref()), notice::wanted(args))?;
    let ask = Ask {
        operation: if args.close { Operation::Close } else { Operation::Open },
        grant_for: args.address.unwrap_or_default(),
        widen: args.widen,
        lifetime: args.lifetime,
        rule: asked.or(spa.rule.as_ref()).cloned(),
    };
    let packets = SignedPackets::new(spa.port, &spa.realm, &spa.cover, identity.signer, ask);
    Ok((packets, identity.shown))
}
