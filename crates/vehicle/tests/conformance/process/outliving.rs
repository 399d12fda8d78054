//! Who is left behind by callers and shims that are killed, and who may take a machine over.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use suijuris_vehicle::process::{Process, StateError, Want};
use suijuris_vehicle::{AttachError, Driver as _, Exit, Machine as _, Suspending};

use super::{Description, Stage, eventually, family_files, grows, is_deserted, line_of};
use crate::suite::{self, Part};

pub(super) async fn nobody_is_left_behind(stage: &Stage) {
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

pub(super) async fn a_killed_shim_takes_the_machine_along(stage: &Stage) {
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

pub(super) fn parent_of(pid: u32) -> i32 {
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

pub(super) async fn callers_do_not_disturb_each_other(stage: &Stage, want: Want) {
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
pub(super) fn a_killed_caller_leaves_nothing(stage: &Stage, farewell: &str) {
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

pub(super) fn spawn_caller(stage: &Stage, file: &Path, farewell: &str) -> (Child, u32) {
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

/// What finds machines again is for their owner alone, and no secret stands in it or in an argument.
pub(super) async fn what_is_kept_is_private(stage: &Stage) {
    let mut spec = suite::Stage::spec(stage, Part::Echoes);
    spec.lifetime = suijuris_vehicle::Lifetime::Detached;
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

pub(super) async fn what_is_kept_is_out_of_sight(stage: &Stage) {
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

pub(super) async fn who_cannot_prove_to_be_the_machine_is_killed(stage: &mut Stage) {
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

pub(super) fn control_groups_of(pid: u32) -> Vec<PathBuf> {
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
