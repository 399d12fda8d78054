//! The output of a detached machine: written to a bounded file by the shim, read as lines by whoever is there.
//!
//! `log` holds the newest, `log.1` what came before; together between one and two [`MAX_BYTES`]. A line of the machine
//! is a line of the file. The reader follows the file by inotify; a reader that lags two files behind misses lines.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use suijuris_sys::descriptors;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::machine::Exit;
use crate::output::{LOOK_AGAIN, Line, Lines, Since, Splitter};

const NEWEST: &str = "log";
const BEFORE: &str = "log.1";
/// Size at which a file is put aside.
const MAX_BYTES: u64 = 1 << 20;
/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// The shim's end: pipes in, a file out. Works in the current directory.
#[derive(Debug)]
pub(super) struct Writer {
    pipes: Vec<Pipe>,
    file: Option<File>,
    size: u64,
    /// Lines that could not be written.
    lost: u64,
}

#[derive(Debug)]
struct Pipe {
    end: OwnedFd,
    splitter: Splitter,
}

impl Writer {
    /// Writes what comes through `pipes`, which are in non-blocking mode.
    pub(super) fn new(pipes: impl IntoIterator<Item = OwnedFd>) -> Self {
        let pipe = |end| Pipe {
            end,
            splitter: Splitter::default(),
        };
        Self {
            pipes: pipes.into_iter().map(pipe).collect(),
            file: None,
            size: 0,
            lost: 0,
        }
    }

    /// The pipes that are open, to be waited for.
    pub(super) fn pipes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.pipes.iter().map(|pipe| &pipe.end)
    }

    /// Takes what is waiting in pipe `index`, at most one chunk. One that ended is gone from the list afterwards.
    pub(super) fn take(&mut self, index: usize) {
        let Some(pipe) = self.pipes.get_mut(index) else {
            return;
        };
        let mut chunk = [0; CHUNK];
        match nix::unistd::read(&pipe.end, &mut chunk) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => self.close(index),
            Ok(length) => {
                let lines = pipe.splitter.push(chunk.get(..length).unwrap_or_default());
                self.write(&lines);
            }
        }
    }

    /// Takes all that is waiting, now that nobody writes any more.
    pub(super) fn finish(&mut self) {
        while let Some(pipe) = self.pipes.first() {
            let waiting = descriptors::poll(&[pipe.end.as_fd()], 0);
            let is_waiting = waiting.is_ok_and(|ready| ready.first() == Some(&true));
            if is_waiting {
                self.take(0);
            } else {
                // A descriptor that was passed out of the machine may keep a pipe open for ever.
                self.close(0);
            }
        }
    }

    fn close(&mut self, index: usize) {
        if index < self.pipes.len() {
            let mut pipe = self.pipes.remove(index);
            self.write(pipe.splitter.finish().as_slice());
        }
    }

    fn write(&mut self, lines: &[Line]) {
        for line in lines {
            let mut text = line.text.clone();
            text.push('\n');
            match self.append(&text) {
                Ok(()) => {}
                // A full disk must not stop the machine.
                Err(_) => self.lost += 1,
            }
        }
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        if self.size >= MAX_BYTES {
            self.file = None;
            fs::rename(NEWEST, BEFORE)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let opened = File::options()
                    .create(true)
                    .append(true)
                    .mode(0o600)
                    .open(NEWEST)?;
                self.size = opened.metadata()?.len();
                self.file.insert(opened)
            }
        };
        let mut out = String::new();
        if self.lost > 0 {
            out = format!("[{} lines could not be kept]\n", self.lost);
        }
        out.push_str(text);
        file.write_all(out.as_bytes())?;
        self.lost = 0;
        self.size += out.len() as u64;
        Ok(())
    }
}

/// Follows the log in machine directory `dir` until the machine has ended and all is read.
pub(super) fn follow(dir: &Path, since: Since, exit: watch::Receiver<Option<Exit>>) -> io::Result<Lines> {
    let changes = watch_directory(dir)?;
    let mut follower = Follower {
        dir: dir.to_owned(),
        file: None,
        splitter: Splitter::default(),
    };
    follower.begin(since)?;
    Ok(Lines::read_by(|readers, sender| {
        readers.spawn(follower.run(changes, exit, sender.clone()));
    }))
}

fn watch_directory(dir: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(dir, flags)?;
    descriptors::watch(inotify.into(), Interest::READABLE)
}

struct Follower {
    dir: PathBuf,
    file: Option<File>,
    splitter: Splitter,
}

impl Follower {
    fn begin(&mut self, since: Since) -> io::Result<()> {
        match since {
            Since::Kept => self.file = [BEFORE, NEWEST].iter().find_map(|name| self.open(name)),
            Since::Now => {
                self.file = self.open(NEWEST);
                if let Some(file) = &mut self.file {
                    io::Seek::seek(file, io::SeekFrom::End(0))?;
                }
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Option<File> {
        File::open(self.dir.join(name)).ok()
    }

    async fn run(
        mut self,
        changes: AsyncFd<OwnedFd>,
        mut exit: watch::Receiver<Option<Exit>>,
        sender: mpsc::Sender<Line>,
    ) {
        loop {
            // Asked before reading: what was written before the end was told is read after it.
            let ended = exit.borrow_and_update().is_some();
            let Some(lines) = self.read() else {
                if ended {
                    break;
                }
                let news = async {
                    tokio::select! {
                        ready = changes.readable() => forget(ready),
                        _ = exit.changed() => {}
                    }
                };
                // No notice is missed for long, whatever becomes of the watch.
                let _ = timeout(LOOK_AGAIN, news).await;
                continue;
            };
            for line in lines {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        }
        if let Some(line) = self.splitter.finish() {
            let _ = sender.send(line).await;
        }
    }

    /// The lines of the next chunk; `None` at the end of what is written.
    fn read(&mut self) -> Option<Vec<Line>> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(file) = &mut self.file {
                match file.read(&mut chunk) {
                    Ok(length) if length > 0 => {
                        return Some(self.splitter.push(chunk.get(..length).unwrap_or_default()));
                    }
                    _ => {}
                }
            }
            // At the end of this file: has it been put aside, a newer one is next.
            let newest = self.open(NEWEST)?;
            let number = |file: &File| file.metadata().map(|metadata| metadata.ino()).ok();
            if self.file.as_ref().and_then(number) == number(&newest) {
                return None;
            }
            self.file = Some(newest);
        }
    }
}

/// Takes the notices off the watch; what they say is seen in the file.
fn forget(ready: io::Result<tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>>) {
    let Ok(mut ready) = ready else { return };
    let mut notices = [0; 4 << 10];
    while nix::unistd::read(ready.get_inner(), &mut notices).is_ok_and(|length| length > 0) {}
    ready.clear_ready();
}
