//! A disk that fails or fills up while the object lives.

use suijuris_core::lineage::Phase;
use suijuris_core::memory::Value;
use suijuris_store::{Depth, Reader, StageError};
use suijuris_testkit::disk::{Fault, FaultyDisk};

use crate::support::{commit, count, create_at, dir_on, dormant, note, open, wake};

fn awake(disk: &FaultyDisk) -> suijuris_store::Writer {
    let object_dir = dir_on(disk);
    create_at(&object_dir, 1).unwrap();
    let writer = open(&object_dir, Depth::Tail);
    wake(&writer, 2).unwrap();
    writer
}

// proves B2
#[test]
fn a_failed_write_or_sync_ends_all_acknowledging() {
    for operation in [1, 2] {
        let disk = FaultyDisk::default();
        let writer = awake(&disk);
        commit(&writer, count(1));
        let ticket = writer.stage(count(2)).unwrap();
        disk.fail(operation, Fault::Eio);
        ticket.wait().unwrap_err();
        ticket.wait().unwrap_err();
        assert!(matches!(writer.stage(count(3)), Err(StageError::Commit(_))));
        assert!(matches!(wake(&writer, 3), Err(StageError::Commit(_))));
        writer.flush().unwrap_err();
        assert_eq!(writer.published().memory().value("count"), Some(&Value::Int(1)));
        writer.close().unwrap_err();
    }
}

// proves B2
#[test]
fn on_a_full_disk_the_object_still_falls_asleep_in_good_order() {
    let disk = FaultyDisk::default();
    let writer = awake(&disk);
    disk.fail(1, Fault::Full);
    let mut acknowledged = 0;
    let refusal = loop {
        match writer.stage(note(&"x".repeat(200))) {
            Ok(ticket) => ticket.wait().unwrap(),
            Err(refusal) => break refusal,
        }
        acknowledged += 1;
        assert!(acknowledged < 10_000, "the disk never fills");
    };
    assert!(matches!(refusal, StageError::DiskFull), "{refusal}");
    commit(&writer, dormant());
    drop(writer);
    let reader = Reader::verify(&dir_on(&disk), |_| {}).unwrap();
    assert_eq!(reader.state().head().phase, Phase::Dormant);
    assert_eq!(reader.state().head().seq, acknowledged + 2);

    disk.free_space();
    let writer = open(&dir_on(&disk), Depth::Tail);
    wake(&writer, 7).unwrap();
    commit(&writer, note("there is room again"));
}

#[test]
fn a_record_too_large_is_refused_and_nothing_else_happens() {
    let writer = awake(&FaultyDisk::default());
    let before = writer.staged(|state| state.memory().root());
    let refusal = writer.stage(note(&"x".repeat(3 << 20))).unwrap_err();
    assert!(matches!(refusal, StageError::TooLarge(_)), "{refusal}");
    assert_eq!(writer.staged(|state| state.memory().root()), before);
    commit(&writer, count(1));
}
