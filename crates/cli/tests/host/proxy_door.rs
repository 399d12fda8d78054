//! The door of an object before a machine of the host: what its rules refuse starts nothing.

use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::proxy::{get, serve, wait, with_proxy};

/// A program of ours in a home of its own, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(home: &Path, args: &[&str]) -> (Running, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_suijuris"))
        .args(args)
        .current_dir(home)
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (Running(child), stdout)
}

/// Lines until one that is wanted.
fn until(lines: &mut impl std::io::BufRead, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended");
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if wanted(&event) {
            return event;
        }
    }
}

const RULES: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("sleep") permit (principal, action == Action::"sleep", resource);
@id("closed") @reason("closed on this path")
forbid (principal, action == Action::"admit", resource) when { context.request.path like "/closed*" };"#;

/// An object that was awake once and sleeps; its id.
fn asleep(home: &Path) -> String {
    let dir = home.join("object");
    std::fs::create_dir(&dir).unwrap();
    let definition = "name = \"probe\"\n[workload]\ncommand = [\"sleep\", \"1000\"]\n";
    std::fs::write(dir.join("object.toml"), definition).unwrap();
    std::fs::write(dir.join("governance.cedar"), RULES).unwrap();
    let (up, mut lines) = start(home, &["up", "object", "--json", "--listen", "127.0.0.1:0"]);
    let ready = until(&mut lines, |event| event["object"].is_string());
    let id = ready["object"].as_str().unwrap().to_owned();
    let pid = up.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut up = up;
    assert!(up.0.wait().unwrap().success());
    id
}

#[test]
fn what_an_object_refuses_at_its_door_starts_no_machine() {
    let home = tempfile::tempdir().unwrap();
    let object = asleep(home.path());
    let (_door, mut lines) = start(home.path(), &["door", "--json", "--listen", "127.0.0.1:0"]);
    let listening = until(&mut lines, |event| event["url"].is_string());
    let url = listening["url"].as_str().unwrap().trim_end_matches('/');
    let hook = format!("a={url}/ext_authz");
    let host = with_proxy(&["--authz", &hook]);
    host.app("a");
    let machine = serve(&host, "a", &json!({}), &json!({}));
    host.post(&format!("/apps/a/machines/{machine}/stop"), &json!({}))
        .is(200);
    wait(&host, "a", &machine, "stopped");
    let field = format!("X-Suijuris-Object: {object}\r\n");
    for _ in 0..3 {
        let (status, _, body) = get(&host, "a", "/closed/1", &field);
        assert_eq!(status, 403, "{body}");
        assert!(
            body.contains("admit_refused") && body.contains("closed on this path"),
            "{body}"
        );
    }
    let (status, _, body) = get(&host, "a", "/open", "");
    assert!((400..500).contains(&status), "no object is named: {body}");
    let record = host.get(&format!("/apps/a/machines/{machine}")).is(200);
    assert_eq!(record["state"], "stopped");
    let starts = |record: &Value| {
        let events = record["events"].as_array().unwrap();
        events.iter().filter(|event| event["source"] == "proxy").count()
    };
    assert_eq!(starts(&record), 0, "{record}");
    let (status, _, body) = get(&host, "a", "/open", &field);
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with(&machine), "{body}");
    assert!(body.contains(&object), "the object is named to the machine, too");
    let record = host.get(&format!("/apps/a/machines/{machine}")).is(200);
    assert!(starts(&record) > 0, "{record}");
}
