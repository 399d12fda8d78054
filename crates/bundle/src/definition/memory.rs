//! `[memory]`: the typed fields, their types, defaults and attributes.

use std::collections::BTreeMap;

use serde::de::{DeserializeSeed as _, IntoDeserializer as _};
use suijuris_core::memory::{Field, Kind, Name, Schema, SchemaError, Value};
use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::{by_name, name};
use crate::fault::{Faults, code, nearest};
use crate::section::{Found, Section, wrong_type};

/// Types that need no more than their name.
const PLAIN: [(&str, Kind); 7] = [
    ("bool", Kind::Bool),
    ("int", Kind::INT),
    ("decimal", Kind::Decimal),
    ("string", Kind::String),
    ("bytes", Kind::Bytes),
    ("timestamp", Kind::Timestamp),
    ("duration", Kind::Duration),
];

/// Types that are made of others: the only key of a table.
const COMPOSED: [&str; 7] = ["set", "list", "map", "record", "enum", "counter", "int"];

/// The fields, and whether all of them were understood.
pub(super) fn read(root: &mut Section<'_>) -> (BTreeMap<Name, Field>, bool) {
    let Some((section, entries)) = root.entries("memory") else {
        return (BTreeMap::new(), !root.has("memory"));
    };
    let field = |(key, value): (Found<&str>, &_)| {
        let field = match Spanned::get_ref(value) {
            DeValue::String(_) => kind(section.faults(), &section.name_of(key.value), value).map(Field::new),
            _ => field(section.as_section(key.value, value)?),
        };
        let name = name(&key, section.faults())?;
        let field = checked(&section, &name, field?, value)?;
        Some((name, field))
    };
    by_name(entries.into_iter().map(field).collect())
}

fn field(mut section: Section<'_>) -> Option<Field> {
    let kind = match section.value("type") {
        Some(value) => kind(section.faults(), &section.name_of("type"), value),
        None => {
            section.missing("type", "write type = \"int\", or type = { set = \"string\" }");
            None
        }
    };
    let kind = bounded(&mut section, kind?);
    let sound = is_sound(&kind);
    let default = section.value("default").filter(|_| sound);
    let field = Field {
        default: default.and_then(|value| self::default(&section, &kind, value)),
        fresh_for: section.length("fresh_for"),
        wakes: section.flag("wakes").unwrap_or_default(),
        append_only: section.flag("append_only").unwrap_or_default(),
        max_bytes: section.integer("max_bytes").map(|found| found.value),
        secret: section.flag("secret").unwrap_or_default(),
        kind,
    };
    section.finish();
    // Without its default the field would be one that may be absent, and the rules would be told off for that.
    (default.is_some() == field.default.is_some()).then_some(field)
}

/// `min` and `max` beside `type = "int"`.
fn bounded(section: &mut Section<'_>, kind: Kind) -> Kind {
    let Kind::Int { min, max } = kind else { return kind };
    Kind::Int {
        min: section.integer("min").map(|found| found.value).or(min),
        max: section.integer("max").map(|found| found.value).or(max),
    }
}

