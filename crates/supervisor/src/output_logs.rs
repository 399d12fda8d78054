//! What workloads write, kept in a file for each object: `logs/output` in its data directory, the newest, and `output.1`, what
//! came before; each at most [`MAX_BYTES`].
//!
//! One thread writes for all objects of a process, so that no disk can stop an actor; what comes faster than the disk takes
//! it is dropped, and how much is said in its place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::rotated_file::{self, RotatedFile};

/// Size at which a file is put aside.
pub const MAX_BYTES: u64 = 4 << 20;
/// Lines that wait for the disk at most.
const WAITING: usize = 8_192;
/// Files that are open at most.
const MAX_OPEN: usize = 64;

/// The newest lines of the object in `data`.
#[must_use]
pub fn newest(data: &Path) -> PathBuf {
    data.join("logs").join("output")
}

/// The lines before them.
#[must_use]
pub fn before(data: &Path) -> PathBuf {
    rotated_file::before(&newest(data))
}

struct Entry {
    data: PathBuf,
    text: String,
}

/// Keeps lines of all objects of a process. The thread starts with the first line.
#[derive(Debug, Default)]
pub struct OutputLogs(RefCell<Option<Sending>>);

/// The way to the thread.
#[derive(Debug)]
struct Sending {
    entries: SyncSender<Entry>,
    dropped: u64,
}

impl OutputLogs {
    /// Keeps a line of the object in `data`, soon; `at` is its time as text.
    pub fn keep(&self, data: &Path, at: &str, line: &str) {
        let mut sending = self.0.borrow_mut();
        let sending = sending.get_or_insert_with(Sending::start);
        let lost = match sending.dropped {
            0 => String::new(),
            dropped => {
                format!("{at} (suijuris: {dropped} lines of this process were lost: the disk was too slow)\n")
            }
        };
        let entry = Entry {
            data: data.to_owned(),
            text: format!("{lost}{at} {line}\n"),
        };
        match sending.entries.try_send(entry) {
            Ok(()) => sending.dropped = 0,
            Err(_full_or_over) => sending.dropped += 1,
        }
    }
}

impl Sending {
    fn start() -> Self {
        let (entries, waiting) = sync_channel(WAITING);
        // Without a thread nothing is kept, and all else goes on.
        let _ = std::thread::Builder::new()
            .name("logs".to_owned())
            .stack_size(128 << 10)
            .spawn(move || write(&waiting));
        Self { entries, dropped: 0 }
    }
}

fn write(waiting: &Receiver<Entry>) {
    let mut files: HashMap<PathBuf, RotatedFile> = HashMap::new();
    while let Ok(Entry { data, text }) = waiting.recv() {
        if files.len() >= MAX_OPEN && !files.contains_key(&data) {
            files.clear();
        }
        if append(&mut files, &data, &text).is_err() {
            // Perhaps the directory is gone or the disk is full: the next line tries again.
            files.remove(&data);
        }
    }
}

fn append(files: &mut HashMap<PathBuf, RotatedFile>, data: &Path, text: &str) -> io::Result<()> {
    let mut file = match files.remove(data) {
        Some(open) => open,
        None => open(data)?,
    };
    file.write(text.as_bytes())?;
    files.insert(data.to_owned(), file);
    Ok(())
}

fn open(data: &Path) -> io::Result<RotatedFile> {
    match DirBuilder::new().mode(0o700).create(data.join("logs")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut options = rotated_file::appending();
    options.custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    RotatedFile::open(newest(data), options, MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_nothing_is_lost_of_the_newest() {
        let temp = tempfile::tempdir().unwrap();
        let mut files = HashMap::new();
        let line = "x".repeat(1 << 20);
        for _ in 0..6 {
            append(&mut files, temp.path(), &line).unwrap();
        }
        append(&mut files, temp.path(), "last\n").unwrap();
        let size = |path: PathBuf| path.metadata().unwrap().len();
        assert_eq!(size(before(temp.path())), MAX_BYTES);
        assert_eq!(size(newest(temp.path())), (2 << 20) + 5);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = newest(temp.path()).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
