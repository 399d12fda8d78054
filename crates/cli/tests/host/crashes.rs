//! The daemon is killed at every point of every operation; the next one completes or unwinds it. Machines outlive their daemon.

use serde_json::{Value, json};

use crate::rig::{Host, until};

const STAY: &str = "trap 'exit 0' INT TERM; echo $$ >> pids; while :; do sleep 0.05; done";
/// Beyond the points of any operation.
const MOST: u32 = 60;

// proves F2
#[test]
fn running_machines_outlive_their_daemon_and_the_next_one_has_them() {
    let mut host = Host::start();
    host.app("a");
    let id = host.machine(STAY, &json!({}));
    host.wait(&id, "started");
    let asleep = host.machine(STAY, &json!({}));
    host.wait(&asleep, "started");
    host.post(&format!("/apps/a/machines/{asleep}/suspend"), &json!({}))
        .is(200);
    host.wait(&asleep, "suspended");
    let first = |host: &Host| {
        let rows = host.get(&format!("/apps/a/machines/{id}/ps")).is(200);
        let stat = host
            .post(
                &format!("/apps/a/machines/{id}/exec"),
                &json!({"command": ["cat", "/proc/1/stat"]}),
            )
            .is(200);
        (
            rows[0]["command"].clone(),
            stat["stdout"]
                .as_str()
                .unwrap()
                .split(' ')
                .nth(21)
                .map(str::to_owned),
        )
    };
    let before = first(&host);
    let version = host.get(&format!("/apps/a/machines/{id}")).is(200)["instance_id"].clone();
    host.kill();
    host.run(&["--no-rate-limit"]);
    assert_eq!(host.state(&id), "started");
    assert_eq!(first(&host), before, "the same process, started at the same time");
    assert_eq!(
        host.get(&format!("/apps/a/machines/{id}")).is(200)["instance_id"],
        version
    );
    assert_eq!(host.state(&asleep), "suspended");
    host.call("POST", &format!("/apps/a/machines/{asleep}/start"), None)
        .is(200);
    host.wait(&asleep, "started");
    host.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
        .is(200);
    host.wait(&id, "stopped");
}

/// Brings a machine into `state`.
fn prepared(host: &Host, state: &str) -> String {
    let id = host.machine("trap 'exit 0' INT TERM; while :; do sleep 0.05; done", &json!({}));
    host.wait(&id, "started");
    match state {
        "started" => {}
        "stopped" => drop(
            host.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
                .is(200),
        ),
        _ => drop(
            host.post(&format!("/apps/a/machines/{id}/suspend"), &json!({}))
                .is(200),
        ),
    }
    host.wait(&id, state);
    id
}

fn settled(host: &Host, id: &str) -> String {
    let rests = |state: &str| {
        [
            "created",
            "started",
            "stopped",
            "suspended",
            "failed",
            "destroyed",
        ]
        .contains(&state)
    };
    until("the machine is at rest", || {
        let state = host.state(id);
        rests(&state) && (state != "created")
    });
    host.state(id)
}

/// Kills the daemon at each point of an operation that brings a machine from one state to another.
fn at_every_point(
    from: &str,
    (method, path): (&str, &str),
    body: Option<&Value>,
    allowed: &[&str],
    expected: &str,
) {
    let mut host = Host::start();
    host.app("a");
    let id = prepared(&host, from);
    let mut points = 0;
    for point in 0..MOST {
        let before = settled(&host, &id);
        let id = if before == from {
            id.clone()
        } else {
            prepared(&host, from)
        };
        host.kill();
        host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
        let path = format!("/apps/a/machines/{id}{path}");
        let answer = host.try_call(method, &path, body);
        let target = format!("/apps/a/machines/{id}");
        // It dies, or does not and comes to where it was asked to go.
        until("dead, or done", || {
            host.is_dead()
                || host
                    .try_call("GET", &target, None)
                    .is_some_and(|machine| machine.body["state"] == expected)
        });
        if !host.is_dead() {
            assert!(answer.is_some());
            points = point;
            break;
        }
        host.run(&["--no-rate-limit"]);
        let state = settled(&host, &id);
        assert!(
            allowed.contains(&state.as_str()),
            "killed at point {point} of {path}: {state}"
        );
        let accepted = answer.is_some_and(|answer| answer.status == 200);
        assert!(
            !accepted || state == expected,
            "killed at point {point} of {path}, after it was granted: {state}"
        );
    }
    assert!(points > 2, "the operation has points at which it can be killed");
}

