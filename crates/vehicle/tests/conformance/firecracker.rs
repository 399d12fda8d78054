//! Machines of Firecracker: the suite, and what only they do, on a Firecracker that is played (`fake-firecracker`, whose own table is
//! `tests/firecracker_fake.rs`); and the suite on the real one, where that and KVM are here.

use std::fs;
use std::path::{Path, PathBuf};

use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::vm::{Firecracker, Kernel, Kind, Options, VirtualMachines, is_away, probe};
use suijuris_vehicle::{
    Driver as _, Exit, Machine as _, MachineId, Mount, Network, Output, ResumeError, Signal, Since, Spec,
    SpecError, StartError, State,
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::suite::{self, PATIENCE, Part};

struct Stage {
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
    async fn played() -> Self {
        let program = Firecracker {
            exe: Some(PathBuf::from(env!("CARGO_BIN_EXE_fake-firecracker"))),
            tap: None,
        };
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

    fn playing(&self, args: &[&str]) -> Spec {
        let mut spec = Spec::new("test", &self.actor).with_args(args);
        (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
        spec.network = Network::Private;
        spec.link = Some(5);
        spec
    }

    /// The directory of the only machine there is.
    fn machine_dir(&self) -> PathBuf {
        let mut dirs = fs::read_dir(self.temp.path().join("state/machines")).unwrap();
        let dir = dirs.next().unwrap().unwrap().path();
        assert!(dirs.next().is_none());
        dir
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
    eprintln!(
        "from a permit to InstanceStart: {} calls, with {} disks",
        calls.len(),
        4
    );
    assert!(calls.len() <= 12, "{calls:#?}");
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
