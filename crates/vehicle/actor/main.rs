//! Plays every part of the conformance suite but the audience: the caller that gets killed, the shim, and
//! workloads of all tempers. Run by the suite and the benchmark alone.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Write, stdout};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::Pid;
use suijuris_guest::standby::Waiting;
use suijuris_sys::{descriptors, link};
use suijuris_vehicle::process::{Process, Shim, Want, shim};
use suijuris_vehicle::{Driver, Isolation, Lifetime, Machine, Output, Spec, Suspending, vm};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Play = Result<u8, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["__shim", ..] => shim::main(),
        ["__guest"] => suijuris_guest::init::main([]),
        ["__standby", number] => stand_by(number),
        ["__sulks", _number] => ExitCode::from(2),
        args => play(args),
    }
}

/// Plays the part of whatever machine this process is assigned to.
fn stand_by(number: &str) -> ExitCode {
    let waiting = number.parse().ok().and_then(Waiting::at);
    let Some(argv) = waiting.and_then(|waiting| waiting.wait().ok()?) else {
        return ExitCode::FAILURE;
    };
    let args: Vec<String> = argv
        .into_iter()
        .skip(1)
        .filter_map(|word| word.into_string().ok())
        .collect();
    play(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn play(args: &[&str]) -> ExitCode {
    let played = match args {
        ["exit", code] => code.parse().map_err(Into::into),
        ["die", signal] => die(signal),
        ["look"] => look(),
        ["count", file] => count(Path::new(file)),
        ["stubborn", file] => stubborn(Path::new(file)),
        ["obedient", file] => obedient(Path::new(file)),
        ["family", file, rest @ ..] => family(Path::new(file), rest),
        ["daemon", file] => daemon(file),
        ["dial", port] => dial(port),
        ["answer", number] => answer(number),
        ["write", file] => fs::write(file, "x").map(|()| 0).map_err(Into::into),
        ["panics"] => fs::write("/proc/sysrq-trigger", "c")
            .map(|()| 0)
            .map_err(Into::into),
        ["polite"] => polite(),
        ["deaf"] => deaf(),
        ["counts"] => counts(),
        ["says", lines @ ..] => says(lines),
        ["floods"] => floods(),
        ["clock"] => clock(),
        ["fills", file] => fills(Path::new(file)),
        ["echoes", number] => echoes(number),
        ["tells", number, file, mebibytes] => tells(number, Path::new(file), mebibytes),
        ["holds", mebibytes] => holds(mebibytes),
        ["opens"] => opens(),
        ["spawns", number] => spawns(number),
        ["lists", directory] => lists(directory),
        ["caller", isolation, suspending, file] => caller(want(isolation, suspending), Path::new(file)),
        ["supervisor", isolation, suspending, state, part @ ..] => {
            supervisor(want(isolation, suspending), Path::new(state), part)
        }
        ["emulating-supervisor", place, kernel, part @ ..] => {
            emulating_supervisor(Path::new(place), Path::new(kernel), part)
        }
        _ => Err(format!("no such part: {args:?}").into()),
    };
    played.map_or_else(|error| complain(error.as_ref()), ExitCode::from)
}

fn complain(error: &dyn Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "actor: {error} ({:?})", error.source());
    ExitCode::from(99)
}

fn die(signal: &str) -> Play {
    kill(Pid::this(), signal.parse::<Signal>()?)?;
    Ok(98)
}

/// Prints everything that a machine could have inherited, one fact a line.
fn look() -> Play {
    let mut out = stdout().lock();
    writeln!(out, "pid {}", std::process::id())?;
    writeln!(out, "uid {}", nix::unistd::getuid())?;
    writeln!(out, "cwd {}", env::current_dir()?.display())?;
    for (name, value) in env::vars() {
        writeln!(out, "env {name}={value}")?;
    }
    // Listed before any is looked at; the listing's own descriptor is gone by then.
    let numbers = fs::read_dir("/proc/self/fd")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    for number in numbers {
        if let Ok(target) = fs::read_link(Path::new("/proc/self/fd").join(&number)) {
            writeln!(out, "fd {} {}", number.display(), target.display())?;
        }
    }
    let status = fs::read_to_string("/proc/self/status")?;
    for line in status
        .lines()
        .filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"))
    {
        writeln!(out, "{line}")?;
    }
    Ok(0)
}

/// Appends to `file` for ever, holding a shared lock on it by which others see that it lives.
fn count(file: &Path) -> Play {
    let mut file = File::options().create(true).append(true).open(file)?;
    file.lock_shared()?;
    loop {
        file.write_all(b".")?;
        sleep(Duration::from_millis(1));
    }
}

fn blocked(signal: Signal) -> nix::Result<SigSet> {
    let set = SigSet::from(signal);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(set)
}

fn stubborn(file: &Path) -> Play {
    blocked(Signal::SIGTERM)?;
    count(file)
}

fn obedient(file: &Path) -> Play {
    let set = blocked(Signal::SIGTERM)?;
    fs::write(file, "ready")?;
    set.wait()?;
    Ok(7)
}

/// A first program with a child in its own session and an orphaned daemon, each counting in a file of its own.
fn family(file: &Path, rest: &[&str]) -> Play {
    let me = env::current_exe()?;
    Command::new(&me)
        .arg("daemon")
        .arg(file.with_extension("daemon"))
        .status()?;
    let _child = Command::new(&me)
        .arg("stubborn")
        .arg(file.with_extension("child"))
        .spawn()?;
    match rest {
        // Leaves the others behind.
        ["leave"] => Ok(5),
        _ => count(file),
    }
}

fn daemon(file: &str) -> Play {
    nix::unistd::setsid()?;
    let _orphan = Command::new(env::current_exe()?)
        .args(["stubborn", file])
        .spawn()?;
    Ok(0)
}

fn dial(port: &str) -> Play {
    let there = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    Ok(u8::from(
        TcpStream::connect_timeout(&there, Duration::from_secs(5)).is_err(),
    ))
}

/// Accepts one connection on the inherited listener and greets.
fn answer(number: &str) -> Play {
    let connection = nix::sys::socket::accept(number.parse()?)?;
    nix::sys::socket::send(connection, b"hello", nix::sys::socket::MsgFlags::empty())?;
    Ok(0)
}

/// Ends with code 7 when asked to.
fn polite() -> Play {
    let set = blocked(Signal::SIGTERM)?;
    say("ready")?;
    set.wait()?;
    Ok(7)
}

/// Does not end when asked to.
fn deaf() -> Play {
    blocked(Signal::SIGTERM)?;
    say("ready")?;
    loop {
        sleep(Duration::from_secs(1));
    }
}

fn counts() -> Play {
    for number in 0_u64.. {
        say(&number.to_string())?;
        sleep(Duration::from_millis(1));
    }
    Ok(0)
}

/// Says what time it is, in milliseconds.
fn clock() -> Play {
    loop {
        say(&std::time::UNIX_EPOCH.elapsed()?.as_millis().to_string())?;
        sleep(Duration::from_millis(10));
    }
}

/// Takes all room of a disk without writing it, says so, and ends with code 7 when asked to.
fn fills(file: &Path) -> Play {
    let set = blocked(Signal::SIGTERM)?;
    let file = File::options().create(true).append(true).open(file)?;
    let mut size: i64 = 0;
    for step in [64 << 20, 1 << 20, 4096] {
        while nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), size, step).is_ok() {
            size += step;
        }
    }
    let full = fs::write(Path::new("/volume/more"), vec![1; 1 << 20]);
    say(if full.is_err() { "full" } else { "there is room" })?;
    set.wait()?;
    Ok(7)
}

