//! What callers and proxies get, over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use suijuris_api::event::Event;
use suijuris_core::ObjectId;
use suijuris_core::manifest::{Algorithm, CallerKey};
use suijuris_core::time::{Span, Timestamp};
use suijuris_depot::faults::{Call, Fault};
use suijuris_depot::{Inbox as _, MAX_WAITING};
use suijuris_door::config::Limits;
use suijuris_door::heads::Trust;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::life::{BORN, Definition, Life};
use crate::rig::{Machine, Rig, limits, send, until};

/// Wakes for everybody but under /closed, and lets in who asks for something below /open or sends a POST.
const GUARDED: &str = r#"
    @id("wake") permit(principal, action == Action::"wake", resource);
    @id("closed") @reason("closed until tomorrow") @retry_after("90s")
    forbid(principal, action == Action::"wake", resource)
    when { context has request && context.request.path like "/closed*" };
    @id("open") permit(principal, action == Action::"admit", resource)
    when { context.request.path like "/open*" || context.request.method == "POST" };
"#;

fn guarded() -> Definition {
    Definition::rules(GUARDED)
}

// proves C14, D5
#[tokio::test]
async fn refused_traffic_starts_nothing_and_says_why() {
    let rig = Rig::new().await;
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let mut asking = JoinSet::new();
    for n in 0..200 {
        let (address, path) = (rig.address, if n % 2 == 0 { "/closed/x" } else { "/elsewhere" });
        let head = format!("GET /ext_authz{path} HTTP/1.1\r\nhost: {object}.test");
        asking.spawn(async move { (n, send(address, &head, b"").await) });
    }
    while let Some(answered) = asking.join_next().await {
        let (n, answer) = answered.unwrap();
        if n % 2 == 0 {
            assert_eq!((answer.status, answer.code()), (503, "wake_refused".to_owned()));
            assert_eq!(answer.header("retry-after").as_deref(), Some("90"));
            assert_eq!(answer.json().get("rules"), None);
            assert_eq!(answer.json()["detail"], "closed until tomorrow");
            assert!(answer.json()["id"].as_str().unwrap().starts_with("r-"));
        } else {
            assert_eq!((answer.status, answer.code()), (403, "admit_refused".to_owned()));
        }
        assert_eq!(
            answer.header("content-type").as_deref(),
            Some("application/problem+json")
        );
        assert_eq!(answer.header("x-suijuris-object"), Some(object.to_string()));
    }
    assert_eq!(rig.starts(), 0);

    // Told once for each kind, then with a count.
    let told = |events: &[(ObjectId, Event)]| {
        let times = events.iter().map(|(of, event)| match event {
            Event::Refused { times, .. } if *of == object => *times,
            other => panic!("{other:?}"),
        });
        (events.len(), times.sum::<u64>())
    };
    assert_eq!(told(&rig.events.lock().unwrap()), (2, 2));
    rig.door.tell_refusals(true);
    assert_eq!(told(&rig.events.lock().unwrap()), (4, 200));
    let metrics = rig.send("GET /metrics HTTP/1.1\r\nhost: door", b"").await.body;
    for line in [
        r#"suijuris_door_refusals_total{action="wake",code="wake_refused"} 100"#,
        r#"suijuris_door_answers_total{outcome="refused"} 200"#,
        r#"suijuris_door_objects{state="dormant"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    rig.end().await;
}

// proves D4
#[tokio::test]
async fn many_who_are_permitted_share_one_wake_and_pass_when_the_object_is_awake() {
    let rig = Rig::new().await;
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let mut asking = JoinSet::new();
    for _ in 0..50 {
        let (address, head) = (
            rig.address,
            format!("GET /ext_authz/open HTTP/1.1\r\nhost: {object}.test"),
        );
        asking.spawn(async move { send(address, &head, b"").await });
    }
    let mut woken = 0;
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-suijuris-object"), Some(object.to_string()));
        woken += usize::from(answer.header("x-suijuris-passed").as_deref() == Some("woken"));
    }
    assert!(woken > 0);
    assert_eq!(rig.starts(), 1);
    let awake = rig.ask(object, "GET", "/closed").await;
    assert_eq!(
        (awake.status, awake.header("x-suijuris-passed").as_deref()),
        (200, Some("awake"))
    );
    assert_eq!(rig.starts(), 1);
    rig.end().await;
}

