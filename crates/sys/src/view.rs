//! What a program sees of the file system: some places covered, some of what lies below them kept, the rest read-only.
//!
//! A [`View`] is worked out before a fork, as a list of steps; [`View::enter`] takes them after it and neither allocates
//! nor takes a lock. What cannot be worked out is not there: a place that does not exist is left out.
//! Used by the runtime for its workload, and by `vehicle` for a whole machine.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::checked;

/// A directory in memory over a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// Mode of the directory.
    pub mode: u32,
    /// Most bytes in it.
    pub size_bytes: u64,
    /// Whether something can be written there.
    pub writable: bool,
}

impl Cover {
    /// An empty place.
    pub const EMPTY: Self = Self {
        mode: 0o755,
        size_bytes: 64 << 10,
        writable: false,
    };
}

/// What is at a place.
#[derive(Debug, Clone)]
enum Place {
    Covered(Cover),
    /// What was at `from` before anything was covered.
    Kept {
        from: PathBuf,
        read_only: bool,
    },
    Link(PathBuf),
    /// Terminals of its own.
    Terminals,
}

/// A view in the making.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    places: BTreeMap<PathBuf, Place>,
    read_only: bool,
    cwd: Option<PathBuf>,
}

impl Plan {
    /// Nothing is covered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All that is not kept writable is read-only.
    pub fn read_only(&mut self) {
        self.read_only = true;
    }

    /// Ends in directory `path`, as it is seen then: whoever was in a covered one before would still be there.
    pub fn enter_directory(&mut self, path: &Path) {
        self.cwd = Some(path.to_owned());
    }

    /// Covers the directory or file `path`, where there is one and it is not kept.
    pub fn cover(&mut self, path: &Path, cover: Cover) {
        let Some(path) = found(path) else { return };
        let place = if path.is_dir() {
            Place::Covered(cover)
        } else {
            let (from, read_only) = (PathBuf::from("/dev/null"), true);
            Place::Kept { from, read_only }
        };
        self.places.entry(path).or_insert(place);
    }

    /// Makes a directory in memory at `path`, whatever is there; its parent must be covered.
    pub fn memory(&mut self, path: &Path, cover: Cover) {
        self.places.insert(path.to_owned(), Place::Covered(cover));
    }

    /// Keeps `path` in view, where there is such a thing, even where what is above is covered.
    pub fn keep(&mut self, path: &Path, read_only: bool) {
        if let Some(path) = found(path) {
            self.show(&path.clone(), &path, read_only);
        }
    }

    /// Shows `from` at `to`, where there is such a thing.
    pub fn show(&mut self, from: &Path, to: &Path, read_only: bool) {
        if from.exists() && to != Path::new("/") {
            let from = from.to_owned();
            self.places.insert(to.to_owned(), Place::Kept { from, read_only });
        }
    }

    /// Puts a symbolic link where the parent is covered.
    pub fn link(&mut self, at: &Path, to: &Path) {
        self.places.insert(at.to_owned(), Place::Link(to.to_owned()));
    }

    /// Gives terminals of its own, where the parent is covered.
    pub fn terminals(&mut self, at: &Path) {
        self.places.insert(at.to_owned(), Place::Terminals);
    }

    /// Whether `path` lies below a place that is covered and not kept.
    #[must_use]
    pub fn hides(&self, path: &Path) -> bool {
        let nearest = path.ancestors().find_map(|above| self.places.get(above));
        matches!(nearest, Some(Place::Covered(_)))
    }

