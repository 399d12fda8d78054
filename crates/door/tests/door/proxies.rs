//! Unmodified proxies that ask the door, configured as `docs/door.md` shows: nginx and Caddy.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use suijuris_core::ObjectId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;

use crate::life::Definition;
use crate::rig::{Answer, Rig, parse, until};

const DOCS: &str = include_str!("../../../../docs/door.md");

/// The snippet that the documentation says is tested.
fn snippet(name: &str) -> &'static str {
    let marker = format!("<!-- tested: {name} -->");
    let (_, behind) = DOCS.split_once(&marker).unwrap();
    let (_, block) = behind.split_once("```").unwrap();
    let (_language, block) = block.split_once('\n').unwrap();
    block.split_once("```").unwrap().0
}

/// A workload that counts what reaches it.
struct Upstream {
    address: SocketAddr,
    bytes: Arc<AtomicUsize>,
    /// Ends with this.
    _task: JoinSet<()>,
}

impl Upstream {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, bytes) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&bytes);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = vec![0; 8 << 10];
                let read = socket.read(&mut buffer).await.unwrap_or_default();
                counted.fetch_add(read, Ordering::SeqCst);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            address,
            bytes,
            _task: task,
        }
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

/// A proxy that listens on a socket of its directory.
struct Proxy {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    async fn start(directory: tempfile::TempDir, command: &mut Command) -> Self {
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; run tools/setup --test"));
        let proxy = Self { child, directory };
        let socket = proxy.socket();
        let log = proxy.directory.path().join("log");
        for _ in 0..1_500 {
            if UnixStream::connect(&socket).await.is_ok() {
                return proxy;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!(
            "the proxy does not listen: {}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    async fn ask(&self, host: &str, path: &str, more: &str) -> Answer {
        let mut socket = UnixStream::connect(self.socket()).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        parse(&bytes)
    }
}

async fn nginx(rig: &Rig, upstream: &Upstream) -> Proxy {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let locations = snippet("nginx")
        .replace("http://upstream", &format!("http://{}", upstream.address))
        .replace("http://door", &format!("http://{}", rig.address));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {}; error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen unix:{};\n{locations} }} }}",
        at("pid"),
        at("socket"),
    );
    std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
        .arg("-c")
        .arg(directory.path().join("nginx.conf"))
        .arg("-e")
        .arg("stderr");
    Proxy::start(directory, &mut command).await
}

async fn caddy(rig: &Rig, upstream: &Upstream) -> Proxy {
    let directory = tempfile::tempdir().unwrap();
    let site = snippet("caddy")
        .replace(
            "reverse_proxy upstream",
            &format!("reverse_proxy {}", upstream.address),
        )
        .replace("forward_auth door", &format!("forward_auth {}", rig.address));
    let socket = directory.path().join("socket");
    let config = format!(
        "{{\nadmin off\nauto_https off\n}}\nhttp:// {{\nbind unix/{}\n{site}\n}}\n",
        socket.display()
    );
    std::fs::write(directory.path().join("Caddyfile"), config).unwrap();
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(directory.path().join("Caddyfile"));
    home(&mut command, directory.path());
    Proxy::start(directory, &mut command).await
}

/// Caddy keeps files below its home.
fn home(command: &mut Command, directory: &Path) {
    command
        .env("HOME", directory)
        .env("XDG_DATA_HOME", directory)
        .env("XDG_CONFIG_HOME", directory);
}

/// Refuses all but `/open`, and needs a header for that.
fn guarded() -> Definition {
    let rules = r#"
        permit(principal, action == Action::"wake", resource);
        @id("open") permit(principal, action == Action::"admit", resource)
        when { context.request.path == "/open" && context.request.query == "a=1"
               && context.request.headers has "x-team" && context.request.headers["x-team"] == "blue" };
    "#;
    let mut definition = Definition::rules(rules);
    definition.vocabulary.headers = vec!["x-team".to_owned()];
    definition
}

/// What every proxy must do; statuses of refusals are the proxy's own.
async fn behaves(rig: &Rig, proxy: &Proxy, upstream: &Upstream, object: ObjectId, statuses: [u16; 2]) {
    let host = format!("{object}.objects.test");
    let team = "x-team: blue\r\n";
    for (path, more) in [
        ("/closed?a=1", team),
        ("/open?a=1", ""),
        ("/open?a=1", "x-team: red\r\n"),
        ("/open", team),
        // Words of other kinds of proxy are a client's lies here.
        (
            "/closed",
            "x-team: blue\r\nx-original-uri: /open?a=1\r\nx-original-method: GET\r\n",
        ),
        (
            "/closed",
            "x-team: blue\r\nx-forwarded-uri: /open?a=1\r\nx-forwarded-method: GET\r\n",
        ),
    ] {
        let answer = proxy.ask(&host, path, more).await;
        assert_eq!(answer.status, 403, "{path} {more}: {answer:?}");
    }
    let unknown = format!("{}.objects.test", ObjectId::of(b"unknown"));
    assert_eq!(proxy.ask(&unknown, "/open?a=1", team).await.status, statuses[0]);
    assert_eq!(
        proxy.ask("plain.test", "/open?a=1", team).await.status,
        statuses[1]
    );
    assert_eq!(
        (rig.starts(), upstream.bytes()),
        (0, 0),
        "nothing was started, no byte came through"
    );

    let answer = proxy.ask(&host, "/open?a=1", team).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "hello"),
        "{answer:?}"
    );
    assert_eq!(rig.starts(), 1);
    assert!(upstream.bytes() > 0);
    until("an awake object decides itself", async || {
        proxy.ask(&host, "/closed", "").await.status == 200
    })
    .await;
}

// proves D5
#[tokio::test]
async fn nginx_asks_with_auth_request() {
    let (rig, upstream) = (Rig::new().await, Upstream::new().await);
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let proxy = nginx(&rig, &upstream).await;
    behaves(&rig, &proxy, &upstream, object, [403, 403]).await;
    drop(proxy);
    rig.end().await;
}

// proves D5
#[tokio::test]
async fn caddy_asks_with_forward_auth() {
    let (rig, upstream) = (Rig::new().await, Upstream::new().await);
    let object = rig.sleeper(&guarded().build().unwrap(), "a").await;
    let proxy = caddy(&rig, &upstream).await;
    behaves(&rig, &proxy, &upstream, object, [404, 404]).await;
    drop(proxy);
    rig.end().await;
}
