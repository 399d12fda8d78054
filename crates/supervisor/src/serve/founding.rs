//! Founding an instance on its first use: decided at the door of its class, then founded once, whoever crashes. The order
//! is that of [`suijuris_core::class::founding`]; here its steps are done, and what no other waits for is done beside them:
//!
//! ```text
//! written ─┬─ made durable ─────────────┬─ placed ─┬─ durable ── entry `founded` ─┬─ serves
//!          └─ entry `founding`, if none ┘          └─ opened and claimed: its mark ┘
//! ```
//!
//! The entry `founding` goes beside the disk only where a lock tells whether its holder lives: what a crash leaves there without its object
//! is replaced, or removed by the next daemon.

mod recovery;
mod steps;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::class::founding::{Answer, Entry as Name, Founding, Stage};
use suijuris_core::class::{Instantiation, Key};
use suijuris_core::owner_request::{Ask, Expected, OwnerRequestError};
use suijuris_custody::owner::not_an_owner;
use suijuris_custody::{chain, migrate};
use suijuris_depot::{NameRemoval, PresenceGuard, Version};
use suijuris_store::{BundleStore, Creation, Depth, ObjectDir, Reader, create_telling};
use suijuris_vehicle::Driver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::class_entry::ClassEntry;
use super::entry::Entry;
use super::keeper::{NotOpened, Opened};
use super::roster::Roster;
use crate::connection::PendingConnection;
use crate::events::Origin;
use crate::paths::ObjectPaths;

/// What is being founded, and where it is on its way.
struct Birth {
    class: Rc<ClassEntry>,
    key: Key,
    object: ObjectId,
    staged: PathBuf,
    paths: ObjectPaths,
    /// As last read of the name table.
    read: Option<(Name, Version)>,
    /// Says that we live, while the entry says `founding`.
    _presence: Option<Arc<dyn PresenceGuard>>,
    /// It is being made durable where it is staged.
    staging: Option<JoinHandle<Result<ObjectId, String>>>,
    /// It is being opened and claimed where it is placed.
    opening: Option<JoinHandle<Result<Opened, NotOpened>>>,
    opened: Option<Opened>,
}

/// Why nothing was founded.
#[derive(Debug)]
enum Failed {
    Depot(suijuris_depot::Error),
    Disk(String),
    NotOpened(NotOpened),
}

impl<D: Driver> Roster<D> {
    /// The instance `key` of a class for whoever connects: the one that is here, or one that is founded now.
    pub(super) async fn instance(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        key: &Key,
        connection: &PendingConnection,
    ) -> Result<Rc<Entry>, Problem> {
        loop {
            if let Some(entry) = class.object(key.as_str()).and_then(|object| self.entry(object)) {
                return Ok(entry);
            }
            let under_way = class.founding.borrow().get(key.as_str()).cloned();
            let Some(under_way) = under_way else { break };
            // Somebody founds it: this one waits, and looks again.
            under_way.notified().await;
        }
        if self.is_stopping() {
            return Err(Problem::new(503, "not_now", "The daemon is ending").with_detail("ask again later"));
        }
        let done = Rc::new(tokio::sync::Notify::new());
        class
            .founding
            .borrow_mut()
            .insert(key.as_str().to_owned(), done.clone());
        let founded = self.found(class, key, connection).await;
        class.founding.borrow_mut().remove(key.as_str());
        done.notify_waiters();
        founded
    }

    async fn found(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        key: &Key,
        connection: &PendingConnection,
    ) -> Result<Rc<Entry>, Problem> {
        let placed = self.catalog.instance(&class.note, key).data;
        if placed.exists() {
            return self.take_in_again(class, key, placed).await;
        }
        let peer = connection.peer().ip().to_canonical();
        self.look_for(class, key).await?;
        let decision = self.decide(class, key, peer, connection).await?;
        class.count(peer);
        let _permitted = class.permit();
        let (founding, mut birth) = self
            .stage(class, key, decision)
            .await
            .map_err(|error| self.trouble(class, &error))?;
        self.walk(founding, &mut birth)
            .await
            .map_err(|error| self.trouble(class, &error))?
            .ok_or_else(|| {
                let name = birth.read.as_ref().map(|(name, _)| name);
                not_here(name.map_or("another daemon", |name| &name.who), name)
            })
    }

