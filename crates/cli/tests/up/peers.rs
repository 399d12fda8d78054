//! An object is a principal elsewhere: by its identity token, checked against its history and its mark in the depot.

use serde_json::{Value, json};

use crate::rig::{Answer, OPEN, Object, STAY, Up};

const DEFINITION: &str = "[memory]\nanswer = { type = \"string\" }\n[gate]\napi = true\n";

const MEMORY: &str = "/.suijuris/v1/memory";

/// Only this object writes, and any object reads.
fn rules(peer: &str) -> String {
    format!(
        r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("sleep") permit (principal, action == Action::"sleep", resource);
@id("peers-read") permit (principal is Peer, action == Action::"read", resource);
@id("one-writes") permit (principal is Peer, action == Action::"mutate", resource)
  when {{ principal.id == "{peer}" }};
{STAY}"#
    )
}

fn token(up: &Up, audience: &str) -> String {
    let asked = json!({"audience": audience, "for": "5m"});
    let issued = up.agent("POST", "/v1/token", &asked).status(200).json();
    format!("Bearer {}", issued["token"].as_str().unwrap())
}

fn write(up: &Up, token: &str, text: &str) -> Answer {
    let patch = json!({"set": {"answer": text}}).to_string();
    up.send("PATCH", MEMORY, &[("authorization", token)], &patch)
}

fn read(up: &Up, token: &str) -> Answer {
    up.get_with(MEMORY, &[("authorization", token)])
}

/// Falls asleep for good, so that its history is in the depot, and runs again, awake.
fn again(object: &Object, up: Up, depot: &[&str]) -> Up {
    assert_eq!(up.interrupt(), Some(0));
    let up = object.up_with(depot);
    up.get("/ok").status(200);
    up
}

#[test]
fn an_object_is_a_peer_by_the_key_of_the_epoch_it_is_in() {
    let shared = tempfile::tempdir().unwrap();
    let depot = ["--depot", shared.path().to_str().unwrap()];
    let speaker = Object::new("", &[OPEN, STAY].concat());
    let mut speaks = speaker.up_with(&depot);
    speaks.get("/ok").status(200);
    speaks = again(&speaker, speaks, &depot);

    let listener = Object::new(DEFINITION, &rules(&speaks.id));
    let mut hears = listener.up_with(&depot);
    let good = token(&speaks, &hears.id);

    // Asleep.
    write(&hears, &good, "asleep").status(200);
    let wrote = hears.wait(json!({"event": "mutated"}));
    assert_eq!(wrote["by"], "peer");
    assert_eq!(hears.count(&json!({"event": "machine"})), 0, "it is not woken");
    // Awake: its machine asks the depot through whoever runs it.
    hears.get("/ok").status(200);
    write(&hears, &good, "awake").status(200);
    assert_eq!(
        read(&hears, &good).status(200).json()["fields"]["answer"]["value"],
        "awake"
    );

    // For somebody else, or changed.
    write(&hears, &token(&speaks, "another"), "x").problem(401, "invalid_token");
    let (start, signature) = good.rsplit_once('.').unwrap();
    write(&hears, &format!("{start}.A{}", &signature[1..]), "x").problem(401, "token_required");

    // A new epoch has another key: what the last one signed is nobody's word.
    speaks = again(&speaker, speaks, &depot);
    write(&hears, &good, "x").problem(401, "invalid_token");
    let good = token(&speaks, &hears.id);
    write(&hears, &good, "again").status(200);

    let records = listener.records("mutated");
    assert_eq!(records.len(), 3, "{records:?}");
    for record in &records {
        assert_eq!(
            record["body"]["principal"],
            json!({"peer": speaks.id}),
            "{record}"
        );
    }
    let refusals = listener.records("refused");
    assert_eq!(refusals, Vec::<Value>::new(), "who is nobody proposes nothing");
    for up in [speaks, hears] {
        assert_eq!(up.interrupt(), Some(0));
    }
    listener.verify();
}

#[test]
fn without_a_depot_that_shows_its_history_there_is_no_peer() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |depot: &tempfile::TempDir| ["--depot".to_owned(), depot.path().to_str().unwrap().to_owned()];
    let (ours, theirs) = (at(&ours), at(&theirs));
    let (ours, theirs) = (
        ours.each_ref().map(String::as_str),
        theirs.each_ref().map(String::as_str),
    );
    let speaker = Object::new("", &[OPEN, STAY].concat());
    let mut speaks = speaker.up_with(&theirs);
    speaks.get("/ok").status(200);
    speaks = again(&speaker, speaks, &theirs);
    let listener = Object::new(DEFINITION, &rules(&speaks.id));
    let hears = listener.up_with(&ours);
    let good = token(&speaks, &hears.id);
    write(&hears, &good, "x").problem(401, "invalid_token");
    hears.get("/ok").status(200);
    write(&hears, &good, "x").problem(401, "invalid_token");
    assert_eq!(listener.records("mutated"), Vec::<Value>::new());
    for up in [speaks, hears] {
        assert_eq!(up.interrupt(), Some(0));
    }
}
