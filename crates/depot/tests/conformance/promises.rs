//! What every backend promises. Each function takes a depot that others use too, with objects of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use suijuris_core::lineage::MAX_ANNOUNCEMENT;
use suijuris_core::message::MessageKey;
use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId};
use suijuris_depot::{
    Depot, Error, InboxWatch, MAX_BUNDLE, MAX_SEGMENT, Marks as _, Posted, Presence, Session, Swap, Version,
};
use tokio::task::JoinSet;

use crate::samples::{holder, mark, message, object};

pub(crate) type Shared = Arc<dyn Depot>;

pub(crate) fn done(swap: Swap) -> Version {
    match swap {
        Swap::Done(version) => version,
        Swap::Conflict(present) => panic!("a conflict with {present:?}"),
    }
}

pub(crate) async fn unknown_objects_have_nothing(depot: Shared) {
    let object = object();
    assert_eq!(depot.mark(object).await.unwrap(), None);
    assert_eq!(
        depot.presence(object, holder(1)).await.unwrap(),
        Presence::Unknown
    );
    assert_eq!(depot.announcement(object).await.unwrap(), None);
    assert_eq!(depot.segments(object).await.unwrap(), []);
    assert_eq!(depot.segment(object, 0..=9).await.unwrap(), None);
    assert_eq!(depot.bundle(BundleId::of(b"none")).await.unwrap(), None);
    assert_eq!(depot.inbox(object, 10).await.unwrap(), []);
    depot.acknowledge(object, &[message("none").key()]).await.unwrap();
    let announced = depot.announced(None, 10_000).await.unwrap();
    assert!(!announced.contains(&object));
}

pub(crate) async fn a_mark_changes_only_from_the_version_that_is_expected(depot: Shared) {
    let object = object();
    let first = done(depot.swap(&mark(object, 1), None).await.unwrap());
    assert_eq!(
        depot.mark(object).await.unwrap(),
        Some((mark(object, 1), first.clone()))
    );
    assert!(first.0.len() <= 256);

    let again = depot.swap(&mark(object, 9), None).await.unwrap();
    assert_eq!(again, Swap::Conflict(Some((mark(object, 1), first.clone()))));

    let second = done(depot.swap(&mark(object, 2), Some(&first)).await.unwrap());
    let late = depot.swap(&mark(object, 9), Some(&first)).await.unwrap();
    assert_eq!(late, Swap::Conflict(Some((mark(object, 2), second.clone()))));
    assert_eq!(depot.mark(object).await.unwrap(), Some((mark(object, 2), second)));
}

pub(crate) async fn a_version_does_not_come_again_with_the_same_mark(depot: Shared) {
    let object = object();
    let first = done(depot.swap(&mark(object, 1), None).await.unwrap());
    let second = done(depot.swap(&mark(object, 2), Some(&first)).await.unwrap());
    let third = done(depot.swap(&mark(object, 1), Some(&second)).await.unwrap());
    assert_ne!(first, third);
    let late = depot.swap(&mark(object, 9), Some(&first)).await.unwrap();
    assert!(matches!(late, Swap::Conflict(Some(_))), "{late:?}");
}

pub(crate) async fn an_expected_mark_that_is_not_there_is_a_conflict_with_nothing(depot: Shared) {
    let other = object();
    let version = done(depot.swap(&mark(other, 1), None).await.unwrap());
    let object = object();
    let swap = depot.swap(&mark(object, 1), Some(&version)).await.unwrap();
    assert_eq!(swap, Swap::Conflict(None));
    let forged = Version(b"no version of this depot".to_vec());
    let swap = depot.swap(&mark(object, 1), Some(&forged)).await.unwrap();
    assert_eq!(swap, Swap::Conflict(None));
    let swap = depot.swap(&mark(other, 2), Some(&forged)).await.unwrap();
    assert_eq!(swap, Swap::Conflict(Some((mark(other, 1), version))));
    assert_eq!(depot.mark(object).await.unwrap(), None);
}

/// Marks of writers differ by who they are, so that each knows its own.
fn named(object: ObjectId, count: u64, writer: u8) -> suijuris_core::witness::Mark {
    let mut mark = mark(object, count);
    mark.holder = mark.holder.map(|mut found| {
        found.id = holder(writer);
        found
    });
    mark
}

