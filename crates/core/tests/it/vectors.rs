//! The golden vectors of `spec/vectors`: each is built anew and must be, byte for byte, what stands there.
//!
//! A difference means that the format changed, and with it every id that was ever given out. `SUIJURIS_VECTORS=write`
//! writes them anew; that is for a new format version only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value as Json, json};
use suijuris_core::class::founding::{Entry, Stage};
use suijuris_core::class::{Class, Keys, Source};
use suijuris_core::codec;
use suijuris_core::governance::{
    self, Action, Erred, Explanation, NearMiss, NotFresh, Protocol, Reason, TriggerKind,
};
use suijuris_core::id::{BlobId, BundleId, Digest, ObjectId, RecordId};
use suijuris_core::inputs::{
    Activity, Caller, ClientCert, Conditions, Host, Inputs, Principal, Request, Tls, Trigger, Vehicle,
    Witnessed, WorkloadEnd,
};
use suijuris_core::key::{Domain, SecretKey};
use suijuris_core::lineage::{
    Body, Checkpoint, CheckpointError, Decision, Fault, Inception, Invariant, Mutated, Outcome, Phase,
    Restoration, Restored, State, Stored,
};
use suijuris_core::manifest::Manifest;
use suijuris_core::memory::tree::{self, Proof};
use suijuris_core::memory::{Decimal, Field, Freshness, Kind, Memory, Plain, Value, Write};
use suijuris_core::owner_request::{self, Ask, Once, OwnerRequest, SignedRequest};
use suijuris_core::ticket::{self, SignedTicket, Ticket};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_core::witness::HolderId;

use crate::classes::{acme, class_id, identity};
use crate::lives::{
    KINDS, Life, assert_same, bundle, bundles, bytes_of, change, controller, epoch_key, fault_of, fold,
    inception, manifests, name, rich_schema, schema,
};
use crate::manifest::{manifest, with_egress, with_secrets};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |pair| u8::from_str_radix(pair, 16).unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| digits(&text[at..at + 2]))
        .collect()
}

fn encoded<T: Serialize>(value: &T) -> String {
    hex(&codec::encode(value).unwrap())
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../spec/vectors")
        .join(name)
}

/// The vector as it stands in `spec/vectors`, after comparing it with the one built now.
fn golden(name: &str, built: &Json) -> Json {
    if std::env::var("SUIJURIS_VECTORS").as_deref() == Ok("write") {
        let text = serde_json::to_string_pretty(built).unwrap() + "\n";
        std::fs::write(path(name), text).unwrap();
    }
    let stands: Json = serde_json::from_str(&std::fs::read_to_string(path(name)).unwrap()).unwrap();
    assert_eq!(
        &stands, built,
        "the format is no longer that of spec/vectors/{name}"
    );
    stands
}

fn key(seed: [u8; 32]) -> Json {
    let key = SecretKey::from_seed(&seed).public();
    json!({ "seed": hex(&seed), "public": key.to_string(), "commitment": key.commitment().hex() })
}

#[test]
fn owner_request() {
    let owner = controller(1);
    let write = OwnerRequest {
        object: ObjectId::of(b"object"),
        ask: Ask::Write,
        content: Digest::of(b"budget=5"),
        audience: SecretKey::from_seed(&[9; 32]).public(),
        once: Once::Head(RecordId::of(b"head")),
        expires: Timestamp(1_030_000),
    };
    let wake = OwnerRequest {
        ask: Ask::Wake,
        content: Digest::of(b""),
        audience: owner_request::nobody(),
        once: Once::Nonce([7; 16]),
        ..write
    };
    let built: Vec<Json> = [write, wake]
        .into_iter()
        .map(|request| {
            let signed = request.sign(&owner).unwrap();
            let bytes = encoded(&request);
            let travels = SignedRequest { request, signatures: vec![signed] };
            json!({ "request": bytes, "key": signed.key.to_string(), "sig": signed.sig.to_string(), "travels": encoded(&travels) })
        })
        .collect();
    let stands = golden("owner-request.json", &Json::Array(built));
    let bytes = unhex(stands[0]["travels"].as_str().unwrap());
    let read = SignedRequest::decode(&bytes).unwrap();
    assert_eq!(read.signatures[0].key, owner.public());
}

