//! The bundle manifest: its bytes are its id, and what is out of bounds is named.

use std::collections::BTreeMap;

use suijuris_core::class::{Class, Keys, Source};
use suijuris_core::codec;
use suijuris_core::id::{BlobId, BundleId};
use suijuris_core::manifest::{
    Algorithm, CallerKey, Error, Gate, LEASE, Manifest, Network, Protocol, Ready, SleepMode, Witness,
    Workload,
};
use suijuris_core::memory::Kind;
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::trigger::{Missed, Schedule, Timer, Triggers};

use crate::lives::{name, rich_schema};

/// A manifest that uses every part.
pub(crate) fn manifest() -> Manifest {
    let cron = Schedule::Cron {
        expression: "0 9 * * MON-FRI".into(),
        zone: "Europe/Berlin".into(),
    };
    Manifest {
        v: 1,
        name: "hello".into(),
        workload: Workload {
            image: None,
            argv: ["python3", "-m", "http.server", "{port}"]
                .map(str::to_owned)
                .to_vec(),
            env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
            secret_env: BTreeMap::new(),
            cwd: None,
            user: Some("nobody".into()),
            port: 0,
            ready: Ready::Http("/".into()),
            ready_within: Span(10_000),
            live: None,
            stop_signal: 15,
            stop_within: Span(5_000),
            network: Network::Private,
            egress: std::collections::BTreeSet::new(),
            limits: suijuris_core::manifest::UseLimits::default(),
            mounts: Vec::new(),
            read_only: true,
        },
        gate: Gate {
            protocol: Protocol::Http,
            headers: vec!["x-tenant".into()],
            max_held: 64,
            hold: Span(10_000),
            max_connections: 1_024,
            drain: Span(5_000),
            linger: Span(250),
            api: false,
            cors: Vec::new(),
        },
        memory: rich_schema(),
        governance: BlobId::of(b"permit(principal, action, resource);"),
        program: BlobId::of(b"program"),
        triggers: Triggers {
            request: true,
            topics: ["orders".to_owned()].into(),
            timers: [
                (
                    name("launch"),
                    Timer {
                        schedule: Schedule::At(Timestamp(1_795_420_800_000)),
                        missed: Missed::Skip,
                    },
                ),
                (
                    name("morning"),
                    Timer {
                        schedule: cron,
                        missed: Missed::Once,
                    },
                ),
                (
                    name("tick"),
                    Timer {
                        schedule: Schedule::Every(Span(60_000)),
                        missed: Missed::All,
                    },
                ),
            ]
            .into(),
        },
        callers: vec![CallerKey {
            kid: Some("k1".into()),
            algorithm: Algorithm::EdDsa,
            pem: "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n".into(),
            issuer: Some("https://issuer.example".into()),
            audience: None,
        }],
        claims: [(name("tenant"), Kind::String)].into(),
        rates: BTreeMap::new(),
        sleep: SleepMode::Stop,
        witness: Witness::Optional,
        lease: LEASE,
        grace: Span(0),
        class: None,
        elsewhere: BTreeMap::new(),
        warm_forks: false,
        seal_within: Span(1_000),
    }
}

#[test]
fn a_manifest_reads_back_under_the_id_of_its_bytes() {
    let bytes = manifest().encode().unwrap();
    let (id, read) = Manifest::decode(&bytes).unwrap();
    assert_eq!((id, read), (BundleId::of(&bytes), manifest()));
}

#[test]
fn the_terms_of_a_witness_have_one_encoding_each() {
    let plain = manifest().encode().unwrap();
    let has = |bytes: &[u8], key: &[u8]| bytes.windows(key.len()).any(|window| window == key);
    assert!(!has(&plain, b"\x65lease") && !has(&plain, b"\x65grace"));
    let terms = Manifest {
        lease: Span(2_000),
        grace: Span(500),
        ..manifest()
    };
    let bytes = terms.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap().1, terms);
    // A default that is written out is not the canonical form.
    let written = [&b"\x65lease\x19"[..], &2_000_u16.to_be_bytes()].concat();
    let place = bytes
        .windows(written.len())
        .position(|window| window == written)
        .unwrap();
    let mut default = bytes;
    default.splice(
        place + written.len() - 2..place + written.len(),
        10_000_u16.to_be_bytes(),
    );
    assert!(matches!(
        Manifest::decode(&default),
        Err(Error::Encoding(codec::Error::NotCanonical))
    ));
}

// proves B3
#[test]
fn one_changed_byte_is_another_bundle_or_none() {
    let bytes = manifest().encode().unwrap();
    let id = BundleId::of(&bytes);
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1 << (index % 8);
        if let Ok((other, read)) = Manifest::decode(&changed) {
            assert_ne!(other, id);
            assert_ne!(read, manifest());
        }
    }
}

