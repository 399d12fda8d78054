//! Program against Cedar: random vocabularies, rules, memories and requests, one answer.
//!
//! Where no rule errs, outcome and deciding rules are Cedar's. Where one errs, Cedar skips it and the program refuses
//! and names it. `CASES=1000000 cargo test --release -p suijuris-policy --test differential` runs as many as you like;
//! a failure prints the seed, and `SEED=<n>` replays that one alone.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod random;
mod rules;
mod world;

use std::collections::BTreeSet;

use random::Random;
use suijuris_core::governance::{Outcome, Program};
use suijuris_policy::{compile, oracle::Oracle};
use world::World;

/// Facts tried on one set of rules.
const WORLDS: usize = 25;

/// Cases of a plain `cargo test`; CI runs 50,000 and more.
const CASES: usize = 10_000;

/// What occurred, so that a generator gone dull is noticed.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    rejected: usize,
    permitted: usize,
    forbidden: usize,
    undecided: usize,
    erred: usize,
    text: BTreeSet<&'static str>,
}

const OPERATORS: &[&str] = &[
    "&&",
    "||",
    "!(",
    "if ",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    " * ",
    "(-(",
    ".contains(",
    ".containsAll(",
    ".containsAny(",
    ".isEmpty()",
    " like ",
    " has ",
    " is ",
    " in ",
    "principal ==",
    "action in [",
    "unless",
    "decimal(",
    "ip(",
    "datetime(",
    "duration(",
    ".lessThan(",
    ".lessThanOrEqual(",
    ".greaterThan(",
    ".greaterThanOrEqual(",
    ".isIpv4()",
    ".isIpv6()",
    ".isLoopback()",
    ".isMulticast()",
    ".isInRange(",
    ".offset(",
    ".durationSince(",
    ".toDate()",
    ".toTime()",
    ".toMilliseconds()",
    ".toSeconds()",
    ".toMinutes()",
    ".toHours()",
    ".toDays()",
    "{\"p\":",
    ".p",
    "[\"x\"]",
    "resource.fresh.",
    "principal.claims",
    "headers[",
    "resource.key",
    "resource.class",
    "\"instantiate\"",
    "context.rate.",
    "context has change.",
    ".old",
    ".new",
];

fn one(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let vocabulary = world::vocabulary(&mut random);
    let focus = rules::Focus::any(&mut random, vocabulary.class);
    let mut source = rules::rules(&mut random, &vocabulary, focus);
    // Rules for anybody speak of the object itself only where a rule names it.
    source += "\nforbid(principal == Self::\"nobody\", action == Action::\"terminate\", resource);\n";
    let Ok(compiled) = compile(&vocabulary, &source) else {
        tally.rejected += 1;
        return;
    };
    tally
        .text
        .extend(OPERATORS.iter().filter(|operator| source.contains(**operator)));
    let bytes = compiled.program.encode().unwrap();
    let program = Program::decode(&bytes).unwrap();
    let oracle = Oracle::new(&source).unwrap();
    for _ in 0..WORLDS {
        random.next();
        let world = World::new(&mut random, &vocabulary, focus);
        let changes = world.changes();
        let facts = world.facts(&changes);
        let ours = program.judge(world.action, &facts);
        let cedar = oracle.authorize(&vocabulary, world.action, &facts).unwrap();
        let erring: BTreeSet<usize> = ours.erring.iter().map(usize::from).collect();
        let deciding: BTreeSet<usize> = ours.deciding.iter().map(usize::from).collect();
        let context = || {
            format!(
                "SEED={seed}\n{source}\n{} by {:?}\n{facts:#?}\nours {ours:?}\nCedar {cedar:?}",
                world.action, facts.principal
            )
        };
        assert_eq!(erring, cedar.errors, "rules that err\n{}", context());
        if erring.is_empty() {
            assert_eq!(
                ours.outcome == Outcome::Permit,
                cedar.allowed,
                "outcome\n{}",
                context()
            );
            assert_eq!(deciding, cedar.reasons, "deciding rules\n{}", context());
        } else {
            assert_eq!(ours.outcome, Outcome::Refuse, "an error refuses\n{}", context());
        }
        let residual = program.specialize(world.action, facts.object, facts.now).unwrap();
        assert_eq!(residual.judge(&facts), Some(ours), "residual\n{}", context());
        let words = program.explain(world.action, &facts, &ours);
        assert_eq!(words.erred.len(), erring.len(), "errors in words\n{}", context());
        assert_eq!(
            words.reasons.len(),
            deciding.len(),
            "reasons in words\n{}",
            context()
        );
        tally.cases += 1;
        match (ours.outcome, erring.is_empty(), deciding.is_empty()) {
            (Outcome::Permit, ..) => tally.permitted += 1,
            (_, false, _) => tally.erred += 1,
            (_, _, true) => tally.undecided += 1,
            _ => tally.forbidden += 1,
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

// proves A1, A8
#[test]
fn program_and_cedar_agree() {
    let mut tally = Tally::default();
    if let Some(seed) = number("SEED") {
        one(seed, &mut tally);
        assert_eq!(tally.rejected, 0, "the rules of this seed do not validate");
        return;
    }
    let cases = number("CASES").map_or(CASES, |cases| usize::try_from(cases).unwrap());
    let first = number("FIRST").unwrap_or(0);
    for seed in first.. {
        if tally.cases >= cases {
            break;
        }
        one(seed, &mut tally);
    }
    println!("{tally:?}");
    let sets = tally.cases / WORLDS + tally.rejected;
    assert!(
        tally.rejected * 2 < sets,
        "the generator writes too many invalid rules: {} of {sets}",
        tally.rejected
    );
    for (what, count) in [
        ("permits", tally.permitted),
        ("forbids", tally.forbidden),
        ("default denials", tally.undecided),
        ("errors", tally.erred),
    ] {
        assert!(
            count * 50 > tally.cases,
            "too few {what}: {count} of {}",
            tally.cases
        );
    }
    let missing: Vec<_> = OPERATORS
        .iter()
        .filter(|operator| !tally.text.contains(*operator))
        .collect();
    assert!(missing.is_empty(), "never tried: {missing:?}");
}
