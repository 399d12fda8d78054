//! On the machine's own disk: readers beside a writer, many writing threads, kill -9, directories that are none.

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use suijuris_core::lineage::Phase;
use suijuris_core::memory::Value;
use suijuris_store::{Depth, ObjectDir, OpenError, Reader, Secret, Writer};
use suijuris_testkit::disk::Dice;

use crate::support::{bundle_with, chain, commit, count, create_at, dormant, note, open, unsealed, wake};

fn awake(path: &Path) -> (ObjectDir, Writer) {
    let object_dir = ObjectDir::at(path.join("object"));
    create_at(&object_dir, 1).unwrap();
    let writer = open(&object_dir, Depth::Tail);
    wake(&writer, 2).unwrap();
    (object_dir, writer)
}

#[test]
fn a_second_writer_is_told_who_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (object_dir, writer) = awake(dir.path());
    let Err(error) = Writer::open(&object_dir, Depth::Tail, Default::default()) else {
        panic!("two writers")
    };
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(writer);
    open(&object_dir, Depth::Whole);
}

#[test]
fn of_two_creations_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let object_dir = ObjectDir::at(dir.path().join("object"));
    let found: Vec<bool> = thread::scope(|scope| {
        let racers: Vec<_> = (0..4)
            .map(|nonce| {
                scope.spawn({
                    let object_dir = &object_dir;
                    move || create_at(object_dir, nonce).is_ok()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(found.iter().filter(|won| **won).count(), 1);
    Reader::verify(&object_dir, |_| {}).unwrap();
}

#[test]
fn readers_see_a_sound_prefix_while_a_writer_works() {
    let dir = tempfile::tempdir().unwrap();
    let (object_dir, writer) = awake(dir.path());
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for n in 0..400 {
                let tickets: Vec<_> = (0..8).map(|m| writer.stage(count(n * 8 + m)).unwrap()).collect();
                tickets.last().unwrap().wait().unwrap();
            }
        });
        let mut seen = 0;
        while !writing.is_finished() {
            let reader =
                Reader::open(&object_dir, Depth::Tail).unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert!(reader.state().head().seq >= seen, "time runs backwards");
            seen = reader.state().head().seq;
        }
    });
    let reader = Reader::open(&object_dir, Depth::Tail).unwrap();
    assert_eq!(reader.state().head(), writer.published().head());
    let third = reader.records(3..4).unwrap().next().unwrap().unwrap();
    assert_eq!(third.record.seq, 3);
    assert_eq!(
        reader.find(&third.id).unwrap().map(|found| found.record.seq),
        Some(3)
    );
}

#[test]
fn many_threads_share_groups_and_each_is_told_of_its_own_record() {
    let dir = tempfile::tempdir().unwrap();
    let (object_dir, writer) = awake(dir.path());
    let groups = Arc::new(Mutex::new(0_u64));
    writer.watch({
        let groups = Arc::clone(&groups);
        move |_| *groups.lock().unwrap() += 1
    });
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for n in 0..50 {
                    let ticket = writer.stage(count(n)).unwrap();
                    ticket.wait().unwrap();
                    assert!(writer.published().head().seq >= ticket.seq());
                }
            });
        }
    });
    assert_eq!(writer.published().head().seq, 801);
    assert!(*groups.lock().unwrap() <= 800);
    writer.close().unwrap();
    assert_eq!(
        Reader::verify(&object_dir, |_| {}).unwrap().state().head().seq,
        801
    );
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_ticket_can_be_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let (_, writer) = awake(dir.path());
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    for n in 0..20 {
        let mut ticket = pin!(writer.stage(count(n)).unwrap());
        let answer = loop {
            match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(answer) => break answer,
                Poll::Pending => thread::park(),
            }
        };
        answer.unwrap();
        assert_eq!(writer.published().memory().value("count"), Some(&Value::Int(n)));
    }
}

const CHILD: &str = "SUIJURIS_STORE_TEST_CHILD";

