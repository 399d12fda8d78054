//! Histories that come back from a depot in segments.

use proptest::prelude::*;
use suijuris_core::lineage::segment::{self, Fold, SIZE_BYTES, SegmentError, Why};
use suijuris_core::lineage::{Fault, Phase, Stored};

use crate::lives::{Life, any_life, assert_same, bundles};

fn folded(chain: &[Stored], at: usize) -> Vec<Vec<u8>> {
    let (first, second) = chain.split_at(at);
    vec![segment::encode(first), segment::encode(second)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // proves B5
    #[test]
    fn any_split_into_segments_folds_to_the_same_state(life in any_life(), at in any::<prop::sample::Index>()) {
        let at = at.index(life.chain.len() + 1);
        let segments = folded(&life.chain, at);
        assert_same(&segment::fold(&segments, &bundles()).unwrap(), &life.state);
        let read: Vec<_> = segments.iter().flat_map(|bytes| segment::decode(bytes)).map(Result::unwrap).collect();
        prop_assert_eq!(read, life.chain);
    }

    // proves A6
    #[test]
    fn a_cut_or_changed_segment_is_refused_or_another_history(
        life in any_life(),
        bit in any::<prop::sample::Index>(),
    ) {
        let whole = segment::encode(&life.chain);
        let bit = bit.index(whole.len() * 8);
        let mut altered = whole.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        if let Ok(state) = segment::fold([&altered], &bundles()) {
            prop_assert_ne!(state.head().record, life.state.head().record);
        }
        let cut = &whole[..bit / 8];
        if let Ok(state) = segment::fold([cut], &bundles()) {
            prop_assert!(state.head().seq < life.state.head().seq, "cut between two records");
        }
    }
}

// proves B8
#[test]
fn the_first_bad_record_is_named() {
    let life = Life::in_phase(Phase::Quarantined);
    let whole = segment::encode(&life.chain);
    let second = SIZE_BYTES + life.chain[0].bytes.len();
    let twice = [&whole[..second], &whole[..]].concat();
    let Err(SegmentError {
        offset,
        seq,
        why: Why::Chain(broken),
    }) = segment::fold([&twice], &bundles())
    else {
        panic!("accepted")
    };
    assert_eq!((offset, seq), (second, 1));
    assert!(matches!(broken.fault, Fault::Inception));
    let cut = segment::fold([&whole[..whole.len() - 1]], &bundles()).unwrap_err();
    assert!(
        matches!(
            cut,
            SegmentError {
                seq: 1,
                why: Why::Cut,
                ..
            }
        ) && cut.offset == second,
        "{cut}"
    );
    let none: [&[u8]; 0] = [];
    assert!(matches!(
        segment::fold(none, &bundles()).unwrap_err().why,
        Why::Empty
    ));
}

#[test]
fn sizes_are_held_to_the_limit_and_a_fault_ends_the_records() {
    let life = Life::in_phase(Phase::Active);
    let mut bytes = segment::encode(&life.chain);
    let good = life.chain.len();
    bytes.extend(u32::MAX.to_be_bytes());
    bytes.extend(segment::encode(&life.chain));
    let read: Vec<_> = segment::decode(&bytes).collect();
    assert_eq!(read.len(), good + 1);
    assert!(matches!(
        &read[good],
        Err(SegmentError {
            why: Why::TooLong(_),
            ..
        })
    ));
}

#[test]
fn a_fold_goes_on_behind_a_trusted_state() {
    let mut life = Life::in_phase(Phase::Active);
    let (state, from) = (life.state.clone(), life.chain.len());
    life.live("seal");
    life.live("dormant");
    let mut fold = Fold::behind(state);
    fold.segment(&segment::encode(&life.chain[from..]), &bundles())
        .unwrap();
    assert_same(fold.state().unwrap(), &life.state);
}
