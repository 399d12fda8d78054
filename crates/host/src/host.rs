//! The host: apps and machines of one data directory, found again when the daemon starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use suijuris_vehicle::process::{Process, StateError};
use suijuris_vehicle::{Driver as _, ListError, Machine as _, MachineId};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::api::console::Consoles;
use crate::api::rates::Rates;
use crate::apps::App;
use crate::arrivals::Arrivals;
use crate::audit::Audit;
use crate::capacity::Capacity;
use crate::claims::{self, Claims};
use crate::clock::now_ms;
use crate::documents::Documents;
use crate::door::Doors;
use crate::faults::Faults;
use crate::images::{Allowed, Images};
use crate::machine::actor::{Actor, Command, Handle, Life, Shared};
use crate::machine::effects::World;
use crate::machine::requests::{Refusal, Request};
use crate::machine::{By, Machine, State};
use crate::network;
use crate::oidc::Issuer;
use crate::proxied::Counters;
use crate::registry::{AGES, Shelf, Uploads};
use crate::sealed::{SealError, Sealer};
use crate::secrets::Secrets;
use crate::store::{Store, StoreError, Table, Write};
use crate::tokens::{Access, Grant, TokenError, Tokens};
use crate::vault::Vault;
use crate::volumes::container::{Container, ContainerError};
use crate::volumes::{VolumeError, Volumes};

/// How long a destroyed machine is still known.
const TOMBSTONE_MS: u64 = 24 * 3_600_000;
/// Between two looks for what can be forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a request waits for its machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The org of the first token.
pub(crate) const FIRST_ORG: &str = "personal";

