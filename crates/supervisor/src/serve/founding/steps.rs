//! The steps of a founding, done.

use std::rc::Rc;
use std::sync::Arc;

use suijuris_core::class::founding::{Answer, End, Entry as Name, Founding, Next, Stage, Step, replaceable};
use suijuris_custody::chain;
use suijuris_depot::{Depot, NameSwap, Presence, Version};
use suijuris_vehicle::Driver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Birth, Failed, durable, is_of};
use crate::serve::catalog::Catalog;
use crate::serve::entry::Entry;
use crate::serve::keeper::{NotOpened, Opened};
use crate::serve::roster::Roster;

/// Tries of a step whose answer was lost.
const TRIES: u32 = 5;

/// Pause between two of them.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

impl<D: Driver> Roster<D> {
    /// Does the steps of a founding to its end; the instance, or none where the key is another's.
    pub(super) async fn walk(
        self: &Rc<Self>,
        founding: Founding,
        birth: &mut Birth,
    ) -> Result<Option<Rc<Entry>>, Failed> {
        let walked = self.walk_on(founding, birth).await;
        if walked.is_err() {
            // Whoever asks next finds nobody at work.
            if let Some(staging) = birth.staging.take() {
                let _ = durable(staging).await;
            }
            let _ = self.claimed(birth).await;
            birth.opened = None;
        }
        walked
    }

    async fn walk_on(
        self: &Rc<Self>,
        mut founding: Founding,
        birth: &mut Birth,
    ) -> Result<Option<Rc<Entry>>, Failed> {
        loop {
            let step = match founding.next() {
                Next::Do(step) => step,
                Next::Over(End::Founded(object)) => {
                    self.claimed(birth).await?;
                    return Ok(Some(self.founded(object, birth)));
                }
                Next::Over(End::Taken(name)) => return Ok(self.taken(&name, birth)),
            };
            let answer = self.step(step, birth).await?;
            founding = founding.after(answer);
        }
    }

    async fn step(self: &Rc<Self>, step: Step, birth: &mut Birth) -> Result<Answer, Failed> {
        match step {
            // Written already, and made durable before it is published: see `stage`.
            Step::Stage => Ok(Answer::Done),
            Step::Create(name) => self.put(name, None, birth).await,
            Step::Replace { old, new } => {
                let version = match &birth.read {
                    Some((read, version)) if *read == old => Some(version.clone()),
                    _ => None,
                };
                match version {
                    Some(version) => self.put(new, Some(version), birth).await,
                    // Not what was read last: look again.
                    None => self.look(birth, &old).await,
                }
            }
            Step::Publish => {
                self.publish(birth).await?;
                Ok(Answer::Done)
            }
            Step::Discard => {
                // Neither is written to any more.
                if let Some(staging) = birth.staging.take() {
                    let _ = durable(staging).await;
                }
                let _ = self.claimed(birth).await;
                birth.opened = None;
                for dir in [birth.staged.clone(), birth.paths.data.clone()] {
                    // Only what is ours: the other daemon of this key has another directory.
                    if is_of(&dir, birth.object) {
                        self.catalog
                            .discard(&dir)
                            .map_err(|error| Failed::Disk(chain(&error)))?;
                    }
                }
                Ok(Answer::Done)
            }
        }
    }

    /// Puts an entry into the name table by compare-and-swap.
    async fn put(&self, name: Name, expected: Option<Version>, birth: &mut Birth) -> Result<Answer, Failed> {
        let Some(depot) = &self.depot else {
            return Ok(Answer::Done);
        };
        let mut tries = 0;
        let swapped = loop {
            let swapped = depot
                .swap_name(birth.class.id, &birth.key, &name, expected.as_ref())
                .await;
            match swapped {
                Err(error) if error.is_retryable() && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                swapped => break swapped.map_err(Failed::Depot)?,
            }
        };
        match swapped {
            NameSwap::Done(version) => {
                birth.read = Some((name, version));
                Ok(Answer::Done)
            }
            NameSwap::Conflict(None) => {
                birth.read = None;
                Ok(Answer::Gone)
            }
            NameSwap::Conflict(Some((found, version))) => {
                // A lost answer: it was ours that was done.
                let ours = found == name;
                birth.read = Some((found.clone(), version));
                if ours {
                    return Ok(Answer::Done);
                }
                let replaceable = self.replaceable(depot, &found).await;
                Ok(Answer::Taken {
                    entry: found,
                    replaceable,
                })
            }
        }
    }

