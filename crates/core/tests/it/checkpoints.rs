//! Checkpoints: the same state, or nothing.

use proptest::prelude::*;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Checkpoint, CheckpointError, Phase};

use crate::lives::{Life, any_life, assert_same, bundles};

fn checkpoint(life: &Life) -> Vec<u8> {
    Checkpoint::of(&life.state, 4_711, &life.waiting()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_checkpoint_opens_to_the_state_it_was_made_of_and_goes_on_from_there(life in any_life()) {
        let (state, position) = Checkpoint::open(&checkpoint(&life), &bundles()).unwrap();
        prop_assert_eq!(position, 4_711);
        assert_same(&state, &life.state);
        let (mut restored, mut original) = (Life { state, ..life.clone() }, life);
        for kind in ["mutated", "refused", "woke", "terminated"] {
            prop_assert_eq!(restored.try_live(kind).is_ok(), original.try_live(kind).is_ok());
            assert_same(&restored.state, &original.state);
        }
    }

    // proves A6
    #[test]
    fn a_flipped_bit_makes_a_checkpoint_unusable(
        life in any_life(),
        bits in prop::collection::vec(any::<prop::sample::Index>(), 16),
    ) {
        let bytes = checkpoint(&life);
        for bit in bits {
            let (mut flipped, bit) = (bytes.clone(), bit.index(bytes.len() * 8));
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Checkpoint::open(&flipped, &bundles()).is_err(), "bit {}", bit);
        }
    }
}

// proves A6
#[test]
fn a_checkpoint_signed_by_anyone_but_the_holder_of_the_next_key_is_unusable() {
    let life = Life::in_phase(Phase::Active);
    for key in [SecretKey::from_seed(&[9; 32]), life.running()] {
        let bytes = Checkpoint::of(&life.state, 0, &key).unwrap();
        assert!(matches!(
            Checkpoint::open(&bytes, &bundles()),
            Err(CheckpointError::Signature)
        ));
    }
}

#[test]
fn a_checkpoint_without_its_bundle_or_with_bytes_missing_is_unusable() {
    let bytes = checkpoint(&Life::new("life"));
    let nothing = |_: &_| None;
    assert!(matches!(
        Checkpoint::open(&bytes, &nothing),
        Err(CheckpointError::NoBundle)
    ));
    for len in 0..bytes.len() {
        assert!(matches!(
            Checkpoint::open(&bytes[..len], &bundles()),
            Err(CheckpointError::Encoding(_))
        ));
    }
}

#[test]
fn a_checkpoint_under_another_schema_is_unusable() {
    let bytes = checkpoint(&Life::new("life"));
    let other = std::sync::Arc::new(crate::lives::amended_schema());
    let wrong = move |_: &_| Some(std::sync::Arc::clone(&other));
    assert!(matches!(
        Checkpoint::open(&bytes, &wrong),
        Err(CheckpointError::Memory)
    ));
}
