//! Classes at the command line: a template is made and checked but not run; an instance says how it was founded.

use std::sync::Arc;

use suijuris_bundle::build;
use suijuris_core::bundle::Files;
use suijuris_core::class::{self, ClassId, Instantiation, Template};
use suijuris_core::inputs::{Founding, Inputs, Principal};
use suijuris_core::key::SecretKey;
use suijuris_core::memory::Memory;
use suijuris_core::time::Timestamp;
use suijuris_store::{BundleFiles, Creation, ObjectDir, create};

use crate::rig::Rig;

const ROOM: Founding = Founding {
    instances: 3,
    max_instances: 100,
    peer_rate: 0,
    class_rate: 1,
};

/// Creates the instance `acme` of the class in directory `tenant`, as whoever founds it would if `told` were the facts.
fn instance(rig: &Rig, told: Founding) -> Instantiation {
    rig.run(&["new", "class", "tenant"]).code(0);
    let dir = rig.path().join("tenant");
    let built = build(&dir).unwrap();
    let files = BundleFiles {
        manifest: built.manifest_bytes,
        governance: built.governance.into_bytes(),
        program: built.program_bytes,
    };
    let bundle = Files {
        manifest: files.manifest.clone(),
        governance: files.governance.clone(),
        program: files.program.clone(),
    };
    let bundle = bundle.open().unwrap();
    let template = Template {
        id: ClassId::of(b"tenants"),
        name: "tenant",
        rules: &bundle.rules,
        memory: &Memory::new(Arc::clone(bundle.schema())),
    };
    let key = "acme".parse().unwrap();
    let owner = Inputs::timeless(Principal::supposed_controller(vec![]));
    let verdict = class::instantiate(&template, &key, ROOM, owner);
    let mut class = Instantiation {
        id: template.id,
        key,
        decision: verdict.decision().clone(),
    };
    class.decision.inputs.founding = Some(told);
    let creation = Creation {
        name: "tenant".to_owned(),
        controllers: vec![SecretKey::from_seed(&[7; 32]).public()],
        threshold: 1,
        nonce: vec![1; 16],
        parent: None,
        class: Some(class.clone()),
        at: Timestamp(1_767_225_600_000),
        bundle: files,
        seed: [1; 32].into(),
    };
    create(&ObjectDir::at(dir.join(".suijuris")), creation).unwrap();
    class
}

#[test]
fn a_class_is_made_and_checked_and_up_says_why_it_runs_none() {
    let rig = Rig::new();
    let made = rig.run(&["new", "class", "tenant"]).code(0);
    assert!(made.err.contains("suijuris check tenant"), "{}", made.err);
    let checked = rig.run(&["check", "tenant", "--json"]).code(0).json();
    let found = (&checked["errors"], &checked["warnings"]);
    assert_eq!(found, (&0.into(), &0.into()), "{checked}");
    let up = rig.run(&["up", "tenant"]).code(3);
    for part in [
        "tenant defines a class",
        "`suijuris add tenant` serve the class",
        "take [class] out",
    ] {
        assert!(up.err.contains(part), "{part}: {}", up.err);
    }
    assert!(
        !rig.path().join("tenant/.suijuris").exists(),
        "nothing was created"
    );
}

#[test]
fn an_object_does_not_become_a_class_by_a_change_of_its_definition() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let before = object.files();
    let path = object.dir.join("object.toml");
    let text = std::fs::read_to_string(&path).unwrap() + "\n[class]\nmax_instances = 5\n";
    std::fs::write(path, text).unwrap();
    let up = rig.run(&["up", "hello"]).code(3);
    assert!(up.err.contains("hello defines a class"), "{}", up.err);
    assert_eq!(object.files(), before);
}

// proves A11
#[test]
fn an_instance_says_its_class_and_key_and_why_it_was_founded() {
    let rig = Rig::new();
    let class = instance(&rig, ROOM);
    let words = format!("instance acme of class {}", class.id);
    let records = rig.run(&["log", "tenant", "--json"]).code(0).lines();
    let first = records.first().unwrap();
    assert!(first["summary"].as_str().unwrap().contains(&words), "{first}");
    assert_eq!(first["verdict"]["action"], "instantiate", "{first}");
    assert_eq!(first["body"]["class"]["key"], "acme", "{first}");
    let why = rig.run(&["why", "tenant", "0", "--json"]).code(0).json();
    assert_eq!(why["replay"]["same"], true, "{why}");
    assert_eq!(
        why["verdict"]["rules"],
        serde_json::json!(["found-by-hand"]),
        "{why}"
    );
    let why = rig.run(&["why", "tenant"]).code(0).out;
    assert!(
        why.contains(&words) && why.contains("3 of 100 instances"),
        "{why}"
    );
    rig.run(&["verify", "tenant"]).code(0);
}

// proves A6
#[test]
fn an_instance_that_its_class_would_not_have_founded_so_is_not_verified() {
    let rig = Rig::new();
    let told = Founding {
        max_instances: 200,
        ..ROOM
    };
    instance(&rig, told);
    let verified = rig.run(&["verify", "tenant", "--json"]).code(1).json();
    assert!(verified.to_string().contains("200 instances"), "{verified}");
}
