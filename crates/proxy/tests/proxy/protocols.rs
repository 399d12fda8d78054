//! What is spoken through the proxy beside plain HTTP/1.1.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use suijuris_edge::authority::{self, Authority};
use suijuris_edge::tls::Source;
use suijuris_edge::trust::{Trust, network};
use suijuris_proxy::fleet::{Port, State};

use crate::rig::{Rig, echo, machine, ok, read, server};

/// One request over HTTP/2 in clear text.
pub(crate) fn http2(at: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = shaken.await.unwrap();
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("http://a.localhost{path}"))
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let asked = async {
            let response = sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        tokio::select! {
            answer = asked => answer,
            _ = connection => panic!("the connection ended"),
        }
    })
}

// proves F3
#[test]
fn http2_to_a_machine_that_speaks_http1() {
    let mut rested = machine("one", echo("one"));
    rested.state = State::Resting;
    let rig = Rig::new(vec![rested]);
    let (status, body) = http2(rig.at, "POST", "/x?y", "hello");
    assert_eq!(status, 200);
    assert!(
        body.starts_with("one\nPOST /x?y HTTP/1.1") && body.ends_with("\nhello"),
        "{body}"
    );
    assert!(
        body.contains("via: 2 suijuris") && body.contains("fly-client-ip: 127.0.0.1"),
        "{body}"
    );
    assert_eq!(rig.starts(), 1);
}

// proves F3
#[test]
fn http2_to_a_machine_that_speaks_it_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service =
                    hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                        let text = format!("{:?} {}", request.version(), request.uri());
                        Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(Bytes::from(text))))
                    });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = serving.serve_connection(TokioIo::new(stream), service).await;
            }
        });
    });
    let mut one = machine("one", at);
    one.ports[0].h2c = true;
    let rig = Rig::new(vec![one]);
    let (status, body) = http2(rig.at, "GET", "/x", "");
    assert_eq!((status, body.as_str()), (200, "HTTP/2.0 http://a.localhost/x"));
    let reply = rig.get("a.localhost", "/", "");
    assert!(reply.status == 505 && reply.has("http_version"), "{reply:?}");
}

// proves F3
#[test]
fn an_upgraded_connection_passes_bytes_both_ways_even_to_a_machine_that_slept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(String::from_utf8_lossy(&head).contains("upgrade: websocket"));
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            )
            .unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        bytes.reverse();
        stream.write_all(&bytes).unwrap();
    });
    let mut rested = machine("one", at);
    rested.state = State::Resting;
    let rig = Rig::new(vec![rested]);
    let mut stream = rig.connect();
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        .unwrap();
    let reply = read(stream);
    assert_eq!((reply.status, reply.body.as_str()), (101, "olleh"), "{reply:?}");
}

fn raw(handlers: impl Fn(&mut Port)) -> Vec<Port> {
    let mut port = Port {
        from: 5432,
        to: 5432,
        ..Port::default()
    };
    handlers(&mut port);
    vec![port]
}

/// Answers each connection with what it got, reversed, once the client has ended.
fn reverser() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes.reverse();
            stream.write_all(&bytes).unwrap();
        }
    });
    at
}

fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // A reset ends it, too.
    let _ended = stream.read_to_end(&mut answer);
    answer
}

// proves F3
#[test]
fn raw_bytes_start_the_one_app_that_serves_the_port() {
    let mut one = machine("one", reverser());
    (one.ports, one.state) = (raw(|_| {}), State::Resting);
    let rig = Rig::at_port(vec![one.clone()], Some(5432), |_| {});
    assert_eq!(exchange(rig.connect(), b"hello"), b"olleh");
    assert_eq!(rig.starts(), 1);
    let mut other = machine("two", reverser());
    (other.ports, other.app) = (raw(|_| {}), "b");
    let rig = Rig::at_port(vec![one, other], Some(5432), |_| {});
    let answer = exchange(rig.connect(), b"hello");
    assert!(
        !answer.ends_with(b"olleh"),
        "two apps serve the port: nobody knows which is meant"
    );
    assert_eq!(rig.starts(), 0);
}

