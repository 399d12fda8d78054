//! A class of the daemon: its door, which of its instances are here, how often it was founded lately.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::class::{Class, ClassId};
use suijuris_core::inputs::{Founding, Host};
use suijuris_door::{ClassDoor, PreparedBundle};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::catalog::ClassNote;

/// Peers whose foundings are counted, at most; who comes beyond is refused, since a counter is needed.
const PEERS: usize = 10_000;

/// What foundings are counted over.
const WINDOW: Duration = Duration::from_secs(1);

/// A class that is served.
#[derive(Debug)]
pub struct ClassEntry {
    /// What is kept of it.
    pub note: ClassNote,
    /// Its id.
    pub id: ClassId,
    pub(super) class: Class,
    pub(super) door: RefCell<ClassDoor>,
    keys: Rc<RefCell<BTreeMap<String, ObjectId>>>,
    /// Keys that are being founded: who else comes for one waits.
    pub(super) founding: Rc<RefCell<HashMap<String, Rc<Notify>>>>,
    /// Instances that were here when the daemon started and are not taken in yet.
    pub(super) recovering: watch::Sender<usize>,
    /// Foundings that were permitted, and those of them that ended: while these differ, the name table may have fewer
    /// names than there will be.
    permitted: Rc<Cell<u64>>,
    settled: watch::Sender<u64>,
    rates: Rc<RefCell<Rates>>,
}

/// Foundings of the last second.
#[derive(Debug, Default)]
struct Rates {
    all: VecDeque<Instant>,
    peers: HashMap<IpAddr, VecDeque<Instant>>,
}

impl ClassEntry {
    pub(super) fn new(note: ClassNote, prepared: Arc<PreparedBundle>, place: Host) -> Result<Self, String> {
        let id = note.id().ok_or("its identity has no encoding")?;
        let class = prepared.bundle().manifest.class.clone();
        let class = class.ok_or("its bundle is that of a single object")?;
        let door = ClassDoor::new(prepared, id, note.bundle_name.clone(), place);
        Ok(Self {
            note,
            id,
            class,
            door: RefCell::new(door),
            keys: Rc::default(),
            founding: Rc::default(),
            recovering: watch::Sender::new(0),
            permitted: Rc::default(),
            settled: watch::Sender::new(0),
            rates: Rc::default(),
        })
    }

    /// The same class with another template: what is under way goes on, and counts for both.
    pub(super) fn amended(
        &self,
        note: ClassNote,
        prepared: Arc<PreparedBundle>,
        place: Host,
    ) -> Result<Self, String> {
        Ok(Self {
            keys: self.keys.clone(),
            founding: self.founding.clone(),
            recovering: self.recovering.clone(),
            permitted: self.permitted.clone(),
            settled: self.settled.clone(),
            rates: self.rates.clone(),
            ..Self::new(note, prepared, place)?
        })
    }

    /// The instance of this key, where it is here.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<ObjectId> {
        self.keys.borrow().get(key).copied()
    }

    /// Instances at most, here and elsewhere.
    #[must_use]
    pub const fn max_instances(&self) -> u64 {
        self.class.max_instances
    }

    /// Instances that are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.borrow().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.borrow().is_empty()
    }

    pub(super) fn note_key(&self, key: &str, object: ObjectId) {
        self.keys.borrow_mut().insert(key.to_owned(), object);
    }

    pub(super) fn forget_key(&self, key: &str) {
        self.keys.borrow_mut().remove(key);
    }

    /// What [`ClassEntry::unsettled`] is asked with, before the names are counted.
    pub(super) fn settled(&self) -> u64 {
        *self.settled.borrow()
    }

    /// Foundings that a count of names which began when `settled` were may lack, at most.
    pub(super) fn unsettled(&self, settled: u64) -> u64 {
        self.permitted.get().saturating_sub(settled)
    }

    /// Waits until more than `settled` foundings have ended.
    pub(super) async fn more_settled(&self, settled: u64) {
        let mut ended = self.settled.subscribe();
        // It is dropped with the class, which we have.
        let _ = ended.wait_for(|now| *now > settled).await;
    }

    /// A founding was permitted; it ends when what is returned is dropped.
    pub(super) fn permit(self: &Rc<Self>) -> Permitted {
        self.permitted.set(self.permitted.get() + 1);
        Permitted(self.clone())
    }

    /// How often the class, and this peer, was founded for in the last second; what is answered where that is too often.
    pub(super) fn rates(&self, peer: IpAddr, instances: u64) -> Result<Founding, Problem> {
        let mut rates = self.rates.borrow_mut();
        let (peer_rate, class_rate) = rates.count(peer, Instant::now());
        let full = rates.peers.len() >= PEERS && !rates.peers.contains_key(&peer);
        if full
            || peer_rate >= u64::from(self.class.per_peer)
            || class_rate >= u64::from(self.class.per_class)
        {
            return Err(too_often());
        }
        Ok(Founding {
            instances,
            max_instances: self.class.max_instances,
            peer_rate,
            class_rate,
        })
    }

    /// An instance is being founded for this peer.
    pub(super) fn count(&self, peer: IpAddr) {
        let now = Instant::now();
        let mut rates = self.rates.borrow_mut();
        rates.all.push_back(now);
        rates.peers.entry(peer).or_default().push_back(now);
    }
}

/// A founding that was permitted and is under way.
pub(super) struct Permitted(Rc<ClassEntry>);

impl Drop for Permitted {
    fn drop(&mut self) {
        self.0.settled.send_modify(|settled| *settled += 1);
    }
}

impl Rates {
    fn count(&mut self, peer: IpAddr, now: Instant) -> (u64, u64) {
        let old = |at: &Instant| now.duration_since(*at) >= WINDOW;
        let prune = |times: &mut VecDeque<Instant>| {
            while times.front().is_some_and(old) {
                times.pop_front();
            }
        };
        prune(&mut self.all);
        if self.all.is_empty() {
            self.peers.clear();
        }
        let peers = self.peers.get_mut(&peer);
        let peer = peers.map_or(0, |times| {
            prune(times);
            times.len()
        });
        let number = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        (number(peer), number(self.all.len()))
    }
}

fn too_often() -> Problem {
    let mut problem = Problem::new(429, "founding_rate", "Too many objects are founded at once")
        .with_detail("ask again in a second");
    problem.retry_after = Some(1);
    problem
}
