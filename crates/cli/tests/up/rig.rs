//! A person's home with one object in it, `up` running it, and everybody who talks to it: callers over HTTP or raw
//! sockets, the workload over the agent socket, the owner over the control socket.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::heard::Heard;
pub(crate) use crate::heard::is_like;
use crate::http::send;
pub(crate) use crate::http::{Answer, read_answer};
pub(crate) use crate::ran::{Ran, run};

/// Guard against hanging; nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where programs of the system are; the tests see no other environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A workload that writes every byte it receives to `{data}/received`, and answers.
const SERVER: &str = include_str!("server.py");

/// The head of every definition here; what follows continues the table `[workload]`.
const DEFINITION: &str = r#"
name = "probe"
[workload]
command = ["python3", "{object}/server.py", "{port}", "{data}"]
"#;

/// Rules that permit all but staying awake for ever.
pub(crate) const OPEN: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
@id("mutate") permit (principal, action == Action::"mutate", resource);
@id("sleep") permit (principal, action == Action::"sleep", resource);
@id("amend") permit (principal is Controller, action == Action::"amend", resource);
"#;

/// Awake until told otherwise.
pub(crate) const STAY: &str = r#"@id("stay") permit (principal, action == Action::"remain", resource);"#;

/// An object's directory in a home of its own.
pub(crate) struct Object {
    temp: tempfile::TempDir,
    dir: PathBuf,
}

impl Object {
    /// With the workload `server.py`; `definition` continues its table.
    pub(crate) fn new(definition: &str, rules: &str) -> Self {
        let object = Self::defined(&format!("{DEFINITION}{definition}"), rules);
        object.file("server.py", SERVER);
        object
    }

    /// With this whole definition.
    pub(crate) fn defined(definition: &str, rules: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let object = Self {
            dir: temp.path().join("object"),
            temp,
        };
        std::fs::create_dir(&object.dir).unwrap();
        object.file("object.toml", definition);
        object.file("governance.cedar", rules);
        object
    }

    /// A copy of an example of this repository.
    pub(crate) fn example(name: &str) -> Self {
        let object = Self::defined("", "");
        copy(&repository().join("examples").join(name), &object.dir);
        object
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join(name), text).unwrap();
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn home(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(".suijuris")
    }

    /// Every byte that reached the workload in all its lives.
    pub(crate) fn received(&self) -> String {
        let bytes = std::fs::read(self.data().join("volume/received")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `program` in this home, with nothing else in its environment.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.home()).env_clear().env("PATH", PATH);
        command.env("HOME", self.home());
        command.stdin(Stdio::null());
        command
    }

    /// Runs `suijuris` with these arguments.
    pub(crate) fn suijuris(&self, args: &[&str]) -> Ran {
        run(self.command(env!("CARGO_BIN_EXE_suijuris")).args(args))
    }

    /// Runs a command of `suijuris` about this object.
    pub(crate) fn ask(&self, command: &[&str]) -> Ran {
        let (dir, at) = (
            self.dir.to_str().unwrap(),
            usize::from(command[0] == "memory") + 1,
        );
        let mut args = command.to_vec();
        args.insert(at, dir);
        self.suijuris(&args)
    }

