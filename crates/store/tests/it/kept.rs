//! A waiting key that is kept elsewhere while a suspended machine must not have it.

use suijuris_store::{Depth, ObjectDir, StageError, Writer};

use crate::support::{SIZES, bundle_of, commit, create_with, dormant, note, open, wake};

/// An object that was awake and sleeps, in a directory of this machine's.
fn asleep(path: &std::path::Path) -> (ObjectDir, Writer) {
    let dir = ObjectDir::at(path);
    let field = suijuris_core::memory::Field::new(suijuris_core::memory::Kind::String);
    let fields = [(suijuris_core::memory::Name::new("note").unwrap(), field)].into();
    create_with(&dir, 1, bundle_of("kept", fields)).unwrap();
    let writer = open(&dir, Depth::Whole);
    wake(&writer, 3).unwrap();
    commit(&writer, note("awake"));
    commit(&writer, dormant());
    (dir, writer)
}

/// Whether any file below has these bytes.
fn has(dir: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .any(|entry| match entry.path() {
            path if path.is_dir() => has(&path, bytes),
            path => std::fs::read(path)
                .unwrap()
                .windows(bytes.len())
                .any(|window| window == bytes),
        })
}

#[test]
fn a_key_that_is_given_away_is_nowhere_and_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, writer) = asleep(temp.path());
    let seed = writer.waiting_seed();
    assert!(has(temp.path(), &*seed));
    writer.forget_key().unwrap();
    assert!(!has(temp.path(), &*seed), "it is on no file");
    assert_ne!(*writer.waiting_seed(), *seed, "nor in the writer");
    let refused = wake(&writer, 4).unwrap_err();
    assert!(matches!(refused, StageError::Chain(_)), "{refused}");
    assert!(!writer.take_key(&[9; 32]).unwrap(), "another is not taken");
    assert!(writer.take_key(&seed).unwrap());
    wake(&writer, 4).unwrap();
    commit(&writer, dormant());
    drop(writer);
    open(&dir, Depth::Whole);
}

/// Its machine is lost while it is suspended: whoever opens the directory next finds the key that was kept.
#[test]
fn a_key_that_is_kept_is_found_by_whoever_opens_the_object() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, writer) = asleep(temp.path());
    let seed = writer.waiting_seed();
    dir.keep_key(&seed).unwrap();
    writer.forget_key().unwrap();
    drop(writer);
    assert_eq!(dir.key_that_is_kept().as_deref(), Some(&*seed));
    let (writer, recovery) = Writer::open(&dir, Depth::Whole, SIZES).unwrap();
    assert!(recovery.adopted_key && dir.key_that_is_kept().is_none());
    wake(&writer, 4).unwrap();
}
