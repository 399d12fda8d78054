//! Bodies of what is stored and sent as bytes: records, bundles, marks, capsules, artifacts, layers.

use std::ops::ControlFlow;
use std::sync::Arc;

use suijuris_core::class::founding::Entry;
use suijuris_core::governance::{Action, Caller, Facts, Host, Lineage, Object, Outcome, Principal, Program};
use suijuris_core::id::{BundleId, Digest, RecordId};
use suijuris_core::lineage::{Announcement, Checkpoint, ParentProof, State, Stored, segment};
use suijuris_core::manifest::Manifest;
use suijuris_core::memory::tree::Proof;
use suijuris_core::memory::{Change, Memory, Schema, Value};
use suijuris_core::message::Message;
use suijuris_core::owner_request::SignedRequest;
use suijuris_core::ticket::{self, SignedTicket};
use suijuris_core::time::{Now, Quality, Timestamp};
use suijuris_core::witness::Mark;
use suijuris_core::{bundle, codec};
use suijuris_oci::ContentDigest;
use suijuris_oci::unpack::{self, Expected};
use suijuris_store::capsule;

use crate::corpus;

/// The schemas of the bundles in the golden vectors.
fn bundles(id: &BundleId) -> Option<Arc<Schema>> {
    corpus::schemas().get(id).cloned()
}

/// One record.
pub fn record(bytes: &[u8]) {
    if let Ok(stored) = Stored::decode(bytes.to_vec()) {
        assert_eq!(codec::encode(&stored.record).unwrap(), bytes);
        assert_eq!(stored.id, RecordId::of(bytes));
        let _any_answer = stored.record.signature_holds();
        let _any_answer = State::begin(&stored, &bundles);
        if let Some(mut state) = corpus::state() {
            let _any_answer = state.apply(&stored, &bundles);
        }
    }
}

/// Records one after the other.
pub fn segment(bytes: &[u8]) {
    let read: Vec<_> = segment::decode(bytes).map_while(Result::ok).collect();
    assert!(bytes.starts_with(&segment::encode(&read)));
    let _any_answer = segment::fold([bytes], &bundles);
}

/// A signed snapshot.
pub fn checkpoint(bytes: &[u8]) {
    let _any_answer = Checkpoint::open(bytes, &bundles);
}

/// The packed head of an object.
pub fn announcement(bytes: &[u8]) {
    let _any_answer = Announcement::open(bytes, &bundles);
}

/// That a parent forked a child.
pub fn parent_proof(bytes: &[u8]) {
    for first in corpus::inceptions() {
        let _any_answer = ParentProof::verify(Some(bytes), first);
    }
}

/// The manifest of a bundle.
pub fn bundle_manifest(bytes: &[u8]) {
    if let Ok((id, manifest)) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode().unwrap(), bytes);
        assert_eq!(id, BundleId::of(bytes));
    }
}

/// All files of a bundle.
pub fn bundle_files(bytes: &[u8]) {
    if let Ok(files) = bundle::Files::decode(bytes) {
        assert_eq!(files.encode().unwrap(), bytes);
        let _any_answer = files.open();
    }
}

/// Compiled rules, and what they judge.
pub fn program(bytes: &[u8]) {
    let Ok(program) = Program::decode(bytes) else {
        return;
    };
    assert_eq!(program.encode().unwrap(), bytes);
    let memory = Memory::new(Arc::new(Schema::default()));
    let object = Object {
        id: "o",
        name: "o",
        memory: &memory,
        lineage: Lineage::default(),
        instance: None,
    };
    let now = Now {
        at: Timestamp(5),
        quality: Quality::Host,
    };
    let facts = Facts::new(Principal::Caller(Caller::default()), object, now, Host::default());
    for action in Action::ALL {
        let judgement = program.judge(*action, &facts);
        assert!(judgement.erring.is_empty() || judgement.outcome == Outcome::Refuse);
        let _words = program.explain(*action, &facts, &judgement);
        let _watches = program.watches(*action);
        if let Ok(residual) = program.specialize(*action, object, now) {
            assert_eq!(residual.judge(&facts), Some(judgement));
        }
    }
}

