//! Snapshots in object storage (moto) and in a directory: sent by block, sealed, restored by another host, also where the daemon is killed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use age::secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use suijuris_testkit::servers;
use tempfile::TempDir;

use crate::rig::{Host, until};
use crate::volumes::{content, snapshot, volume};

const MIB: usize = 1 << 20;

/// The row of a snapshot among the backups.
fn backup(host: &Host, snapshot: &str) -> Option<Value> {
    let output = host.suijuris(&["backups", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.into_iter().find(|row| row["snapshot"] == snapshot)
}

#[track_caller]
fn kept(host: &Host, snapshot: &str) -> Value {
    until("it is backed up", || {
        let row = backup(host, snapshot);
        row.is_some_and(|row| row["state"] == "kept" && !row["sent"].is_null())
    });
    backup(host, snapshot).unwrap()
}

/// A volume that is restored on a host that has never had it.
#[track_caller]
fn restored(host: &Host, snapshot: &str) -> String {
    let made = host
        .post(
            "/apps/a/volumes",
            &json!({"name": "data", "region": "fra", "snapshot_id": snapshot}),
        )
        .is(200);
    let id = made["id"].as_str().unwrap().to_owned();
    until("it is restored", || {
        host.get(&format!("/apps/a/volumes/{id}")).is(200)["state"] == "created"
    });
    id
}

/// All that there is to say of a tree.
fn seen(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(at) = left.pop() {
        let metadata = std::fs::symlink_metadata(&at).unwrap();
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            left.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("to {:?}", std::fs::read_link(&at).unwrap())
        } else if kind.is_file() {
            let output = Command::new("sha256sum")
                .stdin(std::fs::File::open(&at).unwrap())
                .output()
                .unwrap();
            let digest = String::from_utf8(output.stdout).unwrap();
            format!("{} names, {} bytes, {digest}", metadata.nlink(), metadata.len())
        } else {
            "other".to_owned()
        };
        let text = format!(
            "{what}, {:o}, {}:{}, {}.{}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        found.insert(format!("{:?}", at.strip_prefix(root).unwrap()), text);
    }
    found
}

/// Something of every kind that a volume has.
fn fill(root: &Path) {
    let block = |number: u64| number.to_le_bytes().repeat(512);
    let bytes: Vec<u8> = (0..8 * 256).flat_map(block).collect();
    std::fs::write(root.join("big"), bytes).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 700 << 20).unwrap();
    std::fs::create_dir_all(root.join("many/deep/er")).unwrap();
    for number in 0..200 {
        std::fs::write(root.join(format!("many/{number}")), format!("file {number}")).unwrap();
    }
    std::fs::write(root.join("empty"), b"").unwrap();
    std::fs::hard_link(root.join("big"), root.join("many/same")).unwrap();
    symlink("/etc/passwd", root.join("many/deep/link")).unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"not \xff UTF-8")), b"x").unwrap();
    std::fs::write(root.join("secret"), b"hunter2 hunter2").unwrap();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("secret", 0o4750);
    mode("many/deep", 0o1511);
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("mkfifo").arg(root.join("pipe")));
    if nix::unistd::geteuid().is_root() {
        run(Command::new("chown")
            .args(["-h", "1234:567"])
            .arg(root.join("many/deep/link")));
        run(Command::new("chown").args(["1234:567"]).arg(root.join("empty")));
    }
}

