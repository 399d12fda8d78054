//! Caller tokens: what is let in, and everything that is not.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::EncodePublicKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use p256::ecdsa::signature::{SignatureEncoding as _, Signer as _};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use suijuris_auth::{Callers, KeyError, TokenError};
use suijuris_core::inputs::Caller;
use suijuris_core::manifest::{Algorithm, CallerKey};
use suijuris_core::memory::{Kind, Name, Value};
use suijuris_core::time::{Now, Quality, Timestamp};

const OBJECT: &str = "bafyobject";
const NOON: i64 = 1_795_435_200;

struct Signers {
    ed: ed25519_dalek::SigningKey,
    p256: p256::ecdsa::SigningKey,
    rsa: rsa::pkcs1v15::SigningKey<sha2::Sha256>,
    rsa_public: rsa::PublicKey,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| {
    let rsa = rsa::PrivateKey::new(&mut getrandom::rand_core::UnwrapErr(getrandom::SysRng), 2_048).unwrap();
    Signers {
        ed: ed25519_dalek::SigningKey::from_bytes(&[7; 32]),
        p256: p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap(),
        rsa_public: rsa.to_public_key(),
        rsa: rsa::pkcs1v15::SigningKey::new(rsa),
    }
});

fn pem(algorithm: Algorithm) -> String {
    let signers = &*SIGNERS;
    match algorithm {
        Algorithm::EdDsa => signers.ed.verifying_key().to_public_key_pem(LineEnding::LF),
        Algorithm::Es256 => {
            p256::PublicKey::from(signers.p256.verifying_key()).to_public_key_pem(LineEnding::LF)
        }
        Algorithm::Rs256 => signers.rsa_public.to_public_key_pem(LineEnding::LF),
    }
    .unwrap()
}

fn sign(algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    let signers = &*SIGNERS;
    match algorithm {
        Algorithm::EdDsa => signers.ed.sign(message).to_vec(),
        Algorithm::Es256 => {
            let signature: p256::ecdsa::Signature = signers.p256.sign(message);
            signature.to_vec()
        }
        Algorithm::Rs256 => signers.rsa.sign(message).to_vec(),
    }
}

fn key(algorithm: Algorithm) -> CallerKey {
    CallerKey {
        kid: None,
        algorithm,
        pem: pem(algorithm),
        issuer: None,
        audience: None,
    }
}

fn token(algorithm: Algorithm, header: &Json, payload: &str) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = URL_SAFE_NO_PAD.encode(sign(algorithm, message.as_bytes()));
    format!("Bearer {message}.{signature}")
}

fn name(algorithm: Algorithm) -> Json {
    serde_json::to_value(algorithm).unwrap()
}

/// A token of an Ed25519 key.
fn plain(payload: &Json) -> String {
    token(Algorithm::EdDsa, &json!({ "alg": "EdDSA" }), &payload.to_string())
}

fn callers(keys: &[CallerKey]) -> Callers {
    Callers::new(keys, &BTreeMap::new(), OBJECT).unwrap()
}

fn at(seconds: i64) -> Now {
    Now {
        at: Timestamp(seconds * 1_000),
        quality: Quality::Host,
    }
}

fn good() -> Json {
    json!({ "sub": "ann", "aud": OBJECT, "exp": NOON + 600 })
}

/// What an Ed25519 token with this payload is refused for.
fn refusal(payload: &Json) -> TokenError {
    callers(&[key(Algorithm::EdDsa)])
        .verify(&plain(payload), at(NOON))
        .unwrap_err()
}

fn with(payload: Json, name: &str, value: Json) -> Json {
    let mut payload = payload;
    payload[name] = value;
    payload
}

#[test]
fn each_algorithm_is_verified_and_the_caller_is_what_the_token_says() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256] {
        let payload = json!({
            "iss": "https://issuer.example", "sub": "ann", "aud": [OBJECT, "other"], "exp": NOON + 1,
            "nbf": NOON, "iat": NOON, "scope": "read write", "scp": ["admin"], "extra": { "deep": [1.5, null] },
        });
        let authorization = token(
            algorithm,
            &json!({ "alg": name(algorithm), "typ": "JWT" }),
            &payload.to_string(),
        );
        let callers = callers(&[key(algorithm)]);
        let caller = callers.verify(&authorization, at(NOON)).unwrap();
        let expect = Caller {
            authenticated: true,
            subject: Some("ann".to_owned()),
            issuer: Some("https://issuer.example".to_owned()),
            audience: [OBJECT, "other"].map(str::to_owned).into(),
            scopes: ["admin", "read", "write"].map(str::to_owned).into(),
            claims: BTreeMap::new(),
        };
        assert_eq!(*caller, expect, "{algorithm:?}");
        assert_eq!(
            *callers.verify(&authorization, at(NOON)).unwrap(),
            expect,
            "remembered"
        );
    }
}

