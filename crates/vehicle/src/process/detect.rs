//! Finds out what works on this host by trying it, and clears away what killed callers left.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Uid;

use super::cgroup::{Base, Hierarchy, Leaf};
use super::limits::Limiter;
use super::plan::Plan;
use super::wire::{Fault, Step};
use super::{Process, Shim, StepFailed, Want, freezer};
use crate::description::{Description, ImageUsers, Isolation, Location, Shortfall, Suspending};
use crate::driver::Machine as _;
use crate::error::StartError;
use crate::spec::{ImageFiles, ImageRoot, Network, Root, Spec};

/// Looks at a stale control group before it is left to the next sweep, and the pause between them.
const SWEEPS: usize = 100;
const SWEEP_PAUSE: Duration = Duration::from_millis(2);

/// What is missing where an image has one user.
pub(crate) const SEVERAL_USERS: &str = "several users in an image";

/// What came of trying one combination.
enum Trial {
    Works(Box<Process>),
    NoIsolation(Shortfall),
    NoSuspending(Shortfall),
}

impl Process {
    /// Finds the best that works here by starting a machine that ends at once, and kills what machines of
    /// killed callers left in this process's control group.
    ///
    /// # Errors
    /// [`StartError::Unavailable`] when what `want` insists on does not work; others when nothing does.
    pub async fn detect(shim: Shim, want: Want) -> Result<Self, StartError> {
        let mut shortfalls = Vec::new();
        for isolation in isolations(want) {
            let mut of_suspending = Vec::new();
            for suspending in suspendings(want) {
                match try_out(&shim, isolation, suspending).await? {
                    Trial::Works(mut driver) => {
                        shortfalls.append(&mut of_suspending);
                        driver.description.shortfalls = shortfalls;
                        driver.find_limits();
                        driver.find_users().await;
                        driver.sweep().await;
                        return Ok(*driver);
                    }
                    Trial::NoSuspending(shortfall) => of_suspending.push(shortfall),
                    Trial::NoIsolation(shortfall) => {
                        // A group may have been blamed for it.
                        of_suspending = vec![shortfall];
                        break;
                    }
                }
            }
            shortfalls.append(&mut of_suspending);
        }
        Err(StartError::Unavailable(shortfalls))
    }

    /// Goes all the way to a machine but for the exec.
    async fn probe(&self) -> Result<(), StartError> {
        let plain = self.description.isolation == Isolation::Plain;
        let network = if plain { Network::Host } else { Network::Private };
        let mut plan = Plan::new(
            self,
            Spec {
                network,
                ..Spec::new("probe", "/")
            },
        )?;
        plan.request.exe = None;
        let frozen = plan.request.groups.first().map_or(Ok(()), try_freezing);
        self.launch(plan).await?.wait().await;
        Ok(frozen.map_err(|error| StepFailed::from(Fault::new(Step::Cgroup, "", &error)))?)
    }

    /// Whether overlayfs can be mounted for a machine with an image that writes to `scratch`; else its files have to be copied
    /// for each machine. Starts one that ends at once.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_overlay(&self, scratch: &Path) -> Result<(), StartError> {
        let image = ImageRoot {
            files: ImageFiles::Layers(Vec::new()),
            scratch: scratch.to_owned(),
            user: (0, 0),
        };
        let mut plan = Plan::new(
            self,
            Spec {
                network: Network::Private,
                root: Root::Image(image),
                ..Spec::new("probe", "/")
            },
        )?;
        plan.request.exe = None;
        self.launch(plan).await?.wait().await;
        Ok(())
    }

    /// Whether an image can have several users here: found out by mapping them for a child that ends at once.
    async fn find_users(&mut self) {
        if self.description.isolation != Isolation::UserNamespaces || Uid::effective().is_root() {
            return;
        }
        match super::users::try_out(&self.shim).await {
            Ok(users) => {
                self.users = Some(users);
                self.description.users = ImageUsers::Mapped;
            }
            Err(why) => self.description.limit_shortfalls.push(Shortfall {
                wanted: SEVERAL_USERS.to_owned(),
                why,
            }),
        }
    }

    fn find_limits(&mut self) {
        let (limiter, shortfalls) = Limiter::detect();
        self.description.limits = limiter.means();
        self.description.limit_shortfalls = shortfalls;
        self.limiter = limiter;
    }

    /// Kills what is left of the machines of callers that are gone.
    async fn sweep(&self) {
        if let Some(base) = &self.base {
            base.remove_empty();
        }
        for leaf in self.base.as_ref().map(Base::stale).unwrap_or_default() {
            for _ in 0..SWEEPS {
                if freezer::clear(std::slice::from_ref(&leaf)) {
                    break;
                }
                tokio::time::sleep(SWEEP_PAUSE).await;
            }
        }
    }
}

