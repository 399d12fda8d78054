//! Machines of images: what runs is what the image says, in its files, and nothing of the host.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use suijuris_testkit::registry::Real;
use tempfile::TempDir;

use crate::rig::{Host, until};

/// The image of `examples/image` as a layout, in a directory of its own.
pub(crate) fn layout() -> TempDir {
    layout_with("")
}

/// The same, after these commands have changed its files, which are in `root.new`.
fn layout_with(change: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/image");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(example)
        .arg(dir.path().join("image"))
        .status();
    assert!(copied.unwrap().success());
    let script = dir.path().join("image/make-image");
    let text = std::fs::read_to_string(&script).unwrap();
    let changed = text.replacen("chmod -R", &format!("{change}\nchmod -R"), 1);
    std::fs::write(&script, changed).unwrap();
    let made = Command::new("sh").arg(&script).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dir
}

pub(crate) fn name(dir: &TempDir) -> String {
    format!("oci:{}/image/layout", dir.path().display())
}

/// A host whose machines may name layouts in `dir`.
pub(crate) fn host(dir: &TempDir) -> Host {
    Host::start_with(&["--no-rate-limit", "--oci-root", dir.path().to_str().unwrap()])
}

/// A machine of the app `a`, of an image.
#[track_caller]
pub(crate) fn machine(host: &Host, image: &str, more: &Value) -> String {
    let mut config = json!({"image": image, "restart": {"policy": "no"}});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let made = host
        .post("/apps/a/machines", &json!({ "config": config }))
        .is(200);
    made["id"].as_str().unwrap().to_owned()
}

/// What a shell's `script` says in a machine that runs.
#[track_caller]
pub(crate) fn says(host: &Host, id: &str, script: &str) -> String {
    let asked = json!({"command": ["/bin/sh", "-c", script]});
    let ran = host.post(&format!("/apps/a/machines/{id}/exec"), &asked).is(200);
    assert_eq!(ran["exit_code"], 0, "{ran}");
    ran["stdout"].as_str().unwrap().to_owned()
}

#[test]
fn an_image_whose_resolver_is_a_link_that_leads_nowhere_is_told_where_names_are_asked() {
    let dir = layout_with("ln -s ../run/systemd/resolve/stub-resolv.conf root.new/etc/resolv.conf");
    let host = host(&dir);
    host.app("a");
    let id = machine(&host, &name(&dir), &json!({}));
    host.wait(&id, "started");
    let said = says(&host, &id, "/bin/busybox cat /etc/resolv.conf");
    assert_eq!(said, "nameserver fdaa::3\n");
}

#[test]
fn a_machine_runs_what_its_image_says_in_its_files() {
    let dir = layout();
    let host = host(&dir);
    host.app("a");
    host.post("/apps/a/secrets/TOKEN", &json!({"value": "c2VjcmV0"}))
        .is(201);
    let id = machine(
        &host,
        &name(&dir),
        &json!({
            "env": {"OWN": "config", "GREETING": "hello from the config"},
            "files": [{"guest_path": "/etc/app/given", "raw_value": "Z2l2ZW4K"}],
        }),
    );
    host.wait(&id, "started");
    let shown = host.get(&format!("/apps/a/machines/{id}")).is(200);
    let digest = shown["image_ref"]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{shown}");
    // Its own page, from its own server, by its image's user, in its image's directory.
    until("it serves", || {
        let asked = json!({"command": ["/bin/busybox", "wget", "-qO-", "http://127.0.0.1:8080/"]});
        let ran = host.post(&format!("/apps/a/machines/{id}/exec"), &asked).is(200);
        ran["stdout"].as_str().unwrap().contains("<")
    });
    let said = says(
        &host,
        &id,
        "b=/bin/busybox; $b id -u; $b id -g; pwd; $b ls /; echo $OWN $GREETING $TOKEN $HOME $FLY_APP_NAME; $b cat /etc/app/given; echo $FLY_IMAGE_REF; \
         $b ps | $b grep -c httpd",
    );
    let digest = format!("layout@{digest}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["1000", "1000", "/www"]);
    assert!(
        said.contains(
            "\nbin\ndev\netc\nproc\nrun\nsys\ntmp\nwww\nconfig hello from the config c2VjcmV0 /www a\ngiven\n"
        ),
        "{said}"
    );
    assert!(said.contains(&digest), "{said}");
    let processes = host.get(&format!("/apps/a/machines/{id}/ps")).is(200);
    let rows = processes.as_array().unwrap();
    assert!(
        rows.iter()
            .any(|row| row["command"].as_str().unwrap().contains("httpd -f -h /www")),
        "{rows:?}"
    );
    // Its image says SIGINT; nobody handles it, and it ends at once.
    host.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
        .is(200);
    host.wait(&id, "stopped");
    let exit = host.get(&format!("/apps/a/machines/{id}/events")).is(200);
    let exit = exit
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["type"] == "exit")
        .unwrap()
        .clone();
    assert_eq!(exit["request"]["exit_event"]["exit_code"], 130, "{exit}");
}

