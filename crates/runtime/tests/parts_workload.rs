//! Workloads as users write them: real programs, real sockets, real signals.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use suijuris_core::manifest::{self, Live, Network, Ready};
use suijuris_core::time::Span;
use suijuris_runtime::workload::{self, How, NotReady, Output, Placement, Running, Secrets, SpawnError};
use tokio::sync::watch;

const LONG: Span = Span(20_000);
const TERM: i32 = 15;

fn manifest(argv: &[&str]) -> manifest::Workload {
    manifest::Workload {
        image: None,
        argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        cwd: None,
        user: None,
        port: 0,
        ready: Ready::Tcp,
        ready_within: LONG,
        live: None,
        stop_signal: TERM,
        stop_within: LONG,
        network: Network::Host,
        egress: std::collections::BTreeSet::new(),
        limits: manifest::UseLimits::default(),
        mounts: Vec::new(),
        read_only: true,
    }
}

fn shell(script: &str) -> manifest::Workload {
    let mut shell = manifest(&["sh", "-c", script]);
    shell.ready = Ready::Spawned;
    shell
}

fn placement(dir: &Path) -> Placement {
    Placement {
        data_dir: dir.to_owned(),
        private: Vec::new(),
        object_dir: dir.to_owned(),
        port: workload::free_port().unwrap(),
        agent_socket: dir.join("agent.sock"),
        object_id: "bafyobject".to_owned(),
        path: std::env::var_os("PATH"),
        home: dir.to_owned(),
        connections: None,
        limits: workload::MachineLimits::default(),
        secrets: Secrets::default(),
        image: None,
        hosts: None,
    }
}

fn silent() -> Output {
    Output {
        stdout: Stdio::null(),
        stderr: Stdio::null(),
    }
}

fn start(workload: &manifest::Workload, dir: &Path) -> Running {
    workload::spawn(workload, &placement(dir), silent()).unwrap()
}

fn refused(workload: &manifest::Workload, dir: &Path) -> SpawnError {
    match workload::spawn(workload, &placement(dir), silent()) {
        Err(error) => error,
        Ok(_) => panic!("it was started"),
    }
}

fn nobody_says() -> watch::Receiver<bool> {
    watch::channel(false).1
}

/// Everything that the workload writes until it ends.
async fn output_of(workload: &manifest::Workload, placement: &Placement) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let output = Output {
        stdout: writer.try_clone().unwrap().into(),
        stderr: writer.into(),
    };
    let running = workload::spawn(workload, placement, output).unwrap();
    let _ = running.ended().await;
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

async fn file_appears(path: &Path) -> String {
    let look = async {
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), look)
        .await
        .unwrap()
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

// proves C5
#[tokio::test]
async fn an_unmodified_server_is_found_ready_without_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut server = manifest(&[
        "sh",
        "-c",
        "exec python3 -m http.server --bind 127.0.0.1 {port} 2>{data}/log",
    ]);
    let running = start(&server, dir.path());
    let found = running.ready(&Ready::Tcp, LONG, nobody_says()).await.unwrap();
    assert_eq!((found.upstream.port(), found.exposed), (running.port(), false));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "", "no probe in its log");

    server.ready = Ready::Http("/".to_owned());
    running.ready(&server.ready, LONG, nobody_says()).await.unwrap();
    let stopped = running.stop(TERM, LONG).await;
    assert_eq!(
        (stopped.to_string().as_str(), stopped.forced),
        ("killed by signal 15", false)
    );
}

#[tokio::test]
async fn environment_directory_and_arguments_are_exactly_the_declared_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut workload = shell("pwd; echo $0 $1; env");
    workload
        .argv
        .extend(["{port}".to_owned(), "{data}/x{nothing}".to_owned()]);
    workload
        .env
        .insert("DSN".to_owned(), "tcp://127.0.0.1:{port}".to_owned());
    let placement = placement(dir.path());
    let text = output_of(&workload, &placement).await;
    let data = dir.path().canonicalize().unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), data.to_str());
    assert_eq!(
        lines.next().unwrap(),
        format!("{} {}/x{{nothing}}", placement.port, dir.path().display())
    );
    // The shell adds variables of its own.
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let mut names: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
    names.retain(|(name, _)| !own.contains(name));
    names.sort_unstable();
    let expect = [
        "DSN",
        "HOME",
        "PATH",
        "PORT",
        "SUIJURIS_AGENT_SOCKET",
        "SUIJURIS_DATA",
        "SUIJURIS_OBJECT",
    ];
    assert_eq!(names.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expect);
    assert_eq!(names[0].1, format!("tcp://127.0.0.1:{}", placement.port));
}

