//! Machines of Firecracker: the suite, and what only they do, on a Firecracker that is played (`fake-firecracker`, whose own table is
//! `tests/firecracker_fake.rs`); and the suite on the real one, where that and KVM are here.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::vm::{
    Firecracker, Kernel, Kind, MemoryBackend, Options, VirtualMachines, is_away, probe,
};
use suijuris_vehicle::{
    Driver as _, Exit, Machine as _, MachineId, Mount, Network, Output, ResumeError, Signal, Since, Spec,
    SpecError, StartError, State,
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::suite::{self, PATIENCE, Part};

pub(crate) struct Stage {
    driver: VirtualMachines,
    temp: TempDir,
    actor: PathBuf,
}

async fn processes() -> Process {
    let shim = Shim {
        exe: PathBuf::from(env!("CARGO_BIN_EXE_vehicle-actor")),
        args: vec!["__shim".into()],
    };
    Process::detect(shim, Want::default()).await.unwrap()
}

impl Stage {
    /// With a played Firecracker.
    pub(crate) async fn played() -> Self {
        Self::playing_as(|_| ()).await
    }

    /// The same, run as `change` has it.
    async fn playing_as(change: impl FnOnce(&mut Firecracker)) -> Self {
        let mut program = Firecracker {
            exe: Some(PathBuf::from(env!("CARGO_BIN_EXE_fake-firecracker"))),
            ..Firecracker::default()
        };
        change(&mut program);
        let temp = TempDir::new().unwrap();
        let kernel = temp.path().join("kernel");
        fs::create_dir(&kernel).unwrap();
        for name in ["vmlinuz", "vmlinux"] {
            fs::write(kernel.join(name), "played").unwrap();
        }
        Self::with(temp, &kernel, program).await
    }

    async fn with(temp: TempDir, kernel: &Path, program: Firecracker) -> Self {
        let actor = PathBuf::from(env!("CARGO_BIN_EXE_vehicle-actor"));
        let options = Options {
            kernel: Kernel::open(kernel).unwrap(),
            guest: (actor.clone(), vec!["__guest".into()]),
            state: temp.path().join("state"),
            kind: Kind::Firecracker(program),
        };
        let driver = VirtualMachines::new(processes().await, options).unwrap();
        Self { driver, temp, actor }
    }

    pub(crate) fn playing(&self, args: &[&str]) -> Spec {
        let mut spec = Spec::new("test", &self.actor).with_args(args);
        (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
        spec.network = Network::Private;
        spec.link = Some(5);
        spec
    }

    /// Where machines have their directories.
    pub(crate) fn machines(&self) -> PathBuf {
        self.temp.path().join("state/machines")
    }

    /// The directory of the only machine there is.
    fn machine_dir(&self) -> PathBuf {
        let mut dirs = fs::read_dir(self.machines()).unwrap();
        let dir = dirs.next().unwrap().unwrap().path();
        assert!(dirs.next().is_none());
        dir
    }

    /// Where its Firecracker works.
    fn jail(&self) -> PathBuf {
        let jails = self.machine_dir().join("jail/fake-firecracker");
        let mut jails = fs::read_dir(jails).unwrap();
        jails.next().unwrap().unwrap().path().join("root")
    }

    /// What Firecracker was told, each call with the number of its connection.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.machine_dir().join("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}

impl suite::Stage for Stage {
    type Driver = VirtualMachines;

    fn driver(&self) -> &VirtualMachines {
        &self.driver
    }

    fn spec(&self, part: Part) -> Spec {
        let arguments = part.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.playing(&arguments)
    }

    async fn orphan(&mut self, _: Part, _: bool) -> MachineId {
        panic!("no machine of this driver outlives it")
    }
}

// proves F5
#[tokio::test]
async fn the_suite_on_a_played_firecracker() {
    suite::conforms(&mut Stage::played().await).await;
}

/// Skipped aloud where there is no Firecracker, or none that runs.
#[tokio::test]
async fn the_suite_on_a_real_firecracker() {
    let kind = Kind::Firecracker(Firecracker::default());
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test/kernel");
    let missing = match probe(&kind, &processes().await) {
        Err(lacks) => lacks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
        Ok(_) => match Kernel::open(&target).and_then(|kernel| kernel.image(&kind)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        },
    };
    if !missing.is_empty() {
        eprintln!("SKIPPED: no real Firecracker runs here: {missing}");
        return;
    }
    let temp = TempDir::new().unwrap();
    suite::conforms(&mut Stage::with(temp, &target, Firecracker::default()).await).await;
}

/// From a permit to a running machine: at most twelve calls over one connection, also with all disks that a machine may have.
#[tokio::test]
async fn a_start_is_few_calls_over_one_connection() {
    let stage = Stage::played().await;
    let mut spec = stage.playing(&["polite"]);
    for number in 0..4 {
        let dir = stage.temp.path().join(format!("volume-{number}"));
        fs::create_dir(&dir).unwrap();
        spec.mounts.push(Mount::Bind {
            from: dir,
            to: format!("/volume-{number}").into(),
            read_only: false,
        });
    }
    let machine = stage.driver.start(spec).await.unwrap();
    let calls = stage.calls();
    let bytes = fs::read_to_string(stage.machine_dir().join("bytes")).unwrap();
    let bytes: u64 = bytes.lines().map(|line| line.parse::<u64>().unwrap()).sum();
    eprintln!(
        "from a permit to InstanceStart: {} calls of {bytes} bytes, with 4 disks",
        calls.len()
    );
    assert!(calls.len() <= 12, "{calls:#?}");
    assert!(bytes < 4096, "{bytes}");
    assert!(calls.iter().all(|call| call.starts_with("1 ")), "{calls:#?}");
    assert_eq!(calls.last().unwrap(), "1 PUT /actions");
    assert!(is_away(&stage.temp.path().join("volume-0")));
    machine.kill().await;
    assert!(!is_away(&stage.temp.path().join("volume-0")));

    let dirs = 5;
    let mut spec = stage.playing(&["polite"]);
    spec.mounts = (0..dirs)
        .map(|number| Mount::Bind {
            from: stage.temp.path().to_owned(),
            to: format!("/{number}").into(),
            read_only: false,
        })
        .collect();
    let error = stage.driver.start(spec).await.unwrap_err();
    assert!(
        matches!(error, StartError::Spec(SpecError::TooMany { .. })),
        "{error}"
    );
}

/// The first snapshot holds all memory, each later one what has changed; the clock is the host's after each.
#[tokio::test]
async fn suspended_machines_are_whole_first_and_then_what_changed() {
    let stage = Stage::played().await;
    let machine = stage.driver.start(stage.playing(&["clock"])).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    let mut next = async || {
        let line = timeout(PATIENCE, lines.next()).await.unwrap().unwrap().text;
        let (time, was_set) = line.split_once(' ').unwrap();
        (time.parse::<i64>().unwrap(), was_set == "true")
    };
    let (begin, _) = next().await;
    for _ in 0..2 {
        machine.suspend().await.unwrap();
        assert!(stage.machine_dir().join("state").is_file());
        machine.resume().await.unwrap();
    }
    let after = loop {
        let (time, was_set) = next().await;
        if was_set && time > begin {
            break time;
        }
    };
    assert!(after > begin, "its clock was set after the resumption");
    let asked: Vec<String> = stage
        .calls()
        .iter()
        .map(|call| call.split_once(' ').unwrap().1.to_owned())
        .collect();
    let create = "PUT /snapshot/create";
    assert_eq!(
        asked.iter().filter(|call| *call == create).count(),
        2,
        "{asked:#?}"
    );
    let load = ["GET /version", "PUT /snapshot/load", "PATCH /vm"];
    assert!(asked.windows(3).any(|window| window == load), "{asked:#?}");
    machine.kill().await;
}

/// Its exit code is 0 after its guest died: what the machine said counts.
#[tokio::test]
async fn a_machine_that_dies_without_a_word_has_not_exited_well() {
    let stage = Stage::played().await;
    for (part, wanted) in [("panics", Exit::Panicked), ("vanishes", Exit::Lost)] {
        let machine = stage.driver.start(stage.playing(&[part])).await.unwrap();
        machine.signal(Signal::TERM).await.unwrap();
        assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), wanted, "{part}");
    }
}

/// A snapshot is a cache: of another version, processor or kernel it is not loaded, and one that is broken is told.
#[tokio::test]
async fn a_snapshot_that_does_not_fit_is_refused_by_name() {
    for (file, content, wanted) in [
        (
            "key",
            "Firecracker 1.0.0\nanother processor\nLinux 5.10",
            "it has to boot",
        ),
        ("state", "", "File too short to contain CRC"),
    ] {
        let stage = Stage::played().await;
        let machine = stage.driver.start(stage.playing(&["counts"])).await.unwrap();
        machine.suspend().await.unwrap();
        fs::write(stage.machine_dir().join(file), content).unwrap();
        let error = machine.resume().await.unwrap_err();
        let ResumeError::Refused(why) = &error else {
            panic!("{error:?}")
        };
        assert!(why.to_string().contains(wanted), "{file}: {why}");
        assert_eq!(machine.state(), State::Suspended, "nothing of it runs");
        assert_eq!(machine.kill().await, Exit::Signal(9));
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_what_to_do() {
    let stage = Stage::played().await;
    let mut spec = stage.playing(&["polite"]);
    spec.network = Network::Host;
    let error = stage.driver.start(spec).await.unwrap_err().to_string();
    assert!(error.contains("tap"), "{error}");
    fs::remove_file(stage.temp.path().join("kernel/vmlinux")).unwrap();
    let error = stage.driver.start(stage.playing(&["polite"])).await.unwrap_err();
    assert!(error.to_string().contains("suijuris kernel install"), "{error}");
}

/// Whether what only root may is tested here; said where it is not.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: needs root");
    }
    is_root
}

fn jailed(firecracker: &mut Firecracker) {
    firecracker.jailer = Some(PathBuf::from(env!("CARGO_BIN_EXE_fake-jailer")));
}

#[tokio::test]
async fn the_suite_on_a_played_firecracker_in_a_jail() {
    if is_root() {
        suite::conforms(&mut Stage::playing_as(jailed).await).await;
    }
}

/// As root Firecracker runs as a user of its own, whose root directory has this machine's files and nothing else, and a snapshot names
/// nothing beyond.
#[tokio::test]
async fn as_root_each_machine_has_a_jail_of_its_own() {
    if !is_root() {
        return;
    }
    let stage = Stage::playing_as(jailed).await;
    let volume = stage.temp.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut spec = stage.playing(&["counts"]);
    spec.mounts.push(Mount::Bind {
        from: volume.clone(),
        to: "/volume".into(),
        read_only: false,
    });
    let machine = stage.driver.start(spec).await.unwrap();
    let mut users = Vec::new();
    for _ in 0..2 {
        let jail = stage.jail();
        let user = fs::metadata(&jail).unwrap().uid();
        assert!(user >= 0x7000_0000, "{user}");
        let process = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            let root = fs::read_link(entry.path().join("root"));
            root.is_ok_and(|root| root == jail)
        });
        let status = fs::read_to_string(process.unwrap().path().join("status")).unwrap();
        let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        assert!(
            uids.split_whitespace().skip(1).all(|uid| uid == user.to_string()),
            "{uids}"
        );
        for own in ["disk-0", "vsock.sock_1024"] {
            assert_eq!(fs::metadata(jail.join(own)).unwrap().uid(), user, "{own}");
        }
        users.push(user);
        machine.suspend().await.unwrap();
        let state = fs::read_to_string(stage.machine_dir().join("state")).unwrap();
        let own = stage.temp.path().to_str().unwrap();
        assert!(state.contains("\"disk-0\"") && !state.contains(own), "{state}");
        machine.resume().await.unwrap();
    }
    assert_ne!(users[0], users[1], "each run has a user of its own");
    let calls = fs::read_to_string(stage.jail().join("calls")).unwrap();
    assert!(calls.contains("PUT /snapshot/load"), "{calls}");
    let dir = stage.machine_dir();
    machine.kill().await;
    drop(machine);
    assert!(!dir.exists(), "nothing is left of it");
    assert!(!is_away(&volume));
}

