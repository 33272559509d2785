//! nft(8): elements of sets. An nftables rule is deleted by its handle, which no command knows in advance.

use knock_config::excerpt;
use knock_proto::SetName;

use super::{Act, Effect, Opening, time};

pub(super) fn effect(arguments: &[&str]) -> Result<Effect, String> {
    let text = arguments.join(" ").replace(['{', '}', ';'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let (act, name, element) = match &words[..] {
        ["add" | "create", "element", family, table, set, element @ ..] => (Act::Open, [family, table, set], element),
        ["delete" | "destroy", "element", family, table, set, element @ ..] => {
            (Act::Close, [family, table, set], element)
        }
        ["add" | "insert" | "delete" | "replace", "rule", ..] => {
            return Err(
                "an nftables rule is deleted by its handle, which import cannot follow; use `allow.ports`, or a \
                        set with the timeout flag and `allow.set`"
                    .to_owned(),
            );
        }
        _ => return Err("import knows only `add element` and `delete element` of nft".to_owned()),
    };
    let name = name.map(|word| *word).join(" ");
    name.parse::<SetName>().map_err(|error| format!("the name of the set `{}` {}", excerpt(&name), error.reason))?;
    let mut effect = Effect { act, opening: Opening::Set(name), expires: None, limit: None };
    match element {
        ["%IP%", options @ ..] if options.len() % 2 == 0 && !options.contains(&".") => {
            for option in options.chunks_exact(2) {
                match option[0] {
                    "timeout" | "expires" if act == Act::Open => effect.expires = Some(time(option[1])?),
                    "comment" => {}
                    other => return Err(format!("no grant has the option `{}` of its element", excerpt(other))),
                }
            }
            Ok(effect)
        }
        _ => Err("its element is not %IP% alone, and a user set of knockd has addresses as keys".to_owned()),
    }
}
