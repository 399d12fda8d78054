//! Each example of Fly's own document of the API is taken as Fly takes it: bodies, and values of fields.

use serde_json::{Value, json};

use crate::images::{layout, machine, name};
use crate::inside::ask;
use crate::rig::Host;

// proves F1
#[test]
fn each_example_of_flys_document_is_answered() {
    let dir = layout();
    let root = dir.path().to_str().unwrap();
    let host = Host::start_with(&["--no-rate-limit", "--oci-root", root, "--region", "lhr"]);
    host.app("a");
    // main.getPlacementsRequest
    let asked = json!({"org_slug": "personal", "region": "lhr,eu", "volume_name": "", "weights": {"region": 1000, "spread": 0}});
    let places = host.post("/platform/placements", &asked).is(200);
    assert_eq!(places["regions"][0]["region"], "lhr");
    // fly.MachineCheck, fly.MachineServiceCheck, fly.StopConfig
    let times = json!({"grace_period": "1s", "interval": "15s", "timeout": "2s"});
    let with = |kind: &str| {
        let mut check = times.clone();
        check["type"] = json!(kind);
        check["port"] = json!(8080);
        check
    };
    let config = json!({
        "init": {"exec": ["/bin/busybox", "sleep", "100000"]},
        "checks": {"alive": with("tcp")},
        "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}], "checks": [with("http")]}],
        "stop_config": {"timeout": "10s"},
    });
    let id = machine(&host, &name(&dir), &config);
    host.wait(&id, "started");
    let path = format!("/apps/a/machines/{id}");
    let shown = host.get(&path).is(200)["config"].clone();
    let part = |found: &Value| {
        let keys = ["grace_period", "interval", "timeout"];
        Value::Object(
            keys.iter()
                .map(|key| ((*key).to_owned(), found[*key].clone()))
                .collect(),
        )
    };
    assert_eq!(part(&shown["checks"]["alive"]), times);
    assert_eq!(part(&shown["services"][0]["checks"][0]), times);
    assert_eq!(shown["stop_config"]["timeout"], "10s");
    // CreateOIDCTokenRequest
    let (status, token) = ask(
        &host,
        &id,
        "POST",
        "/tokens/oidc",
        "{\"aud\": \"https://fly.io/org-slug\"}",
    );
    assert_eq!(status, 200, "{token}");
    assert_eq!(token.trim().trim_matches('"').split('.').count(), 3, "{token}");
    // StopRequest
    host.post(
        &format!("{path}/stop"),
        &json!({"signal": "SIGTERM", "timeout": "1s"}),
    )
    .is(200);
    host.wait(&id, "stopped");
}
