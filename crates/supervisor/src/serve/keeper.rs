//! What keeps one object: a task that opens it, runs its actor, and opens it again after a pause where that ended for a
//! reason that may pass.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use suijuris_core::activation::Stop;
use suijuris_core::lineage::Phase as Recorded;
use suijuris_custody::chain;
use suijuris_custody::claim::{Answer, Claim, Means, fresh_id};
use suijuris_door::PreparedBundle;
use suijuris_store::{Depth, Reader, Sizes, Writer};
use suijuris_vehicle::Driver;

use super::entry::{Entry, Status, label};
use super::roster::Roster;
use crate::actor::{ActorError, Input, Left, ObjectActor, Resting};
use crate::destinations;
use crate::machine::Front;
use crate::machine_notes::MachineNote;
use crate::paths::ObjectPaths;

/// Time before an object is opened again that could not be, or whose actor failed; twice as long each time, up to the most.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// An object that is open and claimed.
pub(super) struct Opened {
    pub(super) writer: Writer,
    pub(super) claim: Claim,
    pub(super) prepared: Arc<PreparedBundle>,
}

/// Why an object is not opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    Departed,
    Lost(String),
    Broken(String),
}

impl<D: Driver> Roster<D> {
    /// Opens an object that somebody waits for.
    pub(super) async fn open_wanted(&self, paths: &ObjectPaths) -> Result<Opened, NotOpened> {
        let _turn = self.opening_wanted.acquire().await;
        self.open(paths).await
    }

    /// Opens an object and claims it for resting.
    async fn open(&self, paths: &ObjectPaths) -> Result<Opened, NotOpened> {
        self.open_to(paths, false).await
    }

    /// Opens an object that departed from here and may come back, or that has come.
    pub(super) async fn open_departed(&self, paths: &ObjectPaths) -> Result<Opened, NotOpened> {
        self.open_to(paths, true).await
    }

    async fn open_to(&self, paths: &ObjectPaths, departed: bool) -> Result<Opened, NotOpened> {
        let broken = |error: &dyn std::error::Error| NotOpened::Broken(chain(error));
        let home = paths.home();
        let back = home.path().to_owned();
        let back = tokio::task::spawn_blocking(move || suijuris_vehicle::vm::recover(&back)).await;
        // What a virtual machine had when its daemon ended, and no daemon has taken over.
        back.map_err(|error| broken(&error))?
            .map_err(|error| broken(&error))?;
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(home.path().join("volume")).ok();
            std::fs::create_dir_all(home.run_dir()).ok();
            Writer::open(&home, Depth::Tail, Sizes::default())
        });
        let opened = opened.await.map_err(|error| broken(&error))?;
        let (writer, _recovery) = opened.map_err(|error| broken(&error))?;
        let (id, phase) = {
            let state = writer.published();
            (state.head().bundle, state.head().phase)
        };
        if phase == Recorded::Departed && !departed {
            // It is whoever arrives first: a claim of ours would stand in their way.
            return Err(NotOpened::Departed);
        }
        let known = self.prepared.borrow().get(&id).and_then(Weak::upgrade);
        let prepared = match known {
            Some(prepared) => prepared,
            None => {
                let bundle = writer.bundles().bundle(&id).map_err(|error| broken(&error))?;
                self.prepare(&bundle).map_err(NotOpened::Broken)?
            }
        };
        let means = self.means().map_err(|error| broken(&error))?;
        let claim = Claim::open(means, &prepared.bundle().manifest, &writer);
        let now = self.services.clock.reading().wall;
        match claim.rest(&writer, now).await.map_err(|error| broken(&error))? {
            Answer::Refused(copy) => Err(NotOpened::Lost(copy.words())),
            Answer::Ours | Answer::Unasked(_) => Ok(Opened {
                writer,
                claim,
                prepared,
            }),
        }
    }

    fn means(&self) -> Result<Option<Means>, getrandom::Error> {
        let Some(depot) = &self.depot else { return Ok(None) };
        Ok(Some(Means {
            service: self.witness.clone(),
            depot: depot.clone(),
            id: fresh_id()?,
            who: self.who.clone(),
        }))
    }

    /// An object as its machine, which an earlier process started, has it.
    async fn left(&self, entry: &Entry, machine: MachineNote) -> Result<Left, String> {
        let home = entry.paths.home();
        let reader = tokio::task::spawn_blocking(move || Reader::open(&home, Depth::Tail));
        let reader = reader.await.map_err(|error| error.to_string())?;
        let reader = reader.map_err(|error| chain(&error))?;
        let bundle = reader.bundles().bundle(&reader.state().head().bundle);
        let prepared = self.prepare(&bundle.map_err(|error| chain(&error))?)?;
        let means = self.means().map_err(|error| chain(&error))?;
        Ok(Left {
            claim: Claim::beside(means, &prepared.bundle().manifest, &reader),
            paths: entry.paths.clone(),
            reader,
            prepared,
            url: self.url(&entry.origin),
            instance: entry.origin.instance.clone(),
            served_as: Some(self.served_as(&entry.origin)),
            foreign: self.foreign(&entry.paths),
            machine,
        })
    }
}

