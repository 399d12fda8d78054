//! A person's home with a daemon's directory, a depot, an owner's key, and definitions of objects and classes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Daemon;
use crate::ran::{Ran, run};

/// Guard against hanging; nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where programs of the system are; the tests see no other environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A workload that answers with the head of the request that reached it.
const SERVER: &str = include_str!("server.py");

/// Starts the workload; what follows continues the table `[workload]`.
const WORKLOAD: &str = r#"
[workload]
command = ["python3", "-I", "-S", "{object}/server.py", "{port}"]
"#;

/// One field of text.
const NOTE: &str = "[memory]\nnote = { type = \"string\", default = \"\" }\n";

/// Whoever asks gets an instance.
pub(crate) const FOUND: &str = r#"@id("found") permit (principal, action == Action::"instantiate", resource);
"#;

/// Rules that permit all but staying awake for ever.
pub(crate) const OPEN: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("mutate") permit (principal, action == Action::"mutate", resource);
@id("sleep") permit (principal, action == Action::"sleep", resource);
"#;

/// Owners may let it leave.
pub(crate) const MOVE: &str = r#"@id("move") permit (principal is Controller, action == Action::"migrate", resource);
"#;

/// Awake until told otherwise.
pub(crate) const STAY: &str = r#"@id("stay") permit (principal, action == Action::"remain", resource);
"#;

/// Founded, and never awake: who was founded answers 403 `wake_refused`.
pub(crate) const DORMANT: &str = r#"
@id("closed") forbid (principal, action == Action::"wake", resource);
"#;

pub(crate) struct Home {
    temp: tempfile::TempDir,
    root: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        Self { temp, root }
    }

    /// The daemon's directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// A definition of this name; `class` is its table `[class]`.
    pub(crate) fn class(&self, name: &str, class: &str, rules: &str) -> PathBuf {
        let class = format!("[class]\n{class}\n");
        self.define(name, &format!("{WORKLOAD}{class}{NOTE}"), rules)
    }

    /// A definition of a single object.
    pub(crate) fn object(&self, name: &str, rules: &str) -> PathBuf {
        self.define(name, &format!("{WORKLOAD}{NOTE}"), rules)
    }

    /// A definition whose text begins after its name.
    pub(crate) fn define(&self, name: &str, text: &str, rules: &str) -> PathBuf {
        let dir = self.path().join("definitions").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("object.toml"), format!("name = \"{name}\"\n{text}")).unwrap();
        std::fs::write(dir.join("governance.cedar"), rules).unwrap();
        std::fs::write(dir.join("server.py"), SERVER).unwrap();
        dir
    }

    /// `program` in this home, with nothing else in its environment.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).env_clear().env("PATH", PATH);
        command.env("HOME", self.path());
        command.env("SUIJURIS_DEPOT", self.depot());
        command.env("SUIJURIS_OWNER_KEY", self.path().join("owner.key"));
        command.env("SUIJURIS_SERVER", &self.root);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn depot(&self) -> PathBuf {
        self.path().join("depot")
    }

    /// Runs `suijuris` with these arguments.
    pub(crate) fn suijuris(&self, args: &[&str]) -> Ran {
        run(self.command(env!("CARGO_BIN_EXE_suijuris")).args(args))
    }

    /// Adds a definition to the daemon of this home.
    #[track_caller]
    pub(crate) fn add(&self, dir: &Path) -> Value {
        self.suijuris(&["add", "--json", dir.to_str().unwrap()])
            .code(0)
            .json()
    }

    /// The daemon, listening.
    pub(crate) fn serve(&self) -> Daemon {
        self.serve_in(&self.root)
    }

    /// A daemon of another directory, with the depot and the owner of this home.
    pub(crate) fn serve_in(&self, root: &Path) -> Daemon {
        let mut command = self.command(env!("CARGO_BIN_EXE_suijuris"));
        command
            .arg("serve")
            .arg(root)
            .args(["--listen", "127.0.0.1:0", "--json"]);
        Daemon::start(command)
    }

    /// The daemon of this home, with more arguments.
    pub(crate) fn serve_with(&self, args: &[&str]) -> Daemon {
        let mut command = self.command(env!("CARGO_BIN_EXE_suijuris"));
        command
            .arg("serve")
            .arg(&self.root)
            .args(["--listen", "127.0.0.1:0", "--json"])
            .args(args);
        Daemon::start(command)
    }

    /// Keys of a class that have data here.
    pub(crate) fn keys(&self, class: &str) -> Vec<String> {
        names(&self.root.join("instances").join(class))
    }

    /// What is being founded.
    pub(crate) fn staged(&self) -> Vec<String> {
        names(&self.root.join("staging"))
    }

    /// Keys of a class that the name tables of the depot have.
    pub(crate) fn names_in_depot(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.depot()];
        while let Some(dir) = open.pop() {
            let inner = names(&dir);
            if dir.file_name().is_some_and(|name| name == "names") {
                found.extend(inner);
            } else {
                open.extend(
                    inner
                        .iter()
                        .map(|name| dir.join(name))
                        .filter(|path| path.is_dir()),
                );
            }
        }
        found.sort();
        found
    }

    /// The history of an object, a record a line.
    pub(crate) fn log(&self, object: &str) -> Vec<Value> {
        self.suijuris(&["log", object, "--json"]).code(0).lines()
    }

    /// Kinds of its records, in order.
    pub(crate) fn kinds(&self, object: &str) -> Vec<String> {
        let kind = |record: &Value| record["kind"].as_str().unwrap().to_owned();
        self.log(object).iter().map(kind).collect()
    }

    /// Where the data of an instance is.
    pub(crate) fn instance(&self, class: &str, key: &str) -> PathBuf {
        self.root.join("instances").join(class).join(key)
    }

    /// Its whole history is in order.
    #[track_caller]
    pub(crate) fn verify(&self, data: &Path) {
        self.suijuris(&["verify", data.to_str().unwrap(), "--json"])
            .code(0);
    }

    /// Processes that belong to this home: their arguments, environment or working directory name it.
    pub(crate) fn processes(&self) -> Vec<String> {
        self.found().into_iter().map(|(_, arguments)| arguments).collect()
    }

    /// Kills all of them, as one.
    pub(crate) fn kill_everybody(&self) {
        let mut kill = Command::new("kill");
        kill.arg("-KILL")
            .args(self.found().into_iter().map(|(pid, _)| pid));
        // Some may have ended with others.
        let _ = kill.stderr(Stdio::null()).status();
    }

    /// Number and arguments of each.
    fn found(&self) -> Vec<(String, String)> {
        let home = self.path().to_str().unwrap();
        let text =
            |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let own = std::process::id().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.map(|entry| entry.path()).filter(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.parse::<u32>().is_ok() && name != own
        });
        pids.map(|pid| {
            let cwd = std::fs::read_link(pid.join("cwd")).unwrap_or_default();
            let here = cwd.starts_with(home) || text(pid.join("environ")).contains(home);
            let number = pid.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (number, text(pid.join("cmdline")), here)
        })
        .filter(|(_, arguments, here)| *here || arguments.contains(home))
        .map(|(number, arguments, _)| (number, arguments.replace('\0', " ")))
        .collect()
    }

    /// Waits until no process of this home is left.
    #[track_caller]
    pub(crate) fn nobody_is_left(&self) {
        until("no process is left", || self.processes().is_empty());
    }
}

/// Names in a directory, in order; none where it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
