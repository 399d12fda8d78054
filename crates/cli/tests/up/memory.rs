//! Typed memory through the sockets: what does not fit is not stored, what is secret is not told.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, until};

const FIELDS: &str = r#"
[memory]
count = { type = "int", default = 0, max = 10 }
name = { type = "string", max_bytes = 8 }
steps = { type = { list = "int" }, append_only = true }
mode = { type = { enum = ["open", "closed"] }, default = "open" }
token = { type = "string", secret = true }
"#;

// proves B1, C5
#[test]
fn an_ill_typed_write_is_refused_before_anything_is_stored() {
    let object = Object::new(FIELDS, &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    up.agent("PATCH", "/v1/memory", &json!({"append": {"steps": [1]}}))
        .status(200);
    let before = (
        object.log(),
        up.agent("GET", "/v1/memory", &Value::Null).status(200).json(),
    );
    let ill = [
        json!({"set": {"count": "seven"}}),
        json!({"set": {"count": 11}}),
        json!({"set": {"count": 1.5}}),
        json!({"set": {"name": "much too long"}}),
        json!({"set": {"mode": "ajar"}}),
        json!({"set": {"steps": []}}),
        json!({"set": {"nothing_of_the_kind": 1}}),
        json!({"set": {"count": 1, "name": 2}}),
        json!({"append": {"steps": ["one"]}}),
    ];
    for patch in ill {
        let answer = up.agent("PATCH", "/v1/memory", &patch);
        assert_eq!(answer.status, 422, "{patch}: {answer:?}");
        assert!(!answer.json()["detail"].as_str().unwrap().is_empty());
        assert!(
            up.control(&json!({ "patch": patch }))["error"].is_object(),
            "{patch}"
        );
    }
    let conflict = up.agent(
        "PATCH",
        "/v1/memory",
        &json!({"set": {"count": 1}, "expect": {"count": 5}}),
    );
    conflict.problem(409, "memory_conflict");
    up.agent("PATCH", "/v1/memory", &json!({"sit": {}}))
        .problem(400, "bad_json");
    let after = (
        object.log(),
        up.agent("GET", "/v1/memory", &Value::Null).status(200).json(),
    );
    // A seal may have come meanwhile; no write has.
    let writes = |log: &[Value]| log.iter().filter(|record| record["kind"] == "mutated").count();
    assert_eq!(writes(&after.0), writes(&before.0));
    assert_eq!(after.1["root"], before.1["root"]);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves C5, A1
#[test]
fn what_the_rules_let_nobody_write_is_not_written() {
    let rules = OPEN.replace(
        "@id(\"mutate\") permit (principal, action == Action::\"mutate\", resource);",
        "@id(\"worker\") permit (principal is Workload, action == Action::\"mutate\", resource) when { [\"count\"].containsAll(context.fields) };",
    );
    let object = Object::new(FIELDS, &[rules.as_str(), STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    up.write(&json!({"count": 1})).status(200);
    let problem = up
        .write(&json!({"count": 2, "name": "x"}))
        .problem(403, "refused");
    assert_eq!(problem["action"], "mutate");
    assert_eq!(up.set(&json!({"count": 2}))["error"]["code"], "refused");
    let count = up
        .agent("GET", "/v1/memory/count", &Value::Null)
        .status(200)
        .json();
    assert_eq!(count["value"], 1);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

/// Every file below `dir`.
fn files(dir: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { files(path) } else { vec![path] })
        .collect()
}

// proves B10
#[test]
fn a_secret_is_in_its_own_file_and_nowhere_else() {
    let secret = "hunter2!";
    let object = Object::new(&FIELDS.replace("8 }", "9 }"), &[OPEN, STAY].concat());
    let up = object.up();
    up.get("/").status(200);
    up.write(&json!({"token": secret})).status(200);
    let own = up
        .agent("GET", "/v1/memory/token", &Value::Null)
        .status(200)
        .json();
    assert_eq!(own["value"], secret, "the workload may read it by name");
    let listing = up.agent("GET", "/v1/memory", &Value::Null).status(200).body;
    assert!(
        !listing.contains(secret) && listing.contains("<secret>"),
        "{listing}"
    );
    let (events, complaints) = (up.events(), up.complaints());
    assert_eq!(up.interrupt(), Some(0));
    assert!(!format!("{events:?}{complaints}").contains(secret));
    for command in [
        &["log", "--json"][..],
        &["show", "--json"],
        &["memory", "get", "--json"],
        &["why", "--json"],
    ] {
        let ran = object.ask(command);
        assert!(
            !ran.out.contains(secret) && !ran.err.contains(secret),
            "{command:?}"
        );
    }
    let holding: Vec<_> = files(object.data())
        .into_iter()
        .filter(|path| path.symlink_metadata().unwrap().is_file())
        .filter(|path| {
            std::fs::read(path)
                .unwrap()
                .windows(secret.len())
                .any(|part| part == secret.as_bytes())
        })
        .collect();
    assert_eq!(holding.len(), 1, "{holding:?}");
    assert!(
        holding[0].starts_with(object.data().join("secrets")),
        "{holding:?}"
    );
    object.verify();
}

// proves C5
#[test]
fn an_aware_workload_knows_itself_waits_for_changes_has_a_token_and_asks_to_sleep() {
    let object = Object::new(FIELDS, &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(200);
    let status = up.agent("GET", "/v1/object", &Value::Null).status(200).json();
    assert_eq!(
        (&status["object"], &status["phase"], &status["epoch"]),
        (&json!(up.id), &json!("active"), &json!(1))
    );
    let token = up
        .agent("POST", "/v1/token", &json!({"audience": "you", "for": "5m"}))
        .status(200)
        .json();
    assert_eq!(token["token"].as_str().unwrap().split('.').count(), 3);
    up.agent("POST", "/v1/token", &json!({"audience": "you", "for": "2h"}))
        .problem(422, "bad_token_request");
    up.agent("GET", "/v1/nothing", &Value::Null)
        .problem(404, "no_such_route");
    let verdict = up.agent("POST", "/v1/sleep", &Value::Null).status(202).json();
    assert_eq!(verdict["outcome"], "permit");
    up.wait(json!({"event": "proposal", "action": "sleep", "by": "workload"}));
    up.wait_event("dormant");
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves B2
#[test]
fn many_writers_at_once_each_get_what_they_were_promised() {
    let object = Object::new(
        "[memory]\nset = { type = { set = \"int\" }, default = [] }\n",
        &[OPEN, STAY].concat(),
    );
    let up = object.up();
    up.get("/").status(200);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let up = &up;
            scope.spawn(move || {
                for number in 0..10 {
                    up.agent(
                        "PATCH",
                        "/v1/memory",
                        &json!({"append": {"set": [writer * 10 + number]}}),
                    )
                    .status(200);
                }
            });
        }
    });
    up.kill();
    object.nobody_is_left();
    let set: Vec<u64> = serde_json::from_str(&object.ask(&["memory", "get", "set"]).code(0).out).unwrap();
    assert_eq!(set, (0..80).collect::<Vec<_>>());
    object.verify();
}

// proves D3
#[test]
fn the_command_line_writes_asleep_and_awake_and_only_the_field_that_wakes_does() {
    let memory =
        "[memory]\njobs = { type = { set = \"string\" }, default = [], wakes = true }\nnote = \"string\"\n";
    let object = Object::new(memory, &[OPEN, STAY].concat());
    let up = object.up();
    object.ask(&["memory", "set", "note=asleep"]).code(0);
    assert_eq!(up.phase(), "dormant");
    object
        .ask(&["memory", "set", "--append", "jobs=[\"one\"]"])
        .code(0);
    until("it is awake", || {
        up.count(&json!({"event": "workload", "state": "ready"})) == 1
    });
    object.ask(&["memory", "set", "note=awake"]).code(0);
    let note = up
        .agent("GET", "/v1/memory/note", &Value::Null)
        .status(200)
        .json();
    assert_eq!(note["value"], "awake");
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

#[test]
fn a_document_that_names_a_member_twice_is_refused_and_writes_nothing() {
    let object = Object::new(
        "[memory]\ncounter = { type = \"int\", default = 0 }\n",
        &[OPEN, STAY].concat(),
    );
    let up = object.up();
    up.get("/").status(200);
    for body in [
        r#"{"set":{"counter":1,"counter":2}}"#,
        r#"{"set":{"counter":1},"set":{"counter":2}}"#,
        r#"{"set":{"counter":1},"expect":{"counter":0,"counter":1}}"#,
    ] {
        let socket = std::os::unix::net::UnixStream::connect(up.agent_socket()).unwrap();
        let answer = crate::rig::exchange(
            socket,
            "PATCH",
            "/v1/memory",
            &[("content-type", "application/json")],
            body,
        );
        answer.problem(400, "bad_json");
    }
    assert_eq!(object.ask(&["memory", "get", "counter"]).code(0).out, "0\n");
    assert_eq!(up.interrupt(), Some(0));
}
