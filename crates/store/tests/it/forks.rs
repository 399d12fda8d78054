//! Children: their own id, a parent that provably forked them, and never one without proof.

use std::convert::Infallible;

use suijuris_core::governance::Action;
use suijuris_core::id::ObjectId;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Decision, Outcome, ParentProofError, VerifiedParent};
use suijuris_core::memory::{Field, Kind, Name, Value};
use suijuris_core::time::{Span, Timestamp};
use suijuris_store::capsule::{self, import, verify};
use suijuris_store::fork::{self, ForkError, ForkRequest, ParentError, Staged, parent_of, stage, staged};
use suijuris_store::{BundleFiles, Depth, ObjectDir, Reader, StageError, Writer};
use suijuris_testkit::disk::{Fault, FaultyDisk, Loss};

use crate::lives::{OBJECT, SHORT, exported, lived, rules};
use crate::support::{SIZES, bundle_of, chain, commit, count, decision, dir_at, dormant, open, owner, wake};

const CHILD: &str = "child";
const NOW: Timestamp = Timestamp(9_000);

fn request(bundle: BundleFiles) -> ForkRequest {
    ForkRequest {
        name: "child".to_owned(),
        controllers: None,
        nonce: vec![3; 16],
        at: NOW,
        bundle,
        seed: [80; 32].into(),
        secrets: false,
    }
}

fn permitted() -> Decision {
    decision(Action::Fork)
}

fn committed(parent: &Writer, object_dir: &ObjectDir, staged: &Staged) -> Result<VerifiedParent, ForkError> {
    let approval = staged.statement().approve(&owner()).unwrap();
    fork::commit(parent, object_dir, permitted(), vec![approval], NOW)
}

/// A disk with an object and its child.
fn family() -> (FaultyDisk, Staged, VerifiedParent) {
    let disk = lived(1, SHORT);
    let parent = open(&dir_at(&disk, OBJECT), Depth::Tail);
    let child = dir_at(&disk, CHILD);
    let staged = stage(&parent, &child, request(rules(0))).unwrap().staged;
    let verified = committed(&parent, &child, &staged).unwrap();
    parent.close().unwrap();
    (disk, staged, verified)
}

fn value(reader: &Reader, field: &str) -> Option<Value> {
    reader.state().memory().value(field).cloned()
}

// proves B7
#[test]
fn a_child_has_its_own_id_its_parents_memory_and_a_proof_of_its_parent() {
    let (disk, staged, verified) = family();
    let parent = Reader::verify(&dir_at(&disk, OBJECT), |_| {}).unwrap();
    let object_dir = dir_at(&disk, CHILD);
    let child = Reader::verify(&object_dir, |_| {}).unwrap();
    assert_eq!(child.state().head().object, staged.child);
    assert_ne!(staged.child, parent.state().head().object);
    assert_eq!(parent_of(&object_dir).unwrap(), Some(verified.clone()));
    assert_eq!(
        (verified.object, verified.head),
        (staged.parent.object, staged.parent.head)
    );
    let forked = parent
        .records(verified.seq..verified.seq + 1)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        (forked.id, forked.record.prev),
        (verified.forked, Some(verified.head))
    );
    assert!(matches!(&forked.record.body, Body::Forked(body) if body.child == staged.child));
    // What was written, without secrets; written anew, under the child's own signature.
    assert_eq!(value(&child, "count"), value(&parent, "count"));
    assert!(value(&parent, "token").is_some() && value(&child, "token").is_none());
    assert_eq!(child.state().memory().cell("count").unwrap().as_of, Some(NOW));
    assert_eq!(child.state().head().uncovered(), 0);
    assert_eq!(
        child.state().head().controllers,
        parent.state().head().controllers
    );
    // It lives on its own.
    let writer = open(&object_dir, Depth::Tail);
    wake(&writer, 81).unwrap();
    commit(&writer, count(1));
    commit(&writer, dormant());
    writer.close().unwrap();
    assert_eq!(parent_of(&object_dir).unwrap(), Some(verified));
    assert_eq!(parent_of(&dir_at(&disk, OBJECT)).unwrap(), None);
}

