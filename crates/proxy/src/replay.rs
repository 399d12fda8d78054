//! `fly-replay`: an app's answer that says who is to be asked instead. Read here, from a header field or from JSON; pure.
//!
//! A reader is lenient where Fly's own examples differ: keys part at semicolons, and at commas before a known key.

pub(crate) mod cache;
pub(crate) mod state;

use std::time::Duration;

use serde::Deserialize;

/// The media type of the JSON form.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.fly.replay+json";
/// Bytes of the JSON form at most.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Replays of one request at most.
pub(crate) const MAX_REPLAYS: u32 = 10;
/// Bytes of `state` at most: it becomes a header field.
const MAX_STATE: usize = 4096;
/// Fields that a transform sets or removes, at most.
const MAX_FIELDS: usize = 64;
/// Regions at most.
const MAX_REGIONS: usize = 32;

/// Who is to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) regions: Vec<String>,
    pub(crate) instance: Option<String>,
    pub(crate) prefer_instance: Option<String>,
    pub(crate) app: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) elsewhere: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) transform: Option<Transform>,
    pub(crate) cache: Option<Cache>,
}

/// Where a replay goes that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Back to the machine that answered.
    ForceSelf,
    /// Back there if it can be, else to others of its app.
    PreferSelf,
}

/// What is changed of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Transform {
    pub(crate) path: Option<String>,
    pub(crate) delete: Vec<String>,
    pub(crate) set: Vec<(String, String)>,
}

/// What is remembered of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cache {
    /// A path's beginning, perhaps behind a host.
    pub(crate) prefix: String,
    pub(crate) ttl_s: u64,
    pub(crate) invalidate: bool,
    pub(crate) allow_bypass: bool,
}

/// The answer says nothing that can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadReplay(pub(crate) &'static str);

const KEYS: [&str; 8] = [
    "region",
    "instance",
    "prefer_instance",
    "app",
    "state",
    "elsewhere",
    "timeout",
    "fallback",
];

/// Reads the header's form.
pub(crate) fn header(text: &str) -> Result<Replay, BadReplay> {
    let mut replay = Replay::default();
    let mut any = false;
    for (key, value) in pairs(text)? {
        any |= replay.set(&key, &value)?;
    }
    if any {
        replay.checked()
    } else {
        Err(BadReplay("it has none of the keys that fly-replay has"))
    }
}

/// `key=value` parts; values may be quoted.
fn pairs(text: &str) -> Result<Vec<(String, String)>, BadReplay> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for (at, letter) in text.char_indices() {
        let rest = text.get(at + 1..).unwrap_or_default().trim_start();
        let begins_key = || {
            KEYS.iter()
                .any(|key| rest.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
        };
        let parts_here = !quoted && (letter == ';' || (letter == ',' && begins_key()));
        quoted ^= letter == '"';
        match parts.last_mut() {
            Some(part) if !parts_here => part.push(letter),
            _ => parts.push(String::new()),
        }
    }
    if quoted {
        return Err(BadReplay("a quoted value does not end"));
    }
    let pair = |part: &String| {
        let (key, value) = part.split_once('=')?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some((key.trim().to_ascii_lowercase(), bare.unwrap_or(value).to_owned()))
    };
    let filled = parts.iter().filter(|part| !part.trim().is_empty());
    filled
        .map(|part| pair(part).ok_or(BadReplay("a part of it is not key=value")))
        .collect()
}

