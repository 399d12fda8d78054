//! What `deploy` and its machines ask of a platform, held to the documented API: operations, members and their types.

use std::time::Duration;

use serde_json::{Value, json};
use suijuris_testkit::fly::Plain;

use crate::daemon::{Host, until};
use crate::host::{Deployed, event};
use crate::rig::repository;

/// Why `value` does not fit `schema`; nothing where it does.
fn misfit(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        return misfit(document, schema, value);
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[key].as_array() {
            let misfits: Vec<_> = choices
                .iter()
                .map(|choice| misfit(document, choice, value))
                .collect();
            return misfits
                .iter()
                .all(Option::is_some)
                .then(|| format!("{misfits:?}"));
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.contains(&kind) {
        return Some(format!("{value} is no {types:?}"));
    }
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    if let Some(missing) = required
        .filter(|_| kind == "object")
        .find(|name| value.get(name).is_none())
    {
        return Some(format!("{missing} is missing in {value}"));
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let declared = schema["properties"]
            .get(name)
            .or_else(|| schema.get("additionalProperties"));
        let found = match declared {
            Some(schema) => misfit(document, schema, member),
            None if schema.get("properties").is_some() => Some("not declared".to_owned()),
            None => None,
        };
        if let Some(why) = found {
            return Some(format!("{name}: {why}"));
        }
    }
    let items = value.as_array().into_iter().flatten();
    items
        .filter_map(|item| misfit(document, &schema["items"], item))
        .next()
}

/// The operation of a document that a call is of.
fn operation<'d>(document: &'d Value, method: &str, path: &str) -> Option<&'d Value> {
    let plain = |path: &str| path.trim_start_matches("/v1").trim_start_matches('/').to_owned();
    let asked = plain(path);
    let fits = |pattern: &str| {
        let (pattern, asked): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), asked.split('/').collect());
        pattern.len() == asked.len()
            && pattern
                .iter()
                .zip(&asked)
                .all(|(pattern, asked)| pattern.starts_with('{') || pattern == asked)
    };
    let mut paths = document["paths"].as_object().unwrap().iter();
    let (_, found) =
        paths.find(|(pattern, found)| fits(&plain(pattern)) && found.get(method.to_lowercase()).is_some())?;
    found.get(method.to_lowercase())
}

#[test]
fn what_is_asked_of_a_platform_is_what_its_document_has() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run the plain platform");
        return;
    }
    let plain = Plain::start(Duration::from_secs(3_600));
    let host = Host::elsewhere(&plain.api, "plain", &plain.proxy);
    let deployed = Deployed::onto(host, Some(plain));
    let mut machine = Value::Null;
    for _ in 0..2 {
        let events = deployed.deploy(&[]).code(0).lines();
        machine = event(&events, "deployed")["machine"].clone();
    }
    until("it is stopped", || {
        deployed.machine(machine.as_str().unwrap())["state"] == "stopped"
    });
    let text = std::fs::read_to_string(repository().join("docs/machines-openapi.json")).unwrap();
    let mut documents: Vec<Value> = vec![serde_json::from_str(&text).unwrap()];
    // Fly's own, for those who have it.
    if let Some(path) = std::env::var_os("FLY_OPENAPI") {
        documents.push(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
    }
    let asked = deployed.plain.as_ref().unwrap().asked();
    for document in &documents {
        for (method, target, body) in &asked {
            let path = target.split('?').next().unwrap();
            let operation = operation(document, method, path).unwrap_or_else(|| panic!("{method} {target}"));
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if schema.is_null() {
                assert!(body.is_null() || *body == json!({}), "{method} {target}: {body}");
            } else if !(body.is_null() && operation["requestBody"]["required"] != true) {
                assert_eq!(misfit(document, schema, body), None, "{method} {target}: {body}");
            }
        }
    }
    for call in [
        "POST apps",
        "POST volumes",
        "POST machines",
        "POST secrets",
        "POST exec",
        "POST stop",
    ] {
        let (method, last) = call.split_once(' ').unwrap();
        let there = |(found, target, _): &(String, String, Value)| {
            found == method && target.ends_with(&format!("/{last}"))
        };
        assert!(asked.iter().any(there), "{call}");
    }
}
