//! Both ends over real byte streams.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use serde_bytes::ByteBuf;
use suijuris_link::frame::{Reset, StreamKind};
use suijuris_link::handshake::HandshakeError;
use suijuris_link::identity::{ActivationId, Nonce, Secret};
use suijuris_link::launch::{Address, Cause, DepotRoute, Launch, Listen, Unattended};
use suijuris_link::message::{Carrier, How};
use suijuris_link::mux::QueueError;
use suijuris_link::transport::{Bytes, Transport};
use suijuris_link::{LinkError, RuntimeLink, SupervisorLink, ToRuntime, ToSupervisor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ACTIVATION: ActivationId = ActivationId([4; 16]);

fn nonce() -> Nonce {
    Nonce::fresh().unwrap()
}

fn launch(listen: Listen<OwnedFd>) -> Launch<OwnedFd> {
    Launch {
        secret: Secret::from_bytes([6; 32]),
        activation: ACTIVATION,
        cause: Cause::boot(here()),
        data: "/data".into(),
        object_dir: "/object".into(),
        agent_socket: "/data/run/agent.sock".into(),
        listen,
        depot: DepotRoute::None,
        unattended: Unattended::Stop,
        presence: None,
        holder: None,
        granted: true,
        server: None,
        verified: None,
        served_as: None,
        requests: None,
        egress: false,
        files: None,
        places: Vec::new(),
        image: None,
    }
}

/// Both ends of a launch, and the tasks that move them.
async fn launched(
    one: impl Transport + 'static,
    other: impl Transport + 'static,
) -> (SupervisorLink, RuntimeLink, JoinSet<LinkError>) {
    let mut drivers = JoinSet::new();
    let (supervisor, driver) = SupervisorLink::launch(one, launch(Listen::Link), nonce()).unwrap();
    drivers.spawn(driver);
    let (runtime, driver) = RuntimeLink::launched(other, nonce());
    drivers.spawn(driver);
    assert_eq!(
        format!("{:?}", runtime.first().await.unwrap()),
        format!("{:?}", launch(Listen::Link))
    );
    (supervisor, runtime, drivers)
}

fn narrow(bytes: usize) -> (Bytes<DuplexStream>, Bytes<DuplexStream>) {
    let (one, other) = duplex(bytes);
    (Bytes(one), Bytes(other))
}

#[tokio::test]
async fn a_launch_brings_its_descriptors_and_connections_bring_theirs() {
    let (one, other) = UnixStream::pair().unwrap();
    let (mut kept, given) = std::os::unix::net::UnixStream::pair().unwrap();
    let (supervisor, driver) =
        SupervisorLink::launch(one, launch(Listen::Descriptor(given.into())), nonce()).unwrap();
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    // Said before the runtime has said anything.
    let mut sockets = Vec::new();
    for id in 0..60_u8 {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let carrier = Carrier::Descriptor(theirs.into());
        let read = ByteBuf::from(vec![id; usize::from(id) * 300]);
        supervisor
            .queue(ToRuntime::Connection {
                id: id.into(),
                carrier,
                read,
                client: None,
            })
            .unwrap();
        sockets.push(ours);
    }
    let (runtime, driver) = RuntimeLink::launched(other, nonce());
    drivers.spawn(driver);
    let Listen::Descriptor(listener) = runtime.first().await.unwrap().listen else {
        panic!("no descriptor")
    };
    File::from(listener).write_all(b"hello").unwrap();
    let mut read = [0; 5];
    kept.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"hello");
    for (id, mut ours) in (0..60_u8).zip(sockets) {
        let message = runtime.receive().await.unwrap().unwrap();
        let ToRuntime::Connection {
            id: came,
            carrier: Carrier::Descriptor(theirs),
            read,
            client: None,
        } = message
        else {
            panic!("no connection")
        };
        assert_eq!(
            (came, read.into_vec()),
            (id.into(), vec![id; usize::from(id) * 300])
        );
        File::from(theirs).write_all(&[id]).unwrap();
        let mut byte = [0];
        ours.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [id]);
    }
    assert_eq!(supervisor.established().await.unwrap(), ACTIVATION);
}

