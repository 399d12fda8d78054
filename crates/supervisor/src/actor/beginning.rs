//! How an actor begins: with an object at rest, or with one whose machine an earlier process started.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use suijuris_core::activation::requests::Queue;
use suijuris_core::activation::{Activation, Facts, Found};
use suijuris_core::governance::Action;
use suijuris_core::lineage::State;
use suijuris_core::witness::Mono;
use suijuris_custody::at_rest::{Open, Unrecorded};
use suijuris_custody::claim::{Claim, Handoff};
use suijuris_custody::deliveries::Deliveries;
use suijuris_door::PreparedBundle;
use suijuris_link::launch::ServedAs;
use suijuris_store::{ObjectDir, Reader, Writer};
use suijuris_vehicle::Driver;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::handle::{Awake, Holds, Pause};
use super::own::OwnEnd;
use super::{ActorError, ObjectActor, ObjectHandle, calling, words};
use crate::at_door::AtDoor;
use crate::capability::Receive;
use crate::events::{Origin, Reporter};
use crate::inbox::InboxWatcher;
use crate::machine::Front;
use crate::machine_notes::MachineNote;
use crate::paths::ObjectPaths;
use crate::services::Services;

/// What waits to be taken in by an actor, at most; senders wait.
const INPUTS: usize = 256;

/// Answers of tasks that wait to be taken in, at most; tasks wait.
const ANSWERS: usize = 256;

/// An object that an actor can go on with: open, claimed, its last activation recorded.
#[derive(Debug)]
pub struct Resting {
    /// Where it is.
    pub paths: ObjectPaths,
    /// Its store.
    pub writer: Writer,
    /// The bundle in force.
    pub prepared: Arc<PreparedBundle>,
    /// This copy's right to it.
    pub claim: Claim,
    /// Where its connections come from.
    pub front: Front,
    /// Where callers reach it.
    pub url: String,
    /// Name of its class and its key there, for an instance.
    pub instance: Option<(String, String)>,
    /// Its hosts, where other objects are served at the same address.
    pub served_as: Option<ServedAs>,
    /// What it may run, where it came from another host.
    pub foreign: Option<Rc<Receive>>,
}

/// An object whose machine an earlier process started.
#[derive(Debug)]
pub struct Left {
    /// Where it is.
    pub paths: ObjectPaths,
    /// Its store, read as it was when it was looked at last.
    pub reader: Reader,
    /// The bundle in force.
    pub prepared: Arc<PreparedBundle>,
    /// This copy's right to it; not asked for yet.
    pub claim: Claim,
    /// Where callers reach it.
    pub url: String,
    /// Name of its class and its key there, for an instance.
    pub instance: Option<(String, String)>,
    /// Its hosts, where other objects are served at the same address.
    pub served_as: Option<ServedAs>,
    /// What it may run, where it came from another host.
    pub foreign: Option<Rc<Receive>>,
    /// Its machine.
    pub machine: MachineNote,
}

/// What every actor has, however it begins.
struct Parts {
    paths: ObjectPaths,
    object_dir: ObjectDir,
    front: Front,
    url: String,
    claim: Claim,
    prepared: Arc<PreparedBundle>,
    origin: Origin,
    served_as: Option<ServedAs>,
    foreign: Option<Rc<Receive>>,
}

fn origin(state: &State, instance: Option<(String, String)>) -> Origin {
    Origin {
        object: state.head().object,
        name: state.head().name.clone(),
        instance,
    }
}

impl<D: Driver> ObjectActor<D> {
    /// The actor of an object at rest, and the way to it. Nothing happens before [`ObjectActor::run`].
    ///
    /// # Errors
    /// [`ActorError`].
    pub fn new(services: Rc<Services<D>>, resting: Resting) -> Result<(Self, ObjectHandle), ActorError> {
        let Resting {
            paths,
            writer,
            prepared,
            claim,
            front,
            url,
            instance,
            served_as,
            foreign,
        } = resting;
        let origin = origin(&writer.published(), instance);
        let object_dir = writer.object_dir().clone();
        let open = Open::new(writer, services.clock.reading().wall)?;
        let witnessed = claim.witnessed();
        let at_door = AtDoor::open(open, prepared.clone(), services.host.clone(), witnessed);
        let parts = Parts {
            paths,
            object_dir,
            front,
            url,
            claim,
            prepared,
            origin,
            served_as,
            foreign,
        };
        let awake = at_door.look(|state| state.head().awake);
        let (actor, handle) = Self::begin(services, parts, Found::AtRest, Some(at_door), None);
        handle.awake.set(Awake::recorded(awake));
        Ok((actor, handle))
    }

