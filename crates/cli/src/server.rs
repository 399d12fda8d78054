//! The daemon that serves objects (`suijuris serve`), as other commands reach it: HTTP on its control socket or, with a token,
//! on an address.

mod events;

use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use suijuris_api::Problem;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::daemon::{Class, ClassList, Daemon, Object, ObjectList, PatchMemory, Signed, Terminate};
use suijuris_supervisor::serve::catalog::Catalog;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::Usage;

/// Names the daemon in the environment.
pub(crate) const VARIABLE: &str = "SUIJURIS_SERVER";

/// Names the file with the token of a daemon that is reached by its address.
const TOKEN_VARIABLE: &str = "SUIJURIS_API_TOKEN_FILE";

/// Bytes of a token's file at most.
const MAX_TOKEN: u64 = 4_096;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 << 20;

/// How long the daemon may take to answer: a wake waits for a workload that gets ready.
const WITHIN: Duration = Duration::from_secs(180);

/// The same where data is copied.
const SLOW: Duration = Duration::from_secs(6 * 3_600);

/// Objects asked for at once.
const PAGE: usize = 1_000;

static CHOSEN: OnceLock<Option<String>> = OnceLock::new();

/// Keeps what the command line names.
pub(crate) fn choose(named: Option<String>) {
    let _ = CHOSEN.set(named);
}

/// How a daemon is reached.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    /// By its control socket.
    Socket(PathBuf),
    /// By an address of its API.
    Address(Remote),
}

/// A daemon at an address.
#[derive(Clone)]
pub(crate) struct Remote {
    /// `HOST:PORT`.
    authority: String,
    token: Zeroizing<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.authority).finish()
    }
}

/// Why a daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// None is there.
    #[error("no daemon runs at {0}: start it with `suijuris serve`, or name another one with --server")]
    Absent(String, #[source] io::Error),
    /// It does not answer.
    #[error("the daemon at {0} does not answer: {1}")]
    Silent(String, String),
    /// It refused.
    #[error("{}{}", .0.title, detail(.0))]
    Refused(Box<Problem>),
    /// Another language.
    #[error("the daemon answers with something else than was asked for; is it of another version?")]
    Answer(#[from] serde_json::Error),
}

fn detail(problem: &Problem) -> String {
    if problem.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", problem.detail)
    }
}

/// This user's folder for what belongs to no single object.
pub(crate) fn data_folder() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let base =
        base.context("neither HOME nor XDG_DATA_HOME says where data belongs: set one, or name a directory")?;
    Ok(base.join("suijuris"))
}

/// The directory of the daemon that is meant where none is named.
pub(crate) fn default_root() -> anyhow::Result<PathBuf> {
    Ok(data_folder()?.join("serve"))
}

/// The directory of the daemon that is meant, where none runs.
pub(crate) fn named_root() -> anyhow::Result<PathBuf> {
    match CHOSEN.get().cloned().flatten() {
        None => default_root(),
        Some(named) if Path::new(&named).is_dir() => Ok(PathBuf::from(named)),
        Some(named) => Err(Usage(format!(
            "no daemon runs at `{named}`: start it, or name its directory"
        ))
        .into()),
    }
}

impl Server {
    /// The daemon that is named, or that of the default directory. Whether it runs is not asked.
    pub(crate) fn chosen() -> anyhow::Result<Self> {
        Ok(Self::Socket(match CHOSEN.get().cloned().flatten() {
            Some(named) if named.contains("://") => return Remote::named(&named).map(Self::Address),
            Some(named) => {
                let path = PathBuf::from(named);
                if path.is_dir() {
                    Catalog::control_socket(&path)
                } else {
                    path
                }
            }
            None => Catalog::control_socket(&default_root()?),
        }))
    }

    /// The daemon that is meant, if one runs there.
    pub(crate) fn running() -> anyhow::Result<Option<Self>> {
        let server = match Self::chosen() {
            Ok(server) => server,
            // Without a place for data there is no daemon that was not named.
            Err(error) if CHOSEN.get().cloned().flatten().is_some() => return Err(error),
            Err(_nowhere) => return Ok(None),
        };
        let runs = match &server {
            Self::Socket(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
            // Who names one by its address means that one, and wants to know why it does not answer.
            Self::Address(_) => true,
        };
        Ok(runs.then_some(server))
    }

    /// Where it is, for people.
    fn place(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Address(remote) => format!("http://{}", remote.authority),
        }
    }

