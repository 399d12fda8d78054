//! Which heads are believed, and which are not.

use suijuris_core::ObjectId;
use suijuris_core::lineage::{Announcement, Stored, segment};
use suijuris_core::memory::{Change, Field, Kind, Name, Schema, Value, Write};
use suijuris_core::witness::Mark;
use suijuris_depot::faults::{Call, Fault};
use suijuris_depot::memory::What;
use suijuris_depot::{Archive as _, Depot as _, Epoch, Marks as _};
use suijuris_door::ObjectStatus;
use suijuris_door::heads::{Error, Found, Trust, find};

use crate::life::{BORN, Built, Definition, Life, key};
use crate::rig::{Rig, announce, limits, mark, rest, swap};

fn counting() -> Built {
    let fields = [(Name::new("n").unwrap(), Field::new(Kind::INT))];
    let schema = Schema::try_from(std::collections::BTreeMap::from(fields)).unwrap();
    let vocabulary = suijuris_core::governance::Vocabulary::of_memory(schema);
    Definition::of(&vocabulary, "permit(principal, action, resource);")
        .build()
        .unwrap()
}

fn set(n: i64) -> Change {
    Change::from([(Name::new("n").unwrap(), Write::Set(Value::Int(n)))])
}

async fn found(rig: &Rig, object: ObjectId, trust: Trust) -> Result<Found, Error> {
    let before = rig.door.sleepers().known(object);
    find(&*rig.depot, object, before.as_ref(), trust, |_| None).await
}

/// The word for why an object is not believed.
async fn why(rig: &Rig, object: ObjectId, trust: Trust) -> &'static str {
    match found(rig, object, trust).await {
        Ok(found) => panic!("believed: {found:?}"),
        Err(error) => {
            assert!(!error.in_full().is_empty());
            error.as_str()
        }
    }
}

async fn mark_of(rig: &Rig, object: ObjectId) -> Mark {
    rig.memory.mark(object).await.unwrap().unwrap().0
}

#[tokio::test]
async fn a_head_is_believed_where_announcement_and_mark_agree_and_an_object_ahead_of_it_is_awake() {
    let rig = Rig::new().await;
    let built = counting();
    let mut life = Life::create(&built.bundle, "a");
    let object = life.state.head().object;
    assert_eq!(rig.door.look(object).await.unwrap(), ObjectStatus::Unknown);

    for trust in [Trust::Mark, Trust::Chain] {
        life.write(set(1), BORN);
        rest(&rig.memory, &built, &life, None).await;
        let Ok(Found::Asleep(state, _)) = found(&rig, object, trust).await else {
            panic!("it sleeps");
        };
        assert_eq!(state.head(), life.state.head());
    }
    life.wake(BORN);
    mark(&rig.memory, &life).await;
    assert!(matches!(
        found(&rig, object, Trust::Mark).await,
        Ok(Found::Awake(_))
    ));
    rig.end().await;
}

#[tokio::test]
async fn what_is_forged_truncated_foreign_or_torn_is_refused_with_what_is_wrong() {
    let rig = Rig::new().await;
    let built = counting();
    let mut life = Life::create(&built.bundle, "a");
    life.write(set(1), BORN);
    let object = rig.lay_to_rest(&built, life.clone(), None).await;
    let good = life.announcement();

    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        rig.memory.announce(object, &good[..cut], None).await.unwrap();
        assert_eq!(why(&rig, object, Trust::Mark).await, "disbelief", "cut at {cut}");
    }
    for place in (0..good.len()).step_by(7) {
        let mut forged = good.clone();
        forged[place] ^= 1;
        rig.memory.announce(object, &forged, None).await.unwrap();
        assert_eq!(why(&rig, object, Trust::Mark).await, "disbelief", "byte {place}");
    }
    // Signed, but not by the key that the object committed to.
    let stranger = key("stranger", 1);
    let forged = Announcement::of(&life.state, life.chain.last().unwrap(), &stranger).unwrap();
    rig.memory.announce(object, &forged, None).await.unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "disbelief");

    let other = Life::create(&built.bundle, "b");
    rig.memory
        .announce(object, &other.announcement(), None)
        .await
        .unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "foreign");
    rig.memory.corrupt(object, What::Announcement, b"garbage");
    assert_eq!(why(&rig, object, Trust::Mark).await, "garbage");
    rig.memory.corrupt(object, What::Mark, b"garbage");
    assert_eq!(why(&rig, object, Trust::Mark).await, "garbage");

    let request = rig.ask(object, "GET", "/").await;
    assert_eq!(
        (request.status, request.code()),
        (503, "head_refused".to_owned()),
        "{request:?}"
    );
    assert_eq!(rig.starts(), 0);
    rig.end().await;
}

