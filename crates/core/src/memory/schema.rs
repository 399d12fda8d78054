//! Which fields a memory has, and what each may hold.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};

use serde::{Deserialize, Serialize};

use super::counter;
use super::value::{MAX_DEPTH, Value};
use crate::time::Span;

/// Length of a field name at most, bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Fields of a schema at most.
pub const MAX_FIELDS: usize = 4_096;

/// Symbols of an enum and attributes of a record at most.
const MAX_MEMBERS: usize = 1_024;

/// A field name: lower-case letters, digits and `_`, starting with a letter, at most 64 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

/// Why a text is not a field name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: use lower-case letters, digits and `_`, start with a letter, at most 64 characters"
)]
pub struct NameError(String);

impl Name {
    /// Checks `text` and takes it as a name.
    ///
    /// # Errors
    /// [`NameError`] for any other text.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let mut bytes = text.bytes();
        let head = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        let tail = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if head && tail && text.len() <= MAX_NAME_BYTES {
            Ok(Self(text))
        } else {
            Err(NameError(text))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The type of a field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// Yes or no.
    Bool,
    /// A 64-bit integer, within bounds where they are given.
    Int {
        /// Smallest value allowed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<i64>,
        /// Largest value allowed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<i64>,
    },
    /// A fixed-point number with four decimals.
    Decimal,
    /// UTF-8 text.
    String,
    /// Bytes.
    Bytes,
    /// An instant.
    Timestamp,
    /// A length of time.
    Duration,
    /// One of these symbols.
    Enum(Vec<String>),
    /// Values without order or repetition.
    Set(Box<Kind>),
    /// Values in order.
    List(Box<Kind>),
    /// Values by free names.
    Map(Box<Kind>),
    /// Values by these names, all present.
    Record(BTreeMap<Name, Kind>),
    /// A number from zero up that is only added to, and that begins anew with each window of the clock.
    Counter {
        /// Length of a window.
        window: Span,
    },
}

impl Kind {
    /// A 64-bit integer without bounds.
    pub const INT: Self = Self::Int { min: None, max: None };

    /// Name of the type, as `object.toml` writes it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int { .. } => "int",
            Self::Decimal => "decimal",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Enum(_) => "enum",
            Self::Set(_) => "set",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Record(_) => "record",
            Self::Counter { .. } => "counter",
        }
    }

    /// Whether `value` is of this type and within its bounds.
    #[must_use]
    pub fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bool, Value::Bool(_))
            | (Self::Decimal, Value::Decimal(_))
            | (Self::String, Value::String(_))
            | (Self::Bytes, Value::Bytes(_))
            | (Self::Timestamp, Value::Timestamp(_))
            | (Self::Duration, Value::Duration(_)) => true,
            (Self::Int { min, max }, Value::Int(v)) => {
                min.is_none_or(|min| *v >= min) && max.is_none_or(|max| *v <= max)
            }
            (Self::Counter { .. }, Value::Int(v)) => *v >= 0,
            (Self::Enum(symbols), Value::Enum(symbol)) => symbols.contains(symbol),
            (Self::Set(item), Value::Set(items)) => items.iter().all(|value| item.holds(value)),
            (Self::List(item), Value::List(items)) => items.iter().all(|value| item.holds(value)),
            (Self::Map(item), Value::Map(items)) => items.values().all(|value| item.holds(value)),
            (Self::Record(attributes), Value::Record(items)) => {
                attributes.len() == items.len()
                    && attributes
                        .iter()
                        .all(|(name, kind)| items.get(name.as_str()).is_some_and(|v| kind.holds(v)))
            }
            _ => false,
        }
    }

    /// Whether this is a counter, or has one in it.
    #[must_use]
    pub fn counts(&self) -> bool {
        match self {
            Self::Counter { .. } => true,
            Self::Set(item) | Self::List(item) | Self::Map(item) => item.counts(),
            Self::Record(attributes) => attributes.values().any(Self::counts),
            _ => false,
        }
    }

    fn check(&self, depth: usize) -> Result<(), SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        match self {
            Self::Int {
                min: Some(min),
                max: Some(max),
            } if min > max => Err(SchemaError::EmptyRange(*min, *max)),
            Self::Enum(symbols) => check_symbols(symbols),
            Self::Counter { .. } if depth > 1 => Err(SchemaError::CounterNested),
            Self::Counter { window } => counter::check(*window),
            Self::Set(item) | Self::List(item) | Self::Map(item) => item.check(depth + 1),
            Self::Record(attributes) if attributes.len() > MAX_MEMBERS => Err(SchemaError::TooManyMembers),
            Self::Record(attributes) => attributes.values().try_for_each(|kind| kind.check(depth + 1)),
            _ => Ok(()),
        }
    }
}

fn check_symbols(symbols: &[String]) -> Result<(), SchemaError> {
    if symbols.is_empty() {
        return Err(SchemaError::NoSymbols);
    }
    if symbols.len() > MAX_MEMBERS {
        return Err(SchemaError::TooManyMembers);
    }
    let mut seen = std::collections::BTreeSet::new();
    match symbols.iter().find(|symbol| !seen.insert(symbol.as_str())) {
        Some(twice) => Err(SchemaError::SymbolTwice(twice.clone())),
        None => Ok(()),
    }
}

/// One field: its type and how it behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Type.
    pub kind: Kind,
    /// Value at inception; a field without one may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// How long after a write `resource.fresh.<name>` stays true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_for: Option<Span>,
    /// A change of this field from outside proposes `wake`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wakes: bool,
    /// Set once, or only added to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub append_only: bool,
    /// Payload size at most, bytes; [`Field::DEFAULT_MAX_BYTES`] where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u32>,
    /// Only a commitment enters lineage; rules cannot read the value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

