//! What the machine under the host does to it: a full disk, a state that was cut, two daemons, clocks that step, floods of requests.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::rig::{Host, PATIENCE};
use crate::volumes::{Mounted, content, volume};

const STAY: &str = "trap 'exit 0' INT TERM; while :; do sleep 0.05; done";

// proves F2
#[test]
fn a_full_disk_is_said_and_what_runs_goes_on_and_is_written_again_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let Some(mounted) = Mounted::new("ext4", dir.path(), &data) else {
        return;
    };
    let mut host = Host::start_in(dir, &["--no-rate-limit"]);
    host.app("a");
    let id = host.machine(STAY, &json!({}));
    host.wait(&id, "started");
    let volume = volume(&host, &json!({}));
    std::fs::write(content(&host, &volume).join("file"), vec![7; 1 << 20]).unwrap();
    let filler = host.data().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 65_536]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
    let before = host.get("/apps/a/volumes").is(200);
    let snapshots = format!("/apps/a/volumes/{volume}/snapshots");
    host.post(&snapshots, &json!({}))
        .refused(500, "is the disk full?");
    host.post(
        "/apps/a/volumes",
        &json!({"name": "fork", "source_volume_id": volume}),
    )
    .refused(500, "is the disk full?");
    // A state that has room in itself takes some rows; in the end it says so too.
    let secret = "x".repeat(60_000);
    let refused = (0..200).find_map(|number| {
        let answer = host.post(&format!("/apps/a/secrets/S{number}"), &json!({"value": secret}));
        (answer.status >= 300).then_some(answer)
    });
    refused.expect("it ends").refused(500, "is the disk full?");
    assert_eq!(host.get("/apps/a/volumes").is(200), before);
    assert_eq!(host.state(&id), "started");
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    host.post("/apps/a/secrets/AGAIN", &json!({"value": "v"})).is(201);
    host.post(&snapshots, &json!({})).is(200);
    host.call("POST", &format!("/apps/a/machines/{id}/stop"), None)
        .is(200);
    host.wait(&id, "stopped");
    host.kill();
    host.run(&["--no-rate-limit"]);
    assert_eq!(host.state(&id), "stopped");
    assert!(host.get("/apps/a/secrets").is(200).to_string().contains("AGAIN"));
    host.call("DELETE", "/apps/a?force=true", None).is(202);
    host.kill();
    drop(mounted);
}

// proves F2
#[test]
fn a_state_that_was_cut_is_refused_and_left_as_it_is_and_a_second_daemon_too() {
    let mut host = Host::start();
    host.app("a");
    let id = host.machine(STAY, &json!({}));
    host.wait(&id, "started");
    let second = Command::new(env!("CARGO_BIN_EXE_suijuris"))
        .args(["host", "--json", "--no-proxy", "--api", "127.0.0.1:0", "--data"])
        .arg(host.data())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(
        said.contains("another daemon runs on this data directory"),
        "{said}"
    );
    assert_eq!(host.state(&id), "started");
    host.kill();
    let path = host.data().join("state.redb");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 64, 4_096, whole.len() / 2, whole.len() - 4_096] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let started = Command::new(env!("CARGO_BIN_EXE_suijuris"))
            .args(["host", "--json", "--no-proxy", "--api", "127.0.0.1:0", "--data"])
            .arg(host.data())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        assert_eq!(started.status.code(), Some(3), "cut to {length}: {said}");
        assert!(
            said.contains("restore it from a backup"),
            "cut to {length}: {said}"
        );
        assert!(!said.contains("panicked"), "cut to {length}: {said}");
    }
    std::fs::write(&path, &whole).unwrap();
    host.run(&["--no-rate-limit"]);
    assert_eq!(
        host.state(&id),
        "started",
        "no daemon that was refused has ended it"
    );
}

fn faketime() -> PathBuf {
    let mut found = std::fs::read_dir("/usr/lib")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    let found = found.find(|path| path.exists());
    found.expect("libfaketime is not there: run `sh tools/setup --test`")
}

#[test]
fn a_clock_that_steps_ends_what_has_an_end_and_stops_no_machine() {
    let offsets = TempDir::new().unwrap();
    let offset = offsets.path().join("offset");
    let step = |text: &str| {
        let fresh = offsets.path().join("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &offset).unwrap();
    };
    step("+0");
    let mut host = Host::start();
    host.app("a");
    host.kill();
    host.run_with(&["--no-rate-limit"], |command| {
        command
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", &offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    });
    let id = host.machine(STAY, &json!({}));
    host.wait(&id, "started");
    let path = format!("/apps/a/machines/{id}");
    host.post(&format!("{path}/lease"), &json!({"ttl": 600})).is(201);
    host.call("POST", &format!("{path}/stop"), None)
        .refused(409, "lease");
    step("+2h");
    host.get(&format!("{path}/lease")).refused(404, "lease");
    assert_eq!(host.state(&id), "started");
    step("-30d");
    assert_eq!(host.state(&id), "started");
    host.call("POST", &format!("{path}/stop"), None).is(200);
    host.wait(&id, "stopped");
    host.call("POST", &format!("{path}/start"), None).is(200);
    host.wait(&id, "started");
    step("+0");
    assert_eq!(host.state(&id), "started");
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_requests_at_once_are_answered_within_their_rate_and_in_bounded_memory() {
    let host = Host::start_with(&[]);
    host.app("a");
    let before = resident_kb(host.pid());
    let count = std::thread::scope(|scope| {
        let one = |_| {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(&host.api).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let head = format!(
                    "GET /v1/apps/a/machines/none HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n",
                    host.token
                );
                let mut reading = stream.try_clone().unwrap();
                let reader = scope.spawn(move || {
                    let mut text = String::new();
                    reading.read_to_string(&mut text).unwrap();
                    (text.matches("HTTP/1.1 404").count(), text.matches("HTTP/1.1 429").count())
                });
                for number in 0..500 {
                    let end = if number == 499 { "Connection: close\r\n\r\n" } else { "\r\n" };
                    stream.write_all(format!("{head}{end}").as_bytes()).unwrap();
                }
                reader.join().unwrap()
            })
        };
        let all: Vec<_> = (0..20).map(one).collect();
        all.into_iter()
            .map(|one| one.join().unwrap())
            .fold((0, 0), |sum, (found, limited)| (sum.0 + found, sum.1 + limited))
    });
    assert_eq!(count.0 + count.1, 10_000, "{count:?}");
    assert!(count.0 >= 10 && count.1 > 5_000, "{count:?}");
    let grown = resident_kb(host.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "it has grown by {grown} KiB");
}

#[test]
fn a_daemon_that_is_started_with_few_descriptors_has_as_many_as_it_may() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Command::new("sh")
        .args(["-c", "ulimit -Sn 256 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_suijuris"))
        .args([
            "host",
            "--json",
            "--proxy",
            "127.0.0.1:0",
            "--api",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(dir.path().join("data"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(daemon.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let mut numbers = files
        .split_whitespace()
        .filter_map(|word| word.parse::<u64>().ok());
    let (soft, hard) = (numbers.next().unwrap(), numbers.next().unwrap_or(u64::MAX));
    let ended = Command::new("kill")
        .arg(daemon.id().to_string())
        .status()
        .unwrap();
    assert!(ended.success() && daemon.wait().is_ok());
    assert_eq!(soft, hard.min(65_536), "{files}");
}
