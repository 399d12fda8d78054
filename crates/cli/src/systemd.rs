//! What this program and systemd say to each other, where systemd started it: `sd_notify(3)` over the socket that it names,
//! signs of life for its watchdog, and sockets that it has opened already (`sd_listen_fds(3)`).

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Sockets that are taken over, at most.
const MAX_SOCKETS: usize = 64;

/// Tells it `state`; nobody is told where no socket is named.
pub(crate) fn notify(state: &str) {
    let sent = || -> std::io::Result<()> {
        if let Some(systemd) = connected()? {
            systemd.send(state.as_bytes())?;
        }
        Ok(())
    };
    // Nobody to tell when systemd does not listen; the daemon serves all the same.
    let _ = sent();
}

/// Gives a socket to systemd under a name: the next program of this service finds it among its [`sockets`], and clients that connect
/// meanwhile wait for that one. Nothing happens where no socket of systemd is named, or where the unit has no `FileDescriptorStoreMax`.
#[cfg(feature = "host")]
pub(crate) fn store(name: &str, socket: std::os::fd::BorrowedFd<'_>) {
    use std::os::fd::AsFd as _;
    let sent = || -> std::io::Result<()> {
        let Some(systemd) = connected()? else {
            return Ok(());
        };
        let text = format!("FDSTORE=1\nFDNAME={name}");
        suijuris_sys::sockets::send(systemd.as_fd(), text.as_bytes(), &[socket])?;
        Ok(())
    };
    // It serves all the same; only the next one has to listen anew.
    let _ = sent();
}

/// A socket to where systemd hears, if it does.
fn connected() -> std::io::Result<Option<UnixDatagram>> {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let socket = UnixDatagram::unbound()?;
    // One who does not read must not stop the daemon.
    socket.set_nonblocking(true)?;
    let name = path.to_string_lossy();
    match name.strip_prefix('@') {
        Some(hidden) => {
            use std::os::linux::net::SocketAddrExt as _;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(hidden)?)?;
        }
        None => socket.connect(&path)?,
    }
    Ok(Some(socket))
}

/// How long systemd waits for a sign of life before it ends this program; none where it does not wait.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let within = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && meant)?;
    Some(Duration::from_micros(within))
}

/// Says again and again that the loop turns which does everything here: where it does not, neither does this. Runs until
/// dropped.
pub(crate) async fn beat() {
    let Some(within) = watchdog() else { return };
    let mut beats = tokio::time::interval((within / 2).max(Duration::from_millis(1)));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        notify("WATCHDOG=1");
    }
}

/// The listening sockets that systemd opened for this program, with the names that it gave them.
pub(crate) fn sockets() -> anyhow::Result<Vec<(String, TcpListener)>> {
    let mut given = listenfd::ListenFd::from_env();
    anyhow::ensure!(
        given.len() <= MAX_SOCKETS,
        "systemd gave {} sockets: give at most {MAX_SOCKETS}",
        given.len()
    );
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for index in 0..given.len() {
        let name = names.next().unwrap_or_default().to_owned();
        let socket = given.take_tcp_listener(index).map_err(|error| {
            anyhow::Error::new(error).context(format!(
                "the socket `{name}` of systemd is no TCP socket that listens: say ListenStream=ADDRESS:PORT in its unit"
            ))
        })?;
        if let Some(socket) = socket {
            // Machines inherit none of them.
            fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            sockets.push((name, socket));
        }
    }
    Ok(sockets)
}
