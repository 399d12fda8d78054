//! Fuzz bodies: whatever the bytes, each decoder answers, and what it accepts is the canonical form of what it read.
//!
//! Each body is a plain function of bytes. Here proptest feeds it arbitrary bytes and valid ones with some altered.

use std::str::FromStr as _;

use proptest::prelude::*;
use serde::de::DeserializeSeed as _;
use suijuris_core::id::{BlobId, BundleId, ObjectId, RecordId};
use suijuris_core::key::{PublicKey, Signature};
use suijuris_core::lineage::{Checkpoint, Parent, ParentProof, Phase, State, Stored, segment};
use suijuris_core::manifest::Manifest;
use suijuris_core::memory::tree::Proof;
use suijuris_core::memory::{Decimal, Kind, Name, Schema, Value};
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::{codec, trigger::Schedule};

use crate::lives::{Life, bundle, bundles, epoch_key, inception};
use crate::manifest::manifest;

pub(crate) fn record(bytes: &[u8]) {
    if let Ok(stored) = Stored::decode(bytes.to_vec()) {
        assert_eq!(codec::encode(&stored.record).unwrap(), bytes);
        assert_eq!(stored.id, RecordId::of(bytes));
        let _any_answer = stored.record.signature_holds();
        let _any_answer = State::begin(&stored, &bundles());
        for phase in [Phase::Dormant, Phase::Active] {
            let _any_answer = Life::in_phase(phase).state.apply(&stored, &bundles());
        }
    }
}

pub(crate) fn bundle_files(bytes: &[u8]) {
    if let Ok(files) = suijuris_core::bundle::Files::decode(bytes) {
        assert_eq!(files.encode().unwrap(), bytes);
        let _any_answer = files.open();
    }
}

pub(crate) fn checkpoint(bytes: &[u8]) {
    if let Ok((state, position)) = Checkpoint::open(bytes, &bundles()) {
        assert!(state.memory().schema().len() < 1_000);
        let _any_position = position;
    }
}

pub(crate) fn segment_of_records(bytes: &[u8]) {
    let read: Vec<_> = segment::decode(bytes).map_while(Result::ok).collect();
    assert!(bytes.starts_with(&segment::encode(&read)));
    let _any_answer = segment::fold([bytes], &bundles());
}

pub(crate) fn parent_proof(bytes: &[u8]) {
    let life = Life::new("life");
    assert!(
        ParentProof::verify(Some(bytes), &life.chain[0]).is_err(),
        "it names no parent"
    );
    assert!(
        ParentProof::verify(Some(bytes), &child()).is_err(),
        "nobody approved it"
    );
}

/// The inception of an object that names a parent.
fn child() -> Stored {
    let parent = Life::in_phase(Phase::Active);
    let key = epoch_key("child", 1);
    let mut body = inception("child");
    body.parent = Some(Parent {
        object: parent.state.head().object,
        head: parent.state.head().record,
    });
    let schema = std::sync::Arc::clone(parent.state.memory().schema());
    State::create(body, Timestamp(2_000), bundle(0), schema, &key)
        .unwrap()
        .1
}

pub(crate) fn bundle_manifest(bytes: &[u8]) {
    if let Ok((id, manifest)) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode().unwrap(), bytes);
        assert_eq!(id, BundleId::of(bytes));
    }
}

pub(crate) fn value(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<Value>(bytes, 1 << 16) {
        assert_eq!(codec::encode(&value).unwrap(), bytes);
        assert!(value.size() <= bytes.len() * 8);
        let _shown = format!("{value:?}");
    }
}

pub(crate) fn schema(bytes: &[u8]) {
    if let Ok(schema) = codec::decode::<Schema>(bytes, 1 << 16) {
        assert_eq!(codec::encode(&schema).unwrap(), bytes);
        let memory = suijuris_core::memory::Memory::new(std::sync::Arc::new(schema));
        for (name, _, _) in memory.iter() {
            assert!(memory.prove(name.as_str()).unwrap().holds(&memory.root()));
        }
    }
}

pub(crate) fn proof(bytes: &[u8]) {
    if let Ok(proof) = codec::decode::<Proof>(bytes, 1 << 16) {
        assert!(!proof.holds(&suijuris_core::id::Digest([0; 32])));
    }
}

