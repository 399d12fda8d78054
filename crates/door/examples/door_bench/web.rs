//! A refusal end to end: the door over HTTP with kept connections, beside nginx that asks itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use suijuris_core::ObjectId;
use suijuris_door::Door;
use suijuris_testkit::bench::{await_port, free_port};

use crate::Result;

/// A door that serves on a thread of its own.
pub(crate) fn serve(door: Arc<Door>) -> Result<SocketAddr> {
    let (sender, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            suijuris_door::serve_door(vec![listener], door, Default::default(), std::future::pending()).await;
        });
    });
    Ok(address.recv()?)
}

/// nginx whose every request is first asked about, at itself, with the answer 200.
pub(crate) struct Nginx {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    pub(crate) fn start() -> Result<Self> {
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let at = |name: &str| directory.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {}; error_log stderr;\nevents {{}}\nhttp {{ access_log off; \
             keepalive_requests 1000000000;\n{temporary}\
             server {{ listen 127.0.0.1:{port}; location / {{ auth_request /_door; return 200 ok; }}\n\
             location /static {{ auth_request /_door; alias {}; }}\n\
             location = /_door {{ internal; return 200; }} }} }}",
            at("pid"),
            directory.path().display(),
        );
        std::fs::write(directory.path().join("nginx.conf"), config)?;
        std::fs::write(directory.path().join("ok"), "ok")?;
        let child = Command::new("nginx")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("-c")
            .arg(directory.path().join("nginx.conf"))
            .args(["-e", "stderr"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        await_port(port)?;
        Ok(Self {
            child,
            port,
            _directory: directory,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

/// A client with one connection.
pub(crate) struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    status: u16,
}

impl Client {
    pub(crate) fn of_door(address: SocketAddr, object: ObjectId, status: u16) -> Result<Self> {
        let request = format!("GET /ext_authz/private HTTP/1.1\r\nhost: {object}.test\r\n\r\n");
        Self::new(address, request, status)
    }

    /// A file is looked at only after the question is answered.
    pub(crate) fn of_nginx(address: SocketAddr) -> Result<Self> {
        Self::new(
            address,
            "GET /static/ok HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(),
            200,
        )
    }

    fn new(address: SocketAddr, request: String, status: u16) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            socket,
            request: request.into_bytes(),
            buffer: vec![0; 16 << 10],
            status,
        })
    }

    /// From the request to the last byte of its answer, µs.
    pub(crate) fn ask(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.socket.write_all(&self.request)?;
        let mut filled = 0;
        loop {
            let read = self.socket.read(&mut self.buffer[filled..])?;
            if read == 0 {
                return Err("the connection was closed".into());
            }
            filled += read;
            let text = std::str::from_utf8(&self.buffer[..filled])?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>())
            });
            if body.len() == length.ok_or("no length")?? {
                if !head.starts_with(&format!("HTTP/1.1 {}", self.status)) {
                    return Err(format!("not {}: {text}", self.status).into());
                }
                return Ok(began.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
}
