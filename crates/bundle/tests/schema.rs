//! The JSON schema of `object.toml` for editors: made from the tables of `docs/object-toml.md`, held to the keys and words
//! that the reader knows, and to what is committed as `docs/object.schema.json`. `BLESS=1` writes it anew.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test ends by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};
use suijuris_bundle::build_texts;

const REFERENCE: &str = include_str!("../../../docs/object-toml.md");
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/object.schema.json");

/// Headings of the reference with the table that each describes: `*` any name, `[]` each of several.
const TABLES: [(&str, &str); 14] = [
    ("## Top level", ""),
    ("## [workload]", "workload"),
    ("### [workload.limits]", "workload.limits"),
    ("### [[workload.mounts]]", "workload.mounts[]"),
    ("## [class]", "class"),
    ("## [gate]", "gate"),
    ("## [memory]", "memory.*"),
    ("## [timers.NAME]", "timers.*"),
    ("## [rates.NAME]", "rates.*"),
    ("## [elsewhere.HOST]", "elsewhere.*"),
    ("## [messages]", "messages"),
    ("## [callers]", "callers"),
    ("Each key:", "callers.keys[]"),
    ("## [controllers]", "controllers"),
];

/// Keys that take one of a list of words; of the last three others besides.
const WORDS: [(&str, &[&str]); 12] = [
    ("gate.protocol", &["http", "h2c", "tcp", "handover"]),
    ("workload.network", &["private", "host"]),
    ("timers.*.missed", &["once", "all", "skip"]),
    ("rates.*.per", &["caller", "peer", "object"]),
    ("sleep.mode", &["stop", "suspend"]),
    ("lineage.witness", &["optional", "required"]),
    ("witness.strength", &["optional", "required"]),
    ("callers.keys[].algorithm", &["EdDSA", "ES256", "RS256"]),
    ("workload.ready", &["tcp", "agent", "notify", "spawned"]),
    ("workload.live", &["tcp", "notify"]),
    (
        "workload.stop_signal",
        &[
            "SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGWINCH", "SIGPWR",
        ],
    ),
    ("class.from", &["host", "path", "sni", "client_cert", "port"]),
];

/// Documents in which each table stands, with room for one more key in place of `@`.
const AT: [(&str, &str); 17] = [
    ("", "@\n"),
    ("workload", "[workload]\n@\n"),
    ("workload.limits", "[workload.limits]\n@\n"),
    ("workload.mounts[]", "[[workload.mounts]]\nfrom = \"/usr\"\n@\n"),
    ("class", "[class]\n@\n"),
    ("gate", "[gate]\n@\n"),
    ("memory.*", "[memory.x]\ntype = \"int\"\n@\n"),
    ("timers.*", "[timers.x]\n@\n"),
    ("rates.*", "[rates.x]\n@\n"),
    ("elsewhere.*", "[elsewhere.x]\n@\n"),
    ("messages", "[messages]\n@\n"),
    ("callers", "[callers]\n@\n"),
    ("callers.keys[]", "[[callers.keys]]\n@\n"),
    ("sleep", "[sleep]\n@\n"),
    ("lineage", "[lineage]\n@\n"),
    ("witness", "[witness]\n@\n"),
    ("controllers", "[controllers]\n@\n"),
];

/// One line of a table of the reference.
struct Row {
    table: String,
    key: String,
    kind: String,
    default: String,
    meaning: String,
}

fn rows() -> Vec<Row> {
    let mut table: Option<&str> = None;
    let mut rows = Vec::new();
    for line in REFERENCE.lines() {
        if let Some((_, path)) = TABLES.iter().find(|(heading, _)| *heading == line) {
            table = Some(path);
        } else if line == "## [sleep], [lineage], [witness]" {
            table = Some("");
        } else if line.starts_with('#') {
            table = None;
        }
        let (Some(table), true) = (table, line.starts_with("| `")) else {
            continue;
        };
        let cells: Vec<&str> = line.trim_matches('|').splitn(4, '|').map(str::trim).collect();
        let [keys, kind, default, meaning] = cells[..] else {
            panic!("a row of four cells: {line}")
        };
        let (table, meaning) = match meaning.strip_prefix("In `[") {
            Some(rest) => {
                let (name, meaning) = rest.split_once("]`: ").expect("In `[table]`: meaning");
                (name, meaning)
            }
            None => (table, meaning),
        };
        rows.extend(keys.split(", ").map(|key| Row {
            table: table.to_owned(),
            key: key.trim_matches('`').to_owned(),
            kind: kind.to_owned(),
            default: default.to_owned(),
            meaning: plain(meaning),
        }));
    }
    rows
}

