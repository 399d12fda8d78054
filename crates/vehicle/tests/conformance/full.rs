//! Virtual machines where there is too little: on disks that are full, while they are started, suspended, and when they have ended; of
//! memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use suijuris_vehicle::vm::{is_away, recover};
use suijuris_vehicle::{Driver as _, Exit, Machine as _, Mount, Signal, Since, State};

use crate::process::Again;
use crate::qemu::{Stage, says};
use crate::{firecracker, suite};

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

/// A snapshot that finds no room is given up: the machine goes on, and is suspended once there is room.
#[tokio::test]
async fn a_suspension_on_a_full_disk_is_given_up_and_the_machine_goes_on() {
    if !Again::is_this() {
        match nix::unistd::geteuid().is_root() {
            true => {
                Again::new("full::a_suspension_on_a_full_disk_is_given_up_and_the_machine_goes_on").run(
                    &["unshare", "--mount"],
                    0,
                    |_| (),
                );
            }
            false => eprintln!("skipped: only root makes file systems that are small"),
        }
        return;
    }
    let stage = firecracker::Stage::played().await;
    let machines = stage.machines();
    sized(&machines, "size=1m");
    let machine = suite::Stage::driver(&stage)
        .start(stage.playing(&["counts"]))
        .await
        .unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    let mut next = async || lines.next().await.unwrap().text.parse::<u64>().unwrap();
    let before = next().await;
    // Nothing else has room.
    let filler = machines.join("filler");
    let mut filling = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut filling, &[b'f'; 4096]).is_ok() {}
    let error = machine.suspend().await.unwrap_err();
    let why = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        why.as_ref().is_some_and(|why| why.contains("No space left")),
        "{error}: {why:?}"
    );
    assert_eq!(machine.state(), State::Running);
    let mut after = next().await;
    drop(filling);
    fs::remove_file(&filler).unwrap();
    machine.suspend().await.unwrap();
    machine.resume().await.unwrap();
    assert!(after > before, "it went on");
    for _ in 0..20 {
        let this = next().await;
        assert_eq!(this, after + 1, "it has forgotten nothing");
        after = this;
    }
    machine.kill().await;
}

/// Takes more memory than the machine has; whoever took it is ended, and nothing else of the machine.
const GREEDY: &str = "busybox awk '/MemTotal/ { print $2 }' /proc/meminfo; \
                      busybox sh -c 'x=$(busybox head -c 200000000 /dev/zero | busybox tr \"\\0\" x); echo alive'; \
                      echo $?; exec busybox sh -c 'x=$(busybox head -c 200000000 /dev/zero | busybox tr \"\\0\" x); echo alive'";

/// A limit below what a kernel needs gives it that; what takes more is ended by name; what this host does not have is told before
/// anything runs.
#[tokio::test]
async fn memory_that_is_too_little_or_too_much_is_told() {
    let stage = Stage::new().await;
    let mut spec = stage.playing(&[]);
    spec.program.exe = "/bin/busybox".into();
    spec.program.argv = ["busybox", "sh", "-c", GREEDY].map(Into::into).into();
    spec.env = [("PATH".into(), "/bin".into())].into();
    spec.resources.memory = Some(1 << 20);
    let machine = stage.driver().start(spec).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    let mut said = Vec::new();
    while let Ok(Some(line)) = tokio::time::timeout(suite::PATIENCE, lines.next()).await {
        said.push(line.text);
    }
    let total: u64 = said[0].parse().unwrap();
    assert!((64 << 10..160 << 10).contains(&total), "{said:?}");
    assert!(
        said.iter().any(|line| line == "137"),
        "the shell within was killed: {said:?}"
    );
    assert_eq!(machine.wait().await, Exit::Signal(libc::SIGKILL), "{said:?}");
    drop(machine);
    let mut spec = stage.playing(&["exit", "0"]);
    spec.resources.memory = Some(1 << 50);
    let error = stage.driver().start(spec).await.unwrap_err();
    let told = format!(
        "{error}: {:?}",
        std::error::Error::source(&error).map(ToString::to_string)
    );
    assert!(told.contains("memory"), "{told}");
    let left = fs::read_dir(stage.state().join("machines")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of it: {told}");
}