#[tokio::test]
async fn after_a_wake_that_failed_or_was_refused_inside_the_object_is_left_alone() {
    for (machine, code) in [
        (Machine::Fails, "wake_failed"),
        (Machine::Refuses, "wake_refused"),
    ] {
        let rig = Rig::new().await;
        let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
        rig.machine(machine);
        let first = rig.ask(object, "GET", "/open").await;
        assert_eq!((first.status, first.code()), (503, code.to_owned()), "{first:?}");
        let again = rig.ask(object, "GET", "/open").await;
        assert_eq!((again.status, again.code()), (503, "wake_paused".to_owned()));
        assert!(again.header("retry-after").is_some());
        assert_eq!(rig.starts(), 1);
        // What the rules refuse is answered by them, pause or not.
        assert_eq!(rig.ask(object, "GET", "/closed").await.code(), "wake_refused");

        // The pause ends by itself.
        rig.machine(Machine::Wakes);
        until("it wakes", async || {
            rig.ask(object, "GET", "/open").await.status == 200
        })
        .await;
        assert_eq!(rig.starts(), 2);
        rig.end().await;
    }
}

// proves D6
#[tokio::test]
async fn looking_never_wakes() {
    let rig = Rig::new().await;
    let life = Life::create(&guarded().build().unwrap().bundle, "a");
    let object = rig
        .lay_to_rest(&guarded().build().unwrap(), life.clone(), None)
        .await;
    for head in [
        format!("GET /objects/{object} HTTP/1.1"),
        format!("HEAD /objects/{object} HTTP/1.1"),
        "GET /metrics HTTP/1.1".to_owned(),
        "GET /healthz HTTP/1.1".to_owned(),
    ] {
        for _ in 0..5 {
            let answer = rig.send(&format!("{head}\r\nhost: {object}.test"), b"").await;
            assert_eq!(answer.status, 200, "{head}: {answer:?}");
        }
    }
    let status = rig
        .send(&format!("GET /objects/{object} HTTP/1.1\r\nhost: d"), b"")
        .await
        .json();
    assert_eq!(status["state"], "dormant");
    assert_eq!(status["head"], life.state.head().record.to_string());
    assert_eq!(rig.starts(), 0);
    let writes = [
        Call::Swap,
        Call::Announce,
        Call::Post,
        Call::PutSegment,
        Call::PutBundle,
    ];
    assert!(
        !rig.depot.calls().iter().any(|call| writes.contains(call)),
        "nothing is written"
    );
    rig.end().await;
}

fn event(object: ObjectId, topic: &str, id: &str) -> String {
    format!(
        "POST /objects/{object}/messages HTTP/1.1\r\nhost: door\r\nce-specversion: 1.0\r\nce-source: /test\r\nce-type: {topic}\r\nce-id: {id}\r\ncontent-type: text/plain"
    )
}

// proves D1
#[tokio::test]
async fn a_message_of_a_declared_topic_wakes_another_does_not_and_a_duplicate_is_dropped() {
    let rig = Rig::new().await;
    let mut definition = guarded();
    definition.topics = vec!["order"];
    let object = rig.sleeper(&definition.build().unwrap(), "a").await;

    let quiet = rig.send(&event(object, "note", "1"), b"hello").await;
    assert_eq!(
        (quiet.status, &quiet.json()["message"]),
        (202, &"stored".into()),
        "{quiet:?}"
    );
    let again = rig.send(&event(object, "note", "1"), b"other bytes").await;
    assert_eq!(
        (again.status, &again.json()["message"]),
        (200, &"duplicate".into())
    );
    assert_eq!(rig.starts(), 0);

    let loud = rig.send(&event(object, "order", "2"), b"hello").await;
    assert_eq!(loud.status, 202);
    until("the message wakes", async || rig.starts() == 1).await;

    let waiting = rig.memory.inbox(object, 10).await.unwrap();
    let stored: Vec<_> = waiting
        .iter()
        .map(|waiting| (waiting.message.id.as_str(), waiting.message.data.as_slice()))
        .collect();
    assert_eq!(stored, [("1", &b"hello"[..]), ("2", b"hello")]);
    rig.end().await;
}

