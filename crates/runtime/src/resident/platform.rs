//! What carries the machine, as it can be asked from inside: a socket that reaches this machine alone, and needs no token.
//!
//! It speaks the Machines API over HTTP/1.1. Its absence is no error: then the machine leaves by exiting, which is not
//! restarted. Called by the boot of a machine of its own, and by the lifecycle's driver.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Where the socket is, unless somebody says otherwise.
pub const SOCKET: &str = "/.fly/api";
/// Variable with the name of this machine's app.
pub const APP: &str = "FLY_APP_NAME";
/// Key of the machine's metadata with names that it is found by in its private network.
const NAMES: &str = "internal_names";
/// Variable with the id of this machine.
pub const MACHINE: &str = "FLY_MACHINE_ID";

/// The platform did not do what it was asked.
pub const CODE_PLATFORM: &str = "platform_failed";

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// Size of an answer at most, bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Length of a name at most, bytes.
const MAX_NAME: usize = 128;

/// What can be asked of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// To be stopped.
    Stop,
    /// To be suspended.
    Suspend,
}

impl Ask {
    const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Suspend => "suspend",
        }
    }
}

/// Why the platform did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The socket.
    #[error("the platform's socket {0} does not answer")]
    Socket(PathBuf, #[source] io::Error),
    /// No answer in time.
    #[error("the platform did not answer within {} s", WITHIN.as_secs())]
    Late,
    /// An answer that is none.
    #[error("the platform's answer is not HTTP")]
    Answer,
    /// It said no.
    #[error("the platform answered {status}: {text}")]
    Refused {
        /// The status.
        status: u16,
        /// The beginning of what it said.
        text: String,
    },
}

/// A machine's own socket.
#[derive(Debug, Clone)]
pub struct Platform {
    socket: PathBuf,
    app: String,
    machine: String,
}

impl Platform {
    /// The platform at `socket`, where it is there and the environment says which machine this is.
    pub fn at(socket: &Path, environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let name = |variable: &str| {
            environment(variable).filter(|name| {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain)
            })
        };
        socket.exists().then_some(Self {
            socket: socket.to_owned(),
            app: name(APP)?,
            machine: name(MACHINE)?,
        })
    }

    /// The app that this machine is of.
    #[must_use]
    pub fn app(&self) -> &str {
        &self.app
    }

    /// Asks for this very machine to be stopped or suspended.
    ///
    /// # Errors
    /// [`PlatformError`]: the machine goes on.
    pub async fn ask(&self, what: Ask) -> Result<(), PlatformError> {
        self.call("POST", &format!("/{}", what.word()), None)
            .await
            .map(drop)
    }

    /// The volume that is mounted at `path`, as the platform calls it; none where it says nothing of that.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub async fn volume_at(&self, path: &Path) -> Result<Option<String>, PlatformError> {
        let machine = self.described().await?;
        let mounts = machine.pointer("/config/mounts").and_then(Value::as_array);
        let here = |mount: &&Value| mount.get("path").and_then(Value::as_str).map(Path::new) == Some(path);
        let mount = mounts.into_iter().flatten().find(here);
        let volume = mount
            .and_then(|mount| mount.get("volume"))
            .and_then(Value::as_str);
        Ok(volume.map(str::to_owned))
    }

    /// What the platform says that this machine is: `started`, `suspending`, …; none where it says nothing of that.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub async fn state(&self) -> Result<Option<String>, PlatformError> {
        let machine = self.described().await?;
        Ok(machine.get("state").and_then(Value::as_str).map(str::to_owned))
    }

    /// Asks that this machine be found as `name` in its private network, beside the names it has.
    ///
    /// # Errors
    /// [`PlatformError`]: it is not found so.
    pub async fn be_named(&self, name: &str) -> Result<(), PlatformError> {
        let machine = self.described().await?;
        let names = machine
            .pointer("/config/metadata")
            .and_then(|metadata| metadata.get(NAMES)?.as_str());
        let names = names.unwrap_or_default();
        if names.split([',', ' ']).any(|known| known == name) {
            return Ok(());
        }
        let value = serde_json::json!({ "value": format!("{names} {name}").trim_start() });
        self.call("POST", &format!("/metadata/{NAMES}"), Some(&value))
            .await
            .map(drop)
    }

    async fn described(&self) -> Result<Value, PlatformError> {
        let body = self.call("GET", "", None).await?;
        serde_json::from_slice(&body).map_err(|_none| PlatformError::Answer)
    }

    async fn call(&self, method: &str, below: &str, body: Option<&Value>) -> Result<Vec<u8>, PlatformError> {
        let answer = tokio::time::timeout(WITHIN, self.exchange(method, below, body));
        let answer = answer.await.map_err(|_late| PlatformError::Late)?;
        let answer = answer.map_err(|error| PlatformError::Socket(self.socket.clone(), error))?;
        let (status, body) = read(&answer).ok_or(PlatformError::Answer)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body);
        let text = text.chars().take(200).flat_map(char::escape_debug).collect();
        Err(PlatformError::Refused { status, text })
    }

    async fn exchange(&self, method: &str, below: &str, body: Option<&Value>) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let (app, machine) = (&self.app, &self.machine);
        let length = match method {
            "POST" => {
                let body = body.map_or_else(|| "{}".to_owned(), Value::to_string);
                format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            _ => "\r\n".to_owned(),
        };
        let request = format!(
            "{method} /v1/apps/{app}/machines/{machine}{below} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// Status and body of an answer that ended with its connection.
fn read(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let body = body.get(4..)?;
    let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
    let (first, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = first.strip_prefix("http/1.")?.split(' ').nth(1)?.parse().ok()?;
    let chunked = fields.lines().any(|line| {
        line.strip_prefix("transfer-encoding:")
            .is_some_and(|value| value.trim() == "chunked")
    });
    let body = if chunked { joined(body)? } else { body.to_vec() };
    Some((status, body))
}

/// The chunks of a body, one after the other.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let (size, behind) = rest.split_at_checked(end)?;
        let size = std::str::from_utf8(size).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let behind = behind.get(2..)?;
        if size == 0 {
            return Some(whole);
        }
        let (chunk, behind) = behind.split_at_checked(size)?;
        whole.extend_from_slice(chunk);
        rest = behind.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let check = |answer: &str, expect: Option<(u16, &str)>| {
            let expect = expect.map(|(status, body)| (status, body.as_bytes().to_vec()));
            assert_eq!(read(answer.as_bytes()), expect, "{answer:?}");
        };
        check("HTTP/1.1 200 OK\r\n\r\n{}", Some((200, "{}")));
        check("HTTP/1.0 404 Not Found\r\na: b\r\n\r\nno", Some((404, "no")));
        let chunks =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        check(chunks, Some((200, "abcde")));
        for cut in 0..chunks.len() - 4 {
            let cut = read(&chunks.as_bytes()[..cut]);
            assert!(cut.is_none_or(|(_, body)| body == b"abcde"));
        }
        for wrong in ["", "HTTP/1.1 200", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            check(wrong, None);
        }
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            None,
        );
    }

    #[test]
    fn names_that_would_ask_for_another_path_are_none() {
        let temp = tempfile::tempdir().unwrap();
        let found = |app: &'static str| {
            Platform::at(temp.path(), move |name| {
                Some(if name == APP { app } else { "d891" }.to_owned())
            })
        };
        assert!(found("shop").is_some());
        for app in ["", "a/b", "a b", "..", "a\r\nb"] {
            assert!(found(app).is_none(), "{app:?}");
        }
        assert!(Platform::at(&temp.path().join("none"), |_| Some("x".to_owned())).is_none());
    }
}
