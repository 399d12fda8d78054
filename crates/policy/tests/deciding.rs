//! Decisions and the life they lead to: invariants before rules, permits from nowhere else, the same answer again.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use suijuris_core::codec;
use suijuris_core::decide::{Rules, Verdict, View, decide, foresee, replay};
use suijuris_core::governance::{Action, Protocol, TriggerKind, Vocabulary};
use suijuris_core::id::{BundleId, ObjectId};
use suijuris_core::inputs::{Activity, Caller, Inputs, Principal, Request, Trigger, Witnessed, WorkloadEnd};
use suijuris_core::key::SecretKey;
use suijuris_core::lifecycle::{Commit, Effect, Event, Leave, Lifecycle, Phase as Living};
use suijuris_core::lineage::{
    Body, Decision, Dormant, Inception, Invariant, Outcome, Phase, Quarantined, State, Woke,
};
use suijuris_core::manifest::SleepMode;
use suijuris_core::memory::{Change, Field, Kind, Name, Schema, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_policy::compile;

const RULES: &str = r#"
@id("wake") @reason("budget is left")
permit (principal, action == Action::"wake", resource) when { resource.memory.budget > 0 && resource.fresh.consent };
@id("other") permit (principal, action, resource) when { resource.memory.budget > 0 } unless { action == Action::"wake" };
@id("night") @reason("not at night") @retry_after("1h")
forbid (principal, action, resource) when { context.clock == "synced" && resource.memory.budget > 1000 };
"#;

fn schema() -> Schema {
    let budget = Field {
        default: Some(Value::Int(5)),
        ..Field::new(Kind::INT)
    };
    let consent = Field {
        fresh_for: Some(Span(60_000)),
        ..Field::new(Kind::Bool)
    };
    let fields = [("budget", budget), ("consent", consent)];
    let fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(n, f)| (Name::new(n).unwrap(), f))
        .collect();
    Schema::try_from(fields).unwrap()
}

fn rules(text: &str) -> Rules {
    let vocabulary = Vocabulary::of_memory(schema());
    let program = compile(&vocabulary, text).unwrap().program;
    Rules {
        bundle: BundleId::of(b"bundle"),
        program,
        vocabulary,
    }
}

fn key(epoch: u8) -> SecretKey {
    SecretKey::from_seed(&[epoch; 32])
}

fn bundles(_: &BundleId) -> Option<Arc<Schema>> {
    Some(Arc::new(schema()))
}

fn asleep() -> State {
    let body = Inception {
        name: "test".into(),
        controllers: vec![key(99).public()],
        threshold: 1,
        next: key(1).public().commitment(),
        nonce: vec![0; 16],
        parent: None,
    };
    let (bundle, schema) = (BundleId::of(b"bundle"), Arc::new(schema()));
    let (mut state, _) = State::found(body, Timestamp(1_000), bundle, schema, &key(1)).unwrap();
    let change: Change = [(Name::new("consent").unwrap(), Write::Set(Value::Bool(true)))].into();
    let consent = Body::Mutated(suijuris_core::lineage::Mutated {
        by: "controller".into(),
        change,
    });
    state
        .extend(consent, Timestamp(2_000), None, Some(&key(1)), &bundles)
        .unwrap();
    state
}

fn inputs(principal: Principal) -> Inputs {
    let mut inputs = Inputs::new(
        Now {
            at: Timestamp(3_000),
            quality: Quality::Host,
        },
        principal,
    );
    inputs.trigger = Some(Trigger::new(TriggerKind::Request));
    inputs.activity = Some(Activity::default());
    inputs
}

fn wake(state: &State, rules: &Rules) -> Verdict {
    decide(
        View::new(state, rules),
        Action::Wake,
        state.head().object,
        inputs(Principal::Host),
    )
}

fn awake() -> State {
    let mut state = asleep();
    let decision = wake(&state, &rules(RULES)).decision().clone();
    let next = key(2).public().commitment();
    let woke = Body::Woke(Box::new(Woke {
        decision,
        next,
        fired: BTreeMap::new(),
    }));
    state
        .extend(woke, Timestamp(3_000), None, Some(&key(1)), &bundles)
        .unwrap();
    state
}

