//! What an owner signed is good once, and for the daemon that it was signed for.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, OPEN, STAY};
use crate::ran::run;

/// Stands between commands and a control socket, and keeps what they send.
fn eavesdropper(at: &Path, control: &Path) -> Arc<Mutex<Vec<u8>>> {
    let (listener, control) = (UnixListener::bind(at).unwrap(), control.to_owned());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = heard.clone();
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let Ok(server) = UnixStream::connect(&control) else {
                return;
            };
            let (mut from, mut to, kept) = (
                caller.try_clone().unwrap(),
                server.try_clone().unwrap(),
                kept.clone(),
            );
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    kept.lock().unwrap().extend(&bytes[..count]);
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
            let (mut from, mut to) = (server, caller);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    });
    heard
}

/// The signed request that was heard last.
fn signed(heard: &Mutex<Vec<u8>>) -> Value {
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    let at = heard
        .rfind("{\"signed\":{")
        .unwrap_or_else(|| panic!("nothing signed: {heard}"));
    let mut values = serde_json::Deserializer::from_str(&heard[at..]).into_iter();
    values.next().unwrap().unwrap()
}

fn code(daemon: &Daemon, path: &str, body: &Value) -> Value {
    let answer = daemon.api("POST", path, body).status(200).json();
    answer["error"]["code"].clone()
}

// proves G9
#[test]
fn what_an_owner_signed_is_good_once_and_for_one_daemon() {
    let home = Home::new();
    let mut daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    let between = home.path().join("between.sock");
    let heard = eavesdropper(&between, &daemon.control);
    let mut wake = home.command(env!("CARGO_BIN_EXE_suijuris"));
    wake.env("SUIJURIS_SERVER", &between);
    let woken = run(wake.args(["wake", "hello"]));
    assert_eq!(woken.code, 0, "{woken:?}");
    daemon.wait(json!({"event": "woke"}));
    let request = signed(&heard);
    home.suijuris(&["sleep", "hello"]).code(0);
    daemon.wait(json!({"event": "dormant"}));
    daemon.wait_phase("hello", "dormant");
    let path = "/v1/objects/hello/wake";
    assert_eq!(code(&daemon, path, &request), "not_signed", "it was used");
    // Whoever altered it has no owner's word either.
    let mut altered = request.clone();
    altered["signed"]["request"]["expires"] =
        json!(altered["signed"]["request"]["expires"].as_i64().unwrap() + 1);
    assert_eq!(code(&daemon, path, &altered), "not_signed");
    daemon.kill();
    let daemon = home.serve();
    daemon.wait_phase("hello", "dormant");
    assert_eq!(
        code(&daemon, path, &request),
        "not_signed",
        "it was signed for another daemon"
    );
    assert_eq!(daemon.count(&json!({"event": "woke"})), 0);
    daemon.terminate();
}
