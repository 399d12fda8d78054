//! What the READMEs of the examples say to type, typed; what they show is what comes.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::rig::{Object, Up, repository, run};
use crate::session::{check, exchanges};

/// Guard against a command that does not end, seconds: an emulated kernel boots in minutes on a busy machine.
const LONGEST: &str = "600";

/// A directory as a reader has it after `cargo build`: the examples, and `target` beside them.
fn checkout(name: &str) -> Object {
    let object = Object::example(name);
    let examples = object.home().join("examples");
    std::fs::create_dir(&examples).unwrap();
    std::fs::rename(object.dir(), examples.join(name)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_suijuris"));
    symlink(program.ancestors().nth(2).unwrap(), object.home().join("target")).unwrap();
    object
}

/// Types a session into a shell, with the port that `up` has for PORT.
fn replay(name: &str) {
    let object = checkout(name);
    let readme = std::fs::read_to_string(repository().join("examples").join(name).join("README.md")).unwrap();
    let mut up: Option<Up> = None;
    for exchange in exchanges(&readme) {
        if let Some(arguments) = exchange
            .command
            .strip_prefix("suijuris ")
            .and_then(|rest| rest.strip_suffix(" &"))
        {
            let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
            command.args(arguments.split(' '));
            up = Some(Up::start(command));
            continue;
        }
        if exchange.command.starts_with("cargo ") {
            // `cargo test` has built it for the profile of this test already, unless it was told to build less.
            built(&object);
            continue;
        }
        let port = up
            .as_ref()
            .map(|up| up.address.rsplit(':').next().unwrap().to_owned());
        let command = exchange.command.replace("PORT", &port.unwrap_or_default());
        let mut shell = object.command("timeout");
        let path = Path::new(env!("CARGO_BIN_EXE_suijuris"))
            .parent()
            .unwrap()
            .display()
            .to_string();
        shell.env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin"));
        let ran = run(shell.args([LONGEST, "sh", "-c", &format!("{{ {command}\n}} 2>&1")]));
        assert_ne!(ran.code, 124, "$ {command}\ndoes not end: {}", ran.out);
        check(&exchange, &ran.out);
        assert!(!ran.out.contains("suijuris: error"), "$ {command}\n{}", ran.out);
    }
    assert_eq!(up.expect("the session runs `up`").interrupt(), Some(0));
    object.nobody_is_left();
}

/// Makes sure that the worker is built.
fn built(object: &Object) {
    let profiles = ["debug", "release"].map(|profile| object.home().join("target").join(profile));
    if profiles
        .iter()
        .any(|profile| profile.join("examples/agent").is_file())
    {
        return;
    }
    let mut cargo = std::process::Command::new(env!("CARGO"));
    run(cargo
        .args(["build", "--package", "suijuris-cli", "--example", "agent"])
        .current_dir(repository()))
    .code(0);
}

// proves C5, D4, G1
#[test]
fn hello() {
    replay("hello");
}

// proves C5, A7
#[test]
fn redis() {
    replay("redis");
}

// proves C5, D3, A5
#[test]
fn agent() {
    replay("agent");
}

// proves C12, C8
#[test]
fn image() {
    replay("image");
}

// proves C8, G1
#[test]
fn vm() {
    replay("vm");
}
