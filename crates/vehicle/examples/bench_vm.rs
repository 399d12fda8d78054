//! Virtual machines: from nothing and from a suspended machine to the first byte of a program in it, beside QEMU by hand; what the driver
//! takes of memory beside the emulator; what Firecracker is told.
//!
//! By hand: the same emulator with the same machine, kernel and modules, a busybox script as first process, and the monitor's commands one after
//! the other. With `__shim` and `__guest` this is the driver's shim, and the machine's first process.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark"
)]

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suijuris_testkit::bench::{
    Better, Contender, Report, Row, Running, Samples, Settings, children, interleave,
};
use suijuris_testkit::program;
use suijuris_vehicle::process::{Process, Shim, Want, shim};
use suijuris_vehicle::vm::{self, Accelerator, Firecracker, Kernel, Kind, Options, VirtualMachines};
use suijuris_vehicle::{Driver as _, Lines, Machine as _, Mount, Network, Output, Since, Spec};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Rounds of each.
const BOOTS: usize = 9;
const RESUMES: usize = 25;
/// Machines whose memory is looked at.
const MACHINES: usize = 3;
/// What a machine has of memory.
const MEBIBYTES: u64 = 256;
/// What every machine's program says for as long as it runs.
const TICKS: &str = "while :; do echo tick; /bin/busybox usleep 1000; done";
const TICK: &str = "tick";
/// The same order as the driver loads them in.
const MODULES: [&str; 7] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];
/// What the issue asks for.
const BOOT: f64 = 1.2;
const RESUME: f64 = 1.3;
const MEMORY_MIB: f64 = 6.0;
const CALLS: f64 = 12.0;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("__shim") => shim::main(),
        Some("__guest") => suijuris_guest::init::main([]),
        _ => {
            measure(&Settings::from_env());
            ExitCode::SUCCESS
        }
    }
}

/// `target/test/kernel`, or what `SUIJURIS_KERNEL` names.
fn kernel() -> PathBuf {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test/kernel");
    std::env::var_os("SUIJURIS_KERNEL").map_or_else(made, PathBuf::from)
}

fn measure(settings: &Settings) {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut report = Report::new("vm", settings);
    let accelerator = Accelerator::detect();
    report.note(match accelerator {
        Accelerator::Tcg => {
            "emulated (TCG), since KVM runs no kernel here: on a processor that does, boots and resumptions take a tenth, and what the driver adds weighs more"
        }
        Accelerator::Kvm => "by KVM",
    });
    let build = if cfg!(debug_assertions) {
        "unoptimised"
    } else {
        "optimised"
    };
    report.note(format!("the driver and the machine's first process: {build}"));
    let temp = TempDir::new().unwrap();
    let driver = tokio.block_on(driver(temp.path(), Kind::Qemu(accelerator), &kernel()));
    let by_hand = ByHand::new(&temp.path().join("hand"), accelerator);
    boots(settings, &tokio, &driver, &by_hand, &mut report);
    resumptions(settings, &tokio, &driver, &by_hand, &mut report);
    memory(&tokio, &driver, &mut report);
    drop(driver);
    tokio.block_on(calls(&temp.path().join("played"), &mut report));
    report.publish(settings).unwrap();
}

async fn driver(dir: &Path, kind: Kind, kernel: &Path) -> VirtualMachines {
    let inner = Process::detect(Shim::itself("__shim"), Want::default()).await;
    let options = Options {
        kernel: Kernel::open(kernel).unwrap(),
        guest: (std::env::current_exe().unwrap(), vec!["__guest".into()]),
        state: dir.join("state"),
        kind,
    };
    VirtualMachines::new(inner.unwrap(), options).unwrap()
}

