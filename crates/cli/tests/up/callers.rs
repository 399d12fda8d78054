//! `/.suijuris/`: callers with tokens ask the object itself, asleep and awake, and nobody else reaches anything there.

use serde_json::{Value, json};

use crate::rig::{Answer, OPEN, Object, STAY, Up, run, until};

const DEFINITION: &str = r#"
[memory]
answer = { type = "string" }
hidden = { type = "int", default = 7 }
[callers.claims]
tenant = "string"
[[callers.keys]]
algorithm = "EdDSA"
issuer = "https://issuer.example"
file = "callers.pem"
"#;

const API: &str = "[gate]\napi = true\n";

/// Whoever has a token reads the status and `answer`; alice alone writes it.
const RULES: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("remain") permit (principal, action == Action::"remain", resource);
@id("sleep") permit (principal, action == Action::"sleep", resource);
@id("amend") permit (principal is Controller, action == Action::"amend", resource);
@id("host-writes") permit (principal is Host, action == Action::"mutate", resource);
@id("reads") permit (principal is Caller, action == Action::"read", resource)
  when { context.field == "answer" || context.field == "" };
@id("alice-answers") permit (principal is Caller, action == Action::"mutate", resource)
  when { principal has subject && principal.subject == "alice" && context.fields == ["answer"] };
@id("not-mallory") @reason("Not you.") forbid (principal is Caller, action == Action::"mutate", resource)
  when { principal has subject && principal.subject == "mallory" };
"#;

const MEMORY: &str = "/.suijuris/v1/memory";
const OBJECT: &str = "/.suijuris/v1/object";

/// Every way to write a path below `/.suijuris`, without prefix and with it.
const SPELLINGS: [&str; 9] = [
    "/.suijuris",
    "/.suijuris/",
    "/.suijuris/v1/object",
    "/%2esuijuris/v1/memory",
    "/%2E%73uijuris/",
    "//.suijuris/x",
    "/a/../.suijuris/v1/memory",
    "/./.suijuris/v1/memory?x=y",
    "/.suijuris/../.suijuris/v1/memory",
];

struct Tokens<'a>(&'a Object);

impl Tokens<'_> {
    fn of(&self, subject: &str) -> String {
        let dir = self.0.dir().to_str().unwrap();
        let args = ["token", "issue", dir, "--sub", subject, "--claim", "tenant=acme"];
        let token = self.0.suijuris(&args).code(0);
        format!("Bearer {}", token.out.trim())
    }
}

fn object(definition: &str) -> Object {
    let object = Object::new(&[DEFINITION, definition].concat(), RULES);
    let key = object.dir().join("callers.pem");
    object
        .suijuris(&["token", "key", "--write", key.to_str().unwrap()])
        .code(0);
    object
}

fn read(up: &Up, token: &str, path: &str) -> Answer {
    up.get_with(path, &[("authorization", token)])
}

fn write(up: &Up, token: &str, patch: &Value) -> Answer {
    up.send("PATCH", MEMORY, &[("authorization", token)], &patch.to_string())
}

