//! A machine's config as clients send it: read with every tolerance that clients need, checked, and written back in one form.
//!
//! What is understood, what is only kept and what is refused stands in `docs/host.md`. Nothing here does I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Span;
use crate::signals;
use crate::words;

mod fields;
mod parts;

pub(crate) use parts::{
    Autostop, Check, File, Guest, Init, Mount, Port, Restart, RestartPolicy, Rootfs, RootfsPersist, Service,
    StopConfig, decode,
};

/// Longest text in a config, in bytes, but for files.
const MAX_TEXT: usize = 64 << 10;
/// Most entries of a map or list.
const MAX_ENTRIES: usize = 1_000;
/// Longest time that a stop may take.
const MAX_STOP: Span = Span::from_ms(300_000);

/// What a machine shall be. Keys that nobody knows are dropped; `null` is as absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub(crate) struct MachineConfig {
    /// OCI reference, or `oci:PATH` of a layout on the host.
    pub(crate) image: Option<String>,
    pub(crate) guest: Option<Guest>,
    /// Short for a guest, as `shared-cpu-1x`; not together with it.
    pub(crate) size: Option<String>,
    #[serde(deserialize_with = "parts::scalars")]
    pub(crate) env: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "parts::scalars")]
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) init: Option<Init>,
    pub(crate) services: Option<Vec<Service>>,
    pub(crate) checks: Option<BTreeMap<String, Check>>,
    #[serde(deserialize_with = "parts::one_or_many")]
    pub(crate) mounts: Option<Vec<Mount>>,
    pub(crate) restart: Option<Restart>,
    pub(crate) stop_config: Option<StopConfig>,
    pub(crate) auto_destroy: Option<bool>,
    pub(crate) schedule: Option<String>,
    pub(crate) standbys: Option<Vec<String>>,
    pub(crate) files: Option<Vec<File>>,
    pub(crate) rootfs: Option<Rootfs>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<Object>>))]
    pub(crate) processes: Option<Vec<Value>>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<Object>>))]
    pub(crate) statics: Option<Vec<Value>>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub(crate) metrics: Option<Value>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub(crate) dns: Option<Value>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<Object>>))]
    pub(crate) containers: Option<Vec<Value>>,
    pub(crate) disable_machine_autostart: Option<bool>,
}

/// Why a config is refused, with what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid_argument: {0}")]
pub(crate) struct InvalidConfig(String);

fn invalid(why: impl Into<String>) -> InvalidConfig {
    InvalidConfig(why.into())
}

impl MachineConfig {
    /// Reads and checks what a client sent.
    pub(crate) fn read(mut value: Value) -> Result<Self, InvalidConfig> {
        strip_nulls(&mut value);
        if !value.is_object() {
            return Err(invalid("config is an object with at least an image"));
        }
        if let Some(path) = fields::refused(&value) {
            let instead = match path.as_str() {
                "containers" | "volumes" => "give each container a machine of its own",
                "guest.gpu_kind" | "guest.gpus" => "there are no gpus here; leave it out",
                _ => "leave it out",
            };
            return Err(invalid(format!(
                "config.{path} is not supported on this host: {instead}"
            )));
        }
        let config: Self =
            serde_json::from_value(value).map_err(|error| invalid(format!("config: {error}")))?;
        config.checked()
    }

    /// As it is written to clients: nothing that is absent stands in it.
    pub(crate) fn shown(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        strip_nulls(&mut value);
        value
    }

    fn checked(mut self) -> Result<Self, InvalidConfig> {
        let image = self.image.as_deref().unwrap_or_default();
        if image.is_empty()
            || image.len() > 1_024
            || image.contains(|letter: char| letter.is_control() || letter == ' ')
        {
            return Err(invalid(
                "config.image is an image's reference, as registry/name:tag",
            ));
        }
        if self
            .processes
            .as_ref()
            .is_some_and(|processes| processes.len() > 1)
        {
            return Err(invalid(
                "config.processes has one process at most: give each a machine of its own",
            ));
        }
        self.guest = Some(Guest::of(self.guest.take(), self.size.take().as_deref()).map_err(invalid)?);
        check_env(self.env.as_ref())?;
        check_map("metadata", self.metadata.as_ref())?;
        if let Some(mounts) = &self.mounts {
            check_mounts(mounts)?;
        }
        for service in self.services.iter_mut().flatten() {
            service.check().map_err(invalid)?;
        }
        if let Some(stop) = &self.stop_config {
            if stop.timeout.is_some_and(|timeout| timeout > MAX_STOP) {
                return Err(invalid("config.stop_config.timeout is 300s at most"));
            }
            if let Some(signal) = &stop.signal {
                signals::named(signal)
                    .ok_or_else(|| invalid(format!("config.stop_config.signal: {}", signals::ADVICE)))?;
            }
        }
        if let Some(schedule) = &self.schedule
            && !["hourly", "daily", "weekly", "monthly"].contains(&schedule.as_str())
        {
            return Err(invalid("config.schedule is hourly, daily, weekly or monthly"));
        }
        for check in self.checks.iter().flatten().map(|(_, check)| check) {
            check.check(false).map_err(invalid)?;
        }
        for file in self.files.iter().flatten() {
            file.check().map_err(invalid)?;
        }
        Ok(self)
    }

