//! The control API as an OpenAPI document: paths from the table of routes, schemas from the types of the documents, and the
//! bounds that types cannot say. Not part of a build that ships: `cargo xtask openapi` runs it.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::agent::{Memory, Messages};
use crate::control::Reply;
use crate::daemon::{
    AddClass, AddObject, Amend, AmendClass, ApiToken, ApiTokenList, ApprovalList, Class, ClassKey, ClassList,
    Daemon, Fork, FreeKey, Left, MakeApiToken, Migrate, NewApiToken, Object, ObjectEvent, ObjectList, Offer,
    Offered, OwnerApproval, PatchMemory, Received, Receiving, Remove, Signed, Terminate,
};
use crate::history::{
    Log, MemoryChange, MessageOutcome, Rejudge, Rejudged, Sent, State, Supposed, Verification, WhatIf, Why,
};
use crate::problem::Problem;
use crate::routes::{DAEMON, Needs, OBJECT, OBJECT_PREFIXES, Operation, Route};

/// A document of ours, base64, hexadecimal keys and digests, ids, labels.
const BASE64: &str = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";
const KEY: &str = "^[0-9a-f]{64}$";
const SIGNATURE: &str = "^[0-9a-f]{128}$";
const ID: &str = "^b[a-z2-7]{58}$";
const LABEL: &str = "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$";

/// Bounds of request documents: schema, member, what is true of it beside its type.
fn bounds() -> Vec<(&'static str, &'static str, Value)> {
    let pattern = |pattern: &str| json!({ "pattern": pattern });
    let count = |least: u32, most: u32| json!({"minItems": least, "maxItems": most});
    let words = |words: &[&str]| json!({ "enum": words });
    vec![
        ("AddObject", "name", pattern(LABEL)),
        ("AddClass", "class", pattern(LABEL)),
        ("Offer", "name", pattern(LABEL)),
        ("Offer", "object", pattern(ID)),
        ("MakeApiToken", "name", pattern(LABEL)),
        ("BundleParts", "manifest", pattern(BASE64)),
        ("BundleParts", "program", pattern(BASE64)),
        ("Owners", "controllers", count(1, 64)),
        ("Owners", "controllers/items", pattern(KEY)),
        ("Owners", "threshold", json!({"minimum": 1, "maximum": 64})),
        ("Approval", "key", pattern(KEY)),
        ("Approval", "sig", pattern(SIGNATURE)),
        ("Signed", "key", pattern(KEY)),
        ("Signed", "sig", pattern(SIGNATURE)),
        ("OwnerApproval", "action", words(&["amend"])),
        ("OwnerApproval", "object", pattern(ID)),
        ("OwnerApproval", "bundle", pattern(ID)),
        ("OwnerApproval", "content", pattern(KEY)),
        ("OwnerApproval", "key", pattern(KEY)),
        ("OwnerApproval", "sig", pattern(SIGNATURE)),
        ("OwnerRequest", "object", pattern(ID)),
        ("OwnerRequest", "content", pattern(KEY)),
        ("OwnerRequest", "audience", pattern(KEY)),
        (
            "OwnerRequest",
            "ask",
            words(&[
                "wake",
                "sleep",
                "write",
                "amend",
                "messages",
                "remove",
                "migrate",
                "terminate",
            ]),
        ),
        ("SignedRequest", "signatures", count(1, 32)),
        ("Supposed", "action", words(ACTIONS)),
        (
            "Supposed",
            "by",
            words(&["caller", "host", "timer", "controller", "workload", "self"]),
        ),
        (
            "Supposed",
            "trigger",
            words(&["request", "timer", "manual", "memory", "message", "boot"]),
        ),
        (
            "Supposed",
            "protocol",
            words(&["http/1.1", "http/2", "websocket", "tcp"]),
        ),
    ]
}

/// What can be proposed.
const ACTIONS: &[&str] = &[
    "wake",
    "remain",
    "admit",
    "sleep",
    "migrate",
    "fork",
    "mutate",
    "amend",
    "terminate",
    "read",
    "instantiate",
];

/// What a route takes and gives.
struct Documents {
    /// Schema of the body.
    body: Option<&'static str>,
    /// Schema of the answer.
    answer: &'static str,
    /// Parameters of the query: name, schema, what it is.
    query: Vec<(&'static str, Value, &'static str)>,
}

