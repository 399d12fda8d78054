//! What systemd is told, where it started this program: `sd_notify(3)` over the socket that it names.

use std::os::unix::net::UnixDatagram;

/// Names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells it `state`; nobody is told where no socket is named.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return;
    };
    let sent = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        let name = path.to_string_lossy();
        match name.strip_prefix('@') {
            Some(hidden) => {
                use std::os::linux::net::SocketAddrExt as _;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(hidden)?;
                socket.send_to_addr(state.as_bytes(), &address)?;
            }
            None => drop(socket.send_to(state.as_bytes(), &path)?),
        }
        Ok(())
    };
    // Nobody to tell when systemd does not listen; the daemon serves all the same.
    let _ = sent();
}
