//! A relay passes everything on for one object, and nothing else.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId};
use suijuris_depot::faults::{Call, Fault, Faulty};
use suijuris_depot::memory::Memory;
use suijuris_depot::relay::{self, Client};
use suijuris_depot::{
    Archive as _, Depot, Directory as _, Error, Inbox as _, Marks as _, Posted, Presence, Session, Swap,
};
use tokio::task::JoinSet;

use crate::names;
use crate::promises::{self, Shared, done};
use crate::samples::{holder, mark, message, object, run};

/// How a client begins: with a thread of its own, or on the event loop.
type Start = fn(UnixStream) -> std::io::Result<Client>;

const STARTS: [Start; 2] = [Client::new, Client::here];

/// Runs a test with clients of both kinds.
fn both(test: impl AsyncFn(Start)) {
    for start in STARTS {
        run(test(start));
    }
}

/// A client of a relay that serves `depot` for `scope`, and the task that serves it.
fn relayed(start: Start, depot: Shared, scope: ObjectId) -> (Client, JoinSet<Result<(), relay::Ended>>) {
    let (here, there) = UnixStream::pair().unwrap();
    there.set_nonblocking(true).unwrap();
    let there = tokio::net::UnixStream::from_std(there).unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(relay::serve(there, Arc::new(Session::new(depot)), scope));
    (start(here).unwrap(), serving)
}

#[test]
fn every_call_passes_with_its_answer() {
    both(async |start| {
        let memory = Arc::new(Memory::with_presence());
        let object = object();
        let (depot, _serving) = relayed(start, Arc::clone(&memory) as Shared, object);
        assert_eq!(depot.mark(object).await.unwrap(), None);
        let version = done(depot.swap(&mark(object, 1), None).await.unwrap());
        let conflict = depot.swap(&mark(object, 2), None).await.unwrap();
        assert_eq!(conflict, Swap::Conflict(Some((mark(object, 1), version.clone()))));
        done(depot.swap(&mark(object, 2), Some(&version)).await.unwrap());
        assert_eq!(
            depot.mark(object).await.unwrap(),
            memory.mark(object).await.unwrap()
        );
        assert_eq!(depot.describe(), memory.describe());

        assert_eq!(
            depot.presence(object, holder(1)).await.unwrap(),
            Presence::Unknown
        );
        let guard = memory.register(object, holder(1)).await.unwrap();
        assert_eq!(depot.presence(object, holder(1)).await.unwrap(), Presence::Here);
        drop(guard);
        assert_eq!(depot.presence(object, holder(1)).await.unwrap(), Presence::Gone);

        // Under which name the copy runs passes, and is held at the other end; so is what it wrote.
        assert!(depot.register(object, holder(2)).await.unwrap().is_none());
        assert_eq!(depot.presence(object, holder(2)).await.unwrap(), Presence::Here);
        assert!(!depot.is_own_write(&mark(object, 3)).await.unwrap());
        assert!(depot.register(object, holder(3)).await.unwrap().is_none());
        assert_eq!(depot.presence(object, holder(2)).await.unwrap(), Presence::Gone);
        assert_eq!(depot.presence(object, holder(3)).await.unwrap(), Presence::Here);

        depot
            .announce(object, b"asleep", Some(Timestamp(7)))
            .await
            .unwrap();
        assert_eq!(
            depot.announcement(object).await.unwrap().as_deref(),
            Some(&b"asleep"[..])
        );
        assert_eq!(
            memory.due(Timestamp(7), 9).await.unwrap(),
            [(Timestamp(7), object)]
        );

        assert_eq!(depot.post(object, &message("a")).await.unwrap(), Posted::Stored);
        assert_eq!(
            depot.post(object, &message("a")).await.unwrap(),
            Posted::Duplicate
        );
        let waiting = depot.inbox(object, 9).await.unwrap();
        assert_eq!(waiting, memory.inbox(object, 9).await.unwrap());
        depot.acknowledge(object, &[message("a").key()]).await.unwrap();
        assert_eq!(depot.inbox(object, 9).await.unwrap(), []);
    });
}

