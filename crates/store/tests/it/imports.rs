//! Directories made of capsules: the same object, all of it or nothing.

use std::convert::Infallible;

use proptest::prelude::*;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::Phase;
use suijuris_store::capsule::{self, Decrypted, ImportError, Imported, import, verify};
use suijuris_store::{Depth, ObjectDir, OpenError, Reader, StagingError, Writer};
use suijuris_testkit::disk::{Dice, Fault, FaultyDisk, Loss};

use crate::lives::{FULL, OBJECT, Step, any_steps, exported, live_on, lived};
use crate::support::{SIZES, chain, commit, dir_at, dormant, unsealed, wake};

const COPY: &str = "copy";

fn keyless(_: Option<&[u8]>) -> Result<Option<Decrypted>, Infallible> {
    Ok(None)
}

/// What the recipient of a capsule of the object on `disk` decrypts.
fn decrypts(disk: &FaultyDisk) -> impl FnOnce(Option<&[u8]>) -> Result<Option<Decrypted>, Infallible> {
    let object_dir = dir_at(disk, OBJECT);
    move |sealed| {
        assert_eq!(sealed, Some(&b"sealed for somebody"[..]));
        let reader = Reader::open(&object_dir, Depth::Tail).unwrap();
        let decrypted = Decrypted::of(&object_dir, reader.state()).unwrap();
        Ok(Some(Decrypted::decode(&decrypted.encode().unwrap()).unwrap()))
    }
}

fn import_all(from: &FaultyDisk, to: &FaultyDisk) -> Result<Imported, ImportError> {
    let capsule = exported(&dir_at(from, OBJECT));
    import(&capsule[..], &dir_at(to, COPY), SIZES, decrypts(from), |_| {})
}

fn staging(result: Result<Imported, ImportError>) -> StagingError {
    match result {
        Err(ImportError::Staging(error)) => error,
        Err(other) => panic!("{}", chain(&other)),
        Ok(imported) => panic!("imported {imported:?}"),
    }
}

/// The copy is the object, and can go on.
fn check_same(original: &FaultyDisk, copy: &FaultyDisk) {
    let (object, copied) = (dir_at(original, OBJECT), dir_at(copy, COPY));
    let ours = Reader::verify(&object, |_| {}).unwrap();
    let theirs = Reader::verify(&copied, |_| {}).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(ours.state().head(), theirs.state().head());
    assert_eq!(ours.state().memory().root(), theirs.state().memory().root());
    let records = |reader: &Reader| -> Vec<_> {
        reader
            .records(0..u64::MAX)
            .unwrap()
            .map(|record| record.unwrap().bytes)
            .collect()
    };
    assert_eq!(records(&ours), records(&theirs));
    let tail = Reader::open(&copied, Depth::Tail).unwrap();
    assert_eq!(tail.state().head(), ours.state().head());
}

