//! Virtual machines on disks that are full: while they are started, suspended, and when they have ended.

use std::fs;
use std::path::Path;
use std::process::Command;

use suijuris_vehicle::vm::{is_away, recover};
use suijuris_vehicle::{Driver as _, Exit, Machine as _, Mount, Signal, Since, State};

use crate::process::Again;
use crate::qemu::{Stage, says};

/// Writes two megabytes, and twenty more when it is told to.
const WRITES: &str = "trap 'head -c 20000000 /dev/zero | tr \"\\0\" x > /volume/more; sync; echo twenty' USR1; \
                      head -c 2000000 /dev/zero | tr \"\\0\" x > /volume/big; sync; echo two; while :; do sleep 0.1; done";

/// A file system of so many bytes in memory, or another size for it.
fn sized(dir: &Path, options: &str) {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "small"])
        .arg(dir)
        .status();
    assert!(mounted.unwrap().success());
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_lost() {
    if !Again::is_this() {
        match nix::unistd::geteuid().is_root() {
            true => Again::new("full::a_full_disk_is_told_and_nothing_is_lost").run(
                &["unshare", "--mount"],
                0,
                |_| (),
            ),
            false => eprintln!("skipped: only root makes file systems that are small"),
        }
        return;
    }
    let stage = Stage::new().await;
    let dir = stage.volume();
    sized(&dir, "size=3m");
    fs::write(dir.join("before"), vec![b'b'; 1_000_000]).unwrap();
    let mut spec = stage.playing(&[]);
    spec.program.exe = "/bin/busybox".into();
    spec.program.argv = ["busybox", "sh", "-c", WRITES].map(Into::into).into();
    spec.env = [("PATH".into(), "/bin".into())].into();
    spec.mounts = vec![Mount::Bind {
        from: dir.clone(),
        to: "/volume".into(),
        read_only: false,
    }];
    let machine = stage.driver().start(spec).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    says(&mut lines, "two").await;

    // What it wrote does not fit beside what is there: it is not suspended, and goes on.
    let error = machine.suspend().await.unwrap_err();
    eprintln!(
        "{error}: {:?}",
        std::error::Error::source(&error).map(ToString::to_string)
    );
    assert_eq!(machine.state(), State::Running);
    assert!(is_away(&dir), "the newest state is on its disk");
    assert_eq!(fs::read(dir.join("before")).unwrap().len(), 1_000_000);
    assert!(!dir.join("big").exists(), "nothing half made");
    sized(&dir, "remount,size=16m");
    machine.suspend().await.unwrap();
    assert_eq!(fs::read(dir.join("big")).unwrap(), vec![b'x'; 2_000_000]);
    machine.resume().await.unwrap();

    // It ends, and what it wrote last does not fit: it stays on its disk until there is room.
    machine.signal(Signal::new(libc::SIGUSR1).unwrap()).await.unwrap();
    says(&mut lines, "twenty").await;
    assert_eq!(machine.kill().await, Exit::Signal(libc::SIGKILL));
    drop(machine);
    assert!(is_away(&dir));
    assert!(recover(&dir).is_err(), "there is no room yet");
    assert_eq!(fs::read(dir.join("big")).unwrap().len(), 2_000_000);
    sized(&dir, "remount,size=64m");
    assert!(recover(&dir).unwrap());
    assert!(!is_away(&dir));
    assert_eq!(fs::read(dir.join("more")).unwrap(), vec![b'x'; 20_000_000]);
    assert_eq!(fs::read(dir.join("before")).unwrap(), vec![b'b'; 1_000_000]);

    // No room for the machine's own files: it is not started, and the directory is what it was.
    let machines = stage.state().join("machines");
    sized(&machines, "size=64k");
    let mut spec = stage.playing(&["exit", "0"]);
    spec.mounts = vec![Mount::Bind {
        from: dir.clone(),
        to: "/volume".into(),
        read_only: false,
    }];
    let error = stage.driver().start(spec).await.unwrap_err();
    eprintln!("{error}");
    assert!(!is_away(&dir) && dir.join("more").exists());
    let entries = fs::read_dir(&machines).unwrap();
    let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "something of it is left: {left:?}");
}
