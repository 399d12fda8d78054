//! A runtime without a listener of its own: whoever calls comes over the link.

use suijuris_core::lineage::Body;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;

use crate::rig::{Caller, Machine, Object};

#[tokio::test]
async fn connections_that_come_over_the_link_are_served() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    // One before it serves, which waits at the gate, and others while it does.
    let mut early = machine.supervisor.connect(1).await;
    early.gets_the_page().await;
    let mut callers = Vec::new();
    for id in 2..20 {
        callers.push(machine.supervisor.connect(id).await);
    }
    for caller in &mut callers {
        caller.gets_the_page().await;
    }
    early.gets_the_page().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    let last = object.records().pop().unwrap();
    assert!(matches!(last.body, Body::Dormant(_)), "{last:?}");
}

#[tokio::test]
async fn a_connection_that_the_gate_never_took_stays_the_supervisors() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    machine.supervisor.serves().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    let (mut caller, accepted) = Caller::accepted().await;
    let kept = accepted.into_std().unwrap();
    let carrier = suijuris_link::message::Carrier::Descriptor(kept.try_clone().unwrap().into());
    let read = serde_bytes::ByteBuf::new();
    // It has left, or is about to: either way nobody is told that it was taken.
    let _gone = machine
        .supervisor
        .link
        .queue(suijuris_link::ToRuntime::Connection {
            id: 9,
            carrier,
            read,
            client: None,
        });
    while let Ok(Some(message)) = machine.supervisor.link.receive().await {
        assert!(!matches!(message, suijuris_link::ToSupervisor::Taken { .. }));
    }
    assert_eq!(machine.code().await, Some(0));
    // The supervisor has it still, and may serve it elsewhere.
    std::io::Write::write_all(&mut &kept, b"mine").unwrap();
    let mut read = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut caller.0, &mut read)
        .await
        .unwrap();
    assert_eq!(&read, b"mine");
}
