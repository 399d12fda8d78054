//! A host for benches: `suijuris host` on a data directory of its own, its API over connections that are kept, its proxy.

use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Events, Running, says};

/// The app of all machines of a bench.
pub const APP: &str = "bench";
/// How long a machine is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 << 20;

/// A host that runs, with one app and no rate limit. What it runs is destroyed when this is dropped.
#[derive(Debug)]
pub struct Host {
    data: PathBuf,
    arguments: Vec<String>,
    daemon: Option<Running>,
    token: String,
    api: String,
    proxy: Option<String>,
}

impl Host {
    /// `suijuris host` on `data`, whose machines may run programs of this machine, with `arguments` beside what every bench
    /// needs; once it listens.
    ///
    /// # Errors
    /// What the host says, or the system.
    pub fn start(data: &Path, arguments: &[&str]) -> io::Result<Self> {
        let mut host = Self {
            data: data.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            daemon: None,
            token: String::new(),
            api: String::new(),
            proxy: None,
        };
        host.run()?;
        let app = json!({"app_name": APP, "org_slug": "personal"});
        host.client()?.must("POST", "/apps", Some(&app))?;
        Ok(host)
    }

    /// Kills the daemon as `kill -9` does and starts it again: how long from its exec until it listens.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn restart(&mut self) -> io::Result<Duration> {
        self.daemon = None;
        self.run()
    }

    fn run(&mut self) -> io::Result<Duration> {
        let mut command = Command::new("suijuris");
        command.args(["host", "--json", "--no-rate-limit", "--host-programs"]);
        command.args(["--region", "fra", "--api", "127.0.0.1:0", "--data"]);
        command.arg(&self.data).args(&self.arguments);
        let begin = Instant::now();
        let mut daemon = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let mut events = Events::of(daemon.0.stdout.take())?;
        let listening = events.until(|event| says(event, "/event", "listening"))?;
        let took = begin.elapsed();
        events.drain();
        let authority = |url: &Value| url.as_str()?.strip_prefix("http://").map(str::to_owned);
        self.daemon = Some(daemon);
        self.api = listening
            .get("api")
            .and_then(authority)
            .ok_or(ErrorKind::InvalidData)?;
        self.proxy = listening.pointer("/proxy/0").and_then(authority);
        if let Some(token) = listening.get("token").and_then(Value::as_str) {
            token.clone_into(&mut self.token);
        }
        Ok(took)
    }

    /// The daemon's process; 0 where there is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Running::pid)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Host and port of its first proxy.
    ///
    /// # Errors
    /// `NotFound` where it was started without.
    pub fn proxy(&self) -> io::Result<&str> {
        self.proxy.as_deref().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// A connection to its API.
    ///
    /// # Errors
    /// The system's.
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(&self.api, &self.token)
    }

    /// The answer of its control socket.
    ///
    /// # Errors
    /// The system's; an answer that is no JSON.
    pub fn control(&self, path: &str) -> io::Result<Value> {
        let mut stream = UnixStream::connect(self.data.join("host.sock"))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        // It may come in chunks: the document stands between the first bracket and the last.
        let begin = body.find(['[', '{']).unwrap_or_default();
        let end = body.rfind([']', '}']).map_or(body.len(), |at| at + 1);
        Ok(serde_json::from_str(body.get(begin..end).unwrap_or_default())?)
    }

    /// Makes a machine of `config`; its id.
    ///
    /// # Errors
    /// What the host says, or the system.
    pub fn machine(&self, config: &Value) -> io::Result<String> {
        let asked = json!({ "config": config });
        let made = self
            .client()?
            .must("POST", &format!("/apps/{APP}/machines"), Some(&asked))?;
        let id = made.get("id").and_then(Value::as_str);
        Ok(id.ok_or(ErrorKind::InvalidData)?.to_owned())
    }

    fn stop_daemon(&mut self) -> io::Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        let pid = i32::try_from(daemon.pid()).map_err(|_| ErrorKind::InvalidData)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        let limit = Instant::now() + PATIENCE;
        while daemon.0.try_wait()?.is_none() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Machines outlive their daemon: they are destroyed while there is one. What fails here is left behind.
        let destroyed = self
            .client()
            .and_then(|mut client| client.must("DELETE", &format!("/apps/{APP}?force=true"), None));
        if let Err(error) = destroyed {
            let mut stderr = io::stderr();
            let _said = writeln!(stderr, "machines of {} stay: {error}", self.data.display());
        }
        let _ended = self.stop_daemon();
    }
}

/// The path of a machine, and of what is below it.
#[must_use]
pub fn machine_path(id: &str, below: &str) -> String {
    format!("/apps/{APP}/machines/{id}{below}")
}

/// A client of the API over one connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    token: String,
}

impl Client {
    fn connect(api: &str, token: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(api)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            token: token.to_owned(),
        })
    }

    /// One call: status and document.
    ///
    /// # Errors
    /// The system's; an answer that is no HTTP.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let (status, body) = self.bytes(method, path, body)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// The same, with the body as it came.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn bytes(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Vec<u8>)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} /v1{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        answer(&mut self.stream)
    }

    /// The same, where anything but success is an error.
    ///
    /// # Errors
    /// As [`Client::call`], and what the host says.
    pub fn must(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
        match self.call(method, path, body)? {
            (200..300, document) => Ok(document),
            (status, document) => Err(io::Error::other(format!("{method} {path}: {status} {document}"))),
        }
    }

    /// Waits until a machine is in a state.
    ///
    /// # Errors
    /// As [`Client::must`].
    pub fn wait(&mut self, id: &str, state: &str) -> io::Result<()> {
        let path = machine_path(id, &format!("/wait?state={state}&timeout=60"));
        self.must("GET", &path, None).map(drop)
    }
}

/// Reads one answer of HTTP/1.1: its status and its body.
///
/// # Errors
/// The system's; an answer that is no HTTP.
pub fn answer(stream: &mut impl io::BufRead) -> io::Result<(u16, Vec<u8>)> {
    let invalid = || io::Error::from(ErrorKind::InvalidData);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no answer: {line:?}")))?;
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let field = line.trim_end().to_ascii_lowercase();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| invalid())?;
        }
        chunked |= field.starts_with("transfer-encoding:") && field.ends_with("chunked");
    }
    let mut body = Vec::new();
    loop {
        if chunked {
            line.clear();
            stream.read_line(&mut line)?;
            length = usize::from_str_radix(line.trim_end(), 16).map_err(|_| invalid())?;
        }
        if body.len() + length > MAX_ANSWER {
            return Err(invalid());
        }
        let begin = body.len();
        body.resize(begin + length, 0);
        stream.read_exact(body.get_mut(begin..).unwrap_or_default())?;
        if !chunked {
            return Ok((status, body));
        }
        line.clear();
        stream.read_line(&mut line)?;
        if length == 0 {
            return Ok((status, body));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_one_after_the_other() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        let mut stream = text.as_bytes();
        assert_eq!(answer(&mut stream).unwrap(), (200, b"ok".to_vec()));
        assert_eq!(answer(&mut stream).unwrap(), (404, b"abcd".to_vec()));
        assert!(answer(&mut stream).is_err());
    }
}
