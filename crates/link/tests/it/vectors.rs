//! The golden vectors of `spec/vectors/link.json`: the bytes of this version, which stay as they are. Whoever has to change
//! one makes another version.

use std::path::Path;

use serde_bytes::ByteBuf;
use serde_json::{Value as Json, json};
use suijuris_api::Event;
use suijuris_api::access::{Access, Detail};
use suijuris_api::agent::Patch;
use suijuris_api::control::Reply;
use suijuris_api::event::Stamped;
use suijuris_api::tls::{Certificate, Session};
use suijuris_core::ObjectId;
use suijuris_core::governance::{Action, Protocol, TriggerKind};
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Inputs, Principal, Request, Trigger};
use suijuris_core::key::{PublicKey, Signature};
use suijuris_core::lineage::{Decision, Invariant, Outcome, Refused};
use suijuris_core::owner_request::{Ask, Once, OwnerRequest, Signed, SignedRequest};
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::witness::HolderId;
use suijuris_link::frame::{Frame, Refusal, Reset, StreamId, StreamKind};
use suijuris_link::handshake::{Handshake, Hello, Purpose, Side, Step};
use suijuris_link::identity::{ActivationId, Nonce, Secret};
use suijuris_link::launch::{Address, Cause, DepotRoute, Launch, Listen, ServedAs, Unattended};
use suijuris_link::message::{
    Carrier, Client, How, Json as Document, Message as _, Present, ToRuntime, ToSupervisor,
};

const ACTIVATION: ActivationId = ActivationId([0xa1; 16]);

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

fn cause() -> Cause {
    Cause {
        trigger: Trigger::new(TriggerKind::Request),
        request: Some(Request {
            method: "GET".to_owned(),
            path: "/a".to_owned(),
            query: "q=1".to_owned(),
            host: "localhost".to_owned(),
            port: None,
            protocol: Protocol::Http1,
            peer_ip: [127, 0, 0, 1].into(),
            content_length: None,
            headers: [("x-key".to_owned(), "v".to_owned())].into(),
            tls: None,
            client_cert: None,
        }),
        by: Principal::Caller(Box::default()),
        ..Cause::boot(here())
    }
}

fn launch() -> Launch<u8> {
    Launch {
        secret: secret(),
        activation: ACTIVATION,
        cause: cause(),
        data: "/data".into(),
        object_dir: "/object".into(),
        agent_socket: "/data/run/agent.sock".into(),
        listen: Listen::Descriptor(0),
        depot: DepotRoute::Descriptor(1),
        unattended: Unattended::Stop,
        presence: Some(2),
        holder: Some(HolderId([9; 16])),
        granted: true,
        server: Some(PublicKey([4; 32])),
        verified: None,
        requests: None,
        places: Vec::new(),
        served_as: Some(ServedAs {
            domain: "localhost".to_owned(),
            hosts: vec!["acme.tenant.localhost".to_owned()],
        }),
        image: None,
        egress: false,
        files: None,
    }
}

fn in_a_machine() -> Launch<u8> {
    Launch {
        cause: Cause::boot(here()),
        listen: Listen::Link,
        depot: DepotRoute::Link,
        unattended: Unattended::Serve,
        presence: None,
        holder: None,
        granted: false,
        server: None,
        requests: Some(Detail::Query),
        places: vec![cause().host],
        served_as: None,
        ..launch()
    }
}

fn standalone_ways() -> Launch<u8> {
    Launch {
        listen: Listen::Address(Address(([127, 0, 0, 1], 80).into())),
        depot: DepotRoute::Url("file:///depot".to_owned()),
        ..in_a_machine()
    }
}

fn refused() -> Refused {
    Refused {
        decision: Decision {
            action: Action::Wake,
            outcome: Outcome::Refuse(Some(Invariant::Quarantined)),
            inputs: Inputs::timeless(Principal::Host),
            explanation: None,
        },
        times: 2,
        window: Span(900),
        at: "door".to_owned(),
        fired: Default::default(),
    }
}

/// What an owner asks; nobody verifies it here.
fn signed() -> SignedRequest {
    SignedRequest {
        request: OwnerRequest {
            object: ObjectId::of(b"object"),
            ask: Ask::Sleep,
            content: Digest::of(b""),
            audience: PublicKey([4; 32]),
            once: Once::Nonce([5; 16]),
            expires: Timestamp(1_795_000_000_000),
        },
        signatures: vec![Signed {
            key: PublicKey([6; 32]),
            sig: Signature([8; 64]),
        }],
    }
}

