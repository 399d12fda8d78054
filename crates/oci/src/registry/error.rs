//! Why a registry could not be used, with what to do about it.

use std::io;
use std::path::PathBuf;

use reqwest::{StatusCode, Url};

use super::super::blob::BlobError;
use super::super::descriptor::ContentDigest;
use super::super::manifest::ManifestError;
use super::super::printable;
use super::super::reference::{Host, Reference};

/// Why a registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The reference is in another registry.
    #[error("`{reference}` is not in the registry `{host}`; make a client for its own registry")]
    OtherRegistry {
        /// What was asked for.
        reference: Reference,
        /// Whose client this is.
        host: Host,
    },
    /// The caller wants nothing of this machine's own.
    #[error("`{0}` is this machine, or on its own link: nothing is pulled from there")]
    Near(String),
    /// Nobody answers there.
    #[error("`{host}` cannot be reached; check the name, the port and the network")]
    Unreachable {
        /// Whom we called.
        host: String,
        /// What failed.
        #[source]
        source: Box<reqwest::Error>,
    },
    /// The connection ended before the answer did.
    #[error("the connection to `{host}` broke; try again")]
    Broken {
        /// Whom we called.
        host: String,
        /// What failed.
        #[source]
        source: Box<reqwest::Error>,
    },
    /// No TLS, or a certificate that is not trusted.
    #[error(
        "`{host}` has no TLS that can be trusted: {reason}; trust its certificate authority, or ask for plain HTTP if it has no TLS"
    )]
    Tls {
        /// Whom we called.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// Certificates that cannot be read.
    #[error("the certificates to trust cannot be used: {0}; give certificates in PEM")]
    Roots(String),
    /// Too slow.
    #[error("`{host}` did not answer in time ({what}); try again, or give it more time")]
    Timeout {
        /// Whom we called.
        host: String,
        /// What we waited for.
        what: &'static str,
    },
    /// The registry wants to know who asks, or does not believe it.
    #[error("`{host}` does not accept who asks{detail}; log in, or give user and password or a token")]
    Unauthorized {
        /// Whom we asked.
        host: Host,
        /// What it says.
        detail: String,
    },
    /// Not allowed.
    #[error("`{host}` does not allow this for `{what}`{detail}; ask its owner for the right to do it")]
    Denied {
        /// Whom we asked.
        host: Host,
        /// What for.
        what: String,
        /// What it says.
        detail: String,
    },
    /// Not there.
    #[error("`{what}` is not in `{host}`{detail}; check repository, tag and digest")]
    NotFound {
        /// Whom we asked.
        host: Host,
        /// What for.
        what: String,
        /// What it says.
        detail: String,
    },
    /// The registry does not take the name.
    #[error("`{host}` does not take the name `{what}`{detail}; use another repository or tag")]
    NameInvalid {
        /// Whom we asked.
        host: Host,
        /// The name.
        what: String,
        /// What it says.
        detail: String,
    },
    /// Asked too often.
    #[error("`{host}` was asked too often{detail}; wait, or log in for a higher limit")]
    TooMany {
        /// Whom we asked.
        host: Host,
        /// What it says.
        detail: String,
    },
    /// The registry does not take so much.
    #[error(
        "`{host}` does not take so large a `{what}`{detail}; raise the limit of the registry or its proxy"
    )]
    RefusedSize {
        /// Whom we asked.
        host: Host,
        /// What was sent.
        what: String,
        /// What it says.
        detail: String,
    },
    /// Any other refusal.
    #[error("`{host}` answered {status} for `{what}`{detail}; {}", advice(*.status))]
    Status {
        /// Whom we asked.
        host: Host,
        /// What for.
        what: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        detail: String,
    },
    /// Not a registry, or one that does not keep to the specification.
    #[error("this does not answer like an OCI registry: {0}; check its name")]
    Protocol(String),
    /// A redirect that is not followed.
    #[error("the registry sends us on to `{to}`, {why}; tell its owner")]
    Redirect {
        /// Where to, without secrets.
        to: String,
        /// What is wrong with that.
        why: &'static str,
    },
    /// More than we take.
    #[error("`{what}` has {size} bytes, the limit is {max}; raise the limit if you trust the registry")]
    TooLarge {
        /// What.
        what: String,
        /// Its size, bytes; at least this, where the registry does not say.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// Fewer or more bytes than there should be.
    #[error(
        "`{what}` has {found} bytes instead of {wanted}; pull again, and tell the registry's owner if it stays"
    )]
    Size {
        /// What.
        what: String,
        /// Bytes that should have come.
        wanted: u64,
        /// Bytes that came; at least this, where more were not read.
        found: u64,
    },
    /// Other bytes than the digest says.
    #[error(
        "the {what} is not the one that is named: {found} instead of {wanted}; do not use it, and tell the registry's owner"
    )]
    Digest {
        /// What.
        what: String,
        /// What it should be.
        wanted: ContentDigest,
        /// What it is.
        found: ContentDigest,
    },
    /// Not a manifest, or none that can be used.
    #[error("what the registry has cannot be used")]
    Manifest(#[from] ManifestError),
    /// The file to push cannot be read.
    #[error("the file to push cannot be used")]
    Blob(#[from] BlobError),
    /// The file to pull into.
    #[error("`{path}` cannot be written; name a new file in a directory that can be written to")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The index behind the referrers tag.
    #[error(
        "the list of what refers to the image (tag `{tag}`) cannot be used: {why}; remove the tag from the registry"
    )]
    Referrers {
        /// The tag.
        tag: String,
        /// What is wrong.
        why: String,
    },
    /// Others write the referrers tag all the time.
    #[error("others keep writing the tag `{0}`; push again")]
    Contended(String),
}

