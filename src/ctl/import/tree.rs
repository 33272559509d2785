//! A YAML text (YAML 1.2) as a tree in which each value knows its line. JSON is YAML too.
//!
//! Aliases, tags and further documents are refused: no file of knock-rs needs them, and without aliases no small text
//! becomes a big tree.

use knock_config::excerpt;
use saphyr_parser::{Event, Parser, ScalarStyle};

use super::cause::ImportCause;

/// The deepest nesting; a configuration has a list in a rule in a list in an object.
const DEPTH_MAX: usize = 16;

/// A value and its line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value without quotes: a number, a text, nothing at all.
    Plain(String),
    /// A text in quotes or in a block.
    Quoted(String),
    List(Vec<Node>),
    /// Keys with their lines and values, each key once.
    Map(Vec<(String, usize, Node)>),
}

impl Node {
    /// The value of the key of a map; nothing at all is no value.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Kind::Map(members) = &self.kind else { return None };
        let value = &members.iter().find(|(name, ..)| name == key)?.2;
        (!matches!(&value.kind, Kind::Plain(text) if matches!(text.as_str(), "" | "~" | "null"))).then_some(value)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, usize)> {
        let members = if let Kind::Map(members) = &self.kind { members.as_slice() } else { &[] };
        members.iter().map(|(key, line, _)| (key.as_str(), *line))
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Plain(text) | Kind::Quoted(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self) -> Option<&[Node]> {
        if let Kind::List(items) = &self.kind { Some(items) } else { None }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// What it is, for a message.
    pub(super) fn shown(&self) -> String {
        match &self.kind {
            Kind::Plain(text) | Kind::Quoted(text) => format!("`{}`", excerpt(text)),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "an object".to_owned(),
        }
    }
}

/// A list or a map whose end is not read yet.
struct Open {
    node: Node,
    /// The key in a map whose value comes next.
    key: Option<(String, usize)>,
}

/// Parses the only document of `text`.
///
/// # Errors
///
/// The line, and the reason, where it is not YAML or has a feature that no file of knock-rs needs.
pub(super) fn parse(text: &str) -> Result<Node, (usize, ImportCause)> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut line = 1;
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|error| (error.marker().line().max(1), ImportCause::Yaml { reason: excerpt(error.info()) }))?;
        line = span.start.line().max(1);
        let refuse = |what, instead| Err((line, ImportCause::YamlFeature { what, instead }));
        let started = match event {
            Event::SequenceStart(..) => Some(Kind::List(Vec::new())),
            Event::MappingStart(..) => Some(Kind::Map(Vec::new())),
            _ => None,
        };
        let finished = match event {
            _ if started.is_some() => None,
            Event::Scalar(.., Some(_)) => return refuse("a tag", "delete the tag"),
            Event::Scalar(text, style, ..) => {
                let text = text.into_owned();
                let kind = if style == ScalarStyle::Plain { Kind::Plain(text) } else { Kind::Quoted(text) };
                Some(Node { line, kind })
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|open| open.node),
            Event::Alias(_) => return refuse("an alias (`*name`)", "write the value itself"),
            Event::DocumentStart(_) if root.is_some() => return refuse("a second document", "delete it"),
            _ => None,
        };
        if let Some(kind) = started {
            if open.len() == DEPTH_MAX {
                return refuse("so deep a nesting", "write a list of rules");
            }
            open.push(Open { node: Node { line, kind }, key: None });
        }
        if let Some(node) = finished {
            match open.last_mut() {
                Some(parent) => add(parent, node)?,
                None => root = Some(node),
            }
        }
    }
    root.ok_or((line, ImportCause::NoRules))
}

/// Adds a value to the list or map that encloses it; in a map the first of two is a key.
fn add(parent: &mut Open, node: Node) -> Result<(), (usize, ImportCause)> {
    match (&mut parent.node.kind, parent.key.take()) {
        (Kind::List(items), _) => items.push(node),
        (Kind::Map(members), Some((key, line))) => {
            if let Some((_, first, _)) = members.iter().find(|(name, ..)| *name == key) {
                return Err((line, ImportCause::DuplicateKey { key: excerpt(&key), first: *first }));
            }
            members.push((key, line, node));
        }
        (_, None) => match node.text() {
            Some(key) => parent.key = Some((key.to_owned(), node.line)),
            None => {
                let what = "a key that is not a text";
                return Err((node.line, ImportCause::YamlFeature { what, instead: "write a text as the key" }));
            }
        },
        _ => {}
    }
    Ok(())
}
