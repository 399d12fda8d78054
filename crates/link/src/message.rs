//! What the two ends say: typed messages, as canonical DAG-CBOR in message frames.
//!
//! A document that scripts read (an event, a reply, a problem, a patch) travels as the JSON that scripts read, so that
//! there is one form of it. `D` is a descriptor that comes with the message: owned by the program, a slot in the bytes.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;
use suijuris_api::Problem;
use suijuris_api::access::{Access, Detail};
use suijuris_api::agent::Patch;
use suijuris_api::control::Reply;
use suijuris_api::event::Stamped;
use suijuris_api::tls::Session;
use suijuris_core::codec;
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::{Approval, Refused};
use suijuris_core::owner_request::SignedRequest;

use crate::identity::Secret;
use crate::launch::{Address, Cause, DepotRoute, Launch};

/// A document of `api`, as its JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(&self.0).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Number of a descriptor among those that come with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u8);

/// How a connection travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier<D> {
    /// As itself, where the vehicle passes descriptors.
    Descriptor(D),
    /// As a stream of the link that the supervisor has opened, where it does not.
    Stream {
        /// The stream.
        number: u64,
        /// Who is at the other end of the connection.
        peer: Address,
    },
}

/// Who is at the other end of a connection, as the supervisor found: after TLS, and as trusted proxies say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The client's address.
    pub address: Address,
    /// It came by TLS.
    pub tls: bool,
    /// What TLS came to, where the supervisor ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<Session>>,
    /// What was taken off the path, for the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// All of this is true of one request: the connection ends after it.
    pub once: bool,
}

/// To the runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToRuntime<D> {
    /// The first message of a supervisor that launches, and of no other.
    Launch(Box<Launch<D>>),
    /// What the claim came to that the supervisor made for this machine, where [`Launch::granted`] says that it follows: the
    /// second message then, and in no other place.
    Granted {
        /// What the machine goes on with, in the words of whoever claims, opaque here; none where it has to ask for itself.
        grant: Option<ByteBuf>,
    },
    /// The waiting key of [`ToSupervisor::Key`] is kept.
    KeyKept,
    /// The waiting key that was kept, before anything else that a resumed machine hears.
    Key {
        /// Its seed.
        seed: Secret,
    },
    /// A piece of a file of the object, in a machine that is a copy ([`Launch::files`]): in order, and at least one of each file. Bytes
    /// that no piece has are zeros.
    File {
        /// Below the object's data directory, without `..`.
        path: String,
        /// Size of the whole file.
        size: u64,
        /// Where in it the piece begins.
        at: u64,
        /// The piece.
        bytes: ByteBuf,
        /// No further piece of this file follows.
        last: bool,
    },
    /// A connection accepted while the object slept. The supervisor keeps it until [`ToSupervisor::Taken`].
    Connection {
        /// Names the connection.
        id: u64,
        /// How it comes.
        carrier: Carrier<D>,
        /// Bytes that were already read from it.
        read: ByteBuf,
        /// Whose it is, where the supervisor knows better than the socket; absent otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<Box<Client>>,
    },
    /// A new way to the depot, in place of one that ended with the supervisor that served it.
    Depot {
        /// The way: a descriptor or a stream, as the launch said; anything else changes nothing.
        route: DepotRoute<D>,
    },
    /// What owners' requests are signed for from now on: another supervisor has another key.
    Server {
        /// Its key.
        key: PublicKey,
    },
    /// What is told of each request from now on, in place of what the launch said.
    Requests {
        /// How much; none: nothing.
        detail: Option<Detail>,
    },
    /// A refusal at the door while the machine was suspended, to be recorded.
    Record {
        /// Names it; [`ToSupervisor::Recorded`] repeats it.
        id: u64,
        /// The refusal.
        refused: Box<Refused>,
    },
    /// The machine was suspended and runs again.
    Resumed {
        /// How often it has: greater than any before; a launch is generation 0.
        generation: u64,
        /// Why.
        cause: Box<Cause>,
    },
    /// Somebody asks the object to sleep: the host, or owners who signed.
    Sleep {
        /// Names the request; the reply repeats it.
        id: u64,
        /// What owners signed, its nonce spent by the supervisor; none where the host asks.
        signed: Option<Box<SignedRequest>>,
    },
    /// Somebody writes memory: the host, or owners who signed.
    Patch {
        /// Names the request.
        id: u64,
        /// What owners signed; none where the host asks.
        signed: Option<Box<SignedRequest>>,
        /// The writes.
        patch: Json<Patch>,
    },
    /// Owners propose that the object ends for good.
    Terminate {
        /// Names the request; it is answered once the end is recorded, or refused.
        id: u64,
        /// What they signed.
        approvals: Vec<Approval>,
    },
    /// The machine is stopped.
    Stop {
        /// Milliseconds until it is killed.
        within_ms: u64,
    },
}