    /// The actor of an object whose machine an earlier process started, and the way to it.
    #[must_use]
    pub fn attaching(services: Rc<Services<D>>, left: Left) -> (Self, ObjectHandle) {
        let Left {
            paths,
            reader,
            prepared,
            claim,
            url,
            instance,
            served_as,
            foreign,
            machine,
        } = left;
        let now = services.clock.reading().wall;
        let (awake, epoch) = (reader.state().head().awake_at(now), reader.state().head().epoch);
        let parts = Parts {
            paths,
            object_dir: reader.object_dir().clone(),
            front: Front::Shared,
            url,
            claim,
            prepared,
            origin: origin(reader.state(), instance),
            served_as,
            foreign,
        };
        let (actor, handle) = Self::begin(services, parts, Found::Machine, None, Some(machine));
        handle.awake.set(Awake::recorded(awake));
        handle.epoch.set(epoch);
        (actor, handle)
    }

    fn begin(
        services: Rc<Services<D>>,
        parts: Parts,
        found: Found,
        at_door: Option<AtDoor>,
        left: Option<MachineNote>,
    ) -> (Self, ObjectHandle) {
        let Parts {
            paths,
            object_dir,
            front,
            url,
            claim,
            prepared,
            origin,
            served_as,
            foreign,
        } = parts;
        let (sender, inputs) = mpsc::channel(INPUTS);
        let (answers, answered) = mpsc::channel(ANSWERS);
        let accepting = watch::Sender::new(at_door.is_some());
        let facts = Facts {
            now: Mono(services.clock.reading().mono_ns),
            terms: &services.terms,
        };
        let (activation, effects) = Activation::new(found, facts);
        let phase = watch::Sender::new(activation.phase());
        let handle = ObjectHandle {
            inputs: sender,
            accepting: accepting.subscribe(),
            phase: phase.subscribe(),
            awake: Rc::default(),
            recorded: Rc::default(),
            epoch: Rc::default(),
            rests_since: Rc::default(),
            looked_after: Rc::default(),
            pause: Pause::default(),
            holds: Holds::default(),
        };
        let (awake, recorded) = (handle.awake.clone(), handle.recorded.clone());
        let (epoch, rests_since) = (handle.epoch.clone(), handle.rests_since.clone());
        let looked_after = handle.looked_after.clone();
        let (pause, holds) = (handle.pause.clone(), handle.holds.clone());
        let reporter = Reporter::new(services.sink.clone(), origin);
        let own_end = OwnEnd::of(&prepared, Action::Terminate);
        let own_move = OwnEnd::of(&prepared, Action::Migrate);
        let deliveries = Deliveries::of(&paths.data);
        let inbox = InboxWatcher::new(claim.depot(), claim.object(), deliveries);
        let mut actor = Self {
            paths: Rc::new(paths),
            object_dir,
            front: Rc::new(front),
            url,
            claim: Arc::new(claim),
            prepared,
            served_as,
            foreign,
            reporter,
            activation,
            events: VecDeque::new(),
            queue: Queue::default(),
            at_door,
            machine: None,
            left,
            detached: false,
            give_up: None,
            publishing: None,
            lending: None,
            resuming: None,
            handed: Handoff::default(),
            making_key: Arc::default(),
            verified: None,
            verifying: None,
            unrecorded: Unrecorded::default(),
            proposals: BTreeMap::new(),
            requests: BTreeMap::new(),
            stopping: None,
            numbers: 0,
            inbox,
            timers_proposed: false,
            messages_proposed: false,
            counted: false,
            wake_verdict: None,
            problem: None,
            workload_end: words::WorkloadEnd::default(),
            lost: None,
            refused_to_sleep: false,
            own_end,
            own_move,
            broken: None,
            inputs,
            accepting,
            phase,
            awake,
            recorded,
            epoch,
            rests_since,
            looked_after,
            pause,
            holds,
            answers,
            answered,
            tasks: JoinSet::new(),
            callers: Arc::new(Semaphore::new(calling::MAX_CALLERS)),
            services,
        };
        actor.looked_after.set(actor.is_to_be_looked_after());
        for effect in effects {
            actor.perform(effect);
        }
        (actor, handle)
    }
}
