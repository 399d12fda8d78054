//! HTTP as depots on servers want it: TLS on ring with the system's certificates, short waits, no redirects.
//!
//! Called by object storage and etcd.

use std::sync::Arc;
use std::time::Duration;

/// How long connecting may take, and how long a server may be silent.
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(8);

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A client whose servers answer soon. Nothing is asked yet.
pub(crate) fn client() -> Result<reqwest::Client, Failed> {
    Ok(builder()?.read_timeout(SILENCE).build()?)
}

/// A client for answers that come bit by bit, whenever something happens. Whoever waits bounds the time.
#[cfg(feature = "etcd")]
pub(crate) fn patient() -> Result<reqwest::Client, Failed> {
    Ok(builder()?.build()?)
}

fn builder() -> Result<reqwest::ClientBuilder, Failed> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .user_agent(concat!("suijuris/", env!("CARGO_PKG_VERSION"))))
}

fn tls() -> Result<rustls::ClientConfig, Failed> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider))?;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}
