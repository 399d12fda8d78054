//! Bodies of what is read as text: tokens, JSON, definitions, rules, and the plain forms of values.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeSeed as _;
use suijuris_api::agent::Patch;
use suijuris_api::history::Supposed;
use suijuris_api::{agent, control, daemon, json as strict};
use suijuris_auth::Keys;
use suijuris_core::class::{Keys as ClassKeys, Pattern};
use suijuris_core::governance::Vocabulary;
use suijuris_core::id::{BlobId, ObjectId};
use suijuris_core::key::{PublicKey, Signature};
use suijuris_core::manifest::{Algorithm, CallerKey};
use suijuris_core::memory::{Decimal, Field, Kind, Memory, Name, Schema};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_core::trigger::Schedule;
use suijuris_custody::patch;
use suijuris_oci::Reference;

const NOW: Now = Now {
    at: Timestamp(1_795_420_800_000),
    quality: Quality::Synced,
};

/// Keys of each algorithm, of which nobody has the other half.
const PEMS: [(Algorithm, &str); 2] = [
    (
        Algorithm::EdDsa,
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
    ),
    (
        Algorithm::Es256,
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n-----END PUBLIC KEY-----\n",
    ),
];

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let key = |(algorithm, pem): (Algorithm, &str)| CallerKey {
            kid: None,
            algorithm,
            pem: pem.to_owned(),
            issuer: None,
            audience: None,
        };
        let claims = [("tenant", Kind::String), ("level", Kind::INT)];
        let claims: BTreeMap<_, _> = claims
            .into_iter()
            .map(|(name, kind)| (Name::new(name).unwrap(), kind))
            .collect();
        Keys::new(&PEMS.map(key), &claims).unwrap()
    })
}

/// Whatever stands in an `Authorization` header; and with JSON, a token of it that nobody signed.
pub fn token(bytes: &[u8]) {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(bytes);
    for text in [text.to_string(), format!("Bearer {text}")] {
        assert!(keys().verify(&text, "o", NOW).is_err(), "nobody has signed it");
    }
    let encode = |part: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part);
    for header in [r#"{"alg":"EdDSA"}"#, r#"{"alg":"ES256"}"#] {
        let unsigned = format!(
            "Bearer {}.{}.{}",
            encode(header.as_bytes()),
            encode(bytes),
            encode(&[0; 64])
        );
        assert!(
            keys().verify(&unsigned, "o", NOW).is_err(),
            "nobody has signed it"
        );
    }
}

/// A memory with a field of each type.
fn memory() -> Memory {
    let record = Kind::Record([(Name::new("y").unwrap(), Kind::INT)].into());
    let kinds = [
        ("budget", Kind::INT),
        ("calls", Kind::Counter { window: Span(60_000) }),
        ("jobs", Kind::Set(Box::new(Kind::String))),
        ("list", Kind::List(Box::new(Kind::Decimal))),
        ("map", Kind::Map(Box::new(Kind::Bytes))),
        ("note", Kind::String),
        ("place", record),
        ("when", Kind::Timestamp),
    ];
    let fields: BTreeMap<_, _> = kinds
        .into_iter()
        .map(|(name, kind)| (Name::new(name).unwrap(), Field::new(kind)))
        .collect();
    Memory::new(Arc::new(Schema::try_from(fields).unwrap()))
}

/// A write to memory.
pub fn memory_patch(bytes: &[u8]) {
    let Ok(patch) = strict::from_slice::<Patch>(bytes) else {
        return;
    };
    let mut memory = memory();
    if let Ok(parsed) = patch::parse(&patch, &memory) {
        let root = memory.root();
        if memory.apply(&parsed.change, NOW.at).is_err() {
            assert_eq!(memory.root(), root, "all or nothing");
        }
    }
}

/// A document of the agent socket, the control socket or the control API.
pub fn json(bytes: &[u8]) {
    let _any_answer = (
        strict::from_slice::<agent::Hold>(bytes).is_ok(),
        strict::from_slice::<agent::Acknowledge>(bytes).is_ok(),
        strict::from_slice::<agent::TokenRequest>(bytes).is_ok(),
        strict::from_slice::<Supposed>(bytes).is_ok(),
        strict::from_slice::<daemon::Amend>(bytes).is_ok(),
        serde_json::from_slice::<control::ControlRequest>(bytes).is_ok(),
    );
    if let Ok(value) = strict::from_slice::<serde_json::Value>(bytes) {
        let text = serde_json::to_vec(&value).unwrap();
        assert!(strict::from_slice::<serde_json::Value>(&text).is_ok());
    }
}

/// A message in structured form.
pub fn cloud_event(bytes: &[u8]) {
    let _any_answer = suijuris_door::events::read_document(bytes, NOW.at);
    let mut headers = http::HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/cloudevents+json"),
    );
    if let Ok(message) = suijuris_door::events::read(&headers, bytes, NOW.at) {
        let bytes = message.encode().unwrap();
        assert!(suijuris_core::message::Message::decode(&bytes).is_ok());
    }
}

/// A definition with its rules behind a line of `---`. What builds, builds the same again.
pub fn definition(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (definition, rules) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let nowhere = Path::new("/nonexistent");
    if let Ok(built) = suijuris_bundle::build_texts(definition, rules, nowhere) {
        let again = suijuris_bundle::build_texts(definition, rules, nowhere);
        assert!(again.is_ok_and(|again| again.id == built.id));
    }
}

/// Rules.
pub fn governance(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let vocabulary = Vocabulary {
        memory: (**memory().schema()).clone(),
        ..Vocabulary::default()
    };
    if let Ok(compiled) = suijuris_policy::compile(&vocabulary, &text) {
        crate::records::program(&compiled.program.encode().unwrap());
    }
}

/// What a client of the host wants a machine to be.
pub fn machine_config(bytes: &[u8]) {
    suijuris_host::fuzz_config(bytes);
}

/// What a host finds among the backups of its volumes.
pub fn volume_backup(bytes: &[u8]) {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("volume"), root.path().join("outside"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(&outside).unwrap();
    suijuris_host::fuzz_backup(bytes, &inside);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
}

/// What a machine asks of the names of its private network.
pub fn private_names(bytes: &[u8]) {
    suijuris_host::fuzz_names(bytes);
}

/// Everything that is read from a plain text.
pub fn plain_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(id) = ObjectId::from_str(&text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(instant) = Timestamp::from_str(&text) {
        assert_eq!(instant.to_string().parse(), Ok(instant));
    }
    if let Ok(span) = Span::from_str(&text) {
        assert_eq!(span.to_string().parse(), Ok(span));
    }
    if let Ok(decimal) = Decimal::from_str(&text) {
        assert_eq!(decimal.to_string().parse(), Ok(decimal));
    }
    let (expression, zone) = (text.to_string(), "Europe/Berlin".to_owned());
    let _any_answer = (
        Schedule::Cron { expression, zone }.check().is_ok(),
        Name::new(&*text).is_ok(),
        BlobId::from_str(&text).is_ok(),
        PublicKey::from_str(&text).is_ok(),
        Signature::from_str(&text).is_ok(),
        Reference::from_str(&text).is_ok(),
    );
    if let Ok(pattern) = Pattern::from_str(&text) {
        let _any_answer = ClassKeys::Pattern(pattern).asked(b"acme-42");
    }
    for kind in [
        Kind::Bytes,
        Kind::Map(Box::new(Kind::Timestamp)),
        Kind::List(Box::new(Kind::Decimal)),
    ] {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let _any_answer = (&kind).deserialize(&mut reader).is_ok();
    }
}