#[test]
fn ticket() {
    let owner = controller(1);
    let ticket = Ticket {
        v: ticket::VERSION,
        bundle: BundleId::of(b"bundle"),
        app: "shop".to_owned(),
        volume: "vol_0123456789abcdef".to_owned(),
        nonce: [7; 16],
        controllers: vec![owner.public()],
        threshold: 1,
        expires: Timestamp(1_900_000),
    };
    let travels = SignedTicket {
        signatures: vec![ticket.sign(&owner).unwrap()],
        ticket,
    };
    let (table, key) = travels.ticket.table().unwrap();
    let built = json!({
        "ticket": encoded(&travels.ticket), "key": owner.public().to_string(), "sig": travels.signatures[0].sig.to_string(),
        "travels": encoded(&travels), "spent": { "table": table.to_string(), "key": key.to_string() },
    });
    let stands = golden("ticket.json", &built);
    let read = SignedTicket::decode(&unhex(stands["travels"].as_str().unwrap())).unwrap();
    let expected = ticket::Expected {
        bundle: BundleId::of(b"bundle"),
        app: Some("shop"),
        volume: None,
        now: Timestamp(1_000_000),
    };
    assert!(read.verify(&expected).is_ok());
}

// proves B3
#[test]
fn ids() {
    let bytes: [&[u8]; 3] = [b"", b"hello", &[0, 255]];
    let built: Vec<Json> = bytes
        .iter()
        .map(|bytes| {
            json!({
                "bytes": hex(bytes),
                "sha256": Digest::of(bytes).hex(),
                "dag_cbor": RecordId::of(bytes).to_string(),
                "raw": BlobId::of(bytes).to_string(),
                "link": encoded(&RecordId::of(bytes)),
            })
        })
        .collect();
    let stands = golden("ids.json", &Json::Array(built));
    let first = stands[0]["dag_cbor"].as_str().unwrap();
    assert_eq!(first.parse(), Ok(ObjectId::of(b"")));
}

#[test]
fn keys() {
    let secret = SecretKey::from_seed(&[1; 32]);
    let domains = [
        ("record", "suijuris/v1/record\0", Domain::Record),
        ("checkpoint", "suijuris/v1/checkpoint\0", Domain::Checkpoint),
        ("approval", "suijuris/v1/approval\0", Domain::Approval),
        (
            "owner request",
            "suijuris/v1/owner-request\0",
            Domain::OwnerRequest,
        ),
        ("identity token", "", Domain::IdentityToken),
    ];
    let signature = |(name, prefix, domain): &(&str, &str, Domain)| {
        let signature = secret.sign(*domain, b"hello").to_string();
        json!({ "domain": name, "prefix": hex(prefix.as_bytes()), "signature": signature })
    };
    let signatures: Vec<Json> = domains.iter().map(signature).collect();
    let built = json!({ "key": key([1; 32]), "bytes": hex(b"hello"), "signatures": signatures });
    golden("keys.json", &built);
}

#[test]
fn witness() {
    use suijuris_core::witness::{Holder, HolderId, Mark};
    let free = Mark {
        v: 1,
        object: ObjectId::of(b"object"),
        epoch: 7,
        seq: 300,
        head: RecordId::of(b"record"),
        holder: None,
    };
    let holder = Holder {
        id: HolderId([0x0f; 16]),
        who: "host é, process 4711".to_owned(),
        lease: Span(10_000),
        at: Timestamp(1_795_420_800_123),
        beat: 24,
    };
    let held = Mark {
        holder: Some(holder),
        ..free
    };
    let mark = |mark: &Mark| {
        let holder = mark.holder.as_ref().map(|holder| {
            json!({
                "id": holder.id.to_string(), "who": holder.who, "lease": holder.lease, "at": holder.at,
                "beat": holder.beat,
            })
        });
        let (object, head) = (mark.object.to_string(), mark.head.to_string());
        let fields = json!({
            "v": mark.v, "object": object, "epoch": mark.epoch, "seq": mark.seq, "head": head, "holder": holder,
        });
        json!({ "mark": hex(&mark.encode().unwrap()), "fields": fields })
    };
    let stands = golden(
        "witness.json",
        &json!({ "free": mark(&free), "held": mark(&held) }),
    );
    for (name, mark) in [("free", free), ("held", held)] {
        let bytes = unhex(stands[name]["mark"].as_str().unwrap());
        assert_eq!(Mark::decode(&bytes).unwrap(), mark);
    }
}

