//! The secret of one activation, and how two ends prove to each other that they know it.
//!
//! The driver's directory holds one random key; a machine's secret is derived from it and the machine's nonce, so that no
//! file holds a secret itself and a restarted supervisor knows them all. HMAC-SHA256 (RFC 2104) with a domain for each
//! use. Nothing here does I/O.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::machine::MachineId;

/// Bytes of keys, nonces, secrets and proofs.
pub(crate) const BYTES: usize = 32;
/// Block of SHA-256.
const BLOCK_BYTES: usize = 64;

/// Random bytes that are used once, or what was proved over them.
pub(crate) type Bytes = [u8; BYTES];

/// What only the driver and one machine's keeper know.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<Bytes>);

/// Who proves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    /// The supervisor's driver.
    Driver,
    /// Whoever keeps the machine while no supervisor is there.
    Keeper,
}

/// What both ends put into the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nonces {
    pub(crate) driver: Bytes,
    pub(crate) keeper: Bytes,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<Bytes> for Secret {
    fn from(bytes: Bytes) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Secret {
    /// The secret of machine `id` with this nonce, in a driver with this key.
    pub(crate) fn derive(key: &Self, id: &MachineId, nonce: &Bytes) -> Self {
        Self::from(key.mac(b"suijuris machine secret 1", &[id.as_str().as_bytes(), nonce]))
    }

    /// The secret itself, to be sent where nobody else reads.
    pub(crate) fn reveal(&self) -> &Bytes {
        &self.0
    }

    /// What may stand in a file: tells two secrets apart and betrays neither.
    pub(crate) fn fingerprint(&self) -> Bytes {
        let mut digest = Sha256::new();
        digest.update(b"suijuris machine fingerprint 1");
        digest.update(*self.0);
        digest.finalize().into()
    }

    /// Proves knowledge of the secret as `side`, about machine `id`, in this exchange alone.
    pub(crate) fn prove(&self, side: Side, id: &MachineId, nonces: Nonces) -> Bytes {
        let domain: &[u8] = match side {
            Side::Driver => b"suijuris attach driver 1",
            Side::Keeper => b"suijuris attach keeper 1",
        };
        self.mac(domain, &[id.as_str().as_bytes(), &nonces.driver, &nonces.keeper])
    }

    /// Whether `proof` is what [`Self::prove`] gives; takes the same time whatever differs.
    pub(crate) fn is_proof(&self, side: Side, id: &MachineId, nonces: Nonces, proof: &Bytes) -> bool {
        let expected = self.prove(side, id, nonces);
        let differing = expected
            .iter()
            .zip(proof)
            .fold(0, |differing, (a, b)| differing | (a ^ b));
        std::hint::black_box(differing) == 0
    }

    fn mac(&self, domain: &[u8], parts: &[&[u8]]) -> Bytes {
        // Padded with zeros to a block, which is what HMAC does to a shorter key.
        let mut block = Zeroizing::new([0; BLOCK_BYTES]);
        for (to, from) in block.iter_mut().zip(self.0.iter()) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new((&*block).into());
        for part in [&domain].into_iter().chain(parts) {
            // Each with its length, so that no two lists of parts are the same bytes.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (Secret, MachineId, Nonces) {
        let nonces = Nonces {
            driver: [1; BYTES],
            keeper: [2; BYTES],
        };
        (Secret::from([3; BYTES]), "web-1".parse().unwrap(), nonces)
    }

    #[test]
    fn a_proof_holds_for_its_side_machine_and_exchange_alone() {
        let (secret, id, nonces) = fixture();
        let proof = secret.prove(Side::Keeper, &id, nonces);
        assert!(secret.is_proof(Side::Keeper, &id, nonces, &proof));
        let swapped = Nonces {
            driver: nonces.keeper,
            keeper: nonces.driver,
        };
        let other: MachineId = "web-2".parse().unwrap();
        assert!(
            !secret.is_proof(Side::Driver, &id, nonces, &proof),
            "no reflection"
        );
        assert!(!secret.is_proof(Side::Keeper, &other, nonces, &proof));
        assert!(!secret.is_proof(Side::Keeper, &id, swapped, &proof), "no replay");
        assert!(!Secret::from([4; BYTES]).is_proof(Side::Keeper, &id, nonces, &proof));
        let mut damaged = proof;
        damaged[31] ^= 1;
        assert!(!secret.is_proof(Side::Keeper, &id, nonces, &damaged));
    }

    #[test]
    fn secrets_of_machines_differ_and_are_not_printed() {
        let (key, id, _) = fixture();
        let one = Secret::derive(&key, &id, &[5; BYTES]);
        let two = Secret::derive(&key, &id, &[6; BYTES]);
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(
            one.fingerprint(),
            Secret::derive(&key, &id, &[5; BYTES]).fingerprint()
        );
        assert_ne!(one.fingerprint(), *one.reveal());
        assert_eq!(format!("{one:?}"), "Secret(…)");
    }
}
