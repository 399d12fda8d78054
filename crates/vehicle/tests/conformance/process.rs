//! Machines as processes: the suite for each isolation with each way to suspend, as root and without privilege, as far
//! as this host has them; and what only processes do.

mod again;
mod inside;
mod outliving;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use suijuris_vehicle::process::{Ahead, Machine, Process, Shim, StateError, Want};
use suijuris_vehicle::{
    Driver, Exit, Isolation, Lifetime, Machine as _, MachineId, Network, Output, Since, Spec, StartError,
    Suspending,
};
use tempfile::TempDir;

pub(crate) use again::Again;
use inside::{
    a_private_network_is_private, failures_name_the_step, files_arrive_at_their_numbers, limits_hold,
    mounts_are_seen_inside_alone, nothing_is_inherited, signals_kill, suspending,
    what_needs_namespaces_is_refused,
};
use outliving::{
    a_killed_caller_leaves_nothing, a_killed_shim_takes_the_machine_along, callers_do_not_disturb_each_other,
    control_groups_of, nobody_is_left_behind, parent_of, spawn_caller, what_is_kept_is_out_of_sight,
    what_is_kept_is_private, who_cannot_prove_to_be_the_machine_is_killed,
};
pub(crate) use outliving::{kill, send};

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
    assert_eq!(
        stood_by > 5,
        is_ahead,
        "{stood_by} machines came of programs that stood by"
    );
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
