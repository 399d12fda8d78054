//! Checks of machines that run: each asks a port of its machine, in the machine's own network, at its interval, and says how that went.
//! They decide what the proxy uses; they start and stop nothing.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::{Span, now_ms, rfc3339};
use crate::config::{Check, MachineConfig};

/// Between two checks, where none is said.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long one may take, where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer that are kept, and that are read.
const MAX_OUTPUT: usize = 256;
const MAX_BODY: usize = 64 << 10;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was not made yet.
    Waiting,
    Passing,
    Critical,
}

/// A check, and how it went last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    name: String,
    status: Status,
    output: String,
    updated_ms: u64,
    /// The service that it decides on; none for one of the whole machine.
    service: Option<u32>,
    /// Whether the whole machine is left out while it fails.
    readiness: bool,
}

/// All checks of a machine.
pub(crate) type Results = Arc<Vec<Checked>>;

impl Checked {
    /// As clients see it.
    pub(crate) fn shown(&self) -> Value {
        let status = match self.status {
            Status::Waiting => "warning",
            Status::Passing => "passing",
            Status::Critical => "critical",
        };
        json!({"name": self.name, "status": status, "output": self.output, "updated_at": rfc3339(self.updated_ms)})
    }
}

/// Whether a machine may be used for the service at `internal_port`. One that was not checked yet may: a request that started it waits
/// for nothing else.
pub(crate) fn is_healthy(results: &[Checked], internal_port: u32) -> bool {
    let decides = |checked: &&Checked| checked.readiness || checked.service == Some(internal_port);
    results
        .iter()
        .filter(decides)
        .all(|checked| checked.status != Status::Critical)
}

/// A check that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    name: String,
    check: Check,
    port: u16,
    service: Option<u32>,
}

/// The checks of a config.
pub(crate) fn planned(config: &MachineConfig) -> Vec<Planned> {
    let mut all = Vec::new();
    for (name, check) in config.checks.iter().flatten() {
        if let Some(port) = check.port {
            all.push(Planned {
                name: name.clone(),
                check: check.clone(),
                port,
                service: None,
            });
        }
    }
    for service in config.services.iter().flatten() {
        for check in service.checks.iter().flatten() {
            let port = check
                .port
                .or_else(|| u16::try_from(service.internal_port).ok())
                .unwrap_or_default();
            all.push(Planned {
                name: format!("servicecheck-{:02}-{}-{port}", all.len(), check.kind_of()),
                check: check.clone(),
                port,
                service: Some(service.internal_port),
            });
        }
    }
    all
}

impl Planned {
    fn waiting(&self) -> Checked {
        Checked {
            name: self.name.clone(),
            status: Status::Waiting,
            output: "waiting for the first check".to_owned(),
            updated_ms: now_ms(),
            service: self.service,
            readiness: self.check.kind.as_deref() == Some("readiness"),
        }
    }

    fn span(span: Option<Span>, default: Duration) -> Duration {
        span.map_or(default, |span| Duration::from_millis(span.ms()))
    }

    async fn once(&self, connect: &Connect) -> Result<String, String> {
        let check = async {
            let stream = connect(self.port)
                .await
                .map_err(|error| format!("port {}: {error}", self.port))?;
            if self.check.kind_of() == "tcp" {
                return Ok(format!("port {} takes connections", self.port));
            }
            self.ask(stream).await
        };
        let within = Self::span(self.check.timeout, TIMEOUT);
        tokio::time::timeout(within, check)
            .await
            .unwrap_or_else(|_| Err(format!("nothing came within {} ms", within.as_millis())))
    }

