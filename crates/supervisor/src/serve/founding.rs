//! Founding an instance on its first use: decided at the door of its class, then founded once, whoever crashes. The order
//! is that of [`suijuris_core::class::founding`]; here its steps are done.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::class::founding::{
    Answer, End, Entry as Name, Founding, Next, Stage, Step, recover, replaceable,
};
use suijuris_core::class::{Instantiation, Key};
use suijuris_custody::chain;
use suijuris_depot::{Depot, NameSwap, Presence, PresenceGuard, Version};
use suijuris_store::{BundleStore, Creation, Depth, ObjectDir, Reader, create};
use suijuris_vehicle::Driver;
use zeroize::Zeroizing;

use super::class_entry::ClassEntry;
use super::roster::{Entry, NotOpened, OPEN_WITHIN, Opened, Roster};
use crate::connection::PendingConnection;
use crate::events::Origin;
use crate::paths::ObjectPaths;

/// Tries of a step whose answer was lost.
const TRIES: u32 = 5;

/// Pause between two of them.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

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
        let object = object_of(&placed).map_err(|_said_at_the_start| damaged())?;
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
        let created = tokio::task::spawn_blocking(move || {
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
            create(&dir, creation).map_err(|error| chain(&error))
        });
        let object = created
            .await
            .map_err(|error| Failed::Disk(error.to_string()))?
            .map_err(Failed::Disk)?;
        let founding = Founding::new(object, self.holder, self.who.clone()).after(Answer::Done);
        let birth = self.birth(class, key, object, staged).await;
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
            opened: None,
        }
    }

    /// Does the steps of a founding to its end; the instance, or none where the key is another's.
    async fn walk(
        self: &Rc<Self>,
        mut founding: Founding,
        birth: &mut Birth,
    ) -> Result<Option<Rc<Entry>>, Failed> {
        loop {
            let step = match founding.next() {
                Next::Do(step) => step,
                Next::Over(End::Founded(object)) => return Ok(Some(self.founded(object, birth))),
                Next::Over(End::Taken(name)) => return Ok(self.taken(&name, birth)),
            };
            let answer = self.step(step, birth).await?;
            founding = founding.after(answer);
        }
    }

    async fn step(&self, step: Step, birth: &mut Birth) -> Result<Answer, Failed> {
        match step {
            // Staged already: see `stage`.
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

    async fn replaceable(&self, depot: &Arc<dyn Depot>, name: &Name) -> bool {
        let mark = depot.mark(name.object).await;
        let presence = depot.presence(name.object, name.holder).await;
        // Whoever cannot be asked lives.
        let lives = !matches!(presence, Ok(Presence::Gone));
        match mark {
            Ok(mark) => replaceable(name, mark.is_some(), lives),
            Err(_) => false,
        }
    }

    /// Puts the object where objects are, and claims it: its mark is written.
    async fn publish(&self, birth: &mut Birth) -> Result<(), Failed> {
        if birth.opened.is_some() {
            return Ok(());
        }
        if birth.staged.exists() {
            self.catalog
                .place(&birth.staged, &birth.paths)
                .map_err(|error| Failed::Disk(chain(&error)))?;
        }
        birth.opened = Some(self.open_wanted(&birth.paths).await.map_err(Failed::NotOpened)?);
        Ok(())
    }

    fn founded(self: &Rc<Self>, object: ObjectId, birth: &mut Birth) -> Rc<Entry> {
        let (class, key) = (birth.class.clone(), birth.key.clone());
        self.serve_instance(&class, &key, object, birth.opened.take())
    }

    /// An instance that was founded before this process.
    fn kept(self: &Rc<Self>, class: &ClassEntry, key: &Key, object: ObjectId) {
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
    pub(super) async fn bury(&self, class: &ClassEntry, key: &str) -> Result<(), Problem> {
        let (Some(depot), Ok(key)) = (&self.depot, class.class.key.asked(key.as_bytes())) else {
            return Ok(());
        };
        let failed = |error: suijuris_depot::Error| {
            self.say_broken(&class.note.name, &chain(&error));
            unreachable()
        };
        let Some((name, version)) = depot.name(class.id, &key).await.map_err(failed)? else {
            return Ok(());
        };
        let gone = name.at(Stage::Tombstone);
        let swapped = depot.swap_name(class.id, &key, &gone, Some(&version)).await;
        swapped.map(drop).map_err(failed)
    }

    // After a restart.

    /// Waits until what was here at the start is taken in, for as long as a connection would wait.
    pub(super) async fn recovered(&self) {
        let all = async {
            for class in self.classes() {
                let mut left = class.recovering.subscribe();
                // It is dropped with the class, which we have.
                let _ = left.wait_for(|left| *left == 0).await;
            }
        };
        let _late = tokio::time::timeout(OPEN_WITHIN, all).await;
    }

    /// An instance that has data here: kept, or its founding is gone on with.
    pub(super) fn recover(self: Rc<Self>, class: Rc<ClassEntry>, key: String) {
        let path = self
            .catalog
            .root()
            .join("instances")
            .join(&class.note.name)
            .join(&key);
        self.recover_at(class, key, path, true);
    }

    /// Something that was staged.
    pub(super) fn recover_staged(self: Rc<Self>, class: Rc<ClassEntry>, key: String, path: PathBuf) {
        self.recover_at(class, key, path, false);
    }

    fn recover_at(self: Rc<Self>, class: Rc<ClassEntry>, key: String, path: PathBuf, placed: bool) {
        class.recovering.send_modify(|left| *left += 1);
        tokio::task::spawn_local(async move {
            self.recover_now(&class, key, path, placed).await;
            class.recovering.send_modify(|left| *left -= 1);
        });
    }

    async fn recover_now(self: &Rc<Self>, class: &Rc<ClassEntry>, text: String, path: PathBuf, placed: bool) {
        let label = format!("{}/{text}", class.note.name);
        let Ok(key) = class.class.key.asked(text.as_bytes()) else {
            return self.say_broken(&label, "its directory has no key of its class: move it away");
        };
        // Something else may be here for the same key.
        loop {
            let under_way = class.founding.borrow().get(&text).cloned();
            let Some(under_way) = under_way else { break };
            under_way.notified().await;
        }
        if placed && class.object(&text).is_some() {
            // Whoever asked for it was faster.
            return;
        }
        let object = match object_of(&path) {
            Ok(object) => object,
            // It was whole when it was put there, and may have served: nothing of it is removed.
            Err(why) if placed => {
                let why = format!(
                    "it is damaged: {why}; restore it, or move {} away",
                    path.display()
                );
                return self.say_broken(&label, &why);
            }
            Err(_cut_short) => {
                // Cut short before its inception: nobody knows of it.
                if let Err(error) = self.catalog.discard(&path) {
                    self.say_broken(&label, &chain(&error));
                }
                return;
            }
        };
        let under_way = Rc::new(tokio::sync::Notify::new());
        class
            .founding
            .borrow_mut()
            .insert(text.clone(), under_way.clone());
        let recovered = self.go_on(class, &key, object, path).await;
        class.founding.borrow_mut().remove(&text);
        under_way.notify_waiters();
        if let Err(failed) = recovered {
            let _ = self.trouble(class, &failed);
        }
    }

    async fn go_on(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        key: &Key,
        object: ObjectId,
        path: PathBuf,
    ) -> Result<(), Failed> {
        let Some(depot) = &self.depot else {
            let mut birth = self.birth(class, key, object, path).await;
            self.publish(&mut birth).await?;
            self.founded(object, &mut birth);
            return Ok(());
        };
        let read = depot.name(class.id, key).await.map_err(Failed::Depot)?;
        if let Some((name, _)) = &read
            && name.object == object
            && name.state == Stage::Founded
        {
            self.kept(class, key, object);
            return Ok(());
        }
        let entry = match read.clone() {
            Some((name, _)) => {
                let may = self.replaceable(depot, &name).await;
                Some((name, may))
            }
            None => None,
        };
        let found = recover(object, entry);
        let mut birth = self.birth(class, key, object, path).await;
        birth.read = read;
        let founding = Founding::resume(object, self.holder, self.who.clone(), found);
        self.walk(founding, &mut birth).await.map(drop)
    }
}

fn object_of(dir: &Path) -> Result<ObjectId, String> {
    let reader = Reader::open(&ObjectDir::at(dir), Depth::Tail).map_err(|error| chain(&error))?;
    Ok(reader.state().head().object)
}

fn is_of(dir: &Path, object: ObjectId) -> bool {
    object_of(dir).is_ok_and(|found| found == object)
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
