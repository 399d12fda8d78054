//! The objects of a daemon: opened, kept running, found by name.
//!
//! Each object has an [`Entry`] and one task that keeps an actor for it: it opens the object, runs the actor, and opens it
//! again after a pause where that ended for a reason that may pass.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use suijuris_api::event::Stamped;
use suijuris_api::{Event, Problem};
use suijuris_core::activation::{Phase, Stop};
use suijuris_core::bundle::Bundle;
use suijuris_core::witness::HolderId;
use suijuris_core::{BundleId, ObjectId};
use suijuris_custody::chain;
use suijuris_custody::claim::{Answer, Claim, Means, fresh_id};
use suijuris_custody::witness;
use suijuris_depot::Depot;
use suijuris_door::PreparedBundle;
use suijuris_link::launch::ServedAs;
use suijuris_store::{Depth, Reader, Sizes, Writer};
use suijuris_vehicle::Driver;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use super::catalog::{Catalog, CatalogError, ClassNote, ObjectNote};
use super::class_entry::ClassEntry;
use crate::actor::{ActorError, Input, Left, ObjectActor, ObjectHandle, Resting};
use crate::connection::PendingConnection;
use crate::events::Origin;
use crate::machine::Front;
use crate::machine_notes::MachineNote;
use crate::paths::ObjectPaths;
use crate::services::{STOP_WITHIN, Services};

/// Objects that are being opened at once: those that nobody asks for yet, and beside them those that somebody waits for.
const OPENING: usize = 16;
const OPENING_WANTED: usize = 64;

/// Time before an object is opened again that could not be, or whose actor failed; twice as long each time, up to the most.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// How long a connection waits for an object that is being opened.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// The event of an object or class that cannot be opened.
const CODE_NOT_OPENED: &str = "not_opened";

/// What is told of objects that are not there yet.
const CODE_LOADING: &str = "not_now";

/// All objects of a process.
pub struct Roster<D: Driver> {
    pub(super) services: Rc<Services<D>>,
    pub(super) catalog: Catalog,
    pub(super) depot: Option<Arc<dyn Depot>>,
    witness: witness::Service,
    /// Names this process where instances are founded.
    pub(super) holder: HolderId,
    /// Host and process, for people.
    pub(super) who: String,
    /// What hosts of objects end with.
    pub(super) domain: String,
    /// Where callers reach this daemon, without a path: `http://127.0.0.1:8080`.
    urls: RefCell<Vec<String>>,
    entries: RefCell<BTreeMap<ObjectId, Rc<Entry>>>,
    names: RefCell<BTreeMap<String, ObjectId>>,
    classes: RefCell<BTreeMap<String, Rc<ClassEntry>>>,
    prepared: RefCell<HashMap<BundleId, Weak<PreparedBundle>>>,
    opening: Semaphore,
    opening_wanted: Semaphore,
    stopping: Cell<bool>,
    keepers: RefCell<JoinSet<()>>,
}

/// One object of the daemon.
#[derive(Debug)]
pub struct Entry {
    /// Which.
    pub origin: Origin,
    /// Where it lies.
    pub paths: ObjectPaths,
    status: watch::Sender<Status>,
    /// Somebody waits for it to be opened.
    wanted: Notify,
    /// Under earlier actors.
    awake: Cell<Duration>,
}

/// How it is.
#[derive(Debug, Clone)]
pub enum Status {
    /// It is being opened.
    Opening,
    /// Its actor runs.
    Live(ObjectHandle),
    /// It cannot be opened now, for this reason; that is tried again.
    Broken(String),
    /// Another copy is the object.
    Lost(String),
    /// It is stopped here.
    Stopped,
}

/// An object that is open and claimed.
pub(super) struct Opened {
    pub(super) writer: Writer,
    pub(super) claim: Claim,
    pub(super) prepared: Arc<PreparedBundle>,
}

/// Why an object is not opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    Lost(String),
    Broken(String),
}

