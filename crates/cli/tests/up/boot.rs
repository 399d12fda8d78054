//! The order of a boot, and that nothing runs where any part of the object is not what it was.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, Ran, STAY, Up, run};

// proves C1
#[test]
fn a_boot_goes_its_steps_in_order() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.wait(json!({"event": "boot", "step": "serve"}));
    let told = ["boot", "verdict", "woke", "workload"];
    let of_runtime =
        |event: &&Value| told.contains(&event["event"].as_str().unwrap()) && event["place"] != "door";
    let word = |event: &Value| {
        let part = event.get("step").or(event.get("state")).or(event.get("outcome"));
        part.unwrap_or(&event["event"]).as_str().unwrap().to_owned()
    };
    let steps: Vec<_> = up.events().iter().filter(of_runtime).map(word).collect();
    let order = [
        "open", "verify", "hydrate", "witness", "decide", "permit", "commit", "woke", "spawn", "spawned",
        "ready", "serve",
    ];
    assert_eq!(steps, order);
    assert_eq!(up.interrupt(), Some(0));
}

/// The runtime that is linked against nothing, as it lies beside a released `suijuris`.
// proves C1
#[test]
fn the_static_runtime_beside_the_program_is_the_one_that_runs() {
    let target = PathBuf::from(env!("CARGO_BIN_EXE_suijuris"));
    let target = target.ancestors().nth(2).unwrap();
    let built = ["musl", "gnu"].map(|library| {
        let triple = format!("{}-unknown-linux-{library}", std::env::consts::ARCH);
        target.join(triple).join("dist/suijuris-init")
    });
    let built = built.iter().find(|path| path.exists());
    let built = built.expect("not built: run `cargo xtask ci --only static`");
    let object = Object::new("[memory.n]\ntype = \"int\"\n", &[OPEN, STAY].concat());
    let bin = object.home().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let (program, init) = (bin.join("suijuris"), bin.join("suijuris-init"));
    suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_suijuris"), &program);
    suijuris_testkit::program::copy(built, &init);
    let linked = run(object.command("ldd").arg(&init));
    let told = [linked.out, linked.err].concat();
    assert!(
        told.contains("statically") || told.contains("not a dynamic"),
        "{told}"
    );
    let mut command = object.command(&program);
    command.arg("up").arg(object.dir());
    let up = Up::start(command);
    up.get("/").status(200);
    let runs = object.processes();
    assert!(
        runs.iter()
            .any(|arguments| arguments.starts_with("suijuris-init ")),
        "{runs:?}"
    );
    up.write(&json!({"n": 1})).status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

/// An object that has lived once and sleeps.
fn lived() -> Object {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object
}

fn bundle(object: &Object) -> PathBuf {
    let dirs = std::fs::read_dir(object.data().join("bundles")).unwrap();
    dirs.flatten()
        .map(|entry| entry.path())
        .find(|path| path.is_dir())
        .unwrap()
}

fn first_segment(object: &Object) -> PathBuf {
    object.data().join("lineage/00000000000000000000.seg")
}

/// Changes one byte in the middle of a file.
fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// A boot of the bare runtime, as a host would make it.
fn boot(object: &Object) -> Ran {
    let mut init = object.command(env!("CARGO_BIN_EXE_suijuris"));
    init.args(["__init", "--listen", "127.0.0.1:0", "--data"])
        .arg(object.data());
    run(init.arg("--object").arg(object.dir()))
}

/// What is done to an object, and the words for it.
type Harm = (&'static str, fn(&Object));

// proves C1, A6
#[test]
fn whatever_is_missing_changed_or_swapped_nothing_runs() {
    let harms: [Harm; 7] = [
        ("manifest is missing", |object| {
            std::fs::remove_file(bundle(object).join("manifest")).unwrap();
        }),
        ("a byte of the manifest", |object| {
            flip(&bundle(object).join("manifest"), 60);
        }),
        ("a byte of the program", |object| {
            flip(&bundle(object).join("program"), 60);
        }),
        ("a byte of the rules", |object| {
            flip(&bundle(object).join("governance.cedar"), 60);
        }),
        ("another object's bundle", |object| {
            let other = Object::new(
                "",
                &[
                    OPEN,
                    STAY,
                    "@id(\"more\") permit (principal, action == Action::\"read\", resource);",
                ]
                .concat(),
            );
            assert_eq!(other.up().interrupt(), Some(0));
            for file in ["manifest", "program", "governance.cedar"] {
                suijuris_testkit::program::copy(bundle(&other).join(file), bundle(object).join(file));
            }
        }),
        ("a byte of the lineage", |object| {
            flip(&first_segment(object), 100);
            let _ = std::fs::remove_file(object.data().join("checkpoint"));
        }),
        ("the lineage is missing", |object| {
            std::fs::remove_file(first_segment(object)).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let object = lived();
        let received = object.received();
        harm(&object);
        let booted = boot(&object).code(3);
        assert!(booted.err.contains("broken_object"), "{what}: {}", booted.err);
        assert!(!booted.err.contains("spawn"), "{what}: {}", booted.err);
        assert_eq!(object.received(), received, "{what}");
        let refused = object.up_fails(&[]).code(3);
        assert!(refused.err.contains("{\"error\":"), "{what}: {}", refused.err);
        assert!(!refused.out.contains("listening"), "{what}: {}", refused.out);
    }
}

// proves C1
#[test]
fn a_bundle_that_is_spoilt_while_it_sleeps_is_found_before_the_next_wake() {
    let object = lived();
    let mut up = object.up();
    flip(&bundle(&object).join("program"), 60);
    let problem = up.get("/spoilt").problem(503, "broken_object");
    assert!(!problem.to_string().contains("program"), "{problem}");
    let error = up.wait(json!({"event": "error", "code": "broken_object"}));
    assert!(error["message"].as_str().unwrap().contains("program"), "{error}");
    assert_eq!(up.count(&json!({"event": "workload"})), 0);
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert!(!object.received().contains("/spoilt"));
}

/// Who holds the object is beside its machine: nothing in there waits for a witness, a relay or a depot.
#[test]
fn a_runtime_whose_object_is_held_for_it_has_no_threads_for_that() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    let threads = |pid: u32| -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks
            .filter_map(|task| name(task).ok())
            .map(|name| name.trim().to_owned())
            .collect()
    };
    let of_custody = |name: &&String| {
        ["witness", "relay", "depot"]
            .iter()
            .any(|part| name.starts_with(part))
    };
    let (outside, inside) = (threads(up.pid()), threads(up.runtime_pid()));
    assert!(outside.iter().any(|name| name == "witness"), "{outside:?}");
    assert_eq!(inside.iter().filter(of_custody).count(), 0, "{inside:?}");
    assert_eq!(up.interrupt(), Some(0));
}
