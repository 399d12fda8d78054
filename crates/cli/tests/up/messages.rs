//! Messages to a sleeping object: stored, waking it, delivered once.

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, until};

fn object() -> Object {
    Object::new("[messages]\ntopics = [\"job\"]\n", &format!("{OPEN}{STAY}"))
}

fn send(object: &Object, topic: &str, id: &str) -> Value {
    let dir = object.dir().to_str().unwrap();
    let args = [
        "send",
        dir,
        "--type",
        topic,
        "--id",
        id,
        "--data",
        "{\"n\":1}",
        "--json",
    ];
    object.suijuris(&args).code(0).json()
}

fn waiting(up: &Up) -> Vec<Value> {
    let listed = up.agent("GET", "/v1/messages", &Value::Null).status(200).json();
    listed["messages"].as_array().unwrap().clone()
}

// proves D1
#[test]
fn a_declared_topic_wakes_and_the_message_is_delivered_once() {
    let object = object();
    let mut up = object.up();
    let sent = send(&object, "job", "7");
    assert_eq!(sent["outcome"], "stored");
    assert_eq!(send(&object, "job", "7")["outcome"], "duplicate");
    let proposal = up.wait(json!({"event": "proposal", "action": "wake", "trigger": "message"}));
    assert!(proposal["detail"].as_str().unwrap().contains("job"), "{proposal}");
    up.wait(json!({"event": "workload", "state": "ready"}));
    let messages = waiting(&up);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(
        (&messages[0]["id"], &messages[0]["data"]),
        (&json!("7"), &json!({"n": 1}))
    );
    let keys = json!({"keys": [messages[0]["key"]]});
    up.agent("POST", "/v1/messages/ack", &keys).status(204);
    assert_eq!(waiting(&up), Vec::<Value>::new());
    // It is remembered: a late duplicate is dropped.
    assert_eq!(send(&object, "job", "7")["outcome"], "duplicate");
    assert_eq!(waiting(&up), Vec::<Value>::new());
    assert_eq!(up.interrupt(), Some(0));
}

// proves D1
#[test]
fn an_undeclared_topic_waits_without_waking_and_nothing_accepted_is_lost() {
    let object = object();
    let mut up = object.up();
    send(&object, "gossip", "1");
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.records("woke").len(), 0);
    up = object.up();
    up.get("/").status(200);
    up.wait(json!({"event": "workload", "state": "ready"}));
    until("the message is there", || waiting(&up).len() == 1);
    assert_eq!(waiting(&up)[0]["type"], "gossip");
    assert_eq!(up.interrupt(), Some(0));
}