fn paged(firecracker: &mut Firecracker) {
    firecracker.memory = MemoryBackend::Uffd;
}

/// Whether this kernel lets this user have page faults handled elsewhere; said where it does not.
fn may_page() -> bool {
    match suijuris_sys::userfault::Region::new(4096) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: userfaultfd: {error}");
            assert!(!nix::unistd::geteuid().is_root(), "{error}");
            false
        }
    }
}

/// Memory whose pages the driver brings is whole, in a jail too, and what changed goes into the same file.
#[tokio::test]
async fn the_pages_of_a_suspended_machine_are_brought_as_they_are_touched() {
    if !may_page() {
        return;
    }
    let mut ways: Vec<fn(&mut Firecracker)> = vec![paged];
    if is_root() {
        ways.push(|firecracker| {
            jailed(firecracker);
            paged(firecracker);
        });
    }
    for way in ways {
        let stage = Stage::playing_as(way).await;
        let machine = stage.driver.start(stage.playing(&["counts"])).await.unwrap();
        let mut lines = machine.output(Since::Kept).unwrap();
        let mut next = async || {
            let line = timeout(PATIENCE, lines.next()).await.unwrap().unwrap().text;
            line.parse::<u64>().unwrap()
        };
        let mut last = next().await;
        for _ in 0..2 {
            machine.suspend().await.unwrap();
            machine.resume().await.unwrap();
            for _ in 0..20 {
                let this = next().await;
                assert_eq!(this, last + 1, "it has forgotten nothing");
                last = this;
            }
        }
        machine.kill().await;
    }
}