pub(crate) async fn of_many_writers_exactly_one_wins_each_round(depot: Shared) {
    const WRITERS: u8 = 8;
    const ROUNDS: u64 = 10;
    let object = object();
    let mut expected = None;
    for round in 0..ROUNDS {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (depot, expected) = (Arc::clone(&depot), expected.clone());
            writers.spawn(async move {
                let mark = named(object, round, writer);
                (writer, depot.swap(&mark, expected.as_ref()).await.unwrap())
            });
        }
        let outcomes = writers.join_all().await;
        let mut won = outcomes.iter().filter_map(|(writer, swap)| match swap {
            Swap::Done(version) => Some((*writer, version.clone())),
            Swap::Conflict(_) => None,
        });
        let (winner, version) = won.next().expect("somebody wins");
        assert_eq!(won.next(), None, "a second winner in round {round}");
        let present = Some((named(object, round, winner), version));
        assert_eq!(depot.mark(object).await.unwrap(), present);
        expected = present.map(|(_, version)| version);
    }
}

pub(crate) async fn counting_together_loses_no_step(depot: Shared) {
    const WRITERS: u64 = 8;
    const STEPS: u64 = 5;
    let object = object();
    done(depot.swap(&mark(object, 0), None).await.unwrap());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let depot = Arc::clone(&depot);
        writers.spawn(async move {
            for _ in 0..STEPS {
                let (mut present, mut version) = depot.mark(object).await.unwrap().unwrap();
                loop {
                    let next = mark(object, present.seq + 1);
                    match depot.swap(&next, Some(&version)).await.unwrap() {
                        Swap::Done(_) => break,
                        Swap::Conflict(found) => (present, version) = found.unwrap(),
                    }
                }
            }
        });
    }
    writers.join_all().await;
    let (counted, _) = depot.mark(object).await.unwrap().unwrap();
    assert_eq!(counted, mark(object, WRITERS * STEPS));
}

pub(crate) async fn a_mark_that_cannot_be_read_back_is_not_stored(depot: Shared) {
    let object = object();
    let mut refused = mark(object, 1);
    refused.holder = refused.holder.map(|mut holder| {
        holder.who = "x".repeat(300);
        holder
    });
    let error = depot.swap(&refused, None).await.unwrap_err();
    assert!(matches!(error, Error::NotAllowed(_)), "{error}");
    assert_eq!(depot.mark(object).await.unwrap(), None);
}

pub(crate) async fn whoever_attends_is_here_until_it_lets_go(depot: Shared) {
    let object = object();
    let Some(guard) = depot.register(object, holder(1)).await.unwrap() else {
        // A backend without means says so of everybody.
        assert_eq!(
            depot.presence(object, holder(1)).await.unwrap(),
            Presence::Unknown
        );
        return;
    };
    assert_eq!(depot.presence(object, holder(1)).await.unwrap(), Presence::Here);
    assert_ne!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
    let other = depot.register(object, holder(2)).await.unwrap();
    assert_eq!(depot.presence(object, holder(1)).await.unwrap(), Presence::Here);
    assert_eq!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
    drop(guard);
    let until = Instant::now() + Duration::from_secs(60);
    while depot.presence(object, holder(1)).await.unwrap() == Presence::Here {
        assert!(Instant::now() < until, "it stays here after it let go");
    }
    assert_eq!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
    drop(other);
}

pub(crate) async fn a_fresh_name_is_here_and_the_former_is_not(depot: Shared) {
    let object = object();
    let session = Session::new(Arc::clone(&depot));
    let held = session.register(object, holder(1)).await.unwrap();
    assert_eq!(session.name(), Some(holder(1)));
    session.register(object, holder(2)).await.unwrap();
    assert_eq!(session.name(), Some(holder(2)));
    let Some(held) = held else { return };
    // What a machine inherited under the former name holds the fresh one.
    let inherited = held.descriptor().map(|held| held.try_clone_to_owned().unwrap());
    drop(held);
    assert_eq!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
    let until = Instant::now() + Duration::from_secs(60);
    while depot.presence(object, holder(1)).await.unwrap() == Presence::Here {
        assert!(Instant::now() < until, "the former name stays");
    }
    drop(session);
    if inherited.is_some() {
        assert_eq!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
        drop(inherited);
        assert_ne!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
    }
}

