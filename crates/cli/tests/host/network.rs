//! The private networks of orgs, between machines that run: who has which name, who is reached, who is not.

use std::net::Ipv6Addr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::images::{host, layout, name};
use crate::rig::{Host, until};

/// A machine of `app` with the token of its org.
pub(crate) fn machine(
    host: &Host,
    token: &str,
    image: &str,
    (app, more): (&str, &Value),
) -> (String, Ipv6Addr) {
    let mut asked = json!({"config": {
        "image": image, "restart": {"policy": "no"}, "init": {"exec": ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]},
    }});
    for (key, value) in more.as_object().into_iter().flatten() {
        match key.as_str() {
            "region" => asked["region"] = value.clone(),
            _ => asked["config"][key] = value.clone(),
        }
    }
    let made = call(host, token, "POST", &format!("/apps/{app}/machines"), &asked);
    let id = made["id"].as_str().unwrap().to_owned();
    let waited = call(
        host,
        token,
        "GET",
        &format!("/apps/{app}/machines/{id}/wait?state=started"),
        &Value::Null,
    );
    assert_eq!(waited["ok"], true, "{waited}");
    (id, made["private_ip"].as_str().unwrap().parse().unwrap())
}

fn call(host: &Host, token: &str, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = host.raw(method, path, &format!("Authorization: Bearer {token}\r\n"), &body);
    let answer = answer.unwrap();
    assert!((200..300).contains(&answer.status), "{path}: {}", answer.body);
    answer.body
}

/// Exit code and output of a shell's `script` in a machine.
pub(crate) fn runs(host: &Host, token: &str, (app, id): (&str, &str), script: &str) -> (i64, String) {
    let asked = json!({"command": ["/bin/sh", "-c", script]});
    let ran = call(
        host,
        token,
        "POST",
        &format!("/apps/{app}/machines/{id}/exec"),
        &asked,
    );
    let text = |key: &str| ran[key].as_str().unwrap().to_owned();
    (
        ran["exit_code"].as_i64().unwrap(),
        text("stdout") + &text("stderr"),
    )
}

/// The addresses that a name has in a machine, sorted.
fn named(host: &Host, token: &str, whose: (&str, &str), name: &str) -> Vec<Ipv6Addr> {
    let script = format!("/bin/busybox nslookup -type=aaaa {name}");
    let (_, said) = runs(host, token, whose, &script);
    let answers = said.split_once("Name:").map_or("", |(_, answers)| answers);
    let addresses = answers.lines().filter_map(|line| line.strip_prefix("Address: "));
    let mut found: Vec<Ipv6Addr> = addresses.map(|address| address.trim().parse().unwrap()).collect();
    found.sort();
    found
}

/// Exit code and output of a request for `/` at an address and port.
fn fetches(host: &Host, token: &str, whose: (&str, &str), (address, port): (&str, &str)) -> (i64, String) {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 5 {address} {port}");
    runs(host, token, whose, &script)
}

