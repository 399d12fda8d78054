//! Snapshot and fork of a volume on XFS, beside `cp --reflink` of the same directory.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use suijuris_testkit::bench::host::{APP, Host};
use suijuris_testkit::bench::{Contender, Report, Settings, interleave};

use crate::{Result, beside};

const MIB: u64 = 1 << 20;
/// The file is so long, and has so many pieces of a MiB, apart by nine of nothing.
const LENGTH: u64 = 10 << 30;
const PIECES: u64 = 1_024;
/// Copies of each kind.
const ROUNDS: usize = 20;
/// What is asked for: `cp` takes at least two thirds of what we take.
const ASKED: f64 = 1.0 / 1.5;

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {said}")))
}

/// XFS in a file, mounted for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(folder: &Path) -> io::Result<Self> {
        let (image, at) = (folder.join("image"), folder.join("xfs"));
        File::create(&image)?.set_len(20 << 30)?;
        run(Command::new("mkfs.xfs")
            .args(["-q", "-m", "reflink=1"])
            .arg(&image))?;
        std::fs::create_dir(&at)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn fill(directory: &Path) -> io::Result<()> {
    let mut file = File::create(directory.join("data"))?;
    file.set_len(LENGTH)?;
    let piece = vec![7; usize::try_from(MIB).map_err(io::Error::other)?];
    for number in 0..PIECES {
        file.seek(SeekFrom::Start(number * 10 * MIB))?;
        file.write_all(&piece)?;
    }
    file.sync_all()
}

/// The table of this bench.
pub(crate) fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        report.note("not measured: mounting XFS needs root");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mounted = Mounted::new(folder.path())?;
    let host = Host::start(&mounted.0.join("data"), &["--no-proxy"])?;
    let volumes = format!("/apps/{APP}/volumes");
    let made = json!({"name": "data", "size_gb": 12, "region": "fra"});
    let made = host.client()?.must("POST", &volumes, Some(&made))?;
    let id = made.get("id").and_then(Value::as_str).ok_or("no volume")?;
    let content = host.data().join("volumes").join(id);
    fill(&content)?;
    let failed: Cell<Option<io::Error>> = Cell::new(None);
    let timed = |work: &dyn Fn() -> io::Result<()>| {
        // What an earlier round has left for the disk is not this one's.
        let done = run(&mut Command::new("sync")).and_then(|()| {
            let begin = Instant::now();
            work()?;
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        });
        done.unwrap_or_else(|error| {
            failed.set(Some(error));
            f64::NAN
        })
    };
    let snapshot = || {
        let path = format!("{volumes}/{id}/snapshots");
        host.client()?.must("POST", &path, Some(&json!({}))).map(drop)
    };
    let fork = || {
        let asked = json!({"name": "fork", "source_volume_id": id, "region": "fra"});
        host.client()?.must("POST", &volumes, Some(&asked)).map(drop)
    };
    let copies = Cell::new(0);
    let to = || {
        copies.set(copies.get() + 1);
        mounted.0.join(format!("copy-{}", copies.get()))
    };
    let copy = |to: &Path| {
        run(Command::new("cp")
            .args(["--archive", "--reflink=always"])
            .arg(&content)
            .arg(to))
    };
    let bare = || copy(&to());
    let synced = || {
        let to = to();
        copy(&to)?;
        run(Command::new("sync").arg("--file-system").arg(&to))
    };
    let mut contenders = [
        Contender::new("snapshot", || timed(&snapshot)),
        Contender::new("fork", || timed(&fork)),
        Contender::new("cp", || timed(&bare)),
        Contender::new("cp, synced", || timed(&synced)),
    ];
    let samples = interleave(settings.scale(ROUNDS), &mut contenders);
    drop(contenders);
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    if let [snapshot, fork, bare, synced] = samples.as_slice() {
        for (what, ours) in [("snapshot", snapshot), ("fork", fork)] {
            let (ours, bare, synced) = (ours.median(), bare.median(), synced.median());
            beside(report, what, ours, "cp --reflink", bare, Some(ASKED));
            beside(
                report,
                what,
                ours,
                "the same, then sync --file-system",
                synced,
                Some(ASKED),
            );
        }
    }
    report.note("a file of 10 GiB with 1,024 pieces of 1 MiB, on XFS in a file; ours is on the disk when it is answered");
    drop(host);
    Ok(())
}
