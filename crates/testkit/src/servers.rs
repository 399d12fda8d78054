//! Real servers for depots that need one: moto for S3, Azurite for Azure, etcd. One of each a test process, on a free
//! port, gone when the process is. `tools/setup --test` installs them; whoever calls without gets a panic that says so.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "for tests: what is not as expected ends them"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a server may take to come up, on a busy machine.
const START: Duration = Duration::from_secs(120);

/// Azurite's one account and its key, which its documentation gives to everybody.
pub const AZURE_ACCOUNT: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// A server that runs as long as this process: it ends when the pipe to its keeper closes.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    _keeper: Child,
}

/// Ends its child when its standard input does, and removes its directory.
const KEEPER: &str = r#"directory=$1; shift; "$@" </dev/null & server=$!; cat >/dev/null; kill -9 $server; wait $server; rm -rf "$directory""#;

/// What `tools/setup --test` installed, beside this program in the target directory.
#[must_use]
pub fn installed(path: &str) -> PathBuf {
    let program = std::env::current_exe().expect("a program");
    let found = program
        .ancestors()
        .map(|above| above.join("test").join(path))
        .find(|found| found.exists());
    found.unwrap_or_else(|| panic!("{path} is not there: run `sh tools/setup --test`"))
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address").port()
}

fn start(command: &[&str], directory: &Path, stdout: Stdio) -> Child {
    Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(directory)
        .args(command)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts")
}

fn is_up(address: SocketAddr, keeper: &mut Child) -> bool {
    let until = Instant::now() + START;
    while Instant::now() < until {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        if matches!(keeper.try_wait(), Ok(Some(_))) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn directory() -> PathBuf {
    tempfile::tempdir().expect("a directory").keep()
}

/// Starts a server on a free port, again where somebody else took the port first.
fn on_free_port(command: impl Fn(u16, &Path) -> Vec<String>) -> Server {
    for _ in 0..5 {
        let (port, directory) = (free_port(), directory());
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let command = command(port, &directory);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut keeper = start(&command, &directory, Stdio::null());
        if is_up(address, &mut keeper) {
            return Server {
                address,
                _keeper: keeper,
            };
        }
    }
    panic!("the server does not start: {:?}", command(0, Path::new("/")));
}

/// One request a time, because moto compares and puts in two steps that other threads may come between: S3 does not.
const MOTO: &str = r#"
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// An S3 with the bucket `depot`.
#[must_use]
pub fn s3() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let python = installed("moto/bin/python3");
        let python = python.to_str().expect("a path");
        let mut keeper = start(&[python, "-c", MOTO], &directory(), Stdio::piped());
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("moto says its port");
        let port: u16 = line.trim().parse().expect("moto's port");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let made = http(
            address,
            "PUT /depot HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        );
        assert!(made.contains(" 200 "), "{made}");
        Server {
            address,
            _keeper: keeper,
        }
    });
    server.address
}

/// moto asks for a signature and does not check it.
pub const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0\r\n";

/// Sends one request and returns the answer.
#[must_use]
pub fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(request.as_bytes()).expect("it takes a request");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a limit");
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).expect("it answers");
    String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned()
}

/// Makes a container; signing is a few lines with what Node brings along.
const AZURE_CONTAINER: &str = r#"
const [port, account, key] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2021-08-06", path = `/${account}/depot`;
const text = ["PUT", "", "", "", "", "", "", "", "", "", "", "", `x-ms-date:${date}`, `x-ms-version:${version}`,
  `/${account}${path}`, "restype:container"].join("\n");
const signature = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
const headers = { "x-ms-date": date, "x-ms-version": version, Authorization: `SharedKey ${account}:${signature}`, "Content-Length": 0 };
require("http").request({ host: "127.0.0.1", port, path: `${path}?restype=container`, method: "PUT", headers },
  answer => process.exit(answer.statusCode === 201 ? 0 : 1)).end();
"#;

/// An Azure blob storage with the container `depot`.
#[must_use]
pub fn azure() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let azurite = installed("azurite/node_modules/azurite/dist/src/blob/main.js");
        let server = on_free_port(|port, directory| {
            let words = [
                "node",
                azurite.to_str().expect("a path"),
                "--silent",
                "--disableTelemetry",
                "--skipApiVersionCheck",
                "--location",
                directory.to_str().expect("a path"),
                "--blobPort",
                &port.to_string(),
            ];
            words.map(str::to_owned).to_vec()
        });
        let (account, key) = AZURE_ACCOUNT;
        let made = Command::new("node")
            .args([
                "-e",
                AZURE_CONTAINER,
                &server.address.port().to_string(),
                account,
                key,
            ])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "no container");
        server
    });
    server.address
}

/// An etcd of one member.
#[must_use]
pub fn etcd() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| start_etcd(&[])).address
}

/// Another, with more options, as long as what is returned lives.
#[must_use]
pub fn start_etcd(more: &[&str]) -> Server {
    on_free_port(|port, directory| {
        let client = format!("http://127.0.0.1:{port}");
        let peer = "http://127.0.0.1:0";
        let words = [
            "etcd",
            "--data-dir",
            directory.to_str().expect("a path"),
            "--log-level",
            "error",
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            "default=http://127.0.0.1:0",
        ];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    })
}

/// URL of a depot in [`s3`] under `prefix`, and what its clients need in their environment.
#[must_use]
pub fn s3_depot(prefix: &str) -> (String, Vec<(&'static str, &'static str)>) {
    let url = format!("s3://depot/{prefix}?endpoint=http://{}&region=us-east-1", s3());
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    (url, keys.map(|key| (key, "testing")).to_vec())
}

/// URL of a depot in [`azure`] under `prefix`, and what its clients need in their environment.
#[must_use]
pub fn azure_depot(prefix: &str) -> (String, Vec<(&'static str, &'static str)>) {
    let (account, key) = AZURE_ACCOUNT;
    let url = format!(
        "az://depot/{prefix}?endpoint=http://{}/{account}&account={account}",
        azure()
    );
    (url, vec![("AZURE_STORAGE_ACCOUNT_KEY", key)])
}

/// URL of a depot in [`etcd`] under `prefix`.
#[must_use]
pub fn etcd_depot(prefix: &str) -> String {
    format!("etcd://{}/{prefix}", etcd())
}
