//! The first process of a virtual machine: it prepares the machine, starts the program, and turns the lights out.
//!
//! Executed by the kernel from the machine's initial file system, with [`MODULES`] beside it; a program that carries it calls
//! [`main`]. It decides nothing: the driver outside says what runs. If it ends, the kernel panics and the emulator exits,
//! which the driver sees.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::system::RebootCommand;
use suijuris_sys::link::Outlet;
use suijuris_sys::{ChildSelector, descriptors, ended_child, link, network, random};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::image::Image;
use crate::kept::Kept;
use crate::port::{Port, wait_for};
use crate::program::Program;
use crate::session::{Session, StreamEnd};
use crate::wire::{
    Copied, Decoder, Ended, Finder, Frame, Mark, Mount, Now, Order, Report, STDERR, STDOUT, Start, words,
};

/// The argument by which a program learns that it is to be the first process.
pub const WORD: &str = "__guest";

/// Where the kernel's modules lie, named so that their order is that in which they are loaded.
pub const MODULES: &str = "/modules";

/// Where the file system of an image is mounted, and the disks that are taken into it; the program sees neither place.
const IMAGE: &str = "/image";
const DISKS: &str = "/disks";

/// How long what the program wrote last may take to leave after its end, and then the report of it.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);

/// Frames between the reader and the loop at most.
const FRAMES: usize = 64;

/// Where an ext4 file system says that it is one, and its name with the length of that.
const MAGIC_AT: usize = 1024 + 0x38;
const LABEL_AT: usize = 1024 + 0x78;
const LABEL: usize = 16;

/// Type, place, flags and options of the mounts that programs expect.
const MOUNTS: [(&str, &str, MsFlags, Option<&str>); 5] = {
    let quiet = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
    let dead = quiet.union(MsFlags::MS_NOEXEC);
    [
        ("proc", "/proc", dead, None),
        ("sysfs", "/sys", dead, None),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755")),
        (
            "devpts",
            "/dev/pts",
            MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
            Some("mode=0620,ptmxmode=0666"),
        ),
        ("tmpfs", "/dev/shm", quiet, Some("mode=1777")),
    ]
};

/// Runs the machine to its end. Without one of its own, it refuses.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if std::process::id() != 1 || arguments.into_iter().next().is_some() {
        eprint("this is the first process of a virtual machine, and nothing else");
        return ExitCode::from(2);
    }
    if let Err(error) = live() {
        // To the console, which the driver outside reads.
        eprint(&format!("the machine cannot go on: {error}"));
    }
    nix::unistd::sync();
    match rustix::system::reboot(RebootCommand::PowerOff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn eprint(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "suijuris: {text}");
}

fn live() -> io::Result<()> {
    for (kind, place, flags, options) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), flags, options)?;
    }
    // In memory like all of the first file system; what the machine was given may lie there.
    for (place, mode) in [("/run", 0o755), ("/tmp", 0o1777)] {
        fs::create_dir_all(place)?;
        fs::set_permissions(place, fs::Permissions::from_mode(mode))?;
    }
    load_modules(Path::new(MODULES))?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&tokio, serve())
}

fn load_modules(dir: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for path in names {
        let loaded = rustix::system::finit_module(&fs::File::open(&path)?, c"", 0);
        if let Err(errno) = loaded
            && errno != rustix::io::Errno::EXIST
        {
            // What needs it says so; its absence may not matter.
            eprint(&format!("cannot load {}: {errno}", path.display()));
        }
    }
    Ok(())
}

/// The running program.
struct Running {
    pid: i32,
    outlet: Option<Outlet>,
    outputs: JoinSet<()>,
    mounted: Vec<PathBuf>,
    /// Where it is told how the program ended, of a machine that outlives its driver.
    kept: Option<Rc<Kept>>,
}

