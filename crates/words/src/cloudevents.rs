//! A message in the JSON of CloudEvents 1.0 (JSON event format, structured mode), as workloads and scripts see it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use suijuris_core::message::Message;

/// The event: its attributes, and the data as JSON where its media type says so, as text where it is text, else in
/// `data_base64`.
#[must_use]
pub fn to_json(message: &Message) -> Map<String, Value> {
    let mut event = Map::new();
    let mut put = |name: &str, value: &str| {
        event.insert(name.to_owned(), Value::from(value));
    };
    put("specversion", "1.0");
    put("id", &message.id);
    put("source", &message.source);
    put("type", &message.topic);
    let optional = [
        ("subject", &message.subject),
        ("time", &message.time),
        ("datacontenttype", &message.datacontenttype),
        ("dataschema", &message.dataschema),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            put(name, value);
        }
    }
    for (name, value) in &message.extensions {
        put(name, value);
    }
    if !message.data.is_empty() {
        let (name, value) = data(message);
        event.insert(name.to_owned(), value);
    }
    event
}

/// The event with its `key`, and the instant at which it was `accepted`: as a message waits in an inbox.
#[must_use]
pub fn waiting(message: &Message) -> Value {
    let mut event = to_json(message);
    event.insert("key".to_owned(), message.key().0.hex().into());
    event.insert("accepted".to_owned(), message.accepted.to_string().into());
    event.into()
}

fn data(message: &Message) -> (&'static str, Value) {
    let media = message.datacontenttype.as_deref().unwrap_or("application/json");
    let media = media
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let text = std::str::from_utf8(&message.data).ok();
    if media == "application/json" || media.ends_with("+json") {
        if let Ok(value) = serde_json::from_slice(&message.data) {
            return ("data", value);
        }
    } else if let Some(text) = text.filter(|_| media.starts_with("text/")) {
        return ("data", Value::from(text));
    }
    ("data_base64", Value::from(STANDARD.encode(&message.data)))
}

#[cfg(test)]
mod tests {
    use suijuris_core::message::VERSION;
    use suijuris_core::time::Timestamp;

    use super::*;

    fn check(media: Option<&str>, data: &[u8], name: &str, expected: &Value) {
        let message = Message {
            v: VERSION,
            id: "1".to_owned(),
            source: "/shop".to_owned(),
            topic: "order.placed".to_owned(),
            subject: None,
            time: None,
            datacontenttype: media.map(str::to_owned),
            dataschema: None,
            extensions: [("traceid".to_owned(), "t".to_owned())].into(),
            data: data.to_vec(),
            accepted: Timestamp(0),
        };
        let event = to_json(&message);
        assert_eq!(event.get(name), Some(expected));
        assert_eq!(event.get("traceid"), Some(&Value::from("t")));
        assert_eq!(event.get("specversion"), Some(&Value::from("1.0")));
    }

    #[test]
    fn data_stands_in_the_form_that_its_media_type_allows() {
        check(None, br#"{"a":1}"#, "data", &serde_json::json!({"a": 1}));
        check(
            Some("application/vnd.x+json"),
            b"[1]",
            "data",
            &serde_json::json!([1]),
        );
        check(
            Some("text/plain; charset=utf-8"),
            "grüß".as_bytes(),
            "data",
            &Value::from("grüß"),
        );
        check(
            Some("application/octet-stream"),
            &[0xff, 0],
            "data_base64",
            &Value::from("/wA="),
        );
        check(
            Some("application/json"),
            b"{",
            "data_base64",
            &Value::from("ew=="),
        );
    }
}
