//! `deploy` onto a host of ours: the object founds itself on its volume, serves, falls asleep by its own word, and stays the
//! same when it is deployed again.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use suijuris_testkit::fly::Plain;

use crate::daemon::{Host, until};
use crate::rig::{Home, Ran, run};

/// A vehicle, and an object to deploy onto it.
pub(crate) struct Deployed {
    pub(crate) host: Host,
    /// Where the vehicle is one that knows only what Fly documents.
    pub(crate) plain: Option<Plain>,
    pub(crate) home: Home,
    port: u16,
    times: Cell<usize>,
}

/// What a host of ours is started with in these tests.
const HOST: [&str; 3] = ["--no-rate-limit", "--proxy", "127.0.0.1:0"];

impl Deployed {
    pub(crate) fn new() -> Self {
        Self::onto(Host::start_with(&HOST), None)
    }

    /// The same on a host of ours, and on a platform that knows only what Fly documents.
    pub(crate) fn each(check: impl Fn(&Self)) {
        Self::each_with(&[], Duration::from_secs(3_600), check);
    }

    /// As [`Deployed::each`], with these arguments for the one and this patience of the other's autostop.
    pub(crate) fn each_with(args: &[&str], idle: Duration, check: impl Fn(&Self)) {
        check(&Self::onto(Host::start_with(&[&HOST[..], args].concat()), None));
        if nix::unistd::geteuid().is_root() {
            let plain = Plain::start(idle);
            check(&Self::onto(
                Host::elsewhere(&plain.api, "plain", &plain.proxy),
                Some(plain),
            ));
        } else {
            eprintln!("skipped: only root can run the plain platform");
        }
    }

    pub(crate) fn onto(host: Host, plain: Option<Plain>) -> Self {
        let home = Home::with_image();
        // Where machines share the host's network, each test has ports of its own.
        let command = "[\"/bin/busybox\", \"httpd\", \"-f\", \"-h\", \"/www\", \"-p\", \"127.0.0.1:{port}\"]";
        home.file(
            "object.toml",
            &format!("name = \"image\"\n[workload]\nimage = \"oci:layout\"\ncommand = {command}\n[memory]\nlinger = {{ type = \"duration\", default = \"2s\" }}\n"),
        );
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self {
            host,
            plain,
            home,
            port,
            times: Cell::default(),
        }
    }

    pub(crate) fn deploy(&self, more: &[&str]) -> Ran {
        run(&mut self.deploying(more))
    }

    pub(crate) fn deploying(&self, more: &[&str]) -> Command {
        self.deploying_of(&self.home, ("shop", "fra"), more)
    }

    /// The object of another home, as another app and elsewhere.
    pub(crate) fn deploying_of(&self, home: &Home, (app, region): (&str, &str), more: &[&str]) -> Command {
        let vehicle = format!("http://{}", self.host.api);
        let mut command = home.command(crate::rig::program());
        command.args([
            "deploy",
            "object",
            "--dynamic",
            "--json",
            "--app",
            app,
            "--region",
            region,
            "--vehicle",
            &vehicle,
        ]);
        command.arg("--internal-port").arg(self.port.to_string());
        if self.plain.is_some() {
            // It has no registry.
            self.times.set(self.times.get() + 1);
            command.args(["--layout", &format!("image-{}.oci", self.times.get())]);
        }
        command.env("SUIJURIS_TOKEN", &self.host.token).args(more);
        command
    }

    pub(crate) fn machine(&self, id: &str) -> Value {
        self.host.get(&format!("/apps/shop/machines/{id}")).is(200)
    }

    /// Where the gate listens in the machine.
    pub(crate) const fn internal_port(&self) -> u16 {
        self.port
    }

    /// What the gate in the machine answers.
    fn get(&self, id: &str) -> String {
        let url = format!("http://127.0.0.1:{}/", self.port);
        self.says(id, &["/bin/busybox", "wget", "-qO-", &url])
    }

    /// What a command says in the machine.
    pub(crate) fn says(&self, id: &str, command: &[&str]) -> String {
        let body = json!({ "command": command });
        let answer = self
            .host
            .post(&format!("/apps/shop/machines/{id}/exec"), &body)
            .is(200);
        answer["stdout"].as_str().unwrap().to_owned()
    }
}

impl Deployed {
    /// The answer of the app at the proxy: status, and all of it.
    pub(crate) fn visit(&self, path: &str) -> (u16, String) {
        self.visit_as("shop.localhost", path)
    }

