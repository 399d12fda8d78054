//! What cannot be used is called so, with its place; nothing panics and nothing is overwritten.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use suijuris_core::ObjectId;
use suijuris_core::time::Timestamp;
use suijuris_depot::local::Local;
use suijuris_depot::memory::{Memory, What};
use suijuris_depot::{Archive as _, Directory as _, Error, Inbox as _, Marks as _};

use crate::names;
use crate::promises::done;
use crate::samples::{mark, message, object, run};

fn garbage<T: std::fmt::Debug>(answer: Result<T, Error>, at: &str) {
    let error = answer.unwrap_err();
    assert!(
        matches!(&error, Error::Garbage { place, .. } if place.contains(at)),
        "{error}"
    );
    assert!(!error.is_retryable());
}

struct Home {
    _directory: tempfile::TempDir,
    depot: Local,
    object: ObjectId,
    home: PathBuf,
}

/// A local depot with an object in it, and where its files are (`spec/depot.md`).
fn home() -> Home {
    let directory = tempfile::tempdir().unwrap();
    let depot = Local::open(directory.path()).unwrap();
    let object = object();
    run(async {
        done(depot.swap(&mark(object, 1), None).await.unwrap());
        depot
            .announce(object, b"asleep", Some(Timestamp(1)))
            .await
            .unwrap();
        depot.post(object, &message("a")).await.unwrap();
        depot.put_segment(object, 0..=9, b"bytes").await.unwrap();
    });
    let id = object.to_string();
    let home = directory.path().join("objects").join(&id[7..9]).join(&id);
    assert!(home.join("mark").is_file());
    Home {
        _directory: directory,
        depot,
        object,
        home,
    }
}

#[test]
fn garbage_in_place_of_a_mark() {
    let Home {
        depot, object, home, ..
    } = &home();
    let good = fs::read(home.join("mark")).unwrap();
    let of_another = run(async {
        let directory = tempfile::tempdir().unwrap();
        let other = Local::open(directory.path()).unwrap();
        let id = crate::samples::object();
        done(other.swap(&mark(id, 1), None).await.unwrap());
        let id = id.to_string();
        fs::read(
            directory
                .path()
                .join("objects")
                .join(&id[7..9])
                .join(&id)
                .join("mark"),
        )
        .unwrap()
    });
    for bytes in [
        &b""[..],
        b"short",
        &[0; 5_000],
        &good[..good.len() - 1],
        &of_another,
    ] {
        fs::write(home.join("mark"), bytes).unwrap();
        run(async {
            garbage(depot.mark(*object).await, "mark");
            garbage(depot.swap(&mark(*object, 9), None).await, "mark");
        });
        assert_eq!(fs::read(home.join("mark")).unwrap(), bytes, "it is left as it is");
    }
    fs::remove_file(home.join("mark")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", home.join("mark")).unwrap();
    run(async { garbage(depot.mark(*object).await, "mark") });
    fs::remove_file(home.join("mark")).unwrap();
    fs::create_dir(home.join("mark")).unwrap();
    run(async { garbage(depot.mark(*object).await, "mark") });
}

#[test]
fn garbage_among_announcements_messages_and_segments() {
    let Home {
        depot, object, home, ..
    } = &home();
    let object = *object;
    run(async {
        for bytes in [
            &b"short"[..],
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 7],
            &vec![0; 2 << 20],
            &[9; 40],
        ] {
            fs::write(home.join("announcement"), bytes).unwrap();
            garbage(depot.announcement(object).await, "announcement");
        }
        // Others' timers go on; whoever reads this one's announcement is told.
        assert_eq!(
            depot.due(Timestamp(5), 9).await.unwrap(),
            [(Timestamp(1), object)]
        );
        depot.announce(object, b"anew", None).await.unwrap();
        assert_eq!(
            depot.announcement(object).await.unwrap().as_deref(),
            Some(&b"anew"[..])
        );

        let inbox = home.join("inbox");
        let name = fs::read_dir(&inbox).unwrap().next().unwrap().unwrap().path();
        let good = fs::read(&name).unwrap();
        for bytes in [
            &b"nonsense"[..],
            &good[1..],
            &message("another").encode().unwrap(),
            &vec![0; 1 << 20],
        ] {
            fs::write(&name, bytes).unwrap();
            garbage(depot.inbox(object, 9).await, "inbox");
        }
        fs::write(&name, good).unwrap();
        fs::write(inbox.join("stray"), "").unwrap();
        garbage(depot.inbox(object, 9).await, "stray");
        garbage(depot.post(object, &message("b")).await, "stray");
        fs::remove_file(inbox.join("stray")).unwrap();
        fs::write(home.join("place"), "x").unwrap();
        garbage(depot.post(object, &message("b")).await, "place");

        fs::write(home.join("segments").join("1-2"), "").unwrap();
        garbage(depot.segments(object).await, "1-2");
    });
}