/// How a host is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept.
    pub data: PathBuf,
    /// Region codes; the first is where machines go that name none.
    pub regions: Vec<String>,
    /// Memory for machines, MiB; what the kernel says where none is given.
    pub memory_mb: Option<u64>,
    /// Whether calls are limited in their rate.
    pub rate_limit: bool,
    /// Whether `host:` images run programs of this host, for tests.
    pub host_programs: bool,
    /// Whether machines of images share this host's network.
    pub share_network: bool,
    /// Whether machines may reach beyond their private network, where this host can let them.
    pub egress: bool,
    /// Directories of this host below which machines may name OCI layouts.
    pub oci_roots: Vec<PathBuf>,
    /// URL under which others find how to check the tokens of machines: that of the API, or of what stands before it.
    pub issuer: String,
    /// Names, as `HOST` or `HOST:PORT`, under which machines name the host's own registry.
    pub own_registries: Vec<String>,
    /// Registries, as `HOST:PORT`, from which images may be pulled though they are this machine itself.
    pub registries: Vec<String>,
    /// Where snapshots of volumes are backed up, if anywhere.
    pub backups: Option<Arc<dyn Vault>>,
    /// The key that volumes are encrypted with, if they are.
    pub volume_key: Option<PathBuf>,
    /// The point at which the daemon dies, for tests.
    pub fault: Option<u32>,
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key of secrets.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The driver's directory.
    #[error(transparent)]
    Machines(#[from] StateError),
    /// What still runs.
    #[error(transparent)]
    List(#[from] ListError),
    /// A volume that was begun.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// What volumes are encrypted in.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The images.
    #[error(transparent)]
    Images(#[from] suijuris_oci::store::StoreError),
    /// The first token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The data directory.
    #[error("cannot use {}", .path.display())]
    Data {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A host.
#[derive(Debug, Clone)]
pub struct Host(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tokens: Tokens,
    pub(crate) volumes: Volumes,
    pub(crate) documents: Documents,
    pub(crate) issuer: Issuer,
    pub(crate) rates: Arc<Rates>,
    /// Which uploads to the registry are being written to.
    pub(crate) uploads: Uploads,
    pub(crate) apps: RwLock<BTreeMap<String, App>>,
    pub(crate) machines: RwLock<BTreeMap<String, Handle>>,
    /// The proxy's counters, once it serves.
    pub(crate) counters: OnceLock<Counters>,
    /// Who is told of calls.
    #[cfg(feature = "traces")]
    pub(crate) tracer: OnceLock<suijuris_proxy::traces::Tracer>,
    /// Where it stands for port 80.
    pub(crate) proxy_port: OnceLock<u16>,
    /// Consoles that are open.
    pub(crate) consoles: Consoles,
    /// Machines that come from another host.
    pub(crate) arrivals: Arrivals,
    /// What was asked, and by whom.
    pub(crate) audit: Audit,
    /// Machines go to another host one after the other.
    pub(crate) draining: tokio::sync::Mutex<()>,
    /// Names are given out one at a time.
    pub(crate) naming: tokio::sync::Mutex<()>,
    /// Those of machines that are being recorded.
    pub(crate) claims: Claims,
    tasks: Mutex<JoinSet<()>>,
}

/// Sends backups and brings them back, each on its own: at once where there is something, and again where it failed.
fn keep_backups(host: &Arc<Inner>) {
    let Some(backups) = host.volumes.backups() else {
        return;
    };
    let (sending, restoring) = (Arc::clone(&backups.sending), Arc::clone(&backups.restoring));
    let (sender, restorer) = (Arc::downgrade(host), Arc::downgrade(host));
    host.spawn(async move {
        while let Some(inner) = sender.upgrade() {
            inner.volumes.back_up(now_ms()).await;
            drop(inner);
            let _ = tokio::time::timeout(SWEEP, sending.notified()).await;
        }
    });
    host.spawn(async move {
        while let Some(inner) = restorer.upgrade() {
            inner.volumes.bring_back().await;
            drop(inner);
            let _ = tokio::time::timeout(SWEEP, restoring.notified()).await;
        }
    });
}

fn private(path: &Path) -> Result<PathBuf, OpenError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |source| OpenError::Data {
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    path.canonicalize().map_err(failed)
}

/// The images of a data directory, and whether machines can have them by overlayfs, found out by trying.
async fn images(options: &Options, data: &Path, driver: &Process) -> Result<Images, OpenError> {
    let root = |path: &PathBuf| {
        let found = path.canonicalize();
        found.map_err(|source| OpenError::Data {
            path: path.clone(),
            source,
        })
    };
    let allowed = Allowed {
        host_programs: options.host_programs,
        oci_roots: options.oci_roots.iter().map(root).collect::<Result<_, _>>()?,
        registries: options.registries.clone(),
        own: options.own_registries.clone(),
    };
    let trial = data.join("trial");
    let overlay = driver.describe().images && driver.try_overlay(&trial).await.is_ok();
    let shelf = private(&data.join("registry"))?;
    let shelf = Shelf::open(shelf.clone()).map_err(|source| OpenError::Data { path: shelf, source })?;
    Ok(Images::open(
        allowed,
        &private(&data.join("images"))?,
        shelf,
        overlay,
    )?)
}

impl Host {
    /// Opens a data directory, and takes over what runs of it. `driver` gets a directory in it. The text is the first token of
    /// a new directory.
    ///
    /// # Errors
    /// What keeps it from starting, with what to do.
    pub async fn open(options: Options, driver: Process) -> Result<(Self, Option<String>), OpenError> {
        let data = private(&options.data)?;
        let store = Store::open(&data.join("state.redb"))?;
        let driver = driver.keeping_in(&data.join("running"))?;
        let secrets = Secrets::load(&store, Sealer::open(&data.join("secrets.key"))?)?;
        let tokens = Tokens::load(&store)?;
        let mut first = None;
        if tokens.list().is_empty() {
            let grant = Grant {
                org: FIRST_ORG.to_owned(),
                app: None,
                access: Access::Full,
                lasts_ms: None,
            };
            first = Some(tokens.make(grant, now_ms()).await?.0);
        }
        let faults = Arc::new(Faults::new(options.fault));
        let volumes = private(&data.join("volumes"))?;
        let container = Container::open(&data, &volumes, options.volume_key.as_deref())?;
        let volumes = Volumes::load(&store, volumes, Arc::clone(&faults), options.backups.clone())?;
        let volumes = volumes.within(container);
        let machines = private(&data.join("machines"))?;
        let plan = if options.egress {
            network::Plan::find()
        } else {
            network::Plan::None("--no-egress".to_owned())
        };
        let networks = network::Private::new(driver.shim().clone(), &data, &machines, plan);
        let is_apart = driver.describe().private_network && !options.share_network;
        let world = World {
            images: images(&options, &data, &driver).await?,
            machines,
            private: is_apart.then_some(networks),
            volumes: volumes.directory().to_owned(),
            hidden: vec![data.clone()],
            secrets,
            share_network: options.share_network,
            driver,
        };
        let memory_mb = options.memory_mb.unwrap_or_else(Capacity::of_host);
        let shared = Arc::new(Shared {
            world: Arc::new(world),
            store: store.clone(),
            capacity: Arc::new(Capacity::new(memory_mb)),
            faults,
            doors: Doors::default(),
            changes: AtomicU64::new(0),
        });
        let apps = store.rows::<App>(Table::Apps)?.into_iter().collect();
        let issuer = Issuer::open(&data.join("oidc.key"), &options.issuer)?;
        let rates = Arc::new(Rates::new(options.rate_limit));
        let host = Self(Arc::new(Inner {
            options,
            shared,
            tokens,
            volumes,
            documents: Documents::load(&store)?,
            issuer,
            rates,
            uploads: Uploads::default(),
            apps: RwLock::new(apps),
            machines: RwLock::default(),
            counters: OnceLock::new(),
            #[cfg(feature = "traces")]
            tracer: OnceLock::new(),
            proxy_port: OnceLock::new(),
            consoles: Consoles::default(),
            arrivals: Arrivals::default(),
            audit: Audit::open(&private(&data.join("audit"))?).map_err(|source| OpenError::Data {
                path: data.join("audit"),
                source,
            })?,
            draining: tokio::sync::Mutex::default(),
            naming: tokio::sync::Mutex::default(),
            claims: Claims::default(),
            tasks: Mutex::default(),
        }));
        host.0.shared.doors.belong_to(&host.0);
        host.name_machines();
        host.take_over(&store).await?;
        // Where there is nothing to go on with, this ends at once.
        host.0.go_on_draining();
        let sweeper = Arc::downgrade(&host.0);
        host.0.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(inner) = sweeper.upgrade() else { return };
                inner.sweep().await;
                // What could not be done is due again by the next time.
                let _ = inner.volumes.keep(now_ms(), || crate::ids::snapshot().ok()).await;
            }
        });
        keep_backups(&host.0);
        Ok((host, first))
    }

    /// Answers at the networks' socket for names, once there is one.
    fn name_machines(&self) {
        let host = Arc::downgrade(&self.0);
        let world = Arc::clone(&self.0.shared.world);
        self.0.spawn(async move {
            let Some(private) = &world.private else { return };
            loop {
                let sockets = private.sockets().await;
                if network::names::serve(Weak::clone(&host), sockets, private.has_way_out())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }

    /// From now on calls are told to this collector, as those of the proxy are.
    #[cfg(feature = "traces")]
    pub fn trace(&self, tracer: suijuris_proxy::traces::Tracer) {
        // There is one for the life of this.
        let _first = self.0.tracer.set(tracer);
    }

    /// What machines cannot have here, for whoever starts the host.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let private = self.0.shared.world.private.as_ref();
        private
            .into_iter()
            .filter_map(network::Private::shortfall)
            .collect()
    }

    /// Finds the machines of an earlier daemon again, ends what belongs to none, and goes on with what was begun.
    async fn take_over(&self, store: &Store) -> Result<(), OpenError> {
        let inner = &self.0;
        let world = &inner.shared.world;
        let machines = store.rows::<Machine>(Table::Machines)?;
        let mut running = world.driver.list().await?;
        for (_, machine) in machines {
            let life = inner.find(&machine, &mut running).await;
            if machine.state.is_reserved() {
                inner.shared.capacity.hold(&machine);
            }
            inner.add(machine, life, None);
        }
        for id in running {
            // Nobody's: its machine was destroyed, or its start was never recorded.
            if let Ok(machine) = world.attach(&id).await {
                let _ = tokio::time::timeout(crate::machine::effects::KILL_LIMIT, machine.kill()).await;
            }
        }
        inner.sweep_files();
        if world.private.is_some() {
            let world = Arc::clone(world);
            let taken = crate::machine::effects::blocking(move || match &world.private {
                Some(private) => private.take_over(),
                None => Ok(()),
            });
            // Machines that run do without, and the next one that is started says why.
            let _ = taken.await;
        }
        inner.volumes.recover().await?;
        let leaving: Vec<App> = {
            let apps = inner.apps.read().unwrap_or_else(PoisonError::into_inner);
            apps.values().filter(|app| app.leaving).cloned().collect()
        };
        for app in leaving {
            inner.finish_deleting(&app).await?;
        }
        Ok(())
    }

    /// The tokens of this host, for whoever runs it.
    ///
    /// # Errors
    /// Where it cannot be kept.
    pub async fn make_token(&self, grant: Grant) -> Result<String, TokenError> {
        Ok(self.0.tokens.make(grant, now_ms()).await?.0)
    }

    /// Ends every task. Machines go on; the next daemon takes them over.
    pub async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        let world = Arc::clone(&self.0.shared.world);
        if world.driver.list().await.is_ok_and(|running| running.is_empty()) {
            let inner = Arc::clone(&self.0);
            let closed = tokio::task::spawn_blocking(move || {
                inner.volumes.close();
                world.private.as_ref().map(network::Private::close)
            });
            // What stays is found by the next one.
            let _ = closed.await;
        }
    }
}

impl Inner {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// The processes of a machine's present life, taken off `running`.
    async fn find(&self, machine: &Machine, running: &mut Vec<MachineId>) -> Option<Life> {
        let name = machine.run.as_ref()?.name.clone();
        let begin = format!("{name}-");
        let at = running.iter().position(|id| id.as_str().starts_with(&begin))?;
        let id = running.swap_remove(at);
        // What cannot be taken over was ended by the driver, and is seen as nothing.
        let processes = self.shared.world.attach(&id).await.ok()?;
        Some(Life {
            name,
            processes: Arc::new(processes),
        })
    }

    /// A machine that is recorded gets its owner.
    pub(crate) fn add(
        &self,
        machine: Machine,
        life: Option<Life>,
        asked: Option<crate::machine::actor::Reply>,
    ) -> Handle {
        let id = machine.id.clone();
        let (actor, handle) = Actor::new(Arc::clone(&self.shared), machine, life, asked);
        self.spawn(Box::pin(actor.run()));
        let mut machines = self.machines.write().unwrap_or_else(PoisonError::into_inner);
        machines.insert(id, handle.clone());
        self.shared.changes.fetch_add(1, Ordering::Release);
        handle
    }

    /// An app.
    pub(crate) fn app(&self, name: &str) -> Option<App> {
        self.apps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// A machine of an app.
    pub(crate) fn machine(&self, app: &str, id: &str) -> Option<Handle> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        machines
            .get(id)
            .filter(|handle| handle.record.borrow().app == app)
            .cloned()
    }

    /// A machine by its id.
    pub(crate) fn handle(&self, id: &str) -> Option<Handle> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        machines.get(id).cloned()
    }

    /// A connection to a port of a machine that runs, in the machine's own network.
    #[expect(dead_code, reason = "for the proxy")]
    pub(crate) async fn connect(&self, machine: &str, port: u16) -> std::io::Result<tokio::net::TcpStream> {
        let handle = self.handle(machine).ok_or(std::io::ErrorKind::NotFound)?;
        let processes = handle
            .processes
            .borrow()
            .clone()
            .ok_or(std::io::ErrorKind::NotConnected)?;
        self.shared.world.connect(&processes, port).await
    }

    /// The records of an app's machines, oldest first; destroyed ones included.
    pub(crate) fn machines_of(&self, app: &str) -> Vec<Arc<Machine>> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Arc<Machine>> = machines
            .values()
            .map(Handle::now)
            .filter(|machine| machine.app == app)
            .collect();
        found.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        found
    }

    /// Whether a machine of an app has this name, or is about to.
    pub(crate) fn is_name_taken(&self, app: &str, name: &str) -> bool {
        let has = |handle: &Handle| {
            let machine = handle.record.borrow();
            machine.name == name && machine.app == app && machine.state != State::Destroyed
        };
        // First those that are being recorded: they are among the others before they are among these no more.
        self.claims.holder(&claims::name(app, name)).is_some() || {
            let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
            machines.values().any(has)
        }
    }

    /// Records a machine. What is returned answers once its image is there.
    pub(crate) async fn create(&self, machine: Machine) -> Result<Created, Refusal> {
        self.shared.faults.pass();
        let written = self
            .shared
            .store
            .set(Table::Machines, &machine.id, &machine)
            .await;
        written.map_err(|error| Refusal::Broken(error.to_string()))?;
        self.shared.faults.pass();
        let (reply, answer) = oneshot::channel();
        let id = machine.id.clone();
        self.add(machine, None, Some(reply));
        Ok(Created { id, answer })
    }

    /// Asks something of a machine.
    pub(crate) async fn ask(
        &self,
        handle: &Handle,
        request: Request,
        nonce: Option<String>,
        by: By,
    ) -> Result<Arc<Machine>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command {
            request,
            nonce,
            by,
            reply,
        };
        let id = handle.record.borrow().id.clone();
        let sent = tokio::time::timeout(ANSWER_WITHIN, handle.commands.send(command)).await;
        match sent {
            Ok(Ok(())) => answered(answer, &id).await,
            // Its owner ends with it.
            Ok(Err(_)) => Err(Refusal::Gone),
            Err(_) => Err(Refusal::Busy(id)),
        }
    }

    /// Forgets machines that were destroyed long ago.
    async fn sweep(&self) {
        let old = now_ms().saturating_sub(TOMBSTONE_MS);
        let gone: Vec<String> = {
            let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
            let over = |handle: &&Handle| {
                let machine = handle.record.borrow();
                machine.state == State::Destroyed && machine.updated_ms < old
            };
            machines
                .values()
                .filter(over)
                .map(|handle| handle.record.borrow().id.clone())
                .collect()
        };
        self.sweep_images().await;
        let writes = gone.iter().map(|id| Write::remove(Table::Machines, id)).collect();
        if !gone.is_empty() && self.shared.store.commit(writes).await.is_ok() {
            let mut machines = self.machines.write().unwrap_or_else(PoisonError::into_inner);
            machines.retain(|id, _| !gone.contains(id));
        }
    }

    /// Removes images that no machine has.
    async fn sweep_images(&self) {
        let used = {
            let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
            let alive = machines
                .values()
                .map(Handle::now)
                .filter(|machine| machine.state != State::Destroyed);
            let digests = alive.flat_map(|machine| {
                let image = machine.image.as_ref().map(|image| image.digest.clone());
                let run = machine.run.as_ref().map(|run| run.image.clone());
                image.into_iter().chain(run)
            });
            digests.collect()
        };
        let world = Arc::clone(&self.shared.world);
        // What stays is looked at again by the next sweep.
        let sweep = move || {
            let _ = world.images.sweep(&used);
            let _ = world.images.shelf.collect(AGES);
        };
        let _ = tokio::task::spawn_blocking(sweep).await;
    }

    /// Removes files of machines that are not.
    fn sweep_files(&self) {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        let Ok(entries) = std::fs::read_dir(&self.shared.world.machines) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let alive = name
                .to_str()
                .and_then(|id| machines.get(id))
                .is_some_and(|handle| handle.now().state != State::Destroyed);
            if !alive {
                // What stays is looked at again by the next daemon.
                let _ = suijuris_vehicle::process::remove_strange(&entry.path());
            }
        }
    }
}

/// A machine that is being created.
#[derive(Debug)]
pub(crate) struct Created {
    id: String,
    answer: oneshot::Receiver<Result<Arc<Machine>, Refusal>>,
}

impl Created {
    /// Waits until its image is there, or why it is not.
    pub(crate) async fn wait(self) -> Result<Arc<Machine>, Refusal> {
        answered(self.answer, &self.id).await
    }
}

async fn answered(
    answer: oneshot::Receiver<Result<Arc<Machine>, Refusal>>,
    id: &str,
) -> Result<Arc<Machine>, Refusal> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Refusal::Gone),
        Err(_) => Err(Refusal::Busy(id.to_owned())),
    }
}
