//! TLS of callers: rustls with ring, TLS 1.2 and 1.3. Certificates are files, read again when they change, or made for each
//! name by the development authority.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use suijuris_gate::tls::Session;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Speaks;
use super::authority::Authority;
use super::certificate;

/// How often files are looked at, at most.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a file at most: a long chain has less.
const MAX_FILE: u64 = 1 << 20;

/// A connection on which TLS ends here.
pub type Stream = TlsStream<TcpStream>;

/// Where the server's certificate comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A chain and its key, as PEM files.
    Files {
        /// The chain, the server's own certificate first.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Made as they are asked for.
    Development(Arc<Authority>),
    /// By the name that is asked for; the other source's where there is none of that name.
    Named {
        /// Those by name, which may change.
        names: Arc<Names>,
        /// For all other names.
        otherwise: Option<Box<Source>>,
    },
}

/// Certificates by the name that TLS asks for; shared by whoever adds them and all who serve them.
#[derive(Debug, Default)]
pub struct Names(RwLock<HashMap<String, Arc<CertifiedKey>>>);

impl Names {
    /// From now on `name`, in lower case, has this chain and key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`] where they cannot be used; what was there stays.
    pub fn set(&self, name: &str, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let unusable = |error: &dyn std::fmt::Display| TlsError::Invalid(format!("{name}: {error}"));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(&error))?;
        let provider = rustls::crypto::ring::default_provider();
        let key = provider.key_provider.load_private_key(key);
        let certified = CertifiedKey::new(chain, key.map_err(|error| unusable(&error))?);
        certified.keys_match().map_err(|error| unusable(&error))?;
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned(), Arc::new(certified));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned()
    }
}

/// Until when a chain in PEM counts, seconds since 1970; none where it has no certificate that can be read.
#[must_use]
pub fn expires_s(chain: &[u8]) -> Option<u64> {
    let first = CertificateDer::pem_slice_iter(chain).next()?.ok()?;
    let (_, parsed) = X509Certificate::from_der(&first).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

#[derive(Debug)]
struct ByName {
    names: Arc<Names>,
    otherwise: Option<Arc<dyn ResolvesServerCert>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().map(str::to_ascii_lowercase);
        let found = named.and_then(|name| self.names.find(&name));
        found.or_else(|| self.otherwise.as_ref()?.resolve(hello))
    }
}

impl Source {
    fn files(&self) -> Vec<&PathBuf> {
        match self {
            Self::Files { certificate, key } => vec![certificate, key],
            Self::Development(_) => Vec::new(),
            Self::Named { otherwise, .. } => {
                otherwise.as_ref().map(|other| other.files()).unwrap_or_default()
            }
        }
    }

    fn resolver(&self, provider: &CryptoProvider) -> Result<Arc<dyn ResolvesServerCert>, TlsError> {
        Ok(match self {
            Self::Files { certificate, key } => {
                let read = from_files(certificate, key, provider)?;
                Arc::new(SingleCertAndKey::from(read))
            }
            Self::Development(authority) => authority.clone(),
            Self::Named { names, otherwise } => Arc::new(ByName {
                names: names.clone(),
                otherwise: otherwise
                    .as_ref()
                    .map(|other| other.resolver(provider))
                    .transpose()?,
            }),
        })
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The key is another certificate's.
    #[error("{} is not the key of {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// What was read cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Invalid(String),
}

/// Ends TLS.
#[derive(Debug)]
pub struct Tls {
    source: Source,
    client_ca: Option<PathBuf>,
    config: RefCell<Configs>,
    /// What the files were when they were last tried.
    stamps: RefCell<Vec<Option<Stamp>>>,
    looked: Cell<Instant>,
}

/// The same certificates, with and without the protocols of HTTP.
#[derive(Debug)]
struct Configs {
    http: Arc<ServerConfig>,
    raw: Arc<ServerConfig>,
}

/// What tells a changed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Tls {
    /// With certificates from `source`; clients may show certificates of `client_ca`, where one is named.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(source: Source, client_ca: Option<PathBuf>) -> Result<Self, TlsError> {
        let config = configure(&source, client_ca.as_deref())?;
        let tls = Self {
            source,
            client_ca,
            config: RefCell::new(config),
            stamps: RefCell::default(),
            looked: Cell::new(Instant::now()),
        };
        *tls.stamps.borrow_mut() = tls.stamp();
        Ok(tls)
    }

    fn stamp(&self) -> Vec<Option<Stamp>> {
        let own = self.source.files();
        let stamp = |path: &PathBuf| std::fs::metadata(path).ok().map(|found| Stamp::of(&found));
        own.into_iter().chain(&self.client_ca).map(stamp).collect()
    }

    /// Reads files that changed; those of before stay where the new ones cannot be used.
    ///
    /// # Errors
    /// What is wrong with them, once for each change.
    pub fn refresh(&self) -> Result<(), String> {
        let now = Instant::now();
        if now.duration_since(self.looked.get()) < LOOK_AFTER {
            return Ok(());
        }
        self.looked.set(now);
        let stamps = self.stamp();
        if *self.stamps.borrow() == stamps {
            return Ok(());
        }
        *self.stamps.borrow_mut() = stamps;
        match configure(&self.source, self.client_ca.as_deref()) {
            Ok(config) => {
                *self.config.borrow_mut() = config;
                Ok(())
            }
            Err(error) => Err(format!("{error}; the certificates of before stay in use")),
        }
    }

    /// The handshake; none where it fails.
    pub async fn accept(&self, socket: TcpStream, speaks: Speaks) -> Option<(Stream, Session)> {
        let config = match speaks {
            Speaks::Http => self.config.borrow().http.clone(),
            Speaks::Anything => self.config.borrow().raw.clone(),
        };
        let acceptor = TlsAcceptor::from(config);
        let stream = acceptor.accept(socket).await.ok()?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let found = Session {
            version: version(session.protocol_version()?)?.to_owned(),
            server_name: session.server_name().map(str::to_ascii_lowercase),
            certificate: shown.and_then(|shown| certificate::read(shown)),
        };
        Some((stream, found))
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self(found.ino(), found.len(), found.mtime(), found.mtime_nsec())
    }
}

/// A version as rules name it.
const fn version(version: rustls::ProtocolVersion) -> Option<&'static str> {
    match version {
        rustls::ProtocolVersion::TLSv1_2 => Some("1.2"),
        rustls::ProtocolVersion::TLSv1_3 => Some("1.3"),
        _ => None,
    }
}

fn configure(source: &Source, client_ca: Option<&Path>) -> Result<Configs, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: &dyn std::fmt::Display| TlsError::Invalid(error.to_string());
    let resolver = source.resolver(&provider)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(resolver);
    let raw = Arc::new(config.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let http = Arc::new(config);
    Ok(Configs { http, raw })
}

fn from_files(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&contents(key)?).map_err(|error| file(key, &error))?;
    let signing = provider.key_provider.load_private_key(private);
    let certified = CertifiedKey::new(chain, signing.map_err(|error| file(key, &error))?);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(_) => Err(TlsError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents(path)?).collect();
    let read = read.map_err(|error| file(path, &error))?;
    if read.is_empty() {
        return Err(file(path, &"it has no certificate in PEM"));
    }
    Ok(read)
}

fn contents(path: &Path) -> Result<Vec<u8>, TlsError> {
    let found = std::fs::metadata(path).map_err(|error| file(path, &error))?;
    if found.len() > MAX_FILE {
        return Err(file(path, &"it is larger than certificates are"));
    }
    std::fs::read(path).map_err(|error| file(path, &error))
}

fn file(path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        why: why.to_string(),
    }
}