/// Reads a type: its name, or a table of one key. The TOML parser bounds the depth of what it reads, and the schema
/// that of types.
pub(super) fn kind(faults: &Faults<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Kind> {
    match value.get_ref() {
        DeValue::String(word) => plain(faults, path, word, value),
        DeValue::Table(table) => match table.iter().next() {
            Some((key, inner)) if table.len() == 1 => composed(faults, path, key, inner),
            _ => {
                let help = "write one key, as in { set = \"string\" } or { enum = [\"a\", \"b\"] }";
                faults.error(
                    code::BAD_TYPE,
                    &value.span(),
                    format!("`{path}` is not a type"),
                    help,
                );
                None
            }
        },
        _ => {
            wrong_type(
                faults,
                path,
                value,
                "the name of a type, as in \"int\", or a table, as in { set = \"string\" }",
            );
            None
        }
    }
}

fn plain(faults: &Faults<'_>, path: &str, word: &str, value: &Spanned<DeValue<'_>>) -> Option<Kind> {
    let found = PLAIN.iter().find(|(name, _)| *name == word);
    if found.is_none() {
        let help = match word {
            "enum" => "list its symbols: type = { enum = [\"open\", \"closed\"] }".to_owned(),
            "record" => "name its attributes: type = { record = { x = \"int\", y = \"int\" } }".to_owned(),
            "counter" => "say for how long: type = { counter = { window = \"24h\" } }".to_owned(),
            "set" | "list" | "map" => format!("say of what: type = {{ {word} = \"string\" }}"),
            _ => unknown_type(word),
        };
        faults.error(
            code::BAD_TYPE,
            &value.span(),
            format!("`{path}`: `{word}` is not a whole type"),
            help,
        );
    }
    found.map(|(_, kind)| kind.clone())
}

fn unknown_type(word: &str) -> String {
    let names = || {
        PLAIN
            .iter()
            .map(|(name, _)| *name)
            .chain(COMPOSED.into_iter().take(6))
    };
    let list = names().collect::<Vec<_>>().join(", ");
    match nearest(word, names()) {
        Some(near) => format!("did you mean `{near}`? Types: {list}"),
        None => format!("types: {list}"),
    }
}

fn composed(
    faults: &Faults<'_>,
    path: &str,
    key: &Spanned<DeString<'_>>,
    inner: &Spanned<DeValue<'_>>,
) -> Option<Kind> {
    let word = key.get_ref().as_ref();
    let item = || kind(faults, path, inner).map(Box::new);
    match word {
        "set" => item().map(Kind::Set),
        "list" => item().map(Kind::List),
        "map" => item().map(Kind::Map),
        "enum" => symbols(faults, path, inner).map(Kind::Enum),
        "record" => record(faults, path, inner).map(Kind::Record),
        "counter" => counter(faults, path, inner),
        "int" => {
            let table = inner.get_ref().as_table();
            if table.is_none() {
                wrong_type(
                    faults,
                    path,
                    inner,
                    "its bounds, as in { int = { min = 0, max = 9 } }",
                );
            }
            let mut section = Section::document(table?, faults);
            let kind = bounded(&mut section, Kind::INT);
            section.finish();
            Some(kind)
        }
        _ => {
            let message = format!("`{path}`: `{word}` is not a type made of others");
            faults.error(code::BAD_TYPE, &key.span(), message, unknown_type(word));
            None
        }
    }
}

fn counter(faults: &Faults<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Kind> {
    let example = "its window, as in { counter = { window = \"24h\" } }";
    let Some(table) = value.get_ref().as_table() else {
        wrong_type(faults, path, value, example);
        return None;
    };
    let mut section = Section::document(table, faults);
    let missing = !section.has("window");
    let window = section.length("window");
    section.finish();
    if missing {
        let message = format!("`{path}` is a counter without a window");
        faults.error(code::BAD_TYPE, &value.span(), message, format!("write {example}"));
    }
    Some(Kind::Counter { window: window? })
}

fn symbols(faults: &Faults<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let Some(items) = value.get_ref().as_array() else {
        wrong_type(
            faults,
            path,
            value,
            "its symbols, as in { enum = [\"open\", \"closed\"] }",
        );
        return None;
    };
    let symbol = |item: &Spanned<DeValue<'_>>| {
        let text = item.get_ref().as_str();
        if text.is_none() {
            wrong_type(
                faults,
                &format!("a symbol of `{path}`"),
                item,
                "a string in quotes",
            );
        }
        text.map(str::to_owned)
    };
    items.iter().map(symbol).collect()
}

fn record(faults: &Faults<'_>, path: &str, value: &Spanned<DeValue<'_>>) -> Option<BTreeMap<Name, Kind>> {
    let Some(table) = value.get_ref().as_table() else {
        wrong_type(
            faults,
            path,
            value,
            "its attributes, as in { record = { x = \"int\" } }",
        );
        return None;
    };
    let attribute = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let found = Found {
            value: key.get_ref().as_ref(),
            span: key.span(),
        };
        let kind = kind(faults, &format!("{path}.{}", found.value), value);
        Some((name(&found, faults)?, kind?))
    };
    let (attributes, whole) = by_name(table.iter().map(attribute).collect());
    whole.then_some(attributes)
}

