//! The text of a configuration as JSON, and the place of each field in the text.

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::format::{Format, format};
use crate::path::{FieldPath, Step};
use crate::problem::{Cause, Position};

/// A parsed text that knows the position of each of its values.
pub(crate) struct Document<'t> {
    text: &'t str,
    root: Value<'t>,
}

/// JSON alone, none of the extensions that the parser knows.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

impl<'t> Document<'t> {
    /// Parses `text`, whose top must be an object (RFC 8259).
    ///
    /// serde_json reads it first: it bounds the depth at 128 and decides what is JSON.
    pub(crate) fn parse(text: &'t str) -> Result<(Document<'t>, serde_json::Value), (Position, Cause)> {
        if text.starts_with('\u{feff}') {
            return Err(other_format(text).unwrap_or((Position::START, Cause::ByteOrderMark)));
        }
        if text.trim().is_empty() {
            return Err((Position::START, Cause::Empty));
        }
        let value = serde_json::from_str::<serde_json::Value>(text)
            .map_err(|error| other_format(text).unwrap_or_else(|| syntax_error(text, &error)))?;
        if !value.is_object() {
            return Err((Position::START, Cause::NotAnObject { found: kind(&value) }));
        }
        match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
            Ok(parsed) => match parsed.value {
                Some(root) => Ok((Document { text, root }, value)),
                None => Err((Position::START, Cause::Empty)),
            },
            Err(error) => Err((
                Position::of(text, error.range().start),
                Cause::Syntax { reason: error.kind().to_string(), hint: None },
            )),
        }
    }

    /// The whole text.
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// The value at the top.
    pub(crate) fn root(&self) -> &Value<'t> {
        &self.root
    }

    /// The byte at which the value at `path` begins, or, without such a value, the nearest value that encloses it.
    pub(crate) fn offset(&self, path: &FieldPath) -> usize {
        let mut value = &self.root;
        for step in &path.0 {
            let next = match (value, step) {
                (Value::Object(object), Step::Key(key)) => object.get(key).map(|property| &property.value),
                (Value::Array(array), Step::Index(index)) => array.elements.get(*index),
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => break,
            }
        }
        value.start()
    }
}

/// The name of the JSON type of that value.
pub(crate) fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}

/// The error of a text that is no JSON, because it has another format.
fn other_format(text: &str) -> Option<(Position, Cause)> {
    let (format, line) = format(text);
    let cause = match format {
        Format::Json => return None,
        Format::Knock => Cause::KnockFormat,
        Format::Yaml => Cause::YamlFormat,
    };
    Some((Position { line, column: 1 }, cause))
}

fn syntax_error(text: &str, error: &serde_json::Error) -> (Position, Cause) {
    let position = Position { line: error.line().max(1), column: error.column().max(1) };
    let full = error.to_string();
    let reason = full.rsplit_once(" at line ").map_or(full.as_str(), |(reason, _)| reason).to_owned();
    let line = text.lines().nth(position.line - 1).unwrap_or_default();
    // serde_json counts bytes; its column is that of the byte at which it failed.
    let rest = line.as_bytes().get(position.column - 1..).unwrap_or_default();
    let hint = match rest.first() {
        Some(b'/' | b'#') => Some("JSON has no comments: delete the comment"),
        Some(b'\'') => Some("write JSON strings in double quotes"),
        Some(first)
            if first.is_ascii_alphabetic() && matches!(reason.as_str(), "expected value" | "expected ident") =>
        {
            Some("write JSON strings in double quotes")
        }
        _ if reason.starts_with("EOF") => Some("the text ends too early: a quote or a bracket is missing"),
        _ if reason.starts_with("trailing comma") => Some("delete the comma before the bracket"),
        _ if reason.starts_with("recursion limit") => Some("a configuration needs no such deep nesting"),
        _ => None,
    };
    let before = line.as_bytes().get(..position.column - 1).unwrap_or_default();
    let column = String::from_utf8_lossy(before).chars().count() + 1;
    (Position { column, ..position }, Cause::Syntax { reason, hint })
}
