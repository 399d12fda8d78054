//! Histories read back: the same state from whole ones, a refusal from altered ones.

use proptest::prelude::*;
use suijuris_core::id::RecordId;
use suijuris_core::key::{SecretKey, Signature};
use suijuris_core::lineage::{ChainError, Fault, Inception, Phase, Record, State, Stored};
use suijuris_core::memory::{Value, Write};
use suijuris_core::time::Timestamp;

use crate::lives::{
    Life, any_life, assert_same, bundle, bundles, bytes_of, change, epoch_key, fault_of, fold,
};

/// A life with each way of writing: signed at once, sealed later, lost to a crash, asleep, amended.
fn full_life() -> Life {
    let mut life = Life::new("life");
    for kind in ["woke", "mutated", "seal", "refused", "dormant", "amended", "woke"] {
        life.live(kind);
    }
    let text = |text: &str| Write::Set(Value::String(text.into()));
    life.write(change([("title", text("a")), ("mode", text("any"))]), false)
        .unwrap();
    life.write(change([("title", text("b"))]), false).unwrap();
    life
}

fn last_signed(chain: &[Stored]) -> usize {
    chain
        .iter()
        .rposition(|stored| stored.record.sig.is_some())
        .unwrap()
}

/// The altered chain is refused; only behind the last signature it may pass, and is then another history.
fn check_altered(life: &Life, index: usize, altered: Vec<u8>) {
    let mut chain = bytes_of(&life.chain);
    chain[index] = altered;
    if let Ok(state) = fold(&chain) {
        assert!(
            index > last_signed(&life.chain),
            "record {index} was altered and accepted"
        );
        assert_ne!(state.head().record, life.state.head().record);
    }
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_history_read_back_is_the_state_that_made_it(life in any_life()) {
        assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
    }

    // proves A6
    #[test]
    fn a_flipped_bit_anywhere_is_refused_or_is_another_history(
        life in any_life(),
        record in any::<prop::sample::Index>(),
        bits in prop::collection::vec(any::<prop::sample::Index>(), 8),
    ) {
        let index = record.index(life.chain.len());
        let bytes = &life.chain[index].bytes;
        for bit in bits {
            check_altered(&life, index, flipped(bytes, bit.index(bytes.len() * 8)));
        }
    }

    // proves A6
    #[test]
    fn a_shortened_record_is_refused(
        life in any_life(),
        record in any::<prop::sample::Index>(),
        keep in any::<prop::sample::Index>(),
    ) {
        let index = record.index(life.chain.len());
        let mut chain = bytes_of(&life.chain);
        let keep = keep.index(chain[index].len());
        chain[index].truncate(keep);
        let broken = fold(&chain).unwrap_err();
        prop_assert!(matches!(broken.fault, Fault::Encoding(_)));
        prop_assert_eq!(broken.seq, index as u64);
    }

    // proves A6
    #[test]
    fn dropped_swapped_repeated_and_cut_records_are_refused(
        life in any_life(),
        one in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
    ) {
        let whole = bytes_of(&life.chain);
        let (a, b) = (one.index(whole.len()), other.index(whole.len()));
        let (low, high) = (a.min(b), a.max(b));
        let refused = |chain: &[Vec<u8>]| fold(chain).unwrap_err();

        let repeated = [&whole[..=low], &whole[low..]].concat();
        prop_assert!(misplaced(&refused(&repeated), low));
        if high > low {
            let mut swapped = whole.clone();
            swapped.swap(low, high);
            prop_assert!(misplaced(&refused(&swapped), low));
            let cut = [&whole[..low], &whole[high..]].concat();
            prop_assert!(misplaced(&refused(&cut), low));
        }
    }
}

/// Refused for its place: an inception where none belongs or none where one does, or a position out of order.
fn misplaced(broken: &ChainError, at: usize) -> bool {
    match broken.fault {
        Fault::Inception => at == 0,
        Fault::Seq { found, expected } => found != expected,
        _ => false,
    }
}

// proves A6
#[test]
fn every_byte_of_a_history_matters() {
    let life = full_life();
    for (index, stored) in life.chain.iter().enumerate() {
        for byte in 0..stored.bytes.len() {
            check_altered(&life, index, flipped(&stored.bytes, byte * 8 + byte % 8));
        }
    }
}

