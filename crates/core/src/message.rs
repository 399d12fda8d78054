//! A message to an object: a CloudEvents 1.0 event as it waits in an inbox.
//!
//! Not here: HTTP bindings (door), where it is kept (depot), delivery (the agent socket).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::Digest;
use crate::time::Timestamp;

/// Format version of messages.
pub const VERSION: u32 = 1;

/// Size of an encoded message at most, bytes.
pub const MAX_BYTES: usize = 256 << 10;

/// Longest attribute (id, source, type, subject, …), bytes.
pub const MAX_ATTRIBUTE: usize = 1_024;

/// Extension attributes at most.
pub const MAX_EXTENSIONS: usize = 32;

/// One message. Two with the same `source` and `id` are the same message (CloudEvents 1.0, section 3.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// [`VERSION`].
    pub v: u32,
    /// Identifies the message within its source.
    pub id: String,
    /// Where it comes from: a URI reference.
    pub source: String,
    /// Its topic: what a bundle's `messages.topics` names.
    #[serde(rename = "type")]
    pub topic: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it came about, RFC 3339, as its source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Media type of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// Schema of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataschema: Option<String>,
    /// Extension attributes, lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// The data.
    #[serde(default, with = "serde_bytes")]
    pub data: Vec<u8>,
    /// When it was accepted.
    pub accepted: Timestamp,
}

/// Why something is no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not the canonical bytes of one.
    #[error("the message cannot be read: {0}")]
    Encoding(String),
    /// Of a later format.
    #[error("the message has version {0}, this program reads version {VERSION}; use a newer suijuris")]
    Version(u32),
    /// A required attribute is empty.
    #[error("the message has no `{0}`; CloudEvents 1.0 requires id, source and type")]
    Missing(&'static str),
    /// Too large.
    #[error("the message has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Length found, bytes.
        len: usize,
        /// Length allowed, bytes.
        max: usize,
    },
    /// An attribute is too long, or there are too many, or its name is not lower-case letters and digits.
    #[error(
        "the message's attribute `{0}` is not allowed: names of 1 to 20 lower-case letters and digits, values of at most {MAX_ATTRIBUTE} bytes without control characters, at most {MAX_EXTENSIONS} extensions"
    )]
    Attribute(String),
}

/// What makes two messages the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey(pub Digest);

impl Message {
    /// Digest over source and id, by which duplicates are known.
    #[must_use]
    pub fn key(&self) -> MessageKey {
        let length = u64::try_from(self.source.len()).unwrap_or(u64::MAX).to_be_bytes();
        MessageKey(Digest::of_parts(&[
            &length,
            self.source.as_bytes(),
            self.id.as_bytes(),
        ]))
    }

    /// The canonical bytes of a message that is allowed.
    ///
    /// # Errors
    /// [`Error`] says which part is not allowed.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let bytes = codec::encode(self).map_err(|error| Error::Encoding(error.to_string()))?;
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong {
                len: bytes.len(),
                max: MAX_BYTES,
            });
        }
        Ok(bytes)
    }

    /// Reads and checks a message.
    ///
    /// # Errors
    /// [`Error`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let message: Self =
            codec::decode(bytes, MAX_BYTES).map_err(|error| Error::Encoding(error.to_string()))?;
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), Error> {
        if self.v != VERSION {
            return Err(Error::Version(self.v));
        }
        for (name, value) in [("id", &self.id), ("source", &self.source), ("type", &self.topic)] {
            if value.is_empty() {
                return Err(Error::Missing(name));
            }
            attribute(name, value)?;
        }
        let optional = [
            ("subject", &self.subject),
            ("time", &self.time),
            ("datacontenttype", &self.datacontenttype),
            ("dataschema", &self.dataschema),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                attribute(name, value)?;
            }
        }
        if self.extensions.len() > MAX_EXTENSIONS {
            return Err(Error::Attribute("extensions".to_owned()));
        }
        self.extensions
            .iter()
            .try_for_each(|(name, value)| attribute(name, value))
    }
}

fn attribute(name: &str, value: &str) -> Result<(), Error> {
    let named =
        (1..=20).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let valued = value.len() <= MAX_ATTRIBUTE && !value.chars().any(char::is_control);
    if named && valued {
        Ok(())
    } else {
        let shown: String = name.chars().take(40).collect();
        Err(Error::Attribute(shown))
    }
}