#[test]
fn unknown_keys_floats_and_later_versions_are_refused() {
    // One key more in the map at `at`, before its first key: one letter sorts before `hold`.
    let whole = manifest().encode().unwrap();
    let insert = |at: &[u8], key: &str, value: &[u8]| {
        let place = whole.windows(at.len()).position(|window| window == at).unwrap();
        let mut bytes = whole.clone();
        bytes[place] += 1;
        let text = [
            &[0x60 | u8::try_from(key.len()).unwrap()][..],
            key.as_bytes(),
            value,
        ]
        .concat();
        bytes.splice(place + 1..place + 1, text);
        bytes
    };
    let gate = b"\xa7\x64hold";
    assert!(matches!(
        Manifest::decode(&insert(gate, "a", &[0])),
        Err(Error::Encoding(_))
    ));
    assert!(matches!(
        Manifest::decode(&insert(gate, "a", &[0xf9, 0x3c, 0])),
        Err(Error::Encoding(_))
    ));
    let later = Manifest { v: 2, ..manifest() }.encode().unwrap();
    assert!(matches!(Manifest::decode(&later), Err(Error::Version(2))));
    let long = vec![0; suijuris_core::manifest::MAX_BYTES + 1];
    assert!(matches!(
        Manifest::decode(&long),
        Err(Error::Encoding(codec::Error::TooLong { .. }))
    ));
}

