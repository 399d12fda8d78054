//! Clients of Fly's Machines API as their authors publish them; nothing but the base URL and the token is other than at Fly.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::rig::Host;

fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/test")
        .join(path);
    assert!(
        path.exists(),
        "run `tools/setup --test`: it installs {}",
        path.display()
    );
    path
}

fn run(host: &Host, program: &Path, script: &Path) {
    let mut command = Command::new(program);
    command
        .arg(script)
        .env("URL", format!("http://{}", host.api))
        .env("FLY_API_TOKEN", &host.token);
    command.env(
        "NODE_PATH",
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test/fly-admin/node_modules"),
    );
    let ran = command.stdin(Stdio::null()).output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/host/clients")
        .join(name)
}

// proves F1
#[test]
fn flaude_makes_uses_and_destroys_a_machine() {
    run(
        &Host::start(),
        &installed("flaude/bin/python"),
        &script("with_flaude.py"),
    );
}

// proves F1
#[test]
fn fly_python_sdk_makes_uses_and_destroys_a_machine() {
    run(
        &Host::start(),
        &installed("fly-python-sdk/bin/python"),
        &script("with_fly_python_sdk.py"),
    );
}

// proves F1
#[test]
fn fly_admin_makes_uses_and_destroys_a_machine() {
    installed("fly-admin/node_modules/fly-admin");
    run(&Host::start(), Path::new("node"), &script("with_fly_admin.js"));
}

// proves F1
#[test]
fn flytrap_lists_apps_and_machines_and_finds_itself_in_one() {
    let host = Host::start();
    host.app("a");
    let id = host.machine("trap 'exit 0' INT TERM; while :; do sleep 0.05; done", &json!({}));
    host.wait(&id, "started");
    let asleep = json!({"skip_launch": true, "config": {"image": "host:sh"}});
    host.post("/apps/a/machines", &asleep).is(200);
    let shown = host.get(&format!("/apps/a/machines/{id}")).is(200);
    let mut command = Command::new(installed("flytrap/debug/with-flytrap"));
    command
        .env("URL", format!("http://{}", host.api))
        .env("FLY_API_TOKEN", &host.token);
    // What a machine's environment says at Fly and here.
    command
        .env("FLY_APP_NAME", "a")
        .env("FLY_MACHINE_ID", &id)
        .env("FLY_ALLOC_ID", &id);
    command
        .env("FLY_REGION", "fra")
        .env("FLY_PRIVATE_IP", shown["private_ip"].as_str().unwrap());
    command
        .env("FLY_PUBLIC_IP", "2001:db8::1")
        .env("FLY_IMAGE_REF", "sh");
    command.env("FLY_MACHINE_VERSION", shown["instance_id"].as_str().unwrap());
    let ran = command.stdin(Stdio::null()).output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&said));
}
