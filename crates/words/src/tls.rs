//! What a TLS session says of a client, as rules read it and as decisions are recorded.

use suijuris_api::tls::Session;
use suijuris_core::governance;
use suijuris_core::inputs::{ClientCert, Request, Tls};
use suijuris_core::time::Timestamp;

/// As rules read it.
#[must_use]
pub fn facts(session: &Session) -> (governance::Tls<'_>, Option<governance::ClientCert<'_>>) {
    let tls = governance::Tls {
        version: &session.version,
        sni: session.server_name.as_deref(),
    };
    let shown = session.certificate.as_ref().map(|shown| governance::ClientCert {
        name: shown.name.as_deref(),
        subject: &shown.subject,
        issuer: &shown.issuer,
        fingerprint: &shown.fingerprint,
        not_after: Timestamp(shown.not_after_ms),
    });
    (tls, shown)
}

/// Adds it to a request that is decided about, where there was any.
pub fn note(request: &mut Request, session: Option<&Session>) {
    request.tls = session.map(|session| Tls {
        version: session.version.clone(),
        sni: session.server_name.clone(),
    });
    let shown = session.and_then(|session| session.certificate.as_ref());
    request.client_cert = shown.map(|shown| {
        Box::new(ClientCert {
            name: shown.name.clone(),
            subject: shown.subject.clone(),
            issuer: shown.issuer.clone(),
            fingerprint: shown.fingerprint.clone(),
            not_after: Timestamp(shown.not_after_ms),
        })
    });
}
