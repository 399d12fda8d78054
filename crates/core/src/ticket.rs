//! An owner's word that one object may begin on one volume: what a machine founds itself by at its first boot.
//!
//! Whoever deploys signs it, the runtime in the machine verifies it and founds by it once, and the inception keeps it, so that
//! anybody can see later who let the object begin, where and as what. An empty volume without a live ticket founds nothing. That
//! it is spent once is seen to by whoever founds: in the depot by compare-and-swap ([`Ticket::table`]), or by the volume itself.
//! Bytes: `spec/records.md`.

use serde::{Deserialize, Serialize};

use crate::class::{ClassId, Identity, Key};
use crate::codec;
use crate::id::BundleId;
use crate::key::{Domain, PublicKey, SecretKey};
use crate::owner_request::Signed;
use crate::time::{Span, Timestamp};

/// Format version of tickets.
pub const VERSION: u32 = 1;

/// How long a ticket may be good for at most, from when it is looked at.
pub const MAX_LIFETIME: Span = Span(15 * 60_000);

/// Size of an encoded signed ticket at most, bytes.
pub const MAX_BYTES: usize = 16 << 10;

/// Length of the name of an app or volume at most, bytes.
pub const MAX_NAME: usize = 256;

/// Owners at most, as in an inception.
const MAX_OWNERS: usize = 64;

/// Name of the table in which tickets are spent.
const TABLE: &str = "tickets";

/// What owners sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// [`VERSION`].
    pub v: u32,
    /// The definition that the object begins with.
    pub bundle: BundleId,
    /// The app whose machine founds it; at most [`MAX_NAME`] bytes.
    pub app: String,
    /// The volume that it is founded on, as whoever carries the machine calls it; at most [`MAX_NAME`] bytes.
    pub volume: String,
    /// Makes it good for one object; that object's nonce, too.
    #[serde(with = "serde_bytes")]
    pub nonce: [u8; 16],
    /// The object's owners.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign, this ticket as well.
    pub threshold: u32,
    /// Until when it is good, at most [`MAX_LIFETIME`] ahead.
    pub expires: Timestamp,
}

/// A ticket and who signed it, as it travels and as an inception keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTicket {
    /// The ticket.
    pub ticket: Ticket,
    /// Signatures of its owners, each of another key.
    pub signatures: Vec<Signed>,
}

/// What whoever founds knows of the ticket it expects.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The definition in the image.
    pub bundle: BundleId,
    /// The app that the machine is of, where that is known.
    pub app: Option<&'a str>,
    /// The volume that is mounted, where that is known.
    pub volume: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// Why nothing may be founded by a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Longer than a ticket may be, or not in canonical form.
    #[error(
        "the ticket is not readable: deploy again with a `suijuris` of the same version as the image's runtime"
    )]
    Unreadable,
    /// Of a later format.
    #[error("the ticket has version {0}, this program reads version {VERSION}: use a newer suijuris")]
    Version(u32),
    /// For another definition.
    #[error("the ticket is for bundle {0}, and the image carries another: deploy the image that was built")]
    WrongBundle(BundleId),
    /// For another app.
    #[error("the ticket is for the app `{0}`, and this machine is of another: deploy again")]
    WrongApp(String),
    /// For another volume.
    #[error("the ticket is for the volume `{0}`, and another is mounted here: deploy again")]
    WrongVolume(String),
    /// Too late.
    #[error("the ticket has expired: deploy again; check that both clocks agree")]
    Expired,
    /// Good for too long.
    #[error("the ticket is good for more than 15 minutes: check that both clocks agree, and deploy again")]
    TooLong,
    /// Owners or names that cannot be.
    #[error("the ticket names no possible owners, app or volume")]
    Content,
    /// Too few owners signed, or somebody else did.
    #[error("the ticket needs the signatures of {needed} of its owners and has {found} that hold")]
    Signatures {
        /// Signatures that hold, of different owners.
        found: usize,
        /// How many must.
        needed: u32,
    },
}