async fn serve() -> io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    let port = Rc::new(Port::open()?);
    let (session, mut wanted) = Session::new();
    let (came, mut frames) = mpsc::channel(FRAMES);
    let mut tasks = JoinSet::new();
    let pauses = Rc::new(Pauses::default());
    let mark = Rc::new(Cell::new(None));
    {
        let (port, session, mark) = (port.clone(), session.clone(), mark.clone());
        let pauses = pauses.clone();
        tasks.spawn_local(async move { read(&port, &session, &came, &pauses, &mark).await });
    }
    let writing = port.clone();
    let mut writer = JoinSet::new();
    let last = words(&Report::Paused).map_err(io::Error::other)?.encode();
    writer.spawn_local(async move {
        while let Some(bytes) = wanted.recv().await {
            let asked = pauses.asked.get();
            writing.write(&bytes).await?;
            // What would be said now could get lost with the channel.
            if bytes == last {
                pauses.over(asked).await;
            }
        }
        io::Result::Ok(())
    });
    say(&session, &Report::Ready).await?;
    let mut running: Option<Running> = None;
    let mut links = JoinSet::new();
    let ended = loop {
        tokio::select! {
            frame = frames.recv() => {
                let Some(frame) = frame else {
                    let why = match tasks.join_next().await {
                        Some(Ok(Err(error))) => error.to_string(),
                        _ => "it has ended".to_owned(),
                    };
                    return Err(io::Error::other(format!("the channel out of the machine is broken: {why}")));
                };
                match (frame, &running) {
                    (Came::Order(Order::Start(start)), None) => match begin(&start, &session) {
                        Ok(begun) => {
                            mark.set(start.mark);
                            say(&session, &Report::Started).await?;
                            running = Some(begun);
                        }
                        Err(error) => {
                            say(&session, &Report::Failed { why: error.to_string() }).await?;
                            drop(session);
                            tasks.shutdown().await;
                            let _ = timeout(LAST_WORDS_WITHIN, writer.join_next()).await;
                            return Ok(());
                        }
                    },
                    (Came::Order(Order::Signal(number)), Some(running)) => {
                        let number = nix::sys::signal::Signal::try_from(number);
                        if let Ok(number) = number {
                            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.pid), number);
                        }
                    }
                    (Came::Order(Order::Pause), _) => {
                        nix::unistd::sync();
                        say(&session, &Report::Paused).await?;
                    }
                    (
                        Came::Link(end),
                        Some(Running {
                            outlet: Some(outlet), ..
                        }),
                    ) => match outlet.open() {
                        Ok(socket) => {
                            socket.set_nonblocking(true)?;
                            links.spawn_local(end.carry(tokio::net::UnixStream::from_std(socket)?));
                        }
                        Err(_closed) => end.cut_off().await,
                    },
                    (Came::Link(end), _) => end.cut_off().await,
                    (Came::Order(_), _) => {}
                }
            }
            _ = children.recv() => {
                if let Some(ended) = reap(running.as_ref().map(|running| running.pid)) {
                    break ended;
                }
            }
        }
    };
    if let Some(mut running) = running {
        // The program's namespace is gone, and with it whoever held the other ends.
        let outputs = async { while running.outputs.join_next().await.is_some() {} };
        let _ = timeout(LAST_WORDS_WITHIN, outputs).await;
        running.outputs.shutdown().await;
        links.shutdown().await;
        nix::unistd::sync();
        for place in running.mounted.iter().rev() {
            let _ = umount2(place, MntFlags::empty());
        }
        if let (Some(kept), Some(mark)) = (&running.kept, mark.get()) {
            let _ = timeout(LAST_WORDS_WITHIN, kept.exit(&mark, ended)).await;
        }
    }
    say(&session, &Report::Exited(ended)).await?;
    tasks.shutdown().await;
    drop(session);
    // The driver ends the machine when it has heard; who does not hear is not waited for.
    let _ = timeout(LAST_WORDS_WITHIN, writer.join_next()).await;
    Ok(())
}

/// Pauses of the machine, each over when the next order to go on comes.
#[derive(Debug, Default)]
struct Pauses {
    /// How many were over when the newest was asked for.
    asked: Cell<u64>,
    over: watch::Sender<u64>,
}

impl Pauses {
    fn begin(&self) {
        self.asked.set(*self.over.borrow());
    }

    fn end(&self) {
        self.over.send_modify(|over| *over += 1);
    }

    /// Waits until the one is over that was asked for then.
    async fn over(&self, asked: u64) {
        // Its sender is here.
        let _ = self.over.subscribe().wait_for(|over| *over > asked).await;
    }
}

/// What the reader passes on.
enum Came {
    Order(Order),
    /// Begun before what comes for it is read.
    Link(StreamEnd),
}

async fn read(
    port: &Port,
    session: &Session,
    came: &mpsc::Sender<Came>,
    pauses: &Pauses,
    mark: &Cell<Option<Mark>>,
) -> io::Result<()> {
    let (mut decoder, mut finder) = (Decoder::default(), Finder::default());
    // What a driver left unfinished makes no sense until the next one begins.
    let mut deaf = false;
    loop {
        let bytes = port.read().await?;
        let mut bytes = bytes.as_slice();
        if let Some(mark) = mark.get()
            && let Some(after) = finder.after(&mark, bytes)
        {
            (bytes, decoder, deaf) = (after, Decoder::default(), false);
            session.cut_all();
            pauses.end();
            session.send_bytes(mark.bytes().to_vec()).await;
        }
        if deaf {
            continue;
        }
        decoder.feed(bytes);
        match take(&mut decoder, session, came, pauses, mark).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(_nonsense) if mark.get().is_some() => deaf = true,
            Err(error) => return Err(error),
        }
    }
}