#[tokio::test]
async fn descriptors_keep_to_their_messages_beside_full_streams() {
    let (one, other) = UnixStream::pair().unwrap();
    let (supervisor, runtime, _drivers) = launched(one, other).await;
    let mut flood = supervisor.open(StreamKind::Depot).unwrap();
    let mut drain = runtime.accept(StreamKind::Depot).await.unwrap();
    let mut ends = JoinSet::new();
    ends.spawn(async move {
        flood.write_all(&vec![7; 3 << 20]).await.unwrap();
        flood.shutdown().await.unwrap();
    });
    ends.spawn(async move {
        let mut all = Vec::new();
        drain.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), 3 << 20);
    });
    for id in 0..500_u64 {
        let file = File::from(std::io::stderr().as_fd().try_clone_to_owned().unwrap());
        let carrier = Carrier::Descriptor(file.into());
        supervisor
            .send(ToRuntime::Connection {
                id,
                carrier,
                read: ByteBuf::new(),
                client: None,
            })
            .await
            .unwrap();
        let came = runtime.receive().await.unwrap();
        assert!(matches!(came, Some(ToRuntime::Connection { id: came, .. }) if came == id));
    }
    while let Some(ended) = ends.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn connections_travel_as_streams_where_no_descriptor_passes() {
    for width in [1, 7, 100, 70_000] {
        let (one, other) = narrow(width);
        let (supervisor, runtime, _drivers) = launched(one, other).await;
        assert!(!supervisor.passes_descriptors());
        let mut talks = JoinSet::new();
        for id in 0..5_u64 {
            let mut stream = supervisor.open(StreamKind::Connection).unwrap();
            let peer = Address(([127, 0, 0, 1], 9).into());
            let carrier = Carrier::Stream {
                number: stream.id().number(),
                peer,
            };
            supervisor
                .queue(ToRuntime::Connection {
                    id,
                    carrier,
                    read: ByteBuf::new(),
                    client: None,
                })
                .unwrap();
            talks.spawn(async move {
                let said = vec![u8::try_from(id).unwrap(); 2_000 * usize::from(width > 1) + 10];
                let (mut read, mut write) = tokio::io::split(&mut stream);
                let mut heard = Vec::new();
                let write = async {
                    write.write_all(&said).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                tokio::join!(write, async { read.read_to_end(&mut heard).await.unwrap() });
                assert!(heard == said, "stream {id} of width {width}");
            });
        }
        let mut echoes = JoinSet::new();
        for _ in 0..5 {
            let message = runtime.receive().await.unwrap().unwrap();
            let ToRuntime::Connection {
                carrier: Carrier::Stream { number, .. },
                ..
            } = message
            else {
                panic!("no stream")
            };
            let stream = runtime.accept_this(number).expect("opened before it is named");
            echoes.spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
        while let Some(talk) = talks.join_next().await {
            talk.unwrap();
        }
    }
}

#[tokio::test]
async fn a_link_without_descriptors_says_so_and_goes_on() {
    let (one, other) = narrow(1_000);
    let (supervisor, runtime, _drivers) = launched(one, other).await;
    let file = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    let carrier = Carrier::Descriptor(file);
    let refused = supervisor.queue(ToRuntime::Connection {
        id: 1,
        carrier,
        read: ByteBuf::new(),
        client: None,
    });
    assert_eq!(refused, Err(QueueError::NoDescriptors));
    supervisor
        .queue(ToRuntime::Sleep { id: 2, signed: None })
        .unwrap();
    let came = runtime.receive().await.unwrap();
    assert_eq!(
        came.map(|message| format!("{message:?}")),
        Some("Sleep { id: 2, signed: None }".to_owned())
    );
}

#[tokio::test]
async fn a_supervisor_comes_back_with_the_secret_and_without_it_does_not() {
    let meet = async |supervisors: [u8; 32], of: ActivationId| {
        let (one, other) = UnixStream::pair().unwrap();
        let (supervisor, driver) = SupervisorLink::attach(one, of, Secret::from_bytes(supervisors), nonce());
        let mut drivers = JoinSet::new();
        drivers.spawn(driver);
        let (runtime, driver) = RuntimeLink::attach(other, ACTIVATION, Secret::from_bytes([6; 32]), nonce());
        drivers.spawn(driver);
        // Nothing is heard before the proof.
        runtime.queue(ToSupervisor::Taken { id: 1 }).unwrap();
        let both = (supervisor.established().await, runtime.established().await);
        (both, supervisor.receive().await, drivers)
    };
    let (both, heard, _drivers) = meet([6; 32], ACTIVATION).await;
    assert!(matches!(both, (Ok(ACTIVATION), Ok(ACTIVATION))), "{both:?}");
    assert_eq!(heard.unwrap(), Some(ToSupervisor::Taken { id: 1 }));
    for (secret, of, expected) in [
        ([5; 32], ACTIVATION, HandshakeError::Proof),
        ([6; 32], ActivationId([5; 16]), HandshakeError::Activation),
    ] {
        let ((supervisor, runtime), heard, _drivers) = meet(secret, of).await;
        let Err(LinkError::Handshake(error)) = runtime else {
            panic!("{runtime:?}")
        };
        assert_eq!(error, expected);
        assert!(
            matches!(supervisor, Err(LinkError::Handshake(_))),
            "{supervisor:?}"
        );
        assert!(matches!(heard, Err(LinkError::Handshake(_))), "{heard:?}");
    }
}

#[tokio::test]
async fn an_end_of_another_version_is_refused_with_a_clear_word() {
    let (one, mut other) = duplex(1_000);
    let (supervisor, driver) = SupervisorLink::launch(Bytes(one), launch(Listen::Link), nonce()).unwrap();
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    other
        .write_all(b"\0\0\0\x0b\x01\0suijlink\x00\x09?")
        .await
        .unwrap();
    let error = supervisor.receive().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("speaks version 9, this program version 2"),
        "{error}"
    );
    let mut said = Vec::new();
    other.read_to_end(&mut said).await.unwrap();
    assert!(
        said.ends_with(b"\0\0\0\x03\x03\0\x00\x02\x01"),
        "the last word is why"
    );
}

#[tokio::test]
async fn garbage_ends_a_link_and_whoever_waits_learns_it() {
    let (one, mut other) = duplex(1_000);
    let (supervisor, driver) = SupervisorLink::launch(Bytes(one), launch(Listen::Link), nonce()).unwrap();
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    let mut stream = supervisor.open(StreamKind::Connection).unwrap();
    other.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
    assert!(matches!(supervisor.receive().await, Err(LinkError::Frame(_))));
    assert!(stream.read_u8().await.is_err());
    assert!(supervisor.accept(StreamKind::Depot).await.is_none());
    assert_eq!(
        supervisor.queue(ToRuntime::Stop { within_ms: 1 }),
        Err(QueueError::Ended)
    );
}

#[tokio::test]
async fn what_a_runtime_said_before_it_left_is_heard() {
    let (one, other) = UnixStream::pair().unwrap();
    let (supervisor, driver) = SupervisorLink::launch(one, launch(Listen::Link), nonce()).unwrap();
    let mut supervisors = JoinSet::new();
    supervisors.spawn(driver);
    let (runtime, driver) = RuntimeLink::launched(other, nonce());
    let mut runtimes = JoinSet::new();
    runtimes.spawn(driver);
    runtime.first().await.unwrap();
    // What is sent now has left, though its driver has no turn any more.
    for id in 0..50 {
        runtime.send_now(ToSupervisor::Taken { id }).unwrap();
    }
    drop((runtime, runtimes));
    for id in 0..50 {
        assert_eq!(
            supervisor.receive().await.unwrap(),
            Some(ToSupervisor::Taken { id })
        );
    }
    assert_eq!(supervisor.receive().await.unwrap(), None);
    assert_eq!(
        supervisor.queue(ToRuntime::Stop { within_ms: 1 }),
        Err(QueueError::Ended)
    );
}

#[tokio::test]
async fn what_waits_has_left_when_it_is_flushed() {
    let (one, other) = narrow(3);
    let (supervisor, runtime, mut drivers) = launched(one, other).await;
    let leaving = || ToSupervisor::Leaving {
        how: How::Stop,
        generation: 0,
        problem: None,
    };
    for _ in 0..20 {
        runtime.queue(leaving()).unwrap();
    }
    runtime.flushed().await;
    drop(runtime);
    for _ in 0..20 {
        assert_eq!(supervisor.receive().await.unwrap(), Some(leaving()));
    }
    assert_eq!(supervisor.receive().await.unwrap(), None);
    drivers.abort_all();
}

#[tokio::test]
async fn a_peer_that_reads_nothing_fills_the_queue_and_no_more() {
    let (one, _other) = duplex(10);
    let (supervisor, driver) = SupervisorLink::launch(Bytes(one), launch(Listen::Link), nonce()).unwrap();
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    let connection = || ToRuntime::Connection {
        id: 1,
        carrier: Carrier::Stream {
            number: 1,
            peer: Address(([127, 0, 0, 1], 9).into()),
        },
        read: ByteBuf::from(vec![0; 100_000]),
        client: None,
    };
    let mut queued = 0;
    let refused = loop {
        match supervisor.queue(connection()) {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, QueueError::Full);
    assert!((50..100).contains(&queued), "{queued} messages of 100,000 bytes");
    let waits = tokio::time::timeout(Duration::from_millis(20), supervisor.send(connection()));
    assert!(waits.await.is_err(), "there is room");
    let large = ToRuntime::Connection {
        id: 1,
        carrier: Carrier::Stream {
            number: 1,
            peer: Address(([127, 0, 0, 1], 9).into()),
        },
        read: ByteBuf::from(vec![0; 200_000]),
        client: None,
    };
    assert!(matches!(
        supervisor.queue(large),
        Err(QueueError::TooLarge { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_falls_silent_is_noticed_and_one_that_beats_is_not() {
    let (one, other) = narrow(1_000);
    let (supervisor, runtime, _drivers) = launched(one, other).await;
    let begin = Instant::now();
    let patience = Duration::from_secs(10);
    let beats = async {
        for number in 1..=5 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            runtime.beat(number);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = supervisor.silent(patience, begin) => {}
        () = beats => {}
    }
    assert_eq!(
        begin.elapsed().as_secs(),
        30,
        "five beats, then ten seconds of nothing"
    );
}

#[tokio::test]
async fn a_stream_that_is_let_go_unfinished_is_seen_to_be_cut() {
    let (one, other) = narrow(1_000);
    let (supervisor, runtime, _drivers) = launched(one, other).await;
    let mut stream = supervisor.open(StreamKind::Connection).unwrap();
    stream.write_all(b"half").await.unwrap();
    let mut theirs = runtime.accept(StreamKind::Connection).await.unwrap();
    let mut read = [0; 4];
    theirs.read_exact(&mut read).await.unwrap();
    drop(stream);
    let error = theirs.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let refused = runtime.open(StreamKind::Depot).unwrap();
    let mut refused = (refused, supervisor.accept(StreamKind::Depot).await.unwrap());
    refused.1.reset(Reset::Refused);
    let error = refused.0.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// Where the machines of these tests run.
fn here() -> suijuris_core::inputs::Host {
    let vehicle = suijuris_core::inputs::Vehicle {
        provider: "process",
        class: "",
    };
    suijuris_core::inputs::Host::of(vehicle, None, "")
}
