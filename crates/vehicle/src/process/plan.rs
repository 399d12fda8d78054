//! From a caller's specification to what is sent to a shim, with every limit checked on the way.

use std::collections::BTreeSet;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use suijuris_guest::assignment::Assignment;
use suijuris_sys::descriptors;
use suijuris_sys::link::{self, Outlet};
use suijuris_sys::sockets::MESSAGE_FDS;
use tokio::net::unix::pipe;

use super::cgroup::{self, Leaf};
use super::keeper::random;
use super::scratch;
use super::state::Slot;
use super::users;
use super::wire::{self, Detached, Fault, Namespaces, Request, RootOrder, Step};
use super::{Process, StepFailed, number};
use crate::description::{Enforced, Isolation};
use crate::error::{SpecError, StartError};
use crate::machine::{MachineId, is_plain};
use crate::spec::{ImageFiles, ImageRoot, Lifetime, Mount, Network, Output, Program, Resources, Root, Spec};

/// Most files a machine may inherit; the message also carries the request, both outputs, an end of the link, four that a
/// detached machine needs, and two of a network that was made before.
const MOST_FILES: usize = MESSAGE_FDS - 10;
/// Most mounts of a machine.
const MOST_MOUNTS: usize = 256;
/// Most layers of an image: what overlayfs takes.
const MOST_LAYERS: usize = 500;
/// Most directories that are hidden from a machine, and most that are kept.
const MOST_HIDDEN: usize = 1_024;
/// Highest number of an inherited file: the usual soft limit on open files.
const HIGHEST_FILE: i32 = 1023;
/// Size of what covers the driver's own directory in a machine.
const COVER_BYTES: u64 = 4 << 10;

/// A specification that passed all checks. Dropped before its machine runs, it takes the control groups along.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) id: MachineId,
    pub(super) request: Request,
    /// All that comes along behind the request.
    pub(super) files: Vec<OwnedFd>,
    /// The caller's ends of the outputs that are lines, unless the shim has them.
    pub(super) outputs: Vec<pipe::Receiver>,
    pub(super) outlet: Option<Outlet>,
    pub(super) enforced: Vec<Enforced>,
    /// The directory of a machine that may outlive its caller.
    pub(super) place: Option<Slot>,
    pub(super) groups: Groups,
}

/// Control groups that are removed unless the machine has come to be.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Leaf>);

impl Groups {
    /// Where no machine is yet.
    pub(super) const fn of(leaves: Vec<Leaf>) -> Self {
        Self(leaves)
    }

    /// Each of them.
    pub(super) fn leaves(&self) -> &[Leaf] {
        &self.0
    }

    /// The machine has them now.
    pub(super) fn hand_over(mut self) -> Vec<Leaf> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Where no shim got as far as to remove them.
        cgroup::remove_all(&self.0);
    }
}

impl Plan {
    /// Checks `spec` and makes what it needs on the host.
    pub(super) fn new(driver: &Process, spec: Spec) -> Result<Self, StartError> {
        let named = id(&spec.name, spec.lifetime)?;
        Self::named(driver, spec, (named, Groups::default()))
    }