/// Without marks of links.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("](") {
        let (start, label) = before.rsplit_once('[').unwrap_or((before, ""));
        text.push_str(start);
        text.push_str(label);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text + rest
}

fn kind(row: &Row) -> Value {
    let command = json!({
        "type": "object", "required": ["command"], "additionalProperties": false,
        "properties": { "command": { "type": "array", "items": { "type": "string" } } },
    });
    let path = format!("{}.{}", row.table, row.key);
    let words = WORDS
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, words)| json!(words));
    match (path.as_str(), words) {
        ("workload.ready" | "workload.live", Some(words)) => {
            return json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": "^http:/" }, command] });
        }
        ("workload.stop_signal", Some(words)) => {
            return json!({ "anyOf": [{ "enum": words }, { "type": "integer", "minimum": 1, "maximum": 64 }] });
        }
        ("class.from", Some(words)) => {
            let of =
                json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": "^(header|claim) " }] });
            return json!({ "type": "array", "items": of });
        }
        (_, Some(words)) => return json!({ "enum": words }),
        (_, None) => {}
    }
    match row.kind.as_str() {
        "string" => json!({ "type": "string" }),
        "array of strings" => json!({ "type": "array", "items": { "type": "string" } }),
        "bool" => json!({ "type": "boolean" }),
        "integer" => json!({ "type": "integer" }),
        "number" => json!({ "type": "number", "exclusiveMinimum": 0 }),
        "duration" => json!({ "$ref": "#/$defs/duration" }),
        "timestamp" => json!({ "type": "string" }),
        "size" => json!({ "$ref": "#/$defs/size" }),
        "type" => json!({ "$ref": "#/$defs/type" }),
        "table of types" => json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/type" } }),
        "table of strings or secrets" => json!({ "type": "object", "additionalProperties": { "anyOf": [
            { "type": "string" },
            { "type": "object", "required": ["secret"], "additionalProperties": false,
              "properties": { "secret": { "type": "string" } } },
        ] } }),
        "value" => json!({}),
        "`[[callers.keys]]`" => json!({}),
        other => panic!("`{path}` has a type that the schema does not know: {other}"),
    }
}

fn definitions() -> Value {
    let type_ = json!({ "$ref": "#/$defs/type" });
    let one = |name: &str, of: Value| json!({ "type": "object", "required": [name], "additionalProperties": false, "properties": { name: of } });
    let bounds = json!({ "type": "object", "additionalProperties": false,
        "properties": { "min": { "type": "integer" }, "max": { "type": "integer" } } });
    let window = one("window", json!({ "$ref": "#/$defs/duration" }));
    json!({
        "duration": { "type": "string", "pattern": "^[0-9]", "examples": ["250ms", "45s", "1h30m", "7d"] },
        "size": { "anyOf": [{ "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+ *(KiB|MiB|GiB|TiB)$" }] },
        "type": { "anyOf": [
            { "enum": ["bool", "int", "decimal", "string", "bytes", "timestamp", "duration"] },
            one("set", type_.clone()), one("list", type_.clone()), one("map", type_.clone()),
            one("record", json!({ "type": "object", "additionalProperties": type_ })),
            one("enum", json!({ "type": "array", "items": { "type": "string" } })),
            one("counter", window), one("int", bounds),
        ] },
    })
}

/// The tables by path, each an object of its keys.
fn objects(rows: &[Row]) -> BTreeMap<String, Value> {
    let mut tables: BTreeMap<String, (Map<String, Value>, Vec<&str>)> = BTreeMap::new();
    for row in rows {
        let (keys, required) = tables.entry(row.table.clone()).or_default();
        let mut schema = kind(row);
        schema["description"] = json!(row.meaning);
        let default = row.default.trim_matches('`');
        if row.default.starts_with('`')
            && let Ok(value) = default.parse::<toml_value::Scalar>()
        {
            schema["default"] = value.0;
        }
        keys.insert(row.key.clone(), schema);
        if row.default == "required" {
            required.push(&row.key);
        }
    }
    tables
        .into_iter()
        .map(|(path, (keys, required))| {
            let object = json!({ "type": "object", "properties": keys, "required": required, "additionalProperties": false });
            (path, object)
        })
        .collect()
}

/// Defaults as the reference writes them: numbers, words, `true`; a duration is a string.
mod toml_value {
    pub(super) struct Scalar(pub(super) serde_json::Value);

    impl std::str::FromStr for Scalar {
        type Err = std::convert::Infallible;

        fn from_str(text: &str) -> Result<Self, Self::Err> {
            Ok(Self(serde_json::from_str(text).unwrap_or_else(|_| text.into())))
        }
    }
}

