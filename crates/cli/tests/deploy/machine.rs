//! A machine that carries its object by itself, as a process: what `build` put into an image, a directory as its volume, and
//! a socket as its platform.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use suijuris_core::codec;
use suijuris_core::key::SecretKey;
use suijuris_core::ticket::{SignedTicket, Ticket, VERSION};
use suijuris_core::time::{Span, Timestamp};

use crate::rig::{Home, program, run};

/// Guard against hanging; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What an image has of ours, unpacked, and a volume.
pub(crate) struct Carried {
    pub(crate) home: Home,
    pub(crate) bundle: String,
}

impl Carried {
    /// An object of these rules, whose workload serves HTTP.
    pub(crate) fn new(definition: &str, rules: &str) -> Self {
        let home = Home::empty();
        home.file(
            "object.toml",
            &format!(
                "name = \"probe\"\n[workload]\ncommand = [\"{{object}}/serve\", \"{{port}}\"]\n{definition}"
            ),
        );
        home.file("governance.cedar", rules);
        home.file("index.html", "served\n");
        home.file(
            "serve",
            "#!/bin/sh\nexec busybox httpd -f -p 127.0.0.1:$1 -h \"$(dirname \"$0\")\"\n",
        );
        run(home.command("chmod").arg("755").arg(home.dir().join("serve"))).code(0);
        let mut carried = Self {
            home,
            bundle: String::new(),
        };
        carried.build();
        std::fs::create_dir(carried.volume()).unwrap();
        carried
    }

    /// Builds, and unpacks what lies in the image.
    pub(crate) fn build(&mut self) {
        let home = &self.home;
        let _ = std::fs::remove_dir_all(home.path().join("image.oci"));
        let _ = std::fs::remove_dir_all(home.path().join("root"));
        let built = home
            .suijuris(&["build", "object", "-o", "image.oci", "--dynamic", "--json"])
            .code(0);
        self.bundle = built.json()["bundle"].as_str().unwrap().to_owned();
        std::fs::create_dir(home.path().join("root")).unwrap();
        let unpack = "for layer in image.oci/blobs/sha256/*; do tar -C root -xf $layer .suijuris/bundle .suijuris/object 2>&- || :; done";
        run(home.command("sh").args(["-c", unpack])).code(0);
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.home.path().join("volume")
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.home.path().join("root/.suijuris")
    }

    /// The object of `examples/image`, built and its image unpacked whole; and the image's entrypoint.
    pub(crate) fn example() -> (Self, Vec<String>) {
        let home = Home::with_image();
        let built = home
            .suijuris(&["build", "object", "-o", "image.oci", "--dynamic", "--json"])
            .code(0)
            .json();
        let script = "mkdir root volume; for layer in $(jq -r '.layers[].digest' image.oci/blobs/sha256/${1#sha256:}); do \
                      tar -C root -xf image.oci/blobs/sha256/${layer#sha256:}; done; \
                      jq -c '.config.Entrypoint' image.oci/blobs/sha256/$(jq -r .config.digest image.oci/blobs/sha256/${1#sha256:} | cut -d: -f2)";
        let unpacked = run(home
            .command("sh")
            .args(["-ec", script, "sh", built["digest"].as_str().unwrap()]))
        .code(0);
        let bundle = built["bundle"].as_str().unwrap().to_owned();
        (
            Self { home, bundle },
            serde_json::from_str(&unpacked.out).unwrap(),
        )
    }

