//! `[class]` of a bundle: what makes it a template.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::key::Keys;
use crate::time::Span;

/// Instances of a class at most, whatever it says.
pub const MAX_INSTANCES: u64 = 100_000_000;

/// Instances founded a second for one peer where the class does not say: a page opens few tenants.
pub const FOUNDINGS_PER_PEER: u32 = 5;

/// Instances founded a second in all where the class does not say.
pub const FOUNDINGS_PER_CLASS: u32 = 50;

/// Instances founded a second at most, whatever the class says.
pub const MAX_FOUNDINGS_PER_SECOND: u32 = 100_000;

/// Shortest time after which an instance may be archived.
pub const MIN_ARCHIVE_AFTER: Span = Span(60_000);

/// Longest time after which an instance may be archived: ten years.
pub const MAX_ARCHIVE_AFTER: Span = Span(315_360_000_000);

/// The part of a manifest that makes it a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Which keys there are.
    pub key: Keys,
    /// Where a key is looked for, in this order; the first that gives one decides.
    pub from: Vec<Source>,
    /// Instances at most, 1 to [`MAX_INSTANCES`].
    pub max_instances: u64,
    /// How long an instance sleeps before it is archived; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_after: Option<Span>,
    /// Whether instances are served to browsers under `/o/CLASS/KEY/`, all on one origin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paths: bool,
    /// Instances founded a second for one peer at most.
    pub per_peer: u32,
    /// Instances founded a second at most.
    pub per_class: u32,
}

/// Where a request or connection says which instance is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// The first label of the host: `KEY.CLASS.DOMAIN`.
    Host,
    /// The path: `/o/CLASS/KEY/…`.
    Path,
    /// A header of this name, lower case.
    Header(String),
    /// A claim of the caller's token, declared in `[callers.claims]`.
    Claim(String),
    /// The name that TLS asks for.
    Sni,
    /// The name in the certificate that TLS shows.
    ClientCert,
    /// The port that is connected to.
    Port,
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not a word of the list.
    #[error("it is one of host, path, header NAME, claim NAME, sni, client_cert, port")]
    Word,
    /// Not the name of a header.
    #[error("a header's name has lower-case letters, digits and `-`, as in header x-tenant")]
    Header,
    /// A header that means something else.
    #[error("the header `{0}` has a meaning of its own; for the host use host")]
    Taken(String),
    /// Not the name of a claim.
    #[error("a claim's name has lower-case letters, digits and `_`, a letter first, as in claim tenant")]
    Claim,
}

/// Headers that a proxy or the gate reads, rewrites or removes.
const TAKEN: [&str; 6] = [
    "host",
    "authorization",
    "connection",
    "cookie",
    "forwarded",
    "x-forwarded-for",
];

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text {
            "host" => return Ok(Self::Host),
            "path" => return Ok(Self::Path),
            "sni" => return Ok(Self::Sni),
            "client_cert" => return Ok(Self::ClientCert),
            "port" => return Ok(Self::Port),
            _ => {}
        }
        match text.split_once(' ') {
            Some(("header", name)) => {
                let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if name.is_empty() || name.len() > 128 || !name.bytes().all(letter) {
                    Err(SourceError::Header)
                } else if TAKEN.contains(&name) {
                    Err(SourceError::Taken(name.to_owned()))
                } else {
                    Ok(Self::Header(name.to_owned()))
                }
            }
            Some(("claim", name)) => match crate::memory::Name::new(name) {
                Ok(_) => Ok(Self::Claim(name.to_owned())),
                Err(_) => Err(SourceError::Claim),
            },
            _ => Err(SourceError::Word),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Claim(name) => write!(f, "claim {name}"),
            Self::Sni => f.write_str("sni"),
            Self::ClientCert => f.write_str("client_cert"),
            Self::Port => f.write_str("port"),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = SourceError;

    fn try_from(text: String) -> Result<Self, SourceError> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_they_are_read() {
        for text in [
            "host",
            "path",
            "header x-tenant",
            "claim tenant",
            "sni",
            "client_cert",
            "port",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "Host",
            "header",
            "header ",
            "header X-Tenant",
            "header host",
            "header a b",
            "claim",
            "claim Tenant",
            "cookie sid",
            "path ",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text:?}");
        }
    }
}
