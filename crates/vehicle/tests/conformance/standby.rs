//! Programs that stand by: what is in one before it is assigned, and that a machine starts whatever became of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use suijuris_vehicle::process::{Ahead, Want};
use suijuris_vehicle::{Driver as _, Exit, Isolation, Machine as _, Mount, Spec};

use crate::process::{AHEAD, Stage, children, kill, send};
use crate::suite::PATIENCE;

/// A driver with one program that stands by: its shim, and itself.
async fn standing_by(stage: &Stage, spec: &Spec) -> (i32, i32) {
    stage.driver().prepare(Some(spec)).unwrap();
    until("it stands by", || stage.driver().standing_by() == 1).await;
    let shims = children();
    assert_eq!(shims.len(), 1, "one program is started ahead");
    (shims[0], child_of(shims[0]))
}

/// Waits until `holds`, while what has ended is buried.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < limit, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn child_of(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.trim().parse().unwrap()
}

async fn stage(ahead: Ahead) -> Stage {
    Stage::starting(Want::default(), ahead).await.unwrap()
}

/// `never` fills the pool by itself.
const ONCE: Ahead = Ahead {
    quiet: Duration::from_secs(3_600),
    ..AHEAD
};

async fn starts_cold(stage: &Stage, spec: Spec) {
    let machine = stage.driver().start(spec).await.unwrap();
    assert_eq!(machine.wait().await, Exit::Code(3));
    assert_eq!(stage.driver().were_standing_by(), 0);
}

