//! CloudEvents 1.0 over HTTP: binary and structured content mode, one event a request, as core's messages.
//!
//! Both modes are read as the HTTP protocol binding says; batches are not taken. Decoding is bounded by the body's
//! bound, which the server keeps. Not here: storing (depot), what a topic wakes (door).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use suijuris_core::message::{self, Message};
use suijuris_core::time::Timestamp;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch";
const PREFIX: &str = "ce-";

/// Why a request is no event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Several events, or a format other than JSON.
    #[error("one event a request, in binary mode (ce- headers) or as {STRUCTURED}; `{0}` is not supported")]
    Format(String),
    /// Another version of the specification, or none given.
    #[error("specversion is {0}; events of CloudEvents 1.0 are taken")]
    Version(String),
    /// The document is no event.
    #[error("the event cannot be read: {0}")]
    Document(String),
    /// A header is not text, or its percent-encoding is wrong.
    #[error("header `{0}` is not text in printable ASCII with percent-encoding")]
    Header(String),
    /// The same attribute twice.
    #[error("attribute `{0}` is given twice")]
    Twice(String),
    /// Data and `data_base64`, or data that is no base64.
    #[error("the event's data cannot be read: {0}")]
    Data(&'static str),
    /// An attribute is missing or not allowed.
    #[error("{0}")]
    Message(#[from] message::Error),
}

impl Error {
    /// The HTTP status that fits.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Format(_) => 415,
            Self::Message(message::Error::TooLong { .. }) => 413,
            _ => 400,
        }
    }
}

/// Reads one event; `accepted` is when it arrived.
///
/// # Errors
/// [`Error`]; what comes back can be encoded.
pub fn read(headers: &HeaderMap, body: &[u8], accepted: Timestamp) -> Result<Message, Error> {
    let media_type = match headers.get(http::header::CONTENT_TYPE) {
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| Error::Header("content-type".to_owned()))?,
        ),
        None => None,
    };
    let essence = media_type.map(essence).unwrap_or_default();
    let (attributes, data) = if essence == STRUCTURED {
        structured(body)?
    } else if essence.starts_with(BATCH) || essence.starts_with("application/cloudevents") {
        return Err(Error::Format(essence));
    } else {
        (binary(headers, media_type)?, body.to_vec())
    };
    message(attributes, data, accepted)
}

/// Reads one event from its JSON document, as [`read`] does in structured mode.
///
/// # Errors
/// [`Error`]; what comes back can be encoded.
pub fn read_document(body: &[u8], accepted: Timestamp) -> Result<Message, Error> {
    let (attributes, data) = structured(body)?;
    message(attributes, data, accepted)
}

/// Type and subtype, lower case.
fn essence(media_type: &str) -> String {
    let end = media_type.find(';').unwrap_or(media_type.len());
    media_type
        .get(..end)
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn binary(headers: &HeaderMap, media_type: Option<&str>) -> Result<BTreeMap<String, String>, Error> {
    let mut attributes = BTreeMap::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        let wrong = || Error::Header(name.to_string());
        let text = percent_decode(value.to_str().map_err(|_| wrong())?).ok_or_else(wrong)?;
        if attributes.insert(attribute.to_owned(), text).is_some() {
            return Err(Error::Twice(attribute.to_owned()));
        }
    }
    if let Some(media_type) = media_type {
        attributes.insert("datacontenttype".to_owned(), media_type.to_owned());
    }
    Ok(attributes)
}

/// HTTP protocol binding 1.0.2, section 3.1.3.2: `%` and two hexadecimal digits; UTF-8 behind it.
fn percent_decode(text: &str) -> Option<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'%' {
            let byte = digit(behind.first())? << 4 | digit(behind.get(1))?;
            bytes.push(u8::try_from(byte).ok()?);
            rest = behind.get(2..)?;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Members of a JSON object as they stand, each once.
struct Members(BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event: a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if members.len() > 2 * message::MAX_EXTENSIONS + 16 {
                        return Err(serde::de::Error::custom("too many attributes"));
                    }
                    if members.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("`{name}` is given twice")));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

fn structured(body: &[u8]) -> Result<(BTreeMap<String, String>, Vec<u8>), Error> {
    let Members(mut members) =
        serde_json::from_slice(body).map_err(|error| Error::Document(error.to_string()))?;
    let (data, encoded) = (members.remove("data"), members.remove("data_base64"));
    let mut attributes = BTreeMap::new();
    for (name, value) in members {
        if let Some(text) = attribute(&name, value.get())? {
            attributes.insert(name, text);
        }
    }
    let data = match (data, encoded) {
        (Some(_), Some(_)) => return Err(Error::Data("it has both data and data_base64")),
        (None, None) => Vec::new(),
        (None, Some(encoded)) => {
            let text: String = serde_json::from_str(encoded.get())
                .map_err(|_| Error::Data("data_base64 is not a string"))?;
            STANDARD
                .decode(text)
                .map_err(|_| Error::Data("data_base64 is not base64"))?
        }
        (Some(data), None) => plain(data.get(), attributes.get("datacontenttype")),
    };
    Ok((attributes, data))
}

/// An attribute as text: strings, whole numbers and booleans as CloudEvents writes them; null is absence.
fn attribute(name: &str, json: &str) -> Result<Option<String>, Error> {
    let json: serde_json::Value =
        serde_json::from_str(json).map_err(|error| Error::Document(error.to_string()))?;
    match json {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(text) => Ok(Some(text)),
        serde_json::Value::Bool(value) => Ok(Some(value.to_string())),
        serde_json::Value::Number(number) if number.is_i64() || number.is_u64() => {
            Ok(Some(number.to_string()))
        }
        _ => Err(Error::Document(format!(
            "attribute `{name}` is not a string, whole number or boolean"
        ))),
    }
}