    pub(crate) fn visit_as(&self, name: &str, path: &str) -> (u16, String) {
        self.ask(name, path, "")
    }

    /// With these fields, each ended.
    pub(crate) fn ask(&self, name: &str, path: &str, fields: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.host.proxy[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n{fields}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    /// How often the machine was started.
    fn starts(&self, machine: &str) -> usize {
        let events = self
            .host
            .get(&format!("/apps/shop/machines/{machine}/events?limit=50"))
            .is(200);
        let all = events.as_array().unwrap().iter();
        all.filter(|event| event["type"] == "start" && event["status"] == "started")
            .count()
    }
}

// proves E13, E8
#[test]
fn without_a_door_refused_requests_start_the_machine_once_and_learn_when_to_come_again() {
    Deployed::each(|deployed| {
        deployed.home.file(
            "governance.cedar",
            r#"
@id("wake") permit (principal, action == Action::"wake", resource)
when { context has request && context.request.path like "/index*" };
@id("admit") permit (principal, action == Action::"admit", resource);
@id("visited") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("1s") };
"#,
        );
        let events = deployed.deploy(&[]).code(0).lines();
        let machine = event(&events, "deployed")["machine"].as_str().unwrap().to_owned();
        let stopped = || deployed.machine(&machine)["state"] == "stopped";
        until("it is stopped", stopped);
        let before = deployed.starts(&machine);
        for _ in 0..5 {
            let (status, answer) = deployed.visit("/other");
            assert_eq!(status, 403, "{answer}");
            assert!(answer.to_lowercase().contains("\r\nretry-after: "), "{answer}");
        }
        assert_eq!(deployed.starts(&machine), before + 1, "one start for all of them");
        // Whoever the rules wake it for is served by the same machine, and its own dormancy ends that long before any idle timer.
        let (status, answer) = deployed.visit("/index.html");
        assert_eq!(status, 200, "{answer}");
        assert!(answer.ends_with("<h1>Hello from an image</h1>\n"), "{answer}");
        assert_eq!(deployed.starts(&machine), before + 1);
        until("it is stopped again", stopped);
        let (status, _) = deployed.visit("/index.html");
        assert_eq!(status, 200);
        assert_eq!(deployed.starts(&machine), before + 2);
    });
}

pub(crate) fn event<'e>(events: &'e [Value], name: &str) -> &'e Value {
    events.iter().find(|event| event["event"] == name).unwrap()
}

