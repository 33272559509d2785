//! `spa` of a client's rule: what a signed packet is sent to, and what it is sealed with.

use std::num::NonZeroU16;
use std::path::PathBuf;

use knock_spa::{Cover, Realm, RuleName};
use serde_json::{Map, Value};

use crate::checker::Checker;
use crate::path::FieldPath;
use crate::problem::Cause;
use crate::spa_cause::SpaCause;
use crate::value::shown;

/// What a client needs to ask for a rule with a signed packet. It holds a secret, the cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSpa {
    /// The UDP port of the server.
    pub port: NonZeroU16,
    /// The realm.
    pub realm: Realm,
    /// The cover.
    pub cover: Cover,
    /// The name of the rule on the server; `None`: the only rule that the key may use.
    pub rule: Option<RuleName>,
}

/// Reads an object; `None` where it is wrong, which is reported.
pub(super) fn spa(object: &Map<String, Value>, path: &FieldPath, checker: &mut Checker<'_>) -> Option<ClientSpa> {
    let mut field = Fields { object, path, checker };
    let port = field.required("port", port);
    let realm = field.required("realm", realm);
    let cover = field.required("cover", cover);
    let rule = field.optional("rule", rule);
    Some(ClientSpa { port: port?, realm: realm?, cover: cover?, rule })
}

struct Fields<'a, 'd> {
    object: &'a Map<String, Value>,
    path: &'a FieldPath,
    checker: &'a mut Checker<'d>,
}

impl Fields<'_, '_> {
    fn required<T>(&mut self, key: &'static str, check: fn(&Value) -> Result<T, SpaCause>) -> Option<T> {
        if !self.object.contains_key(key) {
            self.checker.report(self.path, SpaCause::Missing { key }.into());
        }
        self.optional(key, check)
    }

    fn optional<T>(&mut self, key: &str, check: fn(&Value) -> Result<T, SpaCause>) -> Option<T> {
        check(self.object.get(key)?).map_err(|cause| self.checker.report(&self.path.key(key), cause.into())).ok()
    }
}

fn port(value: &Value) -> Result<NonZeroU16, SpaCause> {
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new);
    port.ok_or_else(|| SpaCause::Port { value: shown(value) })
}

fn realm(value: &Value) -> Result<Realm, SpaCause> {
    text("realm", value)?.parse().map_err(SpaCause::Realm)
}

fn rule(value: &Value) -> Result<RuleName, SpaCause> {
    text("rule", value)?.parse().map_err(SpaCause::Rule)
}

fn text<'v>(key: &'static str, value: &'v Value) -> Result<&'v str, SpaCause> {
    value.as_str().ok_or_else(|| SpaCause::Text { key, value: shown(value) })
}

fn cover(value: &Value) -> Result<Cover, SpaCause> {
    let text = value.as_str().ok_or(SpaCause::CoverType)?;
    Cover::from_file(text.as_bytes()).map_err(SpaCause::Cover)
}

pub(super) fn identity(value: &Value) -> Result<PathBuf, Cause> {
    let path = value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
    path.map(PathBuf::from).ok_or_else(|| SpaCause::Identity { value: shown(value) }.into())
}
