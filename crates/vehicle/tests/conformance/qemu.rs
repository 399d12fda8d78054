//! Virtual machines: the suite, and what only they do. The kernel is Debian's, unpacked by `tools/setup --test`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::vm::{
    self, Accelerator, Kernel, Kind, Options, Owned, VirtualMachines, is_away, make_root, recover,
};
use suijuris_vehicle::{
    Driver as _, Exit, ImageFiles, ImageRoot, Lifetime, Lines, Machine as _, MachineId, Mount, Output, Root,
    Signal, Since, Spec, SpecError, StartError, State, SuspendError,
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::suite::{self, PATIENCE, Part};

pub(crate) struct Stage {
    /// None while another supervisor has the directory.
    driver: Option<VirtualMachines>,
    temp: TempDir,
    actor: PathBuf,
}

/// Unpacked by `tools/setup --test`.
fn kernel() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    target.join("test/kernel")
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let actor = PathBuf::from(env!("CARGO_BIN_EXE_vehicle-actor"));
        let mut stage = Self {
            driver: None,
            temp,
            actor,
        };
        stage.restart().await;
        stage
    }

    /// A new driver on the same directory.
    async fn restart(&mut self) {
        let shim = Shim {
            exe: self.actor.clone(),
            args: vec!["__shim".into()],
        };
        let inner = Process::detect(shim, Want::default()).await.unwrap();
        let inner = inner.keeping_in(&self.temp.path().join("monitors")).unwrap();
        let options = Options {
            kernel: Kernel::open(&kernel())
                .unwrap_or_else(|error| panic!("{error}: run `sh tools/setup --test`")),
            guest: (self.actor.clone(), vec!["__guest".into()]),
            state: self.temp.path().join("state"),
            kind: Kind::Qemu(Accelerator::detect()),
        };
        self.driver = Some(VirtualMachines::new(inner, options).unwrap());
    }

    /// Where the driver keeps what machines are made of.
    pub(crate) fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    pub(crate) fn driver(&self) -> &VirtualMachines {
        self.driver.as_ref().unwrap()
    }

    pub(crate) fn playing(&self, args: &[&str]) -> Spec {
        let mut spec = Spec::new("test", &self.actor).with_args(args);
        (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
        spec.link = Some(5);
        spec
    }

    /// A directory of the host that machines may write.
    pub(crate) fn volume(&self) -> PathBuf {
        let dir = self.temp.path().join("volume");
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

impl suite::Stage for Stage {
    type Driver = VirtualMachines;

    fn driver(&self) -> &VirtualMachines {
        Self::driver(self)
    }

    fn spec(&self, part: Part) -> Spec {
        let arguments = part.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.playing(&arguments)
    }

    async fn orphan(&mut self, part: Part, suspended: bool) -> MachineId {
        self.driver = None;
        let mut supervisor = Command::new(&self.actor)
            .arg("emulating-supervisor")
            .args([self.temp.path(), &kernel()])
            .args(part.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(supervisor.stdout.take().unwrap()).lines();
        let id = said.next().unwrap().unwrap().parse().unwrap();
        if suspended {
            writeln!(supervisor.stdin.as_mut().unwrap(), "suspend").unwrap();
            assert_eq!(said.next().unwrap().unwrap(), "suspended");
        }
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        self.restart().await;
        id
    }
}

pub(crate) async fn says(lines: &mut Lines, wanted: &str) {
    let reading = async {
        let mut heard = Vec::new();
        while let Some(line) = lines.next().await {
            if line.text.contains(wanted) {
                return;
            }
            heard.push(line.text);
        }
        panic!("the machine never said {wanted}: {heard:#?}");
    };
    timeout(PATIENCE, reading).await.unwrap();
}

fn binds(dir: &Path, to: &str, read_only: bool) -> Mount {
    Mount::Bind {
        from: dir.to_owned(),
        to: to.into(),
        read_only,
    }
}

// proves F5
#[tokio::test]
async fn the_suite() {
    suite::conforms(&mut Stage::new().await).await;
}

// One after another: virtual machines that are emulated side by side take each other's time.
#[tokio::test]
async fn what_only_virtual_machines_do() {
    let stage = Stage::new().await;
    what_a_machine_writes_comes_back(&stage).await;
    what_a_suspended_machine_wrote_is_there_while_it_is(&stage).await;
    what_a_machine_may_only_read_is_there(&stage).await;
    a_program_that_cannot_be_executed_is_named(&stage).await;
    a_kernel_that_panics_is_told(&stage).await;
    a_clock_is_right_after_a_pause(&stage).await;
    a_machine_that_hangs_is_told_and_ended(&stage).await;
    a_full_disk_is_the_programs_affair_and_what_was_written_comes_back(&stage).await;
    a_supervisor_that_dies_at_the_start_leaves_nothing_that_runs(&stage).await;
    what_cannot_be_done_is_refused_before_anything_starts(&stage).await;
}

async fn what_a_machine_writes_comes_back(stage: &Stage) {
    let dir = stage.volume();
    fs::write(dir.join("before"), "kept").unwrap();
    let mut spec = stage.playing(&["write", "/volume/after"]);
    spec.mounts = vec![binds(&dir, "/volume", false)];
    let machine = stage.driver().start(spec).await.unwrap();
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Code(0));
    assert_eq!(fs::read_to_string(dir.join("after")).unwrap(), "x");
    assert_eq!(fs::read_to_string(dir.join("before")).unwrap(), "kept");
    assert!(!is_away(&dir));

    // Its driver had no time: the next who uses the directory brings it back.
    let mut spec = stage.playing(&["count", "/volume/count"]);
    spec.mounts = vec![binds(&dir, "/volume", false)];
    let machine = stage.driver().start(spec).await.unwrap();
    drop(machine);
    assert!(is_away(&dir));
    let back = || recover(&dir);
    let limit = tokio::time::Instant::now() + PATIENCE;
    // The emulator lets go of the disk a moment after its handle has.
    while let Err(error) = back() {
        assert!(tokio::time::Instant::now() < limit, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!is_away(&dir));
    assert!(dir.join("after").exists());
}

async fn what_a_suspended_machine_wrote_is_there_while_it_is(stage: &Stage) {
    let dir = stage.volume();
    let mut spec = stage.playing(&["obedient", "/volume/obedient"]);
    spec.mounts = vec![binds(&dir, "/volume", false)];
    let machine = stage.driver().start(spec).await.unwrap();
    let limit = tokio::time::Instant::now() + PATIENCE;
    let said = || fs::read_to_string(dir.join("obedient")).unwrap_or_default();
    while said() != "ready" {
        assert!(tokio::time::Instant::now() < limit);
        machine.suspend().await.unwrap();
        assert_eq!(machine.state(), State::Suspended);
        let running = || {
            fs::read_dir("/proc").unwrap().filter_map(|entry| {
                let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
                let own = stage.temp.path().display().to_string();
                String::from_utf8_lossy(&line).contains(&own).then_some(())
            })
        };
        assert_eq!(running().count(), 0, "nothing of it is in memory");
        if said() != "ready" {
            machine.resume().await.unwrap();
        }
    }
    let exit = timeout(PATIENCE, machine.stop(Signal::TERM, PATIENCE))
        .await
        .unwrap();
    assert_eq!(exit, Exit::Code(7));
    assert!(!is_away(&dir));
}

async fn what_a_machine_may_only_read_is_there(stage: &Stage) {
    let dir = stage.temp.path().join("read");
    fs::create_dir_all(dir.join("secret")).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    let mut spec = stage.playing(&["lists", "/given"]);
    spec.mounts = vec![
        binds(&dir, "/given", true),
        // What is writable elsewhere is not given again.
        binds(&dir.join("secret"), "/secret", false),
    ];
    let machine = stage.driver().start(spec).await.unwrap();
    says(&mut machine.output(Since::Kept).unwrap(), "file").await;
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Code(0));
}

async fn a_program_that_cannot_be_executed_is_named(stage: &Stage) {
    let dir = stage.volume();
    let mut spec = stage.playing(&[]);
    spec.cwd = "/nowhere".into();
    spec.mounts = vec![binds(&dir, "/volume", false)];
    let error = stage.driver().start(spec).await.unwrap_err();
    assert!(matches!(&error, StartError::Failed(_)), "{error}");
    assert!(error.to_string().contains("working directory"), "{error}");
    assert!(!is_away(&dir), "nothing of it is left");
}

#[tokio::test]
async fn a_program_runs_in_an_image() {
    let stage = &Stage::new().await;
    let image = stage.temp.path().join("image");
    fs::create_dir_all(image.join("bin")).unwrap();
    fs::create_dir_all(image.join("elsewhere")).unwrap();
    suijuris_testkit::program::copy("/bin/busybox", image.join("bin/busybox"));
    fs::write(image.join("own"), "x").unwrap();
    // Links of the image lead nowhere but into the image.
    std::os::unix::fs::symlink("/elsewhere", image.join("run")).unwrap();
    std::os::unix::fs::symlink("/init", image.join("first")).unwrap();
    let owned = Owned {
        path: "own".into(),
        uid: 1234,
        gid: 77,
        mode: 0o640,
    };
    let disk = stage.temp.path().join("image.disk");
    make_root(&image, &[owned], &disk).unwrap();
    let written_at = || disk.metadata().unwrap().modified().unwrap();
    let before = written_at();
    let (read, written) = (stage.temp.path().join("given"), stage.volume());
    fs::create_dir_all(&read).unwrap();
    fs::write(read.join("file"), "given").unwrap();
    let script = "cd /; busybox ls; busybox stat -c %u:%g:%a own; busybox cat /run/given/file; echo; \
                  busybox test -c /dev/null && busybox test ! -e /dev/vda && busybox test ! -e /first && echo apart; \
                  echo $$; busybox touch /new /volume/new; exec busybox true";
    let mut spec = stage.playing(&[]);
    spec.program.exe = "/bin/busybox".into();
    spec.program.argv = ["busybox", "sh", "-c", script].map(Into::into).into();
    spec.env = [("PATH".into(), "/bin".into())].into();
    spec.root = Root::Image(ImageRoot {
        files: ImageFiles::Disk(disk.clone()),
        scratch: "/none".into(),
        user: (0, 0),
    });
    spec.mounts = vec![
        binds(&read, "/run/given", true),
        binds(&written, "/volume", false),
    ];
    let machine = stage.driver().start(spec).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    let mut said = Vec::new();
    while let Some(line) = timeout(PATIENCE, lines.next()).await.unwrap() {
        said.push(line.text);
    }
    let wanted = [
        "bin",
        "dev",
        "elsewhere",
        "etc",
        "first",
        "lost+found",
        "own",
        "proc",
        "run",
        "sys",
        "tmp",
        "volume",
        "1234:77:640",
        "given",
        "apart",
        "1",
    ];
    said.retain(|line| !line.starts_with('['));
    assert_eq!(said, wanted);
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Code(0));
    assert!(written.join("new").exists());
    assert_eq!(written_at(), before, "a machine writes to its copy alone");

    let mut layered = stage.playing(&[]);
    layered.root = Root::Image(ImageRoot {
        files: ImageFiles::Copy(image),
        scratch: "/none".into(),
        user: (0, 0),
    });
    let refused = stage.driver().start(layered).await.unwrap_err();
    assert!(
        matches!(refused, StartError::Spec(SpecError::Unsupported { .. })),
        "{refused}"
    );
}

/// The emulator of the only machine there is.
fn emulator(stage: &Stage) -> nix::unistd::Pid {
    let own = stage.temp.path().display().to_string();
    let is_own = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let program = line.split('\0').next().unwrap_or_default();
        program.contains("qemu-system") && line.contains(&own)
    };
    let mut found = fs::read_dir("/proc").unwrap().flatten().filter(is_own);
    let number = found.next().unwrap().file_name();
    nix::unistd::Pid::from_raw(number.to_str().unwrap().parse().unwrap())
}

