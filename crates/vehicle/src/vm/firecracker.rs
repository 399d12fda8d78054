//! One run of Firecracker: the process, its API, and the machine's channel, a vsock connection that the machine opens.
//!
//! From nothing to a running machine it is at most eleven calls over one connection. Every path that Firecracker is told of the machine's own
//! files is relative to its working directory, so that a snapshot does not depend on where that is, nor on whether it is a jail. Its exit code says
//! nothing: after the guest's own power-off, its panic and its reboot it is 0. What counts is what the machine reported.
//!
//! A snapshot belongs to one version of Firecracker, one model of processor and one kernel ([`key`]): with another it is refused
//! before Firecracker sees it, and the object boots instead.

mod api;
pub(super) mod jail;
mod pages;

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use api::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use suijuris_guest::wire::VSOCK_PORT;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::channel::Channel;
use super::console::Console;
use super::kind::MemoryBackend;
use super::monitor::{Hardware, explained};
use crate::driver::{Driver as _, Machine as _};
use crate::error::StartError;
use crate::output::Since;
use crate::process::{self, Process};
use crate::spec::{Network, Output, Resources, Spec};
use api::Api;
use jail::Place;
use pages::Pages;

/// Names in the machine's directory.
const API: &str = "api.sock";
const VSOCK: &str = "vsock.sock";
const PAGES: &str = "pages.sock";
const KEY: &str = "key";

/// Time for Firecracker to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Time for a machine that was resumed to open its channel again.
const CONNECTS_WITHIN: Duration = Duration::from_secs(60);

/// Number of the machine's end of vsock; any above the reserved ones.
const GUEST_CID: u32 = 3;

/// The first version that sets a machine's clock when it loads one.
const SETS_CLOCK: (u64, u64) = (1, 16);

/// Firecracker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) exe: PathBuf,
    /// The host's network device for machines that have a network.
    pub(super) tap: Option<String>,
    /// What jails it, where it is to be jailed.
    pub(super) jailer: Option<PathBuf>,
    /// Where the pages of a machine come from that was suspended.
    pub(super) memory: MemoryBackend,
}

/// A running Firecracker.
#[derive(Debug)]
pub(super) struct Microvm {
    process: Arc<process::Machine>,
    place: Place,
    memory: MemoryBackend,
    api: Api,
    version: String,
    tap: Option<String>,
    /// Where the machine's channel arrives.
    vsock: UnixListener,
    /// The memory file is whole, and only what changed since is to be written.
    is_based: bool,
    /// What brings its pages, where somebody has to.
    pages: Option<Bringing>,
}

/// Pages are brought.
#[derive(Debug)]
struct Bringing {
    _pages: Pages,
    /// Why that ended before the machine, which has ended with it.
    failed: Option<oneshot::Receiver<String>>,
    _watch: JoinSet<()>,
}

