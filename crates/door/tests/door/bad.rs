//! Depots that are full, read-only, slow, or answer garbage, and heads that are shown again: nothing is started for them,
//! nothing is lost, and what is wrong is said.

use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_depot::faults::{Call, Fault};
use suijuris_depot::memory::What;
use suijuris_depot::{Archive as _, Inbox as _};
use suijuris_door::ObjectStatus;

use crate::life::{BORN, Definition, Life};
use crate::rig::{Rig, limits, mark, rest};

/// For nobody but those who ask for /open.
const RULES: &str = r#"
    @id("open") permit(principal, action, resource) when { context has request && context.request.path == "/open" };
"#;
/// For everybody while fewer than two messages wait.
const COUNTED: &str = r#"
    @id("few") permit(principal, action, resource) when { resource.messages.pending < 2 };
"#;

fn event(object: ObjectId, id: &str) -> String {
    format!(
        "POST /objects/{object}/messages HTTP/1.1\r\nhost: door\r\nce-specversion: 1.0\r\nce-source: /t\r\nce-type: note\r\nce-id: {id}\r\ncontent-type: text/plain"
    )
}

#[tokio::test]
async fn a_depot_that_takes_no_writes_still_decides_and_stores_nothing() {
    for (fault, expect) in [
        (Fault::Full, (507, "depot_full")),
        (Fault::ReadOnly, (503, "depot_read_only")),
    ] {
        let rig = Rig::new().await;
        let object = rig.sleeper(&Definition::rules(RULES).build().unwrap(), "a").await;
        rig.depot.always(Some(fault));
        assert_eq!(rig.ask(object, "GET", "/").await.code(), "wake_refused");
        assert_eq!(rig.starts(), 0);
        let refused = rig.send(&event(object, "1"), b"x").await;
        assert_eq!((refused.status, refused.code().as_str()), expect);
        assert_eq!(rig.memory.inbox(object, 10).await.unwrap(), []);
        // With room again, the same message is stored.
        rig.depot.always(None);
        assert_eq!(rig.send(&event(object, "1"), b"x").await.status, 202);
        rig.end().await;
    }
}

#[tokio::test]
async fn a_slow_depot_is_waited_for_within_its_time_and_no_longer() {
    let patient = suijuris_door::config::Limits {
        depot_within: Duration::from_secs(20),
        ..limits()
    };
    let built = Definition::rules(RULES).build().unwrap();
    let rig = Rig::with(patient, Default::default()).await;
    let object = rig.sleeper(&built, "a").await;
    rig.depot
        .always(Some(Fault::DelayBefore(Duration::from_millis(20))));
    assert_eq!(rig.ask(object, "GET", "/").await.code(), "wake_refused");
    rig.end().await;

    let hasty = suijuris_door::config::Limits {
        depot_within: Duration::from_millis(50),
        ..limits()
    };
    let rig = Rig::with(hasty, Default::default()).await;
    let object = rig.sleeper(&built, "a").await;
    let late = Duration::from_secs(20);
    rig.depot.once(Some(Call::Mark), Fault::DelayBefore(late));
    let answer = rig.ask(object, "GET", "/open").await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, "depot_unreachable".to_owned())
    );
    assert_eq!((answer.header("retry-after").is_some(), rig.starts()), (true, 0));
    // Stored, but said too late: sent again, it is the same message.
    rig.depot.once(Some(Call::Post), Fault::DelayAfter(late));
    let unsure = rig.send(&event(object, "1"), b"x").await;
    assert_eq!(
        (unsure.status, unsure.code()),
        (503, "depot_unreachable".to_owned())
    );
    assert_eq!(rig.send(&event(object, "1"), b"x").await.status, 200);
    assert_eq!(rig.memory.inbox(object, 10).await.unwrap().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn garbage_in_any_place_of_the_depot_starts_nothing_and_is_named() {
    // A bundle that is none.
    let built = Definition::rules(RULES).build().unwrap();
    let rig = Rig::new().await;
    let life = Life::create(&built.bundle, "a");
    let object = life.state.head().object;
    mark(&rig.memory, &life).await;
    rig.memory
        .put_bundle(built.bundle.id(), b"garbage")
        .await
        .unwrap();
    rig.memory
        .announce(object, &life.announcement(), None)
        .await
        .unwrap();
    let answer = rig.ask(object, "GET", "/open").await;
    assert_eq!((answer.status, answer.code()), (503, "head_refused".to_owned()));
    assert!(answer.body.contains("bundle"), "{answer:?}");
    assert_eq!(rig.starts(), 0);
    rig.end().await;

    // Messages that cannot be read or listed, where rules look at how many wait.
    let rig = Rig::new().await;
    let object = rig
        .sleeper(&Definition::rules(COUNTED).build().unwrap(), "a")
        .await;
    assert_eq!(rig.send(&event(object, "1"), b"x").await.status, 202);
    rig.memory.corrupt(object, What::Message, b"garbage");
    let answer = rig.ask(object, "GET", "/").await;
    assert_eq!(
        (answer.status, answer.code()),
        (502, "depot_unusable".to_owned()),
        "{answer:?}"
    );
    rig.depot.once(Some(Call::Inbox), Fault::Silence);
    let answer = rig.ask(object, "GET", "/").await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, "depot_unreachable".to_owned())
    );
    assert_eq!(rig.starts(), 0);
    rig.end().await;
}

#[tokio::test]
async fn an_old_announcement_shown_again_is_not_decided_by() {
    let built = Definition::rules(RULES).build().unwrap();
    let rig = Rig::new().await;
    let mut life = Life::create(&built.bundle, "a");
    let object = rig.lay_to_rest(&built, life.clone(), None).await;
    let old = life.announcement();
    assert_eq!(rig.door.look(object).await.unwrap(), ObjectStatus::Asleep);
    life.wake(BORN);
    life.sleep(BORN);
    rest(&rig.memory, &built, &life, None).await;
    // Genuine and signed, but the witness knows a newer head: the object itself is asked.
    rig.memory.announce(object, &old, None).await.unwrap();
    for _ in 0..2 {
        let answer = rig.ask(object, "GET", "/").await;
        assert_eq!(
            (answer.status, answer.header("x-suijuris-passed").as_deref()),
            (200, Some("awake")),
            "{answer:?}"
        );
    }
    assert_eq!(rig.starts(), 0);
    rig.end().await;
}