// proves A6
#[test]
fn records_of_another_object_are_refused() {
    let (ours, other) = (full_life(), {
        let mut other = Life::new("other");
        other.live("woke");
        other.live("mutated");
        other
    });
    for index in 1..other.chain.len() {
        let mut chain = bytes_of(&ours.chain[..=index]);
        chain[index] = other.chain[index].bytes.clone();
        let fault = fault_of(fold(&chain));
        assert!(
            matches!(fault, Fault::Object(id) if id == other.state.head().object),
            "{fault:?}"
        );
    }
    let mut chain = bytes_of(&ours.chain);
    chain[0] = other.chain[0].bytes.clone();
    assert!(matches!(fault_of(fold(&chain)), Fault::Object(_)));
}

#[test]
fn a_tail_cut_off_at_a_record_is_an_older_history_which_only_a_witness_can_tell() {
    let life = full_life();
    for len in 1..=life.chain.len() {
        let state = fold(&bytes_of(&life.chain[..len])).unwrap();
        assert_eq!(state.head().record, life.chain[len - 1].id);
    }
}

/// What a holder of the right key can put in one field, and the fault that names it.
type Forgery = (&'static str, fn(&mut Record), fn(&Fault) -> bool);

const FORGERIES: &[Forgery] = &[
    ("version", |r| r.v = 2, |f| matches!(f, Fault::Version(2))),
    (
        "no object",
        |r| r.object = None,
        |f| matches!(f, Fault::Inception),
    ),
    (
        "position",
        |r| r.seq += 1,
        |f| {
            matches!(
                f,
                Fault::Seq {
                    found: 4,
                    expected: 3
                }
            )
        },
    ),
    ("no predecessor", |r| r.prev = None, |f| matches!(f, Fault::Prev)),
    (
        "other predecessor",
        |r| r.prev = Some(RecordId::of(b"x")),
        |f| matches!(f, Fault::Prev),
    ),
    (
        "epoch",
        |r| r.epoch = 2,
        |f| {
            matches!(
                f,
                Fault::Epoch {
                    found: 2,
                    expected: 1
                }
            )
        },
    ),
    ("time", |r| r.at = Timestamp(0), |f| matches!(f, Fault::Time)),
    ("rules", |r| r.bundle = bundle(1), |f| matches!(f, Fault::Bundle)),
    ("memory", |r| r.memory.0[0] ^= 1, |f| matches!(f, Fault::Memory)),
];

// proves A6
#[test]
fn each_field_that_does_not_continue_the_chain_has_its_own_fault() {
    let mut life = Life::in_phase(Phase::Active);
    life.live("mutated");
    let before = life.state.clone();
    life.live("seal");
    let honest = &life.chain[3].record;
    for (what, forge, expected) in FORGERIES {
        let mut record = honest.clone();
        forge(&mut record);
        let fault = apply(&before, record.store(Some(&life.running())).unwrap());
        assert!(expected(&fault), "{what}: {fault:?}");
    }
}

fn apply(before: &State, next: Stored) -> Fault {
    let read = Stored::decode(next.bytes).unwrap();
    fault_of(before.clone().apply(&read, &bundles()))
}

// proves A6
#[test]
fn a_missing_wrong_or_foreign_signature_is_refused() {
    let mut life = Life::in_phase(Phase::Active);
    let before = life.state.clone();
    life.live("seal");
    let honest = life.chain[2].record.clone();
    let raw = |record: Record| {
        let bytes = suijuris_core::codec::encode(&record).unwrap();
        apply(&before, Stored::decode(bytes).unwrap())
    };
    let stranger = SecretKey::from_seed(&[9; 32]);
    assert!(matches!(
        apply(&before, honest.clone().store(None).unwrap()),
        Fault::Unsigned("seal")
    ));
    assert!(matches!(
        apply(&before, honest.clone().store(Some(&stranger)).unwrap()),
        Fault::Key
    ));
    assert!(matches!(
        raw(Record {
            sig: None,
            ..honest.clone()
        }),
        Fault::Signature
    ));
    assert!(matches!(
        raw(Record {
            sig: Some(Signature([0; 64])),
            ..honest.clone()
        }),
        Fault::Signature
    ));
    assert!(matches!(
        raw(Record { key: None, ..honest }),
        Fault::Unsigned("seal")
    ));
}

#[test]
fn rules_that_are_not_at_hand_are_named() {
    let life = Life::new("life");
    let nothing = |_: &_| None;
    let fault = fault_of(State::begin(&life.chain[0], &nothing));
    assert!(matches!(fault, Fault::NoBundle(id) if id == bundle(0)));
}

#[test]
fn an_inception_with_unsound_controllers_or_a_foreign_key_is_refused() {
    use crate::lives::{controller, inception, rich_schema};
    let create = |body| {
        let schema = std::sync::Arc::new(rich_schema());
        State::create(body, Timestamp(0), bundle(0), schema, &epoch_key("life", 1))
    };
    let one = || vec![controller(0).public()];
    let crowd = (0..65).map(|index| epoch_key("crowd", index).public()).collect();
    for (controllers, threshold) in [
        (vec![], 0),
        (vec![], 1),
        (one(), 0),
        (one(), 2),
        ([one(), one()].concat(), 1),
        (crowd, 1),
    ] {
        let body = Inception {
            controllers,
            threshold,
            ..inception("life")
        };
        assert!(matches!(fault_of(create(body)), Fault::Controllers));
    }
    let next = epoch_key("other", 1).public().commitment();
    let body = Inception {
        next,
        ..inception("life")
    };
    assert!(matches!(fault_of(create(body)), Fault::Key));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_copy_that_follows_is_the_state_that_made_the_records(
        life in any_life(),
        cuts in prop::collection::vec(any::<bool>(), 64),
    ) {
        let mut made = State::begin(&life.chain[0], &bundles()).unwrap();
        let mut copy = made.clone();
        for (stored, cut) in life.chain[1..].iter().zip(cuts.iter().cycle()) {
            made.apply(stored, &bundles()).unwrap();
            if *cut {
                let advance = made.advance();
                prop_assert_eq!(advance.seq(), stored.record.seq);
                copy.follow(advance);
                assert_same(&copy, &made);
                for (name, _, _) in made.memory().iter() {
                    prop_assert_eq!(copy.memory().prove(name.as_str()), made.memory().prove(name.as_str()));
                }
            }
        }
        copy.follow(made.advance());
        assert_same(&copy, &life.state);
    }
}

#[test]
fn time_awake_is_told_by_the_records_and_crashes_in_a_row_are_counted() {
    let usage = |life: &Life| {
        let head = life.state.head();
        (head.awake.0, head.crashes)
    };
    let at = |life: &Life| life.state.head().at.0;
    let mut life = Life::new("life");
    assert_eq!(usage(&life), (0, 0));
    life.live("woke");
    let woke = at(&life);
    life.live("mutated");
    assert_eq!(
        usage(&life),
        (0, 0),
        "of an activation that runs, nothing is counted yet"
    );
    assert_eq!(life.state.head().awake_at(Timestamp(woke + 77)).0, 77);
    life.live("dormant");
    let first = at(&life) - woke;
    assert!(first > 0);
    assert_eq!(usage(&life), (first, 0));
    assert_eq!(
        life.state.head().awake_at(Timestamp(woke + 1_000_000)).0,
        first,
        "asleep it costs nothing"
    );
    // Cut off: awake up to its last record, whenever that is found out.
    life.live("woke");
    let woke = at(&life);
    life.live("mutated");
    let cut = at(&life) - woke;
    life.live("unsealed");
    assert_eq!(usage(&life), (first + cut, 1));
    life.live("woke");
    life.live("unsealed");
    assert_eq!(usage(&life), (first + cut, 2));
    // A pause that nobody announced is no time awake.
    life.live("woke");
    let woke = at(&life);
    life.live("resumed");
    let before = (at(&life) - woke - 5).max(0);
    let resumed = at(&life);
    life.live("dormant");
    let after = at(&life) - resumed;
    assert_eq!(
        usage(&life),
        (first + cut + before + after, 0),
        "a clean sleep ends the row"
    );
    assert_same(&fold(&bytes_of(&life.chain)).unwrap(), &life.state);
}