/// Takes what is there of whole frames; whether anybody hears of more.
async fn take(
    decoder: &mut Decoder,
    session: &Session,
    came: &mpsc::Sender<Came>,
    pauses: &Pauses,
    mark: &Cell<Option<Mark>>,
) -> io::Result<bool> {
    while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
        let news = match session.take(frame).map_err(io::Error::other)? {
            Some(Frame::Words(words)) => match serde_json::from_slice(&words).map_err(io::Error::other)? {
                // Before any byte that follows.
                Order::Resumed(now) => {
                    set(&now);
                    pauses.end();
                    continue;
                }
                Order::Copied(copied) => {
                    become_copy(&copied, session);
                    mark.set(Some(copied.mark));
                    pauses.end();
                    say(session, &Report::Started).await?;
                    continue;
                }
                order => {
                    if order == Order::Pause {
                        pauses.begin();
                    }
                    Came::Order(order)
                }
            },
            Some(Frame::Open(id)) => Came::Link(session.begin(id)),
            Some(_) | None => continue,
        };
        if came.send(news).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn say(session: &Session, report: &Report) -> io::Result<()> {
    session.send(words(report).map_err(io::Error::other)?).await;
    Ok(())
}

/// Sets the clock, and lets randomness go its own way from here on.
fn set(now: &Now) {
    let time = rustix::time::Timespec {
        tv_sec: now.wall_ms.div_euclid(1_000),
        tv_nsec: now.wall_ms.rem_euclid(1_000) * 1_000_000,
    };
    if let Err(errno) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time) {
        eprint(&format!("cannot set the clock: {errno}"));
    }
    if let Err(error) = random::reseed(&now.seed) {
        eprint(&format!("cannot renew the random numbers: {error}"));
    }
}

/// This machine is another one from here on: what spoke with the one that it is a copy of is over.
fn become_copy(copied: &Copied, session: &Session) {
    set(&copied.now);
    session.cut_all();
    if let Err(errno) = rustix::system::sethostname(copied.hostname.as_bytes()) {
        eprint(&format!("cannot set the host name: {errno}"));
    }
}

fn begin(start: &Start, session: &Session) -> io::Result<Running> {
    set(&start.now);
    // What resolves its own name, and the machine's.
    let _ = rustix::system::sethostname(start.hostname.as_bytes());
    fs::create_dir_all("/etc")?;
    if !Path::new("/etc/hosts").exists() {
        fs::write("/etc/hosts", format!("127.0.0.1 localhost {}\n", start.hostname))?;
    }
    suijuris_sys::mounts::loopback_up()?;
    if start.network {
        join_network()?;
    }
    if let Some(most) = start.processes {
        limit_processes(most)?;
    }
    let (mounted, image) = mount_all(start)?;
    let kept = match start.mark {
        Some(_) => Some(Rc::new(Kept::open()?)),
        None => None,
    };
    let mut outputs = JoinSet::new();
    let mut files = vec![(descriptors::null()?, 0)];
    for ((wanted, stream), number) in start.outputs.into_iter().zip([STDOUT, STDERR]).zip(1..) {
        if !wanted {
            files.push((descriptors::null()?, number));
            continue;
        }
        let (reader, writer) = io::pipe()?;
        let reader = OwnedFd::from(reader);
        descriptors::set_nonblocking(std::os::fd::AsFd::as_fd(&reader))?;
        let reader = pipe::Receiver::from_owned_fd(reader)?;
        match &kept {
            Some(kept) => outputs.spawn_local(kept.clone().carry(reader)),
            None => outputs.spawn_local(session.begin(stream).carry_out(reader)),
        };
        files.push((writer.into(), number));
    }
    let mut outlet = None;
    if let Some(number) = start.link {
        let (ours, theirs) = link::pair()?;
        files.push((theirs, number));
        outlet = Some(ours);
    }
    let pid = Program::of(start, image)?.start(files)?;
    Ok(Running {
        pid,
        outlet,
        outputs,
        mounted,
        kept,
    })
}