    /// The same for the machine of this name, which is in these groups already.
    pub(super) fn named(
        driver: &Process,
        mut spec: Spec,
        (id, groups): (MachineId, Groups),
    ) -> Result<Self, StartError> {
        let isolation = driver.description.isolation;
        check(&spec, isolation, driver.state.is_some())?;
        let mut request = request(&spec, isolation).map_err(SpecError::from)?;
        if let Some(root) = &mut request.root {
            root.users.clone_from(&driver.users);
            if driver.users.is_none() {
                root.owners.clear();
            }
        }
        if let Root::Image(image) = &spec.root {
            let prepare = || scratch::prepare(&image.scratch, spec.keeps_written);
            let prepared = match prepare() {
                // Several users of a machine have left something that this one may not remove.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && driver.users.is_some() => {
                    users::remove(&driver.shim, &image.scratch).and_then(|()| prepare())
                }
                prepared => prepared,
            };
            prepared.map_err(|error| {
                StepFailed::from(Fault::new(
                    Step::Scratch,
                    image.scratch.display().to_string(),
                    &error,
                ))
            })?;
        }
        let (stdout, out) = output(spec.stdout, io::stdout().as_fd())?;
        let (stderr, err) = output(spec.stderr, io::stderr().as_fd())?;
        let mut pipes: Vec<OwnedFd> = out.into_iter().chain(err).collect();
        let mut inherited: Vec<OwnedFd> = spec.inherit.drain(..).map(|(file, _)| file).collect();
        let mut outlet = None;
        if let Some(number) = spec.link {
            let (ours, theirs) = link::pair()?;
            inherited.push(theirs);
            request.assignment.numbers.push(number);
            outlet = Some(ours);
        }
        let detached = spec.lifetime == Lifetime::Detached;
        let joins = spec.joins.take();
        let joins = joins
            .into_iter()
            .flat_map(|place| place.users.into_iter().chain([place.network]));
        let files: Vec<OwnedFd> = joins.collect();
        request.joins = files.len();
        let mut plan = Self {
            id,
            request,
            files,
            outputs: Vec::new(),
            outlet,
            enforced: Vec::new(),
            place: None,
            groups,
        };
        plan.enter_groups(driver, spec.resources, detached)
            .map_err(|error| StepFailed::from(Fault::new(Step::Cgroup, "", &error)))?;
        if detached {
            plan.detach(driver, std::mem::take(&mut pipes))?;
        }
        plan.outputs = pipes
            .into_iter()
            .map(pipe::Receiver::from_owned_fd)
            .collect::<io::Result<_>>()?;
        plan.files.extend([stdout, stderr].into_iter().chain(inherited));
        let sees_host = isolation != Isolation::Plain && plan.request.root.is_none();
        if let Some(state) = driver.state.as_ref().filter(|_| sees_host) {
            // The records of all machines are out of every machine's view.
            plan.request
                .assignment
                .mounts
                .push(wire::cover(state.path(), COVER_BYTES).map_err(SpecError::from)?);
        }
        Ok(plan)
    }

    fn enter_groups(&mut self, driver: &Process, resources: Resources, detached: bool) -> io::Result<()> {
        let Groups(groups) = &mut self.groups;
        if let Some(base) = driver.base.as_ref().filter(|_| groups.is_empty()) {
            groups.push(base.leaf(self.id.as_str(), detached)?);
        }
        let limits = driver
            .limiter
            .apply(resources, (self.id.as_str(), detached), groups)?;
        self.request.groups = groups.clone();
        self.request.assignment.rlimits = limits.rlimits;
        self.enforced = limits.enforced;
        Ok(())
    }

    /// Adds what the shim needs to keep the machine without its caller.
    fn detach(&mut self, driver: &Process, pipes: Vec<OwnedFd>) -> Result<(), StartError> {
        let Some(state) = &driver.state else {
            return Ok(());
        };
        let (place, directory) = state.create(&self.id)?;
        let nonce = random()?;
        let outlet = self.outlet.as_ref().map(Outlet::try_clone).transpose()?;
        self.request.detached = Some(Detached {
            id: self.id.clone(),
            nonce,
            secret: *state.secret(&self.id, &nonce).reveal(),
            has_link: outlet.is_some(),
            pipes: pipes.len(),
            limits: self.enforced.clone(),
        });
        self.files.push(directory);
        self.files.extend(outlet.map(OwnedFd::from));
        for pipe in pipes {
            fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
            self.files.push(pipe);
        }
        self.place = Some(place);
        Ok(())
    }
}

/// A name that the machine has for itself: within this driver, or for ever where it may outlive it.
pub(super) fn id(name: &str, lifetime: Lifetime) -> Result<MachineId, StartError> {
    let text = match lifetime {
        Lifetime::WithCaller => {
            format!("{name}-{}", number())
        }
        Lifetime::Detached => {
            let [a, b, c, d, e, f, g, h, ..] = random()?;
            format!("{name}-{:016x}", u64::from_le_bytes([a, b, c, d, e, f, g, h]))
        }
    };
    MachineId::try_from(text).map_err(|_| SpecError::Name(name.to_owned()).into())
}

fn paths(paths: &[PathBuf]) -> Result<Vec<CString>, NulError> {
    paths
        .iter()
        .map(|path| CString::new(path.as_os_str().as_bytes()))
        .collect()
}

