//! Who is asked before a request passes: what refuses or fails starts nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use suijuris_proxy::fleet::State;

use crate::rig::{Rig, echo, machine, ok, server};

fn rig(hook: std::net::SocketAddr) -> Rig {
    let mut rested = machine("one", echo("one"));
    rested.state = State::Resting;
    Rig::with(vec![rested], |options| {
        let hook = format!("http://{hook}/ext_authz").parse().unwrap();
        options.hooks.insert("a".into(), hook);
    })
}

#[test]
fn what_the_hook_permits_passes_and_each_request_is_asked_about() {
    let asked = Arc::new(AtomicUsize::new(0));
    let said = Arc::new(Mutex::new(String::new()));
    let (count, heard) = (Arc::clone(&asked), Arc::clone(&said));
    let hook = server(move |head, _| {
        count.fetch_add(1, Ordering::SeqCst);
        *heard.lock().unwrap() = head.to_lowercase();
        ok("", "")
    });
    let rig = rig(hook);
    let request =
        b"POST /x?y HTTP/1.1\r\nHost: a.localhost\r\nAuthorization: Bearer t\r\nX-Forwarded-For: 6.6.6.6\r\n\
                    X-Forwarded-Uri: /public\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    for _ in 0..2 {
        let reply = rig.send(request);
        assert!(reply.status == 200 && reply.body.ends_with("\nhi"), "{reply:?}");
    }
    assert_eq!((asked.load(Ordering::SeqCst), rig.starts()), (2, 1));
    let said = said.lock().unwrap();
    assert!(said.starts_with("post /ext_authz/x?y http/1.1"), "{said}");
    for part in [
        "host: a.localhost",
        "authorization: bearer t",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for part in ["6.6.6.6", "x-forwarded-uri", "content-length: 2"] {
        assert!(!said.contains(part), "{part}: {said}");
    }
}

#[test]
fn what_it_refuses_starts_nothing() {
    let problem =
        r#"{"type": "t", "title": "No", "status": 403, "code": "admit_refused", "detail": "not you"}"#;
    let refuses = server(move |_, _| {
        let length = problem.len();
        Some(format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\n\r\n{problem}"
        ))
    });
    let rig = rig(refuses);
    let reply = rig.get("a.localhost", "/", "");
    assert!(
        reply.status == 403 && reply.has("admit_refused") && reply.has("not you"),
        "{reply:?}"
    );
    assert_eq!(rig.starts(), 0);
}

#[test]
fn what_cannot_be_asked_refuses() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let closes = server(|_, _| None);
    let fails = server(|_, _| Some("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_owned()));
    let redirects =
        server(|_, _| Some("HTTP/1.1 302 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned()));
    for hook in [gone, closes, fails, redirects] {
        let rig = rig(hook);
        let reply = rig.get("a.localhost", "/", "");
        assert!(reply.status == 503 && reply.has("hook_failed"), "{reply:?}");
        assert_eq!(rig.starts(), 0);
    }
    let slow = server(|_, _| {
        std::thread::sleep(Duration::from_secs(3));
        ok("", "")
    });
    let rig = rig(slow);
    let began = Instant::now();
    let reply = rig.get("a.localhost", "/", "");
    assert!(
        reply.status == 503 && reply.has("did not answer within 1 s"),
        "{reply:?}"
    );
    assert!(began.elapsed() < Duration::from_millis(2_900));
    assert_eq!(rig.starts(), 0);
}

#[test]
fn a_replay_s_target_is_asked_about_too() {
    let refuses = server(|_, _| Some("HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n".to_owned()));
    let mut target = machine("t", echo("t"));
    (target.app, target.state) = ("b", State::Resting);
    let router = machine("router", server(|_, _| ok("fly-replay: app=b\r\n", "")));
    let rig = Rig::with(vec![router, target], |options| {
        options
            .hooks
            .insert("b".into(), format!("http://{refuses}").parse().unwrap());
    });
    let reply = rig.get("a.localhost", "/", "");
    assert!(reply.status == 403 && reply.has("hook_refused"), "{reply:?}");
    assert_eq!(rig.starts(), 0);
}
