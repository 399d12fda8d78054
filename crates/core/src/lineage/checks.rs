//! One function for each invariant of the chain.

use super::approval::{Approval, Restoration, Statement};
use super::body::{Body, Decision, Inception, Outcome};
use super::record::{Record, VERSION};
use super::state::{Head, Phase};
use crate::codec;
use crate::governance::Action;
use crate::id::{BundleId, Digest, ObjectId, RecordId};
use crate::inputs::Principal;
use crate::key::PublicKey;
use crate::memory;
use crate::ticket::TicketError;

/// A record that does not continue the chain.
#[derive(Debug, thiserror::Error)]
#[error("record {seq} does not continue the chain")]
pub struct ChainError {
    /// Position at which the chain breaks.
    pub seq: u64,
    /// How.
    #[source]
    pub fault: Fault,
}

/// How a record fails to continue a chain.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Not the canonical bytes of a record.
    #[error("it cannot be read as a record")]
    Encoding(#[from] codec::Error),
    /// Of a later format.
    #[error("it has version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// The first record is no inception, or a later one is.
    #[error("a chain begins with one inception record and has no other")]
    Inception,
    /// Of another object.
    #[error("it belongs to object {0}")]
    Object(ObjectId),
    /// Out of order.
    #[error("its position says {found}, expected {expected}")]
    Seq {
        /// Position found.
        found: u64,
        /// Position expected.
        expected: u64,
    },
    /// Another predecessor.
    #[error("the record before it is not the one it names: the history was altered or records are missing")]
    Prev,
    /// Another activation.
    #[error("its epoch is {found}, expected {expected}")]
    Epoch {
        /// Epoch found.
        found: u64,
        /// Epoch expected.
        expected: u64,
    },
    /// Earlier than its predecessor.
    #[error("its time is earlier than that of the record before it")]
    Time,
    /// Not possible in this phase of life.
    #[error("`{kind}` cannot follow while the object is {phase}")]
    Phase {
        /// Kind of the record.
        kind: &'static str,
        /// Phase of the object.
        phase: &'static str,
    },
    /// Other rules than those in force.
    #[error("it names a bundle that is not in force")]
    Bundle,
    /// Rules that are not at hand.
    #[error("bundle {0} is missing: without it memory cannot be checked")]
    NoBundle(BundleId),
    /// A change that memory refuses.
    #[error("its change does not fit memory")]
    Change(#[source] memory::Refused),
    /// Another memory than the fold yields.
    #[error("its memory root is not that of the memory the history yields")]
    Memory,
    /// Missing signature.
    #[error("a `{0}` record must be signed here")]
    Unsigned(&'static str),
    /// Signed by a key that may not.
    #[error("it is signed by a key that the chain has not committed to: a twin or a forgery")]
    Key,
    /// The signature does not hold.
    #[error("its signature is not valid")]
    Signature,
    /// Controllers that make no sense.
    #[error("its list of owners is empty, too long, repeats a key, or is shorter than the threshold")]
    Controllers,
    /// It says that it is an instance of a class, and not how that can be.
    #[error("it is not an instance of the class that it names: {0}")]
    Class(&'static str),
    /// It says that it was founded by a ticket, and not by one that lets it begin.
    #[error("the ticket that it was founded by does not let it begin")]
    Ticket(#[from] TicketError),
    /// Too few controllers signed.
    #[error("{found} of the {needed} needed owners approved it")]
    Approvals {
        /// Signatures that hold, of different controllers.
        found: usize,
        /// Threshold.
        needed: u32,
    },
}

type Check = Result<(), Fault>;

fn ensure(ok: bool, fault: impl FnOnce() -> Fault) -> Check {
    if ok { Ok(()) } else { Err(fault()) }
}

pub(super) fn version(record: &Record) -> Check {
    ensure(record.v == VERSION, || Fault::Version(record.v))
}

pub(super) fn object(record: &Record, head: &Head) -> Check {
    match record.object {
        Some(object) => ensure(object == head.object, || Fault::Object(object)),
        None => Err(Fault::Inception),
    }
}

pub(super) fn seq(record: &Record, head: &Head) -> Check {
    let expected = head.seq.saturating_add(1);
    ensure(record.seq == expected, || Fault::Seq {
        found: record.seq,
        expected,
    })
}

pub(super) fn prev(record: &Record, head: &Head) -> Check {
    ensure(record.prev == Some(head.record), || Fault::Prev)
}

pub(super) fn epoch(record: &Record, head: &Head) -> Check {
    let expected = next_epoch(&record.body, head);
    ensure(record.epoch == expected, || Fault::Epoch {
        found: record.epoch,
        expected,
    })
}

/// The epoch of a record with this body behind `head`.
pub(super) fn next_epoch(body: &Body, head: &Head) -> u64 {
    match body {
        Body::Woke(_) | Body::Resumed(_) => head.epoch.saturating_add(1),
        // Epochs that somebody was told of are never given out again.
        Body::Restored(body) => head.epoch.max(body.epoch),
        _ => head.epoch,
    }
}

pub(super) fn time(record: &Record, head: &Head) -> Check {
    ensure(record.at >= head.at, || Fault::Time)
}

/// Which kinds may follow in which phase.
pub(super) fn phase(body: &Body, phase: Phase) -> Check {
    let possible = match body {
        Body::Inception(_) => return Err(Fault::Inception),
        Body::Woke(_) | Body::Departed(_) => phase == Phase::Dormant,
        Body::Resumed(_) => matches!(phase, Phase::Dormant | Phase::Active),
        Body::Dormant(_) | Body::Unsealed(_) => phase == Phase::Active,
        Body::Arrived(_) => phase == Phase::Departed,
        Body::Mutated(_) | Body::Seal(_) | Body::Amended(_) | Body::Forked(_) => {
            matches!(phase, Phase::Dormant | Phase::Active)
        }
        Body::Quarantined(_) => !matches!(phase, Phase::Terminated | Phase::Quarantined),
        Body::Restored(_) => matches!(phase, Phase::Dormant | Phase::Quarantined),
        Body::Refused(_) | Body::Terminated(_) => phase != Phase::Terminated,
    };
    ensure(possible, || Fault::Phase {
        kind: body.kind(),
        phase: phase.as_str(),
    })
}

pub(super) fn bundle(record: &Record, head: &Head) -> Check {
    match &record.body {
        Body::Amended(amended) => ensure(amended.from == head.bundle, || Fault::Bundle),
        _ => ensure(record.bundle == head.bundle, || Fault::Bundle),
    }
}

/// The key that must sign `body`: the epoch's own, or the committed next one where no epoch runs or one begins.
pub(super) fn key(record: &Record, head: &Head) -> Check {
    let Some(key) = record.key else {
        let covered_later = matches!(record.body, Body::Mutated(_)) && head.phase == Phase::Active;
        return ensure(covered_later && record.sig.is_none(), || {
            Fault::Unsigned(record.body.kind())
        });
    };
    let next = matches!(record.body, Body::Woke(_) | Body::Resumed(_) | Body::Unsealed(_));
    let allowed = match head.key {
        Some(epoch_key) if head.phase == Phase::Active && !next => key == epoch_key,
        _ => key.commitment() == head.next,
    };
    ensure(allowed, || Fault::Key)
}

pub(super) fn signature(record: &Record) -> Check {
    ensure(record.key.is_none() || record.signature_holds(), || {
        Fault::Signature
    })
}

/// What controllers approve by the digest of the transition's content.
pub(super) fn approvals(record: &Record, head: &Head) -> Check {
    match &record.body {
        Body::Amended(body) => {
            let content = amendment(&head.ruled_since, &record.bundle);
            approved(head, Action::Amend, content, &body.approvals)
        }
        Body::Forked(body) => approved(head, Action::Fork, *body.child.digest(), &body.approvals),
        // The object's own end needs no signature: its rules, which owners signed, permit it.
        Body::Terminated(body) if is_own(&body.decision, Action::Terminate) => Ok(()),
        Body::Terminated(body) => approved(head, Action::Terminate, *head.object.digest(), &body.approvals),
        Body::Restored(body) => {
            let found = Restoration::stated(head, body).approved_by(&body.approvals, &head.controllers);
            ensure_threshold(found, head.threshold)
        }
        _ => Ok(()),
    }
}

/// Whether the object proposed `action` itself, and may.
fn is_own(decision: &Decision, action: Action) -> bool {
    decision.inputs.principal == Principal::Own
        && decision.action == action
        && decision.outcome == Outcome::Permit
}

/// Content of an approval to amend: the record that put the present rules in force, and the new rules. It is spent by
/// the amendment it allows, and cannot be replayed when the same rules come back into force later.
pub(super) fn amendment(ruled_since: &RecordId, to: &BundleId) -> Digest {
    Digest::of_parts(&[&ruled_since.digest().0, &to.digest().0])
}

fn approved(head: &Head, action: Action, content: Digest, approvals: &[Approval]) -> Check {
    let statement = Statement {
        object: head.object,
        action,
        content,
    };
    enough(&statement, approvals, &head.controllers, head.threshold)
}

/// Whether `needed` different controllers signed the statement.
pub(super) fn enough(
    statement: &Statement,
    approvals: &[Approval],
    controllers: &[PublicKey],
    needed: u32,
) -> Check {
    ensure_threshold(statement.approved_by(approvals, controllers), needed)
}

fn ensure_threshold(found: usize, needed: u32) -> Check {
    ensure(u32::try_from(found).is_ok_and(|found| found >= needed), || {
        Fault::Approvals { found, needed }
    })
}

/// An instance was permitted before it was founded, and descends from nothing but its class. Its key is one by its type.
fn instance(record: &Record, body: &Inception) -> Check {
    let Some(class) = &body.class else {
        return Ok(());
    };
    let decision = &class.decision;
    let permitted = decision.action == Action::Instantiate && decision.outcome == Outcome::Permit;
    ensure(permitted, || {
        Fault::Class("its decision does not permit instantiate")
    })?;
    let room = decision
        .inputs
        .founding
        .is_some_and(|founding| founding.instances < founding.max_instances);
    ensure(room, || {
        Fault::Class("its decision does not say that there was room")
    })?;
    ensure(decision.inputs.now.at <= record.at, || {
        Fault::Class("its decision is later than its first record")
    })?;
    ensure(body.parent.is_none(), || {
        Fault::Class("it names a parent, but a fork is not an instance of a class")
    })
}

/// An object that founded itself did so by a ticket of just its owners, for its first definition, in time.
fn founded_by(record: &Record, body: &Inception) -> Check {
    let Some(signed) = &body.ticket else {
        return Ok(());
    };
    let ticket = &signed.ticket;
    let of_owners = (&ticket.controllers, ticket.threshold) == (&body.controllers, body.threshold);
    let is_own = of_owners && body.nonce == ticket.nonce && body.parent.is_none() && body.class.is_none();
    ensure(is_own, || Fault::Ticket(TicketError::Content))?;
    Ok(signed.verify_for(record.bundle, record.at)?)
}

/// The inception record on its own.
pub(super) fn inception(record: &Record, id: RecordId) -> Result<Head, Fault> {
    let Body::Inception(body) = &record.body else {
        return Err(Fault::Inception);
    };
    let first = record.object.is_none() && record.prev.is_none() && record.seq == 0 && record.epoch == 0;
    ensure(first, || Fault::Inception)?;
    let distinct: std::collections::BTreeSet<_> = body.controllers.iter().collect();
    let count = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
    let sound =
        distinct.len() == body.controllers.len() && count <= 64 && (1..=count).contains(&body.threshold);
    ensure(sound, || Fault::Controllers)?;
    let key = record.key.ok_or(Fault::Unsigned("inception"))?;
    ensure(key.commitment() == body.next, || Fault::Key)?;
    instance(record, body)?;
    founded_by(record, body)?;
    Ok(Head::born(record, id, body))
}