/// The emulator's own network, which leads to the host's: addresses are always the same there.
fn join_network() -> io::Result<()> {
    let there = wait_for(|| Path::new("/sys/class/net/eth0").exists().then_some(()));
    if there.is_none() {
        let why = "no network card: the kernel needs virtio_net";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    let [own, mask, gateway] = [[10, 0, 2, 15], [255, 255, 255, 0], [10, 0, 2, 2]].map(Ipv4Addr::from);
    network::configure("eth0", own, mask, gateway)?;
    fs::create_dir_all("/etc")?;
    if !Path::new("/etc/resolv.conf").exists() {
        fs::write("/etc/resolv.conf", "nameserver 10.0.2.3\n")?;
    }
    Ok(())
}

/// So many processes and threads more than the kernel has now.
fn limit_processes(most: u32) -> io::Result<()> {
    let threads = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .count();
    let most = u64::from(most) + u64::try_from(threads).unwrap_or(0);
    // The kernel keeps none lower.
    fs::write("/proc/sys/kernel/threads-max", most.max(20).to_string())
}

/// Mounts what the machine has: for a program in an image where that takes it from, else where the program finds it. What is
/// mounted, and the image.
fn mount_all(start: &Start) -> io::Result<(Vec<PathBuf>, Option<Image>)> {
    let Some(label) = &start.root else {
        let mounted = start.mounts.iter().map(mount_one).collect::<io::Result<_>>()?;
        return Ok((mounted, None));
    };
    let mut image = Image::new(PathBuf::from(IMAGE));
    let mut mounted = vec![mount_disk(label, Path::new(IMAGE), MsFlags::MS_NODEV)?];
    for (number, asked) in start.mounts.iter().enumerate() {
        match asked {
            Mount::Tmpfs { to, size_bytes } => image.add_memory(to, *size_bytes),
            Mount::Disk { label, to, read_only } => {
                let at = PathBuf::from(format!("{DISKS}/{number}"));
                mounted.push(mount_disk(label, &at, flags(*read_only))?);
                image.add(&at, to)?;
            }
        }
    }
    for (from, to) in &start.given {
        image.add(from, to)?;
    }
    Ok((mounted, Some(image)))
}

const fn flags(read_only: bool) -> MsFlags {
    let quiet = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
    match read_only {
        true => quiet.union(MsFlags::MS_RDONLY),
        false => quiet,
    }
}

fn mount_disk(label: &str, to: &Path, flags: MsFlags) -> io::Result<PathBuf> {
    fs::create_dir_all(to)?;
    let device = wait_for(|| find_disk(label)).ok_or_else(|| {
        let why = format!("no disk `{label}`: the kernel needs virtio_blk");
        io::Error::new(io::ErrorKind::NotFound, why)
    })?;
    mount(Some(&device), to, Some("ext4"), flags, Some("noinit_itable")).map_err(|errno| {
        let why = format!("cannot mount the disk for {}: {}", to.display(), errno.desc());
        io::Error::new(io::Error::from(errno).kind(), why)
    })?;
    Ok(to.to_owned())
}

fn mount_one(asked: &Mount) -> io::Result<PathBuf> {
    match asked {
        Mount::Tmpfs { to, size_bytes } => {
            fs::create_dir_all(to)?;
            let options = format!("mode=0755,size={size_bytes}");
            mount(
                Some("tmpfs"),
                to,
                Some("tmpfs"),
                flags(false),
                Some(options.as_str()),
            )?;
            Ok(to.clone())
        }
        Mount::Disk { label, to, read_only } => mount_disk(label, to, flags(*read_only)),
    }
}

/// The device with the file system of this name.
fn find_disk(label: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/block").ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let device = Path::new("/dev").join(entry.file_name());
        let mut start = Vec::new();
        let superblock = LABEL_AT + LABEL;
        let opened = fs::File::open(&device).ok()?;
        opened
            .take(u64::try_from(superblock).ok()?)
            .read_to_end(&mut start)
            .ok()?;
        (label_of(&start)? == label).then_some(device)
    })
}

/// The name of the ext4 file system that begins like this (`Documentation/filesystems/ext4/super.rst` of the kernel).
fn label_of(start: &[u8]) -> Option<&str> {
    if start.get(MAGIC_AT..MAGIC_AT + 2)? != [0x53, 0xef] {
        return None;
    }
    let label = start.get(LABEL_AT..LABEL_AT + LABEL)?;
    let end = label.iter().position(|byte| *byte == 0).unwrap_or(LABEL);
    std::str::from_utf8(label.get(..end)?).ok()
}

/// Takes whoever has ended off the process table; how the program did, if it is among them.
fn reap(program: Option<i32>) -> Option<Ended> {
    let mut ended = None;
    while let Ok(Some(exit)) = ended_child(ChildSelector::Any, true) {
        if Some(exit.pid) == program {
            ended = Some(match exit.exited {
                true => Ended::Code(exit.status),
                false => Ended::Signal(exit.status),
            });
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_known_by_its_name() {
        let mut start = vec![0; LABEL_AT + LABEL];
        assert_eq!(label_of(&start), None, "no ext4");
        start[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(label_of(&start), Some(""));
        start[LABEL_AT..LABEL_AT + 10].copy_from_slice(b"suijuris-1");
        assert_eq!(label_of(&start), Some("suijuris-1"));
        start[LABEL_AT..].fill(b'x');
        assert_eq!(label_of(&start), Some("x".repeat(LABEL).as_str()));
        assert_eq!(label_of(&start[..LABEL_AT]), None, "too short");
    }
}
