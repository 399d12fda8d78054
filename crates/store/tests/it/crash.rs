//! The power goes at every operation of a life, unsynced things are lost in several ways, and the object goes on.

use proptest::prelude::*;
use suijuris_core::id::RecordId;
use suijuris_core::lineage::Phase;
use suijuris_store::{Depth, Reader, Sizes, StageError, Writer};
use suijuris_testkit::disk::{Dice, Fault, FaultyDisk, Loss};

use crate::support::{
    SIZES, begin, chain, commit, count, create_at, dir_on, dormant, note, seal, unsealed, wait_all, wake,
};

/// One step of a life.
#[derive(Debug, Clone, Copy)]
enum Step {
    Wake,
    /// A key is made beside the start, the wake commits to it, and it has not taken its place.
    Begin,
    /// It does.
    Adopt,
    /// A key is made, and the wake comes to nothing.
    Spare,
    /// So many mutations as one group.
    Group(u8),
    Note(u16),
    Seal,
    Sleep,
    Reopen,
}

/// What a life staged, in order, and up to where it was told that it is durable.
#[derive(Debug, Default)]
struct Told {
    staged: Vec<RecordId>,
    acknowledged: usize,
    created: bool,
}

impl Told {
    fn note_staged(&mut self, writer: &Writer, id: RecordId) {
        let seq = usize::try_from(writer.staged(|state| state.head().seq)).unwrap();
        self.staged.resize(seq, id);
        self.staged.push(id);
    }
}

fn step(writer: &Writer, step: Step, told: &mut Told, seed: u8) -> Result<(), StageError> {
    let spare = || writer.object_dir().prepare_spare(&[seed + 100; 32]).ok();
    let drafts = match step {
        Step::Adopt => return Ok(writer.adopt()?),
        Step::Spare => {
            let _made = spare();
            return Ok(());
        }
        Step::Wake | Step::Begin => {
            let before = writer.staged(|state| state.head().record);
            let woken = match step {
                // One that could not be made is done without.
                Step::Begin => begin(writer, spare(), seed),
                _ => wake(writer, seed),
            };
            let now = writer.staged(|state| state.head().record);
            if now != before {
                told.note_staged(writer, now);
            }
            woken?;
            told.acknowledged = told.staged.len();
            return Ok(());
        }
        Step::Group(size) => (0..size).map(|n| count(i64::from(n))).collect(),
        Step::Note(len) => vec![note(&"x".repeat(usize::from(len)))],
        Step::Seal => vec![seal()],
        Step::Sleep => vec![dormant()],
        Step::Reopen => vec![],
    };
    let mut tickets = Vec::new();
    for draft in drafts {
        let ticket = writer.stage(draft)?;
        told.note_staged(writer, ticket.id());
        tickets.push(ticket);
    }
    wait_all(&tickets)?;
    told.acknowledged = told.staged.len();
    Ok(())
}

/// The same life with keys made beside the starts.
const PREPARED: &[Step] = &[
    Step::Begin,
    Step::Group(2),
    Step::Adopt,
    Step::Seal,
    Step::Sleep,
    Step::Spare,
    Step::Reopen,
    Step::Begin,
    Step::Sleep,
    Step::Begin,
    Step::Group(3),
    Step::Reopen,
];

/// Lives `steps` until the power goes.
fn live(disk: &FaultyDisk, steps: &[Step], sizes: Sizes) -> Told {
    let object_dir = dir_on(disk);
    let mut told = Told::default();
    if create_at(&object_dir, 1).is_err() {
        return told;
    }
    told.created = true;
    let open = || {
        Writer::open(&object_dir, Depth::Tail, sizes)
            .ok()
            .map(|(writer, _)| writer)
    };
    let Some(mut writer) = open() else { return told };
    told.note_staged(&writer, writer.staged(|state| state.head().record));
    told.acknowledged = 1;
    for (number, &next) in steps.iter().enumerate() {
        if matches!(next, Step::Reopen) {
            drop(writer);
            match open() {
                Some(opened) => writer = opened,
                None => return told,
            }
            continue;
        }
        if step(&writer, next, &mut told, u8::try_from(number + 10).unwrap()).is_err() {
            return told;
        }
    }
    told
}

/// Opens what the crash left, and says everything that must hold.
fn check(disk: &FaultyDisk, told: &Told, context: &str) {
    let object_dir = dir_on(disk);
    if !object_dir.holds_object().unwrap() {
        assert!(!told.created, "the object is gone: {context}");
        create_at(&object_dir, 1).unwrap();
        return;
    }
    let reader =
        Reader::verify(&object_dir, |_| {}).unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
    let tail =
        Reader::open(&object_dir, Depth::Tail).unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
    assert_eq!(tail.state().head(), reader.state().head(), "{context}");
    let records: Vec<_> = reader
        .records(0..u64::MAX)
        .unwrap()
        .map(|record| record.unwrap().id)
        .collect();
    assert!(
        records.len() >= told.acknowledged,
        "an acknowledged record is gone: {context}"
    );
    if !told.staged.is_empty() {
        assert!(
            told.staged.starts_with(&records),
            "a record nobody staged: {context}"
        );
    }
    let (writer, _) = Writer::open(&object_dir, Depth::Tail, SIZES)
        .unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
    assert_eq!(writer.published().head(), reader.state().head(), "{context}");
    if writer.published().head().phase == Phase::Active {
        commit(&writer, unsealed(&writer));
    }
    writer.discard_spare();
    let spare = object_dir.prepare_spare(&[201; 32]).unwrap();
    begin(&writer, Some(spare), 200).unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
    commit(&writer, count(99));
    commit(&writer, dormant());
    writer.close().unwrap();
    Reader::verify(&object_dir, |_| {})
        .unwrap_or_else(|error| panic!("{} after going on: {context}", chain(&error)));
}

