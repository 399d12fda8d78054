//! Files of an object that is being received: written as they come, gone on with where their connection was cut, and held, once all
//! of one is here, to the digest that its sender named. What nobody goes on with is swept.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use suijuris_api::Problem;
use suijuris_api::daemon::{PartState, Receiving};
use suijuris_core::ObjectId;
use suijuris_custody::chain;
use suijuris_vehicle::Driver;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use super::{NOTE, Noted, bad, damaged, discard, not_durable};
use crate::serve::catalog::{entries, note, write};
use crate::serve::roster::Roster;
use crate::volume;

/// Bytes that are written at once, and time until the next of them come.
const CHUNK: usize = 256 << 10;
const NEXT_WITHIN: Duration = Duration::from_secs(60);

/// How long what came of an object is kept for its owner to go on with.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// Between two looks for what is kept no longer.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Objects of which something is kept at most.
const MAX_KEPT: usize = 64;

/// A part of what is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::serve) enum Part {
    Capsule,
    Volume,
}

impl Part {
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Capsule => "object.sui",
            Self::Volume => "object.sui.volume",
        }
    }
}

/// Which file a body is of, and where in it that begins, as its sender says. One without a digest is whole, and begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) struct Begins {
    sha256: Option<String>,
    offset: u64,
}

impl Begins {
    /// # Errors
    /// In words: no digest, or one that must be there and is not.
    pub(in crate::serve) fn read(sha256: Option<&str>, offset: u64) -> Result<Self, Problem> {
        let is_digest = |text: &str| {
            let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            digits && text.len() == 64
        };
        match sha256 {
            Some(text) if !is_digest(text) => Err(bad("`sha256` is no digest: 64 hexadecimal digits are")),
            None if offset > 0 => Err(bad("say with `offset` which file it is of, in `sha256`")),
            _ => Ok(Self {
                sha256: sha256.map(str::to_owned),
                offset,
            }),
        }
    }
}

/// Bodies on their way, one a file: whoever begins again takes it over from a connection of which nobody knows yet that it was cut.
#[derive(Debug, Default)]
pub(in crate::serve) struct Uploads(RefCell<BTreeMap<(ObjectId, Part), Rc<UnderWay>>>);

#[derive(Debug, Default)]
struct UnderWay {
    /// How often it was begun.
    begun: Cell<u64>,
    again: Notify,
    turn: std::sync::Arc<Mutex<()>>,
}

/// The right to write one file.
struct Upload {
    under_way: Rc<UnderWay>,
    number: u64,
    _turn: OwnedMutexGuard<()>,
}

impl Upload {
    /// Resolves once somebody else sends the same.
    async fn is_cut(&self) {
        while self.under_way.begun.get() == self.number {
            self.under_way.again.notified().await;
        }
    }
}

impl Uploads {
    async fn begin(&self, object: ObjectId, part: Part) -> Upload {
        let under_way = self.0.borrow_mut().entry((object, part)).or_default().clone();
        let number = under_way.begun.get() + 1;
        under_way.begun.set(number);
        under_way.again.notify_waiters();
        let turn = under_way.turn.clone().lock_owned().await;
        Upload {
            under_way,
            number,
            _turn: turn,
        }
    }

    /// Cuts what is on its way of this object; what has come is on the disk when this returns.
    pub(super) async fn end(&self, object: ObjectId) {
        for part in [Part::Capsule, Part::Volume] {
            drop(self.begin(object, part).await);
        }
    }

    fn is_busy(&self, object: ObjectId) -> bool {
        let mut uploads = self.0.borrow_mut();
        uploads.retain(|_, under_way| Rc::strong_count(under_way) > 1);
        uploads.keys().any(|(busy, _)| *busy == object)
    }
}

/// Which file it is of which a part has come.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    sha256: String,
}

/// Where a file is while it comes, and once it is whole.
struct Place<'a> {
    dir: &'a Path,
    part: Part,
}

