//! Connections as streams of the link, where no descriptors pass.

use suijuris_link::frame::Reset;
use suijuris_link::launch::Unattended;
use suijuris_link::message::{Carrier, How};
use suijuris_link::mux::QueueError;
use suijuris_link::{ToRuntime, ToSupervisor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::rig::{Caller, Machine, Object, PATIENCE};

#[tokio::test]
async fn connections_come_as_streams_where_no_descriptors_pass() {
    let object = Object::new();
    let mut machine = Machine::start_over_tcp(object.launch(Unattended::Stop));
    let supervisor = &machine.supervisor;
    assert!(!supervisor.link.passes_descriptors());
    let (_caller, accepted) = Caller::accepted().await;
    let carrier = Carrier::Descriptor(accepted.into_std().unwrap().into());
    let read = serde_bytes::ByteBuf::new();
    let refused = supervisor.link.queue(ToRuntime::Connection {
        id: 1,
        carrier,
        read,
        client: None,
    });
    assert!(matches!(refused, Err(QueueError::NoDescriptors)), "{refused:?}");

    let mut early = supervisor.connect_by_stream(1).await;
    early.gets_the_page().await;
    let mut callers = Vec::new();
    for id in 2..20 {
        callers.push(supervisor.connect_by_stream(id).await);
    }
    for caller in &mut callers {
        caller.gets_the_page().await;
    }
    early.gets_the_page().await;
    // A caller who goes is not missed.
    drop(callers);
    early.gets_the_page().await;
    assert_eq!(supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

#[tokio::test]
async fn a_stream_ends_as_a_connection_does() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    machine.supervisor.serves().await;
    let mut caller = machine.supervisor.connect_by_stream(1).await;
    let request = b"GET /page HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    caller.0.write_all(request).await.unwrap();
    let mut answer = String::new();
    // Whole, and then its end: a cut stream would be an error.
    let read = timeout(PATIENCE, caller.0.read_to_string(&mut answer))
        .await
        .unwrap();
    read.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // Nobody else is told that his request was taken, and what is said on a stream of another kind goes nowhere.
    let depot = machine
        .supervisor
        .link
        .open(suijuris_link::frame::StreamKind::Depot)
        .unwrap();
    let carrier = Carrier::Stream {
        number: depot.id().number(),
        peer: suijuris_link::launch::Address(([192, 0, 2, 1], 1).into()),
    };
    let read = serde_bytes::ByteBuf::new();
    machine
        .supervisor
        .link
        .queue(ToRuntime::Connection {
            id: 2,
            carrier,
            read,
            client: None,
        })
        .unwrap();
    let carrier = Carrier::Stream {
        number: 4_711,
        peer: suijuris_link::launch::Address(([192, 0, 2, 1], 1).into()),
    };
    let read = serde_bytes::ByteBuf::new();
    machine
        .supervisor
        .link
        .queue(ToRuntime::Connection {
            id: 3,
            carrier,
            read,
            client: None,
        })
        .unwrap();
    depot.reset(Reset::Dropped);
    machine
        .supervisor
        .link
        .queue(ToRuntime::Sleep { id: 4, signed: None })
        .unwrap();
    while let Ok(Some(message)) = machine.supervisor.link.receive().await {
        assert!(
            !matches!(message, ToSupervisor::Taken { id: 2 | 3 }),
            "{message:?}"
        );
    }
    assert_eq!(machine.code().await, Some(0));
}