/// Nothing in it moves and nothing answers: it is not suspended, goes on once it can, and ends when its time to stop is over; what it had
/// written is there.
async fn a_machine_that_hangs_is_told_and_ended(stage: &Stage) {
    let dir = stage.volume();
    let mut spec = stage.playing(&[]);
    spec.program.exe = "/bin/busybox".into();
    let script = "echo kept > /volume/hung; sync; while :; do echo on; sleep 0.2; done";
    spec.program.argv = ["busybox", "sh", "-c", script].map(Into::into).into();
    spec.env = [("PATH".into(), "/bin".into())].into();
    spec.mounts = vec![binds(&dir, "/volume", false)];
    let machine = stage.driver().start(spec).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    says(&mut lines, "on").await;
    let send = |signal| nix::sys::signal::kill(emulator(stage), signal).unwrap();
    send(nix::sys::signal::Signal::SIGSTOP);
    let error = machine.suspend().await.unwrap_err();
    assert!(matches!(error, SuspendError::Slow { .. }), "{error:?}");
    assert_eq!(machine.state(), State::Running);
    send(nix::sys::signal::Signal::SIGCONT);
    for _ in 0..20 {
        says(&mut lines, "on").await;
    }
    send(nix::sys::signal::Signal::SIGSTOP);
    let exit = machine
        .stop(Signal::TERM, std::time::Duration::from_millis(300))
        .await;
    assert_eq!(exit, Exit::Signal(libc::SIGKILL));
    assert!(!is_away(&dir));
    assert_eq!(fs::read_to_string(dir.join("hung")).unwrap(), "kept\n");
}