fn documents(operation: Operation) -> Documents {
    let of = |body: Option<&'static str>, answer: &'static str| Documents {
        body,
        answer,
        query: Vec::new(),
    };
    let text = || json!({"type": "string"});
    let number = |least: u64, most: u64| json!({"type": "integer", "minimum": least, "maximum": most});
    match operation {
        Operation::Daemon => of(None, "Daemon"),
        Operation::OpenApi => of(None, "AnyDocument"),
        Operation::ListObjects => Documents {
            query: vec![
                ("class", text(), "Instances of this class alone"),
                ("phase", text(), "Those in this phase alone"),
                ("data", text(), "The one whose data is in this directory"),
                (
                    "after",
                    json!({"type": "string", "pattern": ID}),
                    "Those after this id",
                ),
                ("limit", number(1, 10_000), "So many at most; 100 where absent"),
            ],
            ..of(None, "ObjectList")
        },
        Operation::AddObject => of(Some("AddObject"), "Object"),
        Operation::ListClasses => of(None, "ClassList"),
        Operation::AddClass => of(Some("AddClass"), "Class"),
        Operation::ShowClass | Operation::RemoveClass => of(None, "Class"),
        Operation::AmendClass => of(Some("AmendClass"), "Class"),
        Operation::Events => of(None, "ObjectEvent"),
        Operation::ListTokens => of(None, "ApiTokenList"),
        Operation::CreateToken => of(Some("MakeApiToken"), "NewApiToken"),
        Operation::RevokeToken => of(None, "ApiToken"),
        Operation::ShowObject => of(None, "Object"),
        Operation::RemoveObject => of(Some("Remove"), "Left"),
        Operation::Migrate => of(Some("Migrate"), "Left"),
        Operation::Fork => of(Some("Fork"), "Reply"),
        Operation::Offer => of(Some("Offer"), "Offered"),
        Operation::ShowReceived => of(None, "Receiving"),
        Operation::ReceiveCapsule | Operation::ReceiveVolume => Documents {
            query: vec![
                (
                    "sha256",
                    json!({"type": "string", "pattern": KEY}),
                    "SHA-256 of the whole file: cut off, what came is kept, and the whole is held to it",
                ),
                (
                    "offset",
                    number(0, u64::MAX),
                    "Where in that file the body begins: behind what is here; 0 where absent, and it begins anew",
                ),
            ],
            ..of(Some("Bytes"), "Received")
        },
        Operation::Arrive => of(None, "Object"),
        Operation::ShowKey => of(None, "ClassKey"),
        Operation::FreeKey => of(Some("FreeKey"), "ClassKey"),
        Operation::State => of(None, "State"),
        Operation::Log => Documents {
            query: vec![
                ("from", number(0, u64::MAX), "The first position to look at"),
                (
                    "limit",
                    number(0, 1_000),
                    "So many at most; 100 where absent, and one at least",
                ),
                (
                    "kind",
                    json!({"type": "array", "items": {"type": "string", "enum": crate::history::KINDS}}),
                    "Records of these kinds alone",
                ),
                (
                    "last",
                    json!({"type": "boolean"}),
                    "The last ones of those that there are",
                ),
            ],
            ..of(None, "Log")
        },
        Operation::FollowLog => Documents {
            query: vec![
                (
                    "from",
                    number(0, u64::MAX),
                    "The first position; those that are made from now on where absent",
                ),
                (
                    "kind",
                    json!({"type": "array", "items": {"type": "string", "enum": crate::history::KINDS}}),
                    "Records of these kinds alone",
                ),
            ],
            ..of(None, "Record")
        },
        Operation::Why => Documents {
            query: vec![(
                "action",
                json!({"type": "string", "enum": ACTIONS}),
                "Decisions about this action alone",
            )],
            ..of(None, "Why")
        },
        Operation::WhatIf => of(Some("Supposed"), "WhatIf"),
        Operation::Rejudge => of(Some("Rejudge"), "Rejudged"),
        Operation::Verify => of(None, "Verification"),
        Operation::Memory => of(None, "Memory"),
        Operation::WatchMemory => of(None, "MemoryChange"),
        Operation::PatchMemory => of(Some("PatchMemory"), "Reply"),
        // Both `{"signed": …}`, which is not the member of that name in a signed request.
        Operation::Wake | Operation::Sleep => of(Some("SignedDocument"), "Reply"),
        Operation::Amend => of(Some("Amend"), "Reply"),
        Operation::Terminate => of(Some("Terminate"), "Reply"),
        Operation::ListMessages => Documents {
            query: vec![("limit", number(1, 1_000), "So many at most; 100 where absent")],
            ..of(None, "Messages")
        },
        Operation::RetryMessage | Operation::DropMessage => of(None, "MessageOutcome"),
        Operation::Send => of(Some("CloudEvent"), "Sent"),
        Operation::ListApprovals => of(None, "ApprovalList"),
        Operation::Approve => of(Some("OwnerApproval"), "ApprovalList"),
    }
}

