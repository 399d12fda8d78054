//! An older history becomes the object's again only by its controllers' will, once, and in a newer epoch.

use suijuris_core::governance::Action;
use suijuris_core::id::{Digest, RecordId};
use suijuris_core::lineage::{Approval, Body, Fault, Phase, Restoration, Restored, Statement};

use crate::lives::{Life, approvals, assert_same, bytes_of, controller, fault_of, fold, plain_mutation};

fn restored(restoration: &Restoration, approvals: Vec<Approval>) -> Body {
    Body::Restored(Restored {
        abandoned: restoration.abandoned,
        seq: restoration.seq,
        epoch: restoration.epoch,
        approvals,
    })
}

fn approved(restoration: &Restoration, by: &[u8]) -> Vec<Approval> {
    let approve = |index: &u8| restoration.approve(&controller(*index)).unwrap();
    by.iter().map(approve).collect()
}

/// A copy that shut itself away, and what its controllers give up for it.
fn copy() -> (Life, Restoration) {
    let mut life = Life::in_phase(Phase::Active);
    life.live("dormant");
    life.live("quarantined");
    let restoration = Restoration::of(life.state.head(), RecordId::of(b"newer"), 40, 9);
    (life, restoration)
}

fn extended(life: &Life, body: Body) -> Result<Life, Fault> {
    let (mut life, signer) = (life.clone(), life.signer(&body));
    life.try_extend(body, Some(&signer))
        .map_err(|broken| broken.fault)?;
    Ok(life)
}

#[test]
fn a_restored_history_sleeps_and_goes_on_behind_every_abandoned_epoch() {
    let (life, restoration) = copy();
    let mut life = extended(&life, restored(&restoration, approved(&restoration, &[0, 1]))).unwrap();
    let head = life.state.head().clone();
    assert_eq!((head.phase, head.epoch, head.key), (Phase::Dormant, 9, None));
    life.live("woke");
    assert_eq!(
        (life.state.head().epoch, life.state.head().phase),
        (10, Phase::Active)
    );
    life.live("dormant");
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
    // An abandoned history that is behind takes no epoch away.
    let behind = Restoration::of(life.state.head(), RecordId::of(b"older"), 1, 2);
    let life = extended(&life, restored(&behind, approved(&behind, &[1, 2]))).unwrap();
    assert_eq!(life.state.head().epoch, 10);
}

#[test]
fn quarantine_is_left_by_the_controllers_only() {
    let (life, restoration) = copy();
    for kind in crate::lives::KINDS {
        let after = extended(&life, life.body(kind));
        let left = after.is_ok_and(|after| after.state.head().phase != Phase::Quarantined);
        assert_eq!(left, matches!(kind, "restored" | "terminated"), "{kind}");
    }
    for (by, count) in [
        (&[][..], 0),
        (&[0][..], 1),
        (&[0, 0], 1),
        (&[1, 3], 1),
        (&[4, 5], 0),
    ] {
        let fault = extended(&life, restored(&restoration, approved(&restoration, by))).err();
        assert!(
            matches!(fault, Some(Fault::Approvals { found, needed: 2 }) if found == count),
            "{by:?}: {fault:?}"
        );
    }
}

#[test]
fn an_approval_is_for_one_head_and_one_abandoned_history() {
    let (life, restoration) = copy();
    let by = approved(&restoration, &[0, 1]);
    let (head, newer) = (life.state.head(), restoration.abandoned);
    let others = [
        Restoration::of(head, RecordId::of(b"another"), 40, 9),
        Restoration::of(head, newer, 41, 9),
        Restoration::of(head, newer, 40, 10),
    ];
    for other in others {
        let fault = extended(&life, restored(&other, by.clone())).err();
        assert!(
            matches!(fault, Some(Fault::Approvals { found: 0, .. })),
            "{fault:?}"
        );
    }
    // Spent by the record it allows.
    let once = extended(&life, restored(&restoration, by.clone())).unwrap();
    let again = extended(&once, restored(&restoration, by.clone())).err();
    assert!(
        matches!(again, Some(Fault::Approvals { found: 0, .. })),
        "{again:?}"
    );
    // And of no use to a copy that stands elsewhere.
    let mut elsewhere = life;
    elsewhere.live("refused");
    let there = extended(&elsewhere, restored(&restoration, by)).err();
    assert!(
        matches!(there, Some(Fault::Approvals { found: 0, .. })),
        "{there:?}"
    );
}

#[test]
fn an_approval_of_another_act_restores_nothing_and_the_other_way_round() {
    let (life, restoration) = copy();
    let head = life.state.head();
    let content = Digest::of(&suijuris_core::codec::encode(&restoration).unwrap());
    for action in Action::ALL {
        for content in [content, *head.object.digest(), *head.record.digest()] {
            let others = approvals(head.object, *action, content, [0, 1, 2]);
            let fault = extended(&life, restored(&restoration, others)).err();
            assert!(
                matches!(fault, Some(Fault::Approvals { found: 0, .. })),
                "{action}"
            );
        }
        let statement = Statement {
            object: head.object,
            action: *action,
            content,
        };
        let controllers = &head.controllers;
        assert_eq!(
            statement.approved_by(&approved(&restoration, &[0, 1, 2]), controllers),
            0
        );
    }
}

#[test]
fn an_activation_is_settled_before_its_history_is_restored() {
    let mut life = Life::in_phase(Phase::Active);
    life.try_extend(plain_mutation(), None).unwrap();
    let body = life.body("restored");
    assert!(matches!(
        fault_of(life.clone().try_extend(body, Some(&life.waiting()))),
        Fault::Phase { .. }
    ));
    life.live("unsealed");
    life.live("restored");
    assert!(life.state.head().unsealed, "the rules of the next wake see it");
    life.live("woke");
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
}

#[test]
fn its_epoch_is_neither_less_nor_more() {
    let (life, restoration) = copy();
    let body = restored(&restoration, approved(&restoration, &[0, 1]));
    let whole = extended(&life, body).unwrap();
    for wrong in [0, 1, 8, 10] {
        let mut record = whole.chain.last().unwrap().record.clone();
        record.epoch = wrong;
        let stored = record.store(Some(&life.waiting())).unwrap();
        let chain = [bytes_of(&life.chain), vec![stored.bytes]].concat();
        assert!(
            matches!(fault_of(fold(&chain)), Fault::Epoch { expected: 9, .. }),
            "{wrong}"
        );
    }
}