/// What a witness remembers.
pub fn mark(bytes: &[u8]) {
    if let Ok(mark) = Mark::decode(bytes) {
        assert_eq!(mark.encode().unwrap(), bytes);
    }
}

/// An entry of a class's name table.
pub fn class_entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode().unwrap(), bytes);
    }
}

/// A request that owners signed.
pub fn owner_request(bytes: &[u8]) {
    if let Ok(signed) = SignedRequest::decode(bytes) {
        assert_eq!(codec::encode(&signed).unwrap(), bytes);
    }
}

/// An owner's word that an object may begin.
pub fn ticket(bytes: &[u8]) {
    if let Ok(signed) = SignedTicket::decode(bytes) {
        assert_eq!(codec::encode(&signed).unwrap(), bytes);
        let expected = ticket::Expected {
            bundle: signed.ticket.bundle,
            app: None,
            volume: None,
            now: Timestamp(0),
        };
        let _verdict = signed.verify(&expected);
        let _place = signed.ticket.table();
    }
}

/// A message of a depot.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode().unwrap(), bytes);
        let _key = message.key();
    }
}

/// Values, changes, schemas and proofs.
pub fn memory(bytes: &[u8]) {
    const MOST: usize = 1 << 16;
    if let Ok(value) = codec::decode::<Value>(bytes, MOST) {
        assert_eq!(codec::encode(&value).unwrap(), bytes);
        let _shown = format!("{value:?}");
    }
    if let (Ok(change), Some(state)) = (codec::decode::<Change>(bytes, MOST), corpus::state()) {
        let mut memory = state.memory().clone();
        let root = memory.root();
        let _any_answer = memory.check(&change);
        if memory.apply(&change, Timestamp(i64::MAX)).is_err() {
            assert_eq!(memory.root(), root, "all or nothing");
        }
    }
    if let Ok(schema) = codec::decode::<Schema>(bytes, MOST) {
        assert_eq!(codec::encode(&schema).unwrap(), bytes);
        let memory = Memory::new(Arc::new(schema));
        for (name, _, _) in memory.iter() {
            let proof = memory.prove(name.as_str());
            assert!(proof.is_some_and(|proof| proof.holds(&memory.root())));
        }
    }
    if let Ok(proof) = codec::decode::<Proof>(bytes, MOST) {
        assert!(!proof.holds(&Digest([0; 32])));
    }
}

/// A whole object.
pub fn capsule(bytes: &[u8]) {
    let _any_answer = capsule::verify(bytes, |_| {});
    // With its last digest made right, more of it is read.
    if let Some((content, _)) = bytes.split_last_chunk::<32>() {
        let mut whole = content.to_vec();
        whole.extend(Digest::of(content).0);
        let _any_answer = capsule::verify(whole.as_slice(), |_| {});
    }
}

/// A manifest of an artifact or image.
pub fn oci_manifest(bytes: &[u8]) {
    if let Ok(manifest) = suijuris_oci::Manifest::decode(bytes) {
        let again = manifest.encode().unwrap();
        assert!(suijuris_oci::Manifest::decode(&again).is_ok());
    }
}

/// A layer, unpacked into a directory of its own; nothing of it may lead out.
pub fn tar_layer(bytes: &[u8]) {
    let (Ok(room), digest) = (tempfile::tempdir(), ContentDigest::of(bytes)) else {
        return;
    };
    let into = room.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let expected = Expected {
        digest,
        size: bytes.len() as u64,
        diff_id: digest,
    };
    let limits = unpack::Limits {
        entries: 1_000,
        bytes: 1 << 20,
        ..unpack::Limits::default()
    };
    let _any_answer = unpack::layer(bytes, &expected, &into, false, limits, &mut |_| {
        ControlFlow::Continue(())
    });
    let beside = std::fs::read_dir(room.path()).unwrap().count();
    assert_eq!(beside, 1, "something was made outside");
}