#[test]
fn values() {
    let set = |items: [Value; 3]| Value::Set(items.into());
    let text = |text: &str| Value::String(text.into());
    let built: Vec<Json> = [
        Value::Bool(false),
        Value::Int(-1),
        Value::Int(i64::MIN),
        Value::Decimal(Decimal(-125_000)),
        text("é"),
        Value::Bytes(vec![0, 255]),
        Value::Timestamp(Timestamp(1_795_420_800_123)),
        Value::Duration(Span(-1_500)),
        Value::Enum("idle".into()),
        set([Value::Int(24), Value::Int(-1), Value::Int(3)]),
        set([text("b"), text("aa"), text("a")]),
        Value::List(vec![text("b"), text("a")]),
        Value::Map([("b".into(), Value::Int(1)), ("aa".into(), Value::Int(2))].into()),
        Value::Record([("x".into(), Value::Bool(true))].into()),
        Value::Commitment(Digest::of(b"salt and secret")),
    ]
    .iter()
    .map(|value| json!({ "type": value.kind_name(), "plain": json!(Plain(value)), "encoding": encoded(value) }))
    .collect();
    for vector in golden("values.json", &Json::Array(built)).as_array().unwrap() {
        let bytes = unhex(vector["encoding"].as_str().unwrap());
        codec::decode::<Value>(&bytes, 1_000).unwrap();
    }
}

#[test]
fn memory_root() {
    let mut memory = Memory::new(Arc::new(schema([
        ("budget", rich_schema().field("budget").unwrap().clone()),
        ("consent", rich_schema().field("consent").unwrap().clone()),
        ("note", rich_schema().field("note").unwrap().clone()),
    ])));
    let born = memory.root();
    let writes = change([("consent", Write::Set(Value::Bool(true))), ("note", Write::Unset)]);
    memory.apply(&writes, Timestamp(1_000)).unwrap();
    let leaves: Vec<Json> = memory
        .iter()
        .map(|(name, _, cell)| {
            let leaf = tree::leaf(name.as_str(), cell.as_of, cell.value.as_ref());
            json!({
                "name": name.as_str(),
                "as_of": cell.as_of.map(|at| at.0),
                "value": cell.value.as_ref().map(encoded),
                "leaf": leaf.hex(),
            })
        })
        .collect();
    let built = json!({
        "empty": Memory::new(Arc::default()).root().hex(),
        "schema": encoded(&**memory.schema()),
        "born": born.hex(),
        "leaves": leaves,
        "root": memory.root().hex(),
        "proof": encoded(&memory.prove("consent").unwrap()),
    });
    let stands = golden("memory-root.json", &built);
    let proof: Proof = codec::decode(&unhex(stands["proof"].as_str().unwrap()), 10_000).unwrap();
    assert!(proof.holds(&memory.root()));
    assert!(!proof.holds(&born));
}

/// A life with every kind of record: lost writes, amended rules, a child, a journey, the end.
fn whole_life() -> Life {
    let mut life = Life::new("life");
    life.live("woke");
    let secret = Value::Commitment(Digest::of(b"salt and secret"));
    let writes = change([
        ("consent", Write::Set(Value::Bool(true))),
        ("token", Write::Set(secret)),
    ]);
    life.write(writes, false).unwrap();
    let more = Value::List(vec![Value::String("served".into())]);
    life.write(change([("journal", Write::Append(more))]), false)
        .unwrap();
    for kind in ["seal", "dormant", "refused", "amended", "woke", "mutated"] {
        life.live(kind);
    }
    life.write(
        change([("title", Write::Set(Value::String("lost?".into())))]),
        false,
    )
    .unwrap();
    for kind in [
        "unsealed",
        "resumed",
        "forked",
        "dormant",
        "departed",
        "arrived",
        "quarantined",
        "terminated",
    ] {
        life.live(kind);
    }
    life
}

