//! The access log of a process: one JSON line for each request that its objects were asked, refused and answered alike.
//!
//! A thread writes; what comes faster than it writes is dropped, and the next line says how many. Requests that cannot be
//! read, raw connections and the control API are not in it. A request at the door is told by whoever answers it: a gate
//! (`suijuris_gate::access`), or [`PendingConnection`](crate::connection::PendingConnection).

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;
use suijuris_api::access::{Access, Detail};

use crate::events::Origin;
use crate::rotated_file::{self, RotatedFile};

/// Size at which the file is put aside.
pub const MAX_BYTES: u64 = 64 << 20;

/// Lines that wait to be written at most.
const WAITING: usize = 8_192;

/// Time for what waits to be written at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output.
    Stdout,
    /// A file, which is added to.
    File(PathBuf),
}

/// The log of a process, or that there is none. Clones write to the same place.
#[derive(Debug, Clone, Default)]
pub struct AccessLog(Option<Rc<Log>>);

#[derive(Debug)]
struct Log {
    detail: Detail,
    lost: Arc<AtomicU64>,
    writing: RefCell<Option<(SyncSender<Line>, Receiver<()>)>>,
}

/// A line, and how many before it were lost.
#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    lost: u64,
}

/// A request as a line: of which object, and the rest.
#[derive(Serialize)]
struct Told<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(flatten)]
    access: Access,
}

impl AccessLog {
    /// A log in this place, with the queries of requests or without.
    ///
    /// # Errors
    /// The file cannot be written, or the system starts no thread.
    pub fn open(place: Place, detail: Detail) -> io::Result<Self> {
        Self::bounded(place, detail, MAX_BYTES)
    }

    fn bounded(place: Place, detail: Detail, max_bytes: u64) -> io::Result<Self> {
        let to: To = match place {
            Place::Stdout => To::Stdout,
            Place::File(path) => {
                let mut options: OpenOptions = rotated_file::appending();
                // A pipe that nobody reads is an error, and not waited for.
                options.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
                To::File(RotatedFile::open(path, options, max_bytes)?)
            }
        };
        let lost = Arc::new(AtomicU64::new(0));
        let (lines, waiting) = sync_channel(WAITING);
        let (end, over) = sync_channel(1);
        let missing = lost.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                write(to, &waiting, &missing);
                let _ = end.send(());
            })?;
        Ok(Self(Some(Rc::new(Log {
            detail,
            lost,
            writing: RefCell::new(Some((lines, over))),
        }))))
    }

    /// What is told of each request; none where there is no log.
    #[must_use]
    pub fn detail(&self) -> Option<Detail> {
        Some(self.0.as_ref()?.detail)
    }

    /// Writes a line, soon; `origin` is the object that was asked, where there was one.
    pub(crate) fn tell(&self, origin: Option<&Origin>, mut access: Access) {
        let Some(log) = &self.0 else { return };
        if access.at.is_empty() {
            access.at = format!("{:.3}", jiff::Timestamp::now());
        }
        access.lost = access.lost.saturating_add(log.lost.swap(0, Ordering::Relaxed));
        let (lost, instance) = (access.lost, origin.and_then(|origin| origin.instance.as_ref()));
        let told = Told {
            event: "request",
            object: origin.map(|origin| origin.object.to_string()),
            name: origin.map(|origin| origin.name.as_str()),
            class: instance.map(|(class, _)| class.as_str()),
            key: instance.map(|(_, key)| key.as_str()),
            access,
        };
        // Strings and numbers: it is never an error.
        let Ok(mut text) = serde_json::to_vec(&told) else {
            return;
        };
        text.push(b'\n');
        let writing = log.writing.borrow();
        let sent = writing
            .as_ref()
            .is_some_and(|(lines, _)| lines.try_send(Line { text, lost }).is_ok());
        if !sent {
            log.lost.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Waits a moment for what was told to be written. Nothing is written after it.
    pub fn close(&self) {
        let writing = self.0.as_ref().and_then(|log| log.writing.take());
        if let Some((lines, over)) = writing {
            drop(lines);
            let _ = over.recv_timeout(FLUSH_WITHIN);
        }
    }
}

enum To {
    Stdout,
    File(RotatedFile),
}

fn write(mut to: To, waiting: &Receiver<Line>, missing: &AtomicU64) {
    while let Ok(Line { text, lost }) = waiting.recv() {
        let written = match &mut to {
            To::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&text).and_then(|()| out.flush())
            }
            To::File(file) => file.follow().and_then(|()| file.write(&text)),
        };
        // A full disk, or a directory that is gone: the next line tries again.
        if written.is_err() {
            missing.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn paths(file: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap();
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let path = |line: serde_json::Value| line["path"].as_str().unwrap().to_owned();
        text.lines().map(line).map(path).collect()
    }

    #[test]
    fn a_full_log_is_put_aside_and_its_newest_lines_are_whole() {
        const MAX: u64 = 4_096;
        let temp = tempfile::tempdir().unwrap();
        let (newest, before) = (temp.path().join("access"), temp.path().join("access.1"));
        let log = AccessLog::bounded(Place::File(newest.clone()), Detail::Path, MAX).unwrap();
        for number in 0..100 {
            let access = serde_json::json!({
                "at": "", "peer": "127.0.0.1", "version": "1.1", "method": "GET", "host": "a",
                "path": format!("/{number}"), "status": 200, "bytes": 0, "took_ms": 0,
            });
            log.tell(None, serde_json::from_value(access).unwrap());
        }
        log.close();
        let kept = [paths(&before), paths(&newest)].concat();
        let first = 100 - kept.len();
        let expected: Vec<String> = (first..100).map(|number| format!("/{number}")).collect();
        assert_eq!(kept, expected, "no line is lost but the oldest");
        assert!(first > 0, "it was put aside more than once");
        for file in [&before, &newest] {
            let about = file.metadata().unwrap();
            assert!(about.len() < MAX + 1_024, "{}", about.len());
            assert_eq!(about.permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
    }
}
