//! What only the controllers can do: enough of them, for this object, this act, this moment.

use suijuris_core::governance::Action;
use suijuris_core::id::{Digest, ObjectId};
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::key::{Domain, Signature};
use suijuris_core::lineage::{Approval, Body, Fault, Outcome, Phase, Terminated};
use suijuris_core::memory::Value;

use crate::lives::{Life, approvals, assert_same, bundle, bytes_of, controller, decision, fault_of, fold};

const GOVERNED: [&str; 3] = ["amended", "forked", "terminated"];

fn approvals_mut(body: &mut Body) -> &mut Vec<Approval> {
    match body {
        Body::Amended(body) => &mut body.approvals,
        Body::Forked(body) => &mut body.approvals,
        Body::Terminated(body) => &mut body.approvals,
        other => panic!("{} needs no approval", other.kind()),
    }
}

fn statement_of(life: &Life, kind: &str) -> (ObjectId, Action, Digest) {
    let head = life.state.head();
    let (action, content) = match kind {
        "amended" => (Action::Amend, head.amendment(&life.other_rules())),
        "forked" => (Action::Fork, *ObjectId::of(b"child").digest()),
        _ => (Action::Terminate, *head.object.digest()),
    };
    (head.object, action, content)
}

fn with_approvals(life: &Life, kind: &str, approvals: Vec<Approval>) -> Result<(), Fault> {
    let mut body = life.body(kind);
    *approvals_mut(&mut body) = approvals;
    let signer = life.signer(&body);
    life.clone()
        .try_extend(body, Some(&signer))
        .map_err(|broken| broken.fault)
}

// proves A13
#[test]
fn of_itself_an_object_ends_without_a_signature_and_does_nothing_else_without() {
    let life = Life::new("life");
    let end = |by: Principal, action: Action, outcome: Outcome| {
        let mut decision = decision(action, outcome);
        decision.inputs = Inputs::timeless(by);
        let body = Body::Terminated(Terminated {
            decision,
            approvals: Vec::new(),
        });
        let signer = life.signer(&body);
        let ended = life.clone().try_extend(body, Some(&signer));
        ended.map_err(|broken| broken.fault)
    };
    assert!(end(Principal::Own, Action::Terminate, Outcome::Permit).is_ok());
    assert!(too_few(
        end(Principal::Host, Action::Terminate, Outcome::Permit),
        0
    ));
    assert!(too_few(
        end(Principal::Own, Action::Terminate, Outcome::Refuse(None)),
        0
    ));
    assert!(too_few(end(Principal::Own, Action::Migrate, Outcome::Permit), 0));
}

fn too_few(result: Result<(), Fault>, count: usize) -> bool {
    result.is_err_and(|fault| matches!(fault, Fault::Approvals { found, needed: 2 } if found == count))
}

// proves B9
#[test]
fn enough_different_controllers_must_sign() {
    let life = Life::in_phase(Phase::Active);
    for kind in GOVERNED {
        let (object, action, content) = statement_of(&life, kind);
        let by = |who: &[u8]| with_approvals(&life, kind, approvals(object, action, content, who.to_vec()));
        for enough in [&[0, 1][..], &[2, 1], &[0, 1, 2], &[0, 0, 1], &[7, 0, 8, 1]] {
            by(enough).unwrap();
        }
        for (who, count) in [
            (&[][..], 0),
            (&[0][..], 1),
            (&[0, 0, 0], 1),
            (&[0, 3], 1),
            (&[3, 4, 5], 0),
        ] {
            assert!(too_few(by(who), count), "{kind} by {who:?}");
        }
    }
}

