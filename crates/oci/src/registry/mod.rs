//! A registry: push, pull, list what refers to an image. Speaks distribution-spec 1.1 over `reqwest`.
//!
//! Not built on `oci-client`: that library reads manifests, tokens and errors of any length into memory, panics on
//! upload locations and tokens that are no URL or header, follows redirects out of TLS, sends passwords to plain-HTTP
//! token servers and hides the `OCI-Subject` answer that decides about the referrers tag. A registry is foreign: what
//! it controls is bounded here in time, size and count.
//!
//! One [`Registry`] talks to one registry, so that credentials cannot reach another one. Blobs in files stream between file
//! and network; memory stays at a few hundred KiB whatever their size. All methods may be dropped at any await: a
//! broken push leaves at most unreferenced blobs, a broken pull nothing.

mod auth;
mod download;
mod error;
mod http;
#[cfg(feature = "images")]
pub(crate) mod images;
mod referrers;
#[cfg(feature = "images")]
mod scope;
mod tls;
mod upload;

use std::path::Path;
use std::time::Duration;

pub use error::RegistryError;
pub use tls::{config as tls_config, trusting_nobody as tls_trusting_nobody};

use self::http::{Action, Ask, Session};
use super::blob::Blob;
use super::credentials::Credentials;
use super::descriptor::{ContentDigest, Descriptor, MediaType};
use super::reference::{Host, Reference, is_loopback};
use super::{INDEX_TYPE, MANIFEST_TYPE, MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, Manifest};

/// Docker Hub is called otherwise than where it answers.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Manifests that may stand behind an image's name; the two of Docker for images of other tools.
const IMAGE_TYPES: &[&str] = &[
    MANIFEST_TYPE,
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Told how far a transfer is: bytes done, bytes in all.
pub type Progress<'a> = dyn FnMut(u64, u64) + Send + 'a;

/// What is pushed: a manifest and all that it names.
#[derive(Debug, Clone)]
pub struct Package<'a> {
    /// The bytes of the manifest.
    pub manifest: &'a [u8],
    /// What lists say of it: digest, size and media type of the manifest, its artifact type and annotations.
    pub entry: Descriptor,
    /// The image that it refers to.
    pub subject: Option<ContentDigest>,
    /// Contents that lie in memory, such as its config.
    pub small: &'a [&'a [u8]],
    /// The content that lies in a file.
    pub blob: &'a Blob,
}

/// What is being pulled: first its manifest, then what that names.
pub struct Pull<'a> {
    session: Session<'a>,
    reference: Reference,
}

impl Pull<'_> {
    /// The manifest, as bytes and as read, held to the digest of the reference if it has one.
    ///
    /// # Errors
    /// See [`RegistryError`]; an index of several manifests is one of them.
    pub async fn manifest(&mut self) -> Result<(Vec<u8>, Manifest), RegistryError> {
        let types = &[MANIFEST_TYPE, INDEX_TYPE];
        let (bytes, _) = self.session.manifest(&self.reference, types).await?;
        let manifest = Manifest::decode(&bytes)?;
        Ok((bytes, manifest))
    }

    /// Fetches a blob to the new file `out` (mode 0600), complete and synced or not at all. It has digest and size of
    /// the descriptor when this returns.
    ///
    /// # Errors
    /// See [`RegistryError`]; what is larger than [`Options::max_blob_bytes`] is refused before it is asked for.
    pub async fn blob(
        &mut self,
        descriptor: &Descriptor,
        out: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<Blob, RegistryError> {
        download::blob(&mut self.session, descriptor, out, progress).await
    }
}

/// How to reach a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// TLS, but for this machine itself plain HTTP.
    #[default]
    ByHost,
    /// TLS, for this machine too.
    Tls,
    /// Plain HTTP to wherever; passwords and blobs go readable through the network.
    Plain,
}

/// How a [`Registry`] works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who asks.
    pub credentials: Credentials,
    /// How to reach it.
    pub transport: Transport,
    /// Certificates in PEM that are trusted beside those of the system; may be empty.
    pub roots_pem: Vec<u8>,
    /// Size of a blob to pull at most, bytes.
    pub max_blob_bytes: u64,
    /// Time to connect, TLS included.
    pub connect_within: Duration,
    /// Time for a short answer, and for a long one to begin.
    pub answer_within: Duration,
    /// Time between two pieces of a transfer.
    pub idle: Duration,
    /// Connect to nothing that lies on this machine or on its own link, redirects included: for names that strangers give.
    #[cfg(feature = "images")]
    pub only_elsewhere: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials: Credentials::Anonymous,
            transport: Transport::ByHost,
            roots_pem: Vec::new(),
            max_blob_bytes: MAX_BLOB_BYTES,
            connect_within: Duration::from_secs(10),
            // Some registries copy an upload to object storage before they answer.
            answer_within: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            #[cfg(feature = "images")]
            only_elsewhere: false,
        }
    }
}

/// A registry and who asks it.
#[derive(Debug)]
pub struct Registry {
    host: Host,
    base: reqwest::Url,
    plain: bool,
    clients: tls::Clients,
    options: Options,
}