    async fn ask(&self, stream: TcpStream) -> Result<String, String> {
        let told = |error: &dyn std::fmt::Display| format!("port {}: {error}", self.port);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
        let method: Method = self
            .check
            .method
            .as_deref()
            .unwrap_or("GET")
            .parse()
            .unwrap_or_default();
        let path = self.check.path.as_deref().unwrap_or("/");
        let mut request = Request::builder().method(method).uri(path);
        let headers = self.check.header_pairs();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", format!("127.0.0.1:{}", self.port));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| told(&error))?;
        // Whether it keeps the connection or closes it is its own affair.
        let mut carried = JoinSet::new();
        carried.spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        let status = response.status();
        // What cannot be read of it changes nothing: the status is what counts.
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(body.get(..MAX_OUTPUT).unwrap_or(&body)).into_owned();
        let said = format!("{status}: {text}");
        if status.is_success() { Ok(said) } else { Err(said) }
    }
}

/// How a port of the machine is reached.
pub(crate) type Connect = Arc<dyn Fn(u16) -> Connecting + Send + Sync>;
/// A connection on its way.
pub(crate) type Connecting = std::pin::Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>>;

/// Makes the checks until what is returned is dropped.
pub(crate) fn run(checks: Vec<Planned>, connect: &Connect, results: &watch::Sender<Results>) -> JoinSet<()> {
    results.send_replace(Arc::new(checks.iter().map(Planned::waiting).collect()));
    let mut tasks = JoinSet::new();
    for (number, check) in checks.into_iter().enumerate() {
        let (connect, results) = (Arc::clone(connect), results.clone());
        tasks.spawn(async move {
            tokio::time::sleep(Planned::span(check.check.grace_period, Duration::ZERO)).await;
            loop {
                let went = check.once(&connect).await;
                results.send_if_modified(|all| set(all, number, went));
                tokio::time::sleep(Planned::span(check.check.interval, INTERVAL)).await;
            }
        });
    }
    tasks
}

fn set(all: &mut Results, number: usize, went: Result<String, String>) -> bool {
    let (status, output) = match went {
        Ok(output) => (Status::Passing, output),
        Err(output) => (Status::Critical, output),
    };
    let Some(checked) = Arc::make_mut(all).get_mut(number) else {
        return false;
    };
    let changed = checked.status != status;
    (checked.status, checked.output, checked.updated_ms) = (status, output, now_ms());
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(config: Value) -> Vec<Planned> {
        let mut with_image = config;
        with_image["image"] = json!("x");
        planned(&MachineConfig::read(with_image).unwrap())
    }

    #[test]
    fn checks_of_services_and_of_the_machine_are_named_and_decide_what_they_are_for() {
        let all = checks(json!({
            "checks": {"ready": {"type": "tcp", "port": 1, "kind": "readiness"}, "note": {"type": "tcp", "port": 2}},
            "services": [{"internal_port": 80, "checks": [{"type": "http"}, {"type": "tcp", "port": 81}]}, {"internal_port": 90, "checks": [{"type": "tcp"}]}],
        }));
        let names: Vec<(&str, u16)> = all
            .iter()
            .map(|check| (check.name.as_str(), check.port))
            .collect();
        assert_eq!(
            names,
            [
                ("note", 2),
                ("ready", 1),
                ("servicecheck-02-http-80", 80),
                ("servicecheck-03-tcp-81", 81),
                ("servicecheck-04-tcp-90", 90)
            ]
        );
        let mut results: Results = Arc::new(all.iter().map(Planned::waiting).collect());
        assert!(is_healthy(&results, 80), "not checked yet");
        assert!(set(&mut results, 2, Err("no".to_owned())) && !set(&mut results, 2, Err("again".to_owned())));
        assert!(!is_healthy(&results, 80) && is_healthy(&results, 90));
        assert!(set(&mut results, 2, Ok("yes".to_owned())) && set(&mut results, 0, Err("no".to_owned())));
        assert!(is_healthy(&results, 80), "for information alone");
        assert!(set(&mut results, 1, Err("no".to_owned())));
        assert!(!is_healthy(&results, 80) && !is_healthy(&results, 90) && !is_healthy(&results, 1));
        assert_eq!(results[2].shown()["status"], "passing");
    }
}