    /// What it is.
    pub(crate) fn daemon(&self) -> Result<Daemon, ServerError> {
        self.get("/v1")
    }

    /// The object that people call so: an id, a name, or `CLASS/KEY`.
    pub(crate) fn object(&self, text: &str) -> Result<Object, ServerError> {
        self.get(&path_of(text))
    }

    /// The class that is called so there.
    pub(crate) fn class(&self, name: &str) -> Result<Option<Class>, ServerError> {
        let list: ClassList = self.get("/v1/classes")?;
        Ok(list.classes.into_iter().find(|class| class.class == name))
    }

    /// The object whose data is in this directory.
    pub(crate) fn object_in(&self, data: &Path) -> Option<Object> {
        let Self::Socket(_) = self else {
            // Its files are on another host.
            return None;
        };
        let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        let path = format!("/v1/objects?limit=1&data={}", encoded(data.to_str()?));
        let list: ObjectList = self.get(&path).ok()?;
        list.objects.into_iter().next()
    }

    /// All objects that the query asks for (`class=…&phase=…`).
    pub(crate) fn objects(&self, query: &str) -> Result<Vec<Object>, ServerError> {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let list: ObjectList = self.get(&format!("/v1/objects?limit={PAGE}&{query}{after}"))?;
            found.extend(list.objects);
            match list.next {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(found),
            }
        }
    }

    /// Asks an object what a running `up` would be asked.
    pub(crate) fn ask(&self, object: &Object, question: &ControlRequest) -> Result<Reply, ServerError> {
        let base = format!("/v1/objects/{}", object.object);
        let signed = |signed| Signed { signed };
        match question {
            // Its own route does that, and all that follows.
            ControlRequest::Depart { .. } => Ok(Reply::Error {
                code: "bad_request".to_owned(),
                message: "a daemon moves an object itself".to_owned(),
            }),
            ControlRequest::Status => {
                let daemon = self.daemon()?;
                Ok(Reply::Status {
                    phase: object.phase.clone(),
                    pid: daemon.pid,
                    url: object.url.clone(),
                    server: daemon.server,
                    paused: None,
                    holds: Default::default(),
                })
            }
            ControlRequest::Wake => self.post(&format!("{base}/wake"), &signed(None)),
            ControlRequest::Sleep => self.post(&format!("{base}/sleep"), &signed(None)),
            ControlRequest::Terminate { approvals } => {
                let approvals = approvals.clone();
                self.post(&format!("{base}/terminate"), &Terminate { approvals })
            }
            ControlRequest::Patch(patch) => {
                let patch = PatchMemory {
                    patch: patch.clone(),
                    signed: None,
                };
                self.call(&Method::PATCH, &format!("{base}/memory"), Some(&patch))
            }
            ControlRequest::Owner { signed: by, patch } => match (by.request.ask.as_str(), patch) {
                ("write", Some(patch)) => {
                    let patch = PatchMemory {
                        patch: patch.clone(),
                        signed: Some(by.clone()),
                    };
                    self.call(&Method::PATCH, &format!("{base}/memory"), Some(&patch))
                }
                ("sleep", _) => self.post(&format!("{base}/sleep"), &signed(Some(by.clone()))),
                _ => self.post(&format!("{base}/wake"), &signed(Some(by.clone()))),
            },
        }
    }

    /// Reads a document.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ServerError> {
        self.call(&Method::GET, path, None::<&()>)
    }

    /// Sends a document; its answer.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ServerError> {
        self.call(&Method::POST, path, Some(body))
    }

    /// As [`Server::post`], for what takes as long as data takes to be copied.
    pub(crate) fn post_slowly<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ServerError> {
        self.call_within(SLOW, &Method::POST, path, Some(body))
    }

    /// The daemon at this URL: `http://ADDRESS:PORT` with the token for it, or `unix:PATH` of its directory or control socket.
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        let Some(path) = url.strip_prefix("unix:") else {
            return Remote::named(url).map(Self::Address);
        };
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        Ok(Self::Socket(match path.is_dir() {
            true => Catalog::control_socket(&path),
            false => path,
        }))
    }

    /// Sends a file from `offset` on; its answer.
    pub(crate) fn put_file<T: DeserializeOwned>(
        &self,
        path: &str,
        file: &Path,
        offset: u64,
    ) -> anyhow::Result<T> {
        let shown = file.display();
        let mut sent = std::fs::File::open(file).with_context(|| format!("`{shown}` cannot be read"))?;
        let length = sent.metadata()?.len().saturating_sub(offset);
        sent.seek(io::SeekFrom::Start(offset))?;
        let request = Request::builder()
            .method(&Method::PUT)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length);
        let body = FileBody(sent).map_err(|error| error.to_string()).boxed();
        Ok(self.exchanged(SLOW, request, body)?)
    }

    /// Hears a stream of events until it ends: of each its number and its text.
    pub(crate) fn follow(
        &self,
        path: &str,
        last: Option<u64>,
        hear: impl FnMut(u64, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = Request::builder().method(Method::GET).uri(path);
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let request = self.prepared(request, Full::default().map_err(|never| match never {}).boxed())?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.map_err(|error| ServerError::Silent(self.place(), error.to_string()))?;
        tokio.block_on(self.hear(request, hear))
    }

    async fn hear(
        &self,
        request: Request<Sent>,
        hear: impl FnMut(u64, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let absent = |error| ServerError::Absent(self.place(), error);
        let silent = |why: String| ServerError::Silent(self.place(), why);
        // Ends with the stream.
        let mut carrying = JoinSet::new();
        let answer = match self {
            Self::Socket(path) => {
                let socket = UnixStream::connect(path).await.map_err(absent)?;
                begun(socket, request, &mut carrying).await
            }
            Self::Address(remote) => {
                let socket = TcpStream::connect(&remote.authority).await.map_err(absent)?;
                begun(socket, request, &mut carrying).await
            }
        };
        let answer = answer.map_err(silent)?;
        if answer.status().is_success() {
            return events::read(answer.into_body(), hear).await;
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| silent(error.to_string()))?.to_bytes();
        let problem = serde_json::from_slice(&body).map_err(ServerError::Answer)?;
        Err(ServerError::Refused(problem).into())
    }

    /// Replaces a document; its answer.
    pub(crate) fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ServerError> {
        self.call(&Method::PUT, path, Some(body))
    }

    /// Removes something.
    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ServerError> {
        self.call(&Method::DELETE, path, None::<&()>)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ServerError> {
        self.call_within(WITHIN, method, path, body)
    }

    fn call_within<T: DeserializeOwned>(
        &self,
        within: Duration,
        method: &Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ServerError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body)?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json");
        let body = Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed();
        self.exchanged(within, request, body)
    }

    fn exchanged<T: DeserializeOwned>(
        &self,
        within: Duration,
        request: hyper::http::request::Builder,
        body: Sent,
    ) -> Result<T, ServerError> {
        let silent = |why: String| ServerError::Silent(self.place(), why);
        let request = self.prepared(request, body)?;
        // A thread of its own: whoever asks may be in the middle of an event loop, which cannot wait for another.
        let asking = || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let tokio = tokio.map_err(|error| silent(error.to_string()))?;
            let answer = tokio.block_on(async { tokio::time::timeout(within, self.exchange(request)).await });
            answer.map_err(|_late| silent("it took too long".to_owned()))?
        };
        let answer = std::thread::scope(|scope| scope.spawn(asking).join());
        let (ok, bytes) = answer.map_err(|_panicked| silent("it could not be asked".to_owned()))??;
        if ok {
            return Ok(serde_json::from_slice(&bytes)?);
        }
        Err(ServerError::Refused(serde_json::from_slice(&bytes)?))
    }

    /// A request as this daemon takes it.
    fn prepared(
        &self,
        request: hyper::http::request::Builder,
        body: Sent,
    ) -> Result<Request<Sent>, ServerError> {
        let silent = |why: String| ServerError::Silent(self.place(), why);
        let request = request.header(header::HOST, self.host());
        let request = match self {
            Self::Socket(_) => request,
            Self::Address(remote) => {
                let shown = Zeroizing::new(format!("Bearer {}", remote.token.as_str()));
                let mut shown = header::HeaderValue::from_str(&shown)
                    .map_err(|_| silent("the token is none: a line of text is".to_owned()))?;
                shown.set_sensitive(true);
                request.header(header::AUTHORIZATION, shown)
            }
        };
        request.body(body).map_err(|error| silent(error.to_string()))
    }

    async fn exchange(&self, request: Request<Sent>) -> Result<(bool, Bytes), ServerError> {
        let silent = |why: String| ServerError::Silent(self.place(), why);
        let absent = |error| ServerError::Absent(self.place(), error);
        let answer = match self {
            Self::Socket(path) => answer(UnixStream::connect(path).await.map_err(absent)?, request).await,
            Self::Address(remote) => {
                let socket = TcpStream::connect(&remote.authority).await;
                answer(socket.map_err(absent)?, request).await
            }
        };
        answer.map_err(silent)
    }

    /// What it is called in requests.
    fn host(&self) -> &str {
        match self {
            Self::Socket(_) => "localhost",
            Self::Address(remote) => &remote.authority,
        }
    }
}

