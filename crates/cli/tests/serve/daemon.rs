//! A running `suijuris serve` and everybody who talks to it: callers, the control API, signals.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::heard::Heard;
use crate::home::PATIENCE;
use crate::http::{Answer, read_answer, send};

/// Ended when dropped, with what is awake.
pub(crate) struct Daemon {
    child: Child,
    heard: Heard,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    pub(crate) control: PathBuf,
    /// `http://127.0.0.1:PORT` of the control API, where it was asked for.
    api: Option<String>,
}

impl Daemon {
    /// Starts `command`, which runs `serve --json`.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let heard = Heard::of(&mut child, PATIENCE);
        let mut daemon = Self {
            child,
            heard,
            address: String::new(),
            control: PathBuf::new(),
            api: None,
        };
        let listening = daemon.wait(json!({"event": "listening"}));
        assert_eq!(daemon.events()[0], listening, "it is the first line");
        let url = listening["urls"][0].as_str().unwrap();
        daemon.address = url.trim_start_matches("http://").to_owned();
        daemon.control = listening["control"].as_str().unwrap().into();
        daemon.api = listening["api"][0].as_str().map(str::to_owned);
        daemon
    }

    /// Where the control API is on an address.
    #[track_caller]
    pub(crate) fn api_url(&self) -> String {
        self.api.clone().expect("serve --api")
    }

    /// The next event that has these members; those before it count as seen.
    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests write the value where they wait"
    )]
    pub(crate) fn wait(&mut self, like: Value) -> Value {
        self.heard.wait(&like)
    }

    /// Where it listens for TLS: its second address.
    pub(crate) fn secure(&self) -> String {
        let listening = &self.events()[0];
        listening["urls"][1].as_str().unwrap().to_owned()
    }

    /// The same without a scheme.
    pub(crate) fn secure_address(&self) -> String {
        self.secure().replace("https://", "")
    }

    /// Where it listens for proxies.
    pub(crate) fn proxied(&self) -> String {
        let listening = &self.events()[0];
        listening["proxied"][0].as_str().unwrap().to_owned()
    }

    /// Everything heard so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.heard.events()
    }

    /// How many events so far have these members.
    pub(crate) fn count(&self, like: &Value) -> usize {
        self.heard.count(like)
    }

    /// A caller's connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// One request with these headers, over a connection of its own.
    #[track_caller]
    pub(crate) fn request(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut socket = self.connect();
        send(&mut socket, "GET", path, headers, "");
        read_answer(&mut socket).expect("an answer")
    }

    /// The object on this host, without `.localhost`.
    #[track_caller]
    pub(crate) fn get(&self, host: &str, path: &str) -> Answer {
        let host = format!("{host}.localhost");
        self.request(path, &[("host", &host), ("connection", "close")])
    }

    /// An object by path.
    #[track_caller]
    pub(crate) fn by_path(&self, path: &str) -> Answer {
        self.request(path, &[("host", &self.address)])
    }

    /// A client of the control API.
    pub(crate) fn control(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.control).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// One request to the control API, as the command line makes it.
    #[track_caller]
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let json = ("content-type", "application/json");
        self.api_with(method, path, &[("host", "localhost"), json], &body)
    }

    /// One request to the control API with just these headers.
    #[track_caller]
    pub(crate) fn api_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut socket = self.control();
        send(&mut socket, method, path, headers, body);
        read_answer(&mut socket).expect("an answer")
    }

    /// The document of an object, by name.
    #[track_caller]
    pub(crate) fn document(&self, name: &str) -> Value {
        let path = match name.split_once('/') {
            Some((class, key)) => format!("/v1/classes/{class}/instances/{key}"),
            None => format!("/v1/objects/{name}"),
        };
        self.api("GET", &path, &Value::Null).status(200).json()
    }

    /// Waits until an object is in this phase.
    #[track_caller]
    pub(crate) fn wait_phase(&self, name: &str, phase: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let document = self.document(name);
            if document["phase"] == phase {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not {phase}: {document}\n{}",
                self.heard.story()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has written to standard error.
    pub(crate) fn complaints(&self) -> String {
        self.heard.complaints()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        // It may have ended in this moment.
        let _ = Command::new("sh")
            .args(["-c", &kill])
            .stderr(Stdio::null())
            .status();
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.heard.end_of(&mut self.child)
    }

    /// `SIGKILL`, gone when this returns.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `SIGTERM`, once; it ends well.
    #[track_caller]
    pub(crate) fn terminate(mut self) {
        self.signal("TERM");
        let ended = self.ended();
        assert_eq!(ended.code(), Some(0), "{ended}: {}", self.complaints());
    }
}

impl Drop for Daemon {
    /// Its machines would outlive it if it were killed at once.
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            self.signal("TERM");
            std::thread::sleep(Duration::from_millis(200));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
