//! Volumes: what a copy costs where the file system shares blocks and where it does not; a daemon that is killed in between.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::Host;

const MIB: u64 = 1 << 20;

/// A file system of a kind in a file, mounted for as long as this lives.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// None where this is not root, who alone may mount.
    pub(crate) fn new(kind: &str, dir: &Path, at: &Path) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not tried on {kind}: mounting it needs root");
            return None;
        }
        let image = dir.join("image");
        std::fs::File::create(&image).unwrap().set_len(400 * MIB).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "run `tools/setup --test`? {said}");
        };
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        std::fs::create_dir(at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        Some(Self(at.to_owned()))
    }

    fn used(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.0).unwrap();
        (stat.blocks() - stat.blocks_free()) * stat.fragment_size()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub(crate) fn volume(host: &Host, more: &Value) -> String {
    let mut asked = json!({"name": "data", "size_gb": 3, "region": "fra"});
    for (key, value) in more.as_object().unwrap() {
        asked[key] = value.clone();
    }
    let made = host.post("/apps/a/volumes", &asked).is(200);
    assert_eq!(made["state"], "created");
    made["id"].as_str().unwrap().to_owned()
}

pub(crate) fn snapshot(host: &Host, volume: &str) -> String {
    let path = format!("/apps/a/volumes/{volume}/snapshots");
    let made = host.post(&path, &json!({})).is(200);
    assert_eq!(made["status"], "created");
    made["id"].as_str().unwrap().to_owned()
}

pub(crate) fn content(host: &Host, id: &str) -> PathBuf {
    host.data().join("volumes").join(id)
}

/// 64 MiB that no two blocks of are alike.
fn fill(path: &Path) {
    let block = |number: u64| number.to_le_bytes().repeat(512);
    let bytes: Vec<u8> = (0..16 * 1024).flat_map(block).collect();
    std::fs::write(path, bytes).unwrap();
}

// proves F4
#[test]
fn snapshots_and_forks_share_blocks_where_the_file_system_can() {
    for kind in ["xfs", "btrfs"] {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        let Some(mounted) = Mounted::new(kind, dir.path(), &data) else {
            return;
        };
        let mut host = Host::start_in(dir, &["--no-rate-limit"]);
        host.app("a");
        let first = volume(&host, &json!({}));
        fill(&content(&host, &first).join("file"));
        let snapshot = snapshot(&host, &first);
        let one = mounted.used();
        let fork = volume(&host, &json!({"source_volume_id": first}));
        let back = volume(&host, &json!({"snapshot_id": snapshot}));
        let grown = mounted.used().saturating_sub(one);
        assert!(grown < 8 * MIB, "{kind}: two copies of 64 MiB took {grown} bytes");
        // Neither sees what is written to another.
        std::fs::write(content(&host, &first).join("file"), b"changed").unwrap();
        for copy in [&fork, &back] {
            let path = content(&host, copy).join("file");
            assert_eq!(std::fs::metadata(path).unwrap().len(), 64 * MIB, "{kind}");
        }
        host.kill();
        drop(mounted);
    }
}

// proves F4
#[test]
fn elsewhere_a_copy_takes_what_is_written_and_holes_stay_holes() {
    let host = Host::start();
    host.app("a");
    let first = volume(&host, &json!({}));
    let path = content(&host, &first).join("disk");
    std::fs::write(&path, vec![7; 65_536]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1_024 * MIB).unwrap();
    let fork = volume(&host, &json!({"source_volume_id": first}));
    let copied = std::fs::metadata(content(&host, &fork).join("disk")).unwrap();
    assert_eq!(copied.len(), 1_024 * MIB);
    assert!(copied.blocks() * 512 < 4 * MIB, "{} blocks", copied.blocks());
    let shown = host.get(&format!("/apps/a/volumes/{fork}")).is(200);
    let used = shown["bytes_used"].as_u64().unwrap();
    assert!((65_536..4 * MIB).contains(&used), "{used}");
}

/// Kills the daemon at each point of what `ask` asks for; the next one must have all of it or nothing, and no rest.
fn killed_at_every_point(
    path: impl Fn(&str) -> String,
    body: impl Fn(&str) -> Value,
    kept: impl Fn(&Value) -> bool,
) {
    let mut host = Host::start();
    host.app("a");
    let first = volume(&host, &json!({}));
    std::fs::write(content(&host, &first).join("file"), b"kept").unwrap();
    for point in 0..40 {
        host.kill();
        host.run(&["--no-rate-limit", "--fault", &point.to_string()]);
        let answer = host.try_call("POST", &path(&first), Some(&body(&first)));
        let survived = answer.is_some();
        host.kill();
        host.run(&["--no-rate-limit"]);
        let volumes = host.get("/apps/a/volumes").is(200);
        let mut known = Vec::new();
        for volume in volumes.as_array().unwrap() {
            assert_eq!(volume["state"], "created", "killed at point {point}: {volume}");
            let id = volume["id"].as_str().unwrap();
            known.push(id.to_owned());
            let snapshots = host.get(&format!("/apps/a/volumes/{id}/snapshots")).is(200);
            let ids = snapshots.as_array().unwrap().iter();
            known.extend(ids.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()));
        }
        for id in &known {
            assert_eq!(
                std::fs::read(content(&host, id).join("file")).unwrap(),
                b"kept",
                "point {point}"
            );
        }
        let on_disk = std::fs::read_dir(host.data().join("volumes")).unwrap().count();
        assert_eq!(on_disk, known.len(), "killed at point {point}: {known:?}");
        if let Some(answer) = answer.filter(|answer| answer.status == 200) {
            assert!(kept(&answer.body), "granted, then killed at point {point}");
            assert!(known.iter().any(|id| answer.body["id"] == **id), "{known:?}");
        }
        if survived {
            assert!(point > 2, "it has points at which it can be killed");
            return;
        }
    }
    panic!("it never comes to its end");
}

// proves F4
#[test]
fn a_fork_that_is_killed_anywhere_is_whole_or_never_was() {
    killed_at_every_point(
        |_| "/apps/a/volumes".to_owned(),
        |first| json!({"name": "fork", "source_volume_id": first, "region": "fra"}),
        |made| made["state"] == "created",
    );
}

// proves F4
#[test]
fn a_snapshot_that_is_killed_anywhere_is_whole_or_never_was() {
    killed_at_every_point(
        |first| format!("/apps/a/volumes/{first}/snapshots"),
        |_| json!({}),
        |made| made["status"] == "created",
    );
}
