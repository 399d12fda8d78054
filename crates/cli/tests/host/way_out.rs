//! The way out of private networks: a machine reaches the world and nothing of its host, for root and for an ordinary user.

use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::images::{layout, name};
use crate::network::{give, machine, runs};
use crate::rig::{Host, until};

/// A network namespace that stands for the world: this machine's is its neighbour.
struct World {
    name: String,
    server: std::process::Child,
    /// Its address, and that of this machine beside it.
    address: String,
    ours: String,
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(
        done.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

impl World {
    /// The one of this number.
    fn start(dir: &TempDir, number: u8) -> Self {
        let name = format!("sjw{}x{number}", std::process::id());
        let (ours, address) = (
            format!("203.0.113.{}", number * 2),
            format!("203.0.113.{}", number * 2 + 1),
        );
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
        ip(&format!("addr add {ours}/31 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {address}/31 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        std::fs::write(dir.path().join("index.html"), "the world").unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name, "busybox", "httpd", "-f", "-p", "80", "-h"]);
        let server = command.arg(dir.path()).spawn().unwrap();
        Self {
            name,
            server,
            address,
            ours,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        for args in [
            format!("link del {}", self.name),
            format!("netns del {}", self.name),
        ] {
            let _ = Command::new("ip").args(args.split(' ')).output();
        }
    }
}

/// Exit code and output of a request for `/` at an address and port. Its own side stays open until the answer is there: Debian's pasta (2023)
/// repeats what comes for those who have closed theirs.
fn fetches(host: &Host, token: &str, whose: (&str, &str), (address, port): (&str, &str)) -> (i64, String) {
    let script = format!(
        "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; /bin/busybox sleep 2) | /bin/busybox nc -w 5 {address} {port}"
    );
    runs(host, token, whose, &script)
}

/// Whoever the host is run by: a machine of it, and what it reaches.
fn reaches_the_world_alone(host: &Host, dir: &TempDir, world: &World) {
    let (image, token) = (name(dir), host.token.clone());
    host.app("a");
    let (id, _) = machine(host, &token, &image, ("a", &json!({})));
    let from = ("a", id.as_str());
    until("the world is reached", || {
        fetches(host, &token, from, (&world.address, "80"))
            .1
            .ends_with("the world")
    });
    // The proxy listens everywhere, and machines do not reach it all the same.
    let port = host.proxy[0].rsplit(':').next().unwrap().to_owned();
    let reached = std::net::TcpStream::connect((world.ours.as_str(), port.parse().unwrap()));
    assert!(reached.is_ok(), "others do");
    let own = Command::new("hostname").arg("-I").output().unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    // Not those of other worlds, which come and go: what this machine gets later is refused by pasta from the next daemon on.
    let is_ours = |address: &&str| !address.contains(':') && !address.starts_with("203.0.113.");
    let own = own.split_whitespace().filter(is_ours);
    let mut refused = 0;
    for address in own.chain([world.ours.as_str(), "127.0.0.1", "169.254.169.254", "198.18.0.1"]) {
        let (code, said) = fetches(host, &token, from, (address, &port));
        assert_ne!(code, 0, "{address}: {said}");
        refused += 1;
    }
    assert!(refused >= 5);
}

// proves F9
#[test]
fn a_machine_reaches_the_world_and_nothing_of_its_host() {
    let dir = layout();
    let roots = ["--no-rate-limit", "--oci-root", dir.path().to_str().unwrap()];
    let pages = TempDir::new().unwrap();
    let world = World::start(&pages, 3);
    let host = Host::start_with(&[&roots[..], &["--proxy", "0.0.0.0:0"]].concat());
    reaches_the_world_alone(&host, &dir, &world);
    // What may be reached from here may be reached from nowhere else.
    let without = Host::start_with(&[&roots[..], &["--no-egress"]].concat());
    without.app("a");
    let token = without.token.clone();
    let (id, _) = machine(&without, &token, &name(&dir), ("a", &json!({})));
    let (code, said) = fetches(&without, &token, ("a", &id), (&world.address, "80"));
    assert!(code != 0 && said.contains("nreachable"), "{said}");
}

/// The device that pasta needs, open to everybody as distributions have it, and afterwards as it was.
struct Tun(Option<u32>);

impl Tun {
    const PATH: &str = "/dev/net/tun";

    /// None where this machine has none.
    fn open() -> Option<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(Self::PATH).ok()?.permissions().mode() & 0o7777;
        if mode & 0o006 == 0o006 {
            return Some(Self(None));
        }
        std::fs::set_permissions(Self::PATH, std::fs::Permissions::from_mode(0o666)).ok()?;
        Some(Self(Some(mode)))
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        use std::os::unix::fs::PermissionsExt as _;
        if let Some(mode) = self.0 {
            let _ = std::fs::set_permissions(Self::PATH, std::fs::Permissions::from_mode(mode));
        }
    }
}

// proves F9
#[test]
fn a_machine_of_an_ordinary_users_host_reaches_the_world_by_pasta_and_nothing_of_its_host() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can make a world to reach");
        return;
    }
    let Some(_tun) = Tun::open() else {
        eprintln!("skipped: this machine has no /dev/net/tun");
        return;
    };
    let dir = layout();
    give(dir.path());
    let own = TempDir::new().unwrap();
    give(own.path());
    let pages = TempDir::new().unwrap();
    let world = World::start(&pages, 5);
    let args = [
        "--no-rate-limit",
        "--proxy",
        "0.0.0.0:0",
        "--oci-root",
        dir.path().to_str().unwrap(),
    ];
    let mut host = Host::start_in(own, &args);
    reaches_the_world_alone(&host, &dir, &world);
    // It outlives the daemon, as its machines do, and is found by the next.
    let machines = host.get("/apps/a/machines").is(200);
    let id = machines[0]["id"].as_str().unwrap().to_owned();
    host.kill();
    host.run(&args);
    let token = host.token.clone();
    until("the world is still reached", || {
        fetches(&host, &token, ("a", &id), (&world.address, "80"))
            .1
            .ends_with("the world")
    });
    // With the last machine it goes.
    let record = std::fs::read_to_string(host.data().join("pasta")).unwrap();
    let (pasta, _): (u32, u64) = serde_json::from_str(&record).unwrap();
    assert!(std::path::Path::new("/proc").join(pasta.to_string()).exists());
    drop(host);
    until("pasta has ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{pasta}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}