    /// Refuses a key that is another's already, at the price of one look.
    async fn look_for(&self, class: &ClassEntry, key: &Key) -> Result<(), Problem> {
        let Some(depot) = &self.depot else { return Ok(()) };
        match depot.name(class.id, key).await {
            Ok(Some((name, _))) if name.state != Stage::Founding => Err(not_here(&name.who, Some(&name))),
            Ok(_) => Ok(()),
            Err(error) => {
                self.say_broken(&class.note.name, &chain(&error));
                Err(unreachable())
            }
        }
    }

    /// An instance that is here and could not be taken in before: its founding is gone on with, or it stays as it is.
    async fn take_in_again(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        key: &Key,
        placed: PathBuf,
    ) -> Result<Rc<Entry>, Problem> {
        let object = object_at(&placed).await.map_err(|_said_at_the_start| damaged())?;
        self.go_on(class, key, object, placed)
            .await
            .map_err(|error| self.trouble(class, &error))?;
        let entry = class.object(key.as_str()).and_then(|object| self.entry(object));
        entry.ok_or_else(damaged)
    }

    /// Asks the class's rules, before anything is written.
    async fn decide(
        &self,
        class: &Rc<ClassEntry>,
        key: &Key,
        peer: IpAddr,
        connection: &PendingConnection,
    ) -> Result<Instantiation, Problem> {
        let instances = self.count(class).await?;
        let founding = class.rates(peer, instances)?;
        let reading = self.services.clock.reading();
        let mut door = class.door.borrow_mut();
        let ask = connection
            .ask(door.prepared().bundle())
            .map_err(|refusal| refusal.problem)?;
        let caller = door.caller(ask.credentials(), reading)?;
        let decided = door.decide(key, founding, &caller, Some(ask.request), reading);
        decided.map_err(|decision| door.problem(&decision))
    }

    /// Instances that there are and will be, of all that were permitted so far.
    async fn count(&self, class: &Rc<ClassEntry>) -> Result<u64, Problem> {
        let Some(depot) = &self.depot else {
            return Ok(u64::try_from(class.len()).unwrap_or(u64::MAX));
        };
        loop {
            let settled = class.settled();
            let names = depot.count_names(class.id).await.map_err(|error| {
                self.say_broken(&class.note.name, &chain(&error));
                unreachable()
            })?;
            let unsettled = class.unsettled(settled);
            let instances = names.saturating_add(unsettled);
            if instances < class.max_instances() || unsettled == 0 {
                return Ok(instances);
            }
            // Some of them may be among the names already, or come to nothing.
            class.more_settled(settled).await;
        }
    }

    /// Writes the inception where nobody looks.
    async fn stage(
        &self,
        class: &Rc<ClassEntry>,
        key: &Key,
        decision: Instantiation,
    ) -> Result<(Founding, Birth), Failed> {
        let random = |error: getrandom::Error| Failed::Disk(chain(&error));
        let mut seed = Zeroizing::new([0; 32]);
        let mut nonce = vec![0; 16];
        getrandom::fill(seed.as_mut_slice()).map_err(random)?;
        getrandom::fill(&mut nonce).map_err(random)?;
        let staged = self.catalog.staging(&class.note.name, key).map_err(random)?;
        let bundles = self.catalog.class_dir(&class.note.name);
        let (note, at) = (class.note.clone(), self.services.clock.reading().wall);
        let dir = ObjectDir::at(&staged);
        let (written, object) = oneshot::channel();
        let staging = tokio::task::spawn_blocking(move || {
            let bundle = BundleStore::of(&bundles)
                .files(&note.bundle)
                .map_err(|error| chain(&error))?;
            let creation = Creation {
                name: note.bundle_name,
                controllers: note.controllers,
                threshold: note.threshold,
                nonce,
                parent: None,
                class: Some(decision),
                at,
                bundle,
                seed,
            };
            // Nobody waits where it could not be written.
            let tell = |object| {
                let _ = written.send(object);
            };
            create_telling(&dir, creation, tell).map_err(|error| chain(&error))
        });
        let beside = self
            .depot
            .as_ref()
            .is_some_and(|depot| depot.presence_is_a_lock());
        let (object, staging) = match object.await {
            Ok(object) if beside => (object, Some(staging)),
            _ => (durable(staging).await?, None),
        };
        let founding = Founding::new(object, self.holder, self.who.clone()).after(Answer::Done);
        let mut birth = self.birth(class, key, object, staged).await;
        birth.staging = staging;
        Ok((founding, birth))
    }

