//! Many objects that rest with one process: one descriptor for all, and each still its own; each reads its inbox.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_depot::local::Local;
use suijuris_depot::{Marks as _, Presence, PresenceGuard, Session};

use crate::child;
use crate::crash::say;
use crate::promises::Shared;
use crate::samples::{holder, message, object, run};

fn open(path: &Path) -> Shared {
    Arc::new(Local::open(path).unwrap())
}

async fn rests(depot: &Shared, object: ObjectId) -> Session {
    let session = Session::new(Arc::clone(depot));
    session.register(object, holder(1)).await.unwrap();
    session.rest().await.unwrap();
    session
}

fn presence(depot: &Shared, object: ObjectId) -> Presence {
    run(depot.presence(object, holder(1))).unwrap()
}

/// In a process of its own, where nothing else opens descriptors.
#[test]
fn any_number_that_rest_need_one_descriptor() {
    let Some(path) = child::argument("rests") else {
        let directory = tempfile::tempdir().unwrap();
        let name = "rest::any_number_that_rest_need_one_descriptor";
        return child::passes(child::command(name, "rests", directory.path().to_str().unwrap()));
    };
    let depot = open(path.as_ref());
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    run(async {
        let first = rests(&depot, object()).await;
        let before = open_files();
        let mut resting = Vec::new();
        for _ in 0..200 {
            let object = object();
            resting.push((object, rests(&depot, object).await));
        }
        assert_eq!(open_files(), before);
        for (object, session) in &resting {
            assert!(session.presence_guard().await.unwrap().is_some());
            session.rest().await.unwrap();
            assert_eq!(depot.presence(*object, holder(1)).await.unwrap(), Presence::Here);
        }
        assert_eq!(open_files(), before);
        // Each lets go by itself.
        let (left, _) = resting.pop().unwrap();
        assert_eq!(depot.presence(left, holder(1)).await.unwrap(), Presence::Gone);
        let (other, _) = resting.last().unwrap();
        assert_eq!(depot.presence(*other, holder(1)).await.unwrap(), Presence::Here);
        drop(first);
    });
}

#[test]
fn those_that_rest_end_with_their_process_and_one_that_is_lent_with_its_machine() {
    if let Some(argument) = child::argument("lends") {
        let mut parts = argument.split(' ');
        let depot = open(parts.next().unwrap().as_ref());
        return run(async {
            let mut all = Vec::new();
            for id in parts {
                all.push(rests(&depot, id.parse().unwrap()).await);
            }
            let guard = all[0].presence_guard().await.unwrap().unwrap();
            let descriptor = guard.descriptor().unwrap().try_clone_to_owned().unwrap();
            // As its standard input, the simplest descriptor to inherit.
            let mut machine = Command::new("sleep")
                .arg("100000")
                .stdin(descriptor)
                .spawn()
                .unwrap();
            say(machine.id().into());
            // Killed before that ends.
            machine.wait().unwrap();
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let (lent, resting) = (object(), object());
    let depot = open(directory.path());
    let argument = format!("{} {lent} {resting}", directory.path().display());
    let name = "rest::those_that_rest_end_with_their_process_and_one_that_is_lent_with_its_machine";
    let mut process = child::command(name, "lends", &argument)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let machine = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("done ").map(str::to_owned))
        .unwrap();
    assert_eq!(presence(&depot, lent), Presence::Here);
    assert_eq!(presence(&depot, resting), Presence::Here);
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(presence(&depot, lent), Presence::Here, "its machine runs");
    assert_eq!(presence(&depot, resting), Presence::Gone);
    let killed = Command::new("kill").args(["-9", &machine]).status().unwrap();
    assert!(killed.success());
    while Path::new(&format!("/proc/{machine}/fd/0")).exists() {
        std::thread::yield_now();
    }
    assert_eq!(presence(&depot, lent), Presence::Gone);
    // The next process in which objects rest removes what the dead one left.
    let processes = || {
        std::fs::read_dir(directory.path().join("processes"))
            .unwrap()
            .count()
    };
    assert_eq!(processes(), 1);
    let session = run(rests(&depot, resting));
    assert_eq!(processes(), 1);
    assert_eq!(presence(&depot, resting), Presence::Here);
    drop(session);
    drop(depot);
    assert_eq!(processes(), 0);
}

/// Whoever asks may stop waiting at any time, as where the object is woken meanwhile.
#[test]
fn an_answer_that_nobody_waits_for_leaves_the_copy_here() {
    let directory = tempfile::tempdir().unwrap();
    let depot = open(directory.path());
    let object = object();
    run(async {
        let session = rests(&depot, object).await;
        let here = async || depot.presence(object, holder(1)).await.unwrap();
        for round in 0..50 {
            let rest = tokio::time::timeout(Duration::ZERO, session.rest()).await;
            assert_eq!(here().await, Presence::Here, "{round} {rest:?}");
            let part = tokio::time::timeout(Duration::ZERO, session.presence_guard()).await;
            assert_eq!(here().await, Presence::Here, "{round} {part:?}");
        }
        // What it gives in the end is what holds the name.
        let guard = session.presence_guard().await.unwrap().unwrap();
        assert!(guard.descriptor().is_some());
        drop(session);
        assert_eq!(here().await, Presence::Here);
        drop(guard);
        assert_eq!(here().await, Presence::Gone);
    });
}

#[test]
fn a_common_file_that_takes_no_more_links_is_followed_by_another() {
    let directory = tempfile::tempdir().unwrap();
    let depot = open(directory.path());
    let (one, two) = (object(), object());
    let first = run(rests(&depot, one));
    let processes = directory.path().join("processes");
    let common = std::fs::read_dir(&processes)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let links = tempfile::tempdir_in(directory.path()).unwrap();
    let full = (0..66_000).any(|n| std::fs::hard_link(&common, links.path().join(n.to_string())).is_err());
    let second = run(rests(&depot, two));
    let files = std::fs::read_dir(&processes).unwrap().count();
    assert_eq!(files, if full { 2 } else { 1 });
    let guard =
        |session: &Session| -> Arc<dyn PresenceGuard> { run(session.presence_guard()).unwrap().unwrap() };
    for (session, object) in [(first, one), (second, two)] {
        assert_eq!(presence(&depot, object), Presence::Here);
        let own = guard(&session);
        drop(session);
        assert_eq!(presence(&depot, object), Presence::Here);
        drop(own);
        assert_eq!(presence(&depot, object), Presence::Gone);
    }
}

#[test]
fn whoever_waits_for_an_inbox_waits_however_many_do() {
    let directory = tempfile::tempdir().unwrap();
    let depot = open(directory.path());
    let object = object();
    run(async {
        let mut waits: Vec<_> = (0..2_000)
            .map(|_| depot.inbox_changed(object, Duration::from_secs(3_000)))
            .collect();
        for (number, wait) in waits.iter_mut().enumerate() {
            let early = tokio::time::timeout(Duration::ZERO, wait).await;
            assert!(early.is_err(), "{number}");
        }
        depot.post(object, &message("for all")).await.unwrap();
        for wait in waits {
            let heard = tokio::time::timeout(Duration::from_secs(60), wait).await;
            heard.expect("the wait outlasts the message").unwrap();
        }
    });
}
