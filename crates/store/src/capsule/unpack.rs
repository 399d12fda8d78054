//! Reading a capsule: each section is checked before it is handed on.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use suijuris_core::bundle::Bundle;
use suijuris_core::id::{BundleId, Digest, ObjectId, RecordId};
use suijuris_core::lineage::{Announcement, Body, ParentProof, State, Stored, VerifiedParent};
use suijuris_core::memory::Schema;
use suijuris_core::memory::tree::Root;

use super::{
    CapsuleError, FRAME_BYTES, Fault, Frame, HEADER_BYTES, Kind, MAX_ALL_BUNDLES_BYTES, Progress, Spot, end,
    read_header,
};
use crate::bundle_store::BundleFiles;

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A capsule that is sound from its first byte to its last.
#[derive(Debug)]
pub struct Verified {
    /// The fold of its records: head and memory.
    pub state: State,
    /// Records in it.
    pub records: u64,
    /// Its size, bytes.
    pub bytes: u64,
    /// The parent that provably forked the object.
    pub parent: Option<VerifiedParent>,
    /// The announcement of the state, as it stands.
    pub announcement: Option<Vec<u8>>,
    /// What only a recipient can read, as it stands; nothing is known of it.
    pub sealed: Option<Vec<u8>>,
    /// The proof of the parent, as it stands.
    pub(crate) proof: Option<Vec<u8>>,
}

impl Verified {
    /// The object.
    #[must_use]
    pub const fn object(&self) -> ObjectId {
        self.state.head().object
    }

    /// The last record.
    #[must_use]
    pub const fn head(&self) -> RecordId {
        self.state.head().record
    }

    /// Its position.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.state.head().seq
    }

    /// Rules in force.
    #[must_use]
    pub const fn bundle(&self) -> BundleId {
        self.state.head().bundle
    }

    /// The commitment to all of memory.
    #[must_use]
    pub fn memory_root(&self) -> Root {
        self.state.memory().root()
    }
}

/// Verifies a capsule whole, offline: every byte, every record of the chain with its signature, every bundle, the proof
/// of the parent and the announcement. What is sealed cannot be looked at. `progress` hears of each record.
///
/// That the history is the newest, only a witness can say.
///
/// # Errors
/// [`CapsuleError`] names the first record and byte at which it is not sound.
pub fn verify(source: impl Read, progress: impl FnMut(Progress)) -> Result<Verified, CapsuleError> {
    verify_with(source, progress, |_, _| {})
}

/// As [`verify`]; `bundle` is given each bundle's files too, to be held to its text by who has a compiler.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    source: impl Read,
    mut progress: impl FnMut(Progress),
    mut bundle: impl FnMut(&BundleId, BundleFiles),
) -> Result<Verified, CapsuleError> {
    let mut unpacking = Unpacking::begin(source)?;
    loop {
        match unpacking.step()? {
            Item::Bundle(id, files) => bundle(&id, files),
            Item::Record(_) => progress(unpacking.progress()),
            Item::End(verified) => return Ok(*verified),
        }
    }
}

/// A section's content, and where it stood.
struct Section {
    kind: Kind,
    content: Vec<u8>,
    /// Of everything before the section.
    before: Sha256,
}

/// The bytes, read once, counted and hashed.
struct Source<R> {
    read: BufReader<R>,
    hash: Sha256,
    offset: u64,
}