    /// The guest's shape.
    pub(crate) fn guest(&self) -> Guest {
        self.guest.clone().unwrap_or_default()
    }

    /// Metadata, empty where there is none.
    pub(crate) fn metadata(&self) -> BTreeMap<String, String> {
        self.metadata.clone().unwrap_or_default()
    }

    /// How it is asked to stop, where its image says `of_image`, and how long it is waited for.
    pub(crate) fn stopping(&self, of_image: Option<i32>) -> (i32, u64) {
        let stop = self.stop_config.as_ref();
        let signal = stop.and_then(|stop| signals::named(stop.signal.as_ref()?));
        let timeout = stop.and_then(|stop| stop.timeout);
        (
            signal.or(of_image).unwrap_or(signals::DEFAULT),
            timeout.map_or(signals::DEFAULT_BUDGET_MS, Span::ms),
        )
    }

    /// What happens once its first program has ended.
    pub(crate) fn restart(&self) -> (RestartPolicy, u32) {
        let restart = self.restart.clone().unwrap_or_default();
        (
            restart.policy.unwrap_or_default(),
            restart.max_retries.unwrap_or(10),
        )
    }

    /// What it runs: what takes the place of the image's `entrypoint` and `cmd`, or of both, and else those.
    pub(crate) fn command(&self, (entrypoint, cmd): (&[String], &[String])) -> Vec<String> {
        let init = self.init.clone().unwrap_or_default();
        let said = |of_init: Option<Vec<String>>, name: &str| {
            let of_process = self.process(name).and_then(Value::as_array).map(|words| {
                let words = words.iter().filter_map(Value::as_str);
                words.map(str::to_owned).collect::<Vec<String>>()
            });
            of_init
                .filter(|words| !words.is_empty())
                .or(of_process)
                .filter(|words| !words.is_empty())
        };
        if let Some(exec) = said(init.exec, "exec") {
            return exec;
        }
        let entrypoint = said(init.entrypoint, "entrypoint").unwrap_or_else(|| entrypoint.to_vec());
        let cmd = said(init.cmd, "cmd").unwrap_or_else(|| cmd.to_vec());
        [entrypoint, cmd].concat()
    }

    /// Whom it runs as, where it is not as the image says.
    pub(crate) fn user(&self) -> Option<&str> {
        self.process("user")?.as_str().filter(|user| !user.is_empty())
    }

    /// A member of its one process.
    fn process(&self, name: &str) -> Option<&Value> {
        self.processes.iter().flatten().next()?.get(name)
    }

    /// Fields that are kept and do nothing here; an event says so.
    pub(crate) fn idle_keys(&self) -> Vec<String> {
        fields::idle(&self.shown())
    }

    /// The environment of its one process.
    pub(crate) fn process_env(&self) -> impl Iterator<Item = (&str, &str)> {
        let env = self.process("env").and_then(Value::as_object);
        env.into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }
}

fn check_env(env: Option<&BTreeMap<String, String>>) -> Result<(), InvalidConfig> {
    check_map("env", env)?;
    let bad = env
        .into_iter()
        .flatten()
        .find(|(name, value)| name.contains('=') || value.contains('\0'));
    match bad {
        Some((name, _)) => Err(invalid(format!(
            "config.env: {name:?} has a `=` in its name or a zero byte in its value"
        ))),
        None => Ok(()),
    }
}

/// Bounds of a map of texts.
pub(crate) fn check_map(key: &str, map: Option<&BTreeMap<String, String>>) -> Result<(), InvalidConfig> {
    let Some(map) = map else { return Ok(()) };
    if map.len() > MAX_ENTRIES {
        return Err(invalid(format!(
            "config.{key} has more than {MAX_ENTRIES} entries"
        )));
    }
    let bad = map.iter().find(|(name, value)| {
        name.is_empty() || name.len() > 255 || name.contains(char::is_control) || value.len() > MAX_TEXT
    });
    match bad {
        Some((name, _)) => Err(invalid(format!(
            "config.{key}: a name has 1 to 255 letters, a value {MAX_TEXT} bytes at most; {:?} has not",
            name.chars().take(40).collect::<String>()
        ))),
        None => Ok(()),
    }
}

fn check_mounts(mounts: &[Mount]) -> Result<(), InvalidConfig> {
    if mounts.len() > 1 {
        return Err(invalid("config.mounts has one volume at most"));
    }
    for mount in mounts {
        if mount.volume.is_none() && mount.name.is_none() {
            return Err(invalid(
                "config.mounts: name a volume by its id (`volume`) or its name (`name`)",
            ));
        }
        let path = mount.path.as_deref().unwrap_or_default();
        if !is_inner_path(path) {
            return Err(invalid(
                "config.mounts: path is absolute, not `/`, and has no `..`",
            ));
        }
    }
    Ok(())
}