// proves F3
#[test]
fn a_machine_is_told_by_a_proxy_header_who_asks() {
    let header = b"PROXY TCP4 127.0.0.1 127.0.0.1 0 ";
    let mut one = machine("one", reverser());
    one.ports = raw(|port| port.proxy_proto = Some(1));
    let rig = Rig::at_port(vec![one.clone()], Some(5432), |_| {});
    let mut told = exchange(rig.connect(), b"hello");
    told.reverse();
    assert!(
        told.starts_with(header) && told.ends_with(b"\r\nhello"),
        "{}",
        told.escape_ascii()
    );
    one.ports = raw(|port| port.proxy_proto = Some(2));
    let rig = Rig::at_port(vec![one.clone()], Some(5432), |_| {});
    let mut told = exchange(rig.connect(), b"hello");
    told.reverse();
    assert!(
        told.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11"),
        "{}",
        told.escape_ascii()
    );
    // What a trusted proxy says is passed on.
    one.ports = raw(|port| port.proxy_proto = Some(1));
    let trusting = |options: &mut suijuris_proxy::Options| {
        options.trust = Trust::new(vec![network("127.0.0.1").unwrap()]);
    };
    let rig = Rig::entered(vec![one.clone()], (Some(5432), true), trusting);
    let mut told = exchange(rig.connect(), b"PROXY TCP4 192.0.2.1 127.0.0.1 7 80\r\nhello");
    told.reverse();
    assert!(
        told.starts_with(b"PROXY TCP4 192.0.2.1 "),
        "{}",
        told.escape_ascii()
    );
    let rig = Rig::entered(vec![one], (Some(5432), true), |_| {});
    assert_eq!(
        exchange(rig.connect(), b"PROXY TCP4 192.0.2.1 127.0.0.1 7 80\r\nhello"),
        b"",
        "nobody is trusted"
    );
}

/// TLS to the proxy, trusting its development authority.
pub(crate) fn tls(stream: TcpStream, certificate: &str, name: &'static str, bytes: &[u8]) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap());
    let mut stream = rustls::StreamOwned::new(session.unwrap(), stream);
    if stream.write_all(bytes).is_err() {
        return Vec::new();
    }
    stream.conn.send_close_notify();
    let _ended = stream.flush();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer);
    answer
}

fn development() -> (String, Source) {
    let files = authority::create(jiff::civil::date(2026, 11, 29)).unwrap();
    let authority = Authority::new(&files.key).unwrap();
    (files.certificate, Source::Development(Arc::new(authority)))
}

// proves F3
#[test]
fn tls_ends_at_the_proxy_and_the_port_is_443_then() {
    let (certificate, source) = development();
    let rig = Rig::with(vec![machine("one", echo("one"))], |options| {
        options.tls = Some(source);
    });
    let request = b"GET /x HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";
    let answer = tls(rig.connect(), &certificate, "a.localhost", request);
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    for field in [
        "x-forwarded-proto: https",
        "x-forwarded-ssl: on",
        "fly-forwarded-port: 443",
        "fly-client-ip: 127.0.0.1",
    ] {
        assert!(answer.contains(field), "{field}: {answer}");
    }
}

#[test]
fn raw_bytes_in_tls_find_their_app_by_the_name_that_is_asked_for() {
    let (certificate, source) = development();
    let mut one = machine("one", reverser());
    one.ports = raw(|port| port.tls = true);
    let mut two = machine("two", reverser());
    (two.ports, two.app) = (raw(|port| port.tls = true), "b");
    let rig = Rig::at_port(vec![one, two], Some(5432), |options| options.tls = Some(source));
    assert_eq!(
        tls(rig.connect(), &certificate, "a.localhost", b"hello"),
        b"olleh"
    );
    assert_eq!(
        tls(rig.connect(), &certificate, "b.localhost", b"world"),
        b"dlrow"
    );
}

#[test]
fn postgres_asks_for_tls_in_its_own_way() {
    let (certificate, source) = development();
    let mut one = machine("one", reverser());
    one.ports = raw(|port| port.pg_tls = true);
    let rig = Rig::at_port(vec![one], Some(5432), |options| options.tls = Some(source));
    let mut stream = rig.connect();
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"S");
    assert_eq!(tls(stream, &certificate, "a.localhost", b"hello"), b"olleh");
}

#[test]
fn chunked_answers_and_long_ones_pass_whole() {
    let at = server(|_, _| {
        Some(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
                .to_owned(),
        )
    });
    let long = "l".repeat(3_000_000);
    let mut two = machine("two", server(move |_, _| ok("", &long)));
    two.app = "b";
    let rig = Rig::new(vec![machine("one", at), two]);
    assert!(
        rig.get("a.localhost", "/", "")
            .body
            .starts_with("3\r\nabc\r\n2\r\nde\r\n0\r\n")
    );
    assert_eq!(rig.get("b.localhost", "/", "").body.len(), 3_000_000);
}
