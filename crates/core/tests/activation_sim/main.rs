//! Deterministic simulation of a process that runs twenty objects: machines that hang, claims that fail, objects that are
//! lost to a copy, disks that refuse, and the process killed and started again, while its machines run on.
//!
//! Real activations and request queues (`core::activation`), everything else simulated; the seeds, the depot and the runner
//! are those of the witness's simulation. A seed is a world; the same seed is the same world. `SEEDS=n` lives through as
//! many worlds, `SEED=x` through one and tells all of it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test: what is not as expected ends it"
)]

mod bugs;
#[path = "../witness_sim/chance.rs"]
#[expect(
    dead_code,
    reason = "the plan of a world of the other simulation is not used here"
)]
mod chance;
mod door;
mod effects;
mod machine;
mod plan;
#[path = "../witness_sim/schedule.rs"]
#[expect(dead_code, reason = "nothing is repeated here")]
mod schedule;
#[path = "../witness_sim/seeds.rs"]
mod seeds;
#[path = "../witness_sim/shore.rs"]
#[expect(dead_code, reason = "what was witnessed is looked at in the other simulation")]
mod shore;
#[path = "../activation/watch.rs"]
#[expect(dead_code, reason = "the properties look at more of it")]
mod watch;
mod world;

use std::sync::Mutex;

use bugs::BUGS;
use seeds::{each_seed, number};
use world::{Tally, World};

/// Worlds that one run lives through.
const SEEDS: u64 = 10_000;

/// Worlds in which a known bug has to show.
const SEEDS_FOR_A_BUG: u64 = 300;

/// Effects before which the process is killed, one after the other.
const STEPS: u64 = 150;

/// Lines told of a world that broke.
const LINES: usize = 150;

fn tell(seed: u64, lines: usize) {
    let mut world = World::new(seed, None, true);
    let why = world.live();
    let told = world.told();
    let from = told.len().saturating_sub(lines);
    println!("seed {seed}: {why:?}\n{}", told[from..].join("\n"));
}

fn live(seed: u64) -> Tally {
    let mut world = World::new(seed, None, false);
    if let Some(why) = world.live() {
        tell(seed, LINES);
        panic!("seed {seed}: {why}; SEED={seed} tells all of it");
    }
    world.tally
}

#[test]
fn never_two_epochs_at_once_no_acknowledged_write_lost_and_no_actor_stuck() {
    if let Some(seed) = number("SEED") {
        tell(seed, usize::MAX);
        live(seed);
        return;
    }
    let tallies = each_seed(number("SEEDS").unwrap_or(SEEDS), |seed| Some(live(seed)));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let told = [
        ("events", sum(|tally| tally.events)),
        ("machines", sum(|tally| tally.machines)),
        ("activations", sum(|tally| tally.activations)),
        ("suspensions", sum(|tally| tally.suspended)),
        ("connections taken", sum(|tally| tally.taken)),
        ("proposals refused", sum(|tally| tally.refused)),
        ("proposals decided again", sum(|tally| tally.again)),
        ("requests answered", sum(|tally| tally.requests)),
        ("writes acknowledged", sum(|tally| tally.acknowledged)),
        ("crashes recorded", sum(|tally| tally.crashes)),
        ("hanging machines killed", sum(|tally| tally.hung)),
        ("restarts of the process", sum(|tally| tally.restarts)),
        ("machines attached to", sum(|tally| tally.attached)),
        ("objects lost", sum(|tally| tally.lost)),
    ];
    for (what, count) in told {
        println!("{what}: {count}");
        assert!(count > 0, "{what}: none in {} worlds", tallies.len());
    }
}

/// With nothing else in the way, the process is killed before its first effect, its second, and so on.
#[test]
fn a_restart_before_each_step_is_survived() {
    let restarted = each_seed(4 * STEPS, |number| {
        let (seed, step) = (number / STEPS, number % STEPS + 1);
        let mut world = World::calm(seed, step);
        let broken = world.live();
        assert_eq!(broken, None, "seed {seed}, killed before effect {step}");
        Some(world.tally.restarts > 0)
    });
    assert!(
        restarted.iter().all(|restarted| *restarted),
        "some worlds were too short"
    );
}

#[test]
fn each_known_bug_is_found() {
    for bug in BUGS {
        let found = Mutex::new(None);
        let lived = each_seed(SEEDS_FOR_A_BUG, |seed| {
            match World::new(seed, Some(*bug), false).live() {
                None => Some(()),
                Some(why) => {
                    found.lock().unwrap().get_or_insert((seed, why));
                    None
                }
            }
        });
        let found = found.into_inner().unwrap();
        println!("{bug:?}: {found:?} after {} worlds", lived.len());
        assert!(
            found.is_some(),
            "{bug:?} is in {SEEDS_FOR_A_BUG} worlds and was not found"
        );
    }
}
