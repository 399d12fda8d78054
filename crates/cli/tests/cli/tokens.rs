//! Tokens for development: who signs them, who takes them, what is said where nobody would.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use suijuris_auth::Callers;
use suijuris_bundle::build;
use suijuris_core::time::{Now, Quality, Span, Timestamp};

use crate::rig::Rig;

const CALLERS: &str = r#"
[callers.claims]
tenant = "string"
seats = "int"

[[callers.keys]]
algorithm = "EdDSA"
file = "callers.pem"
"#;

/// An object's directory that pins the development key, with this much more about it.
fn pinning(rig: &Rig, about_key: &str) {
    rig.run(&["new", "http", "shop"]).code(0);
    let path = rig.path().join("shop/object.toml");
    let text = std::fs::read_to_string(&path).unwrap() + CALLERS + about_key;
    std::fs::write(path, text).unwrap();
    rig.run(&["token", "key", "--write", "shop/callers.pem"]).code(0);
}

/// The payload of a token, unverified.
fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn a_token_is_what_the_definition_takes() {
    let rig = Rig::new();
    pinning(
        &rig,
        "audience = \"shop\"\nissuer = \"https://here\"\nkid = \"k1\"\n",
    );
    let args = [
        "--sub", "alice", "--scope", "read", "--scope", "write", "--ttl", "2m",
    ];
    let claims = [
        "token", "issue", "shop", "--claim", "tenant=5", "--claim", "seats=5",
    ];
    let token = rig.run(&[claims.as_slice(), &args].concat()).code(0);
    assert_eq!(token.err, "", "the key was made before");
    assert_eq!(
        token.out.lines().count(),
        1,
        "the token, and nothing else: {}",
        token.out
    );
    let token = token.out.trim_end();

    let manifest = build(&rig.path().join("shop")).unwrap().manifest;
    let callers = Callers::new(&manifest.callers, &manifest.claims, "any").unwrap();
    let issued = Timestamp(payload(token)["iat"].as_i64().unwrap() * 1_000);
    let at = |after: Span| Now {
        at: issued.saturating_add(after),
        quality: Quality::Host,
    };
    let shown = format!("Bearer {token}");
    let caller = callers.verify(&shown, at(Span(119_000))).unwrap();
    assert_eq!(caller.subject.as_deref(), Some("alice"));
    assert_eq!(caller.issuer.as_deref(), Some("https://here"));
    assert!(caller.scopes.contains("read") && caller.scopes.contains("write"));
    let claims: Vec<String> = caller
        .claims
        .iter()
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    assert_eq!(claims, ["seats=5", "tenant=\"5\""], "text stays text");
    // Two minutes, and one for clocks that stand apart.
    assert!(callers.verify(&shown, at(Span(181_000))).is_err(), "it expires");
}

#[test]
fn an_object_takes_tokens_for_its_own_id_where_its_key_names_no_audience() {
    let rig = Rig::new();
    pinning(&rig, "");
    let none = rig.run(&["token", "issue", "shop"]).code(3);
    assert!(none.err.contains("no audience"), "{}", none.err);

    let object = Rig::create_in(rig.path().join("shop"), "shop");
    let token = rig.run(&["token", "issue", "shop"]).code(0);
    assert_eq!(payload(&token.out)["aud"], object.id);
}

#[test]
fn the_key_is_made_once_for_its_owner_alone_and_is_no_owners_key() {
    let rig = Rig::new();
    let first = rig.run(&["token", "key"]).code(0);
    assert!(
        first.out.starts_with("-----BEGIN PUBLIC KEY-----\n"),
        "{}",
        first.out
    );
    assert!(first.err.contains("made the key"), "{}", first.err);
    let again = rig.run(&["token", "key"]).code(0);
    assert_eq!((again.out, again.err.as_str()), (first.out.clone(), ""));
    let file = rig.path().join("config/suijuris/token.key");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let secret = std::fs::read_to_string(&file).unwrap();
    let owner = std::fs::read_to_string(file.with_file_name("owner.key")).unwrap();
    assert_ne!(secret, owner);
    assert!(!first.out.contains(secret.trim_end()) && !first.err.contains(secret.trim_end()));

    rig.run(&["token", "key", "--write", "key.pem"]).code(0);
    rig.run(&["token", "key", "--write", "key.pem"]).code(0);
    assert_eq!(
        std::fs::read_to_string(rig.path().join("key.pem")).unwrap(),
        first.out
    );
    std::fs::write(rig.path().join("key.pem"), "mine").unwrap();
    let kept = rig.run(&["token", "key", "--write", "key.pem"]).code(3);
    assert!(kept.err.contains("something else"), "{}", kept.err);
    assert_eq!(
        std::fs::read_to_string(rig.path().join("key.pem")).unwrap(),
        "mine"
    );

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = rig.run(&["token", "key"]).code(3);
    assert!(open.err.contains("chmod 600"), "{}", open.err);
}

#[test]
fn what_nobody_would_take_is_not_issued() {
    let rig = Rig::new();
    rig.run(&["new", "http", "plain"]).code(0);
    let unpinned = rig.run(&["token", "issue", "plain"]).code(3);
    assert!(
        unpinned
            .err
            .contains("suijuris token key --write DIR/callers.pem"),
        "{}",
        unpinned.err
    );
    let nowhere = rig.run(&["token", "issue", "nowhere"]).code(3);
    assert!(nowhere.err.contains("no object in"), "{}", nowhere.err);

    pinning(&rig, "audience = \"shop\"\n");
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--claim", "team=a"], 3, "declares seats, tenant"),
        (&["--claim", "seats=many"], 3, "claim `seats` is not of the type"),
        (&["--claim", "tenant"], 2, "write NAME=VALUE"),
        (&["--claim", "exp=5"], 2, "use --sub, --scope and --ttl"),
        (&["--claim", "seats=1", "--claim", "seats=2"], 2, "named twice"),
        (&["--ttl", "0s"], 2, "from 1s"),
        (&["--ttl", "10000h"], 2, "366 days"),
        (&["--ttl", "soon"], 2, "1h30m"),
    ];
    for (args, code, says) in cases {
        let ran = rig
            .run(&[["token", "issue", "shop"].as_slice(), args].concat())
            .code(code);
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "");
    }
    std::fs::remove_file(rig.path().join("shop/callers.pem")).unwrap();
    let unread = rig.run(&["check", "shop"]).code(3);
    let says = "suijuris token key --write callers.pem";
    assert!(
        unread
            .err
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains(says),
        "{}",
        unread.err
    );
}