fn ticking() -> Spec {
    let mut spec = Spec::new("bench", "/bin/busybox").with_args(["sh", "-c", TICKS]);
    spec.network = Network::Private;
    spec.resources.memory = Some(MEBIBYTES << 20);
    (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
    spec
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The next line of the program.
async fn tick(lines: &mut Lines) {
    while lines.next().await.unwrap().text != TICK {}
}

async fn booted(driver: &VirtualMachines) -> (vm::Machine, Lines) {
    let machine = driver.start(ticking()).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    tick(&mut lines).await;
    (machine, lines)
}

fn row(report: &mut Report, what: &str, ours: &Samples, theirs: &Samples, at_most: f64) {
    report.row(Row {
        what: what.to_owned(),
        unit: "ms",
        better: Better::Lower,
        ours: ours.median(),
        peer: theirs.name.clone(),
        theirs: theirs.median(),
        budget: Some(1.0 / at_most),
    });
}

fn boots(
    settings: &Settings,
    tokio: &Runtime,
    driver: &VirtualMachines,
    by_hand: &ByHand,
    report: &mut Report,
) {
    let mut contenders = [
        Contender::new("ours", || {
            tokio.block_on(async {
                let begin = Instant::now();
                let (machine, _lines) = booted(driver).await;
                let took = ms(begin);
                machine.kill().await;
                took
            })
        }),
        Contender::new("QEMU and busybox by hand", || {
            let begin = Instant::now();
            let mut run = by_hand.run(false);
            run.tick();
            ms(begin)
        }),
    ];
    let samples = interleave(settings.scale(BOOTS), &mut contenders);
    row(report, "cold boot to first byte", &samples[0], &samples[1], BOOT);
}

fn resumptions(
    settings: &Settings,
    tokio: &Runtime,
    driver: &VirtualMachines,
    by_hand: &ByHand,
    report: &mut Report,
) {
    let machine = RefCell::new(tokio.block_on(booted(driver)));
    let mut saved = by_hand.run(false);
    saved.tick();
    saved.save();
    drop(saved);
    let mut contenders = [
        Contender::new("ours", || {
            let (machine, lines) = &mut *machine.borrow_mut();
            tokio.block_on(async {
                machine.suspend().await.unwrap();
                // What it said before.
                while timeout(Duration::from_millis(100), lines.next()).await.is_ok() {}
                let begin = Instant::now();
                machine.resume().await.unwrap();
                tick(lines).await;
                ms(begin)
            })
        }),
        Contender::new("QEMU's incoming, cont by hand", || {
            let begin = Instant::now();
            let mut run = by_hand.run(true);
            run.load();
            run.tick();
            let took = ms(begin);
            // It goes on from the same state, in the same memory, the next time.
            run.save();
            took
        }),
    ];
    let samples = interleave(settings.scale(RESUMES), &mut contenders);
    row(report, "resume to first byte", &samples[0], &samples[1], RESUME);
}

/// Memory of this process and of all that it started but emulators, in MiB; and of those.
fn own_memory() -> (f64, f64) {
    let (mut own, mut emulators) = (0.0, 0.0);
    let mut processes = vec![std::process::id()];
    while let Some(pid) = processes.pop() {
        processes.extend(children(pid).unwrap_or_default());
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|pss| pss.split_whitespace().next()?.parse::<f64>().ok());
        match name.starts_with("qemu") {
            true => emulators += kib.unwrap_or_default() / 1024.0,
            false => own += kib.unwrap_or_default() / 1024.0,
        }
    }
    (own, emulators)
}

fn memory(tokio: &Runtime, driver: &VirtualMachines, report: &mut Report) {
    let (before, _) = own_memory();
    let machines: Vec<_> = (0..MACHINES).map(|_| tokio.block_on(booted(driver))).collect();
    let (after, emulators) = own_memory();
    let count = MACHINES as f64;
    report.row(Row {
        what: "memory of the driver and its processes for a running machine".to_owned(),
        unit: "MiB",
        better: Better::Lower,
        ours: (after - before) / count,
        peer: "budget".to_owned(),
        theirs: MEMORY_MIB,
        budget: Some(1.0),
    });
    report.note(format!(
        "memory is proportional (Pss); an emulator has {:.0} MiB, the machine's included",
        emulators / count
    ));
    for (machine, _) in machines {
        tokio.block_on(machine.kill());
    }
}

/// What a played Firecracker was told from a permit to a running machine, with as many disks as there can be.
async fn calls(dir: &Path, report: &mut Report) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|dir| dir.join("fake-firecracker"));
    let Some(exe) = all.find(|exe| exe.is_file()) else {
        report.note("calls of Firecracker's API were not counted: no fake-firecracker is on PATH");
        return;
    };
    let kernel = dir.join("kernel");
    fs::create_dir_all(&kernel).unwrap();
    for name in ["vmlinuz", "vmlinux"] {
        fs::write(kernel.join(name), "played").unwrap();
    }
    let kind = Kind::Firecracker(Firecracker {
        exe: Some(exe),
        ..Firecracker::default()
    });
    let driver = driver(dir, kind, &kernel).await;
    let mut spec = Spec::new("bench", std::env::current_exe().unwrap()).with_args(["polite"]);
    spec.network = Network::Private;
    (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
    for number in 0..4 {
        let from = dir.join(format!("volume-{number}"));
        fs::create_dir(&from).unwrap();
        spec.mounts.push(Mount::Bind {
            from,
            to: format!("/volume-{number}").into(),
            read_only: false,
        });
    }
    let machine = driver.start(spec).await.unwrap();
    let machines = fs::read_dir(dir.join("state/machines")).unwrap();
    let place = machines.flatten().next().unwrap().path();
    let lines = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    let (calls, bytes) = (lines("calls"), lines("bytes"));
    report.row(Row {
        what: "Firecracker: calls from the permit to InstanceStart, four disks".to_owned(),
        unit: "calls",
        better: Better::Lower,
        ours: calls.lines().count() as f64,
        peer: "budget".to_owned(),
        theirs: CALLS,
        budget: Some(1.0),
    });
    let connections = calls.lines().filter_map(|line| line.split(' ').next()).max();
    let bytes: u64 = bytes.lines().filter_map(|line| line.parse::<u64>().ok()).sum();
    report.note(format!(
        "Firecracker, played, was told {bytes} bytes over {} connection",
        connections.unwrap_or_default()
    ));
    machine.kill().await;
}

