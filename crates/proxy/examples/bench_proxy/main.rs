//! HTTP through the host's proxy, beside the same server directly and behind nginx, HAProxy and Envoy.
//!
//! `bench_proxy clear`: HTTP/1.1 in clear text. `tls`: HTTP/1.1 with TLS. `http2`: HTTP/2 with TLS. `handshakes`: a handshake for each
//! request. `idle`: 10,000 connections that say nothing, and whether others are served meanwhile. `bench_proxy serve PORT`: the
//! server behind all of them. `bench_proxy proxy UPSTREAM PORT FOLDER`: the proxy, with the certificate in FOLDER.
//!
//! Each proxy has one worker and keeps its connections to the server.

mod idle;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use suijuris_edge::tls::Source;
use suijuris_proxy::fleet::{
    App, Boxed, Counts, Fleet, Machine, Port, Rest, Service, Snapshot, StartError, State,
};
use suijuris_proxy::load::Load;
use suijuris_proxy::{Entry, Key, Options, Proxy};
use suijuris_testkit::bench::ways::{self, Way};
use suijuris_testkit::bench::{
    Report, Running, Settings, Traffic, allowed_cpus, await_port, free_port, peers, pin, server,
};
use tokio::net::TcpStream;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, upstream, port, folder] = arguments.as_slice()
        && command == "proxy"
    {
        return proxy(upstream.parse()?, port.parse()?, Path::new(folder));
    }
    if let Some(served) = server::as_asked() {
        return Ok(served?);
    }
    let what = arguments.first().map_or("", String::as_str);
    let (scheme, traffic) = match what {
        "idle" => return idle::measure(&Settings::from_env()),
        "clear" => ("http", Traffic::Kept),
        "tls" => ("https", Traffic::Kept),
        "http2" => ("https", Traffic::Http2),
        "handshakes" => ("https", Traffic::Fresh),
        _ => return Err("one of clear, tls, http2, handshakes, idle".into()),
    };
    measure(what, scheme, traffic, &Settings::from_env())
}

/// One machine, always started.
#[derive(Debug)]
struct One {
    now: Arc<Snapshot>,
    at: SocketAddr,
}

impl Fleet for One {
    fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now)
    }

    fn start(&self, _machine: &str) -> Boxed<std::result::Result<(), StartError>> {
        Box::pin(async { Ok(()) })
    }

    fn rest(&self, _machine: &str, _how: Rest) -> Boxed<std::result::Result<(), StartError>> {
        Box::pin(async { Ok(()) })
    }

    fn connect(&self, _machine: &str, _port: u16) -> Boxed<io::Result<TcpStream>> {
        let at = self.at;
        Box::pin(TcpStream::connect(at))
    }
}

fn one(upstream: u16) -> One {
    let port = |number, tls| Port {
        from: number,
        to: number,
        http: true,
        tls,
        ..Port::default()
    };
    let service = Service {
        internal_port: upstream,
        ports: vec![port(80, false), port(443, true)],
        counts: Counts::Requests,
        soft: 1_000,
        hard: None,
        autostart: true,
        autostop: None,
        min_running: 0,
        healthy: true,
        hook: None,
        tells_tls: false,
        load: Arc::new(Load::default()),
    };
    let machine = Machine {
        id: "one".into(),
        region: "local".into(),
        state: State::Started,
        cordoned: false,
        primary_region: "local".into(),
        services: vec![Arc::new(service)],
    };
    let app = App {
        name: "a".into(),
        org: "o".into(),
        network: "default".into(),
        machines: vec![Arc::new(machine)],
    };
    let now = Snapshot {
        apps: HashMap::from([("a".into(), Arc::new(app))]),
        addresses: HashMap::from([(Ipv4Addr::LOCALHOST.into(), "a".into())]),
        ..Snapshot::default()
    };
    One {
        now: Arc::new(now),
        at: (Ipv4Addr::LOCALHOST, upstream).into(),
    }
}