async fn a_clock_is_right_after_a_pause(stage: &Stage) {
    let machine = stage.driver().start(stage.playing(&["clock"])).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    lines.next().await.unwrap();
    machine.suspend().await.unwrap();
    let pause = std::time::Duration::from_secs(5);
    tokio::time::sleep(pause).await;
    machine.resume().await.unwrap();
    let right = async {
        loop {
            let told: u128 = lines.next().await.unwrap().text.parse().unwrap();
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
            // One that had stood still would stay behind by the pause for ever.
            if told + pause.as_millis() > now {
                return;
            }
        }
    };
    timeout(PATIENCE, right).await.unwrap();
    machine.kill().await;
}

async fn a_full_disk_is_the_programs_affair_and_what_was_written_comes_back(stage: &Stage) {
    let dir = stage.temp.path().join("full");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("before"), "kept").unwrap();
    let mut spec = stage.playing(&["fills", "/volume/holes"]);
    spec.mounts = vec![binds(&dir, "/volume", false)];
    let machine = stage.driver().start(spec).await.unwrap();
    says(&mut machine.output(Since::Kept).unwrap(), "full").await;
    let exit = timeout(PATIENCE, machine.stop(Signal::TERM, PATIENCE))
        .await
        .unwrap();
    assert_eq!(exit, Exit::Code(7));
    assert_eq!(fs::read_to_string(dir.join("before")).unwrap(), "kept");
    assert!(dir.join("holes").exists() && !is_away(&dir));
}