#[tokio::test]
async fn no_descriptor_leaks_but_the_one_for_connections() {
    let dir = tempfile::tempdir().unwrap();
    let leak = std::fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut placement = placement(dir.path());
    placement.connections = Some(OwnedFd::from(theirs));
    let python = "python3 -c 'import os; os.write(int(os.environ[\"SUIJURIS_CONNECTIONS_FD\"]), b\"hello\")'";
    let workload = shell(&format!("readlink /proc/$$/fd/* | tr '\\n' ' '; {python}"));
    let text = output_of(&workload, &placement).await;
    assert!(!text.contains("/dev/zero"), "{text}");
    assert_eq!(text.matches("socket:").count(), 1, "{text}");
    drop(placement);
    let mut said = String::new();
    std::io::BufReader::new(ours).read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        suijuris_testkit::program::script(&path, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let script = file("script", "#!/no/such/interpreter -x\n", 0o755);
    let why = |argv: &[&str]| refused(&manifest(argv), dir.path());

    assert!(matches!(why(&["no-such-program"]), SpawnError::NotFound { path, .. } if path.contains("/bin")));
    assert!(matches!(why(&["./absent"]), SpawnError::NoSuchFile(_)));
    assert!(matches!(why(&[&plain]), SpawnError::NotExecutable(_)));
    assert!(matches!(why(&["/"]), SpawnError::NotExecutable(_)));
    assert!(
        matches!(why(&[&script]), SpawnError::Interpreter { interpreter, .. } if interpreter == "/no/such/interpreter")
    );
    assert!(matches!(why(&[]), SpawnError::Command));

    let mut workload = shell("true");
    workload.cwd = Some("absent".to_owned());
    assert!(matches!(refused(&workload, dir.path()), SpawnError::Cwd(cwd) if cwd.ends_with("absent")));
    workload.cwd = None;
    workload.user = Some("no-such-user".to_owned());
    assert!(matches!(
        refused(&workload, dir.path()),
        SpawnError::UserUnknown(_)
    ));

    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut taken = placement(dir.path());
    taken.port = other.local_addr().unwrap().port();
    let error = workload::spawn(&manifest(&["true"]), &taken, silent()).unwrap_err();
    assert!(matches!(error, SpawnError::PortInUse(port) if port == taken.port));
}

#[tokio::test]
async fn a_user_is_taken_on_where_we_may() {
    let dir = tempfile::tempdir().unwrap();
    let mut workload = shell("id -u; id -g; id -G");
    workload.cwd = Some("/".to_owned());
    workload.user = Some("65534:65534".to_owned());
    // Where there is one user, it is called so.
    let text = output_of(&workload, &placement(dir.path())).await;
    let ids: Vec<_> = text.split_whitespace().collect();
    assert!(ids.len() >= 3 && ids.iter().all(|id| *id == "65534"), "{text}");
}

#[tokio::test]
async fn a_workload_that_ends_or_dawdles_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let ended = start(&shell("exit 7"), dir.path());
    let why = ended.ready(&Ready::Tcp, LONG, nobody_says()).await.unwrap_err();
    assert_eq!(
        why.to_string(),
        "the workload ended before it was ready: exited 7"
    );

    let slow = start(&shell("exec sleep 1000"), dir.path());
    let why = slow
        .ready(&Ready::Tcp, Span(50), nobody_says())
        .await
        .unwrap_err();
    let NotReady::TimedOut {
        within: Span(50),
        missing,
    } = why
    else {
        panic!("{why}")
    };
    assert!(
        missing.to_string().contains(&slow.port().to_string()),
        "{missing}"
    );
    slow.ready(&Ready::Spawned, LONG, nobody_says()).await.unwrap();

    let (say, heard) = watch::channel(false);
    let (ready, ()) = tokio::join!(slow.ready(&Ready::Agent, LONG, heard), async {
        tokio::task::yield_now().await;
        say.send(true).unwrap();
    });
    ready.unwrap();
}

#[tokio::test]
async fn an_http_server_that_says_503_is_not_ready_until_it_says_404() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().unwrap();
    let mut placement = placement(dir.path());
    placement.port = 0;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    placement.port = listener.local_addr().unwrap().port();
    // The workload itself is idle: this test answers in its place.
    let running = workload::spawn(&shell("exec sleep 1000"), &placement, silent()).unwrap();
    let serve = async {
        for status in ["503 Not Yet", "404 Not Found"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 512];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream
                .write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes())
                .await
                .unwrap();
        }
    };
    let ready = Ready::Http("/health".to_owned());
    let (ready, ()) = tokio::join!(running.ready(&ready, LONG, nobody_says()), serve);
    ready.unwrap();
}