// proves F2
#[test]
fn a_start_that_is_killed_anywhere_completes_or_never_was() {
    at_every_point(
        "stopped",
        ("POST", "/start"),
        None,
        &["stopped", "started"],
        "started",
    );
}

// proves F2
#[test]
fn a_resume_that_is_killed_anywhere_completes_or_never_was() {
    at_every_point(
        "suspended",
        ("POST", "/start"),
        None,
        &["suspended", "started"],
        "started",
    );
}

// proves F2
#[test]
fn a_stop_that_is_killed_anywhere_completes_or_never_was() {
    at_every_point(
        "started",
        ("POST", "/stop"),
        None,
        &["started", "stopped"],
        "stopped",
    );
}

// proves F2
#[test]
fn a_suspend_that_is_killed_anywhere_completes_or_never_was() {
    at_every_point(
        "started",
        ("POST", "/suspend"),
        None,
        &["started", "suspended"],
        "suspended",
    );
}

// proves F2
#[test]
fn a_destroy_that_is_killed_anywhere_completes_or_never_was() {
    at_every_point(
        "started",
        ("DELETE", "?force=true"),
        None,
        &["started", "destroyed"],
        "destroyed",
    );
}

// proves F2
#[test]
fn an_update_that_is_killed_anywhere_leaves_one_version_that_runs() {
    let mut host = Host::start();
    host.app("a");
    let id = prepared(&host, "started");
    let path = format!("/apps/a/machines/{id}");
    let mut done = false;
    for point in 0..MOST {
        let before = host.get(&path).is(200);
        let mut config = before["config"].clone();
        config["env"] = json!({"POINT": point.to_string()});
        host.kill();
        host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
        let answer = host.try_call("POST", &path, Some(&json!({ "config": config })));
        let is_done =
            |machine: &Value| machine["state"] == "started" && machine["config"]["env"] == config["env"];
        until("dead, or done", || {
            host.is_dead()
                || host
                    .try_call("GET", &path, None)
                    .is_some_and(|machine| is_done(&machine.body))
        });
        if !host.is_dead() {
            done = true;
            break;
        }
        host.run(&["--no-rate-limit"]);
        assert_eq!(settled(&host, &id), "started", "killed at point {point}");
        let after = host.get(&path).is(200);
        let seen = host
            .post(
                &format!("{path}/exec"),
                &json!({"command": ["cat", "/proc/1/environ"]}),
            )
            .is(200);
        let runs = seen["stdout"]
            .as_str()
            .unwrap()
            .split('\0')
            .find_map(|variable| variable.strip_prefix("FLY_MACHINE_VERSION="))
            .map(str::to_owned);
        assert_eq!(
            runs.as_deref(),
            after["instance_id"].as_str(),
            "killed at point {point}: what runs is what is recorded"
        );
        if answer.is_some_and(|answer| answer.status == 200) {
            assert_eq!(after["config"]["env"], config["env"]);
        }
    }
    assert!(done, "the operation ends");
}

// proves F2
#[test]
fn a_create_that_is_killed_anywhere_leaves_a_machine_or_none() {
    let mut host = Host::start();
    host.app("a");
    let made = json!({"config": {"image": "host:sh", "init": {"exec": ["/bin/sh", "-c", "while :; do sleep 0.05; done"]}}});
    for point in 0..MOST {
        host.kill();
        host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
        let answer = host.try_call("POST", "/apps/a/machines", Some(&made));
        let granted = answer
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.body["id"].as_str().unwrap().to_owned());
        let started = |host: &Host, id: &str| {
            let machine = host.try_call("GET", &format!("/apps/a/machines/{id}"), None);
            machine.is_some_and(|machine| machine.body["state"] == "started")
        };
        if let Some(id) = &granted {
            until("dead, or done", || host.is_dead() || started(&host, id));
        } else {
            until("dead", || host.is_dead());
        }
        let is_over = !host.is_dead();
        host.kill();
        host.run(&["--no-rate-limit"]);
        let all = host.get("/apps/a/machines").is(200);
        for machine in all.as_array().unwrap() {
            host.wait(machine["id"].as_str().unwrap(), "started");
        }
        assert!(
            granted
                .as_ref()
                .is_none_or(|id| all.to_string().contains(id.as_str())),
            "what was granted is there"
        );
        assert!(all.as_array().unwrap().len() <= 1, "killed at point {point}");
        for machine in all.as_array().unwrap() {
            host.call(
                "DELETE",
                &format!("/apps/a/machines/{}?force=true", machine["id"].as_str().unwrap()),
                None,
            )
            .is(200);
            host.wait(machine["id"].as_str().unwrap(), "destroyed");
        }
        if is_over {
            assert!(point > 2);
            return;
        }
    }
    panic!("the operation does not end");
}

