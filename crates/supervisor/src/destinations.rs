//! Places that objects may move to of their own accord, as a file of their host names them; and handing out an object that departed
//! for one of them. The same for `up` and `serve`: the actor lets it depart (`actor::moving`), and what is behind that is here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use suijuris_core::inputs::{Host, Principal, Vehicle};
use suijuris_core::lineage::{Body, Departed, Head};
use suijuris_custody::chain;
use suijuris_custody::migrate::is_marked;
use suijuris_depot::Depot;
use suijuris_store::{Depth, Reader, capsule};

use crate::paths::ObjectPaths;
use crate::serve::packing::{KeyWrap, Parcel, packed};

/// What such a file is called in the directory of a daemon, and in that of an object that `up` runs.
pub const FILE: &str = "destinations.json";

/// Bytes of such a file at most.
const MAX_FILE: u64 = 1 << 20;

/// Why places cannot be known.
#[derive(Debug, thiserror::Error)]
#[error("the places in {} cannot be read: {why}", path.display())]
pub struct DestinationsError {
    path: PathBuf,
    why: String,
}

/// A place that objects may move to of their own accord: what carries them there takes capsules out of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownPlace {
    /// Its region, as rules see it.
    pub region: String,
    /// What carries machines there, as rules see it.
    pub provider: String,
    /// Class of machine, as rules see it.
    #[serde(default)]
    pub class: String,
    /// Its name, as rules see it.
    pub id: String,
    /// Where capsules for it are put.
    pub dir: PathBuf,
    /// Whom keys are sealed to in them: age recipients.
    pub seal_to: Vec<String>,
}

impl KnownPlace {
    /// The place as rules see it.
    #[must_use]
    pub fn host(&self) -> Host {
        let vehicle = Vehicle {
            provider: &self.provider,
            class: &self.class,
        };
        Host::of(vehicle, Some(&self.region), &self.id)
    }

    /// The place in records, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

/// The places that a file names; none where it is not there.
///
/// # Errors
/// [`DestinationsError`].
pub fn read(path: &Path) -> Result<Vec<KnownPlace>, DestinationsError> {
    let wrong = |why: String| DestinationsError {
        path: path.to_owned(),
        why,
    };
    let found = match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(|error| wrong(error.to_string()))?,
    };
    if found.len() > MAX_FILE {
        return Err(wrong("it is too large".to_owned()));
    }
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let places: Vec<KnownPlace> = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    match places.iter().find(|place| !place.dir.is_absolute()) {
        Some(place) => Err(wrong(format!(
            "`dir` is an absolute path, and `{}` is none",
            place.place()
        ))),
        None => Ok(places),
    }
}

/// Packs an object that departed of its own accord, for whoever carries it on; nothing where it left otherwise, was handed out, or has
/// arrived. Cut off, it is done again.
///
/// # Errors
/// In words: it is to be tried again.
pub async fn hand_out(
    paths: &ObjectPaths,
    places: &[KnownPlace],
    depot: Option<&dyn Depot>,
    wrap: &Arc<dyn KeyWrap>,
) -> Result<(), String> {
    if places.is_empty() {
        return Ok(());
    }
    let Some((head, departed)) = departure(paths).await? else {
        return Ok(());
    };
    let place = places.iter().find(|place| place.place() == departed.to);
    let Some(place) = place.filter(|_| departed.decision.inputs.principal == Principal::Own) else {
        return Ok(());
    };
    let file = place.dir.join(format!("{}.sui", head.object));
    let marked = match depot {
        Some(depot) => is_marked(depot, &head).await.map_err(|error| chain(&error))?,
        None => true,
    };
    if !marked || is_packed(&file, &head).await? {
        // It has arrived, or whoever carries it finds it.
        return Ok(());
    }
    let parcel = Parcel {
        file,
        seal_to: place.seal_to.clone(),
        volume: true,
    };
    packed(paths, &parcel, wrap).await.map(drop)
}

/// Whether this capsule is of this departure; one of an earlier journey to the same place may be left over.
async fn is_packed(file: &Path, head: &Head) -> Result<bool, String> {
    let (file, record) = (file.to_owned(), head.record);
    let look = move || {
        let Ok(file) = std::fs::File::open(file) else {
            return false;
        };
        let verified = capsule::verify(std::io::BufReader::with_capacity(256 << 10, file), |_| {});
        verified.is_ok_and(|verified| verified.state.head().record == record)
    };
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| error.to_string())
}

/// The last record of what lies in `paths`, where that is its departure.
async fn departure(paths: &ObjectPaths) -> Result<Option<(Head, Departed)>, String> {
    let home = paths.home();
    let read = tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&home, Depth::Tail).map_err(|error| chain(&error))?;
        let head = reader.state().head().clone();
        let last = reader.find(&head.record).map_err(|error| chain(&error))?;
        Ok(match last.map(|last| last.record.body) {
            Some(Body::Departed(departed)) => Some((head, departed)),
            _ => None,
        })
    });
    read.await.map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_or_said_to_be_none() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(FILE);
        assert!(read(&path).unwrap().is_empty());
        let place =
            r#"[{"region": "eu", "provider": "process", "id": "a", "dir": "/srv/eu", "seal_to": ["age1"]}]"#;
        std::fs::write(&path, place).unwrap();
        assert_eq!(read(&path).unwrap()[0].place(), "/srv/eu");
        for (wrong, why) in [
            (place.replace("/srv", "srv"), "absolute"),
            (place.replace("eu\",", "eu\", \"more\": 1,"), "unknown field"),
            ("{}".to_owned(), "invalid type"),
        ] {
            std::fs::write(&path, wrong).unwrap();
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
