//! What every driver's machines must do, seen from outside: by their output, their links and how they end.

use std::path::Path;
use std::time::Duration;

use suijuris_vehicle::{
    AttachError, Description, Driver, Exit, FreezeError, Isolation, Lifetime, Lines, LinkError, Machine,
    MachineId, Means, Output, OutputError, Resource, Resources, Signal, Since, Spec, State, SuspendError,
    Suspending,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Guards against hanging; the longest that is waited for is an emulated machine's boot, on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Time in which something that still ran would have shown.
const STILLNESS: Duration = Duration::from_millis(50);

/// What a machine does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Ends at once with this code.
    Exits(u8),
    /// Says `ready`; ends with code 7 when asked to.
    Polite,
    /// Says `ready`; does not end when asked to.
    Deaf,
    /// Says 0, 1, 2, … as long as it runs.
    Counts,
    /// Says this, and ends with code 0.
    Says(&'static str),
    /// Says more than anybody reads.
    Floods,
    /// Says `ready`; says back on each link what it hears there.
    Echoes,
}

impl Part {
    /// As the actor's arguments name it.
    pub(crate) fn arguments(self) -> Vec<String> {
        match self {
            Self::Exits(code) => vec!["exit".into(), code.to_string()],
            Self::Polite => vec!["polite".into()],
            Self::Deaf => vec!["deaf".into()],
            Self::Counts => vec!["counts".into()],
            Self::Says(text) => ["says"]
                .into_iter()
                .chain(text.split('\n'))
                .map(str::to_owned)
                .collect(),
            Self::Floods => vec!["floods".into()],
            Self::Echoes => vec!["echoes".into(), "5".into()],
        }
    }
}

/// A driver under test.
pub(crate) trait Stage {
    type Driver: Driver;

    fn driver(&self) -> &Self::Driver;

    /// A machine that plays `part`, whose output is lines and which has a link.
    fn spec(&self, part: Part) -> Spec;

    /// Has another supervisor start a detached machine that plays `part`, and kills that supervisor without warning,
    /// after it suspended the machine if asked to. Then [`Self::driver`] is a new one.
    async fn orphan(&mut self, part: Part, suspended: bool) -> MachineId;
}

/// The whole suite.
pub(crate) async fn conforms<S: Stage>(stage: &mut S) {
    ends_are_passed_on(stage).await;
    stopping(stage).await;
    signals(stage).await;
    suspending(stage).await;
    forks(stage).await;
    output_is_lines(stage).await;
    a_flood_drowns_nobody(stage).await;
    links(stage).await;
    a_dropped_machine_ends(stage).await;
    limits_are_told(stage).await;
    if stage.driver().describe().detached {
        outliving(stage).await;
    }
    who_is_unknown_is_not_attached(stage).await;
}

/// A row for each ability that does not depend on the host, as `docs/vm.md` has it.
pub(crate) fn abilities(about: &Description) -> [(&'static str, bool); 8] {
    [
        (
            "a kernel of its own",
            about.isolation == Isolation::VirtualMachine,
        ),
        (
            "suspended, nothing of it is in memory",
            about.suspending == Some(Suspending::MemoryFile),
        ),
        ("outlives its supervisor", about.detached),
        (
            "begins as a copy of a suspended one, with its memory",
            about.copies,
        ),
        (
            "gets open files, and descriptors over its link",
            about.descriptors,
        ),
        (
            "memory is limited by its size",
            about.limits(Resource::Memory) == Means::VirtualMachine,
        ),
        ("begins with the files of an image", about.images),
        (
            "reaches what its bundle names (`egress`) and nothing else",
            about.private_network,
        ),
    ]
}

/// What machines do that outlive their supervisor.
pub(crate) async fn outliving<S: Stage>(stage: &mut S) {
    a_released_machine_goes_on(stage).await;
    orphans_are_found_and_still_serve(stage).await;
    suspended_orphans_are_found_suspended(stage).await;
    the_end_of_an_orphan_is_not_missed(stage).await;
}

async fn start<S: Stage>(stage: &S, part: Part) -> <S::Driver as Driver>::Machine {
    stage.driver().start(stage.spec(part)).await.unwrap()
}

/// Reads until a line is `wanted`.
async fn heard(lines: &mut Lines, wanted: &str) {
    let reading = async {
        while let Some(line) = lines.next().await {
            if line.text == wanted {
                return;
            }
        }
        panic!("the machine never said {wanted}");
    };
    timeout(PATIENCE, reading).await.unwrap();
}

async fn next(lines: &mut Lines) -> Option<String> {
    let line = timeout(PATIENCE, lines.next()).await.unwrap();
    line.map(|line| line.text)
}

/// Whether the machine says `bytes` back on a new link.
async fn echoes(machine: &impl Machine, bytes: &[u8]) {
    let mut link = machine.link().await.unwrap().stream;
    let exchange = async {
        link.write_all(bytes).await.unwrap();
        let mut heard = vec![0; bytes.len()];
        link.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, bytes);
    };
    timeout(PATIENCE, exchange).await.unwrap();
}

async fn ended(machine: &impl Machine) -> Exit {
    timeout(PATIENCE, machine.wait()).await.unwrap()
}

async fn ends_are_passed_on<S: Stage>(stage: &S) {
    let machine = start(stage, Part::Exits(42)).await;
    assert_eq!(ended(&machine).await, Exit::Code(42));
    assert_eq!(
        ended(&machine).await,
        Exit::Code(42),
        "waiting again gives the same"
    );
    assert_eq!(machine.state(), State::Exited(Exit::Code(42)));
    assert!(machine.signal(Signal::TERM).await.is_err());
    assert!(machine.resume().await.is_err());
    assert!(matches!(
        machine.suspend().await,
        Err(SuspendError::Ended(Exit::Code(42)))
    ));
    assert!(matches!(
        machine.link().await,
        Err(LinkError::Ended(Exit::Code(42)))
    ));
    assert_eq!(machine.kill().await, Exit::Code(42));
    assert_eq!(machine.stop(Signal::TERM, PATIENCE).await, Exit::Code(42));
}

async fn stopping<S: Stage>(stage: &S) {
    let polite = start(stage, Part::Polite).await;
    heard(&mut polite.output(Since::Kept).unwrap(), "ready").await;
    assert_eq!(polite.state(), State::Running);
    assert_eq!(polite.stop(Signal::TERM, PATIENCE).await, Exit::Code(7));

    let deaf = start(stage, Part::Deaf).await;
    heard(&mut deaf.output(Since::Kept).unwrap(), "ready").await;
    let exit = deaf.stop(Signal::TERM, Duration::from_millis(50)).await;
    assert_eq!(exit, Exit::Signal(9));

    let killed = start(stage, Part::Deaf).await;
    assert_eq!(killed.kill().await, Exit::Signal(9));
    assert_eq!(killed.state(), State::Exited(Exit::Signal(9)));
}

async fn signals<S: Stage>(stage: &S) {
    let obedient = start(stage, Part::Polite).await;
    heard(&mut obedient.output(Since::Kept).unwrap(), "ready").await;
    obedient.signal(Signal::TERM).await.unwrap();
    assert_eq!(
        ended(&obedient).await,
        Exit::Code(7),
        "it handles what it is sent"
    );

    let deaf = start(stage, Part::Deaf).await;
    heard(&mut deaf.output(Since::Kept).unwrap(), "ready").await;
    deaf.signal(Signal::TERM).await.unwrap();
    deaf.signal(Signal::KILL).await.unwrap();
    assert_eq!(ended(&deaf).await, Exit::Signal(9), "nothing handles this one");
}

async fn suspending<S: Stage>(stage: &S) {
    if stage.driver().describe().suspending.is_none() {
        let machine = start(stage, Part::Counts).await;
        assert!(matches!(machine.suspend().await, Err(SuspendError::Unsupported)));
        return;
    }
    let machine = start(stage, Part::Counts).await;
    let mut lines = machine.output(Since::Kept).unwrap();
    for round in 0..3 {
        next(&mut lines).await.unwrap();
        machine.suspend().await.unwrap();
        machine.suspend().await.unwrap();
        assert_eq!(machine.state(), State::Suspended);
        // What it had said before arrives, and then nothing.
        while timeout(STILLNESS, lines.next()).await.is_ok() {}
        assert!(
            timeout(STILLNESS, lines.next()).await.is_err(),
            "round {round}: something still runs"
        );
        machine.resume().await.unwrap();
        machine.resume().await.unwrap();
        assert_eq!(machine.state(), State::Running);
    }
    next(&mut lines).await.unwrap();
    machine.suspend().await.unwrap();
    assert_eq!(
        machine.kill().await,
        Exit::Signal(9),
        "a suspended machine can be killed"
    );

    let asleep = start(stage, Part::Polite).await;
    heard(&mut asleep.output(Since::Kept).unwrap(), "ready").await;
    asleep.suspend().await.unwrap();
    let exit = asleep.stop(Signal::TERM, PATIENCE).await;
    assert_eq!(exit, Exit::Code(7), "a suspended machine can obey");
}

/// What makes copies of its machines shows it in a test of its own (`forks`); any other says that it cannot, and the machine goes on.
async fn forks<S: Stage>(stage: &S) {
    let machine = start(stage, Part::Polite).await;
    heard(&mut machine.output(Since::Kept).unwrap(), "ready").await;
    let awake = machine.freeze("tag").await;
    assert!(
        matches!(awake, Err(FreezeError::Runs | FreezeError::Unsupported)),
        "{awake:?}"
    );
    if !stage.driver().describe().copies {
        if stage.driver().describe().suspending.is_some() {
            machine.suspend().await.unwrap();
        }
        assert!(matches!(
            machine.freeze("tag").await,
            Err(FreezeError::Unsupported)
        ));
        let nowhere = Path::new("/nowhere");
        let copied = stage.driver().copy_frozen(nowhere, nowhere, "tag").await;
        assert!(matches!(copied, Err(FreezeError::Unsupported)));
        assert_eq!(stage.driver().frozen(nowhere), None);
    }
    assert_eq!(
        machine.stop(Signal::TERM, PATIENCE).await,
        Exit::Code(7),
        "nothing became of it"
    );
}

async fn output_is_lines<S: Stage>(stage: &S) {
    let machine = start(stage, Part::Says("one\n\nthé\nfour")).await;
    let mut lines = machine.output(Since::Kept).unwrap();
    let mut said = Vec::new();
    while let Some(line) = next(&mut lines).await {
        said.push(line);
    }
    assert_eq!(said, ["one", "", "thé", "four"], "the last line needs no end");
    assert_eq!(ended(&machine).await, Exit::Code(0));

    let mut spec = stage.spec(Part::Says("unheard"));
    (spec.stdout, spec.stderr) = (Output::Null, Output::Null);
    let quiet = stage.driver().start(spec).await.unwrap();
    assert!(matches!(quiet.output(Since::Kept), Err(OutputError::None)));
    assert_eq!(ended(&quiet).await, Exit::Code(0));
}

async fn a_flood_drowns_nobody<S: Stage>(stage: &S) {
    let unread = start(stage, Part::Floods).await;
    assert_eq!(unread.state(), State::Running);
    assert_eq!(unread.kill().await, Exit::Signal(9));
    let read = start(stage, Part::Floods).await;
    let mut lines = read.output(Since::Kept).unwrap();
    for _ in 0..1_000 {
        next(&mut lines).await.unwrap();
    }
    assert_eq!(read.kill().await, Exit::Signal(9));
}

async fn links<S: Stage>(stage: &S) {
    let machine = start(stage, Part::Echoes).await;
    // Made before the machine looks for it.
    let first = machine.link().await.unwrap();
    echoes(&machine, b"while another is open").await;
    drop(first);
    echoes(&machine, b"after one was lost").await;
    let mut link = machine.link().await.unwrap().stream;
    assert_eq!(machine.kill().await, Exit::Signal(9));
    let end = timeout(PATIENCE, link.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "a link ends with its machine");

    let mut spec = stage.spec(Part::Deaf);
    spec.link = None;
    let without = stage.driver().start(spec).await.unwrap();
    assert!(matches!(without.link().await, Err(LinkError::None)));
}

async fn a_dropped_machine_ends<S: Stage>(stage: &S) {
    let machine = start(stage, Part::Echoes).await;
    let mut link = machine.link().await.unwrap().stream;
    heard(&mut machine.output(Since::Kept).unwrap(), "ready").await;
    drop(machine);
    let end = timeout(PATIENCE, link.read(&mut [0; 8])).await.unwrap();
    assert!(
        matches!(end, Ok(0) | Err(_)),
        "it is gone, and its end of the link with it"
    );
}

async fn limits_are_told<S: Stage>(stage: &S) {
    let mut spec = stage.spec(Part::Polite);
    spec.resources = Resources {
        memory: Some(1 << 30),
        cpu: Some(500),
        processes: Some(10_000),
        open_files: Some(64),
    };
    let machine = stage.driver().start(spec).await.unwrap();
    assert_eq!(
        machine.limits(),
        stage.driver().describe().limits,
        "each limit that was asked for, by what the description says"
    );
    heard(&mut machine.output(Since::Kept).unwrap(), "ready").await;
    assert_eq!(machine.stop(Signal::TERM, PATIENCE).await, Exit::Code(7));
    assert!(start(stage, Part::Exits(0)).await.limits().is_empty());
    let means = stage.driver().describe().limits(Resource::OpenFiles);
    assert_ne!(means, Means::Nothing, "open files can be limited anywhere");
}

fn detached<S: Stage>(stage: &S, part: Part) -> Spec {
    Spec {
        lifetime: Lifetime::Detached,
        ..stage.spec(part)
    }
}

async fn a_released_machine_goes_on<S: Stage>(stage: &S) {
    let driver = stage.driver();
    let machine = driver.start(detached(stage, Part::Echoes)).await.unwrap();
    let id = machine.id().clone();
    assert!(matches!(driver.attach(&id).await, Err(AttachError::Held(_))));
    drop(machine);
    assert_eq!(driver.list().await.unwrap(), std::slice::from_ref(&id));
    let again = driver.attach(&id).await.unwrap();
    assert_eq!(again.id(), &id);
    echoes(&again, b"hello").await;
    assert_eq!(again.kill().await, Exit::Signal(9));
    drop(again);
    assert!(driver.list().await.unwrap().is_empty(), "its end was told");
}

async fn orphans_are_found_and_still_serve<S: Stage>(stage: &mut S) {
    let id = stage.orphan(Part::Echoes, false).await;
    let driver = stage.driver();
    assert_eq!(driver.list().await.unwrap(), std::slice::from_ref(&id));
    let machine = driver.attach(&id).await.unwrap();
    assert_eq!(machine.state(), State::Running);
    heard(&mut machine.output(Since::Kept).unwrap(), "ready").await;
    echoes(&machine, b"still here").await;
    echoes(&machine, b"and again").await;
    assert_eq!(machine.kill().await, Exit::Signal(9));
    drop(machine);
    assert!(driver.list().await.unwrap().is_empty());

    let id = stage.orphan(Part::Polite, false).await;
    let machine = stage.driver().attach(&id).await.unwrap();
    heard(&mut machine.output(Since::Kept).unwrap(), "ready").await;
    assert_eq!(machine.stop(Signal::TERM, PATIENCE).await, Exit::Code(7));
}

async fn suspended_orphans_are_found_suspended<S: Stage>(stage: &mut S) {
    if stage.driver().describe().suspending.is_none() {
        return;
    }
    let id = stage.orphan(Part::Counts, true).await;
    let machine = stage.driver().attach(&id).await.unwrap();
    assert_eq!(machine.state(), State::Suspended);
    let mut lines = machine.output(Since::Now).unwrap();
    while timeout(STILLNESS, lines.next()).await.is_ok() {}
    assert!(timeout(STILLNESS, lines.next()).await.is_err(), "it stands still");
    machine.resume().await.unwrap();
    assert_eq!(machine.state(), State::Running);
    next(&mut lines).await.unwrap();
    assert_eq!(machine.kill().await, Exit::Signal(9));
}

async fn the_end_of_an_orphan_is_not_missed<S: Stage>(stage: &mut S) {
    let id = stage.orphan(Part::Exits(3), false).await;
    let driver = stage.driver();
    let machine = driver.attach(&id).await.unwrap();
    assert_eq!(ended(&machine).await, Exit::Code(3));
    assert!(matches!(machine.link().await, Err(LinkError::Ended(_))));
    drop(machine);
    assert!(driver.list().await.unwrap().is_empty());
    assert!(matches!(driver.attach(&id).await, Err(AttachError::Unknown(_))));
}

async fn who_is_unknown_is_not_attached<S: Stage>(stage: &S) {
    let id: MachineId = "nobody-1".parse().unwrap();
    let error = stage.driver().attach(&id).await.unwrap_err();
    assert!(
        matches!(&error, AttachError::Unknown(unknown) if *unknown == id),
        "{error}"
    );
}