/// How the runtime leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Dormant by the object's own act; the machine can be stopped.
    Stop,
    /// Dormant by the object's own act; the machine can be suspended.
    Suspend,
    /// The object refused to run.
    Refused,
    /// It was stopped without a decision of the object.
    HostStop,
    /// Something is broken; or dormant by the object's own act, since its workload crashed, never became ready or ended
    /// before anything came of it.
    Failed,
}

/// To the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToSupervisor {
    /// The first message to a supervisor that attaches, and to no other.
    Present(Box<Present>),
    /// The object's waiting key, to be kept: the machine is about to be suspended, and others may begin as its copies, so that it must not
    /// have it. [`ToRuntime::KeyKept`] answers, and [`ToRuntime::Key`] brings it back.
    Key {
        /// Its seed.
        seed: Secret,
    },
    /// The object's files are there, durably, in a machine that is a copy. Nothing is decided in it before
    /// [`ToRuntime::Granted`] follows.
    FilesWritten,
    /// Something happened.
    Event(Box<Json<Stamped>>),
    /// A caller's request ended.
    Request(Box<Json<Access>>),
    /// The holds in force, in place of those said before, with the time they have left in milliseconds.
    Holds {
        /// By name.
        left: BTreeMap<String, u64>,
    },
    /// A request was answered.
    Reply {
        /// The request.
        id: u64,
        /// The answer.
        reply: Box<Json<Reply>>,
    },
    /// The gate has taken a connection: it is the runtime's alone from now on.
    Taken {
        /// The connection.
        id: u64,
    },
    /// A refusal of [`ToRuntime::Record`] is durable.
    Recorded {
        /// The refusal.
        id: u64,
    },
    /// The runtime leaves; its machine can be stopped or suspended.
    Leaving {
        /// How.
        how: How,
        /// The generation in which it says so; older than that of the last [`ToRuntime::Resumed`]: it had not heard.
        generation: u64,
        /// What its gate answered everybody, where it refused everybody.
        problem: Option<Box<Json<Problem>>>,
    },
}

/// How an activation stands whose supervisor comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Present {
    /// The object.
    pub object: suijuris_core::ObjectId,
    /// Its phase, as on the agent socket.
    pub phase: String,
    /// Number of the activation.
    pub epoch: u64,
    /// Position of the last record.
    pub seq: u64,
    /// How often the machine was resumed.
    pub generation: u64,
    /// Connections that were taken, the last 1,024, so that none is served twice.
    pub taken: Vec<u64>,
}

/// Why a message is none.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not canonical, or not a message.
    #[error("a message that is none")]
    Encoding(#[from] codec::Error),
    /// The first message of a supervisor that launches is another one.
    #[error("a first message that is no launch")]
    NoLaunch,
    /// The descriptors that came are not those it speaks of.
    #[error("a message whose descriptors are not those that came with it")]
    Descriptors,
}

