//! How a machine begins, in the shim: forked into its namespaces and groups, as one whose program is known or as one that stands by,
//! and written down before it may act.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid};
use suijuris_guest::standby::{self, Standby};
use suijuris_sys::descriptors;
use suijuris_sys::fork::{self, Fork};
use suijuris_sys::link::Outlet;
use suijuris_sys::{Pidfd, Process, namespaces};

use super::cgroup::{self, Leaf};
use super::inside::{self, Birth};
use super::keeper::Keeper;
use super::log::Writer;
use super::record::Record;
use super::scratch::Scratch;
use super::wire::{Detached, Fault, Request, Step};

/// A machine that has been forked.
pub(super) struct Machine {
    pub(super) pid: u32,
    pub(super) pidfd: Pidfd,
    /// Closes when the first program is executed; carries a [`Fault`] before, if it is not.
    pub(super) birth: Option<OwnedFd>,
    pub(super) namespaced: bool,
    pub(super) groups: Vec<Leaf>,
    /// Goes with the machine, before anybody hears that it has ended: the next one may be given the same.
    pub(super) scratch: Option<Scratch>,
}

/// What a machine that may outlive its caller needs besides.
pub(super) struct Keeping {
    pub(super) keeper: Keeper,
    pub(super) log: Writer,
    pub(super) outlet: Option<Outlet>,
}

/// What the shim keeps from now on.
pub(super) struct Launched {
    pub(super) machine: Machine,
    pub(super) keeping: Option<Keeping>,
    pub(super) standby: Option<Waiting>,
}

/// A first program that does not know yet whose it is.
pub(super) struct Waiting {
    pub(super) standby: Standby,
    /// Whether it has said that it stands by.
    pub(super) is_ready: bool,
}

/// What came along with the order to run.
pub(super) struct Parcel {
    pub(super) request: Request,
    /// Namespaces to go into.
    joins: Vec<OwnedFd>,
    pub(super) directory: Option<OwnedFd>,
    pub(super) outlet: Option<Outlet>,
    pub(super) pipes: Vec<OwnedFd>,
    /// Files 1 and 2, then those that are inherited.
    pub(super) files: Vec<OwnedFd>,
}

