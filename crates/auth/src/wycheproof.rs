//! Project Wycheproof's vectors against the very code that verifies tokens: what is valid verifies, what is invalid does not, and
//! what implementations differ about may go either way.

use serde::Deserialize;
use suijuris_core::manifest::{Algorithm, CallerKey};

use crate::key::Key;

/// A file of `crates/auth/tests/wycheproof`, which says where it is from.
#[derive(Deserialize)]
struct File {
    algorithm: Algorithm,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    pem: String,
    /// Id, comment, message, signature, result.
    tests: Vec<(u32, String, String, String, String)>,
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// How many signatures were valid, and how many were not.
fn check(file: &str) -> (usize, usize) {
    let file: File = serde_json::from_str(file).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in file.groups {
        let key = CallerKey {
            kid: None,
            algorithm: file.algorithm,
            pem: group.pem,
            issuer: None,
            audience: None,
        };
        let key = Key::new(0, &key);
        for (id, comment, message, signature, result) in group.tests {
            let key = key.as_ref().ok();
            let verifies = key.is_some_and(|key| key.signed(&unhex(&message), &unhex(&signature)));
            match result.as_str() {
                "valid" => {
                    valid += 1;
                    assert!(verifies, "{:?} {id}: {comment}", file.algorithm);
                }
                "invalid" => {
                    invalid += 1;
                    assert!(!verifies, "{:?} {id}: {comment}", file.algorithm);
                }
                _ => {}
            }
        }
    }
    (valid, invalid)
}

#[test]
fn signatures_of_ed25519() {
    assert_eq!(check(include_str!("../tests/wycheproof/ed25519.json")), (88, 63));
}

#[test]
fn signatures_of_p256_as_tokens_have_them() {
    assert_eq!(check(include_str!("../tests/wycheproof/es256.json")), (173, 89));
}

#[test]
fn signatures_of_rsa() {
    assert_eq!(check(include_str!("../tests/wycheproof/rs256.json")), (9, 249));
}