fn goes_on(object_dir: &ObjectDir) {
    let (writer, _) =
        Writer::open(object_dir, Depth::Tail, SIZES).unwrap_or_else(|error| panic!("{}", chain(&error)));
    if writer.published().head().phase == Phase::Active {
        commit(&writer, unsealed(&writer));
    }
    wake(&writer, 77).unwrap();
    commit(&writer, dormant());
    writer.close().unwrap();
    Reader::verify(object_dir, |_| {}).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // proves B5
    #[test]
    fn export_import_export_gives_the_same_bytes(steps in any_steps()) {
        let (disk, copy) = (lived(5, &steps), FaultyDisk::default());
        let imported = import_all(&disk, &copy).unwrap_or_else(|error| panic!("{}", chain(&error)));
        prop_assert!(imported.wakes && imported.missing_secrets.is_empty());
        prop_assert_eq!(imported.added, imported.seq + 1);
        check_same(&disk, &copy);
        let first = exported(&dir_at(&disk, OBJECT));
        prop_assert_eq!(&exported(&dir_at(&copy, COPY)), &first);
        // A mirror without the key hands on the very same bytes too.
        let mirror = FaultyDisk::default();
        let imported = import(&first[..], &dir_at(&mirror, COPY), SIZES, keyless, |_| {}).unwrap();
        prop_assert!(!imported.wakes);
        prop_assert_eq!(&exported(&dir_at(&mirror, COPY)), &first);
        goes_on(&dir_at(&copy, COPY));
    }

    // proves B5
    #[test]
    fn an_older_part_of_the_history_is_brought_up_to_it(steps in any_steps(), at in any::<prop::sample::Index>()) {
        let (older, rest) = steps.split_at(at.index(steps.len() + 1));
        let (disk, copy) = (lived(5, older), FaultyDisk::default());
        import_all(&disk, &copy).unwrap();
        let before = exported(&dir_at(&copy, COPY));
        live_on(&disk, rest, 40);
        let imported = import_all(&disk, &copy).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let old = verify(&before[..], |_| {}).unwrap();
        prop_assert_eq!(imported.added, imported.seq - old.seq());
        check_same(&disk, &copy);
        prop_assert!(imported.wakes && imported.missing_secrets.is_empty());
        // Once more changes nothing.
        let again = import_all(&disk, &copy).unwrap();
        prop_assert_eq!((again.added, again.head), (0, imported.head));
        // And the older capsule is refused now.
        if imported.added > 0 {
            let refused = import(&before[..], &dir_at(&copy, COPY), SIZES, keyless, |_| {});
            let newer = matches!(staging(refused), StagingError::Newer { .. });
            prop_assert!(newer);
            check_same(&disk, &copy);
        }
        goes_on(&dir_at(&copy, COPY));
    }
}

/// What a crash in the middle left: no object or the whole one; and the import can be done again.
fn check_crashed(disk: &FaultyDisk, original: &FaultyDisk, before: Option<u64>, context: &str) {
    let object_dir = dir_at(disk, COPY);
    let head = Reader::open(&dir_at(original, OBJECT), Depth::Tail)
        .unwrap()
        .state()
        .head()
        .seq;
    if object_dir.holds_object().unwrap() {
        let reader = Reader::verify(&object_dir, |_| {})
            .unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
        let seq = reader.state().head().seq;
        assert!(
            seq == head || Some(seq) == before,
            "a part of the history, {seq}: {context}"
        );
        Writer::open(&object_dir, Depth::Tail, SIZES)
            .unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
    } else {
        assert_eq!(before, None, "the object is gone: {context}");
    }
    import_all(original, disk).unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
    check_same(original, disk);
    goes_on(&object_dir);
}

const LOSSES: [Loss; 4] = [Loss::All, Loss::Nothing, Loss::Later(7), Loss::Scattered(8)];

// proves B5
#[test]
fn the_power_goes_at_every_operation_of_an_import_and_it_is_all_or_nothing() {
    let original = lived(1, FULL);
    let older = FaultyDisk::default();
    import_all(&lived(1, &FULL[..9]), &older).unwrap();
    let older_seq = Reader::open(&dir_at(&older, COPY), Depth::Tail)
        .unwrap()
        .state()
        .head()
        .seq;
    for (start, before) in [(FaultyDisk::default(), None), (older, Some(older_seq))] {
        let whole = start.copy();
        import_all(&original, &whole).unwrap();
        for cut in 1..=whole.operations() - start.copy().operations() {
            for loss in [LOSSES[0], LOSSES[1 + usize::try_from(cut % 3).unwrap()]] {
                let disk = start.copy();
                disk.fail(cut, Fault::PowerLoss);
                let _ = import_all(&original, &disk);
                let context = format!("cut at operation {cut}, {loss:?}, before {before:?}");
                check_crashed(&disk.crash(loss), &original, before, &context);
            }
        }
    }
}

#[test]
fn a_failing_disk_leaves_the_directory_as_it_was() {
    let original = lived(1, FULL);
    let whole = FaultyDisk::default();
    import_all(&original, &whole).unwrap();
    for at in 1..=whole.operations() {
        let disk = FaultyDisk::default();
        disk.fail(at, Fault::Eio);
        let failed = import_all(&original, &disk).is_err();
        let object_dir = dir_at(&disk, COPY);
        assert!(failed || object_dir.holds_object().unwrap(), "operation {at}");
        check_crashed(&disk, &original, None, &format!("EIO at operation {at}"));
    }
}