    /// Reads the entry again, of which `old` was believed.
    async fn look(&self, birth: &mut Birth, old: &Name) -> Result<Answer, Failed> {
        let Some(depot) = &self.depot else {
            return Ok(Answer::Done);
        };
        birth.read = depot
            .name(birth.class.id, &birth.key)
            .await
            .map_err(Failed::Depot)?;
        match birth.read.clone() {
            None => Ok(Answer::Gone),
            Some((found, version)) if found == *old => {
                let new = if found.object == birth.object {
                    found.at(Stage::Founded)
                } else {
                    Name::founding(birth.object, self.holder, self.who.clone())
                };
                self.put_once(new, version, birth).await
            }
            Some((found, _)) => {
                let replaceable = self.replaceable(depot, &found).await;
                Ok(Answer::Taken {
                    entry: found,
                    replaceable,
                })
            }
        }
    }

    async fn put_once(&self, name: Name, version: Version, birth: &mut Birth) -> Result<Answer, Failed> {
        Box::pin(self.put(name, Some(version), birth)).await
    }

    pub(super) async fn replaceable(&self, depot: &Arc<dyn Depot>, name: &Name) -> bool {
        let mark = depot.mark(name.object).await;
        let presence = depot.presence(name.object, name.holder).await;
        // Whoever cannot be asked lives.
        let lives = !matches!(presence, Ok(Presence::Gone));
        match mark {
            Ok(mark) => replaceable(name, mark.is_some(), lives),
            Err(_) => false,
        }
    }

    /// Puts the object where objects are, durably, and begins to claim it there, which writes its mark.
    pub(super) async fn publish(self: &Rc<Self>, birth: &mut Birth) -> Result<(), Failed> {
        if let Some(staging) = birth.staging.take()
            && let Err(failed) = durable(staging).await
        {
            self.withdraw(birth).await;
            return Err(failed);
        }
        if birth.opening.is_some() || birth.opened.is_some() {
            return Ok(());
        }
        let (staged, paths) = (birth.staged.clone(), birth.paths.clone());
        let (tell, there) = oneshot::channel();
        let placed = tokio::task::spawn_blocking(move || {
            if staged.exists() {
                let placed = || {
                    // Nobody may wait any more.
                    let _ = tell.send(());
                };
                Catalog::place_telling(&staged, &paths, placed).map_err(|error| chain(&error))?;
            }
            Ok(())
        });
        let begun = there.await.is_ok();
        if begun {
            birth.opening = Some(self.begin_to_open(birth));
        }
        placed
            .await
            .map_err(|error| Failed::Disk(error.to_string()))?
            .map_err(Failed::Disk)?;
        if !begun {
            birth.opening = Some(self.begin_to_open(birth));
        }
        Ok(())
    }

    fn begin_to_open(self: &Rc<Self>, birth: &Birth) -> JoinHandle<Result<Opened, NotOpened>> {
        let (roster, paths) = (self.clone(), birth.paths.clone());
        tokio::task::spawn_local(async move { roster.open_wanted(&paths).await })
    }

    /// What was begun to be opened is open, and claimed.
    pub(super) async fn claimed(&self, birth: &mut Birth) -> Result<(), Failed> {
        if let Some(opening) = birth.opening.take() {
            let opened = opening.await.map_err(|error| Failed::Disk(error.to_string()))?;
            birth.opened = Some(opened.map_err(Failed::NotOpened)?);
        }
        Ok(())
    }

    /// Takes back an entry whose object could not be made durable: nobody has seen that object.
    async fn withdraw(&self, birth: &mut Birth) {
        if let (Some(depot), Some((name, version))) = (&self.depot, birth.read.take())
            && name.object == birth.object
        {
            // What stays is replaced by whoever asks next.
            let _ = depot.remove_name(birth.class.id, &birth.key, &version).await;
        }
        let _ = self.catalog.discard(&birth.staged);
    }
}
