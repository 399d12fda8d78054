//! Whoever reaches the inlet of a machine without being its supervisor.

use std::io::{Read as _, Write as _};

use suijuris_link::LinkError;
use suijuris_link::frame::Refusal;
use suijuris_link::handshake::HandshakeError;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;
use suijuris_link::{ActivationId, Secret};
use tokio::time::timeout;

use crate::rig::{Machine, Object, PATIENCE};

#[tokio::test]
async fn nobody_without_the_secret_of_this_activation_is_listened_to() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    let mut caller = machine.supervisor.connect(1).await;

    let wrong = machine.attach_as(machine.activation(), Secret::fresh().unwrap());
    let refused = timeout(PATIENCE, wrong.link.established())
        .await
        .unwrap()
        .unwrap_err();
    // Whichever end finds out first.
    assert!(
        matches!(
            refused,
            LinkError::Handshake(HandshakeError::Proof | HandshakeError::Refused(Refusal::Proof))
        ),
        "{refused:?}"
    );
    let former = machine.attach_as(ActivationId::fresh().unwrap(), Secret::fresh().unwrap());
    let refused = timeout(PATIENCE, former.link.established())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(
            refused,
            LinkError::Handshake(HandshakeError::Activation | HandshakeError::Refused(Refusal::Activation))
        ),
        "{refused:?}"
    );
    // The supervisor that is there was not disturbed.
    caller.gets_the_page().await;
    let mut another = machine.supervisor.connect(2).await;
    another.gets_the_page().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

#[tokio::test]
async fn garbage_is_hung_up_on() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4_096],
        b"\0\0\0\x3c\x01\0suijlink\0\x02",
    ] {
        let mut socket = machine.outlet.open().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up before all is written.
        let _ = socket.write_all(garbage);
        let mut rest = Vec::new();
        // Its own hello, perhaps a refusal, and the end.
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.len() < 200, "{rest:?}");
    }
    let mut caller = machine.supervisor.connect(1).await;
    caller.gets_the_page().await;
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
}

#[tokio::test]
async fn a_hundred_who_prove_nothing_keep_nobody_out() {
    let object = Object::new();
    let mut machine = Machine::start(object.launch(Unattended::Serve));
    machine.supervisor.serves().await;
    let mut caller = machine.supervisor.connect(1).await;
    machine.lose_the_supervisor();
    let mut silent = Vec::new();
    while silent.len() < 100 {
        match machine.outlet.open() {
            Ok(socket) => silent.push(socket),
            // As many wait as the kernel lets wait.
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                tokio::task::yield_now().await;
            }
        }
    }
    caller.gets_the_page().await;
    // Of all who wait in silence a few are kept, the newest: the first were hung up on long before their time was over.
    let mut first = silent.remove(0);
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    let second = machine.attach();
    assert_eq!(second.present().await.taken, [1]);
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    drop(silent);
}
