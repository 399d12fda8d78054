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
    let shown = object.ask(&["show"]).code(0).out;
    assert!(shown.contains("1 waiting"), "{shown}");
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(object.records("woke").len(), 0);
    up = object.up();
    up.get("/").status(200);
    up.wait(json!({"event": "workload", "state": "ready"}));
    until("the message is there", || waiting(&up).len() == 1);
    assert_eq!(waiting(&up)[0]["type"], "gossip");
    assert_eq!(up.interrupt(), Some(0));
}

// proves C15
#[test]
fn a_message_that_ends_its_readers_is_set_aside_and_tried_again_on_demand() {
    const READER: &str = "import json, os, socket, sys, time
def ask(method, path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.environ['SUIJURIS_AGENT_SOCKET'])
    s.sendall(f'{method} {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n'.encode())
    answer = b''
    while part := s.recv(65536): answer += part
    return answer.split(b'\\r\\n\\r\\n', 1)[1]
listed = json.loads(ask('GET', '/v1/messages'))['messages']
print('read', [m['id'] for m in listed], flush=True)
if any(m['id'] == 'poison' for m in listed): sys.exit(1)
time.sleep(1000)
";
    let definition = "name = \"probe\"\n[workload]\ncommand = [\"python3\", \"{object}/reader.py\"]\nready = \"spawned\"\n[messages]\ntopics = [\"job\"]\n";
    let object = Object::defined(definition, &format!("{OPEN}{STAY}"));
    object.file("reader.py", READER);
    let mut up = object.up();
    let sent = send(&object, "job", "poison");
    let key = sent["key"].as_str().unwrap().to_owned();
    // The pauses between are passed by the owner's word.
    for _ in 1..5 {
        up.wait(json!({"event": "machine", "state": "stopped"}));
        object.ask(&["wake"]);
    }
    up.wait(json!({"event": "error", "code": "message_set_aside"}));
    up.wait(json!({"event": "machine", "state": "stopped"}));
    let listed = |object: &Object| {
        let dir = object.dir().to_str().unwrap();
        object.suijuris(&["messages", "ls", dir, "--json"]).code(0).json()
    };
    let found = listed(&object);
    assert_eq!(found["messages"][0]["set_aside"], true, "{found}");
    assert_eq!(found["messages"][0]["deliveries"], 5, "{found}");
    // Another is delivered, and the one set aside is not.
    send(&object, "job", "fine");
    object.ask(&["wake"]);
    up.wait(json!({"event": "output", "line": "read ['fine']"}));
    assert_eq!(waiting(&up).len(), 1);
    let dir = object.dir().to_str().unwrap().to_owned();
    let retried = object.suijuris(&["messages", "retry", &dir, &key[..12]]).code(0);
    assert!(retried.out.starts_with("retried"), "{}", retried.out);
    assert_eq!(listed(&object)["messages"][0]["set_aside"], false);
    object.suijuris(&["messages", "drop", &dir, &key]).code(0);
    object.suijuris(&["messages", "drop", &dir, &key]).code(1);
    assert_eq!(listed(&object)["waiting"], 1);
    assert_eq!(up.interrupt(), Some(0));
}
