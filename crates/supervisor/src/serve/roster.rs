//! The objects of a daemon, found by name: each has an [`Entry`] and a task that keeps it (`keeper`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::Poll;

use suijuris_api::event::Stamped;
use suijuris_api::{Event, Problem};
use suijuris_core::activation::Stop;
use suijuris_core::bundle::Bundle;
use suijuris_core::manifest::Manifest;
use suijuris_core::witness::HolderId;
use suijuris_core::{BundleId, ObjectId};
use suijuris_custody::chain;
use suijuris_custody::claim::fresh_id;
use suijuris_custody::witness;
use suijuris_depot::Depot;
use suijuris_door::PreparedBundle;
use suijuris_link::launch::ServedAs;
use suijuris_store::{Depth, Reader};
use suijuris_vehicle::Driver;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use super::archiving::archive_long_sleepers;
use super::catalog::{Catalog, CatalogError, ClassNote, ObjectNote};
use super::class_entry::ClassEntry;
use super::entry::{CODE_LOADING, Entry, Status};
use super::keeper::{Opened, keep};
use super::packing::KeyWrap;
use super::ports::OpenPorts;
use super::receiving::{Uploads, sweep_received};
use crate::actor::Input;
use crate::capability::{self, CODE_INCAPABLE, Receive};
use crate::connection::{Leaving, PendingConnection};
use crate::events::Origin;
use crate::paths::ObjectPaths;
use crate::services::{STOP_WITHIN, Services};

/// Objects that are being opened at once: those that nobody asks for yet, and beside them those that somebody waits for.
const OPENING: usize = 16;
const OPENING_WANTED: usize = 64;

/// Capsules and volumes that are received at once.
const RECEIVING: usize = 4;

/// The event of an object or class that cannot be opened.
const CODE_NOT_OPENED: &str = "not_opened";

/// All objects of a process.
pub struct Roster<D: Driver> {
    pub(super) services: Rc<Services<D>>,
    pub(super) catalog: Catalog,
    pub(super) depot: Option<Arc<dyn Depot>>,
    pub(super) witness: witness::Service,
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
    pub(super) prepared: RefCell<HashMap<BundleId, Weak<PreparedBundle>>>,
    pub(super) opening: Semaphore,
    pub(super) opening_wanted: Semaphore,
    parting: watch::Sender<bool>,
    keepers: RefCell<JoinSet<()>>,
    pub(super) ports: OpenPorts,
    /// Seals keys that leave.
    pub(super) wrap: Arc<dyn KeyWrap>,
    /// Objects that are leaving, or arriving.
    pub(super) leaving: RefCell<BTreeSet<ObjectId>>,
    /// From whom objects are received.
    pub(super) receive: Rc<Receive>,
    /// Bodies of objects that are received at once.
    pub(super) receiving_at_once: Semaphore,
    pub(super) uploads: Uploads,
}

impl<D: Driver> std::fmt::Debug for Roster<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster")
            .field("objects", &self.entries.borrow().len())
            .finish_non_exhaustive()
    }
}

/// What a roster is made from.
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
    /// Seals keys that leave.
    pub wrap: Arc<dyn KeyWrap>,
    /// From whom objects are received.
    pub receive: Receive,
}