/// Each message to the runtime.
pub(crate) fn to_runtime() -> Vec<(&'static str, ToRuntime<u8>)> {
    let connection = |carrier| ToRuntime::Connection {
        id: 5,
        carrier,
        read: ByteBuf::from(b"GET / HTTP/1.1\r\n".to_vec()),
        client: None,
    };
    let peer = Address(([192, 0, 2, 1], 4_711).into());
    let patch = Patch {
        set: [("budget".to_owned(), json!(1.5))].into(),
        ..Patch::default()
    };
    vec![
        ("launch", ToRuntime::Launch(Box::new(launch()))),
        (
            "launch in a virtual machine",
            ToRuntime::Launch(Box::new(in_a_machine())),
        ),
        (
            "launch of a machine with ways out",
            ToRuntime::Launch(Box::new(Launch {
                egress: true,
                files: None,
                ..in_a_machine()
            })),
        ),
        (
            "launch with an address",
            ToRuntime::Launch(Box::new(standalone_ways())),
        ),
        (
            "granted",
            ToRuntime::Granted {
                grant: Some(ByteBuf::from(vec![1, 2, 3])),
            },
        ),
        ("granted to ask for itself", ToRuntime::Granted { grant: None }),
        ("connection as a descriptor", connection(Carrier::Descriptor(0))),
        (
            "connection as a stream",
            connection(Carrier::Stream { number: 3, peer }),
        ),
        (
            "connection of a client that is known",
            ToRuntime::Connection {
                id: 8,
                carrier: Carrier::Stream { number: 5, peer },
                read: ByteBuf::new(),
                client: Some(Box::new(Client {
                    address: peer,
                    tls: true,
                    session: Some(Box::new(Session {
                        version: "1.3".to_owned(),
                        server_name: Some("acme.tenant.localhost".to_owned()),
                        certificate: Some(Certificate {
                            name: Some("acme".to_owned()),
                            subject: "CN=acme,O=Example".to_owned(),
                            issuer: "CN=ca".to_owned(),
                            fingerprint: "00".repeat(32),
                            not_after_ms: 1_795_420_800_000,
                        }),
                    })),
                    prefix: Some("/o/tenant/acme".to_owned()),
                    once: true,
                })),
            },
        ),
        (
            "another way to the depot",
            ToRuntime::Depot {
                route: DepotRoute::Descriptor(0),
            },
        ),
        (
            "another server",
            ToRuntime::Server {
                key: PublicKey([4; 32]),
            },
        ),
        (
            "requests",
            ToRuntime::Requests {
                detail: Some(Detail::Path),
            },
        ),
        (
            "record",
            ToRuntime::Record {
                id: 6,
                refused: Box::new(refused()),
            },
        ),
        (
            "resumed",
            ToRuntime::Resumed {
                generation: 1,
                cause: Box::new(cause()),
            },
        ),
        (
            "sleep",
            ToRuntime::Sleep {
                id: 7,
                signed: Some(Box::new(signed())),
            },
        ),
        (
            "patch",
            ToRuntime::Patch {
                id: 8,
                signed: None,
                patch: Document(patch),
            },
        ),
        ("stop", ToRuntime::Stop { within_ms: 30_000 }),
    ]
}

/// Each message to the supervisor.
pub(crate) fn to_supervisor() -> Vec<(&'static str, ToSupervisor)> {
    let event = Stamped {
        at: "2026-11-28T12:00:00.000Z".to_owned(),
        event: Event::Woke { epoch: 4, seq: 17 },
    };
    let request = Access {
        at: "2026-11-28T12:00:00.000Z".to_owned(),
        peer: [127, 0, 0, 1].into(),
        version: "1.1".to_owned(),
        method: "GET".to_owned(),
        host: "acme.tenant.localhost".to_owned(),
        path: "/".to_owned(),
        query: None,
        status: Some(403),
        code: Some("refused".to_owned()),
        bytes: 120,
        took_ms: 2,
        lost: 0,
    };
    let reply = Reply::Patched {
        seq: 18,
        root: "00ff".to_owned(),
    };
    let problem = suijuris_api::Problem::new(503, "twin", "Another copy is the object");
    let present = Present {
        object: ObjectId::of(b"object"),
        phase: "active".to_owned(),
        epoch: 4,
        seq: 17,
        generation: 0,
        taken: vec![5],
    };
    let leaving = |how, problem: Option<suijuris_api::Problem>| ToSupervisor::Leaving {
        how,
        generation: 1,
        problem: problem.map(|problem| Box::new(Document(problem))),
    };
    vec![
        ("present", ToSupervisor::Present(Box::new(present))),
        ("event", ToSupervisor::Event(Box::new(Document(event)))),
        (
            "holds",
            ToSupervisor::Holds {
                left: [("upload".to_owned(), 60_000)].into(),
            },
        ),
        ("request", ToSupervisor::Request(Box::new(Document(request)))),
        (
            "reply",
            ToSupervisor::Reply {
                id: 8,
                reply: Box::new(Document(reply)),
            },
        ),
        ("taken", ToSupervisor::Taken { id: 5 }),
        ("recorded", ToSupervisor::Recorded { id: 6 }),
        ("leaving to be suspended", leaving(How::Suspend, None)),
        ("leaving refused", leaving(How::Refused, Some(problem))),
    ]
}

