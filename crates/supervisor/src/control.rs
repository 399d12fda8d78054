//! What owners and hosts ask of one object beside proposals by strangers. Whoever carries it (a socket, an API) makes a
//! [`PendingRequest`]; the object's actor answers it, once.

use std::path::PathBuf;

use suijuris_api::Problem;
use suijuris_api::agent::Patch;
use suijuris_api::control::{ControlRequest, Place, Reply};
use suijuris_core::ObjectId;
use suijuris_core::activation::requests::Kind;
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::lineage::Approval;
use suijuris_core::owner_request::{Ask, SignedRequest};
use suijuris_custody::migrate::{self, Destination};
use suijuris_custody::owner::{content_of, no_content};
use suijuris_door::{OwnedCheck, Passed};
use suijuris_store::BundleFiles;
use tokio::sync::oneshot;

/// A request that is none.
pub const CODE_BAD_REQUEST: &str = "bad_request";

/// Something asked of an object, and where its answer goes.
#[derive(Debug)]
pub struct PendingRequest {
    pub(crate) asked: Asked,
    pub(crate) answer: oneshot::Sender<Reply>,
}

/// What is asked, and what owners signed of it; what nobody signed is asked by the host.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) what: What,
    pub(crate) signed: Option<Box<SignedRequest>>,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Status,
    Wake,
    Sleep,
    Write(Patch),
    Amend(Box<Proposed>),
    Terminate(Vec<Approval>),
    Depart(Box<Leaving>),
    Fork(Box<Forking>),
}

/// Where an object is to go, and whether it leaves this server for good or moves.
#[derive(Debug, Clone)]
pub(crate) struct Leaving {
    pub(crate) to: Destination,
    pub(crate) ask: Ask,
}

/// A child that begins with the memory of the object's suspended machine.
#[derive(Debug, Clone)]
pub(crate) struct Forking {
    /// Its directory.
    pub(crate) data: PathBuf,
    pub(crate) name: String,
    /// Whether it gets the parent's secrets.
    pub(crate) secrets: bool,
    /// What owners signed of the proposal.
    pub(crate) asks: Vec<Approval>,
    /// What they signed of the child; nothing prepares one.
    pub(crate) approvals: Vec<Approval>,
}

/// A new definition, and what its owners signed.
#[derive(Debug, Clone)]
pub(crate) struct Proposed {
    pub(crate) files: BundleFiles,
    pub(crate) approvals: Vec<Approval>,
}

/// What a proxy asks of an object, and where its answer goes.
#[derive(Debug)]
pub struct Check {
    pub(crate) asked: OwnedCheck,
    pub(crate) answer: oneshot::Sender<Result<Passed, Problem>>,
}

impl Check {
    /// Asks this; the answer comes once.
    #[must_use]
    pub fn of(asked: OwnedCheck) -> (Self, oneshot::Receiver<Result<Passed, Problem>>) {
        let (answer, answered) = oneshot::channel();
        (Self { asked, answer }, answered)
    }
}

impl PendingRequest {
    /// Proposes a new definition.
    #[must_use]
    pub fn amend(files: BundleFiles, approvals: Vec<Approval>) -> (Self, oneshot::Receiver<Reply>) {
        let (answer, answered) = oneshot::channel();
        let what = What::Amend(Box::new(Proposed { files, approvals }));
        let asked = Asked { what, signed: None };
        (Self { asked, answer }, answered)
    }

    /// Proposes a child.
    pub(crate) fn fork(forking: Forking) -> (Self, oneshot::Receiver<Reply>) {
        let (answer, answered) = oneshot::channel();
        let what = What::Fork(Box::new(forking));
        let asked = Asked { what, signed: None };
        (Self { asked, answer }, answered)
    }

    /// Proposes that the object leaves for `to`: that it is removed (`Ask::Remove`), or moves (`Ask::Migrate`).
    ///
    /// # Errors
    /// The answer to a request that nobody can have signed.
    pub fn depart(
        to: Destination,
        ask: Ask,
        signed: Option<&suijuris_api::owner::SignedRequest>,
    ) -> Result<(Self, oneshot::Receiver<Reply>), Reply> {
        let (answer, answered) = oneshot::channel();
        let signed = signed.map(suijuris_words::owner::read).transpose();
        let signed = signed.map_err(|wrong| error(CODE_BAD_REQUEST, wrong.to_string()))?;
        let asked = Asked {
            what: What::Depart(Box::new(Leaving { to, ask })),
            signed: signed.map(Box::new),
        };
        Ok((Self { asked, answer }, answered))
    }

