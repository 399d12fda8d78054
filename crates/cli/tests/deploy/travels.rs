//! A deployed object, and what its platform does with machines and volumes: timers, moves, other regions, other vehicles.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::until;
use crate::host::{Deployed, event};
use crate::rig::{Home, program, repository, run};

const OPEN: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("told-to-go") permit (principal is Host, action == Action::"sleep", resource);
@id("owner") permit (principal is Controller, action in [Action::"migrate", Action::"amend", Action::"sleep"], resource);
"#;

/// It never falls asleep by itself.
const STAYS: &str = r#"@id("stay") permit (principal, action == Action::"remain", resource);"#;

/// Awake for a second after a request.
const VISITED: &str = r#"@id("visited") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("1s") };"#;

impl Deployed {
    /// The object's directory on a volume.
    fn object_on(&self, volume: &str) -> PathBuf {
        let volumes = self.plain.as_ref().map_or_else(
            || self.host.data().join("volumes"),
            |plain| plain.volumes().to_owned(),
        );
        volumes.join(volume).join("object")
    }

    /// The records of an object whose machine rests.
    fn log(&self, data: &Path) -> Vec<Value> {
        self.home
            .suijuris(&["log", data.to_str().unwrap(), "--json"])
            .code(0)
            .lines()
    }

    fn kinds(&self, data: &Path) -> Vec<String> {
        let kind = |record: &Value| record["kind"].as_str().unwrap().to_owned();
        self.log(data).iter().map(kind).collect()
    }

    fn rests(&self, machine: &str) {
        until("it is stopped", || self.machine(machine)["state"] == "stopped");
    }

    fn served(&self) {
        let (status, answer) = self.visit("/");
        assert!(
            status == 200 && answer.ends_with("<h1>Hello from an image</h1>\n"),
            "{answer}"
        );
    }

    /// Waits until no machine has the volume.
    fn is_free(&self, volume: &str) {
        until("the volume is free", || {
            let volumes = self.host.get("/apps/shop/volumes").is(200);
            let own = volumes
                .as_array()
                .unwrap()
                .iter()
                .find(|found| found["id"] == *volume);
            own.is_some_and(|own| own["attached_machine_id"].is_null())
        });
    }

    /// Machine and volume go; what is left of the volume, a snapshot, becomes one in another region.
    fn elsewhere(&self, machine: &str, volume: &str, region: &str) {
        let volumes = "/apps/shop/volumes";
        self.host
            .post(&format!("{volumes}/{volume}/snapshots"), &json!({}))
            .is(200);
        let snapshots = self.host.get(&format!("{volumes}/{volume}/snapshots")).is(200);
        let path = format!("/apps/shop/machines/{machine}?force=true");
        self.host.call("DELETE", &path, None).is(200);
        self.is_free(volume);
        let restored = json!({"name": "object", "region": region, "snapshot_id": snapshots[0]["id"]});
        self.host.post(volumes, &restored).is(200);
        self.host
            .call("DELETE", &format!("{volumes}/{volume}"), None)
            .is(200);
    }
}

fn ids(events: &[Value]) -> (String, String, String) {
    let there = event(events, "deployed");
    let text = |key: &str| there[key].as_str().unwrap().to_owned();
    (text("machine"), text("volume"), text("object"))
}

// proves E4, E8
#[test]
fn the_platforms_idle_timer_works_underneath_and_comes_too_late() {
    // A timer that comes after a long time: the object's own rule is first.
    Deployed::each(|deployed| {
        deployed.home.file("governance.cedar", &[OPEN, VISITED].concat());
        let events = deployed.deploy(&["--autostop", "stop"]).code(0).lines();
        let (machine, volume, _) = ids(&events);
        deployed.served();
        deployed.rests(&machine);
        let last = deployed.log(&deployed.object_on(&volume)).pop().unwrap();
        assert_eq!(last["kind"], "dormant", "{last}");
        assert!(last.to_string().contains("remain"), "by its own decision: {last}");
        deployed.served();
        // It is on its way to sleep, and the platform stops it besides: once is enough.
        deployed
            .host
            .post(&format!("/apps/shop/machines/{machine}/stop"), &json!({}))
            .is(200);
        deployed.rests(&machine);
        assert!(
            !deployed
                .kinds(&deployed.object_on(&volume))
                .contains(&"unsealed".to_owned())
        );
    });
    // An object that would stay awake for ever is stopped by the timer, in order, and started by the next request.
    Deployed::each_with(&["--autostop-every", "1"], Duration::from_secs(2), |deployed| {
        deployed.home.file("governance.cedar", &[OPEN, STAYS].concat());
        let events = deployed.deploy(&["--autostop", "stop"]).code(0).lines();
        let (machine, volume, _) = ids(&events);
        for _ in 0..2 {
            deployed.served();
            deployed.rests(&machine);
        }
        let kinds = deployed.kinds(&deployed.object_on(&volume));
        assert_eq!(kinds.last().unwrap(), "dormant", "{kinds:?}");
        assert!(!kinds.contains(&"unsealed".to_owned()), "{kinds:?}");
    });
}

