//! From the JSON of a memory patch to the change that lineage records.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeSeed as _;
use suijuris_api::agent::Patch;
use suijuris_core::governance::{Action, Program};
use suijuris_core::memory::{Change, Field, Kind, Memory, Name, NameError, Refused, Value, Write};
use suijuris_core::time::Timestamp;

/// Bytes of values that rules judge in one write, at most: a refusal keeps them in its record, so that it can be made again.
pub const MAX_JUDGED_BYTES: usize = 128 << 10;

/// Why a patch was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a field name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a value of the field's type.
    #[error("field `{field}`: {why}")]
    Value {
        /// The field.
        field: Name,
        /// What was expected.
        why: String,
    },
    /// Memory refuses the change.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Named twice in one patch.
    #[error("field `{0}` is written twice in one patch")]
    Twice(Name),
    /// A field does not hold what was expected: somebody else wrote first.
    #[error("field `{0}` does not hold what the patch expects: read it again")]
    Conflict(Name),
    /// A counter falls back to zero by the clock, so that what it counts cannot be expected.
    #[error("field `{0}` is a counter, which changes with the clock: leave it out of what is expected")]
    ExpectsCounter(Name),
    /// More to judge than a decision keeps.
    #[error(
        "the rules judge the values of this write, which have {0} bytes together; at most {MAX_JUDGED_BYTES} can be judged: write less at once"
    )]
    TooMuchToJudge(usize),
    /// Memory as a whole is another.
    #[error("memory has changed since it was read: read it again")]
    RootConflict,
}

/// A change and the secrets that it commits to.
#[derive(Debug, Default)]
pub struct Parsed {
    /// What lineage records; secrets stand in it as values still, to be replaced by their commitments.
    pub change: Change,
    /// Fields whose value is a secret.
    pub secrets: BTreeMap<Name, Value>,
}

impl Parsed {
    /// The fields that it writes.
    #[must_use]
    pub fn fields(&self) -> BTreeSet<String> {
        let names = self.change.keys().chain(self.secrets.keys());
        names.map(ToString::to_string).collect()
    }
}

/// What the rules of `program` judge by value of `parsed`, as facts of its decision at `at`.
///
/// # Errors
/// [`Error::TooMuchToJudge`].
pub fn judged(
    parsed: &Parsed,
    memory: &Memory,
    program: &Program,
    at: Timestamp,
) -> Result<BTreeMap<Name, Option<Value>>, Error> {
    let watched = program.watches(Action::Mutate).changes;
    let judged = memory.outcome(&parsed.change, &watched, at);
    let bytes: usize = judged.values().flatten().map(Value::size).sum();
    if bytes > MAX_JUDGED_BYTES {
        return Err(Error::TooMuchToJudge(bytes));
    }
    Ok(judged)
}

/// Reads `patch` by the types of `memory`, and checks what it expects.
///
/// # Errors
/// [`Error`] names the field and what was expected.
pub fn parse(patch: &Patch, memory: &Memory) -> Result<Parsed, Error> {
    if patch
        .expect_root
        .as_ref()
        .is_some_and(|root| *root != memory.root().hex())
    {
        return Err(Error::RootConflict);
    }
    for (name, expected) in &patch.expect {
        expect(name, expected, memory)?;
    }
    writes(patch, memory)
}

/// Reads what `patch` writes by the types of `memory`, whatever it expects.
///
/// # Errors
/// As [`parse`], but for what is expected.
pub fn writes(patch: &Patch, memory: &Memory) -> Result<Parsed, Error> {
    let mut parsed = Parsed::default();
    for (name, json) in &patch.set {
        let (name, field) = lookup(name, memory)?;
        let value = value(&name, field, json)?;
        if field.secret {
            parsed.secrets.insert(name, value);
        } else {
            add(&mut parsed.change, name, Write::Set(value))?;
        }
    }
    for (name, json) in &patch.append {
        let (name, field) = lookup(name, memory)?;
        let value = value(&name, field, json)?;
        add(&mut parsed.change, name, Write::Append(value))?;
    }
    for (name, more) in &patch.add {
        let (name, _) = lookup(name, memory)?;
        add(&mut parsed.change, name, Write::Add(*more))?;
    }
    for name in &patch.unset {
        let (name, _) = lookup(name, memory)?;
        add(&mut parsed.change, name, Write::Unset)?;
    }
    if let Some(twice) = parsed
        .secrets
        .keys()
        .find(|name| parsed.change.contains_key(*name))
    {
        return Err(Error::Twice(twice.clone()));
    }
    if parsed.secrets.is_empty() {
        memory.check(&parsed.change)?;
    }
    Ok(parsed)
}

