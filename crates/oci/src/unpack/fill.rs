//! Member after member into the tree. What is done at the end stands in [`super::end`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use super::entry::{Entries, Entry, Kind};
use super::member::{Member, MemberKind, Members};
use super::metadata::Kept;
use super::path::{EntryPath, MAX_PATH_BYTES, NotAnEntryPath, escape};
use super::pour::{archive_error, pour};
use super::stream::Bomb;
use super::tree::{Tree, TreeError};
use super::{Limits, Report, Step, UnpackError, Unpacked, Watch};
use crate::printable;

/// How a name that hides another begins (image-spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// A name that makes its directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How names that AUFS keeps for itself begin.
const RESERVED: &[u8] = b".wh..wh.";

/// Devices that a report names at most.
const NAMED_DEVICES: usize = 32;

/// A layer on its way into its tree.
pub(super) struct Filling<'a> {
    pub(super) tree: Tree,
    pub(super) entries: Entries,
    /// Groups of names of one file.
    pub(super) groups: BTreeMap<EntryPath, u64>,
    /// Links before their targets.
    pub(super) waiting: BTreeMap<EntryPath, EntryPath>,
    pub(super) whiteouts: BTreeSet<EntryPath>,
    pub(super) opaque: BTreeSet<EntryPath>,
    pub(super) report: Report,
    limits: Limits,
    step: Step,
    declared: u64,
    name_bytes: u64,
    watch: &'a mut Watch<'a>,
}

pub(super) fn fill<'a, R: Read>(
    members: &mut Members<R>,
    into: &Path,
    as_root: bool,
    limits: Limits,
    watch: &'a mut Watch<'a>,
) -> Result<Unpacked, UnpackError> {
    let tree = Tree::open(into, as_root).map_err(|source| at(&EntryPath::root(), source))?;
    let mut filling = Filling {
        tree,
        entries: Entries::from([(EntryPath::root(), Entry::implied())]),
        groups: BTreeMap::new(),
        waiting: BTreeMap::new(),
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
        report: Report {
            overlay: true,
            ..Report::default()
        },
        limits,
        step: Step { entries: 0, bytes: 0 },
        declared: 0,
        name_bytes: 0,
        watch,
    };
    while let Some(member) = members.next().map_err(archive_error)? {
        filling.count(&member)?;
        filling.place(&member, members)?;
    }
    filling.end()
}

pub(super) fn at(path: &EntryPath, source: TreeError) -> UnpackError {
    UnpackError::Tree {
        path: path.clone(),
        source,
    }
}

fn parse(bytes: &[u8]) -> Result<EntryPath, UnpackError> {
    EntryPath::parse(bytes).map_err(|why| UnpackError::Path {
        path: printable(&escape(bytes)),
        why,
    })
}

