//! The documents of etcd's JSON gateway (`rpc.proto` of etcd 3.4 by the JSON mapping of protocol buffers): 64-bit numbers
//! are texts, bytes are base64, what has its default is left out, and unknown names are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Failure;

/// A 64-bit number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Int(pub(super) i64);

impl From<i64> for Int {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(i64),
        }
        match Either::deserialize(deserializer)? {
            Either::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
            Either::Number(number) => Ok(Self(number)),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn bytes(text: &str) -> Result<Vec<u8>, Failure> {
    STANDARD
        .decode(text)
        .map_err(|error| Failure::Garbage(error.to_string()))
}

/// The end of the range of all keys that begin with `prefix`: its last byte, which is text, one higher.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// By what answers are ordered, upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::etcd) enum Sort {
    /// The key.
    Key,
    /// When it was made.
    Create,
}

/// What is asked for: one key, or all from it to an end.
#[derive(Debug, Clone, Default)]
pub(in crate::etcd) struct Range {
    key: String,
    end: Option<Vec<u8>>,
    sort: Option<Sort>,
    limit: i64,
    keys_only: bool,
    count_only: bool,
}

impl Range {
    /// One key.
    pub(in crate::etcd) fn of(key: String) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// All keys that begin so.
    pub(in crate::etcd) fn under(prefix: String) -> Self {
        let end = Some(end_of(&prefix));
        Self {
            key: prefix,
            end,
            ..Self::default()
        }
    }

    /// From one key up to another, which is left out.
    pub(in crate::etcd) fn between(from: String, to: &str) -> Self {
        Self {
            key: from,
            end: Some(to.as_bytes().to_vec()),
            ..Self::default()
        }
    }

    pub(in crate::etcd) fn sorted(self, sort: Sort) -> Self {
        Self {
            sort: Some(sort),
            ..self
        }
    }

    /// At most so many; 0 for all.
    pub(in crate::etcd) fn limited(self, limit: i64) -> Self {
        Self { limit, ..self }
    }

    pub(in crate::etcd) fn keys_only(self) -> Self {
        Self {
            keys_only: true,
            ..self
        }
    }

    pub(in crate::etcd) fn count_only(self) -> Self {
        Self {
            count_only: true,
            ..self
        }
    }

