//! Memory: the root commits to all of it, proofs to parts of it, freshness to its age.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde::de::DeserializeSeed as _;
use suijuris_core::id::Digest;
use suijuris_core::memory::tree::{self, Proof, Tree};
use suijuris_core::memory::{Cell, Change, Field, Freshness, Kind, Memory, Plain, Refused, Value, Write};
use suijuris_core::time::{Now, Quality, Ratchet, Reading, Span, Timestamp};

use crate::lives::{change, name, schema};
use crate::values::{any_fields, any_typed, memory};

fn cells(memory: &Memory) -> BTreeMap<suijuris_core::memory::Name, Cell> {
    memory
        .iter()
        .map(|(name, _, cell)| (name.clone(), cell.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_root_after_writes_is_the_root_of_a_memory_built_anew(
        fields in any_fields(),
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..20),
    ) {
        let mut memory = memory(&fields);
        for (time, (index, unset)) in (0i64..).zip(order) {
            let Some((name, (_, value))) = fields.iter().nth(index.index(fields.len().max(1))) else { continue };
            let write = if unset { Write::Unset } else { Write::Set(value.clone()) };
            memory.apply(&Change::from([(name.clone(), write)]), Timestamp(time)).unwrap();
            let rebuilt = Memory::restore(Arc::clone(memory.schema()), cells(&memory));
            prop_assert_eq!(memory.root(), rebuilt.root());
        }
    }

    #[test]
    fn every_field_has_a_proof_which_fails_when_any_part_of_it_is_altered(fields in any_fields()) {
        let mut memory = memory(&fields);
        let all: Change = fields.iter().step_by(2)
            .map(|(name, (_, value))| (name.clone(), Write::Set(value.clone()))).collect();
        let _nothing_to_write = memory.apply(&all, Timestamp(5));
        for name in fields.keys() {
            let proof = memory.prove(name.as_str()).unwrap();
            prop_assert!(proof.holds(&memory.root()));
            for (what, altered) in alterations(&proof) {
                prop_assert!(!altered.holds(&memory.root()), "{}", what);
            }
            prop_assert!(!proof.holds(&Digest([0; 32])));
        }
        prop_assert_eq!(memory.prove("no field"), None);
    }

    #[test]
    fn another_value_name_or_time_is_another_root((kind, value) in any_typed(), at in any::<i64>()) {
        let roots = [("a", at, Write::Set(value.clone())), ("a", at, Write::Unset),
            ("a", at.wrapping_add(1), Write::Set(value.clone())), ("b", at, Write::Set(value))]
            .map(|(field, at, write)| {
                let field_of_kind = Field { max_bytes: Some(1 << 20), ..Field::new(kind.clone()) };
                let mut memory = Memory::new(Arc::new(schema([(field, field_of_kind)])));
                let never = memory.root();
                memory.apply(&change([(field, write)]), Timestamp(at)).unwrap();
                assert_ne!(memory.root(), never);
                memory.root()
            });
        for (index, root) in roots.iter().enumerate() {
            prop_assert!(!roots[..index].contains(root));
        }
    }

    #[test]
    fn a_value_reads_back_from_its_plain_form((kind, value) in any_typed()) {
        let text = serde_json::to_string(&Plain(&value)).unwrap();
        let read = (&kind).deserialize(&mut serde_json::Deserializer::from_str(&text));
        prop_assert_eq!(read.unwrap(), value, "{}", text);
    }

    #[test]
    fn a_value_of_a_type_is_held_by_it_and_its_encoding_reads_back((kind, value) in any_typed()) {
        prop_assert!(kind.holds(&value));
        let bytes = suijuris_core::codec::encode(&value).unwrap();
        prop_assert_eq!(suijuris_core::codec::decode::<Value>(&bytes, 1 << 20).unwrap(), value);
    }

    #[test]
    fn trees_of_every_width_agree_with_their_paths(count in 1usize..40) {
        let leaves: Vec<Digest> = (0..count).map(|i| Digest::of(&i.to_be_bytes())).collect();
        let built = Tree::new(&leaves);
        let mut written = Tree::new(&vec![Digest::of(b"old"); count]);
        for (position, leaf) in leaves.iter().enumerate() {
            written.set(position, *leaf);
        }
        written.set(count, Digest::of(b"beyond"));
        prop_assert_eq!(built.root(), written.root());
        prop_assert_eq!(built.path(count), None);
        prop_assert_eq!(built.path(0).unwrap().len(), count.next_power_of_two().trailing_zeros() as usize);
    }
}

/// The proof with one part changed, for each part.
fn alterations(proof: &Proof) -> Vec<(&'static str, Proof)> {
    let with = |alter: &dyn Fn(&mut Proof)| {
        let mut altered = proof.clone();
        alter(&mut altered);
        altered
    };
    let mut all = vec![
        ("name", with(&|p| p.name.push('x'))),
        ("long name", with(&|p| p.name = "x".repeat(300))),
        (
            "as_of",
            with(&|p| p.as_of = Some(Timestamp(p.as_of.map_or(0, |at| at.0 + 1)))),
        ),
        (
            "value",
            with(&|p| p.value = Some(Value::String("altered".into()))),
        ),
        ("position", with(&|p| p.position += 1)),
        ("count", with(&|p| p.count += 1)),
        ("no fields", with(&|p| p.count = 0)),
        ("too many fields", with(&|p| p.count = u32::MAX)),
        ("longer path", with(&|p| p.path.push(Digest([0; 32])))),
    ];
    if proof.value.is_some() {
        all.push(("no value", with(&|p| p.value = None)));
    }
    if proof.as_of.is_some() {
        all.push(("never written", with(&|p| p.as_of = None)));
    }
    for step in 0..proof.path.len() {
        all.push(("path", with(&|p| p.path[step].0[31] ^= 1)));
        all.push(("shorter path", with(&|p| p.path.truncate(step))));
    }
    all
}

#[test]
fn a_leaf_is_never_a_node_and_an_empty_memory_has_a_root() {
    let empty = Memory::new(Arc::default());
    assert!(empty.schema().is_empty());
    assert_eq!(empty.prove("a"), None);
    let one = tree::leaf("a", None, None);
    assert_ne!(Tree::new(&[one]).root(), Tree::new(&[one, one]).root());
    assert_ne!(Tree::new(&[]).root(), Tree::new(&[Digest::of(&[2])]).root());
}

fn at(ms: i64, quality: Quality) -> Now {
    Now {
        at: Timestamp(ms),
        quality,
    }
}

fn consent() -> Memory {
    let fresh_for = Some(Span(1_000));
    Memory::new(Arc::new(schema([
        (
            "consent",
            Field {
                fresh_for,
                ..Field::new(Kind::Bool)
            },
        ),
        (
            "grant",
            Field {
                fresh_for: Some(Span(5_000)),
                ..Field::new(Kind::Bool)
            },
        ),
        ("plain", Field::new(Kind::Bool)),
    ])))
}

fn yes(field: &str) -> Change {
    change([(field, Write::Set(Value::Bool(true)))])
}

// proves A7
#[test]
fn a_field_is_not_fresh_in_three_ways_each_with_its_own_reason() {
    use Quality::{Host, Synced, Unknown};
    let mut memory = consent();
    for quality in [Host, Synced, Unknown] {
        assert_eq!(
            memory.freshness("consent", at(0, quality)),
            Some(Freshness::NeverWritten)
        );
    }
    memory.apply(&yes("consent"), Timestamp(100)).unwrap();
    for (now, expected) in [
        (at(100, Synced), Freshness::Fresh),
        (at(1_100, Host), Freshness::Fresh),
        (at(1_101, Host), Freshness::Stale),
        (at(i64::MAX, Synced), Freshness::Stale),
        (at(100, Unknown), Freshness::ClockUnknown),
        (at(9_999, Unknown), Freshness::ClockUnknown),
    ] {
        assert_eq!(memory.freshness("consent", now), Some(expected), "{now:?}");
    }
    assert_eq!(memory.freshness("nothing", at(0, Synced)), None);
    let words = [Freshness::Stale, Freshness::NeverWritten, Freshness::ClockUnknown].map(Freshness::as_str);
    assert_eq!(words, ["stale", "never_written", "clock_unknown"]);
}

// proves A7
#[test]
fn a_clock_behind_recorded_history_makes_nothing_fresh() {
    let mut memory = consent();
    memory.apply(&yes("consent"), Timestamp(100_000)).unwrap();
    let reading = |wall| Reading {
        wall: Timestamp(wall),
        quality: Quality::Synced,
        mono_ns: 0,
        boot_ns: 0,
    };
    let mut ratchet = Ratchet::new(Timestamp(100_000));
    let stepped_back = ratchet.observe(reading(50_000));
    assert_eq!(
        memory.freshness("consent", stepped_back),
        Some(Freshness::ClockUnknown)
    );
    let right_again = ratchet.observe(reading(100_500));
    assert_eq!(memory.freshness("consent", right_again), Some(Freshness::Fresh));
}

#[test]
fn a_counter_is_only_added_to_and_begins_anew_with_its_window() {
    let hour = Span(3_600_000);
    let counter = Field::new(Kind::Counter { window: hour });
    let plain = Field::new(Kind::INT);
    let mut memory = Memory::new(Arc::new(schema([("plain", plain), ("spent", counter)])));
    let write = |field: &str, write: Write| Change::from([(name(field), write)]);
    let add = |more| write("spent", Write::Add(more));
    let now = |ms| at(ms, Quality::Host);
    let spent = |memory: &Memory, ms| memory.value_at("spent", Timestamp(ms));
    assert_eq!(spent(&memory, 0), Some(Value::Int(0)));
    assert_eq!(memory.next_deadline(now(0)), None);
    memory.apply(&add(3), Timestamp(10)).unwrap();
    memory.apply(&add(4), Timestamp(hour.0 - 1)).unwrap();
    assert_eq!(spent(&memory, hour.0 - 1), Some(Value::Int(7)));
    assert_eq!(memory.next_deadline(now(hour.0 - 1)), Some(Timestamp(hour.0)));
    assert_eq!(spent(&memory, hour.0), Some(Value::Int(0)));
    assert_eq!(memory.next_deadline(now(hour.0)), None);
    let positions = [0, 1].into();
    let outcome = memory.outcome(&add(2), &positions, Timestamp(hour.0));
    assert_eq!(outcome, [(name("spent"), Some(Value::Int(2)))].into());
    memory.apply(&add(2), Timestamp(hour.0)).unwrap();
    assert_eq!(spent(&memory, hour.0 + 5), Some(Value::Int(2)));
    let root = memory.root();
    let wrong = [
        add(0),
        add(-1),
        add(i64::MAX),
        write("spent", Write::Set(Value::Int(0))),
        write("spent", Write::Unset),
        write("spent", Write::Append(Value::Int(1))),
    ];
    for change in wrong {
        let refused = memory.apply(&change, Timestamp(hour.0 + 9)).unwrap_err();
        assert_eq!(refused, Refused::Counter(name("spent")), "{change:?}");
        assert!(
            memory
                .outcome(&change, &positions, Timestamp(hour.0 + 9))
                .is_empty()
        );
    }
    let not_one = memory.apply(&write("plain", Write::Add(1)), Timestamp(hour.0));
    assert_eq!(not_one, Err(Refused::NotACounter(name("plain"))));
    assert_eq!(memory.root(), root);
}

// proves A7
#[test]
fn the_next_deadline_is_the_first_instant_at_which_a_fresh_field_is_stale() {
    let mut memory = consent();
    let now = |ms| at(ms, Quality::Host);
    assert_eq!(memory.next_deadline(now(0)), None);
    for (field, written) in [("plain", 0), ("grant", 50), ("consent", 100)] {
        memory.apply(&yes(field), Timestamp(written)).unwrap();
    }
    assert_eq!(memory.next_deadline(now(100)), Some(Timestamp(1_101)));
    assert_eq!(memory.freshness("consent", now(1_100)), Some(Freshness::Fresh));
    assert_eq!(memory.freshness("consent", now(1_101)), Some(Freshness::Stale));
    assert_eq!(memory.next_deadline(now(1_101)), Some(Timestamp(5_051)));
    assert_eq!(memory.next_deadline(now(5_051)), None);
    assert_eq!(
        memory.freshness("plain", at(i64::MAX, Quality::Unknown)),
        Some(Freshness::Fresh)
    );
}

#[test]
fn amended_memory_keeps_what_still_fits() {
    let old = schema([
        ("count", Field::new(Kind::INT)),
        ("gone", Field::new(Kind::Bool)),
        ("mode", Field::new(Kind::String)),
        (
            "now_clear",
            Field {
                secret: true,
                ..Field::new(Kind::String)
            },
        ),
        ("now_secret", Field::new(Kind::String)),
        (
            "still_secret",
            Field {
                secret: true,
                ..Field::new(Kind::String)
            },
        ),
        ("unwritten", Field::new(Kind::INT)),
    ]);
    let new = schema([
        (
            "added",
            Field {
                default: Some(Value::Int(3)),
                ..Field::new(Kind::INT)
            },
        ),
        (
            "count",
            Field {
                default: Some(Value::Int(9)),
                ..Field::new(Kind::INT)
            },
        ),
        (
            "mode",
            Field {
                default: Some(Value::Bool(false)),
                ..Field::new(Kind::Bool)
            },
        ),
        ("now_clear", Field::new(Kind::String)),
        (
            "now_secret",
            Field {
                secret: true,
                ..Field::new(Kind::String)
            },
        ),
        (
            "still_secret",
            Field {
                secret: true,
                ..Field::new(Kind::String)
            },
        ),
        (
            "unwritten",
            Field {
                default: Some(Value::Int(4)),
                ..Field::new(Kind::INT)
            },
        ),
    ]);
    let mut memory = Memory::new(Arc::new(old));
    let secret = || Write::Set(Value::Commitment(Digest([7; 32])));
    let text = || Write::Set(Value::String("clear".into()));
    let written = Some(Timestamp(5));
    let writes = change([
        ("count", Write::Set(Value::Int(1))),
        ("gone", Write::Set(Value::Bool(true))),
        ("mode", text()),
        ("now_clear", secret()),
        ("now_secret", text()),
        ("still_secret", secret()),
    ]);
    memory.apply(&writes, Timestamp(5)).unwrap();
    let amended = memory.amended(Arc::new(new));
    for (field, value, as_of) in [
        ("added", Some(Value::Int(3)), None),
        ("count", Some(Value::Int(1)), written),
        ("mode", Some(Value::Bool(false)), None),
        ("now_clear", None, None),
        ("now_secret", None, None),
        ("still_secret", Some(Value::Commitment(Digest([7; 32]))), written),
        ("unwritten", Some(Value::Int(4)), None),
    ] {
        assert_eq!(amended.cell(field), Some(&Cell { value, as_of }), "{field}");
    }
    assert_eq!(amended.cell("gone"), None);
}

// proves B1
#[test]
fn checking_a_change_says_what_making_it_would() {
    let mut memory = consent();
    for (writes, expected) in [
        (yes("consent"), Ok(())),
        (yes("nothing"), Err(Refused::UnknownField(name("nothing")))),
        (Change::new(), Err(Refused::Empty)),
        (
            change([("plain", Write::Append(Value::Bool(true)))]),
            Err(Refused::NotACollection(name("plain"))),
        ),
    ] {
        let root = memory.root();
        assert_eq!(memory.check(&writes), expected);
        assert_eq!(memory.root(), root);
        assert_eq!(memory.apply(&writes, Timestamp(1)), expected);
    }
}
