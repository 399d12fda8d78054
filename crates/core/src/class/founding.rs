//! Founding an instance once: the entry in the name table, the order of steps, and what becomes of what was left behind.
//!
//! The name table of a class lies in the depot, one entry a key, changed only by compare-and-swap. Whoever founds walks
//! [`Founding`]: it says what to do next and is told how that went. The order is
//!
//! ```text
//! stage → create entry `founding` if there is none → publish → entry `founded` → serve
//! ```
//!
//! What is staged is durable before it is published, and before the entry where nothing tells that a holder is gone; what is published is
//! durable before the entry says `founded`, and marked before it serves.
//!
//! An instance serves nobody and acknowledges nothing before its entry says `founded`, so that of two who found at once
//! one is left with nothing that anybody knows of. Who starts again and finds something staged asks [`recover`]; who
//! finds an entry of somebody else asks [`replaceable`]. Not here: any reading or writing.

use serde::{Deserialize, Serialize};

use super::{ClassId, Key};
use crate::codec;
use crate::id::ObjectId;
use crate::witness::HolderId;

/// Format version of entries.
pub const VERSION: u32 = 1;

/// Size of an encoded entry at most, bytes.
pub const MAX_BYTES: usize = 512;

/// Longest text about a holder, bytes.
pub const MAX_WHO: usize = 256;

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Somebody has begun to found it, and it serves nobody.
    Founding,
    /// It is there. Never replaced.
    Founded,
    /// It was removed; the key stays taken until an owner's signature frees it.
    Tombstone,
}

/// An entry in the name table of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// [`VERSION`].
    pub v: u32,
    /// The instance.
    pub object: ObjectId,
    /// Who founds or founded it.
    pub holder: HolderId,
    /// For people, and for whom to ask when the instance lies elsewhere: host and process; at most [`MAX_WHO`] bytes.
    pub who: String,
    /// How far it is.
    pub state: Stage,
}

/// Why bytes are no entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Not the canonical bytes of an entry.
    #[error("the entry of the name table cannot be read")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error(
        "the entry of the name table has version {0}, this program reads version {VERSION}; use a newer suijuris"
    )]
    Version(u32),
    /// Its text about the holder is too long.
    #[error("the entry of the name table names an impossible holder")]
    Holder,
}

impl Entry {
    /// The entry that begins a founding.
    #[must_use]
    pub const fn founding(object: ObjectId, holder: HolderId, who: String) -> Self {
        Self {
            v: VERSION,
            object,
            holder,
            who,
            state: Stage::Founding,
        }
    }

    /// This entry at another stage.
    #[must_use]
    pub fn at(&self, state: Stage) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }

    /// The name that the entry has in the table: `CLASS/KEY`.
    #[must_use]
    pub fn name(class: ClassId, key: &Key) -> String {
        format!("{class}/{key}")
    }

    /// The canonical bytes, at most [`MAX_BYTES`].
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        codec::encode(self)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry: Self = codec::decode(bytes, MAX_BYTES)?;
        if entry.v != VERSION {
            return Err(EntryError::Version(entry.v));
        }
        if entry.who.len() > MAX_WHO {
            return Err(EntryError::Holder);
        }
        Ok(entry)
    }
}

/// What is to be done next. Whoever does it answers with an [`Answer`], and asks again where the answer is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the inception where nobody looks, and begin to sync it.
    Stage,
    /// Create the entry if there is none.
    Create(Entry),
    /// Put the entry in place of the one that was read, by compare-and-swap.
    Replace {
        /// As it was read.
        old: Entry,
        /// As it shall be.
        new: Entry,
    },
    /// Put the staged object, durable by then, where objects are, and begin to claim it; again where that was done before.
    Publish,
    /// Remove what was staged or published of this object. Nobody knows of it.
    Discard,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done and durable.
    Done,
    /// The table has another entry, which was read; whether that may be replaced.
    Taken {
        /// The entry in the table.
        entry: Entry,
        /// What [`replaceable`] says of it.
        replaceable: bool,
    },
    /// The entry that was to be replaced is gone, or none is there that should be.
    Gone,
}

/// How a founding ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The instance is there and may serve.
    Founded(ObjectId),
    /// The key is another's: serve that, or say where it lies. Nothing of ours is left.
    Taken(Entry),
}

/// What a founding says when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Do this.
    Do(Step),
    /// It is over.
    Over(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Staging,
    Claiming,
    Replacing(Entry),
    Publishing,
    Marking,
    Discarding(Entry),
    Over(End),
}

/// One founding, from the first step to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    entry: Entry,
    phase: Phase,
}

impl Founding {
    /// Begins to found `object`; the permit of `instantiate` is in its inception.
    #[must_use]
    pub const fn new(object: ObjectId, holder: HolderId, who: String) -> Self {
        Self {
            entry: Entry::founding(object, holder, who),
            phase: Phase::Staging,
        }
    }

