//! Writes that do not fit: each refused for its own reason, none leaving anything behind.

use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::lineage::{Body, Fault, Phase};
use suijuris_core::memory::{Change, Decimal, Field, Refused, Value, Write};
use suijuris_core::time::{Span, Timestamp};

use crate::lives::{Life, assert_same, bytes_of, change, fault_of, fold, mutated, name};

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn list(items: &[&str]) -> Value {
    Value::List(items.iter().copied().map(text).collect())
}

fn numbers(items: &[i64]) -> Value {
    Value::Set(items.iter().copied().map(Value::Int).collect())
}

fn mark(key: &str, value: i64) -> Value {
    Value::Map([(key.into(), Value::Int(value))].into())
}

fn point(x: i64, y: i64) -> Value {
    Value::Record(
        [
            ("x".into(), Value::Int(x)),
            ("y".into(), Value::Decimal(Decimal(y))),
        ]
        .into(),
    )
}

/// One value of each type, with a field that holds it.
fn samples() -> Vec<(&'static str, Value)> {
    vec![
        ("budget", Value::Int(1)),
        ("consent", Value::Bool(true)),
        ("jobs", Value::Set([text("a")].into())),
        ("journal", list(&["a"])),
        ("marks", mark("a", 1)),
        ("mode", Value::Enum("busy".into())),
        ("note", text("hello")),
        ("once", Value::Timestamp(Timestamp(5))),
        ("pause", Value::Duration(Span(5))),
        ("point", point(1, 2)),
        ("price", Value::Decimal(Decimal(125_000))),
        ("raw", Value::Bytes(vec![1, 2])),
        ("token", Value::Commitment(Digest([7; 32]))),
    ]
}

/// The change is refused with a reason that `expected` recognises, and the chain and memory are as before.
fn refused(life: &mut Life, change: &Change, expected: impl Fn(&Refused) -> bool) {
    let (before, len) = (life.state.clone(), life.chain.len());
    for signed in [true, false] {
        match fault_of(life.write(change.clone(), signed)) {
            Fault::Change(reason) => assert!(expected(&reason), "{change:?}: {reason:?}"),
            fault => panic!("{change:?}: {fault:?}"),
        }
    }
    assert_same(&before, &life.state);
    assert_eq!(life.chain.len(), len);
}

// proves B1
#[test]
fn a_value_of_another_type_is_refused_by_every_field() {
    let mut life = Life::in_phase(Phase::Active);
    for (field, own) in samples() {
        for (_, value) in samples()
            .into_iter()
            .filter(|(_, value)| value.kind_name() != own.kind_name())
        {
            let secret = |value: &Value| matches!(value, Value::Commitment(_));
            let crosses = secret(&own) || secret(&value);
            refused(
                &mut life,
                &change([(field, Write::Set(value.clone()))]),
                |reason| match reason {
                    Refused::Secret(at) => crosses && at.as_str() == field,
                    Refused::WrongType {
                        field: at,
                        expected,
                        found,
                    } => (at.as_str(), *expected, *found) == (field, own.kind_name(), value.kind_name()),
                    _ => false,
                },
            );
        }
        life.write(change([(field, Write::Set(own))]), true).unwrap();
    }
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
}

// proves B1
#[test]
fn a_value_out_of_its_bounds_is_refused() {
    let mut life = Life::in_phase(Phase::Active);
    let nested = Value::Map([("k".into(), text("not an int"))].into());
    let extra = Value::Record([("x".into(), Value::Int(1)), ("z".into(), Value::Int(1))].into());
    let partial = Value::Record([("x".into(), Value::Int(1))].into());
    for (field, value) in [
        ("budget", Value::Int(-1)),
        ("budget", Value::Int(1_001)),
        ("mode", Value::Enum("asleep".into())),
        ("jobs", Value::Set([text("a"), Value::Int(1)].into())),
        ("journal", Value::List(vec![Value::Commitment(Digest([0; 32]))])),
        ("marks", nested),
        ("point", extra),
        ("point", partial),
    ] {
        refused(
            &mut life,
            &change([(field, Write::Set(value))]),
            |reason| matches!(reason, Refused::WrongType { field: at, .. } if at.as_str() == field),
        );
    }
    for edge in [0, 1_000] {
        life.write(change([("budget", Write::Set(Value::Int(edge)))]), true)
            .unwrap();
    }
}

