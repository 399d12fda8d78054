//! Classes: templates of which objects are founded on first use, one for each key. Bytes: `spec/class.md`.
//!
//! A bundle with `[class]` is a template ([`Class`], in its manifest). A class is that template with owners, a name and a
//! nonce ([`ClassId`]); its instances are told apart by a [`Key`]. Whether an instance is founded, the template's rule
//! `instantiate` says ([`Template`]); in which order it is founded so that it is founded once, [`founding`] does; by whose word a
//! machine of its own founds one, [`founder`]. Not
//! here: counting, rates, addresses, reading or writing anything.

mod definition;
pub mod founder;
pub mod founding;
mod key;
mod template;

use serde::{Deserialize, Serialize};

pub use self::definition::{
    Class, FOUNDINGS_PER_CLASS, FOUNDINGS_PER_PEER, MAX_ARCHIVE_AFTER, MAX_FOUNDINGS_PER_SECOND,
    MAX_INSTANCES, MIN_ARCHIVE_AFTER, Source, SourceError,
};
pub use self::key::{Key, KeyError, Keys, MAX_KEY_BYTES, MAX_RAW_KEY_BYTES, Pattern, PatternError};
pub use self::template::{InstanceError, Template, instantiate};
use crate::codec;
use crate::governance::{Action, Instance};
pub use crate::id::ClassId;
use crate::id::{BundleId, Digest, ObjectId};
use crate::key::PublicKey;
use crate::lineage::{Decision, Statement};

/// What keeps the id of a class apart from the digest of anything else.
const DOMAIN: &str = "suijuris/v1/class";

/// What a class is: who owns it, what it is called, and which of several of that name it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Owners of the class, and so of its instances; in any order.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
    /// Name for people: that of the bundle.
    pub name: String,
    /// Makes two classes of one name two.
    pub nonce: [u8; 16],
}

/// What owners of a class sign to replace its template `from` by `to`.
#[must_use]
pub fn template_statement(class: ClassId, from: BundleId, to: BundleId) -> Statement {
    Statement {
        object: ObjectId::from_digest(*class.digest()),
        action: Action::Amend,
        content: Digest::of_parts(&[b"suijuris/v1/class-template", &from.digest().0, &to.digest().0]),
    }
}

/// As it is hashed.
#[derive(Serialize)]
struct Preimage<'a> {
    domain: &'static str,
    controllers: Vec<PublicKey>,
    threshold: u32,
    name: &'a str,
    #[serde(with = "serde_bytes")]
    nonce: &'a [u8],
}

impl Identity {
    /// The id of the class.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn id(&self) -> Result<ClassId, codec::Error> {
        let mut controllers = self.controllers.clone();
        controllers.sort_unstable();
        let preimage = Preimage {
            domain: DOMAIN,
            controllers,
            threshold: self.threshold,
            name: &self.name,
            nonce: &self.nonce,
        };
        Ok(ClassId::of(&codec::encode(&preimage)?))
    }
}

/// Which instance of which class an object is. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Membership {
    id: ClassId,
    /// The id as rules read it, made once.
    text: String,
    key: Key,
}

/// As it stands in a head.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    id: ClassId,
    key: Key,
}

impl From<Wire> for Membership {
    fn from(wire: Wire) -> Self {
        Self::new(wire.id, wire.key)
    }
}

impl From<Membership> for Wire {
    fn from(membership: Membership) -> Self {
        Self {
            id: membership.id,
            key: membership.key,
        }
    }
}

impl Membership {
    /// The instance `key` of the class `id`.
    #[must_use]
    pub fn new(id: ClassId, key: Key) -> Self {
        let text = id.to_string();
        Self { id, text, key }
    }

    /// The class.
    #[must_use]
    pub const fn id(&self) -> ClassId {
        self.id
    }

    /// Its key in the class.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// As rules see it.
    #[must_use]
    pub fn facts(&self) -> Instance<'_> {
        Instance {
            class: &self.text,
            key: self.key.as_str(),
        }
    }
}

/// How an instance came to be; in its inception record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instantiation {
    /// The class.
    pub id: ClassId,
    /// Its key in the class.
    pub key: Key,
    /// The verdict on `instantiate`, which permits.
    pub decision: Decision,
}

impl Instantiation {
    /// Which instance of which class.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership::new(self.id, self.key.clone())
    }
}
