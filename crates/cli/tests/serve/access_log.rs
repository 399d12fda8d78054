//! `serve --access-log`: a line for each request, with the object that it was for.

use serde_json::{Value, json};

use crate::home::{FOUND, Home, OPEN, STAY, until};

const CLASS: &str = "max_instances = 100\nper_peer = 1000\nper_class = 1000";

#[test]
fn a_line_says_which_object_was_asked_also_after_the_next_daemon_came() {
    let home = Home::new();
    let path = home.path().join("access");
    let lines = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<Value>>()
    };
    // The daemon before it keeps none, and its machines tell nothing.
    let mut first = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, STAY].concat()));
    assert_eq!(first.get("a.tenant", "/untold").status, 200);
    first.signal("HUP");
    assert!(first.ended().success());

    let daemon = home.serve_with(&["--access-log", path.to_str().unwrap()]);
    daemon.wait_phase("tenant/a", "active");
    assert_eq!(daemon.get("a.tenant", "/told").status, 200);
    assert_eq!(daemon.get("nobody", "/").status, 404);
    daemon.by_path("/o/tenant/b/page").status(200);
    until("all are told", || lines().len() == 3);
    let told = lines();
    let find = |path: &str| told.iter().find(|line| line["path"] == path).unwrap();
    let (a, nobody, b) = (find("/told"), find("/"), find("/page"));
    assert_eq!(
        json!([a["class"], a["key"], a["status"]]),
        json!(["tenant", "a", 200])
    );
    assert_eq!(a["object"], daemon.document("tenant/a")["object"]);
    assert_eq!(
        json!([b["class"], b["key"], b["status"]]),
        json!(["tenant", "b", 200])
    );
    assert_eq!(
        json!([nobody["object"], nobody["status"], nobody["code"]]),
        json!([null, 404, "unknown_object"])
    );
    daemon.terminate();
    home.nobody_is_left();
}