/// A machine whose pages nobody brings would stand still for ever: it is ended, and why is said.
#[tokio::test]
async fn a_machine_whose_pages_cannot_be_brought_is_ended() {
    if !may_page() {
        return;
    }
    let stage = Stage::playing_as(paged).await;
    let machine = stage.driver.start(stage.playing(&["polite"])).await.unwrap();
    machine.suspend().await.unwrap();
    machine.resume().await.unwrap();
    let memory = fs::File::options()
        .write(true)
        .open(stage.machine_dir().join("memory"));
    memory.unwrap().set_len(4096).unwrap();
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Lost);
    let mut lines = machine.output(Since::Kept).unwrap();
    let mut said = Vec::new();
    while let Ok(Some(line)) = timeout(PATIENCE, lines.next()).await {
        said.push(line.text);
    }
    assert!(
        said.iter().any(|line| line.contains("cannot be brought")),
        "{said:?}"
    );

    // Known before it runs on, it is told by who resumes it.
    let stage = Stage::playing_as(paged).await;
    let machine = stage.driver.start(stage.playing(&["polite"])).await.unwrap();
    machine.suspend().await.unwrap();
    let memory = fs::File::options()
        .write(true)
        .open(stage.machine_dir().join("memory"));
    memory.unwrap().set_len(4096).unwrap();
    let error = timeout(PATIENCE, machine.resume()).await.unwrap().unwrap_err();
    let ResumeError::Refused(why) = &error else {
        panic!("{error:?}")
    };
    assert!(why.to_string().contains("another size"), "{why}");
    machine.kill().await;
}
