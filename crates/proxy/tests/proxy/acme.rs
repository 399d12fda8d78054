//! Certificates by ACME, from Debian's pebble.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use suijuris_proxy::Acme;

use crate::protocols::tls;
use crate::rig::{Rig, echo, eventually, machine};

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn start(command: &mut Command) -> Ends {
    Ends(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// A certificate for `localhost`, which is its own root, and its key.
fn of_localhost(dir: &std::path::Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("pebble.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.join("pebble.key"), key.serialize_pem()).unwrap();
}

#[test]
fn a_name_gets_a_certificate_which_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    of_localhost(dir.path());
    let (api, management, dns) = (free_port(), free_port(), free_port());
    let (dns_at, free) = (format!("127.0.0.1:{dns}"), format!("127.0.0.1:{}", free_port()));
    let resolver = start(Command::new("pebble-challtestsrv").args([
        "-defaultIPv6",
        "",
        "-defaultIPv4",
        "127.0.0.1",
        "-dns01",
        &dns_at,
        "-http01",
        "",
        "-https01",
        "",
        "-tlsalpn01",
        "",
        "-management",
        &free,
    ]));
    let directory = format!("https://localhost:{api}/dir");
    let keep = dir.path().join("acme");
    let acme = Acme {
        directory,
        root: Some(dir.path().join("pebble.pem")),
        keep: keep.clone(),
        complain: |why| eprintln!("{why}"),
    };
    let rig = Rig::with(vec![machine("one", echo("one"))], |options| {
        options.acme = Some(acme.clone());
    });
    let config = serde_json::json!({"pebble": {
        "listenAddress": format!("127.0.0.1:{api}"), "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": dir.path().join("pebble.pem"), "privateKey": dir.path().join("pebble.key"),
        "httpPort": rig.at.port(), "tlsPort": 1, "ocspResponderURL": "", "externalAccountBindingRequired": false}});
    let mut file = std::fs::File::create(dir.path().join("pebble.json")).unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    let pebble = start(
        Command::new("pebble")
            .arg("-config")
            .arg(dir.path().join("pebble.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "20"),
    );
    eventually("pebble listens", || {
        std::net::TcpStream::connect(("127.0.0.1", api)).is_ok()
    });
    rig.fleet.name("shop.example", "a");
    eventually("a certificate", || keep.join("shop.example.pem").exists());
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        keep.join(name).metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!(
        (mode("shop.example.key"), mode("account.json"), mode("")),
        (0o600, 0o600, 0o700)
    );
    let chain = std::fs::read_to_string(keep.join("shop.example.pem")).unwrap();
    let last = chain.rfind("-----BEGIN").unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    let served = |rig: &Rig| {
        String::from_utf8_lossy(&tls(rig.connect(), &chain[last..], "shop.example", request)).into_owned()
    };
    eventually("served", || served(&rig).starts_with("HTTP/1.1 200"));
    drop((pebble, resolver, rig));
    // The next proxy has it without asking anybody.
    let rig = Rig::with(vec![machine("one", echo("one"))], |options| {
        options.acme = Some(acme);
    });
    rig.fleet.name("shop.example", "a");
    eventually("served again", || served(&rig).starts_with("HTTP/1.1 200"));
}

/// What the proxy of the test below has complained of.
static SAID: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

#[test]
fn a_server_of_certificates_that_fails_is_said_and_nothing_else_suffers() {
    let dir = tempfile::tempdir().unwrap();
    of_localhost(dir.path());
    let nonsense = TcpListener::bind("127.0.0.1:0").unwrap();
    let spoken_to = nonsense.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in nonsense.incoming().flatten() {
            let _told = (&stream).write_all(b"no TLS, no ACME");
        }
    });
    for port in [free_port(), spoken_to] {
        SAID.lock().unwrap().clear();
        let keep = dir.path().join(port.to_string());
        let acme = Acme {
            directory: format!("https://localhost:{port}/dir"),
            root: Some(dir.path().join("pebble.pem")),
            keep: keep.clone(),
            complain: |why| SAID.lock().unwrap().push(why.to_owned()),
        };
        let rig = Rig::with(vec![machine("one", echo("one"))], |options| {
            options.acme = Some(acme);
        });
        rig.fleet.name("shop.example", "a");
        eventually("it is said", || {
            let said = SAID.lock().unwrap();
            said.iter()
                .any(|why| why.contains("no certificate for shop.example") && why.contains("tried again in"))
        });
        assert_eq!(rig.get("shop.example", "/", "").status, 200);
        assert!(!keep.join("shop.example.pem").exists());
    }
}