#[tokio::test]
async fn a_program_that_stands_by_has_nothing_of_any_machine_and_becomes_one() {
    let stage = stage(ONCE).await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["hidden", "hidden/kept"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("hidden/secret"), "").unwrap();
    let spec = || {
        let mut spec = stage.spec(&["look"]);
        spec.env.insert("SECRET".into(), "of one object".into());
        spec.cwd = dir.path().join("hidden/kept");
        if stage.isolation() != Isolation::Plain {
            spec.hidden = vec![dir.path().join("hidden")];
            spec.kept = vec![dir.path().join("hidden/kept")];
        }
        spec
    };
    let (_, program) = standing_by(&stage, &spec()).await;
    let environment = fs::read(format!("/proc/{program}/environ")).unwrap();
    assert!(environment.is_empty(), "{environment:?}");
    for entry in fs::read_dir(format!("/proc/{program}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        let is_socket = target.to_string_lossy().starts_with("socket:");
        assert!(
            is_socket || target == Path::new("/dev/null"),
            "{}",
            target.display()
        );
    }
    let mounts = fs::read_to_string(format!("/proc/{program}/mountinfo")).unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");

    let ahead = stage.output(spec()).await;
    assert_eq!(stage.driver().were_standing_by(), 1);
    assert_eq!(stage.driver().standing_by(), 0, "it is used once");
    let cold = stage.output(spec()).await;
    assert_eq!(stage.driver().were_standing_by(), 1);
    let facts = |seen: &str| {
        // Pipes have other numbers each time, and so have processes without namespaces.
        let facts = seen
            .lines()
            .filter(|line| !line.contains("pipe:") && !line.starts_with("pid "));
        facts.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(facts(&ahead), facts(&cold), "it finds what a cold start finds");
    if stage.isolation() != Isolation::Plain {
        let listed = |spec: Spec| Spec {
            program: stage
                .spec(&["lists", dir.path().join("hidden").to_str().unwrap()])
                .program,
            ..spec
        };
        until("nothing of the last one is left", || children().is_empty()).await;
        let cold = stage.output(listed(spec())).await;
        let again = Stage::starting(Want::default(), AHEAD).await.unwrap();
        standing_by(&again, &spec()).await;
        assert_eq!(again.output(listed(spec())).await, cold);
        assert_eq!(again.driver().were_standing_by(), 1);
        assert!(cold.contains("kept") && !cold.contains("secret"), "{cold}");
    }
}

#[tokio::test]
async fn one_that_was_killed_is_done_without() {
    for is_shim in [false, true] {
        let stage = stage(ONCE).await;
        let spec = || stage.spec(&["exit", "3"]);
        let (shim, program) = standing_by(&stage, &spec()).await;
        kill(if is_shim { shim } else { program });
        starts_cold(&stage, spec()).await;
    }
}

#[tokio::test]
async fn one_that_does_not_answer_is_done_without_and_ended() {
    for is_shim in [false, true] {
        let stage = stage(ONCE).await;
        let spec = || stage.spec(&["exit", "3"]);
        let (shim, program) = standing_by(&stage, &spec()).await;
        send(if is_shim { shim } else { program }, Signal::SIGSTOP);
        starts_cold(&stage, spec()).await;
        // Buried, or waiting for that: its parent may be whoever takes in orphans here.
        let is_dead = || {
            let stat = fs::read_to_string(format!("/proc/{program}/stat"));
            stat.is_ok_and(|stat| stat.contains(") Z ")) || !Path::new(&format!("/proc/{program}")).exists()
        };
        until("both are gone", || children().is_empty() && is_dead()).await;
    }
}

#[tokio::test]
async fn one_of_another_version_is_done_without() {
    let stage = stage(ONCE).await;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let exe = dir.path().join("program");
    let install = || {
        let next = dir.path().join("next");
        // By another process: a file that this one writes cannot be executed while another thread forks.
        let copied = std::process::Command::new("cp")
            .arg(stage.spec(&[]).program.exe)
            .arg(&next)
            .status();
        assert!(copied.unwrap().success());
        fs::rename(next, &exe).unwrap();
    };
    install();
    let spec = || {
        let mut spec = stage.spec(&["exit", "3"]);
        spec.program.exe = exe.clone();
        spec
    };
    standing_by(&stage, &spec()).await;
    install();
    assert_eq!(stage.driver().standing_by(), 0);
    starts_cold(&stage, spec()).await;
}

#[tokio::test]
async fn without_memory_to_spare_none_is_started_ahead() {
    let stage = stage(Ahead {
        least_available: u64::MAX,
        ..AHEAD
    })
    .await;
    let spec = || stage.spec(&["exit", "3"]);
    stage.driver().prepare(Some(&spec())).unwrap();
    assert_eq!(stage.driver().standing_by(), 0);
    starts_cold(&stage, spec()).await;
}

#[tokio::test]
async fn a_program_that_cannot_stand_by_is_not_asked_again_and_again() {
    let stage = stage(AHEAD).await;
    let spec = || {
        let mut spec = stage.spec(&["exit", "3"]);
        spec.stands_by = Some(vec!["actor".into(), "__sulks".into()]);
        spec
    };
    // What waits at last is a shim for a cold start, which has no child.
    let mut looks = 0;
    until("it is given up", || {
        stage.driver().prepare(Some(&spec())).unwrap();
        looks += 1;
        let shims = children();
        let is_idle = |shim: &i32| {
            let text = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
            text.is_ok_and(|text| text.is_empty())
        };
        looks > 20 && shims.len() == 1 && shims.iter().all(is_idle)
    })
    .await;
    starts_cold(&stage, spec()).await;
}

#[tokio::test]
async fn the_pool_is_filled_again_once_nothing_was_started_for_a_while() {
    let stage = stage(Ahead {
        quiet: Duration::from_millis(20),
        ..AHEAD
    })
    .await;
    let spec = || stage.spec(&["exit", "3"]);
    standing_by(&stage, &spec()).await;
    for used in 1..3 {
        let machine = stage.driver().start(spec()).await.unwrap();
        assert_eq!(machine.wait().await, Exit::Code(3));
        assert_eq!(stage.driver().were_standing_by(), used);
        until("another stands by", || stage.driver().standing_by() == 1).await;
    }
}

#[tokio::test]
async fn what_cannot_be_assigned_is_told_as_by_a_cold_start() {
    let stage = stage(ONCE).await;
    if stage.isolation() == Isolation::Plain {
        return;
    }
    let spec = || {
        let mut spec = stage.spec(&["exit", "3"]);
        spec.mounts = vec![Mount::Bind {
            from: "/no/such/source".into(),
            to: "/mnt".into(),
            read_only: true,
        }];
        spec
    };
    standing_by(&stage, &spec()).await;
    let error = stage.driver().start(spec()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot mount /mnt"), "{error}");
    until("nothing is left", || children().is_empty()).await;
}