/// Everything that is read from text: ids, keys, times, names, decimals, schedules, plain values.
pub(crate) fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(id) = ObjectId::from_str(&text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(instant) = Timestamp::from_str(&text) {
        assert_eq!(instant.to_string().parse(), Ok(instant));
    }
    if let Ok(span) = Span::from_str(&text) {
        assert_eq!(span.to_string().parse(), Ok(span));
    }
    if let Ok(decimal) = Decimal::from_str(&text) {
        assert_eq!(decimal.to_string().parse(), Ok(decimal));
    }
    let (expression, zone) = (text.to_string(), "UTC".to_owned());
    let _any_answer = (
        Schedule::Cron { expression, zone }.check().is_ok(),
        Name::new(&*text).is_ok(),
    );
    let _any_answer = (
        BlobId::from_str(&text).is_ok(),
        PublicKey::from_str(&text).is_ok(),
    );
    let _any_answer = Signature::from_str(&text).is_ok();
    for kind in [
        Kind::INT,
        Kind::Bytes,
        Kind::Map(Box::new(Kind::Timestamp)),
        Kind::List(Box::new(Kind::Decimal)),
    ] {
        let _any_answer = (&kind)
            .deserialize(&mut serde_json::Deserializer::from_slice(bytes))
            .is_ok();
    }
}

type Fuzz = fn(&[u8]);

/// Each body with bytes that it accepts.
fn bodies() -> Vec<(Fuzz, Vec<u8>)> {
    let life = Life::in_phase(Phase::Active);
    let memory = life.state.memory();
    let point = Value::List(vec![
        Value::Int(-1),
        Value::Map([("k".into(), Value::Bytes(vec![1]))].into()),
    ]);
    let mut bodies: Vec<(Fuzz, Vec<u8>)> = vec![
        (
            checkpoint,
            Checkpoint::of(&life.state, 9, &life.waiting()).unwrap(),
        ),
        (segment_of_records, segment::encode(&life.chain)),
        (
            parent_proof,
            ParentProof::of(&life.chain[0], &life.chain[1]).unwrap(),
        ),
        (bundle_manifest, manifest().encode().unwrap()),
        (value, codec::encode(&point).unwrap()),
        (schema, codec::encode(&**memory.schema()).unwrap()),
        (proof, codec::encode(&memory.prove("budget").unwrap()).unwrap()),
        (text, life.state.head().object.to_string().into_bytes()),
        (text, life.state.head().at.to_string().into_bytes()),
        (text, b"1h 30m".to_vec()),
        (text, b"0 9 * * MON-FRI".to_vec()),
    ];
    let files = suijuris_core::bundle::Files {
        manifest: manifest().encode().unwrap(),
        governance: vec![1],
        program: vec![2],
    };
    bodies.push((bundle_files, files.encode().unwrap()));
    bodies.extend(
        life.chain
            .into_iter()
            .map(|stored| (record as Fuzz, stored.bytes)),
    );
    bodies
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        for (body, _) in bodies() {
            body(&bytes);
        }
    }

    #[test]
    fn no_altered_bytes_make_a_decoder_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
    ) {
        for (body, mut bytes) in bodies() {
            for (index, byte, how) in &edits {
                let at = index.index(bytes.len().max(1));
                match how {
                    0 if at < bytes.len() => bytes[at] = *byte,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.insert(at.min(bytes.len()), *byte),
                }
            }
            body(&bytes);
        }
    }
}

#[test]
fn valid_bytes_pass_every_body() {
    for (body, bytes) in bodies() {
        body(&bytes);
    }
}

#[test]
fn claimed_lengths_and_endless_nesting_are_bounded_work() {
    let hostile: [Vec<u8>; 6] = [
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff".to_vec(),
        b"\xa1\x64list\x9b\x00\x00\x00\xff\xff\xff\xff\xff".to_vec(),
        b"\xa1\x64list\x81".repeat(100_000),
        b"\xa1\x61x\xa1\x64kind\xa1\x63set".repeat(10_000),
    ];
    for bytes in hostile {
        for (body, _) in bodies() {
            body(&bytes);
        }
    }
}