// proves E2, E3, E8, E14
#[test]
fn an_object_is_deployed_serves_sleeps_and_is_the_same_when_deployed_again() {
    Deployed::each(|deployed| {
        let first = deployed.deploy(&[]).code(0).lines();
        for made in ["app", "volume", "machine"] {
            assert_eq!(event(&first, made)["made"], true, "{first:?}");
        }
        let there = event(&first, "deployed");
        let (machine, object) = (
            there["machine"].as_str().unwrap(),
            there["object"].as_str().unwrap(),
        );
        // What is printed can be asked.
        let port = deployed.host.proxy[0].rsplit_once(':').unwrap().1;
        let url = match deployed.plain {
            None => format!("http://shop.localhost:{port}/"),
            Some(_) => "http://shop.localhost/".to_owned(),
        };
        assert_eq!(there["url"], url.as_str());
        let page = std::fs::read_to_string(deployed.home.dir().join("site/index.html")).unwrap();
        let fetched = deployed.get(machine);
        assert_eq!(fetched, page);
        let config = &deployed.machine(machine)["config"];
        if deployed.plain.is_none() {
            // Its id is a name in the private network of its org.
            assert_eq!(config["metadata"]["internal_names"], object);
        }
        assert_eq!(config["mounts"][0]["path"], "/data");
        let smallest = json!({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256});
        assert_eq!(config["guest"], smallest);
        assert_eq!(config["restart"]["policy"], "on-failure");
        // No token is in the machine, neither where its config stands nor where its programs can look; no address is its own.
        assert!(!config.to_string().contains(&deployed.host.token));
        let inside = "for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do /bin/busybox cat $file; done; /bin/busybox env";
        let said = deployed.says(machine, &["/bin/busybox", "sh", "-c", inside]);
        assert!(
            said.contains("httpd") && !said.contains(&deployed.host.token),
            "{said}"
        );
        if deployed.plain.is_none() {
            let addresses = deployed.host.get("/apps/shop/ip_assignments").is(200);
            assert_eq!(addresses["ips"], json!([]), "{addresses}");
        }
        // Its own rule lets it sleep after two seconds without a request: long before any idle timer, and by its own call.
        until("it is stopped", || {
            deployed.machine(machine)["state"] == "stopped"
        });
        // Again: the same app, volume and machine, another version of it, and the same object.
        let again = deployed.deploy(&[]).code(0).lines();
        for made in ["app", "volume", "machine"] {
            assert_eq!(event(&again, made)["made"], false, "{again:?}");
        }
        let same = event(&again, "deployed");
        assert_eq!(
            (&same["object"], &same["machine"]),
            (&there["object"], &there["machine"])
        );
        assert_eq!(event(&again, "image")["digest"], event(&first, "image")["digest"]);
        // Machine and volume are gone: image and snapshot are all that is left.
        until("it is stopped", || {
            deployed.machine(machine)["state"] == "stopped"
        });
        let volume = there["volume"].as_str().unwrap();
        let volumes = "/apps/shop/volumes".to_owned();
        deployed
            .host
            .post(&format!("{volumes}/{volume}/snapshots"), &json!({}))
            .is(200);
        let snapshots = deployed
            .host
            .get(&format!("{volumes}/{volume}/snapshots"))
            .is(200);
        let snapshot = &snapshots[0]["id"];
        deployed
            .host
            .call(
                "DELETE",
                &format!("/apps/shop/machines/{machine}?force=true"),
                None,
            )
            .is(200);
        let restored = json!({"name": "object", "region": "fra", "snapshot_id": snapshot});
        let restored = deployed.host.post(&volumes, &restored).is(200);
        deployed
            .host
            .call("DELETE", &format!("{volumes}/{volume}"), None)
            .is(200);
        let anew = deployed.deploy(&[]).code(0).lines();
        assert_eq!(event(&anew, "volume")["volume"], restored["id"]);
        assert_eq!(event(&anew, "machine")["made"], true);
        assert_eq!(event(&anew, "deployed")["object"], object);
        let fetched = deployed.get(event(&anew, "deployed")["machine"].as_str().unwrap());
        assert_eq!(fetched, page);
    });
}

// proves E3
#[test]
fn an_object_has_its_machine_suspended_and_goes_on_when_it_is_started() {
    Deployed::each(|deployed| {
        let definition = std::fs::read_to_string(deployed.home.dir().join("object.toml")).unwrap();
        deployed.home.file(
            "object.toml",
            &format!("{definition}\n[sleep]\nmode = \"suspend\"\n"),
        );
        let events = deployed.deploy(&[]).code(0).lines();
        let machine = event(&events, "deployed")["machine"].as_str().unwrap().to_owned();
        let first = deployed.get(&machine);
        until("it is suspended", || {
            deployed.machine(&machine)["state"] == "suspended"
        });
        deployed
            .host
            .post(&format!("/apps/shop/machines/{machine}/start"), &json!({}))
            .is(200);
        until("it is started", || {
            deployed.machine(&machine)["state"] == "started"
        });
        assert_eq!(deployed.get(&machine), first);
        until("it is suspended again", || {
            deployed.machine(&machine)["state"] == "suspended"
        });
    });
}

#[test]
fn what_the_vehicle_refuses_is_said_with_its_words() {
    let deployed = Deployed::new();
    let mut command = deployed.home.command(crate::rig::program());
    let vehicle = format!("http://{}", deployed.host.api);
    let args = [
        "deploy",
        "object",
        "--dynamic",
        "--app",
        "shop",
        "--vehicle",
        &vehicle,
    ];
    let none = run(command.args(args)).code(2);
    assert!(none.err.contains("SUIJURIS_TOKEN"), "{}", none.err);
    let mut command = deployed.home.command(crate::rig::program());
    let wrong = run(command.args(args).env("SUIJURIS_TOKEN", "sjm_wrong")).code(3);
    assert!(wrong.err.contains("answered 401"), "{}", wrong.err);
    let nowhere = deployed.deploy(&["--region", "xyz"]);
    assert_eq!(nowhere.code, 2, "the region is named twice: {}", nowhere.err);
    let mut command = deployed.home.command(crate::rig::program());
    let gone = [
        "deploy",
        "object",
        "--dynamic",
        "--app",
        "shop",
        "--vehicle",
        "http://127.0.0.1:1",
    ];
    let gone = run(command.args(gone).env("SUIJURIS_TOKEN", "x")).code(3);
    assert!(gone.err.contains("does not answer"), "{}", gone.err);
    let name = deployed
        .home
        .suijuris(&["deploy", "object", "--vehicle", "fly", "--app", "../x"])
        .code(2);
    assert!(name.err.contains("letters, digits and hyphens"), "{}", name.err);
}

