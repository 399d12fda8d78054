//! An object begins on its volume: once, at the first boot of a machine that carries it, by its owners' ticket.
//!
//! ```text
//! stage beside its place (durable) → spend the ticket in the depot → give it its place → wake
//! ```
//!
//! A volume that holds the object is left as it is, whatever ticket is there; an empty one without a live ticket founds nothing. Of
//! two machines with one ticket one founds: where there is a depot its name table says who, else the volume does. Called by the
//! boot of a machine of its own, before anything else is opened.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use suijuris_core::ObjectId;
use suijuris_core::bundle::Files;
use suijuris_core::class::founder::{FirstWord, SignedFirstWord};
use suijuris_core::class::founding::{Entry, Stage};
use suijuris_core::class::{ClassId, Key};
use suijuris_core::lineage::Body;
use suijuris_core::ticket::{Expected, SignedTicket, TicketError};
use suijuris_core::time::Timestamp;
use suijuris_custody::claim::fresh_id;
use suijuris_depot::{Depot, NameSwap};
use suijuris_store::{CreateError, Creation, Depth, ObjectDir, OpenError, Reader, create, create_by_ticket};
use zeroize::Zeroizing;

use super::files::FilesError;

/// Name of the object's data on its volume.
pub const OBJECT: &str = "object";
/// Where one is made until it gets its place.
const STAGED: &str = ".founding";
/// Written once there is a history; alone, it shows that one has been lost.
const CHECKPOINT: &str = "checkpoint";
/// Tries of asking a depot whose answer was lost.
const TRIES: u32 = 5;
/// Pause between two of them.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// What a machine knows of the object that it is to carry.
#[derive(Debug)]
pub(crate) struct Founding<'a> {
    /// The volume.
    pub(crate) volume: &'a Path,
    /// The definition in the image.
    pub(crate) bundle: Files,
    /// The owners' word, as it came.
    pub(crate) ticket: Option<&'a str>,
    /// The app that the machine is of, where that is known.
    pub(crate) app: Option<String>,
    /// The volume as whoever carries the machine calls it, where that is known.
    pub(crate) volume_id: Option<String>,
    /// Where tickets are spent.
    pub(crate) depot: Option<Arc<dyn Depot>>,
    /// Now.
    pub(crate) now: Timestamp,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Founded {
    /// It was there.
    There,
    /// It has begun just now.
    Now(ObjectId),
}