impl Filling<'_> {
    fn watch(&mut self) -> Result<(), UnpackError> {
        match (self.watch)(self.step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(UnpackError::Cancelled),
        }
    }

    /// Counts a member against the limits before anything is made of it.
    fn count(&mut self, member: &Member) -> Result<(), UnpackError> {
        self.step.entries = self.step.entries.saturating_add(1);
        if self.step.entries > self.limits.entries {
            return Err(UnpackError::Entries(self.limits.entries));
        }
        let attributes: usize = member
            .xattrs
            .iter()
            .map(|(name, value)| name.len().saturating_add(value.len()))
            .sum();
        let names = member
            .path
            .len()
            .saturating_add(member.link.len())
            .saturating_add(attributes);
        self.name_bytes = self.name_bytes.saturating_add(names as u64);
        if self.name_bytes > self.limits.name_bytes {
            return Err(UnpackError::Names(self.limits.name_bytes));
        }
        self.declared = self.declared.saturating_add(member.size);
        if self.declared > self.limits.bytes {
            return Err(UnpackError::Bomb(Bomb::Bytes(self.limits.bytes)));
        }
        self.watch()
    }

    fn place<R: Read>(&mut self, member: &Member, content: &mut Members<R>) -> Result<(), UnpackError> {
        let path = parse(&member.path)?;
        let Some((directory, name)) = path.split() else {
            return self.place_root(member);
        };
        let name = name.as_encoded_bytes();
        if name == OPAQUE {
            self.opaque.insert(directory);
            return Ok(());
        }
        if name.starts_with(RESERVED) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let bad = || UnpackError::Whiteout(printable(&escape(name)));
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(bad());
            }
            self.whiteouts.insert(directory.join(hidden).map_err(|_| bad())?);
            return Ok(());
        }
        self.waiting.remove(&path);
        let kind = match member.kind {
            MemberKind::File => Kind::File { size: member.size },
            MemberKind::Directory => return self.place_directory(path, member),
            MemberKind::Link => return self.place_link(path, parse(&member.link)?),
            MemberKind::Symlink
                if member.link.is_empty()
                    || member.link.len() > MAX_PATH_BYTES
                    || member.link.contains(&0) =>
            {
                return Err(UnpackError::Path {
                    path: printable(&escape(&member.link)),
                    why: NotAnEntryPath::TooLong,
                });
            }
            MemberKind::Symlink => Kind::Symlink {
                target: member.link.clone(),
            },
            MemberKind::Fifo => Kind::Fifo,
            MemberKind::Device { block, major, minor } => Kind::Device { block, major, minor },
        };
        self.clear(&path)?;
        let entry = entry(kind, member);
        let kept = if let Kind::File { size } = entry.kind {
            Some(self.make_file(&path, &entry, size, content)?)
        } else {
            self.make(&path, |tree, made| tree.make_special(&path, &entry, made))?
        };
        match kept {
            Some(kept) => self.note(kept),
            None => self.note_device(&path),
        }
        match entry.kind {
            Kind::File { .. } => self.report.files = self.report.files.saturating_add(1),
            Kind::Symlink { .. } => self.report.symlinks = self.report.symlinks.saturating_add(1),
            _ => {}
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    fn place_root(&mut self, member: &Member) -> Result<(), UnpackError> {
        if member.kind != MemberKind::Directory {
            return Err(UnpackError::Root);
        }
        self.entries.insert(
            EntryPath::root(),
            entry(
                Kind::Directory {
                    opaque: false,
                    implied: false,
                },
                member,
            ),
        );
        Ok(())
    }

    fn place_directory(&mut self, path: EntryPath, member: &Member) -> Result<(), UnpackError> {
        if !self.entries.get(&path).is_some_and(Entry::is_directory) {
            self.clear(&path)?;
            self.make(&path, |tree, made| tree.make_directory(&path, made))?;
        }
        self.entries.insert(
            path,
            entry(
                Kind::Directory {
                    opaque: false,
                    implied: false,
                },
                member,
            ),
        );
        Ok(())
    }

    /// A link now, or at the end where its target may yet come.
    fn place_link(&mut self, path: EntryPath, target: EntryPath) -> Result<(), UnpackError> {
        if path == target || target.is_root() {
            return Err(UnpackError::Link { path, target });
        }
        self.clear(&path)?;
        if self.entries.contains_key(&target) {
            self.link(path, target)
        } else {
            self.waiting.insert(path, target);
            Ok(())
        }
    }

    pub(super) fn link(&mut self, path: EntryPath, target: EntryPath) -> Result<(), UnpackError> {
        let Some(entry) = self
            .entries
            .get(&target)
            .filter(|entry| !entry.is_directory())
            .cloned()
        else {
            return Err(UnpackError::Link { path, target });
        };
        let made_here = !matches!(entry.kind, Kind::Device { .. } | Kind::Fifo)
            || self
                .tree
                .kind(&target)
                .map_err(|source| at(&target, source))?
                .is_some();
        if made_here {
            self.make(&path, |tree, made| tree.make_link(&path, &target, made))?;
        } else {
            self.note_device(&path);
        }
        let next = self.step.entries;
        let group = *self.groups.entry(target).or_insert(next);
        self.groups.insert(path.clone(), group);
        self.report.links = self.report.links.saturating_add(1);
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Takes away what stands at `path`, so that something else can.
    fn clear(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        let Some(before) = self.entries.remove(path) else {
            return Ok(());
        };
        self.groups.remove(path);
        if before.is_directory() {
            let (from, to) = path.below();
            for below in self
                .entries
                .range(&from..&to)
                .map(|(path, _)| path.clone())
                .collect::<Vec<_>>()
            {
                self.entries.remove(&below);
                self.groups.remove(&below);
            }
        }
        let found = self.tree.kind(path).map_err(|source| at(path, source))?;
        match found {
            Some(_) => self.tree.remove(path).map_err(|source| at(path, source)),
            None => Ok(()),
        }
    }

    /// Does something in the tree, and notes the directories that were made for it.
    pub(super) fn make<T>(
        &mut self,
        path: &EntryPath,
        action: impl FnOnce(&mut Tree, &mut dyn FnMut(EntryPath)) -> Result<T, TreeError>,
    ) -> Result<T, UnpackError> {
        let mut made = Vec::new();
        let done = action(&mut self.tree, &mut |path| made.push(path)).map_err(|source| at(path, source))?;
        for directory in made {
            // A device that was left out cannot be a directory now.
            if self.entries.insert(directory.clone(), Entry::implied()).is_some() {
                return Err(at(path, TreeError::ThroughFile(directory)));
            }
        }
        Ok(done)
    }

    fn make_file<R: Read>(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        size: u64,
        content: &mut Members<R>,
    ) -> Result<Kept, UnpackError> {
        // An error of the stream is not one of the file that it is written to.
        let mut stream_error = None;
        let mut made = Vec::new();
        let (watch, step) = (&mut self.watch, &mut self.step);
        let kept = self
            .tree
            .make_file(path, entry, &mut |path| made.push(path), |file| {
                pour(content, file, step, *watch, &mut stream_error)
            });
        if let Some(error) = stream_error {
            return Err(error);
        }
        let kept = kept.map_err(|source| at(path, source))?;
        self.make(path, |_, note| {
            made.into_iter().for_each(note);
            Ok(())
        })?;
        self.report.bytes = self.report.bytes.saturating_add(size);
        Ok(kept)
    }

    fn note(&mut self, kept: Kept) {
        let one = |counter: &mut u64, is: bool| *counter = counter.saturating_add(u64::from(is));
        one(&mut self.report.owners_kept, kept.owner);
        one(&mut self.report.special_bits_kept, kept.special_bits);
        one(&mut self.report.xattrs_kept, kept.xattrs);
    }

    fn note_device(&mut self, path: &EntryPath) {
        self.report.devices_kept = self.report.devices_kept.saturating_add(1);
        if self.report.devices.len() < NAMED_DEVICES {
            self.report.devices.push(path.clone());
        }
    }
}

fn entry(kind: Kind, member: &Member) -> Entry {
    Entry {
        kind,
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs: member.xattrs.clone(),
        link: None,
    }
}