#[tokio::test]
async fn a_workload_that_ignores_the_signal_is_killed_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script =
        "trap '' TERM; sleep 1000 & echo $! > {data}/new; mv {data}/new {data}/pids; wait; wait; sleep 1000";
    let running = start(&shell(script), dir.path());
    let child: i32 = file_appears(&pids).await.trim().parse().unwrap();
    assert!(is_alive(child));
    let stopped = running.stop(TERM, Span(300)).await;
    assert_eq!(
        (stopped.to_string().as_str(), stopped.forced),
        ("killed by signal 9", true)
    );
    assert!(!is_alive(child) && !is_alive(running.pid()));
    assert_eq!(
        running.ended().await.how,
        How::Killed(9),
        "the end can be asked for again"
    );
}

#[tokio::test]
async fn children_of_a_shell_may_finish_their_work() {
    let dir = tempfile::tempdir().unwrap();
    let inner = "trap 'sleep 0.2; echo saved > {data}/saved; exit' TERM; echo up > {data}/up; while :; do sleep 0.05; done";
    let mut workload = manifest(&["sh", "-c", "sh -c \"$INNER\" & wait"]);
    workload.env.insert("INNER".to_owned(), inner.to_owned());
    workload.ready = Ready::Spawned;
    let running = start(&workload, dir.path());
    file_appears(&dir.path().join("up")).await;
    let stopped = running.stop(TERM, LONG).await;
    assert!(!stopped.forced, "{stopped:?}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("saved")).unwrap(),
        "saved\n"
    );
}

#[tokio::test]
async fn a_program_that_goes_into_the_background_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&shell("sleep 1000 & exit 0"), dir.path());
    let ended = running.ended().await;
    assert_eq!(ended.to_string(), "exited 0 (left 1 process running)");
    let stopped = running.stop(TERM, Span(5_000)).await;
    assert_eq!(stopped.to_string(), "exited 0");
}

#[tokio::test]
async fn a_suspended_workload_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&shell("exec sleep 1000"), dir.path());
    running.signal(19).unwrap();
    let stopped = running.stop(TERM, LONG).await;
    assert_eq!(
        (stopped.to_string().as_str(), stopped.forced),
        ("killed by signal 15", false)
    );
}

#[tokio::test]
async fn a_real_time_signal_is_reported_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&shell("exec sleep 1000"), dir.path());
    let stopped = running.stop(37, LONG).await;
    assert_eq!(stopped.to_string(), "killed by signal 37");
}

#[tokio::test]
async fn signals_that_we_block_work_in_the_workload() {
    use nix::sys::signal::{SigSet, Signal};
    let dir = tempfile::tempdir().unwrap();
    SigSet::from(Signal::SIGUSR2).thread_block().unwrap();
    let running = start(&shell("exec sleep 1000"), dir.path());
    running.signal(12).unwrap();
    assert_eq!(running.ended().await.how, How::Killed(12));
}

#[tokio::test]
async fn a_secrets_file_is_for_the_workloads_user_alone_and_goes_with_it() {
    if !nix::unistd::geteuid().is_root() {
        // Only root becomes somebody else.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut workload =
        shell("cat \"$0\" > read; stat -c '%a %u' \"$0\" > stat; printf %s \"$0\" > path; exec sleep 1000");
    workload.argv.push("{secret_file:db}".to_owned());
    workload.user = Some("65534".to_owned());
    let mut placement = placement(dir.path());
    placement.object_id = format!("bafytest{}", std::process::id());
    placement.secrets.files = [("db".to_owned(), b"hush\xff".to_vec().into())].into();
    let running = workload::spawn(&workload, &placement, silent()).unwrap();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap_or_default();
    while read("path").is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(read("read"), b"hush\xff");
    assert_eq!(read("stat"), b"400 65534\n");
    let path = String::from_utf8(read("path")).unwrap();
    running.stop(TERM, LONG).await;
    drop(running);
    assert!(!Path::new(&path).exists());
}

// proves C5
#[tokio::test]
async fn redis_is_ready_when_it_says_so_to_the_notification_socket() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = manifest(&[
        "redis-server",
        "--port",
        "{port}",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        "{data}",
        "--supervised",
        "systemd",
    ]);
    redis.ready = Ready::Notify;
    let running = start(&redis, dir.path());
    let found = running.ready(&Ready::Notify, LONG, nobody_says()).await.unwrap();
    assert_eq!(found.upstream.port(), running.port());
    // Asked again it is still known.
    running.ready(&Ready::Notify, LONG, nobody_says()).await.unwrap();
    let stopped = running.stop(TERM, LONG).await;
    assert_eq!(
        (stopped.to_string().as_str(), stopped.forced),
        ("exited 0", false)
    );

    let mut silent = shell("exec sleep 1000");
    silent.ready = Ready::Notify;
    let silent = start(&silent, dir.path());
    let why = silent
        .ready(&Ready::Notify, Span(50), nobody_says())
        .await
        .unwrap_err();
    assert!(why.to_string().contains("READY=1"), "{why}");
}