fn record(stored: &Stored) -> Json {
    json!({
        "kind": stored.record.body.kind(),
        "id": stored.id.to_string(),
        "memory": stored.record.memory.hex(),
        "signed": stored.record.sig.is_some(),
        "bytes": hex(&stored.bytes),
    })
}

// proves A6, B3
#[test]
fn lineage() {
    let life = whole_life();
    let head = life.state.head();
    let bundles_used = &manifests()[..2];
    let built = json!({
        "object": head.object.to_string(),
        "controllers": (0..3).map(|index| key(*controller(index).seed())).collect::<Vec<_>>(),
        "epoch_keys": (1..=4).map(|epoch| key(*epoch_key("life", epoch).seed())).collect::<Vec<_>>(),
        "bundles": bundles_used.iter().map(|(id, manifest)| json!({
            "id": id.to_string(), "manifest": encoded(manifest),
        })).collect::<Vec<_>>(),
        "records": life.chain.iter().map(record).collect::<Vec<_>>(),
        "head": { "record": head.record.to_string(), "seq": head.seq, "epoch": head.epoch, "phase": head.phase,
            "bundle": head.bundle.to_string(), "ruled_since": head.ruled_since.to_string(),
            "unsealed": head.unsealed, "refused": head.refused },
    });
    let stands = golden("lineage.json", &built);
    verify_lineage(&stands, &life.state);
}

/// Reads the vector as a stranger would: with the manifests it brings, and nothing else.
fn verify_lineage(vector: &Json, expected: &State) {
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let schemas: Vec<_> = vector["bundles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bundle| {
            let (id, manifest) = Manifest::decode(&unhex(&text(&bundle["manifest"]))).unwrap();
            assert_eq!(id.to_string(), text(&bundle["id"]));
            (id, Arc::new(manifest.memory))
        })
        .collect();
    let at_hand = |id: &BundleId| {
        schemas
            .iter()
            .find(|(known, _)| known == id)
            .map(|(_, s)| Arc::clone(s))
    };
    let records = vector["records"].as_array().unwrap();
    let read = |json: &Json| Stored::decode(unhex(&text(&json["bytes"]))).unwrap();
    let mut state = State::begin(&read(&records[0]), &at_hand).unwrap();
    for json in &records[1..] {
        let stored = read(json);
        state.apply(&stored, &at_hand).unwrap();
        assert_eq!(stored.id.to_string(), text(&json["id"]));
        assert_eq!(state.memory().root().hex(), text(&json["memory"]));
    }
    assert_same(&state, expected);
    let kinds: std::collections::BTreeSet<_> = records.iter().map(|record| text(&record["kind"])).collect();
    // `restored` came later and has a vector of its own.
    assert_eq!(kinds.len(), KINDS.len(), "every kind but `restored` occurs");
}

// proves B3
#[test]
fn an_object_is_another_when_any_part_of_its_definition_is() {
    let id = |body, at, rules: u8, seed: u64| {
        let schema = Arc::new(rich_schema());
        let (state, stored) =
            State::create(body, at, bundle(rules), schema, &epoch_key("life", seed)).unwrap();
        assert_eq!(ObjectId::from(stored.id), state.head().object);
        state.head().object
    };
    let (born, plain) = (Timestamp(1_000), || inception("life"));
    let original = id(plain(), born, 0, 1);
    assert_eq!(original, id(plain(), born, 0, 1));
    let mut named = plain();
    named.name = "lifE".into();
    let mut owned = plain();
    owned.controllers.swap(0, 1);
    let mut easier = plain();
    easier.threshold = 1;
    let mut salted = plain();
    salted.nonce[15] ^= 1;
    let mut keyed = plain();
    keyed.next = epoch_key("life", 2).public().commitment();
    for other in [
        id(named, born, 0, 1),
        id(owned, born, 0, 1),
        id(easier, born, 0, 1),
        id(salted, born, 0, 1),
        id(keyed, born, 0, 2),
        id(plain(), Timestamp(1_001), 0, 1),
        id(plain(), born, 2, 1),
    ] {
        assert_ne!(other, original);
    }
}

