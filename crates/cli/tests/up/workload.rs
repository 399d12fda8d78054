//! Real programs, well behaved and not.

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, as_somebody, run};

// proves C5, C8, G1
#[test]
fn an_unmodified_web_server_serves_from_an_empty_environment_and_wakes_again() {
    let object = Object::example("hello");
    let mut up = object.up();
    for _ in 0..2 {
        assert!(up.get("/").status(200).body.contains("Hello"));
        up.wait_event("woke");
        up.wait_event("dormant");
        up.wait(json!({"event": "machine", "state": "stopped"}));
    }
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
}

#[test]
fn an_image_runs_in_no_plain_process() {
    let definition = format!(
        "name = \"probe\"\n[workload]\nimage = \"sha256:{}\"\ncommand = [\"python3\", \"-c\", \"print('ran')\"]\nport = 8080\n",
        "a".repeat(64)
    );
    let object = Object::defined(&definition, &[OPEN, STAY].concat());
    let mut up = object.up_with(&["--plain"]);
    up.get("/").status(503);
    up.wait(json!({"event": "verdict", "outcome": "refuse", "place": "door", "invariant": "incapable"}));
    assert_eq!(up.count(&json!({"event": "machine", "state": "started"})), 0);
    assert_eq!(up.interrupt(), Some(0));
    let refused = object.records("refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    object.verify();
}

#[test]
fn what_up_makes_is_for_its_user_alone_and_in_no_repository() {
    use std::os::unix::fs::PermissionsExt as _;
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let mode = object.data().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(
        std::fs::read_to_string(object.data().join(".gitignore")).unwrap(),
        "*\n"
    );
    assert_eq!(up.interrupt(), Some(0));
}

// proves G1, C8
#[test]
fn nobody_in_particular_can_run_it() {
    if !nix::unistd::geteuid().is_root() {
        // The other tests have shown it: nothing here runs as root.
        return;
    }
    let object = Object::example("hello");
    let run_as = |command: &mut std::process::Command| run(command).code(0);
    run_as(
        object
            .command("chown")
            .args(["-R", "65534:65534"])
            .arg(object.home()),
    );
    let program = object.home().join("suijuris");
    suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_suijuris"), &program);
    let mut command = object.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(program);
    command.arg("up").arg(object.dir());
    let mut up = crate::rig::Up::start(command);
    assert!(up.get("/").status(200).body.contains("Hello"));
    up.wait_event("dormant");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
}

// proves C5
#[test]
fn an_ordinary_user_runs_a_workload_as_the_user_that_it_names() {
    const WHO: &str = "import os, pathlib
data = pathlib.Path(os.environ['SUIJURIS_DATA'])
(data / 'mine').write_text('x')
print('as', os.getuid(), os.getgid(), (data / 'mine').stat().st_uid, data.stat().st_uid, flush=True)
try: os.setuid(0); print('became root', flush=True)
except OSError: print('stays', flush=True)
import time; time.sleep(1000)
";
    let definition = "name = \"named\"\n[workload]\ncommand = [\"python3\", \"{object}/who.py\"]\nuser = \"1:1\"\nready = \"spawned\"\n";
    let object = Object::defined(definition, &[OPEN, STAY].concat());
    object.file("who.py", WHO);
    let mut command = as_somebody(&object);
    command.arg("up").arg(object.dir());
    let mut up = crate::rig::Up::start(command);
    let asking = up.http("GET", "/");
    up.wait(json!({"event": "output", "line": "as 1 1 1 1"}));
    up.wait(json!({"event": "output", "line": "stays"}));
    assert!(asking.status >= 500, "nobody listens there: {asking:?}");
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
}

/// An object whose workload is `sh -c script`, with these further keys.
fn shell(script: &str, keys: &str) -> Object {
    let script = serde_json::to_string(script).unwrap();
    let definition = format!("name = \"bad\"\n[workload]\ncommand = [\"sh\", \"-c\", {script}]\n{keys}");
    Object::defined(&definition, &[OPEN, STAY].concat())
}

/// Asks a workload that does not come up; the problem, after which the object sleeps and the next request tries again.
fn fails_to_start(object: &Object) -> (Value, Value) {
    let mut up = object.up();
    let problem = up.get("/").problem(503, "workload_failed");
    let error = up.wait(json!({"event": "error", "code": "workload_failed"}));
    up.wait_event("dormant");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.phase(), "dormant");
    up.get("/").problem(503, "workload_failed");
    up.wait(json!({"event": "woke", "epoch": 2}));
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
    (problem, error)
}

