//! Two ends find that they belong together, or say why not.

use suijuris_link::frame::{Frame, Refusal};
use suijuris_link::handshake::{Handshake, HandshakeError, Side, Step, VERSION};
use suijuris_link::identity::{ActivationId, Nonce, Secret};

use crate::vectors::written;

const ONE: ActivationId = ActivationId([1; 16]);
const OTHER: ActivationId = ActivationId([2; 16]);

fn attach(side: Side, activation: ActivationId, secret: u8) -> Handshake {
    Handshake::attach(
        side,
        activation,
        Secret::from_bytes([secret; 32]),
        Nonce::fresh().unwrap(),
    )
}

/// Plays both to their ends: what the supervisor and what the runtime come to.
fn meet(
    mut supervisor: Handshake,
    mut runtime: Handshake,
) -> [Result<Option<ActivationId>, HandshakeError>; 2] {
    let first = [supervisor.on(&runtime.hello()), runtime.on(&supervisor.hello())];
    let [to_runtime, to_supervisor] = first.map(|step| step.map(Some));
    let finish =
        |end: &mut Handshake, own: Result<Option<Step>, HandshakeError>, other: &Result<Option<Step>, _>| {
            match (own?, other) {
                (Some(Step::Done(activation)), _) => Ok(Some(activation)),
                (_, Ok(Some(Step::Send(proof)))) => match end.on(proof)? {
                    Step::Done(activation) => Ok(Some(activation)),
                    Step::Send(_) => Ok(None),
                },
                _ => Ok(None),
            }
        };
    let ended = finish(&mut supervisor, to_runtime.clone(), &to_supervisor);
    [ended, finish(&mut runtime, to_supervisor, &to_runtime)]
}

#[test]
fn a_launch_and_an_attach_with_the_same_secret_come_together() {
    let nonce = Nonce([5; 32]);
    let both = meet(Handshake::launch(ONE, nonce), Handshake::launched(nonce));
    assert_eq!(both, [Ok(Some(ONE)), Ok(Some(ONE))]);
    let both = meet(attach(Side::Supervisor, ONE, 7), attach(Side::Runtime, ONE, 7));
    assert_eq!(both, [Ok(Some(ONE)), Ok(Some(ONE))]);
}

#[test]
fn whoever_does_not_belong_here_is_told_why() {
    let both = meet(attach(Side::Supervisor, ONE, 7), attach(Side::Runtime, ONE, 8));
    assert_eq!(both, [Err(HandshakeError::Proof), Err(HandshakeError::Proof)]);
    let both = meet(attach(Side::Supervisor, ONE, 7), attach(Side::Runtime, OTHER, 7));
    assert_eq!(
        both,
        [Err(HandshakeError::Activation), Err(HandshakeError::Activation)]
    );
    let both = meet(
        Handshake::launch(ONE, Nonce([5; 32])),
        attach(Side::Runtime, ONE, 7),
    );
    assert_eq!(both, [Err(HandshakeError::Purpose), Err(HandshakeError::Purpose)]);
    let both = meet(attach(Side::Supervisor, ONE, 7), attach(Side::Supervisor, ONE, 7));
    assert_eq!(both, [Err(HandshakeError::Purpose), Err(HandshakeError::Purpose)]);
}

#[test]
fn an_older_or_newer_end_is_refused_with_both_versions() {
    for theirs in [0, VERSION + 1, u16::MAX] {
        let foreign = Frame::Foreign { version: theirs };
        let error = attach(Side::Supervisor, ONE, 7).on(&foreign).unwrap_err();
        assert_eq!(error, HandshakeError::Version { theirs });
        assert_eq!(error.refusal(), Some(Refusal::Version));
        let words = error.to_string();
        assert!(
            words.contains(&format!("version {theirs}")) && words.contains("install both together"),
            "{words}"
        );
        // It tells us so, too, and in a form that each version reads.
        let refused = Frame::Refused {
            version: theirs,
            refusal: Refusal::Version,
        };
        assert_eq!(Handshake::launched(Nonce([0; 32])).on(&refused), Err(error));
    }
}

#[test]
fn the_secret_does_not_travel_and_a_proof_is_good_once_and_for_its_side() {
    let secret = [0x5a; 32];
    let of = |side| Handshake::attach(side, ONE, Secret::from_bytes(secret), Nonce::fresh().unwrap());
    let (mut supervisor, mut runtime) = (of(Side::Supervisor), of(Side::Runtime));
    let Ok(Step::Send(proof)) = runtime.on(&supervisor.hello()) else {
        panic!("no proof")
    };
    let Ok(Step::Send(own)) = supervisor.on(&runtime.hello()) else {
        panic!("no proof")
    };
    for frame in [supervisor.hello(), runtime.hello(), proof.clone(), own.clone()] {
        assert!(!written(&frame).windows(8).any(|window| window == &secret[..8]));
    }
    // Sent back to where it comes from.
    assert_eq!(supervisor.clone().on(&own), Err(HandshakeError::Proof));
    assert_eq!(supervisor.on(&proof), Ok(Step::Done(ONE)));
    // Kept for another time.
    let mut later = of(Side::Supervisor);
    later.on(&runtime.hello()).unwrap();
    assert_eq!(later.on(&proof), Err(HandshakeError::Proof));
    assert_eq!(format!("{:?}", Secret::from_bytes(secret)), "Secret(..)");
}

#[test]
fn nothing_comes_before_the_hello_and_nothing_twice() {
    let mut end = attach(Side::Runtime, ONE, 7);
    for early in [
        Frame::Heartbeat { number: 1 },
        Frame::Message {
            descriptors: 0,
            body: vec![0],
        },
    ] {
        assert!(matches!(end.on(&early), Err(HandshakeError::Unexpected(_))));
    }
    let supervisor = attach(Side::Supervisor, ONE, 7);
    end.on(&supervisor.hello()).unwrap();
    assert!(matches!(
        end.on(&supervisor.hello()),
        Err(HandshakeError::Unexpected(_))
    ));
    assert!(matches!(
        end.on(&Frame::Heartbeat { number: 1 }),
        Err(HandshakeError::Unexpected(_))
    ));
}
