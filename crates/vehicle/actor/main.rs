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
use suijuris_vehicle::process::{Freezing, Isolation, Process, Shim, Want, shim};
use suijuris_vehicle::{Driver, Spec};

type Play = Result<u8, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let played = match args.as_slice() {
        ["__shim"] => return shim::main(),
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
        ["caller", isolation, freezing, file] => caller(isolation, freezing, Path::new(file)),
        _ => Err(format!("no such part: {args:?}").into()),
    };
    played.map_or_else(|error| complain(error.as_ref()), ExitCode::from)
}

fn complain(error: &dyn Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "actor: {error}");
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

/// Starts a family and lives until killed, as a caller would.
#[tokio::main(flavor = "current_thread")]
async fn caller(isolation: &str, freezing: &str, file: &Path) -> Play {
    let isolation = match isolation {
        "Namespaces" => Isolation::Namespaces,
        "UserNamespaces" => Isolation::UserNamespaces,
        _ => Isolation::Plain,
    };
    let freezing = match freezing {
        "CgroupV2" => Freezing::CgroupV2,
        "CgroupV1" => Freezing::CgroupV1,
        _ => Freezing::Signals,
    };
    let want = Want {
        isolation: Some(isolation),
        freezing: Some(freezing),
    };
    let driver = Process::detect(Shim::itself("__shim"), want).await?;
    let exe = env::current_exe()?;
    let mut spec = Spec::new("family", &exe);
    spec.argv.extend(["family".into(), file.as_os_str().to_owned()]);
    let machine = driver.start(spec).await?;
    let mut out = stdout().lock();
    writeln!(out, "{}", machine.pid())?;
    out.flush()?;
    // Told by a line whether to be suspended when the end comes.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() == "suspend" {
        machine.suspend().await?;
        writeln!(out, "suspended")?;
        out.flush()?;
    }
    machine.wait().await;
    Ok(0)
}
