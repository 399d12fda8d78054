//! What clients of Fly's API send and expect, each once: spellings, nulls, missing bodies, errors in their words.

use serde_json::json;

use crate::rig::{Host, until};

const STAY: &str = "trap 'exit 0' INT TERM; while :; do sleep 0.05; done";

#[test]
fn every_spelling_that_a_client_uses_is_understood() {
    let host = Host::start();
    host.post(
        "/apps",
        &json!({"name": "a", "org_slug": "personal", "network": null}),
    )
    .is(201);
    host.post("/apps", &json!({"app_name": "a"}))
        .refused(422, "Name has already been taken");
    let row = host.get("/apps?org_slug=personal").is(200);
    assert!(
        row["apps"][0]["machine_count"].is_u64() && row["apps"][0]["network"].is_string(),
        "{row}"
    );
    let config = json!({
        "image": "host:sh", "init": {"exec": format!("/bin/sh -c \"{STAY}\""), "cmd": null}, "env": null, "services": null,
        "auto_start_machines": true, "stop_timeout": 10, "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256, "gpu_kind": null},
        "metadata": {"role": "x"},
    });
    let made = host
        .post(
            "/apps/a/machines",
            &json!({"name": null, "region": "xxx,iad", "config": config, "lease_ttl": null}),
        )
        .is(200);
    assert_eq!(made["region"], "iad");
    let id = made["id"].as_str().unwrap();
    let path = format!("/apps/a/machines/{id}");
    host.wait(id, "started");
    assert_eq!(
        host.get("/apps/a/machines?metadata.role=x&include_deleted=&summary=")
            .is(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(host.get("/apps/a/machines?metadata.role=y").is(200), json!([]));
    host.post(&format!("{path}/exec"), &json!({"cmd": ["true"]}))
        .is(200);
    host.post(
        &format!("{path}/exec"),
        &json!({"command": "true", "stdin": null, "timeout": 10}),
    )
    .is(200);
    host.post(&format!("{path}/signal"), &json!({"signal": 18}))
        .is(200);
    host.get(&format!("{path}/wait?state=started,stopped&timeout=30s"))
        .is(200);
    host.get(&format!("{path}/wait?state=settled&timeout=1")).is(200);
    host.get(&format!("{path}/wait?timeout=61"))
        .refused(400, "invalid_argument");
    host.get(&format!("{path}/wait?timeout=0"))
        .refused(400, "invalid_argument");
    host.get(&format!("{path}/wait?state=stopped&timeout=1")).refused(
        408,
        "deadline_exceeded: machine failed to reach desired state, stopped, currently started",
    );
    host.post(&format!("{path}/suspend"), &json!({})).is(200);
    host.wait(id, "suspended");
    host.post(
        &format!("{path}/stop"),
        &json!({"id": id, "signal": "", "timeout": null}),
    )
    .is(200);
    host.wait(id, "stopped");
    host.call("POST", &format!("{path}/restart?timeout=5s&signal=SIGTERM"), None)
        .is(200);
    host.wait(id, "started");
    host.call("POST", &format!("{path}/restart?timeout=5&force_stop=true"), None)
        .is(200);
    until("it runs again", || {
        host.get(&format!("{path}/events?limit=50"))
            .is(200)
            .to_string()
            .matches("\"type\":\"restart\"")
            .count()
            >= 1
    });
    host.wait(id, "started");
    host.call("DELETE", &format!("{path}?kill=true"), None).is(200);
    host.wait(id, "destroyed");
    host.call("POST", &format!("{path}/start"), None)
        .refused(404, "machine not found");
}

// proves F1
#[test]
fn errors_are_in_flys_words() {
    let host = Host::start();
    host.get("/apps/none").refused(404, "app not found");
    host.app("a");
    host.get("/apps/a/machines/none")
        .refused(404, "machine not found");
    host.get("/apps/a/volumes/none").refused(404, "volume not found");
    host.post(
        "/apps/a/machines",
        &json!({"config": {"image": "nowhere.invalid/x:1"}}),
    )
    .refused(400, "failed to get manifest");
    assert_eq!(host.get("/apps/a/machines").is(200), json!([]));
    host.post("/apps/a/machines", &json!({}))
        .refused(400, "invalid_argument");
    host.post(
        "/apps/a/machines",
        &json!({"config": {"image": "host:sh"}, "region": "mars"}),
    )
    .refused(400, "region");
    host.post(
        "/apps/a/machines",
        &json!({"config": {"image": "host:sh", "mounts": [{"volume": "vol_none", "path": "/d"}]}}),
    )
    .refused(400, "volume not found");
    let headers = format!("Authorization: Bearer {}\r\n", host.token);
    for body in ["{", "[]", "\"x\"", "{\"config\": 3}", "\u{0}"] {
        host.raw("POST", "/apps/a/machines", &headers, body)
            .unwrap()
            .refused(400, "invalid_argument");
    }
    let failing = host.machine("exit 0", &json!({"init": {"exec": "/nonexistent"}}));
    host.wait(&failing, "failed");
    host.call("POST", &format!("/apps/a/machines/{failing}/suspend"), None)
        .refused(
            412,
            "failed_precondition: unable to suspend machine from current state: 'failed'",
        );
    host.post(
        &format!("/apps/a/machines/{failing}/exec"),
        &json!({"command": ["true"]}),
    )
    .refused(412, "failed_precondition");
}

// proves F1
#[test]
fn metadata_changes_without_a_new_version() {
    let host = Host::start();
    host.app("a");
    let id = host.machine(STAY, &json!({"metadata": {"a": "1"}}));
    host.wait(&id, "started");
    let path = format!("/apps/a/machines/{id}");
    let version = host.get(&path).is(200)["instance_id"].clone();
    host.post(&format!("{path}/metadata/b"), &json!({"value": "2"}))
        .is(204);
    assert_eq!(
        host.get(&format!("{path}/metadata/b")).is(200),
        json!({"value": "2"})
    );
    host.call(
        "PATCH",
        &format!("{path}/metadata"),
        Some(&json!({"metadata": {"a": null, "c": "3"}})),
    )
    .is(204);
    assert_eq!(
        host.get(&format!("{path}/metadata")).is(200),
        json!({"b": "2", "c": "3"})
    );
    host.call(
        "PUT",
        &format!("{path}/metadata"),
        Some(&json!({"metadata": {"d": "4"}, "machine_version": version})),
    )
    .is(204);
    assert_eq!(host.get(&format!("{path}/metadata")).is(200), json!({"d": "4"}));
    host.call(
        "PATCH",
        &format!("{path}/metadata"),
        Some(&json!({"metadata": {}, "machine_version": "x"})),
    )
    .refused(412, "machine_version");
    host.call("DELETE", &format!("{path}/metadata/d"), None).is(204);
    host.get(&format!("{path}/metadata/d")).refused(404, "not found");
    assert_eq!(host.get(&path).is(200)["instance_id"], version);
}

#[test]
fn secret_keys_encrypt_and_sign_and_never_leave() {
    let host = Host::start();
    host.app("a");
    let made = host
        .post("/apps/a/secretkeys/box/generate", &json!({"type": "xaes256gcm"}))
        .is(201);
    assert_eq!(made["name"], "box");
    let sealed = host
        .post(
            "/apps/a/secretkeys/box/encrypt",
            &json!({"plaintext": [104, 105], "associated_data": "eA=="}),
        )
        .is(200);
    let open = |beside: &str| {
        host.post(
            "/apps/a/secretkeys/box/decrypt",
            &json!({"ciphertext": sealed["ciphertext"], "associated_data": beside}),
        )
    };
    assert_eq!(open("eA==").is(200)["plaintext"], json!([104, 105]));
    open("eQ==").refused(400, "ciphertext");
    host.post("/apps/a/secretkeys/box/sign", &json!({"plaintext": "aGk="}))
        .refused(400, "type");
    host.post("/apps/a/secretkeys/pen/generate", &json!({"type": "hs256"}))
        .is(201);
    let signed = host
        .post("/apps/a/secretkeys/pen/sign", &json!({"plaintext": "aGk="}))
        .is(200);
    let verify = |text: &str| {
        host.post(
            "/apps/a/secretkeys/pen/verify",
            &json!({"plaintext": text, "signature": signed["signature"]}),
        )
    };
    verify("aGk=").is(204);
    verify("aG8=").refused(400, "signature");
    assert!(
        !host
            .get("/apps/a/secretkeys")
            .is(200)
            .to_string()
            .contains("sealed")
    );
}
