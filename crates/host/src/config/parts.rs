//! The parts of a machine's config, each with its tolerances and its check.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Span, is_inner_path, words};

/// Memory of a shared processor at most, MiB.
const SHARED_MAX_MB: u64 = 2_048;
/// Memory of a performance processor at least and at most, MiB.
const PERFORMANCE_MB: (u64, u64) = (2_048, 8_192);
/// Memory comes in steps of this, MiB.
const STEP_MB: u64 = 256;
/// Longest content of a file, base64.
const MAX_FILE: usize = 1 << 20;

/// A list, or one thing in place of it.
pub(super) fn one_or_many<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    let list = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    let parsed: Result<Vec<T>, _> = list.into_iter().map(serde_json::from_value).collect();
    parsed.map(Some).map_err(D::Error::custom)
}

/// A map of texts, in which numbers and booleans may stand for their texts.
pub(super) fn scalars<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let map = Option::<BTreeMap<String, Value>>::deserialize(deserializer)?;
    let Some(map) = map else { return Ok(None) };
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Bool(value) => Ok((name, value.to_string())),
        Value::Number(value) => Ok((name, value.to_string())),
        _ => Err(D::Error::custom("values are texts")),
    };
    map.into_iter().map(text).collect::<Result<_, _>>().map(Some)
}

/// A command: a list of words, or one text that is split as a shell splits it.
fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Words(Vec<String>),
        Text(String),
    }
    let form = Option::<Form>::deserialize(deserializer)
        .map_err(|_| D::Error::custom("a command is a list of texts, or one text"))?;
    match form {
        None => Ok(None),
        Some(Form::Words(words)) => Ok(Some(words)),
        Some(Form::Text(text)) => words::split(&text).map(Some).map_err(D::Error::custom),
    }
}

/// The shape of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Guest {
    /// `shared` or `performance`.
    pub(crate) cpu_kind: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) max_memory_mb: Option<u64>,
    pub(crate) kernel_args: Option<Vec<String>>,
    pub(crate) host_dedication_id: Option<String>,
    pub(crate) persist_rootfs: Option<String>,
    pub(crate) gpu_kind: Option<String>,
    pub(crate) gpus: Option<u32>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            cpu_kind: "shared".to_owned(),
            cpus: 1,
            memory_mb: STEP_MB,
            max_memory_mb: None,
            kernel_args: None,
            host_dedication_id: None,
            persist_rootfs: None,
            gpu_kind: None,
            gpus: None,
        }
    }
}

impl Guest {
    /// The shape that `guest` or `size` asks for.
    pub(super) fn of(guest: Option<Self>, size: Option<&str>) -> Result<Self, String> {
        let guest = match (guest, size) {
            (Some(_), Some(_)) => {
                return Err("config.guest and config.size exclude each other: leave size out".to_owned());
            }
            (guest, None) => guest.unwrap_or_default(),
            (None, Some(size)) => Self::preset(size).ok_or_else(|| {
                format!("config.size {size:?} is no size: as shared-cpu-1x, shared-cpu-2x, performance-1x")
            })?,
        };
        guest.check()
    }

    fn preset(size: &str) -> Option<Self> {
        let (kind, each, cpus) = if let Some(cpus) = size.strip_prefix("shared-cpu-") {
            ("shared", STEP_MB, cpus)
        } else {
            (
                "performance",
                PERFORMANCE_MB.0,
                size.strip_prefix("performance-")?,
            )
        };
        let cpus: u32 = cpus.strip_suffix('x')?.parse().ok()?;
        Some(Self {
            cpu_kind: kind.to_owned(),
            cpus,
            memory_mb: each.saturating_mul(cpus.into()),
            ..Self::default()
        })
    }

    fn check(self) -> Result<Self, String> {
        if self.gpu_kind.is_some() || self.gpus.is_some_and(|gpus| gpus > 0) {
            return Err("config.guest: there are no gpus here; leave gpu_kind and gpus out".to_owned());
        }
        if ![1, 2, 4, 6, 8, 16].contains(&self.cpus) {
            return Err("config.guest.cpus is 1, 2, 4, 6, 8 or 16".to_owned());
        }
        if self.memory_mb == 0 || !self.memory_mb.is_multiple_of(STEP_MB) {
            return Err(format!("config.guest.memory_mb is a multiple of {STEP_MB}"));
        }
        let cpus = u64::from(self.cpus);
        let (least, most) = match self.cpu_kind.as_str() {
            "shared" => (STEP_MB, SHARED_MAX_MB * cpus),
            "performance" => (PERFORMANCE_MB.0 * cpus, PERFORMANCE_MB.1 * cpus),
            _ => return Err("config.guest.cpu_kind is shared or performance".to_owned()),
        };
        if !(least..=most).contains(&self.memory_mb) {
            return Err(format!(
                "config.guest.memory_mb is {least} to {most} with {} {} cpus",
                self.cpus, self.cpu_kind
            ));
        }
        Ok(self)
    }
}

