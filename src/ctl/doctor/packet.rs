//! Whether a packet matches an expression of an nftables rule, as far as that is known without the packet.

use serde_json::Value;

/// The first packet of a connection from somewhere else, of which address and interface are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) version: Version,
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// The destination port, where it is known.
    pub(crate) port: Option<u16>,
    /// Whether its source is in that set, the name without its table.
    pub(crate) member: Option<(String, bool)>,
}

/// The version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Yes,
    No,
    /// It depends on facts that are not known.
    Maybe,
}

impl Truth {
    pub(crate) fn and(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Yes, Truth::Yes) => Truth::Yes,
            _ => Truth::Maybe,
        }
    }

    fn not(self) -> Truth {
        match self {
            Truth::Yes => Truth::No,
            Truth::No => Truth::Yes,
            Truth::Maybe => Truth::Maybe,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Truth {
        if value { Truth::Yes } else { Truth::No }
    }
}

impl Packet {
    /// Whether the packet meets a `match` statement.
    pub(crate) fn meets(&self, statement: &Value) -> Truth {
        let (left, right) = (&statement["left"], &statement["right"]);
        match statement["op"].as_str() {
            Some("==" | "in") => self.is(left, right),
            // A field of another protocol is not unequal: the rule does not apply.
            Some("!=") if self.has(left) => self.is(left, right).not(),
            Some("!=") => Truth::No,
            Some(operator @ ("<" | ">" | "<=" | ">=")) => match (self.port_of(left), right.as_u64()) {
                (Some(port), Some(bound)) => Truth::from(match operator {
                    "<" => u64::from(port) < bound,
                    ">" => u64::from(port) > bound,
                    "<=" => u64::from(port) <= bound,
                    _ => u64::from(port) >= bound,
                }),
                _ if self.has(left) => Truth::Maybe,
                _ => Truth::No,
            },
            _ => Truth::Maybe,
        }
    }

    /// Whether the value of an expression is the other one, or one of several.
    pub(crate) fn is(&self, left: &Value, right: &Value) -> Truth {
        if !self.has(left) {
            return Truth::No;
        }
        if let Some(set) = right.as_str().and_then(|name| name.strip_prefix('@')) {
            return match &self.member {
                Some((name, inside)) if name == set && mentions_source(left) => Truth::from(*inside),
                _ => Truth::Maybe,
            };
        }
        if let Some(values) = right["set"].as_array().or_else(|| right.as_array()) {
            return values
                .iter()
                .map(|value| self.is_one(left, value))
                .fold(Truth::No, |so_far, next| so_far.not().and(next.not()).not());
        }
        self.is_one(left, right)
    }

    fn is_one(&self, left: &Value, right: &Value) -> Truth {
        if let Some(parts) = left["concat"].as_array() {
            let values = right["concat"].as_array().map(Vec::as_slice).unwrap_or_default();
            return parts.iter().zip(values).fold(Truth::Yes, |so_far, (part, value)| so_far.and(self.is(part, value)));
        }
        if let Some(meta) = left["meta"]["key"].as_str() {
            return match meta {
                "l4proto" => Truth::from(right.as_str() == Some(&self.protocol)),
                "nfproto" => Truth::from(right.as_str() == Some(self.version.name())),
                // The packet comes from another host.
                "iif" | "iifname" if right.as_str() == Some("lo") => Truth::No,
                _ => Truth::Maybe,
            };
        }
        if left["ct"]["key"].as_str() == Some("state") {
            return Truth::from(right.as_str() == Some("new"));
        }
        if left["fib"]["result"].as_str() == Some("type") {
            return Truth::from(right.as_str() == Some("local"));
        }
        if let Some(truth) = self.flags(left, right) {
            return truth;
        }
        if let Some(port) = self.port_of(left) {
            return match (right.as_u64(), &right["range"]) {
                (Some(number), _) => Truth::from(number == u64::from(port)),
                (None, Value::Array(range)) => {
                    match (range.first().and_then(Value::as_u64), range.get(1).and_then(Value::as_u64)) {
                        (Some(first), Some(last)) => Truth::from((first..=last).contains(&u64::from(port))),
                        _ => Truth::Maybe,
                    }
                }
                _ => Truth::Maybe,
            };
        }
        match (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str()) {
            (Some("ip"), Some("protocol")) | (Some("ip6"), Some("nexthdr")) => {
                Truth::from(right.as_str() == Some(&self.protocol))
            }
            _ => Truth::Maybe,
        }
    }

    /// TCP flags: the packet has SYN and no other.
    fn flags(&self, left: &Value, right: &Value) -> Option<Truth> {
        let is_flags = |value: &Value| value["payload"]["field"].as_str() == Some("flags");
        if is_flags(left) {
            return Some(Truth::from(words(right).contains(&"syn")));
        }
        let (field, mask) = (left["&"].get(0)?, left["&"].get(1)?);
        if !is_flags(field) {
            return None;
        }
        let wanted = words(right);
        Some(Truth::from(if words(mask).contains(&"syn") { wanted == ["syn"] } else { wanted.is_empty() }))
    }

    /// Whether the packet has what the expression looks at.
    fn has(&self, left: &Value) -> bool {
        if let Some(parts) = left["concat"].as_array().or_else(|| left["&"].as_array()) {
            return parts.iter().all(|part| self.has(part));
        }
        match left["payload"]["protocol"].as_str() {
            Some("ip" | "icmp" | "igmp") if self.version != Version::V4 => false,
            Some("ip6" | "icmpv6") if self.version != Version::V6 => false,
            Some("icmp" | "igmp" | "icmpv6") => false,
            Some(protocol @ ("tcp" | "udp" | "udplite" | "sctp" | "dccp" | "esp" | "ah")) => protocol == self.protocol,
            _ => true,
        }
    }

    fn port_of(&self, left: &Value) -> Option<u16> {
        (left["payload"]["field"].as_str() == Some("dport") && self.has(left)).then_some(self.port)?
    }
}

impl Version {
    /// As `meta nfproto` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Version::V4 => "ipv4",
            Version::V6 => "ipv6",
        }
    }

    /// Whether tables of that family see its packets.
    pub(crate) fn is_seen_by(self, family: &str) -> bool {
        match family {
            "inet" | "netdev" => true,
            "ip" => self == Version::V4,
            "ip6" => self == Version::V6,
            _ => false,
        }
    }
}

pub(super) fn mentions_source(left: &Value) -> bool {
    let parts = left["concat"].as_array().map_or(std::slice::from_ref(left), Vec::as_slice);
    parts.iter().any(|part| part["payload"]["field"].as_str() == Some("saddr"))
}

/// A flag, or a list, or flags joined by `|`.
fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::String(word) => vec![word],
        Value::Array(values) => values.iter().flat_map(words).collect(),
        Value::Object(object) => object.values().flat_map(words).collect(),
        _ => Vec::new(),
    }
}
/// The protocol and the ports of a rule, where it names them one by one.
pub(crate) fn ports(statement: &Value) -> Option<(String, Vec<u16>)> {
    let (left, right) = (&statement["match"]["left"]["payload"], &statement["match"]["right"]);
    if left["field"].as_str() != Some("dport") {
        return None;
    }
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let values = right["set"].as_array().map_or(std::slice::from_ref(right), Vec::as_slice);
    let protocol = left["protocol"].as_str().filter(|protocol| *protocol == "udp").unwrap_or("tcp");
    let ports: Vec<u16> = values.iter().filter_map(number).collect();
    (!ports.is_empty()).then(|| (protocol.to_owned(), ports))
}