    pub(super) fn body(&self) -> RangeBody {
        RangeBody {
            key: base64(self.key.as_bytes()),
            range_end: self.end.as_deref().map(base64),
            limit: (self.limit != 0).then_some(self.limit.into()),
            sort_order: self.sort.map(|_| "ASCEND"),
            sort_target: self.sort.map(|sort| match sort {
                Sort::Key => "KEY",
                Sort::Create => "CREATE",
            }),
            keys_only: self.keys_only,
            count_only: self.count_only,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct RangeBody {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Int>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_order: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort_target: Option<&'static str>,
    keys_only: bool,
    count_only: bool,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub(in crate::etcd) enum Op {
    /// Puts a value, under a lease where one is named.
    Put(String, Vec<u8>, Option<i64>),
    /// Deletes a key.
    Delete(String),
    /// Reads a key.
    Get(String),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "these are the names of the documents")]
pub(super) enum OpBody {
    RequestPut(PutBody),
    RequestDeleteRange(KeyBody),
    RequestRange(KeyBody),
}

#[derive(Debug, Serialize)]
pub(super) struct KeyBody {
    key: String,
}

#[derive(Debug, Serialize)]
pub(super) struct PutBody {
    key: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<Int>,
}

impl PutBody {
    pub(super) fn new(key: &str, value: &[u8], lease: Option<i64>) -> Self {
        Self {
            key: base64(key.as_bytes()),
            value: base64(value),
            lease: lease.map(Int),
        }
    }
}

impl From<&Op> for OpBody {
    fn from(op: &Op) -> Self {
        let named = |key: &str| KeyBody {
            key: base64(key.as_bytes()),
        };
        match op {
            Op::Put(key, value, lease) => Self::RequestPut(PutBody::new(key, value, *lease)),
            Op::Delete(key) => Self::RequestDeleteRange(named(key)),
            Op::Get(key) => Self::RequestRange(named(key)),
        }
    }
}

/// A condition of a transaction.
#[derive(Debug, Clone)]
pub(in crate::etcd) enum Compare {
    /// The key was last changed by this revision; 0: it is not there.
    Revision(String, i64),
    /// The key is not there.
    Absent(String),
}

#[derive(Debug, Serialize)]
pub(super) struct CompareBody {
    key: String,
    result: &'static str,
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<Int>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Int>,
}

impl From<&Compare> for CompareBody {
    fn from(compare: &Compare) -> Self {
        let (key, target, mod_revision, version) = match compare {
            Compare::Revision(key, revision) => (key, "MOD", Some(Int(*revision)), None),
            Compare::Absent(key) => (key, "VERSION", None, Some(Int(0))),
        };
        Self {
            key: base64(key.as_bytes()),
            result: "EQUAL",
            target,
            mod_revision,
            version,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct TxnBody {
    compare: Vec<CompareBody>,
    success: Vec<OpBody>,
    failure: Vec<OpBody>,
}

impl TxnBody {
    pub(super) fn new(when: &[Compare], then: &[Op], otherwise: &[Op]) -> Self {
        Self {
            compare: when.iter().map(CompareBody::from).collect(),
            success: then.iter().map(OpBody::from).collect(),
            failure: otherwise.iter().map(OpBody::from).collect(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Header {
    #[serde(default)]
    revision: Int,
}

#[derive(Debug, Deserialize)]
struct KeyValueBody {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    create_revision: Int,
    #[serde(default)]
    mod_revision: Int,
    #[serde(default)]
    lease: Int,
}

/// A key and what stands under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::etcd) struct KeyValue {
    /// The key.
    pub(in crate::etcd) key: Vec<u8>,
    /// Its value; empty where only keys were asked for.
    pub(in crate::etcd) value: Vec<u8>,
    /// The revision that made it.
    pub(in crate::etcd) created: i64,
    /// The revision that last changed it.
    pub(in crate::etcd) changed: i64,
    /// The lease it is under; 0 for none.
    pub(in crate::etcd) lease: i64,
}

impl TryFrom<KeyValueBody> for KeyValue {
    type Error = Failure;

    fn try_from(body: KeyValueBody) -> Result<Self, Failure> {
        Ok(Self {
            key: bytes(&body.key)?,
            value: bytes(&body.value)?,
            created: body.create_revision.0,
            changed: body.mod_revision.0,
            lease: body.lease.0,
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct GotBody {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValueBody>,
    #[serde(default)]
    count: Int,
}

/// What was found.
#[derive(Debug)]
pub(in crate::etcd) struct Got {
    /// The revision at which this was true.
    pub(in crate::etcd) revision: i64,
    /// How many there are, whatever the limit.
    pub(in crate::etcd) count: i64,
    /// Keys and values.
    pub(in crate::etcd) found: Vec<KeyValue>,
}

impl TryFrom<GotBody> for Got {
    type Error = Failure;

    fn try_from(body: GotBody) -> Result<Self, Failure> {
        Ok(Self {
            revision: body.header.revision.0,
            count: body.count.0,
            found: body
                .kvs
                .into_iter()
                .map(KeyValue::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Debug, Deserialize)]
struct ResponseBody {
    #[serde(default)]
    response_range: Option<GotBody>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DoneBody {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<ResponseBody>,
}

/// What became of a transaction.
#[derive(Debug)]
pub(in crate::etcd) struct Done {
    /// The conditions held.
    pub(in crate::etcd) succeeded: bool,
    /// The revision that it made, or at which it was judged.
    pub(in crate::etcd) revision: i64,
    /// What its reads found.
    pub(in crate::etcd) found: Vec<KeyValue>,
}

impl TryFrom<DoneBody> for Done {
    type Error = Failure;

    fn try_from(body: DoneBody) -> Result<Self, Failure> {
        let ranges = body
            .responses
            .into_iter()
            .filter_map(|response| response.response_range);
        let found = ranges.flat_map(|range| range.kvs).map(KeyValue::try_from);
        Ok(Self {
            succeeded: body.succeeded,
            revision: body.header.revision.0,
            found: found.collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct GrantBody {
    #[serde(rename = "TTL")]
    pub(super) seconds: Int,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LeaseBody {
    #[serde(rename = "ID", default)]
    pub(super) id: Int,
    #[serde(rename = "TTL", default, skip_serializing)]
    pub(super) seconds: Int,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchBody {
    create_request: WatchCreate,
}

#[derive(Debug, Serialize)]
struct WatchCreate {
    key: String,
    range_end: String,
    start_revision: Int,
    filters: [&'static str; 1],
}

impl WatchBody {
    pub(super) fn new(prefix: &str, revision: i64) -> Self {
        let create_request = WatchCreate {
            key: base64(prefix.as_bytes()),
            range_end: base64(&end_of(prefix)),
            start_revision: revision.into(),
            filters: ["NODELETE"],
        };
        Self { create_request }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WatchedBody {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<serde::de::IgnoredAny>,
}

impl WatchedBody {
    pub(super) fn is_news(&self) -> bool {
        self.canceled || !self.events.is_empty()
    }
}

/// One document of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Told<T> {
    #[serde(default = "none")]
    result: Option<T>,
    #[serde(default)]
    error: Option<ErrorBody>,
}

const fn none<T>() -> Option<T> {
    None
}

impl<T> Told<T> {
    pub(super) fn result(self) -> Result<T, Failure> {
        match (self.result, self.error) {
            (_, Some(error)) => Err(error.into()),
            (Some(result), None) => Ok(result),
            (None, None) => Err(Failure::Garbage("neither a result nor an error".to_owned())),
        }
    }
}

/// etcd says no; streams say `grpc_code` and `http_code` instead of `code`.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    #[serde(default, alias = "grpc_code")]
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let message = if body.message.is_empty() {
            body.error
        } else {
            body.message
        };
        Self::Refused {
            code: body.code,
            message,
        }
    }
}

#[derive(Serialize)]
pub(super) struct LoginBody<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

#[derive(Deserialize)]
pub(super) struct TokenBody {
    pub(super) token: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ignored {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_those_of_the_gateway() {
        let when = [
            Compare::Revision("k".to_owned(), 5),
            Compare::Absent("l".to_owned()),
        ];
        let then = [
            Op::Put("k".to_owned(), b"v".to_vec(), Some(7)),
            Op::Delete("l".to_owned()),
        ];
        let body = TxnBody::new(&when, &then, &[Op::Get("k".to_owned())]);
        let expected = json!({
            "compare": [
                {"key": "aw==", "result": "EQUAL", "target": "MOD", "mod_revision": "5"},
                {"key": "bA==", "result": "EQUAL", "target": "VERSION", "version": "0"},
            ],
            "success": [
                {"request_put": {"key": "aw==", "value": "dg==", "lease": "7"}},
                {"request_delete_range": {"key": "bA=="}},
            ],
            "failure": [{"request_range": {"key": "aw=="}}],
        });
        assert_eq!(serde_json::to_value(body).unwrap(), expected);
        let range = Range::under("p/".to_owned())
            .sorted(Sort::Create)
            .limited(2)
            .keys_only();
        let body = serde_json::to_value(range.body()).unwrap();
        assert_eq!(body["range_end"], "cDA=");
        assert_eq!(
            (&body["limit"], &body["sort_target"]),
            (&json!("2"), &json!("CREATE"))
        );
    }

    #[test]
    fn answers_are_read_with_what_they_leave_out() {
        let text = r#"{"header":{"revision":"9"},"responses":[{"response_range":{"header":{},"kvs":[{"key":"aw==","mod_revision":"4"}]}}]}"#;
        let done = Done::try_from(serde_json::from_str::<DoneBody>(text).unwrap()).unwrap();
        assert!(!done.succeeded);
        assert_eq!(done.revision, 9);
        assert_eq!(
            (done.found[0].key.as_slice(), done.found[0].changed),
            (&b"k"[..], 4)
        );
        let wrong = serde_json::from_str::<GotBody>(r#"{"kvs":[{"key":"?"}]}"#).unwrap();
        assert!(matches!(Got::try_from(wrong), Err(Failure::Garbage(_))));
        let told: Told<LeaseBody> =
            serde_json::from_str(r#"{"error":{"grpc_code":16,"message":"no"}}"#).unwrap();
        assert!(matches!(told.result(), Err(Failure::Refused { code: 16, .. })));
    }
}
