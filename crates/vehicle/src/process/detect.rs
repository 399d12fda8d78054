//! Finds out what works on this host by trying it, and clears away what killed callers left.

use std::io;
use std::time::Duration;

use nix::unistd::Uid;

use super::cgroup::{Base, Leaf, Version};
use super::plan::Plan;
use super::wire::{Fault, Step};
use super::{Description, Freezing, Isolation, Process, Shim, Shortfall, StartError, Want, freezer, step};
use crate::machine::{Network, Spec};

/// Looks at a stale control group before it is left to the next sweep, and the pause between them.
const SWEEPS: usize = 100;
const SWEEP_PAUSE: Duration = Duration::from_millis(2);

/// What came of trying one combination.
enum Trial {
    Works(Box<Process>),
    NoIsolation(Shortfall),
    NoFreezing(Shortfall),
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
            let mut of_freezing = Vec::new();
            for freezing in freezings(want) {
                match try_out(&shim, isolation, freezing).await? {
                    Trial::Works(mut driver) => {
                        shortfalls.append(&mut of_freezing);
                        driver.description.shortfalls = shortfalls;
                        driver.sweep().await;
                        return Ok(*driver);
                    }
                    Trial::NoFreezing(shortfall) => of_freezing.push(shortfall),
                    Trial::NoIsolation(shortfall) => {
                        // A group may have been blamed for it.
                        of_freezing = vec![shortfall];
                        break;
                    }
                }
            }
            shortfalls.append(&mut of_freezing);
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
        let frozen = plan.request.cgroup.as_ref().map_or(Ok(()), try_freezing);
        self.launch(plan).await?.wait().await;
        frozen.map_err(|error| step(Fault::new(Step::Cgroup, "", &error)))
    }

    /// Kills what is left of the machines of callers that are gone.
    async fn sweep(&self) {
        for leaf in self.base.as_ref().map(Base::stale).unwrap_or_default() {
            for _ in 0..SWEEPS {
                if freezer::clear(&leaf) {
                    break;
                }
                tokio::time::sleep(SWEEP_PAUSE).await;
            }
        }
    }
}

async fn try_out(shim: &Shim, isolation: Isolation, freezing: Freezing) -> Result<Trial, StartError> {
    let no_freezing = |why| {
        Trial::NoFreezing(Shortfall {
            wanted: freezing.to_string(),
            why,
        })
    };
    let base = match freezing {
        Freezing::CgroupV2 => Base::own(Version::V2).map(Some),
        Freezing::CgroupV1 => Base::own(Version::V1).map(Some),
        Freezing::Signals => Ok(None),
    };
    let base = match base {
        Ok(base) => base,
        Err(error) => return Ok(no_freezing(error.to_string())),
    };
    let description = Description {
        isolation,
        freezing,
        shortfalls: Vec::new(),
    };
    let driver = Process::new(shim.clone(), base, description);
    match driver.probe().await {
        Ok(()) => Ok(Trial::Works(Box::new(driver))),
        Err(StartError::Step { fault, source }) => {
            let why = format!("{fault}: {source}");
            let isolation = Shortfall {
                wanted: isolation.to_string(),
                why: why.clone(),
            };
            Ok(if fault.step == Step::Cgroup {
                no_freezing(why)
            } else {
                Trial::NoIsolation(isolation)
            })
        }
        Err(error) => Err(error),
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

fn freezings(want: Want) -> Vec<Freezing> {
    let all = || vec![Freezing::CgroupV2, Freezing::CgroupV1, Freezing::Signals];
    want.freezing.map_or_else(all, |freezing| vec![freezing])
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
