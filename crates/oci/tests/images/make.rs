//! Small images, in every form in which images come.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use suijuris_oci::image::{CONFIG_TYPE, LAYER_TYPE, Platform};
use suijuris_oci::{
    Blob, ContentDigest, Descriptor, INDEX_TYPE, MANIFEST_TYPE, MAX_BLOB_BYTES, Package, Reference, Registry,
};

use super::tarball::{Tarball, gzip};

/// A layer: its blob, and the archive in it.
#[derive(Debug, Clone)]
pub(crate) struct MadeLayer {
    pub(crate) blob: Vec<u8>,
    pub(crate) plain: Vec<u8>,
    pub(crate) packing: &'static str,
}

impl MadeLayer {
    pub(crate) fn plain(archive: Tarball) -> Self {
        let plain = archive.end();
        Self {
            blob: plain.clone(),
            plain,
            packing: "",
        }
    }

    pub(crate) fn gzip(archive: Tarball) -> Self {
        let plain = archive.end();
        Self {
            blob: gzip(&plain),
            plain,
            packing: "+gzip",
        }
    }

    fn descriptor(&self) -> Value {
        descriptor(&format!("{LAYER_TYPE}{}", self.packing), &self.blob)
    }
}

/// An image with all its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) layers: Vec<MadeLayer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

pub(crate) fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": ContentDigest::of(bytes), "size": bytes.len()})
}

impl Made {
    pub(crate) fn new(layers: Vec<MadeLayer>) -> Self {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| ContentDigest::of(&layer.plain))
            .collect();
        let config = json!({
            "architecture": Platform::host().architecture, "os": "linux", "author": "kept",
            "config": {"Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": descriptor(CONFIG_TYPE, &config),
            "layers": layers.iter().map(MadeLayer::descriptor).collect::<Vec<_>>(),
        });
        Self {
            layers,
            config,
            manifest: serde_json::to_vec(&manifest).unwrap(),
        }
    }

    /// The usual one: a base and something on top.
    pub(crate) fn usual() -> Self {
        let base = Tarball::default()
            .dir("./")
            .dir("bin/")
            .file("bin/app", b"#!/bin/sh\n")
            .file("etc/motd", b"base")
            .file("etc/gone", b"x");
        let top = Tarball::default()
            .file("etc/motd", b"top")
            .file("etc/.wh.gone", b"")
            .file("srv/data", &vec![5; 100_000]);
        Self::new(vec![MadeLayer::gzip(base), MadeLayer::gzip(top)])
    }

    pub(crate) fn digest(&self) -> ContentDigest {
        ContentDigest::of(&self.manifest)
    }

    /// All blobs, by name.
    pub(crate) fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let layers = self.layers.iter().map(|layer| layer.blob.clone());
        let all = layers.chain([self.config.clone(), self.manifest.clone()]);
        all.map(|bytes| (ContentDigest::of(&bytes).hex(), bytes))
            .collect()
    }

    /// The files of a layout; the image is behind an index of its own, as builders write it.
    pub(crate) fn layout_files(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut listed = descriptor(MANIFEST_TYPE, &self.manifest);
        let other = json!({"os": "linux", "architecture": "mips"});
        let mut foreign = descriptor(MANIFEST_TYPE, b"another");
        foreign["platform"] = other;
        listed["platform"] = json!(Platform::host());
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [foreign, listed]});
        let index = serde_json::to_vec(&index).unwrap();
        let mut entry = descriptor(INDEX_TYPE, &index);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let mut entries = vec![entry];
        // An index at the top may lead to another one only if that is for no platform, or for this.
        entries[0]["platform"] = json!(Platform::host());
        let top = json!({"schemaVersion": 2, "manifests": entries});
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), serde_json::to_vec(&top).unwrap()),
            (format!("blobs/sha256/{}", ContentDigest::of(&index).hex()), index),
        ];
        files.extend(
            self.blobs()
                .into_iter()
                .map(|(hex, bytes)| (format!("blobs/sha256/{hex}"), bytes)),
        );
        files
    }

    pub(crate) fn write_layout(&self, dir: &Path, name: &str) {
        for (path, bytes) in self.layout_files(name) {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// What `docker save` wrote before it knew OCI: layers uncompressed, the same one as a link.
    pub(crate) fn classic(&self, name: &str) -> Vec<u8> {
        let mut archive = Tarball::default();
        let mut names: Vec<String> = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let path = format!("{number}/layer.tar");
            let before = self.layers[..number]
                .iter()
                .position(|other| other.plain == layer.plain);
            archive = match before {
                Some(before) => archive.symlink(&path, &format!("../{before}/layer.tar")),
                None => archive.file(&path, &layer.plain),
            };
            names.push(path);
        }
        let config = format!("{}.json", ContentDigest::of(&self.config).hex());
        let saved = json!([{"Config": config, "RepoTags": [name], "Layers": names}]);
        archive
            .file(&config, &self.config)
            .file("manifest.json", &serde_json::to_vec(&saved).unwrap())
            .end()
    }

    pub(crate) fn oci_archive(&self, name: &str) -> Vec<u8> {
        let files = self.layout_files(name);
        files
            .into_iter()
            .fold(Tarball::default(), |archive, (path, bytes)| {
                archive.file(&path, &bytes)
            })
            .end()
    }

    pub(crate) async fn push(&self, registry: &Registry, to: &Reference, dir: &Path) {
        let path = dir.join("config-to-push");
        fs::write(&path, &self.config).unwrap();
        let blob = Blob::measure(&path, MAX_BLOB_BYTES).unwrap();
        let small: Vec<&[u8]> = self.layers.iter().map(|layer| &*layer.blob).collect();
        let entry = Descriptor::new(
            MANIFEST_TYPE.parse().unwrap(),
            self.digest(),
            self.manifest.len() as u64,
        );
        let package = Package {
            manifest: &self.manifest,
            entry,
            subject: None,
            small: &small,
            blob: &blob,
        };
        registry.push(to, &package, &mut |_, _| {}).await.unwrap();
    }
}