impl<D: Driver> std::fmt::Debug for Roster<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster")
            .field("objects", &self.entries.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// How long it was awake since the daemon started.
    #[must_use]
    pub fn awake(&self) -> Duration {
        let now = match &*self.status.borrow() {
            Status::Live(handle) => handle.awake(),
            _ => Duration::ZERO,
        };
        self.awake.get() + now
    }

    /// How it is, for people and scripts.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        match &*self.status.borrow() {
            Status::Opening => "opening",
            Status::Live(handle) => match handle.phase() {
                Phase::Resting | Phase::Settling => "dormant",
                Phase::BackingOff => "paused",
                Phase::Suspending | Phase::Suspended => "suspended",
                Phase::Starting | Phase::Resuming => "waking",
                Phase::Running => "active",
                Phase::Draining | Phase::Stopping => "draining",
                Phase::Lost => "lost",
            },
            Status::Broken(_) => "broken",
            Status::Lost(_) => "lost",
            Status::Stopped => "stopped",
        }
    }

    /// The way to its actor, once it is open; what to answer where it is not.
    ///
    /// # Errors
    /// The problem.
    pub async fn handle(&self) -> Result<ObjectHandle, Problem> {
        let mut status = self.status.subscribe();
        if matches!(*status.borrow(), Status::Opening) {
            self.wanted.notify_one();
        }
        let open = status.wait_for(|status| !matches!(status, Status::Opening));
        let status = match tokio::time::timeout(OPEN_WITHIN, open).await {
            Ok(Ok(status)) => status.clone(),
            _ => Status::Opening,
        };
        let (title, detail) = match status {
            Status::Live(handle) => return Ok(handle),
            Status::Opening => ("The object is being opened", "ask again in a moment"),
            // Why is for its owner, who finds it in the events.
            Status::Broken(_) => (
                "The object cannot be opened",
                "its owner finds the cause in the events of the daemon",
            ),
            Status::Lost(_) => (
                "Another copy is the object",
                "this copy serves nobody: ask where the object runs",
            ),
            Status::Stopped => (
                "The object's host stops it",
                "ask again when its host runs it again",
            ),
        };
        let mut problem = Problem::new(503, CODE_LOADING, title).with_detail(detail);
        problem.retry_after = Some(1);
        problem.object = self.origin.object.to_string();
        Err(problem)
    }
}

/// What a roster is made from.
#[derive(Debug)]
pub struct Setup<D> {
    /// What its actors share.
    pub services: Rc<Services<D>>,
    /// What there is.
    pub catalog: Catalog,
    /// The depot.
    pub depot: Option<Arc<dyn Depot>>,
    /// The witnesses of this process.
    pub witness: witness::Service,
    /// What hosts of objects end with.
    pub domain: String,
}