/// Whether the type itself is within bounds; else a default is not held against it, which could take long.
fn is_sound(kind: &Kind) -> bool {
    let field = Name::new("x").map(|name| BTreeMap::from([(name, Field::new(kind.clone()))]));
    field.is_ok_and(|field| Schema::try_from(field).is_ok())
}

fn default(section: &Section<'_>, kind: &Kind, value: &Spanned<DeValue<'_>>) -> Option<Value> {
    match kind.deserialize(instants_as_text(value).into_deserializer()) {
        Ok(value) => Some(value),
        Err(error) => {
            let message = format!("`{}` does not fit its type", section.name_of("default"));
            let span = culprit(kind, value).span();
            section
                .faults()
                .error(code::BAD_DEFAULT, &span, message, error.message());
            None
        }
    }
}

/// The innermost value that is not of its type.
fn culprit<'v, 'i>(kind: &Kind, value: &'v Spanned<DeValue<'i>>) -> &'v Spanned<DeValue<'i>> {
    let wrong = |kind: &Kind, value: &Spanned<DeValue<'_>>| {
        kind.deserialize(instants_as_text(value).into_deserializer())
            .is_err()
    };
    let part = match (kind, value.get_ref()) {
        (Kind::Set(item) | Kind::List(item), DeValue::Array(items)) => {
            let found = items.iter().find(|value| wrong(item, value));
            found.map(|value| (value, &**item))
        }
        (Kind::Map(item), DeValue::Table(table)) => {
            let found = table.values().find(|value| wrong(item, value));
            found.map(|value| (value, &**item))
        }
        (Kind::Record(attributes), DeValue::Table(table)) => table.iter().find_map(|(key, value)| {
            let kind = attributes.get(key.get_ref().as_ref())?;
            wrong(kind, value).then_some((value, kind))
        }),
        _ => None,
    };
    part.map_or(value, |(value, kind)| culprit(kind, value))
}

/// TOML's own date-times as the texts that [`Kind`] reads.
fn instants_as_text<'i>(value: &Spanned<DeValue<'i>>) -> Spanned<DeValue<'i>> {
    let inner = match value.get_ref() {
        DeValue::Datetime(datetime) => DeValue::String(datetime.to_string().into()),
        DeValue::Array(items) => DeValue::Array(items.iter().map(instants_as_text).collect()),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<DeString<'i>>, _)| (key.clone(), instants_as_text(value));
            DeValue::Table(table.iter().map(entry).collect())
        }
        other => other.clone(),
    };
    Spanned::new(value.span(), inner)
}

/// The field, unless its schema refuses it, which is reported.
fn checked(section: &Section<'_>, name: &Name, field: Field, value: &Spanned<DeValue<'_>>) -> Option<Field> {
    let Err(error) = Schema::try_from(BTreeMap::from([(name.clone(), field.clone())])) else {
        return Some(field);
    };
    let SchemaError::Field(_, error) = error else {
        return None;
    };
    let (key, code) = match *error {
        SchemaError::CounterAttribute(attribute) => (attribute, code::BAD_TYPE),
        SchemaError::SecretDefault => ("default", code::SECRET_DEFAULT),
        SchemaError::Default(_) => ("default", code::BAD_DEFAULT),
        SchemaError::FreshForNothing => ("fresh_for", code::OUT_OF_BOUNDS),
        SchemaError::MaxBytes => ("max_bytes", code::OUT_OF_BOUNDS),
        SchemaError::EmptyRange(..) => ("min", code::OUT_OF_BOUNDS),
        _ => ("type", code::BAD_TYPE),
    };
    let place = value.get_ref().as_table().and_then(|table| table.get(key));
    let span = place.map_or_else(|| value.span(), Spanned::span);
    let message = format!("`{}` cannot be used", section.name_of(&format!("{name}.{key}")));
    section.faults().error(code, &span, message, error);
    None
}
