//! What has ended for good under a daemon: it answers, and its key stays taken.

use crate::home::{DORMANT, FOUND, Home, OPEN, STAY};

const END: &str = r#"@id("end") permit (principal is Controller, action == Action::"terminate", resource);
"#;

const CLASS: &str = "max_instances = 100\nper_peer = 1000\nper_class = 1000";

#[test]
fn an_instance_that_ended_answers_so_and_its_key_founds_no_other() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, STAY, END].concat()));
    assert_eq!(daemon.get("a.tenant", "/").status, 200);
    let before = home.log("tenant/a")[0].clone();
    home.suijuris(&["terminate", "tenant/a", "--json"]).code(0);
    assert_eq!(home.kinds("tenant/a").last().unwrap(), "terminated");
    let ended = daemon.get("a.tenant", "/").problem(410, "terminated");
    assert!(ended.to_string().contains("never wakes"), "{ended}");
    let shown = home.suijuris(&["ps", "--json"]).code(0).json();
    let phase = |shown: &serde_json::Value| shown[0]["phase"].clone();
    assert_eq!(phase(&shown), "terminated", "{shown}");
    home.verify(&home.instance("tenant", "a"));
    daemon.terminate();

    let daemon = home.serve();
    daemon.get("a.tenant", "/").problem(410, "terminated");
    assert_eq!(home.log("tenant/a")[0], before, "the same object");
    daemon.terminate();
    home.nobody_is_left();
}

#[test]
fn what_refuses_to_end_goes_on() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.class("tenant", CLASS, &[FOUND, OPEN, DORMANT].concat()));
    daemon.get("a.tenant", "/").problem(403, "wake_refused");
    home.suijuris(&["terminate", "tenant/a"]).code(1);
    daemon.get("a.tenant", "/").problem(403, "wake_refused");
    assert!(!home.kinds("tenant/a").contains(&"terminated".to_owned()));
    daemon.terminate();
    home.nobody_is_left();
}
