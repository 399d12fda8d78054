//! Random schemas, values and memories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use suijuris_core::id::Digest;
use suijuris_core::memory::{Decimal, Field, Kind, Memory, Name, Schema, Value};
use suijuris_core::time::{Span, Timestamp};

pub(crate) fn any_name() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9_]{0,6}".prop_map(|text| Name::new(text).unwrap())
}

/// Any type, nested at most three deep.
pub(crate) fn any_kind() -> impl Strategy<Value = Kind> {
    let bounds = (any::<i64>(), any::<i64>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let leaf = prop_oneof![
        Just(Kind::Bool),
        Just(Kind::INT),
        bounds.prop_map(|(min, max)| Kind::Int {
            min: Some(min),
            max: Some(max)
        }),
        Just(Kind::Decimal),
        Just(Kind::String),
        Just(Kind::Bytes),
        Just(Kind::Timestamp),
        Just(Kind::Duration),
        prop::collection::btree_set("[a-z]{1,4}", 1..4).prop_map(|set| Kind::Enum(set.into_iter().collect())),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|kind| Kind::Set(Box::new(kind))),
            inner.clone().prop_map(|kind| Kind::List(Box::new(kind))),
            inner.clone().prop_map(|kind| Kind::Map(Box::new(kind))),
            prop::collection::btree_map(any_name(), inner, 0..3).prop_map(Kind::Record),
        ]
    })
}

/// Instants that the calendar can write.
fn any_instant() -> impl Strategy<Value = Timestamp> {
    (-377_705_023_201_000i64..=253_402_207_200_999).prop_map(Timestamp)
}

/// Any value of type `kind`.
pub(crate) fn value_of(kind: &Kind) -> BoxedStrategy<Value> {
    let items = |item: &Kind| prop::collection::vec(value_of(item), 0..4);
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Int { min, max } => (min.unwrap_or(i64::MIN)..=max.unwrap_or(i64::MAX))
            .prop_map(Value::Int)
            .boxed(),
        Kind::Counter { .. } => (0..=i64::MAX).prop_map(Value::Int).boxed(),
        Kind::Decimal => any::<i64>().prop_map(|v| Value::Decimal(Decimal(v))).boxed(),
        Kind::String => any::<String>().prop_map(Value::String).boxed(),
        Kind::Bytes => any::<Vec<u8>>().prop_map(Value::Bytes).boxed(),
        Kind::Timestamp => any_instant().prop_map(Value::Timestamp).boxed(),
        Kind::Duration => any::<i64>().prop_map(|v| Value::Duration(Span(v))).boxed(),
        Kind::Enum(symbols) => prop::sample::select(symbols.clone())
            .prop_map(Value::Enum)
            .boxed(),
        Kind::Set(item) => items(item)
            .prop_map(|v| Value::Set(BTreeSet::from_iter(v)))
            .boxed(),
        Kind::List(item) => items(item).prop_map(Value::List).boxed(),
        Kind::Map(item) => prop::collection::btree_map(any::<String>(), value_of(item), 0..4)
            .prop_map(Value::Map)
            .boxed(),
        Kind::Record(attributes) => {
            let each: Vec<_> = attributes
                .iter()
                .map(|(name, kind)| {
                    value_of(kind).prop_map({
                        let name = name.to_string();
                        move |value| (name.clone(), value)
                    })
                })
                .collect();
            each.prop_map(|pairs| Value::Record(pairs.into_iter().collect()))
                .boxed()
        }
    }
}

/// A type and a value of it.
pub(crate) fn any_typed() -> impl Strategy<Value = (Kind, Value)> {
    any_kind().prop_flat_map(|kind| (value_of(&kind), Just(kind)).prop_map(|(value, kind)| (kind, value)))
}

/// A field with some of its attributes, and a value for it.
pub(crate) fn any_field() -> impl Strategy<Value = (Field, Value)> {
    let attributes = (
        any::<bool>(),
        any::<bool>(),
        prop::option::of(1i64..1_000_000),
        any::<[u8; 32]>(),
    );
    (any_typed(), attributes).prop_map(|((kind, value), (secret, has_default, fresh, salted))| {
        let default = Some(value.clone()).filter(|_| has_default && !secret);
        let value = if secret {
            Value::Commitment(Digest(salted))
        } else {
            value
        };
        let fresh_for = fresh.map(Span);
        let max_bytes = Some(Field::LARGEST_MAX_BYTES);
        (
            Field {
                default,
                fresh_for,
                secret,
                max_bytes,
                ..Field::new(kind)
            },
            value,
        )
    })
}

/// Fields with a value for each.
pub(crate) fn any_fields() -> impl Strategy<Value = BTreeMap<Name, (Field, Value)>> {
    prop::collection::btree_map(any_name(), any_field(), 0..12)
}

/// A fresh memory with these fields.
pub(crate) fn memory(fields: &BTreeMap<Name, (Field, Value)>) -> Memory {
    let fields: BTreeMap<Name, Field> = fields
        .iter()
        .map(|(name, (field, _))| (name.clone(), field.clone()))
        .collect();
    Memory::new(Arc::new(Schema::try_from(fields).unwrap()))
}
