//! From exec to serving, in the order that C1 asks for: open, verify, hydrate, witness, decide, commit, spawn, serve.
//!
//! Whatever is wrong before `commit` means that nothing runs: the gate answers, the machine ends.

mod alone;
mod broken;
mod context;
mod copied;
mod depot_route;
mod handoff;
mod owner;
mod renewed;
mod start;
mod witnessing;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Event as Report;
use suijuris_link::message::How;
use suijuris_store::ObjectDir;
use suijuris_sys::descriptors;

use crate::authorizer::ObjectAuthorizer;
use crate::config::Start;
use crate::lifecycle_driver::{Carried, ExitReason};
use crate::lineage_writer::LineageWriter;
use crate::pid1::{self, Role, Signals};
use crate::report::Reports;
use crate::supervision::Supervision;
use suijuris_custody::clock::Clock;

use self::broken::refuse_all;
use self::context::BootContext;
use self::copied::{Copy, Places};
use self::depot_route::Relay;
use self::start::Config;
pub(crate) use self::start::Error;

/// Lifecycle events that wait at most; tasks say a handful each.
const EVENTS: usize = 256;

/// Connections handed over that wait at most.
const HANDED_OVER: usize = 1_024;

/// Time to end what is left in the machine when the runtime leaves.
const TEARDOWN: Duration = Duration::from_secs(5);

/// Runs the object to the end of this activation, in a process that has this role and has taken its signals.
///
/// # Errors
/// [`Error`] before anything is opened; everything later is reported and told by the exit code.
pub(crate) async fn run(start: Start, role: Role, signals: Signals) -> Result<ExitCode, Error> {
    let clock = Rc::new(Clock::start(None).map_err(|error| Error::System("start its pulse", error))?);
    let mut sending = tokio::task::JoinSet::new();
    let (config, reports, supervision) = match start {
        Start::Linked { link, inlet } => {
            let (attached, config, successors) = start::linked(link, inlet).await?;
            let supervision = Supervision::new(attached.link.clone(), successors);
            let (reports, outbox) = Reports::to_owner(clock.clone(), attached);
            sending.spawn_local(outbox.send());
            (config, reports, Some(supervision))
        }
        Start::Alone(alone) => (Config::alone(*alone)?, Reports::to_stderr(clock.clone()), None),
    };
    let platform = config.own.as_ref().map(|own| own.platform.clone());
    let reports = match platform.clone() {
        Some(platform) => reports.on(platform),
        None => reports,
    };
    let (carried, copy) = (Carried::default(), Rc::<RefCell<Option<Copy>>>::default());
    let (mut config, mut reports, mut supervision, mut signals) = (config, reports, supervision, signals);
    let (left, reports, authorizer) = loop {
        let authorizer = Rc::new(ObjectAuthorizer::default());
        reports.tell_requests(config.requests);
        authorizer.report_to(reports.clone());
        let places = Places::of(&config);
        let context = BootContext {
            object_dir: ObjectDir::at(&config.data),
            config,
            supervision,
            relay: Relay::default(),
            clock: clock.clone(),
            reports: reports.clone(),
            signals,
            authorizer: authorizer.clone(),
            carried: carried.clone(),
            copy: copy.clone(),
        };
        let left = Box::pin(live(context, role)).await;
        if left != ExitReason::Copied {
            break (left, reports, authorizer);
        }
        let begun = match (copy.take(), reports.take_owner()) {
            (Some(copy), Some(owner)) => copy.begin(places, owner).await,
            _ => Err(Error::Silent),
        };
        match begun {
            Ok((next, owner, theirs)) => {
                sending.shutdown().await;
                let (own, outbox) = Reports::to_owner(clock.clone(), owner);
                sending.spawn_local(outbox.send());
                (config, reports, supervision) = (next, own, Some(theirs));
                signals = Signals::new(role).map_err(|error| Error::System("take signals", error))?;
            }
            Err(error) => {
                reports.error(CODE_COPY, &error);
                break (ExitReason::Broken, reports, authorizer);
            }
        }
    };
    // Whatever the workload left is ended below.
    carried.take();
    pid1::teardown(role, TEARDOWN).await;
    reports.leaving(how(left), authorizer.refusing());
    reports.close();
    // What was reported is sent before the link closes; an owner that does not read is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), sending.join_next()).await;
    match platform {
        Some(platform) => Ok(ExitCode::from(alone::leave(left, platform, &reports).await)),
        None => Ok(ExitCode::from(exit_code(left))),
    }
}

const fn how(left: ExitReason) -> How {
    match left {
        ExitReason::Dormant => How::Stop,
        ExitReason::Refused => How::Refused,
        ExitReason::HostStopped => How::HostStop,
        ExitReason::Broken | ExitReason::WorkloadFailed | ExitReason::Copied => How::Failed,
    }
}

const fn exit_code(left: ExitReason) -> u8 {
    match left {
        ExitReason::Dormant | ExitReason::WorkloadFailed => 0,
        ExitReason::Refused => 1,
        ExitReason::Broken | ExitReason::Copied => 3,
        ExitReason::HostStopped => 4,
    }
}

fn descriptor(number: i32) -> Result<OwnedFd, Error> {
    descriptors::inherited(number).ok_or(Error::Descriptor(number))
}

async fn live(mut context: BootContext, role: Role) -> ExitReason {
    let reports = context.reports.clone();
    let step = |step: &str| {
        reports.event(Report::Boot {
            step: step.to_owned(),
        });
    };
    if role == Role::BareMachine {
        for mount in pid1::mount_missing(role, Path::new("/")) {
            if mount.result.is_err() {
                reports.event(Report::Error {
                    code: CODE_MOUNT.to_owned(),
                    message: mount.to_string(),
                });
            }
        }
    }
    if let Some(own) = &context.config.own
        && let Err(error) = alone::found(own, &reports).await
    {
        return alone::refuse(context, &error).await;
    }
    step("open");
    // Kept to the end: whoever sees it held knows that this machine runs.
    let _presence = context.config.presence.take();
    let (lineage, bundle) = match LineageWriter::open(&context.object_dir, context.config.verified.take()) {
        Ok(opened) => opened,
        Err(error) => return refuse_all(context, &error).await,
    };
    step("verify");
    if let Some(own) = &context.config.own {
        let object = lineage.published(|state| state.head().object.to_string());
        alone::call_itself(own, &object, &reports).await;
    }
    match Box::pin(context.activate(lineage, bundle)).await {
        Ok(left) => left,
        Err((context, error)) => refuse_all(*context, &error).await,
    }
}

/// The machine is a copy, and does not become a machine of its own.
const CODE_COPY: &str = "copy_failed";

/// A host that lacks what the runtime would mount.
const CODE_MOUNT: &str = "mount_failed";
