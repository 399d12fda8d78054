//! One question, asked at the server and at the door that has the state open: the same problem document.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Protocol;
use suijuris_core::inputs::{Request, Witnessed};
use suijuris_core::manifest::{Algorithm, CallerKey};
use suijuris_core::memory::Name;
use suijuris_core::rates::{Per, Rate};
use suijuris_core::time::Span;
use suijuris_door::config::Location;
use suijuris_door::{Credentials, PreparedBundle, Sleeper};

use crate::life::{Definition, Life};
use crate::rig::{Rig, reading};

const RULES: &str = r#"
    @id("wake") permit(principal, action == Action::"wake", resource);
    @id("night") @reason("closed until tomorrow") @retry_after("90s")
    forbid(principal, action == Action::"wake", resource)
    when { context has request && context.request.path like "/night*" };
    @id("open") permit(principal, action == Action::"admit", resource) when { context.request.path like "/open*" };
    @id("never") @reason("not this") @retry_after("7s")
    forbid(principal, action == Action::"admit", resource) when { context.request.path == "/open/never" };
"#;

/// The document that the door with the state open answers with; none where it permits.
fn open(
    definition: &Definition,
    life: &Life,
    rig: &Rig,
    path: &str,
    credentials: Credentials<'_>,
) -> Option<String> {
    let built = definition.build().unwrap();
    let prepared = Arc::new(PreparedBundle::new(built.bundle).unwrap());
    let mut sleeper = Sleeper::new(
        prepared,
        life.state.head(),
        Location::default().host(),
        Witnessed::Agrees,
    );
    let request = Request {
        method: "GET".into(),
        path: path.into(),
        query: String::new(),
        host: format!("{}.test", life.state.head().object),
        port: None,
        protocol: Protocol::Http1,
        peer_ip: IpAddr::from([127, 0, 0, 1]),
        content_length: None,
        headers: Default::default(),
        tls: None,
        client_cert: None,
    };
    let reading = reading(rig.now());
    let problem = match sleeper.authenticate(credentials, |_| Ok(request), reading) {
        Err(problem) => problem,
        Ok(proposal) => match sleeper.decide(&life.state, &proposal, BTreeMap::new(), reading) {
            Verdict::Refuse(decision) => sleeper.problem(&decision),
            Verdict::Permit(..) => return None,
        },
    };
    Some(serde_json::to_string(&problem).unwrap())
}

// proves D5
#[tokio::test]
async fn the_door_of_many_and_the_door_of_one_answer_with_the_same_problem() {
    use ed25519_dalek::pkcs8::EncodePublicKey as _;
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    let pinned = CallerKey {
        kid: None,
        algorithm: Algorithm::EdDsa,
        pem: key.to_public_key_pem(Default::default()).unwrap(),
        issuer: None,
        audience: None,
    };
    let open_by_day = Definition {
        callers: vec![pinned],
        ..Definition::rules(RULES)
    };
    let deaf = Definition {
        deaf: true,
        ..Definition::rules(RULES)
    };
    let stranger = ObjectId::of(b"stranger").to_string();
    let nobody = Credentials::default();
    let forged = Credentials {
        authorization: Some("Bearer nonsense"),
        ..nobody
    };
    let basic = Credentials {
        authorization: Some("Basic eDp5"),
        ..nobody
    };
    let lost = Credentials {
        wants: Some(&stranger),
        ..nobody
    };
    for (definition, path, credentials, expect) in [
        (&open_by_day, "/open", nobody, None),
        (&open_by_day, "/open/never", nobody, Some("admit_refused")),
        (&open_by_day, "/elsewhere", nobody, Some("admit_refused")),
        (&open_by_day, "/night", nobody, Some("wake_refused")),
        (&open_by_day, "/open", forged, Some("invalid_token")),
        (&open_by_day, "/open", basic, Some("invalid_token")),
        (&open_by_day, "/open", lost, Some("wrong_object")),
        (&deaf, "/open", nobody, Some("asleep")),
        // No keys are pinned: the header is the workload's own affair.
        (&deaf, "/open", forged, Some("asleep")),
    ] {
        let rig = Rig::new().await;
        let built = definition.build().unwrap();
        let life = Life::create(&built.bundle, "a");
        let object = rig.lay_to_rest(&built, life.clone(), None).await;
        let header = |name: &str, value: Option<&str>| {
            value.map_or_else(String::new, |value| format!("\r\n{name}: {value}"))
        };
        let (wants, token) = (
            header("x-suijuris-object", credentials.wants),
            header("authorization", credentials.authorization),
        );
        let head = format!("GET /ext_authz{path} HTTP/1.1\r\nhost: {object}.test{wants}{token}");
        let answer = rig.send(&head, b"").await;
        let problem = open(definition, &life, &rig, path, credentials);
        match expect {
            None => assert_eq!((answer.status, problem), (200, None), "{path}"),
            Some(code) => {
                assert_eq!((answer.code().as_str(), rig.starts()), (code, 0), "{answer:?}");
                assert_eq!(Some(&answer.body), problem.as_ref(), "{path}");
            }
        }
        rig.end().await;
    }
}

// proves D5
#[tokio::test]
async fn what_the_door_of_many_refuses_counts_towards_the_rates_of_the_object() {
    let rules = r#"
    @id("wake") permit(principal, action == Action::"wake", resource);
    @id("open") permit(principal, action == Action::"admit", resource) when { context.request.path == "/open" };
    @id("enough") @reason("too often") @status("429")
    forbid(principal, action == Action::"admit", resource) when { context.rate.calls > 2 };
    "#;
    let mut definition = Definition::rules(rules);
    let rate = Rate {
        per: Per::Peer,
        window: Span(86_400_000),
    };
    definition.vocabulary.rates = BTreeMap::from([(Name::new("calls").unwrap(), rate)]);
    let rig = Rig::new().await;
    let built = definition.build().unwrap();
    let life = Life::create(&built.bundle, "a");
    let object = rig.lay_to_rest(&built, life, None).await;
    for (path, status) in [("/shut", 403), ("/shut", 403), ("/shut", 429), ("/open", 429)] {
        let head = format!("GET /ext_authz{path} HTTP/1.1\r\nhost: {object}.test");
        let answer = rig.send(&head, b"").await;
        assert_eq!((answer.status, rig.starts()), (status, 0), "{path}: {answer:?}");
    }
    rig.end().await;
}