// proves E5, E8
#[test]
fn moved_by_its_platform_it_arrives_sealed_if_it_was_told_and_unsealed_if_not() {
    Deployed::each(|deployed| {
        deployed.home.file("governance.cedar", &[OPEN, STAYS].concat());
        let deploy = |region| {
            let mut command = deployed.deploying_of(&deployed.home, ("shop", region), &[]);
            ids(&run(&mut command).code(0).lines())
        };
        let unsealed = |volume: &str| {
            let kinds = deployed.kinds(&deployed.object_on(volume));
            kinds.iter().filter(|kind| *kind == "unsealed").count()
        };
        let (machine, volume, object) = deploy("fra");
        deployed.served();
        // Told by the signal that every platform sends: it seals its history and leaves.
        deployed
            .host
            .post(&format!("/apps/shop/machines/{machine}/stop"), &json!({}))
            .is(200);
        deployed.rests(&machine);
        deployed.elsewhere(&machine, &volume, "iad");
        let (machine, volume, arrived) = deploy("iad");
        assert_eq!(arrived, object);
        deployed.served();
        assert_eq!(unsealed(&volume), 0);
        // Not told: its machine is gone while it runs. It is the same object, and says so.
        let path = format!("/apps/shop/machines/{machine}?force=true");
        deployed.host.call("DELETE", &path, None).is(200);
        deployed.is_free(&volume);
        let (_, volume, again) = deploy("iad");
        assert_eq!(again, object);
        deployed.served();
        assert_eq!(unsealed(&volume), 1);
    });
}

// proves E8, E9
#[test]
fn rules_of_region_class_caller_and_rate_hold_where_the_platform_has_none() {
    Deployed::each(|deployed| {
        let definition = std::fs::read_to_string(deployed.home.dir().join("object.toml")).unwrap();
        let callers = "[[callers.keys]]\nalgorithm = \"EdDSA\"\nfile = \"callers.pem\"\naudience = \"shop\"\n[rates.calls]\nper = \"caller\"\nwindow = \"1h\"\n";
        deployed
            .home
            .file("object.toml", &format!("{definition}{callers}"));
        deployed
            .home
            .suijuris(&["token", "key", "--write", "object/callers.pem"])
            .code(0);
        let rules = r#"
@id("wake") permit (principal, action == Action::"wake", resource)
when { context.host.region == "fra" && context.host.provider == "fly" };
@id("admit") permit (principal is Caller, action == Action::"admit", resource) when { principal.authenticated };
@id("enough") forbid (principal, action == Action::"admit", resource) when { context.rate.calls > 3 };
"#;
        deployed.home.file("governance.cedar", &[rules, STAYS].concat());
        run(&mut deployed.deploying_of(&deployed.home, ("shop", "fra"), &[])).code(0);
        let token = deployed.home.suijuris(&["token", "issue", "object"]).code(0).out;
        let token = format!("authorization: Bearer {}\r\n", token.trim());
        let asked = |app: &str, fields: &str| deployed.ask(&format!("{app}.localhost"), "/", fields).0;
        assert_eq!(asked("shop", ""), 401, "nobody is anonymous");
        assert_eq!(asked("shop", "authorization: Bearer x.y.z\r\n"), 401);
        let answers: Vec<u16> = (0..5).map(|_| asked("shop", &token)).collect();
        assert_eq!(
            answers.iter().filter(|status| **status == 200).count(),
            3,
            "{answers:?}"
        );
        assert_eq!(answers.last(), Some(&403));
        // The same image in another region.
        run(&mut deployed.deploying_of(&deployed.home, ("far", "iad"), &[])).code(0);
        let (status, answer) = deployed.ask("far.localhost", "/", &token);
        assert!(status == 403 && answer.contains("wake_refused"), "{answer}");
    });
}

