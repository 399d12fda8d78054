//! The object on disk, as the runtime uses it: one thread, decisions before records, nothing told before it is durable.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use suijuris_api::agent::Patch;
use suijuris_core::bundle::Bundle;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Inputs;
use suijuris_core::key::Domain;
use suijuris_core::lineage::{Body, State};
use suijuris_core::memory::Value;
use suijuris_core::time::{Now, Ratchet, Reading, Span, Timestamp};
use suijuris_custody::claim::Claim;
use suijuris_custody::record;
use suijuris_custody::write::{self, Staged, WriteError};
use suijuris_store::{
    CommitError, Depth, Draft, Fresh, ObjectDir, OpenError, Reader, Sizes, StageError, Stamps, Writer,
    bundle_store, secrets,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use suijuris_store::Sign;

/// Lineages whose one file is at most this large are verified whole, every signature included, before each wake: some
/// three thousand records in some ten milliseconds. Space is allocated ahead a MiB at a time behind the header, so this
/// is the first allocation and no second. Longer ones are opened from their checkpoint, and verified while awake.
const WHOLE_BYTES: u64 = 3 << 19;

/// A durable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its position.
    pub seq: u64,
    /// The epoch it belongs to.
    pub epoch: u64,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("the record was not made durable")]
    Stage(#[from] StageError),
    /// No randomness for a fresh key.
    #[error("the system provides no randomness for a fresh key")]
    Random(#[from] getrandom::Error),
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        Self::Stage(error.into())
    }
}

impl Error {
    /// Stable code with a page in `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Stage(StageError::DiskFull) => CODE_DISK_FULL,
            Self::Stage(StageError::Commit(error)) if error.is_disk_full() => CODE_DISK_FULL,
            _ => CODE_NOT_DURABLE,
        }
    }
}

/// The disk is full.
pub const CODE_DISK_FULL: &str = "disk_full";
/// A write could not be made durable.
pub const CODE_NOT_DURABLE: &str = "not_durable";

