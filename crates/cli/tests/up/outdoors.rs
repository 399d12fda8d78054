//! `suijuris door` beside an object that `up` has left asleep: it decides, takes messages, and starts nothing.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::rig::{Answer, OPEN, Object, STAY, read_answer, until};

/// The server, ended when dropped.
pub(crate) struct Door {
    child: Child,
    address: String,
}

impl Door {
    pub(crate) fn of(object: &Object) -> Self {
        let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
        let mut child = command
            .args(["door", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let listening: Value = serde_json::from_str(&line).unwrap();
        let url = listening["url"].as_str().unwrap();
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { child, address }
    }

    pub(crate) fn ask(&self, request: &str, body: &str) -> (u16, Value) {
        let answer = self.answer(request, body);
        (
            answer.status,
            serde_json::from_str(&answer.body).unwrap_or(Value::Null),
        )
    }

    fn answer(&self, request: &str, body: &str) -> Answer {
        use std::io::Write as _;
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let text = format!("{request}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        socket.write_all(text.as_bytes()).unwrap();
        read_answer(&mut socket).unwrap()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// proves D5
// proves D6
#[test]
fn a_sleeping_object_is_decided_about_and_looked_at_and_nothing_starts() {
    let closed = r#"@id("closed") @reason("closed on this path")
forbid (principal, action == Action::"admit", resource) when { context.request.path like "/closed*" };"#;
    let object = Object::new(
        "[messages]\ntopics = [\"job\"]\n",
        &format!("{OPEN}{STAY}{closed}"),
    );
    let up = object.up();
    let id = up.id.clone();
    assert_eq!(up.interrupt(), Some(0));
    let door = Door::of(&object);
    let asked = |path: &str| {
        let head = format!("GET /ext_authz{path} HTTP/1.1\r\nhost: door\r\nx-suijuris-object: {id}");
        door.ask(&head, "")
    };
    assert_eq!(asked("/open").0, 200);
    let (status, problem) = asked("/closed/1");
    assert_eq!(status, 403, "{problem}");
    assert_eq!(problem["detail"], "closed on this path", "{problem}");
    // Whoever is refused for the same reason quotes the same, and the owner finds it while the door stands and later.
    let (_, again) = asked("/closed/2");
    assert_eq!(again["id"], problem["id"]);
    let quoted = problem["id"].as_str().unwrap().to_owned();
    let why = || object.ask(&["why", &quoted, "--json"]);
    until("it is kept", || why().code == 0);
    let (status, _) = door.ask(&format!("GET /objects/{id} HTTP/1.1\r\nhost: door"), "");
    assert_eq!(status, 200);
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "job", "data": {"n": 1}});
    let post = format!(
        "POST /objects/{id}/messages HTTP/1.1\r\nhost: door\r\ncontent-type: application/cloudevents+json"
    );
    assert_eq!(door.ask(&post, &event.to_string()).0, 202);
    drop(door);
    object.nobody_is_left();
    assert_eq!(object.records("woke").len(), 0);
    let why = why().code(0).json();
    assert_eq!(why["verdict"]["rules"], json!(["closed"]), "{why}");
    assert_eq!(why["inputs"]["request"]["path"], "/closed/1", "{why}");
    assert_eq!(
        (&why["replay"]["same"], &why["times"]),
        (&json!(true), &json!(1)),
        "{why}"
    );
    let told = object.ask(&["why", &quoted]).code(0).out;
    assert!(
        told.contains("given by a door once") && told.contains("@id(\"closed\")"),
        "{told}"
    );
    object.ask(&["why", "r-abcdefghijkl"]).code(2);
    // The message waited for whoever runs the object next.
    let mut up = object.up();
    up.wait(json!({"event": "proposal", "trigger": "message"}));
    up.wait(json!({"event": "workload", "state": "ready"}));
    let listed = up.agent("GET", "/v1/messages", &Value::Null).status(200).json();
    assert_eq!(listed["messages"][0]["data"], json!({"n": 1}));
    assert_eq!(up.interrupt(), Some(0));
}

/// Path and headers, and the status and code of their answer.
type Question<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

// proves D5
#[test]
fn up_and_the_door_answer_the_same_question_with_the_same_problem() {
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\\n-----END PUBLIC KEY-----\\n";
    let rules = r#"@id("night") @reason("closed until tomorrow") @retry_after("90s")
forbid (principal, action == Action::"wake", resource) when { context has request && context.request.path like "/night*" };
@id("closed") @reason("closed on this path") @retry_after("7s")
forbid (principal, action == Action::"admit", resource) when { context.request.path like "/closed*" };"#;
    let keys = format!("[[callers.keys]]\nalgorithm = \"EdDSA\"\npem = \"{PEM}\"\n");
    let object = Object::new(&keys, &format!("{OPEN}{STAY}{rules}"));
    let up = object.up();
    let id = up.id.clone();
    let other = suijuris_core::ObjectId::of(b"another").to_string();
    let questions: [Question<'_>; 5] = [
        ("/night/1", &[], 503, "wake_refused"),
        ("/closed/1", &[], 503, "admit_refused"),
        (
            "/open",
            &[("authorization", "Bearer nonsense")],
            401,
            "invalid_token",
        ),
        ("/open", &[("authorization", "Basic eDp5")], 401, "invalid_token"),
        ("/open", &[("x-suijuris-object", &other)], 421, "wrong_object"),
    ];
    // Each is recorded at its own time, and so under its own id.
    let without_id = |mut problem: Value| {
        problem.as_object_mut().unwrap().remove("id");
        problem
    };
    let ask = |(path, headers, status, code): Question<'_>| {
        without_id(up.get_with(path, headers).problem(status, code))
    };
    let at_up = questions.map(ask);
    let unheard = up.get_with("/open", &[("authorization", "Bearer nonsense")]);
    assert_eq!(
        unheard.header("www-authenticate"),
        Some("Bearer error=\"invalid_token\"")
    );
    assert_eq!(up.count(&json!({"event": "machine"})), 0);
    assert_eq!(up.interrupt(), Some(0));
    let door = Door::of(&object);
    for ((path, headers, status, code), at_up) in questions.into_iter().zip(at_up) {
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("\r\n{name}: {value}"))
            .collect();
        let head = format!("GET /ext_authz{path} HTTP/1.1\r\nhost: {id}.test{lines}");
        let answer = without_id(door.answer(&head, "").problem(status, code));
        assert_eq!(answer, at_up, "{path}");
    }
    drop(door);
    object.nobody_is_left();
    assert_eq!(object.records("woke").len(), 0);
}