/// Two activations are abandoned for the copy of before: it was quarantined, and goes on in a newer epoch.
#[test]
fn restored_lineage() {
    let mut copy = Life::new("life");
    for kind in ["woke", "dormant", "quarantined"] {
        copy.live(kind);
    }
    let mut abandoned = Life {
        chain: copy.chain[..3].to_vec(),
        state: fold(&bytes_of(&copy.chain[..3])).unwrap(),
        ..copy.clone()
    };
    for kind in ["woke", "resumed"] {
        abandoned.live(kind);
    }
    let given_up = abandoned.state.head().clone();
    let restoration = Restoration::of(copy.state.head(), given_up.record, given_up.seq, given_up.epoch);
    let body = Body::Restored(Restored {
        abandoned: given_up.record,
        seq: given_up.seq,
        epoch: given_up.epoch,
        approvals: [0, 1]
            .map(|index| restoration.approve(&controller(index)).unwrap())
            .into(),
    });
    let waiting = copy.waiting();
    copy.try_extend(body, Some(&waiting)).unwrap();
    assert_eq!(copy.state.head().epoch, 3);
    copy.live("woke");
    let record = |stored: &Stored| json!({ "kind": stored.record.body.kind(), "id": stored.id.to_string(), "bytes": hex(&stored.bytes) });
    let built = json!({
        "bundle": hex(&manifests()[0].1.encode().unwrap()),
        "records": copy.chain.iter().map(record).collect::<Vec<_>>(),
        "abandoned": abandoned.chain[3..].iter().map(record).collect::<Vec<_>>(),
        "statement": encoded(&restoration),
        "head": { "seq": copy.state.head().seq, "epoch": copy.state.head().epoch, "phase": copy.state.head().phase.as_str() },
    });
    let stands = golden("restored.json", &built);
    let bytes = |name: &str| -> Vec<Vec<u8>> {
        stands[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| unhex(record["bytes"].as_str().unwrap()))
            .collect()
    };
    assert_same(&fold(&bytes("records")).unwrap(), &copy.state);
    assert_eq!(
        copy.state.head().epoch,
        given_up.epoch + 1,
        "newer than every abandoned epoch"
    );
    let both = [bytes("records"), bytes("abandoned")].concat();
    assert!(matches!(fault_of(fold(&both)), Fault::Seq { .. }));
}

#[test]
fn checkpoint() {
    let life = Life::in_phase(Phase::Active);
    let bytes = Checkpoint::of(&life.state, 4_711, &life.waiting()).unwrap();
    let built = json!({
        "inception": hex(&life.chain[0].bytes),
        "woke": hex(&life.chain[1].bytes),
        "waiting_key": key(*life.waiting().seed()),
        "position": 4_711,
        "checkpoint": hex(&bytes),
    });
    let stands = golden("checkpoint.json", &built);
    let read = unhex(stands["checkpoint"].as_str().unwrap());
    let (state, position) = Checkpoint::open(&read, &bundles()).unwrap();
    assert_eq!(position, 4_711);
    assert_same(&state, &life.state);
    // One of the format before is sound, and not used.
    let before: Json =
        serde_json::from_str(&std::fs::read_to_string(path("checkpoint-2.json")).unwrap()).unwrap();
    let mut before = unhex(before["checkpoint"].as_str().unwrap());
    let opened = |bytes: &[u8]| Checkpoint::open(bytes, &bundles());
    assert!(matches!(opened(&before), Err(CheckpointError::Older)));
    let last = before.last_mut().unwrap();
    *last ^= 1;
    assert!(matches!(opened(&before), Err(CheckpointError::Signature)));
}

