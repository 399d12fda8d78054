//! Who starts machines: nobody here, a command, or a Machines API. A waker only starts; whether the object wakes is
//! the object's own decision, which shows in its mark.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::process::Stdio;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use suijuris_core::ObjectId;
use tokio::net::TcpStream;

use crate::secret::Secret;

/// What stands for the object's id in commands and URLs.
const PLACE: &str = "{object}";

/// Bytes of an API's answer that are read at most.
const ANSWER_BYTES: usize = 64 << 10;

/// Bytes of a command's complaint that are passed on at most.
const COMPLAINT_BYTES: usize = 512;

/// How a machine is started: resolves when it was.
pub type Starting<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Why no machine was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command cannot be run.
    #[error("the wake command cannot be run")]
    Command(#[source] std::io::Error),
    /// It failed.
    #[error("the wake command ended with {status}: {complaint}")]
    Failed {
        /// How it ended.
        status: String,
        /// The end of what it said on stderr.
        complaint: String,
    },
    /// The API cannot be reached.
    #[error("the Machines API at {at} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        at: String,
        /// What went wrong.
        why: String,
    },
    /// The API refused.
    #[error("the Machines API answers {status}: {body}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of what it says.
        body: String,
    },
    /// The URL of the configuration is none.
    #[error(
        "the Machines API's URL cannot be used: {0}; write it as in http://HOST:PORT/v1/apps/APP/machines/{PLACE}"
    )]
    Url(String),
}

/// Starts the machine of an object.
pub trait Waker: fmt::Debug + Send + Sync {
    /// Whether it starts machines at all; where not, whoever is permitted passes at once.
    fn starts(&self) -> bool {
        true
    }

    /// Starts the machine of `object`. Cancelled by being dropped; a start under way may then still happen.
    fn start(&self, object: ObjectId) -> Starting<'_>;
}

/// Somebody else watches traffic and inbox, `suijuris up` for one: nothing is started from here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elsewhere;

impl Waker for Elsewhere {
    fn starts(&self) -> bool {
        false
    }

    fn start(&self, _: ObjectId) -> Starting<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Runs a program; `{object}` in an argument stands for the id. It ends when the machine was started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
}

impl Waker for Command {
    fn start(&self, object: ObjectId) -> Starting<'_> {
        Box::pin(async move {
            let id = object.to_string();
            let mut argv = self.argv.iter().map(|argument| argument.replace(PLACE, &id));
            let program = argv.next().unwrap_or_default();
            let output = tokio::process::Command::new(program)
                .args(argv)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .output()
                .await
                .map_err(Error::Command)?;
            if output.status.success() {
                return Ok(());
            }
            let start = output.stderr.len().saturating_sub(COMPLAINT_BYTES);
            let end = output.stderr.get(start..).unwrap_or_default();
            Err(Error::Failed {
                status: output.status.to_string(),
                complaint: String::from_utf8_lossy(end).trim().to_owned(),
            })
        })
    }
}

/// Starts machines over a Machines API, in clear text: for an API on the host or in a private network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// The machine of an object: `http://HOST:PORT/v1/apps/APP/machines/{object}`; an exact one in `machines` goes first.
    pub url: String,
    /// Ids of machines by object, which stand for `{object}` in the URL.
    #[serde(default)]
    pub machines: std::collections::BTreeMap<String, String>,
    /// Bearer token.
    #[serde(default)]
    pub token: Option<Secret>,
    /// How long the API is asked to wait for the machine to have started, seconds.
    #[serde(default = "sixty")]
    pub wait_s: u32,
}

const fn sixty() -> u32 {
    60
}

impl Machines {
    /// The API with this URL, no token, and machines called like their objects.
    #[must_use]
    pub const fn at(url: String) -> Self {
        Self {
            url,
            machines: std::collections::BTreeMap::new(),
            token: None,
            wait_s: sixty(),
        }
    }

    fn machine(&self, object: ObjectId) -> String {
        let id = object.to_string();
        let machine = self.machines.get(&id).unwrap_or(&id);
        self.url.replace(PLACE, machine)
    }

    async fn ask(&self, method: Method, url: &str) -> Result<(), Error> {
        let uri: Uri = url.parse().map_err(|_| Error::Url(url.to_owned()))?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let authority = authority.ok_or_else(|| Error::Url(url.to_owned()))?.clone();
        let unreachable = |why: String| Error::Unreachable {
            at: authority.to_string(),
            why,
        };
        let address = (
            authority.host().trim_matches(['[', ']']),
            authority.port_u16().unwrap_or(80),
        );
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority.as_str());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request
            .body(Full::new(Bytes::new()))
            .map_err(|error| Error::Url(error.to_string()))?;
        let exchange = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
            if status.is_success() {
                return Ok(());
            }
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let shown = body.get(..body.len().min(COMPLAINT_BYTES)).unwrap_or_default();
            Err(Error::Refused {
                status: status.as_u16(),
                body: String::from_utf8_lossy(shown).trim().to_owned(),
            })
        };
        tokio::pin!(exchange);
        // The connection is driven beside the exchange and ends with it.
        let (mut connection, mut over) = (std::pin::pin!(connection), false);
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                _ = &mut connection, if !over => over = true,
            }
        }
    }
}

impl Waker for Machines {
    fn start(&self, object: ObjectId) -> Starting<'_> {
        Box::pin(async move {
            let machine = self.machine(object);
            self.ask(Method::POST, &format!("{machine}/start")).await?;
            let wait = format!("{machine}/wait?state=started&timeout={}", self.wait_s);
            self.ask(Method::GET, &wait).await
        })
    }
}

/// A waker as configuration names it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// [`Elsewhere`].
    #[default]
    None,
    /// [`Command`].
    Command(Command),
    /// [`Machines`].
    Machines(Machines),
}

impl Choice {
    /// The waker chosen.
    #[must_use]
    pub fn waker(self) -> Box<dyn Waker> {
        match self {
            Self::None => Box::new(Elsewhere),
            Self::Command(command) => Box::new(command),
            Self::Machines(machines) => Box::new(machines),
        }
    }
}
