//! An image with the programs and nothing else, as an OCI layout.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use super::{Release, tar};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes it and says where.
pub(super) fn write(shell: &Shell, release: &Release, out: &Path, staged: &Path) -> Result<PathBuf> {
    let layout = out.join("suijuris.oci");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let root = out.join("root");
    let bin = root.join("usr/bin");
    // Workloads and the daemon want these to be there.
    for directory in ["tmp", "proc", "dev", "var/lib/suijuris", "usr/bin"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for program in ["suijuris", "suijuris-init"] {
        fs::copy(staged.join("bin").join(program), bin.join(program))?;
    }
    let plain = out.join("layer.tar");
    tar(shell, release, &root, &["."], &plain)?;
    let unpacked = digest(shell, &plain)?;
    cmd!(shell, "gzip --no-name --best --force {plain}")
        .quiet()
        .run()?;
    let layer = add(shell, &blobs, &fs::read(out.join("layer.tar.gz"))?, LAYER)?;
    let config = json!({
        "architecture": release.debian(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/suijuris"],
            "Cmd": ["serve", "/var/lib/suijuris", "--listen", "0.0.0.0:8080"],
            "Env": ["PATH=/usr/bin", "HOME=/var/lib/suijuris", "XDG_DATA_HOME=/var/lib/suijuris/data"],
            "ExposedPorts": { "8080/tcp": {} },
            "Volumes": { "/var/lib/suijuris": {} },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{unpacked}")] },
    });
    let config = add(shell, &blobs, &serde_json::to_vec(&config)?, CONFIG)?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = add(shell, &blobs, &serde_json::to_vec(&manifest)?, MANIFEST)?;
    if let Some(descriptor) = manifest.as_object_mut() {
        let name = json!({ "org.opencontainers.image.ref.name": release.version });
        descriptor.insert("annotations".to_owned(), name);
    }
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::remove_file(out.join("layer.tar.gz"))?;
    fs::remove_dir_all(root)?;
    Ok(layout)
}

/// Puts bytes among the blobs; their descriptor.
fn add(shell: &Shell, blobs: &Path, bytes: &[u8], kind: &str) -> Result<Value> {
    let staged = blobs.join("new");
    fs::write(&staged, bytes)?;
    let name = digest(shell, &staged)?;
    fs::rename(staged, blobs.join(&name))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{name}"), "size": bytes.len() }))
}

fn digest(shell: &Shell, path: &Path) -> Result<String> {
    let said = cmd!(shell, "sha256sum {path}").quiet().read()?;
    Ok(said
        .split_whitespace()
        .next()
        .context("sha256sum said nothing")?
        .to_owned())
}
