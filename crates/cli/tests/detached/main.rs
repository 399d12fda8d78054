//! A machine of the process driver that outlives its supervisor, with this program's own runtime in it: the next
//! supervisor finds machine and runtime again, each proves itself, and the object's life goes on.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests: what is not as expected ends them"
)]

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use suijuris_bundle::{build, scaffold};
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::Body;
use suijuris_core::time::Timestamp;
use suijuris_link::launch::{DepotRoute, Listen, Unattended};
use suijuris_link::message::{Carrier, How, Present};
use suijuris_link::{
    ActivationId, Cause, Driver as Moves, Launch, Nonce, Secret, SupervisorLink, ToRuntime, ToSupervisor,
};
use suijuris_store::{BundleFiles, Creation, ObjectDir, Reader, create};
use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::{Driver as _, Exit, Lifetime, Machine as _, MachineId, Output, Program, Spec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const LINK_FD: i32 = 3;
const INLET_FD: i32 = 4;

const RULES: &str = r#"
@id("all")
permit (principal, action in [Action::"wake", Action::"remain", Action::"admit", Action::"sleep"], resource);
"#;

#[tokio::test]
async fn an_activation_outlives_its_supervisor_and_the_next_one_finds_it() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, data) = create_in(temp.path());
    let launch = launch(&dir, &data);
    let identity = (launch.activation, launch.secret.clone());
    let state = temp.path().join("machines");

    let (id, mut caller) = first_supervisor(&state, launch).await;
    // The connection is the machine's now, and nobody else is there.
    get(&mut caller).await;

    let driver = driver(&state).await;
    assert_eq!(driver.list().await.unwrap(), std::slice::from_ref(&id));
    let machine = driver.attach(&id).await.unwrap();
    let socket = machine.link().await.unwrap().stream;
    let nonce = Nonce::fresh().unwrap();
    let second = Supervisor::of(SupervisorLink::attach(socket, identity.0, identity.1, nonce));
    let present = second.present().await;
    assert_eq!((present.phase.as_str(), present.epoch), ("active", 1));
    assert_eq!(present.taken, [7]);

    let mut late = second.hand_over(8).await;
    get(&mut late).await;
    get(&mut caller).await;
    second
        .link
        .queue(ToRuntime::Sleep { id: 1, signed: None })
        .unwrap();
    let how = |message| match message {
        ToSupervisor::Leaving { how, .. } => Some(how),
        _ => None,
    };
    assert_eq!(second.until(how).await, How::Stop);
    assert_eq!(timeout(PATIENCE, machine.wait()).await.unwrap(), Exit::Code(0));
    let reader = Reader::verify(&ObjectDir::at(&data), |_| {}).unwrap();
    let last = reader.records(0..u64::MAX).unwrap().last().unwrap().unwrap();
    assert!(matches!(last.record.body, Body::Dormant(_)), "{:?}", last.record);
}

/// Starts the machine, hands a connection over, and is gone.
async fn first_supervisor(state: &Path, launch: Launch<OwnedFd>) -> (MachineId, TcpStream) {
    let driver = driver(state).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let cwd = launch.object_dir.clone();
    let nonce = Nonce::fresh().unwrap();
    let first = Supervisor::of(SupervisorLink::launch(ours, launch, nonce).unwrap());
    let exe = PathBuf::from(env!("CARGO_BIN_EXE_suijuris"));
    let (link, inlet) = (LINK_FD.to_string(), INLET_FD.to_string());
    let argv = ["suijuris", "__init", "--link-fd", &link, "--inlet-fd", &inlet];
    let theirs = theirs.into_std().unwrap();
    let spec = Spec {
        program: Program {
            exe: exe.clone(),
            argv: argv.map(OsString::from).to_vec(),
        },
        env: [("PATH".into(), std::env::var_os("PATH").unwrap())].into(),
        cwd,
        inherit: vec![(theirs.into(), LINK_FD)],
        link: Some(INLET_FD),
        lifetime: Lifetime::Detached,
        stdout: Output::Lines,
        stderr: Output::Lines,
        ..Spec::new("object", exe)
    };
    let machine = driver.start(spec).await.unwrap();
    let caller = first.hand_over(7).await;
    (machine.id().clone(), caller)
}