/// Why the object cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The store.
    #[error("the object cannot be opened")]
    Open(#[from] OpenError),
    /// The bundle.
    #[error("the object's bundle cannot be used")]
    Bundle(#[from] bundle_store::Error),
    /// The depot or the witness.
    #[error("the depot cannot be used: {0}")]
    Depot(String),
    /// No socket to hand connections over on.
    #[error("connections cannot be handed over to the workload: raise the limit of open files")]
    FdPassing(#[source] std::io::Error),
    /// What its workload may reach cannot be reached.
    #[error("the ways out of the machine cannot be made: {0}")]
    Egress(String),
    /// What was found could not be recorded.
    #[error("what the last activation left behind cannot be recorded")]
    Record(#[from] Error),
}

/// The object on disk.
#[derive(Debug)]
pub struct LineageWriter {
    writer: Writer,
    ratchet: RefCell<Ratchet>,
    uncovered_since: Cell<Option<Instant>>,
    whole: bool,
    /// The commitment to a key that was made for the next activation.
    spare: Cell<Option<Digest>>,
    /// Lets the waiting key of the activation that has begun take its place.
    adopting: RefCell<Option<JoinHandle<Result<(), CommitError>>>>,
    begun: Notify,
}

/// How deep a history is read before a wake.
fn depth(object_dir: &ObjectDir) -> Depth {
    let lineage = object_dir.path().join("lineage");
    let files = std::fs::read_dir(lineage).into_iter().flatten().flatten();
    let mut sizes = files
        .filter_map(|file| file.metadata().ok())
        .map(|data| data.len());
    match (sizes.next(), sizes.next()) {
        (Some(size), None) if size <= WHOLE_BYTES => Depth::Whole,
        _ => Depth::Tail,
    }
}

impl LineageWriter {
    /// Opens the object for writing, with the bundle in force. Of a history whose files are as whoever is trusted with that
    /// `verified` them whole, only the end is read.
    ///
    /// # Errors
    /// [`BootError`]: nothing may run.
    pub fn open(object_dir: &ObjectDir, verified: Option<Stamps>) -> Result<(Self, Arc<Bundle>), BootError> {
        let verified = verified.filter(|stamps| stamps.still_hold(object_dir));
        let depth = match verified {
            Some(_) => Depth::Tail,
            None => depth(object_dir),
        };
        let (writer, _recovery) = Writer::open(object_dir, depth, Sizes::default())?;
        // Under the lock: nobody writes now.
        let known = verified.is_some_and(|stamps| stamps.still_hold(object_dir));
        let (id, at) = {
            let state = writer.published();
            (state.head().bundle, state.head().at)
        };
        let bundle = writer.bundles().bundle(&id)?;
        let lineage = Self {
            writer,
            ratchet: RefCell::new(Ratchet::new(at)),
            uncovered_since: Cell::new(None),
            whole: known || matches!(depth, Depth::Whole),
            spare: Cell::new(None),
            adopting: RefCell::default(),
            begun: Notify::new(),
        };
        Ok((lineage, bundle))
    }

    /// Resolves when the part of the history that opening had left out turns out to be damaged; never otherwise.
    pub async fn damage_behind(&self) -> OpenError {
        if self.whole {
            return std::future::pending().await;
        }
        let object_dir = self.writer.object_dir().clone();
        let verified =
            tokio::task::spawn_blocking(move || Reader::verify(&object_dir, |_| {}).map(drop)).await;
        match verified {
            Ok(Err(damage)) => damage,
            // Intact; or the runtime is ending and took the thread with it.
            Ok(Ok(())) | Err(_) => std::future::pending().await,
        }
    }

    /// The object, open for writing.
    pub(crate) const fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Looks at everything durable.
    pub fn published<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.writer.published())
    }

    /// Looks at everything durable and what is on its way.
    pub fn staged<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.writer.staged(look)
    }

    /// The time that a decision uses: never behind what is recorded.
    pub fn now(&self, reading: Reading) -> Now {
        self.ratchet.borrow_mut().observe(reading)
    }

    /// Records that the last activation ended without the object's own act, where it did.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn record_crash(&self, at: Timestamp) -> Result<bool, Error> {
        match record::crash(&self.writer) {
            Some(body) => self.commit(body, at, Sign::Now).await.map(|_| true),
            None => Ok(false),
        }
    }

    /// Writes memory, as [`write::stage`] does: signed with what comes next, or at once where the bundle says so.
    ///
    /// # Errors
    /// [`WriteError`]: nothing was written.
    pub fn write(
        &self,
        claim: &Claim,
        bundle: &Bundle,
        inputs: Inputs,
        patch: &Patch,
    ) -> Result<Staged, WriteError> {
        let sign = match bundle.manifest.seal_within {
            Span(0) => Sign::Now,
            _ => Sign::Later,
        };
        let at = inputs.now.at;
        let staged = write::stage(claim, &self.writer, bundle, inputs, patch, (at, sign))?;
        self.note_signed(sign);
        Ok(staged)
    }

    /// Counts the time from the first record that waits for a signature.
    fn note_signed(&self, sign: Sign) {
        match sign {
            Sign::Now => self.uncovered_since.set(None),
            Sign::Later if self.uncovered_since.get().is_none() => {
                self.uncovered_since.set(Some(Instant::now()));
            }
            Sign::Later => {}
        }
    }

    /// Makes a record; returns once it is durable.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn commit(&self, body: Body, at: Timestamp, sign: Sign) -> Result<Committed, Error> {
        self.note_signed(sign);
        let ticket = self.writer.stage(Draft {
            body,
            at,
            bundle: None,
            sign,
        })?;
        let committed = self.staged(|state| Committed {
            seq: state.head().seq,
            epoch: state.head().epoch,
        });
        ticket.await?;
        Ok(committed)
    }

    /// The key that is to wait for the activation after the next was made by whoever started the machine.
    pub fn offer_spare(&self, commitment: Option<Digest>) {
        self.spare.set(commitment);
    }

    /// Begins an activation with the body that `make` returns for the commitment to the next key. That key takes its place
    /// beside what comes next.
    ///
    /// # Errors
    /// [`Error`].
    pub fn begin(&self, at: Timestamp, make: impl FnOnce(Digest) -> Body) -> Result<Committed, Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        self.uncovered_since.set(None);
        let fresh = Fresh {
            spare: self.spare.take(),
            seed: &seed,
        };
        self.writer.begin::<Error>(fresh, at, |_, next| Ok(make(next)))?;
        let adopting = tokio::task::spawn_blocking(self.writer.adopting());
        self.adopting.replace(Some(adopting));
        self.begun.notify_one();
        Ok(self.published(|state| Committed {
            seq: state.head().seq,
            epoch: state.head().epoch,
        }))
    }

    /// Resolves when the waiting key could not take its place: nothing is acknowledged any more. Never otherwise.
    pub async fn not_adopted(&self) -> Error {
        loop {
            self.begun.notified().await;
            let adopting = self.adopting.take();
            if let Some(adopting) = adopting
                && let Ok(Err(error)) = adopting.await
            {
                return error.into();
            }
        }
    }

    /// For how long something has been waiting for a signature.
    #[must_use]
    pub fn uncovered_for(&self) -> Option<Duration> {
        self.uncovered_since.get().map(|since| since.elapsed())
    }

    /// The value of the secret in field `name`; `None` for what is no secret, or empty.
    ///
    /// # Errors
    /// [`secrets::Error`].
    pub fn secret(&self, name: &str) -> Result<Option<Value>, secrets::Error> {
        match self.published(|state| state.memory().value(name).cloned()) {
            Some(Value::Commitment(commitment)) => self
                .writer
                .object_dir()
                .secret(&commitment)
                .map(|secret| Some(secret.value)),
            _ => Ok(None),
        }
    }

    /// A JWT over `claims` by the epoch's key; `None` while no epoch runs.
    #[must_use]
    pub fn sign_token(&self, claims: &serde_json::Value) -> Option<String> {
        let key = self.published(|state| state.head().key)?;
        let header = serde_json::json!({"alg": "EdDSA", "typ": "JWT", "kid": key.to_string()});
        let part = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.writer.sign(Domain::IdentityToken, signed.as_bytes())?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.0)))
    }

    /// Gives up the lock, with everything durable.
    ///
    /// # Errors
    /// [`Error`].
    pub fn close(self) -> Result<(), Error> {
        Ok(self.writer.close()?)
    }
}