#[tokio::test]
async fn a_message_that_the_rules_do_not_wake_for_is_stored_all_the_same() {
    let rig = Rig::new().await;
    let definition = Definition {
        topics: vec!["order"],
        ..Definition::rules(r#"@id("never") forbid(principal, action, resource);"#)
    };
    let object = rig.sleeper(&definition.build().unwrap(), "a").await;
    assert_eq!(rig.send(&event(object, "order", "1"), b"x").await.status, 202);
    until("the refusal is told", async || {
        !rig.events.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(
        (rig.starts(), rig.memory.inbox(object, 10).await.unwrap().len()),
        (0, 1)
    );
    rig.end().await;
}

#[tokio::test]
async fn what_is_no_message_or_cannot_be_stored_is_never_acknowledged() {
    let rig = Rig::new().await;
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let unknown = ObjectId::of(b"unknown");
    let long = vec![b'x'; 300 << 10];
    let endless = vec![b'x'; 600 << 10];
    let plain = format!("POST /objects/{object}/messages HTTP/1.1\r\nhost: door");
    for (head, body, expect) in [
        (event(unknown, "note", "1"), &b"x"[..], (404, "unknown_object")),
        (event(object, "note", "1"), &long, (413, "body_too_large")),
        (event(object, "note", "1"), &endless, (413, "body_too_large")),
        (plain.clone(), b"x", (400, "bad_event")),
        (
            format!("{plain}\r\ncontent-type: application/cloudevents-batch+json"),
            b"[]",
            (415, "bad_event"),
        ),
        (plain.replace("POST", "GET"), b"", (405, "method_not_allowed")),
        (
            plain.replace(&object.to_string(), "nobody"),
            b"x",
            (404, "unknown_object"),
        ),
    ] {
        let answer = rig.send(&head, body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            expect,
            "{head}\n{answer:?}"
        );
    }

    for (fault, expect) in [
        (Fault::LostRequest, (503, "depot_unreachable")),
        (Fault::Silence, (503, "depot_unreachable")),
        (Fault::Full, (507, "depot_full")),
        (Fault::ReadOnly, (503, "depot_read_only")),
    ] {
        rig.depot.once(Some(Call::Post), fault);
        let answer = rig.send(&event(object, "note", "1"), b"x").await;
        assert_eq!((answer.status, answer.code().as_str()), expect, "{fault:?}");
    }
    assert_eq!(rig.memory.inbox(object, 10).await.unwrap(), []);
    // It was stored, but the answer was lost: sent again, it is the same message.
    rig.depot.once(Some(Call::Post), Fault::LostAnswer);
    let lost = rig.send(&event(object, "note", "1"), b"x").await;
    assert_eq!((lost.status, lost.header("retry-after").is_some()), (503, true));
    assert_eq!(rig.send(&event(object, "note", "1"), b"x").await.status, 200);
    assert_eq!(rig.memory.inbox(object, 10).await.unwrap().len(), 1);

    let first = rig.memory.inbox(object, 1).await.unwrap()[0].message.clone();
    for n in 1..MAX_WAITING {
        let id = format!("fill-{n}");
        let message = suijuris_core::message::Message { id, ..first.clone() };
        rig.memory.post(object, &message).await.unwrap();
    }
    let full = rig.send(&event(object, "note", "last"), b"x").await;
    assert_eq!((full.status, full.code()), (429, "inbox_full".to_owned()));
    assert!(full.header("retry-after").is_some());
    rig.end().await;
}

#[tokio::test]
async fn a_timer_wakes_when_it_is_due_and_one_that_is_refused_is_not_proposed_without_end() {
    let hourly = suijuris_core::trigger::Timer {
        schedule: suijuris_core::trigger::Schedule::Every(Span(3_600_000)),
        missed: suijuris_core::trigger::Missed::Once,
    };
    let timers = BTreeMap::from([(suijuris_core::memory::Name::new("hourly").unwrap(), hourly)]);
    let definition = |rules: &str| Definition {
        timers: timers.clone(),
        ..Definition::rules(rules)
    };
    let permits = r#"permit(principal is Timer, action == Action::"wake", resource) when { context.trigger has name && context.trigger.name == "hourly" };"#;
    let due = Timestamp(BORN.0 + 3_600_000);

    let rig = Rig::new().await;
    let built = definition(permits).build().unwrap();
    // One that a request has loaded, and one that only the depot's index knows.
    let loaded = rig
        .lay_to_rest(&built, Life::create(&built.bundle, "a"), None)
        .await;
    assert_eq!(rig.ask(loaded, "GET", "/").await.status, 403);
    rig.lay_to_rest(&built, Life::create(&built.bundle, "b"), Some(due))
        .await;
    rig.door.timers().await.unwrap();
    assert_eq!(rig.starts(), 0, "nothing is due");
    rig.pass(due.0 - rig.now().0);
    rig.door.timers().await.unwrap();
    until("both wake", async || rig.starts() == 2).await;
    rig.end().await;

    let rig = Rig::new().await;
    let built = definition(r#"@id("never") forbid(principal, action, resource);"#)
        .build()
        .unwrap();
    rig.lay_to_rest(&built, Life::create(&built.bundle, "c"), Some(due))
        .await;
    rig.pass(due.0 - rig.now().0);
    for _ in 0..20 {
        rig.door.timers().await.unwrap();
    }
    rig.door.tell_refusals(true);
    let times: u64 = rig
        .events
        .lock()
        .unwrap()
        .iter()
        .map(|(_, event)| match event {
            Event::Refused { times, .. } => *times,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!((1..=3).contains(&times), "proposed {times} times");
    assert_eq!(rig.starts(), 0);
    rig.end().await;
}

#[tokio::test]
async fn callers_are_who_their_token_says_and_a_bad_token_is_401() {
    use ed25519_dalek::Signer as _;
    use ed25519_dalek::pkcs8::EncodePublicKey as _;
    let signer = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let pem = signer
        .verifying_key()
        .to_public_key_pem(Default::default())
        .unwrap();
    let definition = Definition {
        callers: vec![CallerKey {
            kid: None,
            algorithm: Algorithm::EdDsa,
            pem,
            issuer: None,
            audience: None,
        }],
        ..Definition::rules(
            r#"permit(principal is Caller, action, resource) when { principal.authenticated && principal has subject && principal.subject == "ann" };"#,
        )
    };
    let rig = Rig::new().await;
    let built = definition.build().unwrap();
    let [object, other] = [rig.sleeper(&built, "a").await, rig.sleeper(&built, "b").await];
    let token = |audience: ObjectId| {
        use base64::Engine as _;
        let encode = |json: serde_json::Value| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string())
        };
        let header = encode(serde_json::json!({"alg": "EdDSA"}));
        let expires = rig.now().0 / 1_000 + 600;
        let payload = encode(serde_json::json!({"sub": "ann", "aud": audience.to_string(), "exp": expires}));
        let signature = signer.sign(format!("{header}.{payload}").as_bytes()).to_bytes();
        let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signature);
        format!("{header}.{payload}.{signature}")
    };
    let ask = async |object: ObjectId, token: &str| {
        let head =
            format!("GET /ext_authz/ HTTP/1.1\r\nhost: {object}.test\r\nauthorization: Bearer {token}");
        rig.send(&head, b"").await
    };
    let without = rig.ask(object, "GET", "/").await;
    assert_eq!(
        (without.status, without.code()),
        (401, "token_required".to_owned())
    );
    assert_eq!(without.header("www-authenticate").as_deref(), Some("Bearer"));
    for bad in ["nonsense", &token(other)] {
        let answer = ask(object, bad).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_token".to_owned()));
        assert!(answer.header("www-authenticate").is_some());
    }
    assert_eq!(rig.starts(), 0);
    assert_eq!(ask(object, &token(object)).await.status, 200);
    assert_eq!(ask(other, &token(other)).await.status, 200);
    assert_eq!(rig.starts(), 2);
    rig.end().await;
}

#[tokio::test]
async fn nginx_gets_statuses_that_it_understands_and_questions_that_say_too_little_are_refused() {
    let rig = Rig::new().await;
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let deaf = Definition {
        deaf: true,
        ..guarded()
    }
    .build()
    .unwrap();
    let silent = rig.sleeper(&deaf, "b").await;
    let nginx = async |object: ObjectId, uri: &str| {
        let head = format!(
            "GET /ext_authz?mode=nginx HTTP/1.1\r\nhost: {object}.test\r\nx-original-method: GET\r\nx-original-uri: {uri}"
        );
        rig.send(&head, b"").await
    };
    let refused = nginx(object, "/closed").await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("x-suijuris-status").as_deref(), Some("503"));
    assert_eq!(
        refused.header("x-suijuris-refused").as_deref(),
        Some("wake_refused")
    );
    let asleep = nginx(silent, "/open").await;
    assert_eq!((asleep.status, asleep.code()), (403, "asleep".to_owned()));

    for (head, expect) in [
        (
            "GET /ext_authz HTTP/1.1\r\nhost: x.test".to_owned(),
            (400, "not_asked"),
        ),
        (
            "GET /ext_authz?mode=x HTTP/1.1\r\nhost: x.test".to_owned(),
            (400, "not_asked"),
        ),
        (
            "GET /ext_authz/ HTTP/1.1\r\nhost: x.test".to_owned(),
            (404, "unknown_object"),
        ),
        (
            format!("GET /ext_authz/ HTTP/1.1\r\nhost: {object}.test\r\nx-suijuris-object: {silent}"),
            (421, "wrong_object"),
        ),
        (
            format!(
                "GET /ext_authz/ HTTP/1.1\r\nhost: {}.test",
                ObjectId::of(b"unknown")
            ),
            (404, "unknown_object"),
        ),
        (
            "GET /elsewhere HTTP/1.1\r\nhost: x.test".to_owned(),
            (404, "no_such_route"),
        ),
        (
            "POST /metrics HTTP/1.1\r\nhost: x.test".to_owned(),
            (405, "method_not_allowed"),
        ),
    ] {
        let answer = rig.send(&head, b"").await;
        assert_eq!((answer.status, answer.code().as_str()), expect, "{head}");
    }
    assert_eq!(rig.starts(), 0);
    rig.end().await;
}

#[tokio::test]
async fn heads_bodies_and_silence_are_bounded_and_requests_in_flight_end() {
    let bounds = Limits {
        head_within: Duration::from_millis(200),
        body_within: Duration::from_millis(200),
        ..limits()
    };
    let rig = Rig::with(bounds, Trust::Mark).await;
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let large = format!(
        "GET /ext_authz/open HTTP/1.1\r\nhost: {object}.test\r\nx: {}",
        "x".repeat(64 << 10)
    );
    assert_eq!(rig.send(&large, b"").await.status, 431);

    // One who never finishes a head, and one who never finishes a body.
    let mut slow = TcpStream::connect(rig.address).await.unwrap();
    slow.write_all(b"GET /ext_authz/open HTT").await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("200"));
    let mut slow = TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "{}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nx",
        event(object, "note", "1")
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert_eq!(crate::rig::parse(&rest).status, 408);

    // Shut down while the depot takes its time: the answer still comes.
    rig.depot
        .once(Some(Call::Post), Fault::DelayBefore(Duration::from_millis(100)));
    let (address, head) = (rig.address, event(object, "note", "2"));
    let mut asking = JoinSet::new();
    asking.spawn(async move { send(address, &head, b"x").await });
    until("the depot is asked", async || {
        rig.depot.calls().contains(&Call::Post)
    })
    .await;
    rig.end().await;
    assert_eq!(asking.join_next().await.unwrap().unwrap().status, 202);
}
