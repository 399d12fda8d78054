//! The way out of the machine: a virtio-serial port, or where there is none a vsock connection.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use suijuris_sys::descriptors;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wire::{KEPT_PORT, PORT, VSOCK_PORT};

/// How long the port may take to appear after its driver was loaded.
const APPEAR_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks for it, and at a port whose other end is away for a moment.
const PAUSE: Duration = Duration::from_millis(2);

/// Between two looks whether a driver is there, where none was for a while.
const LONG_PAUSE: Duration = Duration::from_millis(20);

/// The host's number among vsock's ends.
const HOST: u32 = 2;

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// The way out of the machine. Opened once; where it is a connection that dies with a suspension, it is opened again.
#[derive(Debug)]
pub(crate) enum Port {
    /// A virtio-serial port, which stays. Watched anew once its other end is back: a watch that has seen it go sees nothing else.
    Serial(RefCell<Rc<AsyncFd<OwnedFd>>>),
    /// A connection, and how another is made.
    Connection(RefCell<Rc<AsyncFd<OwnedFd>>>, fn() -> io::Result<OwnedFd>),
}

impl Port {
    /// Opens it, once it is there. Within a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let found = wait_for(|| match find(PORT).ok().flatten() {
            Some(path) => Some(Found::Serial(path)),
            None => dial().ok().map(Found::Connection),
        });
        match found {
            Some(Found::Serial(path)) => Self::serial(&path),
            Some(Found::Connection(socket)) => Self::connection(socket, dial),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no virtio port of that name, and no vsock: the kernel needs virtio_pci and virtio_console, or virtio_mmio and \
                 vmw_vsock_virtio_transport",
            )),
        }
    }

    /// Opens the port whose bytes are kept outside.
    pub(crate) fn open_kept() -> io::Result<Self> {
        let path = wait_for(|| find(KEPT_PORT).ok().flatten());
        Self::serial(
            &path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no port for what is kept"))?,
        )
    }

    fn serial(path: &Path) -> io::Result<Self> {
        let port = wait_for(|| fs::File::options().read(true).write(true).open(path).ok());
        let port = OwnedFd::from(port.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?);
        Ok(Self::Serial(RefCell::new(Rc::new(watched(port)?))))
    }

    fn connection(socket: OwnedFd, dial: fn() -> io::Result<OwnedFd>) -> io::Result<Self> {
        let socket = RefCell::new(Rc::new(watched(socket)?));
        Ok(Self::Connection(socket, dial))
    }

    /// What came. Cancel safe.
    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        let (current, dial) = match self {
            Self::Serial(current) => loop {
                let port = current.borrow().clone();
                let came = read(&port).await?;
                if !came.is_empty() {
                    return Ok(came);
                }
                // The driver outside is away: the machine goes on in another emulator, or another driver takes it over.
                back(port.get_ref()).await?;
                current.replace(Rc::new(watched(port.get_ref().try_clone()?)?));
            },
            Self::Connection(current, dial) => (current, dial),
        };
        loop {
            let socket = current.borrow().clone();
            match read(&socket).await {
                Ok(came) if !came.is_empty() => return Ok(came),
                // It has died with the machine's suspension.
                _ => {
                    let fresh = loop {
                        match dial() {
                            Ok(fresh) => break fresh,
                            Err(_not_yet) => tokio::time::sleep(PAUSE).await,
                        }
                    };
                    current.replace(Rc::new(watched(fresh)?));
                }
            }
        }
    }

    /// Writes all of it.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let current = || match self {
            Self::Serial(port) | Self::Connection(port, _) => port.borrow().clone(),
        };
        let mut port = current();
        while !bytes.is_empty() {
            let mut ready = port.writable().await?;
            let is_closed = ready.ready().is_write_closed();
            match ready.try_io(|fd| descriptors::write(fd.get_ref().as_fd(), bytes)) {
                Ok(written) => bytes = bytes.get(written?..).unwrap_or_default(),
                Err(_full) if is_closed && matches!(self, Self::Serial(_)) => {
                    tokio::time::sleep(PAUSE).await;
                    port = current();
                }
                Err(_full) => {}
            }
        }
        Ok(())
    }
}

enum Found {
    Serial(PathBuf),
    Connection(OwnedFd),
}

fn watched(port: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    descriptors::set_nonblocking(port.as_fd())?;
    descriptors::watch(port, Interest::READABLE | Interest::WRITABLE)
}

/// What came; nothing where the other end is away.
async fn read(port: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut ready = port.readable().await?;
        let is_closed = ready.ready().is_read_closed();
        match ready.try_io(|fd| descriptors::read(fd.get_ref().as_fd(), &mut buffer)) {
            Ok(read) => {
                buffer.truncate(read?);
                return Ok(buffer);
            }
            // It was away, and is back already.
            Err(_nothing) if is_closed => return Ok(Vec::new()),
            Err(_nothing) => {}
        }
    }
}

/// Waits until somebody is at a port's other end.
async fn back(port: &OwnedFd) -> io::Result<()> {
    let mut pause = PAUSE;
    loop {
        let mut looked = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
        poll(&mut looked, PollTimeout::ZERO)?;
        let is_away = |flags: PollFlags| flags.contains(PollFlags::POLLHUP);
        if !looked.iter().filter_map(PollFd::revents).any(is_away) {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONG_PAUSE);
    }
}

/// A connection to the driver outside.
fn dial() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Vsock, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, VSOCK_PORT))?;
    Ok(socket)
}

/// The device of the port of this name, where there is one.
fn find(name: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == name {
            return Ok(Some(PathBuf::from("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

/// Looks until there is something, or for too long.
pub(crate) fn wait_for<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = look();
        if found.is_some() || begin.elapsed() > APPEAR_WITHIN {
            return found;
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// The machine's ends of connections to come.
    static NEXT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

    fn next() -> io::Result<OwnedFd> {
        let next = NEXT.lock().unwrap().pop();
        next.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }

    fn pair() -> (UnixStream, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, theirs.into_std().unwrap().into())
    }

    #[tokio::test]
    async fn a_connection_that_dies_is_opened_again_and_goes_on() {
        let (mut before, inside) = pair();
        let port = Port::connection(inside, next).unwrap();
        before.write_all(b"one").await.unwrap();
        assert_eq!(port.read().await.unwrap(), b"one");
        drop(before);
        let (mut after, inside) = pair();
        let later = async {
            // It finds nobody at first.
            tokio::time::sleep(PAUSE).await;
            NEXT.lock().unwrap().push(inside);
            after.write_all(b"two").await.unwrap();
        };
        assert_eq!(tokio::join!(port.read(), later).0.unwrap(), b"two");
        port.write(b"heard").await.unwrap();
        let mut heard = [0; 5];
        after.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"heard");
    }
}