/// Appends until killed, saying what was acknowledged.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn append_until_killed(object_dir: &ObjectDir) -> ! {
    let writer = open(object_dir, Depth::Tail);
    if writer.published().head().phase == Phase::Active {
        commit(&writer, unsealed(&writer));
    }
    let seed = u8::try_from(writer.published().head().epoch % 200).unwrap();
    wake(&writer, seed + 20).unwrap();
    for n in 0.. {
        let tickets: Vec<_> = (0..=n % 5).map(|m| writer.stage(count(n + m)).unwrap()).collect();
        tickets.last().unwrap().wait().unwrap();
        println!("acknowledged {}", tickets.last().unwrap().seq());
    }
    unreachable!("counting ends by the kill")
}

// proves B2, A12
#[test]
fn killed_at_random_points_the_object_keeps_every_acknowledged_record() {
    if let Some(path) = std::env::var_os(CHILD) {
        append_until_killed(&ObjectDir::at(path));
    }
    let dir = tempfile::tempdir().unwrap();
    let object_dir = ObjectDir::at(dir.path().join("object"));
    create_at(&object_dir, 1).unwrap();
    let mut dice = Dice::new(7);
    for _ in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "live::killed_at_random_points_the_object_keeps_every_acknowledged_record",
                "--nocapture",
            ])
            .env(CHILD, object_dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let acknowledged = lines.filter_map(|line| line.split("acknowledged ").nth(1)?.parse::<u64>().ok());
        let wanted = usize::try_from(1 + dice.below(300)).unwrap();
        let last = acknowledged.take(wanted).last().expect("the child acknowledges");
        child.kill().unwrap();
        child.wait().unwrap();
        let reader = Reader::verify(&object_dir, |_| {}).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(reader.state().head().seq >= last, "record {last} is gone");
    }
    let writer = open(&object_dir, Depth::Whole);
    commit(&writer, unsealed(&writer));
    wake(&writer, 240).unwrap();
    commit(&writer, dormant());
}

#[test]
fn what_is_no_object_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let text = |object_dir: &ObjectDir| chain(&Reader::open(object_dir, Depth::Tail).map(drop).unwrap_err());
    assert!(text(&ObjectDir::at(dir.path())).contains("holds no object"));
    assert!(text(&ObjectDir::at(dir.path().join("missing"))).contains("holds no object"));
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(
        text(&ObjectDir::at(&file)).contains("cannot list"),
        "{}",
        text(&ObjectDir::at(&file))
    );
    let Err(error) = Writer::open(&ObjectDir::at(dir.path()), Depth::Tail, Default::default()) else {
        panic!("a writer of nothing")
    };
    assert!(matches!(error, OpenError::NotAnObject(_)), "{error}");
    create_at(&ObjectDir::at(&file), 1).unwrap_err();
    let (object_dir, _writer) = awake(dir.path());
    assert!(
        create_at(&object_dir, 1)
            .unwrap_err()
            .to_string()
            .contains("already holds an object")
    );
}

// proves B10
#[test]
fn secrets_lie_beside_the_lineage_under_their_commitment() {
    let dir = tempfile::tempdir().unwrap();
    let (object_dir, writer) = awake(dir.path());
    let secret = Secret {
        salt: suijuris_core::id::Digest::of(b"random"),
        value: Value::String("hunter2".to_owned()),
    };
    let commitment = object_dir.keep_secret(&secret).unwrap();
    assert_eq!(object_dir.secret(&commitment).unwrap(), secret);
    assert!(!format!("{secret:?}").contains("hunter2"));
    let path = object_dir.path().join("secrets").join(commitment.hex());
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    commit(&writer, note("no secret in lineage"));
    for entry in std::fs::read_dir(object_dir.path().join("lineage")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
    std::fs::write(&path, b"other").unwrap();
    object_dir.secret(&commitment).unwrap_err();
    assert_eq!(object_dir.sweep_secrets(writer.published().memory()).unwrap(), 1);
    assert!(!path.exists());
}

#[test]
fn a_bundle_is_put_into_the_store_once_and_read_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (object_dir, writer) = awake(dir.path());
    let other = bundle_with("other");
    let id = writer.bundles().put(&other).unwrap().id();
    assert_eq!(
        suijuris_store::BundleStore::of(&object_dir).files(&id).unwrap(),
        other
    );
    let mut swapped = other;
    swapped.program.push(0);
    writer.bundles().put(&swapped).unwrap_err();
}
