//! `examples/tenant`, served: one redis for each tenant, founded, woken and reached with a token of that tenant only.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "tests: what is not as expected ends them"
)]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

#[path = "common/ran.rs"]
mod ran;
#[path = "common/session.rs"]
mod session;
use ran::{Ran, run};
use session::{check, exchanges};

/// Guard against what does not come; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events that wait to be looked at, at most: more than a test makes.
const EVENTS: usize = 10_000;

/// Where the example is, from the root of a checkout.
const EXAMPLE: &str = "examples/tenant";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(EXAMPLE)
}

/// A person's home with a copy of the example in it.
struct Home {
    temp: tempfile::TempDir,
    path: OsString,
}

impl Home {
    /// `path` is where programs are found.
    fn new(path: OsString) -> Self {
        let temp = tempfile::tempdir().unwrap();
        // As in a checkout that the user of PostgreSQL may read.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(temp.path(), mode).unwrap();
        let copy = temp.path().join(EXAMPLE);
        std::fs::create_dir_all(&copy).unwrap();
        std::fs::create_dir(copy.join("postgres")).unwrap();
        for file in [
            "object.toml",
            "governance.cedar",
            "front.py",
            "postgres/object.toml",
            "postgres/governance.cedar",
            "postgres/start.sh",
        ] {
            suijuris_testkit::program::copy(example().join(file), copy.join(file));
        }
        Self { temp, path }
    }

    /// With the key of its person pinned.
    fn with_key(path: OsString) -> Self {
        let home = Self::new(path);
        let file = format!("{EXAMPLE}/callers.pem");
        home.run(&["token", "key", "--write", &file]).code(0);
        home
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
        command.args(args);
        self.settle(&mut command);
        command
    }

    /// Lets a command run as this person, here.
    fn settle(&self, command: &mut Command) {
        command.current_dir(self.temp.path()).env_clear();
        command.env("PATH", &self.path);
        for (name, dir) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_DATA_HOME", "share"),
        ] {
            command.env(name, self.temp.path().join(dir));
        }
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    /// The value of an `Authorization` header for a caller of this tenant.
    fn token(&self, tenant: &str) -> String {
        let claim = format!("tenant={tenant}");
        let issued = self.run(&["token", "issue", "--claim", &claim, "tenant"]);
        format!("Bearer {}", issued.code(0).out.trim_end())
    }

    /// Directories of instances, founded or staged.
    fn instances(&self) -> Vec<String> {
        let root = self.temp.path().join("share/suijuris/serve");
        let names = |dir: &str| {
            let entries = std::fs::read_dir(root.join(dir));
            let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
            entries
                .unwrap()
                .map(move |entry| name(entry.unwrap()))
                .collect::<Vec<_>>()
        };
        let mut all = names("instances/tenant");
        all.extend(names("staging"));
        all.sort();
        all
    }
}

/// A daemon that serves the class.
struct Daemon {
    child: Child,
    address: String,
    events: mpsc::Receiver<Value>,
}

impl Daemon {
    /// With the class added.
    fn start(home: &Home) -> Self {
        let daemon = Self::restart(home);
        home.run(&["add", EXAMPLE]).code(0);
        daemon
    }

    fn restart(home: &Home) -> Self {
        let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = mpsc::sync_channel(EVENTS);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let mut daemon = Self {
            child,
            address: String::new(),
            events,
        };
        let first = daemon.until(|event| event["event"] == "listening");
        let url = first["urls"][0].as_str().unwrap();
        daemon.address = url.strip_prefix("http://").unwrap().to_owned();
        daemon
    }

    /// The next event that is meant.
    fn until(&self, meant: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            let Ok(event) = self.events.recv_timeout(PATIENCE) else {
                panic!("it did not come after {seen:#?}");
            };
            if meant(&event) {
                return event;
            }
            seen.push(event);
        }
    }

    fn until_of(&self, key: &str, name: &str) -> Value {
        self.until(|event| event["key"] == key && event["event"] == name)
    }

    fn ask(&self, method: &str, key: &str, token: Option<&str>, body: &str) -> Answer {
        self.ask_host(
            method,
            "127.0.0.1",
            &format!("/o/tenant/{key}/greeting"),
            token,
            body,
        )
    }

    fn ask_host(&self, method: &str, host: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: body.to_owned(),
        }
    }

    /// Asks it to end; its exit code.
    fn end(mut self) -> Option<i32> {
        self.terminate();
        self.child.wait().unwrap().code()
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        run(Command::new("kill").args(["-TERM", &pid]));
    }
}

impl Drop for Daemon {
    /// A test that failed leaves no machines behind: the daemon puts them to sleep.
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    /// Fails unless this is the status; the body.
    fn status(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    fn problem(self, status: u16) -> Value {
        serde_json::from_str(&self.status(status)).unwrap()
    }
}

/// Where programs are found; that redis is among them is asked for, not hoped.
fn with_redis() -> OsString {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).any(|dir| dir.join("redis-server").is_file());
    assert!(
        found,
        "redis-server is not installed: `tools/setup --test` installs it"
    );
    path
}

