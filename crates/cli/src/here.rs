//! Where this program is, as rules see it, and with whose word it asks: the same for every command and for `up`.

use suijuris_api::history::State;
use suijuris_core::id::{Digest, ObjectId, RecordId};
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::lineage::Head;
use suijuris_core::owner_request::{Ask, Once, OwnerRequest, SignedRequest};
use suijuris_core::time::Span;
use suijuris_custody::host;

use crate::{clock, owner, terminal};

/// How long a request of a command is good for: it is answered at once or not at all.
const GOOD_FOR: Span = Span(30_000);

/// What machines the commands and `up` have.
const VEHICLE: Vehicle<'_> = Vehicle {
    provider: "process",
    class: "",
};

/// Where objects are that are run or written to from here.
pub(crate) fn host() -> Host {
    host_on(VEHICLE)
}

/// Where objects are that are run from here on this vehicle.
pub(crate) fn host_on(vehicle: Vehicle<'_>) -> Host {
    let region = std::env::var(host::REGION_VARIABLE).ok();
    host::here(vehicle, region.as_deref())
}

/// What a signer has to know of an object: which it is, where its history stands, whose it is.
#[derive(Debug, Clone)]
pub(crate) struct SigningContext {
    object: ObjectId,
    record: RecordId,
    controllers: Vec<PublicKey>,
}

impl SigningContext {
    pub(crate) fn of(head: &Head) -> Self {
        Self {
            object: head.object,
            record: head.record,
            controllers: head.controllers.clone(),
        }
    }

    /// Of an object that is gone, for an owner of its class.
    pub(crate) fn of_owner(object: ObjectId, record: RecordId, owner: &SecretKey) -> Self {
        Self {
            object,
            record,
            controllers: vec![owner.public()],
        }
    }

    /// As a daemon tells it.
    pub(crate) fn told(state: &State) -> anyhow::Result<Self> {
        let keys = state.controllers.iter().map(|key| key.parse());
        Ok(Self {
            object: state.object.parse()?,
            record: state.head.parse()?,
            controllers: keys.collect::<Result<_, _>>()?,
        })
    }
}

/// Signs what is asked of the object with this head by the owner's key here; nothing where that is none of its owners'.
pub(crate) fn sign(
    head: &SigningContext,
    ask: Ask,
    content: Digest,
    audience: PublicKey,
) -> anyhow::Result<Option<SignedRequest>> {
    let signed = sign_quietly(head, ask, content, audience)?;
    if signed.is_none() {
        terminal::note(
            "sent as the host: no owner's key is here; name one with SUIJURIS_OWNER_KEY to act as an owner",
        );
    }
    Ok(signed)
}

/// As [`sign`], and says nothing where nobody signs.
pub(crate) fn sign_quietly(
    head: &SigningContext,
    ask: Ask,
    content: Digest,
    audience: PublicKey,
) -> anyhow::Result<Option<SignedRequest>> {
    let key = owner::existing_key()?.filter(|key| head.controllers.contains(&key.public()));
    let Some(key) = key else {
        return Ok(None);
    };
    let once = if ask == Ask::Write {
        Once::Head(head.record)
    } else {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        Once::Nonce(nonce)
    };
    let request = OwnerRequest {
        object: head.object,
        ask,
        content,
        audience,
        once,
        expires: clock::reading()?.wall.saturating_add(GOOD_FOR),
    };
    let signatures = vec![request.sign(&key)?];
    Ok(Some(SignedRequest { request, signatures }))
}
