//! The one governed write: parsed by the types of memory, decided by the object's rules, its secrets kept, recorded. `up`,
//! commands and the runtime call it, asleep and awake, so that the same write has the same answer whoever carries it.
//!
//! What comes out is [`Durable`] and not yet acknowledged: what it wrote is told by [`crate::claim::Claim::acknowledge`]
//! alone, which knows whether the witness has to have it. Refusals are recorded by whoever calls, who counts them.

use suijuris_api::agent::Patch;
use suijuris_api::{Event, Problem};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Verdict, View, decide};
use suijuris_core::governance::Action;
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::{Body, Decision, Mutated};
use suijuris_core::memory::{Change, Value, Write};
use suijuris_core::time::Timestamp;
use suijuris_store::{CommitError, Draft, Secret, Sign, StageError, Ticket, Writer, secrets};
use suijuris_words::verdict;

use crate::chain;
use crate::claim::{Claim, Unwitnessed};
use crate::patch::{self, Parsed};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The patch does not fit memory, or memory is not as it expects.
    #[error(transparent)]
    Patch(#[from] patch::Error),
    /// The rules refuse.
    #[error("the object's rules refuse the write")]
    Refused(Box<Decision>),
    /// It could not be acknowledged.
    #[error("nothing was written")]
    Unwitnessed(#[from] Unwitnessed),
    /// A secret.
    #[error("the secret was not kept")]
    Secret(#[from] secrets::Error),
    /// No randomness for a secret's salt.
    #[error("the system provides no randomness for a secret's salt")]
    Random(#[from] getrandom::Error),
    /// The store.
    #[error("the record was not made durable")]
    Stage(#[from] StageError),
}

impl WriteError {
    /// The document that whoever writes to `object` is answered with.
    #[must_use]
    pub fn problem(&self, object: &str) -> Problem {
        match self {
            Self::Patch(error @ (patch::Error::Conflict(_) | patch::Error::RootConflict)) => {
                Problem::new(409, "memory_conflict", "Memory has changed").with_detail(error.to_string())
            }
            Self::Patch(error) => Problem::new(422, "memory_refused", "The write does not fit memory")
                .with_detail(error.to_string()),
            Self::Refused(decision) => verdict::problem(decision, object),
            Self::Unwitnessed(why) => Problem::new(503, CODE_UNWITNESSED, "The write cannot be witnessed")
                .with_detail(format!("nothing was written: {why}")),
            Self::Secret(_) | Self::Random(_) | Self::Stage(_) => Problem::new(
                507,
                CODE_NOT_DURABLE,
                "The write could not be made durable; nothing was written",
            )
            .with_detail(chain(self)),
        }
    }
}

impl WriteError {
    /// The document that a caller is answered with: what fails inside is its owner's affair. Refusals by the rules have words of
    /// their own for callers, with the id of their record; here they have none.
    #[must_use]
    pub fn public_problem(&self, object: &str) -> Problem {
        let mut problem = self.problem(object);
        match self {
            Self::Patch(_) | Self::Unwitnessed(_) => {}
            Self::Refused(_) => problem = problem.bare(),
            Self::Secret(_) | Self::Random(_) | Self::Stage(_) => {
                verdict::OWNER_KNOWS.clone_into(&mut problem.detail);
            }
        }
        problem
    }
}

/// What a write is answered with that is durable, and that the witness does not have as it should.
#[must_use]
pub fn unwitnessed(why: Unwitnessed) -> Problem {
    Problem::new(503, CODE_UNWITNESSED, "The write is not witnessed")
        .with_detail(format!("it is recorded here and may be lost: {why}"))
}

/// The witness does not have what it is to have.
const CODE_UNWITNESSED: &str = "unwitnessed";
/// A write could not be made durable.
const CODE_NOT_DURABLE: &str = "not_durable";

impl From<CommitError> for WriteError {
    fn from(error: CommitError) -> Self {
        Self::Stage(error.into())
    }
}

/// A write that is on its way to the disk.
#[derive(Debug)]
#[must_use = "nothing is durable before its ticket says so"]
pub struct Staged {
    ticket: Ticket,
    durable: Durable,
}

/// A write that is durable here, and that nobody may be told of yet.
#[derive(Debug)]
#[must_use = "a write is told only once the claim acknowledges it"]
pub struct Durable {
    pub(crate) written: Written,
}

impl Durable {
    /// The event that says what is recorded, for whoever watches the object: no answer to whoever wrote.
    #[must_use]
    pub fn event(&self) -> Event {
        let Written { seq, fields, by, .. } = self.written.clone();
        Event::Mutated { fields, by, seq }
    }
}

/// A write that was acknowledged as the object's witness setting asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Position of the record.
    pub seq: u64,
    /// Root of memory after it, hexadecimal.
    pub root: String,
    /// Fields written, sorted.
    pub fields: Vec<String>,
    /// Who wrote, in the record's word.
    pub by: String,
}

/// Writes `patch` to the object that is `claim`ed, and that `writer` has open, if its rules let the principal of `inputs`.
/// The fields written are added to those facts. `at` is when it is recorded, `sign` whether with a signature of its own: an
/// object that sleeps has no key but for signed records.
///
/// # Errors
/// [`WriteError`]: nothing was written.
pub fn stage(
    claim: &Claim,
    writer: &Writer,
    bundle: &Bundle,
    mut inputs: Inputs,
    patch: &Patch,
    (at, sign): (Timestamp, Sign),
) -> Result<Staged, WriteError> {
    claim.may_write()?;
    let now = inputs.now.at;
    let (parsed, written) = writer.staged(|state| {
        let parsed = patch::parse(patch, state.memory())?;
        let judged = patch::judged(&parsed, state.memory(), &bundle.rules.program, now)?;
        Ok::<_, patch::Error>((parsed, judged))
    })?;
    inputs.fields = parsed.fields();
    inputs.written = written;
    let by = inputs.principal.as_str().to_owned();
    let principal = who(&inputs.principal);
    let fields = inputs.fields.iter().cloned().collect();
    let verdict = writer.staged(|state| {
        let view = View::new(state, &bundle.rules);
        decide(view, Action::Mutate, state.head().object, inputs)
    });
    if let Verdict::Refuse(decision) = verdict {
        return Err(WriteError::Refused(decision));
    }
    let body = Body::Mutated(Mutated {
        by: by.clone(),
        principal,
        change: keep_secrets(writer, parsed)?,
    });
    let ticket = writer.stage(Draft {
        body,
        at,
        bundle: None,
        sign,
    })?;
    let written = writer.staged(|state| Written {
        seq: state.head().seq,
        root: state.memory().root().hex(),
        fields,
        by,
    });
    Ok(Staged {
        ticket,
        durable: Durable { written },
    })
}

impl Staged {
    /// Waits for the disk, on this thread.
    ///
    /// # Errors
    /// [`WriteError::Stage`]: nothing may be acknowledged any more.
    pub fn wait(self) -> Result<Durable, WriteError> {
        self.ticket.wait()?;
        Ok(self.durable)
    }

    /// Waits for the disk. Dropping the future gives up the answer, not the write.
    ///
    /// # Errors
    /// As [`Staged::wait`].
    pub async fn durable(self) -> Result<Durable, WriteError> {
        self.ticket.await?;
        Ok(self.durable)
    }
}

/// Who exactly is recorded where there are many of the sort: a caller by what their token said, another object by its id.
fn who(principal: &Principal) -> Option<Box<Principal>> {
    let many = matches!(principal, Principal::Caller(_) | Principal::Peer(_));
    many.then(|| Box::new(principal.clone()))
}

/// Each secret in a file of its own, with a commitment in its place.
fn keep_secrets(writer: &Writer, parsed: Parsed) -> Result<Change, WriteError> {
    let mut change = parsed.change;
    for (name, value) in parsed.secrets {
        let mut salt = Digest([0; 32]);
        getrandom::fill(&mut salt.0)?;
        let commitment = writer.object_dir().keep_secret(&Secret { salt, value })?;
        change.insert(name, Write::Set(Value::Commitment(commitment)));
    }
    Ok(change)
}
