//! The page of the configuration, from its JSON schema: no field is missing, and none is there that is not.

use std::io;

use serde_json::{Map, Value};

use crate::page::{Part, Section, page};

const ABOUT: &str = "The configuration of `knockd`(8) is one JSON object; `knock-cli`(1) reads the names and sequences of the \
    rules of the same or another file. Unknown keys are errors. `knockd --check` says what is wrong with a file, where, \
    and what to write instead.";

const EXAMPLE: &str = r#"{
  "rules": [
    {
      "name": "ssh",
      "sequence": [28731, 4219, "51802/udp", 17660, 40117],
      "allow": { "ports": [22], "timeout": "1h" }
    }
  ]
}"#;

/// The fields, with what is said of them.
///
/// # Errors
///
/// Where the schema is no JSON.
fn fields_of(schema: &str) -> io::Result<Vec<(String, String)>> {
    let schema: Value = serde_json::from_str(schema)?;
    let mut fields = Vec::new();
    collect(&schema, &schema, "", &mut fields);
    Ok(fields)
}

/// The page as text.
pub(crate) fn render(schema: &str) -> io::Result<String> {
    let fields = fields_of(schema)?;
    let part = |prefix: fn(&str) -> bool| -> Vec<(&str, &str)> {
        fields.iter().filter(|(name, _)| prefix(name)).map(|(name, text)| (name.as_str(), text.as_str())).collect()
    };
    let rules = part(|name| name.starts_with("rules[]."));
    let others = part(|name| !name.starts_with("rules[]."));
    let sections = [
        Section { heading: "NAME", parts: vec![Part::Text("knockd.json - configuration of knockd")] },
        Section { heading: "SYNOPSIS", parts: vec![Part::Text("`/etc/knockd/config.json`")] },
        Section { heading: "DESCRIPTION", parts: vec![Part::Text(ABOUT)] },
        Section { heading: "FIELDS", parts: vec![Part::List(&others)] },
        Section { heading: "FIELDS OF A RULE", parts: vec![Part::List(&rules)] },
        Section { heading: "EXAMPLE", parts: vec![Part::Example(EXAMPLE)] },
        Section {
            heading: "SEE ALSO",
            parts: vec![Part::Text("`knockd`(8), `knockctl`(8), `knock-cli`(1); /usr/share/doc/knockd-nft/examples")],
        },
    ];
    page("knockd.json", "5", &sections)
}

/// Each field with its path and what the schema says of it.
fn collect(root: &Value, schema: &Value, path: &str, fields: &mut Vec<(String, String)>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (key, property) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let target = follow(root, property);
        fields.push((path.clone(), describe(property, target)));
        collect(root, target, &path, fields);
        if let Some(items) = target.get("items") {
            collect(root, follow(root, items), &format!("{path}[]"), fields);
        }
    }
}

/// What a property is, behind references and the alternative of null.
fn follow<'a>(root: &'a Value, property: &'a Value) -> &'a Value {
    if let Some(name) = property.get("$ref").and_then(Value::as_str) {
        let name = name.trim_start_matches("#/$defs/");
        return root.get("$defs").and_then(|all| all.get(name)).map_or(property, |target| follow(root, target));
    }
    let choices = property.get("anyOf").and_then(Value::as_array);
    let choice = choices.and_then(|choices| choices.iter().find(|choice| choice.get("type") != Some(&"null".into())));
    choice.map_or(property, |choice| follow(root, choice))
}

fn describe(property: &Value, target: &Value) -> String {
    let own = property.get("description").and_then(Value::as_str).unwrap_or_default();
    let mut text = own.split_whitespace().collect::<Vec<_>>().join(" ");
    // What is said of the type, unless the field says the same.
    let values = target.get("description").and_then(Value::as_str).filter(|values| *values != own);
    let values = values.filter(|_| target.get("properties").is_none());
    let mut add = |more: &str| {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(more);
    };
    if let Some(values) = values {
        add(&values.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    // Words alone, or each with a description of its own.
    let choices = target.get("enum").or(target.get("oneOf")).and_then(Value::as_array).into_iter().flatten();
    let words = choices.filter_map(|choice| if choice.is_object() { choice.get("const") } else { Some(choice) });
    let words: Vec<String> = words.filter(|word| !word.is_null()).map(Value::to_string).collect();
    if !words.is_empty() {
        add(&format!("One of {}.", words.join(", ")));
    }
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let bounds: Map<String, Value> = object(target).into_iter().chain(object(property)).collect();
    if let (Some(least), Some(most)) = (bounds.get("minimum"), bounds.get("maximum")) {
        add(&format!("From {least} to {most}."));
    }
    if let Some(default) = property.get("default").filter(|default| !default.is_null()) {
        add(&format!("Default: `{default}`."));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_schema_has_a_description() {
        let fields = fields_of(&knock_config::schema()).expect("a schema");
        assert!(fields.iter().any(|(name, _)| name == "rules[].allow.ports"), "{fields:?}");
        for (name, text) in fields {
            assert!(!text.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_example_is_valid() {
        knock_config::parse("knockd.json(5)", EXAMPLE).expect("a valid example");
    }
}
