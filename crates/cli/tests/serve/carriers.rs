//! The same question has the same answer whoever carries it: the daemon's socket, its address with a token, or a command that
//! reads the files once the daemon has ended.

use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, OPEN, STAY};
use crate::ran::{Ran, run};

/// Wakes for visitors of one path alone.
const PICKY: &str = r#"@id("not-there") @reason("Not there")
forbid (principal, action == Action::"wake", resource)
when { context has request && context.request.path == "/not-there" };
"#;

/// Questions about `OBJ`, by the definition in `OTHER`.
const QUESTIONS: &[&[&str]] = &[
    &["log", "OBJ"],
    &["log", "OBJ", "--json"],
    &["log", "OBJ", "-n", "2", "--json"],
    &["log", "OBJ", "-n", "0"],
    &["log", "OBJ", "--kind", "woke", "--kind", "mutated", "--json"],
    &["why", "OBJ"],
    &["why", "OBJ", "1", "--json"],
    &["why", "OBJ", "0"],
    &["why", "OBJ", "999"],
    &["why", "OBJ", "r-abcdefghijkl"],
    &["why", "OBJ", "--action", "wake", "--json"],
    &["why", "OBJ", "--action", "fork"],
    &[
        "what-if",
        "OBJ",
        "--action",
        "wake",
        "--path",
        "/",
        "--at",
        "2040-01-01T00:00:00Z",
        "--json",
    ],
    &[
        "what-if",
        "OBJ",
        "--action",
        "wake",
        "--path",
        "/not-there",
        "--at",
        "2040-01-01T00:00:00Z",
    ],
    &[
        "what-if",
        "OBJ",
        "--action",
        "mutate",
        "--set",
        "note=x",
        "--at",
        "2040-01-01T00:00:00Z",
    ],
    &["what-if", "OBJ", "--action", "wake", "--set", "nothing=x"],
    &[
        "what-if", "OBJ", "--action", "wake", "--claim", "x=y", "--by", "caller",
    ],
    &["what-if", "OBJ", "--rules", "OTHER", "--json"],
    &["what-if", "OBJ", "--rules", "OTHER"],
    &["verify", "OBJ", "--json"],
    &["verify", "OBJ"],
    &["show", "OBJ", "--json"],
    &["memory", "get", "OBJ", "note"],
    &["memory", "get", "OBJ", "note", "--json"],
    &["memory", "get", "./OBJ"],
];

/// A command of somebody elsewhere, who has this token.
fn over_address(home: &Home, daemon: &Daemon, token: &Path, args: &[&str]) -> Ran {
    let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
    command.env("SUIJURIS_API_TOKEN_FILE", token);
    command.env("SUIJURIS_SERVER", daemon.api_url());
    command.env("HOME", home.path().join("elsewhere"));
    run(command.args(args))
}

/// Exit code and what is printed, without what differs by who runs the object.
fn plain(ran: &Ran) -> (i32, String) {
    let out = match serde_json::from_str::<Value>(&ran.out) {
        Ok(Value::Object(mut members)) => {
            members.retain(|name, _| !["running", "pid", "url"].contains(&name.as_str()));
            Value::Object(members).to_string()
        }
        _ => ran.out.clone(),
    };
    (ran.code, out)
}

// proves A14
// proves G9
#[test]
fn the_same_question_has_the_same_answer_whoever_carries_it() {
    let home = Home::new();
    let mut daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    home.add(&home.object("hello", &[OPEN, STAY, PICKY].concat()));
    let closed = OPEN.replace(
        "permit (principal, action == Action::\"wake\"",
        "forbid (principal, action == Action::\"wake\"",
    );
    let other = home.object("other", &[closed.as_str(), STAY].concat());
    let token = home.path().join("read.token");
    home.suijuris(&["token", "api", "create", "reader", "-o", token.to_str().unwrap()])
        .code(0);
    daemon.get("hello", "/not-there").problem(403, "wake_refused");
    home.suijuris(&["memory", "set", "hello", "note=before"]).code(0);
    home.suijuris(&["wake", "hello"]).code(0);
    daemon.wait(json!({"event": "woke"}));
    home.suijuris(&["memory", "set", "hello", "note=awake"]).code(0);
    home.suijuris(&["sleep", "hello"]).code(0);
    daemon.wait(json!({"event": "dormant"}));
    daemon.wait_phase("hello", "dormant");
    let data = home.root().join("objects/hello");
    let data = if data.join("lineage").is_dir() {
        data
    } else {
        data.join("data")
    };
    let ask = |object: &str, ask: &dyn Fn(&[&str]) -> Ran| -> Vec<(i32, String)> {
        let questions = QUESTIONS.iter().map(|question| {
            let words: Vec<&str> = question
                .iter()
                .map(|word| match *word {
                    "OBJ" | "./OBJ" => object,
                    "OTHER" => other.to_str().unwrap(),
                    word => word,
                })
                .collect();
            plain(&ask(&words))
        });
        questions.collect()
    };
    let socket = ask("hello", &|words| home.suijuris(words));
    let by_path = ask(data.to_str().unwrap(), &|words| home.suijuris(words));
    let address = ask("hello", &|words| over_address(&home, &daemon, &token, words));
    daemon.terminate();
    let files = ask(data.to_str().unwrap(), &|words| home.suijuris(words));
    for (at, question) in QUESTIONS.iter().enumerate() {
        assert_eq!(socket[at], files[at], "{question:?} by the socket");
        assert_eq!(
            by_path[at], files[at],
            "{question:?} by the socket, named by its directory"
        );
        assert_eq!(address[at], files[at], "{question:?} by the address");
    }
    // Not all of them alike.
    let codes: std::collections::BTreeSet<i32> = files.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [0, 1, 2, 3].into());
}

