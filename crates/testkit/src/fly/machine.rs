//! A machine of the plain platform: an image's files, and a process in namespaces of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Makes an image's files the root of what is started, with its volume and a network of its own.
const ENTER: &str = "cd \"$ROOT\"; mount --bind . .; cd \"$ROOT\"; mkdir -p old proc data run tmp dev; mount -t proc proc proc; \
    mount --bind \"$VOLUME\" data; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp; mount --rbind /dev dev; \
    busybox ip link set lo up; pivot_root . old; cd /; unset ROOT VOLUME; busybox umount -l old; exec \"$@\"";

#[derive(Debug)]
pub(super) struct Machine {
    id: String,
    app: String,
    region: Value,
    pub(super) config: Value,
    /// As the API says it.
    pub(super) state: &'static str,
    pub(super) events: Vec<Value>,
    dir: PathBuf,
    outer: Option<u32>,
    restarts: u32,
    /// Requests at it now, and when the last one ended.
    pub(super) load: usize,
    pub(super) last: Instant,
}

fn json_at(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

impl Machine {
    pub(super) fn new(id: &str, app: &str, body: &Value, dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        let mut machine = Self {
            id: id.to_owned(),
            app: app.to_owned(),
            region: body["region"].clone(),
            config: Value::Null,
            state: "created",
            events: Vec::new(),
            dir: dir.to_owned(),
            outer: None,
            restarts: 0,
            load: 0,
            last: Instant::now(),
        };
        machine.renew(body);
        machine
    }

    /// Another config, whole, and its image's files.
    pub(super) fn renew(&mut self, body: &Value) {
        self.config = body["config"].clone();
        let root = self.dir.join("root");
        let _none = std::fs::remove_dir_all(&root);
        std::fs::create_dir(&root).unwrap();
        let layout = self.config["image"]
            .as_str()
            .and_then(|image| image.strip_prefix("oci:"));
        let blobs = Path::new(layout.unwrap()).join("blobs/sha256");
        let blob = |digest: &Value| blobs.join(&digest.as_str().unwrap()["sha256:".len()..]);
        let index = json_at(&blobs.join("../../index.json"));
        let manifest = json_at(&blob(&index["manifests"][0]["digest"]));
        for layer in manifest["layers"].as_array().unwrap() {
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(&root).arg("-xf").arg(blob(&layer["digest"]));
            assert!(tar.status().unwrap().success());
        }
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost _api.internal\n").unwrap();
        std::fs::write(
            self.dir.join("image"),
            json_at(&blob(&manifest["config"]["digest"])).to_string(),
        )
        .unwrap();
    }

    pub(super) fn shown(&self) -> Value {
        let Self {
            id,
            region,
            config,
            state,
            events,
            ..
        } = self;
        json!({"id": id, "name": id, "region": region, "state": state, "config": config, "events": events})
    }

    fn event(&mut self, kind: &str, state: &'static str) {
        self.state = state;
        self.events.insert(0, json!({"type": kind, "status": state}));
    }

    /// What runs now, to be waited for; none where it runs already, or goes on.
    pub(super) fn start(&mut self, secrets: &BTreeMap<String, String>, volumes: &Path) -> Option<Child> {
        self.last = Instant::now();
        if self.state == "suspended" {
            self.event("start", "started");
            self.signal("CONT");
        }
        if self.outer.is_some() {
            return None;
        }
        let image = json_at(&self.dir.join("image"));
        let list = |value: &Value| -> Vec<String> {
            let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--net",
            "--fork",
            "--kill-child",
            "sh",
            "-ec",
            ENTER,
            "sh",
        ]);
        let exec = list(&self.config["init"]["exec"]);
        let entrypoint = list(&image["config"]["Entrypoint"]);
        command
            .args(if exec.is_empty() { entrypoint } else { exec })
            .env_clear();
        for pair in list(&image["config"]["Env"]) {
            command.envs(pair.split_once('='));
        }
        let env = self.config["env"].as_object().into_iter().flatten();
        command.envs(env.filter_map(|(name, value)| Some((name, value.as_str()?))));
        command
            .envs(secrets)
            .envs([("FLY_APP_NAME", &self.app), ("FLY_MACHINE_ID", &self.id)]);
        command.env("FLY_REGION", self.region.as_str().unwrap_or("fra"));
        // What runs has the image's files alone: these are looked up before.
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("ROOT", self.dir.join("root"));
        let volume = self.config["mounts"][0]["volume"].as_str();
        command.env(
            "VOLUME",
            volume.map_or_else(|| self.dir.clone(), |volume| volumes.join(volume)),
        );
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.join("log"))
            .unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.outer = Some(child.id());
        self.event("start", "started");
        Some(child)
    }

    /// Whether it is started again: what failed is, some times.
    pub(super) fn ended(&mut self, code: Option<i32>) -> bool {
        let asked = self.state != "started";
        self.outer = None;
        self.event("exit", "stopped");
        self.restarts += 1;
        !asked && code != Some(0) && self.restarts <= 3
    }

    pub(super) fn stop(&mut self) {
        if self.outer.is_some() {
            self.event("stop", "stopping");
            self.signal("CONT");
            let name = self.config["stop_config"]["signal"].as_str().unwrap_or("SIGINT");
            if let Some(pid) = self.pid() {
                let _gone = Command::new("kill")
                    .args(["-s", &name[3..], &pid.to_string()])
                    .status();
            }
        } else {
            self.state = "stopped";
        }
    }

    pub(super) fn suspend(&mut self) {
        if self.state == "started" {
            self.event("suspend", "suspended");
            self.signal("STOP");
        }
    }

    /// The first process in it.
    pub(super) fn pid(&self) -> Option<u32> {
        first_in(self.outer?)
    }

    /// Sends a signal to all that runs in it.
    pub(super) fn signal(&self, name: &str) {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(own) = self.pid().and_then(|pid| space(&pid.to_string())) else {
            return;
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
        for pid in pids.filter(|pid| pid.parse::<u32>().is_ok() && space(pid).as_ref() == Some(&own)) {
            let _gone = Command::new("kill")
                .args(["-s", name, &pid])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// `stop` or `suspend`, where a service says so and nobody came for so long.
    pub(super) fn rests(&self, idle: Duration) -> Option<&'static str> {
        let quiet = self.state == "started" && self.load == 0 && self.last.elapsed() > idle;
        match self.config["services"][0]["autostop"]
            .as_str()
            .filter(|_| quiet)?
        {
            "stop" => Some("stop"),
            "suspend" => Some("suspend"),
            _ => None,
        }
    }
}

/// The first process in what this one started.
pub(super) fn first_in(outer: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Runs a command in the machine whose first process this is.
pub(super) fn exec(pid: u32, body: &Value) -> Value {
    let words = body["command"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-m", "-p", "-n", "-r", "-w", "--"]);
    let ran = command.args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({"exit_code": ran.status.code(), "stdout": text(&ran.stdout), "stderr": text(&ran.stderr)})
}
