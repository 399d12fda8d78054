//! What all objects of a process share: the vehicle, the clock, the threads of witness and relay, where events go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::activation::Terms;
use suijuris_core::activation::requests;
use suijuris_core::inputs::Host;
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::Head;
use suijuris_core::owner_request::{OwnerRequest, OwnerRequestError, SignedRequest, Spent};
use suijuris_core::time::Timestamp;
use suijuris_custody::clock::Clock;
use suijuris_custody::relay;
use suijuris_depot::Depot;
use suijuris_oci::store::ImageStore;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::access_log::AccessLog;
use crate::destinations::KnownPlace;
use crate::events::EventSink;
use crate::machine_notes::MachineNotes;
use crate::output_logs::OutputLogs;

/// Shared by the actors of a process.
pub struct Services<D> {
    /// Starts machines.
    pub driver: D,
    /// The one reader of clocks.
    pub clock: Arc<Clock>,
    /// Serves the depot to machines.
    pub relay: relay::Service,
    /// What owners sign their requests to this process for; another one in each process.
    pub server: PublicKey,
    /// What owners signed for this process and was used.
    pub spent: SpentRequests,
    /// Where machines run, as rules see it.
    pub host: Host,
    /// The program that is the runtime.
    pub runtime: RuntimeProgram,
    /// Where events go.
    pub sink: Rc<dyn EventSink>,
    /// How long steps take at most.
    pub terms: Terms,
    /// How long requests wait at most.
    pub request_terms: requests::Terms,
    /// Keeps what workloads write.
    pub logs: OutputLogs,
    /// Tells of requests.
    pub access_log: AccessLog,
    /// Directories that no machine may see, though they are of the same user: keys, other objects, the depot, our own. What an
    /// object needs below them stays in its own machine's view.
    pub private: Box<dyn Fn() -> Vec<PathBuf>>,
    /// Where machines are noted that outlive this process; none where they end with it.
    pub machines: Option<MachineNotes>,
    /// The depot, for machines that are taken over.
    pub depot: Option<Arc<dyn Depot>>,
    /// Verifies histories of objects that rest, one after the other.
    pub verifying: Semaphore,
    /// Publishes objects that rest, [`PUBLISHING`] at once.
    pub publishing: Semaphore,
    /// Images that machines begin with; none where there is no place for them.
    pub images: Option<ImageStore>,
    /// Places that objects may move to of their own accord.
    pub destinations: Vec<KnownPlace>,
    /// Signs the wish that an object falls asleep because this process ends, where its owner's key is at hand.
    pub sign_sleep: Option<SignSleep>,
}

/// Owners' requests to this process that were used: they outlive an object's actor, which may be opened again. Those of an
/// earlier process need no remembering: they were signed for its key, and each process draws its own ([`fresh_server`]).
#[derive(Debug, Default)]
pub struct SpentRequests(RefCell<HashMap<ObjectId, Spent>>);

impl SpentRequests {
    /// Spends a verified request.
    ///
    /// # Errors
    /// As [`Spent::spend`].
    pub fn spend(&self, request: &OwnerRequest, now: Timestamp) -> Result<(), OwnerRequestError> {
        let mut spent = self.0.borrow_mut();
        if spent.len() >= MANY {
            spent.retain(|_, spent| !spent.forget(now));
        }
        spent.entry(request.object).or_default().spend(request, now)
    }
}

/// Objects that are published at once when they begin to rest: whoever founds or wakes one does not wait at the depot behind all of
/// them.
pub const PUBLISHING: usize = 4;

/// Objects with spent requests, from which on those whose requests have expired are forgotten.
const MANY: usize = 1_024;

/// Signs a sleep for the object with this head and this server.
pub type SignSleep = Box<dyn Fn(&Head, PublicKey) -> Option<SignedRequest>>;

/// The program that is the runtime, as the host has it.
#[derive(Debug, Clone)]
pub struct RuntimeProgram {
    /// Absolute path.
    pub exe: PathBuf,
    /// Its first arguments, the zeroth included.
    pub argv: Vec<OsString>,
}

impl<D> std::fmt::Debug for Services<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// A key for one process, so that what was signed for another, or for an earlier one, is not taken for its own.
///
/// # Errors
/// The system gives no randomness.
pub fn fresh_server() -> Result<PublicKey, getrandom::Error> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())?;
    Ok(SecretKey::from_seed(&seed).public())
}

/// Time for the object to fall asleep when its host stops it.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);
