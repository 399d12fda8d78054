//! The packed form, and a door that has the state open, decide as `core::decide` does on the whole state: random schemas,
//! rules, memories and proposals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use suijuris_core::decide::{self, Refused, Verdict, View};
use suijuris_core::governance::{Action, Facts, Principal as Who, RuleSet};
use suijuris_core::inputs::{Caller, Host, Inputs, Principal, Request, Trigger, Vehicle, Witnessed};
use suijuris_core::lineage::{Decision, Fired, Outcome};
use suijuris_core::memory::{Change, Kind, Value, Write};
use suijuris_core::time::{Quality, Ratchet, Reading, Timestamp};
use suijuris_door::sleepers::QuickDecision;
use suijuris_door::{PreparedBundle, Proposal, Sleeper, Sleepers};

use crate::life::{Built, Definition, Life};
use crate::random::Random;
use crate::rules::{self, Focus};
use crate::world::{self, World};

/// Keys of instances; most are words of the rules.
const KEYS: [&str; 4] = ["a", "b", "ab", "grun"];

/// Proposals tried on one object.
const PROPOSALS: usize = 12;

#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    permitted: usize,
    by_rule: usize,
    undecided: usize,
    admissions: usize,
    open: usize,
    instances: usize,
}

/// A focus on what a door decides.
fn focus(random: &mut Random, class: bool) -> Focus {
    loop {
        let focus = Focus::any(random, class);
        let mut probe = random.clone();
        let ours = (0..8).filter(|_| matches!(focus.of(&mut probe).0, Action::Wake | Action::Admit));
        if ours.count() >= 6 {
            return focus;
        }
    }
}

