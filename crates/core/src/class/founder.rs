//! Who founds instances where no daemon does: a door, which owners of a class name by its key, and whose word an empty volume
//! begins by.
//!
//! ```text
//! owners sign   Appointment: this key founds instances of this class, with this definition, in this app
//! the door signs FirstWord:  this instance, whose founding its rules permitted, on this volume, good for 15 minutes
//! ```
//!
//! The runtime in the machine verifies both and asks the rules again ([`Instantiation::check`](super::Instantiation::check)), so that a door
//! founds nothing that they do not permit for what it says was asked. Bytes: `spec/class.md`.

use serde::{Deserialize, Serialize};

use super::{ClassId, Identity, Instantiation};
use crate::codec;
use crate::id::BundleId;
use crate::key::{Domain, PublicKey, SecretKey, Signature};
use crate::owner_request::Signed;
use crate::ticket::{self, Expected, MAX_LIFETIME, TicketError, VERSION};
use crate::time::{Span, Timestamp};

/// How long a door may be appointed for at most: a year and a day.
pub const MAX_TERM: Span = Span(366 * 86_400_000);

/// Size of an encoded first word at most, bytes: it holds the request that was decided about.
pub const MAX_BYTES: usize = 128 << 10;

/// What owners of a class sign of a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appointment {
    /// [`VERSION`].
    pub v: u32,
    /// The definition that instances begin with.
    pub bundle: BundleId,
    /// The app whose machines carry them.
    pub app: String,
    /// The class's name and nonce, which with its owners make its id.
    pub name: String,
    /// See `name`.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
    /// Owners of the class, and so of its instances.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign, this as well.
    pub threshold: u32,
    /// The door.
    pub door: PublicKey,
    /// Until when it may found, at most [`MAX_TERM`] ahead.
    pub expires: Timestamp,
}

/// An appointment and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAppointment {
    /// The appointment.
    pub appointment: Appointment,
    /// Signatures of its owners, each of another key.
    pub signatures: Vec<Signed>,
}

/// What a door signs of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstWord {
    /// By whose leave.
    pub by: SignedAppointment,
    /// Which instance, and the verdict that permits it.
    pub instance: Instantiation,
    /// The volume that it is founded on, as whoever carries the machine calls it.
    pub volume: String,
    /// Until when it is good, at most [`MAX_LIFETIME`] ahead.
    pub expires: Timestamp,
}

/// A first word and the door's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedFirstWord {
    /// What is said.
    pub word: FirstWord,
    /// By the key that `by` names.
    pub sig: Signature,
}

impl Appointment {
    /// The class.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn class(&self) -> Result<ClassId, codec::Error> {
        let identity = Identity {
            controllers: self.controllers.clone(),
            threshold: self.threshold,
            name: self.name.clone(),
            nonce: self.nonce,
        };
        identity.id()
    }

    /// Signs this.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn sign(&self, key: &SecretKey) -> Result<Signed, codec::Error> {
        Ok(Signed {
            key: key.public(),
            sig: key.sign(Domain::Appointment, &codec::encode(self)?),
        })
    }
}

impl SignedAppointment {
    /// Reads what was encoded.
    ///
    /// # Errors
    /// [`TicketError::Unreadable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        codec::decode(bytes, MAX_BYTES).map_err(|_unreadable| TicketError::Unreadable)
    }

    /// Whether owners of the class appointed this door, as it counts at `now`.
    ///
    /// # Errors
    /// [`TicketError`], the first thing found wrong.
    pub fn verify(&self, now: Timestamp) -> Result<(), TicketError> {
        let said = &self.appointment;
        if said.v != VERSION {
            return Err(TicketError::Version(said.v));
        }
        if said.expires <= now || said.expires > now.saturating_add(MAX_TERM) {
            return Err(TicketError::Expired);
        }
        ticket::check_owners(&said.controllers, said.threshold)?;
        let bytes = codec::encode(said).map_err(|_unreadable| TicketError::Unreadable)?;
        let owners = (said.controllers.as_slice(), said.threshold);
        ticket::check_signatures(owners, Domain::Appointment, &bytes, &self.signatures)
    }
}

impl FirstWord {
    /// Signed by the door's `key`.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn sign(self, key: &SecretKey) -> Result<SignedFirstWord, codec::Error> {
        let sig = key.sign(Domain::FirstWord, &codec::encode(&self)?);
        Ok(SignedFirstWord { word: self, sig })
    }
}

