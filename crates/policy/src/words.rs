//! The words of the rule language: which Cedar path stands for which slot.
//!
//! One tree per root (`principal`, `resource`, `context`) serves both the schema text, against which rules are
//! validated, and the compiler, which resolves paths to slots. `docs/rules.md` explains the words to users.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use suijuris_core::governance::{Action, PrincipalKind, Slot, Vocabulary};
use suijuris_core::memory::{Field, Kind, Name};

/// What stands under a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// A fact with its Cedar type.
    Fact {
        slot: Slot,
        cedar: String,
        optional: bool,
    },
    /// A record of words; `present` says whether it is there, where it may be absent.
    Branch { parts: Parts, present: Option<Slot> },
}

/// Words by attribute name.
pub(crate) type Parts = BTreeMap<String, Word>;

fn fact(slot: Slot, cedar: &str) -> Word {
    Word::Fact {
        slot,
        cedar: cedar.to_owned(),
        optional: false,
    }
}

fn optional(slot: Slot, cedar: &str) -> Word {
    Word::Fact {
        slot,
        cedar: cedar.to_owned(),
        optional: true,
    }
}

fn branch<const N: usize>(parts: [(&str, Word); N]) -> Word {
    Word::Branch {
        parts: parts_of(parts),
        present: None,
    }
}

fn parts_of<const N: usize>(parts: [(&str, Word); N]) -> Parts {
    parts
        .into_iter()
        .map(|(name, word)| (name.to_owned(), word))
        .collect()
}

fn position(index: usize) -> u16 {
    // Vocabularies hold far fewer words than this; see `Vocabulary::check` and `MAX_FIELDS`.
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// The Cedar type of a memory field or claim.
fn cedar_type(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "Bool".to_owned(),
        Kind::Int { .. } | Kind::Counter { .. } => "Long".to_owned(),
        Kind::Decimal => "decimal".to_owned(),
        Kind::String | Kind::Enum(_) | Kind::Bytes => "String".to_owned(),
        Kind::Timestamp => "datetime".to_owned(),
        Kind::Duration => "duration".to_owned(),
        Kind::Set(item) | Kind::List(item) => format!("Set<{}>", cedar_type(item)),
        Kind::Map(item) => format!("Set<{{\"key\": String, \"value\": {}}}>", cedar_type(item)),
        Kind::Record(attributes) => {
            let parts: Vec<_> = attributes
                .iter()
                .map(|(name, kind)| format!("\"{name}\": {}", cedar_type(kind)))
                .collect();
            format!("{{{}}}", parts.join(", "))
        }
    }
}

/// Attributes of a principal of this sort.
pub(crate) fn principal(kind: PrincipalKind, vocabulary: &Vocabulary) -> Parts {
    match kind {
        PrincipalKind::Caller => {
            let claims = vocabulary.claims.iter().enumerate().map(|(index, (name, kind))| {
                let word = optional(Slot::Claim(position(index)), &cedar_type(kind));
                (name.as_str().to_owned(), word)
            });
            parts_of([
                ("authenticated", fact(Slot::Authenticated, "Bool")),
                ("subject", optional(Slot::Subject, "String")),
                ("issuer", optional(Slot::Issuer, "String")),
                ("audience", fact(Slot::Audience, "Set<String>")),
                ("scopes", fact(Slot::Scopes, "Set<String>")),
                (
                    "claims",
                    Word::Branch {
                        parts: claims.collect(),
                        present: None,
                    },
                ),
            ])
        }
        PrincipalKind::Peer => parts_of([("id", fact(Slot::PeerId, "String"))]),
        PrincipalKind::Controller => parts_of([("keys", fact(Slot::Keys, "Set<String>"))]),
        PrincipalKind::Host | PrincipalKind::Timer | PrincipalKind::Workload | PrincipalKind::Own => {
            Parts::new()
        }
    }
}

/// What a field holds, by the slot that reads it; a counter always counts something.
fn held(field: &Field, position: u16, slot: fn(u16) -> Slot) -> Word {
    let counter = matches!(field.kind, Kind::Counter { .. });
    Word::Fact {
        slot: if counter {
            Slot::Counter(position)
        } else {
            slot(position)
        },
        cedar: cedar_type(&field.kind),
        optional: field.default.is_none() && !counter,
    }
}