fn invariant(state: &State, action: Action, target: ObjectId, inputs: Inputs) -> Option<Invariant> {
    let rules = rules(r#"permit (principal, action, resource);"#);
    match decide(View::new(state, &rules), action, target, inputs) {
        Verdict::Permit(..) => None,
        Verdict::Refuse(decision) => match decision.outcome {
            Outcome::Refuse(invariant) => invariant,
            Outcome::Permit => None,
        },
    }
}

#[test]
fn rules_that_permit_everything_cannot_override_an_invariant() {
    let (asleep, awake) = (asleep(), awake());
    let host = || inputs(Principal::Host);
    let object = asleep.head().object;
    assert_eq!(invariant(&asleep, Action::Wake, object, host()), None);
    assert_eq!(
        invariant(&asleep, Action::Wake, ObjectId::of(b"other"), host()),
        Some(Invariant::WrongObject)
    );
    for action in [Action::Remain, Action::Sleep] {
        assert_eq!(
            invariant(&asleep, action, object, host()),
            Some(Invariant::WrongPhase),
            "{action}"
        );
        assert_eq!(invariant(&awake, action, object, host()), None, "{action}");
    }
    for (witness, broken) in [
        (Witnessed::Missing, Some(Invariant::NoWitness)),
        (Witnessed::Newer, Some(Invariant::RolledBack)),
        (Witnessed::Twin, Some(Invariant::Twin)),
        (Witnessed::Agrees, None),
    ] {
        let mut inputs = host();
        inputs.standing.witness = witness;
        assert_eq!(invariant(&asleep, Action::Wake, object, inputs), broken);
    }
    let mut gone = host();
    gone.standing.workload = Some(WorkloadEnd::Gone);
    assert_eq!(
        invariant(&awake, Action::Remain, object, gone),
        Some(Invariant::WorkloadGone)
    );
    let mut shut = asleep.clone();
    let body = Body::Quarantined(Quarantined {
        reason: "damage".into(),
    });
    shut.extend(body, Timestamp(4_000), None, Some(&key(1)), &bundles)
        .unwrap();
    assert_eq!(
        invariant(&shut, Action::Wake, object, host()),
        Some(Invariant::Quarantined)
    );
    assert_eq!(invariant(&shut, Action::Read, object, host()), None);
}

// proves A1
#[test]
fn changing_only_the_rules_flips_the_verdict() {
    let state = asleep();
    assert!(matches!(wake(&state, &rules(RULES)), Verdict::Permit(..)));
    let other = format!(
        "{RULES} @id(\"shut\") @reason(\"shut\") forbid (principal, action == Action::\"wake\", resource);"
    );
    let verdict = wake(&state, &rules(&other));
    let explanation = verdict.decision().explanation.clone().unwrap();
    assert!(matches!(verdict, Verdict::Refuse(_)));
    assert_eq!(
        explanation
            .reasons
            .first()
            .and_then(|reason| reason.reason.as_deref()),
        Some("shut")
    );
}

#[test]
fn a_program_of_another_bundle_decides_nothing() {
    let (state, mut other) = (asleep(), rules(RULES));
    other.bundle = BundleId::of(b"other");
    let verdict = wake(&state, &other);
    assert_eq!(
        verdict.decision().outcome,
        Outcome::Refuse(Some(Invariant::WrongBundle))
    );
}

#[test]
fn the_door_foresees_what_the_gate_would_say() {
    let state = asleep();
    let mut asked = inputs(Principal::Caller(Box::default()));
    asked.request = Some(request("GET"));
    let rules = rules(
        r#"permit (principal, action == Action::"admit", resource) when { context.request.method == "GET" };"#,
    );
    let view = View::new(&state, &rules);
    assert_eq!(
        foresee(view, Action::Admit, asked.clone()).outcome,
        Outcome::Permit
    );
    asked.request = Some(request("POST"));
    assert_eq!(foresee(view, Action::Admit, asked).outcome, Outcome::Refuse(None));
}

fn request(method: &str) -> Request {
    Request {
        method: method.into(),
        path: "/".into(),
        query: String::new(),
        host: "here".into(),
        protocol: Protocol::Http1,
        peer_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        content_length: None,
        headers: BTreeMap::new(),
    }
}

fn principals() -> impl Strategy<Value = Principal> {
    let caller = |subject: Option<String>| Caller {
        authenticated: subject.is_some(),
        subject,
        ..Caller::default()
    };
    prop_oneof![
        proptest::option::of("[a-z]{1,8}")
            .prop_map(move |subject| Principal::Caller(Box::new(caller(subject)))),
        Just(Principal::Host),
        Just(Principal::Timer),
        Just(Principal::Workload),
        Just(Principal::Controller(vec![key(99).public()])),
        Just(Principal::Peer(ObjectId::of(b"peer"))),
    ]
}

proptest! {
    // proves A11
    #[test]
    fn a_recorded_decision_made_again_gives_the_same_bytes(
        principal in principals(), action in 0..Action::ALL.len(), at in 2_000i64..200_000, synced: bool,
        budget in -5i64..2_000, active: bool, with_request: bool,
    ) {
        let mut state = if active { awake() } else { asleep() };
        let change: Change = [(Name::new("budget").unwrap(), Write::Set(Value::Int(budget)))].into();
        let spend = Body::Mutated(suijuris_core::lineage::Mutated { by: "controller".into(), change });
        let signer = if active { None } else { Some(key(1)) };
        state.extend(spend, Timestamp(3_000), None, signer.as_ref(), &bundles).unwrap();
        let quality = if synced { Quality::Synced } else { Quality::Host };
        let mut asked = inputs(principal);
        asked.now = Now { at: Timestamp(at), quality };
        asked.request = with_request.then(|| request("GET"));
        let (rules, action) = (rules(RULES), *Action::ALL.get(action).unwrap());
        let view = View::new(&state, &rules);
        let verdict = decide(view, action, state.head().object, asked);
        let recorded = codec::encode(verdict.decision()).unwrap();
        let read: Decision = codec::decode(&recorded, 1 << 20).unwrap();
        prop_assert_eq!(codec::encode(&replay(view, &read)).unwrap(), recorded);
    }
}

/// What may happen without a permit.
fn unpermitted(which: u8) -> Event {
    let refused = || {
        let outcome = Outcome::Refuse(None);
        Box::new(Decision {
            action: Action::Remain,
            outcome,
            explanation: None,
            inputs: inputs(Principal::Host),
        })
    };
    match which {
        0 => Event::WakeRefused(refused()),
        1 => Event::RemainRefused(refused()),
        2 => Event::Durable,
        3 => Event::Ready,
        4 => Event::WorkloadEnded("exited 0".into(), refused()),
        5 => Event::Drained,
        6 => Event::Thawed,
        _ => Event::HostStops,
    }
}

fn permit(action: Action) -> Event {
    let (state, rules) = match action {
        Action::Sleep => (awake(), rules(RULES)),
        _ => (asleep(), rules(RULES)),
    };
    match decide(
        View::new(&state, &rules),
        action,
        state.head().object,
        inputs(Principal::Host),
    ) {
        Verdict::Permit(permit, decision) => Event::Permitted(permit, decision),
        Verdict::Refuse(decision) => unreachable_refusal(&decision),
    }
}

#[expect(clippy::panic, reason = "tests")]
fn unreachable_refusal(decision: &Decision) -> Event {
    panic!("the rules of this test permit: {decision:?}")
}

fn step(life: Lifecycle, event: Event) -> (Lifecycle, Vec<Effect>) {
    life.on(event)
}

fn live(events: Vec<Event>) -> (Lifecycle, Vec<Effect>) {
    events.into_iter().fold(
        (Lifecycle::dormant(SleepMode::Stop), vec![]),
        |(life, _), event| step(life, event),
    )
}

proptest! {
    // proves A10
    #[test]
    fn without_a_permit_nothing_is_woken_spawned_or_opened(events in proptest::collection::vec(0u8..8, 0..20)) {
        for sleep in [SleepMode::Stop, SleepMode::Suspend] {
            let mut life = Lifecycle::dormant(sleep);
            for event in &events {
                let (after, effects) = step(life, unpermitted(*event));
                for effect in &effects {
                    let moved = matches!(
                        effect,
                        Effect::Commit(Commit::Woke(_) | Commit::Resumed(_)) | Effect::SpawnWorkload | Effect::OpenGate
                    );
                    prop_assert!(!moved, "{effect:?}");
                }
                life = after;
            }
        }
    }

    #[test]
    fn a_life_always_ends_once_the_host_insists(
        events in proptest::collection::vec((0u8..8, any::<bool>()), 0..30), suspend: bool
    ) {
        let sleep = if suspend { SleepMode::Suspend } else { SleepMode::Stop };
        let mut life = Lifecycle::dormant(sleep);
        for (event, permitted) in events {
            let event = if permitted { permit(Action::Wake) } else { unpermitted(event) };
            life = step(life, event).0;
        }
        // Whatever was going on: its commits become durable, its workload ends, its requests drain.
        for which in [2, 7, 2, 5, 4, 2, 7, 5, 4, 2] {
            life = step(life, unpermitted(which)).0;
        }
        prop_assert_eq!(life.phase(), Living::Left);
    }
}

#[test]
fn dormancy_is_durable_before_the_machine_stops() {
    let serving = || vec![permit(Action::Wake), unpermitted(2), unpermitted(3)];
    let (life, effects) = live(serving());
    assert_eq!(life.phase(), Living::Active);
    assert!(matches!(effects.as_slice(), [Effect::OpenGate]));
    let (life, effects) = step(life, unpermitted(1));
    assert!(matches!(effects.as_slice(), [Effect::Tell(_), Effect::DrainGate]));
    let (life, effects) = step(life, unpermitted(5));
    assert!(matches!(effects.as_slice(), [Effect::StopWorkload]));
    let (life, effects) = step(life, unpermitted(4));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Commit(Commit::Dormant(..))]
    ));
    let (life, effects) = step(life, unpermitted(2));
    assert_eq!(
        (life.phase(), effects),
        (Living::Left, vec![Effect::Leave(Leave::Stop)])
    );
    let (_, effects) = step(live(serving()).0, permit(Action::Sleep));
    assert!(
        matches!(effects.as_slice(), [Effect::Tell(_), Effect::DrainGate]),
        "sleep goes the same way"
    );
}