impl<D: Driver> Roster<D> {
    /// A roster that knows of nothing yet: [`Roster::load`] follows.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new(means: Setup<D>) -> Result<Rc<Self>, getrandom::Error> {
        let Setup {
            services,
            catalog,
            depot,
            witness,
            domain,
        } = means;
        Ok(Rc::new(Self {
            holder: fresh_id()?,
            who: format!("host {}, process {}", services.host.id, std::process::id()),
            services,
            catalog,
            depot,
            witness,
            domain,
            urls: RefCell::default(),
            entries: RefCell::default(),
            names: RefCell::default(),
            classes: RefCell::default(),
            prepared: RefCell::default(),
            opening: Semaphore::new(OPENING),
            opening_wanted: Semaphore::new(OPENING_WANTED),
            stopping: Cell::new(false),
            keepers: RefCell::default(),
        }))
    }

    /// Where callers reach this daemon, without a path.
    pub fn set_urls(&self, urls: Vec<String>) {
        *self.urls.borrow_mut() = urls;
    }

    /// Where callers reach this daemon, without a path.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.urls.borrow().clone()
    }

    /// Takes in what the catalog has, and begins to open it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn load(self: &Rc<Self>) -> Result<(), CatalogError> {
        let classes = self.catalog.classes()?;
        for (name, error) in &classes.broken {
            self.say_broken(name, &chain(error));
        }
        for note in classes.read {
            let name = note.name.clone();
            if let Err(why) = self.take_class(note) {
                self.say_broken(&name, &why);
                continue;
            }
            for key in self.catalog.keys(&name)? {
                if let Some(class) = self.class(&name) {
                    self.clone().recover(class, key);
                }
            }
        }
        for (class, key, path) in self.catalog.staged()? {
            match self.class(&class) {
                Some(class) => self.clone().recover_staged(class, key, path),
                // It waits until its class can be read again.
                None if self.catalog.has_class(&class) => {}
                // Staged for a class that is not here any more: nobody knows of it.
                None => self.catalog.discard(&path)?,
            }
        }
        let objects = self.catalog.objects()?;
        for (name, error) in &objects.broken {
            self.say_broken(name, &chain(error));
        }
        for note in &objects.read {
            self.take_object(note);
        }
        Ok(())
    }

    pub(super) fn say_broken(&self, name: &str, why: &str) {
        let origin = Origin {
            object: ObjectId::from_digest(suijuris_core::id::Digest([0; 32])),
            name: name.to_owned(),
            instance: None,
        };
        let at = format!("{:.3}", jiff::Timestamp::now());
        let event = Event::Error {
            code: CODE_NOT_OPENED.to_owned(),
            message: format!("{name}: {why}"),
        };
        self.services.sink.event(&origin, Stamped { at, event });
    }

    /// Takes a class in.
    pub(super) fn take_class(&self, note: ClassNote) -> Result<(), String> {
        let bundles = suijuris_store::BundleStore::of(&self.catalog.class_dir(&note.name));
        let bundle = bundles.bundle(&note.bundle).map_err(|error| chain(&error))?;
        let prepared = self.prepare(&bundle)?;
        let name = note.name.clone();
        let class = ClassEntry::new(note, prepared, self.services.host.clone())?;
        self.classes.borrow_mut().insert(name, Rc::new(class));
        Ok(())
    }

    /// Gives a class another template.
    pub(super) fn amend_class(
        &self,
        class: &ClassEntry,
        note: ClassNote,
        bundle: &Arc<Bundle>,
    ) -> Result<Rc<ClassEntry>, String> {
        let (name, prepared) = (note.name.clone(), self.prepare(bundle)?);
        let amended = Rc::new(class.amended(note, prepared, self.services.host.clone())?);
        self.classes.borrow_mut().insert(name, amended.clone());
        Ok(amended)
    }

    /// Takes a single object in, and begins to open it.
    pub(super) fn take_object(self: &Rc<Self>, note: &ObjectNote) {
        let paths = self.catalog.object(note);
        match Reader::open(&paths.home(), Depth::Tail) {
            Ok(reader) => {
                let object = reader.state().head().object;
                self.names.borrow_mut().insert(note.name.clone(), object);
                let origin = Origin {
                    object,
                    name: note.name.clone(),
                    instance: None,
                };
                self.keep(origin, paths, None);
            }
            Err(error) => self.say_broken(&note.name, &chain(&error)),
        }
    }

    /// What follows from a bundle, once for all objects that carry it.
    pub(super) fn prepare(&self, bundle: &Arc<Bundle>) -> Result<Arc<PreparedBundle>, String> {
        let mut prepared = self.prepared.borrow_mut();
        if let Some(there) = prepared.get(&bundle.id()).and_then(Weak::upgrade) {
            return Ok(there);
        }
        let made = PreparedBundle::new(bundle.clone()).map_err(|error| chain(&error))?;
        let made = Arc::new(made);
        prepared.retain(|_, there| there.strong_count() > 0);
        prepared.insert(bundle.id(), Arc::downgrade(&made));
        Ok(made)
    }

    /// Keeps an object from now on; `opened` where it is open already.
    pub(super) fn keep(
        self: &Rc<Self>,
        origin: Origin,
        paths: ObjectPaths,
        opened: Option<Opened>,
    ) -> Rc<Entry> {
        let entry = Rc::new(Entry {
            origin,
            paths,
            status: watch::Sender::new(Status::Opening),
            wanted: Notify::new(),
            awake: Cell::default(),
        });
        self.entries
            .borrow_mut()
            .insert(entry.origin.object, entry.clone());
        let keeper = keep(self.clone(), entry.clone(), opened);
        self.keepers.borrow_mut().spawn_local(keeper);
        entry
    }

    /// Opens an object that somebody waits for.
    pub(super) async fn open_wanted(&self, paths: &ObjectPaths) -> Result<Opened, NotOpened> {
        let _turn = self.opening_wanted.acquire().await;
        self.open(paths).await
    }

    /// Opens an object and claims it for resting.
    async fn open(&self, paths: &ObjectPaths) -> Result<Opened, NotOpened> {
        let broken = |error: &dyn std::error::Error| NotOpened::Broken(chain(error));
        let home = paths.home();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(home.path().join("volume")).ok();
            std::fs::create_dir_all(home.run_dir()).ok();
            Writer::open(&home, Depth::Tail, Sizes::default())
        });
        let opened = opened.await.map_err(|error| broken(&error))?;
        let (writer, _recovery) = opened.map_err(|error| broken(&error))?;
        let id = writer.published().head().bundle;
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
            machine,
        })
    }

    /// The class of this name.
    #[must_use]
    pub(super) fn class(&self, name: &str) -> Option<Rc<ClassEntry>> {
        self.classes.borrow().get(name).cloned()
    }

    /// All classes, by name.
    #[must_use]
    pub fn classes(&self) -> Vec<Rc<ClassEntry>> {
        self.classes.borrow().values().cloned().collect()
    }

    /// The object of this id.
    #[must_use]
    pub fn entry(&self, object: ObjectId) -> Option<Rc<Entry>> {
        self.entries.borrow().get(&object).cloned()
    }

    /// The single object of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Rc<Entry>> {
        let object = self.names.borrow().get(name).copied()?;
        self.entry(object)
    }

    /// The object that people call so: an id, a name, or `CLASS/KEY`.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Rc<Entry>> {
        if let Ok(object) = text.parse() {
            return self.entry(object);
        }
        match text.split_once('/') {
            Some((class, key)) => self.entry(self.class(class)?.object(key)?),
            None => self.named(text),
        }
    }

    /// All objects, by id.
    #[must_use]
    pub fn entries(&self) -> Vec<Rc<Entry>> {
        self.entries.borrow().values().cloned().collect()
    }

    /// Where callers reach an object.
    #[must_use]
    pub fn url(&self, origin: &Origin) -> String {
        match &origin.instance {
            Some((class, key)) => self.url_of(key, class),
            None => self.below_domain(&origin.name),
        }
    }

    /// Where callers reach the instance `key` of a class.
    #[must_use]
    pub fn url_of(&self, key: &str, class: &str) -> String {
        self.below_domain(&format!("{key}.{class}"))
    }

    /// The hosts of an object.
    fn served_as(&self, origin: &Origin) -> ServedAs {
        let domain = &self.domain;
        let called = match &origin.instance {
            // On the host of the class itself a header names the key.
            Some((class, key)) => vec![format!("{key}.{class}.{domain}"), format!("{class}.{domain}")],
            None => vec![format!("{}.{domain}", origin.name)],
        };
        let mut hosts = called;
        hosts.push(format!("{}.{domain}", origin.object));
        ServedAs {
            domain: domain.clone(),
            hosts,
        }
    }

    fn below_domain(&self, labels: &str) -> String {
        let urls = self.urls.borrow();
        let parts = urls.first().and_then(|url| {
            let (scheme, rest) = url.split_once("://")?;
            Some((scheme, rest.rsplit_once(':')?.1))
        });
        let (scheme, port) = parts.unwrap_or(("http", "80"));
        format!("{scheme}://{labels}.{}:{port}/", self.domain)
    }

    /// Whether this daemon is ending.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Gives a connection to an object; answered here where that takes none.
    pub(super) async fn give(&self, entry: &Entry, connection: PendingConnection) {
        match entry.handle().await {
            Ok(handle) => {
                let input = Input::Connection(Box::new(connection));
                if let Err(Input::Connection(connection)) = handle.send(input).await {
                    let problem = Problem::new(503, CODE_LOADING, "The object is being opened again");
                    connection
                        .refuse(problem.with_detail("ask again in a moment"))
                        .await;
                }
            }
            Err(problem) => connection.refuse(problem).await,
        }
    }

    /// Stops all objects: each is asked to sleep, or its machine is killed `now`.
    pub fn stop(&self, now: bool) {
        self.stopping.set(true);
        let stop = if now {
            Stop::Now
        } else {
            Stop::Graceful(STOP_WITHIN)
        };
        for entry in self.entries() {
            let status = entry.status();
            match status {
                Status::Live(handle) => {
                    tokio::task::spawn_local(async move {
                        // Its actor has ended where it takes nothing.
                        let _ = handle.send(Input::Stop(stop)).await;
                    });
                }
                _ => drop(entry.status.send_replace(Status::Stopped)),
            }
        }
    }

    /// Stops an object that rests and forgets it here: its key stays taken, its data is kept in the archive.
    pub(super) async fn remove(&self, entry: &Rc<Entry>) -> Result<std::path::PathBuf, Problem> {
        let handle = entry.handle().await?;
        if !matches!(
            handle.phase(),
            Phase::Resting | Phase::Settling | Phase::BackingOff
        ) {
            return Err(Problem::new(409, "awake", "The object is awake")
                .with_detail("put it to sleep first: `suijuris sleep`"));
        }
        let class = entry
            .origin
            .instance
            .as_ref()
            .and_then(|(class, key)| Some((self.class(class)?, key)));
        if let Some((class, key)) = &class {
            self.bury(class, key).await?;
        }
        let _ = handle.send(Input::Stop(Stop::Graceful(STOP_WITHIN))).await;
        let mut status = entry.status.subscribe();
        let _ = status
            .wait_for(|status| matches!(status, Status::Stopped | Status::Lost(_)))
            .await;
        self.entries.borrow_mut().remove(&entry.origin.object);
        self.names
            .borrow_mut()
            .retain(|_, object| *object != entry.origin.object);
        if let Some((class, key)) = class {
            class.forget_key(key);
        }
        let archived = self.catalog.archive(&entry.paths, entry.origin.object);
        archived.map_err(|error| {
            Problem::new(507, "not_durable", "Its data could not be moved away").with_detail(chain(&error))
        })
    }

    /// Forgets a class that has no instances here.
    pub(super) fn remove_class(&self, name: &str) -> Result<(), Problem> {
        let Some(class) = self.class(name) else {
            return Err(Problem::new(404, "unknown_object", "No such class is here"));
        };
        if !class.is_empty() || !class.founding.borrow().is_empty() {
            return Err(Problem::new(409, "awake", "The class has instances")
                .with_detail("remove them first: `suijuris ps --class CLASS` lists them"));
        }
        self.classes.borrow_mut().remove(name);
        let removed = self.catalog.remove_class(name);
        removed.map_err(|error| {
            Problem::new(507, "not_durable", "The class could not be removed").with_detail(chain(&error))
        })
    }

    /// Leaves machines that run to the next process, and stops all else.
    pub fn detach(&self) {
        self.stopping.set(true);
        for entry in self.entries() {
            let status = entry.status();
            match status {
                Status::Live(handle) => {
                    tokio::task::spawn_local(async move {
                        let _ = handle.send(Input::Detach).await;
                    });
                }
                _ => drop(entry.status.send_replace(Status::Stopped)),
            }
        }
    }

    /// Waits until nothing runs any more. Who stops waiting ends nothing by that.
    pub async fn ended(&self) {
        std::future::poll_fn(|context| {
            let mut keepers = self.keepers.borrow_mut();
            loop {
                match keepers.poll_join_next(context) {
                    Poll::Ready(Some(_ended)) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

/// Keeps one object until it is stopped or lost.
async fn keep<D: Driver>(roster: Rc<Roster<D>>, entry: Rc<Entry>, mut opened: Option<Opened>) {
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
            Err(NotOpened::Broken(why)) => Err(why),
        };
        match ran {
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
    entry.awake.set(entry.awake.get() + handle.awake());
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
    };
    let failed = |error: ActorError| chain(&error);
    let (actor, handle) = ObjectActor::new(roster.services.clone(), resting).map_err(failed)?;
    if roster.is_stopping() {
        let _ = handle.send(Input::Stop(Stop::Now)).await;
    }
    entry.status.send_replace(Status::Live(handle.clone()));
    let ran = ran(actor).await;
    entry.awake.set(entry.awake.get() + handle.awake());
    ran
}

/// What people call an object.
pub(super) fn label(origin: &Origin) -> String {
    match &origin.instance {
        Some((class, key)) => format!("{class}/{key}"),
        None => origin.name.clone(),
    }
}