/// What curl gets over HTTP/2: status and body.
fn http2(object: &Object, up: &Up, path: &str, token: &str, patch: Option<&Value>) -> (String, String) {
    let mut curl = object.command("curl");
    curl.args([
        "--silent",
        "--max-time",
        "30",
        "--http2-prior-knowledge",
        "--path-as-is",
    ]);
    curl.args(["--write-out", "\n%{http_code} %{http_version}"]);
    curl.args(["--header", &format!("authorization: {token}")]);
    if let Some(patch) = patch {
        curl.args(["--request", "PATCH", "--data", &patch.to_string()]);
    }
    let ran = run(curl.arg(format!("http://{}{path}", up.address))).code(0);
    let (body, status) = ran.out.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

fn machines(up: &Up) -> usize {
    up.count(&json!({"event": "machine"}))
}

/// All that callers find, whether it sleeps or not.
fn serves_callers(object: &Object, up: &mut Up, before: &str) {
    let (alice, bob, mallory) = (
        Tokens(object).of("alice"),
        Tokens(object).of("bob"),
        Tokens(object).of("mallory"),
    );
    let status = read(up, &bob, OBJECT).status(200).json();
    assert_eq!(
        (&status["object"], &status["name"]),
        (&json!(up.id), &json!("probe"))
    );
    let memory = read(up, &bob, MEMORY).status(200).json();
    let fields: Vec<&String> = memory["fields"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["answer"], "hidden is for nobody");
    read(up, &bob, &format!("{MEMORY}/hidden")).problem(403, "refused");
    read(up, &bob, &format!("{MEMORY}/nothing")).problem(403, "refused");

    // Compare and set: one of two who read the same wins.
    let old = memory["fields"]["answer"]["value"].clone();
    let yes = json!({"set": {"answer": format!("yes {before}")}, "expect": {"answer": old}});
    let patched = write(up, &alice, &yes).status(200).json();
    write(up, &alice, &yes).problem(409, "memory_conflict");
    let field = read(up, &bob, &format!("{MEMORY}/answer")).status(200).json();
    assert_eq!(field["value"], format!("yes {before}"));
    up.wait(json!({"event": "mutated", "by": "caller", "seq": patched["seq"]}));

    // Rules decide, and their words are for owners.
    let refused = write(up, &mallory, &yes).problem(403, "refused");
    assert_eq!(
        (&refused["detail"], refused.get("rules")),
        (&json!("Not you."), None)
    );
    assert!(refused["id"].as_str().unwrap().starts_with("r-"), "{refused}");
    up.wait(json!({"event": "refused", "rules": ["not-mallory"]}));
    write(up, &bob, &yes).problem(403, "refused");
    // What may not be read cannot be guessed either, by conditions or by the root over all.
    for guess in [json!({"hidden": 7}), json!({"hidden": 8})] {
        let guess = json!({"set": {"answer": "x"}, "expect": guess});
        write(up, &alice, &guess).problem(403, "refused");
    }
    let root = json!({"set": {"answer": "x"}, "expect_root": "00"});
    write(up, &alice, &root).problem(403, "refused");
    assert_eq!(
        (memory.get("root"), status.get("memory_root"), patched.get("root")),
        (None, None, None)
    );
    write(up, &alice, &json!({"set": {"hidden": 1}})).problem(403, "refused");
    write(up, &alice, &json!({"set": {"answer": 1}})).problem(422, "memory_refused");
    write(up, &alice, &json!({"sets": {}})).problem(400, "bad_json");

    // Tokens alone; pages of other sites have none of their own, and are refused whoever lends them one.
    up.get(OBJECT).problem(401, "token_required");
    read(up, "Basic YTpi", OBJECT).problem(401, "invalid_token");
    read(up, &format!("{alice}x"), OBJECT).problem(401, "invalid_token");
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let answer = up.get_with(OBJECT, &[("authorization", &alice), (name, value)]);
        answer.problem(403, "cross_site");
    }
    let own = [("authorization", alice.as_str()), ("origin", "http://object")];
    up.get_with(OBJECT, &own).status(200);
    up.send("POST", MEMORY, &[("authorization", &alice)], "{}")
        .problem(404, "no_such_route");

    // A body in chunks, for which the client waits to be asked.
    let mut curl = object.command("curl");
    curl.args([
        "--silent",
        "--max-time",
        "30",
        "--request",
        "PATCH",
        "--write-out",
        " %{http_code}",
    ]);
    for header in [
        &format!("authorization: {alice}"),
        "transfer-encoding: chunked",
        "expect: 100-continue",
    ] {
        curl.args(["--header", header]);
    }
    curl.args(["--data", &json!({"set": {"answer": "in chunks"}}).to_string()]);
    let ran = run(curl.arg(format!("http://{}{MEMORY}", up.address))).code(0);
    assert!(ran.out.ends_with(" 200"), "{}", ran.out);

    let (status, body) = http2(object, up, OBJECT, &bob, None);
    assert_eq!(status, "200 2", "{body}");
    let patch = json!({"set": {"answer": before}});
    let (status, body) = http2(object, up, MEMORY, &alice, Some(&patch));
    assert_eq!(status, "200 2", "{body}");
    assert_eq!(http2(object, up, MEMORY, "none", None).0, "401 2");
}

