//! Processes that are killed in the middle of their work leave the old or the new, and no lock.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use suijuris_core::class::Key;
use suijuris_core::class::founding::Stage;
use suijuris_depot::local::Local;
use suijuris_depot::{Directory as _, Inbox as _, Marks as _, Posted, Presence, Swap};

use crate::child;
use crate::names;
use crate::promises::done;
use crate::samples::{holder, mark, message, object, run};

/// Times that a child is killed.
const KILLS: usize = 12;

/// Starts a child and lets it write `lines` lines before it is killed; the last whole line.
fn killed_after(name: &str, kind: &str, argument: &str, lines: usize) -> u64 {
    let mut command = child::command(name, kind, argument);
    let mut child: Child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut counts = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .filter_map(|line| {
            line.unwrap()
                .strip_prefix("done ")
                .map(|count| count.parse::<u64>().unwrap())
        });
    let mut last = counts.by_ref().take(lines).last().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had written before the signal came.
    last = counts.last().unwrap_or(last);
    last
}

pub(crate) fn say(count: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\ndone {count}").unwrap();
    out.flush().unwrap();
}

#[test]
fn marks_survive_kills_in_the_middle_of_swaps() {
    if let Some(argument) = child::argument("swaps") {
        let (path, id) = argument.split_once(' ').unwrap();
        let object = id.parse().unwrap();
        return run(async {
            let depot = Local::open(path.as_ref()).unwrap();
            let (mut present, mut version) = depot.mark(object).await.unwrap().unwrap();
            loop {
                let next = mark(object, present.seq + 1);
                version = done(depot.swap(&next, Some(&version)).await.unwrap());
                present = next;
                say(present.seq);
            }
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let object = object();
    run(async {
        let depot = Local::open(directory.path()).unwrap();
        done(depot.swap(&mark(object, 0), None).await.unwrap());
        let argument = format!("{} {object}", directory.path().display());
        for round in 0..KILLS {
            let name = "crash::marks_survive_kills_in_the_middle_of_swaps";
            let told = killed_after(name, "swaps", &argument, 3 + 7 * round);
            let (found, version) = depot.mark(object).await.unwrap().unwrap();
            assert!(
                [told, told + 1].contains(&found.seq),
                "told {told}, found {}",
                found.seq
            );
            assert_eq!(found, mark(object, found.seq));
            // The lock went with its owner.
            let next = mark(object, found.seq + 1);
            assert!(matches!(
                depot.swap(&next, Some(&version)).await.unwrap(),
                Swap::Done(_)
            ));
        }
    });
}

#[test]
fn messages_survive_kills_and_come_once() {
    if let Some(argument) = child::argument("posts") {
        let (path, id) = argument.split_once(' ').unwrap();
        let object = id.parse().unwrap();
        return run(async {
            let depot = Local::open(path.as_ref()).unwrap();
            for count in 0.. {
                let _ = depot.post(object, &message(&format!("m{count}"))).await.unwrap();
                say(count);
                if count % 3 == 0 {
                    let key = message(&format!("m{}", count / 3)).key();
                    depot.acknowledge(object, &[key]).await.unwrap();
                }
            }
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let object = object();
    run(async {
        let depot = Local::open(directory.path()).unwrap();
        let argument = format!("{} {object}", directory.path().display());
        for round in 0..KILLS {
            let name = "crash::messages_survive_kills_and_come_once";
            let told = killed_after(name, "posts", &argument, 5 + 5 * round);
            let waiting = depot.inbox(object, 100_000).await.unwrap();
            let ids: Vec<&str> = waiting
                .iter()
                .map(|waiting| waiting.message.id.as_str())
                .collect();
            let number = |id: &str| id[1..].parse::<u64>().unwrap();
            assert!(ids.is_sorted_by_key(|id| number(id)), "{ids:?}");
            // All that were told of and not acknowledged, each once: those acknowledged are the first ones.
            let first = ids.first().map_or(0, |id| number(id));
            let last = ids.last().map_or(0, |id| number(id));
            assert!(
                last >= told && first <= last / 3 + 1,
                "{first}..={last}, told {told}"
            );
            assert!(ids.iter().map(|id| number(id)).eq(first..=last), "{ids:?}");
            for id in [first, last, 0] {
                let again = depot.post(object, &message(&format!("m{id}"))).await.unwrap();
                assert_eq!(again, Posted::Duplicate, "m{id}");
            }
        }
    });
}

#[test]
fn name_tables_survive_kills_and_are_counted_right() {
    if let Some(argument) = child::argument("founds") {
        let mut parts = argument.split(' ');
        let mut part = || parts.next().unwrap();
        let (path, class, round) = (part(), part().parse().unwrap(), part());
        return run(async {
            let depot = Local::open(path.as_ref()).unwrap();
            for count in 0.. {
                let key = names::key(&format!("r{round}-{count}"));
                let founding = names::founding();
                let version = names::done(depot.swap_name(class, &key, &founding, None).await.unwrap());
                if count % 3 == 0 {
                    let tombstone = founding.at(Stage::Tombstone);
                    let swapped = depot.swap_name(class, &key, &tombstone, Some(&version)).await;
                    names::done(swapped.unwrap());
                }
                depot.count_names(class).await.unwrap();
                say(count);
            }
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let class = names::class();
    run(async {
        let depot = Local::open(directory.path()).unwrap();
        for round in 0..KILLS {
            let argument = format!("{} {class} {round}", directory.path().display());
            let name = "crash::name_tables_survive_kills_and_are_counted_right";
            let told = killed_after(name, "founds", &argument, 3 + 5 * round);
            let found = depot.names(class, None, 10_000).await.unwrap();
            let of_round = |count: u64| names::key(&format!("r{round}-{count}"));
            let has = |key: &Key| found.iter().any(|(found, _)| found == key);
            assert!((0..=told).all(|count| has(&of_round(count))), "told {told}");
            assert!(!has(&of_round(told + 2)), "told {told}");
            let live = found.iter().filter(|(_, entry)| entry.state != Stage::Tombstone);
            assert_eq!(depot.count_names(class).await.unwrap(), live.count() as u64);
        }
    });
}

#[test]
fn a_killed_holder_is_gone_at_once() {
    if let Some(argument) = child::argument("registers") {
        let (path, id) = argument.split_once(' ').unwrap();
        return run(async {
            let depot = Local::open(path.as_ref()).unwrap();
            let _attendance = depot
                .register(id.parse().unwrap(), holder(7))
                .await
                .unwrap()
                .unwrap();
            say(1);
            std::future::pending::<()>().await;
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let object = object();
    let depot = Local::open(directory.path()).unwrap();
    let mut command = child::command(
        "crash::a_killed_holder_is_gone_at_once",
        "registers",
        &format!("{} {object}", directory.path().display()),
    );
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "done 1"));
    let presence = || run(depot.presence(object, holder(7))).unwrap();
    assert_eq!(presence(), Presence::Here);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(presence(), Presence::Gone);
}

#[test]
fn a_machine_that_inherits_the_descriptor_is_here_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let object = object();
    let depot = Local::open(directory.path()).unwrap();
    let guard = run(depot.register(object, holder(7))).unwrap().unwrap();
    let descriptor = guard.descriptor().unwrap().try_clone_to_owned().unwrap();
    // As its standard input, the simplest descriptor to inherit.
    let mut machine = std::process::Command::new("sh")
        .args(["-c", "echo up; exec sleep 1000"])
        .stdin(descriptor)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut told = BufReader::new(machine.stdout.take().unwrap());
    told.read_line(&mut line).unwrap();
    drop(guard);
    let presence = || run(depot.presence(object, holder(7))).unwrap();
    assert_eq!(presence(), Presence::Here);
    machine.kill().unwrap();
    machine.wait().unwrap();
    assert_eq!(presence(), Presence::Gone);
}