#[test]
fn a_bad_capsule_leaves_nothing_behind() {
    let original = lived(1, FULL);
    let mut capsule = exported(&dir_at(&original, OBJECT));
    let end = capsule.len() - 1;
    capsule[end] ^= 1;
    let copy = FaultyDisk::default();
    let refused = import(&capsule[..], &dir_at(&copy, COPY), SIZES, keyless, |_| {});
    assert!(matches!(refused, Err(ImportError::Capsule(_))));
    assert_eq!(copy.paths(), Vec::<std::path::PathBuf>::new());
    let dir = tempfile::tempdir().unwrap();
    let object_dir = ObjectDir::at(dir.path().join("new"));
    assert!(import(&capsule[..], &object_dir, SIZES, keyless, |_| {}).is_err());
    assert!(
        !object_dir.path().exists(),
        "the directory was made for the import"
    );
    assert!(import(&b"no capsule"[..], &object_dir, SIZES, keyless, |_| {}).is_err());
    assert!(!object_dir.path().exists());
}

#[test]
fn without_keys_a_copy_is_read_and_not_woken_until_they_come() {
    let (original, copy) = (lived(1, FULL), FaultyDisk::default());
    let capsule = exported(&dir_at(&original, OBJECT));
    let object_dir = dir_at(&copy, COPY);
    let imported = import(&capsule[..], &object_dir, SIZES, keyless, |_| {}).unwrap();
    assert!(!imported.wakes);
    let missing: Vec<_> = imported
        .missing_secrets
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(missing, ["token"]);
    check_same(&original, &copy);
    let Err(error) = Writer::open(&object_dir, Depth::Tail, SIZES) else {
        panic!("it can write")
    };
    assert!(
        matches!(error, OpenError::NoKey) && error.to_string().contains("import it with its key"),
        "{error}"
    );
    let imported = import(&capsule[..], &object_dir, SIZES, decrypts(&original), |_| {}).unwrap();
    assert!(imported.wakes && imported.missing_secrets.is_empty() && imported.added == 0);
    goes_on(&object_dir);
}

#[test]
fn the_key_must_be_the_one_that_the_history_commits_to() {
    let (original, copy) = (lived(1, FULL), FaultyDisk::default());
    let capsule = exported(&dir_at(&original, OBJECT));
    let wrong = |_: Option<&[u8]>| {
        Ok::<_, Infallible>(Some(Decrypted {
            next_key: SecretKey::from_seed(&[200; 32]),
            secrets: vec![],
        }))
    };
    let refused = import(&capsule[..], &dir_at(&copy, COPY), SIZES, wrong, |_| {});
    assert!(matches!(refused, Err(ImportError::Key)));
    let cannot = |_: Option<&[u8]>| Err::<Option<Decrypted>, _>("no identity");
    let refused = import(&capsule[..], &dir_at(&copy, COPY), SIZES, cannot, |_| {});
    assert!(chain(&refused.unwrap_err()).ends_with("no identity"));
    assert!(copy.paths().is_empty());
}