impl Remote {
    /// The daemon at this URL, and the token for it.
    fn named(url: &str) -> anyhow::Result<Self> {
        let authority = url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'))
            .filter(|rest| !rest.is_empty() && !rest.contains('/'));
        let Some(authority) = authority else {
            return Err(Usage(format!(
                "`{url}` is no daemon: write http://ADDRESS:PORT, the path of its control socket, or its directory"
            ))
            .into());
        };
        let Some(path) = std::env::var_os(TOKEN_VARIABLE) else {
            return Err(Usage(format!(
                "a daemon at an address asks for a token: name the file that has it in {TOKEN_VARIABLE}"
            ))
            .into());
        };
        let shown = Path::new(&path).display();
        let file =
            std::fs::File::open(&path).with_context(|| format!("the token `{shown}` cannot be read"))?;
        let mut token = Zeroizing::new(String::new());
        file.take(MAX_TOKEN)
            .read_to_string(&mut token)
            .with_context(|| format!("the token `{shown}` cannot be read"))?;
        Ok(Self {
            authority: authority.to_owned(),
            token: Zeroizing::new(token.trim().to_owned()),
        })
    }
}

/// What a request carries.
type Sent = BoxBody<Bytes, String>;

/// Bytes of a file that are read at once.
const CHUNK: usize = 256 << 10;