// proves G9
#[test]
fn an_operator_asks_as_the_host_and_an_owner_signs_from_anywhere() {
    let owners = OPEN.replace(
        r#"permit (principal, action == Action::"mutate", resource);"#,
        r#"permit (principal is Controller, action == Action::"mutate", resource);"#,
    );
    let home = Home::new();
    let mut daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    home.add(&home.object("hello", &[owners.as_str(), STAY].concat()));
    let token = |scope: &str| {
        let file = home.path().join(format!("{scope}.token"));
        let path = file.to_str().unwrap();
        home.suijuris(&["token", "api", "create", scope, "--scope", scope, "-o", path])
            .code(0);
        file
    };
    let (read, operate) = (token("read"), token("operate"));
    let looked = over_address(&home, &daemon, &read, &["wake", "hello"]);
    assert!(looked.err.contains("does not allow"), "{looked:?}");
    // The owner's key is here, and signs; elsewhere the same token makes a host.
    for phase in ["dormant", "active"] {
        let note = format!("note={phase}");
        let set = ["memory", "set", "hello", note.as_str()];
        let signed = over_address(&home, &daemon, &operate, &set);
        assert_eq!(signed.code, 0, "{signed:?}");
        let mut stranger = home.command(env!("CARGO_BIN_EXE_suijuris"));
        stranger.env("SUIJURIS_OWNER_KEY", home.path().join("none.key"));
        stranger.env("SUIJURIS_API_TOKEN_FILE", &operate);
        stranger.env("SUIJURIS_SERVER", daemon.api_url());
        let refused = run(stranger.args(["memory", "set", "hello", "note=stranger"]));
        assert_eq!(refused.code, 1, "{refused:?}");
        let got = over_address(&home, &daemon, &read, &["memory", "get", "hello", "note"]);
        assert_eq!(got.out.trim(), phase);
        if phase == "dormant" {
            over_address(&home, &daemon, &operate, &["wake", "hello"]).code(0);
            daemon.wait(json!({"event": "woke"}));
        }
    }
    over_address(&home, &daemon, &operate, &["sleep", "hello"]).code(0);
    daemon.wait(json!({"event": "dormant"}));
    daemon.terminate();
}

#[test]
fn a_message_is_stored_once_whoever_carries_it() {
    let home = Home::new();
    let daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    let added = home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let token = home.path().join("operate.token");
    let path = token.to_str().unwrap();
    home.suijuris(&["token", "api", "create", "o", "--scope", "operate", "-o", path])
        .code(0);
    let send = |object: &'static str, id: &'static str| {
        [
            "send",
            object,
            "--type",
            "job.posted",
            "--id",
            id,
            "--data",
            "{\"job\": 7}",
            "--json",
        ]
    };
    let first = home.suijuris(&send("hello", "1")).code(0).json();
    assert_eq!(
        (&first["outcome"], &first["wakes"]),
        (&json!("stored"), &json!(false))
    );
    let again = over_address(&home, &daemon, &token, &send("hello", "1"))
        .code(0)
        .json();
    assert_eq!(again["outcome"], "duplicate", "{again}");
    assert_eq!(again["key"], first["key"]);
    over_address(&home, &daemon, &token, &send("hello", "2")).code(0);
    let waiting = daemon.api("GET", "/v1/objects/hello/messages", &Value::Null);
    let waiting = waiting.status(200).json();
    assert_eq!(waiting["waiting"], 2, "{waiting}");
    assert_eq!(waiting["messages"][0]["data"], json!({"job": 7}));
    let one = daemon
        .api("GET", "/v1/objects/hello/messages?limit=1", &Value::Null)
        .json();
    assert_eq!(one["messages"].as_array().unwrap().len(), 1);
    for body in [
        json!({}),
        json!({"specversion": "1.0"}),
        json!({"specversion": "0.3", "id": "1", "source": "/", "type": "t"}),
    ] {
        daemon
            .api("POST", "/v1/objects/hello/messages", &body)
            .problem(400, "bad_event");
    }
    daemon.terminate();
    // Into the depot, where no daemon is.
    let id = added["object"].as_str().unwrap();
    let ran = home.suijuris(&["send", id, "--type", "job.posted", "--id", "1", "--json"]);
    assert_eq!(ran.code(0).json()["outcome"], "duplicate");
}