impl<D> std::fmt::Debug for Setup<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("catalog", &self.catalog)
            .finish_non_exhaustive()
    }
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
            wrap,
            receive,
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
            parting: watch::Sender::new(false),
            keepers: RefCell::default(),
            ports: OpenPorts::default(),
            wrap,
            leaving: RefCell::default(),
            receive: Rc::new(receive),
            receiving_at_once: Semaphore::new(RECEIVING),
            uploads: Uploads::default(),
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
            let ports = note.ports;
            if let Err(why) = self.take_class(note) {
                self.say_broken(&name, &why);
                continue;
            }
            if let Some(class) = self.class(&name) {
                let prepared = class.door.borrow().prepared().clone();
                self.reopen_ports(&name, ports.as_ref(), prepared.bundle());
            }
            for key in self.catalog.keys(&name)? {
                if let Some(class) = self.class(&name) {
                    self.clone().recover(class, key);
                }
            }
        }
        self.finish_removals()?;
        self.load_archived()?;
        // Whoever waits for the end does not wait for it.
        tokio::task::spawn_local(archive_long_sleepers(Rc::downgrade(self)));
        tokio::task::spawn_local(sweep_received(Rc::downgrade(self)));
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
            self.reopen_object(note);
        }
        Ok(())
    }

    pub(super) fn say_broken(&self, name: &str, why: &str) {
        self.say_of(name, CODE_NOT_OPENED, format!("{name}: {why}"));
    }

    /// Tells trouble of the daemon itself.
    pub(super) fn say(&self, code: &str, why: String) {
        self.say_of("serve", code, why);
    }

    fn say_of(&self, name: &str, code: &str, message: String) {
        let origin = Origin {
            object: ObjectId::from_digest(suijuris_core::id::Digest([0; 32])),
            name: name.to_owned(),
            instance: None,
        };
        let at = format!("{:.3}", jiff::Timestamp::now());
        let event = Event::Error {
            code: code.to_owned(),
            message,
        };
        self.services.sink.event(&origin, Stamped { at, event });
    }

    /// Refuses what no machine of this daemon can carry.
    pub(super) fn can_carry(&self, manifest: &Manifest) -> Result<(), Problem> {
        capability::fits(self.services.driver.describe(), manifest).map_err(|why| {
            Problem::new(
                422,
                CODE_INCAPABLE,
                "The machines of this daemon cannot carry the object",
            )
            .with_detail(why)
        })
    }

    /// What the object that lies here may run, where it came from another host.
    pub(super) fn foreign(&self, paths: &ObjectPaths) -> Option<Rc<Receive>> {
        self.catalog.is_received(paths).then(|| self.receive.clone())
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

    fn reopen_object(self: &Rc<Self>, note: &ObjectNote) {
        let Some(ports) = &note.ports else { return };
        let home = self.catalog.object(note).home();
        let bundle = Reader::open(&home, Depth::Tail)
            .map_err(|error| chain(&error))
            .and_then(|reader| {
                let bundle = reader.bundles().bundle(&reader.state().head().bundle);
                bundle.map_err(|error| chain(&error))
            });
        // What cannot be read was told when it was taken in.
        if let Ok(bundle) = bundle {
            self.reopen_ports(&note.name, Some(ports), &bundle);
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
            epoch: Cell::default(),
            archiving: Cell::default(),
            stays: Cell::default(),
        });
        self.entries
            .borrow_mut()
            .insert(entry.origin.object, entry.clone());
        let keeper = keep(self.clone(), entry.clone(), opened);
        self.keepers.borrow_mut().spawn_local(keeper);
        entry
    }

    /// Does this to its end, whether whoever asked waits for it or not.
    pub(super) async fn to_the_end<T: 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + 'static,
    ) -> Result<T, Problem> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.keepers.borrow_mut().spawn_local(async move {
            // Nobody may be left who wants to know.
            let _ = answer.send(work.await);
        });
        let ended = || Problem::new(503, "not_now", "The daemon is ending").with_detail("ask the next one");
        answered.await.unwrap_or_else(|_| Err(ended()))
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
            None => self
                .raw_url(&origin.name, None)
                .unwrap_or_else(|| self.below_domain(&origin.name)),
        }
    }

    /// Where callers reach the instance `key` of a class.
    #[must_use]
    pub fn url_of(&self, key: &str, class: &str) -> String {
        self.raw_url(class, Some(key))
            .unwrap_or_else(|| self.below_domain(&format!("{key}.{class}")))
    }

    /// The hosts of an object.
    pub(super) fn served_as(&self, origin: &Origin) -> ServedAs {
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
        *self.parting.borrow()
    }

    /// Turns true when the daemon leaves, to be replaced or for good.
    #[must_use]
    pub fn parting(&self) -> Leaving {
        self.parting.subscribe()
    }

    /// Gives a connection to an object; answered here where that takes none.
    pub(super) async fn give(&self, entry: &Entry, connection: PendingConnection) {
        match entry.handle().await {
            Ok(handle) => {
                let input = Input::Connection(Box::new(connection));
                if let Err(Input::Connection(connection)) = handle.send(input).await {
                    if self.is_stopping() {
                        return connection.refuse_leaving().await;
                    }
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
        self.parting.send_replace(true);
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

    /// Knows an object no longer.
    pub(super) fn drop_entry(&self, origin: &Origin) {
        self.entries.borrow_mut().remove(&origin.object);
        if origin.instance.is_none() {
            self.close_ports(&origin.name);
            self.names
                .borrow_mut()
                .retain(|_, object| *object != origin.object);
        }
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
        self.close_ports(name);
        let removed = self.catalog.remove_class(name);
        removed.map_err(|error| {
            Problem::new(507, "not_durable", "The class could not be removed").with_detail(chain(&error))
        })
    }

    /// Leaves machines that run to the next process, and stops all else.
    pub fn detach(&self) {
        self.parting.send_replace(true);
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