/// A file as a body; nobody else waits for the thread that reads it.
struct FileBody(std::fs::File);

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut bytes = vec![0; CHUNK];
        Poll::Ready(match self.0.read(&mut bytes) {
            Ok(0) => None,
            Ok(read) => {
                bytes.truncate(read);
                Some(Ok(Frame::data(Bytes::from(bytes))))
            }
            Err(error) => Some(Err(error)),
        })
    }
}

/// Sends a request over a fresh connection; whether all is well, and the body.
async fn answer(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Sent>,
) -> Result<(bool, Bytes), String> {
    // Ends with the question.
    let mut carrying = JoinSet::new();
    let answer = begun(socket, request, &mut carrying).await?;
    let ok = answer.status().is_success();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    Ok((ok, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// Sends a request over a fresh connection, which `carrying` carries; the head of its answer.
async fn begun(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Sent>,
    carrying: &mut JoinSet<Result<(), hyper::Error>>,
) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| error.to_string())?;
    carrying.spawn(connection);
    let answer = sender.send_request(request).await;
    answer.map_err(|error| error.to_string())
}

/// The route of an object that people call so.
pub(crate) fn path_of(text: &str) -> String {
    match text.split_once('/') {
        Some((class, key)) => format!("/v1/classes/{}/instances/{}", encoded(class), encoded(key)),
        None => format!("/v1/objects/{}", encoded(text)),
    }
}

/// Percent-encoded for a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}
