//! What a workload may reach is in its bundle, and it reaches nothing else: a hostile one tries every way out.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::rig::{OPEN, Object, STAY, Up, run};

/// Something that listens on this host, and counts who comes.
struct Outside {
    port: u16,
    came: Arc<AtomicUsize>,
}

impl Outside {
    fn at(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let datagrams = UdpSocket::bind((address, port));
        let came = Arc::new(AtomicUsize::new(0));
        let count = came.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let mut client = client;
                let mut said = [0; 6];
                let _ = client.read_exact(&mut said);
                let _ = client.write_all(b"outside\n");
            }
        });
        let count = came.clone();
        if let Ok(datagrams) = datagrams {
            std::thread::spawn(move || {
                while let Ok((_, from)) = datagrams.recv_from(&mut [0; 100]) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = datagrams.send_to(b"outside\n", from);
                }
            });
        }
        Self { port, came }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

/// An address of this host's that is not loopback, where it has one. Nothing is sent.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) if !own.is_loopback() => Some(own),
        _ => None,
    }
}

/// Where it ran.
struct Ran {
    machine: String,
    object: Object,
}

/// Runs the hostile workload, started by `start`; which of its ways were open.
fn open(start: impl FnOnce(&Object) -> Up) -> (Vec<String>, Ran) {
    let (named, forbidden) = (
        Outside::at(Ipv4Addr::LOCALHOST),
        Outside::at(Ipv4Addr::UNSPECIFIED),
    );
    let networked = Outside::at(Ipv4Addr::UNSPECIFIED);
    let own = own_address();
    let network = own
        .map(|own| format!(", \"{own}:{}\"", networked.port))
        .unwrap_or_default();
    let object = Object::defined(
        &format!(
            "name = \"hostile\"\n[workload]\ncommand = [\"python3\", \"{{object}}/egress.py\", \"{}\", \"{}\", \"{}\", \"{}\"]\n\
             ready = \"spawned\"\negress = [\"host.internal:{}\"{network}]\n",
            named.port,
            forbidden.port,
            own.unwrap_or(Ipv4Addr::new(203, 0, 113, 1)),
            networked.port,
            named.port,
        ),
        &[OPEN, STAY].concat(),
    );
    object.file("egress.py", include_str!("egress.py"));
    let mut up = start(&object);
    up.get("/");
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    let machine = started["detail"].as_str().unwrap().to_owned();
    up.wait(json!({"event": "output", "line": "done"}));
    let events = up.events();
    let lines = events.iter().filter_map(|event| event["line"].as_str());
    let open: Vec<String> = lines
        .filter_map(|line| line.strip_suffix(": open"))
        .map(str::to_owned)
        .collect();
    if !machine.contains("not limited") {
        assert_eq!(forbidden.came(), 0, "{open:?}");
        assert_eq!(named.came(), 2, "{open:?}");
        assert_eq!(networked.came(), usize::from(own.is_some()), "{open:?}");
    }
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
    let machine = Ran { machine, object };
    (open, machine)
}

/// What the bundle names, and nothing else.
fn is_kept_to_it(open: &[String]) {
    let mut named = vec!["the name", "the name's address"];
    if own_address().is_some() {
        named.push("the network");
    }
    assert_eq!(open, named);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn as_nobody(object: &Object) -> Up {
    let program = object.home().join("suijuris");
    run(object
        .command("cp")
        .arg(env!("CARGO_BIN_EXE_suijuris"))
        .arg(&program))
    .code(0);
    run(object
        .command("chown")
        .args(["-R", "65534:65534"])
        .arg(object.home()))
    .code(0);
    let mut command = object.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    command.arg(program).arg("up").arg(object.dir());
    Up::start(command)
}

// proves E12
#[test]
fn a_workload_reaches_what_its_bundle_names_and_nothing_else() {
    let (open, ran) = open(Object::up);
    assert!(ran.machine.starts_with("namespaces"), "{}", ran.machine);
    is_kept_to_it(&open);
    ran.object.nobody_is_left();
}

// proves E12
#[test]
fn so_does_that_of_an_ordinary_user() {
    if !is_root() {
        return;
    }
    let (open, ran) = open(as_nobody);
    assert!(
        ran.machine.starts_with("namespaces without privilege"),
        "{}",
        ran.machine
    );
    is_kept_to_it(&open);
}

/// In an image, as its user, with its own idea of names: what is written to `/etc/hosts` of the image counts after what is named.
fn in_an_image(start: impl FnOnce(&Object) -> Up) {
    let (named, forbidden) = (
        Outside::at(Ipv4Addr::LOCALHOST),
        Outside::at(Ipv4Addr::UNSPECIFIED),
    );
    let script = format!(
        "way() {{ echo $1: $(busybox nc $2 $3 2>/dev/null </dev/null); }}; \
         address=$(busybox awk '/host.internal/ {{ print $1 }}' /etc/hosts); \
         way address $address {0}; way port $address {1}; way loopback 127.0.0.1 {1}; way metadata 169.254.169.254 80; \
         (echo 127.0.0.1 other >> /etc/hosts) 2>/dev/null || echo kept; echo done; exec busybox sleep 1000",
        named.port, forbidden.port
    );
    let object = Object::example("image");
    run(&mut object.command(object.dir().join("make-image"))).code(0);
    let script = serde_json::to_string(&script).unwrap();
    object.file(
        "object.toml",
        &format!(
            "name = \"image\"\n[workload]\nimage = \"oci:layout\"\ncommand = [\"/bin/sh\", \"-c\", {script}]\n\
             ready = \"spawned\"\negress = [\"host.internal:{}\"]\n",
            named.port
        ),
    );
    object.file("governance.cedar", &[OPEN, STAY].concat());
    let mut up = start(&object);
    up.get("/");
    up.wait(json!({"event": "output", "line": "done"}));
    let events = up.events();
    let lines: Vec<&str> = events.iter().filter_map(|event| event["line"].as_str()).collect();
    assert_eq!(
        lines,
        [
            "address: outside",
            "port:",
            "loopback:",
            "metadata:",
            "kept",
            "done"
        ]
    );
    assert_eq!((named.came(), forbidden.came()), (1, 0));
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

// proves E12
#[test]
fn in_an_image_it_reaches_no_more() {
    in_an_image(Object::up);
    if is_root() {
        in_an_image(as_nobody);
    }
}

// proves E12
#[test]
fn where_nothing_limits_it_that_is_said() {
    let (open, Ran { machine, object }) = open(|object| object.up_with(&["--plain"]));
    assert!(
        machine.contains("what the workload reaches is not limited"),
        "{machine}"
    );
    assert!(
        open.contains(&"loopback at an allowed port".to_owned()),
        "{open:?}"
    );
    let checked = object
        .suijuris(&["check", object.dir().to_str().unwrap()])
        .code(0);
    assert!(checked.err.contains("host.internal:"), "{}", checked.err);
    assert!(
        checked.err.contains("deploy"),
        "what a platform carries is not limited: {}",
        checked.err
    );
}
