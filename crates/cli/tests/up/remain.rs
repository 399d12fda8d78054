//! Staying awake is the object's own decision, made again whenever something changes.

use serde_json::json;
use suijuris_core::lineage::{Body, Mutated};
use suijuris_core::memory::{Name, Value, Write};
use suijuris_core::time::{Span, Timestamp};
use suijuris_store::{Depth, Draft, ObjectDir, Reader, Sign, Sizes, Writer};

use crate::rig::{OPEN, Object, PATIENCE};

/// A minute of idleness would be allowed; being done is not.
const UNTIL_DONE: &str = r#"
@id("undone") permit (principal, action == Action::"remain", resource)
when { !resource.memory.done && context.activity.idle < duration("300s") };
"#;
const DONE: &str = "[memory]\ndone = { type = \"bool\", default = false }\n";

// proves A3, A4
#[test]
fn the_moment_its_condition_fails_it_sleeps_without_being_asked() {
    let object = Object::new(DONE, &[OPEN, UNTIL_DONE].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.write(&json!({"done": true})).status(200);
    let dormant = up.wait_event("dormant");
    let stopped = up.wait(json!({"event": "machine", "state": "stopped"}));
    let at = |event: &serde_json::Value| event["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    // What is staged is decided about; that it is durable may be told later, before it is dormant.
    let events = up.events();
    let told = |like: &serde_json::Value| {
        let mut events = events.iter();
        events.find(|event| crate::heard::is_like(event, like)).unwrap()
    };
    let mutated = told(&json!({"event": "mutated", "fields": ["done"]}));
    let verdict = told(&json!({"event": "verdict", "action": "remain", "outcome": "refuse"}));
    assert!(at(mutated) <= at(&dormant) && at(verdict) <= at(&dormant) && at(&dormant) <= at(&stopped));
    let decided = at(mutated).duration_until(at(verdict));
    assert!(
        decided < jiff::SignedDuration::from_secs(10),
        "the idle timer did not do it: {decided}"
    );
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves A3
#[test]
fn a_comparison_with_the_time_idle_is_made_again_when_it_turns_and_not_at_the_next_second() {
    let rules = r#"@id("busy") permit (principal, action == Action::"remain", resource)
        when { context.activity.idle < duration("100ms") };"#;
    let object = Object::new("", &[OPEN, rules].concat());
    let up = object.up();
    // A machine that is busy with something else may be late once; one that looks each second is late each time.
    let prompt = (0..10).any(|nap| {
        up.get("/");
        crate::rig::until("it sleeps", || up.count(&json!({"event": "dormant"})) > nap);
        let reader = Reader::open(&ObjectDir::at(object.data()), Depth::Tail).unwrap();
        let records = reader.records(0..u64::MAX).unwrap();
        let idle = records.filter_map(|stored| match stored.unwrap().record.body {
            Body::Dormant(dormant) => dormant.decision.inputs.activity.map(|activity| activity.idle),
            _ => None,
        });
        let idle = idle.last().unwrap();
        assert!(idle >= Span(100), "{idle:?}");
        idle < Span(500)
    });
    assert!(prompt, "each time it was late by half a second");
    up.interrupt();
    object.verify();
}

// proves A3, C13
#[test]
fn requests_that_meet_an_object_falling_asleep_are_served_by_it_or_wake_it_again() {
    let rules = r#"@id("busy") permit (principal, action == Action::"remain", resource)
        when { context.activity.in_flight > 0 || context.activity.idle < duration("10ms") };"#;
    let object = Object::new("", &[OPEN, rules].concat());
    let up = object.up();
    let enough = || up.count(&json!({"event": "dormant"})) >= 12;
    // Each comes at another moment of an object that is about to fall asleep, and takes longer than it may be idle.
    std::thread::scope(|scope| {
        for pace in [31, 47] {
            let (up, enough) = (&up, &enough);
            scope.spawn(move || {
                for nth in 0..1_000 {
                    up.get("/slow/0.03").status(200);
                    if enough() {
                        return;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(nth * pace % 97));
                }
            });
        }
    });
    assert!(enough(), "it hardly fell asleep");
    up.interrupt();
    object.verify();
}

// proves A4
#[test]
fn dormancy_is_durable_before_the_machine_stops() {
    let object = Object::new(DONE, &[OPEN, UNTIL_DONE].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.write(&json!({"done": true})).status(200);
    let seq = up.wait_event("dormant")["seq"].as_u64().unwrap();
    up.kill();
    object.nobody_is_left();
    let last = object.log().pop().unwrap();
    assert_eq!(
        (&last["kind"], last["seq"].as_u64()),
        (&json!("dormant"), Some(seq))
    );
    object.verify();
}

// proves A5
#[test]
fn done_means_asleep_however_busy_the_traffic() {
    let object = Object::new(DONE, &[OPEN, UNTIL_DONE].concat());
    let mut up = object.up();
    up.get("/").status(200);
    let busy = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (address, busy) = (up.address.clone(), &busy);
            scope.spawn(move || {
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(mut socket) = std::net::TcpStream::connect(&address) else {
                        continue;
                    };
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    let _ = std::io::Write::write_all(
                        &mut socket,
                        b"GET /busy HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
                    );
                    crate::rig::read_to_end(&socket);
                }
            });
        }
        crate::rig::until("traffic flows", || {
            object.received().matches("/busy").count() > 20
        });
        up.write(&json!({"done": true})).status(200);
        up.wait(json!({"event": "verdict", "action": "remain", "outcome": "refuse"}));
        up.wait_event("dormant");
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    up.interrupt();
    object.verify();
}

// proves A5, C5
#[test]
fn a_hold_keeps_it_awake_without_traffic_and_its_end_lets_it_sleep() {
    let rules = r#"@id("held") permit (principal, action == Action::"remain", resource)
        when { resource.holds.names.contains("watch") || context.activity.active < duration("2s") };"#;
    let object = Object::new("", &[OPEN, rules].concat());
    let mut up = object.up();
    up.get("/").status(200);
    up.agent("PUT", "/v1/holds/watch", &json!({"for": "1h"}))
        .status(200);
    let held = up.agent("GET", "/v1/holds", &json!(null)).status(200).json();
    // Who looks from outside sees it too.
    let shown = || {
        object
            .suijuris(&["show", object.dir().to_str().unwrap(), "--json"])
            .code(0)
            .json()
    };
    crate::rig::until("the hold is told", || {
        shown()["holds"]["watch"]
            .as_u64()
            .is_some_and(|left| left > 3_000_000)
    });
    let text = object
        .suijuris(&["show", object.dir().to_str().unwrap()])
        .code(0)
        .out;
    assert!(
        text.contains("watch, 3600 s left") || text.contains("watch, 3599 s left"),
        "{text}"
    );
    assert!(held["watch"].as_u64().unwrap() > 3_500_000, "{held}");
    crate::rig::until("longer than the rule gives without a hold", || {
        let woke = object.records("woke")[0]["at"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap();
        woke.duration_until(jiff::Timestamp::now()) > jiff::SignedDuration::from_secs(4)
    });
    assert_eq!(up.phase(), "active");
    up.agent("DELETE", "/v1/holds/watch", &json!(null)).status(204);
    crate::rig::until("it is released", || shown().get("holds").is_none());
    up.wait(json!({"event": "verdict", "action": "remain", "outcome": "refuse"}));
    up.wait_event("dormant");
    up.interrupt();
    object.verify();
}

// proves A3, A7
#[test]
fn what_goes_stale_puts_it_to_sleep_at_its_deadline() {
    let memory = "[memory]\nconsent = { type = \"timestamp\", fresh_for = \"3s\" }\n";
    let rules = r#"@id("consented") permit (principal, action == Action::"remain", resource) when { resource.fresh.consent };"#;
    let object = Object::new(memory, &[OPEN, rules].concat());
    let mut up = object.up();
    up.set(&json!({"consent": jiff::Timestamp::now().to_string()}));
    up.get("/").status(200);
    up.wait_event("woke");
    let refused = up.wait(json!({"event": "verdict", "action": "remain", "outcome": "refuse"}));
    assert!(refused["reasons"].to_string().contains("stale"), "{refused}");
    up.wait_event("dormant");
    up.interrupt();
    object.verify();
}

// proves A7, C14
#[test]
fn what_was_never_written_is_stale_or_is_of_unknown_age_refuses_the_wake_with_its_reason() {
    let memory = "[memory]\nconsent = { type = \"timestamp\", fresh_for = \"1s\" }\n";
    let rules = r#"
        @id("remain") permit (principal, action == Action::"remain", resource);
        @id("consent") forbid (principal, action == Action::"wake", resource) unless { resource.fresh.consent };"#;
    let object = Object::new(memory, &[OPEN, rules].concat());
    let mut up = object.up();
    // The caller learns nothing of memory; the owner everything.
    let refused = |up: &mut crate::rig::Up| {
        let problem = up.get("/").problem(403, "wake_refused");
        assert_eq!(problem.get("detail"), None, "{problem}");
        let verdict = up.wait(json!({"event": "verdict", "action": "wake", "outcome": "refuse"}));
        (
            problem["id"].as_str().unwrap().to_owned(),
            verdict["reasons"].to_string(),
        )
    };
    let (id, reasons) = refused(&mut up);
    assert!(reasons.contains("never written"), "{reasons}");
    let why = object.ask(&["why", &id, "--json"]).code(0).json();
    assert!(
        why["verdict"]["reasons"].to_string().contains("never written"),
        "{why}"
    );
    up.set(&json!({"consent": jiff::Timestamp::now().to_string()}));
    let consent = || object.ask(&["show", "--json"]).code(0).json()["memory"]["fields"]["consent"].clone();
    crate::rig::until("it is stale", || consent()["freshness"] == "stale");
    let (_, reasons) = refused(&mut up);
    assert!(reasons.contains("stale"), "{reasons}");
    assert_eq!(up.count(&json!({"event": "machine"})), 0);
    assert_eq!(up.interrupt(), Some(0));

    // A record of tomorrow: a clock that is behind its own history is known to be wrong.
    let (writer, _) = Writer::open(&ObjectDir::at(object.data()), Depth::Tail, Sizes::default()).unwrap();
    let tomorrow = Timestamp(jiff::Timestamp::now().as_millisecond()).saturating_add(Span(86_400_000));
    let change = [(
        Name::new("consent").unwrap(),
        Write::Set(Value::Timestamp(tomorrow)),
    )]
    .into();
    let body = Body::Mutated(Mutated {
        by: "controller".to_owned(),
        principal: None,
        change,
    });
    let draft = Draft {
        body,
        at: tomorrow,
        bundle: None,
        sign: Sign::Now,
    };
    writer.stage(draft).unwrap().wait().unwrap();
    writer.close().unwrap();
    let mut up = object.up();
    up.get("/").problem(403, "wake_refused");
    let refused = up.wait(json!({"event": "refused", "action": "wake"}));
    assert!(
        refused["reasons"].to_string().contains("clock unknown"),
        "{refused}"
    );
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}
