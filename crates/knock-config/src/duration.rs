//! Durations: a number of seconds, or a text with its unit.

use std::time::Duration;

use serde_json::Value;

use crate::excerpt::excerpt;
use crate::problem::Cause;

/// The longest duration of a configuration.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The minimum of a duration, and its name in messages.
#[derive(Clone, Copy)]
pub(crate) struct Least(Duration, &'static str);

/// The resolution of nftables' timeouts, enough for everything else.
pub(crate) const MILLISECOND: Least = Least(Duration::from_millis(1), "\"1ms\"");
/// The minimum for a grant: no client connects faster.
pub(crate) const SECOND: Least = Least(Duration::from_secs(1), "a second");

/// Parses a duration between `least` and [`LONGEST`].
pub(crate) fn duration(value: &Value, least: Least) -> Result<Duration, Cause> {
    let shown = excerpt(&value.to_string());
    let duration = match value {
        Value::Number(number) => match number.as_f64() {
            Some(seconds) if seconds > LONGEST.as_secs_f64() => return Err(Cause::DurationLong { value: shown }),
            Some(seconds) => Duration::try_from_secs_f64(seconds.max(0.0)).ok(),
            None => None,
        },
        Value::String(text) => text_duration(text, &shown)?,
        _ => None,
    };
    match duration {
        None => Err(Cause::Duration { value: shown }),
        Some(Duration::ZERO) => Err(Cause::DurationZero { value: shown, min: least.1 }),
        Some(duration) if duration < least.0 => Err(Cause::DurationShort { value: shown, min: least.1 }),
        Some(duration) if duration > LONGEST => Err(Cause::DurationLong { value: shown }),
        Some(duration) => Ok(duration),
    }
}

/// Parses the duration of a grant, in the syntax of `allow.timeout`: a number of seconds or a text such as `"10m"`,
/// from a second to a year.
///
/// # Errors
///
/// The error and its remedy, if the value is not such a duration.
pub fn grant_timeout(value: &Value) -> Result<Duration, Cause> {
    duration(value, SECOND)
}

fn text_duration(text: &str, shown: &str) -> Result<Option<Duration>, Cause> {
    let unit_start = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_start);
    if number.is_empty() {
        return Ok(None);
    }
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(Cause::DurationUnit { value: shown.to_owned() }),
        _ => return Ok(None),
    };
    // More digits than a u64 holds, or more milliseconds, is longer than any duration of a configuration.
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds)).unwrap_or(u64::MAX);
    Ok(Some(Duration::from_millis(total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_is_seconds_and_a_text_has_a_unit() {
        for (value, milliseconds) in [
            (json!(5), 5_000),
            (json!(0.25), 250),
            (json!("500ms"), 500),
            (json!("5s"), 5_000),
            (json!("10m"), 600_000),
            (json!("1h"), 3_600_000),
            (json!("1d"), 86_400_000),
            (json!("365d"), 365 * 86_400_000),
        ] {
            assert_eq!(duration(&value, MILLISECOND), Ok(Duration::from_millis(milliseconds)), "{value}");
        }
    }

    #[test]
    fn a_wrong_duration_is_refused_with_its_reason() {
        for value in [
            json!("abc"),
            json!("5 weeks"),
            json!("5 s"),
            json!(" 5s"),
            json!("1.5h"),
            json!("-5s"),
            json!(""),
            json!([]),
            json!(true),
        ] {
            assert_eq!(duration(&value, MILLISECOND), Err(Cause::Duration { value: value.to_string() }));
        }
        for value in [json!(31_536_001), json!("366d"), json!(1e300), json!("99999999999999999999999h")] {
            assert_eq!(duration(&value, MILLISECOND), Err(Cause::DurationLong { value: value.to_string() }));
        }
        for value in [json!(0), json!(-3), json!("0s"), json!(0.0)] {
            let cause = Cause::DurationZero { value: value.to_string(), min: "\"1ms\"" };
            assert_eq!(duration(&value, MILLISECOND), Err(cause));
        }
    }

    #[test]
    fn the_minimum_is_allowed() {
        assert_eq!(duration(&json!(1), SECOND), Ok(Duration::from_secs(1)));
        let cause = Cause::DurationShort { value: "\"999ms\"".to_owned(), min: "a second" };
        assert_eq!(duration(&json!("999ms"), SECOND), Err(cause));
        assert!(matches!(duration(&json!(0.0001), MILLISECOND), Err(Cause::DurationShort { .. })));
    }
}
