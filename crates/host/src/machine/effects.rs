//! Effects on the world: images, files, processes. Each may be performed twice.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use suijuris_vehicle::process::{self, Family, Process};
use suijuris_vehicle::{Driver as _, Machine as _, MachineId};

use tokio::net::{TcpSocket, TcpStream};

use super::Machine;
use super::plan::Outcome;
use crate::config::{MachineConfig, decode};
use crate::images::Images;
use crate::network::Private;
use crate::secrets::Secrets;

/// What machines are made of and from.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) driver: Process,
    pub(crate) images: Images,
    /// A directory for each machine's files.
    pub(crate) machines: PathBuf,
    /// A directory for each volume's content.
    pub(crate) volumes: PathBuf,
    /// What no machine may see.
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) secrets: Secrets,
    /// Whether machines of images share the host's network, as the operator may say.
    pub(crate) share_network: bool,
    /// Private networks, where machines have namespaces.
    pub(crate) private: Option<Private>,
}

/// Of a machine's directory: what it writes to its image.
pub(super) const SCRATCH: &str = "scratch";
/// Its copy of the image, where overlayfs cannot be used.
pub(super) const COPY: &str = "copy";

/// Work that reads and writes the disk, off the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(format!("internal: {error}")))
}

/// The text of an error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl World {
    /// The directory of a machine's own files.
    pub(crate) fn directory(&self, machine: &str) -> PathBuf {
        self.machines.join(machine)
    }

    /// Has the image of the machine, or of its next version.
    pub(crate) async fn fetch(&self, config: &MachineConfig, org: &str) -> Outcome {
        match self
            .images
            .fetch(config.image.as_deref().unwrap_or_default(), org)
            .await
        {
            Ok(image) => Outcome::Fetched(image),
            Err(error) => Outcome::Failed(chain(&error)),
        }
    }

    /// Has the files of the machine's next life.
    pub(crate) async fn prepare(self: &Arc<Self>, machine: &Arc<Machine>) -> Outcome {
        let (world, machine) = (Arc::clone(self), Arc::clone(machine));
        match blocking(move || world.prepared(&machine)).await {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error),
        }
    }

    fn prepared(&self, machine: &Machine) -> Result<(), String> {
        let directory = self.directory(&machine.id);
        let files = directory.join("files");
        let told = |error: io::Error| format!("cannot prepare the machine's files: {error}");
        make(&directory).map_err(told)?;
        make(&files).map_err(told)?;
        if !machine.keeps_rootfs {
            self.reset(&machine.id).map_err(told)?;
        }
        self.copy_image(machine)?;
        for (number, file) in machine.config.files.iter().flatten().enumerate() {
            let content = match (&file.raw_value, &file.secret_name) {
                (Some(raw), _) => decode(raw),
                (None, Some(name)) => {
                    let value = self.secrets.value(&machine.app, name);
                    let value = value
                        .map_err(|_| format!("config.files: there is no secret {name:?}; set it first"))?;
                    decode(value.trim())
                }
                (None, None) => None,
            };
            let content = content.ok_or("config.files: the content is not base64")?;
            let mode = file.mode.unwrap_or(0o644) & 0o777;
            write(&files.join(number.to_string()), mode, &content).map_err(told)?;
        }
        if self.private(machine).is_some() {
            for (name, content) in Private::files(machine) {
                write(&directory.join(name), 0o644, content.as_bytes()).map_err(told)?;
            }
        }
        Ok(())
    }

    /// The machine of an earlier daemon whose driver's id begins with `name`, and its whole id.
    pub(crate) async fn attach(&self, id: &MachineId) -> Result<process::Machine, String> {
        self.driver.attach(id).await.map_err(|error| chain(&error))
    }

    /// A connection to a port of a machine, in the machine's own network; version 4 of its loopback first, then 6.
    pub(crate) async fn connect(
        &self,
        processes: &Arc<process::Machine>,
        port: u16,
    ) -> io::Result<TcpStream> {
        let connect = async |family, address: SocketAddr| {
            let (processes, shim) = (Arc::clone(processes), self.driver.shim().clone());
            let made = tokio::task::spawn_blocking(move || processes.socket(&shim, family)).await;
            let socket = made.map_err(io::Error::other)??;
            TcpSocket::from_std_stream(socket.into()).connect(address).await
        };
        match connect(Family::V4, (Ipv4Addr::LOCALHOST, port).into()).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let other = connect(Family::V6, (Ipv6Addr::LOCALHOST, port).into()).await;
                other.map_err(|_| error)
            }
            connected => connected,
        }
    }

    /// Removes a machine's files. What stays is swept up when the daemon starts.
    pub(crate) async fn clean(self: &Arc<Self>, machine: &str) {
        let directory = self.directory(machine);
        let _ = tokio::task::spawn_blocking(move || process::remove_strange(&directory)).await;
        if let Some(private) = &self.private {
            private.forget(machine);
        }
    }

    /// The private networks, where this machine is in one.
    pub(crate) fn private(&self, machine: &Machine) -> Option<&Private> {
        self.private
            .as_ref()
            .filter(|_| machine.has_image() && !self.share_network)
    }

    /// Removes what the machine wrote to its root file system.
    pub(crate) fn reset(&self, machine: &str) -> io::Result<()> {
        for part in [SCRATCH, COPY] {
            match process::remove_strange(&self.directory(machine).join(part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Resumes, where need be, and signals.
    pub(crate) async fn signal(handle: &process::Machine, number: i32) -> Outcome {
        // Ended already: what is seen next says so.
        let _ = handle.resume().await;
        let signal = suijuris_vehicle::Signal::new(number).unwrap_or(suijuris_vehicle::Signal::TERM);
        let _ = handle.signal(signal).await;
        Outcome::Done
    }
}

/// The time that a machine is waited for after it was killed.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(30);

fn make(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)?;
    io::Write::write_all(&mut file, content)?;
    std::fs::rename(fresh, path)
}