    async fn birth(&self, class: &Rc<ClassEntry>, key: &Key, object: ObjectId, staged: PathBuf) -> Birth {
        let presence = match &self.depot {
            // Without one others wait longer before they take the key.
            Some(depot) => depot.register(object, self.holder).await.ok().flatten(),
            None => None,
        };
        Birth {
            class: class.clone(),
            key: key.clone(),
            object,
            staged,
            paths: self.catalog.instance(&class.note, key),
            read: None,
            _presence: presence,
            staging: None,
            opening: None,
            opened: None,
        }
    }

    fn founded(self: &Rc<Self>, object: ObjectId, birth: &mut Birth) -> Rc<Entry> {
        let (class, key) = (birth.class.clone(), birth.key.clone());
        self.serve_instance(&class, &key, object, birth.opened.take())
    }

    /// An instance that was founded before this process.
    pub(super) fn kept(self: &Rc<Self>, class: &ClassEntry, key: &Key, object: ObjectId) {
        self.serve_instance(class, key, object, None);
    }

    fn serve_instance(
        self: &Rc<Self>,
        class: &ClassEntry,
        key: &Key,
        object: ObjectId,
        opened: Option<Opened>,
    ) -> Rc<Entry> {
        let origin = Origin {
            object,
            name: class.note.bundle_name.clone(),
            instance: Some((class.note.name.clone(), key.to_string())),
        };
        class.note_key(key.as_str(), object);
        self.keep(origin, self.catalog.instance(&class.note, key), opened)
    }

    /// The key is another's: that may be here too.
    fn taken(&self, name: &Name, birth: &Birth) -> Option<Rc<Entry>> {
        let here = birth
            .class
            .object(birth.key.as_str())
            .filter(|object| *object == name.object);
        self.entry(here?)
    }

    fn trouble(&self, class: &ClassEntry, failed: &Failed) -> Problem {
        let why = match failed {
            Failed::Depot(error) => chain(error),
            Failed::Disk(why) | Failed::NotOpened(NotOpened::Broken(why) | NotOpened::Lost(why)) => {
                why.clone()
            }
            Failed::NotOpened(NotOpened::Departed) => "it has left for another place".to_owned(),
        };
        self.say_broken(&class.note.name, &format!("no instance was founded: {why}"));
        match failed {
            Failed::Depot(_) => unreachable(),
            Failed::Disk(_) | Failed::NotOpened(_) => {
                let problem = Problem::new(507, "not_durable", "The object could not be founded");
                problem.with_detail("its owner finds the cause in the events of the daemon: ask again")
            }
        }
    }

    /// The key stays taken after its instance was removed, so that nobody gets another object under its name.
    pub(super) async fn bury(&self, class: &ClassEntry, key: &str, object: ObjectId) -> Result<(), Problem> {
        let (Some(depot), Ok(key)) = (&self.depot, class.class.key.asked(key.as_bytes())) else {
            return Ok(());
        };
        let failed = |error: suijuris_depot::Error| {
            self.say_broken(&class.note.name, &chain(&error));
            Problem::new(503, "depot_unreachable", "The depot does not answer").with_detail(
                "the object is gone from here, and its key is not yet taken for good: the next daemon sees to that",
            )
        };
        let Some((name, version)) = depot.name(class.id, &key).await.map_err(failed)? else {
            return Ok(());
        };
        if name.object != object || name.state == Stage::Tombstone {
            return Ok(());
        }
        let gone = name.at(Stage::Tombstone);
        let swapped = depot.swap_name(class.id, &key, &gone, Some(&version)).await;
        swapped.map(drop).map_err(failed)
    }
}