impl Field {
    /// Payload size where a field says nothing: a page of text, so that memory stays memory and not a data store.
    pub const DEFAULT_MAX_BYTES: u32 = 65_536;

    /// Payload size that a field may allow at most.
    pub const LARGEST_MAX_BYTES: u32 = 1 << 20;

    /// A plain field of `kind`.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            default: None,
            fresh_for: None,
            wakes: false,
            append_only: false,
            max_bytes: None,
            secret: false,
        }
    }

    /// The size limit in force, bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        usize::try_from(self.max_bytes.unwrap_or(Self::DEFAULT_MAX_BYTES)).unwrap_or(usize::MAX)
    }
}

/// The fields of a memory, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Name, Field>", into = "BTreeMap<Name, Field>")]
pub struct Schema {
    fields: Vec<(Name, Field)>,
    /// Positions by name: a write looks one up, and a search through names that lie apart costs as much as hashing.
    positions: HashMap<Name, usize, Hasher>,
}

/// The same for every process: what core does depends on its arguments alone. Names are the owner's, not a peer's.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// Why fields do not make a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// More than [`MAX_FIELDS`].
    #[error("more than {MAX_FIELDS} fields")]
    TooManyFields,
    /// A fault of one field.
    #[error("field `{0}`")]
    Field(Name, #[source] Box<SchemaError>),
    /// Types nested deeper than [`MAX_DEPTH`].
    #[error("types are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// `min` above `max`.
    #[error("no integer lies between min {0} and max {1}")]
    EmptyRange(i64, i64),
    /// An enum without symbols.
    #[error("an enum needs at least one symbol")]
    NoSymbols,
    /// A symbol listed twice.
    #[error("symbol `{0}` is listed twice")]
    SymbolTwice(String),
    /// More symbols or attributes than allowed.
    #[error("more than {MAX_MEMBERS} symbols or attributes")]
    TooManyMembers,
    /// A default that the field could not hold.
    #[error("the default is not a {0} that this field can hold")]
    Default(&'static str),
    /// A default for a secret would stand in the bundle in clear.
    #[error("a secret has no default: it would be readable in the bundle; set it with `memory set`")]
    SecretDefault,
    /// `fresh_for` below one millisecond.
    #[error("fresh_for must be longer than zero")]
    FreshForNothing,
    /// A counter within another type.
    #[error("a counter is a field of its own and cannot stand in a set, list, map or record")]
    CounterNested,
    /// A window that is too short or too long.
    #[error("the window of a counter is between 1s and 366d")]
    CounterWindow,
    /// An attribute that a counter cannot have.
    #[error("a counter begins at zero, is only added to, and is no secret: leave out {0}")]
    CounterAttribute(&'static str),
    /// `max_bytes` outside 1..=1 MiB.
    #[error("max_bytes must be between 1 and {}", Field::LARGEST_MAX_BYTES)]
    MaxBytes,
}

impl TryFrom<BTreeMap<Name, Field>> for Schema {
    type Error = SchemaError;

    fn try_from(fields: BTreeMap<Name, Field>) -> Result<Self, SchemaError> {
        if fields.len() > MAX_FIELDS {
            return Err(SchemaError::TooManyFields);
        }
        for (name, field) in &fields {
            check_field(field).map_err(|error| SchemaError::Field(name.clone(), Box::new(error)))?;
        }
        let positions = fields.keys().cloned().zip(0..).collect();
        Ok(Self {
            fields: fields.into_iter().collect(),
            positions,
        })
    }
}

fn check_field(field: &Field) -> Result<(), SchemaError> {
    field.kind.check(1)?;
    if field
        .max_bytes
        .is_some_and(|max| max == 0 || max > Field::LARGEST_MAX_BYTES)
    {
        return Err(SchemaError::MaxBytes);
    }
    if field.fresh_for.is_some_and(|span| span.0 <= 0) {
        return Err(SchemaError::FreshForNothing);
    }
    check_counter(field)?;
    match &field.default {
        Some(_) if field.secret => Err(SchemaError::SecretDefault),
        Some(value) if !field.kind.holds(value) || value.size() > field.limit_bytes() => {
            Err(SchemaError::Default(field.kind.name()))
        }
        _ => Ok(()),
    }
}

fn check_counter(field: &Field) -> Result<(), SchemaError> {
    let attributes = [
        ("default", field.default.is_some()),
        ("append_only", field.append_only),
        ("secret", field.secret),
    ];
    let wrong = attributes.into_iter().find(|(_, given)| *given);
    match (&field.kind, wrong) {
        (Kind::Counter { .. }, Some((attribute, _))) => Err(SchemaError::CounterAttribute(attribute)),
        _ => Ok(()),
    }
}

impl From<Schema> for BTreeMap<Name, Field> {
    fn from(schema: Schema) -> Self {
        schema.fields.into_iter().collect()
    }
}

impl Schema {
    /// Number of fields.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Position of `name` in name order, which is its leaf in the Merkle tree.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// The field at `position`.
    #[must_use]
    pub fn at(&self, position: usize) -> Option<(&Name, &Field)> {
        self.fields.get(position).map(|(name, field)| (name, field))
    }

    /// The field called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name)
            .and_then(|position| self.at(position))
            .map(|(_, field)| field)
    }

    /// All fields in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &Field)> {
        self.fields.iter().map(|(name, field)| (name, field))
    }
}
