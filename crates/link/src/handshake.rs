//! How two ends find that they belong together: one version, one activation, one secret. Pure: frames in, frames out.
//!
//! **Launch**: each says hello; the supervisor's first message then brings the secret, over a channel that nobody else
//! has. **Attach**: each says hello with a fresh nonce and proves the secret over both nonces; the secret does not travel.
//! Called by the async ends and by tests.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroize as _;

use crate::frame::{Frame, Refusal};
use crate::identity::{ActivationId, Nonce, Secret};

/// The one version of the link that this program speaks.
pub const VERSION: u16 = 2;

/// What each hello begins with.
const MAGIC: [u8; 8] = *b"suijlink";

/// What each proof is made over, first.
const DOMAIN: &[u8] = b"suijuris link attach\0";

/// Length of a [`Proof`].
pub const PROOF_BYTES: usize = 32;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Whoever runs the machine.
    Supervisor,
    /// The first process in it.
    Runtime,
}

/// What the two want of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A machine begins.
    Launch,
    /// A supervisor comes back to a machine that runs.
    Attach,
}

/// The first frame of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Who says it.
    pub side: Side,
    /// What for.
    pub purpose: Purpose,
    /// The activation; zeros from a runtime that was not told yet.
    pub activation: ActivationId,
    /// Drawn for this hello.
    pub nonce: Nonce,
}

impl Hello {
    /// What each version's hello begins with: magic and version.
    pub(crate) const PREFIX_BYTES: usize = 10;
    const BYTES: usize = Self::PREFIX_BYTES + 2 + 16 + 32;

    pub(crate) fn prefix(version: u16) -> [u8; Self::PREFIX_BYTES] {
        let mut prefix = [0; Self::PREFIX_BYTES];
        for (to, from) in prefix.iter_mut().zip(MAGIC.iter().chain(&version.to_be_bytes())) {
            *to = *from;
        }
        prefix
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let side = match self.side {
            Side::Supervisor => 1,
            Side::Runtime => 2,
        };
        let purpose = match self.purpose {
            Purpose::Launch => 1,
            Purpose::Attach => 2,
        };
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend_from_slice(&Self::prefix(VERSION));
        bytes.extend_from_slice(&[side, purpose]);
        bytes.extend_from_slice(&self.activation.0);
        bytes.extend_from_slice(&self.nonce.0);
        bytes
    }

    /// Ours, or the version of one that is not.
    pub(crate) fn read(content: &[u8]) -> Option<Frame> {
        let (magic, rest) = content.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let version = u16::from_be_bytes(*version);
        if *magic != MAGIC {
            return None;
        }
        if version != VERSION {
            return Some(Frame::Foreign { version });
        }
        let ([side, purpose], rest) = rest.split_first_chunk()?;
        let (activation, nonce) = rest.split_first_chunk()?;
        let side = match side {
            1 => Side::Supervisor,
            2 => Side::Runtime,
            _ => return None,
        };
        let purpose = match purpose {
            1 => Purpose::Launch,
            2 => Purpose::Attach,
            _ => return None,
        };
        let nonce = Nonce(nonce.try_into().ok()?);
        let activation = ActivationId(*activation);
        Some(Frame::Hello(Self {
            side,
            purpose,
            activation,
            nonce,
        }))
    }
}

/// Shows that an end knows the secret: HMAC-SHA-256 over the domain, the side, the version, the activation and both nonces,
/// the supervisor's first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof([u8; PROOF_BYTES]);

impl Proof {
    pub(crate) const fn from_bytes(bytes: [u8; PROOF_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; PROOF_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(..)")
    }
}

/// Why two ends do not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other end speaks another version.
    #[error(
        "the other end of the link speaks version {theirs}, this program version {VERSION}: build or install both together"
    )]
    Version {
        /// Its version.
        theirs: u16,
    },
    /// Both launch and attach, or both of one side.
    #[error(
        "the other end of the link wants something else: one end launches or attaches, and the other expects just that"
    )]
    Purpose,
    /// Another activation.
    #[error("the machine runs another activation than the one that was meant")]
    Activation,
    /// A wrong proof.
    #[error("the other end of the link does not know the secret of this activation")]
    Proof,
    /// The other end refused.
    #[error("the other end of the link refused: {0:?}")]
    Refused(Refusal),
    /// A frame that cannot come here.
    #[error("the link does not begin as it has to: {0}")]
    Unexpected(&'static str),
}

impl HandshakeError {
    /// What the other end is told, where there is something to tell.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Version { .. } => Some(Refusal::Version),
            Self::Purpose => Some(Refusal::Purpose),
            Self::Activation => Some(Refusal::Activation),
            Self::Proof => Some(Refusal::Proof),
            Self::Refused(_) => None,
            Self::Unexpected(_) => Some(Refusal::Violation),
        }
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this and wait for more.
    Send(Frame),
    /// The two ends belong together, in this activation.
    Done(ActivationId),
}