#[test]
fn a_workload_that_crashes_at_its_start() {
    let (problem, error) = fails_to_start(&shell("echo no luck >&2; exit 3", ""));
    assert!(
        error["message"].as_str().unwrap().contains("exited with code 3")
            || error["message"].as_str().unwrap().contains("exited 3"),
        "{error}"
    );
    assert!(!problem["detail"].as_str().unwrap().is_empty(), "{problem}");
}

#[test]
fn a_workload_that_does_not_exist() {
    let definition = "name = \"none\"\n[workload]\ncommand = [\"/no/such/program\"]\n";
    let object = Object::defined(definition, &[OPEN, STAY].concat());
    let (_, error) = fails_to_start(&object);
    assert!(
        error["message"].as_str().unwrap().contains("/no/such/program"),
        "{error}"
    );
}

#[test]
fn a_workload_that_never_becomes_ready() {
    let (_, error) = fails_to_start(&shell(
        "exec sleep 1000",
        "ready_within = \"500ms\"\nstop_within = \"1s\"\n",
    ));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("not ready within") && message.contains("listens on port"),
        "{message}"
    );
}

// proves C2
#[test]
fn a_workload_that_others_could_reach_around_the_gate_is_not_let_serve() {
    let definition =
        "name = \"exposed\"\n[workload]\ncommand = [\"python3\", \"-m\", \"http.server\", \"{port}\"]\n";
    let object = Object::defined(definition, &[OPEN, STAY].concat());
    let mut up = object.up_with(&["--plain"]);
    let answer = up.get("/");
    if std::fs::read_to_string("/proc/net/route")
        .unwrap()
        .lines()
        .count()
        > 1
    {
        answer.problem(503, "workload_failed");
        let error = up.wait(json!({"event": "error", "code": "workload_failed"}));
        assert!(
            error["message"].as_str().unwrap().contains("127.0.0.1"),
            "{error}"
        );
        up.wait(json!({"event": "machine", "state": "stopped"}));
    }
    assert_eq!(up.interrupt(), Some(0));
    let up = object.up();
    if up.machine.starts_with("namespaces") {
        up.get("/").status(200);
    }
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
}

#[test]
fn a_workload_that_ends_while_it_serves_puts_the_object_to_sleep() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    let broken = up.get("/exit");
    assert!(matches!(broken.status, 502 | 503), "{broken:?}");
    let exited = up.wait(json!({"event": "workload", "state": "exited"}));
    assert_eq!(exited["how"], "exited 7");
    let dormant = up.wait_event("dormant");
    assert!(
        dormant["reason"].as_str().unwrap().contains("the workload ended"),
        "{dormant}"
    );
    up.wait(json!({"event": "machine", "state": "stopped"}));
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves C7
#[test]
fn requests_in_flight_are_finished_before_it_sleeps() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| up.get("/slow/1.0"));
        crate::rig::until("the request is with the workload", || {
            object.received().contains("/slow/")
        });
        assert_eq!(up.control(&json!("sleep"))["verdict"]["outcome"], "permit");
        assert_eq!(slow.join().unwrap().status(200).body, "served /slow/1.0\n");
    });
    up.wait_event("dormant");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves C7
#[test]
fn children_that_a_workload_leaves_behind_end_with_it() {
    let script = "(trap '' TERM; exec sleep 1000) & exec python3 \"$SUIJURIS_OBJECT_DIR_/server.py\" \"$PORT\" \"$SUIJURIS_DATA\"";
    let object = shell(
        &script.replace("$SUIJURIS_OBJECT_DIR_", "{object}"),
        "stop_within = \"1s\"\n",
    );
    object.file("server.py", include_str!("server.py"));
    for args in [&[][..], &["--plain"]] {
        let mut up = object.up_with(args);
        up.get("/").status(200);
        assert!(
            object
                .processes()
                .iter()
                .any(|process| process.contains("sleep 1000"))
        );
        up.control(&json!("sleep"));
        up.wait(json!({"event": "machine", "state": "stopped"}));
        let left = object.processes();
        assert!(
            !left.iter().any(|process| process.contains("sleep 1000")),
            "{left:?}"
        );
        assert_eq!(up.interrupt(), Some(0));
    }
}
