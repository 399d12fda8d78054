//! Firecracker's control channel: HTTP/1.1 over a Unix socket, one call at a time over one connection.
//!
//! A client for this one server: it writes each request whole, and reads answers with `Content-Length` and nothing else.
//! Calls and their fields are those of `src/firecracker/swagger/firecracker.yaml` of Firecracker's repository.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Time for an answer: a snapshot writes the machine's memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// Bytes of an answer's head at most.
const MAX_HEAD: u64 = 16 << 10;

/// Bytes of an answer's content at most.
const MAX_CONTENT: usize = 1 << 20;

/// Why Firecracker did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It refused.
    #[error("Firecracker refuses `{call}`: {why}")]
    Refused {
        /// Which call.
        call: String,
        /// In its words.
        why: String,
    },
    /// It says nothing.
    #[error("Firecracker does not answer `{0}`")]
    Silent(String),
    /// It is gone, or says what is no answer.
    #[error("the channel to Firecracker is broken at `{call}`")]
    Broken {
        /// Which call.
        call: String,
        /// How.
        source: io::Error,
    },
}

impl From<ApiError> for io::Error {
    fn from(error: ApiError) -> Self {
        Self::other(error)
    }
}

/// The channel.
#[derive(Debug)]
pub(super) struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::new(UnixStream::connect(socket).await?),
        })
    }

    /// Tells it something.
    pub(super) async fn put(&mut self, path: &str, content: Value) -> Result<(), ApiError> {
        self.call("PUT", path, Some(content)).await.map(drop)
    }

    /// Changes something that runs.
    pub(super) async fn patch(&mut self, path: &str, content: Value) -> Result<(), ApiError> {
        self.call("PATCH", path, Some(content)).await.map(drop)
    }

    /// Asks it something.
    pub(super) async fn get(&mut self, path: &str) -> Result<Value, ApiError> {
        self.call("GET", path, None).await
    }

    async fn call(&mut self, method: &str, path: &str, content: Option<Value>) -> Result<Value, ApiError> {
        let call = format!("{method} {path}");
        let content = content.map_or_else(String::new, |content| content.to_string());
        let head = format!(
            "{call} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            content.len()
        );
        let exchange = async {
            self.stream.write_all((head + &content).as_bytes()).await?;
            answer(&mut self.stream).await
        };
        let answered = timeout(ANSWER_WITHIN, exchange).await;
        let Ok(answered) = answered else {
            return Err(ApiError::Silent(call));
        };
        match answered {
            Err(source) => Err(ApiError::Broken { call, source }),
            Ok((200..300, content)) => Ok(content),
            Ok((status, content)) => {
                let why = content.get("fault_message").and_then(Value::as_str);
                let why = why.map_or_else(|| format!("status {status}"), |why| why.trim().to_owned());
                Err(ApiError::Refused { call, why })
            }
        }
    }
}

fn nonsense(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Status and content of the next answer.
async fn answer(stream: &mut BufReader<UnixStream>) -> io::Result<(u16, Value)> {
    let mut head = Vec::new();
    let mut limited = (&mut *stream).take(MAX_HEAD);
    while !head.ends_with(b"\r\n\r\n") {
        if limited.read_until(b'\n', &mut head).await? == 0 {
            return Err(match head.is_empty() {
                true => io::ErrorKind::UnexpectedEof.into(),
                false => nonsense("an answer whose head does not end"),
            });
        }
    }
    let head = String::from_utf8(head).map_err(|_| nonsense("an answer whose head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| {
        let mut words = line.split(' ');
        let is_http = words.next() == Some("HTTP/1.1");
        words.next()?.parse().ok().filter(|_| is_http)
    });
    let status = status.ok_or_else(|| nonsense("an answer without a status"))?;
    let mut length = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(nonsense("an answer in pieces"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value
                .trim()
                .parse()
                .map_err(|_| nonsense("an answer without a length"))?;
        }
    }
    if length > MAX_CONTENT {
        return Err(nonsense("an answer that is too long"));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    match content.is_empty() {
        true => Ok((status, Value::Null)),
        false => Ok((status, serde_json::from_slice(&content)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call comes to where this is answered.
    async fn answered(said: &'static str) -> Result<Value, ApiError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut api = Api {
            stream: BufReader::new(ours),
        };
        let play = async move {
            let mut theirs = BufReader::new(theirs);
            let mut heard = Vec::new();
            while !heard.ends_with(b"{\"a\":1}") {
                let mut byte = [0];
                theirs.read_exact(&mut byte).await.unwrap();
                heard.extend(byte);
            }
            theirs.write_all(said.as_bytes()).await.unwrap();
            heard
        };
        let (heard, answer) = tokio::join!(play, api.call("PUT", "/x", Some(serde_json::json!({"a": 1}))));
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("PUT /x HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains("Content-Length: 7\r\n"), "{heard}");
        answer
    }

    #[tokio::test]
    async fn answers_are_read_and_refusals_keep_their_words() {
        let none =
            answered("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(none.unwrap(), Value::Null);
        let some = answered("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"b\":2}").await;
        assert_eq!(some.unwrap()["b"], 2);
        let refused =
            answered("HTTP/1.1 400 Bad Request\r\nContent-Length: 22\r\n\r\n{\"fault_message\":\"no\"}")
                .await;
        assert_eq!(
            refused.unwrap_err().to_string(),
            "Firecracker refuses `PUT /x`: no"
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_at_once() {
        for said in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 what\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{x",
        ] {
            let error = answered(said).await.unwrap_err();
            assert!(matches!(error, ApiError::Broken { .. }), "{said}: {error}");
        }
    }
}