/// Data of a JSON document: itself where it is JSON, the text where it is a string of another type.
fn plain(json: &str, media_type: Option<&String>) -> Vec<u8> {
    let essence = media_type.map(|text| essence(text));
    let is_json = essence.is_none_or(|essence| essence.ends_with("/json") || essence.ends_with("+json"));
    match serde_json::from_str::<String>(json) {
        Ok(text) if !is_json => text.into_bytes(),
        _ => json.as_bytes().to_vec(),
    }
}

fn message(
    mut attributes: BTreeMap<String, String>,
    data: Vec<u8>,
    accepted: Timestamp,
) -> Result<Message, Error> {
    let version = attributes.remove("specversion");
    if version.as_deref() != Some("1.0") {
        return Err(Error::Version(version.unwrap_or_else(|| "missing".to_owned())));
    }
    let mut required = |name| attributes.remove(name).ok_or(message::Error::Missing(name));
    let (id, source, topic) = (required("id")?, required("source")?, required("type")?);
    let message = Message {
        v: message::VERSION,
        id,
        source,
        topic,
        subject: attributes.remove("subject"),
        time: attributes.remove("time"),
        datacontenttype: attributes.remove("datacontenttype"),
        dataschema: attributes.remove("dataschema"),
        extensions: attributes,
        data,
        accepted,
    };
    message.encode()?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn of(pairs: &[(&'static str, &str)], body: &str) -> Result<Message, Error> {
        read(&headers(pairs), body.as_bytes(), Timestamp(5))
    }

    const BASE: [(&str, &str); 4] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "7"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
    ];

    fn json(body: &str) -> Result<Message, Error> {
        of(
            &[("content-type", "application/cloudevents+json; charset=UTF-8")],
            body,
        )
    }

    #[test]
    fn both_modes_say_the_same() {
        let mut pairs = BASE.to_vec();
        pairs.extend([
            ("ce-subject", "Euro%20%E2%82%AC"),
            ("ce-priority", "5"),
            ("content-type", "text/plain"),
        ]);
        let binary = of(&pairs, "hello").unwrap();
        let structured = json(
            r#"{"specversion":"1.0","id":"7","source":"/shop","type":"order.placed","subject":"Euro €","priority":5,
                "datacontenttype":"text/plain","time":null,"data":"hello"}"#,
        );
        assert_eq!(structured.unwrap(), binary);
        assert_eq!(binary.subject.as_deref(), Some("Euro €"));
        assert_eq!(
            (binary.data.as_slice(), binary.accepted),
            (&b"hello"[..], Timestamp(5))
        );
    }

    #[test]
    fn json_data_stays_as_it_was_sent_and_base64_is_decoded() {
        let event = |data: &str| {
            let body = format!(r#"{{"specversion":"1.0","id":"7","source":"s","type":"t",{data}}}"#);
            json(&body).map(|message| message.data)
        };
        let number = r#"{"n": 12345678901234567890.1234567890}"#;
        assert_eq!(event(&format!(r#""data":{number}"#)).unwrap(), number.as_bytes());
        assert_eq!(event(r#""data":"x""#).unwrap(), br#""x""#);
        assert_eq!(event(r#""data_base64":"AQI=""#).unwrap(), [1, 2]);
        assert_eq!(event(r#""subject":"none""#).unwrap(), b"");
        assert!(matches!(
            event(r#""data":1,"data_base64":"""#),
            Err(Error::Data(_))
        ));
        assert!(matches!(event(r#""data_base64":"?""#), Err(Error::Data(_))));
    }

    #[test]
    fn what_is_no_event_is_refused_with_the_part_that_is_wrong() {
        let without = |gone: &str| {
            let pairs: Vec<_> = BASE.into_iter().filter(|(name, _)| *name != gone).collect();
            of(&pairs, "").unwrap_err().to_string()
        };
        assert!(without("ce-id").contains("`id`"), "{}", without("ce-id"));
        assert!(without("ce-type").contains("`type`"));
        assert!(without("ce-specversion").contains("specversion"));
        let with = |name, value| of(&[&BASE[..], &[(name, value)]].concat(), "").unwrap_err();
        assert!(matches!(with("ce-bad", "%zz"), Error::Header(_)));
        assert!(matches!(with("ce-id", "8"), Error::Twice(_)));
        assert!(matches!(
            with("ce-camel_case", "x"),
            Error::Message(message::Error::Attribute(_))
        ));
        assert_eq!(
            with("content-type", "application/cloudevents-batch+json").status(),
            415
        );
        for body in [
            "",
            "[]",
            "{",
            r#"{"id":"a","id":"b"}"#,
            r#"{"specversion":"1.0","id":{},"source":"s","type":"t"}"#,
        ] {
            assert_eq!(json(body).unwrap_err().status(), 400, "{body}");
        }
        let long = "x".repeat(message::MAX_BYTES);
        let error = of(&BASE, &long).unwrap_err();
        assert_eq!(error.status(), 413, "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in any::<Vec<u8>>(), value in "[ -~]{0,64}", structured in any::<bool>()) {
            let media_type = if structured { STRUCTURED } else { "text/plain" };
            let mut pairs = BASE.to_vec();
            pairs.extend([("content-type", media_type), ("ce-subject", value.as_str())]);
            if let Ok(message) = read(&headers(&pairs), &body, Timestamp(0)) {
                prop_assert!(message.encode().is_ok());
            }
        }
    }
}