    /// The steps there.
    ///
    /// # Errors
    /// A path with a NUL byte.
    pub fn finish(self) -> io::Result<View> {
        let mut steps = Vec::new();
        let mut trees: BTreeMap<&Path, usize> = BTreeMap::new();
        for (at, place) in &self.places {
            if let Place::Kept { from, read_only } = place {
                trees.insert(at, trees.len());
                steps.push(Step::Clone(text(from)?));
                if *read_only {
                    steps.push(Step::TreeReadOnly);
                }
            }
        }
        let count = trees.len();
        if self.read_only {
            steps.push(Step::ReadOnly(text(Path::new("/"))?, true));
            steps.push(Step::Writable(text(Path::new("/proc"))?));
        }
        let mut closing = Vec::new();
        // A map is in order: what is above comes first.
        for (at, place) in &self.places {
            self.ground(at, place, &mut steps)?;
            match place {
                Place::Covered(cover) => {
                    let options = format!("mode={:o},size={}", cover.mode, cover.size_bytes);
                    steps.push(Step::Memory(text(at)?, CString::new(options)?));
                    if !cover.writable {
                        closing.push(Step::ReadOnly(text(at)?, false));
                    }
                }
                Place::Kept { .. } => {
                    let tree = trees.get(at.as_path()).copied().unwrap_or_default();
                    steps.push(Step::Attach(tree, text(at)?));
                }
                Place::Link(to) => steps.push(Step::Link(text(to)?, text(at)?)),
                Place::Terminals => steps.push(Step::Terminals(text(at)?)),
            }
        }
        steps.append(&mut closing);
        if let Some(cwd) = &self.cwd {
            steps.push(Step::Enter(text(cwd)?));
        }
        Ok(View { steps, trees: count })
    }

    /// Makes what a place is put on, where that lies in memory.
    fn ground(&self, at: &Path, place: &Place, steps: &mut Vec<Step>) -> io::Result<()> {
        let above = at.ancestors().skip(1);
        let nearest = above
            .clone()
            .find_map(|path| Some((path, self.places.get(path)?)));
        let Some((ground, Place::Covered(_))) = nearest else {
            return Ok(());
        };
        let mut missing: Vec<&Path> = above.take_while(|path| *path != ground).collect();
        missing.reverse();
        for path in missing {
            steps.push(Step::Directory(text(path)?));
        }
        match place {
            Place::Kept { from, .. } if !from.is_dir() => steps.push(Step::File(text(at)?)),
            Place::Link(_) => {}
            _ => steps.push(Step::Directory(text(at)?)),
        }
        Ok(())
    }
}

/// Where `path` really is; nothing where it is not, or is the root, which cannot be covered.
fn found(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|path| path != Path::new("/"))
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[derive(Debug)]
enum Step {
    /// Takes what is at a path, with all that is mounted below it, to be attached elsewhere.
    Clone(CString),
    /// The tree taken last refuses writes.
    TreeReadOnly,
    ReadOnly(CString, bool),
    Writable(CString),
    Memory(CString, CString),
    Terminals(CString),
    Directory(CString),
    File(CString),
    Link(CString, CString),
    Attach(usize, CString),
    Enter(CString),
}

/// Trees that a view takes along at most.
const MAX_TREES: usize = 1_024;

/// The way to a view.
#[derive(Debug)]
pub struct View {
    steps: Vec<Step>,
    trees: usize,
}

/// Closes the trees that a view took along, for a process that goes on without an exec, which does so.
pub fn close_trees(room: Vec<RawFd>) {
    for tree in room {
        // SAFETY: the view opened it, keeps no other trace of it, and nobody else knows its number.
        unsafe { libc::close(tree) };
    }
}

/// A step that failed.
#[derive(Debug)]
pub struct Failed {
    /// Its number, for [`View::describe`].
    pub step: usize,
    /// The kernel's answer.
    pub error: io::Error,
}

impl View {
    /// Room for what [`Self::enter`] keeps on its way, to be made before a fork.
    #[must_use]
    pub fn room(&self) -> Vec<RawFd> {
        Vec::with_capacity(self.trees.min(MAX_TREES))
    }

