//! One run of QEMU: its command line, the process, and the three channels to it.

mod qmp;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qmp::Qmp;
pub use qmp::QmpError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use suijuris_guest::wire::Mark;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::channel::Channel;
use super::console::Console;
use super::disk::Taken;
use super::kind::Accelerator;
use super::monitor::{Hardware, explained};
use crate::driver::{Driver as _, Machine as _};
use crate::error::StartError;
use crate::output::Since;
use crate::process::{self, Process};
use crate::spec::{Lifetime, Network, Output, Resources, Spec};

/// Numbers of the emulator's ends of the channels.
const LINK: i32 = 5;
const QMP: i32 = 6;
const CONSOLE: i32 = 7;

/// The emulator, and what runs the machine's instructions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) exe: PathBuf,
    pub(super) accelerator: Accelerator,
}

/// Where an emulator that outlives its driver listens, in the machine's directory.
const LINK_SOCKET: &str = "link.sock";
const QMP_SOCKET: &str = "qmp.sock";

/// First number of the locks that it holds for its disks.
const LOCKS: i32 = 8;

/// Time for it to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A running emulator.
#[derive(Debug)]
pub(super) struct Emulator {
    process: Arc<process::Machine>,
    /// Whether it outlives its driver.
    outlives: bool,
    /// Whether it is to end with this, since nobody would find it again.
    ends: bool,
    qmp: Qmp,
    /// The machine's port, until the channel has it.
    link: Mutex<Option<UnixStream>>,
    /// The machine's serial line.
    console: Option<UnixStream>,
}

/// A path as a value of an option: commas are doubled.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if self.ends && self.outlives {
            self.process.end();
        }
    }
}

impl Emulator {
    fn arguments(program: &Program, hardware: &Hardware, resumes: bool) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut push = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        push(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        push(&["-name", "suijuris", "-rtc", "base=utc", "-smp", "1"]);
        // What is looked at may refuse a moment later.
        let accelerators = match program.accelerator {
            Accelerator::Kvm => "kvm:tcg",
            Accelerator::Tcg => "tcg",
        };
        let machine = format!("pc,accel={accelerators},memory-backend=memory,usb=off");
        push(&["-machine", &machine, "-cpu", "max"]);
        let mebibytes = format!("{}M", hardware.memory_bytes >> 20);
        let memory = format!(
            "memory-backend-file,id=memory,share={},size={mebibytes},mem-path={}",
            if hardware.borrowed { "off" } else { "on" },
            value(&hardware.memory)
        );
        push(&["-m", &mebibytes, "-object", &memory]);
        push(&["-kernel", &hardware.kernel.display().to_string()]);
        push(&["-initrd", &hardware.initrd.display().to_string()]);
        let mut append = format!(
            "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on no_timer_check rdinit={}",
            super::initrd::INIT
        );
        if !hardware.guest_args.is_empty() {
            append.push_str(" --");
        }
        for arg in &hardware.guest_args {
            append.push(' ');
            append.push_str(&arg.to_string_lossy());
        }
        push(&["-append", &append]);
        push(&["-device", "virtio-serial-pci,id=ports"]);
        let socket = |number: i32, name: &str| match hardware.outlives {
            true => format!("path={name},server=on,wait=off"),
            false => format!("fd={number}"),
        };
        push(&[
            "-chardev",
            &format!("socket,id=link,{}", socket(LINK, LINK_SOCKET)),
        ]);
        let port = format!(
            "virtserialport,bus=ports.0,chardev=link,name={}",
            suijuris_guest::wire::PORT
        );
        push(&["-device", &port]);
        let console = match hardware.outlives {
            true => {
                // What it writes there is kept, the newest MiB of it.
                push(&["-chardev", "file,id=kept,path=/dev/stdout", "-device"]);
                push(&[&format!(
                    "virtserialport,bus=ports.0,chardev=kept,name={}",
                    suijuris_guest::wire::KEPT_PORT
                )]);
                "file,id=console,path=/dev/stderr".to_owned()
            }
            false => format!("socket,id=console,fd={CONSOLE}"),
        };
        push(&["-chardev", &console, "-serial", "chardev:console"]);
        push(&[
            "-chardev",
            &format!("socket,id=qmp,{}", socket(QMP, QMP_SOCKET)),
            "-mon",
            "chardev=qmp,mode=control",
        ]);
        push(&["-device", "virtio-rng-pci", "-device", "vmgenid,guid=auto"]);
        for (number, disk) in hardware.disks.iter().enumerate() {
            let drive = format!(
                "if=none,id=disk{number},format=raw,discard=unmap,file={}",
                value(disk)
            );
            let device = format!("virtio-blk-pci,drive=disk{number}");
            push(&["-drive", &drive, "-device", &device]);
        }
        if hardware.network {
            push(&[
                "-netdev",
                "user,id=net",
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ]);
        }
        if resumes {
            push(&["-incoming", "defer", "-S"]);
        }
        args
    }

