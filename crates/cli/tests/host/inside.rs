//! The socket of a machine in the machine: it reaches that machine and nothing else, without a token.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};

use crate::images::{host, layout, machine, name, says};
use crate::rig::{Host, until};

/// What the machine's socket answers; the status and the body.
pub(crate) fn ask(host: &Host, id: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let socket = host.data().join("machines").join(id).join("fly/api");
    let mut stream = UnixStream::connect(socket).unwrap();
    let head = format!(
        "{method} /v1{path} HTTP/1.1\r\nHost: flaps\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn sleeper(host: &Host, image: &str, app: &str) -> String {
    let config = json!({"image": image, "init": {"exec": ["/bin/busybox", "sleep", "100000"]}});
    let made = host
        .post(&format!("/apps/{app}/machines"), &json!({ "config": config }))
        .is(200);
    made["id"].as_str().unwrap().to_owned()
}

// proves F8
#[test]
fn a_machine_suspends_and_stops_itself_and_reaches_nothing_else() {
    let dir = layout();
    let mut host = host(&dir);
    host.app("a");
    host.app("b");
    let id = machine(
        &host,
        &name(&dir),
        &json!({"init": {"exec": ["/bin/busybox", "sleep", "100000"]}}),
    );
    let other = sleeper(&host, &name(&dir), "a");
    let foreign = sleeper(&host, &name(&dir), "b");
    host.wait(&id, "started");
    let me = format!("/apps/a/machines/{id}");
    assert_eq!(
        says(
            &host,
            &id,
            "[ -S /.fly/api ] && [ -w /.fly/api ] && /bin/busybox id -u; echo x > /.fly/x || echo closed"
        ),
        "1000\nclosed\n"
    );
    let (status, shown) = ask(&host, &id, "GET", &me, "");
    assert_eq!(
        (
            status,
            serde_json::from_str::<Value>(&shown).unwrap()["id"].as_str()
        ),
        (200, Some(id.as_str()))
    );
    assert_eq!(
        ask(
            &host,
            &id,
            "POST",
            &format!("{me}/metadata/role"),
            r#"{"value": "own"}"#
        )
        .0,
        204
    );
    assert_eq!(
        host.get(&format!("{me}/metadata/role")).is(200),
        json!({"value": "own"})
    );
    let (status, memory) = ask(&host, &id, "GET", &format!("{me}/memory"), "");
    assert!(status == 200 && memory.contains("256"), "{memory}");
    for (method, path) in [
        ("GET", "/apps".to_owned()),
        ("GET", "/apps/a".to_owned()),
        ("GET", "/apps/a/machines".to_owned()),
        ("POST", "/apps/a/machines".to_owned()),
        ("GET", format!("/apps/a/machines/{other}")),
        ("POST", format!("/apps/a/machines/{other}/stop")),
        ("GET", format!("/apps/b/machines/{foreign}")),
        ("POST", format!("/apps/b/machines/{id}/stop")),
        ("GET", "/apps/a/secrets".to_owned()),
        ("POST", format!("{me}/exec")),
        ("POST", me.clone()),
        ("DELETE", me.clone()),
        ("GET", "/orgs/personal/machines".to_owned()),
        ("POST", "/apps/a/deploy_token".to_owned()),
    ] {
        assert_eq!(ask(&host, &id, method, &path, "{}").0, 403, "{method} {path}");
    }
    assert_eq!(ask(&host, &id, "POST", &format!("{me}/suspend"), "").0, 200);
    host.wait(&id, "suspended");
    host.call("POST", &format!("{me}/start"), None).is(200);
    host.wait(&id, "started");
    // The next daemon listens at the same place.
    host.kill();
    host.run(&["--no-rate-limit"]);
    until("it listens again", || {
        UnixStream::connect(host.data().join("machines").join(&id).join("fly/api")).is_ok()
    });
    assert_eq!(ask(&host, &id, "POST", &format!("{me}/stop"), "").0, 200);
    host.wait(&id, "stopped");
    until("nobody listens", || {
        UnixStream::connect(host.data().join("machines").join(&id).join("fly/api")).is_err()
    });
}

#[test]
fn a_machine_proves_which_it_is_to_whoever_asks_its_host() {
    let dir = layout();
    let host = host(&dir);
    host.app("a");
    let id = machine(
        &host,
        &name(&dir),
        &json!({"init": {"exec": ["/bin/busybox", "sleep", "100000"]}}),
    );
    host.wait(&id, "started");
    host.post("/tokens/oidc", &json!({})).refused(400, "/.fly/api");
    let (status, token) = ask(
        &host,
        &id,
        "POST",
        "/tokens/oidc",
        r#"{"aud": "https://bank.example"}"#,
    );
    assert_eq!(status, 200, "{token}");
    let parts: Vec<&str> = token.split('.').collect();
    let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let (head, claims) = (json(parts[0]), json(parts[1]));
    let shown = host.get(&format!("/apps/a/machines/{id}")).is(200);
    assert_eq!(
        claims["sub"],
        format!("personal:a:{}", shown["name"].as_str().unwrap())
    );
    assert_eq!(
        (&claims["aud"], &claims["machine_id"]),
        (&json!("https://bank.example"), &json!(id))
    );
    assert_eq!(
        (&claims["image_digest"], &claims["machine_version"]),
        (&shown["image_ref"]["digest"], &shown["instance_id"])
    );
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        600
    );
    // As a stranger checks it: issuer, configuration, keys.
    let fetch = |url: &str| {
        let ran = std::process::Command::new("curl")
            .args(["-sf", url])
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&ran.stdout).unwrap()
    };
    let about = fetch(&format!(
        "{}/.well-known/openid-configuration",
        claims["iss"].as_str().unwrap()
    ));
    assert_eq!(about["issuer"], claims["iss"]);
    let keys = fetch(about["jwks_uri"].as_str().unwrap());
    let key = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == head["kid"])
        .unwrap();
    assert_eq!((&key["alg"], &head["alg"]), (&json!("EdDSA"), &json!("EdDSA")));
    let bytes = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
    let key = VerifyingKey::from_bytes(&bytes.try_into().unwrap()).unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
    key.verify_strict(format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature)
        .unwrap();
    let (_, own) = ask(&host, &id, "POST", "/tokens/oidc", "");
    assert_eq!(json(own.split('.').nth(1).unwrap())["aud"], claims["iss"]);
    assert_eq!(ask(&host, &id, "POST", "/tokens/oidc", "[]").0, 400);
}
