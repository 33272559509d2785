//! Knocks and guarded ports as a configuration writes them.

use knock_proto::{Knock, ParseKnockError, ParsePortsError, PortRange};
use serde_json::Value;

use crate::excerpt::excerpt;
use crate::problem::Cause;

/// Parses a knock.
pub(crate) fn knock(value: &Value) -> Result<Knock, Cause> {
    let text = text(value)?;
    text.parse().map_err(|error| cause(value, &text, error))
}

/// Parses guarded ports: one or a range.
pub(crate) fn ports(value: &Value) -> Result<PortRange, Cause> {
    let text = text(value)?;
    text.parse().map_err(|error| match error {
        ParsePortsError::Backwards { first, last } => Cause::RangeBackwards { first, last },
        ParsePortsError::Port(error) => match cause(value, &text, error) {
            Cause::PortList { value } if text.contains('-') => Cause::RangeForm { value },
            cause => cause,
        },
    })
}

fn text(value: &Value) -> Result<String, Cause> {
    let shown = || excerpt(&value.to_string());
    match value {
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        // serde_json reads a whole number of more than 64 bits as a float.
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => {
            Err(Cause::PortRange { port: shown() })
        }
        Value::String(text) => Ok(text.clone()),
        _ => Err(Cause::Port { value: shown() }),
    }
}

/// The cause of an error in `text`, which is `value`.
fn cause(value: &Value, text: &str, error: ParseKnockError) -> Cause {
    let shown = || excerpt(&value.to_string());
    match error {
        ParseKnockError::OutOfRange(port) => Cause::PortRange { port: excerpt(&port) },
        ParseKnockError::UnknownProtocol(protocol) => Cause::PortProtocol { protocol: excerpt(&protocol) },
        ParseKnockError::NotANumber(_) if text.parse::<i64>().is_ok() => Cause::PortRange { port: excerpt(text) },
        ParseKnockError::NotANumber(_) if is_range(text) => Cause::PortList { value: shown() },
        ParseKnockError::NotANumber(_) => Cause::Port { value: shown() },
    }
}

fn is_range(text: &str) -> bool {
    let bare = |byte: u8| byte.is_ascii_digit() || b"-, ".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(bare)
}