    /// Goes into a mount namespace of its own and takes every step there. Safe between fork and exec. Needs the privilege
    /// to mount. The descriptors of trees stay open until exec.
    ///
    /// # Errors
    /// The step that failed; the process is then half in another view, and fit for nothing but its end.
    pub fn enter(&self, room: &mut Vec<RawFd>) -> Result<(), Failed> {
        let failed = |step| move |error| Failed { step, error };
        // SAFETY: takes an integer.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()).map_err(failed(0))?;
        let (root, none) = (c"/".as_ptr(), std::ptr::null());
        let flags = libc::MS_REC | libc::MS_SLAVE;
        // SAFETY: pointers are to texts that outlive the call, or null where the kernel reads none.
        checked(unsafe { libc::mount(none, root, none, flags, std::ptr::null()) }.into())
            .map_err(failed(0))?;
        self.assemble(room)
    }

    /// As [`Self::enter`], for a process that is in its own mount namespace already.
    ///
    /// # Errors
    /// See there.
    pub fn assemble(&self, room: &mut Vec<RawFd>) -> Result<(), Failed> {
        // What is made on the way is for every user to pass through.
        // SAFETY: takes an integer.
        let mask = unsafe { libc::umask(0o022) };
        let mut steps = self.steps.iter().enumerate();
        let taken = steps.try_for_each(|(number, step)| {
            let step_failed = |error| Failed { step: number, error };
            step.take(room).map_err(step_failed)
        });
        // SAFETY: takes an integer.
        unsafe { libc::umask(mask) };
        taken
    }

    /// A step in words.
    #[must_use]
    pub fn describe(&self, step: usize) -> String {
        match self.steps.get(step) {
            Some(Step::Clone(path)) => format!("keep {} in view", shown(path)),
            Some(Step::TreeReadOnly) => "make a kept directory read-only".to_owned(),
            Some(Step::ReadOnly(path, _)) => format!("make {} read-only", shown(path)),
            Some(Step::Writable(path)) => format!("keep {} writable", shown(path)),
            Some(Step::Memory(path, _)) => format!("cover {}", shown(path)),
            Some(Step::Terminals(path)) => format!("give it terminals at {}", shown(path)),
            Some(Step::Directory(path) | Step::File(path) | Step::Link(_, path)) => {
                format!("make {}", shown(path))
            }
            Some(Step::Attach(_, path)) => format!("show {}", shown(path)),
            Some(Step::Enter(path)) => format!("start in {}", shown(path)),
            None => "see its files".to_owned(),
        }
    }
}

fn shown(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}

impl Step {
    fn take(&self, trees: &mut Vec<RawFd>) -> io::Result<()> {
        match self {
            Self::Clone(path) => {
                if trees.len() == trees.capacity() {
                    return Err(io::Error::from_raw_os_error(libc::E2BIG));
                }
                trees.push(clone_tree(path)?);
                Ok(())
            }
            Self::TreeReadOnly => match trees.last() {
                Some(tree) => attributes(*tree, c"", true, libc::MOUNT_ATTR_RDONLY, 0),
                None => Ok(()),
            },
            Self::ReadOnly(path, recursive) => {
                attributes(libc::AT_FDCWD, path, *recursive, libc::MOUNT_ATTR_RDONLY, 0)
            }
            Self::Writable(path) => attributes(libc::AT_FDCWD, path, false, 0, libc::MOUNT_ATTR_RDONLY),
            Self::Memory(path, options) => {
                let flags = libc::MS_NOSUID | libc::MS_NODEV;
                mount(c"tmpfs", path, flags, options)
            }
            Self::Terminals(path) => {
                let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
                mount(c"devpts", path, flags, c"newinstance,ptmxmode=0666,mode=0620")
            }
            // SAFETY: the text outlives the call.
            Self::Directory(path) => there_is_fine(unsafe { libc::mkdir(path.as_ptr(), 0o755) }),
            Self::File(path) => make_file(path),
            // SAFETY: both texts outlive the call.
            Self::Link(to, at) => there_is_fine(unsafe { libc::symlink(to.as_ptr(), at.as_ptr()) }),
            Self::Attach(tree, to) => match trees.get(*tree) {
                Some(tree) => attach(*tree, to),
                None => Err(io::Error::from_raw_os_error(libc::EBADF)),
            },
            // SAFETY: the text outlives the call.
            Self::Enter(path) => checked(unsafe { libc::chdir(path.as_ptr()) }.into()).map(drop),
        }
    }
}