/// Keeps one object until it is stopped or lost.
pub(super) async fn keep<D: Driver>(roster: Rc<Roster<D>>, entry: Rc<Entry>, mut opened: Option<Opened>) {
    let mut pause = AGAIN_AFTER;
    if opened.is_none()
        && let Some(Ok(Some(status))) = attach(&roster, &entry).await
    {
        entry.status.send_replace(status);
        return;
    }
    loop {
        if roster.is_stopping() {
            entry.status.send_replace(Status::Stopped);
            return;
        }
        if roster.is_archived(&entry) {
            match roster.brought_back(&entry).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => {
                    roster.say_broken(&label(&entry.origin), &why);
                    entry.status.send_replace(Status::Broken(why));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_AT_MOST);
                    continue;
                }
            }
        }
        let open = match opened.take() {
            Some(open) => Ok(open),
            None => {
                // Whoever waits for an object does not wait for those that nobody asks for.
                let _turn = tokio::select! {
                    () = entry.wanted.notified() => roster.opening_wanted.acquire().await,
                    turn = roster.opening.acquire() => turn,
                };
                roster.open(&entry.paths).await
            }
        };
        let ran = match open {
            Ok(open) => run(&roster, &entry, open).await,
            Err(NotOpened::Lost(why)) => {
                roster.say_broken(
                    &label(&entry.origin),
                    &format!("another copy is the object: {why}"),
                );
                entry.status.send_replace(Status::Lost(why));
                return;
            }
            Err(NotOpened::Departed) => {
                entry.status.send_replace(Status::Departed);
                return hand_out(&roster, &entry).await;
            }
            Err(NotOpened::Broken(why)) => Err(why),
        };
        match ran {
            Ok(Some(Status::Departed)) => {
                entry.status.send_replace(Status::Departed);
                return hand_out(&roster, &entry).await;
            }
            Ok(Some(Status::Stopped)) if entry.archiving.take() && !roster.is_stopping() => {
                roster.archive(&entry).await;
                continue;
            }
            Ok(Some(lost)) => {
                entry.status.send_replace(lost);
                return;
            }
            Ok(None) => pause = AGAIN_AFTER,
            Err(why) => {
                roster.say_broken(&label(&entry.origin), &why);
                entry.status.send_replace(Status::Broken(why));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_AT_MOST);
        entry.status.send_replace(Status::Opening);
    }
}

/// Packs what departed of its own accord; what fails is tried again as long as the daemon runs.
async fn hand_out<D: Driver>(roster: &Rc<Roster<D>>, entry: &Entry) {
    let mut pause = AGAIN_AFTER;
    let (places, depot) = (&roster.services.destinations, roster.depot.as_deref());
    while let Err(why) = destinations::hand_out(&entry.paths, places, depot, &roster.wrap).await {
        roster.say_broken(
            &label(&entry.origin),
            &format!("it has departed and is not packed: {why}"),
        );
        let mut status = entry.status.subscribe();
        let stopped = status.wait_for(|status| matches!(status, Status::Stopped));
        if tokio::time::timeout(pause, stopped).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(AGAIN_AT_MOST);
    }
}

/// Goes on with an object whose machine an earlier process started, where there is one.
async fn attach<D: Driver>(
    roster: &Rc<Roster<D>>,
    entry: &Rc<Entry>,
) -> Option<Result<Option<Status>, String>> {
    let notes = roster.services.machines.as_ref()?;
    let machine = notes.read(entry.origin.object)?;
    let left = match roster.left(entry, machine).await {
        Ok(left) => left,
        // What cannot be read cannot be gone on with: whoever opens it finds out why.
        Err(_) => return None,
    };
    let (actor, handle) = ObjectActor::attaching(roster.services.clone(), left);
    entry.status.send_replace(Status::Live(handle.clone()));
    let ran = ran(actor).await;
    entry.awake.set(handle.awake());
    entry.epoch.set(handle.epoch());
    Some(ran)
}

async fn ran<D: Driver>(actor: ObjectActor<D>) -> Result<Option<Status>, String> {
    let ended = actor.run().await.map_err(|error: ActorError| chain(&error))?;
    Ok(Some(if ended.lost {
        Status::Lost("another copy is the object".to_owned())
    } else {
        Status::Stopped
    }))
}

/// Runs an actor to its end; how the object is then, where it is not to be opened again.
async fn run<D: Driver>(
    roster: &Rc<Roster<D>>,
    entry: &Rc<Entry>,
    open: Opened,
) -> Result<Option<Status>, String> {
    let Opened {
        writer,
        claim,
        prepared,
    } = open;
    let resting = Resting {
        paths: entry.paths.clone(),
        writer,
        prepared,
        claim,
        front: Front::Shared,
        url: roster.url(&entry.origin),
        instance: entry.origin.instance.clone(),
        served_as: Some(roster.served_as(&entry.origin)),
        foreign: roster.foreign(&entry.paths),
    };
    let failed = |error: ActorError| chain(&error);
    let (actor, handle) = ObjectActor::new(roster.services.clone(), resting).map_err(failed)?;
    if roster.is_stopping() {
        let _ = handle.send(Input::Stop(Stop::Now)).await;
    }
    entry.status.send_replace(Status::Live(handle.clone()));
    let ran = ran(actor).await;
    entry.awake.set(handle.awake());
    entry.epoch.set(handle.epoch());
    if matches!(ran, Ok(Some(Status::Stopped))) && handle.closed() == Some(Recorded::Departed.as_str()) {
        return Ok(Some(Status::Departed));
    }
    ran
}