/// What runs in place of the image's own command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Init {
    #[serde(deserialize_with = "command")]
    pub(crate) exec: Option<Vec<String>>,
    #[serde(deserialize_with = "command")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "command")]
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) tty: Option<bool>,
    pub(crate) swap_size_mb: Option<u64>,
    pub(crate) kernel_args: Option<Vec<String>>,
}

/// A volume in the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Mount {
    pub(crate) volume: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) encrypted: Option<bool>,
    pub(crate) size_gb: Option<u64>,
    pub(crate) extend_threshold_percent: Option<u64>,
    pub(crate) add_size_gb: Option<u64>,
    pub(crate) size_gb_limit: Option<u64>,
}

/// When a machine starts again by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RestartPolicy {
    No,
    #[default]
    OnFailure,
    Always,
}

/// Its policy, and how often at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Restart {
    #[serde(deserialize_with = "policy")]
    pub(crate) policy: Option<RestartPolicy>,
    pub(crate) max_retries: Option<u32>,
}

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RestartPolicy>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let policy = match text.as_str() {
        "no" => RestartPolicy::No,
        "on-failure" => RestartPolicy::OnFailure,
        "always" => RestartPolicy::Always,
        _ => return Err(D::Error::custom("restart.policy is no, on-failure or always")),
    };
    Ok(Some(policy))
}

/// How it is asked to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct StopConfig {
    pub(crate) signal: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub(crate) timeout: Option<Span>,
}

/// What of its root file system survives a stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum RootfsPersist {
    #[default]
    Never,
    Restart,
    Always,
}

/// Its root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Rootfs {
    pub(crate) persist: Option<RootfsPersist>,
    pub(crate) size_gb: Option<u64>,
}

/// A file that is written into a machine before it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct File {
    pub(crate) guest_path: String,
    /// Its content, base64.
    pub(crate) raw_value: Option<String>,
    /// The secret that is its content, base64.
    pub(crate) secret_name: Option<String>,
    pub(crate) image_config: Option<String>,
    pub(crate) mode: Option<u32>,
}

impl File {
    pub(super) fn check(&self) -> Result<(), String> {
        if !is_inner_path(&self.guest_path) {
            return Err("config.files: guest_path is absolute and has no `..`".to_owned());
        }
        let one = [&self.raw_value, &self.secret_name, &self.image_config];
        if one.into_iter().flatten().count() != 1 {
            return Err("config.files: give raw_value (base64) or secret_name".to_owned());
        }
        if self.image_config.is_some() {
            return Err("config.files: image_config is not supported; give raw_value (base64)".to_owned());
        }
        if let Some(raw) = &self.raw_value
            && (raw.len() > MAX_FILE || decode(raw).is_none())
        {
            return Err(format!(
                "config.files: raw_value is base64, {MAX_FILE} bytes at most"
            ));
        }
        Ok(())
    }
}

/// Bytes of base64.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// What happens to a machine that nobody uses. Written as `false`, `true` or `"suspend"`, as Fly does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Autostop {
    Off,
    Stop,
    Suspend,
}

impl Serialize for Autostop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Stop => serializer.serialize_bool(true),
            Self::Suspend => serializer.serialize_str("suspend"),
        }
    }
}

impl<'de> Deserialize<'de> for Autostop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::Stop),
            Value::String(text) => match text.as_str() {
                "off" => Ok(Self::Off),
                "stop" => Ok(Self::Stop),
                "suspend" => Ok(Self::Suspend),
                _ => Err(D::Error::custom("autostop is off, stop or suspend")),
            },
            _ => Err(D::Error::custom("autostop is off, stop or suspend")),
        }
    }
}

/// What of a machine the proxy serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) protocol: Option<String>,
    pub(crate) internal_port: u32,
    pub(crate) ports: Option<Vec<Port>>,
    pub(crate) concurrency: Option<Concurrency>,
    pub(crate) autostart: Option<bool>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub(crate) autostop: Option<Autostop>,
    pub(crate) min_machines_running: Option<u32>,
    pub(crate) checks: Option<Vec<Check>>,
    pub(crate) force_instance_key: Option<String>,
    pub(crate) force_instance_description: Option<String>,
}

