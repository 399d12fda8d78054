//! What becomes of each field of a config: the table in `fields.txt`, which `docs/host.md` names, and what follows from it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Enforced,
    Stored,
    Refused,
}

static TABLE: LazyLock<BTreeMap<&'static str, Fate>> = LazyLock::new(|| {
    let row = |line: &'static str| {
        let (fate, path) = line.split_once(' ')?;
        let fate = match fate {
            "enforced" => Fate::Enforced,
            "stored" => Fate::Stored,
            "refused" => Fate::Refused,
            _ => return None,
        };
        Some((path, fate))
    };
    include_str!("fields.txt").lines().filter_map(row).collect()
});

/// Maps whose keys are their owners' choice.
const MAPS: [&str; 1] = ["checks"];

/// The first field that says something and is refused.
pub(super) fn refused(config: &Value) -> Option<String> {
    let mut found = Vec::new();
    visit("", config, &mut |path, fate| {
        if fate == Fate::Refused {
            found.push(shown(path));
        }
    });
    found.into_iter().next()
}

/// The fields that say something and do nothing.
pub(super) fn idle(config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    visit("", config, &mut |path, fate| {
        if fate == Fate::Stored {
            found.push(shown(path));
        }
    });
    found.sort();
    found.dedup();
    found
}

fn shown(path: &str) -> String {
    path.replace(".{}", "")
}

/// Whether a value says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Tells of each field that says something and has a line of its own in the table; what lies within one that does nothing is not told.
fn visit(path: &str, value: &Value, tell: &mut impl FnMut(&str, Fate)) {
    let own = TABLE.get(path.trim_end_matches("[]")).copied();
    if let Some(fate @ (Fate::Stored | Fate::Refused)) = own {
        if !is_empty(value) {
            tell(path.trim_end_matches("[]"), fate);
        }
        return;
    }
    match value {
        Value::Array(list) => {
            let inner = format!("{path}[]");
            list.iter().for_each(|value| visit(&inner, value, tell));
        }
        Value::Object(map) => {
            // One thing may stand in place of a list.
            let listed = format!("{path}[]");
            let is_list = TABLE.keys().any(|known| {
                known
                    .strip_prefix(&listed)
                    .is_some_and(|rest| rest.starts_with('.'))
            });
            let path = if is_list && !path.is_empty() {
                listed.as_str()
            } else {
                path
            };
            for (name, value) in map {
                let name = if MAPS.contains(&path) { "{}" } else { name };
                let inner = if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}.{name}")
                };
                visit(&inner, value, tell);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What becomes of the field at `path`; nothing is known of one that is nobody's.
    fn fate(path: &str) -> Option<Fate> {
        let mut path = path;
        loop {
            if let Some(fate) = TABLE.get(path.trim_end_matches("[]").trim_end_matches(".{}")) {
                return Some(*fate);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// What Fly's document has.
    const REFERENCE: &str = include_str!("../openapi/reference.txt");

    #[test]
    fn every_field_of_flys_config_is_in_the_table_and_the_table_has_no_other() {
        let fields: Vec<&str> = REFERENCE
            .lines()
            .filter_map(|line| line.strip_prefix("field "))
            .collect();
        assert!(fields.len() > 200);
        for field in &fields {
            assert!(
                fate(field).is_some(),
                "{field}: say in fields.txt what becomes of it"
            );
        }
        // Of containers alone, and not in the document's own list; of ours for older clients.
        let known = ["size", "volumes"];
        for path in TABLE.keys() {
            assert!(
                fields.contains(path) || known.contains(path),
                "{path} is no field"
            );
        }
        let lines = include_str!("fields.txt")
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        assert_eq!(lines.count(), TABLE.len(), "a line that is none, or stands twice");
        assert_eq!(
            (
                fate("services[].ports[].handlers"),
                fate("services[].checks[].path")
            ),
            (Some(Fate::Enforced), Some(Fate::Enforced))
        );
        assert_eq!(fate("nobody"), None);
    }

    #[test]
    fn what_is_refused_and_what_does_nothing_is_found_where_it_says_something() {
        for (config, path) in [
            (json!({"containers": [{"name": "a"}]}), Some("containers")),
            (json!({"containers": [], "guest": {"gpus": 0}}), None),
            (json!({"guest": {"gpu_kind": "a10"}}), Some("guest.gpu_kind")),
            (
                json!({"processes": [{"env_from": [{"env_var": "A"}]}]}),
                Some("processes[].env_from"),
            ),
            (
                json!({"processes": {"secrets": [{"name": "A"}]}}),
                Some("processes[].secrets"),
            ),
            (
                json!({"checks": {"a": {"tls_skip_verify": true}}}),
                Some("checks.tls_skip_verify"),
            ),
            (
                json!({"services": [{"checks": [{"tls_server_name": "a"}]}]}),
                Some("services[].checks[].tls_server_name"),
            ),
            (
                json!({"image": "a", "dns": {"skip_registration": true}, "unknown": 1}),
                None,
            ),
        ] {
            assert_eq!(refused(&config).as_deref(), path, "{config}");
        }
        let config = json!({
            "schedule": "daily", "standbys": [], "statics": [{"guest_path": "/a"}], "guest": {"kernel_args": ["a"], "max_memory_mb": 0},
            "mounts": {"encrypted": true}, "init": {"tty": true, "exec": ["a"]}, "rootfs": {"size_gb": 3, "persist": "always"},
        });
        assert_eq!(
            idle(&config),
            [
                "guest.kernel_args",
                "init.tty",
                "mounts[].encrypted",
                "rootfs.size_gb",
                "schedule",
                "statics"
            ]
        );
    }
}