/// Cancelled while its machine boots, as by a daemon that gives up.
async fn a_supervisor_that_dies_at_the_start_leaves_nothing_that_runs(stage: &Stage) {
    let mut spec = stage.playing(&["deaf"]);
    spec.lifetime = Lifetime::Detached;
    let running = || {
        let own = stage.temp.path().display().to_string();
        let is_own = move |entry: fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&own)
        };
        fs::read_dir("/proc").unwrap().flatten().any(is_own)
    };
    {
        let mut starting = std::pin::pin!(stage.driver().start(spec));
        let begun = async {
            while !running() {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            started = &mut starting => panic!("it was to be given up: {started:?}"),
            begun = timeout(PATIENCE, begun) => begun.unwrap(),
        }
    }
    let gone = async {
        while running() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

/// What `docs/vm.md` says of each vehicle is what the drivers say of themselves.
#[tokio::test]
async fn the_table_in_the_docs_is_what_the_drivers_say() {
    let stage = Stage::new().await;
    let shim = Shim {
        exe: stage.actor.clone(),
        args: vec!["__shim".into()],
    };
    let process = Process::detect(shim, Want::default()).await.unwrap();
    let firecracker = vm::Firecracker {
        exe: Some(stage.actor.clone()),
        ..vm::Firecracker::default()
    };
    let firecracker = vm::probe(&Kind::Firecracker(firecracker), &process).unwrap();
    let process = process.keeping_in(&stage.temp.path().join("processes")).unwrap();
    let columns = [process.describe(), stage.driver().describe(), &firecracker].map(suite::abilities);
    let mut table = String::from("| A machine | process | qemu | firecracker |\n|---|---|---|---|\n");
    for (row, (what, _)) in columns[0].iter().enumerate() {
        let cell = |column: &[(&str, bool); 8]| if column[row].1 { "yes" } else { "no" };
        let cells = columns.each_ref().map(cell).join(" | ");
        table.push_str(&format!("| {what} | {cells} |\n"));
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vm.md");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains(&table), "docs/vm.md lacks this table:\n{table}");
}

async fn a_kernel_that_panics_is_told(stage: &Stage) {
    let machine = stage
        .driver()
        .start(stage.playing(&["write", "/proc/sysrq-trigger"]))
        .await
        .unwrap();
    // `x` is no key that does anything; `c` panics.
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Code(0));
    let machine = stage.driver().start(stage.playing(&["panics"])).await.unwrap();
    let mut lines = machine.output(Since::Kept).unwrap();
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Panicked);
    says(&mut lines, "Kernel panic").await;
}

async fn what_cannot_be_done_is_refused_before_anything_starts(stage: &Stage) {
    let refused = async |change: fn(&mut Spec)| {
        let mut spec = stage.playing(&["exit", "0"]);
        change(&mut spec);
        match stage.driver().start(spec).await {
            Err(StartError::Spec(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let unsupported = |error| matches!(error, SpecError::Unsupported { .. });
    assert!(unsupported(
        refused(|spec| spec.inherit = vec![(fs::File::open("/dev/null").unwrap().into(), 7)]).await
    ));
    assert!(unsupported(refused(|spec| spec.stdout = Output::Inherit).await));
    assert!(matches!(
        refused(|spec| spec.cwd = "here".into()).await,
        SpecError::Relative(_)
    ));
    assert!(matches!(
        refused(|spec| spec.resources.memory = Some(0)).await,
        SpecError::Zero("memory")
    ));
}