fn schema() -> Value {
    let mut tables = objects(&rows());
    let mut take = |path: &str| {
        tables
            .remove(path)
            .unwrap_or_else(|| panic!("no table `{path}` in the reference"))
    };
    let mut root = take("");
    let mut workload = take("workload");
    workload["properties"]["limits"] = take("workload.limits");
    workload["properties"]["mounts"] = json!({ "type": "array", "items": take("workload.mounts[]") });
    // Of an image the command is the image's.
    workload["required"] = json!([]);
    workload["anyOf"] = json!([{ "required": ["command"] }, { "required": ["image"] }]);
    let mut callers = take("callers");
    callers["properties"]["keys"] = json!({ "type": "array", "items": take("callers.keys[]"),
        "description": callers["properties"]["keys"]["description"] });
    let field = json!({ "anyOf": [{ "$ref": "#/$defs/type" }, take("memory.*")] });
    let properties = root["properties"].as_object_mut().expect("keys");
    properties.insert("workload".to_owned(), workload);
    properties.insert("callers".to_owned(), callers);
    properties.insert(
        "memory".to_owned(),
        json!({ "type": "object", "additionalProperties": field }),
    );
    for name in ["timers", "rates", "elsewhere"] {
        let named = take(&format!("{name}.*"));
        properties.insert(
            name.to_owned(),
            json!({ "type": "object", "additionalProperties": named }),
        );
    }
    for name in [
        "class",
        "gate",
        "messages",
        "sleep",
        "lineage",
        "witness",
        "controllers",
    ] {
        properties.insert(name.to_owned(), take(name));
    }
    assert!(
        tables.is_empty(),
        "tables that are in no place of the schema: {:?}",
        tables.keys()
    );
    root["required"] = json!(["name", "workload"]);
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("object.toml of Suijuris");
    root["$defs"] = definitions();
    root
}

#[test]
fn the_committed_schema_is_that_of_the_reference() {
    let made = format!("{:#}\n", schema());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(COMMITTED, &made).expect("write");
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(
        committed == made,
        "run this test with BLESS=1 and commit docs/object.schema.json"
    );
}

/// What `check` says to a document with these lines in the table `path`.
fn help(path: &str, line: &str) -> Vec<(String, String)> {
    let (_, document) = AT
        .iter()
        .find(|(at, _)| *at == path)
        .unwrap_or_else(|| panic!("no document for `{path}`"));
    let document = document.replace('@', line);
    let Err(report) = build_texts(&document, "permit (principal, action, resource);", Path::new(".")) else {
        panic!("taken: {document}")
    };
    let said = report.diagnostics().iter();
    said.map(|said| (said.message.clone(), said.help.clone().unwrap_or_default()))
        .collect()
}

/// The words after `lead` in an answer of `check` that speaks of `about`.
fn listed(said: &[(String, String)], about: &str, lead: &str) -> BTreeSet<String> {
    let found = said
        .iter()
        .find(|(message, help)| message.contains(about) && help.contains(lead));
    let (_, help) = found.unwrap_or_else(|| panic!("`{about}` is not told: {said:?}"));
    let (_, list) = help.split_once(lead).expect("a list");
    list.split(", ").map(|word| word.trim().to_owned()).collect()
}

#[test]
fn the_schema_has_the_keys_that_the_reader_knows() {
    let made = schema();
    for (path, _) in AT {
        let known = listed(&help(path, "qqqqqqqq = 1"), "qqqqqqqq", "known here: ");
        let place = path
            .split('.')
            .filter(|part| !part.is_empty())
            .fold(&made, |at, part| match part {
                "*" => &at["additionalProperties"],
                _ if part.ends_with("[]") => &at["properties"][part.trim_end_matches("[]")]["items"],
                _ => &at["properties"][part],
            });
        let place = if path == "memory.*" {
            &place["anyOf"][1]
        } else {
            place
        };
        let properties = place["properties"]
            .as_object()
            .unwrap_or_else(|| panic!("`{path}`: {place}"));
        let keys: BTreeSet<String> = properties.keys().cloned().collect();
        assert_eq!(keys, known, "keys of `{path}`");
    }
}

#[test]
fn the_schema_has_the_words_that_the_reader_knows() {
    for (path, words) in WORDS {
        if path == "class.from" {
            continue; // the reader lists no words there; the examples below have them
        }
        let (table, key) = path.rsplit_once('.').expect("a dotted path");
        let said = help(table, &format!("{key} = \"qqqqqqqq\""));
        let mut known = listed(&said, "qqqqqqqq", "it is one of ");
        known.retain(|word| !word.starts_with("http:") && !word.starts_with('{'));
        let words: BTreeSet<String> = words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(words, known, "words of `{path}`");
    }
}
