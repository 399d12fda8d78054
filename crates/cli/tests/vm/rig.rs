//! A home, an object in it, and `up` as it runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Guard against hanging: an emulated machine is slow, and slower beside others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A home, and a copy of `examples/vm` in it.
pub(crate) struct Home {
    temp: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::with("vm", &["object.toml", "governance.cedar", "site/index.html"])
    }

    /// With `examples/image` and its image instead, under the same name.
    pub(crate) fn of_image() -> Self {
        let files = ["object.toml", "governance.cedar", "make-image", "site/index.html"];
        let home = Self::with("image", &files);
        let made = Command::new(home.object().join("make-image")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        home
    }

    fn with(example: &str, files: &[&str]) -> Self {
        let home = Self {
            temp: tempfile::tempdir().unwrap(),
        };
        let from = repository().join("examples").join(example);
        std::fs::create_dir_all(home.object().join("site")).unwrap();
        for name in files {
            suijuris_testkit::program::copy(from.join(name), home.object().join(name));
        }
        home
    }

    pub(crate) fn object(&self) -> PathBuf {
        self.temp.path().join("vm")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
        command.args(args).current_dir(self.temp.path()).env_clear();
        command.env("HOME", self.temp.path());
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("SUIJURIS_KERNEL", repository().join("target/test/kernel"));
        command.stdin(Stdio::null());
        command
    }

    /// How a command ends and what it says, both ways.
    pub(crate) fn ask(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let ran = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ran.status.code(), text(ran.stdout), text(ran.stderr))
    }

    /// The object's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.object().join(".suijuris")
    }

    /// Standard output of a command that ends well.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let ran = self.command(args).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    }

    pub(crate) fn up(&self, vehicle: &str) -> Up {
        Self::started(self.command(&["up", "vm", "--vehicle", vehicle, "--json"]))
    }

    /// On whatever carries it.
    pub(crate) fn up_as_it_is(&self) -> Up {
        Self::started(self.command(&["up", "vm", "--json"]))
    }

    /// The daemon of many objects, on what `suijuris add` knows it by.
    pub(crate) fn serve(&self, vehicle: &str) -> Up {
        let args = ["serve", "--vehicle", vehicle, "--json", "--listen", "127.0.0.1:0"];
        let mut up = Self::begun(self.command(&args));
        let listening = up.event("listening", |_| true);
        let url = listening["urls"][0].as_str().unwrap();
        up.url = format!("{}/o/vm/", url.trim_end_matches('/'));
        up
    }

    fn started(command: Command) -> Up {
        let mut up = Self::begun(command);
        let listening = up.event("listening", |_| true);
        up.object = listening["object"].as_str().unwrap().to_owned();
        up.url = listening["url"].as_str().unwrap().to_owned();
        up
    }

    fn begun(mut command: Command) -> Up {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (said, events) = mpsc::sync_channel(10_000);
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = said.send(serde_json::from_str(&line).unwrap());
            }
        });
        Up {
            child,
            events,
            heard: Vec::new(),
            url: String::new(),
            object: String::new(),
        }
    }
}

/// A running `up`.
pub(crate) struct Up {
    pub(crate) child: Child,
    events: mpsc::Receiver<Value>,
    pub(crate) heard: Vec<Value>,
    url: String,
    /// Its id.
    pub(crate) object: String,
}

impl Up {
    /// The next event of this name that is wanted.
    pub(crate) fn event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let Ok(event) = self.events.recv_timeout(PATIENCE) else {
                panic!("no {name}: {:#?}", self.heard);
            };
            self.heard.push(event.clone());
            if event["event"] == name && wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) fn get(&self) -> String {
        Self::get_at(&self.url)
    }

    /// Of another object of the daemon.
    pub(crate) fn get_of(&self, object: &str, path: &str) -> String {
        let daemon = self.url.strip_suffix("/o/vm/").unwrap();
        Self::get_at(&format!("{daemon}/o/{object}/{path}"))
    }

    fn get_at(url: &str) -> String {
        let address = url.trim_start_matches("http://");
        let (address, path) = address.split_once('/').unwrap_or((address, ""));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(
                format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Ends without a word to its machines.
    pub(crate) fn killed(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn interrupt(self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        self.ended()
    }

    /// How it ends.
    pub(crate) fn ended(mut self) -> Option<i32> {
        // Its last words must not keep it.
        while self.events.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn is_served(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("a kernel of its own"), "{answer}");
}