/// What a write changes: of each field that it names what it holds and would hold.
fn changes(vocabulary: &Vocabulary) -> Word {
    let fields = vocabulary.memory.iter().enumerate();
    let change = |(index, (name, field)): (usize, (&Name, &Field))| {
        let position = position(index);
        let counter = matches!(field.kind, Kind::Counter { .. });
        let new = Word::Fact {
            slot: Slot::ChangeNew(position),
            cedar: cedar_type(&field.kind),
            optional: field.default.is_none() && !counter,
        };
        let word = Word::Branch {
            parts: parts_of([("old", held(field, position, Slot::ChangeOld)), ("new", new)]),
            present: Some(Slot::Changed(position)),
        };
        (name.as_str().to_owned(), word)
    };
    Word::Branch {
        parts: fields
            .filter(|(_, (_, field))| !field.secret)
            .map(change)
            .collect(),
        present: None,
    }
}

/// Attributes of the object.
pub(crate) fn resource(vocabulary: &Vocabulary) -> Parts {
    let fields = || vocabulary.memory.iter().enumerate();
    let memory = fields()
        .filter(|(_, (_, field))| !field.secret)
        .map(|(index, (name, field))| {
            (
                name.as_str().to_owned(),
                held(field, position(index), Slot::Memory),
            )
        });
    let fresh = fields().map(|(index, (name, _))| {
        (
            name.as_str().to_owned(),
            fact(Slot::Fresh(position(index)), "Bool"),
        )
    });
    let record = |parts: Parts| Word::Branch { parts, present: None };
    // Where the bundle is a class, every object is an instance.
    let of_class = |slot: Slot| Word::Fact {
        slot,
        cedar: "String".to_owned(),
        optional: !vocabulary.class,
    };
    parts_of([
        ("id", fact(Slot::ObjectId, "String")),
        ("name", fact(Slot::ObjectName, "String")),
        ("class", of_class(Slot::Class)),
        ("key", of_class(Slot::Key)),
        ("memory", record(memory.collect())),
        ("fresh", record(fresh.collect())),
        (
            "lineage",
            branch([
                ("length", fact(Slot::Length, "Long")),
                ("epoch", fact(Slot::Epoch, "Long")),
                ("unsealed", fact(Slot::Unsealed, "Bool")),
                ("born", fact(Slot::Born, "datetime")),
                ("last_woke", optional(Slot::LastWoke, "datetime")),
                ("last_dormant", optional(Slot::LastDormant, "datetime")),
                ("refused", fact(Slot::Refused, "Long")),
                ("crashes", fact(Slot::Crashes, "Long")),
            ]),
        ),
        ("usage", branch([("awake", fact(Slot::Awake, "duration"))])),
        (
            "holds",
            branch([
                ("count", fact(Slot::HoldCount, "Long")),
                ("names", fact(Slot::HoldNames, "Set<String>")),
            ]),
        ),
        ("messages", branch([("pending", fact(Slot::Pending, "Long"))])),
    ])
}

fn host(region: Slot, provider: Slot, class: Slot, id: Slot) -> Word {
    branch([
        ("region", fact(region, "String")),
        ("provider", fact(provider, "String")),
        ("class", fact(class, "String")),
        ("id", fact(id, "String")),
    ])
}

fn request(vocabulary: &Vocabulary, present: Option<Slot>) -> Word {
    let headers = vocabulary
        .headers
        .iter()
        .enumerate()
        .map(|(index, name)| (name.clone(), optional(Slot::Header(position(index)), "String")));
    Word::Branch {
        parts: parts_of([
            ("protocol", fact(Slot::Protocol, "String")),
            ("peer_ip", fact(Slot::PeerIp, "ipaddr")),
            ("method", fact(Slot::Method, "String")),
            ("path", fact(Slot::Path, "String")),
            ("query", fact(Slot::Query, "String")),
            ("host", fact(Slot::RequestHost, "String")),
            ("port", optional(Slot::RequestPort, "Long")),
            ("content_length", optional(Slot::ContentLength, "Long")),
            ("tls", tls()),
            ("client_cert", client_cert()),
            (
                "headers",
                Word::Branch {
                    parts: headers.collect(),
                    present: None,
                },
            ),
        ]),
        present,
    }
}

/// What TLS came to, where it ended at somebody whose word counts.
fn tls() -> Word {
    Word::Branch {
        parts: parts_of([
            ("version", fact(Slot::TlsVersion, "String")),
            ("sni", optional(Slot::TlsSni, "String")),
        ]),
        present: Some(Slot::HasTls),
    }
}

/// The verified certificate that the client showed.
fn client_cert() -> Word {
    Word::Branch {
        parts: parts_of([
            ("name", optional(Slot::CertName, "String")),
            ("subject", fact(Slot::CertSubject, "String")),
            ("issuer", fact(Slot::CertIssuer, "String")),
            ("fingerprint", fact(Slot::CertFingerprint, "String")),
            ("not_after", fact(Slot::CertNotAfter, "datetime")),
        ]),
        present: Some(Slot::HasClientCert),
    }
}

