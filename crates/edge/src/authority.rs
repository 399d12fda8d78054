//! The certificate authority of development: it signs for `localhost` and what is below it, and for nothing else, whoever
//! asks and whoever has its key (name constraints).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What all names that it signs for end with.
const DOMAIN: &str = "localhost";

/// Certificates that are kept, at most: then all are made anew.
const MAX_KEPT: usize = 1_024;

/// How long one is used; it is good for longer.
const USED_FOR: Duration = Duration::from_secs(86_400 * 30);
const GOOD_DAYS: i32 = 90;
const AUTHORITY_DAYS: i32 = 3_650;

/// Longest DNS name.
const MAX_NAME: usize = 253;

/// An authority, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    made: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

/// What there is of an authority on disk.
pub struct Files {
    /// Its certificate, PEM: for trust stores.
    pub certificate: String,
    /// Its private key, PEM: for this person alone.
    pub key: String,
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key is none.
    #[error(
        "the key of the development authority cannot be read: make another with `suijuris trust --renew`"
    )]
    Key(#[source] rcgen::Error),
    /// It cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A new authority.
///
/// # Errors
/// [`AuthorityError::Make`].
pub fn create(today: Date) -> Result<Files, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = authority();
    lasting(&mut params, today, AUTHORITY_DAYS);
    Ok(Files {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params
        .distinguished_name
        .push(DnType::CommonName, "Suijuris development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName(DOMAIN.to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
                128,
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    params
}

/// From yesterday, since clocks differ.
fn lasting(params: &mut CertificateParams, today: Date, days: i32) {
    let day = |offset: i32| {
        let day = today.saturating_add(jiff::Span::new().days(offset));
        let part = |part: i8| u8::try_from(part).unwrap_or(1);
        rcgen::date_time_ymd(day.year().into(), part(day.month()), part(day.day()))
    };
    (params.not_before, params.not_after) = (day(-1), day(days));
}

impl Authority {
    /// The authority with this private key.
    ///
    /// # Errors
    /// [`AuthorityError::Key`].
    pub fn new(key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        Ok(Self {
            issuer: Issuer::new(authority(), key),
            made: Mutex::default(),
        })
    }

    /// A certificate for a client of this name, and its key: for development.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn client(&self, name: &str, today: Date) -> Result<Files, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        lasting(&mut params, today, GOOD_DAYS);
        Ok(Files {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    fn server(&self, name: &str) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, DOMAIN);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if name == DOMAIN {
            let loopback = [
                IpAddr::from([127, 0, 0, 1]),
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            ];
            params.subject_alt_names.extend(loopback.map(SanType::IpAddress));
        }
        lasting(&mut params, jiff::Zoned::now().date(), GOOD_DAYS);
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer)?.der().clone();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = any_ecdsa_type(&private).map_err(|_| rcgen::Error::KeyGenerationUnavailable)?;
        Ok(CertifiedKey::new(vec![certificate], signing))
    }
}

/// The name to make a certificate for: that which was asked for, where it is below the domain.
fn served(asked: Option<&str>) -> &str {
    let below = |name: &&str| {
        let letters = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&label.len()) && label.bytes().all(plain)
        };
        name.len() <= MAX_NAME && name.split('.').all(letters) && name.rsplit('.').next() == Some(DOMAIN)
    };
    asked.filter(below).unwrap_or(DOMAIN)
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = served(hello.server_name());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, kept)) = made.get(name)
            && since.elapsed() < USED_FOR
        {
            return Some(kept.clone());
        }
        let fresh = Arc::new(self.server(name).ok()?);
        if made.len() >= MAX_KEPT {
            made.clear();
        }
        made.insert(name.to_owned(), (Instant::now(), fresh.clone()));
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_the_domain_are_served_and_others_are_not() {
        for name in [
            "localhost",
            "a.localhost",
            "acme.tenant.localhost",
            "x-1.y.localhost",
        ] {
            assert_eq!(served(Some(name)), name);
        }
        for name in [
            "example.org",
            "localhost.evil",
            "xlocalhost",
            "a..localhost",
            "A.localhost",
            ".localhost",
            "*.localhost",
        ] {
            assert_eq!(served(Some(name)), DOMAIN, "{name}");
        }
        assert_eq!(served(None), DOMAIN);
    }

    #[test]
    fn what_is_made_says_nothing_of_its_key() {
        let files = create(jiff::civil::date(2026, 11, 28)).unwrap();
        assert!(files.key.contains("PRIVATE KEY") && !format!("{files:?}").contains("PRIVATE"));
        let authority = Authority::new(&files.key).unwrap();
        let client = authority.client("acme", jiff::civil::date(2026, 11, 28)).unwrap();
        assert!(client.certificate.contains("BEGIN CERTIFICATE") && authority.server("a.localhost").is_ok());
        assert!(Authority::new("x").is_err());
    }
}
