//! Identity tokens of objects: what is one, and for whom it is good.
#![expect(clippy::unwrap_used, reason = "tests: what is not as expected ends them")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use suijuris_auth::{IdentityToken, TokenError};
use suijuris_core::ObjectId;
use suijuris_core::key::{Domain, SecretKey};
use suijuris_core::time::{Now, Quality, Timestamp};

const NOON: i64 = 1_795_435_200;

fn object() -> ObjectId {
    ObjectId::of(b"object")
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn claims() -> Json {
    let id = object().to_string();
    json!({"iss": id, "sub": id, "aud": "me", "iat": NOON, "exp": NOON + 300, "epoch": 4, "name": "n", "head": "h"})
}

fn token(header: &Json, claims: &Json, signer: &SecretKey) -> String {
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = signer.sign(Domain::IdentityToken, signed.as_bytes());
    format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature.0))
}

fn header() -> Json {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": key().public().to_string()})
}

fn with(name: &str, value: Json) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().insert(name.to_owned(), value);
    token(&header(), &claims, &key())
}

fn at(seconds: i64) -> Now {
    Now {
        at: Timestamp(seconds * 1_000),
        quality: Quality::Host,
    }
}

#[test]
fn a_token_names_its_object_its_epoch_and_its_key_and_is_good_for_a_while_for_whom_it_names() {
    let read = IdentityToken::read(&token(&header(), &claims(), &key()))
        .unwrap()
        .unwrap();
    assert_eq!((read.object, read.epoch, read.key), (object(), 4, key().public()));
    assert_eq!(read.check("me", at(NOON)), Ok(()));
    assert_eq!(read.check("me", at(NOON + 359)), Ok(()), "clocks may stand apart");
    assert_eq!(read.check("me", at(NOON + 360)), Err(TokenError::Expired));
    assert_eq!(read.check("me", at(NOON - 61)), Err(TokenError::NotYet));
    assert_eq!(read.check("you", at(NOON)), Err(TokenError::Audience));
    let unknown = Now {
        quality: Quality::Unknown,
        ..at(NOON)
    };
    assert_eq!(read.check("me", unknown), Err(TokenError::ClockUnknown));
    let several = IdentityToken::read(&with("aud", json!(["you", "me"])))
        .unwrap()
        .unwrap();
    assert_eq!(several.check("me", at(NOON)), Ok(()));
}

#[test]
fn one_that_lives_longer_proves_nothing() {
    for (iat, exp) in [
        (NOON, NOON + 301),
        (NOON, NOON),
        (NOON, NOON - 1),
        (i64::MIN, i64::MAX),
        (0, NOON),
    ] {
        let mut claims = claims();
        let map = claims.as_object_mut().unwrap();
        map.insert("iat".into(), iat.into());
        map.insert("exp".into(), exp.into());
        let read = IdentityToken::read(&token(&header(), &claims, &key()));
        assert_eq!(read, Some(Err(TokenError::Life)), "{iat} {exp}");
    }
}

#[test]
fn what_is_not_one_is_left_to_the_keys_of_callers() {
    let id = json!(object().to_string());
    let stranger = token(&header(), &claims(), &SecretKey::from_seed(&[4; 32]));
    let short = {
        let mut header = header();
        header["kid"] = json!("k1");
        token(&header, &claims(), &key())
    };
    let algorithm = {
        let mut header = header();
        header["alg"] = json!("none");
        token(&header, &claims(), &key())
    };
    let others = [
        stranger,
        short,
        algorithm,
        with("sub", json!("alice")),
        with("iss", json!("https://issuer.example")),
        with("epoch", json!("4")),
        with("epoch", json!(-1)),
        with("exp", Json::Null),
        token(&json!({"alg": "EdDSA"}), &json!({"iss": id, "sub": id}), &key()),
        "Basic YTpi".to_owned(),
        "Bearer a.b.c".to_owned(),
        String::new(),
    ];
    for other in others {
        assert_eq!(IdentityToken::read(&other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_not(text in ".{0,80}", place in 0_usize..400, byte in "[A-Za-z0-9._-]") {
        let _ = IdentityToken::read(&text);
        let _ = IdentityToken::read(&format!("Bearer {text}"));
        let mut good = token(&header(), &claims(), &key());
        let place = place % good.len();
        let same = good.get(place..=place) == Some(byte.as_str());
        good.replace_range(place..=place, &byte);
        if let Some(Ok(_)) = IdentityToken::read(&good) {
            prop_assert!(same || place < 7, "changed at {place}");
        }
    }
}
