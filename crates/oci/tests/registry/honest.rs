//! A small registry in memory that keeps to distribution-spec 1.1, the referrers API included.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use suijuris_oci::{ContentDigest, INDEX_TYPE};

use super::liar::{Answer, Seen};

#[derive(Default)]
pub(crate) struct Registry {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: media type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
}

impl Registry {
    pub(crate) fn put_manifest(&mut self, target: &str, media_type: &str, bytes: &[u8]) {
        let kept = (media_type.to_owned(), bytes.to_vec());
        self.manifests
            .insert(ContentDigest::of(bytes).to_string(), kept.clone());
        self.manifests.insert(target.to_owned(), kept);
    }

    pub(crate) fn has(&self, target: &str) -> bool {
        self.manifests.contains_key(target)
    }

    pub(crate) fn answer(&mut self, seen: &Seen) -> Answer {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        let [last, kind, _] = parts.as_slice() else {
            return Answer::new(404, "");
        };
        match (seen.method.as_str(), *kind, *last) {
            ("POST", "uploads", "") => Answer::new(202, "").header("location", format!("{path}1?state=a")),
            ("PUT", "uploads", _) => self.put_blob(query, &seen.body),
            ("GET" | "HEAD", "blobs", digest) => match self.blobs.get(digest) {
                Some(bytes) => blob(bytes, seen.range.as_deref()),
                None => Answer::new(404, ""),
            },
            ("PUT", "manifests", target) => self.put(target, seen),
            ("GET", "manifests", target) => match self.manifests.get(target) {
                Some((kind, bytes)) => Answer::new(200, bytes.clone()).header("content-type", kind.clone()),
                None => Answer::new(404, ""),
            },
            ("GET", "referrers", subject) => self.referrers(subject),
            _ => Answer::new(404, ""),
        }
    }

    fn put_blob(&mut self, query: &str, bytes: &[u8]) -> Answer {
        let digest = ContentDigest::of(bytes).to_string();
        let wanted = format!("state=a&digest={}", digest.replace(':', "%3A"));
        if query != wanted {
            return Answer::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
        }
        self.blobs.insert(digest, bytes.to_vec());
        Answer::new(201, "")
    }

    fn put(&mut self, target: &str, seen: &Seen) -> Answer {
        self.put_manifest(target, &seen.content_type, &seen.body);
        let json: Value = serde_json::from_slice(&seen.body).unwrap();
        let answer = Answer::new(201, "");
        match json["subject"]["digest"].as_str() {
            Some(subject) => answer.header("oci-subject", subject),
            None => answer,
        }
    }

    fn referrers(&self, subject: &str) -> Answer {
        let mut entries = Vec::new();
        for (name, (media_type, bytes)) in &self.manifests {
            let json: Value = serde_json::from_slice(bytes).unwrap();
            if json["subject"]["digest"] == *subject && name.starts_with("sha256:") {
                entries.push(json!({
                    "mediaType": media_type, "digest": name, "size": bytes.len(),
                    "artifactType": json["artifactType"], "annotations": json["annotations"],
                }));
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries});
        Answer::new(200, index.to_string()).header("content-type", INDEX_TYPE)
    }
}

/// A blob, or what follows its first bytes.
fn blob(bytes: &[u8], range: Option<&str>) -> Answer {
    let from = range.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    match from.and_then(|from| Some((from, bytes.get(from..)?))) {
        Some((from, rest)) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206, rest).header("content-range", range)
        }
        None => Answer::new(200, bytes),
    }
}