#[test]
fn the_key_decides_the_algorithm() {
    let payload = good().to_string();
    let all = callers(&[
        key(Algorithm::EdDsa),
        key(Algorithm::Es256),
        key(Algorithm::Rs256),
    ]);
    for alg in ["none", "HS256", "ES384", "eddsa", ""] {
        let forged = token(Algorithm::EdDsa, &json!({ "alg": alg }), &payload);
        assert_eq!(
            all.verify(&forged, at(NOON)).unwrap_err(),
            TokenError::Algorithm,
            "{alg}"
        );
    }
    // Signed by one pinned key, under the name of another's algorithm.
    let confused = token(Algorithm::EdDsa, &json!({ "alg": "ES256" }), &payload);
    assert_eq!(
        all.verify(&confused, at(NOON)).unwrap_err(),
        TokenError::Signature
    );
    let only = callers(&[key(Algorithm::Rs256)]);
    assert_eq!(
        only.verify(&plain(&good()), at(NOON)).unwrap_err(),
        TokenError::UnknownKey
    );
    let unsigned = plain(&good()).rsplit_once('.').unwrap().0.to_owned() + ".";
    assert_eq!(
        all.verify(&unsigned, at(NOON)).unwrap_err(),
        TokenError::Signature
    );
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let callers = callers(&[key(Algorithm::EdDsa)]);
    let authorization = plain(&good());
    for place in "Bearer ".len()..authorization.len() {
        let mut changed = authorization.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(callers.verify(&changed, at(NOON)).is_err(), "{place}");
    }
    callers.verify(&authorization, at(NOON)).unwrap();
}

#[test]
fn a_key_id_chooses_the_key() {
    let payload = good().to_string();
    let named = CallerKey {
        kid: Some("one".to_owned()),
        ..key(Algorithm::EdDsa)
    };
    let strict = callers(std::slice::from_ref(&named));
    let with_kid = |kid: Json| token(Algorithm::EdDsa, &json!({ "alg": "EdDSA", "kid": kid }), &payload);
    strict.verify(&with_kid(json!("one")), at(NOON)).unwrap();
    for kid in [json!("two"), Json::Null] {
        assert_eq!(
            strict.verify(&with_kid(kid), at(NOON)).unwrap_err(),
            TokenError::UnknownKey
        );
    }
    let open = callers(&[named, key(Algorithm::EdDsa)]);
    open.verify(&with_kid(json!("two")), at(NOON)).unwrap();
}

#[test]
fn time_is_the_decisions_with_a_minute_of_leeway() {
    let callers = callers(&[key(Algorithm::EdDsa)]);
    let authorization = plain(&json!({ "aud": OBJECT, "nbf": NOON, "exp": 1_795_435_800.5 }));
    let verify = |now| callers.verify(&authorization, at(now)).map(drop);
    assert_eq!(verify(NOON - 61), Err(TokenError::NotYet));
    assert_eq!(verify(NOON - 60), Ok(()));
    assert_eq!(verify(NOON + 659), Ok(()));
    assert_eq!(
        verify(NOON + 660),
        Err(TokenError::Expired),
        "though it is remembered"
    );
    assert_eq!(verify(NOON - 61), Err(TokenError::NotYet));
    let blind = Now {
        quality: Quality::Unknown,
        ..at(NOON)
    };
    assert_eq!(
        callers.verify(&authorization, blind).unwrap_err(),
        TokenError::ClockUnknown
    );
    assert_eq!(refusal(&json!({ "aud": OBJECT })), TokenError::NoExpiry);
    assert_eq!(
        refusal(&with(good(), "exp", json!("tomorrow"))),
        TokenError::Malformed
    );
    for extreme in [json!(i64::MIN), json!(-1e300)] {
        assert_eq!(refusal(&with(good(), "exp", extreme)), TokenError::Expired);
    }
    for forever in [
        json!(1e30),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(253_402_300_800_i64),
    ] {
        assert_eq!(refusal(&with(good(), "exp", forever.clone())), TokenError::Date);
        assert_eq!(refusal(&with(good(), "nbf", forever)), TokenError::Date);
    }
}