#[tokio::test]
async fn an_announcement_without_mark_bundle_or_the_marks_own_record_is_refused() {
    let rig = Rig::new().await;
    let built = counting();
    let mut life = Life::create(&built.bundle, "a");
    let object = life.state.head().object;
    rig.memory
        .announce(object, &life.announcement(), None)
        .await
        .unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "unwitnessed");
    mark(&rig.memory, &life).await;
    assert_eq!(why(&rig, object, Trust::Mark).await, "no_bundle");

    // A copy went another way: at the same position, and one further.
    announce(&rig.memory, &built, &life, None).await;
    let mut copy = life.clone();
    life.write(set(1), BORN);
    mark(&rig.memory, &life).await;
    copy.write(set(2), BORN);
    rig.memory
        .announce(object, &copy.announcement(), None)
        .await
        .unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "two_histories");
    copy.write(set(3), BORN);
    rig.memory
        .announce(object, &copy.announcement(), None)
        .await
        .unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "ahead");
    rig.end().await;
}

#[tokio::test]
async fn a_mark_that_was_set_back_is_noticed_and_a_later_epoch_is_not_older() {
    let rig = Rig::new().await;
    let built = counting();
    let mut life = Life::create(&built.bundle, "a");
    let object = rig.lay_to_rest(&built, life.clone(), None).await;
    let (old_mark, old) = (mark_of(&rig, object).await, life.announcement());
    life.write(set(1), BORN);
    life.write(set(2), BORN);
    rest(&rig.memory, &built, &life, None).await;
    assert_eq!(rig.door.look(object).await.unwrap(), ObjectStatus::Asleep);

    // Somebody restores yesterday's depot.
    swap(&rig.memory, &old_mark).await;
    rig.memory.announce(object, &old, None).await.unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "older");
    let answer = rig.ask(object, "GET", "/").await;
    assert_eq!((answer.status, answer.code()), (503, "head_refused".to_owned()));
    assert!(answer.body.contains("set back"), "{}", answer.body);

    // Whoever is awake in a later epoch was permitted to be.
    let later = Mark {
        epoch: old_mark.epoch + 1,
        ..old_mark
    };
    swap(&rig.memory, &later).await;
    assert!(found(&rig, object, Trust::Mark).await.is_ok());
    rig.end().await;
}

