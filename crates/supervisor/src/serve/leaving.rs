//! An object leaves this daemon: it is put to sleep by its rules, departs by its rules and by a record, and goes into a capsule,
//! to another directory, or away for good.
//!
//! Killed between any two steps the daemon finds the object departed: the same command goes on, or it is taken back. What has
//! to be kept is written and synced before its data goes; its data goes by one rename, and the key becomes a tombstone before
//! the name of the renamed directory is forgotten.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::daemon::{Left, Remove};
use suijuris_api::event::{Stamped, Verdict};
use suijuris_api::owner::SignedRequest;
use suijuris_api::{Event, Problem};
use suijuris_core::activation::{Phase, Stop};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::lineage::{Head, Phase as Recorded};
use suijuris_core::owner_request::Ask;
use suijuris_custody::migrate::Destination;
use suijuris_custody::{chain, record};
use suijuris_store::{Depth, ObjectDir, Reader};
use suijuris_vehicle::Driver;

use super::entry::{Entry, Status};
use super::keeper::{NotOpened, Opened};
use super::roster::Roster;
use crate::actor::{Input, ObjectHandle};
use crate::control::PendingRequest;
use crate::services::STOP_WITHIN;

/// How long an object may take to rest once it said that it sleeps, and to be let go of once it departed.
const RESTS_WITHIN: Duration = Duration::from_secs(120);

/// How a runtime refuses to sleep.
const SLEEP_REFUSED: &str = "refused";

/// The place that rules see where an object is kept by nobody.
const NOWHERE: &str = "nowhere";

/// What owners signed of a leaving.
#[derive(Debug, Default)]
pub(super) struct Word {
    pub(super) sleep: Option<Box<SignedRequest>>,
    pub(super) signed: Option<Box<SignedRequest>>,
}

/// What became of it.
pub(super) enum Going {
    /// It refuses.
    Refused(Verdict),
    /// It has departed, by this record.
    Departed(Box<Head>),
}

/// The place of a capsule, as rules see it.
pub(super) fn capsule_host(provider: &str) -> Host {
    Host::of(Vehicle { provider, class: "" }, None, "")
}

impl<D: Driver> Roster<D> {
    /// Takes an object out of this daemon.
    pub(super) async fn remove(self: &Rc<Self>, entry: &Rc<Entry>, removal: Remove) -> Result<Left, Problem> {
        let _turn = self.turn(entry.origin.object)?;
        let origin = &entry.origin;
        let (place, to) = match (&removal.to, removal.forget) {
            (Some(_), true) => {
                return Err(bad(
                    "nothing is kept of what is forgotten: leave `to` or `forget` out",
                ));
            }
            (_, true) => (NOWHERE.to_owned(), capsule_host(NOWHERE)),
            (Some(file), false) => (absolute(file)?, capsule_host("capsule")),
            (None, false) => ("archive".to_owned(), capsule_host("capsule")),
        };
        let parcel = match removal.forget {
            true => None,
            false => {
                let default = || self.catalog.archived(origin.object);
                let file = removal.to.clone().map_or_else(default, Ok);
                let file = file.map_err(|error| not_durable(&chain(&error)))?;
                if removal.to.is_some() && file.exists() && !matches!(entry.status(), Status::Departed) {
                    return Err(taken(&file));
                }
                Some(self.sealed_parcel(file, removal.seal_to.clone(), true)?)
            }
        };
        let to = Destination { host: to, place };
        let word = Word {
            sleep: removal.sleep,
            signed: removal.signed,
        };
        let mut keeps_key = true;
        let closed = match entry.status() {
            Status::Live(handle) => handle.closed(),
            _ => None,
        };
        if closed == Some(Recorded::Terminated.as_str()) {
            // Its history is closed, and no rule has a say any more.
            self.stop_one(entry).await?;
        } else if removal.force {
            keeps_key = self.go_by_force(entry).await?;
        } else if let Going::Refused(verdict) = self.leave(entry, Ask::Remove, to, word).await? {
            return Ok(Left::refused(verdict));
        }
        let mut left = Left::default();
        if let Some(parcel) = parcel {
            match self.pack(&entry.paths, &parcel).await {
                Ok(packed) => (left.capsule, left.volume) = (Some(parcel.file), packed),
                // What cannot be read is kept as it is.
                Err(_unreadable)
                    if removal.force && matches!(entry.status(), Status::Broken(_) | Status::Lost(_)) =>
                {
                    left.data = Some(self.keep_as_it_is(entry, keeps_key).await?);
                    return Ok(left);
                }
                Err(why) => return Err(not_durable(&why)),
            }
        }
        let aside = self.catalog.set_aside(&entry.paths, origin);
        let aside = aside.map_err(|error| not_durable(&chain(&error)))?;
        self.forget(entry, keeps_key).await?;
        self.catalog
            .discard(&aside)
            .map_err(|error| not_durable(&chain(&error)))?;
        Ok(left)
    }