impl Service {
    pub(super) fn check(&mut self) -> Result<(), String> {
        match self.protocol.get_or_insert_with(|| "tcp".to_owned()).as_str() {
            "tcp" => {}
            "udp" => return Err("config.services: udp is not supported; use tcp".to_owned()),
            _ => return Err("config.services: protocol is tcp".to_owned()),
        }
        if !(1..=65_535).contains(&self.internal_port) {
            return Err("config.services: internal_port is 1 to 65535".to_owned());
        }
        self.checks
            .iter()
            .flatten()
            .try_for_each(|check| check.check(true))?;
        const HANDLERS: [&str; 4] = ["http", "tls", "pg_tls", "proxy_proto"];
        let ports = self.ports.iter().flatten();
        let handlers = ports.flat_map(|port| port.handlers.iter().flatten());
        match handlers
            .into_iter()
            .find(|handler| !HANDLERS.contains(&handler.as_str()))
        {
            Some(_) => Err("config.services: handlers are http, tls, pg_tls and proxy_proto".to_owned()),
            None => Ok(()),
        }
    }
}

/// A port at which the proxy serves it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Port {
    pub(crate) port: Option<u16>,
    pub(crate) start_port: Option<u16>,
    pub(crate) end_port: Option<u16>,
    pub(crate) handlers: Option<Vec<String>>,
    pub(crate) force_https: Option<bool>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub(crate) http_options: Option<Value>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub(crate) tls_options: Option<Value>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub(crate) proxy_proto_options: Option<Value>,
}

/// How much at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Concurrency {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) soft_limit: Option<u32>,
    pub(crate) hard_limit: Option<u32>,
}

/// A check of health.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct Check {
    #[serde(rename = "type")]
    pub(crate) of: Option<String>,
    pub(crate) port: Option<u16>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub(crate) interval: Option<Span>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub(crate) timeout: Option<Span>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub(crate) grace_period: Option<Span>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) protocol: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<Object>>))]
    pub(crate) headers: Option<Value>,
    pub(crate) tls_skip_verify: Option<bool>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) kind: Option<String>,
}

/// Least and greatest time between two checks.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
/// Longest time that a check may take, and longest before the first.
const MAX_WAIT_MS: u64 = 600_000;

impl Check {
    /// `tcp` or `http`.
    pub(crate) fn kind_of(&self) -> &str {
        self.of.as_deref().filter(|of| !of.is_empty()).unwrap_or("tcp")
    }

    /// The headers of its request: `[{"name": N, "values": [V]}]`, `{N: V}` or `{N: [V]}`.
    pub(crate) fn header_pairs(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let values = |value: &Value| match value {
            Value::Array(all) => all.iter().filter_map(text).collect(),
            one => text(one).into_iter().collect::<Vec<String>>(),
        };
        let named: Vec<(String, Vec<String>)> = match &self.headers {
            Some(Value::Array(rows)) => rows
                .iter()
                .filter_map(|row| {
                    Some((
                        text(row.get("name")?)?,
                        row.get("values").or(row.get("value")).map(values)?,
                    ))
                })
                .collect(),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(name, value)| (name.clone(), values(value)))
                .collect(),
            _ => Vec::new(),
        };
        let pairs = named
            .into_iter()
            .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)));
        pairs.collect()
    }

    /// What is wrong with it. `has_port`: its service says one.
    pub(super) fn check(&self, has_port: bool) -> Result<(), String> {
        let wrong = |text: &str| Err(format!("config.checks: {text}"));
        if !["tcp", "http"].contains(&self.kind_of()) {
            return wrong("type is tcp or http");
        }
        if self.port == Some(0) || (self.port.is_none() && !has_port) {
            return wrong("port is 1 to 65535");
        }
        if self
            .interval
            .is_some_and(|interval| !INTERVAL_MS.contains(&interval.ms()))
        {
            return wrong("interval is 1s to 1h");
        }
        let waits = [self.timeout, self.grace_period];
        if waits.into_iter().flatten().any(|wait| wait.ms() > MAX_WAIT_MS) {
            return wrong("timeout and grace_period are 10m at most");
        }
        if self
            .protocol
            .as_deref()
            .is_some_and(|protocol| !["", "http"].contains(&protocol))
        {
            return wrong("protocol is http: checks are made inside the host, and speak no TLS");
        }
        if self
            .method
            .as_deref()
            .is_some_and(|method| method.parse::<http::Method>().is_err())
        {
            return wrong("method is one of HTTP, as GET");
        }
        let is_path = |path: &str| path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        if self.path.as_deref().is_some_and(|path| !is_path(path)) {
            return wrong("path begins with / and has no spaces");
        }
        let bad = |(name, value): &(String, String)| {
            name.parse::<http::HeaderName>().is_err() || value.parse::<http::HeaderValue>().is_err()
        };
        if self.header_pairs().iter().any(bad) {
            return wrong("headers are names and values of HTTP");
        }
        if self
            .kind
            .as_deref()
            .is_some_and(|kind| !["", "informational", "readiness"].contains(&kind))
        {
            return wrong("kind is informational or readiness");
        }
        Ok(())
    }
}