    /// Goes on with what was found staged, as [`recover`] says.
    #[must_use]
    pub fn resume(object: ObjectId, holder: HolderId, who: String, found: Recovery) -> Self {
        let entry = Entry::founding(object, holder, who);
        let phase = match found {
            Recovery::Create => Phase::Claiming,
            Recovery::Publish(mine) => {
                return Self {
                    entry: mine,
                    phase: Phase::Publishing,
                };
            }
            Recovery::Replace(old) => Phase::Replacing(old),
            Recovery::Delete(other) => Phase::Discarding(other),
            Recovery::Keep(mine) if mine.state == Stage::Founded => Phase::Over(End::Founded(mine.object)),
            Recovery::Keep(gone) => Phase::Over(End::Taken(gone)),
        };
        Self { entry, phase }
    }

    /// What is to be done.
    #[must_use]
    pub fn next(&self) -> Next {
        Next::Do(match &self.phase {
            Phase::Staging => Step::Stage,
            Phase::Claiming => Step::Create(self.entry.clone()),
            Phase::Replacing(old) => Step::Replace {
                old: old.clone(),
                new: self.entry.clone(),
            },
            Phase::Publishing => Step::Publish,
            Phase::Marking => Step::Replace {
                old: self.entry.clone(),
                new: self.entry.at(Stage::Founded),
            },
            Phase::Discarding(_) => Step::Discard,
            Phase::Over(end) => return Next::Over(end.clone()),
        })
    }

    /// Takes in how the step went that [`Founding::next`] named.
    #[must_use]
    pub fn after(self, answer: Answer) -> Self {
        let Self { entry, phase } = self;
        let phase = match (phase, answer) {
            (Phase::Staging, _) => Phase::Claiming,
            (Phase::Claiming | Phase::Replacing(_), Answer::Done) => Phase::Publishing,
            (Phase::Claiming | Phase::Replacing(_), Answer::Gone) => Phase::Claiming,
            (
                Phase::Claiming | Phase::Replacing(_) | Phase::Marking,
                Answer::Taken {
                    entry: found,
                    replaceable,
                },
            ) => taken(&entry, found, replaceable),
            (Phase::Publishing, _) => Phase::Marking,
            (Phase::Marking, Answer::Done) => Phase::Over(End::Founded(entry.object)),
            // The table lost the entry: what is published is claimed anew before it serves.
            (Phase::Marking, Answer::Gone) => Phase::Claiming,
            (Phase::Discarding(other), _) => Phase::Over(End::Taken(other)),
            (over @ Phase::Over(_), _) => over,
        };
        Self { entry, phase }
    }
}

/// What a founding does about the entry that stands where its own should.
fn taken(mine: &Entry, found: Entry, replaceable: bool) -> Phase {
    match found.state {
        // An answer that was lost, and asked for again.
        Stage::Founding if found == *mine => Phase::Publishing,
        Stage::Founded if found.object == mine.object => Phase::Over(End::Founded(mine.object)),
        Stage::Founding if replaceable => Phase::Replacing(found),
        Stage::Founding | Stage::Founded | Stage::Tombstone => Phase::Discarding(found),
    }
}

/// Whether an entry of somebody else may be replaced: it says `founding`, its object has no mark, and its holder is gone.
/// What is `founded`, or a tombstone, is never replaced.
#[must_use]
pub const fn replaceable(entry: &Entry, has_mark: bool, holder_lives: bool) -> bool {
    matches!(entry.state, Stage::Founding) && !has_mark && !holder_lives
}

/// What to do with an object that was found staged, or published and not yet known to be founded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// The table has no entry: create it, then go on.
    Create,
    /// The entry is this object's, which is not founded yet: publish, then mark.
    Publish(Entry),
    /// The entry is another's that may be replaced: by compare-and-swap, then go on.
    Replace(Entry),
    /// The key is another's: delete what was staged. Nobody knows of it.
    Delete(Entry),
    /// The object is founded, or was: it stays as it is, and is never founded again.
    Keep(Entry),
}

/// Decides about what was found staged of `object`. `entry` is what the table has under its class and key, with what
/// [`replaceable`] says of it. An entry that says `founding` for this object is this daemon's own from an earlier life,
/// or that of a daemon from which the directory was moved.
#[must_use]
pub fn recover(object: ObjectId, entry: Option<(Entry, bool)>) -> Recovery {
    match entry {
        None => Recovery::Create,
        Some((entry, _)) if entry.object == object => match entry.state {
            Stage::Founding => Recovery::Publish(entry),
            Stage::Founded | Stage::Tombstone => Recovery::Keep(entry),
        },
        Some((entry, true)) => Recovery::Replace(entry),
        Some((entry, false)) => Recovery::Delete(entry),
    }
}

#[cfg(test)]
mod tests;