    /// What `message` asks; its answer comes once.
    ///
    /// # Errors
    /// The answer to what is no request.
    pub fn of(message: ControlRequest) -> Result<(Self, oneshot::Receiver<Reply>), Reply> {
        if let ControlRequest::Depart { to, place, signed } = message {
            let to = Destination {
                host: host_of(&to),
                place,
            };
            return Self::depart(to, Ask::Migrate, signed.as_deref());
        }
        let (answer, answered) = oneshot::channel();
        let asked = Asked::of(message)?;
        Ok((Self { asked, answer }, answered))
    }
}

impl Asked {
    fn of(message: ControlRequest) -> Result<Self, Reply> {
        let unsigned = |what| Ok(Self { what, signed: None });
        let (signed, patch) = match message {
            ControlRequest::Status => return unsigned(What::Status),
            ControlRequest::Wake => return unsigned(What::Wake),
            ControlRequest::Sleep => return unsigned(What::Sleep),
            ControlRequest::Patch(patch) => return unsigned(What::Write(patch)),
            ControlRequest::Terminate { approvals } => {
                let read = approvals.iter().map(suijuris_words::owner::read_approval);
                let read = read.collect::<Result<_, _>>();
                let wrong = |why: serde_json::Error| error(CODE_BAD_REQUEST, why.to_string());
                return unsigned(What::Terminate(read.map_err(wrong)?));
            }
            ControlRequest::Owner { signed, patch } => (signed, patch),
            ControlRequest::Depart { .. } => {
                return Err(error(
                    CODE_BAD_REQUEST,
                    "a move is asked for otherwise".to_owned(),
                ));
            }
        };
        let signed = suijuris_words::owner::read(&signed);
        let signed = signed.map_err(|wrong| error(CODE_BAD_REQUEST, wrong.to_string()))?;
        let what = match (signed.request.ask, patch) {
            (Ask::Wake, None) => What::Wake,
            (Ask::Sleep, None) => What::Sleep,
            (Ask::Write, Some(patch)) => What::Write(patch),
            _ => {
                return Err(error(
                    CODE_BAD_REQUEST,
                    "ask for a wake, a sleep or a write".to_owned(),
                ));
            }
        };
        let signed = Some(Box::new(signed));
        Ok(Self { what, signed })
    }

    /// What owners sign of it.
    pub(crate) fn content(&self, object: ObjectId) -> (Ask, Digest) {
        match &self.what {
            What::Write(patch) => (Ask::Write, content_of(patch)),
            What::Sleep => (Ask::Sleep, no_content()),
            What::Depart(leaving) => (leaving.ask, migrate::content(object, &leaving.to.place)),
            // Their approvals are what owners sign of an amendment, and of an end.
            What::Wake | What::Status | What::Amend(_) | What::Terminate(_) | What::Fork(_) => {
                (Ask::Wake, no_content())
            }
        }
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self.what {
            What::Status => Kind::Status,
            What::Wake => Kind::Wake,
            What::Sleep => Kind::Sleep,
            What::Write(_) => Kind::Write,
            // All need an object that sleeps, and its store.
            What::Amend(_) | What::Depart(_) | What::Fork(_) => Kind::Amend,
            What::Terminate(_) => Kind::Terminate,
        }
    }
}

/// A place as core has it.
#[must_use]
pub fn host_of(place: &Place) -> Host {
    let vehicle = Vehicle {
        provider: &place.provider,
        class: &place.class,
    };
    Host::of(vehicle, Some(&place.region), &place.id)
}

/// The document of a place.
#[must_use]
pub fn place_of(host: &Host) -> Place {
    Place {
        region: host.region.clone(),
        provider: host.provider.clone(),
        class: host.class.clone(),
        id: host.id.clone(),
    }
}

pub(crate) fn error(code: &str, message: String) -> Reply {
    let code = code.to_owned();
    Reply::Error { code, message }
}
