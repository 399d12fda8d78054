//! Name tables in memory.

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::Entry;

use super::{Memory, State};
use crate::{Answer, Directory, Error, MAX_NAMES, NameRemoval, NameSwap, Version, entry};

impl Memory {
    /// Puts `bytes` in place of the entry under `key`, likewise.
    pub fn corrupt_name(&self, class: ClassId, key: &Key, bytes: &[u8]) {
        let stored = (bytes.to_vec(), u64::MAX);
        self.state().names.insert((class, key.clone()), stored);
    }
}

fn version(number: u64) -> Version {
    Version(number.to_be_bytes().to_vec())
}

impl State {
    fn name(&self, at: &(ClassId, Key)) -> Result<Option<(Entry, Version)>, Error> {
        let Some((stored, number)) = self.names.get(at) else {
            return Ok(None);
        };
        let place = format!("memory:{}", Entry::name(at.0, &at.1));
        Ok(Some((entry::open(stored, &place)?, version(*number))))
    }
}

impl Directory for Memory {
    fn name<'a>(&'a self, class: ClassId, key: &'a Key) -> Answer<'a, Option<(Entry, Version)>> {
        Box::pin(async move { self.state().name(&(class, key.clone())) })
    }

    fn swap_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        entry: &'a Entry,
        expected: Option<&'a Version>,
    ) -> Answer<'a, NameSwap> {
        Box::pin(async move {
            let stored = entry::stamp(entry)?;
            let at = (class, key.clone());
            let mut state = self.state();
            let present = state.name(&at)?;
            if present.as_ref().map(|(_, version)| version) != expected {
                return Ok(NameSwap::Conflict(present));
            }
            state.versions += 1;
            let number = state.versions;
            state.names.insert(at, (stored, number));
            Ok(NameSwap::Done(version(number)))
        })
    }

    fn remove_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, NameRemoval> {
        Box::pin(async move {
            let at = (class, key.clone());
            let mut state = self.state();
            let present = state.name(&at)?;
            if present.as_ref().map(|(_, version)| version) != Some(expected) {
                return Ok(NameRemoval::Conflict(present));
            }
            state.names.remove(&at);
            Ok(NameRemoval::Done)
        })
    }

    fn names<'a>(
        &'a self,
        class: ClassId,
        after: Option<&'a Key>,
        limit: usize,
    ) -> Answer<'a, Vec<(Key, Entry)>> {
        Box::pin(async move {
            let state = self.state();
            let of_class = state.names.keys().filter(|(of, _)| *of == class);
            let page = of_class
                .filter(|(_, key)| after.is_none_or(|after| key > after))
                .take(limit.min(MAX_NAMES));
            page.filter_map(|at| {
                let found = state.name(at).transpose()?;
                Some(found.map(|(entry, _)| (at.1.clone(), entry)))
            })
            .collect()
        })
    }

    fn count_names(&self, class: ClassId) -> Answer<'_, u64> {
        Box::pin(async move {
            let state = self.state();
            let of_class = state.names.iter().filter(|((of, _), _)| *of == class);
            let sizes = of_class.map(|(_, (stored, _))| stored.len() as u64);
            Ok(sizes.filter(|size| entry::counts(*size)).count() as u64)
        })
    }
}