/// A token of another org.
fn other_org(host: &Host) -> String {
    let made = host.suijuris(&["token", "create", "--org", "other"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

// proves F9
#[test]
fn machines_of_an_org_reach_each_other_by_name_and_nobody_elses() {
    let dir = layout();
    let mut host = host(&dir);
    let (image, ours) = (name(&dir), host.token.clone());
    host.app("a");
    host.app("b");
    let theirs = other_org(&host);
    for app in ["c", "d"] {
        let asked = json!({"app_name": app, "org_slug": "other", "network": if app == "d" { "apart" } else { "default" }});
        call(&host, &theirs, "POST", "/apps", &asked);
    }
    let (first, at_first) = machine(&host, &ours, &image, ("a", &json!({})));
    let (second, at_second) = machine(&host, &ours, &image, ("a", &json!({"region": "iad"})));
    let metadata = json!({"metadata": {"internal_names": "bafyobject"}});
    let (third, at_third) = machine(&host, &ours, &image, ("b", &metadata));
    let (foreign, at_foreign) = machine(&host, &theirs, &image, ("c", &json!({})));
    let (apart, at_apart) = machine(&host, &theirs, &image, ("d", &json!({})));
    let from = ("a", first.as_str());
    let is_named = |name: &str, expect: &[Ipv6Addr]| {
        let mut expect = expect.to_vec();
        expect.sort();
        let script = format!("/bin/busybox nslookup -type=aaaa {name}");
        assert_eq!(
            named(&host, &ours, from, name),
            expect,
            "{name}: {}",
            runs(&host, &ours, from, &script).1
        );
    };
    is_named("a.internal", &[at_first, at_second]);
    is_named("iad.a.internal", &[at_second]);
    is_named(&format!("{third}.vm.b.internal"), &[at_third]);
    is_named("top1.nearest.of.a.internal", &[at_first]);
    is_named("bafyobject.internal", &[at_third]);
    is_named("c.internal", &[]);
    is_named(&format!("{foreign}.vm.c.internal"), &[]);
    let (_, instances) = runs(
        &host,
        &ours,
        from,
        "/bin/busybox nslookup -type=txt _instances.internal",
    );
    assert!(
        instances.contains(&second) && !instances.contains(&foreign),
        "{instances}"
    );
    // A machine finds itself without asking anybody.
    let (_, itself) = runs(&host, &ours, from, "/bin/busybox grep fly-local-6pn /etc/hosts");
    assert!(itself.starts_with(&at_first.to_string()), "{itself}");
    let (code, page) = fetches(&host, &ours, from, (&at_third.to_string(), "8080"));
    assert!(code == 0 && page.contains("Hello"), "{page}");
    for address in [at_foreign, at_apart] {
        let (code, said) = fetches(&host, &ours, from, (&address.to_string(), "8080"));
        assert!(code != 0 && !said.contains("Hello"), "{said}");
    }
    // Neither do machines of one org in two networks.
    assert!(named(&host, &theirs, ("c", &foreign), "d.internal").is_empty());
    assert_eq!(named(&host, &theirs, ("d", &apart), "d.internal"), [at_apart]);
    assert_ne!(
        fetches(&host, &theirs, ("c", &foreign), (&at_apart.to_string(), "8080")).0,
        0
    );
    // Only those that are started have a name; and the next daemon answers as this one did.
    call(
        &host,
        &ours,
        "POST",
        &format!("/apps/a/machines/{second}/stop"),
        &Value::Null,
    );
    host.wait(&second, "stopped");
    is_named("a.internal", &[at_first]);
    host.kill();
    host.run(&["--no-rate-limit", "--oci-root", dir.path().to_str().unwrap()]);
    until("names are answered again", || {
        named(&host, &ours, from, "bafyobject.internal") == [at_third]
    });
    host.call("POST", &format!("/apps/a/machines/{second}/start"), None)
        .is(200);
    host.wait(&second, "started");
    let (code, page) = fetches(&host, &ours, from, (&at_second.to_string(), "8080"));
    assert!(code == 0 && page.contains("Hello"), "{page}");
}

/// Gives a directory with all that is in it to an ordinary user.
pub(crate) fn give(directory: &std::path::Path) {
    const USER: &str = "65534:65534";
    let owned = Command::new("chown").args(["-R", USER]).arg(directory).status();
    assert!(owned.unwrap().success());
}

// proves F9
#[test]
fn machines_of_an_ordinary_user_reach_each_other_too() {
    if !nix::unistd::Uid::effective().is_root() {
        // Every other test is one of an ordinary user then.
        return;
    }
    let dir = layout();
    give(dir.path());
    let root = dir.path().to_str().unwrap();
    let own = TempDir::new().unwrap();
    give(own.path());
    let mut host = Host::start_in(own, &["--no-rate-limit", "--oci-root", root]);
    let (image, token) = (name(&dir), host.token.clone());
    host.app("a");
    let checked = json!({"checks": {"up": {"type": "tcp", "port": 8080}}});
    let (first, _) = machine(&host, &token, &image, ("a", &checked));
    let (second, at_second) = machine(&host, &token, &image, ("a", &json!({})));
    let from = ("a", first.as_str());
    let is_reached = |host: &Host| {
        assert_eq!(
            named(host, &token, from, &format!("{second}.vm.a.internal")),
            [at_second]
        );
        let (code, page) = fetches(host, &token, from, (&at_second.to_string(), "8080"));
        assert!(code == 0 && page.contains("Hello"), "{page}");
    };
    is_reached(&host);
    // From outside it is asked through its network, too.
    until("its check passes", || {
        let shown = host.get(&format!("/apps/a/machines/{first}")).is(200);
        shown["checks"][0]["status"] == "passing"
    });
    let (_, said) = runs(
        &host,
        &token,
        from,
        "/bin/busybox ip addr del $FLY_PRIVATE_IP/80 dev eth0; /bin/busybox ip route del unreachable fdaa::/16",
    );
    assert_eq!(said.matches("not permitted").count(), 2, "{said}");
    host.kill();
    host.run(&["--no-rate-limit", "--oci-root", root]);
    until("names are answered again", || {
        !named(&host, &token, from, "a.internal").is_empty()
    });
    is_reached(&host);
}
