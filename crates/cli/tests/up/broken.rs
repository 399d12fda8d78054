//! An environment that is not as it should be: each trouble has an answer that says what to do.

use std::net::TcpListener;

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, Up, run};

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let object = Object::new("", &[OPEN, STAY].concat());
    let ran = object.up_fails(&["--port", &port]).code(3);
    assert!(
        ran.err.contains(&port) && ran.err.contains("--port"),
        "{}",
        ran.err
    );
    assert!(!ran.out.contains("listening"));
}

// proves A6
#[test]
fn a_second_up_on_the_same_object_is_told_who_has_it() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    for wake in [false, true] {
        if wake {
            up.get("/").status(200);
        }
        let ran = object.up_fails(&[]).code(3);
        let pid = object.ask(&["show", "--json"]).code(0).json()["pid"].to_string();
        let named = ran
            .err
            .split(|c: char| !c.is_ascii_digit())
            .any(|word| word == pid);
        assert!(named, "{pid} is not named: {}", ran.err);
    }
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

#[test]
fn a_directory_without_an_object_and_usage() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let ran = object.suijuris(&["up", object.home().to_str().unwrap()]).code(3);
    assert!(ran.err.contains("suijuris new"), "{}", ran.err);
    object.suijuris(&["up", "--port", "many"]).code(2);
    object.file("object.toml", "name = 3\n");
    let ran = object.up_fails(&[]).code(3);
    assert!(ran.err.contains("object.toml"), "{}", ran.err);
}

// proves A6
#[test]
fn a_store_that_is_foreign_or_cut_short_is_not_opened() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let segment = object.data().join("lineage/00000000000000000000.seg");
    let bytes = std::fs::read(&segment).unwrap();
    for harm in [
        b"not a segment at all".to_vec(),
        vec![],
        bytes[..200].to_vec(),
        [b"x", &bytes[..]].concat(),
    ] {
        std::fs::write(&segment, &harm).unwrap();
        let ran = object.up_fails(&[]).code(3);
        assert!(ran.err.contains("{\"error\":"), "{}", ran.err);
        assert!(
            !ran.out.contains("listening") && !ran.err.contains("panicked"),
            "{}",
            ran.err
        );
    }
    std::fs::write(&segment, &bytes).unwrap();
    assert_eq!(object.up().interrupt(), Some(0), "as it was, it goes on");
    object.verify();
}

// proves B2
#[test]
fn a_full_disk_acknowledges_nothing_and_loses_nothing() {
    let memory = "[memory]\nblob = { type = \"string\", default = \"\", max_bytes = 65536 }\nn = { type = \"int\", default = 0 }\n";
    let object = Object::new(memory, &[OPEN, STAY].concat());
    assert_eq!(object.up().interrupt(), Some(0));
    // Files grow to 2 MiB at most: what a full disk says (no room) comes as "file too large".
    let mut command = object.command("sh");
    command.args([
        "-c",
        "ulimit -f 4096; trap '' XFSZ; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_suijuris"),
        "up",
    ]);
    let mut up = Up::start({
        command.arg(object.dir());
        command
    });
    up.get("/").status(200);
    let blob = "x".repeat(60_000);
    let mut last = 0;
    let refused = loop {
        match up.try_agent(
            "PATCH",
            "/v1/memory",
            &json!({"set": {"n": last + 1, "blob": blob}}),
        ) {
            Some(answer) if answer.status == 200 => last += 1,
            other => break other,
        }
        assert!(last < 1_000, "the disk never filled");
    };
    if let Some(refused) = refused {
        assert!(refused.status >= 500, "{refused:?}");
    }
    up.wait_event("error");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    drop(up);
    object.nobody_is_left();
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(
        up.agent("GET", "/v1/memory/n", &json!(null)).status(200).json()["value"],
        last
    );
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

#[test]
fn an_owners_key_that_others_can_read_is_not_used() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let dir = object.home().join(".config/suijuris");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("owner.key"), "07".repeat(32)).unwrap();
    run(object.command("chmod").arg("644").arg(dir.join("owner.key"))).code(0);
    let ran = object.up_fails(&[]).code(3);
    assert!(ran.err.contains("chmod 600"), "{}", ran.err);
}

#[test]
fn a_home_so_deep_that_no_socket_fits_beside_the_data() {
    let object = Object::new("[memory]\nn = \"int\"\n", &[OPEN, STAY].concat());
    let data = object.home().join("deep".repeat(30));
    let up = object.up_with(&["--data", data.to_str().unwrap()]);
    up.get("/").status(200);
    up.write(&json!({"n": 1})).status(200);
    assert_eq!(up.phase(), "active");
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn a_runtime_of_another_version_beside_the_program_is_named() {
    let object = Object::new("", &format!("{OPEN}{STAY}"));
    let bin = object.home().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let (program, init) = (bin.join("suijuris"), bin.join("suijuris-init"));
    suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_suijuris"), &program);
    suijuris_testkit::program::script(&init, "#!/bin/sh\necho 'unexpected argument' >&2\nexit 2\n");
    let mut command = object.command(&program);
    command.arg("up").arg(object.dir());
    let mut up = Up::start(command);
    up.get("/").problem(503, "machine_failed");
    let error = up.wait_event("error");
    assert!(
        error["message"].as_str().unwrap().contains("another version"),
        "{error}"
    );
}