// proves F2
#[test]
fn a_restart_that_is_killed_anywhere_leaves_a_machine_that_runs() {
    let mut host = Host::start();
    host.app("a");
    let id = prepared(&host, "started");
    let path = format!("/apps/a/machines/{id}");
    for point in 0..MOST {
        host.kill();
        host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
        // The newest of its starts.
        let start = |machine: &Value| {
            let mut events = machine["events"].as_array().unwrap().iter();
            events
                .find(|event| event["type"] == "start")
                .map(|event| event["id"].clone())
        };
        let before = start(&host.get(&path).is(200));
        let answer = host.try_call("POST", &format!("{path}/restart"), None);
        let is_done = |host: &Host| {
            let machine = host.try_call("GET", &path, None);
            machine
                .is_some_and(|machine| machine.body["state"] == "started" && start(&machine.body) != before)
        };
        until("dead, or done", || {
            host.is_dead() || (answer.is_some() && is_done(&host))
        });
        let is_over = !host.is_dead();
        host.kill();
        host.run(&["--no-rate-limit"]);
        assert_eq!(settled(&host, &id), "started", "killed at point {point}");
        if is_over {
            assert!(point > 2, "it has points at which it can be killed");
            return;
        }
    }
    panic!("the operation does not end");
}

// proves F2
#[test]
fn an_app_that_is_deleted_by_a_daemon_that_is_killed_is_there_or_gone_with_its_machines() {
    for point in 0..MOST {
        let mut host = Host::start();
        host.app("a");
        let id = prepared(&host, "started");
        host.kill();
        host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
        let answer = host.try_call("DELETE", "/apps/a?force=true", None);
        if answer.is_none() {
            until("dead", || host.is_dead());
        }
        let is_over = !host.is_dead();
        host.kill();
        host.run(&["--no-rate-limit"]);
        let app = host.get("/apps/a");
        if app.status == 200 {
            assert!(answer.is_none(), "point {point}: what was granted is done");
            assert_eq!(settled(&host, &id), "started", "point {point}");
        } else {
            app.refused(404, "app not found");
            until("no file of it is left", || {
                std::fs::read_dir(host.data().join("machines")).unwrap().count() == 0
            });
        }
        if is_over {
            assert!(point > 2, "it has points at which it can be killed");
            return;
        }
    }
    panic!("the operation does not end");
}

/// What is one commit: it is there as a whole once it was answered, and otherwise there or not.
// proves F2
#[test]
fn a_change_of_one_record_that_is_killed_anywhere_is_there_or_never_was() {
    let mut host = Host::start();
    host.app("a");
    let id = prepared(&host, "started");
    let volume = host
        .post(
            "/apps/a/volumes",
            &json!({"name": "data", "region": "fra", "size_gb": 1}),
        )
        .is(200);
    let (machine, volume) = (
        format!("/apps/a/machines/{id}"),
        format!("/apps/a/volumes/{}", volume["id"].as_str().unwrap()),
    );
    let steps = [
        (
            "POST",
            format!("{machine}/metadata/k"),
            json!({"value": "v"}),
            format!("{machine}/metadata"),
        ),
        ("POST", format!("{machine}/cordon"), json!({}), machine.clone()),
        (
            "POST",
            format!("{machine}/lease"),
            json!({"ttl": 600}),
            format!("{machine}/lease"),
        ),
        (
            "POST",
            "/apps/a/secrets/S".to_owned(),
            json!({"value": "v"}),
            "/apps/a/secrets".to_owned(),
        ),
        (
            "PUT",
            format!("{volume}/extend"),
            json!({"size_gb": 2}),
            volume.clone(),
        ),
        ("DELETE", volume.clone(), json!({}), volume),
    ];
    for (method, path, body, seen) in steps {
        let before = host.get(&seen).body;
        let mut is_over = false;
        for point in 0..MOST {
            host.kill();
            host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
            let answer = host.try_call(method, &path, Some(&body));
            if answer.is_none() {
                until("dead", || host.is_dead());
            }
            host.kill();
            host.run(&["--no-rate-limit"]);
            let after = host.get(&seen).body;
            if let Some(answer) = answer {
                assert!((200..300).contains(&answer.status), "{path}: {}", answer.body);
                assert_ne!(after, before, "{path} was answered, and killed after it");
                is_over = true;
                break;
            }
            if after != before {
                // It is there though nobody was told: asking again would not change it.
                is_over = true;
                break;
            }
        }
        assert!(is_over, "{path} ends");
        assert_eq!(settled(&host, &id), "started");
    }
}
