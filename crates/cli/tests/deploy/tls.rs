//! Rules about TLS and certificates in a machine by itself: what a host's proxy says of a client is believed, and nobody else's word.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::host::{Deployed, event};
use crate::rig::{Home, run};

const RULES: &str = r#"
@id("by-certificate") permit (principal, action in [Action::"wake", Action::"admit"], resource)
when {
  context has request && context.request has tls && context.request.tls has sni && context.request.tls.sni == "shop.localhost" &&
  context.request has client_cert.name && context.request.client_cert.name == "billing"
};
@id("boot") permit (principal is Host, action == Action::"wake", resource);
@id("stay") permit (principal, action == Action::"remain", resource);
"#;

/// An authority with two clients, and a server's own certificate.
fn authority() -> Home {
    let home = Home::empty();
    let made = home.suijuris(&["trust", "--json"]).code(0).json();
    let ca = made["certificate"].as_str().unwrap();
    run(home.command("cp").args([ca, "ca.pem"])).code(0);
    for name in ["billing", "shipping"] {
        home.suijuris(&["trust", "--client", name]).code(0);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["shop.localhost".to_owned()]).unwrap();
    std::fs::write(
        home.path().join("server.pem"),
        params.self_signed(&key).unwrap().pem(),
    )
    .unwrap();
    std::fs::write(home.path().join("server.key"), key.serialize_pem()).unwrap();
    home
}

// proves E11
#[test]
fn rules_about_certificates_hold_on_a_host_and_where_the_platform_says_nothing() {
    let ca = authority();
    let file = |name: &str| ca.path().join(name).to_str().unwrap().to_owned();
    let args = [
        "--proxy-certificate",
        &file("server.pem"),
        "--proxy-key",
        &file("server.key"),
        "--proxy-client-ca",
        &file("ca.pem"),
    ];
    Deployed::each_with(&args, Duration::from_secs(3_600), |deployed| {
        deployed.home.file("governance.cedar", RULES);
        let checked = deployed.home.suijuris(&["check", "object"]).code(0);
        assert!(
            format!("{}{}", checked.out, checked.err).contains("object.tls_words"),
            "{}",
            checked.err
        );
        let events = deployed.deploy(&[]).code(0).lines();
        let machine = event(&events, "deployed")["machine"].as_str().unwrap().to_owned();
        // Without TLS nobody has anything to say, and what a client says of itself counts nowhere: not at the proxy,
        // not past it.
        let session = "session=eyJ2ZXJzaW9uIjoiMS4zIiwic2VydmVyX25hbWUiOiJzaG9wLmxvY2FsaG9zdCIsImNlcnRpZmljYXRlIjp7Im5hbWUiOiJiaWxsaW5nIiwic3ViamVjdCI6IiIsImlzc3VlciI6IiIsImZpbmdlcnByaW50IjoiIiwibm90X2FmdGVyX21zIjoxfX0";
        let forged = format!("X-Suijuris-Tls: {session};expires=1;hmac-sha256=00");
        for fields in [String::new(), format!("{forged}\r\n")] {
            let (status, answer) = deployed.ask("shop.localhost", "/index.html", &fields);
            assert_eq!(status, 403, "{answer}");
        }
        let inside = format!("http://127.0.0.1:{}/index.html", deployed.internal_port());
        let past = ["/bin/busybox", "wget", "-O-", "--header", &forged, &inside];
        let told = deployed.host.post(
            &format!("/apps/shop/machines/{machine}/exec"),
            &json!({ "command": past }),
        );
        let told = told.is(200);
        assert!(told["stderr"].as_str().unwrap().contains("403"), "{told}");
        if deployed.plain.is_some() {
            return;
        }
        let (host, port) = deployed.host.proxy[0].rsplit_once(':').unwrap();
        let ask = |more: &[&str]| {
            let mut curl = Command::new("curl");
            curl.current_dir(ca.path())
                .args(["-s", "--max-time", "90", "--cacert", "server.pem"]);
            curl.args(["--resolve", &format!("shop.localhost:{port}:{host}")]);
            curl.arg(format!("https://shop.localhost:{port}/index.html"));
            run(curl.args(more)).code(0).out
        };
        let page = "<h1>Hello from an image</h1>\n";
        assert!(ask(&[]).contains("\"status\":403"));
        assert!(ask(&["-H", &forged]).contains("\"status\":403"));
        assert!(ask(&["--cert", "shipping.pem", "--key", "shipping.key"]).contains("\"status\":403"));
        for version in ["--http2", "--http1.1"] {
            let served = ask(&["--cert", "billing.pem", "--key", "billing.key", version]);
            assert_eq!(served, page, "{version}");
        }
        // What the machine knows the proxy by is its root's alone, and the workload does not see where it is.
        let key = deployed.says(
            &machine,
            &["/bin/busybox", "stat", "-c", "%a %s", "/.fly/proxy.key"],
        );
        assert_eq!(key, "600 32\n");
    });
}