#[test]
fn what_is_kept_passes_up_to_its_limits_and_a_waiter_hears_of_a_message() {
    both(async |start| {
        for number in 0..2 {
            // These promises ask for one object only, whose id the relay must know before.
            let memory: Shared = Arc::new(Memory::new());
            let object = object();
            let (depot, _serving) = relayed(start, Arc::clone(&memory), object);
            let large = vec![number; suijuris_depot::MAX_SEGMENT];
            depot.put_segment(object, 3..=7, &large).await.unwrap();
            assert!(depot.segment(object, 3..=7).await.unwrap() == Some(large.clone()));
            assert_eq!(depot.segments(object).await.unwrap(), [3..=7]);
            let error = depot.put_segment(object, 3..=7, b"other").await.unwrap_err();
            assert!(matches!(error, Error::Different(_)), "{error}");
            depot.put_bundle(BundleId::of(b"b"), &large).await.unwrap();
            assert!(depot.bundle(BundleId::of(b"b")).await.unwrap() == Some(large));
            depot
                .inbox_changed(object, Duration::from_millis(10))
                .await
                .unwrap();
        }
    });
}

#[test]
fn other_objects_and_lists_of_objects_are_refused() {
    both(async |start| {
        let memory: Shared = Arc::new(Memory::new());
        let (depot, _serving) = relayed(start, Arc::clone(&memory), object());
        let other = object();
        let refused = |error: Error| assert!(matches!(error, Error::NotAllowed(_)), "{error}");
        refused(depot.mark(other).await.unwrap_err());
        refused(depot.swap(&mark(other, 1), None).await.unwrap_err());
        refused(depot.presence(other, holder(1)).await.unwrap_err());
        refused(depot.announce(other, b"", None).await.unwrap_err());
        refused(depot.announcement(other).await.unwrap_err());
        refused(depot.put_segment(other, 0..=0, b"").await.unwrap_err());
        refused(depot.segments(other).await.unwrap_err());
        refused(depot.segment(other, 0..=0).await.unwrap_err());
        refused(depot.post(other, &message("a")).await.unwrap_err());
        refused(depot.inbox(other, 1).await.unwrap_err());
        refused(depot.acknowledge(other, &[]).await.unwrap_err());
        refused(depot.inbox_changed(other, Duration::ZERO).await.unwrap_err());
        refused(depot.announced(None, 1).await.unwrap_err());
        refused(depot.due(Timestamp(0), 1).await.unwrap_err());
        let (class, acme, entry) = (names::class(), names::key("acme"), names::founding());
        refused(depot.name(class, &acme).await.unwrap_err());
        refused(depot.swap_name(class, &acme, &entry, None).await.unwrap_err());
        let version = names::done(memory.swap_name(class, &acme, &entry, None).await.unwrap());
        refused(depot.remove_name(class, &acme, &version).await.unwrap_err());
        refused(depot.names(class, None, 1).await.unwrap_err());
        refused(depot.count_names(class).await.unwrap_err());
        assert_eq!(memory.name(class, &acme).await.unwrap(), Some((entry, version)));
        assert_eq!(memory.mark(other).await.unwrap(), None);
    });
}

#[test]
fn failures_arrive_as_what_they_are() {
    both(async |start| {
        let memory = Arc::new(Memory::new());
        let faulty = Arc::new(Faulty::new(Arc::clone(&memory) as Shared));
        let object = object();
        let (depot, _serving) = relayed(start, Arc::clone(&faulty) as Shared, object);
        faulty.once(Some(Call::Swap), Fault::LostAnswer);
        faulty.once(Some(Call::Swap), Fault::ReadOnly);
        faulty.once(Some(Call::Swap), Fault::Full);
        let swap = async || depot.swap(&mark(object, 1), None).await.unwrap_err();
        let lost = swap().await;
        assert!(
            matches!(lost, Error::Unreachable(..)) && lost.is_retryable(),
            "{lost}"
        );
        assert!(
            depot.mark(object).await.unwrap().is_some(),
            "it happened all the same"
        );
        assert!(matches!(swap().await, Error::ReadOnly(..)));
        assert!(matches!(swap().await, Error::Full(_)));
        memory.corrupt(object, suijuris_depot::memory::What::Mark, b"nonsense");
        let error = depot.mark(object).await.unwrap_err();
        assert!(
            matches!(&error, Error::Garbage { place, .. } if place.contains("mark")),
            "{error}"
        );
    });
}

/// On several threads, where calls that came one behind the other may be worked on in any order.
#[test]
fn a_reader_behind_a_relay_hears_of_each_message() {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    threads.block_on(async {
        for start in STARTS.repeat(10) {
            let object = object();
            let (depot, _serving) = relayed(start, Arc::new(Memory::new()), object);
            let depot = Arc::new(Session::new(Arc::new(depot)));
            promises::a_reader_hears_of_each_message(depot, object).await;
        }
    });
}

