//! A depot as one copy of an object uses it: what it wrote is remembered, and its presence held, for every process that
//! holds the object one after the other.
//!
//! One stands where the way to the depot begins, one more in each machine that is behind a relay. Both forget what was
//! written when the copy takes a fresh name: it does so where a copy of its memory may be running on. Which mark is whose
//! is `core::witness`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::witness::{HolderId, Mark, Written};

use crate::pass::Passes;
use crate::{Answer, Call, Depot, Epoch, Error, Marks, Presence, PresenceGuard, Swap, Version};

/// The depot of one copy of one object.
#[derive(Debug)]
pub struct Session {
    depot: Arc<dyn Depot>,
    copy: Mutex<Copy>,
    registered: tokio::sync::Mutex<Option<Registered>>,
    /// Epochs of other objects that were verified: their histories are read once for each, and one after the other, whoever
    /// shows tokens of how many.
    epochs: tokio::sync::Mutex<HashMap<ObjectId, Epoch>>,
}

/// Objects whose epochs are remembered, at most.
const MAX_EPOCHS: usize = 256;

/// Under which name the depot was told that the copy runs, and what holds that.
struct Registered {
    object: ObjectId,
    name: HolderId,
    held: Option<Arc<dyn PresenceGuard>>,
    /// It is being held otherwise. Goes on when whoever asked for it waits no more, and ends before anything else is done.
    moving: Option<Answer<'static, Arc<dyn PresenceGuard>>>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("name", &self.name)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl Registered {
    /// Until what is under way has ended. Cancel safe.
    async fn settle(&mut self) -> Result<(), Error> {
        if let Some(moving) = &mut self.moving {
            let moved = moving.await;
            self.moving = None;
            self.held = Some(moved?);
        }
        Ok(())
    }

    /// Holds it shared with others, or not, where it is not so yet; what holds it then. Cancel safe.
    async fn hold(
        &mut self,
        depot: &Arc<dyn Depot>,
        shared: bool,
    ) -> Result<Option<Arc<dyn PresenceGuard>>, Error> {
        // One that failed has changed nothing.
        let _ = self.settle().await;
        if let Some(held) = self.held.clone().filter(|held| held.is_shared() != shared) {
            let (depot, object, name) = (Arc::clone(depot), self.object, self.name);
            self.moving = Some(Box::pin(async move {
                if shared {
                    depot.share(object, name, held).await
                } else {
                    depot.part(object, name, held).await
                }
            }));
            self.settle().await?;
        }
        Ok(self.held.clone())
    }
}

#[derive(Debug, Default)]
struct Copy {
    name: Option<HolderId>,
    written: Written,
}

impl Session {
    /// The depot of a copy that has written nothing yet and has no name.
    #[must_use]
    pub fn new(depot: Arc<dyn Depot>) -> Self {
        Self {
            depot,
            copy: Mutex::default(),
            registered: tokio::sync::Mutex::default(),
            epochs: tokio::sync::Mutex::default(),
        }
    }

    /// The name that this copy goes by; nothing before it registered.
    #[must_use]
    pub fn name(&self) -> Option<HolderId> {
        self.copy().name
    }

    /// What a machine has to inherit so that the object counts as held until that has ended too; nothing before this copy
    /// registered, or where the depot has no means.
    ///
    /// # Errors
    /// The copy rests with others ([`Session::rest`]), and the depot does not part it from them.
    pub async fn presence_guard(&self) -> Result<Option<Arc<dyn PresenceGuard>>, Error> {
        match &mut *self.registered.lock().await {
            Some(registered) => registered.hold(&self.depot, false).await,
            None => Ok(None),
        }
    }

    /// No machine runs the object, nor is one suspended: its presence is one of many that the process holds with one
    /// descriptor, where the depot has a means, until [`Session::presence_guard`] is asked for. Nothing before this copy
    /// registered. Cancel safe.
    ///
    /// # Errors
    /// As the depot; the presence is held as before.
    pub async fn rest(&self) -> Result<(), Error> {
        match &mut *self.registered.lock().await {
            Some(registered) => registered.hold(&self.depot, true).await.map(drop),
            None => Ok(()),
        }
    }

    fn copy(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the copy is called so; under a fresh name what it wrote under another is not its own any more.
    fn call(&self, name: HolderId) {
        let mut copy = self.copy();
        if copy.name != Some(name) {
            copy.name = Some(name);
            copy.written.forget();
        }
    }

    /// A mark is on its way. One that still has a former name was forgotten before it was sent.
    fn note(&self, mark: &Mark) {
        let mut copy = self.copy();
        let named = mark.holder.as_ref().map(|holder| holder.id);
        if named.is_none() || copy.name.is_none() || named == copy.name {
            copy.written.note(mark);
        }
    }

    async fn register_as(
        &self,
        object: ObjectId,
        name: HolderId,
    ) -> Result<Option<Arc<dyn PresenceGuard>>, Error> {
        self.call(name);
        let mut registered = self.registered.lock().await;
        if let Some(registered) = &mut *registered {
            let _ = registered.settle().await;
        }
        let held = match &*registered {
            Some(registered) if registered.name == name => return Ok(registered.held.clone()),
            Some(Registered {
                name: former,
                held: Some(held),
                ..
            }) => self.depot.rename(object, *former, Arc::clone(held), name).await?,
            Some(Registered { held: None, .. }) | None => self.depot.register(object, name).await?,
        };
        *registered = Some(Registered {
            object,
            name,
            held: held.clone(),
            moving: None,
        });
        Ok(held)
    }
}

impl Passes for Session {
    fn pass<'a, T: Send + 'a>(
        &'a self,
        _: Call,
        run: impl FnOnce(&'a dyn Depot) -> Answer<'a, T> + Send + 'a,
    ) -> Answer<'a, T> {
        run(&*self.depot)
    }
}

impl Depot for Session {
    fn describe(&self) -> String {
        self.depot.describe()
    }

    fn pace(&self) -> Duration {
        self.depot.pace()
    }

    fn presence_is_a_lock(&self) -> bool {
        self.depot.presence_is_a_lock()
    }

    fn epoch(&self, object: ObjectId) -> Answer<'_, Option<Epoch>> {
        if self.depot.is_relayed() {
            return self.depot.epoch(object);
        }
        Box::pin(async move {
            let Some((mark, _)) = self.depot.mark(object).await? else {
                return Ok(None);
            };
            let mut epochs = self.epochs.lock().await;
            if let Some(known) = epochs.get(&object).filter(|known| known.number == mark.epoch) {
                return Ok(Some(*known));
            }
            let found = self.depot.epoch(object).await?;
            if let Some(found) = found {
                if epochs.len() >= MAX_EPOCHS {
                    epochs.clear();
                }
                epochs.insert(object, found);
            }
            Ok(found)
        })
    }
}

impl Marks for Session {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.depot.mark(object)
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        self.note(mark);
        self.depot.swap(mark, expected)
    }

    /// Held by this as well, until another name registers or this is dropped.
    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        Box::pin(self.register_as(object, holder))
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.depot.presence(object, holder)
    }

    fn is_own_write<'a>(&'a self, mark: &'a Mark) -> Answer<'a, bool> {
        if self.copy().written.has(mark) {
            return Box::pin(std::future::ready(Ok(true)));
        }
        self.depot.is_own_write(mark)
    }
}