#[test]
fn no_key_of_its_parent_goes_along() {
    let disk = lived(1, SHORT);
    let home = dir_at(&disk, OBJECT);
    let parent = open(&home, Depth::Tail);
    home.prepare_spare(&[9; 32]).unwrap();
    let child = dir_at(&disk, CHILD);
    let staged = stage(&parent, &child, request(rules(0))).unwrap().staged;
    committed(&parent, &child, &staged).unwrap();
    parent.close().unwrap();
    let (theirs, ours): (Vec<_>, Vec<_>) = disk.paths().into_iter().partition(|path| path.starts_with(CHILD));
    assert!(theirs.len() > 3, "{theirs:?}");
    assert!(ours.iter().any(|path| path.ends_with("spare.key")), "{ours:?}");
    let is_key = |path: &&std::path::PathBuf| path.extension().is_some_and(|extension| extension == "key");
    for path in ours.iter().filter(is_key) {
        let key = disk.content(path).unwrap();
        let has = |theirs: &&std::path::PathBuf| {
            let bytes = disk.content(theirs).unwrap();
            bytes.windows(key.len()).any(|window| window == key)
        };
        let found = theirs.iter().find(has);
        assert_eq!(found, None, "what lies in {}: {key:?}", path.display());
    }
    assert!(
        theirs.iter().all(|path| !path.ends_with("spare.key")),
        "{theirs:?}"
    );
}

#[test]
fn secrets_go_along_where_they_are_asked_for() {
    let disk = lived(1, SHORT);
    let parent = open(&dir_at(&disk, OBJECT), Depth::Tail);
    let object_dir = dir_at(&disk, CHILD);
    let left_out = |prepared: fork::Prepared| -> Vec<String> {
        prepared.left_out.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        left_out(stage(&parent, &object_dir, request(rules(0))).unwrap()),
        ["token"]
    );
    let with = ForkRequest {
        secrets: true,
        ..request(rules(0))
    };
    let prepared = stage(&parent, &object_dir, with).unwrap();
    committed(&parent, &object_dir, &prepared.staged).unwrap();
    assert_eq!(left_out(prepared), Vec::<String>::new());
    let child = Reader::open(&object_dir, Depth::Tail).unwrap();
    let Some(Value::Commitment(commitment)) = value(&child, "token") else {
        panic!("no token")
    };
    assert_eq!(
        object_dir.secret(&commitment).unwrap().value,
        Value::String("hush".to_owned())
    );
}

#[test]
fn what_must_stay_fresh_or_does_not_fit_is_left_out() {
    let disk = lived(1, SHORT);
    let parent = open(&dir_at(&disk, OBJECT), Depth::Tail);
    let name = |name: &str| Name::new(name).unwrap();
    let fresh = Field {
        fresh_for: Some(Span(1_000)),
        ..Field::new(Kind::INT)
    };
    let narrower = bundle_of("narrower", [(name("count"), fresh)].into());
    let prepared = stage(&parent, &dir_at(&disk, CHILD), request(narrower)).unwrap();
    assert_eq!(prepared.left_out, [name("count"), name("token")]);
}

#[test]
fn a_child_may_have_owners_of_its_own() {
    let disk = lived(1, SHORT);
    let parent = open(&dir_at(&disk, OBJECT), Depth::Tail);
    let object_dir = dir_at(&disk, CHILD);
    let heir = SecretKey::from_seed(&[44; 32]).public();
    let theirs = ForkRequest {
        controllers: Some((vec![heir], 1)),
        ..request(rules(0))
    };
    let prepared = stage(&parent, &object_dir, theirs).unwrap();
    committed(&parent, &object_dir, &prepared.staged).unwrap();
    assert_eq!(
        Reader::open(&object_dir, Depth::Tail)
            .unwrap()
            .state()
            .head()
            .controllers,
        [heir]
    );
    let none = ForkRequest {
        controllers: Some((vec![], 1)),
        ..request(rules(0))
    };
    let refused = stage(&parent, &dir_at(&disk, "other"), none);
    assert!(matches!(refused, Err(ForkError::Chain(_))));
}