#[test]
fn a_tenant_is_founded_woken_and_reached_with_its_own_token_and_keeps_its_data() {
    let home = Home::with_key(with_redis());
    let daemon = Daemon::start(&home);
    let (acme, zenith) = (home.token("acme"), home.token("zenith"));

    let anonymous = daemon.ask("GET", "acme", None, "").problem(401);
    assert_eq!(anonymous["code"], "token_required", "{anonymous}");
    let foreign = daemon.ask("GET", "acme", Some(&zenith), "").problem(403);
    assert_eq!(foreign["code"], "instantiate_refused", "{foreign}");
    assert_eq!(foreign["detail"], "The token is for another tenant.");
    let forged = format!("{}x", &acme[..acme.len() - 1]);
    daemon.ask("GET", "acme", Some(&forged), "").problem(401);
    assert_eq!(home.instances(), [""; 0], "nothing is founded for who is refused");

    let stored = daemon.ask("PUT", "acme", Some(&acme), "hello from acme");
    assert_eq!(stored.status(200), "stored\n");
    let read = daemon.ask("GET", "acme", Some(&acme), "");
    assert_eq!(read.status(200), "hello from acme");
    let foreign = daemon.ask("GET", "acme", Some(&zenith), "").problem(403);
    assert_eq!(foreign["detail"], "The token is for another tenant.");

    // Each tenant has its own.
    daemon.ask("GET", "zenith", Some(&zenith), "").status(404);
    daemon
        .ask("PUT", "zenith", Some(&zenith), "hello from zenith")
        .status(200);
    assert_eq!(home.instances(), ["acme", "zenith"]);
    let records = home.run(&["log", "tenant/acme", "--json"]).code(0).lines();
    let founded = &records[0]["verdict"];
    assert_eq!(
        (&founded["action"], &founded["rules"][0]),
        (&"instantiate".into(), &"own-tenant".into()),
        "{founded}"
    );

    // It sleeps by its own rule, and nobody else's token wakes it.
    daemon.until_of("acme", "dormant");
    daemon.until(|event| event["key"] == "acme" && event["state"] == "stopped");
    let asleep = daemon.ask("GET", "acme", Some(&zenith), "").problem(403);
    assert_eq!(asleep["code"], "wake_refused", "{asleep}");
    daemon.ask("GET", "acme", None, "").problem(401);

    // Awake again, by its host name this time.
    let host = "acme.tenant.localhost";
    let kept = daemon.ask_host("GET", host, "/greeting", Some(&acme), "");
    assert_eq!(kept.status(200), "hello from acme");
    let woke = daemon.until_of("acme", "woke");
    assert_eq!(woke["epoch"], 2, "{woke}");
    let other = daemon.ask("GET", "zenith", Some(&zenith), "");
    assert_eq!(other.status(200), "hello from zenith");
    let shown = home.run(&["show", "tenant/acme", "--json"]).code(0).json();
    assert_eq!(shown["epoch"], 2, "{shown}");
    assert_eq!(daemon.end(), Some(0));

    // Another daemon of the same directory finds the same objects.
    let daemon = Daemon::restart(&home);
    let kept = daemon.ask("GET", "acme", Some(&acme), "");
    assert_eq!(kept.status(200), "hello from acme");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn without_redis_the_object_says_so() {
    // Not in /tmp, where a workload sees what is its own.
    let bin = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let python = run(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).code(0);
    std::os::unix::fs::symlink(python.out.trim_end(), bin.path().join("python3")).unwrap();
    let home = Home::with_key(bin.path().into());
    let daemon = Daemon::start(&home);
    let token = home.token("acme");
    let refused = daemon.ask("GET", "acme", Some(&token), "").problem(503);
    assert_eq!(refused["code"], "workload_failed", "{refused}");
    let said = daemon.until_of("acme", "output");
    assert!(
        said["line"]
            .as_str()
            .unwrap()
            .contains("redis-server is not installed"),
        "{said}"
    );
    assert_eq!(daemon.end(), Some(0));
}

/// What the README says to type, typed; the port of this daemon is in place of 8080, and a free one in place of 5433.
// proves G7
#[test]
fn the_readme_is_what_happens() {
    let home = Home::new(with_redis());
    let program = Path::new(env!("CARGO_BIN_EXE_suijuris")).parent().unwrap();
    let found = std::env::split_paths(&home.path);
    let path = std::env::join_paths(std::iter::once(program.to_owned()).chain(found)).unwrap();
    let readme = std::fs::read_to_string(example().join("README.md")).unwrap();
    let mut daemon: Option<Daemon> = None;
    let raw_port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    for mut exchange in exchanges(&readme) {
        if exchange.command == "suijuris serve &" {
            if let Some(before) = daemon.take() {
                assert_eq!(before.end(), Some(0));
            }
            daemon = Some(Daemon::restart(&home));
            continue;
        }
        let port = daemon
            .as_ref()
            .and_then(|daemon| daemon.address.rsplit(':').next());
        let port = port.unwrap_or_default();
        for text in std::iter::once(&mut exchange.command).chain(&mut exchange.lines) {
            *text = text.replace("8080", port).replace("5433", &raw_port);
        }
        let mut shell = Command::new("timeout");
        home.settle(&mut shell);
        shell.args(["60", "sh", "-c", &format!("{{ {}\n}} 2>&1", exchange.command)]);
        let ran = run(shell.env("PATH", &path));
        assert_ne!(ran.code, 124, "$ {}\ndoes not end: {}", exchange.command, ran.out);
        assert!(
            !ran.out.contains("suijuris: error"),
            "$ {}\n{}",
            exchange.command,
            ran.out
        );
        check(&exchange, &ran.out);
    }
    let daemon = daemon.expect("the session runs `serve`");
    assert_eq!(daemon.end(), Some(0));
}