/// A message that travels in one direction; `D` as the program has it.
pub trait Message<D>: Sized {
    /// Bytes and descriptors.
    ///
    /// # Errors
    /// [`MessageError::Encoding`]; no message of ours has it.
    fn pack(self) -> Result<(Vec<u8>, Vec<D>), MessageError>;

    /// What was packed, of at most `max` bytes.
    ///
    /// # Errors
    /// [`MessageError`]; the descriptors are closed.
    fn unpack(body: &[u8], descriptors: Vec<D>, max: usize) -> Result<Self, MessageError>;
}

impl<D> Message<D> for ToSupervisor {
    fn pack(self) -> Result<(Vec<u8>, Vec<D>), MessageError> {
        Ok((codec::encode(&self)?, Vec::new()))
    }

    fn unpack(body: &[u8], descriptors: Vec<D>, max: usize) -> Result<Self, MessageError> {
        let message = codec::decode(body, max)?;
        if descriptors.is_empty() {
            Ok(message)
        } else {
            Err(MessageError::Descriptors)
        }
    }
}

impl<D> Message<D> for ToRuntime<D> {
    fn pack(self) -> Result<(Vec<u8>, Vec<D>), MessageError> {
        let mut descriptors = Vec::new();
        let message = self.map(&mut |descriptor| {
            let slot = u8::try_from(descriptors.len()).map_err(|_many| MessageError::Descriptors)?;
            descriptors.push(descriptor);
            Ok(Slot(slot))
        })?;
        Ok((codec::encode(&message)?, descriptors))
    }

    fn unpack(body: &[u8], descriptors: Vec<D>, max: usize) -> Result<Self, MessageError> {
        let message: ToRuntime<Slot> = codec::decode(body, max)?;
        let mut came = descriptors.into_iter().zip(0_u8..);
        // In the order in which they were packed, each once, none left over.
        let message = message.map(&mut |slot| match came.next() {
            Some((descriptor, number)) if number == slot.0 => Ok(descriptor),
            _ => Err(MessageError::Descriptors),
        })?;
        if came.next().is_none() {
            Ok(message)
        } else {
            Err(MessageError::Descriptors)
        }
    }
}

impl<D> ToRuntime<D> {
    fn map<E>(
        self,
        change: &mut impl FnMut(D) -> Result<E, MessageError>,
    ) -> Result<ToRuntime<E>, MessageError> {
        Ok(match self {
            Self::Launch(launch) => ToRuntime::Launch(Box::new(launch.map(change)?)),
            Self::Granted { grant } => ToRuntime::Granted { grant },
            Self::KeyKept => ToRuntime::KeyKept,
            Self::Key { seed } => ToRuntime::Key { seed },
            Self::File {
                path,
                size,
                at,
                bytes,
                last,
            } => ToRuntime::File {
                path,
                size,
                at,
                bytes,
                last,
            },
            Self::Connection {
                id,
                carrier,
                read,
                client,
            } => {
                let carrier = match carrier {
                    Carrier::Descriptor(descriptor) => Carrier::Descriptor(change(descriptor)?),
                    Carrier::Stream { number, peer } => Carrier::Stream { number, peer },
                };
                ToRuntime::Connection {
                    id,
                    carrier,
                    read,
                    client,
                }
            }
            Self::Depot { route } => ToRuntime::Depot {
                route: route.map(change)?,
            },
            Self::Server { key } => ToRuntime::Server { key },
            Self::Requests { detail } => ToRuntime::Requests { detail },
            Self::Record { id, refused } => ToRuntime::Record { id, refused },
            Self::Resumed { generation, cause } => ToRuntime::Resumed { generation, cause },
            Self::Sleep { id, signed } => ToRuntime::Sleep { id, signed },
            Self::Patch { id, signed, patch } => ToRuntime::Patch { id, signed, patch },
            Self::Terminate { id, approvals } => ToRuntime::Terminate { id, approvals },
            Self::Stop { within_ms } => ToRuntime::Stop { within_ms },
        })
    }
}