    /// A ticket of the owner, changed by `change` before it is signed.
    pub(crate) fn ticket(&self, change: impl FnOnce(&mut Ticket)) -> String {
        let owner = SecretKey::from_seed(&[5; 32]);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let now = Timestamp(i64::try_from(now.as_millis()).unwrap());
        let mut ticket = Ticket {
            v: VERSION,
            bundle: self.bundle.parse().unwrap(),
            app: "shop".to_owned(),
            volume: "vol_1".to_owned(),
            nonce: [1; 16],
            controllers: vec![owner.public()],
            threshold: 1,
            expires: now.saturating_add(Span(600_000)),
        };
        change(&mut ticket);
        let signatures = vec![ticket.sign(&owner).unwrap()];
        let bytes = codec::encode(&SignedTicket { ticket, signatures }).unwrap();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What the volume holds, as `log` says.
    pub(crate) fn kinds(&self) -> Vec<String> {
        let data = self.volume().join("object");
        let log = self
            .home
            .suijuris(&["log", data.to_str().unwrap(), "--json"])
            .code(0);
        log.lines()
            .iter()
            .map(|record| record["kind"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn object(&self) -> String {
        let data = self.volume().join("object");
        let shown = self
            .home
            .suijuris(&["show", data.to_str().unwrap(), "--json"])
            .code(0);
        shown.json()["object"].as_str().unwrap().to_owned()
    }

    pub(crate) fn start(&self, machine: &Machine<'_>) -> Running {
        Running::start(self, machine)
    }
}

/// How a machine is started.
#[derive(Default)]
pub(crate) struct Machine<'a> {
    pub(crate) ticket: Option<String>,
    pub(crate) platform: Option<&'a Platform>,
    pub(crate) depot: Option<PathBuf>,
    pub(crate) stay: u64,
    /// The key of replays, where it has one.
    pub(crate) replays: Option<[u8; 32]>,
    /// Its id, where it is not the usual one.
    pub(crate) id: Option<&'a str>,
}

/// A machine that runs.
pub(crate) struct Running {
    process: Child,
    pub(crate) port: u16,
    said: Arc<Mutex<Vec<Value>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(carried: &Carried, machine: &Machine<'_>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Without the flag that closes it: the machine inherits it.
        let inherited: OwnedFd = nix::unistd::dup(&listener).unwrap();
        let mut command = carried.home.command(program());
        command.args(["__init", "--resident"]).arg(carried.files());
        command.arg("--data").arg(carried.volume());
        command.arg("--listen-fd").arg(inherited.as_raw_fd().to_string());
        command.arg("--stay").arg(machine.stay.to_string());
        let socket = machine
            .platform
            .map_or_else(|| carried.home.path().join("none/api"), Platform::socket);
        command.arg("--platform").arg(socket);
        if machine.platform.is_some() {
            command.envs([
                ("FLY_APP_NAME", "shop"),
                ("FLY_MACHINE_ID", machine.id.unwrap_or("d891")),
                ("FLY_REGION", "fra"),
            ]);
        }
        if let Some(ticket) = &machine.ticket {
            command.env("SUIJURIS_TICKET", ticket);
        }
        if let Some(key) = machine.replays {
            let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key);
            command.env("SUIJURIS_REPLAY_KEY", key);
        }
        if let Some(depot) = &machine.depot {
            command.env("SUIJURIS_DEPOT", format!("file://{}", depot.display()));
        }
        Self::of(command, port)
    }

    /// A machine that `command` starts, whose gate is at `port`.
    fn of(mut command: std::process::Command, port: u16) -> Self {
        let mut process = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, to) = (BufReader::new(process.stderr.take().unwrap()), said.clone());
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "text": line }));
                to.lock().unwrap().push(line);
            }
        });
        Self {
            process,
            port,
            said,
            reader: Some(reader),
        }
    }

    /// The image in the layout `image.oci`, unpacked to `root`, as the first process of namespaces of its own.
    pub(crate) fn first_process(home: &Home, entrypoint: &[String], ticket: Option<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inherited: OwnedFd = nix::unistd::dup(&listener).unwrap();
        let mut command = home.command("unshare");
        command.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-ec"]);
        command.arg(
            "mount --bind root root; mkdir -p root/old root/proc root/data root/run root/tmp root/dev; mount -t proc proc root/proc; mount --bind volume root/data; \
             mount -t tmpfs tmpfs root/run; mount -t tmpfs tmpfs root/tmp; mount --rbind /dev root/dev; busybox ip link set lo up; \
             cd root; pivot_root . old; cd /; busybox umount -l old; exec \"$@\"",
        );
        command.arg("sh").args(entrypoint);
        command
            .arg("--listen-fd")
            .arg(inherited.as_raw_fd().to_string())
            .args(["--stay", "60"]);
        command.envs(ticket.map(|ticket| ("SUIJURIS_TICKET", ticket)));
        Self::of(command, port)
    }

    pub(crate) fn said(&self) -> String {
        let said = self.said.lock().unwrap();
        said.iter().map(|line| format!("{line}\n")).collect()
    }

    /// An answer of the gate: its head and body.
    pub(crate) fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// As [`Running::get`], with these fields, each ended.
    pub(crate) fn get_with(&self, path: &str, fields: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\n{fields}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .unwrap_or_else(|error| panic!("{error}: {}", self.said()));
        answer
    }

    /// Waits for its end.
    pub(crate) fn ends(&mut self) -> i32 {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                self.reader.take().unwrap().join().unwrap();
                return status.code().unwrap_or(-1);
            }
            assert!(begin.elapsed() < PATIENCE, "it goes on: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Programs below it: their arguments, and where `/proc` has them.
    pub(crate) fn programs(&self) -> Vec<(String, PathBuf)> {
        let text =
            |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let parent = |pid: u32| -> Option<u32> {
            let stat = text(format!("/proc/{pid}/stat").into());
            stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
        };
        let is_below = |pid: u32| {
            std::iter::successors(Some(pid), |pid| parent(*pid)).any(|pid| pid == self.process.id())
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| is_below(*pid))
            .map(|pid| PathBuf::from(format!("/proc/{pid}")))
            .map(|pid| (text(pid.join("cmdline")).replace('\0', " "), pid))
            .collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        run(std::process::Command::new("kill").args(["-s", name, &pid])).code(0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The socket of a platform: what was asked, and what it answers.
pub(crate) struct Platform {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Platform {
    /// Says that this volume is mounted, and answers `status` where a stop or a suspension is asked for.
    pub(crate) fn new(volume: &str, path: &Path, status: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let machine =
            json!({"id": "d891", "config": {"mounts": [{"volume": volume, "path": path}]}}).to_string();
        let heard = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut first = String::new();
                let mut line = String::new();
                reader.read_line(&mut first).unwrap();
                while line != "\r\n" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                }
                let (status, body) = if first.starts_with("GET ") {
                    (200, machine.as_str())
                } else {
                    (status, "{\"ok\":true}")
                };
                heard.lock().unwrap().push(first.trim_end().to_owned());
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { dir, asked }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("api")
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