/// A path in the machine's directory for a socket, whose address is short.
///
/// The directory is held open as long as the address is used.
fn short(dir: &fs::File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

impl Microvm {
    /// Starts Firecracker: with a machine that boots, or one that waits for its state.
    pub(super) async fn run(
        program: &Program,
        hardware: &Hardware,
        inner: &Process,
        resumes: bool,
    ) -> Result<Self, StartError> {
        let place = Place::make(program.jailer.as_deref(), &program.exe, hardware, resumes)?;
        let dir = fs::File::open(&place.dir)?;
        let vsock = format!("{VSOCK}_{VSOCK_PORT}");
        // Of an earlier run.
        for left in [API, VSOCK, PAGES, &vsock] {
            let _ = fs::remove_file(place.dir.join(left));
        }
        let name = short(&dir, &vsock);
        let vsock = UnixListener::bind(&name)?;
        place.own(&name)?;
        let (exe, args) = place.command(&program.exe, &hardware.name);
        let mut spec = Spec::new("firecracker", exe).with_args(args);
        spec = spec.with_args(["--api-sock", API]);
        spec.cwd.clone_from(&place.dir);
        spec.network = match inner.describe().private_network && !hardware.network {
            true => Network::Private,
            false => Network::Host,
        };
        spec.resources = Resources {
            cpu: hardware.cpu,
            ..Resources::default()
        };
        (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
        let process = inner.start(spec).await?;
        let opened = async {
            let mut api = open(&dir, &process).await?;
            let version = api.get("/version").await?;
            let version = version.get("firecracker_version").and_then(Value::as_str);
            let version = version.unwrap_or_default().to_owned();
            if !resumes {
                configure(&mut api, program, hardware, &place).await?;
                api.put("/actions", json!({ "action_type": "InstanceStart" }))
                    .await?;
            }
            io::Result::Ok((api, version))
        };
        match opened.await {
            Ok((api, version)) => Ok(Self {
                process: Arc::new(process),
                place,
                memory: program.memory,
                api,
                version,
                tap: program.tap.clone(),
                vsock,
                is_based: false,
                pages: None,
            }),
            Err(error) => Err(explained(&process, error).await),
        }
    }

    pub(super) fn process(&self) -> &process::Machine {
        &self.process
    }

    pub(super) async fn connect(&self, channel: &mut Channel) -> io::Result<()> {
        let (stream, _) = self.vsock.accept().await?;
        channel.connect(stream.into_std()?)
    }

    pub(super) fn keep_console(&mut self, console: &Arc<Console>, readers: &mut JoinSet<()>) {
        if let Some(failed) = self.pages.as_mut().and_then(|pages| pages.failed.take()) {
            let console = console.clone();
            readers.spawn(async move {
                if let Ok(why) = failed.await {
                    console.push(why);
                }
            });
        }
        if let Ok(mut lines) = self.process.output(Since::Kept) {
            let console = console.clone();
            readers.spawn(async move {
                while let Some(line) = lines.next().await {
                    console.push(line.text);
                }
            });
        }
    }

    pub(super) async fn save(&mut self, hardware: &Hardware) -> io::Result<()> {
        self.api.patch("/vm", json!({ "state": "Paused" })).await?;
        let how = if self.is_based { "Diff" } else { "Full" };
        let content = json!({
            "snapshot_type": how,
            "snapshot_path": self.place.told(&hardware.state),
            "mem_file_path": self.place.told(&hardware.memory),
        });
        let saved = async {
            self.api.put("/snapshot/create", content).await?;
            self.place.take_out(&hardware.memory)?;
            self.place.take_out(&hardware.state)?;
            fs::write(hardware.dir.join(KEY), key(&self.version))
        };
        if let Err(error) = saved.await {
            self.go_back().await?;
            return Err(error);
        }
        Ok(())
    }

    /// Has a machine that was saved run on after all.
    pub(super) async fn go_back(&mut self) -> io::Result<()> {
        Ok(self.api.patch("/vm", json!({ "state": "Resumed" })).await?)
    }

    pub(super) async fn load(&mut self, hardware: &Hardware) -> io::Result<()> {
        let saved = fs::read_to_string(hardware.dir.join(KEY))?;
        let own = key(&self.version);
        if saved != own {
            let why = format!(
                "the machine was suspended by {}, and this is {}: it has to boot",
                saved.replace('\n', ", "),
                own.replace('\n', ", ")
            );
            return Err(io::Error::other(why));
        }
        let backend = match self.memory {
            MemoryBackend::File => json!({
                "backend_type": "File",
                "backend_path": self.place.told(&hardware.memory),
            }),
            MemoryBackend::Uffd => {
                self.pages = Some(self.bring_pages(hardware)?);
                json!({ "backend_type": "Uffd", "backend_path": PAGES })
            }
        };
        let mut content = json!({
            "snapshot_path": self.place.told(&hardware.state),
            "mem_backend": backend,
            "track_dirty_pages": true,
            "resume_vm": false,
        });
        if let Some(fields) = content.as_object_mut() {
            if let (Some(tap), true) = (&self.tap, hardware.network) {
                let overrides = json!([{ "iface_id": "eth0", "host_dev_name": tap }]);
                fields.insert("network_overrides".to_owned(), overrides);
            }
            if number(&self.version) >= SETS_CLOCK {
                fields.insert("clock_realtime".to_owned(), true.into());
            }
        }
        if let Err(error) = self.api.put("/snapshot/load", content).await {
            let failed = self.pages.as_mut().and_then(|pages| pages.failed.as_mut());
            return Err(match failed.and_then(|failed| failed.try_recv().ok()) {
                Some(why) => io::Error::other(why),
                None => error.into(),
            });
        }
        self.is_based = true;
        Ok(())
    }

    /// Has pages brought from the memory file from now on. When that ends before Firecracker does, so does Firecracker: its machine would
    /// stand still for ever.
    fn bring_pages(&self, hardware: &Hardware) -> io::Result<Bringing> {
        let dir = fs::File::open(&self.place.dir)?;
        let name = short(&dir, PAGES);
        let listener = std::os::unix::net::UnixListener::bind(&name)?;
        self.place.own(&name)?;
        let (pages, outcome) = Pages::serve(listener, &hardware.memory)?;
        let (fails, failed) = oneshot::channel();
        let (process, mut watch) = (self.process.clone(), JoinSet::new());
        watch.spawn(async move {
            let why = match outcome.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_gone) => "what brought them has failed".to_owned(),
            };
            let _ = fails.send(format!(
                "the pages of the machine's memory cannot be brought: {why}"
            ));
            process.kill().await;
        });
        Ok(Bringing {
            _pages: pages,
            failed: Some(failed),
            _watch: watch,
        })
    }

    pub(super) async fn go_on(&mut self, channel: &mut Channel) -> io::Result<()> {
        self.api.patch("/vm", json!({ "state": "Resumed" })).await?;
        // Its connection has died with the last run, and it opens another.
        let connected = tokio::select! {
            connected = tokio::time::timeout(CONNECTS_WITHIN, self.connect(channel)) => connected,
            exit = self.process.wait() => return Err(io::Error::other(format!("Firecracker {exit}"))),
        };
        connected.map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Opens the API, as soon as it listens.
async fn open(dir: &fs::File, process: &process::Machine) -> io::Result<Api> {
    let begin = Instant::now();
    loop {
        match Api::connect(&short(dir, API)).await {
            Ok(api) => return Ok(api),
            Err(error) if begin.elapsed() > LISTENS_WITHIN => return Err(error),
            Err(_not_yet) => {}
        }
        tokio::select! {
            () = sleep(LOOK_AGAIN) => {}
            exit = process.wait() => return Err(io::Error::other(format!("Firecracker {exit} before it listened"))),
        }
    }
}

async fn configure(
    api: &mut Api,
    program: &Program,
    hardware: &Hardware,
    place: &Place,
) -> Result<(), ApiError> {
    let machine = json!({
        "vcpu_count": 1,
        "mem_size_mib": hardware.memory_bytes >> 20,
        "track_dirty_pages": true,
    });
    api.put("/machine-config", machine).await?;
    let mut args = format!(
        "console=ttyS0 quiet loglevel=1 reboot=k panic=-1 random.trust_cpu=on rdinit={}",
        super::initrd::INIT
    );
    if !hardware.guest_args.is_empty() {
        args.push_str(" --");
    }
    for arg in &hardware.guest_args {
        args.push(' ');
        args.push_str(&arg.to_string_lossy());
    }
    let boot = json!({
        "kernel_image_path": place.told(&hardware.kernel),
        "initrd_path": place.told(&hardware.initrd),
        "boot_args": args,
    });
    api.put("/boot-source", boot).await?;
    for (number, disk) in hardware.disks.iter().enumerate() {
        let drive = json!({
            "drive_id": format!("disk{number}"),
            "path_on_host": place.told(disk),
            "is_root_device": false,
            "is_read_only": false,
        });
        api.put(&format!("/drives/disk{number}"), drive).await?;
    }
    if let (Some(tap), true) = (&program.tap, hardware.network) {
        let card = json!({ "iface_id": "eth0", "host_dev_name": tap });
        api.put("/network-interfaces/eth0", card).await?;
    }
    let vsock = json!({ "guest_cid": GUEST_CID, "uds_path": VSOCK });
    api.put("/vsock", vsock).await?;
    api.put("/entropy", json!({})).await
}

/// What a snapshot belongs to, one a line: version of Firecracker, model of the processor, the host's kernel.
fn key(version: &str) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unknown processor", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Firecracker {version}\n{model}\nLinux {}", kernel.trim())
}

/// The first two numbers of a version; 0 where there are none.
fn number(version: &str) -> (u64, u64) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(number("1.9.0") < SETS_CLOCK);
        assert!(number("1.16.1-dev") >= SETS_CLOCK && number("2.0") >= SETS_CLOCK);
        assert!(number("what") < SETS_CLOCK);
    }

    #[test]
    fn a_key_names_what_a_snapshot_depends_on() {
        let key = key("1.16.0");
        assert!(key.starts_with("Firecracker 1.16.0\n"), "{key}");
        assert_eq!(key.lines().count(), 3, "{key}");
    }
}