/// Why nothing was founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The volume is empty.
    #[error(
        "the volume holds no object, and there is no ticket to found one by: restore the volume, or let an owner deploy again"
    )]
    NoTicket,
    /// The ticket is none.
    #[error("the ticket cannot be read: let an owner deploy again")]
    Text,
    /// The ticket does not let an object begin here.
    #[error("the volume holds no object, and the ticket does not let one begin here")]
    Ticket(#[from] TicketError),
    /// The door of its class lets it begin, and the rules of its class do not.
    #[error("the rules of the class do not permit what its door says that they do")]
    Instance(#[from] suijuris_core::class::InstanceError),
    /// Another object was founded by it.
    #[error(
        "the ticket was spent: object {0} was founded by it, on another volume; restore that one's volume, or let an owner deploy again"
    )]
    Spent(ObjectId),
    /// A history is lost.
    #[error(
        "the volume holds what an object left behind, but not its history: restore the volume from a snapshot"
    )]
    Lost,
    /// The image's own files.
    #[error("the image cannot be used")]
    Image(#[from] FilesError),
    /// The bundle in the image.
    #[error("the bundle in the image cannot be used")]
    Bundle(#[from] suijuris_core::bundle::Error),
    /// The volume.
    #[error("`{0}` cannot be written: is a volume mounted there?")]
    Volume(PathBuf, #[source] io::Error),
    /// The object on the volume.
    #[error("what the volume holds cannot be opened")]
    Open(#[from] OpenError),
    /// The object.
    #[error("no object could be made")]
    Create(#[from] CreateError),
    /// The depot.
    #[error("the ticket cannot be spent in the depot: {0}")]
    Depot(String),
    /// No randomness.
    #[error("the system provides no randomness")]
    Random(#[from] getrandom::Error),
}

impl Founding<'_> {
    /// Founds the object where there is none yet.
    ///
    /// # Errors
    /// [`FoundingError`]; nothing has begun then.
    pub(crate) async fn run(self) -> Result<Founded, FoundingError> {
        let place = self.volume.join(OBJECT);
        if ObjectDir::at(&place).holds_object()? {
            return Ok(Founded::There);
        }
        if place.join(CHECKPOINT).exists() {
            return Err(FoundingError::Lost);
        }
        let staged = self.volume.join(STAGED);
        if let Some((object, place_of)) = staged_before(&staged)? {
            // It was begun in time; whether by the ticket that counts, the depot says.
            match self.spend(place_of, object).await {
                Ok(()) => return self.publish(&staged, &place, object),
                Err(FoundingError::Spent(_)) => discard(&staged)?,
                Err(error) => return Err(error),
            }
        }
        let ticket = self.ticket()?;
        discard(&staged)?;
        let object = self.stage(&staged, &ticket)?;
        match self.spend(ticket.table()?, object).await {
            Ok(()) => self.publish(&staged, &place, object),
            Err(error) => {
                if matches!(error, FoundingError::Spent(_)) {
                    discard(&staged)?;
                }
                Err(error)
            }
        }
    }

    /// The ticket, where it lets the object begin here and now: the owners' own, or for an instance the word of their class's door.
    fn ticket(&self) -> Result<Leave, FoundingError> {
        let text = self.ticket.ok_or(FoundingError::NoTicket)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim())
            .map_err(|_none| FoundingError::Text)?;
        let bundle = self.bundle.open()?;
        let expected = Expected {
            bundle: bundle.id(),
            app: self.app.as_deref(),
            volume: self.volume_id.as_deref(),
            now: self.now,
        };
        if bundle.manifest.class.is_some() {
            let word = SignedFirstWord::decode(&bytes)?;
            let said = word.verify(&expected)?;
            said.instance.check(&bundle.manifest.name, &bundle)?;
            return Ok(Leave::Door(Box::new(word.word)));
        }
        let ticket = SignedTicket::decode(&bytes)?;
        ticket.verify(&expected)?;
        Ok(Leave::Owners(Box::new(ticket)))
    }

    fn stage(&self, staged: &Path, leave: &Leave) -> Result<ObjectId, FoundingError> {
        let failed = |error| FoundingError::Volume(staged.to_owned(), error);
        fs::DirBuilder::new().mode(0o700).create(staged).map_err(failed)?;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        let mut creation = Creation {
            name: self.bundle.open()?.manifest.name,
            // Those of the ticket take their place.
            controllers: Vec::new(),
            threshold: 0,
            nonce: Vec::new(),
            parent: None,
            class: None,
            at: self.now,
            bundle: self.bundle.clone(),
            seed,
        };
        let dir = ObjectDir::at(staged);
        match leave {
            Leave::Owners(ticket) => Ok(create_by_ticket(&dir, creation, (**ticket).clone())?),
            Leave::Door(word) => {
                let by = &word.by.appointment;
                let mut nonce = vec![0; 16];
                getrandom::fill(&mut nonce)?;
                creation.nonce = nonce;
                creation.controllers.clone_from(&by.controllers);
                creation.threshold = by.threshold;
                creation.class = Some(word.instance.clone());
                Ok(create(&dir, creation)?)
            }
        }
    }

    /// Spends the ticket for this object: the depot's table names one object for it, for ever.
    async fn spend(&self, (table, key): (ClassId, Key), object: ObjectId) -> Result<(), FoundingError> {
        let Some(depot) = &self.depot else {
            return Ok(());
        };
        let who = self.app.as_deref().unwrap_or_default();
        let who = format!("{who} {}", self.volume_id.as_deref().unwrap_or_default());
        let who = who.chars().take(100).collect();
        let entry = Entry::founding(object, fresh_id()?, who).at(Stage::Founded);
        let mut tries = 0;
        let swapped = loop {
            match depot.swap_name(table, &key, &entry, None).await {
                Err(error) if error.is_retryable() && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                swapped => break swapped,
            }
        };
        match swapped {
            Ok(NameSwap::Done(_)) => Ok(()),
            Ok(NameSwap::Conflict(Some((found, _)))) if found.object == object => Ok(()),
            Ok(NameSwap::Conflict(Some((found, _)))) => Err(FoundingError::Spent(found.object)),
            Ok(NameSwap::Conflict(None)) => Err(FoundingError::Depot("it changes: try again".to_owned())),
            Err(error) => Err(FoundingError::Depot(suijuris_custody::chain(&error))),
        }
    }

    /// Gives it its place: from now on the volume holds an object.
    fn publish(&self, staged: &Path, place: &Path, object: ObjectId) -> Result<Founded, FoundingError> {
        let failed = |error| FoundingError::Volume(self.volume.to_owned(), error);
        fs::rename(staged, place)
            .and_then(|()| File::open(self.volume)?.sync_all())
            .map_err(failed)?;
        Ok(Founded::Now(object))
    }
}

/// By whose leave an object begins.
#[derive(Debug)]
enum Leave {
    /// Its owners'.
    Owners(Box<SignedTicket>),
    /// That of the door of its class.
    Door(Box<FirstWord>),
}

impl Leave {
    /// Where in a depot's name tables it says which object began by it: the table of the owners' tickets, or that of the class.
    fn table(&self) -> Result<Table, TicketError> {
        match self {
            Self::Owners(signed) => signed.ticket.table(),
            Self::Door(word) => Ok((word.instance.id, word.instance.key.clone())),
        }
    }
}

/// Where a depot says which object began by some leave: a class's name table, and the key in it.
type Table = (ClassId, Key);

/// What an earlier boot had begun: the object, and where a depot says that it is the one.
fn staged_before(staged: &Path) -> Result<Option<(ObjectId, Table)>, FoundingError> {
    let dir = ObjectDir::at(staged);
    if !dir.holds_object()? {
        return Ok(None);
    }
    let reader = Reader::open(&dir, Depth::Whole)?;
    let object = reader.state().head().object;
    let first = reader.records(0..1)?.next().transpose()?;
    let Some(Body::Inception(inception)) = first.map(|first| first.record.body) else {
        return Ok(None);
    };
    let place = match (inception.ticket, inception.class) {
        (Some(signed), _) => Some(signed.ticket.table()?),
        (None, Some(class)) => Some((class.id, class.key)),
        (None, None) => None,
    };
    Ok(place.map(|place| (object, place)))
}

fn discard(staged: &Path) -> Result<(), FoundingError> {
    match fs::remove_dir_all(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FoundingError::Volume(staged.to_owned(), error))
        }
        _ => Ok(()),
    }
}
