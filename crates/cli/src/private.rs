//! What no machine may see of this user's files: keys, the depot, the daemon's directory, other objects.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use suijuris_supervisor::paths::short_dir;

use crate::depots::DepotArg;
use crate::{owner, registry};

/// Other objects at most; those that were noted first in the order of their names.
const MAX_OBJECTS: usize = 900;

/// Those places; asked anew for each machine, as objects come and go.
pub(crate) fn places(depot: &DepotArg, root: Option<&Path>) -> Box<dyn Fn() -> Vec<PathBuf>> {
    let owner = owner::path().map(|key| match key.parent() {
        Some(dir) if dir.ends_with("suijuris") => dir.to_owned(),
        _ => key,
    });
    let named = depot
        .depot
        .as_deref()
        .map(|url| url.strip_prefix("file://").unwrap_or(url));
    let variable = |name: &str| std::env::var(name).ok();
    let depot = match named {
        Some(path) => Some(PathBuf::from(path)),
        None => suijuris_depot::default_directory(&variable).ok(),
    };
    let fixed: Vec<PathBuf> = [
        owner,
        registry::home(),
        depot,
        root.map(Path::to_owned),
        Some(short_dir()),
    ]
    .into_iter()
    .flatten()
    .filter(|path| path.is_absolute())
    .collect();
    let known = RefCell::new(Known::default());
    Box::new(move || {
        let mut places = fixed.clone();
        places.extend(known.borrow_mut().objects().iter().cloned());
        places
    })
}

/// Data directories of all noted objects, read again when a note came or went.
#[derive(Default)]
struct Known {
    changed: Option<SystemTime>,
    data: Vec<PathBuf>,
}

impl Known {
    fn objects(&mut self) -> &[PathBuf] {
        let changed = registry::dir().and_then(|dir| dir.metadata().ok()?.modified().ok());
        if changed.is_none() || changed != self.changed {
            let notes = registry::all().unwrap_or_default();
            let data = notes.into_iter().map(|(_, note)| note.data);
            self.data = data.filter(|path| path.is_absolute()).take(MAX_OBJECTS).collect();
            self.changed = changed;
        }
        &self.data
    }
}
