//! Which record may follow which, who must sign it, and what time and epoch do.

use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Fault, Phase, Stored};
use suijuris_core::time::Timestamp;

use crate::lives::{KINDS, Life, assert_same, bundles, bytes_of, epoch_key, fault_of, fold, plain_mutation};

const PHASES: [Phase; 5] = [
    Phase::Dormant,
    Phase::Active,
    Phase::Departed,
    Phase::Quarantined,
    Phase::Terminated,
];

/// By kind: whether it may follow in each of [`PHASES`].
const MAY_FOLLOW: [(&str, [bool; 5]); 14] = {
    const Y: bool = true;
    const N: bool = false;
    [
        //                dormant active departed quarantined terminated
        ("woke", [Y, N, N, N, N]),
        ("resumed", [Y, Y, N, N, N]),
        ("mutated", [Y, Y, N, N, N]),
        ("seal", [Y, Y, N, N, N]),
        ("dormant", [N, Y, N, N, N]),
        ("refused", [Y, Y, Y, Y, N]),
        ("departed", [Y, N, N, N, N]),
        ("arrived", [N, N, Y, N, N]),
        ("forked", [Y, Y, N, N, N]),
        ("amended", [Y, Y, N, N, N]),
        ("unsealed", [N, Y, N, N, N]),
        ("quarantined", [Y, Y, Y, N, N]),
        ("terminated", [Y, Y, Y, Y, N]),
        ("restored", [Y, N, N, Y, N]),
    ]
};

#[test]
fn each_kind_follows_in_its_phases_and_in_no_other() {
    assert_eq!(MAY_FOLLOW.map(|(kind, _)| kind), KINDS);
    for (kind, row) in MAY_FOLLOW {
        for (phase, may) in PHASES.into_iter().zip(row) {
            match Life::in_phase(phase).try_live(kind) {
                Ok(()) => assert!(may, "{kind} followed while {}", phase.as_str()),
                Err(broken) => {
                    assert!(!may, "{kind} while {}: {:?}", phase.as_str(), broken.fault);
                    let (found, at) = match broken.fault {
                        Fault::Phase { kind, phase } => (kind, phase),
                        fault => panic!("{kind}: {fault:?}"),
                    };
                    assert_eq!((found, at), (kind, phase.as_str()));
                }
            }
        }
    }
}

#[test]
fn no_second_inception_and_nothing_after_the_end() {
    for phase in PHASES {
        assert!(matches!(
            fault_of(Life::in_phase(phase).try_live("inception")),
            Fault::Inception
        ));
    }
    let ended = Life::in_phase(Phase::Terminated);
    for kind in KINDS {
        assert!(
            matches!(fault_of(ended.clone().try_live(kind)), Fault::Phase { .. }),
            "{kind}"
        );
    }
}

#[test]
fn only_a_mutation_while_active_may_wait_for_its_seal() {
    for (kind, row) in MAY_FOLLOW {
        for (phase, may) in PHASES.into_iter().zip(row) {
            let mut life = Life::in_phase(phase);
            let body = life.body(kind);
            let waits = life.try_extend(body, None);
            if kind == "mutated" && phase == Phase::Active {
                waits.unwrap();
                assert_eq!(life.state.head().uncovered(), 1);
            } else if may {
                assert!(matches!(fault_of(waits), Fault::Unsigned(unsigned) if unsigned == kind));
            }
        }
    }
}

#[test]
fn every_record_wants_the_key_of_its_moment() {
    for (kind, row) in MAY_FOLLOW {
        for (phase, _) in PHASES.into_iter().zip(row).filter(|(_, may)| *may) {
            let life = Life::in_phase(phase);
            let body = life.body(kind);
            let right = life.signer(&body).public();
            let epochs = (0..4).map(|epoch| epoch_key("life", epoch));
            for key in epochs.chain([SecretKey::from_seed(&[9; 32])]) {
                let taken = life.clone().try_extend(body.clone(), Some(&key));
                if key.public() == right {
                    taken.unwrap();
                } else {
                    assert!(
                        matches!(fault_of(taken), Fault::Key),
                        "{kind} while {}",
                        phase.as_str()
                    );
                }
            }
        }
    }
}