/// `up` of the object, with its data elsewhere.
struct Up {
    child: Child,
    address: String,
    object: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Up {
    fn of(home: &Home, data: &Path) -> Self {
        let mut command = Self::command(home, &["up", "object", "--json", "--data"]);
        let mut child = command.arg(data).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = loop {
            let line = lines.next().expect("it listens").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "listening" {
                break event;
            }
        };
        let said = Arc::new(Mutex::new(Vec::new()));
        let to = said.clone();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| to.lock().unwrap().push(line));
        });
        let url = listening["url"].as_str().unwrap();
        Self {
            child,
            address: url.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            object: listening["object"].as_str().unwrap().to_owned(),
            said,
        }
    }

    fn command(home: &Home, args: &[&str]) -> Command {
        // With the runtime that lies beside it: virtual machines begin with that.
        let mut command = home.command(env!("CARGO_BIN_EXE_suijuris"));
        command
            .args(args)
            .env("SUIJURIS_KERNEL", repository().join("target/test/kernel"));
        command
    }

    fn get(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        // An emulated machine is slow.
        stream.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
        let head = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn interrupt(mut self) {
        run(Command::new("kill").args(["-INT", &self.child.id().to_string()])).code(0);
        let code = self.child.wait().unwrap().code();
        let said = self.said.lock().unwrap().join("\n");
        assert_eq!(code, Some(0), "{said}");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// proves E5, E15
#[test]
fn off_a_host_onto_processes_into_a_virtual_machine_and_back_it_is_itself() {
    let deployed = Deployed::new();
    deployed.home.file("governance.cedar", &[OPEN, VISITED].concat());
    let (machine, volume, object) = ids(&deployed.deploy(&[]).code(0).lines());
    deployed.served();
    deployed.rests(&machine);
    let (left, away) = (deployed.object_on(&volume), deployed.home.path().join("away"));
    let migrate = |from: &Path, to: &[&str]| {
        let mut command = Up::command(&deployed.home, &["migrate"]);
        run(command.arg(from).args(to)).code(0);
    };
    // Off the host. What stays behind on its volume wakes no more.
    migrate(&left, &["--to-dir", away.to_str().unwrap()]);
    let (status, answer) = deployed.visit("/");
    assert!(status == 503 && answer.contains("departed"), "{answer}");
    let up = Up::of(&deployed.home, &away);
    assert_eq!(up.object, object);
    assert!(up.get().ends_with("<h1>Hello from an image</h1>\n"));
    up.interrupt();
    migrate(&away, &["--to-vehicle", "qemu"]);
    let up = Up::of(&deployed.home, &away);
    assert_eq!(up.object, object);
    let answer = up.get();
    assert!(answer.ends_with("<h1>Hello from an image</h1>\n"), "{answer}");
    up.interrupt();
    // And back, onto another volume of a host.
    let path = format!("/apps/shop/machines/{machine}?force=true");
    deployed.host.call("DELETE", &path, None).is(200);
    deployed.is_free(&volume);
    deployed
        .host
        .call("DELETE", &format!("/apps/shop/volumes/{volume}"), None)
        .is(200);
    let made = deployed
        .host
        .post("/apps/shop/volumes", &json!({"name": "object", "region": "fra"}))
        .is(200);
    let back = deployed.object_on(made["id"].as_str().unwrap());
    migrate(
        &away,
        &["--to-vehicle", "process", "--to-dir", back.to_str().unwrap()],
    );
    let (machine, volume, arrived) = ids(&deployed.deploy(&[]).code(0).lines());
    assert_eq!(
        (arrived, &volume),
        (object, &made["id"].as_str().unwrap().to_owned())
    );
    deployed.served();
    deployed.rests(&machine);
    deployed
        .home
        .suijuris(&["verify", back.to_str().unwrap()])
        .code(0);
    let kinds = deployed.kinds(&back);
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!(
        (count("departed"), count("arrived"), count("unsealed")),
        (3, 3, 0),
        "{kinds:?}"
    );
    // The copy that it left refuses, and nothing of it can be made to wake.
    let mut behind = Up::command(&deployed.home, &["up", "object", "--json", "--data"]);
    let behind = run(behind.arg(&away));
    assert_ne!(behind.code, 0, "{}", behind.out);
}

#[test]
fn killed_at_any_step_it_is_deployed_by_the_next_try_once() {
    let deployed = Deployed::new();
    // Two owners, who both sign.
    let keys = ["one.key", "two.key"].map(|name| deployed.home.path().join(name));
    let public = keys.each_ref().map(|key| {
        let mut command = deployed.home.command(program());
        let printed = run(command.arg("key").env("SUIJURIS_OWNER_KEY", key)).code(0).out;
        format!("\"{}\"", printed.trim())
    });
    let definition = std::fs::read_to_string(deployed.home.dir().join("object.toml")).unwrap();
    let owners = format!("[controllers]\nkeys = [{}]\nthreshold = 2\n", public.join(", "));
    deployed
        .home
        .file("object.toml", &format!("{definition}{owners}"));
    deployed.home.file("governance.cedar", &[OPEN, STAYS].concat());
    let alone = run(deployed.deploying(&[]).env("SUIJURIS_OWNER_KEY", &keys[0])).code(3);
    assert!(alone.err.contains("--owner-key FILE"), "{}", alone.err);
    let command = || {
        let mut command = deployed.deploying(&["--owner-key", keys[1].to_str().unwrap()]);
        command.env("SUIJURIS_OWNER_KEY", &keys[0]);
        command
    };
    // Each line says a step that is done: it dies right after it, and the next one goes on.
    for last in ["app", "image", "volume", "machine"] {
        let mut child = command()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if said["event"] == last {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (machine, volume, object) = ids(&run(&mut command()).code(0).lines());
    deployed.served();
    let count = |what: &str| {
        deployed
            .host
            .get(&format!("/apps/shop/{what}"))
            .is(200)
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((count("volumes"), count("machines")), (1, 1));
    assert_eq!(ids(&run(&mut command()).code(0).lines()).2, object);
    deployed
        .host
        .post(&format!("/apps/shop/machines/{machine}/stop"), &json!({}))
        .is(200);
    deployed.rests(&machine);
    let data = deployed.object_on(&volume);
    let inceptions = deployed
        .kinds(&data)
        .iter()
        .filter(|kind| *kind == "inception")
        .count();
    assert_eq!(inceptions, 1);
    deployed
        .home
        .suijuris(&["verify", data.to_str().unwrap()])
        .code(0);
}

#[test]
fn a_changed_definition_is_proposed_to_the_object_and_its_rules_decide() {
    let deployed = Deployed::new();
    let rules = |more: &str| [OPEN, STAYS, more].concat();
    deployed.home.file("governance.cedar", &rules(""));
    let (machine, volume, object) = ids(&deployed.deploy(&[]).code(0).lines());
    deployed.served();
    // Changed so that it can be seen, and so that it is the last change.
    let only = r#"@id("only") forbid (principal, action == Action::"admit", resource) when { context.request.path != "/index.html" };"#;
    let never = r#"@id("never") forbid (principal, action == Action::"amend", resource);"#;
    deployed
        .home
        .file("governance.cedar", &rules(&[only, never].concat()));
    let events = deployed.deploy(&[]).code(0).lines();
    assert_eq!(event(&events, "amended")["taken"], true);
    assert_eq!(ids(&events), (machine.clone(), volume.clone(), object.clone()));
    assert_eq!(deployed.visit("/").0, 403);
    assert_eq!(deployed.visit("/index.html").0, 200);
    deployed.home.file("governance.cedar", &rules(""));
    let events = deployed.deploy(&[]).code(1).lines();
    assert_eq!(event(&events, "amended")["taken"], false);
    assert_eq!(ids(&events).2, object);
    assert_eq!(deployed.visit("/").0, 403);
    deployed
        .host
        .post(&format!("/apps/shop/machines/{machine}/stop"), &json!({}))
        .is(200);
    deployed.rests(&machine);
    let kinds = deployed.kinds(&deployed.object_on(&volume));
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "amended").count(),
        1,
        "{kinds:?}"
    );
    let env = &deployed.machine(&machine)["config"]["env"];
    assert!(env["SUIJURIS_AMEND"].is_null(), "{env}");
}