#[test]
fn bundle_manifest() {
    let bytes = manifest().encode().unwrap();
    let secrets = with_secrets().encode().unwrap();
    let mut answers = manifest();
    answers.gate.api = true;
    let built = json!({
        "id": BundleId::of(&bytes).to_string(),
        "manifest": hex(&bytes),
        "with_secrets": hex(&secrets),
        "with_api": hex(&answers.encode().unwrap()),
        "with_egress": hex(&with_egress().encode().unwrap()),
    });
    let stands = golden("manifest.json", &built);
    let (_, read) = Manifest::decode(&unhex(stands["with_secrets"].as_str().unwrap())).unwrap();
    assert_eq!(read, with_secrets());
    let (_, read) = Manifest::decode(&unhex(stands["with_api"].as_str().unwrap())).unwrap();
    assert_eq!(read, answers);
    let (_, read) = Manifest::decode(&unhex(stands["with_egress"].as_str().unwrap())).unwrap();
    assert_eq!(read, with_egress());
    let (id, read) = Manifest::decode(&unhex(stands["manifest"].as_str().unwrap())).unwrap();
    assert_eq!(id.to_string(), stands["id"].as_str().unwrap());
    assert_eq!(read, manifest());
    assert!(
        read.memory
            .iter()
            .any(|(_, field)| matches!(field.kind, Kind::Record(_)))
    );
}

#[test]
fn writes_by_callers_and_by_objects_say_who_wrote() {
    let Principal::Caller(caller) = full_decision().inputs.principal else {
        panic!("the decision is about a caller")
    };
    let write = |by: &str, principal| {
        encoded(&Body::Mutated(Mutated {
            by: by.to_owned(),
            principal,
            change: [(name("budget"), Write::Set(Value::Int(5)))].into(),
        }))
    };
    let peer = Principal::Peer(ObjectId::of(b"another"));
    let built = json!({
        "workload": write("workload", None),
        "caller": write("caller", Some(Box::new(Principal::Caller(caller)))),
        "peer": write("peer", Some(Box::new(peer))),
    });
    let stands = golden("mutated.json", &built);
    for who in ["workload", "caller", "peer"] {
        let bytes = unhex(stands[who].as_str().unwrap());
        let Body::Mutated(read) = codec::decode(&bytes, 1 << 20).unwrap() else {
            panic!("{who}")
        };
        assert_eq!(read.by, who);
        assert_eq!(
            read.principal.as_deref().map_or("workload", Principal::as_str),
            who
        );
    }
}

// The write, what it leaves, and the inputs of a decision about it.
#[test]
fn counters() {
    let counter = Field::new(Kind::Counter {
        window: Span(86_400_000),
    });
    let mut memory = Memory::new(Arc::new(schema([("calls", counter)])));
    let kind = encoded(&Kind::Counter {
        window: Span(86_400_000),
    });
    let mut roots = vec![memory.root().hex()];
    let change = change([("calls", Write::Add(5))]);
    for at in [1_000, 2_000, 86_400_000] {
        memory.apply(&change, Timestamp(at)).unwrap();
        roots.push(memory.root().hex());
    }
    assert_eq!(memory.value("calls"), Some(&Value::Int(5)), "it began anew");
    let body = Body::Mutated(Mutated {
        by: "workload".to_owned(),
        principal: None,
        change,
    });
    let inputs = Inputs {
        fields: ["budget".to_owned(), "calls".to_owned()].into(),
        written: [(name("budget"), None), (name("calls"), Some(Value::Int(5)))].into(),
        ..Inputs::timeless(Principal::Workload)
    };
    let built = json!({
        "kind": kind,
        "mutated": encoded(&body),
        "written_at": [1_000, 2_000, 86_400_000],
        "roots": roots,
        "inputs": encoded(&inputs),
    });
    let stands = golden("counter.json", &built);
    let read = |part: &str| unhex(stands[part].as_str().unwrap());
    assert_eq!(codec::decode::<Inputs>(&read("inputs"), 10_000).unwrap(), inputs);
    assert_eq!(codec::decode::<Body>(&read("mutated"), 10_000).unwrap(), body);
}

