//! A file of cases: TOML, read into situations and proposals. `docs/rules.md` lists the keys.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use suijuris_api::event::Verdict;
use suijuris_api::history::Supposed;
use suijuris_core::bundle::Bundle;
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_supervisor::history::imagined::{Lineage, Situation};

/// Bytes of a file at most.
const MAX_BYTES: u64 = 4 << 20;

/// When it is, where a case does not say: 2026-01-01T12:00:00Z, a Thursday.
const NOON: Timestamp = Timestamp(1_767_268_800_000);

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    /// Line at which it begins, from 1.
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) situation: Situation,
    pub(super) supposed: Supposed,
    pub(super) now: Now,
    pub(super) expected: Expected,
}

/// What is to be decided.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Expected {
    outcome: Outcome,
    /// The rules that decide, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<Vec<String>>,
    /// Part of what is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What a refused caller reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Permit,
    Refuse,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Refuse => "refuse",
        }
    }
}

impl Expected {
    /// What of a decision is otherwise than expected.
    pub(super) fn otherwise(&self, bundle: &Bundle, found: &Verdict, status: Option<u16>) -> Vec<String> {
        let mut wrong = Vec::new();
        let by = |rules: &[String]| match rules {
            [] => "no rule".to_owned(),
            rules => rules.join(", "),
        };
        if found.outcome != self.outcome.as_str() {
            let (expected, rules) = (self.outcome.as_str(), by(&found.rules));
            wrong.push(format!("expected {expected}, found {} by {rules}", found.outcome));
        }
        if let Some(rules) = &self.rules {
            let sorted = |rules: &[String]| {
                let mut rules = rules.to_vec();
                rules.sort();
                rules
            };
            let known = |id: &String| bundle.rules.program.rules().iter().any(|rule| rule.id == *id);
            if let Some(unknown) = rules.iter().find(|rule| !known(rule)) {
                wrong.push(format!("there is no rule `{unknown}` in governance.cedar"));
            } else if sorted(rules) != sorted(&found.rules) {
                let (expected, found) = (by(rules), by(&found.rules));
                wrong.push(format!("expected it by {expected}, found it by {found}"));
            }
        }
        if let Some(reason) = &self.reason
            && !found.reasons.iter().any(|have| have.contains(reason))
        {
            let found = found.reasons.join("; ");
            wrong.push(format!("expected the reason `{reason}`, found `{found}`"));
        }
        if self.status.is_some() && self.status != status {
            let word = |status: Option<u16>| status.map_or("none".to_owned(), |status| status.to_string());
            wrong.push(format!(
                "expected status {}, found {}",
                word(self.status),
                word(status)
            ));
        }
        wrong
    }
}

/// What stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What each case has that does not say otherwise.
    #[serde(default)]
    defaults: toml::Table,
    #[serde(default)]
    case: Vec<toml::Spanned<toml::Table>>,
}

/// Keys of a case that are not those of a proposal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    name: String,
    expect: Outcome,
    rules: Option<Vec<String>>,
    reason: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    memory: BTreeMap<String, Value>,
    #[serde(default)]
    ages: BTreeMap<String, String>,
    #[serde(default)]
    lineage: Past,
    clock: Option<Quality>,
    key: Option<String>,
    #[serde(default)]
    instances: u64,
    #[serde(default)]
    peer_rate: u64,
    #[serde(default)]
    class_rate: u64,
}

const OWN: [&str; 13] = [
    "name",
    "expect",
    "rules",
    "reason",
    "status",
    "memory",
    "ages",
    "lineage",
    "clock",
    "key",
    "instances",
    "peer_rate",
    "class_rate",
];

/// What the history says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Past {
    length: Option<u64>,
    epoch: u64,
    refused: u64,
    crashes: u64,
    awake: Option<String>,
    born_ago: Option<String>,
    woke_ago: Option<String>,
    slept_ago: Option<String>,
}

/// Tables of a case that a proposal has as `NAME=VALUE` texts, and how it calls them.
const TABLES: [(&str, &str); 8] = [
    ("headers", "headers"),
    ("tls", "tls"),
    ("client_cert", "client_cert"),
    ("claims", "claims"),
    ("rates", "rates"),
    ("write", "set"),
    ("add", "add"),
    ("append", "append"),
];

/// The cases of a file.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Case>> {
    let shown = path.display();
    let text = bounded_text(path).with_context(|| format!("`{shown}` cannot be read"))?;
    let file: File = toml::from_str(&text).with_context(|| format!("`{shown}` is no file of cases"))?;
    let case = |spanned: &toml::Spanned<toml::Table>| {
        let before = text.get(..spanned.span().start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        case(&file.defaults, spanned.get_ref(), line).with_context(|| format!("{shown}:{line}"))
    };
    file.case.iter().map(case).collect()
}

fn bounded_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other(
            "it has more than 4 MiB: divide it into several files",
        ));
    }
    Ok(text)
}

fn case(defaults: &toml::Table, own: &toml::Table, line: usize) -> anyhow::Result<Case> {
    let mut all = json_table(defaults);
    merge(&mut all, json_table(own));
    for (table, called) in TABLES {
        if let Some(Value::Object(entries)) = all.remove(table) {
            let texts = entries
                .into_iter()
                .map(|(name, value)| assigned(table, &name, value));
            all.insert(called.to_owned(), texts.collect());
        }
    }
    let (own, proposal): (Map<_, _>, Map<_, _>) =
        all.into_iter().partition(|(key, _)| OWN.contains(&key.as_str()));
    let own: Own = serde_json::from_value(Value::Object(own))?;
    let supposed: Supposed = serde_json::from_value(Value::Object(proposal))?;
    let ages = own
        .ages
        .iter()
        .map(|(name, text)| Ok((name.clone(), text.parse()?)));
    Ok(Case {
        line,
        name: own.name,
        now: Now {
            at: NOON,
            quality: own.clock.unwrap_or(Quality::Host),
        },
        situation: Situation {
            memory: own.memory,
            ages: ages.collect::<anyhow::Result<_>>()?,
            lineage: own.lineage.read()?,
            key: own.key,
            founding: (own.instances, own.peer_rate, own.class_rate),
        },
        supposed,
        expected: Expected {
            outcome: own.expect,
            rules: own.rules,
            reason: own.reason,
            status: own.status,
        },
    })
}

impl Past {
    fn read(&self) -> anyhow::Result<Lineage> {
        let span = |text: &Option<String>| -> anyhow::Result<Option<Span>> {
            Ok(text.as_ref().map(|text| text.parse()).transpose()?)
        };
        Ok(Lineage {
            length: self.length,
            epoch: self.epoch,
            refused: self.refused,
            crashes: self.crashes,
            awake: span(&self.awake)?.unwrap_or_default(),
            born_ago: span(&self.born_ago)?,
            woke_ago: span(&self.woke_ago)?,
            slept_ago: span(&self.slept_ago)?,
        })
    }
}

/// `NAME=VALUE` as proposals have it: values as JSON, those of headers, TLS and certificates as they are.
fn assigned(table: &str, name: &str, value: Value) -> Value {
    match value {
        Value::String(text) if matches!(table, "headers" | "tls" | "client_cert") => {
            format!("{name}={text}").into()
        }
        value => format!("{name}={value}").into(),
    }
}

/// Puts `over` over `under`, table by table.
fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

fn json_table(table: &toml::Table) -> Map<String, Value> {
    let entry = |(key, value): (&String, &toml::Value)| (key.clone(), json(value));
    table.iter().map(entry).collect()
}

/// TOML as JSON, its date-times as the texts that fields of memory read.
fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(json_table(table)),
    }
}