// proves B9
#[test]
fn an_approval_is_for_one_object_one_act_and_one_content() {
    let life = Life::in_phase(Phase::Active);
    for kind in GOVERNED {
        let (object, action, content) = statement_of(&life, kind);
        let elsewhere = ObjectId::of(b"other");
        let other_act = if action == Action::Sleep {
            Action::Wake
        } else {
            Action::Sleep
        };
        for (object, action, content) in [
            (elsewhere, action, content),
            (object, other_act, content),
            (object, action, Digest::of(b"other")),
        ] {
            let wrong = approvals(object, action, content, [0, 1]);
            assert!(too_few(with_approvals(&life, kind, wrong), 0), "{kind}");
        }
        let mut forged = approvals(object, action, content, [0, 1]);
        forged[1].sig = Signature([1; 64]);
        assert!(too_few(with_approvals(&life, kind, forged), 1), "{kind}");
        let mut borrowed = approvals(object, action, content, [0, 3]);
        borrowed[1].key = controller(1).public();
        assert!(too_few(with_approvals(&life, kind, borrowed), 1), "{kind}");
    }
}

// proves B9
#[test]
fn a_signature_made_for_another_purpose_approves_nothing() {
    let life = Life::in_phase(Phase::Active);
    let (object, action, content) = statement_of(&life, "amended");
    let statement = suijuris_core::lineage::Statement {
        object,
        action,
        content,
    };
    let bytes = suijuris_core::codec::encode(&statement).unwrap();
    let sign = |index| {
        let key = controller(index);
        Approval {
            key: key.public(),
            sig: key.sign(Domain::Record, &bytes),
        }
    };
    assert!(too_few(
        with_approvals(&life, "amended", vec![sign(0), sign(1)]),
        0
    ));
}

// proves B9
#[test]
fn approved_rules_are_those_that_come_into_force_and_the_id_stays() {
    let mut life = Life::in_phase(Phase::Active);
    let object = life.state.head().object;
    let body = life.body("amended");
    let running = life.running();
    let other = life
        .clone()
        .try_extend_to(body.clone(), Some(bundle(2)), Some(&running));
    assert!(too_few(other.map_err(|broken| broken.fault), 0));

    life.try_extend(body, Some(&running)).unwrap();
    let head = life.state.head();
    assert_eq!((head.object, head.bundle), (object, bundle(1)));
    assert_eq!(
        life.state.memory().value("title"),
        Some(&Value::String("new".into()))
    );
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
}

// proves B9
#[test]
fn an_approval_is_spent_and_cannot_be_replayed_when_the_old_rules_return() {
    let mut life = Life::in_phase(Phase::Active);
    let first = life.body("amended");
    life.live("amended");
    let again = life
        .clone()
        .try_extend_to(first.clone(), Some(bundle(1)), Some(&life.running()));
    assert!(matches!(fault_of(again), Fault::Bundle));
    life.live("amended");
    assert_eq!(life.state.head().bundle, bundle(0));
    let replayed = life.clone().try_extend(first, Some(&life.running()));
    assert!(too_few(replayed.map_err(|broken| broken.fault), 0));
}

#[test]
fn rules_that_are_not_at_hand_cannot_come_into_force() {
    let life = Life::in_phase(Phase::Active);
    let unknown = bundle(200);
    let mut body = life.body("amended");
    let content = life.state.head().amendment(&unknown);
    *approvals_mut(&mut body) = approvals(life.state.head().object, Action::Amend, content, [0, 1]);
    let taken = life
        .clone()
        .try_extend_to(body, Some(unknown), Some(&life.running()));
    assert!(matches!(fault_of(taken), Fault::NoBundle(id) if id == unknown));
}

#[test]
fn many_worthless_approvals_are_bounded_work() {
    let life = Life::in_phase(Phase::Active);
    let (object, action, content) = statement_of(&life, "terminated");
    let worthless = approvals(object, action, content, [9]);
    let enough = approvals(object, action, content, [0, 1]);
    let crowd = |count| [vec![worthless[0].clone(); count], enough.clone()].concat();
    with_approvals(&life, "terminated", crowd(254)).unwrap();
    assert!(too_few(with_approvals(&life, "terminated", crowd(255)), 1));
}