pub(crate) async fn a_copy_that_rests_is_here_until_it_lets_go(depot: Shared) {
    let object = object();
    let session = Session::new(Arc::clone(&depot));
    session.rest().await.unwrap();
    assert!(session.presence_guard().await.unwrap().is_none());
    let known = session.register(object, holder(1)).await.unwrap().is_some();
    let presence = async |number| depot.presence(object, holder(number)).await.unwrap();
    let awake = presence(1).await;
    session.rest().await.unwrap();
    session.rest().await.unwrap();
    assert_eq!(presence(1).await, awake);
    // To be lent to a machine, and back.
    let guard = session.presence_guard().await.unwrap();
    assert_eq!(guard.is_some(), known);
    drop(guard);
    assert_eq!(presence(1).await, awake);
    session.rest().await.unwrap();
    session.register(object, holder(2)).await.unwrap();
    assert_eq!(presence(2).await, awake);
    assert_ne!(presence(1).await, Presence::Here);
    drop(session);
    assert_ne!(presence(2).await, Presence::Here);
}

pub(crate) async fn announcements_are_replaced_with_their_due_times(depot: Shared) {
    let object = object();
    let at = |offset: i64| Timestamp(-4_000_000_000_000 + offset);
    let due = async |until: i64| {
        let found = depot.due(at(until), 1_000).await.unwrap();
        let of_ours = found.into_iter().filter(|(_, found)| *found == object);
        of_ours.map(|(at, _)| at).collect::<Vec<_>>()
    };
    depot
        .announce(object, b"first", Some(at(5_000_000)))
        .await
        .unwrap();
    assert_eq!(
        depot.announcement(object).await.unwrap().as_deref(),
        Some(&b"first"[..])
    );
    assert_eq!(due(4_999_999).await, []);
    assert_eq!(due(5_000_000).await, [at(5_000_000)]);

    depot.announce(object, b"second", Some(at(1_000))).await.unwrap();
    assert_eq!(
        depot.announcement(object).await.unwrap().as_deref(),
        Some(&b"second"[..])
    );
    assert_eq!(due(9_000_000).await, [at(1_000)]);
    depot.announce(object, b"second", Some(at(1_000))).await.unwrap();
    assert_eq!(due(9_000_000).await, [at(1_000)]);

    depot.announce(object, b"", None).await.unwrap();
    assert_eq!(
        depot.announcement(object).await.unwrap().as_deref(),
        Some(&b""[..])
    );
    assert_eq!(due(9_000_000).await, []);

    let large = vec![7; MAX_ANNOUNCEMENT];
    depot.announce(object, &large, None).await.unwrap();
    assert_eq!(depot.announcement(object).await.unwrap(), Some(large));
    let error = depot
        .announce(object, &vec![7; MAX_ANNOUNCEMENT + 1], None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotAllowed(_)), "{error}");
}

pub(crate) async fn due_objects_come_earliest_first_and_no_more_than_asked_for(depot: Shared) {
    let base = -8_000_000_000_000;
    let mut expected = Vec::new();
    for offset in [3_600_000 * 30, 5, 3_600_000, 2] {
        let object = object();
        depot
            .announce(object, b"x", Some(Timestamp(base + offset)))
            .await
            .unwrap();
        expected.push((Timestamp(base + offset), object));
    }
    expected.sort();
    let until = Timestamp(base + 3_600_000 * 40);
    assert_eq!(depot.due(until, 100).await.unwrap(), expected);
    assert_eq!(depot.due(until, 3).await.unwrap(), expected[..3]);
    assert_eq!(depot.due(Timestamp(base + 4), 100).await.unwrap(), expected[..1]);
    assert_eq!(depot.due(until, 0).await.unwrap(), []);
    for (_, object) in expected {
        depot.announce(object, b"x", None).await.unwrap();
    }
    assert_eq!(depot.due(until, 100).await.unwrap(), []);
}