impl SignedFirstWord {
    /// Reads what was encoded.
    ///
    /// # Errors
    /// [`TicketError::Unreadable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        codec::decode(bytes, MAX_BYTES).map_err(|_unreadable| TicketError::Unreadable)
    }

    /// Whether a door that owners appointed lets this instance begin just here, now. What the rules say is not looked at.
    ///
    /// # Errors
    /// [`TicketError`], the first thing found wrong.
    pub fn verify(&self, expected: &Expected<'_>) -> Result<&FirstWord, TicketError> {
        let word = &self.word;
        let said = &word.by.appointment;
        word.by.verify(expected.now)?;
        if expected.app.is_some_and(|app| app != said.app) {
            return Err(TicketError::WrongApp(said.app.clone()));
        }
        if expected.volume.is_some_and(|volume| volume != word.volume) {
            return Err(TicketError::WrongVolume(word.volume.clone()));
        }
        if said.bundle != expected.bundle {
            return Err(TicketError::WrongBundle(said.bundle));
        }
        if word.expires <= expected.now {
            return Err(TicketError::Expired);
        }
        if word.expires > expected.now.saturating_add(MAX_LIFETIME) {
            return Err(TicketError::TooLong);
        }
        let unreadable = |_: codec::Error| TicketError::Unreadable;
        if word.instance.id != said.class().map_err(unreadable)? {
            return Err(TicketError::Content);
        }
        let bytes = codec::encode(word).map_err(unreadable)?;
        if !said.door.verifies(Domain::FirstWord, &bytes, &self.sig) {
            return Err(TicketError::Signatures { found: 0, needed: 1 });
        }
        Ok(word)
    }
}

/// The fuzz body of what stands in a machine's environment.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(word) = SignedFirstWord::decode(bytes) {
        let expected = Expected {
            bundle: word.word.by.appointment.bundle,
            app: None,
            volume: None,
            now: Timestamp(0),
        };
        let _whatever = word.verify(&expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governance::Action;
    use crate::inputs::{Inputs, Principal};
    use crate::lineage::{Decision, Outcome};

    const NOW: Timestamp = Timestamp(1_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn appointment() -> Appointment {
        Appointment {
            v: VERSION,
            bundle: BundleId::of(b"bundle"),
            app: "shop-objects".to_owned(),
            name: "tenant".to_owned(),
            nonce: [7; 16],
            controllers: vec![key(1).public(), key(2).public()],
            threshold: 1,
            door: key(3).public(),
            expires: NOW.saturating_add(Span(86_400_000)),
        }
    }

    fn word(of: Appointment, signers: &[u8], change: impl FnOnce(&mut FirstWord)) -> SignedFirstWord {
        let signatures = signers.iter().map(|seed| of.sign(&key(*seed)).unwrap()).collect();
        let id = of.class().unwrap();
        let mut word = FirstWord {
            by: SignedAppointment {
                appointment: of,
                signatures,
            },
            instance: Instantiation {
                id,
                key: "acme".parse().unwrap(),
                decision: Decision {
                    action: Action::Instantiate,
                    outcome: Outcome::Permit,
                    explanation: None,
                    inputs: Inputs::timeless(Principal::Host),
                },
            },
            volume: "vol_1".to_owned(),
            expires: NOW.saturating_add(Span(60_000)),
        };
        change(&mut word);
        word.sign(&key(3)).unwrap()
    }

    fn verified(signed: &SignedFirstWord) -> Result<(), TicketError> {
        let expected = Expected {
            bundle: BundleId::of(b"bundle"),
            app: Some("shop-objects"),
            volume: Some("vol_1"),
            now: NOW,
        };
        let bytes = codec::encode(signed).unwrap();
        let read = SignedFirstWord::decode(&bytes).unwrap();
        assert_eq!(&read, signed);
        read.verify(&expected).map(drop)
    }

    #[test]
    fn an_instance_begins_by_the_word_of_a_door_that_owners_appointed() {
        assert_eq!(verified(&word(appointment(), &[1], |_| ())), Ok(()));
        let check = |expect: TicketError, signed: SignedFirstWord| {
            assert_eq!(verified(&signed), Err(expect));
        };
        let none = |found| TicketError::Signatures { found, needed: 1 };
        check(none(0), word(appointment(), &[], |_| ()));
        check(none(0), word(appointment(), &[3], |_| ()));
        let other = Appointment {
            door: key(9).public(),
            ..appointment()
        };
        check(none(0), word(other, &[1], |_| ()));
        let mut changed = word(appointment(), &[1], |_| ());
        changed.word.instance.key = "zenith".parse().unwrap();
        check(none(0), changed);
        let over = Appointment {
            expires: NOW,
            ..appointment()
        };
        check(TicketError::Expired, word(over, &[1], |_| ()));
        check(
            TicketError::Expired,
            word(appointment(), &[1], |word| word.expires = NOW),
        );
        let long = NOW.saturating_add(MAX_LIFETIME).saturating_add(Span(1));
        check(
            TicketError::TooLong,
            word(appointment(), &[1], |word| word.expires = long),
        );
        check(
            TicketError::WrongVolume("vol_2".to_owned()),
            word(appointment(), &[1], |word| word.volume = "vol_2".to_owned()),
        );
        let elsewhere = Appointment {
            app: "bank".to_owned(),
            ..appointment()
        };
        check(
            TicketError::WrongApp("bank".to_owned()),
            word(elsewhere, &[1], |_| ()),
        );
        check(
            TicketError::Content,
            word(appointment(), &[1], |word| word.instance.id = ClassId::of(b"x")),
        );
    }
}
