//! The key of the epoch after the one that begins, made by whoever starts the machine.

use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::lineage::Body;
use suijuris_custody::claim::Handoff;
use suijuris_link::ToRuntime;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;
use suijuris_store::ObjectDir;

use crate::rig::{Machine, Object};

/// Starts a machine that is handed this key, and lets it live once; what its wake committed to.
async fn lives_with(object: &Object, spare: Option<Digest>) -> Digest {
    let mut launch = object.launch(Unattended::Stop);
    launch.granted = true;
    let mut machine = Machine::start(launch);
    let handed = Handoff { claim: None, spare };
    let grant = Some(codec::encode(&handed).unwrap().into());
    let link = &machine.supervisor.link;
    link.queue(ToRuntime::Granted { grant }).unwrap();
    machine.supervisor.serves().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    let woken = object
        .records()
        .into_iter()
        .rev()
        .find_map(|record| match record.body {
            Body::Woke(woke) => Some(woke.next),
            _ => None,
        });
    woken.unwrap()
}

// proves A12
#[tokio::test]
async fn a_key_that_was_made_beside_the_start_is_the_one_that_waits_next() {
    let object = Object::new();
    let spare = ObjectDir::at(object.data()).prepare_spare(&[5; 32]).unwrap();
    assert_eq!(lives_with(&object, Some(spare)).await, spare);
    assert_eq!(std::fs::read(object.data().join("next.key")).unwrap(), [5; 32]);
    assert!(
        !object.data().join("spare.key").exists(),
        "it has taken its place"
    );
    // It can wake by it, and makes its own where none is made for it.
    let next = lives_with(&object, None).await;
    assert_ne!(next, spare);
}

#[tokio::test]
async fn a_key_that_is_another_or_not_there_is_not_committed_to() {
    let object = Object::new();
    let dir = ObjectDir::at(object.data());
    let missing = Digest([8; 32]);
    assert_ne!(lives_with(&object, Some(missing)).await, missing);
    let other = dir.prepare_spare(&[6; 32]).unwrap();
    let next = lives_with(&object, Some(missing)).await;
    assert!(next != missing && next != other);
}
