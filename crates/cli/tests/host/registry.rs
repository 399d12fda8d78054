//! The host's own registry: Debian's skopeo pushes and pulls, machines run what was pushed, orgs keep apart.

use std::process::{Command, Output};

use serde_json::json;

use crate::images::{layout, machine};
use crate::rig::Host;

fn skopeo(args: &[&str]) -> Output {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").args(args);
    command
        .output()
        .expect("skopeo cannot be started: run tools/setup --test")
}

#[track_caller]
fn does(args: &[&str]) -> String {
    let ran = skopeo(args);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[track_caller]
fn fails(args: &[&str], part: &str) {
    let ran = skopeo(args);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains(part), "{said}");
}

/// A token of the host, as skopeo takes it.
fn login(host: &Host, args: &[&str]) -> String {
    let made = host.suijuris(&[&["token", "create"], args].concat());
    format!("x:{}", String::from_utf8(made.stdout).unwrap().trim())
}

#[test]
fn skopeo_pushes_and_pulls_and_a_machine_runs_what_was_pushed() {
    let dir = layout();
    let host = Host::start();
    host.app("a");
    host.app("b");
    let ours = format!("x:{}", host.token);
    let from = format!("oci:{}/image/layout", dir.path().display());
    let to = |repository: &str| format!("docker://{}/{repository}", host.api);
    does(&[
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        &ours,
        &from,
        &to("a:v1"),
    ]);
    let inspected = does(&["inspect", "--tls-verify=false", "--creds", &ours, &to("a:v1")]);
    assert!(
        inspected.contains("\"v1\"") && inspected.contains("GREETING=hello"),
        "{inspected}"
    );
    // A second repository of the same org has the blobs without sending them, and gives the same image.
    does(&[
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--src-creds",
        &ours,
        "--dest-creds",
        &ours,
        &to("a:v1"),
        &to("b/part:v1"),
    ]);
    let back = format!("oci:{}/back", dir.path().display());
    does(&[
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--src-creds",
        &ours,
        &to("b/part:v1"),
        &back,
    ]);
    let index = |path: &str| std::fs::read_to_string(dir.path().join(path).join("index.json")).unwrap();
    let digest = |index: &str| index.split("sha256:").nth(1).unwrap()[..64].to_owned();
    assert_eq!(digest(&index("back")), digest(&index("image/layout")));

    let id = machine(&host, &format!("{}/a:v1", host.api), &json!({}));
    host.wait(&id, "started");
    let shown = host.get(&format!("/apps/a/machines/{id}")).is(200);
    assert_eq!(
        shown["image_ref"]["digest"],
        format!("sha256:{}", digest(&index("image/layout")))
    );
    let at_fly = machine(
        &host,
        "registry.fly.io/b/part:v1",
        &json!({"init": {"exec": ["/bin/busybox", "sleep", "1000"]}}),
    );
    host.wait(&at_fly, "started");
    host.post(
        "/apps/a/machines",
        &json!({"config": {"image": "registry.fly.io/a:none"}}),
    )
    .refused(400, "failed to get manifest");
    does(&["delete", "--tls-verify=false", "--creds", &ours, &to("b/part:v1")]);
    fails(
        &[
            "inspect",
            "--tls-verify=false",
            "--creds",
            &ours,
            &to("b/part:v1"),
        ],
        "unknown",
    );
}