/// Each frame, messages but one left out.
pub(crate) fn frames() -> Vec<(&'static str, Frame)> {
    let stream = StreamId::new(3).unwrap();
    let hello = |side, purpose, activation, nonce| {
        Frame::Hello(Hello {
            side,
            purpose,
            activation,
            nonce: Nonce([nonce; 32]),
        })
    };
    let (supervisor, runtime) = (Side::Supervisor, Side::Runtime);
    vec![
        (
            "hello of a launch",
            hello(supervisor, Purpose::Launch, ACTIVATION, 1),
        ),
        (
            "hello of a runtime",
            hello(runtime, Purpose::Launch, ActivationId([0; 16]), 2),
        ),
        (
            "hello of an attach",
            hello(supervisor, Purpose::Attach, ACTIVATION, 1),
        ),
        (
            "refused",
            Frame::Refused {
                version: 1,
                refusal: Refusal::Proof,
            },
        ),
        (
            "message",
            Frame::Message {
                descriptors: 1,
                body: vec![0xa0],
            },
        ),
        ("heartbeat", Frame::Heartbeat { number: 12 }),
        (
            "open",
            Frame::Open {
                stream,
                kind: StreamKind::Connection,
            },
        ),
        (
            "open to the depot",
            Frame::Open {
                stream: StreamId::new(2).unwrap(),
                kind: StreamKind::Depot,
            },
        ),
        (
            "open to what the workload may reach",
            Frame::Open {
                stream: StreamId::new(4).unwrap(),
                kind: StreamKind::Egress,
            },
        ),
        (
            "data",
            Frame::Data {
                stream,
                bytes: b"hello".to_vec(),
            },
        ),
        (
            "credit",
            Frame::Credit {
                stream,
                bytes: 32_768,
            },
        ),
        ("end", Frame::End { stream }),
        ("stop", Frame::Stop { stream }),
        (
            "reset",
            Frame::Reset {
                stream,
                why: Reset::Failed,
            },
        ),
    ]
}

/// The proofs of both sides, over the hellos of an attach with nonces of ones and twos.
fn proofs() -> Json {
    let proof = |mine, theirs| {
        let nonce = |side| Nonce([if side == Side::Supervisor { 1 } else { 2 }; 32]);
        let of = |side| Handshake::attach(side, ACTIVATION, secret(), nonce(side));
        let Step::Send(frame) = of(mine).on(&of(theirs).hello()).unwrap() else {
            panic!("no proof")
        };
        hex(&written(&frame))
    };
    json!({
        "supervisor": proof(Side::Supervisor, Side::Runtime),
        "runtime": proof(Side::Runtime, Side::Supervisor),
    })
}

pub(crate) fn written(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.write(&mut bytes);
    bytes
}

#[test]
fn the_bytes_of_this_version_are_those_of_the_vectors() {
    let frames: Vec<Json> = frames()
        .into_iter()
        .map(|(name, frame)| json!({ "name": name, "bytes": hex(&written(&frame)) }))
        .collect();
    let down: Vec<Json> = to_runtime()
        .into_iter()
        .map(|(name, message)| {
            let (body, descriptors) = message.pack().unwrap();
            json!({ "name": name, "descriptors": descriptors.len(), "body": hex(&body) })
        })
        .collect();
    let up: Vec<Json> = to_supervisor()
        .into_iter()
        .map(|(name, message)| {
            let (body, _): (_, Vec<u8>) = message.pack().unwrap();
            json!({ "name": name, "body": hex(&body) })
        })
        .collect();
    let built = json!({
        "version": suijuris_link::handshake::VERSION,
        "frames": frames,
        "proofs": proofs(),
        "to_runtime": down,
        "to_supervisor": up,
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/link.json");
    if std::env::var("SUIJURIS_VECTORS").as_deref() == Ok("write") {
        std::fs::write(&path, serde_json::to_string_pretty(&built).unwrap() + "\n").unwrap();
    }
    let stands: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(
        stands, built,
        "the link is no longer that of spec/vectors/link.json: make another version"
    );
}

#[test]
fn each_message_is_read_as_it_was_said() {
    for (name, message) in to_runtime() {
        let (body, descriptors) = message.clone().pack().unwrap();
        let read = ToRuntime::unpack(&body, descriptors, 10_000).unwrap();
        assert_eq!(read, message, "{name}");
    }
    for (name, message) in to_supervisor() {
        let (body, _): (_, Vec<u8>) = message.clone().pack().unwrap();
        let read: ToSupervisor =
            suijuris_link::message::Message::<u8>::unpack(&body, Vec::new(), 10_000).unwrap();
        assert_eq!(read, message, "{name}");
    }
}

/// Where the machines of these tests run.
fn here() -> suijuris_core::inputs::Host {
    let vehicle = suijuris_core::inputs::Vehicle {
        provider: "process",
        class: "",
    };
    suijuris_core::inputs::Host::of(vehicle, None, "")
}