// proves B7
#[test]
fn nobody_but_the_controllers_forks_and_only_at_the_head_that_was_signed_for() {
    let disk = lived(1, SHORT);
    let parent = open(&dir_at(&disk, OBJECT), Depth::Tail);
    let object_dir = dir_at(&disk, CHILD);
    let refused = fork::commit(&parent, &object_dir, permitted(), vec![], NOW);
    assert!(matches!(refused, Err(ForkError::NothingStaged(_))));
    let prepared = stage(&parent, &object_dir, request(rules(0))).unwrap();
    assert_eq!(staged(&object_dir).unwrap(), Some(prepared.staged.clone()));
    let statement = prepared.staged.statement();
    let stranger = statement.approve(&SecretKey::from_seed(&[1; 32])).unwrap();
    for approvals in [vec![], vec![stranger]] {
        let refused = fork::commit(&parent, &object_dir, permitted(), approvals, NOW);
        assert!(matches!(refused, Err(ForkError::Stage(StageError::Chain(_)))));
    }
    let no = Decision {
        outcome: Outcome::Refuse(None),
        ..permitted()
    };
    let refused = fork::commit(
        &parent,
        &object_dir,
        no,
        vec![statement.approve(&owner()).unwrap()],
        NOW,
    );
    assert!(matches!(refused, Err(ForkError::Refused)));
    assert_eq!(fork::finish(parent.object_dir(), &object_dir).unwrap(), None);
    assert!(!object_dir.holds_object().unwrap());
    wake(&parent, 90).unwrap();
    let moved = committed(&parent, &object_dir, &prepared.staged);
    assert!(matches!(moved, Err(ForkError::ParentMoved)));
    // Staged anew, at the head of now, also while the parent is awake.
    let again = stage(&parent, &object_dir, request(rules(0))).unwrap();
    assert_ne!(again.staged.child, prepared.staged.child);
    committed(&parent, &object_dir, &again.staged).unwrap();
    assert!(matches!(
        stage(&parent, &object_dir, request(rules(0))),
        Err(ForkError::Exists(_))
    ));
}

fn not_a_fork(object_dir: &ObjectDir) -> ParentProofError {
    match parent_of(object_dir) {
        Err(ParentError::Proof(error)) => error,
        other => panic!("{other:?}"),
    }
}

// proves B7
#[test]
fn a_child_without_a_proof_that_holds_is_no_fork() {
    let (disk, _, _) = family();
    let object_dir = dir_at(&disk, CHILD);
    let path = std::path::Path::new("child/parent.proof");
    let proof = disk.content(path).unwrap();
    disk.take_away(path);
    assert!(matches!(not_a_fork(&object_dir), ParentProofError::Missing));
    let reader = Reader::open(&object_dir, Depth::Tail).unwrap();
    let refused = capsule::export(&reader, std::io::sink(), None, |_| {});
    assert!(chain(&refused.unwrap_err()).contains("a copy is not a fork"));
    for bit in (0..proof.len() * 8).step_by(3) {
        let mut altered = proof.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        disk.set_content(path, altered);
        let _refused = not_a_fork(&object_dir);
    }
    for len in (0..proof.len()).step_by(5) {
        let (cut, _) = proof.split_at(len);
        disk.set_content(path, cut.to_vec());
        let _refused = not_a_fork(&object_dir);
    }
    // The proof of a sibling.
    let (other, _, _) = {
        let disk = lived(1, SHORT);
        let parent = open(&dir_at(&disk, OBJECT), Depth::Tail);
        let child = dir_at(&disk, CHILD);
        let sibling = ForkRequest {
            nonce: vec![4; 16],
            ..request(rules(0))
        };
        let staged = stage(&parent, &child, sibling).unwrap().staged;
        let verified = committed(&parent, &child, &staged).unwrap();
        (disk, staged, verified)
    };
    disk.set_content(path, other.content(path).unwrap());
    assert!(matches!(not_a_fork(&object_dir), ParentProofError::OtherChild));
    disk.set_content(path, proof);
    assert!(parent_of(&object_dir).unwrap().is_some());
}