/// Every fact that inputs can hold, and every part of an explanation.
fn full_decision() -> Decision {
    let vehicle = Vehicle {
        provider: "process",
        class: "small",
    };
    let host = Host::of(vehicle, Some("fra"), "m1");
    let caller = Caller {
        authenticated: true,
        subject: Some("alice".into()),
        issuer: Some("https://issuer.example".into()),
        audience: ["hello".to_owned()].into(),
        scopes: ["read".to_owned(), "write".to_owned()].into(),
        claims: [(name("tenant"), Value::String("acme".into()))].into(),
    };
    let now = Now {
        at: Timestamp(1_795_420_800_123),
        quality: Quality::Synced,
    };
    let inputs = Inputs {
        conditions: Conditions {
            witness: Witnessed::Agrees,
            incapable: true,
            workload: Some(WorkloadEnd::Gone),
        },
        trigger: Some(Trigger {
            name: Some("tick".into()),
            missed: 2,
            ..Trigger::new(TriggerKind::Timer)
        }),
        request: Some(Request {
            method: "GET".into(),
            path: "/a".into(),
            query: "b=c".into(),
            host: "hello.example".into(),
            port: None,
            protocol: Protocol::Http1,
            peer_ip: IpAddr::from([127, 0, 0, 1]),
            content_length: Some(9),
            headers: [("x-tenant".into(), "acme".into())].into(),
            tls: None,
            client_cert: None,
        }),
        activity: Some(Activity {
            active: Span(9_000),
            idle: Span(100),
            connections: 2,
            in_flight: 1,
        }),
        holds: ["working".to_owned()].into(),
        pending: 3,
        fields: ["budget".to_owned()].into(),
        to: Some(host.clone()),
        scope: Some("child".into()),
        ..Inputs::new(now, Principal::Caller(Box::new(caller)), host)
    };
    let explanation = Explanation {
        outcome: governance::Outcome::Refuse,
        reasons: vec![Reason {
            rule: "office-hours".into(),
            reason: Some("closed".into()),
        }],
        retry_after: Some(Span(60_000)),
        status: None,
        erred: vec![Erred {
            rule: "rule2".into(),
            fault: governance::Fault::Overflow,
        }],
        not_fresh: vec![NotFresh {
            field: "consent".into(),
            freshness: Freshness::Stale,
        }],
        near_misses: vec![NearMiss {
            rule: "open".into(),
            condition: "true".into(),
            held: 1,
            of: 2,
        }],
    };
    let outcome = Outcome::Refuse(Some(Invariant::RolledBack));
    Decision {
        action: Action::Wake,
        outcome,
        explanation: Some(explanation),
        inputs,
    }
}

#[test]
fn decision() {
    let built = json!({ "decision": encoded(&full_decision()) });
    let stands = golden("decision.json", &built);
    let bytes = unhex(stands["decision"].as_str().unwrap());
    assert_eq!(
        codec::decode::<Decision>(&bytes, 10_000).unwrap(),
        full_decision()
    );
}

#[test]
fn decision_about_a_client_by_tls() {
    let mut decision = full_decision();
    let request = decision.inputs.request.as_mut().unwrap();
    request.tls = Some(Tls {
        version: "1.3".into(),
        sni: Some("hello.example".into()),
    });
    request.client_cert = Some(Box::new(ClientCert {
        name: Some("billing".into()),
        subject: "CN=billing,O=Example".into(),
        issuer: "CN=ca".into(),
        fingerprint: "00".repeat(32),
        not_after: Timestamp(1_795_420_800_000),
    }));
    let built = json!({ "decision": encoded(&decision) });
    let stands = golden("decision_tls.json", &built);
    let bytes = unhex(stands["decision"].as_str().unwrap());
    assert_eq!(codec::decode::<Decision>(&bytes, 10_000).unwrap(), decision);
}

