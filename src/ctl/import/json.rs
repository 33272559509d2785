//! The text of the new configuration: a member a line, in the order of the documentation, lists and small objects
//! within the line.

use knock_proto::{Port, PortRange, Protocol};
use serde_json::Value;

/// The members of an object, in their order.
pub(super) type Members = Vec<(&'static str, Value)>;

/// A configuration with these members and rules.
pub(super) fn configuration(top: &Members, rules: &[Members]) -> String {
    let mut text = String::from("{\n");
    for (key, value) in top {
        text.push_str(&format!("  \"{key}\": {},\n", inline(value)));
    }
    text.push_str("  \"rules\": [");
    for (index, rule) in rules.iter().enumerate() {
        let members: Vec<String> =
            rule.iter().map(|(key, value)| format!("      \"{key}\": {}", inline(value))).collect();
        text.push_str(if index > 0 { ",\n    {\n" } else { "\n    {\n" });
        text.push_str(&members.join(",\n"));
        text.push_str("\n    }");
    }
    text.push_str("\n  ]\n}\n");
    text
}

/// A value within a line, with a blank after each comma and colon.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), inline(value)))
                .collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// A knock or a guarded port as a configuration writes it: a number for TCP.
pub(super) fn port(protocol: Protocol, number: u16) -> Value {
    match protocol {
        Protocol::Tcp => Value::from(number),
        Protocol::Udp => Value::from(Port::udp(number).to_string()),
    }
}

/// Guarded ports as a configuration writes them.
pub(super) fn ports(range: PortRange) -> Value {
    match (range.single(), range) {
        (Some(single), _) => port(single.protocol, single.number),
        (None, PortRange { protocol: Protocol::Tcp, first, last }) => Value::from(format!("{first}-{last}")),
        (None, range) => Value::from(range.to_string()),
    }
}
