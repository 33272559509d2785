//! `tcp_flags`: a list, or a text with commas, of flags that must be set or (`!`) clear.

use knock_proto::TcpFlags;
use serde_json::Value;

use crate::excerpt::excerpt;
use crate::problem::Cause;

const FLAGS: [(&str, u8); 6] = [
    ("syn", TcpFlags::SYN),
    ("ack", TcpFlags::ACK),
    ("rst", TcpFlags::RST),
    ("fin", TcpFlags::FIN),
    ("psh", TcpFlags::PSH),
    ("urg", TcpFlags::URG),
];

/// Parses TCP flags, in the syntax of `tcp_flags`.
///
/// # Errors
///
/// The error and its remedy, if the value is not such a list.
pub fn tcp_flags(value: &Value) -> Result<TcpFlags, Cause> {
    let not_a_list = || Cause::Flags { value: excerpt(&value.to_string()) };
    let words: Vec<&str> = match value {
        Value::String(text) if text.trim().is_empty() => Vec::new(),
        Value::String(text) => text.split(',').collect(),
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(not_a_list)?,
        _ => return Err(not_a_list()),
    };
    let mut flags = TcpFlags { set: 0, clear: 0 };
    for word in words {
        let word = word.trim();
        let (name, clear) = match word.strip_prefix('!') {
            Some(name) => (name.trim_start(), true),
            None => (word, false),
        };
        let Some((_, bit)) = FLAGS.iter().find(|(known, _)| *known == name) else {
            return Err(Cause::Flag { flag: excerpt(word) });
        };
        *(if clear { &mut flags.clear } else { &mut flags.set }) |= bit;
    }
    if flags.set | flags.clear == 0 {
        return Err(Cause::FlagsEmpty);
    }
    match FLAGS.iter().find(|(_, bit)| flags.set & flags.clear & bit != 0) {
        Some((flag, _)) => Err(Cause::FlagContradiction { flag }),
        None => Ok(flags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_and_a_text_mean_the_same() {
        let expected = TcpFlags { set: TcpFlags::SYN | TcpFlags::URG, clear: TcpFlags::ACK };
        assert_eq!(tcp_flags(&json!(["syn", "!ack", "urg"])), Ok(expected));
        assert_eq!(tcp_flags(&json!("syn, !ack ,urg")), Ok(expected));
        assert_eq!(tcp_flags(&json!("!psh")), Ok(TcpFlags { set: 0, clear: TcpFlags::PSH }));
    }

    #[test]
    fn each_flag_is_known() {
        for (name, bit) in FLAGS {
            assert_eq!(tcp_flags(&json!(name)), Ok(TcpFlags { set: bit, clear: 0 }));
        }
    }
}