/// One end, until it knows the other.
#[derive(Debug, Clone)]
pub struct Handshake {
    mine: Hello,
    secret: Option<Secret>,
    theirs: Option<Hello>,
}

impl Handshake {
    /// Of a supervisor that has just started a machine.
    #[must_use]
    pub const fn launch(activation: ActivationId, nonce: Nonce) -> Self {
        Self::new(Side::Supervisor, Purpose::Launch, activation, nonce, None)
    }

    /// Of a runtime that has just been started.
    #[must_use]
    pub const fn launched(nonce: Nonce) -> Self {
        Self::new(Side::Runtime, Purpose::Launch, ActivationId([0; 16]), nonce, None)
    }

    /// Of either side, over a connection to a machine that runs.
    #[must_use]
    pub const fn attach(side: Side, activation: ActivationId, secret: Secret, nonce: Nonce) -> Self {
        Self::new(side, Purpose::Attach, activation, nonce, Some(secret))
    }

    const fn new(
        side: Side,
        purpose: Purpose,
        activation: ActivationId,
        nonce: Nonce,
        secret: Option<Secret>,
    ) -> Self {
        let mine = Hello {
            side,
            purpose,
            activation,
            nonce,
        };
        Self {
            mine,
            secret,
            theirs: None,
        }
    }

    /// What this end says first, without waiting.
    #[must_use]
    pub const fn hello(&self) -> Frame {
        Frame::Hello(self.mine)
    }

    /// Whether messages may follow the hello at once: a supervisor that launches has nothing to wait for.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        self.mine.purpose == Purpose::Launch && self.mine.side == Side::Supervisor
    }

    /// A frame of the other end.
    ///
    /// # Errors
    /// [`HandshakeError`]: nothing more is said than its refusal.
    pub fn on(&mut self, frame: &Frame) -> Result<Step, HandshakeError> {
        match (frame, self.theirs) {
            (Frame::Foreign { version }, None) => Err(HandshakeError::Version { theirs: *version }),
            (
                Frame::Refused {
                    version,
                    refusal: Refusal::Version,
                },
                _,
            ) => Err(HandshakeError::Version { theirs: *version }),
            (Frame::Refused { refusal, .. }, _) => Err(HandshakeError::Refused(*refusal)),
            (Frame::Hello(theirs), None) => self.hello_came(*theirs),
            (Frame::Proof(proof), Some(theirs)) => self.proof_came(proof, &theirs),
            (Frame::Hello(_) | Frame::Foreign { .. }, Some(_)) => {
                Err(HandshakeError::Unexpected("a second hello"))
            }
            _ => Err(HandshakeError::Unexpected("something before its hello and proof")),
        }
    }

    fn hello_came(&mut self, theirs: Hello) -> Result<Step, HandshakeError> {
        let mine = &self.mine;
        if theirs.side == mine.side || theirs.purpose != mine.purpose {
            return Err(HandshakeError::Purpose);
        }
        self.theirs = Some(theirs);
        let Some(secret) = &self.secret else {
            let supervisors = match mine.side {
                Side::Supervisor => mine.activation,
                Side::Runtime => theirs.activation,
            };
            return Ok(Step::Done(supervisors));
        };
        if theirs.activation != mine.activation {
            return Err(HandshakeError::Activation);
        }
        let proof = mac(secret, mine.side, mine, &theirs).finalize().into_bytes();
        Ok(Step::Send(Frame::Proof(Proof(proof.into()))))
    }

    fn proof_came(&self, proof: &Proof, theirs: &Hello) -> Result<Step, HandshakeError> {
        let Some(secret) = &self.secret else {
            return Err(HandshakeError::Unexpected("a proof that nobody asked for"));
        };
        // Compared in constant time.
        let right = mac(secret, theirs.side, &self.mine, theirs).verify(&proof.0.into());
        right.map_err(|_wrong| HandshakeError::Proof)?;
        Ok(Step::Done(self.mine.activation))
    }
}

fn mac(secret: &Secret, prover: Side, one: &Hello, other: &Hello) -> Hmac<Sha256> {
    let (supervisor, runtime) = match one.side {
        Side::Supervisor => (one, other),
        Side::Runtime => (other, one),
    };
    let side = match prover {
        Side::Supervisor => 1,
        Side::Runtime => 2,
    };
    // HMAC fills a short key up with zeros to the block of its digest.
    let mut key = [0; 64];
    for (to, from) in key.iter_mut().zip(secret.as_bytes()) {
        *to = *from;
    }
    let mut mac = Hmac::<Sha256>::new(&key.into());
    key.zeroize();
    mac.update(DOMAIN);
    mac.update(&[side]);
    mac.update(&VERSION.to_be_bytes());
    mac.update(&supervisor.activation.0);
    mac.update(&supervisor.nonce.0);
    mac.update(&runtime.nonce.0);
    mac
}
