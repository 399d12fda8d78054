//! The socket of a machine in the machine: `/.fly/api`, which reaches that machine's own part of the API and nothing else. There is no
//! token: whoever may open the socket is in the machine.
//!
//! It lies in a directory that is mounted into the machine, so that the socket of the next daemon takes the place of this one's.

use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::connections;
use crate::host::{Host, Inner};

/// Where the directory is in a machine.
pub(crate) const PLACE: &str = "/.fly";
/// The socket's name in it.
const SOCKET: &str = "api";
/// The name of what the machine knows the proxy by: 32 bytes.
const KEY: &str = "proxy.key";
/// Connections of one machine at one time.
const MAX_CONNECTIONS: usize = 32;

/// Who answers at the sockets of machines: the host, once it is there.
#[derive(Debug, Default)]
pub(crate) struct Doors(OnceLock<Weak<Inner>>);

/// The machine that a request comes from.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    pub(crate) machine: String,
}

/// The directory of a machine's socket, below that of its files.
pub(crate) fn directory(of_machine: &Path) -> PathBuf {
    of_machine.join("fly")
}

impl Doors {
    /// From now on `host` answers.
    pub(crate) fn belong_to(&self, host: &Arc<Inner>) {
        // There is one host for the life of this.
        let _ = self.0.set(Arc::downgrade(host));
    }

    /// Listens for a machine whose files are in `of_machine`, until what is returned is dropped.
    pub(crate) fn open(&self, of_machine: &Path, machine: &str) -> io::Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        if let Some(host) = self.0.get() {
            let listener = listen(&directory(of_machine))?;
            if let Some(host) = host.upgrade() {
                give_key(&host, &directory(of_machine), machine)?;
            }
            let inside = Inside {
                machine: machine.to_owned(),
            };
            let host = Weak::clone(host);
            let routes = move || Some(crate::api::inside(Host(host.upgrade()?), inside.clone()));
            tasks.spawn(connections::serve(listener, MAX_CONNECTIONS, routes));
        }
        Ok(tasks)
    }
}

/// Gives the machine what it knows the proxy by. For its root alone: whoever has it can speak to this machine as the proxy does.
fn give_key(host: &Inner, directory: &Path, machine: &str) -> io::Result<()> {
    let key = crate::proxied::key(&host.options.data).map_err(io::Error::other)?;
    let (path, fresh) = (directory.join(KEY), directory.join(format!("{KEY}.new")));
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(key.of_machine(machine).bytes())?;
    std::fs::rename(fresh, path)
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    // The machine's umask is not this daemon's, nor its users; those above are closed.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    let path = directory.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // An address has 108 bytes, and a data directory may lie deeper.
    let opened = std::fs::File::open(directory)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}
