//! Rates: a request counts once, for door and gate together, and sleep forgets nothing.

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up};

const RATE: &str = "[rates.calls]\nper = \"peer\"\nwindow = \"1d\"\n";
const CALM: &str = r#"@id("calm") @reason("too often") @status("429")
forbid (principal, action == Action::"admit", resource) when { context.rate.calls > 3 };"#;

fn calls(record: &Value) -> &Value {
    &record["body"]["decision"]["inputs"]["rates"]["calls"]
}

fn machines(up: &Up) -> usize {
    up.count(&json!({"event": "machine", "state": "started"}))
}

#[test]
fn a_request_counts_once_asleep_and_awake_and_over_sleep_and_restarts() {
    let object = Object::new(RATE, &[OPEN, STAY, CALM].concat());
    let mut up = object.up();
    // The first wakes it: its door looks, and its gate counts.
    for n in 1..=3 {
        assert_eq!(up.get("/").status, 200, "request {n}");
    }
    let problem = up.get("/").status(429).json();
    assert!(problem.to_string().contains("too often"), "{problem}");
    object.ask(&["sleep"]).code(0);
    up.wait(json!({"event": "machine", "state": "stopped"}));
    up.get("/").status(429);
    assert_eq!(machines(&up), 1, "its door refuses, and starts nothing");
    assert_eq!(up.interrupt(), Some(0));
    // As many as were asked, at both places together: four at the gate, one at the door.
    let refused = object.records("refused");
    let seen: Vec<_> = refused.iter().map(calls).collect();
    assert!(
        seen.contains(&&json!(4)) && seen.contains(&&json!(5)),
        "{refused:?}"
    );
    let up = object.up();
    up.get("/").status(429);
    assert_eq!(machines(&up), 0);
    assert_eq!(up.interrupt(), Some(0));
    let seen = object.records("refused");
    assert!(seen.iter().any(|record| calls(record) == 6), "{seen:?}");
    object.verify();
    let again = object.ask(&["why", "--json"]).code(0);
    assert!(
        again.out.contains("identical") || again.out.contains("same"),
        "{}",
        again.out
    );
}

#[test]
fn tests_and_what_if_say_how_often() {
    let object = Object::new(RATE, &[OPEN, STAY, CALM].concat());
    std::fs::create_dir(object.dir().join("tests")).unwrap();
    let case = |name: &str, calls: u32, expect: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\naction = \"admit\"\npath = \"/\"\nrates = {{ calls = {calls} }}\nexpect = \"{expect}\"\n"
        )
    };
    object.file(
        "tests/rates.toml",
        &[case("third", 3, "permit"), case("fourth", 4, "refuse")].concat(),
    );
    let dir = object.dir().to_str().unwrap();
    object.suijuris(&["check", dir]).code(0);
    object.suijuris(&["test", dir]).code(0);
    let up = object.up();
    let asked = |rate: &str| object.ask(&["what-if", "--action", "admit", "--path", "/", "--rate", rate]);
    asked("calls=3").code(0);
    asked("calls=4").code(1);
    asked("others=4").code(2);
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn a_rate_that_cannot_be_is_said_at_its_place() {
    for (rates, why) in [
        ("[rates.calls]\nper = \"peer\"\n", "needs `per` and `window`"),
        ("[rates.calls]\nper = \"host\"\nwindow = \"1m\"\n", "host"),
        (
            "[rates.calls]\nper = \"peer\"\nwindow = \"2d\"\n",
            "windows between 1s and 1d",
        ),
        ("[rates.Calls]\nper = \"peer\"\nwindow = \"1m\"\n", "name"),
    ] {
        let object = Object::new(rates, OPEN);
        let ran = object.suijuris(&["check", object.dir().to_str().unwrap()]);
        assert_ne!(ran.code, 0, "{rates}");
        assert!(
            format!("{}{}", ran.out, ran.err).contains(why),
            "{rates}: {}{}",
            ran.out,
            ran.err
        );
    }
}