#[test]
fn a_slow_call_does_not_hold_up_others() {
    both(async |start| {
        let memory: Shared = Arc::new(Memory::new());
        let faulty = Arc::new(Faulty::new(memory));
        let object = object();
        let (depot, _serving) = relayed(start, Arc::clone(&faulty) as Shared, object);
        faulty.once(Some(Call::Announce), Fault::Silence);
        let mut slow = depot.announce(object, b"x", None);
        tokio::select! {
            biased;
            answer = &mut slow => panic!("{answer:?}"),
            mark = depot.mark(object) => assert_eq!(mark.unwrap(), None),
        }
    });
}

#[test]
fn counting_through_two_relays_loses_no_step() {
    both(async |start| {
        let memory: Shared = Arc::new(Memory::new());
        let object = object();
        let (one, _serving) = relayed(start, Arc::clone(&memory), object);
        let (two, _serving2) = relayed(start, Arc::clone(&memory), object);
        done(one.swap(&mark(object, 0), None).await.unwrap());
        for turn in 0..40 {
            let depot: &Client = if turn % 3 == 0 { &two } else { &one };
            let (present, version) = depot.mark(object).await.unwrap().unwrap();
            done(
                depot
                    .swap(&mark(object, present.seq + 1), Some(&version))
                    .await
                    .unwrap(),
            );
        }
        assert_eq!(memory.mark(object).await.unwrap().unwrap().0.seq, 40);
    });
}

#[test]
fn the_end_of_the_relay_answers_all_who_wait() {
    both(async |start| {
        let memory: Shared = Arc::new(Memory::new());
        let faulty = Arc::new(Faulty::new(memory));
        faulty.always(Some(Fault::Silence));
        let object = object();
        let (depot, mut serving) = relayed(start, faulty, object);
        let waits = depot.mark(object);
        serving.shutdown().await;
        for answer in [waits.await, depot.mark(object).await] {
            assert!(matches!(answer, Err(Error::Unreachable(..))), "{answer:?}");
        }
    });
}

#[test]
fn an_end_that_talks_nonsense_is_cut_off() {
    both(async |start| {
        use tokio::io::AsyncWriteExt as _;
        for nonsense in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\0",
            b"\0\0\0\x02\xf6\xf6",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let (mut here, there) = tokio::net::UnixStream::pair().unwrap();
            let memory = Arc::new(Session::new(Arc::new(Memory::new())));
            let mut serving = JoinSet::new();
            serving.spawn(relay::serve(there, memory, object()));
            here.write_all(nonsense).await.unwrap();
            let ended = serving.join_next().await.unwrap().unwrap();
            assert!(matches!(ended, Err(relay::Ended::Refused(_))), "{ended:?}");

            let (mut here, there) = tokio::net::UnixStream::pair().unwrap();
            let client = start(there.into_std().unwrap()).unwrap();
            here.write_all(nonsense).await.unwrap();
            let answer = client.mark(object()).await;
            assert!(matches!(answer, Err(Error::Unreachable(..))), "{answer:?}");
        }
    });
}

#[test]
fn whoever_closes_its_end_ends_the_relay_in_order() {
    both(async |start| {
        let memory: Shared = Arc::new(Memory::new());
        let (depot, mut serving) = relayed(start, memory, object());
        drop(depot);
        let ended = serving.join_next().await.unwrap().unwrap();
        assert!(ended.is_ok(), "{ended:?}");
    });
}

#[test]
fn a_relay_runs_under_any_executor() {
    // The serving end has tokio; the asking end only a thread that polls.
    let (here, there) = UnixStream::pair().unwrap();
    let object = object();
    let asking = std::thread::spawn(move || {
        let depot = Client::new(here).unwrap();
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut answer = depot.mark(object);
        loop {
            match answer.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
                std::task::Poll::Ready(answer) => break answer.unwrap(),
                std::task::Poll::Pending => std::thread::park(),
            }
        }
    });
    run(async {
        there.set_nonblocking(true).unwrap();
        let there = tokio::net::UnixStream::from_std(there).unwrap();
        relay::serve(there, Arc::new(Session::new(Arc::new(Memory::new()))), object)
            .await
            .unwrap();
    });
    assert_eq!(asking.join().unwrap(), None);
}