#[test]
fn a_thawed_machine_forwards_nothing_until_it_is_decided_again() {
    let (life, _) = live(vec![permit(Action::Wake), unpermitted(2), unpermitted(3)]);
    let (life, effects) = step(life, unpermitted(6));
    assert_eq!(effects, [Effect::HoldGate, Effect::DecideAgain]);
    let (life, effects) = step(life, permit(Action::Wake));
    assert!(matches!(effects.as_slice(), [Effect::Commit(Commit::Resumed(_))]));
    let (life, effects) = step(life, unpermitted(2));
    assert_eq!(life.phase(), Living::Active);
    assert!(matches!(effects.as_slice(), [Effect::Tell(_), Effect::OpenGate]));
    let (life, _) = step(life, unpermitted(6));
    let (_, effects) = step(life, unpermitted(0));
    assert!(
        matches!(effects.as_slice(), [Effect::RefuseGate(_), Effect::StopWorkload]),
        "refused: not one more byte"
    );
}

#[test]
fn a_machine_that_is_frozen_keeps_its_workload_and_is_decided_when_it_thaws() {
    let events = vec![
        permit(Action::Wake),
        unpermitted(2),
        unpermitted(3),
        unpermitted(1),
        unpermitted(5),
    ];
    let start = Lifecycle::dormant(SleepMode::Suspend);
    let (life, effects) = events
        .into_iter()
        .fold((start, vec![]), |(life, _), event| step(life, event));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Commit(Commit::Dormant(..))]
    ));
    let (life, effects) = step(life, unpermitted(2));
    assert_eq!(
        (life.phase(), effects),
        (Living::Suspended, vec![Effect::HoldGate, Effect::Freeze])
    );
    let (life, effects) = step(life, unpermitted(6));
    assert_eq!(
        (life.phase(), effects),
        (Living::Resuming, vec![Effect::HoldGate, Effect::DecideAgain])
    );
}

#[test]
fn a_crash_leaves_lineage_active_and_sleep_makes_it_dormant() {
    let mut state = awake();
    assert_eq!(state.head().phase, Phase::Active);
    let inputs = inputs(Principal::Workload);
    let rules = rules(RULES);
    let decision = decide(
        View::new(&state, &rules),
        Action::Remain,
        state.head().object,
        inputs,
    )
    .decision()
    .clone();
    let body = Dormant {
        decision,
        workload: "exited 0".into(),
        admitted: vec![],
        suspend: false,
    };
    state
        .extend(
            Body::Dormant(Box::new(body)),
            Timestamp(5_000),
            None,
            Some(&key(1)),
            &bundles,
        )
        .unwrap();
    assert_eq!(state.head().phase, Phase::Dormant);
}