// proves C5
#[tokio::test]
async fn a_command_is_asked_until_it_says_yes() {
    let dir = tempfile::tempdir().unwrap();
    let mut workload = shell("sleep 0.2; : > {data}/up; exec sleep 1000");
    let asked = ["sh", "-c", "test -e {data}/up && test \"$NAME\" = x"];
    workload.env.insert("NAME".to_owned(), "x".to_owned());
    workload.ready = Ready::Command(asked.map(str::to_owned).to_vec());
    let running = start(&workload, dir.path());
    running.ready(&workload.ready, LONG, nobody_says()).await.unwrap();
    assert!(dir.path().join("up").exists());

    workload.ready = Ready::Command(vec!["sh".to_owned(), "-c".to_owned(), "exit 7".to_owned()]);
    let running = start(&workload, dir.path());
    let why = running
        .ready(&workload.ready, Span(200), nobody_says())
        .await
        .unwrap_err();
    assert!(why.to_string().contains("status 7"), "{why}");

    workload.ready = Ready::Command(vec!["no-such-program".to_owned()]);
    assert!(matches!(
        refused(&workload, dir.path()),
        SpawnError::NotFound { .. }
    ));
}

fn live(by: Ready, every: i64, failures: u32) -> Option<Live> {
    let every = Span(every);
    Some(Live { by, every, failures })
}

// proves C5
#[tokio::test]
async fn a_workload_that_does_not_answer_any_more_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut workload = shell(": > {data}/up; exec sleep 1000");
    let asked = ["test", "-e", "{data}/up"].map(str::to_owned).to_vec();
    workload.live = live(Ready::Command(asked.clone()), 20, 2);
    workload.ready = Ready::Command(asked);
    let running = start(&workload, dir.path());
    let found = running.ready(&workload.ready, LONG, nobody_says()).await.unwrap();
    let stuck = running.stuck(workload.live.as_ref(), found.upstream);
    let removed = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        std::fs::remove_file(dir.path().join("up")).unwrap();
        std::future::pending::<()>().await;
    };
    let stuck = tokio::select! {
        stuck = stuck => stuck,
        () = removed => unreachable!(),
    };
    assert_eq!(stuck.failures, 2);
    assert!(stuck.to_string().contains("status 1"), "{stuck}");
}

// proves C5
#[tokio::test]
async fn a_workload_that_does_not_say_that_it_lives_is_found() {
    const SCRIPT: &str = "import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
assert os.environ['WATCHDOG_USEC'] == '1000000'
s.send(b'READY=1')
for _ in range(3):
    s.send(b'WATCHDOG=1')
    time.sleep(0.1)
open('said', 'w').close()
s.send(b'WATCHDOG=trigger')
time.sleep(1000)";
    let dir = tempfile::tempdir().unwrap();
    let mut workload = manifest(&["python3", "-c", SCRIPT]);
    workload.ready = Ready::Notify;
    // What it does not say in time is not what ends it here, on however slow a machine.
    workload.live = live(Ready::Notify, 1_000, 1_000);
    let running = start(&workload, dir.path());
    let found = running.ready(&Ready::Notify, LONG, nobody_says()).await.unwrap();
    let stuck = running.stuck(workload.live.as_ref(), found.upstream).await;
    assert!(stuck.to_string().contains("WATCHDOG=trigger"), "{stuck}");
    assert!(dir.path().join("said").exists());

    let silent = live(Ready::Notify, 20, 3);
    let stuck = running.stuck(silent.as_ref(), found.upstream).await;
    assert_eq!(stuck.failures, 3);
    assert!(stuck.to_string().contains("WATCHDOG=1"), "{stuck}");
}

// proves C5
#[tokio::test]
async fn a_workload_on_the_other_loopback_is_found_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = manifest(&["python3", "-m", "http.server", "--bind", "::1", "{port}"]);
    for ready in [Ready::Tcp, Ready::Http("/".to_owned())] {
        let running = start(&server, dir.path());
        let found = running.ready(&ready, LONG, nobody_says()).await.unwrap();
        assert_eq!(found.upstream.to_string(), format!("[::1]:{}", running.port()));
        assert!(!found.exposed);
    }
}