// proves B1
#[test]
fn a_value_larger_than_its_field_is_refused() {
    let mut life = Life::in_phase(Phase::Active);
    let bytes = |len| Value::Bytes(vec![0; len]);
    let too_large = |max: usize| move |reason: &Refused| matches!(reason, Refused::TooLarge { max: at, len, .. } if *at == max && *len == max + 1);
    life.write(change([("note", Write::Set(text(&"é".repeat(8))))]), true)
        .unwrap();
    refused(
        &mut life,
        &change([("note", Write::Set(text(&"a".repeat(17))))]),
        too_large(16),
    );
    refused(
        &mut life,
        &change([("raw", Write::Set(bytes((1 << 20) + 1)))]),
        too_large(1 << 20),
    );
    let most = usize::try_from(Field::DEFAULT_MAX_BYTES).unwrap();
    life.write(
        change([("journal", Write::Append(list(&[&"a".repeat(most - 2)])))]),
        true,
    )
    .unwrap();
    refused(
        &mut life,
        &change([("journal", Write::Append(list(&["b"])))]),
        too_large(most),
    );
}

// proves B1
#[test]
fn what_is_append_only_is_never_replaced_or_removed() {
    let mut life = Life::in_phase(Phase::Active);
    let only = |field: &'static str| move |reason: &Refused| matches!(reason, Refused::AppendOnly(at) if at.as_str() == field);
    for (field, first, more, after) in [
        ("journal", list(&["a"]), list(&["b", "a"]), list(&["a", "b", "a"])),
        ("seen", numbers(&[1, 2]), numbers(&[2, 3]), numbers(&[1, 2, 3])),
        (
            "marks",
            mark("a", 1),
            mark("b", 2),
            Value::Map([("a".into(), Value::Int(1)), ("b".into(), Value::Int(2))].into()),
        ),
    ] {
        life.write(change([(field, Write::Append(first.clone()))]), true)
            .unwrap();
        life.write(change([(field, Write::Append(more))]), false).unwrap();
        assert_eq!(life.state.memory().value(field), Some(&after));
        refused(&mut life, &change([(field, Write::Set(first))]), only(field));
        refused(&mut life, &change([(field, Write::Unset)]), only(field));
    }
    refused(
        &mut life,
        &change([("marks", Write::Append(mark("a", 9)))]),
        only("marks"),
    );
    let instant = |at| Write::Set(Value::Timestamp(Timestamp(at)));
    life.write(change([("once", instant(1))]), true).unwrap();
    refused(&mut life, &change([("once", instant(2))]), only("once"));
    refused(&mut life, &change([("once", Write::Unset)]), only("once"));
}

// proves B1
#[test]
fn only_items_of_the_right_type_are_appended_and_only_to_collections() {
    let mut life = Life::in_phase(Phase::Active);
    for (field, value) in samples() {
        let collection = matches!(value, Value::Set(_) | Value::List(_) | Value::Map(_));
        if collection {
            refused(
                &mut life,
                &change([(field, Write::Append(Value::Int(1)))]),
                |reason| matches!(reason, Refused::WrongType { field: at, found: "int", .. } if at.as_str() == field),
            );
        } else {
            refused(
                &mut life,
                &change([(field, Write::Append(value))]),
                |reason| matches!(reason, Refused::NotACollection(at) if at.as_str() == field),
            );
        }
    }
    for (field, value) in [
        ("jobs", numbers(&[1])),
        ("seen", list(&["a"])),
        ("marks", list(&["a"])),
    ] {
        refused(
            &mut life,
            &change([(field, Write::Append(value))]),
            |reason| matches!(reason, Refused::WrongType { field: at, .. } if at.as_str() == field),
        );
    }
    life.write(
        change([("jobs", Write::Append(Value::Set([text("a")].into())))]),
        true,
    )
    .unwrap();
    life.write(
        change([("jobs", Write::Set(Value::Set([text("b")].into())))]),
        true,
    )
    .unwrap();
    life.write(change([("jobs", Write::Unset)]), true).unwrap();
    assert_eq!(life.state.memory().value("jobs"), None);
    assert_eq!(
        life.state.memory().cell("jobs").unwrap().as_of,
        Some(life.state.head().at)
    );
}

