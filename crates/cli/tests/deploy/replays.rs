//! Requests that are for another object: sent on by what the depot says, and served only by the one that they are for.

use suijuris_core::id::RecordId;
use suijuris_core::key::SecretKey;
use suijuris_core::replay::Replayed;
use suijuris_core::time::{Span, Timestamp};
use suijuris_store::{Depth, ObjectDir, Reader};

use crate::machine::{Carried, Machine, Platform, Running, until};

const OPEN: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("stay") permit (principal, action == Action::"remain", resource);
"#;

const KEY: [u8; 32] = [9; 32];

fn now() -> Timestamp {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Timestamp(i64::try_from(now.as_millis()).unwrap())
}

/// What a proxy says of a request that was replayed with this state.
fn replayed(state: &str) -> String {
    format!("fly-replay-src: instance=e784;region=fra;t=1;state={state}\r\n")
}

/// Position and id of the records of the volume's object.
fn records(carried: &Carried) -> Vec<(u64, RecordId)> {
    let reader = Reader::open(&ObjectDir::at(carried.volume().join("object")), Depth::Whole).unwrap();
    let ids = reader
        .records(0..u64::MAX)
        .unwrap()
        .map(|record| record.unwrap().id);
    (0..).zip(ids).collect()
}

// proves E7
#[test]
fn a_replay_is_served_only_if_it_is_for_the_object_that_lives_here() {
    let carried = Carried::new("", OPEN);
    let platform = Platform::new("vol_1", &carried.volume(), 200);
    let machine = Machine {
        ticket: Some(carried.ticket(|_| {})),
        platform: Some(&platform),
        replays: Some(KEY),
        ..Machine::default()
    };
    let mut running = carried.start(&machine);
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    let key = SecretKey::from_seed(&KEY);
    let object = carried.object().parse().unwrap();
    let all = records(&carried);
    let (first, head) = (all[0].1, *all.last().unwrap());
    let good = Replayed {
        target: object,
        head: Some(head),
        expires: now().saturating_add(Span(30_000)),
    };
    let served = |running: &Running, fields: &str| {
        let answer = running.get_with("/", fields);
        assert!(answer.ends_with("served\n"), "{answer}");
    };
    let refused = |running: &Running, fields: &str, code: &str| {
        let answer = running.get_with("/", fields);
        assert!(
            answer.starts_with("HTTP/1.1 421") && answer.contains(code),
            "{code}: {answer}"
        );
    };
    // Match: by the newest head, by an older one of this history, by none.
    served(&running, &replayed(&good.sign(&key)));
    for head in [Some((0, first)), None] {
        served(&running, &replayed(&Replayed { head, ..good }.sign(&key)));
    }
    // Mismatch.
    let other = Replayed {
        target: RecordId::of(b"other").into(),
        ..good
    };
    refused(&running, &replayed(&other.sign(&key)), "wrong_object");
    // Absent; and where a proxy remembered it, unless the request itself names its object.
    refused(
        &running,
        "fly-replay-src: instance=e784;region=fra;t=1\r\n",
        "replay_unproven",
    );
    refused(&running, "fly-replay-cache-status: hit\r\n", "replay_unproven");
    let named = format!(
        "fly-replay-cache-status: hit\r\nx-suijuris-object: {}\r\n",
        carried.object()
    );
    served(&running, &named);
    // Forged, changed, too late, for too long.
    let stranger = SecretKey::from_seed(&[8; 32]);
    refused(&running, &replayed(&good.sign(&stranger)), "replay_unproven");
    refused(&running, &replayed("nonsense"), "replay_unproven");
    refused(&running, &replayed(&"x".repeat(3_000)), "replay_unproven");
    for off in [-1, 300_000] {
        let late = Replayed {
            expires: now().saturating_add(Span(off)),
            ..good
        };
        refused(&running, &replayed(&late.sign(&key)), "replay_unproven");
    }
    // Stale: this copy lacks the record, or has another in its place.
    for head in [(head.0 + 7, head.1), (head.0, first), (0, head.1)] {
        let stale = Replayed {
            head: Some(head),
            ..good
        };
        refused(&running, &replayed(&stale.sign(&key)), "replay_stale");
    }
    // Nothing of them reached the program, and a request without a replay is served as ever.
    served(&running, "");
    running.signal("TERM");
    assert_eq!(running.ends(), 0);
    // Without a key nothing can be proven.
    let running = carried.start(&Machine {
        platform: Some(&platform),
        ..Machine::default()
    });
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    refused(&running, &replayed(&good.sign(&key)), "replay_unproven");
}

// proves E6, E16
#[test]
fn where_another_object_lives_is_known_from_the_depot_and_not_for_long() {
    let (here, there) = (Carried::new("", OPEN), Carried::new("", OPEN));
    let depot = here.home.path().join("depot");
    let platforms = [&here, &there].map(|carried| Platform::new("vol_1", &carried.volume(), 200));
    let start = |carried: &Carried, at: usize, id, nonce| {
        let machine = Machine {
            ticket: Some(carried.ticket(|ticket| ticket.nonce = [nonce; 16])),
            platform: Some(&platforms[at]),
            depot: Some(depot.clone()),
            replays: Some(KEY),
            id: Some(id),
            ..Machine::default()
        };
        let running = carried.start(&machine);
        assert!(running.get("/").ends_with("served\n"), "{}", running.said());
        running
    };
    let asks = start(&here, 0, "a111", 1);
    let mut target = start(&there, 1, "b222", 2);
    let wants = format!("x-suijuris-object: {}\r\n", there.object());
    let sent = |to: &str| {
        let answer = asks.get_with("/", &wants);
        let field = answer.lines().find_map(|line| line.strip_prefix("fly-replay: "));
        field
            .filter(|field| field.starts_with(&format!("app=shop;instance={to};state=v1.")))
            .map(str::to_owned)
    };
    until("the other's place is known", || sent("b222").is_some());
    // What it says is what the other serves by, and nobody else.
    let said = sent("b222").unwrap();
    let state = said.rsplit_once("state=").unwrap().1;
    assert!(target.get_with("/", &replayed(state)).ends_with("served\n"));
    let refused = asks.get_with("/", &replayed(state));
    assert!(refused.contains("wrong_object"), "{refused}");
    // An object that nobody knows is sent nowhere; who lives here is not said.
    let nobody = format!(
        "x-suijuris-object: {}\r\n",
        suijuris_core::ObjectId::of(b"nobody")
    );
    let answer = asks.get_with("/", &nobody);
    assert!(
        answer.starts_with("HTTP/1.1 421") && answer.contains("wrong_object"),
        "{answer}"
    );
    // It moves: the new place is known soon, without anybody being told.
    target.signal("TERM");
    assert_eq!(target.ends(), 0);
    let _moved = start(&there, 1, "c333", 2);
    until("the new place is known", || sent("c333").is_some());
}
