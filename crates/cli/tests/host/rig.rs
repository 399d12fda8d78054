//! A host under test, and a client that knows nothing but HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for a machine that is ten times slower.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A data directory, and the daemon on it.
pub(crate) struct Host {
    dir: TempDir,
    child: Option<Child>,
    pub(crate) api: String,
    pub(crate) token: String,
    /// Where the proxy listens, as HOST:PORT.
    pub(crate) proxy: Vec<String>,
    /// It is not a daemon of ours that answers.
    foreign: bool,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// It is an error of this status whose text has `part` in it.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, part: &str) {
        let text = self.body["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{}: {}", self.status, self.body))
            .to_owned();
        assert_eq!(self.status, status, "{text}");
        assert!(text.contains(part), "{text}");
    }
}

impl Host {
    /// A daemon without rate limits whose machines run programs of this machine.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--no-rate-limit"])
    }

    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), args)
    }

    /// A daemon whose data directory is `data` in this directory.
    pub(crate) fn start_in(dir: TempDir, args: &[&str]) -> Self {
        let mut host = Self {
            dir,
            child: None,
            api: String::new(),
            token: String::new(),
            proxy: Vec::new(),
            foreign: false,
        };
        host.run(args);
        host
    }

    /// A client of another vehicle's API, and of its proxy.
    #[allow(dead_code, reason = "used by the suite of deployments alone")]
    pub(crate) fn elsewhere(api: &str, token: &str, proxy: &str) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            child: None,
            api: api.to_owned(),
            token: token.to_owned(),
            proxy: vec![proxy.to_owned()],
            foreign: true,
        }
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// A command of the program on this data directory.
    pub(crate) fn suijuris(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
        command.arg("host").args(args).arg("--data").arg(self.data());
        command.output().unwrap()
    }

    /// Starts the daemon, once the one before has let go of the directory.
    pub(crate) fn run(&mut self, args: &[&str]) {
        self.run_with(args, |_| {});
    }

    /// The same, with what `set` sets for its process.
    pub(crate) fn run_with(&mut self, args: &[&str], set: impl Fn(&mut Command)) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
            command.args([
                "host",
                "--json",
                "--host-programs",
                "--region",
                "fra",
                "--region",
                "iad",
            ]);
            command.arg("--data").arg(self.data()).args(args);
            if !args.contains(&"--api") {
                command.args(["--api", "127.0.0.1:0"]);
            }
            // The default port is another test's, too.
            if !args.contains(&"--proxy") {
                command.arg("--no-proxy");
            }
            // Whose the directory is.
            let owner = self.path().metadata().unwrap().uid();
            if owner != nix::unistd::Uid::effective().as_raw() {
                command.uid(owner).gid(owner);
                command.env("HOME", self.path()).current_dir(self.path());
            }
            // Of the object storage that tests start.
            command
                .env("AWS_ACCESS_KEY_ID", "testing")
                .env("AWS_SECRET_ACCESS_KEY", "testing");
            set(&mut command);
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            stdout.read_line(&mut line).unwrap();
            self.child = Some(child);
            if let Ok(listening) = serde_json::from_str::<Value>(&line) {
                assert_eq!(listening["event"], "listening");
                self.api = listening["api"]
                    .as_str()
                    .unwrap()
                    .strip_prefix("http://")
                    .unwrap()
                    .to_owned();
                let urls = listening["proxy"].as_array().unwrap().iter();
                self.proxy = urls
                    .map(|url| url.as_str().unwrap().strip_prefix("http://").unwrap().to_owned())
                    .collect();
                if let Some(token) = listening["token"].as_str() {
                    token.clone_into(&mut self.token);
                }
                return;
            }
            let mut child = self.child.take().unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            let status = child.wait().unwrap();
            // A daemon that was told to die may do so before it listens.
            if status.code().is_none() {
                return;
            }
            assert!(said.contains("in use") && Instant::now() < limit, "{said}");
        }
    }

    /// Kills the daemon as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Whether the daemon is dead by now.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.child
            .as_mut()
            .is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_call(method, path, body).expect("an answer")
    }

    /// None where the daemon died over it.
    pub(crate) fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        self.raw(
            method,
            path,
            &format!("Authorization: Bearer {}\r\n", self.token),
            &body.map(Value::to_string).unwrap_or_default(),
        )
    }

    pub(crate) fn raw(&self, method: &str, path: &str, headers: &str, body: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.api).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let host = if headers.to_lowercase().contains("host:") {
            ""
        } else {
            "Host: localhost\r\n"
        };
        let head = format!(
            "{method} /v1{path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Answer {
            status: head.split(' ').nth(1)?.parse().ok()?,
            head: head.to_lowercase(),
            body: serde_json::from_str(body).unwrap_or_else(|_| json!(body)),
        })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body))
    }

    pub(crate) fn app(&self, name: &str) {
        self.post("/apps", &json!({"app_name": name, "org_slug": "personal"}))
            .is(201);
    }

    /// A machine of the app `a` that runs a shell's `script`.
    #[track_caller]
    pub(crate) fn machine(&self, script: &str, more: &Value) -> String {
        let mut config = json!({"image": "host:sh", "init": {"exec": ["/bin/sh", "-c", script]}, "restart": {"policy": "no"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let made = self
            .post("/apps/a/machines", &json!({ "config": config }))
            .is(200);
        made["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn wait(&self, id: &str, state: &str) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(&format!("/apps/a/machines/{id}/wait?state={state}&timeout=60"));
            if answer.status != 408 || Instant::now() > limit {
                let answer = answer.is(200);
                assert_eq!(answer["ok"], true);
                return;
            }
        }
    }

    pub(crate) fn state(&self, id: &str) -> String {
        self.get(&format!("/apps/a/machines/{id}")).is(200)["state"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// Waits until `is_so`, for long.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < limit, "not so in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.foreign {
            return;
        }
        // Machines outlive their daemon: they are destroyed while there is one.
        if self.is_dead() {
            self.run(&["--no-rate-limit"]);
        }
        let apps = self.try_call("GET", "/apps?org_slug=personal", None);
        for app in apps
            .iter()
            .flat_map(|apps| apps.body["apps"].as_array().into_iter().flatten())
        {
            if let Some(name) = app["name"].as_str() {
                self.try_call("DELETE", &format!("/apps/{name}?force=true"), None);
            }
        }
        // Ended with no machine left, it takes down what it has set up.
        if let Some(child) = &self.child {
            let ended = Command::new("kill").arg(child.id().to_string()).status();
            let limit = Instant::now() + PATIENCE;
            while ended.is_ok() && !self.is_dead() && Instant::now() < limit {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
        // What had not ended when the daemon did: a machine's first process works in a directory of the daemon's data.
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let works_in = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
            if works_in.starts_with(self.data()) {
                let _ = Command::new("kill").arg("-9").arg(process.file_name()).status();
            }
        }
    }
}