/// The document.
///
/// # Errors
/// A bound names a member that no schema has, or two schemas have one name.
pub fn document() -> Result<Value, String> {
    let mut paths = Map::new();
    for route in DAEMON {
        put(&mut paths, route.path, route, "");
    }
    for (prefix, of) in OBJECT_PREFIXES.iter().zip(["", "OfInstance"]) {
        for route in OBJECT {
            put(&mut paths, &format!("{prefix}{}", route.path), route, of);
        }
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "suijuris serve",
            "description": "The control API of a daemon that serves objects: on its Unix socket, and with a token on an address. \
                            docs/control-api.md says more.",
            "version": "1",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas()?,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`suijuris token api create`"}},
            "responses": {"Problem": {
                "description": "What is wrong, and what to do",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }},
        },
        "security": [{"token": []}],
    }))
}

fn put(paths: &mut Map<String, Value>, path: &str, route: &Route, of: &str) {
    let documents = documents(route.operation);
    let in_path = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path.map(in_path_parameter).collect();
    parameters.extend(documents.query.into_iter().map(|(name, schema, about)| {
        json!({"name": name, "in": "query", "required": false, "description": about, "schema": schema})
    }));
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let media = match route.operation {
        Operation::Events | Operation::FollowLog | Operation::WatchMemory => "text/event-stream",
        _ => "application/json",
    };
    let needs = match route.needs {
        Needs::Read => "Scope: read.",
        Needs::Operate => "Scope: operate.",
        Needs::Socket => "On the control socket alone.",
    };
    let mut operation = json!({
        "operationId": format!("{:?}{of}", route.operation),
        "summary": route.about,
        "description": needs,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Done, or answered",
                "content": {media: {"schema": reference(documents.answer)}},
            },
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    if let Some(body) = documents.body
        && let Some(operation) = operation.as_object_mut()
    {
        let media = match body {
            "Bytes" => "application/octet-stream",
            _ => "application/json",
        };
        let body = json!({"required": true, "content": {media: {"schema": reference(body)}}});
        operation.insert("requestBody".to_owned(), body);
    }
    let item = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
    if let Some(item) = item.as_object_mut() {
        item.insert(route.method.to_ascii_lowercase(), operation);
    }
}

fn in_path_parameter(name: &str) -> Value {
    let (about, schema) = match name {
        "object" => (
            "Id or name of an object",
            json!({"type": "string", "minLength": 1}),
        ),
        "class" => ("Name of a class", json!({"type": "string", "minLength": 1})),
        "key" => ("Key of an instance", json!({"type": "string", "minLength": 1})),
        "offered" => (
            "Id of an object that was offered",
            json!({"type": "string", "minLength": 1}),
        ),
        "token" => ("Name of a token", json!({"type": "string", "minLength": 1})),
        _ => (
            "`last`, the position of a record, or the id that a refused caller quotes",
            json!({"type": "string", "pattern": "^(?:last|[0-9]{1,18}|r-[a-z2-7]{12})$"}),
        ),
    };
    json!({"name": name, "in": "path", "required": true, "description": about, "schema": schema})
}

/// Schemas of all documents, by name.
fn schemas() -> Result<Map<String, Value>, String> {
    let mut found = Found::default();
    found.with::<Daemon>();
    found.with::<ObjectList>();
    found.with::<AddObject>();
    found.with::<Object>();
    found.with::<ClassList>();
    found.with::<AddClass>();
    found.with::<AmendClass>();
    found.with::<Class>();
    found.with::<ObjectEvent>();
    found.with::<ApiTokenList>();
    found.with::<ApiToken>();
    found.with::<MakeApiToken>();
    found.with::<NewApiToken>();
    found.with::<State>();
    found.with::<Log>();
    found.with::<Why>();
    found.with::<Supposed>();
    found.with::<WhatIf>();
    found.with::<Rejudge>();
    found.with::<Rejudged>();
    found.with::<Verification>();
    found.with::<Memory>();
    found.with::<MemoryChange>();
    found.with::<PatchMemory>();
    found.with::<Reply>();
    found.with::<Amend>();
    found.with::<Terminate>();
    found.with::<Remove>();
    found.with::<Migrate>();
    found.with::<Left>();
    found.with::<Fork>();
    found.with::<Offer>();
    found.with::<Offered>();
    found.with::<Received>();
    found.with::<Receiving>();
    found.with::<ClassKey>();
    found.with::<FreeKey>();
    found.with::<Messages>();
    found.with::<Sent>();
    found.with::<MessageOutcome>();
    found.with::<ApprovalList>();
    found.with::<OwnerApproval>();
    found.with::<Problem>();
    let mut schemas = Map::new();
    for (name, schema) in found.0 {
        let schema = serde_json::to_value(schema).map_err(|error| error.to_string())?;
        if schemas.get(&name).is_some_and(|have| *have != schema) {
            return Err(format!(
                "two schemas are called `{name}`: rename one of the types"
            ));
        }
        schemas.insert(name, schema);
    }
    let signed = serde_json::to_value(Signed::schema()).map_err(|error| error.to_string())?;
    schemas.insert("SignedDocument".to_owned(), signed);
    schemas.insert("CloudEvent".to_owned(), cloud_event());
    schemas.insert("Bytes".to_owned(), json!({"type": "string", "format": "binary"}));
    schemas.insert("AnyDocument".to_owned(), json!({"type": "object"}));
    for (schema, member, bound) in bounds() {
        bind(&mut schemas, schema, member, &bound)?;
    }
    schemas.sort_keys();
    Ok(schemas)
}

#[derive(Default)]
struct Found(Vec<(String, RefOr<Schema>)>);

impl Found {
    /// The schema of a document, and those of what it holds.
    fn with<T: ToSchema>(&mut self) {
        self.0.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.0);
    }
}

