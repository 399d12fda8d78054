//! Machines that begin as copies of a suspended one, in real virtual machines.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use suijuris_vehicle::vm::{VirtualMachines, is_away};
use suijuris_vehicle::{Driver as _, Exit, FreezeError, Lifetime, Machine as _, Mount, Since, Spec, State};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::qemu::{Stage, says};
use crate::suite::PATIENCE;

type Machine = <VirtualMachines as suijuris_vehicle::Driver>::Machine;

/// Mebibytes that the program has in memory.
const HELD: &str = "48";

/// Kibibytes of a copy that serves and are nobody else's, at most: its emulator runs code of unoptimized programs.
const PRIVATE_KIB: u64 = 80 << 10;

/// What a machine tells.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    count: u32,
    random: String,
    host: String,
    held: u64,
}

async fn told(machine: &Machine) -> Told {
    let mut link = machine.link().await.unwrap().stream;
    let mut line = String::new();
    timeout(PATIENCE, link.read_to_string(&mut line))
        .await
        .unwrap()
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let clock: u64 = words[3].parse().unwrap();
    assert!(
        now.abs_diff(clock) <= 30,
        "its clock says {clock}, and it is {now}"
    );
    Told {
        count: words[0].parse().unwrap(),
        random: words[1].to_owned(),
        host: words[2].to_owned(),
        held: words[4].parse().unwrap(),
    }
}

fn dir(stage: &Stage, name: &str) -> PathBuf {
    let dir = stage.volume().join("..").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir.canonicalize().unwrap()
}

fn spec(stage: &Stage, dir: &Path, frozen: bool) -> Spec {
    let mut spec = stage.playing(&["tells", "5", "/volume/told", HELD]);
    spec.lifetime = Lifetime::Detached;
    spec.frozen = frozen;
    spec.mounts = vec![Mount::Bind {
        from: dir.to_owned(),
        to: "/volume".into(),
        read_only: false,
    }];
    spec
}

/// A machine that told once, was suspended, and stands still for its directory.
async fn frozen(stage: &Stage, dir: &Path) {
    fs::write(dir.join("before"), "kept").unwrap();
    let machine = stage.driver().start(spec(stage, dir, false)).await.unwrap();
    says(&mut machine.output(Since::Kept).unwrap(), "ready").await;
    assert_eq!(told(&machine).await.count, 1);
    machine.suspend().await.unwrap();
    machine.freeze("parent").await.unwrap();
    assert_eq!(machine.state(), State::Exited(Exit::Code(0)));
    assert!(!is_away(dir), "the directory has all that it wrote");
    assert!(fs::read_to_string(dir.join("told")).unwrap().starts_with("1 "));
}

/// Memory that is this process's alone, KiB.
fn private_kib(pid: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    of("Private_Dirty:") + of("Private_Clean:")
}

/// Processes of the emulator that have a file below this directory on their command line.
fn emulators(below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("qemu-system")
            && line.contains(&*below.to_string_lossy())
            && !line.contains("__shim")
        {
            found.push(name);
        }
    }
    found
}

fn digest(path: &Path) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest(fs::read(path).unwrap()).to_vec()
}

