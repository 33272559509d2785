//! Knocks and guarded ports as a configuration writes them.

use std::str::FromStr;

use knock_proto::ParseKnockError;
use serde_json::Value;

use crate::problem::{Cause, excerpt};

/// Parses a knock or a guarded port.
pub(crate) fn port<P: FromStr<Err = ParseKnockError>>(value: &Value) -> Result<P, Cause> {
    let shown = || excerpt(&value.to_string());
    let text = match value {
        Value::Number(number) if !number.is_f64() => number.to_string(),
        // serde_json reads a whole number of more than 64 bits as a float.
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => {
            return Err(Cause::PortRange { port: shown() });
        }
        Value::String(text) => text.clone(),
        _ => return Err(Cause::Port { value: shown() }),
    };
    text.parse().map_err(|error| match error {
        ParseKnockError::OutOfRange(port) => Cause::PortRange { port: excerpt(&port) },
        ParseKnockError::UnknownProtocol(protocol) => Cause::PortProtocol { protocol: excerpt(&protocol) },
        ParseKnockError::NotANumber(_) if text.parse::<i64>().is_ok() => Cause::PortRange { port: excerpt(&text) },
        ParseKnockError::NotANumber(_) if is_range(&text) => Cause::PortList { value: shown() },
        ParseKnockError::NotANumber(_) => Cause::Port { value: shown() },
    })
}

fn is_range(text: &str) -> bool {
    let bare = |byte: u8| byte.is_ascii_digit() || b"-, ".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(bare)
}
