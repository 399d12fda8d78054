//! Objects for benches: a directory with a definition, created by `suijuris up`, run by `suijuris-init` or `up`.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::free_port;

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends SIGINT and waits for the end.
    ///
    /// # Errors
    /// The system's.
    pub fn interrupt(mut self) -> io::Result<()> {
        let pid = i32::try_from(self.0.id()).map_err(|_| ErrorKind::InvalidData)?;
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        self.0.wait().map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// An object's directory, with a home of its own for keys and notes of the command line.
#[derive(Debug)]
pub struct Object {
    folder: tempfile::TempDir,
}

impl Object {
    /// Writes `object.toml` and `governance.cedar`.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(toml: &str, cedar: &str) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("object"))?;
        let object = Self { folder };
        std::fs::write(object.dir().join("object.toml"), toml)?;
        std::fs::write(object.dir().join("governance.cedar"), cedar)?;
        Ok(object)
    }

    /// Where the definition lies.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("object")
    }

    /// The object's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir().join(".suijuris")
    }

    /// Creates the object: `up` until it listens, then its end.
    ///
    /// # Errors
    /// What `up` says, or the system.
    pub fn create(&self) -> io::Result<()> {
        let (up, _events, _listening) = self.up(&["--plain"])?;
        up.interrupt()
    }

    /// One activation, ended by the owner: as most are found, with space for records allocated.
    ///
    /// # Errors
    /// What `up` says, or the system.
    pub fn live_once(&self) -> io::Result<()> {
        let (up, mut events, listening) = self.up(&["--plain"])?;
        let mut visitor = std::net::TcpStream::connect(address_of(&listening)?)?;
        visitor.write_all(b"GET /public/page HTTP/1.1\r\nHost: x\r\n\r\n")?;
        events.until(|event| says(event, "/state", "ready"))?;
        drop(visitor);
        events.drain();
        up.interrupt()
    }

    /// `suijuris up --json` with `arguments`, once it listens: the process, its further events, its first.
    ///
    /// # Errors
    /// What `up` says, or the system.
    pub fn up(&self, arguments: &[&str]) -> io::Result<(Running, Events, Value)> {
        let mut up = Command::new("suijuris");
        up.arg("up").arg(self.dir()).arg("--json").args(arguments);
        let mut up = Running(self.at_home(&mut up).stdout(Stdio::piped()).spawn()?);
        let mut events = Events::of(up.0.stdout.take())?;
        let listening = events.until(|event| says(event, "/event", "listening"))?;
        Ok((up, events, listening))
    }

    /// `suijuris door` over the depot of the object's home; the event `listening`, too.
    ///
    /// # Errors
    /// What the door says, or the system.
    pub fn door(&self) -> io::Result<(Running, Value)> {
        let mut door = Command::new("suijuris");
        door.args(["door", "--listen", "127.0.0.1:0", "--json"]);
        let mut door = Running(self.at_home(&mut door).stdout(Stdio::piped()).spawn()?);
        let mut events = Events::of(door.0.stdout.take())?;
        let listening = events.until(|event| says(event, "/event", "listening"))?;
        events.drain();
        Ok((door, listening))
    }

    /// `suijuris-init` of the object, listening at `port` of loopback, whose reports come as events.
    ///
    /// # Errors
    /// The system's.
    pub fn init(&self, port: u16) -> io::Result<(Running, Events)> {
        let mut init = self.init_command(Path::new("suijuris-init"), port);
        let mut init = Running(init.spawn()?);
        let events = Events::of(init.0.stderr.take())?;
        Ok((init, events))
    }

    /// Creates the object and runs `suijuris-init` until its gate is open; the port it listens on, too.
    ///
    /// # Errors
    /// As [`Object::create`] and [`Object::init`], or what the runtime says.
    pub fn serve(&self) -> io::Result<(u16, Running)> {
        self.create()?;
        let port = free_port()?;
        let (running, mut events) = self.init(port)?;
        events.until(|event| says(event, "/event/step", "serve"))?;
        events.drain();
        Ok((port, running))
    }

    /// The command of [`Object::init`] with another program; its standard error is a pipe.
    #[must_use]
    pub fn init_command(&self, program: &Path, port: u16) -> Command {
        let mut init = Command::new(program);
        init.args([
            Path::new("--data"),
            &self.data(),
            Path::new("--object"),
            &self.dir(),
        ])
        .args(["--listen", &format!("127.0.0.1:{port}")]);
        self.at_home(&mut init)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        init
    }

    fn at_home<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"] {
            command.env(name, self.folder.path());
        }
        command.stdin(Stdio::null())
    }
}

/// Fields of the memory of every bench object: ten, of the usual types.
const MEMORY: &str = r#"
[memory]
status = { type = "string", default = "ready" }
plan = { type = "string", default = "basic" }
owner = { type = "string", default = "alice" }
region = { type = "string", default = "fra" }
budget = { type = "int", default = 100 }
spent = { type = "int", default = 0 }
priority = { type = "int", default = 1 }
enabled = { type = "bool", default = true }
jobs = { type = { set = "string" }, default = [] }
consent = { type = "timestamp", fresh_for = "24h" }
"#;