/// Holds an instance of a class to the bundle that its inception names.
fn founded(first: &Stored, bundle: Option<&Bundle>) -> Result<(), Fault> {
    match (&first.record.body, bundle) {
        (Body::Inception(inception), Some(bundle)) => match &inception.class {
            Some(class) => Ok(class.check(&inception.name, bundle)?),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Why a section is not had.
enum Missing {
    Read(io::Error),
    Fault(Fault),
}

impl From<Fault> for Missing {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<R: Read> Source<R> {
    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], Missing> {
        let mut bytes = [0; N];
        self.read.read_exact(&mut bytes).map_err(cut)?;
        self.count(&bytes);
        Ok(bytes)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
    }

    fn section(&mut self) -> Result<Section, Missing> {
        let before = self.hash.clone();
        let frame = Frame::decode(&self.exactly::<FRAME_BYTES>()?)?;
        let mut content = vec![0; frame.size as usize];
        self.read.read_exact(&mut content).map_err(cut)?;
        self.count(&content);
        let digest = Digest::of(&content);
        if !frame.fits(&digest) {
            return Err(Fault::Altered.into());
        }
        Ok(Section {
            kind: frame.kind,
            content,
            before,
        })
    }

    fn is_over(&mut self) -> Result<bool, Missing> {
        let mut byte = Vec::with_capacity(1);
        let read = (&mut self.read).take(1).read_to_end(&mut byte);
        Ok(read.map_err(Missing::Read)? == 0)
    }
}

fn cut(error: io::Error) -> Missing {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Cut.into(),
        _ => Missing::Read(error),
    }
}

/// What stands next in a capsule.
pub(crate) enum Item {
    /// A sound bundle that the next record names.
    Bundle(BundleId, BundleFiles),
    /// A record that continues the chain.
    Record(Box<Stored>),
    /// Everything was read and is sound.
    End(Box<Verified>),
}

/// A capsule that is being read.
pub(crate) struct Unpacking<R> {
    source: Source<R>,
    first: Option<Stored>,
    state: Option<State>,
    schemas: BTreeMap<BundleId, Arc<Schema>>,
    /// The bundle before the first record, until that is read: an instance is held to the rules that founded it.
    founding: Option<Bundle>,
    bundle_bytes: usize,
    /// A bundle that the next record must name.
    named_next: Option<BundleId>,
    /// The last kind of section.
    last: Option<Kind>,
    parent: Option<VerifiedParent>,
    proof: Option<Vec<u8>>,
    announcement: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
}

impl<R: Read> Unpacking<R> {
    pub(crate) fn begin(source: R) -> Result<Self, CapsuleError> {
        let mut unpacking = Self {
            source: Source {
                read: BufReader::with_capacity(BUFFER_BYTES, source),
                hash: Sha256::new(),
                offset: 0,
            },
            first: None,
            state: None,
            schemas: BTreeMap::new(),
            founding: None,
            bundle_bytes: 0,
            named_next: None,
            last: None,
            parent: None,
            proof: None,
            announcement: None,
            sealed: None,
        };
        let spot = unpacking.spot();
        let header = match unpacking.source.exactly::<HEADER_BYTES>() {
            Ok(header) => read_header(&header),
            Err(Missing::Read(error)) => return Err(CapsuleError::Read(error)),
            Err(Missing::Fault(_)) => Err(Fault::NotACapsule),
        };
        match header {
            Ok(()) => Ok(unpacking),
            Err(fault) => Err(CapsuleError::Bad { spot, fault }),
        }
    }

    fn spot(&self) -> Spot {
        Spot {
            offset: self.source.offset,
            seq: self.records(),
        }
    }

    /// Records so far.
    fn records(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.head().seq + 1)
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            records: self.records(),
            bytes: self.source.offset,
        }
    }

    /// What stands next.
    pub(crate) fn step(&mut self) -> Result<Item, CapsuleError> {
        loop {
            let spot = self.spot();
            match self.section() {
                Ok(Some(item)) => return Ok(item),
                Ok(None) => {}
                Err(Missing::Read(error)) => return Err(CapsuleError::Read(error)),
                Err(Missing::Fault(fault)) => return Err(CapsuleError::Bad { spot, fault }),
            }
        }
    }

    fn section(&mut self) -> Result<Option<Item>, Missing> {
        let section = self.source.section()?;
        self.in_order(section.kind)?;
        self.last = Some(section.kind);
        match section.kind {
            Kind::Bundle => return Ok(Some(self.bundle(&section.content)?)),
            Kind::Record => return Ok(Some(self.record(section.content)?)),
            Kind::Parent => {
                self.parent = self.verified_parent(Some(&section.content))?;
                self.proof = Some(section.content);
            }
            Kind::Announcement => {
                self.announced(&section.content)?;
                self.announcement = Some(section.content);
            }
            Kind::Sealed => self.sealed = Some(section.content),
            Kind::End => return Ok(Some(self.end(&section)?)),
        }
        Ok(None)
    }

    /// Bundles and records first, a bundle only before a record; then each of the others at most once, in their order.
    fn in_order(&self, kind: Kind) -> Result<(), Fault> {
        let fits = match kind {
            Kind::Bundle => self.last.is_none_or(|last| last == Kind::Record),
            Kind::Record => self.last.is_some_and(|last| last <= Kind::Record),
            _ => self.last.is_some_and(|last| last >= Kind::Record && last < kind),
        };
        if fits { Ok(()) } else { Err(Fault::Order(kind)) }
    }

    fn bundle(&mut self, content: &[u8]) -> Result<Item, Fault> {
        self.bundle_bytes += content.len();
        if self.bundle_bytes > MAX_ALL_BUNDLES_BYTES {
            return Err(Fault::ManyBundles);
        }
        let files = BundleFiles::decode(content)?;
        let bundle = files.open()?;
        let id = bundle.id();
        if self.schemas.insert(id, Arc::clone(bundle.schema())).is_some() {
            return Err(Fault::Order(Kind::Bundle));
        }
        self.named_next = Some(id);
        self.founding = self.state.is_none().then_some(bundle);
        Ok(Item::Bundle(id, files))
    }

    fn record(&mut self, content: Vec<u8>) -> Result<Item, Fault> {
        let stored = Stored::decode(content)?;
        if self
            .named_next
            .take()
            .is_some_and(|id| id != stored.record.bundle)
        {
            return Err(Fault::OtherBundle);
        }
        let schemas = |id: &BundleId| self.schemas.get(id).cloned();
        match &mut self.state {
            Some(state) => state.apply(&stored, &schemas)?,
            None => {
                self.state = Some(State::begin(&stored, &schemas)?);
                founded(&stored, self.founding.take().as_ref())?;
                self.first = Some(stored.clone());
            }
        }
        Ok(Item::Record(Box::new(stored)))
    }

    fn verified_parent(&self, proof: Option<&[u8]>) -> Result<Option<VerifiedParent>, Fault> {
        match &self.first {
            Some(first) => Ok(ParentProof::verify(proof, first)?),
            None => Err(Fault::Order(Kind::Parent)),
        }
    }

    /// The announcement must say what the records say.
    fn announced(&self, content: &[u8]) -> Result<(), Fault> {
        let schemas = |id: &BundleId| self.schemas.get(id).cloned();
        let (announced, _) = Announcement::open(content, &schemas)?;
        let same = self.state.as_ref().is_some_and(|state| {
            announced.head() == state.head() && announced.memory().root() == state.memory().root()
        });
        if same {
            Ok(())
        } else {
            Err(Fault::OtherAnnouncement)
        }
    }

    fn end(&mut self, section: &Section) -> Result<Item, Missing> {
        let found = self.records();
        let digest = Digest(section.before.clone().finalize().into());
        if section.content != end(found, &digest) {
            let counted = section
                .content
                .first_chunk()
                .map(|count| u64::from_be_bytes(*count));
            return Err(match counted {
                Some(counted) if counted != found => Fault::Count { counted, found },
                _ => Fault::Digest,
            }
            .into());
        }
        if !self.source.is_over()? {
            return Err(Fault::Trailing.into());
        }
        if self.proof.is_none() {
            self.verified_parent(None)?;
        }
        let Some(state) = self.state.take() else {
            return Err(Fault::Order(Kind::End).into());
        };
        Ok(Item::End(Box::new(Verified {
            state,
            records: found,
            bytes: self.source.offset,
            parent: self.parent.take(),
            announcement: self.announcement.take(),
            sealed: self.sealed.take(),
            proof: self.proof.take(),
        })))
    }
}