impl<D: Driver> Roster<D> {
    /// Who has a key of a class, by the name table.
    pub(super) async fn name(
        &self,
        class: &ClassEntry,
        key: &str,
    ) -> Result<Option<(Key, Name, Version)>, Problem> {
        let key = class.class.key.asked(key.as_bytes());
        let key = key.map_err(|error| {
            Problem::new(400, "bad_key", "It is no key of this class").with_detail(chain(&error))
        })?;
        let Some(depot) = &self.depot else { return Ok(None) };
        let name = depot.name(class.id, &key).await.map_err(|error| {
            self.say_broken(&class.note.name, &chain(&error));
            unreachable()
        })?;
        Ok(name.map(|(name, version)| (key, name, version)))
    }

    /// Frees the key of a removed instance, by the word of an owner of its class: the next who comes founds another object.
    pub(super) async fn free(
        &self,
        class: &ClassEntry,
        key: &str,
        signed: &suijuris_api::owner::SignedRequest,
    ) -> Result<(), Problem> {
        let Some((key, name, version)) = self.name(class, key).await? else {
            return Ok(());
        };
        if name.state != Stage::Tombstone {
            return Err(Problem::new(409, "name_taken", "The key is in use")
                .with_detail("remove the object first: `suijuris remove CLASS/KEY`"));
        }
        let wrong = |error: OwnerRequestError| not_an_owner(&error);
        let signed = suijuris_words::owner::read(signed).map_err(wrong)?;
        let now = self.services.clock.reading().wall;
        signed
            .verify(&Expected {
                object: name.object,
                ask: Ask::Remove,
                content: migrate::content(name.object, &freed(class.id, &key)),
                audience: self.services.server,
                head: suijuris_core::RecordId::from_digest(*name.object.digest()),
                controllers: &class.note.controllers,
                now,
            })
            .map_err(wrong)?;
        self.services.spent.spend(&signed.request, now).map_err(wrong)?;
        let Some(depot) = &self.depot else { return Ok(()) };
        let removed = depot
            .remove_name(class.id, &key, &version)
            .await
            .map_err(|error| {
                self.say_broken(&class.note.name, &chain(&error));
                unreachable()
            })?;
        match removed {
            NameRemoval::Done | NameRemoval::Conflict(None) => Ok(()),
            NameRemoval::Conflict(Some(_)) => {
                Err(Problem::new(409, "name_taken", "The key has changed hands")
                    .with_detail("look who has it: `GET /v1/classes/CLASS/keys/KEY`"))
            }
        }
    }
}

/// What the owner of a class signs to free a key of it, as the place that its object leaves for.
fn freed(class: suijuris_core::ClassId, key: &Key) -> String {
    format!("free {class}/{key}")
}

fn object_of(dir: &Path) -> Result<ObjectId, String> {
    let reader = Reader::open(&ObjectDir::at(dir), Depth::Tail).map_err(|error| chain(&error))?;
    Ok(reader.state().head().object)
}

/// As [`object_of`], on a thread that may wait for the disk.
async fn object_at(dir: &Path) -> Result<ObjectId, String> {
    let dir = dir.to_owned();
    let read = tokio::task::spawn_blocking(move || object_of(&dir)).await;
    read.map_err(|error| error.to_string())?
}

fn is_of(dir: &Path, object: ObjectId) -> bool {
    object_of(dir).is_ok_and(|found| found == object)
}

/// What was being made durable.
async fn durable(staging: JoinHandle<Result<ObjectId, String>>) -> Result<ObjectId, Failed> {
    let staged = staging.await.map_err(|error| Failed::Disk(error.to_string()))?;
    staged.map_err(Failed::Disk)
}

/// There is something in its place that could not be taken in.
fn damaged() -> Problem {
    Problem::new(503, "not_now", "The object cannot be opened")
        .with_detail("its owner finds the cause in the events of the daemon")
}

/// The key is somebody else's, or nobody's any more.
fn not_here(holder: &str, name: Option<&Name>) -> Problem {
    if name.is_some_and(|name| name.state == Stage::Tombstone) {
        return Problem::new(410, "removed", "The object was removed")
            .with_detail("its key stays taken: use another one");
    }
    Problem::new(503, "elsewhere", "The object lies elsewhere")
        .with_detail(format!("it is held by {holder}: ask there"))
}

fn unreachable() -> Problem {
    let mut problem = Problem::new(503, "depot_unreachable", "The depot does not answer")
        .with_detail("nothing was founded: ask again");
    problem.retry_after = Some(5);
    problem
}