/// Seven rules for `wake`, seven for `admit`; a host may wake it, and anybody may read below `/public/` or connect.
const GOVERNANCE: &str = r#"
@id("boot") permit(principal, action == Action::"wake", resource)
when { ["boot", "request"].contains(context.trigger.kind) && resource.memory.enabled };
@id("ready") permit(principal, action == Action::"wake", resource)
when { resource.memory.status == "ready" && resource.memory.budget > 0 && resource.fresh.consent };
@id("urgent") permit(principal, action == Action::"wake", resource)
when { resource.memory.jobs.contains("urgent") && resource.memory.priority >= 5 };
@id("timer") permit(principal, action == Action::"wake", resource)
when { context.trigger.kind == "timer" && resource.memory.enabled };
@id("spent") forbid(principal, action == Action::"wake", resource)
when { resource.memory.spent >= resource.memory.budget };
@id("abroad") forbid(principal, action == Action::"wake", resource)
unless { ["fra", "ams"].contains(resource.memory.region) };
@id("suspended") forbid(principal, action == Action::"wake", resource)
when { resource.memory.plan == "suspended" };

@id("public") permit(principal, action == Action::"admit", resource)
when { resource.memory.enabled && context.request.method == "GET" && context.request.path like "/public/*" };
@id("raw") permit(principal, action == Action::"admit", resource)
when { resource.memory.enabled && context.request.protocol == "tcp" };
@id("readers") permit(principal, action == Action::"admit", resource)
when { principal is Caller && principal.authenticated && principal.scopes.contains("read") };
@id("writers") permit(principal, action == Action::"admit", resource)
when { principal is Caller && principal.authenticated && resource.fresh.consent };
@id("closed") forbid(principal, action == Action::"admit", resource)
when { resource.memory.status == "closed" };
@id("broke") forbid(principal, action == Action::"admit", resource)
when { resource.memory.spent >= resource.memory.budget && context.request.method != "GET" };
@id("large") forbid(principal, action == Action::"admit", resource)
when { context.request has content_length && context.request.content_length > 1048576 };
"#;

/// An object whose workload is this program started again with `arguments` (see [`super::server::as_asked`]);
/// `workload` and `gate` are further lines of these tables, `remain` the condition under which it stays awake.
///
/// # Errors
/// The disk's.
pub fn governed(arguments: &[&str], workload: &str, gate: &str, remain: &str) -> io::Result<Object> {
    let exe = std::env::current_exe()?;
    let command = [&[exe.to_str().ok_or(ErrorKind::InvalidFilename)?], arguments].concat();
    let toml = format!(
        "name = \"bench\"\n[workload]\ncommand = {command:?}\n{workload}\n[gate]\n{gate}\nmax_connections = 4096\n{MEMORY}"
    );
    let remain = format!(
        "@id(\"remain\") permit(principal, action == Action::\"remain\", resource) when {{ {remain} }};\n"
    );
    Object::new(&toml, &(GOVERNANCE.to_owned() + &remain))
}

/// Whether the text at JSON pointer `at` of `event` is `text`.
#[must_use]
pub fn says(event: &Value, at: &str, text: &str) -> bool {
    event.pointer(at).is_some_and(|found| found == text)
}

/// Where callers reach the object of the event `listening`.
///
/// # Errors
/// `InvalidData` where it says no such place.
pub fn address_of(listening: &Value) -> io::Result<SocketAddr> {
    let url = listening
        .pointer("/url")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    address.parse().map_err(|_| ErrorKind::InvalidData.into())
}

/// JSON lines of a process.
pub struct Events(Box<dyn Iterator<Item = io::Result<String>> + Send>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// The lines that come from `pipe`.
    ///
    /// # Errors
    /// `BrokenPipe` where there is none.
    pub fn of(pipe: Option<impl io::Read + Send + 'static>) -> io::Result<Self> {
        let pipe = pipe.ok_or(ErrorKind::BrokenPipe)?;
        Ok(Self(Box::new(BufReader::new(pipe).lines())))
    }

    /// Reads until an event satisfies `wanted`.
    ///
    /// # Errors
    /// `UnexpectedEof` with what was said, where the process ends before.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> io::Result<Value> {
        let mut said = String::new();
        for line in self.0.by_ref() {
            let line = line?;
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && wanted(&event)
            {
                return Ok(event);
            }
            said.push_str(&line);
            said.push('\n');
        }
        Err(io::Error::new(ErrorKind::UnexpectedEof, said))
    }

    /// Reads and drops the rest on a thread, so that the process never waits for its reader.
    pub fn drain(self) {
        std::thread::spawn(move || self.0.for_each(drop));
    }
}
