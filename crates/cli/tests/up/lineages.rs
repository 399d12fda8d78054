//! Children, and copies that become the object again: with their owners' word, on record.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, copy};

const FORK: &str = r#"@id("fork") permit (principal is Controller, action == Action::"fork", resource);"#;
const FIELDS: &str = r#"[memory.note]
type = "string"
[memory.consent]
type = "timestamp"
fresh_for = "1h"
[memory.token]
type = "string"
secret = true
"#;

fn rules() -> String {
    format!("{OPEN}{STAY}{FORK}\n")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn up_at(object: &Object, data: &Path) -> Up {
    let mut command: Command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("up").arg(object.dir()).arg("--data").arg(data);
    Up::start(command)
}

/// `up` on other data, where it is not to listen for long.
fn refused_at(object: &Object, data: &Path) -> Value {
    let lines = object.up_fails(&["--data", text(data)]).code(1).lines();
    let refused = lines.iter().find(|event| event["event"] == "refused");
    refused.unwrap_or_else(|| panic!("{lines:?}")).clone()
}

/// An object that has lived once and sleeps.
fn lived(note: &str) -> Object {
    let object = Object::new(FIELDS, &rules());
    let up = object.up();
    up.set(&json!({"note": note, "consent": "2026-11-23T08:00:00Z", "token": "hush"}));
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object
}

fn memory(object: &Object, data: &Path, field: &str) -> Value {
    let dir = ["memory", "get", "--data", text(data), "--json", field];
    object.suijuris(&dir).code(0).json()
}

// proves B7
#[test]
fn a_child_is_born_with_its_parents_memory_and_proof_of_it() {
    let object = lived("of the family");
    let data = object.home().join("child");
    let born = object
        .ask(&["fork", "--to", text(&data), "--json"])
        .code(0)
        .json();
    let (child, parent) = (born["object"].as_str().unwrap(), born["parent"].as_str().unwrap());
    assert_ne!(child, parent);
    assert_eq!(born["left_out"], json!(["consent", "token"]));
    let forked = object.records("forked");
    assert_eq!(forked.len(), 1);
    assert_eq!(forked[0]["seq"], born["seq"]);
    assert_eq!(forked[0]["verdict"]["outcome"], "permit");
    object.verify();
    let shown = object.suijuris(&["show", text(&data), "--json"]).code(0).json();
    assert_eq!(shown["parent"]["object"], json!(parent), "{shown}");
    assert_eq!(memory(&object, &data, "note")["value"], json!("of the family"));
    // Both live on, each as itself.
    let mut up = up_at(&object, &data);
    assert_eq!(up.id, child);
    up.get("/").status(200);
    up.wait_event("woke");
    let mut again = object.up();
    assert_eq!(again.id, parent);
    again.get("/").status(200);
    again.wait_event("woke");
    assert_eq!((up.interrupt(), again.interrupt()), (Some(0), Some(0)));
    // There is an object now.
    let refused = object.ask(&["fork", "--to", text(&data)]).code(2);
    assert!(refused.err.contains("already holds an object"), "{}", refused.err);
}

// proves B7
#[test]
fn a_child_without_proof_of_its_parent_is_refused() {
    let (object, other) = (lived("one"), lived("other"));
    let (data, theirs) = (object.home().join("child"), other.home().join("child"));
    object.ask(&["fork", "--to", text(&data)]).code(0);
    other.ask(&["fork", "--to", text(&theirs)]).code(0);
    let proof = data.join("parent.proof");
    let is_refused = |why: &str| {
        let up = object.up_fails(&["--data", text(&data)]).code(3);
        let verify = object.suijuris(&["verify", text(&data)]).code(1);
        let show = object.suijuris(&["show", text(&data)]).code(3);
        for said in [up.err, verify.out, show.err] {
            assert!(said.contains("not the fork it claims to be"), "{why}: {said}");
        }
    };
    let kept = std::fs::read(&proof).unwrap();
    let mut altered = kept.clone();
    altered[kept.len() / 2] ^= 1;
    for (why, bytes) in [
        ("altered", altered),
        ("another's", std::fs::read(theirs.join("parent.proof")).unwrap()),
    ] {
        std::fs::write(&proof, bytes).unwrap();
        is_refused(why);
    }
    std::fs::remove_file(&proof).unwrap();
    is_refused("gone");
    std::fs::write(&proof, kept).unwrap();
    object.suijuris(&["verify", text(&data)]).code(0);
}

// proves B7
#[test]
fn a_childs_definition_may_only_narrow_its_parents() {
    let object = lived("narrow");
    let definition = |name: &str, rules: &str| {
        let dir = object.home().join(name);
        copy(object.dir(), &dir);
        std::fs::write(dir.join("governance.cedar"), rules).unwrap();
        dir
    };
    let narrow = definition(
        "narrow",
        &format!(
            "{}\n@id(\"quiet\") @reason(\"quiet\") forbid (principal, action == Action::\"wake\", resource);\n",
            rules()
        ),
    );
    let wide = definition(
        "wide",
        &format!(
            "{}\n@id(\"more\") permit (principal, action == Action::\"read\", resource);\n",
            rules()
        ),
    );
    let data = object.home().join("child");
    let fork = |dir: &Path| object.ask(&["fork", "--to", text(&data), "--definition", text(dir), "--json"]);
    let refused = fork(&wide).code(1);
    assert!(refused.err.contains("`more`"), "{}", refused.err);
    assert!(!data.join("lineage").exists());
    fork(&narrow).code(0);
    // The parent's rules and the child's own bind it.
    let mut command: Command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("up").arg(&narrow).arg("--data").arg(&data);
    let up = Up::start(command);
    up.get("/").status(403);
}

#[test]
fn a_fork_that_the_rules_or_the_owners_do_not_want_is_not_born() {
    let object = Object::new("", &format!("{OPEN}{STAY}"));
    assert_eq!(object.up().interrupt(), Some(0));
    let data = object.home().join("child");
    let refused = object
        .ask(&["fork", "--to", text(&data), "--json"])
        .code(1)
        .json();
    assert_eq!(
        (&refused["action"], &refused["outcome"]),
        (&json!("fork"), &json!("refuse"))
    );
    assert!(!data.join("lineage").exists());
    assert_eq!(object.kinds().last().unwrap(), "refused");
    // A key of somebody else.
    let object = lived("mine");
    std::fs::write(object.home().join("stranger.key"), "7".repeat(64)).unwrap();
    private(&object.home().join("stranger.key"));
    let ran = object.ask(&["fork", "--to", text(&data), "--key", "stranger.key", "--json"]);
    assert_eq!(ran.code(1).json()["code"], "approvals_missing");
    assert_eq!(object.records("forked").len(), 0);
    // While it runs, it is not forked behind its back.
    let up = object.up();
    let ran = object.ask(&["fork", "--to", text(&data)]).code(3);
    assert!(ran.err.contains("end it first"), "{}", ran.err);
    drop(up);
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Two owners, both of whom must approve; the key of one is found here, the other's is `bob.key`.
fn of_two_owners() -> Object {
    let object = Object::new("", &rules());
    std::fs::write(object.home().join("bob.key"), "b".repeat(64)).unwrap();
    private(&object.home().join("bob.key"));
    let alice = object.suijuris(&["key"]).code(0).out.trim().to_owned();
    let bob = object
        .suijuris(&["key", "--key", "bob.key"])
        .code(0)
        .out
        .trim()
        .to_owned();
    let definition = std::fs::read_to_string(object.dir().join("object.toml")).unwrap();
    object.file(
        "object.toml",
        &format!("{definition}\n[controllers]\nkeys = [\"{alice}\", \"{bob}\"]\nthreshold = 2\n"),
    );
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object
}

#[test]
fn a_child_of_two_owners_waits_for_both() {
    let object = of_two_owners();
    let data = object.home().join("child");
    let fork = |more: &[&str]| {
        let mut args = vec!["fork", "--to", text(&data), "--json"];
        args.extend(more);
        object.ask(&args)
    };
    let missing = fork(&[]).code(1).json();
    assert_eq!((&missing["approved"], &missing["needed"]), (&json!(1), &json!(2)));
    let child = missing["object"].as_str().unwrap();
    object
        .ask(&[
            "approve",
            "--child",
            child,
            "--key",
            "bob.key",
            "-o",
            "bob.approval",
        ])
        .code(0);
    let born = fork(&["--approval", "bob.approval"]).code(0).json();
    assert_eq!(born["object"], json!(child));
    // The approval was for that child.
    let another = object.home().join("another");
    object.ask(&["fork", "--to", text(&another)]).code(1);
    let ran = object
        .ask(&["fork", "--to", text(&another), "--approval", "bob.approval"])
        .code(3);
    assert!(ran.err.contains("approve again"), "{}", ran.err);
}

/// The object went on after `old` was copied from it.
fn parted(object: &Object) -> PathBuf {
    let old = object.home().join("old");
    copy_data(&object.data(), &old);
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    old
}

fn copy_data(from: &Path, to: &Path) {
    // With modes: keys are for their owner alone.
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

// proves B6
#[test]
fn an_older_copy_is_the_object_again_only_by_its_owners_word() {
    let object = lived("yesterday");
    let old = parted(&object);
    assert_eq!(refused_at(&object, &old)["reason"], "rolled_back");
    let restored = object.suijuris(&["restore", text(&old), "--json"]).code(0).json();
    let newest = object.log().last().unwrap()["id"].clone();
    assert_eq!(restored["abandoned"], newest);
    // It serves, and what it gave up does not.
    let mut up = up_at(&object, &old);
    up.get("/").status(200);
    let woke = up.wait_event("woke");
    assert!(woke["epoch"].as_u64() > restored["epoch"].as_u64(), "{woke}");
    assert_eq!(up.interrupt(), Some(0));
    object.suijuris(&["verify", text(&old)]).code(0);
    assert!(
        ["twin", "rolled_back"].contains(&refused_at(&object, &object.data())["reason"].as_str().unwrap())
    );
    // Doors and importers find the history that goes on.
    let ran = object.suijuris(&["restore", text(&old)]).code(1);
    assert!(ran.err.contains("nothing to restore"), "{}", ran.err);
}

#[test]
fn a_restore_waits_for_both_owners_and_for_the_other_copy_to_end() {
    let object = of_two_owners();
    let old = parted(&object);
    let restore = |more: &[&str]| {
        let mut args = vec!["restore", text(&old), "--json"];
        args.extend(more);
        object.suijuris(&args)
    };
    let up = object.up();
    let ran = restore(&[]).code(1);
    assert!(ran.err.contains("end it first"), "{}", ran.err);
    assert_eq!(up.interrupt(), Some(0));
    let missing = restore(&[]).code(1).json();
    assert_eq!(missing["code"], "approvals_missing");
    let what = missing["restore"].as_str().unwrap();
    object
        .ask(&[
            "approve",
            "--restore",
            what,
            "--key",
            "bob.key",
            "-o",
            "bob.approval",
        ])
        .code(0);
    object
        .ask(&["approve", "--restore", "nonsense", "--key", "bob.key"])
        .code(2);
    restore(&["--approval", "bob.approval"]).code(0);
    let up = up_at(&object, &old);
    up.get("/").status(200);
}

#[test]
fn where_no_witness_knows_the_object_there_is_nothing_to_restore() {
    let object = lived("alone");
    let elsewhere = object.home().join("elsewhere");
    let url = format!("file://{}", text(&elsewhere));
    let ran = object.ask(&["restore", "--depot", &url]).code(3);
    assert!(ran.err.contains("--depot"), "{}", ran.err);
}
