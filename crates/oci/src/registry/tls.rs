//! The HTTP clients: one with TLS, one for plain HTTP. Neither follows redirects by itself.

use std::sync::Arc;

use reqwest::{Client, Url};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Options, RegistryError};

/// The clients; TLS may be missing where the registry needs none and the system has no certificates.
#[derive(Debug)]
pub(super) struct Clients {
    tls: Result<Client, String>,
    plain: Client,
    #[cfg(feature = "images")]
    only_elsewhere: bool,
}

impl Clients {
    /// Fails where the caller's certificates cannot be used, or TLS cannot though it is needed.
    pub(super) fn new(options: &Options, plain: bool) -> Result<Self, RegistryError> {
        let tls = config(&options.roots_pem).and_then(|config| {
            builder(options)
                .tls_backend_preconfigured(config)
                .build()
                .map_err(|error| error.to_string())
        });
        match &tls {
            Err(error) if !plain || !options.roots_pem.is_empty() => {
                return Err(RegistryError::Roots(error.clone()));
            }
            _ => {}
        }
        let unused = trusting_nobody().map_err(RegistryError::Roots)?;
        let plain = builder(options)
            .tls_backend_preconfigured(unused)
            // A proxy would be one more place that reads along.
            .no_proxy()
            .build()
            .map_err(|error| RegistryError::Roots(error.to_string()))?;
        Ok(Self {
            tls,
            plain,
            #[cfg(feature = "images")]
            only_elsewhere: options.only_elsewhere,
        })
    }

    /// The client for the scheme of `url`.
    pub(super) fn of(&self, url: &Url) -> Result<&Client, RegistryError> {
        #[cfg(feature = "images")]
        if self.only_elsewhere && !super::scope::permits(url) {
            return Err(RegistryError::Near(super::error::authority(url)));
        }
        if url.scheme() == "http" {
            return Ok(&self.plain);
        }
        self.tls
            .as_ref()
            .map_err(|error| RegistryError::Roots(error.clone()))
    }
}

fn builder(options: &Options) -> reqwest::ClientBuilder {
    let builder = Client::builder();
    #[cfg(feature = "images")]
    let builder = if options.only_elsewhere {
        // A proxy would look names up by itself, and connect to what it finds.
        builder.no_proxy().dns_resolver(super::scope::Elsewhere::shared())
    } else {
        builder
    };
    builder
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(options.connect_within)
        .user_agent(concat!("suijuris/", env!("CARGO_PKG_VERSION")))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS that trusts nobody: a client of plain HTTP needs some configuration to be built, and never uses it.
///
/// # Errors
/// In words.
pub fn trusting_nobody() -> Result<ClientConfig, String> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

/// TLS with the system's certificates and those in `pem`: for the registry's client, and for whoever speaks to what is beside one.
///
/// # Errors
/// In words: no certificates, or none that can be read.
pub fn config(pem: &[u8]) -> Result<ClientConfig, String> {
    let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if roots.is_empty() && !pem.is_empty() {
        return Err("there is no certificate in them".to_owned());
    }
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(roots, provider())
        .map_err(|error| error.to_string())?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}