#[test]
fn asleep_callers_read_and_write_and_wake_nothing() {
    let object = object(API);
    let mut up = object.up();
    serves_callers(&object, &mut up, "asleep");
    assert_eq!(machines(&up), 0, "{:?}", up.events());
    assert_eq!(up.interrupt(), Some(0));
    let writes = object.records("mutated");
    assert_eq!(writes.len(), 3, "{writes:?}");
    let who = &writes[0]["body"]["principal"]["caller"];
    assert_eq!(
        (&who["subject"], &who["claims"]["tenant"]),
        (&json!("alice"), &json!("acme")),
        "{writes:?}"
    );
    // Who wrote and who was refused stands in what the owner reads.
    let log = object.ask(&["log"]).code(0).out;
    let refused = "caller `mallory` of https://issuer.example";
    assert!(log.contains("by caller alice") && log.contains(refused), "{log}");
    let why = object.ask(&["why", "--action", "mutate"]).code(0).out;
    let last = "caller `bob` of https://issuer.example";
    assert!(why.contains(last) && why.contains("tenant = acme"), "{why}");
    object.verify();
}

#[test]
fn awake_the_object_answers_and_its_workload_does_not() {
    let object = object(API);
    let mut up = object.up();
    up.get("/ok").status(200);
    let before = object.received();
    serves_callers(&object, &mut up, "awake");
    assert_eq!(object.received(), before, "not a byte");
    // The workload sees what was written.
    let seen = up.agent("GET", "/v1/memory/answer", &Value::Null).json();
    assert_eq!(seen["value"], "awake");
    // A kept connection goes on to the workload.
    let token = Tokens(&object).of("alice");
    let mut curl = object.command("curl");
    curl.args([
        "--silent",
        "--max-time",
        "30",
        "--header",
        &format!("authorization: {token}"),
    ]);
    curl.args(["--write-out", "%{num_connects} "]);
    let urls = [OBJECT, "/ok"].map(|path| format!("http://{}{path}", up.address));
    let ran = run(curl.args(urls)).code(0);
    assert!(ran.out.ends_with("served /ok\n0 "), "{}", ran.out);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

#[test]
fn switched_off_nothing_is_there_however_it_is_spelt() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let up = object.up();
    let refused = |awake: bool| {
        for path in SPELLINGS {
            up.get(path).problem(404, "no_such_route");
            assert_eq!(http2(&object, &up, path, "x", None).0, "404 2", "{path}");
        }
        assert_eq!(machines(&up) > 0, awake);
    };
    refused(false);
    up.get("/ok").status(200);
    let before = object.received();
    refused(true);
    assert_eq!(object.received(), before, "not a byte");
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn a_human_says_yes_to_a_sleeping_object_and_the_field_wakes_it() {
    let definition = DEFINITION.replace(
        "answer = { type = \"string\" }",
        "answer = { type = \"string\", wakes = true }",
    );
    let object = Object::new(&[&definition, API].concat(), RULES);
    let key = object.dir().join("callers.pem");
    object
        .suijuris(&["token", "key", "--write", key.to_str().unwrap()])
        .code(0);
    let mut up = object.up();
    let alice = Tokens(&object).of("alice");
    read(&up, &alice, MEMORY).status(200);
    assert_eq!(machines(&up), 0, "reading wakes nothing");
    write(&up, &alice, &json!({"set": {"answer": "yes"}})).status(200);
    let proposed = up.wait(json!({"event": "proposal", "action": "wake"}));
    assert_eq!(
        (&proposed["by"], &proposed["trigger"]),
        (&json!("caller"), &json!("memory"))
    );
    up.wait(json!({"event": "workload", "state": "ready"}));
    let seen = || up.agent("GET", "/v1/memory/answer", &Value::Null).json()["value"] == "yes";
    until("the workload sees it", seen);
    assert_eq!(up.interrupt(), Some(0));
}