impl Place<'_> {
    fn whole(&self) -> PathBuf {
        self.dir.join(self.part.file())
    }

    fn partial(&self) -> PathBuf {
        self.dir.join(format!("{}.part", self.part.file()))
    }

    fn note(&self) -> String {
        format!("{}.json", self.part.file())
    }

    fn state(&self) -> PartState {
        let of = note::<Of>(&self.dir.join(self.note())).ok();
        let length = |path: PathBuf| fs::metadata(path).ok().map(|found| found.len());
        let whole = length(self.whole());
        let partial = || of.as_ref().and_then(|_| length(self.partial()));
        PartState {
            bytes: whole.or_else(partial).unwrap_or_default(),
            whole: whole.is_some(),
            sha256: of.map(|of| of.sha256),
        }
    }

    fn remove(&self) {
        for path in [self.whole(), self.partial(), self.dir.join(self.note())] {
            let _ = fs::remove_file(path);
        }
    }

    /// The file, open where the body begins; nothing where all of it is here.
    fn open(&self, begins: &Begins) -> Result<Option<File>, Problem> {
        let there = self.state();
        let same = begins.sha256.is_some() && there.sha256 == begins.sha256;
        if same && there.whole {
            return Ok(None);
        }
        let has = if same { there.bytes } else { 0 };
        if begins.offset != 0 && begins.offset != has {
            return Err(
                Problem::new(409, "wrong_offset", "The file does not go on there").with_detail(format!(
                    "{has} bytes of it are here: ask again how many (`GET /v1/receive/ID`), and send what follows"
                )),
            );
        }
        if !same {
            self.remove();
            if self.part == Part::Capsule {
                // It goes with another state, if with any.
                let part = Part::Volume;
                Place { part, ..*self }.remove();
            }
            if let Some(sha256) = begins.sha256.clone() {
                let noted = write(self.dir, &self.note(), &Of { sha256 });
                noted.map_err(|error| not_durable(&chain(&error)))?;
            }
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        options.truncate(begins.offset == 0);
        let opened = options.open(self.partial()).and_then(|mut file| {
            file.seek(SeekFrom::Start(begins.offset))?;
            Ok(file)
        });
        opened.map(Some).map_err(|error| not_durable(&error.to_string()))
    }

    /// All of it has come: it is what its digest says, and gets its name.
    async fn finish(&self, begins: &Begins) -> Result<(), Problem> {
        if let Some(sha256) = &begins.sha256 {
            let partial = self.partial();
            let found = tokio::task::spawn_blocking(move || volume::sha256_of(&partial)).await;
            let found = found.map_err(|error| not_durable(&error.to_string()))?;
            if *sha256 != found.map_err(|error| not_durable(&error.to_string()))? {
                self.remove();
                return Err(damaged(
                    "the file is not the one that its digest names: send it again from its beginning"
                        .to_owned(),
                ));
            }
        }
        fs::rename(self.partial(), self.whole()).map_err(|error| not_durable(&error.to_string()))
    }
}

impl<D: Driver> Roster<D> {
    /// How much of an object that was offered is here.
    pub(in crate::serve) fn received(&self, object: &str) -> Result<Receiving, Problem> {
        let (object, dir, _) = self.noted(object)?;
        let state = |part| Place { dir: &dir, part }.state();
        Ok(Receiving {
            object: object.to_string(),
            capsule: state(Part::Capsule),
            volume: state(Part::Volume),
        })
    }

    /// Writes a part of an object that was offered. Cut off, what has come of it stays, where its sender named its digest; dropping the future
    /// would lose some of that.
    pub(in crate::serve) async fn receive_part(
        &self,
        object: &str,
        part: Part,
        begins: Begins,
        body: Incoming,
    ) -> Result<(), Problem> {
        let (object, dir, _) = self.noted(object)?;
        self.is_not_arriving(object)?;
        let upload = self.uploads.begin(object, part).await;
        let busy = || {
            let mut problem = Problem::new(503, "not_now", "Other objects are being received");
            problem.detail = "ask again in a moment".to_owned();
            problem.retry_after = Some(5);
            problem
        };
        let _turn = self.receiving_at_once.try_acquire().map_err(|_| busy())?;
        let place = Place { dir: &dir, part };
        let Some(file) = place.open(&begins)? else {
            return Ok(());
        };
        if let Err(problem) = write_all(file, begins.offset, body, &upload).await {
            if begins.sha256.is_none() {
                place.remove();
            }
            return Err(problem);
        }
        place.finish(&begins).await
    }

    /// Refuses another object where too much is kept of others.
    pub(super) fn has_room(&self, object: ObjectId) -> Result<(), Problem> {
        self.sweep();
        let own = self.receiving(object);
        let others = entries(&self.receiving_dir()).unwrap_or_default();
        if others.iter().filter(|(_, dir)| *dir != own).count() < MAX_KEPT {
            return Ok(());
        }
        let mut problem = Problem::new(503, "not_now", "Too many objects are being received");
        problem.detail =
            "ask again once some of them have arrived: what nobody goes on with is kept for a day".to_owned();
        problem.retry_after = Some(60);
        Err(problem)
    }

    /// Removes what nobody goes on with, and what came from an owner who is listed no more.
    fn sweep(&self) {
        for (name, dir) in entries(&self.receiving_dir()).unwrap_or_default() {
            let object = name.parse::<ObjectId>().ok();
            let is_at_work = |object| self.uploads.is_busy(object) || self.leaving.borrow().contains(&object);
            if object.is_some_and(is_at_work) || self.is_kept(&dir) {
                continue;
            }
            if let Err(error) = discard(&dir) {
                self.say("not_durable", format!("{}: {error}", dir.display()));
            }
        }
    }