impl Ticket {
    /// Signs this ticket.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn sign(&self, key: &SecretKey) -> Result<Signed, codec::Error> {
        Ok(Signed {
            key: key.public(),
            sig: key.sign(Domain::Ticket, &codec::encode(self)?),
        })
    }

    /// Where in a depot's name tables it is spent: a table of its owners, and a key of its own. The entry names the object
    /// that was founded by it.
    ///
    /// # Errors
    /// As [`codec::encode`]; a key that is none cannot happen.
    pub fn table(&self) -> Result<(ClassId, Key), TicketError> {
        let owners = Identity {
            controllers: self.controllers.clone(),
            threshold: self.threshold,
            name: TABLE.to_owned(),
            nonce: [0; 16],
        };
        let table = owners.id().map_err(|_unreadable| TicketError::Unreadable)?;
        let hex: String = self.nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = hex.parse().map_err(|_none| TicketError::Unreadable)?;
        Ok((table, key))
    }

    fn check_content(&self) -> Result<(), TicketError> {
        if self.app.len() > MAX_NAME || self.volume.len() > MAX_NAME {
            return Err(TicketError::Content);
        }
        check_owners(&self.controllers, self.threshold)
    }
}

impl SignedTicket {
    /// Reads a ticket from its canonical bytes.
    ///
    /// # Errors
    /// [`TicketError::Unreadable`], [`TicketError::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        let signed: Self = codec::decode(bytes, MAX_BYTES).map_err(|_unreadable| TicketError::Unreadable)?;
        match signed.ticket.v {
            VERSION => Ok(signed),
            other => Err(TicketError::Version(other)),
        }
    }

    /// Whether its owners let an object begin just here, now.
    ///
    /// # Errors
    /// [`TicketError`], the first thing found wrong.
    pub fn verify(&self, expected: &Expected<'_>) -> Result<&Ticket, TicketError> {
        let ticket = &self.ticket;
        if let Some(app) = expected.app
            && app != ticket.app
        {
            return Err(TicketError::WrongApp(ticket.app.clone()));
        }
        if let Some(volume) = expected.volume
            && volume != ticket.volume
        {
            return Err(TicketError::WrongVolume(ticket.volume.clone()));
        }
        self.verify_for(expected.bundle, expected.now)?;
        Ok(ticket)
    }

    /// Whether it let an object of this definition begin at this time, as far as anybody can tell who was not there.
    pub(crate) fn verify_for(&self, bundle: BundleId, at: Timestamp) -> Result<(), TicketError> {
        let ticket = &self.ticket;
        let holds = |holds: bool, wrong: TicketError| if holds { Ok(()) } else { Err(wrong) };
        holds(ticket.v == VERSION, TicketError::Version(ticket.v))?;
        holds(ticket.bundle == bundle, TicketError::WrongBundle(ticket.bundle))?;
        holds(ticket.expires > at, TicketError::Expired)?;
        holds(
            ticket.expires <= at.saturating_add(MAX_LIFETIME),
            TicketError::TooLong,
        )?;
        ticket.check_content()?;
        let bytes = codec::encode(ticket).map_err(|_unreadable| TicketError::Unreadable)?;
        let owners = (ticket.controllers.as_slice(), ticket.threshold);
        check_signatures(owners, Domain::Ticket, &bytes, &self.signatures)
    }
}

/// Whether these can be the owners of anything.
pub(crate) fn check_owners(controllers: &[PublicKey], threshold: u32) -> Result<(), TicketError> {
    let owners: std::collections::BTreeSet<_> = controllers.iter().collect();
    let count = u32::try_from(owners.len()).unwrap_or(u32::MAX);
    let sound =
        owners.len() == controllers.len() && owners.len() <= MAX_OWNERS && (1..=count).contains(&threshold);
    if sound { Ok(()) } else { Err(TicketError::Content) }
}

