//! The JSON schema of the configuration, and the keys that it allows.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::raw::{CLIENT_KEYS, RawConfig, SPA_KEYS};

/// The JSON schema (draft 2020-12) of the configuration file, as shipped in `config.schema.json`.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&generate(false)).unwrap_or_default();
    text.push('\n');
    text
}

fn generate(inline: bool) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = inline);
    settings.into_generator().into_root_schema_for::<RawConfig>().to_value()
}

/// The members that an object can have. They come from the schema, so that there is one list of keys.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    members: Option<BTreeMap<String, Shape>>,
    element: Option<Box<Shape>>,
}

impl Shape {
    /// The shape of a whole configuration.
    pub(crate) fn of_config() -> Shape {
        Shape::of(&generate(true))
    }

    /// The shape of a client's file: a configuration whose rules have further keys.
    pub(crate) fn of_client() -> Shape {
        let mut shape = Shape::of_config();
        let rules = shape.members.as_mut().and_then(|members| members.get_mut("rules"));
        let rule = rules.and_then(|rules| rules.element.as_mut()).and_then(|rule| rule.members.as_mut());
        if let Some(rule) = rule {
            rule.extend(CLIENT_KEYS.map(|key| (key.to_owned(), Shape::default())));
            rule.insert("spa".to_owned(), Shape::with_members(&SPA_KEYS));
        }
        shape
    }

    /// The shape of an object with these keys, whose values have no keys.
    fn with_members(keys: &[&str]) -> Shape {
        let members = keys.iter().map(|key| ((*key).to_owned(), Shape::default())).collect();
        Shape { members: Some(members), element: None }
    }

    fn of(schema: &Value) -> Shape {
        // An optional struct is `anyOf` the struct and null.
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            let mut shapes = choices.iter().map(Shape::of);
            return shapes.find(|shape| shape.is_object() || shape.element.is_some()).unwrap_or_default();
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        Shape {
            members: properties
                .map(|members| members.iter().map(|(key, value)| (key.clone(), Shape::of(value))).collect()),
            element: schema.get("items").map(|items| Box::new(Shape::of(items))),
        }
    }

    pub(crate) fn is_object(&self) -> bool {
        self.members.is_some()
    }

    pub(crate) fn member(&self, key: &str) -> Option<&Shape> {
        self.members.as_ref().and_then(|members| members.get(key))
    }

    pub(crate) fn element(&self) -> Option<&Shape> {
        self.element.as_deref()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> + Clone {
        self.members.iter().flat_map(BTreeMap::keys).map(String::as_str)
    }
}