    fn is_kept(&self, dir: &Path) -> bool {
        let Ok(noted) = note::<Noted>(&dir.join(NOTE)) else {
            return false;
        };
        let listed = noted.by.iter().any(|key| self.receive.receive.contains(key));
        listed && last_change(dir).is_some_and(is_recent)
    }
}

/// When something last came.
fn last_change(dir: &Path) -> Option<SystemTime> {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let files = entries(dir).unwrap_or_default().into_iter();
    files.filter_map(|(_, path)| modified(path)).max()
}

fn is_recent(at: SystemTime) -> bool {
    // What is of the future was kept a moment ago, by another clock.
    at.elapsed().map_or(true, |age| age < KEPT)
}

/// Sweeps what nobody goes on with, at once and from time to time, until the daemon ends.
pub(in crate::serve) async fn sweep_received<D: Driver>(roster: Weak<Roster<D>>) {
    loop {
        let Some(roster) = roster.upgrade().filter(|roster| !roster.is_stopping()) else {
            return;
        };
        roster.sweep();
        drop(roster);
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Writes a body to a file from where that stands, durably, while the daemon goes on. What came before it was cut is written too.
async fn write_all(mut file: File, offset: u64, mut body: Incoming, upload: &Upload) -> Result<(), Problem> {
    let mut all = offset;
    let mut waiting = BytesMut::new();
    let over = loop {
        // Asked for once more, it is somebody else's.
        let frame = tokio::select! {
            frame = tokio::time::timeout(NEXT_WITHIN, body.frame()) => frame,
            () = upload.is_cut() => break Err(bad("it is being sent once more")),
        };
        match frame {
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    waiting.extend_from_slice(&bytes);
                }
            }
            Ok(Some(Err(error))) => break Err(bad(&format!("the request broke off: {error}"))),
            Ok(None) => break Ok(()),
            Err(_late) => {
                break Err(
                    Problem::new(408, "request_timeout", "The request did not come in time")
                        .with_detail("send the rest of it"),
                );
            }
        }
        if waiting.len() >= CHUNK {
            file = append(file, &mut all, &mut waiting).await?;
        }
    };
    file = append(file, &mut all, &mut waiting).await?;
    over?;
    sync(file).await
}

async fn append(mut file: File, all: &mut u64, waiting: &mut BytesMut) -> Result<File, Problem> {
    *all = all.saturating_add(waiting.len() as u64);
    if *all > volume::MAX_BYTES {
        return Err(
            Problem::new(413, "body_too_large", "It is too large").with_detail("move it with --to-dir")
        );
    }
    let bytes: Bytes = waiting.split().freeze();
    let written = tokio::task::spawn_blocking(move || file.write_all(&bytes).map(|()| file));
    let written = written.await.map_err(|error| not_durable(&error.to_string()))?;
    written.map_err(|error| not_durable(&error.to_string()))
}

async fn sync(file: File) -> Result<(), Problem> {
    let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
    let synced = synced.map_err(|error| not_durable(&error.to_string()))?;
    synced.map_err(|error| not_durable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sha256: &str, offset: u64) -> Begins {
        Begins::read(Some(&sha256.repeat(64)), offset).unwrap()
    }

    #[test]
    fn a_file_is_gone_on_with_where_it_ends_and_another_one_begins_anew() {
        let temp = tempfile::tempdir().unwrap();
        let place = Place {
            dir: temp.path(),
            part: Part::Volume,
        };
        let mut file = place.open(&of("a", 0)).unwrap().unwrap();
        file.write_all(b"12345").unwrap();
        assert_eq!((place.state().bytes, place.state().whole), (5, false));
        for wrong in [4, 6] {
            let problem = place.open(&of("a", wrong)).unwrap_err();
            assert_eq!(problem.code, "wrong_offset", "{wrong}");
        }
        assert_eq!(place.open(&of("b", 5)).unwrap_err().code, "wrong_offset");
        let mut file = place.open(&of("a", 5)).unwrap().unwrap();
        file.write_all(b"678").unwrap();
        assert_eq!(fs::read(place.partial()).unwrap(), b"12345678");
        let _other = place.open(&of("b", 0)).unwrap().unwrap();
        assert_eq!(place.state().bytes, 0);
        assert_eq!(place.state().sha256, Some("b".repeat(64)));
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for wrong in ["", "ab", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
            assert!(Begins::read(Some(wrong), 0).is_err(), "{wrong}");
        }
        assert!(Begins::read(None, 1).is_err());
        assert!(Begins::read(None, 0).is_ok());
    }
}