#[test]
fn other_objects_other_histories_and_other_things_are_left_alone() {
    let ours = lived(1, FULL);
    let context = |error: StagingError| error.to_string();
    // Another object.
    let other = FaultyDisk::default();
    import_all(&lived(2, &[Step::Wake]), &other).unwrap();
    let error = staging(import_all(&ours, &other));
    assert!(
        matches!(error, StagingError::OtherObject { .. }),
        "{}",
        context(error)
    );
    // This object, which went another way.
    let twin = FaultyDisk::default();
    import_all(&lived(1, &[Step::Wake, Step::Note(5), Step::Sleep]), &twin).unwrap();
    let error = staging(import_all(&ours, &twin));
    assert!(
        matches!(error, StagingError::Diverged { seq: 2, .. }),
        "{}",
        context(error)
    );
    goes_on(&dir_at(&twin, COPY));
    // Something that is no object.
    let photos = FaultyDisk::default();
    photos.create_dir(COPY.as_ref()).unwrap();
    photos.set_content("copy/photo.jpg".as_ref(), vec![1]);
    let error = staging(import_all(&ours, &photos));
    assert!(context(error).contains("photo.jpg"));
    // The key of an object whose history is elsewhere.
    let key = FaultyDisk::default();
    key.create_dir(COPY.as_ref()).unwrap();
    key.set_content("copy/next.key".as_ref(), vec![7; 32]);
    let error = staging(import_all(&ours, &key));
    assert!(context(error).contains("next.key"));
    assert_eq!(key.content("copy/next.key".as_ref()), Some(vec![7; 32]));
}

// proves B5
#[test]
fn a_depots_bundles_and_records_make_the_same_object() {
    let (original, copy) = (lived(1, FULL), FaultyDisk::default());
    let reader = Reader::open(&dir_at(&original, OBJECT), Depth::Whole).unwrap();
    let object_dir = dir_at(&copy, COPY);
    let asked = std::cell::Cell::new(0);
    let bundle = |id: &_| {
        asked.set(asked.get() + 1);
        reader.bundles().files(id).map_err(|error| error.to_string())
    };
    let records = || {
        reader
            .records(0..u64::MAX)
            .unwrap()
            .map(|record| record.map_err(|error| error.to_string()))
    };
    let rebuilt = capsule::rebuild(&object_dir, SIZES, bundle, records(), None).unwrap();
    assert_eq!((asked.get(), rebuilt.wakes), (3, false));
    check_same(&original, &copy);
    let elsewhere = dir_at(&FaultyDisk::default(), COPY);
    let gap = records()
        .enumerate()
        .filter_map(|(seq, record)| (seq != 4).then_some(record));
    let refused = capsule::rebuild(&elsewhere, SIZES, bundle, gap, None).unwrap_err();
    assert!(
        matches!(&refused, ImportError::Chain(broken) if broken.seq == 5),
        "{}",
        chain(&refused)
    );
    let none: [Result<_, String>; 0] = [];
    assert!(matches!(
        capsule::rebuild(&elsewhere, SIZES, bundle, none, None),
        Err(ImportError::Nothing)
    ));
    assert!(!elsewhere.holds_object().unwrap());
}

#[test]
fn imports_race_and_one_object_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let original = lived(1, FULL);
    let capsule = exported(&dir_at(&original, OBJECT));
    let object_dir = ObjectDir::at(dir.path().join("copy"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| import(&capsule[..], &object_dir, SIZES, keyless, |_| {}));
        }
    });
    assert!(object_dir.holds_object().unwrap());
    Reader::verify(&object_dir, |_| {}).unwrap();
}

#[test]
fn sealed_bytes_read_back_and_nothing_else_does() {
    let disk = lived(1, FULL);
    let object_dir = dir_at(&disk, OBJECT);
    let reader = Reader::open(&object_dir, Depth::Tail).unwrap();
    let decrypted = Decrypted::of(&object_dir, reader.state()).unwrap();
    assert_eq!(format!("{decrypted:?}"), "Decrypted(<redacted>)");
    assert_eq!(decrypted.secrets.len(), 1);
    let bytes = decrypted.encode().unwrap();
    assert!(Decrypted::decode(&bytes).is_ok());
    let mut dice = Dice::new(1);
    for _ in 0..2_000 {
        let mut altered = bytes.to_vec();
        let at = usize::try_from(dice.below(altered.len() as u64)).unwrap();
        match dice.below(3) {
            0 => altered[at] ^= 1 << dice.below(8),
            1 => altered.truncate(at),
            _ => altered.insert(at, 0),
        }
        // A flip in the seed or a value is another seed or value; the import holds both to their commitments.
        let _any_answer = Decrypted::decode(&altered);
    }
}