impl Parcel {
    pub(super) fn open(files: Vec<OwnedFd>) -> io::Result<Self> {
        let mut files = files.into_iter();
        let request = Request::open(files.next().ok_or(io::ErrorKind::UnexpectedEof)?)?;
        let joins = files.by_ref().take(request.joins).collect();
        let detached = request.detached.as_ref();
        let directory = detached.and_then(|_| files.next());
        let outlet = detached
            .filter(|detached| detached.has_link)
            .and_then(|_| files.next());
        let pipes = files
            .by_ref()
            .take(detached.map_or(0, |detached| detached.pipes))
            .collect();
        Ok(Self {
            joins,
            directory,
            outlet: outlet.map(Outlet::from),
            pipes,
            files: files.collect(),
            request,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(super) fn unreadable(error: io::Error) -> Fault {
    Fault::new(Step::Request, "", &error)
}

/// Starts a program that waits for the machine that it is to be: as [`launch`] does, with nothing in it that is any machine's.
pub(super) fn stand_by(files: Vec<OwnedFd>) -> Result<Launched, Fault> {
    let parcel = Parcel::open(files).map_err(unreadable)?;
    let (standby, theirs) = standby::pair().map_err(unreadable)?;
    let null = || descriptors::null().map_err(unreadable);
    let files = vec![null()?, null()?, theirs];
    let (go, mut gate) = pipe().map_err(unreadable)?;
    let machine = give_birth(&parcel.request, files, go)?;
    let _ = gate.write_all(b"g");
    Ok(Launched {
        machine,
        keeping: None,
        standby: Some(Waiting {
            standby,
            is_ready: false,
        }),
    })
}

pub(super) fn launch(files: Vec<OwnedFd>) -> Result<Launched, Fault> {
    let parcel = Parcel::open(files).map_err(unreadable)?;
    go_to(parcel.directory.as_ref())?;
    let (go, mut gate) = pipe().map_err(unreadable)?;
    let request = &parcel.request;
    for space in &parcel.joins {
        namespaces::join(space.as_fd()).map_err(|error| Fault::new(Step::Namespaces, "", &error))?;
    }
    let machine = give_birth(request, parcel.files, go)?;
    if let Some(root) = &request.root
        && let Some(users) = &root.users
        && let Err(fault) = users.map(machine.pid, root.user)
    {
        machine.abort();
        return Err(fault);
    }
    let keeping = match &request.detached {
        Some(detached) => match keep(detached, &machine, parcel.outlet, parcel.pipes) {
            Ok(keeping) => Some(keeping),
            Err(error) => {
                machine.abort();
                return Err(Fault::new(Step::Record, "", &error));
            }
        },
        None => None,
    };
    // Should it be gone already, its end is noticed as any other.
    let _ = gate.write_all(b"g");
    Ok(Launched {
        machine,
        keeping,
        standby: None,
    })
}

/// Goes into a machine's directory, where it has one.
pub(super) fn go_to(directory: Option<&OwnedFd>) -> Result<(), Fault> {
    directory.map_or(Ok(()), |directory| {
        nix::unistd::fchdir(directory).map_err(|errno| Fault::new(Step::Record, "", &errno.into()))
    })
}

/// Forks the first program, which waits for a byte from `go` before it becomes one.
fn give_birth(request: &Request, files: Vec<OwnedFd>, go: OwnedFd) -> Result<Machine, Fault> {
    let closed = |error: io::Error| Fault::new(Step::Cgroup, "", &error);
    let groups = request.groups.as_slice();
    let members = groups.iter().map(Leaf::members).collect::<io::Result<Vec<_>>>();
    let homes = groups
        .iter()
        .map(Leaf::birthplace)
        .collect::<io::Result<Vec<_>>>();
    let home = homes.map_err(closed)?.into_iter().flatten().next();
    let birth = Birth {
        go,
        members: members.map_err(closed)?.into_iter().flatten().collect(),
        files,
        user: Uid::effective(),
        group: Gid::effective(),
    };
    let (reader, writer) = pipe().map_err(|error| Fault::new(Step::Request, "", &error))?;
    match fork::fork(flags(request), home.as_ref().map(AsFd::as_fd)) {
        Ok(Fork::Child) => {
            drop(reader);
            inside::enter(request, birth, writer.as_fd())
        }
        Ok(Fork::Parent { pid, pidfd }) => Ok(Machine {
            pid,
            pidfd,
            birth: Some(reader),
            namespaced: request.namespaces.is_some(),
            groups: request.groups.clone(),
            scratch: request
                .root
                .as_ref()
                .map(|root| Scratch::of(root, &request.assignment.mounts)),
        }),
        // Only version 2 groups take part in the fork, and only they answer with these.
        Err(error)
            if home.is_some()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EACCES | libc::EBUSY | libc::EOPNOTSUPP)
                ) =>
        {
            Err(closed(error))
        }
        Err(error) => Err(Fault::new(Step::Namespaces, "", &error)),
    }
}

fn pipe() -> io::Result<(OwnedFd, std::fs::File)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((reader, writer.into()))
}

/// Writes down how to find `machine` again, before it may act.
pub(super) fn keep(
    detached: &Detached,
    machine: &Machine,
    outlet: Option<Outlet>,
    pipes: Vec<OwnedFd>,
) -> io::Result<Keeping> {
    let known = |pid| Process::of(pid).ok_or(io::ErrorKind::NotFound);
    let both = (known(machine.pid)?, known(std::process::id())?);
    let record = Record::new(detached, Keeper::fingerprint(detached), both, &machine.groups)?;
    Ok(Keeping {
        keeper: Keeper::open(detached, record)?,
        log: Writer::new(pipes),
        outlet,
    })
}

impl Machine {
    /// Ends what has not begun.
    fn abort(&self) {
        let _ = self.pidfd.signal(libc::SIGKILL);
        let _ = waitpid(Pid::from_raw(self.pid.cast_signed()), None);
        cgroup::remove_all(&self.groups);
        Keeper::forget();
    }
}

fn flags(request: &Request) -> libc::c_int {
    let Some(namespaces) = request.namespaces else {
        return 0;
    };
    let always = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let users = if namespaces.user { libc::CLONE_NEWUSER } else { 0 };
    let network = if namespaces.network { libc::CLONE_NEWNET } else { 0 };
    always | users | network
}
