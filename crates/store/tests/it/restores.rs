//! Copies that become the object again.

use suijuris_core::lineage::{Body, Phase, Quarantined};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{self, Mark};
use suijuris_store::restore::{RestoreError, record_crash, restoration, restore};
use suijuris_store::{Depth, Reader, Sign, StageError, Writer};
use suijuris_testkit::disk::FaultyDisk;

use crate::lives::{OBJECT, Step, live_on, lived};
use crate::support::{commit, dir_at, draft, open, owner, wake};

const NOW: Timestamp = Timestamp(9_000);

/// A witness's mark of the object on `disk`.
fn mark(disk: &FaultyDisk) -> Mark {
    let reader = Reader::open(&dir_at(disk, OBJECT), Depth::Tail).unwrap();
    let head = reader.state().head();
    Mark {
        v: witness::VERSION,
        object: head.object,
        epoch: head.epoch,
        seq: head.seq,
        head: head.record,
        holder: None,
    }
}

/// An object that went on, and the copy of before.
fn parted(before: &[Step]) -> (FaultyDisk, FaultyDisk) {
    let newest = lived(1, before);
    let copy = newest.copy();
    live_on(&newest, &[Step::Wake, Step::Note(3), Step::Sleep, Step::Wake], 30);
    (newest, copy)
}

fn sanctioned(writer: &Writer, mark: &Mark) -> Result<(), RestoreError> {
    let approval = restoration(writer, mark)?.approve(&owner()).unwrap();
    restore(writer, mark, vec![approval], NOW).map(drop)
}

#[test]
fn a_sanctioned_restore_is_recorded_and_the_next_wake_is_newer_than_all_that_is_given_up() {
    let (newest, copy) = parted(&[Step::Wake, Step::Sleep]);
    let mark = mark(&newest);
    let object_dir = dir_at(&copy, OBJECT);
    let writer = open(&object_dir, Depth::Tail);
    record_crash(&writer, NOW).unwrap();
    sanctioned(&writer, &mark).unwrap();
    let head = writer.published().head().clone();
    assert_eq!((head.phase, head.epoch), (Phase::Dormant, mark.epoch));
    wake(&writer, 99).unwrap();
    assert_eq!(writer.published().head().epoch, mark.epoch + 1);
    writer.close().unwrap();
    let reader = Reader::verify(&object_dir, |_| {}).unwrap();
    let restored = reader.records(3..4).unwrap().next().unwrap().unwrap();
    assert!(
        matches!(&restored.record.body, Body::Restored(body) if body.abandoned == mark.head && body.seq == mark.seq)
    );
}

#[test]
fn a_crash_of_a_copy_made_awake_is_recorded_first() {
    let (newest, copy) = parted(&[Step::Wake, Step::Note(2)]);
    let mark = mark(&newest);
    let writer = open(&dir_at(&copy, OBJECT), Depth::Tail);
    assert!(matches!(
        restoration(&writer, &mark),
        Err(RestoreError::CrashUnrecorded)
    ));
    record_crash(&writer, NOW).unwrap();
    record_crash(&writer, NOW).unwrap();
    assert_eq!(writer.published().head().seq, 3, "recorded once");
    sanctioned(&writer, &mark).unwrap();
    assert!(writer.published().head().unsealed);
}

#[test]
fn a_quarantined_copy_wakes_only_after_its_controllers_restored_it() {
    let (newest, copy) = parted(&[]);
    let mark = mark(&newest);
    let writer = open(&dir_at(&copy, OBJECT), Depth::Tail);
    let quarantined = Quarantined {
        reason: "rolled back".to_owned(),
    };
    commit(&writer, draft(Body::Quarantined(quarantined), Sign::Now));
    assert!(wake(&writer, 50).is_err());
    // By nobody, by a stranger, or for another head: nothing happens.
    let stranger = suijuris_core::key::SecretKey::from_seed(&[1; 32]);
    let by_stranger = restoration(&writer, &mark).unwrap().approve(&stranger).unwrap();
    for approvals in [vec![], vec![by_stranger]] {
        let refused = restore(&writer, &mark, approvals, NOW);
        assert!(matches!(refused, Err(RestoreError::Stage(StageError::Chain(_)))));
    }
    let earlier = Mark {
        seq: mark.seq - 1,
        ..mark.clone()
    };
    let for_another = restoration(&writer, &earlier).unwrap().approve(&owner()).unwrap();
    assert!(restore(&writer, &mark, vec![for_another], NOW).is_err());
    assert_eq!(writer.published().head().phase, Phase::Quarantined);
    sanctioned(&writer, &mark).unwrap();
    wake(&writer, 50).unwrap();
}

#[test]
fn what_contains_the_witnessed_head_or_is_another_object_is_not_restored() {
    let disk = lived(1, &[Step::Wake, Step::Sleep]);
    let mark = mark(&disk);
    let writer = open(&dir_at(&disk, OBJECT), Depth::Tail);
    let nothing = restoration(&writer, &mark);
    assert!(matches!(nothing, Err(RestoreError::NothingAbandoned(2))));
    let other = Mark {
        object: suijuris_core::ObjectId::of(b"other"),
        ..mark.clone()
    };
    assert!(matches!(
        restoration(&writer, &other),
        Err(RestoreError::OtherObject(_))
    ));
    // Shut away with nothing newer elsewhere: its controllers let it out.
    commit(
        &writer,
        draft(
            Body::Quarantined(Quarantined {
                reason: "twin".to_owned(),
            }),
            Sign::Now,
        ),
    );
    sanctioned(&writer, &mark).unwrap();
    wake(&writer, 51).unwrap();
}