// proves F5
#[tokio::test]
async fn copies_of_a_suspended_machine_go_on_from_its_memory_and_are_others() {
    let stage = Stage::new().await;
    let driver = stage.driver();
    let (parent, one, two) = (dir(&stage, "parent"), dir(&stage, "one"), dir(&stage, "two"));
    frozen(&stage, &parent).await;
    assert_eq!(driver.frozen(&parent).as_deref(), Some("parent"));
    for (child, tag) in [(&one, "one"), (&two, "two")] {
        fs::write(child.join("own"), tag).unwrap();
        driver.copy_frozen(&parent, child, tag).await.unwrap();
        assert_eq!(driver.frozen(child).as_deref(), Some(tag));
    }
    let seats = stage.state().join("frozen");
    let memory = fs::read_dir(&seats)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("memory");
    let kept = dir(&stage, "kept").join("memory");
    fs::hard_link(&memory, &kept).unwrap();
    assert_eq!(kept.metadata().unwrap().nlink(), 4, "one memory for all three");
    let before = digest(&kept);

    let parents = driver.start(spec(&stage, &parent, true)).await.unwrap();
    let ones = driver.start(spec(&stage, &one, true)).await.unwrap();
    let twos = driver.start(spec(&stage, &two, true)).await.unwrap();
    let all = [told(&parents).await, told(&ones).await, told(&twos).await];
    let mut randoms: Vec<&str> = all.iter().map(|told| told.random.as_str()).collect();
    let mut hosts: Vec<&str> = all.iter().map(|told| told.host.as_str()).collect();
    for told in &all {
        assert_eq!(
            (told.count, told.held),
            (2, 7 * 256 * 48),
            "it goes on where it stood: {told:?}"
        );
    }
    randoms.sort_unstable();
    randoms.dedup();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!((randoms.len(), hosts.len()), (3, 3), "{all:?}");
    let own = emulators(&stage.state());
    assert_eq!(own.len(), 3);
    for pid in own {
        let private = private_kib(&pid);
        assert!((1..=PRIVATE_KIB).contains(&private), "{private} KiB are its own");
    }

    // Nobody takes it twice.
    assert_eq!(driver.frozen(&one), None);
    assert!(driver.start(spec(&stage, &one, true)).await.is_err());

    // What it wrote counts from when it is settled, and not before.
    ones.settle().await.unwrap();
    assert!(is_away(&one) && !is_away(&two));
    assert_eq!(ones.kill().await, Exit::Signal(9));
    assert_eq!(twos.kill().await, Exit::Signal(9));
    drop((ones, twos));
    assert!(fs::read_to_string(one.join("told")).unwrap().starts_with("2 "));
    assert!(!one.join("own").exists(), "its disk was the parent's");
    assert_eq!(fs::read_to_string(two.join("own")).unwrap(), "two");
    assert!(!two.join("told").exists());

    // A copy is suspended and goes on like any other, with a memory of its own; the one that all share is as it was.
    parents.settle().await.unwrap();
    parents.suspend().await.unwrap();
    parents.resume().await.unwrap();
    assert_eq!(told(&parents).await.count, 3);
    parents.suspend().await.unwrap();
    parents.resume().await.unwrap();
    assert_eq!(told(&parents).await.count, 4);
    assert_eq!(digest(&kept), before);
    assert_eq!(kept.metadata().unwrap().nlink(), 1, "nobody else has it any more");
    assert_eq!(parents.kill().await, Exit::Signal(9));
}

#[tokio::test]
async fn what_stands_still_for_nobody_is_removed_and_what_was_tampered_with_is_not_begun() {
    let stage = Stage::new().await;
    let driver = stage.driver();
    let (parent, child) = (dir(&stage, "parent"), dir(&stage, "child"));
    frozen(&stage, &parent).await;
    let missing = driver.copy_frozen(&child, &parent, "x").await;
    assert!(matches!(missing, Err(FreezeError::None(_))), "{missing:?}");
    driver.copy_frozen(&parent, &child, "child").await.unwrap();
    // A note of one directory in another is none.
    let other = dir(&stage, "other");
    fs::write(other.join("frozen"), fs::read(child.join("frozen")).unwrap()).unwrap();
    assert_eq!(driver.frozen(&other), None);
    assert!(driver.start(spec(&stage, &other, true)).await.is_err());
    assert_eq!(
        driver.frozen(&child).as_deref(),
        Some("child"),
        "and it is still the child's"
    );
    // A state that is cut short.
    let seats: Vec<PathBuf> = fs::read_dir(stage.state().join("frozen"))
        .unwrap()
        .map(|seat| seat.unwrap().path())
        .collect();
    assert_eq!(seats.len(), 2);
    for seat in &seats {
        let state = fs::read(seat.join("state")).unwrap();
        fs::remove_file(seat.join("state")).unwrap();
        fs::write(seat.join("state"), &state[..state.len() / 2]).unwrap();
    }
    assert!(driver.start(spec(&stage, &child, true)).await.is_err());
    assert!(!is_away(&child));
    assert_eq!(emulators(&stage.state()), Vec::<String>::new());
    driver.discard_frozen(&parent);
    assert_eq!(driver.frozen(&parent), None);
    assert_eq!(fs::read_dir(stage.state().join("frozen")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(stage.state().join("machines")).unwrap().count(), 0);
}
