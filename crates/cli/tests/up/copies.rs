//! Copies of an object: twins, older copies, and the one that is the object.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, Ran, STAY, Up, is_like, run};

/// Copies everything as it lies there, as a backup or an image of a volume does.
fn image(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// An object with a field to write, and room for copies beside it.
fn object() -> Object {
    Object::new("[memory.note]\ntype = \"string\"\n", &format!("{OPEN}{STAY}"))
}

fn beside(object: &Object, name: &str) -> PathBuf {
    object.home().join(name)
}

/// `up` on a copy that is to be refused.
fn refused(object: &Object, dir: &Path) -> (Ran, Value) {
    let mut command = object.command("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_suijuris"), "up", "--json"]);
    let ran = run(command.arg(dir)).code(1);
    let events = ran.lines();
    assert!(is_like(&events[0], &json!({"event": "listening"})), "{events:?}");
    let refused = events.iter().find(|event| event["event"] == "refused");
    let refused = refused
        .unwrap_or_else(|| panic!("no refusal in {events:?}"))
        .clone();
    let served = events
        .iter()
        .find(|event| event["event"] == "workload" || event["event"] == "woke");
    assert_eq!(served, None, "{events:?}");
    (ran, refused)
}

fn up_in(object: &Object, dir: &Path) -> Up {
    let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
    command.arg("up").arg(dir);
    Up::start(command)
}

// proves B6
#[test]
fn of_two_copies_one_serves_and_the_other_says_twin() {
    let object = object();
    object.up().interrupt();
    let copy = beside(&object, "copy");
    image(object.dir(), &copy);
    let mut first = object.up();
    first.get("/").status(200);
    first.wait_event("woke");
    let (_, event) = refused(&object, &copy);
    assert_eq!(event["reason"], "twin", "{event}");
    let evidence = &event["evidence"];
    assert!(evidence["holder"].as_str().unwrap().contains("host "), "{event}");
    assert!(
        evidence["witnessed"]["seq"].as_u64() > evidence["ours"]["seq"].as_u64(),
        "{event}"
    );
    first.get("/").status(200);
    assert_eq!(first.interrupt(), Some(0));
}

// proves B6
#[test]
fn an_older_copy_is_rolled_back_and_stays_refused() {
    let object = object();
    let up = object.up();
    up.set(&json!({"note": "old"}));
    assert_eq!(up.interrupt(), Some(0));
    let yesterday = beside(&object, "yesterday");
    image(object.dir(), &yesterday);
    let up = object.up();
    up.set(&json!({"note": "new"}));
    assert_eq!(up.interrupt(), Some(0));
    for _ in 0..2 {
        let (_, event) = refused(&object, &yesterday);
        assert_eq!(event["reason"], "rolled_back", "{event}");
        assert!(
            event["evidence"]["witnessed"]["seq"].as_u64().is_some(),
            "{event}"
        );
    }
    // Shut away, it is refused even where no witness can be asked.
    let shown = run(object
        .command(env!("CARGO_BIN_EXE_suijuris"))
        .args(["show", "--json"])
        .arg(&yesterday))
    .code(0)
    .json();
    assert_eq!(shown["phase"], "quarantined");
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
}

// proves B6
#[test]
fn a_copy_that_wrote_on_is_the_object_and_the_original_is_not() {
    let object = object();
    object.up().interrupt();
    let copy = beside(&object, "copy");
    image(object.dir(), &copy);
    let up = up_in(&object, &copy);
    up.set(&json!({"note": "by the copy"}));
    assert_eq!(up.interrupt(), Some(0));
    let (_, event) = refused(&object, object.dir());
    assert_eq!(event["reason"], "rolled_back", "{event}");
}

// proves B6
#[test]
fn an_owner_writes_to_the_copy_that_is_the_object_alone() {
    let object = object();
    object.up().interrupt();
    let yesterday = beside(&object, "yesterday");
    image(object.dir(), &yesterday);
    object.ask(&["memory", "set", "note=asleep"]).code(0);
    let set = |args: &[&str]| {
        let mut command = object.command(env!("CARGO_BIN_EXE_suijuris"));
        run(command.args(["memory", "set"]).arg(&yesterday).args(args))
    };
    let refused = set(&["note=old", "--json"]).code(1).json();
    assert_eq!(refused["reason"], "rolled_back", "{refused}");
    let kept = run(object
        .command(env!("CARGO_BIN_EXE_suijuris"))
        .args(["log", "--json"])
        .arg(&yesterday));
    assert!(!kept.code(0).out.contains("mutated"));
    // And the one that wrote is the object.
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
}

// proves A12
#[test]
fn after_a_kill_the_object_is_had_again_at_once() {
    let object = object();
    let mut up = object.up();
    up.get("/").status(200);
    up.wait_event("woke");
    up.set(&json!({"note": "kept"}));
    up.kill();
    object.nobody_is_left();
    let mut up = object.up();
    up.get("/").status(200);
    up.wait_event("woke");
    let kept = object.ask(&["memory", "get", "note", "--json"]).code(0);
    assert!(kept.out.contains("kept"), "{}", kept.out);
    assert_eq!(up.interrupt(), Some(0));
}

/// A small generator (SplitMix64), so that a trial can be told by its number.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn writes(up: &Up, chance: &mut Chance, least: u64) {
    for n in 0..least + chance.below(3) {
        let answer = up.set(&json!({"note": format!("{n}")}));
        assert!(answer["patched"].is_object(), "{answer}");
    }
}

/// One object, copied somewhere in its life, then a copy that is not the object: by being older, or by running second.
fn trial(seed: u64) {
    let chance = &mut Chance(seed);
    let object = object();
    let up = object.up();
    writes(&up, chance, 0);
    let copied_alive = chance.below(2) == 0;
    let copy = beside(&object, "copy");
    if copied_alive {
        image(object.dir(), &copy);
    }
    let mut up = Some(up);
    if !copied_alive {
        up.take().unwrap().interrupt();
        image(object.dir(), &copy);
        up = Some(object.up());
    }
    let mut up = up.unwrap();
    writes(&up, chance, 1);
    if chance.below(4) == 0 {
        up.get("/").status(200);
        up.wait_event("woke");
    }
    let reason = match chance.below(3) {
        0 => {
            let (_, event) = refused(&object, &copy);
            drop(up);
            event["reason"].clone()
        }
        1 => {
            assert_eq!(up.interrupt(), Some(0), "seed {seed}");
            refused(&object, &copy).1["reason"].clone()
        }
        _ => {
            up.kill();
            object.nobody_is_left();
            refused(&object, &copy).1["reason"].clone()
        }
    };
    assert!(
        reason == "rolled_back" || reason == "twin",
        "seed {seed}: {reason}"
    );
    // The newest copy goes on.
    let up = object.up();
    writes(&up, chance, 1);
    drop(up);
}

// proves B6
#[test]
fn in_two_hundred_seeded_trials_no_copy_is_taken_for_the_object() {
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = first.map_or_else(|| (0..200).collect(), |seed| vec![seed]);
    let lanes = 4;
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let seeds = &seeds;
            scope.spawn(move || {
                for seed in seeds.iter().skip(lane).step_by(lanes) {
                    let tried = std::panic::catch_unwind(|| trial(*seed));
                    assert!(tried.is_ok(), "SEED={seed} shows it again");
                }
            });
        }
    });
}
