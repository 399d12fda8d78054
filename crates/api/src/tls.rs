//! What a TLS session says of a client, as whoever ended the session found. Nobody else may say it: a program that is told so by
//! the client itself does not believe it.

use serde::{Deserialize, Serialize};

/// The field in which a proxy says it to a machine, signed: `session=BASE64URL;expires=S;hmac-sha256=HEX`.
pub const FIELD: &str = "x-suijuris-tls";
/// The part of that with a [`Session`] as JSON.
pub const WORD: &str = "session";

/// A session of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// `1.2` or `1.3`.
    pub version: String,
    /// The name that the client asked for, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The certificate that the client showed, whose chain and key were verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

/// A verified certificate of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Its first DNS name, or the common name of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its subject, as RFC 4514 writes distinguished names.
    pub subject: String,
    /// Its issuer, likewise.
    pub issuer: String,
    /// SHA-256 of its DER encoding, in lower-case hexadecimal.
    pub fingerprint: String,
    /// Until when it is valid, milliseconds since 1970.
    pub not_after_ms: i64,
}
