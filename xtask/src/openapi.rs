//! The OpenAPI documents of the control API and of the host's Machines API: made from their types and tables, and committed, so
//! that clients are made from them without building anything, and a change of an API shows in review.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::workspace::{cargo, metadata, root, shell};

/// Features of the packages whose examples print the documents. CI builds the workspace with them, so that nothing is built twice.
pub(crate) const FEATURES: &str = "suijuris-api/openapi,suijuris-host/openapi";

/// A document: where it stands, and what prints it.
struct Document {
    path: &'static str,
    example: &'static str,
}

const DOCUMENTS: [Document; 2] = [
    Document {
        path: "docs/openapi.json",
        example: "openapi",
    },
    Document {
        path: "docs/machines-openapi.json",
        example: "host_openapi",
    },
];

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail where the committed one is another
    #[arg(long)]
    check: bool,
}

/// Writes the documents, or compares them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shell = shell()?;
    if arguments.check {
        return check(&shell);
    }
    for document in &DOCUMENTS {
        let path = document.path;
        std::fs::write(root().join(path), made(&shell, document)?)
            .with_context(|| format!("{path} cannot be written"))?;
    }
    Ok(())
}

/// Fails where a committed document is not what the types say.
pub(crate) fn check(shell: &Shell) -> Result<()> {
    for document in &DOCUMENTS {
        let path = document.path;
        let committed = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        if committed != made(shell, document)? {
            bail!("{path} is not what the types say: run `cargo xtask openapi`, and commit it");
        }
    }
    Ok(())
}

fn made(shell: &Shell, document: &Document) -> Result<String> {
    let arguments = [
        "build",
        "--quiet",
        "--workspace",
        "--features",
        FEATURES,
        "--example",
        document.example,
    ];
    cargo(shell, &arguments).run()?;
    let target = metadata()?.target_directory.into_std_path_buf();
    let program = target.join("debug/examples").join(document.example);
    let text = cmd!(shell, "{program}").quiet().read()?;
    let document = sorted(serde_json::from_str(&text)?);
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

/// With the keys of each object in order: what else is built decides whether the library keeps the order in which they came.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<String, Value> = members
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_whatever_order_they_came_in() {
        let value: Value = serde_json::from_str(r#"{"b": [{"d": 1, "c": 2}], "a": null}"#).unwrap();
        assert_eq!(sorted(value).to_string(), r#"{"a":null,"b":[{"c":2,"d":1}]}"#);
    }
}