pub(crate) async fn announced_objects_are_listed_page_by_page(depot: Shared) {
    let mut objects: Vec<ObjectId> = (0..7).map(|_| object()).collect();
    for object in &objects {
        depot.announce(*object, b"x", None).await.unwrap();
    }
    objects.sort_by_key(ToString::to_string);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = depot.announced(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    assert!(found.is_sorted_by_key(ToString::to_string));
    found.retain(|found| objects.contains(found));
    assert_eq!(found, objects);
}

pub(crate) async fn segments_and_bundles_are_kept_as_they_were_first_put(depot: Shared) {
    let object = object();
    depot.put_segment(object, 10..=19, b"second").await.unwrap();
    depot.put_segment(object, 0..=9, b"first").await.unwrap();
    depot.put_segment(object, 0..=9, b"first").await.unwrap();
    let error = depot.put_segment(object, 0..=9, b"other").await.unwrap_err();
    assert!(matches!(error, Error::Different(_)), "{error}");
    assert_eq!(depot.segments(object).await.unwrap(), [0..=9, 10..=19]);
    assert_eq!(
        depot.segment(object, 0..=9).await.unwrap().as_deref(),
        Some(&b"first"[..])
    );
    assert_eq!(depot.segment(object, 0..=8).await.unwrap(), None);
    #[expect(clippy::reversed_empty_ranges, reason = "it is what must be refused")]
    let error = depot.put_segment(object, 9..=0, b"x").await.unwrap_err();
    assert!(matches!(error, Error::NotAllowed(_)), "{error}");

    let id = BundleId::of(object.to_string().as_bytes());
    depot.put_bundle(id, b"bundle").await.unwrap();
    depot.put_bundle(id, b"bundle").await.unwrap();
    let error = depot.put_bundle(id, b"other").await.unwrap_err();
    assert!(matches!(error, Error::Different(_)), "{error}");
    assert_eq!(depot.bundle(id).await.unwrap().as_deref(), Some(&b"bundle"[..]));
}

pub(crate) async fn a_segment_that_is_removed_is_gone_and_its_place_is_free(depot: Shared) {
    let object = object();
    let large = vec![7; (1 << 20) + 5];
    depot.put_segment(object, 0..=4, b"kept").await.unwrap();
    depot.put_segment(object, 5..=9, &large).await.unwrap();
    depot.remove_segment(object, 5..=9).await.unwrap();
    depot.remove_segment(object, 5..=9).await.unwrap();
    depot.remove_segment(object, 0..=3).await.unwrap();
    assert_eq!(depot.segments(object).await.unwrap(), [0..=4]);
    assert_eq!(depot.segment(object, 5..=9).await.unwrap(), None);
    depot.put_segment(object, 5..=9, b"another").await.unwrap();
    depot.put_segment(object, 5..=20, &large).await.unwrap();
    assert_eq!(depot.segments(object).await.unwrap(), [0..=4, 5..=9, 5..=20]);
    depot.remove_segment(object, 5..=9).await.unwrap();
    assert!(depot.segment(object, 5..=20).await.unwrap() == Some(large));
}

pub(crate) async fn the_largest_segment_and_bundle_fit_and_larger_ones_do_not(depot: Shared) {
    let object = object();
    let mut bytes: Vec<u8> = (0..MAX_SEGMENT).map(|n| u8::try_from(n % 251).unwrap()).collect();
    depot.put_segment(object, 0..=0, &bytes).await.unwrap();
    assert!(depot.segment(object, 0..=0).await.unwrap() == Some(bytes.clone()));
    let id = BundleId::of(object.to_string().as_bytes());
    assert_eq!(MAX_BUNDLE, MAX_SEGMENT);
    depot.put_bundle(id, &bytes).await.unwrap();
    assert!(depot.bundle(id).await.unwrap() == Some(bytes.clone()));
    bytes.push(0);
    for error in [
        depot.put_segment(object, 1..=1, &bytes).await.unwrap_err(),
        depot
            .put_bundle(BundleId::of(b"large"), &bytes)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotAllowed(_)), "{error}");
    }
}

pub(crate) async fn messages_wait_in_order_and_once(depot: Shared) {
    let object = object();
    let messages: Vec<_> = (0..5).map(|n| message(&format!("m{n}"))).collect();
    for message in &messages {
        assert_eq!(depot.post(object, message).await.unwrap(), Posted::Stored);
    }
    let mut again = messages[2].clone();
    again.data = b"other data, the same source and id".to_vec();
    assert_eq!(depot.post(object, &again).await.unwrap(), Posted::Duplicate);

    let waiting = depot.inbox(object, 100).await.unwrap();
    assert!(waiting.iter().map(|waiting| &waiting.message).eq(&messages));
    assert!(waiting.is_sorted_by_key(|waiting| &waiting.place));
    assert!(
        waiting
            .iter()
            .all(|waiting| (1..=64).contains(&waiting.place.len()))
    );
    assert_eq!(depot.inbox(object, 2).await.unwrap(), waiting[..2]);

    let keys: Vec<MessageKey> = messages[1..4].iter().map(|message| message.key()).collect();
    depot.acknowledge(object, &keys).await.unwrap();
    depot.acknowledge(object, &keys).await.unwrap();
    let left = depot.inbox(object, 100).await.unwrap();
    assert_eq!(left, [waiting[0].clone(), waiting[4].clone()]);
    assert_eq!(depot.post(object, &again).await.unwrap(), Posted::Duplicate);

    let keys: Vec<MessageKey> = messages.iter().map(|message| message.key()).collect();
    depot.acknowledge(object, &keys).await.unwrap();
    assert_eq!(depot.inbox(object, 100).await.unwrap(), []);
    let mut later = message("later");
    later.accepted.0 += 1_000;
    assert_eq!(depot.post(object, &later).await.unwrap(), Posted::Stored);
    let last = depot.inbox(object, 100).await.unwrap();
    assert!(last[0].place > waiting[4].place, "{} is not later", last[0].place);
}

