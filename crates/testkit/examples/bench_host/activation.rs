//! The peer: a service that is started by the first connection, as systemd starts one behind systemd-socket-proxyd. The socket is
//! held here; at a connection the service is started where it does not run, connected to as soon as it listens, and bytes are
//! carried both ways. It rules on nothing, records nothing and confines nothing.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use suijuris_testkit::bench::{Running, await_port, free_port};

/// How long a service may take to listen.
const WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to reach it.
const LOOK: Duration = Duration::from_micros(20);

/// Takes the arguments `activate PORT`; `None` where they say nothing of that.
pub(crate) fn as_asked() -> Option<io::Result<()>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [word, port] = arguments.as_slice() else {
        return None;
    };
    let activate = |port: &str| -> io::Result<()> {
        let port: u16 = port.parse().map_err(io::Error::other)?;
        serve(&TcpListener::bind(("127.0.0.1", port))?)
    };
    (word == "activate").then(|| activate(port))
}

/// A program of that kind, started by itself.
pub(crate) fn start() -> io::Result<(u16, Running)> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["activate", &port.to_string()]).stdin(Stdio::null());
    let running = Running(command.spawn()?);
    // The connection that finds out whether it listens starts nothing: it ends before a byte has come.
    await_port(port)?;
    Ok((port, running))
}

/// Starts the workload: its process and its port.
pub(crate) fn workload() -> io::Result<(u16, Running)> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", &port.to_string()]).stdin(Stdio::null());
    Ok((port, Running(command.spawn()?)))
}

/// A connection to it, once it listens.
pub(crate) fn reach(port: u16) -> io::Result<TcpStream> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > WITHIN => return Err(error),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(running: &Running, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(running.pid()).map_err(|_| ErrorKind::InvalidData)?;
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// The service: as systemd's units, not there until it is asked for. It is ended by the end of the connection, so that the next
/// one starts it again.
fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept()?;
        let mut first = [0];
        if client.peek(&mut first)? == 0 {
            continue;
        }
        let (port, running) = workload()?;
        carry(&client, &reach(port)?)?;
        drop(running);
    }
}

/// Carries bytes both ways until the client has nothing more to say.
fn carry(client: &TcpStream, service: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    service.set_nodelay(true)?;
    let (mut from_service, mut to_client) = (service.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        // Either may break off.
        let _carried = io::copy(&mut from_service, &mut to_client);
        let _told = to_client.shutdown(Shutdown::Write);
    });
    let (mut from_client, mut to_service) = (client, service);
    let _carried = io::copy(&mut from_client, &mut to_service);
    let _told = service.shutdown(Shutdown::Write);
    let _ended = back.join();
    Ok(())
}