impl RegistryError {
    /// What `reqwest` reports, in our words.
    pub(super) fn of(url: &Url, error: reqwest::Error) -> Self {
        let error = error.without_url();
        let host = authority(url);
        if let Some(reason) = tls_reason(&error) {
            return Self::Tls { host, reason };
        }
        if error.is_timeout() {
            return Self::Timeout {
                host,
                what: "connecting",
            };
        }
        let source = Box::new(error);
        if source.is_connect() {
            Self::Unreachable { host, source }
        } else {
            Self::Broken { host, source }
        }
    }
}

/// What a status beyond the named ones asks for.
fn advice(status: u16) -> &'static str {
    if status >= 500 {
        "try again later"
    } else {
        "see what the registry says"
    }
}

/// Host and port.
pub(super) fn authority(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

/// A URL without its query and user, which may be secrets.
pub(super) fn place(url: &Url) -> String {
    printable(&format!("{}://{}{}", url.scheme(), authority(url), url.path()))
}

/// The words of rustls where it is the cause.
fn tls_reason(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        // An I/O error hides what it wraps from `source`.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        next = inner.or_else(|| error.source());
    }
    None
}

/// The error of an answer that is not the wanted one. `says` is its body.
pub(super) fn refusal(host: &Host, what: &str, status: StatusCode, says: &[u8]) -> RegistryError {
    let (code, detail) = says_of(says);
    let (host, what) = (host.clone(), what.to_owned());
    match (status.as_u16(), code.as_str()) {
        (_, "NAME_INVALID" | "TAG_INVALID") => RegistryError::NameInvalid { host, what, detail },
        (401, _) => RegistryError::Unauthorized { host, detail },
        (403, _) => RegistryError::Denied { host, what, detail },
        (404, _) => RegistryError::NotFound { host, what, detail },
        (413, _) => RegistryError::RefusedSize { host, what, detail },
        (429, _) => RegistryError::TooMany { host, detail },
        (status, _) => RegistryError::Status {
            host,
            what,
            status,
            detail,
        },
    }
}

/// Code and text of the first error in a body as distribution-spec describes it; empty where there is none.
fn says_of(body: &[u8]) -> (String, String) {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        code: String,
        #[serde(default)]
        message: String,
    }
    let first = serde_json::from_slice::<Errors>(body)
        .ok()
        .and_then(|found| found.errors.into_iter().next());
    match first {
        Some(One { code, message }) => {
            let detail = printable(&format!("{code} {message}"));
            (code, format!(" ({})", detail.trim_end()))
        }
        None => (String::new(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(status: u16, body: &str, expect: &str) {
        let host = "registry.example".parse().unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let error = refusal(&host, "a/b:v1", status, body.as_bytes()).to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        check(401, "", "log in");
        check(
            403,
            r#"{"errors":[{"code":"DENIED","message":"no"}]}"#,
            "(DENIED no); ask its owner",
        );
        check(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
            "(MANIFEST_UNKNOWN); check repository",
        );
        check(
            400,
            r#"{"errors":[{"code":"NAME_INVALID"}]}"#,
            "use another repository",
        );
        check(413, "<html>", "raise the limit");
        check(429, "", "asked too often");
        check(500, "", "try again later");
        check(418, r#"{"errors":[]}"#, "answered 418");
        check(418, "{\"errors\":[{\"code\":\"\\u001b[2J\"}]}", "\\u{1b}[2J");
    }

    #[test]
    fn secrets_in_urls_are_not_shown() {
        let url = Url::parse("https://user:pass@cdn.example:8443/blob?sig=secret").unwrap();
        assert_eq!(place(&url), "https://cdn.example:8443/blob");
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>) {
            let _ = says_of(&body);
        }
    }
}