/// How often the one who asks did so, by the names of the declared rates.
fn rates(vocabulary: &Vocabulary, present: Option<Slot>) -> Word {
    let names = vocabulary.rates.keys().enumerate();
    let rate = |(index, name): (usize, &Name)| {
        (
            name.as_str().to_owned(),
            fact(Slot::Rate(position(index)), "Long"),
        )
    };
    Word::Branch {
        parts: names.map(rate).collect(),
        present,
    }
}

/// Attributes of the context of `action`.
pub(crate) fn context(action: Action, vocabulary: &Vocabulary) -> Parts {
    let mut parts = parts_of([
        ("now", fact(Slot::Now, "datetime")),
        ("clock", fact(Slot::Clock, "String")),
        (
            "host",
            host(
                Slot::HostRegion,
                Slot::HostProvider,
                Slot::HostClass,
                Slot::HostId,
            ),
        ),
    ]);
    let mut add = |name: &str, word: Word| {
        parts.insert(name.to_owned(), word);
    };
    match action {
        Action::Wake => {
            add(
                "trigger",
                branch([
                    ("kind", fact(Slot::TriggerKind, "String")),
                    ("name", optional(Slot::TriggerName, "String")),
                    ("topic", optional(Slot::TriggerTopic, "String")),
                    ("field", optional(Slot::TriggerField, "String")),
                    ("missed", fact(Slot::TriggerMissed, "Long")),
                ]),
            );
            add("request", request(vocabulary, Some(Slot::HasRequest)));
            add("rate", rates(vocabulary, Some(Slot::HasRequest)));
        }
        Action::Admit => {
            add("request", request(vocabulary, None));
            add("rate", rates(vocabulary, None));
        }
        Action::Remain | Action::Sleep => add(
            "activity",
            branch([
                ("active", fact(Slot::Active, "duration")),
                ("idle", fact(Slot::Idle, "duration")),
                ("connections", fact(Slot::Connections, "Long")),
                ("in_flight", fact(Slot::InFlight, "Long")),
            ]),
        ),
        Action::Mutate => {
            add("fields", fact(Slot::Fields, "Set<String>"));
            add("change", changes(vocabulary));
        }
        Action::Migrate => add(
            "target",
            host(
                Slot::TargetRegion,
                Slot::TargetProvider,
                Slot::TargetClass,
                Slot::TargetId,
            ),
        ),
        Action::Fork => {
            add("scope", fact(Slot::Scope, "String"));
            add("warm", fact(Slot::Warm, "Bool"));
        }
        Action::Read => add("field", fact(Slot::ReadField, "String")),
        Action::Instantiate => {
            add("key", fact(Slot::Key, "String"));
            add("instances", fact(Slot::Instances, "Long"));
            add("max_instances", fact(Slot::MaxInstances, "Long"));
            add(
                "rate",
                branch([
                    ("peer", fact(Slot::PeerRate, "Long")),
                    ("class", fact(Slot::ClassRate, "Long")),
                ]),
            );
            add("request", request(vocabulary, Some(Slot::HasRequest)));
        }
        Action::Amend | Action::Terminate => {}
    }
    parts
}

fn write_parts(out: &mut String, parts: &Parts) {
    out.push('{');
    for (index, (name, word)) in parts.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        match word {
            Word::Fact { cedar, optional, .. } => {
                let mark = if *optional { "?" } else { "" };
                let _ = write!(out, "{comma}\"{name}\"{mark}: {cedar}");
            }
            Word::Branch { parts, present } => {
                let mark = if present.is_some() { "?" } else { "" };
                let _ = write!(out, "{comma}\"{name}\"{mark}: ");
                write_parts(out, parts);
            }
        }
    }
    out.push('}');
}

/// The Cedar schema of a vocabulary, as text.
#[must_use]
pub fn schema_text(vocabulary: &Vocabulary) -> String {
    let mut out = String::new();
    for kind in PrincipalKind::ALL {
        let _ = write!(out, "entity {kind} = ");
        write_parts(&mut out, &principal(*kind, vocabulary));
        out.push_str(";\n");
    }
    out.push_str("entity Object = ");
    write_parts(&mut out, &resource(vocabulary));
    out.push_str(";\n");
    for action in Action::ALL.iter().filter(|action| action.is_of(vocabulary.class)) {
        let principals: Vec<_> = PrincipalKind::ALL
            .iter()
            .filter(|kind| action.applies_to(**kind))
            .map(|kind| kind.as_str())
            .collect();
        let _ = write!(
            out,
            "action \"{action}\" appliesTo {{principal: [{}], resource: [Object], context: ",
            principals.join(", ")
        );
        write_parts(&mut out, &context(*action, vocabulary));
        out.push_str("};\n");
    }
    out
}
