//! The control API asked by schemathesis: whatever its OpenAPI document allows, and what it does not. No answer is a fault of
//! the server, and none is other than the document says.

use std::io::{Read as _, Write as _, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, STAY};
use crate::schemathesis::{Fuzzing, workspace};

/// Examples of each kind for each route.
const EXAMPLES: &str = "12";

fn committed() -> PathBuf {
    workspace().join("docs/openapi.json")
}

/// Asks the API at `url`, with this header.
#[track_caller]
fn fuzz(home: &Home, document: &Path, url: &str, header: &str) {
    Fuzzing {
        home: home.path(),
        config: &workspace().join("tools/schemathesis.toml"),
        document,
        url,
        header,
        examples: EXAMPLES,
        left_out: &[],
    }
    .run();
}

/// A daemon with a class that has an instance, and an object that was awake.
fn lived(home: &Home) -> Daemon {
    let mut daemon = home.serve_with(&["--api", "127.0.0.1:0"]);
    let class = "max_instances = 1000\nper_peer = 1000\nper_class = 1000";
    home.add(&home.class("tenant", class, &[FOUND, OPEN, STAY].concat()));
    daemon.get("acme.tenant", "/").status(200);
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    home.suijuris(&["wake", "hello"]).code(0);
    daemon.wait(json!({"event": "woke", "name": "hello"}));
    home.suijuris(&["sleep", "hello"]).code(0);
    daemon.wait(json!({"event": "dormant", "name": "hello"}));
    daemon
}

/// Carries each connection to the control socket, since schemathesis speaks TCP alone.
fn carried(control: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, control) = (
        format!("http://{}", listener.local_addr().unwrap()),
        control.to_owned(),
    );
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let Ok(server) = UnixStream::connect(&control) else {
                return;
            };
            carry(caller, server);
        }
    });
    url
}

fn carry(caller: TcpStream, server: UnixStream) {
    let (mut up_from, mut up_to) = (caller.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    let (mut down_from, mut down_to) = (server, caller);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = down_from.read(&mut bytes) {
            if down_to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = down_to.shutdown(Shutdown::Both);
    });
}

// proves G9
#[test]
fn an_address_answers_nothing_but_what_the_document_says() {
    let home = Home::new();
    let daemon = lived(&home);
    let made = home
        .suijuris(&["token", "api", "create", "fuzz", "--scope", "operate"])
        .code(0);
    fuzz(
        &home,
        &committed(),
        &daemon.api_url(),
        &format!("Authorization: Bearer {}", made.out.trim()),
    );
    daemon.terminate();
}

// proves G9
#[test]
fn the_socket_answers_nothing_but_what_the_document_says() {
    let home = Home::new();
    // By the socket nobody shows a token.
    let mut document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(committed()).unwrap()).unwrap();
    document["security"] = json!([]);
    let open = home.path().join("openapi.json");
    std::fs::write(&open, document.to_string()).unwrap();
    let daemon = lived(&home);
    fuzz(&home, &open, &carried(&daemon.control), "Host: localhost");
    daemon.terminate();
}
