//! Histories with every kind of record that travels differently: groups, secrets, amendments, activations cut off.

use std::collections::BTreeMap;

use proptest::prelude::*;
use suijuris_core::lineage::Phase;
use suijuris_core::memory::{Field, Kind, Name};
use suijuris_store::{BundleFiles, Depth, ObjectDir, Writer, capsule};
use suijuris_testkit::disk::FaultyDisk;

use crate::support::{
    amend, bundle_of, commit, count, create_with, dir_at, dormant, keep_token, note, open, seal, unsealed,
    wait_all, wake,
};

/// One step of a life.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Wake,
    Group(u8),
    Note(u16),
    Seal,
    Token(u8),
    /// To the rules of that number.
    Amend(u8),
    Sleep,
    /// The process dies, and the next finds out.
    Crash,
}

/// The rules of a number: each another bundle.
pub(crate) fn rules(number: u8) -> BundleFiles {
    let field = |name: &str, field: Field| (Name::new(name).unwrap(), field);
    let token = Field {
        secret: true,
        ..Field::new(Kind::String)
    };
    let fields: BTreeMap<_, _> = [
        field("count", Field::new(Kind::INT)),
        field("note", Field::new(Kind::String)),
        field("token", token),
    ]
    .into();
    bundle_of(&format!("rules-{number}"), fields)
}

pub(crate) const OBJECT: &str = "object";

/// A disk with an object that lived `steps`, as number `nonce`.
pub(crate) fn lived(nonce: u8, steps: &[Step]) -> FaultyDisk {
    let disk = FaultyDisk::default();
    create_with(&dir_at(&disk, OBJECT), nonce, rules(0)).unwrap();
    live_on(&disk, steps, nonce);
    disk
}

/// The object on `disk` lives `steps` more.
pub(crate) fn live_on(disk: &FaultyDisk, steps: &[Step], salt: u8) {
    let object_dir = dir_at(disk, OBJECT);
    let mut writer = live(open(&object_dir, Depth::Tail), Step::Crash, salt);
    for (number, step) in (0..).zip(steps) {
        writer = live(writer, *step, salt.wrapping_add(number));
    }
    writer.close().unwrap();
}

fn live(writer: Writer, step: Step, seed: u8) -> Writer {
    let active = writer.staged(|state| state.head().phase == Phase::Active);
    match step {
        Step::Wake if !active => wake(&writer, seed).unwrap(),
        Step::Group(size) if active => {
            let tickets: Vec<_> = (0..size)
                .map(|n| writer.stage(count(i64::from(n))).unwrap())
                .collect();
            wait_all(&tickets).unwrap();
        }
        Step::Note(len) if active => commit(&writer, note(&"x".repeat(usize::from(len)))),
        Step::Token(salt) if active => keep_token(&writer, "hush", salt),
        Step::Amend(number) => amend(&writer, &rules(number)),
        Step::Seal => commit(&writer, seal()),
        Step::Sleep if active => commit(&writer, dormant()),
        Step::Crash => {
            let object_dir = writer.object_dir().clone();
            drop(writer);
            let writer = open(&object_dir, Depth::Tail);
            if writer.published().head().phase == Phase::Active {
                commit(&writer, unsealed(&writer));
            }
            return writer;
        }
        _ => {}
    }
    writer
}

/// A life with everything in it.
pub(crate) const FULL: &[Step] = &[
    Step::Wake,
    Step::Group(4),
    Step::Note(700),
    Step::Token(1),
    Step::Amend(1),
    Step::Seal,
    Step::Note(1_900),
    Step::Sleep,
    Step::Amend(2),
    Step::Wake,
    Step::Group(3),
    Step::Crash,
    Step::Amend(0),
    Step::Wake,
    Step::Group(9),
    Step::Token(2),
    Step::Note(1_200),
    Step::Sleep,
];

/// A short one, for what is tried at every byte.
pub(crate) const SHORT: &[Step] = &[
    Step::Wake,
    Step::Group(2),
    Step::Token(1),
    Step::Amend(1),
    Step::Sleep,
];

pub(crate) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Wake),
        3 => (1..9u8).prop_map(Step::Group),
        2 => (0..2_000u16).prop_map(Step::Note),
        1 => Just(Step::Seal),
        1 => any::<u8>().prop_map(Step::Token),
        1 => (0..4u8).prop_map(Step::Amend),
        2 => Just(Step::Sleep),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..24)
}

/// The whole object in `object_dir` as a capsule, and what its recipient unseals.
pub(crate) fn exported(object_dir: &ObjectDir) -> Vec<u8> {
    let reader = suijuris_store::Reader::open(object_dir, Depth::Tail).unwrap();
    let mut bytes = Vec::new();
    let told = capsule::export(&reader, &mut bytes, Some(b"sealed for somebody"), |_| {}).unwrap();
    assert_eq!(told.bytes, bytes.len() as u64);
    assert_eq!(told.head, reader.state().head().record);
    bytes
}
