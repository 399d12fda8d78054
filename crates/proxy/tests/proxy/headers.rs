//! What apps and clients are told.

use crate::rig::{Rig, echo, machine, ok, server};

#[test]
fn an_app_learns_who_asks_and_clients_cannot_say_it_themselves() {
    let rig = Rig::new(vec![machine("one", echo("one"))]);
    let forged = "Fly-Client-IP: 6.6.6.6\r\nfly-replay-src: instance=x\r\nfly_replay_src: instance=x\r\nFLY-REPLAY-FAILED: x\r\n\
                  fly-region: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-SSL: on\r\nX-Forwarded-For: 1.2.3.4\r\n\
                  X-Suijuris-Object: bafy\r\nX-Other: kept\r\n";
    let reply = rig.get("a.localhost", "/.suijuris/state", forged);
    let told = reply.body.to_lowercase();
    for field in [
        "get /.suijuris/state http/1.1",
        "fly-client-ip: 127.0.0.1\r\n",
        "fly-forwarded-port: 80\r\n",
        "fly-region: fra\r\n",
        "x-forwarded-for: 1.2.3.4, 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-port: 80\r\n",
        "x-forwarded-ssl: off\r\n",
        "via: 1.1 suijuris\r\n",
        "fly-request-id: ",
        "x-suijuris-object: bafy\r\n",
        "x-other: kept\r\n",
    ] {
        assert!(told.contains(field), "{field}: {told}");
    }
    for forged in [
        "6.6.6.6",
        "fly-replay-src",
        "fly_replay_src",
        "fly-replay-failed",
        "region: x",
    ] {
        assert!(!told.contains(forged), "{forged}: {told}");
    }
    let port = rig.get("a.localhost", "/", "X-Forwarded-Port: 4711\r\n");
    assert!(port.has("x-forwarded-port: 4711"), "{port:?}");
}

#[test]
fn a_client_learns_the_request_s_id_unless_the_app_wants_it_pristine() {
    let answers = || server(|_, _| ok("Server: app\r\nX-Secret: 1\r\nX-Old: 2\r\n", "x"));
    let mut plain = machine("one", answers());
    plain.ports[0].response_headers = vec![
        ("x-secret".to_owned(), Vec::new()),
        ("x-old".to_owned(), vec!["new".to_owned(), "newer".to_owned()]),
    ];
    let mut pristine = machine("two", answers());
    pristine.app = "p";
    pristine.ports[0].pristine = true;
    let rig = Rig::new(vec![plain, pristine]);
    let reply = rig.get("a.localhost", "/", "");
    assert!(
        reply.has("fly-request-id: ") && reply.has("via: 1.1 suijuris") && reply.has("server: suijuris"),
        "{reply:?}"
    );
    assert!(
        !reply.has("server: app") && !reply.has("x-secret") && !reply.has("x-old: 2"),
        "{reply:?}"
    );
    assert!(
        reply.has("x-old: new\r\n") && reply.has("x-old: newer\r\n"),
        "{reply:?}"
    );
    let reply = rig.get("p.localhost", "/", "");
    assert!(
        reply.has("server: app") && !reply.has("fly-request-id") && !reply.has("via"),
        "{reply:?}"
    );
}

#[test]
fn clear_text_is_sent_to_https() {
    let mut one = machine("one", echo("one"));
    one.ports[0].force_https = true;
    let rig = Rig::new(vec![one]);
    let reply = rig.get("a.localhost", "/x?y", "");
    assert_eq!(reply.status, 301);
    assert!(reply.has("location: https://a.localhost/x?y"), "{reply:?}");
    let reply = rig.get("a.localhost:8080", "/", "");
    assert!(reply.has("location: https://a.localhost:8080/"), "{reply:?}");
    let reply = rig.send(b"HEAD / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n");
    assert!(reply.status == 301 && reply.body.is_empty());
}
