//! What can only be done once all members are there: links that came before their targets, whiteouts, and what directories
//! are given. Called by [`super::fill`].

use std::collections::BTreeMap;

use super::entry::{Entry, Kind};
use super::fill::{Filling, at};
use super::path::EntryPath;
use super::tree::TreeError;
use super::{UnpackError, Unpacked};

/// Times that links are tried again which wait for other links.
const LINK_PASSES: usize = 8;

impl Filling<'_> {
    pub(super) fn end(mut self) -> Result<Unpacked, UnpackError> {
        self.end_links()?;
        self.make_opaque()?;
        self.end_whiteouts()?;
        self.mark_opaque()?;
        self.end_groups();
        // From below upwards: a directory's time changes while something is made in it.
        for (path, entry) in self
            .entries
            .iter()
            .rev()
            .filter(|(_, entry)| entry.is_directory())
        {
            let kept = self
                .tree
                .finish_directory(path, entry)
                .map_err(|source| at(path, source))?;
            self.report.directories = self.report.directories.saturating_add(1);
            // Implied directories have no owner to be kept.
            if !matches!(entry.kind, Kind::Directory { implied: true, .. }) {
                self.report.owners_kept = self.report.owners_kept.saturating_add(u64::from(kept.owner));
                self.report.special_bits_kept = self
                    .report
                    .special_bits_kept
                    .saturating_add(u64::from(kept.special_bits));
                self.report.xattrs_kept = self.report.xattrs_kept.saturating_add(u64::from(kept.xattrs));
            }
        }
        Ok(Unpacked {
            entries: self.entries,
            report: self.report,
        })
    }

    fn end_links(&mut self) -> Result<(), UnpackError> {
        for _ in 0..LINK_PASSES {
            for (path, target) in std::mem::take(&mut self.waiting) {
                if self.entries.contains_key(&target) {
                    self.link(path, target)?;
                } else {
                    self.waiting.insert(path, target);
                }
            }
        }
        match self.waiting.pop_first() {
            Some((path, target)) => Err(UnpackError::Link { path, target }),
            None => Ok(()),
        }
    }

    /// A directory that hides what is below it is there, though it be empty.
    fn make_opaque(&mut self) -> Result<(), UnpackError> {
        for path in self.opaque.clone() {
            if !self.entries.contains_key(&path) {
                self.make(&path, |tree, made| tree.make_directory(&path, made))?;
                self.entries.insert(path, Entry::implied());
            }
        }
        Ok(())
    }

    /// What the layer itself has under a name that it hides is not hidden; a directory there hides the one below. Below
    /// what is hidden, there is nothing more to hide.
    fn end_whiteouts(&mut self) -> Result<(), UnpackError> {
        for path in std::mem::take(&mut self.whiteouts) {
            self.report.whiteouts = self.report.whiteouts.saturating_add(1);
            let hidden = self.is_hidden(&path);
            match self.entries.get_mut(&path) {
                Some(entry) => {
                    if let Kind::Directory { implied, .. } = &mut entry.kind {
                        *implied = false;
                        self.opaque.insert(path);
                    }
                }
                None if hidden => {}
                None => {
                    let entry = Entry::whiteout();
                    let made = self.make(&path, |tree, made| tree.make_special(&path, &entry, made))?;
                    self.report.overlay &= made.is_some();
                    self.entries.insert(path, entry);
                }
            }
        }
        Ok(())
    }

    fn is_hidden(&self, path: &EntryPath) -> bool {
        let mut directory = path.split().map(|(directory, _)| directory);
        while let Some(here) = directory {
            if matches!(
                self.entries.get(&here).map(|entry| &entry.kind),
                Some(Kind::Whiteout)
            ) {
                return true;
            }
            directory = here.split().map(|(directory, _)| directory);
        }
        false
    }

    fn mark_opaque(&mut self) -> Result<(), UnpackError> {
        for path in std::mem::take(&mut self.opaque) {
            self.report.whiteouts = self.report.whiteouts.saturating_add(1);
            if let Some(Kind::Directory { opaque, .. }) =
                self.entries.get_mut(&path).map(|entry| &mut entry.kind)
            {
                *opaque = true;
            } else {
                return Err(at(&path, TreeError::ThroughFile(path.clone())));
            }
            self.report.opaque_root |= path.is_root();
            self.report.overlay &= self.tree.mark_opaque(&path).map_err(|source| at(&path, source))?;
        }
        Ok(())
    }

    /// The first name of a file stands for it, the others refer to it.
    fn end_groups(&mut self) {
        let mut first: BTreeMap<u64, EntryPath> = BTreeMap::new();
        for (path, group) in &self.groups {
            match first.get(group) {
                None => {
                    first.insert(*group, path.clone());
                }
                Some(leader) => {
                    if let Some(entry) = self.entries.get_mut(path) {
                        entry.link = Some(leader.clone());
                    }
                }
            }
        }
    }
}
