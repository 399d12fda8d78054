//! Deterministic simulation of the witness: copies of one object, a depot behind a faulty network, clocks that differ.
//!
//! Real keepers (`core::witness`), everything else simulated. A seed is a world; the same seed is the same world. By
//! default 10,000 seeds live through their faults; `SEEDS=n` lives through as many, `SEED=x` through one and tells all of
//! it. `seeds.txt` holds the seeds that found something.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test: what is not as expected ends it"
)]

mod bugs;
mod chance;
mod faults;
mod machine;
mod object;
mod schedule;
mod seeds;
mod shore;
mod world;

use std::sync::Mutex;

use bugs::BUGS;
use seeds::{each_seed, number};
use world::{Tally, World};

/// Worlds that one run lives through.
const SEEDS: u64 = 10_000;

/// Worlds in which a known bug has to show.
const SEEDS_FOR_A_BUG: u64 = 6_000;

/// Effects before which a copy crashes, one after the other.
const STEPS: u64 = 100;

/// Lines told of a world that broke.
const LINES: usize = 150;

/// Lives through one world; ends the test, with the story, if it broke.
fn live(seed: u64) -> Tally {
    let mut world = World::new(seed, None, false);
    if let Some(why) = world.live() {
        tell(seed, None);
        panic!("seed {seed}: {why}; SEED={seed} tells all of it");
    }
    world.tally
}

fn tell(seed: u64, lines: Option<usize>) {
    let mut world = World::new(seed, None, true);
    let why = world.live();
    let told = world.told();
    let from = told.len().saturating_sub(lines.unwrap_or(LINES));
    println!("seed {seed}: {why:?}\n{}", told[from..].join("\n"));
}

// proves B6
#[test]
fn never_two_at_once_never_rolled_back_and_always_one_in_the_end() {
    if let Some(seed) = number("SEED") {
        tell(seed, Some(usize::MAX));
        live(seed);
        return;
    }
    let tallies = each_seed(number("SEEDS").unwrap_or(SEEDS), |seed| Some(live(seed)));
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let told = [
        ("events", sum(|tally| tally.events)),
        ("wakes", sum(|tally| tally.wakes)),
        ("requests served", sum(|tally| tally.served)),
        ("writes acknowledged", sum(|tally| tally.acknowledged)),
        ("refused as rolled back", sum(|tally| tally.rolled_back)),
        ("refused as diverged", sum(|tally| tally.diverged)),
        ("refused for a live twin", sum(|tally| tally.live)),
        ("refused without witness", sum(|tally| tally.missing)),
        ("lost to another", sum(|tally| tally.lost)),
        ("left when the lease was over", sum(|tally| tally.over)),
        ("worlds that end awake", sum(|tally| tally.ended_awake)),
    ];
    for (what, count) in told {
        println!("{what}: {count}");
        assert!(count > 0, "{what}: none in {} worlds", tallies.len());
    }
}

/// Copies that start together, rest, wake, write and hand over: with nothing else in the way, one of them crashes before
/// its keeper's first effect, its second, and so on.
// proves B6
#[test]
fn a_crash_before_each_step_is_survived() {
    let crashed = each_seed(20 * STEPS, |number| {
        let (seed, step) = (number / STEPS, number % STEPS + 1);
        let mut world = World::new(seed, None, false);
        world.plan = world.plan.clone().calm();
        world.crash_before = Some(step);
        let broken = world.live();
        assert_eq!(broken, None, "seed {seed}, crash before effect {step}");
        Some(world.effects >= step)
    });
    assert!(crashed.iter().filter(|crashed| **crashed).count() > 1_000);
}

#[test]
fn what_was_found_once_stays_found() {
    for line in include_str!("seeds.txt").lines() {
        let seed = line
            .split_whitespace()
            .next()
            .filter(|word| !word.starts_with('#'));
        if let Some(seed) = seed {
            live(seed.parse().unwrap());
        }
    }
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
