//! What only machines of processes do: files, steps that fail, limits, networks, mounts.

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use suijuris_vehicle::process::{Step, StepFailed};
use suijuris_vehicle::{
    Driver as _, Exit, Machine as _, Means, Mount, Network, Output, Resource, Spec, SpecError, StartError,
    State,
};

use super::{Stage, family_files, grows, is_deserted, size};

pub(super) async fn signals_kill(stage: &Stage) {
    // Process 1 of a namespace is immune to its own signals.
    if !stage.is_namespaced() {
        assert_eq!(
            stage.start(&["die", "SIGABRT"]).await.wait().await,
            Exit::Signal(6)
        );
    }
}

pub(super) async fn nothing_is_inherited(stage: &Stage) {
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

pub(super) async fn files_arrive_at_their_numbers(stage: &Stage) {
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

pub(super) async fn failures_name_the_step(stage: &Stage) {
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

pub(super) async fn suspending(stage: &Stage) {
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

/// Limits of the whole machine where there are control groups, of each process else.
pub(super) async fn limits_hold(stage: &Stage) {
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

pub(super) async fn a_private_network_is_private(stage: &Stage) {
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

pub(super) async fn mounts_are_seen_inside_alone(stage: &Stage) {
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

pub(super) async fn what_needs_namespaces_is_refused(stage: &Stage) {
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
