//! Machines as processes: the suite for each isolation with each way to suspend, as root and without privilege, as far
//! as this host has them; and what only processes do.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use suijuris_vehicle::process::{Ahead, Machine, Process, Shim, StateError, Step, StepFailed, Want};
use suijuris_vehicle::{
    AttachError, Driver, Exit, Isolation, Lifetime, Machine as _, MachineId, Means, Mount, Network, Output, Resource,
    Since, Spec, SpecError, StartError, State, Suspending,
};
use tempfile::TempDir;

use crate::suite::{self, PATIENCE, Part};

/// An id of nobody in particular.
pub(crate) const NOBODY: u32 = 65534;

/// A driver under test with a directory for its machines' files.
pub(crate) struct Stage {
    /// None only while another supervisor has the directory.
    driver: Option<Process>,
    want: Want,
    dir: TempDir,
    actor: PathBuf,
    /// Whether machines come of programs that stood by, as far as they can.
    is_ahead: bool,
}

impl Stage {
    /// None where this host has no such thing; why is printed.
    pub(crate) async fn new(want: Want) -> Option<Self> {
        Self::starting(want, Ahead::NONE).await
    }

    /// The same, whose driver starts programs ahead.
    pub(crate) async fn starting(want: Want, ahead: Ahead) -> Option<Self> {
        let stage = Self {
            driver: None,
            want,
            dir: TempDir::new().unwrap(),
            actor: actor(),
            is_ahead: false,
        };
        match Process::detect(stage.shim(), want).await {
            Ok(driver) => Some(Self {
                driver: Some(
                    driver
                        .keeping_in(&stage.path("state"))
                        .unwrap()
                        .starting_ahead(ahead),
                ),
                ..stage
            }),
            Err(error @ StartError::Unavailable(_)) => {
                eprintln!("{error}");
                assert_ne!(
                    want.isolation,
                    Some(Isolation::Plain).filter(|_| want.suspending == Some(Suspending::Signals))
                );
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn shim(&self) -> Shim {
        Shim {
            exe: self.actor.clone(),
            args: vec!["__shim".into()],
        }
    }

    pub(crate) fn driver(&self) -> &Process {
        let driver = self.driver.as_ref().unwrap();
        if self.is_ahead {
            self.stand_by(driver);
        }
        driver
    }

    /// Waits until a program stands by for each machine that the suite may start next.
    fn stand_by(&self, driver: &Process) {
        let mut each = vec![self.like(Lifetime::WithCaller), self.like(Lifetime::Detached)];
        if driver.describe().isolation != Isolation::Plain {
            for lifetime in [Lifetime::WithCaller, Lifetime::Detached] {
                each.push(Spec {
                    network: Network::Private,
                    ..self.like(lifetime)
                });
            }
        }
        for spec in &each {
            driver.prepare(Some(spec)).unwrap();
        }
        eventually("programs stand by", || driver.standing_by() >= each.len());
    }

    fn like(&self, lifetime: Lifetime) -> Spec {
        Spec {
            lifetime,
            ..self.spec(&[])
        }
    }

    /// The next supervisor's driver.
    async fn restart(&mut self) {
        // The lock goes with the last descriptor of the earlier one, which a dying process may hold a moment longer.
        let limit = Instant::now() + PATIENCE;
        self.driver = None;
        while self.driver.is_none() {
            let driver = Process::detect(self.shim(), self.want).await.unwrap();
            match driver.keeping_in(&self.path("state")) {
                Ok(driver) if self.is_ahead => self.driver = Some(driver.starting_ahead(AHEAD)),
                Ok(driver) => self.driver = Some(driver),
                Err(StateError::InUse(_)) if Instant::now() < limit => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn isolation(&self) -> Isolation {
        self.driver().describe().isolation
    }

    fn is_namespaced(&self) -> bool {
        self.isolation() != Isolation::Plain
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spec(&self, part: &[&str]) -> Spec {
        let mut spec = Spec::new("test", &self.actor).with_args(part.iter().map(OsString::from));
        spec.stands_by = Some(vec!["actor".into(), "__standby".into()]);
        spec
    }

    async fn start(&self, part: &[&str]) -> Machine {
        self.driver().start(self.spec(part)).await.unwrap()
    }

    /// Starts `part` with a file of this name as its last argument.
    async fn start_with(&self, part: &str, file: &str) -> (Machine, PathBuf) {
        let path = self.path(file);
        (self.start(&[part, path.to_str().unwrap()]).await, path)
    }

    /// What `spec` writes until it ends with code 0.
    pub(crate) async fn output(&self, spec: Spec) -> String {
        let (text, exit) = self.play(spec).await;
        assert_eq!(exit, Exit::Code(0), "{text}");
        text
    }

    /// What `spec` writes until it ends, and how it ends.
    pub(crate) async fn play(&self, mut spec: Spec) -> (String, Exit) {
        spec.stdout = Output::Lines;
        let machine = self.driver().start(spec).await.unwrap();
        let mut lines = machine.output(Since::Kept).unwrap();
        let mut text = String::new();
        while let Some(line) = lines.next().await {
            text.push_str(&line.text);
            text.push('\n');
        }
        (text, machine.wait().await)
    }

    /// Another supervisor, which starts a detached machine, and that machine's id.
    fn spawn_supervisor(&self, part: &[&str]) -> (Child, MachineId) {
        let Description {
            isolation,
            suspending,
        } = Description::of(self);
        let mut command = Command::new(&self.actor);
        command.args(["supervisor", &isolation, &suspending]);
        command.arg(self.path("state")).args(part);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut supervisor = piped.spawn().unwrap();
        let id = line_of(&mut supervisor).parse().unwrap();
        (supervisor, id)
    }
}

/// The next line that `child` writes.
fn line_of(child: &mut Child) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    // Not a byte more than the line, which a buffer would swallow.
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() > 0 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

fn actor() -> PathBuf {
    env::var_os("ACTOR").map_or_else(|| env!("CARGO_BIN_EXE_vehicle-actor").into(), PathBuf::from)
}

impl suite::Stage for Stage {
    type Driver = Process;

    fn driver(&self) -> &Process {
        self.driver()
    }

    fn spec(&self, part: Part) -> Spec {
        let mut spec = self.spec(&[]).with_args(part.arguments());
        (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
        spec.link = Some(5);
        spec
    }

    async fn orphan(&mut self, part: Part, suspended: bool) -> MachineId {
        self.driver.take();
        let arguments = part.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (mut supervisor, id) = self.spawn_supervisor(&arguments);
        if suspended {
            writeln!(supervisor.stdin.as_mut().unwrap(), "suspend").unwrap();
            assert_eq!(line_of(&mut supervisor), "suspended");
        }
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        self.restart().await;
        id
    }
}

/// One program of each kind is started ahead, as soon as there is none.
pub(crate) const AHEAD: Ahead = Ahead {
    count: 1,
    least_available: 0,
    quiet: Duration::ZERO,
};

/// Waits until `holds`, or fails saying what did not come true.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < limit, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn grows(path: &Path) {
    let before = size(path);
    eventually(&format!("{} grows", path.display()), || size(path) > before);
}

/// Whether no process holds the lock that each counting one takes.
fn is_deserted(path: &Path) -> bool {
    File::open(path).unwrap().try_lock().is_ok()
}

fn family_files(path: &Path) -> [PathBuf; 3] {
    [
        path.to_owned(),
        path.with_extension("child"),
        path.with_extension("daemon"),
    ]
}

async fn conformance(want: Want, is_ahead: bool) {
    let ahead = if is_ahead { AHEAD } else { Ahead::NONE };
    let Some(mut stage) = Stage::starting(want, ahead).await else {
        return;
    };
    stage.is_ahead = is_ahead;
    eprintln!("{}", stage.driver().describe());
    suite::conforms(&mut stage).await;
    signals_kill(&stage).await;
    nothing_is_inherited(&stage).await;
    files_arrive_at_their_numbers(&stage).await;
    failures_name_the_step(&stage).await;
    suspending(&stage).await;
    limits_hold(&stage).await;
    nobody_is_left_behind(&stage).await;
    a_killed_shim_takes_the_machine_along(&stage).await;
    callers_do_not_disturb_each_other(&stage, want).await;
    for farewell in ["", "suspend"] {
        a_killed_caller_leaves_nothing(&stage, farewell);
    }
    let stood_by = stage.driver().were_standing_by();
    assert_eq!(stood_by > 5, is_ahead, "{stood_by} machines came of programs that stood by");
    what_is_kept_is_private(&stage).await;
    who_cannot_prove_to_be_the_machine_is_killed(&mut stage).await;
    if stage.is_namespaced() {
        what_is_kept_is_out_of_sight(&stage).await;
        a_private_network_is_private(&stage).await;
        mounts_are_seen_inside_alone(&stage).await;
    } else {
        what_needs_namespaces_is_refused(&stage).await;
    }
}

async fn signals_kill(stage: &Stage) {
    // Process 1 of a namespace is immune to its own signals.
    if !stage.is_namespaced() {
        assert_eq!(
            stage.start(&["die", "SIGABRT"]).await.wait().await,
            Exit::Signal(6)
        );
    }
}

async fn nothing_is_inherited(stage: &Stage) {
    let mut spec = stage.spec(&["look"]);
    spec.env.insert("ONLY".into(), "this=one".into());
    spec.cwd = stage.dir.path().to_owned();
    let seen = stage.output(spec).await;
    let lines = |kind: &str| {
        seen.lines()
            .filter(|line| line.starts_with(kind))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines("env "), ["env ONLY=this=one"]);
    assert_eq!(lines("cwd "), [format!("cwd {}", stage.dir.path().display())]);
    assert_eq!(
        lines("uid "),
        [format!("uid {}", nix::unistd::geteuid())],
        "files stay the caller's"
    );
    assert_eq!(lines("fd ").len(), 3, "{seen}");
    assert!(seen.contains("fd 0 /dev/null"), "{seen}");
    assert!(seen.contains("SigBlk:\t0000000000000000"), "{seen}");
    // The language's own runtime ignores SIGPIPE, which is bit 12.
    assert!(seen.contains("SigIgn:\t0000000000001000"), "{seen}");
    assert_eq!(seen.contains("pid 1\n"), stage.is_namespaced(), "{seen}");
}

async fn files_arrive_at_their_numbers(stage: &Stage) {
    let mut spec = stage.spec(&["look"]);
    let open = |name: &str| OwnedFd::from(File::create(stage.path(name)).unwrap());
    let (three, nine, high) = (open("three"), open("nine"), open("high"));
    spec.inherit = vec![(nine, 9), (three, 3), (high, 1023)];
    let seen = stage.output(spec).await;
    for (number, name) in [(3, "three"), (9, "nine"), (1023, "high")] {
        let line = format!("fd {number} {}\n", stage.path(name).display());
        assert!(seen.contains(&line), "{line} is not in {seen}");
    }
    assert_eq!(
        seen.lines().filter(|line| line.starts_with("fd ")).count(),
        6,
        "{seen}"
    );

    let mut twice = stage.spec(&["look"]);
    twice.inherit = vec![(open("a"), 4), (open("b"), 4)];
    assert!(matches!(
        stage.driver().start(twice).await,
        Err(StartError::Spec(_))
    ));
}

async fn failures_name_the_step(stage: &Stage) {
    let text = stage.path("text");
    fs::write(&text, "no program").unwrap();
    let script = stage.path("script");
    suijuris_testkit::program::script(&script, "#!/no/such/interpreter\n");
    for (exe, errno, hint) in [
        (Path::new("/no/such/program"), 2, "no such program"),
        (&text, 13, "not executable"),
        (&script, 2, "interpreter"),
    ] {
        let error = stage.driver().start(Spec::new("test", exe)).await.unwrap_err();
        let StartError::Failed(failed) = &error else {
            panic!("{error}")
        };
        let fault = &failed.downcast_ref::<StepFailed>().unwrap().fault;
        assert_eq!((fault.step, fault.errno), (Step::Exec, errno));
        let told = error.to_string();
        assert!(
            told.contains(hint) && told.contains(exe.to_str().unwrap()),
            "{told}"
        );
    }
    let mut lost = stage.spec(&["exit", "0"]);
    lost.cwd = "/no/such/directory".into();
    let error = stage.driver().start(lost).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot enter directory /no/such/directory (the working directory does not exist in the machine)"
    );
    let relative = stage.driver().start(Spec::new("test", "true")).await;
    assert!(matches!(relative, Err(StartError::Spec(_))));
}

async fn suspending(stage: &Stage) {
    let (machine, file) = stage.start_with("family", "family").await;
    let files = family_files(&file);
    for round in 0..3 {
        files.iter().for_each(|file| grows(file));
        machine.suspend().await.unwrap();
        machine.suspend().await.unwrap();
        assert_eq!(machine.state(), State::Suspended);
        let sizes = files.each_ref().map(|file| size(file));
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(
            files.each_ref().map(|file| size(file)),
            sizes,
            "round {round}: something still runs"
        );
        machine.resume().await.unwrap();
        machine.resume().await.unwrap();
        assert_eq!(machine.state(), State::Running);
    }
    files.iter().for_each(|file| grows(file));
    machine.kill().await;
    assert!(files.iter().all(|file| is_deserted(file)));
}

async fn nobody_is_left_behind(stage: &Stage) {
    let file = stage.path("left");
    let machine = stage.start(&["family", file.to_str().unwrap(), "leave"]).await;
    assert_eq!(machine.wait().await, Exit::Code(5));
    for file in [file.with_extension("child"), file.with_extension("daemon")] {
        assert!(
            !file.exists() || is_deserted(&file),
            "the machine ends with its first program"
        );
    }
    let (dropped, file) = stage.start_with("family", "dropped").await;
    let files = family_files(&file);
    files.iter().for_each(|file| grows(file));
    drop(dropped);
    eventually("a dropped machine ends", || {
        files.iter().all(|file| is_deserted(file))
    });
}

async fn a_killed_shim_takes_the_machine_along(stage: &Stage) {
    let (machine, file) = stage.start_with("family", "orphan").await;
    let files = family_files(&file);
    files.iter().for_each(|file| grows(file));
    kill(parent_of(machine.pid()));
    assert_eq!(machine.wait().await, Exit::Lost);
    assert!(is_deserted(&file), "the first program dies with the shim");
    let everything =
        stage.is_namespaced() || stage.driver().describe().suspending != Some(Suspending::Signals);
    if everything {
        assert!(files.iter().all(|file| is_deserted(file)));
    } else {
        // The documented residue: end it, as the driver could not.
        files.iter().for_each(|file| kill_holders(file));
    }
}

fn parent_of(pid: u32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.unwrap().trim().parse().unwrap()
}

pub(crate) fn kill(pid: i32) {
    send(pid, nix::sys::signal::Signal::SIGKILL);
}

pub(crate) fn send(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Kills the processes that have `path` as an argument.
fn kill_holders(path: &Path) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line
            .split(|&byte| byte == 0)
            .any(|arg| arg == path.as_os_str().as_encoded_bytes())
        {
            kill(pid);
        }
    }
}

async fn callers_do_not_disturb_each_other(stage: &Stage, want: Want) {
    let other = Stage::new(want).await.unwrap();
    let (ours, our_file) = stage.start_with("family", "ours").await;
    let (theirs, their_file) = other.start_with("family", "theirs").await;
    let _third = Stage::new(want).await.unwrap();
    grows(&our_file);
    grows(&their_file);
    ours.suspend().await.unwrap();
    grows(&their_file);
    theirs.kill().await;
    ours.resume().await.unwrap();
    grows(&our_file);
    ours.kill().await;
}

/// The caller is a process of its own here, ended by SIGKILL while its machine runs or sleeps.
fn a_killed_caller_leaves_nothing(stage: &Stage, farewell: &str) {
    let file = stage.path(&format!("caller{farewell}"));
    let (mut caller, pid) = spawn_caller(stage, &file, farewell);
    caller.kill().unwrap();
    caller.wait().unwrap();
    let files = family_files(&file);
    eventually("all processes are gone", || {
        files.iter().all(|file| is_deserted(file))
    });
    eventually("the first program is buried", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    eventually("its control group is gone", || {
        control_groups_of(caller.id()).is_empty()
    });
}

fn spawn_caller(stage: &Stage, file: &Path, farewell: &str) -> (Child, u32) {
    let Description {
        isolation,
        suspending,
    } = Description::of(stage);
    let mut command = Command::new(&stage.actor);
    command.args(["caller", &isolation, &suspending]).arg(file);
    let mut caller = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = line_of(&mut caller).parse().unwrap();
    family_files(file).iter().for_each(|file| grows(file));
    writeln!(caller.stdin.as_mut().unwrap(), "{farewell}").unwrap();
    if !farewell.is_empty() {
        assert_eq!(line_of(&mut caller), "suspended");
    }
    (caller, pid)
}

/// The driver's choices as the actor's arguments name them.
struct Description {
    isolation: String,
    suspending: String,
}

impl Description {
    fn of(stage: &Stage) -> Self {
        let Want {
            isolation,
            suspending,
        } = stage.want;
        Self {
            isolation: format!("{:?}", isolation.unwrap()),
            suspending: format!("{:?}", suspending.unwrap()),
        }
    }
}

/// Limits of the whole machine where there are control groups, of each process else.
async fn limits_hold(stage: &Stage) {
    let mut few = stage.spec(&["opens"]);
    few.resources.open_files = Some(40);
    assert_eq!(stage.output(few).await, "40\n");

    let mut small = stage.spec(&["holds", "300"]);
    small.resources.memory = Some(128 << 20);
    small.stderr = Output::Null;
    let (said, exit) = stage.play(small).await;
    assert_eq!(said, "", "it cannot have 300 MiB");
    match stage.driver().describe().limits(Resource::Memory) {
        Means::CgroupV1 | Means::CgroupV2 => assert_eq!(exit, Exit::OutOfMemory),
        // Its own allocation failed, and it said so.
        _ => assert_eq!(exit, Exit::Code(99)),
    }

    let mut lonely = stage.spec(&["spawns", "8"]);
    lonely.resources.processes = Some(5);
    match stage.driver().describe().limits(Resource::Processes) {
        Means::CgroupV1 | Means::CgroupV2 => assert_eq!(stage.output(lonely).await, "4\n"),
        // Counts all of a user's processes, and none of root's.
        means => assert_eq!(means, Means::PerUser),
    }
}

/// What finds machines again is for their owner alone, and no secret stands in it or in an argument.
async fn what_is_kept_is_private(stage: &Stage) {
    let mut spec = suite::Stage::spec(stage, Part::Echoes);
    spec.lifetime = Lifetime::Detached;
    let machine = stage.driver().start(spec).await.unwrap();
    let state = stage.path("state");
    let mut next = vec![state.clone()];
    let mut seen = 0;
    while let Some(path) = next.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        seen += 1;
        if metadata.is_dir() {
            next.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert!(
        seen >= 6,
        "the directory, lock, key, and the machine's directory with record and socket"
    );
    let second = Process::detect(stage.shim(), stage.want).await.unwrap();
    let refused = second.keeping_in(&state).unwrap_err();
    assert!(matches!(refused, StateError::InUse(_)), "{refused}");
    assert_eq!(machine.kill().await, Exit::Signal(9));

    let open = stage.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    let second = Process::detect(stage.shim(), stage.want).await.unwrap();
    let refused = second.keeping_in(&open).unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

async fn what_is_kept_is_out_of_sight(stage: &Stage) {
    let state = stage.path("state");
    assert!(state.join("key").exists());
    let spec = stage.spec(&["lists", state.to_str().unwrap()]);
    assert_eq!(stage.output(spec).await, "", "a machine sees an empty directory");
}

/// Does something to a machine's directory, or to its keeper by number.
type Tampering = fn(&Path, u32);

/// What an attacker, or an accident, may do between two supervisors; the word by which it is told.
const TAMPERINGS: [(Tampering, &str); 5] = [
    (another_key, "made with another key"),
    (another_start, "its first program is gone"),
    (an_impostor, "does not know its secret"),
    (a_stuck_keeper, "does not answer within"),
    (a_damaged_record, "damaged"),
];

async fn who_cannot_prove_to_be_the_machine_is_killed(stage: &mut Stage) {
    for (tamper, told) in TAMPERINGS {
        let file = stage.path(&format!("tampered{}", told.len()));
        stage.driver.take();
        let (mut supervisor, id) = stage.spawn_supervisor(&["count", file.to_str().unwrap()]);
        grows(&file);
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        let dir = stage.path("state").join(id.as_str());
        let pid = record(&dir)["keeper"]["pid"].as_u64().unwrap();
        tamper(&dir, u32::try_from(pid).unwrap());
        stage.restart().await;
        let error = stage.driver().attach(&id).await.unwrap_err();
        assert!(matches!(error, AttachError::Killed { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
        if told == "damaged" {
            // Nobody can know who it was; that is said, and the test ends it.
            assert!(error.to_string().contains("may still run"), "{error}");
            send(i32::try_from(pid).unwrap(), nix::sys::signal::Signal::SIGTERM);
        }
        eventually("it is dead", || is_deserted(&file));
        assert!(!dir.exists() && stage.driver().list().await.unwrap().is_empty());
    }
}

fn record(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(dir.join("record")).unwrap()).unwrap()
}

fn another_key(dir: &Path, _keeper: u32) {
    fs::write(dir.with_file_name("key"), [7; 32]).unwrap();
}

fn another_start(dir: &Path, _keeper: u32) {
    let mut record = record(dir);
    let started = record["first"]["started"].as_u64().unwrap();
    record["first"]["started"] = (started + 1).into();
    fs::write(dir.join("record"), record.to_string()).unwrap();
}

/// Answers in the keeper's place, without the secret.
fn an_impostor(dir: &Path, _keeper: u32) {
    fs::remove_file(dir.join("attach")).unwrap();
    let listener = suijuris_sys::sockets::listen(&dir.join("attach")).unwrap();
    std::thread::spawn(move || {
        use std::os::fd::AsFd as _;
        suijuris_sys::descriptors::poll(&[listener.as_fd()], 30_000).unwrap();
        let caller = suijuris_sys::sockets::accept(listener.as_fd()).unwrap();
        suijuris_sys::descriptors::poll(&[caller.as_fd()], 30_000).unwrap();
        let numbers = vec![0_u8; 32];
        let challenge = serde_json::json!({ "nonce": numbers, "proof": numbers }).to_string();
        suijuris_sys::sockets::receive(caller.as_fd(), 4096).unwrap();
        suijuris_sys::sockets::send(caller.as_fd(), challenge.as_bytes(), &[]).unwrap();
        suijuris_sys::descriptors::poll(&[caller.as_fd()], 30_000).unwrap();
    });
}

fn a_stuck_keeper(_dir: &Path, keeper: u32) {
    send(i32::try_from(keeper).unwrap(), nix::sys::signal::Signal::SIGSTOP);
}

fn a_damaged_record(dir: &Path, _keeper: u32) {
    fs::write(dir.join("record"), "{").unwrap();
}

fn control_groups_of(pid: u32) -> Vec<PathBuf> {
    let mine = |entry: &fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("suijuris-") && name.split('-').nth(2) == Some(&pid.to_string())
    };
    let mut found = Vec::new();
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = next.pop() {
        let below = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if mine(&entry) {
                found.push(entry.path());
            }
            next.push(entry.path());
        }
    }
    found
}

async fn a_private_network_is_private(stage: &Stage) {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port().to_string();
    for (network, code) in [(Network::Private, 1), (Network::Host, 0)] {
        let mut spec = stage.spec(&["dial", &port]);
        spec.network = network;
        let machine = stage.driver().start(spec).await.unwrap();
        assert_eq!(machine.wait().await, Exit::Code(code), "{network:?}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = listener.local_addr().unwrap();
    let mut spec = stage.spec(&["answer", "5"]);
    spec.network = Network::Private;
    spec.inherit = vec![(listener.into(), 5)];
    let machine = stage.driver().start(spec).await.unwrap();
    let mut greeting = String::new();
    TcpStream::connect(there)
        .unwrap()
        .read_to_string(&mut greeting)
        .unwrap();
    assert_eq!(greeting, "hello", "a listener from outside works inside");
    assert_eq!(machine.wait().await, Exit::Code(0));
}

async fn mounts_are_seen_inside_alone(stage: &Stage) {
    let source = stage.path("source");
    fs::create_dir(&source).unwrap();
    let missing = Path::new("/run/suijuris-conformance/deep");
    let bind = |read_only| Mount::Bind {
        from: source.clone(),
        to: missing.into(),
        read_only,
    };
    for (mount, code, arrives) in [
        (bind(true), 99, false),
        (
            Mount::Tmpfs {
                to: missing.into(),
                size_bytes: 1 << 20,
            },
            0,
            false,
        ),
        (bind(false), 0, true),
    ] {
        let mut spec = stage.spec(&["write", "/run/suijuris-conformance/deep/file"]);
        spec.mounts = vec![mount.clone()];
        spec.stderr = Output::Null;
        let machine = stage.driver().start(spec).await.unwrap();
        assert_eq!(machine.wait().await, Exit::Code(code), "{mount:?}");
        assert_eq!(source.join("file").exists(), arrives, "{mount:?}");
    }
    assert!(
        !Path::new("/run/suijuris-conformance").exists(),
        "nothing is made on the host"
    );
    assert_eq!(
        fs::metadata(source.join("file")).unwrap().uid(),
        nix::unistd::geteuid().as_raw()
    );
}

async fn what_needs_namespaces_is_refused(stage: &Stage) {
    let mut private = stage.spec(&["exit", "0"]);
    private.network = Network::Private;
    let mut mounted = stage.spec(&["exit", "0"]);
    mounted.mounts = vec![Mount::Tmpfs {
        to: "/run".into(),
        size_bytes: 1,
    }];
    for spec in [private, mounted] {
        let error = stage.driver().start(spec).await.unwrap_err();
        assert!(
            matches!(&error, StartError::Spec(SpecError::Unsupported { .. })),
            "{error}"
        );
    }
}

/// Runs the suite for one isolation with every way to suspend.
fn conforms(isolation: Isolation) {
    conforms_starting(isolation, false);
}

/// The same, with machines that come of programs that stood by.
fn conforms_starting(isolation: Isolation, is_ahead: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for suspending in [Suspending::CgroupV2, Suspending::CgroupV1, Suspending::Signals] {
        let want = Want {
            isolation: Some(isolation),
            suspending: Some(suspending),
        };
        runtime.block_on(conformance(want, is_ahead));
    }
}

#[test]
fn plain_machines_conform() {
    conforms(Isolation::Plain);
}

#[test]
fn plain_machines_of_programs_that_stood_by_conform() {
    conforms_starting(Isolation::Plain, true);
}

#[test]
fn namespaced_machines_of_programs_that_stood_by_conform() {
    conforms_starting(Isolation::Namespaces, true);
}

#[test]
fn machines_in_user_namespaces_of_programs_that_stood_by_conform() {
    conforms_starting(Isolation::UserNamespaces, true);
}

#[test]
fn namespaced_machines_conform() {
    conforms(Isolation::Namespaces);
}

#[test]
fn machines_in_user_namespaces_conform() {
    conforms(Isolation::UserNamespaces);
}

/// Set for a test that runs itself again under other conditions.
const INNER: &str = "CONFORMANCE_INNER";

/// This very test again, as `command` prepares it, from a directory that any user may read: build
/// directories may be closed to others.
pub(crate) struct Again {
    open: TempDir,
    test: &'static str,
}

impl Again {
    pub(crate) fn new(test: &'static str) -> Self {
        let open = TempDir::new().unwrap();
        fs::set_permissions(open.path(), PermissionsExt::from_mode(0o755)).unwrap();
        suijuris_testkit::program::copy(env::current_exe().unwrap(), open.path().join("suite"));
        suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_vehicle-actor"), open.path().join("actor"));
        Self { open, test }
    }

    /// Runs the copy by way of `around`, as `user`, once `entering` has dealt with its number.
    pub(crate) fn run(&self, around: &[&str], user: u32, entering: impl FnOnce(u32)) {
        let suite = self.open.path().join("suite");
        let line = [
            around,
            &[suite.to_str().unwrap(), "--exact", self.test, "--nocapture"],
        ]
        .concat();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir("/").uid(user).gid(user);
        command
            .env(INNER, "1")
            .env("ACTOR", self.open.path().join("actor"));
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        entering(child.id());
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "the test did run: {said}");
    }

    /// Whether this is the copy; it then has its conditions.
    pub(crate) fn is_this() -> bool {
        let inner = env::var_os(INNER).is_some();
        if inner {
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        inner
    }
}

/// As root the suite runs again as nobody; otherwise the others have run without privilege already.
#[test]
fn machines_conform_without_root() {
    if Again::is_this() {
        conforms(Isolation::UserNamespaces);
        conforms(Isolation::Plain);
        conforms_starting(Isolation::UserNamespaces, true);
    } else if nix::unistd::geteuid().is_root() {
        Again::new("process::machines_conform_without_root").run(&[], NOBODY, |_| ());
    }
}

/// A control group handed over to a user (as systemd's `Delegate=`) is used without privilege.
#[test]
fn a_delegated_control_group_is_used_without_root() {
    if Again::is_this() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let want = Want {
            suspending: Some(Suspending::CgroupV2),
            ..Want::default()
        };
        let stage = runtime.block_on(Stage::new(want)).expect("version 2 is usable");
        return runtime.block_on(suspending(&stage));
    }
    let Some(group) = delegated_group() else {
        return eprintln!("not on this host");
    };
    let again = Again::new("process::a_delegated_control_group_is_used_without_root");
    again.run(&[], NOBODY, |pid| {
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    });
    fs::remove_dir(group).unwrap();
}

/// A new control group that belongs to nobody, where there is version 2 and this is root.
fn delegated_group() -> Option<PathBuf> {
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let root = root.into_iter().find(|root| root.join("cgroup.procs").exists())?;
    let group = root.join(format!("conformance-{}", std::process::id()));
    fs::create_dir(&group).ok()?;
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(group.join(file), Some(NOBODY), Some(NOBODY)).ok()?;
    }
    Some(group)
}

/// Without namespaces the driver goes on without them, naming the setting that stands against them.
#[test]
fn where_namespaces_are_refused_machines_are_plain() {
    if Again::is_this() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stage = runtime.block_on(Stage::new(Want::default())).unwrap();
        let description = stage.driver().describe();
        assert_eq!(description.isolation, Isolation::Plain);
        assert!(
            description
                .to_string()
                .contains("sysctl user.max_user_namespaces"),
            "{description}"
        );
        return runtime.block_on(nobody_is_left_behind(&stage));
    }
    let forbid = r#"echo 0 > /proc/sys/user/max_pid_namespaces && exec "$0" "$@""#;
    let around = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid];
    let usable = Command::new(around[0]).args(&around[1..]).arg("true").status();
    if !usable.is_ok_and(|status| status.success()) {
        return eprintln!("not on this host");
    }
    let user = nix::unistd::geteuid().as_raw();
    Again::new("process::where_namespaces_are_refused_machines_are_plain").run(&around, user, |_| ());
}

/// Where caller and shim are killed at once, control groups let the next caller clear what is left.
#[tokio::test]
async fn the_next_caller_clears_what_a_killed_shim_left() {
    let want = Want {
        isolation: Some(Isolation::Plain),
        suspending: Some(Suspending::CgroupV2),
    };
    let Some(stage) = Stage::new(want).await else {
        return;
    };
    let file = stage.path("left");
    let (mut caller, pid) = spawn_caller(&stage, &file, "");
    let shim = parent_of(pid);
    // Held, so that it cannot clean up between the two.
    send(shim, nix::sys::signal::Signal::SIGSTOP);
    caller.kill().unwrap();
    kill(shim);
    caller.wait().unwrap();
    let next = Stage::new(want).await.unwrap();
    assert!(family_files(&file).iter().all(|file| is_deserted(file)));
    assert!(control_groups_of(caller.id()).is_empty());
    drop(next);
}

#[tokio::test]
async fn a_program_that_is_no_shim_is_told_apart() {
    for (exe, expected) in [
        ("/bin/true", "does /bin/true call shim::main?"),
        ("/no/shim", "cannot execute /no/shim"),
    ] {
        let shim = Shim {
            exe: exe.into(),
            args: Vec::new(),
        };
        let error = Process::detect(shim, Want::default())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn left_to_itself_the_driver_picks_what_works() {
    let stage = Stage::new(Want::default()).await.unwrap();
    assert_eq!(stage.start(&["exit", "3"]).await.wait().await, Exit::Code(3));
    let description = stage.driver().describe().to_string();
    assert!(description.contains("suspended by"), "{description}");
}

#[tokio::test]
async fn a_prepared_shim_is_used_once_and_replaced_when_dead() {
    let stage = Stage::new(Want::default()).await.unwrap();
    for code in 1..4 {
        stage.driver().prepare(None).unwrap();
        stage.driver().prepare(None).unwrap();
        let waiting = children();
        assert_eq!(waiting.len(), 1, "one shim waits");
        if code == 2 {
            kill(waiting[0]);
            eventually("it is dead", || {
                fs::read_to_string(format!("/proc/{}/stat", waiting[0]))
                    .is_ok_and(|stat| stat.contains(") Z "))
            });
        }
        let machine = stage.start(&["exit", &code.to_string()]).await;
        assert_eq!(machine.wait().await, Exit::Code(code));
    }
}

/// Children of this thread, and so of this test alone.
pub(crate) fn children() -> Vec<i32> {
    let text = fs::read_to_string("/proc/thread-self/children").unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
