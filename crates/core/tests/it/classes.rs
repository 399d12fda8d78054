//! Classes from outside: who may found an instance, and what an inception that says so must show.

use std::sync::Arc;

use suijuris_core::class::{self, ClassId, Identity, Instantiation, Key, Template};
use suijuris_core::decide::{self, Rules, Verdict, View};
use suijuris_core::governance::{
    Action, Body, Clause, Const, Effect, Group, Listing, Node, PrincipalKind, Program, Rule, Slot, TextSpan,
    Vocabulary,
};
use suijuris_core::inputs::{Caller, Founding, Inputs, Principal};
use suijuris_core::lineage::{
    ChainError, Checkpoint, Decision, Fault, Inception, Invariant, Outcome, Parent, State, Stored,
};
use suijuris_core::memory::Memory;
use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId, RecordId};

use crate::lives::{bundle, bundles, controller, epoch_key, fault_of, inception, rich_schema};

pub(crate) fn class_id() -> ClassId {
    identity().id().unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity {
        controllers: (0..3).map(|index| controller(index).public()).collect(),
        threshold: 2,
        name: "tenant".to_owned(),
        nonce: [7; 16],
    }
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

const SPAN: TextSpan = TextSpan { start: 0, end: 1 };

/// Permits `instantiate` and `wake` by callers where the key is `acme`, in the instance that is, or would be.
pub(crate) fn rules(bundle: BundleId) -> Rules {
    let clause = |text: &str| Clause {
        span: SPAN,
        text: text.to_owned(),
    };
    let group = |action| Group {
        action,
        principal: PrincipalKind::Caller,
        bodies: vec![0],
    };
    let listing = Listing {
        version: Listing::VERSION,
        rules: vec![Rule {
            id: "acme".to_owned(),
            effect: Effect::Permit,
            reason: None,
            retry_after: None,
            status: None,
            span: SPAN,
            clauses: vec![clause("resource.key == \"acme\"")],
        }],
        nodes: vec![
            Node::Slot(Slot::Key),
            Node::Const(Const::Text("acme".to_owned())),
            Node::Equal(0, 1),
        ],
        bodies: vec![Body {
            rule: 0,
            clauses: vec![(2, 0)],
        }],
        groups: vec![group(Action::Wake), group(Action::Instantiate)],
    };
    Rules {
        bundle,
        program: Program::new(listing).unwrap(),
        vocabulary: Vocabulary {
            memory: rich_schema(),
            class: true,
            ..Vocabulary::default()
        },
    }
}

fn caller() -> Inputs {
    Inputs::timeless(Principal::Caller(Box::<Caller>::default()))
}

const ROOM: Founding = Founding {
    instances: 3,
    max_instances: 4,
    peer_rate: 0,
    class_rate: 1,
};

fn asked(rules: &Rules, key: &Key, founding: Founding, inputs: Inputs) -> Verdict {
    let memory = Memory::new(Arc::new(rich_schema()));
    let template = Template {
        id: class_id(),
        name: "tenant",
        rules,
        memory: &memory,
    };
    let verdict = class::instantiate(&template, key, founding, inputs);
    let recorded = Instantiation {
        id: class_id(),
        key: key.clone(),
        decision: verdict.decision().clone(),
    };
    assert_eq!(
        &template.replay(&recorded),
        verdict.decision(),
        "made again, it is the same"
    );
    verdict
}

pub(crate) fn permitted() -> Decision {
    match asked(&rules(bundle(0)), &key("acme"), ROOM, caller()) {
        Verdict::Permit(permit, decision) => {
            assert_eq!(permit.action(), Action::Instantiate);
            *decision
        }
        Verdict::Refuse(decision) => panic!("{decision:?}"),
    }
}

#[test]
fn rules_decide_who_may_found_which_key_and_nobody_else_may() {
    let rules = rules(bundle(0));
    permitted();
    for (of, principal) in [
        ("other", caller().principal),
        ("acme", Principal::Host),
        ("acme", Principal::supposed_controller(vec![])),
        ("acme", Principal::Workload),
    ] {
        let inputs = Inputs::timeless(principal);
        let verdict = asked(&rules, &key(of), ROOM, inputs);
        assert!(
            matches!(verdict.decision().outcome, Outcome::Refuse(None)),
            "{of}"
        );
    }
}

#[test]
fn a_full_class_founds_nobody_whatever_its_rules_say() {
    let full = Founding { instances: 4, ..ROOM };
    let verdict = asked(&rules(bundle(0)), &key("acme"), full, caller());
    let expected = Outcome::Refuse(Some(Invariant::ClassFull));
    assert_eq!(verdict.decision().outcome, expected);
}

fn instance(class: Instantiation) -> Inception {
    Inception {
        class: Some(class),
        ticket: None,
        ..inception("life")
    }
}

pub(crate) fn acme() -> Instantiation {
    Instantiation {
        id: class_id(),
        key: key("acme"),
        decision: permitted(),
    }
}

fn found(body: Inception) -> Result<(State, Stored), ChainError> {
    let schema = Arc::new(rich_schema());
    State::create(body, Timestamp(1_000), bundle(0), schema, &epoch_key("life", 1))
}

#[test]
fn an_instance_knows_its_class_and_key_and_its_rules_see_them() {
    let (state, first) = found(instance(acme())).unwrap();
    let read = State::begin(&first, &bundles()).unwrap();
    assert_eq!(read.head(), state.head());
    let class = read.head().class.as_ref().unwrap();
    assert_eq!((class.id(), class.key().as_str()), (class_id(), "acme"));

    let rules = rules(bundle(0));
    let wake = |state: &State| {
        let view = View::new(state, &rules);
        matches!(
            decide::decide(view, Action::Wake, state.head().object, caller()),
            Verdict::Permit(..)
        )
    };
    assert!(wake(&read));
    // Through a checkpoint too; and an object that is no instance has no key.
    let bytes = Checkpoint::of(&state, 0, &epoch_key("life", 1)).unwrap();
    let (opened, _) = Checkpoint::open(&bytes, &bundles()).unwrap();
    assert_eq!(opened.head(), state.head());
    assert!(wake(&opened));
    assert!(!wake(&found(inception("life")).unwrap().0));
}

#[test]
fn nobody_founds_what_is_there() {
    let (state, _) = found(instance(acme())).unwrap();
    let rules = rules(bundle(0));
    let inputs = Inputs {
        founding: Some(ROOM),
        ..caller()
    };
    let view = View::new(&state, &rules);
    let verdict = decide::decide(view, Action::Instantiate, state.head().object, inputs);
    let expected = Outcome::Refuse(Some(Invariant::WrongPhase));
    assert_eq!(verdict.decision().outcome, expected);
}

/// An inception whose class was changed by `change` is refused, made and read.
#[track_caller]
fn refused(change: impl Fn(&mut Instantiation), expect: &str) {
    let mut class = acme();
    change(&mut class);
    let fault = fault_of(found(instance(class)).map(|_| ()));
    assert!(matches!(fault, Fault::Class(_)), "{fault:?}");
    assert!(fault.to_string().contains(expect), "{fault}");
}

#[test]
fn an_inception_that_was_not_permitted_is_none_of_a_class() {
    refused(
        |class| class.decision.outcome = Outcome::Refuse(None),
        "does not permit",
    );
    refused(|class| class.decision.action = Action::Wake, "does not permit");
    refused(|class| class.decision.inputs.founding = None, "room");
    refused(
        |class| class.decision.inputs.founding = Some(Founding::default()),
        "room",
    );
    refused(
        |class| class.decision.inputs.now.at = Timestamp(1_001),
        "later than its first record",
    );
    let forked = Inception {
        parent: Some(Parent {
            object: ObjectId::of(b"parent"),
            head: RecordId::of(b"head"),
        }),
        ..instance(acme())
    };
    assert!(matches!(fault_of(found(forked).map(|_| ())), Fault::Class(_)));
}

#[test]
fn a_record_with_a_key_that_is_none_cannot_be_read() {
    let (_, first) = found(instance(acme())).unwrap();
    for bad in [b"Acme", b"..me", b"-cme", b"ac/e"] {
        let bytes: Vec<u8> = first.bytes.clone();
        let at = bytes.windows(4).position(|four| four == b"acme").unwrap();
        let mut bytes = bytes;
        bytes[at..at + 4].copy_from_slice(bad);
        assert!(Stored::decode(bytes).is_err());
    }
}

#[test]
fn a_class_is_another_when_any_part_of_it_is() {
    let mut ids = std::collections::BTreeSet::from([class_id()]);
    for change in [
        Identity {
            threshold: 1,
            ..identity()
        },
        Identity {
            name: "tenants".to_owned(),
            ..identity()
        },
        Identity {
            nonce: [8; 16],
            ..identity()
        },
        Identity {
            controllers: vec![controller(0).public()],
            ..identity()
        },
    ] {
        assert!(ids.insert(change.id().unwrap()));
    }
    let mut turned = identity();
    turned.controllers.reverse();
    assert!(
        !ids.insert(turned.id().unwrap()),
        "in whichever order the owners are named"
    );
}