pub(crate) async fn a_message_posted_by_many_at_once_is_stored_once(depot: Shared) {
    let object = object();
    let mut posters = JoinSet::new();
    for n in 0..8 {
        let depot = Arc::clone(&depot);
        posters.spawn(async move {
            let own = depot.post(object, &message(&format!("own {n}"))).await.unwrap();
            assert_eq!(own, Posted::Stored);
            depot.post(object, &message("same")).await.unwrap()
        });
    }
    let outcomes = posters.join_all().await;
    let stored = outcomes.iter().filter(|outcome| **outcome == Posted::Stored);
    assert_eq!(stored.count(), 1);
    let waiting = depot.inbox(object, 100).await.unwrap();
    assert_eq!(waiting.len(), 9);
    assert_eq!(
        waiting
            .iter()
            .filter(|waiting| waiting.message.id == "same")
            .count(),
        1
    );
}

pub(crate) async fn a_message_that_is_not_allowed_is_not_stored(depot: Shared) {
    let object = object();
    let mut large = message("large");
    large.data = vec![0; suijuris_core::message::MAX_BYTES];
    let mut nameless = message("x");
    nameless.source = String::new();
    for refused in [large, nameless] {
        let error = depot.post(object, &refused).await.unwrap_err();
        assert!(matches!(error, Error::NotAllowed(_)), "{error}");
    }
    assert_eq!(depot.inbox(object, 10).await.unwrap(), []);
}

pub(crate) async fn one_look_into_an_inbox_is_bounded_in_bytes(depot: Shared) {
    let object = object();
    let mut large = message("");
    large.data = vec![0; 250 << 10];
    for n in 0..36 {
        large.id = format!("large {n}");
        depot.post(object, &large).await.unwrap();
    }
    let waiting = depot.inbox(object, 100).await.unwrap();
    assert!((20..36).contains(&waiting.len()), "{}", waiting.len());
}

pub(crate) async fn whoever_waits_for_the_inbox_hears_of_a_message(depot: Shared) {
    let object = object();
    let start = Instant::now();
    depot
        .inbox_changed(object, Duration::from_millis(50))
        .await
        .unwrap();
    let alone = start.elapsed();
    assert!(alone < Duration::from_secs(30), "{alone:?}");

    a_reader_hears_of_each_message(depot, object).await;
}

/// However long it may wait, and whatever others read.
pub(crate) async fn a_reader_hears_of_each_message(depot: Shared, object: ObjectId) {
    let mut watch = InboxWatch::new(Arc::clone(&depot), object, Duration::from_secs(3_000));
    let told = Duration::from_secs(60);
    for count in 1..=3 {
        assert_eq!(watch.look(10).await.unwrap().len(), count - 1);
        // Posted between the look and the wait.
        depot.post(object, &message(&format!("{count}"))).await.unwrap();
        // What another reader has seen is still news to this one.
        assert_eq!(depot.inbox(object, 10).await.unwrap().len(), count);
        let heard = tokio::time::timeout(told, watch.changed()).await;
        heard.expect("the wait outlasts the message").unwrap();
    }
    assert_eq!(watch.look(10).await.unwrap().len(), 3);
}

pub(crate) async fn whoever_waits_already_is_woken_by_a_message(depot: Shared) {
    let object = object();
    let mut watch = InboxWatch::new(Arc::clone(&depot), object, Duration::from_secs(3_000));
    watch.changed().await.unwrap();
    assert_eq!(watch.look(1).await.unwrap(), []);
    let mut waits = Box::pin(watch.changed());
    let early = tokio::time::timeout(Duration::ZERO, &mut waits).await;
    assert!(early.is_err(), "nothing was posted");
    depot.post(object, &message("wake up")).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(60), waits).await;
    heard.expect("the wait outlasts the message").unwrap();
    assert_eq!(watch.look(1).await.unwrap().len(), 1);
}
