//! A server that does what a test says, and an honest registry in memory where the test says nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::honest::Registry;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) content_type: String,
    pub(crate) if_match: Option<String>,
    pub(crate) range: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What goes back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) end: End,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Proper,
    /// It does not: nothing comes any more.
    Hangs,
    /// It does not: the last piece comes again and again.
    Repeats,
    /// The connection breaks.
    Breaks,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            pieces: vec![body.into()],
            end: End::Proper,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

struct Script {
    pieces: VecDeque<Bytes>,
    end: End,
    /// What was given so far has gone out.
    flushed: bool,
}

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let repeat = self.end == End::Repeats && self.pieces.len() == 1;
        let next = if repeat {
            self.pieces.front().cloned()
        } else {
            self.pieces.pop_front()
        };
        match (next, self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, End::Hangs) => Poll::Pending,
            (None, End::Breaks) if !self.flushed => {
                self.flushed = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            (None, End::Breaks) => Poll::Ready(Some(Err(std::io::Error::other("broken")))),
            (None, End::Proper | End::Repeats) => Poll::Ready(None),
        }
    }
}

type Lie = dyn Fn(&Seen) -> Option<Answer> + Send + Sync;

/// A running server; it ends when dropped.
pub(crate) struct Liar {
    pub(crate) address: String,
    pub(crate) shelf: Arc<Mutex<Registry>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Liar {
    /// Where `lie` says nothing, the server is an honest registry.
    pub(crate) async fn start(lie: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shelf = Arc::new(Mutex::new(Registry::default()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            listener,
            Arc::new(lie),
            Arc::clone(&shelf),
            Arc::clone(&seen),
        ));
        Self {
            address,
            shelf,
            seen,
            _tasks: tasks,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    listener: TcpListener,
    lie: Arc<Lie>,
    shelf: Arc<Mutex<Registry>>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (lie, shelf, seen) = (Arc::clone(&lie), Arc::clone(&shelf), Arc::clone(&seen));
        let service = service_fn(move |request: Request<Incoming>| {
            let (lie, shelf, seen) = (Arc::clone(&lie), Arc::clone(&shelf), Arc::clone(&seen));
            async move {
                let request = read(request).await;
                seen.lock().unwrap().push(request.clone());
                let answer = lie(&request).unwrap_or_else(|| shelf.lock().unwrap().answer(&request));
                Ok::<_, Infallible>(write(answer))
            }
        });
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn read(request: Request<Incoming>) -> Seen {
    let text = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    Seen {
        method: request.method().to_string(),
        path: request.uri().path_and_query().unwrap().to_string(),
        authorization: text("authorization"),
        content_type: text("content-type").unwrap_or_default(),
        if_match: text("if-match"),
        range: text("range"),
        body: match request.into_body().collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(_) => Vec::new(),
        },
    }
}

fn write(answer: Answer) -> Response<Script> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let script = Script {
        pieces: answer.pieces.into_iter().map(Bytes::from).collect(),
        end: answer.end,
        flushed: false,
    };
    response.body(script).unwrap()
}