    /// Starts the emulator: with a machine that boots, or one that waits for its state.
    pub(super) async fn run(
        program: &Program,
        hardware: &Hardware,
        inner: &Process,
        disks: &[Taken],
        resumes: bool,
    ) -> Result<Self, StartError> {
        let mut spec = Spec::new("qemu", &program.exe).with_args(Self::arguments(program, hardware, resumes));
        // It needs none of its own: what the machine reaches goes through the emulator's.
        spec.network = match inner.describe().private_network && !hardware.network {
            true => Network::Private,
            false => Network::Host,
        };
        spec.env = [("PATH", "/usr/bin:/bin"), ("TMPDIR", "/tmp")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        spec.resources = Resources {
            cpu: hardware.cpu,
            ..Resources::default()
        };
        (spec.stdout, spec.stderr) = (Output::Null, Output::Lines);
        if hardware.outlives {
            return Self::run_to_outlive(spec, hardware, inner, disks).await;
        }
        let (link, its_link) = UnixStream::pair()?;
        let (qmp, its_qmp) = UnixStream::pair()?;
        let (console, its_console) = UnixStream::pair()?;
        for ours in [&link, &qmp, &console] {
            ours.set_nonblocking(true)?;
        }
        let theirs = [(its_link, LINK), (its_qmp, QMP), (its_console, CONSOLE)];
        spec.inherit = theirs
            .map(|(socket, number)| (OwnedFd::from(socket), number))
            .into();
        let process = inner.start(spec).await?;
        let qmp = tokio::net::UnixStream::from_std(qmp)?;
        match Qmp::open(qmp).await {
            Ok(qmp) => Ok(Self {
                process: Arc::new(process),
                outlives: false,
                ends: true,
                qmp,
                link: Mutex::new(Some(link)),
                console: Some(console),
            }),
            Err(error) => Err(explained(&process, error).await),
        }
    }

    /// Starts one that goes on without its driver, and holds the locks of its disks then.
    async fn run_to_outlive(
        mut spec: Spec,
        hardware: &Hardware,
        inner: &Process,
        disks: &[Taken],
    ) -> Result<Self, StartError> {
        for left in [LINK_SOCKET, QMP_SOCKET] {
            let _ = fs::remove_file(hardware.dir.join(left));
        }
        spec.name.clone_from(&hardware.name);
        spec.cwd.clone_from(&hardware.dir);
        spec.lifetime = Lifetime::Detached;
        spec.stdout = Output::Lines;
        for (disk, number) in disks.iter().zip(LOCKS..) {
            spec.inherit.extend(disk.lock()?.map(|lock| (lock, number)));
        }
        let process = Arc::new(inner.start(spec).await?);
        match Self::reach(process.clone(), hardware).await {
            Ok(emulator) => Ok(emulator),
            Err(error) => Err(explained(&process, error).await),
        }
    }

    /// Goes on with one that an earlier driver started.
    pub(super) async fn reach(process: Arc<process::Machine>, hardware: &Hardware) -> io::Result<Self> {
        let dir = fs::File::open(&hardware.dir)?;
        let mut guard = EndsUnlessReached(Some(process.clone()));
        let qmp = tokio::net::UnixStream::from_std(dial(&dir, QMP_SOCKET, &process).await?)?;
        // It listened there before.
        let link = dial(&dir, LINK_SOCKET, &process).await?;
        let qmp = Qmp::open(qmp).await?;
        guard.0 = None;
        Ok(Self {
            process,
            outlives: true,
            ends: true,
            qmp,
            link: Mutex::new(Some(link)),
            console: None,
        })
    }

    pub(super) fn version(&self) -> &str {
        self.qmp.version()
    }

    pub(super) fn process(&self) -> &process::Machine {
        &self.process
    }

    pub(super) fn kept(&self) -> Option<Arc<process::Machine>> {
        self.outlives.then(|| self.process.clone())
    }

    pub(super) const fn release(&mut self) {
        self.ends = false;
    }

    /// Whether the machine runs.
    pub(super) async fn is_running(&mut self) -> Result<bool, QmpError> {
        let status = self.qmp.execute("query-status", Value::Null).await?;
        Ok(status.get("status").and_then(Value::as_str) == Some("running"))
    }

    /// Connects the channel of a machine that was taken over, and has the machine run.
    pub(super) async fn take_over(&mut self, channel: &mut Channel, mark: Mark) -> io::Result<()> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(link) = link {
            channel.connect_again(link, mark)?;
        }
        if !self.is_running().await? {
            self.qmp.execute("cont", Value::Null).await?;
        }
        Ok(())
    }

