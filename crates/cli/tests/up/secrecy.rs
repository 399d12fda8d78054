//! What a request brings stays between its caller and the object: whoever looks at `/proc` reads none of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::EncodePublicKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY};

const QUERY: &str = "query-in-confidence";
const HEADER: &str = "header-in-confidence";
const CLAIM: &str = "claim-in-confidence";

fn token(key: &SigningKey) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": "a", "aud": "us", "exp": 4_102_444_800_u64, "plan": CLAIM });
    let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA" })), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}

// proves C14
#[test]
fn the_request_that_wakes_an_object_stands_in_no_arguments_and_no_environment() {
    let key = SigningKey::from_bytes(&[9; 32]);
    let pem = key.verifying_key().to_public_key_pem(Default::default()).unwrap();
    let definition = format!(
        "[gate]\nheaders = [\"x-key\"]\n[callers]\nclaims = {{ plan = \"string\" }}\n\
         [[callers.keys]]\nalgorithm = \"EdDSA\"\naudience = \"us\"\npem = \"\"\"\n{pem}\"\"\"\n"
    );
    // The rules do see all three: what is not there cannot be read elsewhere either.
    let rules = format!(
        "{OPEN}{STAY}\n@id(\"all\") forbid (principal, action == Action::\"wake\", resource) unless {{\n\
         context has request && context.request.query == \"{QUERY}\" &&\n\
         context.request.headers has \"x-key\" && context.request.headers[\"x-key\"] == \"{HEADER}\" &&\n\
         principal is Caller && principal.claims has plan && principal.claims.plan == \"{CLAIM}\" }};\n"
    );
    let object = Object::new(&definition, &rules);
    let mut up = object.up();
    let bearer = format!("Bearer {}", token(&key));
    let headers = [("x-key", HEADER), ("authorization", bearer.as_str())];
    up.get_with(&format!("/?{QUERY}"), &headers).status(200);
    up.wait(json!({"event": "verdict", "outcome": "permit", "place": "runtime"}));
    let pids = up.machine_pids();
    assert!(pids.contains(&up.runtime_pid()), "{pids:?}");
    for pid in pids {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            for secret in [QUERY, HEADER, CLAIM, bearer.as_str()] {
                assert!(!text.contains(secret), "{secret} in {file} of {pid}: {text}");
            }
        }
    }
    let arguments = std::fs::read(format!("/proc/{}/cmdline", up.runtime_pid())).unwrap();
    let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let is_number = |word: &str| arguments.trim_end().ends_with(word);
    assert!(
        is_number("--link-fd 3") || is_number("--standby-fd 16"),
        "nothing but a number: {arguments}"
    );
    assert_eq!(up.interrupt(), Some(0));
}
