//! Addresses of apps: on the loopback, where a dedicated one says which app is meant.

use serde_json::json;

use crate::proxy::{ask, serve};
use crate::rig::{Host, until};

fn assign(host: &Host, app: &str, kind: &str) -> String {
    let given = host
        .post(&format!("/apps/{app}/ip_assignments"), &json!({"type": kind}))
        .is(200);
    given["ip"].as_str().unwrap().to_owned()
}

// proves F3
#[test]
fn a_dedicated_address_selects_its_app_and_a_shared_one_does_not() {
    let args = [
        "--no-rate-limit",
        "--proxy",
        "0.0.0.0:0",
        "--proxy",
        "0.0.0.0:0,port=7000",
    ];
    let host = Host::start_with(&args);
    let ports = json!({"ports": [{"port": 80, "handlers": ["http"]}, {"port": 7000, "handlers": []}]});
    let [a, b] = ["a", "b"].map(|app| {
        host.app(app);
        serve(&host, app, &json!({}), &ports)
    });
    let port = |at: usize| host.proxy[at].rsplit(':').next().unwrap().to_owned();
    let raw = |ip: &str| {
        ask(
            &format!("{ip}:{}", port(1)),
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
    };
    let http = |ip: &str| {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {ip}:{}\r\nConnection: close\r\n\r\n",
            port(0)
        );
        ask(&format!("{ip}:{}", port(0)), &request)
    };
    assert_eq!(raw("127.0.0.1").0, 404, "two apps serve it, and neither is meant");
    let (of_a, of_b, shared) = (
        assign(&host, "a", "v4"),
        assign(&host, "b", "v4"),
        assign(&host, "a", "shared_v4"),
    );
    assert!(
        [&of_a, &of_b, &shared].iter().all(|ip| ip.starts_with("127.")),
        "{of_a} {of_b}"
    );
    for (ip, machine) in [(&of_a, &a), (&of_b, &b)] {
        until("the address is known", || raw(ip).2.starts_with(machine.as_str()));
        let (status, _, body) = http(ip);
        assert!(status == 200 && body.starts_with(machine.as_str()), "{body}");
    }
    assert_eq!(raw(&shared).0, 404);
    // Listed with its app, and worth nothing once it is given back.
    let listed = host.get("/apps/b/ip_assignments").is(200);
    assert!(
        listed["ips"]
            .as_array()
            .unwrap()
            .iter()
            .any(|found| found["ip"] == of_b.as_str()),
        "{listed}"
    );
    host.call("DELETE", &format!("/apps/b/ip_assignments/{of_b}"), None)
        .is(204);
    until("it is nobody's", || raw(&of_b).0 == 404);
}