    pub(super) fn connect(&self, channel: &mut Channel) -> io::Result<()> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        link.map_or(Ok(()), |link| channel.connect(link))
    }

    /// It ends at once.
    pub(super) async fn quit(&mut self) {
        self.qmp.quit().await;
    }

    pub(super) fn keep_console(&mut self, console: &Arc<Console>, readers: &mut JoinSet<()>) {
        if let Some(socket) = self.console.take() {
            readers.spawn(console.clone().read(socket));
        }
        if self.outlives
            && let Ok(mut lines) = self.process.output(Since::Kept)
        {
            let console = console.clone();
            readers.spawn(async move {
                while let Some(line) = lines.next().await {
                    console.push(line.text);
                }
            });
        }
    }

    /// Writes the machine's state; its memory is in its file then, or where it has none of its own in the state as a `whole`, and it
    /// stands still.
    pub(super) async fn save(&mut self, state: &Path, whole: bool) -> Result<(), QmpError> {
        self.qmp.execute("stop", Value::Null).await?;
        self.qmp.ignore_shared(!whole).await?;
        let saved = async {
            let to = json!({ "uri": format!("exec:cat > {}", quoted(state)) });
            self.qmp.execute("migrate", to).await?;
            self.qmp.migrated().await
        };
        if let Err(error) = saved.await {
            self.go_back().await?;
            return Err(error);
        }
        Ok(())
    }

    /// Has a machine that was saved run on after all.
    pub(super) async fn go_back(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("cont", Value::Null).await.map(drop)
    }

    /// Reads the machine's state; it stands still.
    pub(super) async fn load(&mut self, state: &Path, whole: bool) -> Result<(), QmpError> {
        self.qmp.ignore_shared(!whole).await?;
        let from = json!({ "uri": format!("exec:cat {}", quoted(state)) });
        self.qmp.execute("migrate-incoming", from).await?;
        self.qmp.migrated().await
    }

    pub(super) async fn go_on(&mut self, channel: &mut Channel) -> io::Result<()> {
        // Before it runs: what the channel says first is there by then.
        self.connect(channel)?;
        self.qmp.execute("cont", Value::Null).await?;
        Ok(())
    }
}

/// An emulator that nobody reaches ends.
struct EndsUnlessReached(Option<Arc<process::Machine>>);

impl Drop for EndsUnlessReached {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.end();
        }
    }
}

/// A connection to a socket of the emulator's, as soon as it listens there. Its path may be longer than an address.
async fn dial(dir: &fs::File, name: &str, process: &process::Machine) -> io::Result<UnixStream> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    let begin = Instant::now();
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) if begin.elapsed() > LISTENS_WITHIN => return Err(error),
            Err(_not_yet) => {}
        }
        tokio::select! {
            () = sleep(LOOK_AGAIN) => {}
            exit = process.wait() => return Err(io::Error::other(format!("the emulator {exit} before it listened"))),
        }
    }
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// For errors of the system in a run.
impl From<QmpError> for io::Error {
    fn from(error: QmpError) -> Self {
        match error {
            QmpError::Broken(error) => error,
            other => Self::other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_one_value_and_one_word() {
        assert_eq!(value(Path::new("/a,b")), "/a,,b");
        assert_eq!(quoted(Path::new("/it's")), "'/it'\\''s'");
    }
}