    pub(super) fn tell(&self, entry: &Entry, event: Event) {
        let at = format!("{:.3}", jiff::Timestamp::now());
        self.services.sink.event(&entry.origin, Stamped { at, event });
    }

    /// Puts the object to sleep and lets it depart, both by its rules; done already where that has happened.
    pub(super) async fn leave(
        &self,
        entry: &Entry,
        ask: Ask,
        to: Destination,
        word: Word,
    ) -> Result<Going, Problem> {
        if !matches!(entry.status(), Status::Departed) {
            let handle = entry.handle().await?;
            if let Some(refused) = put_to_sleep(&handle, word.sleep).await? {
                return Ok(Going::Refused(refused));
            }
            let rests = tokio::time::timeout(RESTS_WITHIN, handle.rests()).await;
            rests.map_err(|_late| late())?;
            let request = PendingRequest::depart(to, ask, word.signed.as_deref());
            match asked(&handle, request).await? {
                Reply::Verdict(verdict) if verdict.outcome != "permit" => return Ok(Going::Refused(verdict)),
                Reply::Verdict(_) => {}
                other => return Err(unexpected(other)),
            }
            let mut status = entry.status.subscribe();
            let gone = status.wait_for(|status| !matches!(status, Status::Live(_)));
            let gone = tokio::time::timeout(RESTS_WITHIN, gone).await;
            gone.map_err(|_late| late())?.map_err(|_over| late())?;
        }
        let head = head_of(entry.paths.home())
            .await
            .map_err(|why| not_durable(&why))?;
        if head.phase != Recorded::Departed {
            return Err(late());
        }
        Ok(Going::Departed(Box::new(head)))
    }

    /// Lets go of an object whatever its rules say, and records that as the host's act; whether its key is this copy's to bury.
    async fn go_by_force(&self, entry: &Rc<Entry>) -> Result<bool, Problem> {
        if matches!(entry.status(), Status::Departed) {
            return Ok(true);
        }
        self.stop_one(entry).await?;
        let opened = match self.open_departed(&entry.paths).await {
            Ok(opened) => opened,
            // Another copy is the object: what is here is nobody's.
            Err(NotOpened::Lost(_)) => return Ok(false),
            // Nothing can be recorded in what cannot be read.
            Err(NotOpened::Broken(_) | NotOpened::Departed) => return Ok(true),
        };
        let at = self.services.clock.reading();
        let now = suijuris_core::time::Ratchet::new(opened.writer.published().head().at).observe(at);
        let reason = format!("removed by its host {} against its rules", self.services.host.id);
        let Opened { writer, claim, .. } = opened;
        let shut = tokio::task::spawn_blocking(move || {
            record::shut_away(&writer, reason, now.at)?;
            let seq = writer.published().head().seq;
            Ok::<_, suijuris_store::StageError>((writer, seq))
        });
        let shut = shut.await.map_err(|error| not_durable(&error.to_string()))?;
        let (writer, seq) = shut.map_err(|error| not_durable(&chain(&error)))?;
        // It goes whether the witness follows or not; who finds the mark behind may restore it.
        let _ = claim.acknowledge(seq).await;
        if let Err(why) = claim.leave(None).await {
            self.say("depot_failed", why);
        }
        drop(writer);
        Ok(true)
    }

    /// Stops the actor of one object: it is asked to sleep, and its machine killed where it does not.
    async fn stop_one(&self, entry: &Entry) -> Result<(), Problem> {
        let Status::Live(handle) = entry.status() else {
            return Ok(());
        };
        // It has ended where it takes nothing.
        let _ = handle.send(Input::Stop(Stop::Graceful(STOP_WITHIN))).await;
        let mut status = entry.status.subscribe();
        let over = status.wait_for(|status| !matches!(status, Status::Live(_)));
        let over = tokio::time::timeout(STOP_WITHIN + RESTS_WITHIN, over).await;
        over.map_err(|_late| late())?.map(drop).map_err(|_over| late())
    }

    /// Moves the data of what cannot be packed to the archive.
    async fn keep_as_it_is(&self, entry: &Entry, keeps_key: bool) -> Result<PathBuf, Problem> {
        let kept = self.catalog.archive(&entry.paths, entry.origin.object);
        let kept = kept.map_err(|error| not_durable(&chain(&error)))?;
        self.forget(entry, keeps_key).await?;
        Ok(kept)
    }

    /// Knows an object no longer; its key stays taken where it is this copy's.
    async fn forget(&self, entry: &Entry, keeps_key: bool) -> Result<(), Problem> {
        self.drop_entry(&entry.origin);
        let Some((class, key)) = &entry.origin.instance else {
            return Ok(());
        };
        let Some(class) = self.class(class) else {
            return Ok(());
        };
        class.forget_key(key);
        if keeps_key {
            self.bury(&class, key, entry.origin.object).await?;
        }
        Ok(())
    }

