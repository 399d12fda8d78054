//! Instances of classes on disk: what founded one is in its first record, and stays with it wherever it goes.

use std::convert::Infallible;

use suijuris_core::bundle::Bundle;
use suijuris_core::class::{Class, ClassId, Instantiation, Keys, Source};
use suijuris_core::governance::{
    self, Action, Effect, Group, Listing, PrincipalKind, Program, Rule, TextSpan,
};
use suijuris_core::id::BlobId;
use suijuris_core::inputs::{Founding, Inputs, Principal};
use suijuris_core::lineage::{Body, Fault, Outcome};
use suijuris_core::manifest::Manifest;
use suijuris_core::time::Timestamp;
use suijuris_store::capsule::{Decrypted, import, verify};
use suijuris_store::{BundleFiles, CreateError, Creation, Depth, ObjectDir, Reader, create};
use suijuris_testkit::disk::FaultyDisk;

use crate::lives::exported;
use crate::support::{SIZES, bundle_with, commit, decision, dir_at, dormant, open, owner, wake};

/// Rules that let any caller found an instance.
fn open_to_callers() -> Vec<u8> {
    let listing = Listing {
        version: Listing::VERSION,
        rules: vec![Rule {
            id: "anybody".to_owned(),
            effect: Effect::Permit,
            reason: None,
            retry_after: None,
            status: None,
            span: TextSpan { start: 0, end: 1 },
            clauses: vec![],
        }],
        nodes: vec![],
        bodies: vec![governance::Body {
            rule: 0,
            clauses: vec![],
        }],
        groups: vec![Group {
            action: Action::Instantiate,
            principal: PrincipalKind::Caller,
            bodies: vec![0],
        }],
    };
    Program::new(listing).unwrap().encode().unwrap()
}

fn class_bundle() -> BundleFiles {
    let files = BundleFiles {
        program: open_to_callers(),
        ..bundle_with("tenant")
    };
    let manifest = Manifest {
        program: BlobId::of(&files.program),
        class: Some(Class {
            key: Keys::Label,
            from: vec![Source::Port],
            max_instances: 4,
            archive_after: None,
            paths: false,
            per_peer: 1,
            per_class: 1,
        }),
        ..Manifest::decode(&files.manifest).unwrap().1
    };
    BundleFiles {
        manifest: manifest.encode().unwrap(),
        ..files
    }
}

fn acme() -> Instantiation {
    let mut decision = decision(Action::Instantiate);
    decision.inputs = Inputs::timeless(Principal::Caller(Box::default()));
    decision.inputs.founding = Some(Founding {
        instances: 3,
        max_instances: 4,
        ..Founding::default()
    });
    let asked = Instantiation {
        id: ClassId::of(b"tenants"),
        key: "acme".parse().unwrap(),
        decision,
    };
    let files = class_bundle();
    let bundle = Bundle::open(&files.manifest, files.governance, &files.program).unwrap();
    // As the rules decide.
    let decision = asked.replay("tenant", &bundle);
    assert_eq!(decision.outcome, Outcome::Permit);
    Instantiation { decision, ..asked }
}

fn creation(class: Instantiation) -> Creation {
    Creation {
        name: "tenant".to_owned(),
        controllers: vec![owner().public()],
        threshold: 1,
        nonce: vec![1; 16],
        parent: None,
        class: Some(class),
        at: Timestamp(1_000),
        bundle: class_bundle(),
        seed: [1; 32].into(),
    }
}

/// The object in `dir`, verified from its first record, says how it was founded.
#[track_caller]
fn check_acme(dir: &ObjectDir) {
    for reader in [
        Reader::open(dir, Depth::Tail).unwrap(),
        Reader::verify(dir, |_| {}).unwrap(),
    ] {
        assert_eq!(reader.state().head().class, Some(acme().membership()));
        let first = reader.records(0..1).unwrap().next().unwrap().unwrap();
        let Body::Inception(body) = first.record.body else {
            panic!("{first:?}")
        };
        assert_eq!(body.class, Some(acme()));
    }
}

// proves B5
#[test]
fn an_instance_is_one_after_opening_waking_export_and_import() {
    let disk = FaultyDisk::default();
    let (home, copy) = (dir_at(&disk, "object"), dir_at(&disk, "copy"));
    let id = create(&home, creation(acme())).unwrap();
    check_acme(&home);

    let writer = open(&home, Depth::Whole);
    wake(&writer, 3).unwrap();
    commit(&writer, dormant());
    writer.close().unwrap();
    check_acme(&home);

    let capsule = exported(&home);
    let verified = verify(&capsule[..], |_| {}).unwrap();
    assert_eq!(verified.state.head().class, Some(acme().membership()));
    let keyless = |_: Option<&[u8]>| Ok::<Option<Decrypted>, Infallible>(None);
    let imported = import(&capsule[..], &copy, SIZES, keyless, |_| {}).unwrap();
    assert_eq!(imported.object, id);
    check_acme(&copy);
    assert_eq!(exported(&copy), capsule);
}

#[test]
fn what_was_not_permitted_leaves_no_object_and_can_be_founded_later() {
    let disk = FaultyDisk::default();
    let home = dir_at(&disk, "object");
    let mut refused = acme();
    refused.decision.outcome = Outcome::Refuse(None);
    match create(&home, creation(refused)) {
        Err(CreateError::Chain(error)) => assert!(matches!(error.fault, Fault::Class(_)), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(!home.holds_object().unwrap());
    create(&home, creation(acme())).unwrap();
    check_acme(&home);
}