#[test]
fn a_repository_is_its_apps_and_its_orgs() {
    let dir = layout();
    let host = Host::start();
    host.app("a");
    let ours = format!("x:{}", host.token);
    let from = format!("oci:{}/image/layout", dir.path().display());
    let to = |repository: &str| format!("docker://{}/{repository}", host.api);
    let push = |creds: &str, repository: &str| {
        let to = to(repository);
        let args = [
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            "--dest-creds",
            creds,
            &from,
            &to,
        ];
        args.map(str::to_owned)
    };
    let pushed =
        |creds: &str, repository: &str| does(&push(creds, repository).each_ref().map(String::as_str));
    let refused = |creds: &str, repository: &str, part: &str| {
        fails(&push(creds, repository).each_ref().map(String::as_str), part);
    };
    pushed(&ours, "a:v1");
    refused("x:nonsense", "a:v2", "authentication required");
    refused(&ours, "none:v1", "");
    refused(&login(&host, &["--read-only"]), "a:v2", "may not push");
    refused(&login(&host, &["--app", "b"]), "a:v2", "403");
    let theirs = login(&host, &["--org", "other"]);
    refused(&theirs, "a:v2", "403");
    fails(
        &["inspect", "--tls-verify=false", "--creds", &theirs, &to("a:v1")],
        "may not read",
    );
    does(&[
        "inspect",
        "--tls-verify=false",
        "--creds",
        &login(&host, &["--read-only"]),
        &to("a:v1"),
    ]);
    // Another org's machine does not run it, and its app does not mount it, though the content lies here.
    let bearer = theirs.trim_start_matches("x:").to_owned();
    let as_them = |method: &str, path: &str, body: &str| {
        host.raw(method, path, &format!("Authorization: Bearer {bearer}\r\n"), body)
            .unwrap()
    };
    as_them("POST", "/apps", r#"{"app_name": "theirs", "org_slug": "other"}"#).is(201);
    as_them(
        "POST",
        "/apps/theirs/machines",
        r#"{"config": {"image": "registry.fly.io/a:v1"}}"#,
    )
    .refused(400, "failed to get manifest");
    let digest = std::fs::read_dir(dir.path().join("image/layout/blobs/sha256"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let digest = digest.file_name().into_string().unwrap();
    let mount = format!(
        "http://{}/v2/theirs/blobs/uploads/?mount=sha256:{digest}&from=a",
        host.api
    );
    let mounted = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "POST",
            "-u",
            &theirs,
            &mount,
        ])
        .output()
        .unwrap();
    assert_eq!(mounted.stdout, b"202", "an upload begins instead");
    as_them("DELETE", "/apps/theirs?force=true", "").is(202);
    // What is pushed goes with its app.
    host.call("DELETE", "/apps/a?force=true", None).is(202);
    host.app("a");
    fails(
        &["inspect", "--tls-verify=false", "--creds", &ours, &to("a:v1")],
        "unknown",
    );
}

#[test]
fn an_upload_goes_on_where_it_broke_off_also_with_the_next_daemon() {
    let mut host = Host::start();
    host.app("a");
    let user = format!("x:{}", host.token);
    let curl = |host: &Host, args: &[&str], path: &str| {
        let url = format!("http://{}{path}", host.api);
        let ran = Command::new("curl")
            .args(["-s", "-i", "-u", &user])
            .args(args)
            .arg(&url)
            .output()
            .unwrap();
        String::from_utf8(ran.stdout).unwrap().to_lowercase()
    };
    let begun = curl(&host, &["-X", "POST"], "/v2/a/blobs/uploads/");
    let location = begun
        .lines()
        .find_map(|line| line.strip_prefix("location: "))
        .unwrap()
        .trim()
        .to_owned();
    let patch = |host: &Host, range: &str, data: &str| {
        let range = format!("Content-Range: {range}");
        curl(
            host,
            &[
                "-X",
                "PATCH",
                "-H",
                &range,
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                data,
            ],
            &location,
        )
    };
    assert!(patch(&host, "0-4", "hello").contains(" 202 "));
    assert!(
        patch(&host, "0-4", "hello").contains(" 416 "),
        "what is there is not sent twice"
    );
    host.kill();
    host.run(&["--no-rate-limit"]);
    let status = curl(&host, &[], &location);
    assert!(
        status.contains(" 204 ") && status.contains("range: 0-4\r\n"),
        "{status}"
    );
    assert!(patch(&host, "5-10", " world").contains("range: 0-10\r\n"));
    let digest = "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    let wrong = curl(&host, &["-X", "PUT"], &format!("{location}?digest={digest}x"));
    assert!(wrong.contains("digest_invalid"), "{wrong}");
    let done = curl(&host, &["-X", "PUT"], &format!("{location}?digest={digest}"));
    assert!(done.contains(" 201 "), "{done}");
    let part = curl(
        &host,
        &["-H", "Range: bytes=6-"],
        &format!("/v2/a/blobs/{digest}"),
    );
    assert!(
        part.contains(" 206 ") && part.ends_with("\r\n\r\nworld"),
        "{part}"
    );
    for (method, path, status) in [
        ("GET", "/v2/a/blobs/sha256:zz", " 400 "),
        ("GET", "/v2/a/manifests/none", " 404 "),
        ("PUT", "/v2/a/manifests/v1", " 400 "),
        ("GET", "/v2/A/manifests/v1", " 400 "),
        ("GET", "/v2/a/b/../manifests/v1", " 404 "),
        ("DELETE", "/v2/a/blobs/uploads/x", " 404 "),
        ("PATCH", "/v2/", " 200 "),
        ("GET", "/v2/none/tags/list", " 404 "),
        ("POST", "/v2/a/tags/list", " 405 "),
    ] {
        let answer = curl(&host, &["-X", method], path);
        assert!(answer.contains(status), "{method} {path}: {answer}");
    }
}