/// The same machine without the driver.
struct ByHand {
    dir: PathBuf,
    accelerator: &'static str,
}

/// One run of the emulator.
struct Run<'a> {
    of: &'a ByHand,
    _qemu: Running,
    serial: BufReader<ChildStdout>,
    monitor: Option<BufReader<UnixStream>>,
}

impl ByHand {
    fn new(dir: &Path, accelerator: Accelerator) -> Self {
        let tree = dir.join("tree");
        for name in ["bin", "proc", "sys", "dev", "m"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        program::copy("/bin/busybox", tree.join("bin/busybox"));
        for (number, name) in MODULES.iter().enumerate() {
            // Some are parts of the kernel.
            let file = kernel().join(format!("{name}.ko"));
            let _ = fs::copy(file, tree.join(format!("m/{number}-{name}.ko")));
        }
        let init = format!(
            "#!/bin/busybox sh\n\
             for place in 'proc proc' 'sysfs sys' 'devtmpfs dev'; do set -- $place; /bin/busybox mount -t $1 $1 /$2; done\n\
             for module in /m/*.ko; do /bin/busybox insmod $module; done 2>/dev/null\n{TICKS}\n"
        );
        program::script(tree.join("init"), &init);
        let packed = Command::new("sh")
            .args(["-c", "find . | cpio -o -H newc --quiet > ../initrd"])
            .current_dir(&tree)
            .status();
        assert!(packed.unwrap().success());
        Self {
            dir: dir.to_owned(),
            accelerator: match accelerator {
                Accelerator::Tcg => "tcg",
                Accelerator::Kvm => "kvm:tcg",
            },
        }
    }

    fn run(&self, resumes: bool) -> Run<'_> {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let _ = fs::remove_file(at("qmp"));
        if !resumes {
            let _ = fs::remove_file(at("memory"));
        }
        let size = format!("{MEBIBYTES}M");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-rtc", "base=utc", "-smp", "1", "-cpu", "max", "-m", &size])
            .args([
                "-machine",
                &format!("pc,accel={},memory-backend=memory,usb=off", self.accelerator),
            ])
            .args([
                "-object",
                &format!(
                    "memory-backend-file,id=memory,share=on,size={size},mem-path={}",
                    at("memory")
                ),
            ])
            .args(["-kernel", &kernel().join("vmlinuz").display().to_string()])
            .args(["-initrd", &at("initrd")])
            .args([
                "-append",
                "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on no_timer_check",
            ])
            .args(["-chardev", "stdio,id=serial", "-serial", "chardev:serial"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp"))])
            .args([
                "-device",
                "virtio-serial-pci,id=ports",
                "-device",
                "virtio-rng-pci",
            ])
            .args(["-device", "vmgenid,guid=auto"]);
        if resumes {
            qemu.args(["-incoming", "defer", "-S"]);
        }
        let mut qemu = Running(
            qemu.stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap(),
        );
        Run {
            of: self,
            serial: BufReader::new(qemu.0.stdout.take().unwrap()),
            _qemu: qemu,
            monitor: None,
        }
    }
}

impl Run<'_> {
    fn tick(&mut self) {
        let mut line = String::new();
        while line.trim() != TICK {
            line.clear();
            assert!(self.serial.read_line(&mut line).unwrap() > 0, "it has ended");
        }
    }

    fn tell(&mut self, command: &str, arguments: &Value) -> Value {
        let socket = self.of.dir.join("qmp");
        let monitor = self.monitor.get_or_insert_with(|| {
            let begin = Instant::now();
            let stream = loop {
                match UnixStream::connect(&socket) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(begin.elapsed() < Duration::from_secs(30), "{error}"),
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            let mut monitor = BufReader::new(stream);
            monitor.read_line(&mut String::new()).unwrap();
            ask(&mut monitor, "qmp_capabilities", &Value::Null);
            monitor
        });
        ask(monitor, command, arguments)
    }

    fn migrated(&mut self, command: &str, how: &str) {
        let shared = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.tell("migrate-set-capabilities", &shared);
        let state = self.of.dir.join("state").display().to_string();
        self.tell(command, &json!({ "uri": format!("exec:cat {how} {state}") }));
        loop {
            let told = self.tell("query-migrate", &Value::Null);
            match told["status"].as_str() {
                Some("completed") => return,
                Some("failed") => panic!("{told}"),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn load(&mut self) {
        self.migrated("migrate-incoming", "<");
        self.tell("cont", &Value::Null);
    }

    /// Its state goes to a file, and it ends.
    fn save(&mut self) {
        self.tell("stop", &Value::Null);
        self.migrated("migrate", ">");
        self.tell("quit", &Value::Null);
        let _ = self.serial.read_to_end(&mut Vec::new());
    }
}

fn ask(monitor: &mut BufReader<UnixStream>, command: &str, arguments: &Value) -> Value {
    let mut question = json!({ "execute": command });
    if !arguments.is_null() {
        question["arguments"] = arguments.clone();
    }
    monitor
        .get_mut()
        .write_all(format!("{question}\n").as_bytes())
        .unwrap();
    loop {
        let mut line = String::new();
        assert!(
            monitor.read_line(&mut line).unwrap() > 0,
            "the emulator ended at {command}"
        );
        let answer: Value = serde_json::from_str(&line).unwrap();
        if let Some(error) = answer.get("error") {
            panic!("{command}: {error}");
        }
        if let Some(done) = answer.get("return") {
            return done.clone();
        }
    }
}