    /// The lineage, a record a line.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.ask(&["log", "--json"]).code(0).lines()
    }

    /// Kinds of the records, in order.
    pub(crate) fn kinds(&self) -> Vec<String> {
        let kind = |record: &Value| record["kind"].as_str().unwrap().to_owned();
        self.log().iter().map(kind).collect()
    }

    /// Records of `kind`.
    pub(crate) fn records(&self, kind: &str) -> Vec<Value> {
        let mut log = self.log();
        log.retain(|record| record["kind"] == kind);
        log
    }

    /// The whole history is in order, and no record began an activation without a permit of `wake`.
    pub(crate) fn verify(&self) {
        self.ask(&["verify", "--json"]).code(0);
        for record in self.log() {
            if record["kind"] == "woke" || record["kind"] == "resumed" {
                assert_eq!(record["verdict"]["outcome"], "permit", "{record}");
                assert_eq!(record["verdict"]["action"], "wake", "{record}");
            }
        }
    }

    /// `up`, listening.
    pub(crate) fn up(&self) -> Up {
        self.up_with(&[])
    }

    pub(crate) fn up_with(&self, args: &[&str]) -> Up {
        let mut command = self.command(env!("CARGO_BIN_EXE_suijuris"));
        command.arg("up").arg(&self.dir).args(args);
        Up::start(command)
    }

    /// `up` where it is not to listen at all.
    pub(crate) fn up_fails(&self, args: &[&str]) -> Ran {
        let mut command = self.command("timeout");
        command.args(["30", env!("CARGO_BIN_EXE_suijuris"), "up", "--json"]);
        run(command.arg(&self.dir).args(args))
    }

    /// Processes that belong to this object: their arguments, environment or working directory name its home. A runtime has
    /// nothing of it in its arguments.
    pub(crate) fn processes(&self) -> Vec<String> {
        let home = self.home().to_str().unwrap();
        let text =
            |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.map(|entry| entry.path()).filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok())
        });
        pids.filter(|pid| pid.file_name().unwrap().to_string_lossy() != std::process::id().to_string())
            .map(|pid| {
                let cwd = std::fs::read_link(pid.join("cwd")).unwrap_or_default();
                let here = cwd.starts_with(home) || text(pid.join("environ")).contains(home);
                (text(pid.join("cmdline")), here)
            })
            .filter(|(arguments, here)| *here || arguments.contains(home))
            .map(|(arguments, _)| arguments.replace('\0', " "))
            .collect()
    }

    /// Waits until no process of this object is left.
    pub(crate) fn nobody_is_left(&self) {
        until("no process is left", || self.processes().is_empty());
    }
}

/// `suijuris`, run by somebody who is not root, in a home of their own.
pub(crate) fn as_somebody(object: &Object) -> Command {
    let program = object.home().join("suijuris");
    suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_suijuris"), &program);
    if !nix::unistd::geteuid().is_root() {
        return object.command(program);
    }
    let mut own = object.command("chown");
    run(own.args(["-R", "65534:65534"]).arg(object.home())).code(0);
    let mut command = object.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(program);
    command
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true if entry.file_name() == ".suijuris" => {}
            true => copy(&entry.path(), &target),
            false => suijuris_testkit::program::copy(entry.path(), target),
        }
    }
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Waits for a condition.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running `up`. Killed when dropped.
pub(crate) struct Up {
    child: Child,
    heard: Heard,
    pub(crate) address: String,
    pub(crate) id: String,
    agent: PathBuf,
    control: PathBuf,
    /// How machines are isolated.
    pub(crate) machine: String,
}

impl Up {
    /// Starts `command`, which runs `up` but for `--json`.
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let heard = Heard::of(&mut child, PATIENCE);
        let mut up = Self {
            child,
            heard,
            address: String::new(),
            id: String::new(),
            agent: PathBuf::new(),
            control: PathBuf::new(),
            machine: String::new(),
        };
        let listening = up.wait(json!({"event": "listening"}));
        let text = |name: &str| listening[name].as_str().unwrap().to_owned();
        let url = text("url");
        up.address = url.split("//").nth(1).unwrap().trim_end_matches('/').to_owned();
        (up.id, up.machine) = (text("object"), text("machine"));
        up.agent = text("agent_socket").into();
        up.control = up.agent.with_file_name("up.sock");
        up
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

    /// The next event of this name.
    #[track_caller]
    pub(crate) fn wait_event(&mut self, name: &str) -> Value {
        self.wait(json!({ "event": name }))
    }

