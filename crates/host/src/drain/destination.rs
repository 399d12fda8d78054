//! The other host of a move: where it is, how it is told, and the stream of a directory to it.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use zeroize::Zeroizing;

use crate::machine::effects::chain;

/// How long the other host may take to answer; it may have to pull an image.
const ANSWER_WITHIN: Duration = Duration::from_secs(660);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of a volume that are sent at once.
const CHUNK: usize = 64 << 10;

/// Where machines go.
#[derive(Clone)]
pub(crate) struct Destination {
    /// `http://HOST:PORT`.
    pub(super) to: Uri,
    pub(super) token: Zeroizing<String>,
}

/// What keeps a move from being finished.
pub(super) enum Trouble {
    /// The other host said no: nothing of the machine is there.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

impl Destination {
    /// That of an address and a token of the other host.
    ///
    /// # Errors
    /// The address is none.
    pub(crate) fn new(to: &str, token: &str) -> Result<Self, String> {
        let wrong = || format!("{to:?} is no address of a host: write http://HOST:4280");
        let uri: Uri = to.trim_end_matches('/').parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() || !matches!(uri.path(), "" | "/") {
            return Err(wrong());
        }
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "the token is empty or none: make one at the other host with `host token create --receive`"
                    .to_owned(),
            );
        }
        Ok(Self {
            to: uri,
            token: Zeroizing::new(token.to_owned()),
        })
    }

    pub(super) fn authority(&self) -> &str {
        self.to.authority().map_or("", http::uri::Authority::as_str)
    }

    /// Sends something; the answer's document.
    pub(super) async fn send(&self, method: Method, path: &str, body: Sent) -> Result<Value, Trouble> {
        let unknown = |why: &dyn std::fmt::Display| Trouble::Unknown(format!("{}: {why}", self.authority()));
        let exchange = async {
            let port = self.to.port_u16().unwrap_or(80);
            let host = self.to.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, port))
                .await
                .map_err(|error| unknown(&error))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| unknown(&error))?;
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header(http::header::HOST, "localhost")
                .header(
                    http::header::AUTHORIZATION,
                    format!("Bearer {}", self.token.as_str()),
                )
                .body(body)
                .map_err(|error| unknown(&error))?;
            let answered = async {
                let response = sender
                    .send_request(request)
                    .await
                    .map_err(|error| unknown(&chain(&error)))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
                let bytes = body.map_err(|error| unknown(&error))?.to_bytes();
                Ok((status, bytes))
            };
            tokio::pin!(answered);
            tokio::select! {
                answer = &mut answered => answer,
                ended = connection => match ended {
                    Err(error) => Err(unknown(&chain(&error))),
                    // What had come by then is read.
                    Ok(()) => answered.await,
                }
            }
        };
        let (status, bytes) = match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(answered) => answered?,
            Err(_) => return Err(unknown(&"no answer in time")),
        };
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let said = document.get("error").and_then(Value::as_str);
        let text = format!(
            "{} answered {}: {}",
            self.authority(),
            status.as_u16(),
            said.unwrap_or("nothing that is understood")
        );
        match status {
            status if status.is_success() => Ok(document),
            // Said only after a look at whether the machine has come.
            StatusCode::UNPROCESSABLE_ENTITY => Err(Trouble::Refused(text)),
            _ => Err(Trouble::Unknown(text)),
        }
    }

    pub(super) async fn tell(
        &self,
        machine: &str,
        what: &str,
        document: &impl Serialize,
    ) -> Result<bool, Trouble> {
        Ok(has_arrived(&self.say(machine, what, document).await?))
    }

    pub(super) async fn say(
        &self,
        machine: &str,
        what: &str,
        document: &impl Serialize,
    ) -> Result<Value, Trouble> {
        let body = serde_json::to_vec(document).map_err(|error| Trouble::Unknown(error.to_string()))?;
        let body = Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed();
        self.send(Method::POST, &format!("/arrivals/{machine}{what}"), body)
            .await
    }
}

pub(super) fn has_arrived(answer: &Value) -> bool {
    answer.get("arrived").and_then(Value::as_bool).unwrap_or_default()
}

pub(super) type Sent = BoxBody<Bytes, io::Error>;

/// The files of a volume, as `tar` writes them; broken off where it fails.
pub(super) struct Packed {
    tar: Child,
    output: ChildStdout,
    is_over: bool,
}

impl Packed {
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let mut command = Command::new("tar");
        command
            .args([
                "--create",
                "--sparse",
                "--numeric-owner",
                "--xattrs",
                "--file=-",
                "--directory",
            ])
            .arg(directory)
            .arg(".");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut tar = command.spawn()?;
        let output = tar.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            tar,
            output,
            is_over: false,
        })
    }
}

impl Body for Packed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; CHUNK];
        let mut room = ReadBuf::new(&mut chunk);
        let read = std::task::ready!(Pin::new(&mut this.output).poll_read(context, &mut room));
        let length = room.filled().len();
        match read {
            Ok(()) if length == 0 => {
                let waited = std::task::ready!(std::pin::pin!(this.tar.wait()).poll(context));
                this.is_over = true;
                match waited {
                    Ok(status) if status.success() => Poll::Ready(None),
                    Ok(status) => Poll::Ready(Some(Err(io::Error::other(format!("tar: {status}"))))),
                    Err(error) => Poll::Ready(Some(Err(error))),
                }
            }
            Ok(()) => {
                chunk.truncate(length);
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_an_address_of_a_host_and_a_token() {
        assert!(Destination::new("http://10.0.0.2:4280/", "sjm_x").is_ok());
        for (to, token) in [
            ("https://10.0.0.2:4280", "x"),
            ("10.0.0.2:4280", "x"),
            ("http://h/v1", "x"),
            ("http://h", ""),
            ("http://h", "a b"),
        ] {
            assert!(Destination::new(to, token).is_err(), "{to} {token}");
        }
    }
}
