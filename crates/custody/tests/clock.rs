//! The real clocks and real freezes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use suijuris_core::time::{Quality, Span};
use suijuris_custody::clock::{Clock, Continuity, FREEZE_MS, Why};

const PART: &str = "SUIJURIS_TEST_PART";

#[test]
fn readings_agree_with_each_other() {
    let clock = Clock::start(None).unwrap();
    let mut detector = clock.detector();
    let first = clock.reading();
    assert!(first.boot_ns >= first.mono_ns);
    assert!(first.wall.0 > 1_700_000_000_000 && first.quality > Quality::Unknown);
    let (second, _) = clock.check(&mut detector);
    assert!(second.mono_ns >= first.mono_ns);
}

#[test]
fn a_new_generation_is_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("generation");
    std::fs::write(&file, "one").unwrap();
    let clock = Clock::start(Some(file.clone())).unwrap();
    let mut detector = clock.detector();
    // Renamed into place, so that no half-written generation is seen.
    std::fs::write(dir.path().join("new"), "two").unwrap();
    std::fs::rename(dir.path().join("new"), &file).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, continuity) = clock.check(&mut detector);
        if let Continuity::Jumped { why, .. } = continuity {
            assert_eq!(why, Why::Restored);
            return;
        }
        assert!(Instant::now() < deadline, "no restore was seen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often the pulse of this process has woken.
#[expect(clippy::unwrap_used, reason = "tests")]
fn beats() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let is_pulse = |path: &std::path::Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "pulse")
    };
    let pulse = threads.map(|thread| thread.path()).find(|path| is_pulse(path));
    let status = std::fs::read_to_string(pulse.unwrap().join("status")).unwrap();
    let switches = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    switches.unwrap().trim().parse().unwrap()
}

#[test]
fn where_nobody_attends_the_pulse_beats_once_a_second() {
    let rests = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_its_part", "--nocapture", "--quiet"])
        .env(PART, "rests")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&rests.stdout).into_owned();
    let beats = said
        .lines()
        .find_map(|line| Some(line.split_once("> ")?.1.to_owned()));
    // Of three seconds: a pulse that beats each quarter of one has twelve, and a machine that is busy gives fewer.
    assert!(beats.unwrap().parse::<u64>().unwrap() <= 6, "{said}");
}

/// Not a test of its own: the process that the test below freezes. Does nothing where no part is given.
#[test]
fn plays_its_part() {
    let Some(part) = std::env::var_os(PART) else {
        return;
    };
    if part == "rests" {
        let _clock = Clock::start_at_rest(None).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let before = beats();
        std::thread::sleep(Duration::from_secs(3));
        println!("> {}", beats() - before);
        return;
    }
    let clock = Clock::start(None).unwrap();
    let mut detector = clock.detector();
    println!("> up");
    loop {
        if let (_, Continuity::Jumped { paused, why }) = clock.check(&mut detector) {
            println!("> {} {}", why.as_str(), paused.0);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_frozen_process_knows_on_its_first_look() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_its_part", "--nocapture", "--quiet"])
        .env(PART, "frozen")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.split_once("> ").map(|(_, said)| said.to_owned()));
    assert_eq!(said.next().unwrap(), "up");
    kill(pid, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_millis(FREEZE_MS + 500));
    kill(pid, Signal::SIGCONT).unwrap();
    let told = said.next().unwrap();
    let (why, paused) = told.split_once(' ').unwrap();
    assert_eq!(why, "frozen");
    let least = i64::try_from(FREEZE_MS).unwrap();
    assert!(Span(paused.parse().unwrap()) > Span(least), "{told}");
    child.wait().unwrap();
}