fn bind(schemas: &mut Map<String, Value>, schema: &str, member: &str, bound: &Value) -> Result<(), String> {
    let missing = || format!("`{schema}` has no `{member}`: mend the bound");
    let mut place = schemas
        .get_mut(schema)
        .and_then(|schema| schema.get_mut("properties"));
    for part in member.split('/') {
        place = place.and_then(|place| place.get_mut(part));
    }
    let place = place.and_then(Value::as_object_mut).ok_or_else(missing)?;
    let is_optional = place.get("type").is_some_and(Value::is_array);
    for (name, value) in bound.as_object().into_iter().flatten() {
        let mut value = value.clone();
        if let (true, "enum", Some(words)) = (is_optional, name.as_str(), value.as_array_mut()) {
            words.push(Value::Null);
        }
        place.insert(name.clone(), value);
    }
    Ok(())
}

/// A CloudEvents 1.0 event in its JSON form.
fn cloud_event() -> Value {
    let attribute = || json!({"type": "string", "minLength": 1, "maxLength": 1024, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"});
    let optional = || json!({"type": "string", "maxLength": 1024, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"});
    json!({
        "type": "object",
        "description": "A CloudEvents 1.0 event in its JSON form, 256 KiB at most",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"type": "string", "enum": ["1.0"]},
            "id": attribute(),
            "source": attribute(),
            "type": attribute(),
            "subject": optional(),
            "time": optional(),
            "datacontenttype": optional(),
            "dataschema": optional(),
            "data": {},
            "data_base64": {"type": "string", "pattern": BASE64},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_to_a_schema_and_every_route_has_its_documents() {
        let document = document().unwrap();
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        let operations = document["paths"].as_object().unwrap().values();
        let count: usize = operations.map(|item| item.as_object().unwrap().len()).sum();
        assert_eq!(count, DAEMON.len() + 2 * OBJECT.len());
    }
}
