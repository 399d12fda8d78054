//! Connections that the workload gets itself.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, repository};

/// The workload of docs/handover.md, as it stands there.
fn taker() -> String {
    let page = std::fs::read_to_string(repository().join("docs/handover.md")).unwrap();
    let code = page
        .split("```python\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    code.to_owned()
}

const DEFINITION: &str = r#"
name = "taker"
[workload]
command = ["python3", "{object}/taker.py"]
[gate]
protocol = "handover"
[memory]
open = { type = "bool", default = true }
"#;

const ONLY_OPEN: &str = r#"
@id("not-open") forbid (principal, action == Action::"admit", resource) when { !resource.memory.open };
"#;

fn talk(address: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    let mut said = String::new();
    // One that is refused ends at any of these steps, without a byte.
    let _ = client.write_all(b"and more");
    let _ = client.shutdown(Shutdown::Write);
    let _ = client.read_to_string(&mut said);
    said
}

// proves C3
#[test]
fn an_admitted_connection_is_the_workloads_own_and_a_refused_one_never_reaches_it() {
    let object = Object::defined(DEFINITION, &format!("{OPEN}{STAY}{ONLY_OPEN}"));
    object.file("taker.py", &taker());
    let mut up = object.up();
    for _ in 0..3 {
        let said = talk(&up.address);
        assert!(
            said.starts_with("hello 127.0.0.1:") && said.ends_with("\nand more"),
            "{said:?}"
        );
    }
    up.wait_event("woke");
    up.set(&json!({"open": false}));
    assert_eq!(talk(&up.address), "");
    up.set(&json!({"open": true}));
    assert!(talk(&up.address).starts_with("hello"));
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
    let ready = "command = [\"python3\", \"{object}/taker.py\"]\nready = \"tcp\"";
    object.file(
        "object.toml",
        &DEFINITION.replace("command = [\"python3\", \"{object}/taker.py\"]", ready),
    );
    let ran = object.ask(&["check"]).code(3);
    assert!(ran.err.contains("object.bad_value"), "{ran:?}");
}
