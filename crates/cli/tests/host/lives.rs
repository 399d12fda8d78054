//! Lives of machines through the API.

use serde_json::{Value, json};

use crate::rig::{Host, until};

const STAY: &str = "trap 'exit 0' INT TERM; while :; do sleep 0.05; done";

// proves F1
#[test]
fn a_machine_lives_from_create_to_destroy() {
    let host = Host::start();
    host.app("a");
    let made = host.post(
        "/apps/a/machines",
        &json!({"name": "web", "region": "any", "config": {"image": "host:sh", "init": {"exec": ["/bin/sh", "-c", STAY]}, "env": {"A": "b"}}}),
    );
    let made = made.is(200);
    assert_eq!(
        (&made["state"], &made["region"], &made["name"]),
        (&json!("created"), &json!("fra"), &json!("web"))
    );
    assert_eq!(made["events"].as_array().unwrap().len(), 1);
    assert_eq!(made["events"][0]["type"], "launch");
    assert!(made.get("nonce").is_none());
    made["private_ip"]
        .as_str()
        .unwrap()
        .parse::<std::net::Ipv6Addr>()
        .unwrap();
    let id = made["id"].as_str().unwrap();
    host.wait(id, "started");

    let seen = host
        .post(
            &format!("/apps/a/machines/{id}/exec"),
            &json!({"cmd": "sh -c 'echo $FLY_APP_NAME $A; exit 3'"}),
        )
        .is(200);
    assert_eq!(
        (&seen["stdout"], &seen["exit_code"]),
        (&json!("a b\n"), &json!(3))
    );
    let processes = host.get(&format!("/apps/a/machines/{id}/ps?sort_by=pid")).is(200);
    assert!(
        processes
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["command"].as_str().unwrap().contains("while"))
    );

    host.post(&format!("/apps/a/machines/{id}/suspend"), &json!({}))
        .is(200);
    host.wait(id, "suspended");
    let started = host
        .call("POST", &format!("/apps/a/machines/{id}/start"), None)
        .is(200);
    assert_eq!(started["previous_state"], "suspended");
    host.wait(id, "started");

    host.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
        .is(200);
    host.wait(id, "stopped");
    let events = host.get(&format!("/apps/a/machines/{id}/events")).is(200);
    let exit = events
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["type"] == "exit")
        .unwrap();
    assert_eq!(exit["request"]["exit_event"]["requested_stop"], true);
    host.call("DELETE", &format!("/apps/a/machines/{id}"), None)
        .is(200);
    host.wait(id, "destroyed");
    assert_eq!(host.state(id), "destroyed");
    assert_eq!(host.get("/apps/a/machines").is(200), json!([]));
    assert_eq!(
        host.get("/apps/a/machines?include_deleted=true")
            .is(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn an_update_replaces_the_config_and_a_stopped_machine_stays_stopped() {
    let host = Host::start();
    host.app("a");
    let id = host.machine(STAY, &json!({"env": {"A": "1"}}));
    host.wait(&id, "started");
    let path = format!("/apps/a/machines/{id}");
    let before = host.get(&path).is(200);
    let mut config = before["config"].clone();
    config["env"] = json!({"B": "2"});
    let stale = json!({"config": config, "current_version": "01ARZ3NDEKTSV4RRFFQ69G5FAV"});
    host.post(&path, &stale).refused(412, "current_version");
    let after = host
        .post(
            &path,
            &json!({"config": config, "current_version": before["instance_id"]}),
        )
        .is(200);
    assert_ne!(after["instance_id"], before["instance_id"]);
    assert_eq!(after["config"]["env"], json!({"B": "2"}));
    host.wait(&id, "started");
    host.get(&format!(
        "{path}/wait?state=started&instance_id={}",
        before["instance_id"].as_str().unwrap()
    ))
    .refused(412, "currently replaced");
    let seen = host
        .post(
            &format!("{path}/exec"),
            &json!({"command": ["sh", "-c", "echo $A-$B"]}),
        )
        .is(200);
    assert_eq!(seen["stdout"], "-2\n");
    host.post(
        &format!("{path}/stop"),
        &json!({"signal": "SIGTERM", "timeout": "30s"}),
    )
    .is(200);
    host.wait(&id, "stopped");
    host.call("PUT", &path, Some(&json!({ "config": config })))
        .is(200);
    host.wait(&id, "stopped");
    assert_eq!(
        host.get(&format!("{path}/versions"))
            .is(200)
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn a_program_that_ends_is_restarted_as_its_policy_says() {
    let host = Host::start();
    host.app("a");
    let once = host.machine("exit 7", &json!({}));
    host.wait(&once, "stopped");
    let events = host.get(&format!("/apps/a/machines/{once}/events")).is(200);
    let exit = events
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["type"] == "exit")
        .unwrap();
    assert_eq!(exit["request"]["exit_event"]["exit_code"], 7);
    let thrice = host.machine(
        "exit 1",
        &json!({"restart": {"policy": "on-failure", "max_retries": 2}}),
    );
    let exits = |id: &str| {
        let events = host
            .get(&format!("/apps/a/machines/{id}/events?limit=50"))
            .is(200);
        events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["type"] == "exit")
            .count()
    };
    until("three lives", || {
        exits(&thrice) == 3 && host.state(&thrice) == "stopped"
    });
    let gone = host.machine("exit 0", &json!({"auto_destroy": true}));
    host.wait(&gone, "destroyed");
}

#[test]
fn leases_guard_what_changes_a_machine_and_nothing_else() {
    let host = Host::start();
    host.app("a");
    let id = host.machine(STAY, &json!({}));
    host.wait(&id, "started");
    let path = format!("/apps/a/machines/{id}");
    host.get(&format!("{path}/lease")).refused(404, "lease not found");
    let lease = host.call("POST", &format!("{path}/lease?ttl=60"), None).is(201);
    assert_eq!(lease["status"], "success");
    let nonce = lease["data"]["nonce"].as_str().unwrap();
    for (method, what) in [
        ("POST", "/stop"),
        ("POST", "/suspend"),
        ("POST", "/cordon"),
        ("POST", "/lease"),
        ("DELETE", "/lease"),
        ("DELETE", ""),
    ] {
        let answer = host.call(method, &format!("{path}{what}"), None);
        assert_eq!(answer.body["status"], "error", "{what}");
        assert!(
            answer.body["message"]
                .as_str()
                .unwrap()
                .contains("lease currently held by"),
            "{what}"
        );
        answer.refused(409, "lease currently held");
    }
    host.post(&format!("{path}/metadata/k"), &json!({"value": "v"}))
        .is(204);
    let with = format!(
        "Authorization: Bearer {}\r\nfly-machine-lease-nonce: {nonce}\r\n",
        host.token
    );
    let again = host
        .raw("POST", &format!("{path}/lease"), &with, r#"{"ttl": 30}"#)
        .unwrap()
        .is(201);
    assert_eq!(again["data"]["nonce"], nonce);
    host.raw("POST", &format!("{path}/stop"), &with, "")
        .unwrap()
        .is(200);
    host.wait(&id, "stopped");
    host.raw("DELETE", &format!("{path}/lease"), &with, "")
        .unwrap()
        .is(200);
    host.call("POST", &format!("{path}/start"), None).is(200);
    host.wait(&id, "started");
}

#[test]
fn volumes_are_mounted_kept_forked_and_restored() {
    let host = Host::start();
    host.app("a");
    let volume = host
        .post(
            "/apps/a/volumes",
            &json!({"name": "data", "size_gb": 1, "region": "fra"}),
        )
        .is(200);
    let id = volume["id"].as_str().unwrap().to_owned();
    let mount = |volume: &str| json!({"mounts": {"volume": volume, "path": "/mnt/data"}});
    let machine = host.machine(
        "mkdir -p /mnt/data; echo kept > /mnt/data/file; while :; do sleep 0.05; done",
        &mount(&id),
    );
    host.wait(&machine, "started");
    let content = |machine: &str| {
        let seen = host
            .post(
                &format!("/apps/a/machines/{machine}/exec"),
                &json!({"command": ["cat", "/mnt/data/file"]}),
            )
            .is(200);
        seen["stdout"].as_str().unwrap().to_owned()
    };
    until("the file is written", || content(&machine) == "kept\n");
    assert_eq!(
        host.get(&format!("/apps/a/volumes/{id}")).is(200)["attached_machine_id"],
        json!(machine)
    );
    host.call("DELETE", &format!("/apps/a/volumes/{id}"), None)
        .refused(412, "currently bound");
    let second = json!({"config": {"image": "host:sh", "init": {"exec": "/bin/true"}, "mounts": {"volume": id, "path": "/mnt/data"}}});
    host.post("/apps/a/machines", &second)
        .refused(412, "already attached");
    let snapshot = host
        .post(&format!("/apps/a/volumes/{id}/snapshots"), &json!({}))
        .is(200);
    let fork = host
        .post(
            "/apps/a/volumes",
            &json!({"name": "fork", "source_volume_id": id, "region": "fra"}),
        )
        .is(200);
    let restored = host
        .post(
            "/apps/a/volumes",
            &json!({"name": "back", "snapshot_id": snapshot["id"], "region": "fra"}),
        )
        .is(200);
    for volume in [fork, restored] {
        let machine = host.machine(STAY, &mount(volume["id"].as_str().unwrap()));
        host.wait(&machine, "started");
        assert_eq!(content(&machine), "kept\n");
    }
}

#[test]
fn secrets_reach_machines_at_their_next_version_and_are_sealed_on_disk() {
    let host = Host::start();
    host.app("a");
    let set = host
        .post(
            "/apps/a/secrets",
            &json!({"values": {"KEY": "a very secret value"}}),
        )
        .is(200);
    assert_eq!(set["version"], 1);
    let id = host.machine(STAY, &json!({}));
    host.wait(&id, "started");
    let seen = || {
        let seen = host
            .post(
                &format!("/apps/a/machines/{id}/exec"),
                &json!({"command": ["sh", "-c", "echo $KEY"]}),
            )
            .is(200);
        seen["stdout"].as_str().unwrap().trim().to_owned()
    };
    assert_eq!(seen(), "a very secret value");
    let listed = host.get("/apps/a/secrets").is(200);
    assert!(!listed.to_string().contains("very secret"));
    assert_eq!(
        host.get("/apps/a/secrets/KEY?show_secrets=true").is(200)["value"],
        "a very secret value"
    );
    assert_eq!(
        host.post("/apps/a/secrets/KEY", &json!({"value": "new"})).is(201)["version"],
        2
    );
    assert_eq!(seen(), "a very secret value");
    let path = format!("/apps/a/machines/{id}");
    let config = host.get(&path).is(200)["config"].clone();
    host.post(&path, &json!({"config": config, "min_secrets_version": 3}))
        .refused(412, "min_secrets_version");
    host.post(&path, &json!({"config": config, "min_secrets_version": 2}))
        .is(200);
    host.wait(&id, "started");
    assert_eq!(seen(), "new");
    let state = std::fs::read(host.data().join("state.redb")).unwrap();
    assert!(!state.windows(11).any(|part| part == b"very secret"));
}

// proves F10
#[test]
fn what_does_not_fit_is_refused_in_flys_words() {
    let host = Host::start_with(&["--no-rate-limit", "--memory", "512"]);
    host.app("a");
    let big =
        json!({"config": {"image": "host:sh", "guest": {"memory_mb": 1024}, "init": {"exec": "/bin/true"}}});
    host.post("/apps/a/machines", &big).refused(400, "no capacity");
    let first = host.machine(STAY, &json!({"guest": {"memory_mb": 512}}));
    host.wait(&first, "started");
    let made = json!({"skip_launch": true, "config": {"image": "host:sh", "init": {"exec": "/bin/true"}}});
    let second = host.post("/apps/a/machines", &made).is(200)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    host.call("POST", &format!("/apps/a/machines/{second}/start"), None)
        .refused(409, "insufficient memory");
    let volume = host.post("/apps/a/volumes", &json!({"name": "data"})).is(200);
    let mounting = json!({"config": {"image": "host:sh", "mounts": [{"volume": volume["id"], "path": "/d"}], "init": {"exec": "/bin/true"}}});
    host.post("/apps/a/machines", &mounting).refused(
        412,
        "insufficient resources to create new machine with existing volume 'vol_",
    );
    host.call("POST", &format!("/apps/a/machines/{first}/stop"), None)
        .is(200);
    host.wait(&first, "stopped");
    host.call("POST", &format!("/apps/a/machines/{second}/start"), None)
        .is(200);
}

#[test]
fn the_state_is_paged_by_org() {
    let host = Host::start();
    host.app("a");
    let made = json!({"skip_launch": true, "config": {"image": "host:sh"}});
    let mut all: Vec<Value> = (0..5)
        .map(|_| host.post("/apps/a/machines", &made).is(200)["id"].clone())
        .collect();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = host
            .get(&format!("/orgs/personal/machines?limit=2&cursor={cursor}"))
            .is(200);
        found.extend(
            page["machines"]
                .as_array()
                .unwrap()
                .iter()
                .map(|machine| machine["id"].clone()),
        );
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        if cursor.is_empty() {
            break;
        }
    }
    let key = |id: &Value| id.to_string();
    all.sort_by_key(key);
    found.sort_by_key(key);
    assert_eq!(found, all);
}

// proves F10
#[test]
fn a_machine_that_takes_too_much_memory_is_ended_and_its_event_says_so() {
    let host = Host::start();
    host.app("a");
    let script =
        "exec python3 -c 'import time; time.sleep(1); b = bytearray(b\"x\") * (600 << 20); print(len(b))'";
    let id = host.machine(script, &json!({"guest": {"memory_mb": 256}}));
    host.wait(&id, "stopped");
    let machine = host.get(&format!("/apps/a/machines/{id}")).is(200);
    let exit = machine["events"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["type"] == "exit");
    let exit = &exit.unwrap()["request"]["exit_event"];
    // Where no control group can be had the program has a limit of its own, and Python says MemoryError.
    if exit["exit_code"] == 1 {
        eprintln!("not tried: there is no control group for memory");
        return;
    }
    assert_eq!(
        (&exit["oom_killed"], &exit["exit_code"]),
        (&json!(true), &json!(137)),
        "{exit}"
    );
}

// proves F2
#[test]
fn of_machines_that_are_made_at_once_no_two_have_one_name_or_one_volume() {
    let host = Host::start();
    host.app("a");
    let volume = host
        .post("/apps/a/volumes", &json!({"name": "data", "region": "fra"}))
        .is(200);
    let config = json!({"image": "host:true", "init": {"exec": "/bin/true"}});
    let mut mounting = config.clone();
    mounting["mounts"] = json!([{"volume": volume["id"], "path": "/mnt"}]);
    let named = json!({"name": "one", "skip_launch": true, "config": config});
    let mounted = json!({"skip_launch": true, "config": mounting});
    for (asked, refusal) in [(&named, 409), (&mounted, 412)] {
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| host.post("/apps/a/machines", asked).status))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        let expected = [&[200][..], &[refusal; 7]].concat();
        assert_eq!(statuses, expected);
    }
    assert_eq!(host.get("/apps/a/machines").is(200).as_array().unwrap().len(), 2);
}