impl Replay {
    /// Whether the key is known.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, BadReplay> {
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "region" => self.regions = words(value),
            "instance" => self.instance = text(),
            "prefer_instance" => self.prefer_instance = text(),
            "app" => self.app = text(),
            "state" => self.state = Some(value.to_owned()),
            "elsewhere" => self.elsewhere = value == "true",
            "timeout" => {
                self.timeout =
                    Some(duration(value).ok_or(BadReplay("timeout is a duration, as 10s or 800ms"))?);
            }
            "fallback" => self.fallback = Some(fallback(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn checked(self) -> Result<Self, BadReplay> {
        let plain = |text: &String| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let state = self.state.as_ref();
        if state.is_some_and(|state| state.len() > MAX_STATE || !plain(state)) {
            return Err(BadReplay("state is 4096 bytes of visible ASCII at most"));
        }
        if self.regions.len() > MAX_REGIONS {
            return Err(BadReplay("it names more than 32 regions"));
        }
        if let Some(transform) = &self.transform
            && transform.delete.len() + transform.set.len() > MAX_FIELDS
        {
            return Err(BadReplay("a transform changes more than 64 fields"));
        }
        Ok(self)
    }

    /// Whether what it says may be remembered.
    pub(crate) fn is_cacheable(&self) -> bool {
        self.state.is_none() && self.transform.is_none() && self.timeout.is_none() && self.fallback.is_none()
    }
}

fn words(value: &str) -> Vec<String> {
    let word = |word: &str| word.trim().to_ascii_lowercase();
    value
        .split(',')
        .map(word)
        .filter(|word| !word.is_empty())
        .collect()
}

fn fallback(value: &str) -> Result<Fallback, BadReplay> {
    match value {
        "force_self" => Ok(Fallback::ForceSelf),
        "prefer_self" => Ok(Fallback::PreferSelf),
        _ => Err(BadReplay("fallback is force_self or prefer_self")),
    }
}

/// A Go duration, positive and of an hour at most.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const MOST_MS: f64 = 3_600_000.0;
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        let scale = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" => 0.001,
            "ns" => 0.000_001,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    (total > 0.0 && total <= MOST_MS).then(|| Duration::from_secs_f64(total / 1_000.0))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    region: Option<OneOrMany>,
    instance: Option<String>,
    prefer_instance: Option<String>,
    app: Option<String>,
    state: Option<String>,
    elsewhere: Option<bool>,
    timeout: Option<String>,
    fallback: Option<String>,
    transform: Option<TransformDocument>,
    cache: Option<CacheDocument>,
    allow_bypass: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TransformDocument {
    path: Option<String>,
    delete_headers: Vec<String>,
    set_headers: Vec<SetHeader>,
}

#[derive(Deserialize)]
struct SetHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheDocument {
    prefix: Option<String>,
    ttl: Option<serde_json::Value>,
    invalidate: Option<bool>,
    allow_bypass: Option<bool>,
}

/// Reads the JSON form.
pub(crate) fn json(body: &[u8]) -> Result<Replay, BadReplay> {
    let read = serde_json::from_slice(body).map(|read: serde_json::Map<_, _>| read.into());
    let read: Document = read
        .and_then(serde_json::from_value::<Document>)
        .map_err(|_| BadReplay("its body is not the JSON of a replay"))?;
    let mut replay = Replay {
        regions: match read.region {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => words(&text),
            Some(OneOrMany::Many(list)) => words(&list.join(",")),
        },
        instance: read.instance.filter(|text| !text.is_empty()),
        prefer_instance: read.prefer_instance.filter(|text| !text.is_empty()),
        app: read.app.filter(|text| !text.is_empty()),
        state: read.state,
        elsewhere: read.elsewhere.unwrap_or_default(),
        fallback: read.fallback.as_deref().map(fallback).transpose()?,
        transform: read.transform.map(|transform| Transform {
            path: transform.path,
            delete: transform.delete_headers,
            set: transform
                .set_headers
                .into_iter()
                .map(|header| (header.name, header.value))
                .collect(),
        }),
        cache: read.cache.map(|cache| Cache {
            prefix: cache.prefix.unwrap_or_default(),
            ttl_s: cache.ttl.as_ref().and_then(seconds).unwrap_or_default(),
            invalidate: cache.invalidate.unwrap_or_default(),
            allow_bypass: cache.allow_bypass.or(read.allow_bypass).unwrap_or_default(),
        }),
        timeout: None,
    };
    if let Some(timeout) = read.timeout {
        replay.set("timeout", &timeout)?;
    }
    replay.checked()
}

/// Seconds as a number, or a duration.
fn seconds(value: &serde_json::Value) -> Option<u64> {
    let text = || Some(duration(value.as_str()?)?.as_secs());
    value.as_u64().or_else(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_key_of_the_header() {
        let read = header(
            "region=\"iad,us, any\"; instance=abc;prefer_instance=def;app=shop;state=a=b;elsewhere=true;timeout=800ms;fallback=force_self",
        );
        let all = Replay {
            regions: ["iad", "us", "any"].map(str::to_owned).to_vec(),
            instance: Some("abc".to_owned()),
            prefer_instance: Some("def".to_owned()),
            app: Some("shop".to_owned()),
            state: Some("a=b".to_owned()),
            elsewhere: true,
            timeout: Some(Duration::from_millis(800)),
            fallback: Some(Fallback::ForceSelf),
            transform: None,
            cache: None,
        };
        assert_eq!(read, Ok(all));
        let lenient = header("app=shop,instance=abc, region=iad,lhr;unknown=x").unwrap();
        assert_eq!(lenient.app.as_deref(), Some("shop"));
        assert_eq!(lenient.instance.as_deref(), Some("abc"));
        assert_eq!(lenient.regions, ["iad", "lhr"]);
        assert_eq!(
            header("state=\"a;b,app=c\"").unwrap().state.as_deref(),
            Some("a;b,app=c")
        );
    }

    #[test]
    fn what_cannot_be_followed() {
        for text in [
            "",
            "nonsense",
            "unknown=x",
            "state=\"a",
            "timeout=soon",
            "timeout=-1s",
            "fallback=maybe",
            "timeout=2h",
        ] {
            assert!(header(text).is_err(), "{text}");
        }
        assert!(header(&format!("state={}", "x".repeat(5000))).is_err());
        for text in [
            "",
            "[]",
            "{\"region\": 7}",
            "{\"fallback\": \"x\"}",
            "{\"timeout\": \"x\"}",
        ] {
            assert!(json(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn every_key_of_the_json() {
        let read = json(
            br#"{"region": "iad,any", "app": "shop", "state": "s", "elsewhere": true, "timeout": "1m0s", "fallback": "prefer_self",
            "transform": {"path": "/x", "delete_headers": ["a"], "set_headers": [{"name": "b", "value": "c"}]},
            "cache": {"prefix": "/u/*", "ttl": 60, "invalidate": false}, "allow_bypass": true}"#,
        )
        .unwrap();
        assert_eq!(read.timeout, Some(Duration::from_secs(60)));
        let transform = read.transform.unwrap();
        assert_eq!(transform.path.as_deref(), Some("/x"));
        assert_eq!(
            (transform.delete, transform.set),
            (vec!["a".to_owned()], vec![("b".to_owned(), "c".to_owned())])
        );
        let cache = read.cache.unwrap();
        assert!(cache.allow_bypass && !cache.invalidate && cache.ttl_s == 60 && cache.prefix == "/u/*");
        assert_eq!(
            json(br#"{"region": ["iad", "lhr"], "instance": null}"#)
                .unwrap()
                .regions,
            ["iad", "lhr"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-z=;,\" 0-9]{0,60}") {
            let _ = header(&text);
            let _ = json(text.as_bytes());
            let _ = duration(&text);
        }
    }
}
