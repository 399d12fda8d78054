//! What a shim does beyond its caller's death: writes down how to find the machine, and lets in who proves the secret.
//!
//! ```text
//! driver                                   shim
//!   Hello { nonce }            ──▶
//!                              ◀──   Challenge { nonce, proof }      driver checks
//!   Answer { proof }           ──▶                                   shim checks
//!                              ◀──   Report::Attached + first program's pidfd, link's outer end
//! ```
//!
//! The socket lies in the machine's directory (0700), which is covered in the machine. Whoever fails is hung up on.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use suijuris_sys::sockets;

use super::record::{Record, SOCKET};
use super::wire::{self, Detached, MESSAGE_BYTES};
use crate::machine::Exit;
use crate::secret::{Bytes, Nonces, Secret, Side};

/// Callers that may be proving themselves at one time; one more pushes the oldest out.
const MOST_PENDING: usize = 4;
/// How long a caller may take to prove itself.
const PROVE_WITHIN: Duration = Duration::from_secs(5);

/// Driver to shim, before [`wire::Order`]s are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Knock {
    Hello { nonce: Bytes },
    Answer { proof: Bytes },
}

/// Shim to driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Challenge {
    pub(super) nonce: Bytes,
    pub(super) proof: Bytes,
}

/// The keeping of one machine. Works in the current directory, which is the machine's.
#[derive(Debug)]
pub(super) struct Keeper {
    record: Record,
    secret: Secret,
    listener: OwnedFd,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    socket: OwnedFd,
    since: Instant,
    nonces: Option<Nonces>,
}

impl Keeper {
    /// Listens, and then writes `record` down.
    pub(super) fn open(detached: &Detached, record: Record) -> io::Result<Self> {
        let listener = sockets::listen(Path::new(SOCKET))?;
        record.write(Path::new("."))?;
        Ok(Self {
            record,
            secret: Secret::from(detached.secret),
            listener,
            pending: Vec::new(),
        })
    }

    /// The fingerprint of a machine's secret.
    pub(super) fn fingerprint(detached: &Detached) -> Bytes {
        Secret::from(detached.secret).fingerprint()
    }

    /// The listening socket first, then those who are proving themselves.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        let pending = self.pending.iter().map(|pending| &pending.socket);
        [&self.listener].into_iter().chain(pending)
    }

    /// Whether somebody's time to prove is running.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Deals with socket `index` of [`Self::sockets`], which has something to read; the socket of a caller who has
    /// proved the secret.
    pub(super) fn hear(&mut self, index: usize) -> Option<OwnedFd> {
        let Some(index) = index.checked_sub(1) else {
            self.accept();
            return None;
        };
        if index >= self.pending.len() {
            return None;
        }
        let mut pending = self.pending.remove(index);
        match self.step(&mut pending) {
            Some(true) => Some(pending.socket),
            Some(false) => {
                self.pending.insert(index, pending);
                None
            }
            None => None,
        }
    }

    /// Hangs up on those who take too long.
    pub(super) fn tidy(&mut self) {
        self.pending
            .retain(|pending| pending.since.elapsed() < PROVE_WITHIN);
    }

    /// Writes down how the machine ended, for whoever asks next.
    pub(super) fn ended(&mut self, exit: Exit) {
        self.record.exit = Some(exit);
        // On a full disk the next caller finds no machine and no exit: it is lost, which is what it then says.
        let _ = self.record.write(Path::new("."));
    }

    /// Takes back what was written down of a machine that never ran.
    pub(super) fn forget() {
        for file in [super::record::RECORD, SOCKET] {
            let _ = std::fs::remove_file(file);
        }
    }

    fn accept(&mut self) {
        let Ok(socket) = sockets::accept(self.listener.as_fd()) else {
            return;
        };
        let peer = getsockopt(&socket, sockopt::PeerCredentials).map(|peer| Uid::from_raw(peer.uid()));
        if !peer.is_ok_and(|peer| peer.is_root() || peer == Uid::effective()) {
            return;
        }
        if self.pending.len() >= MOST_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(Pending {
            socket,
            since: Instant::now(),
            nonces: None,
        });
    }

    /// Takes in one message: whether it proves the secret; `None` for one who is to be hung up on.
    fn step(&self, pending: &mut Pending) -> Option<bool> {
        let message = sockets::receive(pending.socket.as_fd(), MESSAGE_BYTES).ok()??;
        let id = &self.record.id;
        match (wire::decode(&message.bytes).ok()?, pending.nonces) {
            (Knock::Hello { nonce }, None) => {
                let nonces = Nonces {
                    driver: nonce,
                    keeper: random().ok()?,
                };
                let challenge = Challenge {
                    nonce: nonces.keeper,
                    proof: self.secret.prove(Side::Keeper, id, nonces),
                };
                pending.nonces = Some(nonces);
                let bytes = wire::encode(&challenge).ok()?;
                sockets::send(pending.socket.as_fd(), &bytes, &[]).ok()?;
                Some(false)
            }
            (Knock::Answer { proof }, Some(nonces)) => self
                .secret
                .is_proof(Side::Driver, id, nonces, &proof)
                .then_some(true),
            _ => None,
        }
    }
}

/// Bytes that nobody can foresee.
pub(super) fn random() -> io::Result<Bytes> {
    let mut bytes = Bytes::default();
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