impl Registry {
    /// A client for the registry `host`; connects to nothing yet.
    ///
    /// # Errors
    /// Certificates that cannot be read, or a host that no URL can name.
    pub fn new(host: &Host, options: Options) -> Result<Self, RegistryError> {
        let plain = match options.transport {
            Transport::ByHost => host.is_loopback(),
            Transport::Tls => false,
            Transport::Plain => true,
        };
        let name = if host.as_str() == DOCKER.0 {
            DOCKER.1
        } else {
            host.as_str()
        };
        let scheme = if plain { "http" } else { "https" };
        let base = reqwest::Url::parse(&format!("{scheme}://{name}/v2/"))
            .map_err(|_| RegistryError::Protocol("its name is not a valid URL".to_owned()))?;
        Ok(Self {
            host: host.clone(),
            base,
            plain,
            clients: tls::Clients::new(&options, plain)?,
            options,
        })
    }

    /// Pushes an artifact and returns its digest, by which it can be pulled for ever. Blobs that are there already are
    /// not sent again. With a tag, the tag names it afterwards; with a digest, the artifact must have that digest.
    ///
    /// If it has a `subject`, [`Registry::referrers`] of that image finds it: through the registry, or where it lacks
    /// the referrers API, through the referrers tag that distribution-spec 1.1 describes.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push(
        &self,
        reference: &Reference,
        package: &Package<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<ContentDigest, RegistryError> {
        let digest = package.entry.digest;
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            return Err(RegistryError::Digest {
                what: "artifact".to_owned(),
                wanted,
                found: digest,
            });
        }
        let mut session = self.session(reference, Action::Push)?;
        for bytes in package.small {
            upload::small(&mut session, bytes).await?;
        }
        upload::blob(&mut session, package.blob, progress).await?;
        let target = match reference.tag() {
            Some(tag) => tag.to_string(),
            None => digest.to_string(),
        };
        let media_type = package.entry.media_type.as_str();
        let put = upload::manifest(&mut session, &target, media_type, package.manifest, None).await?;
        if let Some(subject) = package.subject
            && !put.linked
        {
            referrers::link(&mut session, &package.entry, subject).await?;
        }
        Ok(digest)
    }

    /// Begins to pull what `reference` names; asks nothing yet.
    ///
    /// # Errors
    /// The reference is in another registry.
    pub fn pull(&self, reference: &Reference) -> Result<Pull<'_>, RegistryError> {
        Ok(Pull {
            session: self.session(reference, Action::Pull)?,
            reference: reference.clone(),
        })
    }

    /// The descriptor of an image, for the `subject` of an artifact.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn resolve(&self, image: &Reference) -> Result<Descriptor, RegistryError> {
        let mut session = self.session(image, Action::Pull)?;
        let (bytes, media_type) = session.manifest(image, IMAGE_TYPES).await?;
        Ok(Descriptor::new(
            media_type,
            ContentDigest::of(&bytes),
            bytes.len() as u64,
        ))
    }

    /// The artifacts of a type that name `image` as their subject, with the annotations that the registry passes on;
    /// they lie in the image's own repository. An image that is named by digest need not be there.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn referrers(
        &self,
        image: &Reference,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let digest = match image.digest() {
            Some(digest) => digest,
            None => self.resolve(image).await?.digest,
        };
        let mut session = self.session(image, Action::Pull)?;
        referrers::list(&mut session, digest, artifact_type).await
    }

    fn session(&self, reference: &Reference, action: Action) -> Result<Session<'_>, RegistryError> {
        if *reference.host() != self.host {
            return Err(RegistryError::OtherRegistry {
                reference: reference.clone(),
                host: self.host.clone(),
            });
        }
        Ok(Session::new(self, reference.repository().clone(), action))
    }

    /// Whether `url` may be asked: TLS always; plain HTTP only where the registry itself is reached so, and then
    /// beyond this machine only if the caller said so.
    fn permits(&self, url: &reqwest::Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => {
                self.plain
                    && (self.options.transport == Transport::Plain || url.host_str().is_some_and(is_loopback))
            }
            _ => false,
        }
    }
}

impl Session<'_> {
    /// A manifest, held to the digest of `reference` if it has one, and its media type.
    async fn manifest(
        &mut self,
        reference: &Reference,
        types: &[&str],
    ) -> Result<(Vec<u8>, MediaType), RegistryError> {
        let ask = Ask::get(
            self.url(&["manifests", &reference.target()])?,
            format!("{reference}"),
        )
        .accept(types);
        let response = self.expect(&ask, &[reqwest::StatusCode::OK]).await?;
        let named = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .map_or("", str::trim)
            .to_owned();
        let bytes = self.read(response, MAX_MANIFEST_BYTES, &ask.what).await?;
        let found = ContentDigest::of(&bytes);
        match reference.digest().filter(|wanted| *wanted != found) {
            Some(wanted) => Err(RegistryError::Digest {
                what: "manifest".to_owned(),
                wanted,
                found,
            }),
            None => {
                let media_type = named.parse().map_err(|_| {
                    RegistryError::Protocol("its manifest comes without a media type".to_owned())
                })?;
                Ok((bytes, media_type))
            }
        }
    }
}