/// `spec` in the kernel's terms, without what is made on the host.
fn request(spec: &Spec, isolation: Isolation) -> Result<Request, NulError> {
    let text = |text: &OsStr| CString::new(text.as_bytes());
    let variable = |(name, value): (&OsString, &OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    let Program { exe, argv } = &spec.program;
    Ok(Request {
        root: match &spec.root {
            Root::Host => None,
            Root::Image(image) => Some(RootOrder::new(image, spec)?),
        },
        exe: Some(text(exe.as_os_str())?),
        assignment: Assignment {
            argv: argv.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?,
            env: spec.env.iter().map(variable).collect::<Result<_, _>>()?,
            cwd: text(spec.cwd.as_os_str())?,
            numbers: spec.inherit.iter().map(|(_, number)| *number).collect(),
            mounts: spec
                .mounts
                .iter()
                .map(wire::mount_order)
                .collect::<Result<_, _>>()?,
            hidden: paths(&spec.hidden)?,
            kept: paths(&spec.kept)?,
            is_apart: isolation != Isolation::Plain && spec.root == Root::Host,
            may_mount: spec.may_mount,
            rlimits: Vec::new(),
        },
        namespaces: (isolation != Isolation::Plain).then_some(Namespaces {
            user: isolation == Isolation::UserNamespaces,
            network: spec.network == Network::Private && spec.joins.is_none(),
        }),
        joins: 0,
        stranger: spec.stranger.clone(),
        groups: Vec::new(),
        detached: None,
    })
}

/// The machine's end of an output, and the reader's where there is one.
fn output(output: Output, own: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    Ok(match output {
        // A caller without output of its own has none to share.
        Output::Inherit => (own.try_clone_to_owned().or_else(|_| descriptors::null())?, None),
        Output::Null => (descriptors::null()?, None),
        Output::Fd(fd) => (fd, None),
        Output::Lines => {
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            (writer, Some(reader))
        }
    })
}

fn check(spec: &Spec, isolation: Isolation, can_detach: bool) -> Result<(), SpecError> {
    if !(1..=64).contains(&spec.name.len()) || !spec.name.bytes().all(is_plain) {
        return Err(SpecError::Name(spec.name.clone()));
    }
    let exe = spec.program.exe.as_path();
    let is_name = exe.components().count() == 1 && !exe.as_os_str().is_empty();
    let exe = (!(is_name && spec.root != Root::Host)).then_some(exe);
    let mounted = spec.mounts.iter().flat_map(mount_paths);
    let mut paths = [spec.cwd.as_path()]
        .into_iter()
        .chain(exe)
        .chain(mounted)
        .chain(image_paths(&spec.root))
        .chain(spec.hidden.iter().chain(&spec.kept).map(PathBuf::as_path));
    if let Some(path) = paths.find(|path| !path.is_absolute()) {
        return Err(SpecError::Relative(path.to_owned()));
    }
    let unusable = |name: &&OsString| name.is_empty() || name.as_bytes().contains(&b'=');
    if let Some(name) = spec.env.keys().find(unusable) {
        return Err(SpecError::Variable(name.clone()));
    }
    check_files(spec)?;
    check_resources(spec.resources)?;
    if let Root::Image(ImageRoot {
        files: ImageFiles::Layers(layers),
        ..
    }) = &spec.root
    {
        at_most("layers", layers.len(), MOST_LAYERS)?;
    }
    if matches!(
        &spec.root,
        Root::Image(ImageRoot {
            files: ImageFiles::Disk(_),
            ..
        })
    ) {
        return unsupported("an image on a disk", "needs a virtual machine");
    }
    at_most("mounts", spec.mounts.len(), MOST_MOUNTS)?;
    at_most("hidden directories", spec.hidden.len(), MOST_HIDDEN)?;
    at_most("kept directories", spec.kept.len(), MOST_HIDDEN)?;
    if spec.lifetime == Lifetime::Detached && !can_detach {
        return unsupported(
            "a machine that outlives its caller",
            "needs a directory in which the driver keeps what finds it again",
        );
    }
    if spec.stranger.is_some() && (spec.root == Root::Host || spec.may_mount) {
        return unsupported(
            "a stranger's program",
            "needs the files of an image, and may not mount",
        );
    }
    let why = "needs namespaces, which are off here: the driver's description says why";
    match isolation {
        Isolation::Plain if spec.network == Network::Private => unsupported("a private network", why),
        _ if spec.network == Network::Host && spec.joins.is_some() => {
            unsupported("a network made before", "is for a machine with a private network")
        }
        Isolation::Plain if !spec.mounts.is_empty() => unsupported("a mount", why),
        Isolation::Plain if spec.root != Root::Host => unsupported("an image", why),
        _ => Ok(()),
    }
}

const fn unsupported(what: &'static str, why: &'static str) -> Result<(), SpecError> {
    Err(SpecError::Unsupported { what, why })
}

fn check_files(spec: &Spec) -> Result<(), SpecError> {
    at_most("inherited files", spec.inherit.len(), MOST_FILES)?;
    let mut seen = BTreeSet::new();
    let inherited = spec.inherit.iter().map(|(_, number)| *number);
    let mut numbers = inherited.chain(spec.link);
    let wrong = numbers.find(|number| !(3..=HIGHEST_FILE).contains(number) || !seen.insert(*number));
    wrong.map_or(Ok(()), |number| Err(SpecError::Number(number)))
}

fn check_resources(resources: Resources) -> Result<(), SpecError> {
    let none = [
        ("memory", resources.memory == Some(0)),
        ("cpu", resources.cpu == Some(0)),
        ("processes", resources.processes == Some(0)),
        ("open files", resources.open_files == Some(0)),
    ];
    let none = none.into_iter().find(|(_, is_none)| *is_none);
    none.map_or(Ok(()), |(what, _)| Err(SpecError::Zero(what)))
}

fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), SpecError> {
    if count > most {
        Err(SpecError::TooMany { what, count, most })
    } else {
        Ok(())
    }
}

