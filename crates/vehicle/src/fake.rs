//! Machines that are played: for tests and simulations of whoever runs machines. Never part of a product.
//!
//! A [`World`] holds the machines and outlives every [`Fake`] driver on it, as a host outlives its supervisors:
//! [`World::crash`] is a supervisor's kill -9, after which a new driver attaches. What a machine does is its [`Script`];
//! a test may also play its inside ([`World::inside`]). Under a paused clock of tokio everything is deterministic.

mod machine;
mod script;

use std::collections::BTreeMap;
use std::fmt;
use std::future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::description::{Description, Enforced, Isolation, Location, Means, Resource, Suspending};
use crate::driver::Driver;
use crate::error::{AttachError, ListError, SpecError, StartError};
use crate::machine::{Exit, MachineId};
use crate::output::Line;
use crate::spec::{Lifetime, Spec};
use machine::Played;
pub use machine::{Inside, Machine};
pub use script::{Ends, Links, Script, Speaks, Starts, Stops, Suspends, TakenOver};

/// Why a script's start fails, in the place of a driver's own error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Scripted(pub String);

/// All machines of a host that is played.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    machines: BTreeMap<MachineId, Arc<Played>>,
    scripts: BTreeMap<String, Script>,
    next: u64,
    /// Starts that were asked for, whatever became of them.
    starts: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("World").field(&self.running()).finish()
    }
}

impl World {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plays machines of this name in their specification so from their next start on; all others as
    /// [`Script::default`].
    pub fn play(&self, name: impl Into<String>, script: Script) {
        self.inner().scripts.insert(name.into(), script);
    }

    /// Machines that have not ended, in the order of their ids.
    #[must_use]
    pub fn running(&self) -> Vec<MachineId> {
        let inner = self.inner();
        let running = inner
            .machines
            .iter()
            .filter(|(_, played)| played.exit().is_none());
        running.map(|(id, _)| id.clone()).collect()
    }

    /// How many starts were asked for, failed and hanging ones included.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.inner().starts
    }

    /// The inside of a machine, to be played by the caller beside its script.
    #[must_use]
    pub fn inside(&self, id: &MachineId) -> Option<Inside> {
        self.inner().machines.get(id).map(Inside::of)
    }

    /// What kill -9 of the supervisor does: machines that end with their caller end, the others lose their links and go
    /// on. Handles that are still there are of no use.
    pub fn crash(&self) {
        let machines: Vec<Arc<Played>> = self.inner().machines.values().cloned().collect();
        for played in machines {
            match played.lifetime {
                Lifetime::WithCaller => played.end(Exit::Lost),
                Lifetime::Detached => played.abandon(),
            }
        }
    }

    fn script(&self, name: &str) -> Script {
        let mut inner = self.inner();
        inner.starts += 1;
        inner.scripts.get(name).cloned().unwrap_or_default()
    }

    fn add(&self, spec: &Spec, script: Script) -> Result<Arc<Played>, SpecError> {
        let mut inner = self.inner();
        inner.next += 1;
        let text = format!("{}-{}", spec.name, inner.next);
        let id = MachineId::try_from(text).map_err(|_| SpecError::Name(spec.name.clone()))?;
        let played = Played::new(id.clone(), spec, script);
        inner.machines.insert(id, Arc::clone(&played));
        Ok(played)
    }
}

/// A driver on a [`World`].
#[derive(Debug)]
pub struct Fake {
    world: World,
    description: Description,
}

impl Fake {
    /// A driver that can do everything but run images.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let limits = [
            Resource::Memory,
            Resource::Cpu,
            Resource::Processes,
            Resource::OpenFiles,
        ];
        let description = Description {
            vehicle: "fake",
            place: Location {
                region: "nowhere".to_owned(),
                provider: "fake".to_owned(),
                class: String::new(),
                id: "fake".to_owned(),
            },
            isolation: Isolation::VirtualMachine,
            suspending: Some(Suspending::MemoryFile),
            limits: limits
                .map(|what| Enforced {
                    what,
                    by: Means::VirtualMachine,
                })
                .into(),
            images: false,
            users: crate::description::ImageUsers::All,
            mounts: true,
            private_network: true,
            descriptors: true,
            detached: true,
            copies: false,
            shortfalls: Vec::new(),
            limit_shortfalls: Vec::new(),
        };
        Self {
            world: world.clone(),
            description,
        }
    }

    /// The same with another description, as of a host that can do less.
    #[must_use]
    pub fn described(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self
    }
}

impl Driver for Fake {
    type Machine = Machine;

    fn describe(&self) -> &Description {
        &self.description
    }

    async fn start(&self, spec: Spec) -> Result<Machine, StartError> {
        let script = self.world.script(&spec.name);
        match &script.starts {
            Starts::AtOnce => {}
            Starts::After(time) => sleep(*time).await,
            Starts::Fails(why) => return Err(StartError::Failed(Box::new(Scripted(why.clone())))),
            Starts::Hangs => return future::pending().await,
        }
        let played = self.world.add(&spec, script)?;
        played.begin();
        Ok(Machine::of(played))
    }

    async fn attach(&self, id: &MachineId) -> Result<Machine, AttachError> {
        let found = self.world.inner().machines.get(id).cloned();
        let found = found.filter(|played| played.lifetime == Lifetime::Detached && !played.is_told());
        let played = found.ok_or_else(|| AttachError::Unknown(id.clone()))?;
        if played.is_held() {
            return Err(AttachError::Held(id.clone()));
        }
        if played.exit().is_none() {
            match &played.script.taken_over {
                TakenOver::AtOnce => {}
                TakenOver::Hangs => return future::pending().await,
                TakenOver::Killed(why) => {
                    played.end(Exit::Lost);
                    self.world.inner().machines.remove(id);
                    return Err(AttachError::Killed {
                        id: id.clone(),
                        why: why.clone(),
                        left: String::new(),
                    });
                }
            }
        }
        Ok(Machine::of(played))
    }

    async fn list(&self) -> Result<Vec<MachineId>, ListError> {
        let inner = self.world.inner();
        let detached = inner
            .machines
            .iter()
            .filter(|(_, played)| played.lifetime == Lifetime::Detached && !played.is_told());
        Ok(detached.map(|(id, _)| id.clone()).collect())
    }
}

/// A pair of streams: the caller's end, and the machine's.
fn stream_pair() -> io::Result<(UnixStream, UnixStream)> {
    UnixStream::pair()
}

/// A line as a machine writes it.
fn line(text: impl Into<String>) -> Line {
    Line {
        text: text.into(),
        goes_on: false,
    }
}