/// What `alter` breaks, as `object.toml` names it.
type Case = (&'static str, fn(&mut Manifest));

const FAULTS: &[Case] = &[
    ("name", |m| m.name = String::new()),
    ("name", |m| m.name = "Hello".into()),
    ("name", |m| m.name = "1st".into()),
    ("name", |m| m.name = "a-".into()),
    ("name", |m| m.name = "a".repeat(64)),
    ("workload.command", |m| m.workload.argv.clear()),
    ("workload.command", |m| m.workload.argv[0].clear()),
    ("workload.command", |m| m.workload.argv.push("a\0b".into())),
    ("workload.command", |m| m.workload.argv = vec!["a".into(); 257]),
    ("workload.env", |m| {
        m.workload.env.insert("A=B".into(), String::new());
    }),
    ("workload.env", |m| {
        m.workload.env.insert(String::new(), String::new());
    }),
    ("workload.env", |m| {
        m.workload.env.insert("A".into(), "\0".into());
    }),
    ("workload.env", |m| {
        *m = with_secrets();
        m.workload.env.insert("KEY".into(), "in clear".into());
    }),
    ("workload.env", |m| {
        *m = with_secrets();
        m.workload.secret_env.insert("KEY2".into(), name("nobody"));
    }),
    ("workload.ready_within", |m| m.workload.ready_within = Span(0)),
    ("workload.ready_within", |m| {
        m.workload.ready_within = Span(3_600_001);
    }),
    ("workload.stop_within", |m| m.workload.stop_within = Span(-1)),
    ("workload.stop_signal", |m| m.workload.stop_signal = 0),
    ("workload.stop_signal", |m| m.workload.stop_signal = 65),
    ("gate.max_connections", |m| m.gate.max_connections = 0),
    ("gate.max_held", |m| m.gate.max_held = 65_537),
    ("gate.hold", |m| m.gate.hold = Span(600_001)),
    ("gate.drain", |m| m.gate.drain = Span(0)),
    ("gate.linger", |m| m.gate.linger = Span(60_001)),
    ("gate.headers", |m| m.gate.headers = vec!["a".into(); 65]),
    ("gate.headers", |m| m.gate.headers = vec!["X-Tenant".into()]),
    ("gate.api", |m| {
        m.gate.api = true;
        m.gate.protocol = Protocol::Tcp;
    }),
    ("callers.keys", |m| m.callers = vec![m.callers[0].clone(); 65]),
    ("lineage.seal_within", |m| m.seal_within = Span(-1)),
    ("witness.lease", |m| m.lease = Span(999)),
    ("witness.lease", |m| m.lease = Span(300_001)),
    ("witness.grace", |m| m.grace = Span(-1)),
    ("witness.grace", |m| m.grace = Span(300_001)),
    ("witness.grace", |m| {
        m.witness = Witness::Required;
        m.grace = Span(1);
    }),
    ("messages.topics", |m| {
        m.triggers.topics.insert(String::new());
    }),
];

#[test]
fn each_part_out_of_bounds_is_named() {
    assert_eq!(manifest().faults().len(), 0);
    for (expected, alter) in FAULTS {
        let mut manifest = manifest();
        alter(&mut manifest);
        let faults = manifest.faults();
        let named = matches!(&faults[..], [Error::Part { part, .. }] if part == expected);
        assert!(named, "{expected}: {faults:?}");
        assert!(
            Manifest::decode(&manifest.encode().unwrap()).is_err(),
            "{expected}"
        );
    }
}

#[test]
fn a_timer_that_cannot_be_used_is_named() {
    let cron = |expression: &str, zone: &str| Schedule::Cron {
        expression: expression.into(),
        zone: zone.into(),
    };
    for schedule in [
        cron("* * *", "UTC"),
        cron("0 9 * * *", "Mars/Base"),
        Schedule::Every(Span(999)),
    ] {
        let mut manifest = manifest();
        let timer = Timer {
            schedule,
            missed: Missed::Once,
        };
        manifest.triggers.timers.insert(name("bad"), timer);
        assert!(matches!(&manifest.faults()[..], [Error::Timer(timer, _)] if timer.as_str() == "bad"));
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let mut manifest = manifest();
    for (_, alter) in [FAULTS[0], FAULTS[5], FAULTS[19]] {
        alter(&mut manifest);
    }
    assert_eq!(manifest.faults().len(), 3);
}

/// A class that nothing is wrong with.
fn class() -> Class {
    Class {
        key: Keys::Label,
        from: vec![Source::Host, Source::Path],
        max_instances: 10,
        archive_after: None,
        paths: true,
        per_peer: 5,
        per_class: 50,
    }
}

fn class_faults(change: impl FnOnce(&mut Manifest, &mut Class)) -> Vec<String> {
    let (mut manifest, mut class) = (manifest(), class());
    change(&mut manifest, &mut class);
    manifest.class = Some(class);
    manifest.faults().iter().map(ToString::to_string).collect()
}

#[test]
fn a_class_that_contradicts_itself_or_its_bundle_is_refused() {
    assert_eq!(class_faults(|_, _| {}), [""; 0]);
    let check = |expect: &str, change: &dyn Fn(&mut Manifest, &mut Class)| {
        let faults = class_faults(change);
        assert!(
            faults.iter().any(|fault| fault.starts_with(expect)),
            "{expect}: {faults:?}"
        );
    };
    check("class.max_instances", &|_, class| class.max_instances = 0);
    check("class.max_instances", &|_, class| class.max_instances = u64::MAX);
    check("class.archive_after", &|_, class| {
        class.archive_after = Some(Span(1));
    });
    check("class.per_peer", &|_, class| class.per_peer = 0);
    check("class.per_peer", &|_, class| class.per_peer = 51);
    check("class.from", &|_, class| class.from.clear());
    check("class.from", &|_, class| class.from.push(Source::Host));
    check("class.paths", &|_, class| class.from = vec![Source::Host]);
    check("class.from: raw connections", &|manifest, _| {
        manifest.gate.protocol = Protocol::Tcp;
    });
    check("class.from: declare the claim", &|_, class| {
        class.from.push(Source::Claim("nobody".to_owned()));
    });
}

/// A manifest whose workload takes a secret of memory as a variable and as a file.
pub(crate) fn with_secrets() -> Manifest {
    let mut manifest = manifest();
    let secret = manifest.memory.iter().find(|(_, field)| field.secret);
    let (field, _) = secret.unwrap();
    let (field, file) = (field.clone(), format!("--key={{secret_file:{field}}}"));
    manifest.workload.secret_env = [("KEY".to_owned(), field)].into();
    manifest.workload.argv.push(file);
    manifest
}

#[test]
fn a_workload_without_secrets_has_the_bytes_that_it_always_had() {
    let bytes = manifest().encode().unwrap();
    assert!(!bytes.windows(10).any(|ten| ten == b"secret_env"));
    let with = with_secrets();
    let field = with.workload.secret_env["KEY"].clone();
    assert_eq!(with.secret_files(), [field].into());
    let bytes = with.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap().1, with);
    // What names no secret is a text like any other, as it was before.
    let mut text = manifest();
    text.workload.argv.push("{secret_file:nobody}".to_owned());
    assert!(text.secret_files().is_empty() && text.faults().is_empty());
}

/// A manifest whose workload may reach something.
pub(crate) fn with_egress() -> Manifest {
    let mut manifest = manifest();
    let destinations = ["db.example.com:5432", "10.1.0.0/16:443", "203.0.113.7:25"];
    manifest.workload.egress = destinations.map(|text| text.parse().unwrap()).into();
    manifest
}

#[test]
fn a_workload_that_reaches_nothing_has_the_bytes_that_it_always_had() {
    let bytes = manifest().encode().unwrap();
    assert!(!bytes.windows(6).any(|six| six == b"egress"));
    let with = with_egress();
    assert!(with.faults().is_empty());
    let bytes = with.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap().1, with);
    // The bytes of a destination are one text, and nothing else is read as one.
    let at = bytes.windows(4).position(|four| four == b"5432").unwrap();
    let mut other = bytes;
    other[at] = b'0';
    assert!(Manifest::decode(&other).is_err());
}

#[test]
fn what_a_workload_may_reach_is_bounded_and_makes_sense() {
    let faults = |change: &dyn Fn(&mut Workload)| {
        let mut manifest = with_egress();
        change(&mut manifest.workload);
        manifest
            .faults()
            .iter()
            .any(|fault| fault.to_string().starts_with("workload.egress: "))
    };
    assert!(!faults(&|_| {}));
    assert!(faults(&|workload| workload.network = Network::Host));
    assert!(faults(&|workload| workload.port = 443));
    assert!(faults(&|workload| {
        workload.egress = (1..=65)
            .map(|port| format!("a:{port}").parse().unwrap())
            .collect();
    }));
}

#[test]
fn a_bundle_without_a_class_has_the_bytes_that_it_always_had() {
    let bytes = manifest().encode().unwrap();
    assert!(!bytes.windows(5).any(|five| five == b"class"));
    let template = Manifest {
        class: Some(class()),
        ..manifest()
    };
    let bytes = template.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap().1, template);
}