fn image_paths(root: &Root) -> Vec<&Path> {
    match root {
        Root::Host => Vec::new(),
        Root::Image(image) => {
            let files = match &image.files {
                ImageFiles::Layers(layers) => layers.iter().map(PathBuf::as_path).collect(),
                ImageFiles::Copy(files) | ImageFiles::Disk(files) => vec![files.as_path()],
            };
            files.into_iter().chain([image.scratch.as_path()]).collect()
        }
    }
}

fn mount_paths(mount: &Mount) -> Vec<&Path> {
    match mount {
        Mount::Bind { from, to, .. } => vec![from, to],
        Mount::Tmpfs { to, .. } => vec![to],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Spec), isolation: Isolation) -> String {
        let mut spec = Spec::new("web-1", "/bin/true");
        assert_eq!(check(&spec, isolation, false), Ok(()));
        change(&mut spec);
        let checked = check(&spec, isolation, false);
        let made = checked.and_then(|()| request(&spec, isolation).map_err(SpecError::from));
        made.unwrap_err().to_string()
    }

    #[test]
    fn unusable_specifications_are_refused_with_their_reason() {
        let tmpfs = |to: &str| Mount::Tmpfs {
            to: to.into(),
            size_bytes: 1,
        };
        let null = || descriptors::null().unwrap();
        for (change, reason) in [
            (
                Box::new(|spec: &mut Spec| spec.name = "Web/1".into()) as Box<dyn FnOnce(&mut Spec)>,
                "name \"Web/1\" is not",
            ),
            (Box::new(|spec| spec.name = "x".repeat(65)), "is not 1 to 64"),
            (
                Box::new(|spec| *spec = Spec::new("web-1", "true")),
                "path true is not absolute",
            ),
            (
                Box::new(|spec| spec.mounts = vec![tmpfs("run")]),
                "path run is not absolute",
            ),
            (
                Box::new(|spec| spec.mounts = vec![tmpfs("/run"); 257]),
                "257 mounts are more than 256",
            ),
            (
                Box::new(|spec| drop(spec.env.insert("A=B".into(), "".into()))),
                "variable \"A=B\"",
            ),
            (
                Box::new(|spec| *spec = Spec::new("web-1", "/bin/true").with_args(["a\0b"])),
                "zero byte",
            ),
            (
                Box::new(|spec| spec.lifetime = Lifetime::Detached),
                "needs a directory",
            ),
            (
                Box::new(|spec| spec.resources.memory = Some(0)),
                "a limit of 0 memory",
            ),
            (Box::new(|spec| spec.link = Some(2)), "file number 2"),
            (
                Box::new(move |spec| spec.inherit.push((null(), 2))),
                "file number 2",
            ),
            (
                Box::new(move |spec| spec.inherit = (3..200).map(|n| (null(), n)).collect()),
                "197 inherited files",
            ),
        ] {
            let told = refused(change, Isolation::UserNamespaces);
            assert!(told.contains(reason), "{told}");
        }
        let told = refused(|spec| spec.network = Network::Private, Isolation::Plain);
        assert!(told.starts_with("a private network needs namespaces"), "{told}");
    }
}