#[test]
fn garbage_in_a_name_table() {
    let directory = tempfile::tempdir().unwrap();
    let depot = Local::open(directory.path()).unwrap();
    let (class, acme) = (names::class(), names::key("acme"));
    let table = directory
        .path()
        .join("classes")
        .join(class.to_string())
        .join("names");
    run(async {
        let version = names::done(
            depot
                .swap_name(class, &acme, &names::founding(), None)
                .await
                .unwrap(),
        );
        let path = table.join("acme");
        let good = fs::read(&path).unwrap();
        for bytes in [
            &b""[..],
            b"short",
            &[0; 18],
            &[0xff; 5_000],
            &good[..good.len() - 1],
        ] {
            fs::write(&path, bytes).unwrap();
            garbage(depot.name(class, &acme).await, "names/acme");
            garbage(depot.names(class, None, 9).await, "names/acme");
            garbage(depot.remove_name(class, &acme, &version).await, "names/acme");
            for expected in [None, Some(&version)] {
                let swapped = depot.swap_name(class, &acme, &names::founding(), expected).await;
                garbage(swapped, "names/acme");
            }
            assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
            assert_eq!(
                depot.count_names(class).await.unwrap(),
                1,
                "nobody knows what it was"
            );
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        garbage(depot.name(class, &acme).await, "names/acme");
        fs::remove_file(&path).unwrap();
        fs::write(table.join("Stray"), "").unwrap();
        garbage(depot.names(class, None, 9).await, "names/Stray");
        assert_eq!(depot.name(class, &acme).await.unwrap(), None);
    });
}

#[test]
fn a_count_that_cannot_be_believed_is_counted_again() {
    let directory = tempfile::tempdir().unwrap();
    let depot = Local::open(directory.path()).unwrap();
    let class = names::class();
    let home = directory.path().join("classes").join(class.to_string());
    let count = || run(depot.count_names(class)).unwrap();
    for text in ["a", "b"] {
        let swapped = run(depot.swap_name(class, &names::key(text), &names::founding(), None));
        names::done(swapped.unwrap());
    }
    assert_eq!(count(), 2);
    let good = fs::read(home.join("count")).unwrap();
    // By another hand: what is known is not counted again, however many there are.
    suijuris_testkit::program::copy(home.join("names/a"), home.join("names/c"));
    assert_eq!(count(), 2);
    let of_another_boot = [b"00000000-0000-0000-0000-000000000000", &good[36..]].concat();
    for bytes in [
        &b""[..],
        b"2",
        &good[..good.len() - 2],
        &[0xff; 200],
        &of_another_boot,
    ] {
        fs::write(home.join("count"), bytes).unwrap();
        assert_eq!(count(), 3);
    }
    // What counts on goes on from it.
    names::done(run(depot.swap_name(class, &names::key("d"), &names::founding(), None)).unwrap());
    assert_eq!(count(), 4);
    let copy = tempfile::tempdir().unwrap();
    let mut copies = std::process::Command::new("cp");
    copies
        .arg("-a")
        .arg(directory.path())
        .arg(copy.path().join("depot"));
    assert!(copies.status().unwrap().success());
    fs::remove_file(
        copy.path()
            .join("depot/classes")
            .join(class.to_string())
            .join("names/d"),
    )
    .unwrap();
    let copied = Local::open(&copy.path().join("depot")).unwrap();
    assert_eq!(
        run(copied.count_names(class)).unwrap(),
        3,
        "a copy is counted by itself"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_anywhere_are_read_or_called_garbage(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let memory = Memory::new();
        let object = object();
        run(async {
            memory.post(object, &message("a")).await.unwrap();
            for what in [What::Mark, What::Announcement, What::Message] {
                memory.corrupt(object, what, &bytes);
            }
            let fine = |error: Error| assert!(matches!(error, Error::Garbage { .. }), "{error}");
            memory.mark(object).await.map(drop).unwrap_or_else(fine);
            memory.announcement(object).await.map(drop).unwrap_or_else(fine);
            memory.inbox(object, 9).await.map(drop).unwrap_or_else(fine);
            let (class, acme) = (names::class(), names::key("acme"));
            memory.corrupt_name(class, &acme, &bytes);
            memory.name(class, &acme).await.map(drop).unwrap_or_else(fine);
            memory.names(class, None, 9).await.map(drop).unwrap_or_else(fine);
        });
    }
}

/// What is put raw under `key` of a prefix is seen by the depot there.
#[cfg(any(feature = "object", feature = "etcd"))]
async fn on_a_server(depot: &dyn suijuris_depot::Depot, put: impl Fn(&str, &str)) {
    let object = object();
    put(&format!("objects/{object}/mark"), "nonsense");
    garbage(depot.mark(object).await, "mark");
    put(&format!("objects/{object}/mark"), &"x".repeat(4_000));
    garbage(depot.mark(object).await, "mark");
    put(
        &format!("announcements/{object}"),
        "nonsense, and longer than the due time before it",
    );
    garbage(depot.announcement(object).await, "announcements");
    depot.announce(object, b"anew", None).await.unwrap();
    put(&format!("objects/{object}/inbox/stray"), "");
    garbage(depot.inbox(object, 9).await, "stray");
    put(&format!("objects/{object}/segments/1-2"), "");
    garbage(depot.segments(object).await, "1-2");
    let (class, acme) = (names::class(), names::key("acme"));
    for nonsense in [
        "nonsense, and longer than a stamp and a length",
        &"x".repeat(1_024),
        &"x".repeat(5_000),
    ] {
        put(&format!("classes/{class}/names/acme"), nonsense);
        garbage(depot.name(class, &acme).await, "names/acme");
        garbage(depot.names(class, None, 9).await, "names/acme");
        let swapped = depot.swap_name(class, &acme, &names::founding(), None).await;
        garbage(swapped, "names/acme");
    }
}

#[cfg(feature = "object")]
#[test]
fn garbage_in_a_bucket() {
    let (server, prefix) = (suijuris_testkit::servers::s3(), crate::backend::prefix());
    run(async {
        let depot = crate::backend::s3_at(server, &prefix).await.unwrap();
        on_a_server(&*depot, |key, value| {
            let length = value.len();
            let request = format!(
                "PUT /depot/{prefix}/{key} HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {length}\r\n\r\n{value}",
                suijuris_testkit::servers::SIGNED
            );
            let answer = suijuris_testkit::servers::http(server, &request);
            assert!(answer.contains(" 200 "), "{answer}");
        })
        .await;
    });
}

#[cfg(feature = "etcd")]
#[test]
fn garbage_in_a_cluster() {
    use base64::Engine as _;
    let (server, prefix) = (suijuris_testkit::servers::etcd(), crate::backend::prefix());
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    run(async {
        let depot = crate::backend::etcd_at(server, &prefix).await.unwrap();
        on_a_server(&*depot, |key, value| {
            let (key, value) = (encode(&format!("{prefix}/{key}")), encode(value));
            let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
            let length = body.len();
            let request = format!(
                "POST /v3/kv/put HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let answer = suijuris_testkit::servers::http(server, &request);
            assert!(answer.contains(" 200 "), "{answer}");
        })
        .await;
    });
}
