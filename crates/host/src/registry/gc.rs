//! What nobody refers to any more is removed, once it has lain for a while: whoever pushes sends the parts first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use suijuris_oci::ContentDigest;

use super::{Repo, Shelf, ShelfError, names, parts};

/// How long a blob lies that no manifest names yet; how long a manifest that no tag and no index names, and an upload that nobody
/// goes on with.
pub(crate) const AGES: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(24 * 3_600));

/// Whether it was changed longer ago than `age`; what cannot be seen was not.
fn is_older(path: &Path, age: Duration) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|about| about.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|elapsed| elapsed > age))
}

impl Shelf {
    /// Removes all of an app.
    pub(crate) fn forget(&self, org: &str, app: &str) -> Result<(), ShelfError> {
        let _naming = self
            .naming
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for name in self.repositories(org) {
            let repo = Repo {
                org: org.to_owned(),
                name,
            };
            if repo.app() == app {
                fs::remove_dir_all(self.repo(&repo))?;
            }
        }
        Ok(())
    }

    /// Removes what nobody refers to, and what lay for longer than these times: blobs, and manifests and uploads.
    pub(crate) fn collect(&self, (blob_age, idle_age): (Duration, Duration)) -> Result<(), ShelfError> {
        let _naming = self
            .naming
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let uploads = self.directory.join("uploads");
        for name in names(&uploads) {
            if is_older(&uploads.join(&name), idle_age) {
                fs::remove_file(uploads.join(name))?;
            }
        }
        let mut used = BTreeSet::new();
        for org in names(&self.directory.join("repos")) {
            for name in self.repositories(&org) {
                let repo = Repo {
                    org: org.clone(),
                    name,
                };
                used.extend(self.collect_repo(&repo, (blob_age, idle_age))?);
            }
        }
        let blobs = self.directory.join("blobs");
        for hex in names(&blobs) {
            if !used.contains(&hex) && is_older(&blobs.join(&hex), blob_age) {
                fs::remove_file(blobs.join(hex))?;
            }
        }
        Ok(())
    }

    /// The same in one repository; gives the names of the contents that it has.
    fn collect_repo(
        &self,
        repo: &Repo,
        (blob_age, idle_age): (Duration, Duration),
    ) -> Result<BTreeSet<String>, ShelfError> {
        let directory = self.repo(repo);
        let tagged = self
            .tags(repo)
            .into_iter()
            .filter_map(|tag| self.find(repo, &tag).ok());
        let mut open: Vec<String> = tagged.map(|digest| digest.hex()).collect();
        let mut all = BTreeMap::new();
        let mut about: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for hex in names(&directory.join("manifests")) {
            if !is_older(&directory.join("manifests").join(&hex), idle_age) {
                open.push(hex.clone());
            }
            let manifest: Value = fs::read(self.directory.join("blobs").join(&hex))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            let subject = manifest.pointer("/subject/digest").and_then(Value::as_str);
            if let Some((_, subject)) = subject.and_then(|subject| subject.split_once(':')) {
                about.entry(subject.to_owned()).or_default().push(hex.clone());
            }
            all.insert(hex, parts(&manifest)?);
        }
        let mut kept = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        while let Some(hex) = open.pop() {
            if !kept.insert(hex.clone()) {
                continue;
            }
            if let Some((of_blobs, of_manifests)) = all.get(&hex) {
                blobs.extend(of_blobs.iter().map(ContentDigest::hex));
                open.extend(of_manifests.iter().map(ContentDigest::hex));
            }
            // What says something of an image stays as long as that does.
            open.extend(about.remove(&hex).unwrap_or_default());
        }
        for hex in all.keys().filter(|hex| !kept.contains(*hex)) {
            fs::remove_file(directory.join("manifests").join(hex))?;
        }
        for hex in names(&directory.join("blobs")) {
            let place = directory.join("blobs").join(&hex);
            if !blobs.contains(&hex) && is_older(&place, blob_age) {
                fs::remove_file(place)?;
            } else {
                kept.insert(hex);
            }
        }
        Ok(kept)
    }
}
