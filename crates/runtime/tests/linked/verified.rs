//! What whoever starts the machine verified while the object slept, and what has changed since.

use std::os::unix::fs::FileExt as _;

use suijuris_core::codec;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;
use suijuris_store::{ObjectDir, Stamps};

use crate::rig::{Machine, Object};

/// A machine that is told that the files were verified as `stamps` has them.
fn machine(object: &Object, stamps: &Stamps) -> Machine {
    let mut launch = object.launch(Unattended::Stop);
    launch.verified = Some(codec::encode(stamps).unwrap().into());
    Machine::start(launch)
}

/// Changes a byte of the very first record, which no checkpoint stands on any more.
fn damage(object: &Object) {
    let mut segments = std::fs::read_dir(object.data().join("lineage"))
        .unwrap()
        .flatten();
    let path = segments.next().unwrap().path();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 200).unwrap();
    file.write_all_at(&[!byte[0]], 200).unwrap();
}

async fn lives_once(object: &Object) {
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    machine.supervisor.serves().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

// proves A6
#[tokio::test]
async fn what_changed_since_it_was_verified_is_read_again_before_anything_is_served() {
    let object = Object::new();
    lives_once(&object).await;
    let stamps = Stamps::verify(&ObjectDir::at(object.data())).unwrap().unwrap();
    damage(&object);
    assert_eq!(machine(&object, &stamps).code().await, Some(3));
}

#[tokio::test]
async fn what_was_verified_is_not_read_again() {
    let object = Object::new();
    lives_once(&object).await;
    damage(&object);
    // Nobody sound says this of such files: it shows who reads them.
    let stamps = Stamps::of(&ObjectDir::at(object.data())).unwrap();
    let mut machine = machine(&object, &stamps);
    machine.supervisor.serves().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}