/// Serves until it is killed.
fn proxy(upstream: u16, port: u16, folder: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let entry = Entry {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, port))?,
            port: None,
            region: "local".into(),
            proxy_header: false,
        };
        let mut options = Options::new(Key::new([0; 32]), Duration::from_secs(1));
        options.autostop = None;
        let certificate = certificate(folder);
        options.tls = Some(Source::Files {
            certificate: certificate.chain,
            key: certificate.key,
        });
        let _serving = Proxy::serve(Arc::new(one(upstream)), options, &[entry])?;
        std::future::pending::<Result<()>>().await
    })
}

/// Where the certificate of all proxies lies.
fn certificate(folder: &Path) -> peers::Certificate {
    peers::Certificate {
        chain: folder.join("chain.pem"),
        key: folder.join("key.pem"),
        both: folder.join("both.pem"),
    }
}

fn certify(folder: &Path) -> Result<peers::Certificate> {
    let key = rcgen::KeyPair::generate()?;
    let chain = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let (chain, key) = (chain.pem(), key.serialize_pem());
    let files = certificate(folder);
    std::fs::write(&files.chain, &chain)?;
    std::fs::write(&files.key, &key)?;
    std::fs::write(&files.both, format!("{chain}{key}"))?;
    Ok(files)
}

/// The proxy of this program before `upstream`.
fn ours(folder: &Path, upstream: u16) -> Result<(u16, Running)> {
    let port = free_port()?;
    let itself = Command::new(std::env::current_exe()?)
        .args(["proxy", &upstream.to_string(), &port.to_string()])
        .arg(folder)
        .stdin(Stdio::null())
        .spawn()?;
    let ours = Running(itself);
    await_port(port)?;
    Ok((port, ours))
}

/// All ways to one server, in clear text or with TLS.
fn ways(folder: &Path, scheme: &str, report: &mut Report) -> Result<(Vec<Way>, Vec<Running>)> {
    let certificate = certify(folder)?;
    let tls = (scheme == "https").then_some(&certificate);
    let (upstream, server) = server::spawn()?;
    let (port, ours) = ours(folder, upstream)?;
    let mut ways = vec![Way::past("proxy", scheme, port, &ours)?];
    if tls.is_none() {
        ways.push(Way::direct("direct", scheme, upstream));
    }
    let mut running = vec![server, ours];
    let envoy = peers::envoy(folder, upstream, None, tls);
    for (name, peer) in [
        ("nginx", peers::nginx(folder, upstream, tls)),
        ("HAProxy", peers::haproxy(folder, upstream, tls)),
        ("Envoy", envoy),
    ] {
        match peer {
            Ok(peer) => {
                ways.push(Way::past(name, scheme, peer.port, &peer.running)?);
                running.push(peer.running);
            }
            Err(error) if name == "Envoy" => report.note(format!(
                "Envoy was left out ({error}): run `sh tools/setup --bench`"
            )),
            Err(error) => return Err(format!("{name}: {error}").into()),
        }
    }
    Ok((ways, running))
}

fn measure(what: &str, scheme: &str, traffic: Traffic, settings: &Settings) -> Result<()> {
    pin(0, allowed_cpus()?.get(..1).ok_or("no CPU")?)?;
    let mut report = Report::new(&format!("proxy-{what}"), settings);
    let folder = tempfile::tempdir()?;
    let (ways, _running) = ways(folder.path(), scheme, &mut report)?;
    let budgets = |peer: &str| match peer {
        "nginx" => [None, Some(1.0)],
        _ => [None; 2],
    };
    // A CPU second is the same wherever the load runs: one place is enough.
    ways::compare(
        &mut report,
        settings,
        &format!("{what}, "),
        traffic,
        (&ways, &["one CPU"]),
        &budgets,
    )?;
    ways::note(&mut report, settings);
    report.publish(settings)?;
    Ok(())
}