async fn try_out(shim: &Shim, isolation: Isolation, suspending: Suspending) -> Result<Trial, StartError> {
    let no_suspending = |why| {
        Trial::NoSuspending(Shortfall {
            wanted: suspending.to_string(),
            why,
        })
    };
    let base = match suspending {
        Suspending::CgroupV2 => Base::own(Hierarchy::V2).map(Some),
        Suspending::CgroupV1 => Base::own(Hierarchy::Freezer).map(Some),
        Suspending::Signals => Ok(None),
        Suspending::MemoryFile => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "memory of processes cannot be put into a file",
        )),
    };
    let base = match base {
        Ok(base) => base,
        Err(error) => return Ok(no_suspending(error.to_string())),
    };
    let description = describe(isolation, suspending);
    let driver = Process::new(shim.clone(), base, description);
    match driver.probe().await {
        Ok(()) => Ok(Trial::Works(Box::new(driver))),
        Err(StartError::Failed(error)) => {
            let Some(StepFailed { fault, source }) = error.downcast_ref() else {
                return Err(StartError::Failed(error));
            };
            let why = format!("{fault}: {source}");
            let isolation = Shortfall {
                wanted: isolation.to_string(),
                why: why.clone(),
            };
            Ok(if fault.step == Step::Cgroup {
                no_suspending(why)
            } else {
                Trial::NoIsolation(isolation)
            })
        }
        Err(error) => Err(error),
    }
}

fn describe(isolation: Isolation, suspending: Suspending) -> Description {
    let is_apart = isolation != Isolation::Plain;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Description {
        vehicle: "process",
        place: Location {
            region: "local".to_owned(),
            provider: "process".to_owned(),
            class: String::new(),
            id: name.trim().to_owned(),
        },
        isolation,
        suspending: Some(suspending),
        limits: Vec::new(),
        images: is_apart,
        users: match isolation {
            Isolation::UserNamespaces | Isolation::Plain => ImageUsers::One,
            Isolation::Namespaces | Isolation::VirtualMachine => ImageUsers::All,
        },
        mounts: is_apart,
        private_network: is_apart,
        descriptors: true,
        detached: false,
        copies: false,
        shortfalls: Vec::new(),
        limit_shortfalls: Vec::new(),
    }
}

fn isolations(want: Want) -> Vec<Isolation> {
    match want.isolation {
        Some(isolation) => vec![isolation],
        None if Uid::effective().is_root() => {
            vec![Isolation::Namespaces, Isolation::UserNamespaces, Isolation::Plain]
        }
        None => vec![Isolation::UserNamespaces, Isolation::Plain],
    }
}

fn suspendings(want: Want) -> Vec<Suspending> {
    let all = || vec![Suspending::CgroupV2, Suspending::CgroupV1, Suspending::Signals];
    want.suspending.map_or_else(all, |suspending| vec![suspending])
}

/// Freezes and thaws the still empty `leaf`.
fn try_freezing(leaf: &Leaf) -> io::Result<()> {
    leaf.freeze(true)?;
    let frozen = leaf.is_frozen()?;
    leaf.freeze(false)?;
    if frozen {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}