fn texts(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// The facts of a random world as a shell would hand them in.
fn inputs(
    facts: &Facts<'_>,
    vocabulary: &suijuris_core::governance::Vocabulary,
    random: &mut Random,
) -> Inputs {
    let principal = match facts.principal {
        Who::Caller(caller) => {
            let claims = vocabulary.claims.keys().zip(caller.claims);
            Principal::Caller(Box::new(Caller {
                authenticated: caller.authenticated,
                subject: caller.subject.map(str::to_owned),
                issuer: caller.issuer.map(str::to_owned),
                audience: texts(caller.audience),
                scopes: texts(caller.scopes),
                claims: claims
                    .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
                    .collect(),
            }))
        }
        Who::Timer => Principal::Timer,
        _ => Principal::Host,
    };
    let text = |text: Option<&str>| text.map(str::to_owned);
    let vehicle = Vehicle {
        provider: facts.host.provider,
        class: facts.host.class,
    };
    let host = Host::of(vehicle, Some(facts.host.region), facts.host.id);
    let mut inputs = Inputs::new(facts.now, principal, host);
    inputs.trigger = facts.trigger.map(|trigger| Trigger {
        kind: trigger.kind,
        name: text(trigger.name),
        topic: text(trigger.topic),
        field: text(trigger.field),
        missed: trigger.missed.unsigned_abs(),
    });
    inputs.request = facts.request.map(|request| Request {
        method: request.method.to_owned(),
        path: request.path.to_owned(),
        query: request.query.to_owned(),
        host: request.host.to_owned(),
        port: request.port.and_then(|port| u16::try_from(port).ok()),
        protocol: request.protocol,
        peer_ip: request.peer_ip,
        content_length: request.content_length.map(i64::unsigned_abs),
        headers: vocabulary
            .headers
            .iter()
            .zip(request.headers)
            .filter_map(|(name, value)| Some((name.clone(), (*value)?.to_owned())))
            .collect(),
        tls: None,
        client_cert: None,
    });
    inputs.pending = facts.messages.unsigned_abs();
    inputs.conditions.witness = *random.pick(&[Witnessed::Agrees, Witnessed::Agrees, Witnessed::Newer]);
    inputs.conditions.incapable = random.one_in(16);
    inputs
}

/// What the whole state says, as the door asks it: `wake`, then `admit` as if awake.
fn whole(life: &Life, definition: &Built, inputs: &Inputs) -> Decision {
    let view = View::new(&life.state, &definition.bundle.rules);
    let wake = decide::evaluate(view, Action::Wake, inputs.clone());
    if wake.outcome == Outcome::Permit && inputs.request.is_some() {
        return decide::evaluate_as_if_awake(view, Action::Admit, inputs.clone());
    }
    wake
}

fn names(rules: &RuleSet, definition: &Built) -> Vec<String> {
    let program = &definition.bundle.rules.program;
    rules
        .iter()
        .map(|index| program.rule(index).unwrap().id.clone())
        .collect()
}

fn said(decision: &Decision) -> (Vec<String>, Vec<String>) {
    let explanation = decision.explanation.as_ref();
    let reasons = explanation.map(|e| e.reasons.iter().map(|reason| reason.rule.clone()).collect());
    let erred = explanation.map(|e| e.erred.iter().map(|erred| erred.rule.clone()).collect());
    (reasons.unwrap_or_default(), erred.unwrap_or_default())
}

fn one(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let vocabulary = world::vocabulary(&mut random);
    let focus = focus(&mut random, vocabulary.class);
    let source = rules::rules(&mut random, &vocabulary, focus);
    let Some(built) = Definition::of(&vocabulary, &source).build() else {
        return;
    };
    let mut life = match vocabulary.class {
        true => Life::instance(&built.bundle, random.text(), random.pick::<&str>(&KEYS)),
        false => Life::create(&built.bundle, random.text()),
    };
    if random.one_in(2) {
        life.wake(life.state.head().at);
        life.sleep(Timestamp(life.state.head().at.0 + 7));
    }
    for _ in 0..PROPOSALS {
        random.next();
        let world = World::new(&mut random, &vocabulary, focus);
        write(&mut life, &world);
        let changes = world.changes();
        let inputs = inputs(&world.facts(&changes), &vocabulary, &mut random);
        let quality = *random.pick(&[Quality::Unknown, Quality::Host, Quality::Synced]);
        propose(
            &life,
            &built,
            inputs,
            quality,
            tally,
            &format!("SEED={seed}\n{source}"),
        );
    }
}

/// Writes what the memory of a world holds.
fn write(life: &mut Life, world: &World) {
    let facts = world.facts(&[]);
    let written: BTreeMap<_, _> = facts
        .object
        .memory
        .iter()
        .filter_map(|(name, _, cell)| Some((cell.as_of?, (name.clone(), cell.value.clone()?))))
        .collect();
    for (at, (name, value)) in written {
        let counter = facts.object.memory.schema().field(name.as_str());
        let counter = counter.is_some_and(|field| matches!(field.kind, Kind::Counter { .. }));
        let write = match value {
            Value::Int(count) if counter => Write::Add(count),
            value => Write::Set(value),
        };
        life.write(Change::from([(name, write)]), at);
    }
}

/// One proposal: packed, in words, and by the whole state.
fn propose(life: &Life, built: &Built, mut inputs: Inputs, quality: Quality, tally: &mut Tally, seed: &str) {
    let reading = Reading {
        quality,
        ..crate::rig::reading(inputs.now.at)
    };
    let sleepers = Sleepers::new(1 << 24);
    sleepers
        .keep(&life.state, &built.bundle, reading.wall, 0)
        .unwrap();
    let object = life.state.head().object;
    let quick = sleepers.evaluate_quick(object, &mut inputs, reading);
    let now = Ratchet::new(life.state.head().at).observe(reading);
    assert_eq!(
        inputs.now, now,
        "{seed}: the time is never before the last record"
    );
    let words = sleepers.evaluate(object, &inputs).unwrap();
    let expect = whole(life, built, &inputs);
    let context = || format!("{seed}\n{inputs:#?}\n{:#?}\n{quick:?}", life.state);
    assert_eq!(words, expect, "in words\n{}", context());
    tally.open += usize::from(open(life, built, &inputs, reading, &expect));
    // The rules named are those of `wake`, or those of `admit` for a request.
    match quick {
        QuickDecision::Permit(rules) => {
            assert_eq!(expect.outcome, Outcome::Permit, "{}", context());
            assert_eq!(names(&rules, built), said(&expect).0, "{}", context());
            tally.permitted += 1;
        }
        QuickDecision::Refuse(action, refused) => {
            assert_eq!(action, expect.action, "{}", context());
            match refused {
                Refused::Rules(judgement) => {
                    assert_eq!(expect.outcome, Outcome::Refuse(None), "{}", context());
                    let both = (names(&judgement.deciding, built), names(&judgement.erring, built));
                    assert_eq!(both, said(&expect), "{}", context());
                    tally.undecided += usize::from(judgement.deciding.is_empty());
                    tally.by_rule += usize::from(!judgement.deciding.is_empty());
                }
                Refused::Invariant(invariant) => {
                    assert_eq!(expect.outcome, Outcome::Refuse(Some(invariant)), "{}", context());
                }
            }
        }
        other => panic!("{other:?}\n{}", context()),
    }
    tally.cases += 1;
    tally.instances += usize::from(life.state.head().class.is_some());
    tally.admissions += usize::from(expect.action == Action::Admit);
    sleepers.forget(object);
    assert_eq!((sleepers.len(), sleepers.bundles(), sleepers.bytes()), (0, 0, 0));
}

/// The same proposal at the door that has the state open; whether it can be made there.
fn open(life: &Life, built: &Built, inputs: &Inputs, reading: Reading, expect: &Decision) -> bool {
    let Some(trigger) = inputs.trigger.clone().filter(|_| !inputs.conditions.incapable) else {
        return false;
    };
    let prepared = Arc::new(PreparedBundle::new(Arc::clone(&built.bundle)).unwrap());
    let (host, witnessed) = (inputs.host.clone(), inputs.conditions.witness);
    let mut sleeper = Sleeper::new(prepared, life.state.head(), host, witnessed);
    sleeper.expect_messages(inputs.pending);
    let proposal = Proposal {
        trigger,
        principal: inputs.principal.clone(),
        request: inputs.request.clone(),
        fired: Fired::new(),
    };
    match sleeper.decide(&life.state, &proposal, BTreeMap::new(), reading) {
        Verdict::Refuse(decision) => assert_eq!(*decision, *expect),
        Verdict::Permit(permit, decision) => {
            let view = View::new(&life.state, &built.bundle.rules);
            let wake = decide::evaluate(view, Action::Wake, inputs.clone());
            assert_eq!((permit.action(), *decision), (Action::Wake, wake));
            assert_eq!(expect.outcome, Outcome::Permit);
        }
    }
    true
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

// proves D5
#[test]
fn the_packed_form_decides_as_the_whole_state_does() {
    let mut tally = Tally::default();
    if let Some(seed) = number("SEED") {
        one(seed, &mut tally);
        return;
    }
    let cases = number("CASES").map_or(3_000, |cases| usize::try_from(cases).unwrap());
    for seed in 0.. {
        if tally.cases >= cases {
            break;
        }
        one(seed, &mut tally);
    }
    println!("{tally:?}");
    for (what, count) in [
        ("permits", tally.permitted),
        ("refusals by a rule", tally.by_rule),
        ("default denials", tally.undecided),
        ("admissions", tally.admissions),
        ("decisions with the state open", tally.open),
        ("instances of classes", tally.instances),
    ] {
        assert!(count * 50 > tally.cases, "too few {what}: {tally:?}");
    }
}
