//! The API's listener: HTTP/1.1 and HTTP/2, bounded in time and number, with the headers that every reply has.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn_with_state};
use axum::serve::ListenerExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::net::{TcpListener, UnixListener};

use super::error::{ApiError, refused};
use crate::audit::{Entry, Who};
use crate::clock::now_ms;
use crate::connections;
use crate::host::Host;
use crate::ids::{self, hex, random};

/// Connections at one time.
const MAX_CONNECTIONS: usize = 4_096;
/// Connections of the control socket at one time.
const MAX_LOCAL_CONNECTIONS: usize = 256;

/// Serves the Machines API on `listener` until it is dropped.
pub async fn serve(host: Host, listener: TcpListener) {
    let region: Arc<str> = host
        .0
        .options
        .regions
        .first()
        .map_or("local", String::as_str)
        .into();
    let proxy_port = host.0.proxy_port.get().copied();
    #[cfg(feature = "traces")]
    let traced = host.clone();
    let router: Router = super::router(host.clone())
        .merge(crate::arrivals::router(host))
        .layer(from_fn_with_state((region, proxy_port), around));
    #[cfg(feature = "traces")]
    let router = match traced.0.tracer.get() {
        Some(tracer) => router.layer(from_fn_with_state(tracer.clone(), spanned)),
        None => router,
    };
    // Answers are small: they go at once.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    connections::serve(listener, MAX_CONNECTIONS, || Some(router.clone())).await;
}

/// Serves the control socket of the data directory, made anew, until it is dropped.
///
/// # Errors
/// Where the socket cannot be made.
pub fn serve_control(host: &Host) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = host.0.options.data.join(super::control::SOCKET);
    // The state's lock says that no other daemon has it.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let router = super::control::router(host.clone()).layer(from_fn_with_state(host.clone(), audited));
    Ok(connections::serve(listener, MAX_LOCAL_CONNECTIONS, move || {
        Some(router.clone())
    }))
}

/// Keeps what whoever runs the host asked.
async fn audited(
    axum::extract::State(host): axum::extract::State<Host>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let entry = Entry::made(Who::Operator, request.method(), request.uri().path());
    let response = next.run(request).await;
    if let Some(entry) = entry.ended(response.status()) {
        host.0.audit.note(entry).await;
    }
    response
}

/// What every call passes: the host that it means, and the headers of its reply.
async fn around(
    axum::extract::State((region, proxy_port)): axum::extract::State<(Arc<str>, Option<u16>)>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let mut response = if is_for_us(&request) {
        next.run(request).await
    } else {
        let text = "this host answers to localhost, _api.internal and addresses; another name in Host is refused, since a web page could send it";
        refused(&ApiError::new(StatusCode::MISDIRECTED_REQUEST, text))
    };
    let headers = response.headers_mut();
    let mut insert = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    if let Some(port) = proxy_port {
        insert("suijuris-proxy-port", port.to_string());
    }
    let id = ids::ulid(now_ms()).unwrap_or_default();
    insert("fly-request-id", format!("{id}-{region}"));
    insert(
        "fly-trace-id",
        random::<16>().map(|bytes| hex(&bytes)).unwrap_or_default(),
    );
    insert(
        "fly-span-id",
        random::<8>().map(|bytes| hex(&bytes)).unwrap_or_default(),
    );
    insert(
        "server",
        concat!("suijuris/", env!("CARGO_PKG_VERSION")).to_owned(),
    );
    insert("via", "1.1 suijuris".to_owned());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A span for each call, whose ids the reply has.
#[cfg(feature = "traces")]
async fn spanned(
    axum::extract::State(tracer): axum::extract::State<suijuris_proxy::traces::Tracer>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let said = request.headers().get(suijuris_proxy::traces::FIELD);
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let span = tracer.begin(format!("{method} API"), said.map(HeaderValue::as_bytes));
    let span = span.with("http.request.method", method).with("url.path", path);
    let mut response = next.run(request).await;
    span.answered(response.status().as_u16());
    let (trace, id) = span.ids();
    for (name, value) in [("fly-trace-id", trace), ("fly-span-id", id)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Whether a request means this host: a name that others control could be made to lead here (DNS rebinding).
fn is_for_us(request: &Request) -> bool {
    let named = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let authority = request
        .uri()
        .authority()
        .map(http::uri::Authority::as_str)
        .or(named);
    let Some(authority) = authority else { return true };
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.parse::<IpAddr>().is_ok()
        || ["localhost", "_api.internal"].contains(&host.to_ascii_lowercase().as_str())
}