fn floods() -> Play {
    let line = "x".repeat(1000);
    loop {
        say(&line)?;
    }
}

/// Writes each argument as a line, the last without its end.
fn says(lines: &[&str]) -> Play {
    stdout().write_all(lines.join("\n").as_bytes())?;
    stdout().flush()?;
    Ok(0)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Says back on each link what it hears there.
#[tokio::main(flavor = "current_thread")]
async fn echoes(number: &str) -> Play {
    let end = descriptors::inherited(number.parse()?).ok_or("no link")?;
    let inlet = link::Inlet::new(end)?;
    say("ready")?;
    let mut links = tokio::task::JoinSet::new();
    while let Some(link) = inlet.accept().await? {
        link.set_nonblocking(true)?;
        let mut link = tokio::net::UnixStream::from_std(link)?;
        links.spawn(async move {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = link.read(&mut bytes).await {
                let heard = bytes.get(..length).unwrap_or_default();
                if link.write_all(heard).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(0)
}

/// Has so much in memory, and tells on each link: how often it did, randomness of the kernel, its host name, seconds of the wall clock;
/// and writes that to the file.
#[tokio::main(flavor = "current_thread")]
async fn tells(number: &str, file: &Path, mebibytes: &str) -> Play {
    let end = descriptors::inherited(number.parse()?).ok_or("no link")?;
    let inlet = link::Inlet::new(end)?;
    let held = vec![7_u8; mebibytes.parse::<usize>()? << 20];
    say("ready")?;
    let mut told = 0_u32;
    while let Some(link) = inlet.accept().await? {
        told += 1;
        link.set_nonblocking(true)?;
        let mut link = tokio::net::UnixStream::from_std(link)?;
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
        let sum: u64 = held.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
        let line = format!("{told} {} {} {now} {sum}", random.trim(), host.trim());
        let mut written = File::create(file)?;
        written.write_all(line.as_bytes())?;
        written.sync_all()?;
        // Who has gone does not hear it.
        let _ = link.write_all(format!("{line}\n").as_bytes()).await;
        let _ = link.shutdown().await;
    }
    Ok(0)
}

/// Uses so much memory.
fn holds(mebibytes: &str) -> Play {
    let mut held = Vec::new();
    for _ in 0..mebibytes.parse()? {
        let mut block: Vec<u8> = Vec::new();
        block.try_reserve_exact(1 << 20)?;
        block.resize(1 << 20, 1);
        held.push(block);
    }
    say(&format!("{} MiB", held.len()))?;
    Ok(0)
}

/// Opens files until no more can be had, and says how many are open then.
fn opens() -> Play {
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    say(&(files.len() + 3).to_string())?;
    Ok(0)
}

/// Starts so many children, and says how many came about.
fn spawns(number: &str) -> Play {
    let mut children = Vec::new();
    for _ in 0..number.parse()? {
        children.extend(
            Command::new(env::current_exe()?)
                .arg("deaf")
                .stdout(std::process::Stdio::null())
                .spawn(),
        );
    }
    say(&children.len().to_string())?;
    for mut child in children {
        child.kill()?;
        child.wait()?;
    }
    Ok(0)
}

/// Says what is in a directory.
fn lists(directory: &str) -> Play {
    for entry in fs::read_dir(directory)? {
        say(&entry?.file_name().to_string_lossy())?;
    }
    Ok(0)
}

fn want(isolation: &str, suspending: &str) -> Want {
    let isolation = match isolation {
        "Namespaces" => Isolation::Namespaces,
        "UserNamespaces" => Isolation::UserNamespaces,
        _ => Isolation::Plain,
    };
    let suspending = match suspending {
        "CgroupV2" => Suspending::CgroupV2,
        "CgroupV1" => Suspending::CgroupV1,
        _ => Suspending::Signals,
    };
    Want {
        isolation: Some(isolation),
        suspending: Some(suspending),
    }
}

/// Starts a family and lives until killed, as a caller would.
#[tokio::main(flavor = "current_thread")]
async fn caller(want: Want, file: &Path) -> Play {
    let driver = Process::detect(Shim::itself("__shim"), want).await?;
    let exe = env::current_exe()?;
    let spec = Spec::new("family", &exe).with_args(["family".into(), file.as_os_str().to_owned()]);
    let machine = driver.start(spec).await?;
    say(&machine.pid().to_string())?;
    until_killed(&machine).await
}

/// Starts a machine that outlives it, and lives until killed.
#[tokio::main(flavor = "current_thread")]
async fn supervisor(want: Want, state: &Path, part: &[&str]) -> Play {
    let driver = Process::detect(Shim::itself("__shim"), want).await?;
    let driver = driver.keeping_in(state)?;
    let mut spec = Spec::new("orphan", env::current_exe()?).with_args(part);
    spec.lifetime = Lifetime::Detached;
    (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
    spec.link = Some(5);
    let machine = driver.start(spec).await?;
    say(machine.id().as_str())?;
    until_killed(&machine).await
}

/// The same with a virtual machine.
#[tokio::main(flavor = "current_thread")]
async fn emulating_supervisor(place: &Path, kernel: &Path, part: &[&str]) -> Play {
    let me = env::current_exe()?;
    let inner = Process::detect(Shim::itself("__shim"), Want::default()).await?;
    let inner = inner.keeping_in(&place.join("monitors"))?;
    let options = vm::Options {
        kernel: vm::Kernel::open(kernel)?,
        guest: (me.clone(), vec!["__guest".into()]),
        state: place.join("state"),
        kind: vm::Kind::Qemu(vm::Accelerator::detect()),
    };
    let driver = vm::VirtualMachines::new(inner, options)?;
    let mut spec = Spec::new("orphan", me).with_args(part);
    spec.lifetime = Lifetime::Detached;
    (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
    spec.link = Some(5);
    let machine = driver.start(spec).await?;
    say(machine.id().as_str())?;
    until_killed(&machine).await
}

/// Told by a line whether to suspend the machine before the end comes.
async fn until_killed(machine: &impl Machine) -> Play {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() == "suspend" {
        machine.suspend().await?;
        say("suspended")?;
    }
    machine.wait().await;
    Ok(0)
}