    /// Everything heard so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.heard.events()
    }

    /// How many events so far have these members.
    pub(crate) fn count(&self, like: &Value) -> usize {
        self.heard.count(like)
    }

    /// What it wrote to standard error.
    pub(crate) fn complaints(&self) -> String {
        self.heard.complaints()
    }

    /// A caller's connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// One request over a connection of its own.
    #[track_caller]
    pub(crate) fn http(&self, method: &str, path: &str) -> Answer {
        exchange(self.connect(), method, path, &[], "")
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.http("GET", path)
    }

    #[track_caller]
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(self.connect(), "GET", path, headers, "")
    }

    /// One request with a body over a connection of its own.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        exchange(self.connect(), method, path, headers, body)
    }

    /// One request over the agent socket, as the workload makes it.
    #[track_caller]
    pub(crate) fn agent(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.try_agent(method, path, body)
            .expect("the agent socket answers")
    }

    /// Where the workload asks its object.
    pub(crate) fn agent_socket(&self) -> &Path {
        &self.agent
    }

    /// As [`Up::agent`]; `None` where nobody answers.
    pub(crate) fn try_agent(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let socket = UnixStream::connect(&self.agent).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let json = ("content-type", "application/json");
        try_exchange(socket, method, path, &[json], &body)
    }

    /// The workload writes memory.
    #[track_caller]
    pub(crate) fn write(&self, fields: &Value) -> Answer {
        self.agent("PATCH", "/v1/memory", &json!({ "set": fields }))
    }

    /// One line to the control socket, as the command line sends it.
    #[track_caller]
    pub(crate) fn control(&self, request: &Value) -> Value {
        let mut socket = UnixStream::connect(&self.control).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(socket, "{request}").unwrap();
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// `dormant`, `active` or `suspended`.
    #[track_caller]
    pub(crate) fn phase(&self) -> String {
        self.control(&json!("status"))["status"]["phase"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Owner's write.
    #[track_caller]
    pub(crate) fn set(&self, fields: &Value) -> Value {
        self.control(&json!({"patch": {"set": fields}}))
    }

    pub(crate) fn signal(&self, name: &str) {
        kill(self.child.id(), name);
    }

    /// Somebody types a line, where standard input is a pipe.
    pub(crate) fn types(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// Process id of `up`.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Shims of runtimes that stand by, each with its runtime.
    fn standbys(&self) -> Vec<(u32, u32)> {
        let pairs = children(self.child.id()).into_iter();
        let pairs = pairs.flat_map(|shim| children(shim).into_iter().map(move |program| (shim, program)));
        pairs
            .filter(|(_, program)| {
                let cwd = std::fs::read_link(format!("/proc/{program}/cwd"));
                stood_by(*program) && cwd.is_ok_and(|cwd| cwd == Path::new("/"))
            })
            .collect()
    }

    /// Waits until a runtime stands by, and what keeps it knows.
    pub(crate) fn is_ready_to_wake(&self) {
        let sleeps = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") S ")
        };
        let has_loop = |pid: u32| {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
            let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
            targets
                .into_iter()
                .any(|target| target.ends_with("anon_inode:[eventpoll]"))
        };
        until("a runtime stands by", || {
            let standbys = self.standbys();
            // In this order: what it says wakes its shim at once.
            let ready =
                |(shim, program): &(u32, u32)| has_loop(*program) && sleeps(*program) && sleeps(*shim);
            standbys.iter().any(ready)
        });
    }

    /// Processes of the machine, the outermost first.
    pub(crate) fn machine_pids(&self) -> Vec<u32> {
        let standbys = self.standbys();
        let mut all = children(self.child.id());
        all.retain(|pid| standbys.iter().all(|(shim, _)| shim != pid));
        let mut at = 0;
        while at < all.len() {
            all.extend(children(all[at]));
            at += 1;
        }
        all
    }

    /// The first process in the machine: the runtime.
    pub(crate) fn runtime_pid(&self) -> u32 {
        let is_runtime = |pid: &u32| {
            let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.contains("--link-fd") || stood_by(*pid)
        };
        self.machine_pids()
            .into_iter()
            .rfind(is_runtime)
            .expect("the runtime runs")
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.heard.end_of(&mut self.child)
    }

    /// `SIGKILL`, gone when this returns.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ctrl-C; the exit code.
    pub(crate) fn interrupt(mut self) -> Option<i32> {
        self.signal("INT");
        self.ended().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what `up` said:\n{}\n{}", self.heard.story(), self.complaints());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {pid}")])
        .status();
    assert!(status.unwrap().success(), "kill -{signal} {pid}");
}

/// Whether a runtime was started to stand by.
pub(crate) fn stood_by(pid: u32) -> bool {
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.contains("--standby-fd")
}

/// Direct children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[track_caller]
pub(crate) fn exchange(
    socket: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    try_exchange(socket, method, path, headers, body).expect("an answer")
}

fn try_exchange(
    mut socket: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let length = body.len().to_string();
    let mut all = vec![("host", "object"), ("connection", "close")];
    if body.is_empty() {
        all.push(("content-length", &length));
    }
    all.extend(headers);
    send(&mut socket, method, path, &all, body);
    read_answer(&mut socket)
}

/// Reads until the other side closes or resets the connection.
pub(crate) fn read_to_end(mut socket: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut some = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut some) {
        bytes.extend(&some[..count]);
    }
    let _ = socket.shutdown(Shutdown::Both);
    bytes
}