/// Whether a path in a machine is absolute, not its root, and goes nowhere up.
pub(crate) fn is_inner_path(path: &str) -> bool {
    path.len() > 1
        && path.len() < 4_096
        && path.starts_with('/')
        && !path.contains('\0')
        && path.split('/').all(|part| part != "..")
        && path.split('/').any(|part| !part.is_empty() && part != ".")
}

/// Takes every `null` out, at any depth.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(list) => {
            list.retain(|value| !value.is_null());
            list.iter_mut().for_each(strip_nulls);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value) -> Result<MachineConfig, InvalidConfig> {
        MachineConfig::read(value)
    }

    #[test]
    fn what_clients_send_is_understood() {
        let config = read(json!({
            "image": "nginx", "env": {"A": "b", "N": 3, "Z": null}, "auto_start_machines": true, "stop_timeout": 5, "guest": null,
            "mounts": {"volume": "vol_1", "path": "/data"}, "init": {"exec": "sleep 'a b'", "cmd": null},
            "services": [{"protocol": "tcp", "internal_port": 80, "autostop": true, "ports": [{"port": 443, "handlers": ["tls"]}]},
                {"protocol": "tcp", "internal_port": 81, "autostop": "suspend"}, {"protocol": "tcp", "internal_port": 82, "autostop": false}],
            "stop_config": {"timeout": 10_000_000_000_u64, "signal": "SIGTERM"},
        }))
        .unwrap();
        assert_eq!(config.command((&[], &[])), ["sleep", "a b"]);
        assert_eq!(config.stopping(Some(3)), (15, 10_000));
        assert_eq!(MachineConfig::default().stopping(Some(3)), (3, 5_000));
        let shown = config.shown();
        assert_eq!(
            shown["guest"],
            json!({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256})
        );
        assert_eq!(shown["env"], json!({"A": "b", "N": "3"}));
        assert_eq!(shown["mounts"], json!([{"volume": "vol_1", "path": "/data"}]));
        let autostop: Vec<&Value> = shown["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|service| &service["autostop"])
            .collect();
        assert_eq!(autostop, [&json!(true), &json!("suspend"), &json!(false)]);
        assert!(shown.get("stop_timeout").is_none());
        assert_eq!(read(shown).unwrap(), config, "what is written is read back");
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        for (bad, word) in [
            (json!([]), "object"),
            (json!({}), "config.image"),
            (json!({"image": ""}), "config.image"),
            (json!({"image": 3}), "config"),
            (
                json!({"image": "a", "guest": {"cpu_kind": "shared", "cpus": 3}}),
                "cpus",
            ),
            (json!({"image": "a", "guest": {"memory_mb": 300}}), "256"),
            (json!({"image": "a", "guest": {"memory_mb": 4096}}), "2048"),
            (
                json!({"image": "a", "guest": {"cpus": 1}, "size": "shared-cpu-1x"}),
                "size",
            ),
            (json!({"image": "a", "guest": {"gpu_kind": "a10"}}), "gpu"),
            (
                json!({"image": "a", "mounts": [{"volume": "v", "path": "/a"}, {"volume": "w", "path": "/b"}]}),
                "one volume",
            ),
            (
                json!({"image": "a", "mounts": [{"volume": "v", "path": "/../a"}]}),
                "path",
            ),
            (
                json!({"image": "a", "services": [{"protocol": "udp", "internal_port": 1}]}),
                "udp",
            ),
            (
                json!({"image": "a", "services": [{"protocol": "tcp", "internal_port": 0}]}),
                "internal_port",
            ),
            (json!({"image": "a", "containers": [{}]}), "containers"),
            (json!({"image": "a", "stop_config": {"timeout": "301s"}}), "300s"),
            (
                json!({"image": "a", "stop_config": {"signal": "SIGFOO"}}),
                "signal",
            ),
            (
                json!({"image": "a", "restart": {"policy": "never-ever"}}),
                "policy",
            ),
            (json!({"image": "a", "init": {"exec": "a 'b"}}), "quote"),
            (json!({"image": "a", "env": {"A=": "b"}}), "env"),
            (
                json!({"image": "a", "files": [{"guest_path": "etc/x", "raw_value": ""}]}),
                "guest_path",
            ),
        ] {
            let error = read(bad.clone()).unwrap_err().to_string();
            assert!(
                error.starts_with("invalid_argument: ") && error.contains(word),
                "{bad}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_config_panics(text in "[\\[\\]{}\":,a-z0-9 ]{0,60}", key in "(guest|env|mounts|init|services|files|restart|checks|stop_config)") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = read(value.clone());
                let _ = read(json!({"image": "a", key: value}));
            }
        }
    }
}