fn losses(seed: u64) -> [Loss; 5] {
    [
        Loss::All,
        Loss::Nothing,
        Loss::Later(seed),
        Loss::Scattered(seed),
        Loss::Scattered(seed + 1),
    ]
}

const LIFE: &[Step] = &[
    Step::Wake,
    Step::Group(1),
    Step::Group(5),
    Step::Seal,
    Step::Note(900),
    Step::Group(3),
    Step::Sleep,
    Step::Reopen,
    Step::Wake,
    Step::Note(1_500),
    Step::Group(8),
    Step::Sleep,
];

// proves B2, A12
#[test]
fn the_power_goes_at_every_operation_and_no_acknowledged_record_is_lost() {
    cut_anywhere(LIFE, 25);
}

// proves B2, A12
#[test]
fn a_key_that_was_made_beside_the_start_is_never_the_one_that_is_lost() {
    cut_anywhere(PREPARED, 12);
}

fn cut_anywhere(life: &[Step], acknowledged: usize) {
    let whole = FaultyDisk::default();
    let told = live(&whole, life, SIZES);
    assert_eq!(told.acknowledged, acknowledged, "the undisturbed life");
    for cut in 1..=whole.operations() {
        for loss in losses(cut) {
            let disk = FaultyDisk::default();
            disk.fail(cut, Fault::PowerLoss);
            let told = live(&disk, life, SIZES);
            check(
                &disk.crash(loss),
                &told,
                &format!("cut at operation {cut}, {loss:?}"),
            );
        }
    }
}

// proves B2
#[test]
fn the_power_goes_while_a_key_is_made_for_an_object_that_was_just_cut_off() {
    let whole = FaultyDisk::default();
    live(&whole, PREPARED, SIZES);
    for cut in (1..=whole.operations()).step_by(4) {
        let disk = FaultyDisk::default();
        disk.fail(cut, Fault::PowerLoss);
        let told = live(&disk, PREPARED, SIZES);
        for again in 1..14 {
            let first = disk.crash(Loss::Nothing);
            first.fail(again, Fault::PowerLoss);
            if let Ok((writer, _)) = Writer::open(&dir_on(&first), Depth::Tail, SIZES) {
                writer.discard_spare();
                let _spare = writer.object_dir().prepare_spare(&[77; 32]);
            }
            let loss = Loss::Scattered(cut + again);
            check(
                &first.crash(loss),
                &told,
                &format!("cut at {cut}, again at {again}, {loss:?}"),
            );
        }
    }
}

// proves B2
#[test]
fn a_second_power_loss_during_recovery_loses_nothing_either() {
    let whole = FaultyDisk::default();
    live(&whole, LIFE, SIZES);
    for cut in (1..=whole.operations()).step_by(3) {
        let disk = FaultyDisk::default();
        disk.fail(cut, Fault::PowerLoss);
        let told = live(&disk, LIFE, SIZES);
        for again in 1..8 {
            let first = disk.crash(Loss::Scattered(cut));
            first.fail(again, Fault::PowerLoss);
            drop(Writer::open(&dir_on(&first), Depth::Tail, SIZES));
            check(
                &first.crash(Loss::Scattered(again)),
                &told,
                &format!("cut at {cut}, again at {again}"),
            );
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let active = prop_oneof![
        4 => (1..12u8).prop_map(Step::Group),
        2 => (0..2_000u16).prop_map(Step::Note),
        1 => Just(Step::Seal),
    ];
    let activation = prop::collection::vec(active, 0..8);
    let life = prop::collection::vec((activation, any::<bool>()), 1..4);
    life.prop_map(|activations| {
        let mut steps = Vec::new();
        for (activation, reopens) in activations {
            steps.push(Step::Wake);
            steps.extend(activation);
            steps.push(Step::Sleep);
            steps.extend(reopens.then_some(Step::Reopen));
        }
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    // proves B2, A12
    #[test]
    fn random_lives_survive_power_loss_anywhere(steps in steps(), seed in any::<u32>()) {
        let whole = FaultyDisk::default();
        live(&whole, &steps, SIZES);
        let mut dice = Dice::new(u64::from(seed));
        for _ in 0..12 {
            let cut = 1 + dice.below(whole.operations());
            let loss = losses(dice.below(1_000))[usize::try_from(dice.below(5)).unwrap()];
            let disk = FaultyDisk::default();
            disk.fail(cut, Fault::PowerLoss);
            let told = live(&disk, &steps, SIZES);
            check(&disk.crash(loss), &told, &format!("cut at operation {cut}, {loss:?}"));
        }
    }
}

// proves B2
#[test]
fn an_error_of_the_disk_at_any_operation_loses_nothing_acknowledged() {
    let whole = FaultyDisk::default();
    live(&whole, LIFE, SIZES);
    for (fault, loss) in [
        (Fault::Eio, Loss::All),
        (Fault::Eio, Loss::Nothing),
        (Fault::Full, Loss::Scattered(1)),
    ] {
        for at in 1..=whole.operations() {
            let disk = FaultyDisk::default();
            disk.fail(at, fault);
            let told = live(&disk, LIFE, SIZES);
            check(
                &disk.crash(loss),
                &told,
                &format!("{fault:?} at operation {at}, then {loss:?}"),
            );
        }
    }
}