// proves B1, B10
#[test]
fn a_secret_in_clear_never_enters_the_lineage() {
    let mut life = Life::in_phase(Phase::Active);
    for write in [Write::Set(text("hunter2")), Write::Set(Value::Bytes(vec![1]))] {
        refused(&mut life, &change([("token", write)]), |reason| {
            matches!(reason, Refused::Secret(_))
        });
    }
    refused(
        &mut life,
        &change([("note", Write::Set(Value::Commitment(Digest([7; 32]))))]),
        |reason| matches!(reason, Refused::Secret(_)),
    );
    life.write(
        change([("token", Write::Set(Value::Commitment(Digest([7; 32]))))]),
        true,
    )
    .unwrap();
    life.write(change([("token", Write::Unset)]), true).unwrap();
    assert!(
        !bytes_of(&life.chain)
            .concat()
            .windows(7)
            .any(|window| window == b"hunter2")
    );
}

// proves B1
#[test]
fn a_change_takes_effect_whole_or_not_at_all() {
    let mut life = Life::in_phase(Phase::Active);
    let good = |field: &str, value| (name(field), Write::Set(value));
    let mut writes: Change = [
        good("budget", Value::Int(5)),
        good("price", Value::Decimal(Decimal(1))),
    ]
    .into();
    writes.insert(name("zzz"), Write::Unset);
    refused(
        &mut life,
        &writes,
        |reason| matches!(reason, Refused::UnknownField(at) if at.as_str() == "zzz"),
    );
    refused(&mut life, &Change::new(), |reason| *reason == Refused::Empty);
    writes.remove("zzz");
    life.write(writes, true).unwrap();
}

// proves B1
#[test]
fn a_change_too_large_for_a_record_leaves_nothing_behind() {
    let mut life = Life::in_phase(Phase::Active);
    life.write(change([("raw", Write::Set(Value::Bytes(vec![1; 9])))]), true)
        .unwrap();
    let before = life.state.clone();
    let most = || Write::Set(Value::Bytes(vec![0; 1 << 20]));
    let both = change([
        ("budget", Write::Set(Value::Int(5))),
        ("raw", most()),
        ("raw_too", most()),
    ]);
    for signed in [true, false] {
        let fault = fault_of(life.write(both.clone(), signed));
        assert!(matches!(fault, Fault::Encoding(codec::Error::TooLong { .. })));
    }
    assert_same(&before, &life.state);
    life.write(change([("raw", most())]), true).unwrap();
    life.write(change([("raw_too", most())]), true).unwrap();
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
}

// proves B1, A6
#[test]
fn an_ill_typed_write_that_was_recorded_all_the_same_breaks_the_chain() {
    let mut life = Life::in_phase(Phase::Active);
    let before = bytes_of(&life.chain);
    life.live("mutated");
    let mut record = life.chain[2].record.clone();
    record.body = mutated(change([("budget", Write::Set(text("much")))]));
    let forged = record.store(Some(&life.running())).unwrap();
    assert!(matches!(&forged.record.body, Body::Mutated(_)));
    let chain = [before, vec![forged.bytes]].concat();
    assert!(matches!(
        fault_of(fold(&chain)),
        Fault::Change(Refused::WrongType { .. })
    ));
}
