//! The ruleset as `nft -j list ruleset` prints it (libnftables-json(5)).

use serde::Deserialize;
use serde_json::Value;

/// What the diagnosis looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruleset {
    pub(crate) tables: Vec<Table>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) sets: Vec<Set>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Table {
    pub(crate) family: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) flags: Words,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Chain {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    /// `filter`, `nat` or `route`; base chains only, as what follows.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) hook: Option<String>,
    pub(crate) prio: Option<i64>,
    pub(crate) policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Rule {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) chain: String,
    pub(crate) handle: u64,
    #[serde(default)]
    pub(crate) expr: Vec<Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Set {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    #[serde(rename = "type", default)]
    pub(crate) kind: Words,
    #[serde(default)]
    pub(crate) flags: Words,
}

/// One word or several: nft prints a list of one as a text.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum Words {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
    /// Something that this version does not know, such as a `typeof`.
    Other(Value),
}

impl Words {
    pub(crate) fn contains(&self, word: &str) -> bool {
        match self {
            Words::One(one) => one == word,
            Words::Several(several) => several.iter().any(|other| other == word),
            Words::None | Words::Other(_) => false,
        }
    }
}

impl Ruleset {
    /// Takes the objects that matter; unknown ones are passed over.
    pub(crate) fn new(document: &Value) -> Ruleset {
        let mut ruleset = Ruleset::default();
        for object in document["nftables"].as_array().into_iter().flatten() {
            let Some((kind, value)) = object.as_object().and_then(|object| object.iter().next()) else { continue };
            match kind.as_str() {
                "table" => ruleset.tables.extend(Table::deserialize(value)),
                "chain" => ruleset.chains.extend(Chain::deserialize(value)),
                "rule" => ruleset.rules.extend(Rule::deserialize(value)),
                "set" => ruleset.sets.extend(Set::deserialize(value)),
                _ => {}
            }
        }
        ruleset
    }

    pub(crate) fn table(&self, family: &str, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.family == family && table.name == name)
    }

    /// The set of that full name, `FAMILY TABLE SET`.
    pub(crate) fn set(&self, full_name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| format!("{} {} {}", set.family, set.table, set.name) == full_name)
    }

    pub(crate) fn rules_of<'a>(&'a self, chain: &'a Chain) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| {
            (rule.family.as_str(), rule.table.as_str(), rule.chain.as_str())
                == (chain.family.as_str(), chain.table.as_str(), chain.name.as_str())
        })
    }

    /// The chain of that name in the table of `like`.
    pub(crate) fn chain(&self, like: &Chain, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.family == like.family && chain.table == like.table && chain.name == name)
    }

    /// The base chains of that type at that hook, in the order in which packets meet them.
    pub(crate) fn base_chains(&self, kind: &str, hook: &str) -> Vec<&Chain> {
        let at_hook = |chain: &&Chain| chain.kind.as_deref() == Some(kind) && chain.hook.as_deref() == Some(hook);
        let mut chains: Vec<&Chain> = self.chains.iter().filter(at_hook).collect();
        chains.sort_by_key(|chain| chain.prio.unwrap_or(0));
        chains
    }
}

impl Chain {
    /// `FAMILY TABLE CHAIN`.
    pub(crate) fn full_name(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }
}

impl Rule {
    /// How to find it.
    pub(crate) fn place(&self) -> String {
        format!("handle {} of chain {} {} {}", self.handle, self.family, self.table, self.chain)
    }
}