// proves B7
#[test]
fn the_proof_travels_with_the_child() {
    let (disk, staged, verified) = family();
    let capsule = exported(&dir_at(&disk, CHILD));
    assert_eq!(
        verify(&capsule[..], |_| {}).unwrap().parent,
        Some(verified.clone())
    );
    let copy = dir_at(&FaultyDisk::default(), "copy");
    let keyless = |_: Option<&[u8]>| Ok::<_, Infallible>(None);
    let imported = import(&capsule[..], &copy, SIZES, keyless, |_| {}).unwrap();
    assert_eq!(
        (imported.object, &imported.parent),
        (staged.child, &Some(verified.clone()))
    );
    assert_eq!(parent_of(&copy).unwrap(), Some(verified));
    assert_eq!(exported(&copy), capsule);
}

// proves B7
#[test]
fn the_power_goes_at_every_operation_of_a_birth_and_there_is_a_provable_child_or_none() {
    let start = lived(1, SHORT);
    let fork_all = |disk: &FaultyDisk| -> Result<ObjectId, ForkError> {
        let parent = Writer::open(&dir_at(disk, OBJECT), Depth::Tail, SIZES)?.0;
        let object_dir = dir_at(disk, CHILD);
        let staged = stage(&parent, &object_dir, request(rules(0)))?.staged;
        committed(&parent, &object_dir, &staged)?;
        Ok(staged.child)
    };
    let whole = start.copy();
    let child = fork_all(&whole).unwrap();
    let mut born = [0; 2];
    for cut in 1..=whole.operations() {
        for loss in [Loss::All, Loss::Nothing, Loss::Later(cut), Loss::Scattered(cut)] {
            let context = format!("cut at operation {cut}, {loss:?}");
            let disk = start.copy();
            disk.fail(cut, Fault::PowerLoss);
            let _ = fork_all(&disk);
            let disk = disk.crash(loss);
            let (parent, object_dir) = (dir_at(&disk, OBJECT), dir_at(&disk, CHILD));
            let forked = Reader::verify(&parent, |_| {})
                .unwrap_or_else(|error| panic!("{}: {context}", chain(&error)))
                .records(0..u64::MAX)
                .unwrap()
                .any(
                    |record| matches!(record.unwrap().record.body, Body::Forked(body) if body.child == child),
                );
            if object_dir.holds_object().unwrap() {
                assert!(forked && parent_of(&object_dir).unwrap().is_some(), "{context}");
            }
            let finished = fork::finish(&parent, &object_dir)
                .unwrap_or_else(|error| panic!("{}: {context}", chain(&error)));
            assert_eq!(finished.is_some(), forked, "{context}");
            if forked {
                assert!(parent_of(&object_dir).unwrap().is_some(), "{context}");
                let writer = open(&object_dir, Depth::Whole);
                assert_eq!(writer.published().head().object, child, "{context}");
                wake(&writer, 91).unwrap();
            } else {
                assert!(!object_dir.holds_object().unwrap(), "{context}");
                assert_eq!(fork_all(&disk).unwrap(), child, "{context}");
            }
            born[usize::from(forked)] += 1;
        }
    }
    assert!(
        born.iter().all(|count| *count > 4),
        "both ends were seen: {born:?}"
    );
}
