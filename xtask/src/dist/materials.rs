//! What the programs are made of: every crate that is linked into them, in the CycloneDX format.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, PackageId};
use serde_json::json;

use super::Release;

/// The document, version 1.5.
pub(super) fn document(release: &Release) -> Result<String> {
    let metadata = MetadataCommand::new()
        .features(CargoOpt::SomeFeatures(Vec::new()))
        .other_options(vec![
            "--filter-platform".to_owned(),
            format!("{}-unknown-linux-musl", release.architecture),
        ])
        .exec()?;
    let linked = linked(&metadata, "suijuris-cli")?;
    let components = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(&package.id))
        .map(|package| {
            let licences = package
                .license
                .as_ref()
                .map(|expression| json!([{ "expression": expression.replace('/', " OR ") }]));
            let mut component = json!({
                "type": "library",
                "name": package.name.as_str(),
                "version": package.version.to_string(),
                "bom-ref": format!("pkg:cargo/{}@{}", package.name, package.version),
                "purl": format!("pkg:cargo/{}@{}", package.name, package.version),
            });
            if let (Some(fields), Some(licences)) = (component.as_object_mut(), licences) {
                fields.insert("licenses".to_owned(), licences);
            }
            component
        });
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": { "type": "application", "name": "suijuris", "version": release.version, "bom-ref": "suijuris" },
        },
        "components": components.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// Whatever `root` reaches by dependencies that are not for builds or tests alone.
fn linked(metadata: &Metadata, root: &str) -> Result<BTreeSet<PackageId>> {
    let resolve = metadata.resolve.as_ref().context("cargo resolved nothing")?;
    let root = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == root);
    let mut waiting = vec![root.context("the program is not in the workspace")?.id.clone()];
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id.clone()) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == id);
        let node = node.context("cargo resolved a part of it")?;
        let normal = node.deps.iter().filter(|to| {
            to.dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal)
        });
        waiting.extend(normal.map(|to| to.pkg.clone()));
    }
    Ok(reached)
}