#[test]
fn a_fly_toml_is_written_and_read() {
    let home = Home::with_image();
    home.suijuris(&[
        "deploy",
        "object",
        "--app",
        "shop",
        "--region",
        "fra",
        "--emit-fly-toml",
        "object/fly.toml",
    ])
    .code(0);
    let text = std::fs::read_to_string(home.dir().join("fly.toml")).unwrap();
    let toml: toml::Table = text.parse().unwrap();
    assert_eq!(toml["app"].as_str(), Some("shop"));
    assert_eq!(toml["http_service"]["internal_port"].as_integer(), Some(8474));
    assert_eq!(toml["mounts"][0]["destination"].as_str(), Some("/data"));
    // What it says is taken where the command line says nothing.
    let unreachable = run(home
        .command(crate::rig::program())
        .args(["deploy", "object", "--dynamic", "--vehicle", "http://127.0.0.1:1"])
        .env("SUIJURIS_TOKEN", "x"))
    .code(3);
    assert!(unreachable.err.contains("does not answer"), "{}", unreachable.err);
}

// proves E6, E7, E8, E16
#[test]
fn a_request_for_another_object_is_sent_to_its_machine_and_served_only_there() {
    Deployed::each(|deployed| {
        let other = Home::with_image();
        let definition = std::fs::read_to_string(deployed.home.dir().join("object.toml")).unwrap();
        other.file("object.toml", &definition);
        other.file("site/index.html", "the other one\n");
        run(&mut other.command(other.dir().join("make-image"))).code(0);
        // One owner has both: so do their apps' keys agree, which nobody handed over.
        let owner = deployed.home.path().join("owner.key");
        let deploy = |home: &Home, app: &str| {
            let mut command = deployed.deploying_of(home, (app, "fra"), &[]);
            let events = run(command.env("SUIJURIS_OWNER_KEY", &owner)).code(0).lines();
            event(&events, "deployed").clone()
        };
        let there = deploy(&other, "other");
        let (object, machine) = (
            there["object"].as_str().unwrap(),
            there["machine"].as_str().unwrap(),
        );
        let elsewhere = format!(
            "[elsewhere.\"shop.example.org\"]\nobject = \"{object}\"\napp = \"other\"\nregion = \"fra\"\n\
             [elsewhere.\"shop.example.net\"]\nobject = \"{object}\"\napp = \"other\"\ninstance = \"{machine}\"\njson = true\n\
             [elsewhere.\"shop.example.com\"]\nobject = \"{object}\"\napp = \"shop\"\n"
        );
        deployed
            .home
            .file("object.toml", &format!("{definition}{elsewhere}"));
        deploy(&deployed.home, "shop");
        if deployed.plain.is_none() {
            for name in ["shop.example.org", "shop.example.net", "shop.example.com"] {
                let asked = json!({ "hostname": name });
                deployed.host.post("/apps/shop/certificates/acme", &asked).is(201);
            }
        }
        let (status, own) = deployed.visit("/");
        assert!(
            status == 200 && own.ends_with("<h1>Hello from an image</h1>\n"),
            "{own}"
        );
        // In a header, by app and region; as JSON, by app and machine. Whether it sleeps by then is not looked at.
        for name in ["shop.example.org", "shop.example.net"] {
            let (status, answer) = deployed.visit_as(name, "/");
            assert!(
                status == 200 && answer.ends_with("the other one\n"),
                "{name}: {answer}"
            );
        }
        // Sent to a machine that does not carry it, it ends there, refused, and is not sent on.
        let (status, answer) = deployed.visit_as("shop.example.com", "/");
        assert!(status == 421 && answer.contains("wrong_object"), "{answer}");
        let (status, own) = deployed.visit("/");
        assert!(
            status == 200 && own.ends_with("<h1>Hello from an image</h1>\n"),
            "{own}"
        );
    });
}