fn mount(kind: &CStr, at: &CStr, flags: libc::c_ulong, options: &CStr) -> io::Result<()> {
    // SAFETY: every pointer is to a text that outlives the call.
    let mounted = unsafe {
        libc::mount(
            kind.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    checked(mounted.into()).map(drop)
}

pub(crate) fn clone_tree(path: &CStr) -> io::Result<RawFd> {
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | OPEN_TREE_CLOEXEC;
    // SAFETY: the text outlives the call.
    let tree = checked(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    RawFd::try_from(tree).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

pub(crate) fn attach(tree: RawFd, to: &CStr) -> io::Result<()> {
    // SAFETY: the texts outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

pub(crate) fn attributes(at: RawFd, path: &CStr, recursive: bool, set: u64, clear: u64) -> io::Result<()> {
    let attributes = crate::mounts::MountAttributes::changing(set, clear);
    let empty = if path.is_empty() { AT_EMPTY_PATH } else { 0 };
    let all = if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes outlive the call, and the length given is that of the structure.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            empty | all,
            &raw const attributes,
            size_of::<crate::mounts::MountAttributes>(),
        )
    })
    .map(drop)
}

fn make_file(path: &CStr) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the text outlives the call.
    let file = checked(unsafe { libc::open(path.as_ptr(), flags, 0o600) }.into())?;
    // SAFETY: the number was made just now and is nobody else's.
    unsafe { libc::close(i32::try_from(file).unwrap_or(-1)) };
    Ok(())
}

fn there_is_fine(result: libc::c_int) -> io::Result<()> {
    match checked(result.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.map(drop),
    }
}

// `linux/mount.h` and `linux/fcntl.h`.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC.cast_unsigned();
const AT_RECURSIVE: libc::c_uint = 0x8000;
const AT_EMPTY_PATH: libc::c_uint = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn words(plan: Plan) -> Vec<String> {
        let view = plan.finish().unwrap();
        (0..view.steps.len()).map(|step| view.describe(step)).collect()
    }

    #[test]
    fn what_is_kept_is_taken_before_anything_is_covered() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("data/run")).unwrap();
        std::fs::create_dir_all(base.join("data/volume")).unwrap();
        std::fs::write(base.join("data/run/agent.sock"), "").unwrap();
        let mut plan = Plan::new();
        plan.keep(&base.join("data/volume"), false);
        plan.keep(&base.join("data/run/agent.sock"), false);
        plan.keep(&base.join("data/missing"), false);
        plan.cover(&base.join("data"), Cover::EMPTY);
        plan.cover(&base.join("nowhere"), Cover::EMPTY);
        assert!(plan.hides(&base.join("data/next.key")));
        assert!(!plan.hides(&base.join("data/volume/file")));
        assert!(!plan.hides(&base.join("other")));
        let data = base.join("data").display().to_string();
        assert_eq!(
            words(plan),
            [
                format!("keep {data}/run/agent.sock in view"),
                format!("keep {data}/volume in view"),
                format!("cover {data}"),
                format!("make {data}/run"),
                format!("make {data}/run/agent.sock"),
                format!("show {data}/run/agent.sock"),
                format!("make {data}/volume"),
                format!("show {data}/volume"),
                format!("make {data} read-only"),
            ]
        );
    }

    #[test]
    fn what_is_kept_itself_is_not_covered() {
        let temp = tempfile::tempdir().unwrap();
        let mut plan = Plan::new();
        plan.keep(temp.path(), true);
        plan.cover(temp.path(), Cover::EMPTY);
        plan.cover(Path::new("/"), Cover::EMPTY);
        assert!(!plan.hides(temp.path()));
        assert_eq!(words(plan).len(), 3);
    }
}