#[test]
fn a_start_after_a_stop_has_the_images_files_again_unless_they_persist() {
    let dir = layout();
    let host = host(&dir);
    host.app("a");
    let stay = |more: Value| {
        let mut config =
            json!({"init": {"exec": ["/bin/busybox", "sleep", "100000"]}, "processes": [{"user": "root"}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let id = machine(&host, &name(&dir), &config);
        host.wait(&id, "started");
        id
    };
    let written = |id: &str| says(&host, id, "echo x >> /written; /bin/busybox wc -l < /written");
    let again = |id: &str| {
        host.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
            .is(200);
        host.wait(id, "stopped");
        host.call("POST", &format!("/apps/a/machines/{id}/start"), None)
            .is(200);
        host.wait(id, "started");
    };
    let reset = stay(json!({}));
    let kept = stay(json!({"rootfs": {"persist": "always"}}));
    let volume = host
        .post("/apps/a/volumes", &json!({"name": "data", "size_gb": 1}))
        .is(200)["id"]
        .clone();
    let mounted = stay(json!({"mounts": [{"volume": volume, "path": "/data"}]}));
    assert_eq!(
        says(&host, &mounted, "echo kept > /data/file; /bin/busybox id -u"),
        "0\n"
    );
    for id in [&reset, &kept] {
        assert_eq!(written(id), "1\n");
        assert_eq!(written(id), "2\n");
        again(id);
    }
    again(&mounted);
    assert_eq!(written(&reset), "1\n");
    assert_eq!(written(&kept), "3\n");
    assert_eq!(says(&host, &mounted, "/bin/busybox cat /data/file"), "kept\n");
    // A machine that goes takes its files along.
    let files = host.data().join("machines").join(&kept);
    assert!(files.is_dir());
    host.call("DELETE", &format!("/apps/a/machines/{kept}?force=true"), None)
        .is(200);
    host.wait(&kept, "destroyed");
    assert!(!files.exists());
}

#[test]
fn an_image_of_a_registry_is_pinned_and_this_machine_is_closed_unless_the_operator_opens_it() {
    let dir = layout();
    let registry = Real::open();
    push(&dir, &registry.address, "team/web", "v1");
    let image = format!("{}/team/web:v1", registry.address);
    let closed = host(&dir);
    closed.app("a");
    closed
        .post("/apps/a/machines", &json!({"config": {"image": image}}))
        .refused(400, "nothing is pulled from there");
    closed
        .post(
            "/apps/a/machines",
            &json!({"config": {"image": "localhost:1/x:1"}}),
        )
        .refused(400, "failed to get manifest");
    drop(closed);
    let open = Host::start_with(&["--no-rate-limit", "--allow-registry", &registry.address]);
    open.app("a");
    open.post("/apps/a/machines", &json!({"config": {"image": name(&dir)}}))
        .refused(400, "--oci-root");
    open.post(
        "/apps/a/machines",
        &json!({"config": {"image": format!("{}/team/web:none", registry.address)}}),
    )
    .refused(400, "failed to get manifest");
    let id = machine(&open, &image, &json!({}));
    open.wait(&id, "started");
    let shown = open.get(&format!("/apps/a/machines/{id}")).is(200)["image_ref"].clone();
    assert_eq!(
        (&shown["repository"], &shown["tag"]),
        (&json!("team/web"), &json!("v1"))
    );
    // The name may lead elsewhere later, or nowhere: the machine stays what it is.
    drop(registry);
    open.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
        .is(200);
    open.wait(&id, "stopped");
    open.call("POST", &format!("/apps/a/machines/{id}/start"), None)
        .is(200);
    open.wait(&id, "started");
    let by_digest = format!("{image}@{}", shown["digest"].as_str().unwrap());
    open.post("/apps/a/machines", &json!({"config": {"image": by_digest}}))
        .refused(400, "failed to get manifest");
}

/// Pushes the layout's image with nothing but HTTP.
fn push(dir: &TempDir, registry: &str, repository: &str, tag: &str) {
    let blobs = dir.path().join("image/layout/blobs/sha256");
    let index: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("image/layout/index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .trim_start_matches("sha256:")
        .to_owned();
    let curl = |args: &[&str]| {
        let ran = Command::new("curl")
            .args(["-sSf", "-D", "-", "-o", "/dev/null"])
            .args(args)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    for blob in std::fs::read_dir(&blobs).unwrap() {
        let path = blob.unwrap().path();
        let digest = path.file_name().unwrap().to_str().unwrap().to_owned();
        if digest == manifest {
            continue;
        }
        let begun = curl(&[
            "-X",
            "POST",
            &format!("http://{registry}/v2/{repository}/blobs/uploads/"),
        ]);
        let location = begun
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .starts_with("location: ")
                    .then(|| line[10..].trim().to_owned())
            })
            .unwrap();
        let location = if location.starts_with('/') {
            format!("http://{registry}{location}")
        } else {
            location
        };
        let mark = if location.contains('?') { '&' } else { '?' };
        curl(&[
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/octet-stream",
            "--data-binary",
            &format!("@{}", path.display()),
            &format!("{location}{mark}digest=sha256:{digest}"),
        ]);
    }
    curl(&[
        "-X",
        "PUT",
        "-H",
        "Content-Type: application/vnd.oci.image.manifest.v1+json",
        "--data-binary",
        &format!("@{}", blobs.join(&manifest).display()),
        &format!("http://{registry}/v2/{repository}/manifests/{tag}"),
    ]);
}

/// What a new user reads is pasted into a shell as it stands.
#[test]
fn what_the_host_prints_first_makes_a_machine_that_runs() {
    use std::io::{BufRead as _, BufReader};
    let dir = layout();
    let mut host = host(&dir);
    host.kill();
    let data = TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_suijuris"))
        .args(["host", "--api", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .arg("--oci-root")
        .arg(dir.path().join("image"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines
        .map(Result::unwrap)
        .skip_while(|line| !line.starts_with("try"))
        .take(3)
        .collect();
    let script: Vec<&str> = lines
        .iter()
        .map(|line| line.trim_start_matches("try").trim())
        .collect();
    let sh = |script: &str| Command::new("sh").args(["-ec", script]).output().unwrap();
    let made = sh(&script.join("\n"));
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(said.contains("\"state\":\"created\""), "{said}");
    let call = script[2].split(" -d ").next().unwrap();
    let get = format!("{}\n{call}", script[0]);
    until("it runs", || {
        String::from_utf8(sh(&get).stdout)
            .unwrap()
            .contains("\"state\":\"started\"")
    });
    let remove = format!(
        "{}\n{} -X DELETE",
        script[0],
        call.replace("/machines", "?force=true")
    );
    assert!(sh(&remove).status.success());
    until("nothing is left", || {
        std::fs::read_dir(data.path().join("machines"))
            .unwrap()
            .next()
            .is_none()
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