    /// What an earlier daemon was about to take out.
    pub(super) fn finish_removals(self: &Rc<Self>) -> Result<(), super::catalog::CatalogError> {
        for (class, key, object, path) in self.catalog.aside()? {
            let roster = self.clone();
            tokio::task::spawn_local(async move {
                if let Some(class) = roster.class(&class)
                    && roster.bury(&class, &key, object).await.is_err()
                {
                    // It was told; the next daemon tries again.
                    return;
                }
                if let Err(error) = roster.catalog.discard(&path) {
                    roster.say_broken(&key, &chain(&error));
                }
            });
        }
        Ok(())
    }

    /// The right to let this object leave: one at a time.
    pub(super) fn turn(self: &Rc<Self>, object: suijuris_core::ObjectId) -> Result<Turn<D>, Problem> {
        if !self.leaving.borrow_mut().insert(object) {
            return Err(
                Problem::new(409, "not_now", "The object is leaving or arriving already")
                    .with_detail("wait until that has come to an end"),
            );
        }
        Ok(Turn(self.clone(), object))
    }
}

/// An object is leaving until this is dropped.
pub(super) struct Turn<D: Driver>(Rc<Roster<D>>, suijuris_core::ObjectId);

impl<D: Driver> Drop for Turn<D> {
    fn drop(&mut self) {
        self.0.leaving.borrow_mut().remove(&self.1);
    }
}

/// Asks the object to sleep; its verdict where it does not.
async fn put_to_sleep(
    handle: &ObjectHandle,
    signed: Option<Box<SignedRequest>>,
) -> Result<Option<Verdict>, Problem> {
    if matches!(
        handle.phase(),
        Phase::Resting | Phase::Settling | Phase::BackingOff | Phase::Suspended
    ) {
        return Ok(None);
    }
    let question = match signed {
        Some(signed) => ControlRequest::Owner { signed, patch: None },
        None => ControlRequest::Sleep,
    };
    match asked(handle, PendingRequest::of(question)).await? {
        Reply::Verdict(verdict) if verdict.outcome != "permit" => Ok(Some(verdict)),
        Reply::Error { code, message } if code == SLEEP_REFUSED => Ok(Some(Verdict {
            action: Action::Sleep.to_string(),
            outcome: "refuse".to_owned(),
            rules: Vec::new(),
            reasons: vec![message],
            invariant: None,
            retry_after: None,
            place: "runtime".to_owned(),
        })),
        // It sleeps already, or is about to.
        Reply::Verdict(_) | Reply::Status { .. } => Ok(None),
        other => Err(unexpected(other)),
    }
}

async fn asked(
    handle: &ObjectHandle,
    request: Result<(PendingRequest, tokio::sync::oneshot::Receiver<Reply>), Reply>,
) -> Result<Reply, Problem> {
    let ending = || {
        Problem::new(503, "not_now", "The object is being opened again").with_detail("ask again in a moment")
    };
    let (request, answered) = request.map_err(unexpected)?;
    let sent = handle.send(Input::Request(Box::new(request))).await;
    sent.map_err(|_over| ending())?;
    answered.await.map_err(|_over| ending())
}

/// An answer that ends the matter.
fn unexpected(reply: Reply) -> Problem {
    let (code, message) = match reply {
        Reply::Error { code, message } => (code, message),
        _ => (
            "not_now".to_owned(),
            "another question was answered: ask again".to_owned(),
        ),
    };
    let mut problem = Problem::new(409, "not_now", "The object stays").with_detail(message);
    problem.status = match code.as_str() {
        "bad_request" => 400,
        "not_signed" => 403,
        "not_durable" => 507,
        "unwitnessed" => 503,
        _ => 409,
    };
    problem.code = code;
    problem
}

/// The last record in a directory.
pub(super) async fn head_of(home: ObjectDir) -> Result<Head, String> {
    let read = tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&home, Depth::Tail).map_err(|error| chain(&error))?;
        Ok(reader.state().head().clone())
    });
    read.await.map_err(|error| error.to_string())?
}

pub(super) fn absolute(path: &Path) -> Result<String, Problem> {
    if !path.is_absolute() {
        return Err(bad(
            "write an absolute path: the daemon has a directory of its own",
        ));
    }
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| bad("write a path that is text"))
}

pub(super) fn taken(file: &Path) -> Problem {
    bad(&format!("`{}` exists: name another file", file.display()))
}

pub(super) fn bad(detail: &str) -> Problem {
    Problem::new(400, "bad_request", "The request cannot be understood").with_detail(detail)
}

fn late() -> Problem {
    Problem::new(503, "not_now", "The object did not come to rest in time").with_detail("ask again")
}

pub(super) fn not_durable(why: &str) -> Problem {
    Problem::new(507, "not_durable", "It could not be kept").with_detail(why)
}