#[test]
fn issuer_and_audience_are_the_keys() {
    assert_eq!(
        refusal(&with(good(), "aud", json!("other"))),
        TokenError::Audience
    );
    assert_eq!(refusal(&with(good(), "aud", Json::Null)), TokenError::Audience);
    let theirs = CallerKey {
        issuer: Some("us".to_owned()),
        audience: Some("fleet".to_owned()),
        ..key(Algorithm::EdDsa)
    };
    let callers = callers(&[theirs]);
    let verify = |payload: &Json| callers.verify(&plain(payload), at(NOON)).map(drop);
    let fleet = with(good(), "aud", json!("fleet"));
    assert_eq!(verify(&fleet), Err(TokenError::Issuer));
    assert_eq!(
        verify(&with(good(), "iss", json!("us"))),
        Err(TokenError::Audience)
    );
    assert_eq!(verify(&with(fleet, "iss", json!("us"))), Ok(()));
}

#[test]
fn declared_claims_are_typed_and_others_are_not_read() {
    let declared = |claims: &[(&str, Kind)]| {
        claims
            .iter()
            .map(|(name, kind)| (Name::new(*name).unwrap(), kind.clone()))
            .collect()
    };
    let claims: BTreeMap<Name, Kind> = declared(&[
        ("plan", Kind::Enum(vec!["free".to_owned(), "paid".to_owned()])),
        ("seats", Kind::INT),
        ("teams", Kind::Set(Box::new(Kind::String))),
        ("absent", Kind::Bool),
    ]);
    let callers = Callers::new(&[key(Algorithm::EdDsa)], &claims, OBJECT).unwrap();
    let verify = |payload: &str| {
        let authorization = token(Algorithm::EdDsa, &json!({ "alg": "EdDSA" }), payload);
        callers
            .verify(&authorization, at(NOON))
            .map(|caller| caller.claims.clone())
    };
    let start = format!("{{\"aud\":\"{OBJECT}\",\"exp\":{}", NOON + 1);
    let found = verify(&format!(
        "{start},\"plan\":\"paid\",\"seats\":5,\"teams\":[\"a\",\"b\"],\"absent\":null,\"other\":1.5}}"
    ))
    .unwrap();
    let expect = [
        ("plan", Value::Enum("paid".to_owned())),
        ("seats", Value::Int(5)),
        (
            "teams",
            Value::Set(["a", "b"].map(|team| Value::String(team.to_owned())).into()),
        ),
    ];
    assert_eq!(
        found,
        expect
            .map(|(name, value)| (Name::new(name).unwrap(), value))
            .into()
    );
    for (claim, wrong) in [
        ("seats", "\"5\""),
        ("seats", "1.5"),
        ("plan", "\"gold\""),
        ("seats", "1,\"seats\":2"),
    ] {
        let refused = verify(&format!("{start},\"{claim}\":{wrong}}}")).unwrap_err();
        assert_eq!(refused, TokenError::Claim(Name::new(claim).unwrap()), "{wrong}");
    }
    let twice = format!("{start},\"exp\":{}}}", NOON + 1_000_000);
    assert_eq!(verify(&twice).unwrap_err(), TokenError::Malformed);
}

#[test]
fn what_is_no_bearer_token_says_so() {
    let callers = callers(&[key(Algorithm::EdDsa)]);
    let verify = |text: &str| callers.verify(text, at(NOON)).map(drop).unwrap_err();
    for (text, expect) in [
        ("", TokenError::NotBearer),
        ("Basic YTpi", TokenError::NotBearer),
        ("Bearer", TokenError::NotBearer),
        ("Bearer x", TokenError::Malformed),
        ("Bearer a.b", TokenError::Malformed),
        ("Bearer a.b.c.d", TokenError::Malformed),
        ("Bearer e30.e30.", TokenError::Malformed),
    ] {
        assert_eq!(verify(text), expect, "{text}");
    }
    assert_eq!(
        verify(&format!("Bearer {}", "a".repeat(9_000))),
        TokenError::TooLong
    );
    let critical = token(
        Algorithm::EdDsa,
        &json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false }),
        "{}",
    );
    assert_eq!(verify(&critical), TokenError::Critical);
    let lower = plain(&good()).replace("Bearer", "bEARER ");
    callers.verify(&lower, at(NOON)).unwrap();
}