#[test]
fn a_copy_without_the_next_key_cannot_wake_resume_or_write_while_asleep() {
    let mut life = Life::in_phase(Phase::Active);
    life.live("dormant");
    // The copy has every key that was ever shown; only the committed one was not.
    for kind in ["woke", "resumed", "mutated", "seal", "amended", "refused"] {
        for shown in 0..=life.state.head().epoch {
            let body = life.body(kind);
            let taken = life.clone().try_extend(body, Some(&epoch_key("life", shown)));
            assert!(matches!(fault_of(taken), Fault::Key), "{kind} by key {shown}");
        }
    }
    // Running memory, with the key of the epoch: it writes, but does not begin another epoch.
    let running = Life::in_phase(Phase::Active);
    let body = running.body("resumed");
    let taken = running.clone().try_extend(body, Some(&running.running()));
    assert!(matches!(fault_of(taken), Fault::Key));
}

#[test]
fn two_wakes_by_one_key_prove_a_twin() {
    let asleep = Life::new("life");
    let (mut one, mut other) = (asleep.clone(), asleep.clone());
    one.live("woke");
    let wake = |life: &mut Life| {
        let (body, key) = (life.body("woke"), life.waiting());
        life.state
            .extend(body, Timestamp(99_000), None, Some(&key), &bundles())
            .unwrap()
    };
    let theirs = wake(&mut other);
    let ours = &one.chain[1];
    assert_ne!(ours.id, theirs.id);
    for wake in [ours, &theirs] {
        assert!(wake.record.signature_holds());
        fold(&[asleep.chain[0].bytes.clone(), wake.bytes.clone()]).unwrap();
    }
    let claim = |wake: &Stored| (wake.record.prev, wake.record.epoch, wake.record.key);
    assert_eq!(claim(ours), claim(&theirs));
    let both = [bytes_of(&one.chain), vec![theirs.bytes]].concat();
    assert!(matches!(
        fault_of(fold(&both)),
        Fault::Seq {
            found: 1,
            expected: 2
        }
    ));
}

#[test]
fn time_never_goes_back() {
    let mut life = Life::in_phase(Phase::Active);
    let head = life.state.head().at;
    let key = life.running();
    for earlier in [head.0 - 1, 0, i64::MIN] {
        let body = life.body("seal");
        let stored = life
            .state
            .extend(body, Timestamp(earlier), None, Some(&key), &bundles())
            .unwrap();
        assert_eq!(stored.record.at, head);
        life.chain.push(stored);
    }
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
}

#[test]
fn each_wake_and_each_resume_is_one_more_epoch_with_a_key_of_its_own() {
    let mut life = Life::new("life");
    let mut keys = Vec::new();
    for (kind, epoch) in [
        ("woke", 1),
        ("mutated", 1),
        ("resumed", 2),
        ("dormant", 2),
        ("seal", 2),
        ("woke", 3),
        ("resumed", 4),
    ] {
        life.live(kind);
        assert_eq!(life.state.head().epoch, epoch, "{kind}");
        if matches!(kind, "woke" | "resumed") {
            keys.push(life.state.head().key.unwrap());
            assert_eq!(life.state.head().last_woke, Some(life.state.head().at));
        }
    }
    keys.dedup();
    assert_eq!(keys.len(), 4);
}

#[test]
fn an_activation_that_was_cut_off_is_marked_until_one_ends_well() {
    let mut life = Life::in_phase(Phase::Active);
    for _ in 0..3 {
        life.try_extend(plain_mutation(), None).unwrap();
    }
    assert_eq!(life.state.head().uncovered(), 3);
    let Body::Unsealed(lost) = life.body("unsealed") else {
        panic!("not unsealed")
    };
    assert_eq!((lost.mutations, lost.sealed), (3, 1));
    life.live("unsealed");
    assert!(life.state.head().unsealed);
    assert_eq!(
        (life.state.head().phase, life.state.head().uncovered()),
        (Phase::Dormant, 0)
    );
    life.live("woke");
    assert!(
        life.state.head().unsealed,
        "the rules of the wake and after see the mark"
    );
    life.live("dormant");
    assert!(!life.state.head().unsealed);
}

#[test]
fn refusals_and_timers_are_counted_by_the_head() {
    let mut life = Life::in_phase(Phase::Active);
    let fired = life.state.head().fired.clone();
    assert_eq!(fired.len(), 1);
    for _ in 0..2 {
        life.live("refused");
    }
    assert_eq!(life.state.head().refused, 6);
    life.live("seal");
    assert!(life.state.head().fired.values().next() > fired.values().next());
}