/// Whether enough of the owners signed `bytes`, and nobody else.
pub(crate) fn check_signatures(
    (controllers, needed): (&[PublicKey], u32),
    domain: Domain,
    bytes: &[u8],
    signatures: &[Signed],
) -> Result<(), TicketError> {
    let signed = signatures.iter().filter(|signed| {
        controllers.contains(&signed.key) && signed.key.verifies(domain, bytes, &signed.sig)
    });
    let found = signed
        .map(|signed| signed.key)
        .collect::<std::collections::BTreeSet<_>>()
        .len();
    let all_hold = signatures.len() == found;
    let enough = u32::try_from(found).is_ok_and(|found| found >= needed);
    if all_hold && enough {
        Ok(())
    } else {
        Err(TicketError::Signatures { found, needed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn ticket() -> Ticket {
        Ticket {
            v: VERSION,
            bundle: BundleId::of(b"bundle"),
            app: "shop".to_owned(),
            volume: "vol_1".to_owned(),
            nonce: [7; 16],
            controllers: vec![key(1).public(), key(2).public()],
            threshold: 1,
            expires: NOW.saturating_add(Span(60_000)),
        }
    }

    fn signed(ticket: Ticket, keys: &[u8]) -> SignedTicket {
        let signatures = keys
            .iter()
            .map(|seed| ticket.sign(&key(*seed)).unwrap())
            .collect();
        SignedTicket { ticket, signatures }
    }

    fn verified(signed: &SignedTicket) -> Result<(), TicketError> {
        let expected = Expected {
            bundle: BundleId::of(b"bundle"),
            app: Some("shop"),
            volume: Some("vol_1"),
            now: NOW,
        };
        signed.verify(&expected).map(drop)
    }

    #[test]
    fn a_ticket_is_good_for_what_its_owners_signed_and_nothing_else() {
        use TicketError as Wrong;
        assert_eq!(verified(&signed(ticket(), &[2])), Ok(()));
        let change = |change: fn(&mut Ticket), keys: &[u8]| {
            let mut ticket = ticket();
            change(&mut ticket);
            verified(&signed(ticket, keys)).unwrap_err()
        };
        let other = BundleId::of(b"other");
        assert_eq!(
            change(|t| t.bundle = BundleId::of(b"other"), &[1]),
            Wrong::WrongBundle(other)
        );
        assert_eq!(change(|t| t.app = "x".into(), &[1]), Wrong::WrongApp("x".into()));
        assert_eq!(
            change(|t| t.volume = "x".into(), &[1]),
            Wrong::WrongVolume("x".into())
        );
        assert_eq!(change(|t| t.expires = NOW, &[1]), Wrong::Expired);
        let late = change(|t| t.expires = NOW.saturating_add(Span(15 * 60_000 + 1)), &[1]);
        assert_eq!(late, Wrong::TooLong);
        assert_eq!(change(|t| t.v = 2, &[1]), Wrong::Version(2));
        assert_eq!(change(|t| t.threshold = 3, &[1]), Wrong::Content);
        let too_few = Wrong::Signatures { found: 1, needed: 2 };
        assert_eq!(change(|t| t.threshold = 2, &[1]), too_few);
    }

    #[test]
    fn signatures_of_strangers_and_of_other_words_are_refused() {
        let none = TicketError::Signatures { found: 0, needed: 1 };
        assert_eq!(verified(&signed(ticket(), &[])), Err(none.clone()));
        assert_eq!(verified(&signed(ticket(), &[9])), Err(none.clone()));
        let mut altered = signed(ticket(), &[1]);
        altered.ticket.nonce = [8; 16];
        assert_eq!(verified(&altered), Err(none));
        let twice = TicketError::Signatures { found: 1, needed: 1 };
        assert_eq!(verified(&signed(ticket(), &[1, 1])), Err(twice));
    }

    #[test]
    fn a_ticket_reads_back_and_has_one_place_to_be_spent_in() {
        let first = signed(ticket(), &[1]);
        let bytes = codec::encode(&first).unwrap();
        assert_eq!(SignedTicket::decode(&bytes), Ok(first));
        for cut in 0..bytes.len() {
            assert!(SignedTicket::decode(&bytes[..cut]).is_err());
        }
        let other = Ticket {
            nonce: [8; 16],
            ..ticket()
        };
        let (table, key) = ticket().table().unwrap();
        assert_eq!(other.table().unwrap().0, table);
        assert_ne!(other.table().unwrap().1, key);
    }
}