// proves F4
#[test]
fn snapshots_go_to_object_storage_by_block_and_another_host_restores_them() {
    let prefix = fresh();
    let url = format!(
        "s3://depot/{prefix}?endpoint=http://{}&region=us-east-1",
        servers::s3()
    );
    let args = ["--no-rate-limit", "--backup", url.as_str()];
    let mut host = Host::start_with(&args);
    host.app("a");
    let id = volume(&host, &json!({}));
    let root = content(&host, &id);
    fill(&root);
    let first = snapshot(&host, &id);
    let row = kept(&host, &first);
    let sent = row["sent"].as_u64().unwrap();
    assert!(
        (8 * MIB as u64..10 * MIB as u64).contains(&sent),
        "holes are not sent: {row}"
    );
    let before = seen(&root);

    let big = std::fs::OpenOptions::new()
        .write(true)
        .open(root.join("big"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&big, b"changed", 5 * MIB as u64).unwrap();
    std::fs::remove_file(root.join("many/7")).unwrap();
    let second = snapshot(&host, &id);
    let row = kept(&host, &second);
    let sent = row["sent"].as_u64().unwrap();
    assert!(
        sent < 3 * MIB as u64 / 2,
        "what has not changed is not sent: {row}"
    );
    let after = seen(&root);
    assert_ne!(before, after);
    host.kill();

    let other = Host::start_with(&args);
    other.app("a");
    let unknown = json!({"name": "data", "snapshot_id": format!("vs_{}", "0".repeat(22))});
    other
        .post("/apps/a/volumes", &unknown)
        .refused(404, "snapshot not found");
    other
        .post("/apps", &json!({"app_name": "b", "org_slug": "personal"}))
        .is(201);
    let of_other_app = json!({"name": "data", "snapshot_id": second});
    other
        .post("/apps/b/volumes", &of_other_app)
        .refused(404, "snapshot not found");
    for (snapshot, tree) in [(&first, &before), (&second, &after)] {
        let back = restored(&other, snapshot);
        let root = content(&other, &back);
        assert_eq!(seen(&root), *tree);
        let sparse = std::fs::metadata(root.join("sparse")).unwrap();
        assert!(sparse.blocks() * 512 <= 2 * MIB as u64, "holes stay holes");
    }
}

/// A file with a fresh age identity.
fn key(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    let identity = age::x25519::Identity::generate();
    std::fs::write(&path, identity.to_string().expose_secret()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A prefix that no other test has.
fn fresh() -> String {
    suijuris_core::ObjectId::of(TempDir::new().unwrap().path().as_os_str().as_bytes()).to_string()
}

// proves F4
#[test]
fn sealed_backups_tell_nothing_and_open_with_their_key_alone() {
    let dir = TempDir::new().unwrap();
    let (right, wrong) = (key(dir.path(), "right"), key(dir.path(), "wrong"));
    let url = format!("file://{}/backups", dir.path().display());
    let args = ["--no-rate-limit", "--backup", &url, "--backup-key", &right];
    let mut host = Host::start_with(&args);
    host.app("a");
    let id = volume(&host, &json!({}));
    fill(&content(&host, &id));
    let snapshot = snapshot(&host, &id);
    kept(&host, &snapshot);
    let before = seen(&content(&host, &id));
    host.kill();
    let found = Command::new("grep")
        .args([
            "-r", "-l", "-a", "-e", "hunter2", "-e", "size_gb", "-e", "c2VjcmV0",
        ])
        .arg(dir.path().join("backups"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");

    let other = Host::start_with(&["--no-rate-limit", "--backup", &url, "--backup-key", &wrong]);
    other.app("a");
    let asked = json!({"name": "data", "snapshot_id": snapshot});
    other.post("/apps/a/volumes", &asked).refused(503, "another key");
    let plain = Host::start_with(&["--no-rate-limit", "--backup", &url]);
    plain.app("a");
    plain.post("/apps/a/volumes", &asked).refused(503, "damaged");
    let third = Host::start_with(&args);
    third.app("a");
    assert_eq!(seen(&content(&third, &restored(&third, &snapshot))), before);
}

// proves F4
#[test]
fn a_backup_and_a_restore_that_are_killed_anywhere_are_made_by_the_next_daemon() {
    let dir = TempDir::new().unwrap();
    let url = format!("file://{}/backups", dir.path().display());
    let args = |more: &[&str]| -> Vec<String> {
        let all = ["--no-rate-limit", "--backup", &url]
            .into_iter()
            .chain(more.iter().copied());
        all.map(str::to_owned).collect()
    };
    let run = |host: &mut Host, more: &[&str]| {
        host.kill();
        let args = args(more);
        host.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let mut host = Host::start_with(&args(&[]).iter().map(String::as_str).collect::<Vec<_>>());
    host.app("a");
    let id = volume(&host, &json!({}));
    std::fs::write(content(&host, &id).join("file"), vec![7; 3 * MIB]).unwrap();
    let mut first = None;
    for point in 0..40 {
        run(&mut host, &["--fault", &point.to_string()]);
        let path = format!("/apps/a/volumes/{id}/snapshots");
        let answer = host.try_call("POST", &path, Some(&json!({})));
        let made = answer.map(|answer| answer.is(200)["id"].as_str().unwrap().to_owned());
        if let Some(made) = &made {
            until("dead, or kept", || {
                let is_kept = |row: Value| row["state"] == "kept" && !row["sent"].is_null();
                host.is_dead() || {
                    let output = host.suijuris(&["backups", "--json"]);
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let mut rows = text
                        .lines()
                        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
                    rows.any(|row| row["snapshot"] == made.as_str() && is_kept(row))
                }
            });
        } else {
            until("dead", || host.is_dead());
        }
        let is_over = !host.is_dead();
        run(&mut host, &[]);
        if let Some(made) = made {
            kept(&host, &made);
            first.get_or_insert(made);
        }
        if is_over {
            assert!(point > 4, "it has points at which it can be killed");
            break;
        }
        assert!(point < 39, "it never comes to its end");
    }
    let snapshot = first.unwrap();
    host.kill();
    let mut other = Host::start_with(&args(&[]).iter().map(String::as_str).collect::<Vec<_>>());
    other.app("a");
    for point in 0..40 {
        run(&mut other, &["--fault", &point.to_string()]);
        let asked = json!({"name": "data", "region": "fra", "snapshot_id": snapshot});
        let answer = other.try_call("POST", "/apps/a/volumes", Some(&asked));
        let is_made = |volumes: &Value| {
            let all = volumes.as_array().unwrap();
            all.iter().all(|volume| volume["state"] == "created")
        };
        until("dead, or restored", || {
            let volumes = other.try_call("GET", "/apps/a/volumes", None);
            other.is_dead() || (answer.is_some() && volumes.is_some_and(|volumes| is_made(&volumes.body)))
        });
        let is_over = !other.is_dead();
        run(&mut other, &[]);
        until("restored", || is_made(&other.get("/apps/a/volumes").is(200)));
        let volumes = other.get("/apps/a/volumes").is(200);
        if let Some(answer) = answer {
            let id = &answer.is(200)["id"];
            assert!(
                volumes
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|volume| volume["id"] == *id)
            );
        }
        for volume in volumes.as_array().unwrap() {
            let root = content(&other, volume["id"].as_str().unwrap());
            assert_eq!(
                std::fs::read(root.join("file")).unwrap(),
                vec![7; 3 * MIB],
                "point {point}"
            );
        }
        if is_over {
            assert!(point > 3, "it has points at which it can be killed");
            return;
        }
    }
    panic!("it never comes to its end");
}

#[test]
fn a_backup_that_is_damaged_is_said_to_be_and_nothing_else_suffers() {
    let dir = TempDir::new().unwrap();
    let backups = dir.path().join("backups");
    let url = format!("file://{}", backups.display());
    let host = Host::start_with(&["--no-rate-limit", "--backup", &url]);
    host.app("a");
    let id = volume(&host, &json!({}));
    std::fs::write(content(&host, &id).join("file"), vec![7; 3 * MIB]).unwrap();
    let snapshot = snapshot(&host, &id);
    kept(&host, &snapshot);
    let blocks = backups.join("blocks").join(&id);
    let entry = std::fs::read_dir(&blocks).unwrap().next().unwrap().unwrap();
    std::fs::write(entry.path(), b"something else").unwrap();
    let other = Host::start_with(&["--no-rate-limit", "--backup", &url]);
    other.app("a");
    let made = other
        .post(
            "/apps/a/volumes",
            &json!({"name": "data", "region": "fra", "snapshot_id": snapshot}),
        )
        .is(200);
    assert_eq!(made["state"], "restoring");
    let path = format!("/apps/a/volumes/{}", made["id"].as_str().unwrap());
    until("the damage is said", || {
        let output = other.suijuris(&["backups", "--json"]);
        String::from_utf8_lossy(&output.stdout).contains("is not what was sent")
    });
    assert_eq!(other.get(&path).is(200)["state"], "restoring");
    other
        .post(
            "/apps/a/machines",
            &json!({"config": {"image": "host:sh", "mounts": [{"volume": made["id"], "path": "/d"}]}}),
        )
        .refused(400, "volume");
    other.call("DELETE", &path, None).is(200);
}