#[tokio::test]
async fn with_trust_in_the_chain_alone_every_record_must_lead_to_the_head() {
    let built = counting();
    let base = {
        let mut life = Life::create(&built.bundle, "a");
        (1..100).for_each(|n| life.write(set(n), BORN));
        life
    };
    let object = base.state.head().object;

    // Whoever may write marks and announcements has put a copy's in place; the chain is the original's.
    let rig = Rig::new().await;
    rest(&rig.memory, &built, &base, None).await;
    let mut copy = base.clone();
    copy.write(set(-1), BORN);
    rig.memory
        .announce(object, &copy.announcement(), None)
        .await
        .unwrap();
    mark(&rig.memory, &copy).await;
    assert!(matches!(
        found(&rig, object, Trust::Mark).await,
        Ok(Found::Asleep(..))
    ));
    assert_eq!(why(&rig, object, Trust::Chain).await, "chain");
    rig.end().await;

    // A record is missing, cut, or altered.
    let bytes = |records: &[Stored]| segment::encode(records);
    let whole = bytes(&base.chain);
    let last = base.state.head().seq;
    let mut altered = whole.clone();
    altered[bytes(&base.chain[..1]).len() + 60] ^= 1;
    let cut = whole[..whole.len() - 1].to_vec();
    for segments in [
        vec![(0..=last, altered)],
        vec![(0..=last, cut)],
        vec![(0..=last, bytes(&base.chain[..98]))],
        vec![(1..=last, bytes(&base.chain[1..]))],
        vec![
            (0..=40, bytes(&base.chain[..41])),
            (42..=last, bytes(&base.chain[42..])),
        ],
        vec![],
    ] {
        let rig = Rig::new().await;
        mark(&rig.memory, &base).await;
        rig.memory
            .put_bundle(built.bundle.id(), &built.bytes)
            .await
            .unwrap();
        rig.memory
            .announce(object, &base.announcement(), None)
            .await
            .unwrap();
        for (positions, bytes) in segments {
            rig.memory.put_segment(object, positions, &bytes).await.unwrap();
        }
        assert_eq!(why(&rig, object, Trust::Chain).await, "chain");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_history_that_its_controllers_put_in_the_place_of_the_known_one_is_not_older() {
    let rig = Rig::new().await;
    let built = counting();
    let mut life = Life::create(&built.bundle, "a");
    let object = rig.lay_to_rest(&built, life.clone(), None).await;
    let mut copy = life.clone();
    (1..=3).for_each(|n| life.write(set(n), BORN));
    rest(&rig.memory, &built, &life, None).await;
    assert_eq!(rig.door.look(object).await.unwrap(), ObjectStatus::Asleep);
    copy.restored(life.state.head(), BORN);
    copy.write(set(9), BORN);
    mark(&rig.memory, &copy).await;
    // As long as the records of the other history stand there, nobody can know.
    rig.memory
        .announce(object, &copy.announcement(), None)
        .await
        .unwrap();
    assert_eq!(why(&rig, object, Trust::Mark).await, "older");
    for positions in rig.memory.segments(object).await.unwrap() {
        rig.memory.remove_segment(object, positions).await.unwrap();
    }
    announce(&rig.memory, &built, &copy, None).await;
    for trust in [Trust::Mark, Trust::Chain] {
        let Ok(Found::Asleep(state, _)) = found(&rig, object, trust).await else {
            panic!("it sleeps");
        };
        assert_eq!(state.head(), copy.state.head());
    }
    rig.end().await;
}

#[tokio::test]
async fn while_the_depot_is_silent_the_last_known_head_decides_for_a_while() {
    let rig = Rig::new().await;
    let built = Definition::rules(r#"forbid(principal, action, resource);"#)
        .build()
        .unwrap();
    let object = rig.sleeper(&built, "a").await;
    assert_eq!(rig.door.look(object).await.unwrap(), ObjectStatus::Asleep);
    for fault in [Fault::Silence, Fault::LostRequest] {
        rig.depot.always(Some(fault));
        assert_eq!(rig.ask(object, "GET", "/").await.code(), "wake_refused");
        let unknown = rig.ask(ObjectId::of(b"unknown"), "GET", "/").await;
        assert_eq!(
            (unknown.status, unknown.code()),
            (503, "depot_unreachable".to_owned())
        );
        assert!(unknown.header("retry-after").is_some());
        let health = rig.send("GET /healthz HTTP/1.1\r\nhost: door", b"").await;
        assert_eq!(health.status, 503, "{health:?}");
    }
    rig.depot.always(None);
    assert_eq!(
        rig.send("GET /healthz HTTP/1.1\r\nhost: door", b"").await.status,
        200
    );
    rig.end().await;

    let impatient = suijuris_door::config::Limits {
        stale_for: std::time::Duration::from_millis(1),
        ..limits()
    };
    let rig = Rig::with(impatient, Trust::Mark).await;
    let object = rig.sleeper(&built, "a").await;
    assert_eq!(rig.door.look(object).await.unwrap(), ObjectStatus::Asleep);
    rig.depot.always(Some(Fault::Silence));
    assert_eq!(rig.ask(object, "GET", "/").await.code(), "depot_unreachable");
    rig.end().await;
}

#[tokio::test]
async fn everything_announced_is_loaded_at_once_where_that_is_asked_for() {
    let rig = Rig::new().await;
    let built = counting();
    let mut objects = Vec::new();
    for name in ["a", "b", "c"] {
        objects.push(rig.sleeper(&built, name).await);
    }
    rig.memory.corrupt(objects[1], What::Announcement, b"garbage");
    assert_eq!(rig.door.preload().await.unwrap(), 2);
    assert_eq!((rig.door.sleepers().len(), rig.door.sleepers().bundles()), (2, 1));
    let reads = rig
        .depot
        .calls()
        .into_iter()
        .filter(|call| *call == Call::Bundle)
        .count();
    assert_eq!(reads, 1, "a bundle that objects share is read once");
    let known = rig.door.sleepers().known(objects[0]).unwrap();
    assert_eq!(known.seq, 0);
    rig.end().await;
}

#[tokio::test]
async fn the_key_of_an_objects_epoch_follows_from_its_history_alone() {
    let rig = Rig::new().await;
    let built = counting();
    let mut life = Life::create(&built.bundle, "a");
    let object = life.state.head().object;
    let epoch = async || rig.memory.epoch(object).await;
    let of = |number: u64| {
        let key = key("a", number).public().commitment();
        Some(Epoch { number, key })
    };
    assert_eq!(epoch().await.unwrap(), None, "nobody knows it");
    life.write(set(1), BORN);
    rest(&rig.memory, &built, &life, None).await;
    assert_eq!(epoch().await.unwrap(), None, "it has never been awake");
    life.wake(BORN);
    mark(&rig.memory, &life).await;
    assert_eq!(
        epoch().await.unwrap(),
        of(1),
        "its inception committed to that key"
    );
    life.sleep(BORN);
    rest(&rig.memory, &built, &life, None).await;
    assert_eq!(epoch().await.unwrap(), of(1));
    life.wake(BORN);
    mark(&rig.memory, &life).await;
    assert_eq!(epoch().await.unwrap(), of(2));
    // Cut off, and awake again: what it published says nothing of that key.
    life.sleep(BORN);
    life.wake(BORN);
    mark(&rig.memory, &life).await;
    assert_eq!(epoch().await.unwrap(), None);
    life.sleep(BORN);
    rest(&rig.memory, &built, &life, None).await;
    assert_eq!(epoch().await.unwrap(), of(3));

    // Nobody is believed: a history that was changed, or that the mark does not name, shows no key.
    let other = Life::create(&built.bundle, "b");
    let there = rig.memory.segments(object).await.unwrap();
    for positions in there {
        rig.memory.remove_segment(object, positions).await.unwrap();
    }
    assert_eq!(epoch().await.unwrap(), None, "no history");
    let bytes = segment::encode(other.chain.iter());
    rig.memory.put_segment(object, 0..=0, &bytes).await.unwrap();
    assert!(matches!(
        epoch().await,
        Err(suijuris_depot::Error::Garbage { .. })
    ));
    rig.memory.remove_segment(object, 0..=0).await.unwrap();
    let mut bytes = segment::encode(life.chain.iter());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let positions = 0..=life.state.head().seq;
    rig.memory.put_segment(object, positions, &bytes).await.unwrap();
    assert!(matches!(
        epoch().await,
        Err(suijuris_depot::Error::Garbage { .. })
    ));
    rig.depot.always(Some(Fault::LostRequest));
    assert!(matches!(
        rig.depot.epoch(object).await,
        Err(suijuris_depot::Error::Unreachable(..))
    ));
    rig.end().await;
}
