//! Machines that go to another host, with a daemon that dies on the way, on either side.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::images::{layout, name};
use crate::rig::{Host, until};

fn args(dir: &TempDir) -> Vec<String> {
    ["--no-rate-limit", "--oci-root", dir.path().to_str().unwrap()]
        .map(str::to_owned)
        .to_vec()
}

fn started(dir: &TempDir) -> Host {
    let args = args(dir);
    Host::start_with(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn run(host: &mut Host, dir: &TempDir, more: &[&str]) {
    let args = args(dir);
    let args: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    host.run(&args);
}

fn token_to_receive(host: &Host) -> String {
    let made = host.suijuris(&["token", "create", "--receive"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn drain(from: &Host, to: &str, token: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
    command
        .args([
            "host",
            "drain",
            "--json",
            "--to",
            &format!("http://{to}"),
            "--data",
        ])
        .arg(from.data());
    command.env("SUIJURIS_DRAIN_TOKEN", token).output().unwrap()
}

/// A machine with a volume that has something in it, and a name that it asked for.
fn machine(host: &Host, image: &str) -> (String, String) {
    let volume = host
        .post(
            "/apps/a/volumes",
            &json!({"name": "data", "region": "fra", "size_gb": 1}),
        )
        .is(200);
    let volume = volume["id"].as_str().unwrap().to_owned();
    let config = json!({
        "image": image, "restart": {"policy": "no"}, "init": {"exec": ["/bin/busybox", "sleep", "100000"]},
        "mounts": [{"volume": volume, "path": "/data"}], "metadata": {"internal_names": "bafyobject"},
    });
    let made = host
        .post("/apps/a/machines", &json!({"config": config, "region": "fra"}))
        .is(200);
    let id = made["id"].as_str().unwrap().to_owned();
    host.wait(&id, "started");
    let place = host.data().join("volumes").join(&volume);
    std::fs::write(place.join("kept"), format!("written {id}\n")).unwrap();
    std::os::unix::fs::symlink("kept", place.join("link")).unwrap();
    (id, volume)
}

fn content(host: &Host, volume: &str) -> Option<String> {
    std::fs::read_to_string(host.data().join("volumes").join(volume).join("kept")).ok()
}

fn says(host: &Host, id: &str, script: &str) -> String {
    let asked = json!({"command": ["/bin/sh", "-c", script]});
    let ran = host.post(&format!("/apps/a/machines/{id}/exec"), &asked).is(200);
    ran["stdout"].as_str().unwrap().to_owned()
}

/// The state of a machine, where the host has it.
fn state(host: &Host, id: &str) -> Option<String> {
    try_state(host, id).expect("an answer")
}

/// The same; none where the daemon is dead.
fn try_state(host: &Host, id: &str) -> Option<Option<String>> {
    let answer = host.try_call("GET", &format!("/apps/a/machines/{id}"), None)?;
    let alive = answer.status == 200 && answer.body["state"] != "destroyed";
    Some(alive.then(|| answer.body["state"].as_str().unwrap().to_owned()))
}

/// What the name that the machine asked for leads to, as one of the app's machines sees it.
fn named(host: &Host, id: &str) -> bool {
    says(
        host,
        id,
        "/bin/busybox nslookup -type=aaaa bafyobject.internal 2>/dev/null || true",
    )
    .contains("Name:")
}

// proves B11
#[test]
fn a_machine_goes_to_another_host_with_its_volume_its_secrets_and_its_names() {
    let dir = layout();
    let (from, to) = (started(&dir), started(&dir));
    from.app("a");
    from.post("/apps/a/secrets/TOKEN", &json!({"value": "c2VjcmV0"}))
        .is(201);
    let (id, volume) = machine(&from, &name(&dir));
    assert!(named(&from, &id));
    let receive = token_to_receive(&to);
    // Nobody else lets machines come, and this token lets nothing else.
    for token in [&to.token, "sjm_other"] {
        let refused = drain(&from, &to.api, token);
        assert!(!refused.status.success());
        assert!(!String::from_utf8_lossy(&refused.stderr).contains(token));
    }
    assert_eq!(state(&from, &id).as_deref(), Some("started"));
    let header = format!("Authorization: Bearer {receive}\r\n");
    to.raw("GET", "/apps", &header, "")
        .unwrap()
        .refused(403, "unauthorized");
    let drained = drain(&from, &to.api, &receive);
    let said =
        String::from_utf8_lossy(&drained.stdout).into_owned() + &String::from_utf8_lossy(&drained.stderr);
    assert!(drained.status.success(), "{said}");
    let row: Value = serde_json::from_slice(&drained.stdout).unwrap();
    assert_eq!((&row["machine"], &row["outcome"]), (&json!(id), &json!("moved")));
    assert_eq!(state(&from, &id), None);
    to.wait(&id, "started");
    assert_eq!(
        says(&to, &id, "/bin/busybox cat /data/link; echo $TOKEN"),
        format!("written {id}\nc2VjcmV0\n")
    );
    assert!(named(&to, &id));
    let shown = to.get(&format!("/apps/a/machines/{id}")).is(200);
    assert!(
        shown.to_string().contains("migrated=true") && shown["nonce"].is_null(),
        "{shown}"
    );
    let left = from.get(&format!("/apps/a/volumes/{volume}")).is(200);
    assert_eq!(left["state"], "pending_destroy");
    // Both logs say who did it.
    let audit = |host: &Host| String::from_utf8(host.suijuris(&["audit"]).stdout).unwrap();
    assert!(audit(&from).contains("operator  POST /drain"), "{}", audit(&from));
    assert!(
        audit(&to).contains(&format!("POST /arrivals/{id}/commit")),
        "{}",
        audit(&to)
    );
    // And back again, over what was left behind.
    let back = drain(&to, &from.api, &token_to_receive(&from));
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stdout));
    from.wait(&id, "started");
    assert_eq!(content(&from, &volume).unwrap(), format!("written {id}\n"));
    assert_eq!(state(&to, &id), None);
}

#[test]
fn what_the_other_host_does_not_want_stays_as_it_was() {
    let dir = layout();
    let (from, to) = (started(&dir), Host::start());
    from.app("a");
    let (id, volume) = machine(&from, &name(&dir));
    // That host opens no layouts to machines.
    let refused = drain(&from, &to.api, &token_to_receive(&to));
    let row: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(
        (refused.status.code(), &row["outcome"]),
        (Some(1), &json!("stays")),
        "{row}"
    );
    assert!(row["why"].as_str().unwrap().contains("image"), "{row}");
    from.wait(&id, "started");
    from.get(&format!("/apps/a/machines/{id}/lease"))
        .refused(404, "lease not found");
    assert!(state(&to, &id).is_none() && content(&from, &volume).is_some());
    // Nor does anything happen where nobody answers.
    let nobody = drain(&from, "127.0.0.1:1", "sjm_x");
    assert_eq!(nobody.status.code(), Some(3));
    assert_eq!(state(&from, &id).as_deref(), Some("started"));
}

/// A move during which a daemon dies at its `fault`th point; whether it did.
fn survives(fault: u32, on_source: bool) -> bool {
    let dir = layout();
    let (mut from, mut to) = (started(&dir), started(&dir));
    from.app("a");
    let (id, volume) = machine(&from, &name(&dir));
    let token = token_to_receive(&to);
    let address = to.api.clone();
    let dying = if on_source { &mut from } else { &mut to };
    // The next daemon listens at the same address.
    let at = dying.api.clone();
    dying.kill();
    run(dying, &dir, &["--fault", &fault.to_string(), "--api", &at]);
    let _ = drain(&from, &address, &token);
    let mut died = false;
    until(&format!("it is on the other host alone, fault {fault}"), || {
        let dying = if on_source { &mut from } else { &mut to };
        if dying.is_dead() {
            died = true;
            dying.kill();
            run(dying, &dir, &["--api", &at]);
        }
        match (try_state(&from, &id), try_state(&to, &id)) {
            (Some(None), Some(Some(there))) => return there == "started",
            // A move that was begun goes on by itself; one that was not is asked for again.
            (Some(Some(_)), Some(None)) => {
                let lease = from.try_call("GET", &format!("/apps/a/machines/{id}/lease"), None);
                if lease.is_some_and(|lease| lease.status == 404) {
                    let _ = drain(&from, &address, &token);
                }
            }
            _ => {}
        }
        false
    });
    assert_eq!(
        content(&to, &volume).unwrap(),
        format!("written {id}\n"),
        "fault {fault}"
    );
    died
}

#[test]
fn a_move_survives_the_death_of_either_daemon_at_each_point() {
    for on_source in [true, false] {
        let mut fault = 0;
        while survives(fault, on_source) {
            fault += 1;
        }
        assert!(fault >= 5, "{fault} points on_source: {on_source}");
    }
}

#[test]
fn images_that_were_pushed_snapshots_and_names_go_along() {
    let dir = layout();
    let (from, to) = (started(&dir), Host::start());
    from.app("a");
    let pushed = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            "--dest-creds",
        ])
        .arg(format!("x:{}", from.token))
        .arg(name(&dir))
        .arg(format!("docker://{}/a:v1", from.api))
        .output()
        .expect("skopeo cannot be started: run tools/setup --test");
    assert!(
        pushed.status.success(),
        "{}",
        String::from_utf8_lossy(&pushed.stderr)
    );
    // The other host opens no layouts to machines, and nothing was pushed there.
    let (id, volume) = machine(&from, &format!("{}/a:v1", from.api));
    let image = from.get(&format!("/apps/a/machines/{id}")).is(200)["image_ref"]["digest"].clone();
    let snapshots = format!("/apps/a/volumes/{volume}/snapshots");
    from.post(&snapshots, &json!({})).is(200);
    let snapshot = from.get(&snapshots).is(200)[0]["id"].as_str().unwrap().to_owned();
    std::fs::write(from.data().join("volumes").join(&volume).join("kept"), "later\n").unwrap();
    from.post("/apps/a/certificates/acme", &json!({"hostname": "shop.example"}))
        .is(201);
    let drained = drain(&from, &to.api, &token_to_receive(&to));
    let row: Value = serde_json::from_slice(&drained.stdout).unwrap();
    assert_eq!(row["outcome"], "moved", "{row}");
    to.wait(&id, "started");
    let there = to.get(&format!("/apps/a/machines/{id}")).is(200);
    assert_eq!(there["image_ref"]["digest"], image);
    assert_eq!(says(&to, &id, "/bin/busybox cat /data/kept"), "later\n");
    // It is restored there as it was when it was made here.
    let listed = to.get(&snapshots).is(200);
    assert_eq!(listed[0]["id"], snapshot.as_str());
    let asked = json!({"name": "old", "region": "fra", "snapshot_id": snapshot});
    let restored = to.post("/apps/a/volumes", &asked).is(200);
    let restored = restored["id"].as_str().unwrap();
    until("it is restored", || {
        content(&to, restored) == Some(format!("written {id}\n"))
    });
    let names = to.get("/apps/a/certificates").is(200);
    assert_eq!(names["certificates"][0]["hostname"], "shop.example", "{names}");
    // It goes on from what came: stopped and started, it has the same files.
    to.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
        .is(200);
    to.wait(&id, "stopped");
    to.call("POST", &format!("/apps/a/machines/{id}/start"), None)
        .is(200);
    to.wait(&id, "started");
}