fn lookup<'m>(name: &str, memory: &'m Memory) -> Result<(Name, &'m Field), Error> {
    let name = Name::new(name)?;
    match memory.schema().field(name.as_str()) {
        Some(field) => Ok((name, field)),
        None => Err(Refused::UnknownField(name).into()),
    }
}

fn value(name: &Name, field: &Field, json: &serde_json::Value) -> Result<Value, Error> {
    let wrong = |error: serde_json::Error| Error::Value {
        field: name.clone(),
        why: error.to_string(),
    };
    field.kind.deserialize(json).map_err(wrong)
}

fn add(change: &mut Change, name: Name, write: Write) -> Result<(), Error> {
    match change.insert(name.clone(), write) {
        None => Ok(()),
        Some(_) => Err(Error::Twice(name)),
    }
}

fn expect(name: &str, expected: &serde_json::Value, memory: &Memory) -> Result<(), Error> {
    let (name, field) = lookup(name, memory)?;
    if matches!(field.kind, Kind::Counter { .. }) {
        return Err(Error::ExpectsCounter(name));
    }
    let expected = match expected {
        serde_json::Value::Null => None,
        json => Some(value(&name, field, json)?),
    };
    if memory.value(name.as_str()) == expected.as_ref() {
        Ok(())
    } else {
        Err(Error::Conflict(name))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use suijuris_core::memory::{Kind, Schema};

    use super::*;

    fn memory() -> Memory {
        let fields = [
            (
                "budget",
                Field {
                    default: Some(Value::Int(7)),
                    ..Field::new(Kind::INT)
                },
            ),
            ("jobs", Field::new(Kind::Set(Box::new(Kind::String)))),
            (
                "spent",
                Field::new(Kind::Counter {
                    window: suijuris_core::time::Span(1_000),
                }),
            ),
            (
                "token",
                Field {
                    secret: true,
                    ..Field::new(Kind::String)
                },
            ),
        ];
        let fields: BTreeMap<_, _> = fields
            .into_iter()
            .map(|(n, f)| (Name::new(n).unwrap(), f))
            .collect();
        Memory::new(Arc::new(Schema::try_from(fields).unwrap()))
    }

    fn run(patch: serde_json::Value) -> Result<Parsed, Error> {
        parse(&serde_json::from_value(patch).unwrap(), &memory())
    }

    #[test]
    fn a_patch_becomes_typed_writes() {
        let parsed = run(
            json!({"set": {"budget": 5}, "append": {"jobs": ["a"]}, "expect": {"budget": 7, "jobs": null}}),
        );
        assert_eq!(parsed.unwrap().change.len(), 2);
        let added = run(json!({"add": {"spent": 5}})).unwrap();
        assert_eq!(added.change.values().next(), Some(&Write::Add(5)));
        let secret = run(json!({"set": {"token": "x"}})).unwrap();
        assert_eq!((secret.change.len(), secret.secrets.len()), (0, 1));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_field() {
        let ill = |patch| {
            let error = run(patch).unwrap_err();
            !matches!(error, Error::Conflict(_) | Error::RootConflict)
        };
        assert!(ill(json!({"set": {"budget": "five"}})));
        assert!(ill(json!({"set": {"nothing": 5}})));
        assert!(ill(json!({"set": {"budget": 5}, "unset": ["budget"]})));
        assert!(ill(json!({})));
        assert!(ill(json!({"set": {"spent": 5}})));
        assert!(ill(json!({"add": {"spent": -5}})));
        assert!(ill(json!({"add": {"spent": 5}, "expect": {"spent": 0}})));
        let conflict = run(json!({"set": {"budget": 5}, "expect": {"budget": 8}})).unwrap_err();
        assert!(matches!(conflict, Error::Conflict(field) if field.as_str() == "budget"));
        let root = run(json!({"set": {"budget": 5}, "expect_root": "00"})).unwrap_err();
        assert_eq!(root, Error::RootConflict);
    }
}