async fn driver(state: &Path) -> Process {
    let shim = Shim {
        exe: env!("CARGO_BIN_EXE_suijuris").into(),
        args: vec!["__shim".into()],
    };
    let driver = Process::detect(shim, Want::default()).await.unwrap();
    // The lock goes with the last descriptor of the earlier one, which a shim may hold a moment longer.
    let mut kept = driver.keeping_in(state);
    while let Err(error) = kept {
        eprintln!("{error}");
        tokio::task::yield_now().await;
        let shim = Shim {
            exe: env!("CARGO_BIN_EXE_suijuris").into(),
            args: vec!["__shim".into()],
        };
        kept = Process::detect(shim, Want::default())
            .await
            .unwrap()
            .keeping_in(state);
    }
    kept.unwrap()
}

fn create_in(temp: &Path) -> (PathBuf, PathBuf) {
    let dir = temp.join("object");
    scaffold("http", &dir, "detached").unwrap();
    std::fs::write(dir.join("governance.cedar"), RULES).unwrap();
    let built = build(&dir).unwrap();
    let data = dir.join(".suijuris");
    let creation = Creation {
        name: "detached".to_owned(),
        controllers: vec![SecretKey::from_seed(&[7; 32]).public()],
        threshold: 1,
        nonce: vec![1; 16],
        parent: None,
        class: None,
        at: Timestamp(1_767_225_600_000),
        bundle: BundleFiles {
            manifest: built.manifest_bytes,
            governance: built.governance.into_bytes(),
            program: built.program_bytes,
        },
        seed: [1; 32].into(),
    };
    create(&ObjectDir::at(&data), creation).unwrap();
    for name in ["volume", "run"] {
        std::fs::create_dir_all(data.join(name)).unwrap();
    }
    (dir, data)
}

fn launch(dir: &Path, data: &Path) -> Launch<OwnedFd> {
    let vehicle = Vehicle {
        provider: "process",
        class: "",
    };
    Launch {
        secret: Secret::fresh().unwrap(),
        activation: ActivationId::fresh().unwrap(),
        cause: Cause::boot(Host::of(vehicle, None, "")),
        data: data.to_owned(),
        object_dir: dir.to_owned(),
        agent_socket: data.join("run/agent.sock"),
        listen: Listen::Link,
        depot: DepotRoute::None,
        unattended: Unattended::Serve,
        presence: None,
        holder: None,
        granted: false,
        server: None,
        verified: None,
        served_as: None,
        requests: None,
        egress: false,
        files: None,
        places: Vec::new(),
        image: None,
    }
}

/// One supervisor's end of a link.
struct Supervisor {
    link: SupervisorLink,
    _moves: JoinSet<()>,
}

impl Supervisor {
    fn of((link, moves): (SupervisorLink, Moves)) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { drop(moves.await) });
        Self { link, _moves: tasks }
    }

    async fn until<T>(&self, mut wanted: impl FnMut(ToSupervisor) -> Option<T>) -> T {
        let found = async {
            loop {
                let message = self.link.receive().await.unwrap().unwrap();
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap()
    }

    async fn present(&self) -> Present {
        match timeout(PATIENCE, self.link.receive()).await.unwrap().unwrap() {
            Some(ToSupervisor::Present(present)) => *present,
            other => panic!("{other:?}"),
        }
    }

    /// Accepts a caller and hands the connection over.
    async fn hand_over(&self, id: u64) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (caller, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let accepted = accepted.unwrap().0.into_std().unwrap();
        let carrier = Carrier::Descriptor(accepted.into());
        let read = Default::default();
        self.link
            .queue(ToRuntime::Connection {
                id,
                carrier,
                read,
                client: None,
            })
            .unwrap();
        let taken =
            |message| matches!(message, ToSupervisor::Taken { id: taken } if taken == id).then_some(());
        self.until(taken).await;
        caller.unwrap()
    }
}

/// Asks on a connection that stays open, and reads the whole answer.
async fn get(caller: &mut TcpStream) {
    let asked = async {
        caller
            .write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.unwrap_or("0").trim().parse().unwrap() {
                    return text;
                }
            }
            let mut chunk = [0; 1_024];
            let read = caller.read(&mut chunk).await.unwrap();
            assert!(read > 0, "closed after {text:?}");
            answer.extend_from_slice(&chunk[..read]);
        }
    };
    let answer = timeout(PATIENCE, asked).await.unwrap();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
}