#[test]
fn class() {
    let digested = |raw: &[u8]| json!({ "raw": hex(raw), "key": Keys::Digest.asked(raw).unwrap() });
    let entry = Entry::founding(ObjectId::of(b"object"), HolderId([7; 16]), "host 1".to_owned());
    let stages = [Stage::Founding, Stage::Founded, Stage::Tombstone];
    let schema = Arc::new(rich_schema());
    let body = Inception {
        class: Some(acme()),
        ticket: None,
        ..inception("life")
    };
    let (_, first) = State::create(body, Timestamp(1_000), bundle(0), schema, &epoch_key("life", 1)).unwrap();
    let template = Manifest {
        class: Some(Class {
            key: Keys::Pattern("t-[a-f0-9]{8}".parse().unwrap()),
            from: vec![Source::Host, Source::Header("x-tenant".to_owned())],
            max_instances: 1_000,
            archive_after: Some(Span(86_400_000)),
            paths: false,
            per_peer: 5,
            per_class: 50,
        }),
        ..manifest()
    };
    let manifest = template.encode().unwrap();
    let owners: Vec<String> = identity().controllers.iter().map(ToString::to_string).collect();
    let built = json!({
        "class": {
            "controllers": owners, "threshold": identity().threshold, "name": identity().name,
            "nonce": hex(&identity().nonce), "id": class_id().to_string(),
        },
        "digested": [digested(b"acme"), digested(b"Acme"), digested(b"\xff")],
        "name": Entry::name(class_id(), &"acme".parse().unwrap()),
        "entries": stages.map(|stage| hex(&entry.at(stage).encode().unwrap())),
        "inception": { "id": first.id.to_string(), "bytes": hex(&first.bytes) },
        "manifest": { "id": BundleId::of(&manifest).to_string(), "bytes": hex(&manifest) },
    });
    let stands = golden("class.json", &built);
    let bytes = unhex(stands["inception"]["bytes"].as_str().unwrap());
    let state = State::begin(&Stored::decode(bytes).unwrap(), &bundles()).unwrap();
    assert_eq!(state.head().class.as_ref().unwrap().id(), class_id());
    let bytes = unhex(stands["manifest"]["bytes"].as_str().unwrap());
    assert_eq!(Manifest::decode(&bytes).unwrap().1, template);
}

/// Bytes that a reader must refuse, with the check that refuses them.
#[test]
fn refused_lineages() {
    let life = whole_life();
    let seal = life
        .chain
        .iter()
        .position(|stored| stored.record.body.kind() == "seal")
        .unwrap();
    let mut altered = life.chain[seal - 1].record.clone();
    altered.memory.0[0] ^= 1;
    let altered = altered.store(None).unwrap();
    let unsigned = life.chain[seal].record.clone().store(None).unwrap();
    let stranger = life.chain[seal]
        .record
        .clone()
        .store(Some(&SecretKey::from_seed(&[9; 32])))
        .unwrap();
    let cases = [
        ("memory", seal - 1, &altered),
        ("key: unsigned", seal, &unsigned),
        ("key", seal, &stranger),
        ("seq: a record missing", seal, &life.chain[seal + 1]),
        ("seq: a record twice", seal, &life.chain[seal - 1]),
    ];
    let built: Vec<Json> = cases
        .iter()
        .map(|(check, after, stored)| {
            json!({ "check": check, "in_place_of_record": after, "bytes": hex(&stored.bytes) })
        })
        .collect();
    golden("refused.json", &Json::Array(built));
    for (check, place, stored) in cases {
        let mut chain: Vec<_> = life.chain[..place]
            .iter()
            .map(|stored| stored.bytes.clone())
            .collect();
        chain.push(stored.bytes.clone());
        let fault = fault_of(fold(&chain));
        let named = match fault {
            Fault::Memory => check == "memory",
            Fault::Unsigned("seal") => check == "key: unsigned",
            Fault::Key => check == "key",
            Fault::Seq { .. } => check.starts_with("seq"),
            _ => false,
        };
        assert!(named, "{check}: {fault:?}");
    }
}
