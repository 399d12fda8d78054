//! The audit log of the API: who asked what, when, and what came of it. One line of JSON for each call that could change or reveal
//! something, and for each that was refused; calls that only looked, and were allowed to, are not in it. Bodies, answers and query
//! values are not either: they may be secrets.
//!
//! Files `audit.log`, `audit.log.1`, … in a directory of the host's data, for its owner alone; the newest 64 MiB.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use axum::extract::Request;
use http::{StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::api::routes::{Needs, Route};
use crate::clock::{now_ms, rfc3339};
use crate::door::Inside;
use crate::host::Inner;

/// Bytes of one file, and how many there are.
const FILE_BYTES: u64 = 8 << 20;
const FILES: u32 = 8;
/// Lines that wait for the disk; whoever asks waits then, too.
const WAITING: usize = 1_024;
/// Most bytes of a path that are kept.
const MAX_PATH: usize = 512;
const NAME: &str = "audit.log";

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Who {
    /// A token, by its id.
    Token { id: String, org: String },
    /// A machine, over its own socket.
    Machine(String),
    /// Whoever may open the control socket.
    Operator,
    /// Nobody whom this host knows.
    Nobody,
}

impl Who {
    /// Whose token a request shows.
    pub(crate) fn of(host: &Inner, headers: &http::HeaderMap) -> Self {
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        match host.tokens.authenticate(shown.unwrap_or_default(), now_ms()) {
            Some(token) => Self::Token {
                id: token.id,
                org: token.org,
            },
            None => Self::Nobody,
        }
    }
}

/// One call.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    at: String,
    who: Who,
    method: String,
    path: String,
    /// What the path asks for, as the table of routes calls it.
    operation: String,
    status: u16,
    /// Whether it only looks.
    #[serde(skip)]
    looks: bool,
}

impl Entry {
    /// A call that was just made.
    pub(crate) fn of(host: &Inner, route: &Route, request: &Request) -> Self {
        let who = match request.extensions().get::<Inside>() {
            Some(inside) => Who::Machine(inside.machine.clone()),
            None => Who::of(host, request.headers()),
        };
        let reveals = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("show_secrets"));
        Self {
            looks: matches!(route.needs, Needs::Read) && !reveals,
            operation: format!("{:?}", route.operation),
            ..Self::made(who, request.method(), request.uri().path())
        }
    }

    /// The same under another name than that of its route, and kept however it ends.
    pub(crate) fn called(mut self, operation: &str) -> Self {
        operation.clone_into(&mut self.operation);
        self.looks = false;
        self
    }

    /// A call of somebody, of no operation.
    pub(crate) fn made(who: Who, method: &http::Method, path: &str) -> Self {
        let mut path = path.to_owned();
        let end = (0..=MAX_PATH.min(path.len()))
            .rev()
            .find(|end| path.is_char_boundary(*end));
        path.truncate(end.unwrap_or_default());
        Self {
            at: rfc3339(now_ms()),
            who,
            method: method.as_str().to_owned(),
            path,
            operation: String::new(),
            status: 0,
            looks: method == http::Method::GET,
        }
    }

    /// The call with what came of it; none where it need not be kept.
    pub(crate) fn ended(mut self, status: StatusCode) -> Option<Self> {
        self.status = status.as_u16();
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        (!self.looks || is_refused).then_some(self)
    }
}

/// Where entries go.
#[derive(Debug)]
pub(crate) struct Audit(mpsc::Sender<Entry>);

impl Audit {
    /// The log in `directory`, which only this user may enter.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let mut log = Log::open(directory)?;
        let (sender, mut entries) = mpsc::channel::<Entry>(WAITING);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                let mut lost = 0_u64;
                while let Some(entry) = entries.blocking_recv() {
                    if lost > 0 {
                        let line = serde_json::json!({ "at": entry.at, "lost": lost }).to_string();
                        if log.write(&line).is_ok() {
                            lost = 0;
                        }
                    }
                    let line = serde_json::to_string(&entry).map_err(io::Error::other);
                    // A full disk does not stop the host; that lines are missing is said in the next one that can be written.
                    if line.and_then(|line| log.write(&line)).is_err() {
                        lost += 1;
                    }
                }
            })?;
        Ok(Self(sender))
    }

    /// Keeps an entry.
    pub(crate) async fn note(&self, entry: Entry) {
        // The thread ends with this.
        let _ = self.0.send(entry).await;
    }
}

#[derive(Debug)]
struct Log {
    directory: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(directory: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(directory.join(NAME))?;
        let bytes = file.metadata()?.len();
        let mut log = Self {
            directory: directory.to_owned(),
            file,
            bytes,
        };
        if bytes > 0 {
            // A line that a daemon died over ends here.
            log.file.write_all(b"\n")?;
            log.bytes += 1;
        }
        Ok(log)
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.bytes.saturating_add(length) > FILE_BYTES {
            self.rotate()?;
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let name = |number: u32| match number {
            0 => self.directory.join(NAME),
            number => self.directory.join(format!("{NAME}.{number}")),
        };
        for number in (0..FILES - 1).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let directory = self.directory.clone();
        *self = Self::open(&directory)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn files_are_the_owners_and_rotate() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path()).unwrap();
        let line = "x".repeat(1 << 20);
        for _ in 0..80 {
            log.write(&line).unwrap();
        }
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        assert_eq!(files.len(), 8);
        for file in &files {
            let found = file.metadata().unwrap();
            assert!(found.len() <= FILE_BYTES && found.mode() & 0o077 == 0, "{file:?}");
        }
        // The next daemon goes on behind it.
        drop(log);
        let before = std::fs::metadata(dir.path().join(NAME)).unwrap().len();
        Log::open(dir.path()).unwrap().write("next").unwrap();
        let text = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert!(text.len() as u64 > before && text.ends_with("\nnext\n"));
    }

    #[test]
    fn what_only_looked_and_was_let_is_not_kept() {
        let look = Entry::made(Who::Nobody, &http::Method::GET, "/v1/apps");
        assert!(look.clone().ended(StatusCode::OK).is_none());
        assert!(look.ended(StatusCode::UNAUTHORIZED).is_some());
        let change = Entry::made(Who::Operator, &http::Method::POST, &"ü".repeat(1_000));
        assert!(change.path.len() <= MAX_PATH);
        assert_eq!(change.ended(StatusCode::OK).unwrap().status, 200);
    }
}