#[test]
fn a_key_that_is_none_is_refused_with_its_place() {
    let new = |algorithm, pem: &str| {
        let keys = [
            key(Algorithm::EdDsa),
            CallerKey {
                pem: pem.to_owned(),
                ..key(algorithm)
            },
        ];
        Callers::new(&keys, &BTreeMap::new(), OBJECT).unwrap_err()
    };
    for (algorithm, text) in [
        (Algorithm::EdDsa, "nonsense".to_owned()),
        (Algorithm::EdDsa, pem(Algorithm::Es256)),
        (Algorithm::Es256, pem(Algorithm::Rs256)),
        (Algorithm::Rs256, pem(Algorithm::EdDsa)),
    ] {
        assert!(
            matches!(new(algorithm, &text), KeyError::Pem { place: 1, .. }),
            "{algorithm:?}"
        );
    }
    let short = "-----BEGIN PUBLIC KEY-----\n\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdlatRjRjogo3WojgGHFHYLugd\n\
        UWAY9iR3fy4arWNA1KoS8kVw33cJibXr8bvwUAUparCwlvdbH6dvEOfou0/gCFQs\n\
        HUfQrSDv+MuSUMAe8jzKE4qW+jK+xQU9a03GUnKHkkle+Q0pX/g6jXZ7r1/xAK5D\n\
        o2kQ+X5xK9cipRgEKwIDAQAB\n-----END PUBLIC KEY-----\n";
    assert!(matches!(
        new(Algorithm::Rs256, short),
        KeyError::RsaSize {
            place: 1,
            bits: 1_024
        }
    ));
}

#[test]
fn nothing_printed_holds_a_token() {
    let callers = callers(&[key(Algorithm::EdDsa)]);
    let authorization = plain(&good());
    callers.verify(&authorization, at(NOON)).unwrap();
    let signature = authorization.rsplit('.').next().unwrap();
    assert!(!format!("{callers:?}").contains(signature));
    let broken = authorization.replace('.', "!");
    let error = callers.verify(&broken, at(NOON)).unwrap_err();
    assert!(!format!("{error:?} {error}").contains(signature));
}

/// Fuzz body: any bytes as a header value, and as each part of a token.
fn any_header_is_answered(callers: &Callers, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = callers.verify(&text, at(NOON));
    let _ = callers.verify(&format!("Bearer {text}"), at(NOON));
    let part = URL_SAFE_NO_PAD.encode(bytes);
    let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"EdDSA\"}");
    let _ = callers.verify(&format!("Bearer {part}.{part}.{part}"), at(NOON));
    let _ = callers.verify(&format!("Bearer {header}.{part}.{part}"), at(NOON));
    let _ = callers.verify(
        &token(Algorithm::EdDsa, &json!({ "alg": "EdDSA" }), &text),
        at(NOON),
    );
}

proptest! {
    #[test]
    fn no_header_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), json in "[\\[\\]{}\",:0-9a-z]{0,60}") {
        let claims = BTreeMap::from([(Name::new("a").unwrap(), Kind::List(Box::new(Kind::INT)))]);
        let callers = Callers::new(&[key(Algorithm::EdDsa)], &claims, OBJECT).unwrap();
        any_header_is_answered(&callers, &bytes);
        any_header_is_answered(&callers, json.as_bytes());
        any_header_is_answered(&callers, format!("{{\"a\":{json}}}").as_bytes());
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = format!("{{\"a\":{}", "[".repeat(5_000));
    let claims = BTreeMap::from([(Name::new("a").unwrap(), Kind::List(Box::new(Kind::INT)))]);
    let callers = Callers::new(&[key(Algorithm::EdDsa)], &claims, OBJECT).unwrap();
    let authorization = token(Algorithm::EdDsa, &json!({ "alg": "EdDSA" }), &deep);
    assert_eq!(
        callers.verify(&authorization, at(NOON)).unwrap_err(),
        TokenError::Malformed
    );
}

#[test]
fn what_was_verified_for_one_object_is_not_good_for_another_of_the_same_bundle() {
    let keys = suijuris_auth::Keys::new(&[key(Algorithm::EdDsa)], &BTreeMap::new()).unwrap();
    let authorization = plain(&good());
    for _ in 0..2 {
        assert!(keys.verify(&authorization, OBJECT, at(NOON)).is_ok());
        let other = keys.verify(&authorization, "bafyother", at(NOON));
        assert_eq!(other, Err(TokenError::Audience));
    }
}
