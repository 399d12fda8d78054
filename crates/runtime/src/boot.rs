//! From exec to serving, in the order that C1 asks for: open, verify, hydrate, witness, decide, commit, spawn, serve.
//!
//! Whatever is wrong before `commit` means that nothing runs: the gate answers, the machine ends.

mod broken;
mod context;
mod owner;
mod witnessing;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::Event as Report;
use suijuris_api::channel::Channel;
use suijuris_api::control::FromRuntime;
use suijuris_store::ObjectDir;
use suijuris_sys::descriptors;
use tokio::sync::mpsc;

use crate::authorizer::ObjectAuthorizer;
use crate::config::Config;
use crate::lifecycle_driver::ExitReason;
use crate::lineage_writer::LineageWriter;
use crate::pid1::{self, Role, Signals};
use crate::report::Reports;
use suijuris_custody::clock::Clock;

use self::broken::refuse_all;
use self::context::BootContext;

/// Lifecycle events that wait at most; tasks say a handful each.
const EVENTS: usize = 256;

/// Connections handed over that wait at most.
const HANDED_OVER: usize = 1_024;

/// Time to end what is left in the machine when the runtime leaves.
const TEARDOWN: Duration = Duration::from_secs(5);

/// Why the runtime cannot run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An inherited descriptor is not one.
    #[error("descriptor {0} was not inherited: start the machine again")]
    Descriptor(i32),
    /// The gate's address.
    #[error("cannot listen on {0}: is the port in use?")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Something of the system.
    #[error("the runtime cannot {0}")]
    System(&'static str, #[source] std::io::Error),
}

/// Runs the object to the end of this activation.
///
/// # Errors
/// [`Error`] before anything is opened; everything later is reported and told by the exit code.
pub(crate) async fn run(config: Config) -> Result<ExitCode, Error> {
    let role = pid1::adopt();
    let signals = Signals::new().map_err(|error| Error::System("take signals", error))?;
    let listener = listener(&config)?;
    let channel = config.control_fd.map(descriptor).transpose()?;
    let channel = channel
        .map(Channel::new)
        .transpose()
        .map_err(|error| Error::System("use its channel", error))?;
    let clock = Rc::new(Clock::start(None).map_err(|error| Error::System("start its pulse", error))?);
    let (reports, queue) = match &channel {
        Some(_) => {
            let (reports, queue) = Reports::to_owner(clock.clone());
            (reports, Some(queue))
        }
        None => (Reports::to_stderr(clock.clone()), None),
    };
    let channel = channel.map(Arc::new);
    let mut sending = tokio::task::JoinSet::new();
    if let (Some(channel), Some(queue)) = (&channel, queue) {
        sending.spawn_local(send_reports(channel.clone(), queue));
    }
    let authorizer = Rc::new(ObjectAuthorizer::default());
    let context = BootContext {
        object_dir: ObjectDir::at(&config.data),
        config,
        listener,
        channel,
        clock,
        reports: reports.clone(),
        signals,
        authorizer: authorizer.clone(),
    };
    let left = Box::pin(live(context, role)).await;
    pid1::teardown(role, TEARDOWN).await;
    reports.leaving(exit_word(left), authorizer.refusing());
    // The authorizer has the object, which reports too.
    drop(authorizer);
    drop(reports);
    // What was reported is sent before the channel closes; an owner that does not read is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), sending.join_next()).await;
    Ok(ExitCode::from(exit_code(left)))
}

const fn exit_word(left: ExitReason) -> &'static str {
    match left {
        ExitReason::Dormant => "stop",
        ExitReason::Refused => "refused",
        ExitReason::HostStopped => "host_stop",
        ExitReason::Broken => "failed",
    }
}

const fn exit_code(left: ExitReason) -> u8 {
    match left {
        ExitReason::Dormant => 0,
        ExitReason::Refused => 1,
        ExitReason::Broken => 3,
        ExitReason::HostStopped => 4,
    }
}

async fn send_reports(channel: Arc<Channel>, mut queue: mpsc::Receiver<FromRuntime>) {
    while let Some(message) = queue.recv().await {
        if channel.send(&message, &[], None).await.is_err() {
            return;
        }
    }
}

fn descriptor(number: i32) -> Result<OwnedFd, Error> {
    descriptors::inherited(number).ok_or(Error::Descriptor(number))
}

fn listener(config: &Config) -> Result<TcpListener, Error> {
    match (config.listen_fd, config.listen) {
        (Some(number), _) => descriptor(number).map(TcpListener::from),
        (None, Some(address)) => TcpListener::bind(address).map_err(|error| Error::Listen(address, error)),
        (None, None) => Err(Error::Descriptor(-1)),
    }
}

async fn live(context: BootContext, role: Role) -> ExitReason {
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
    step("open");
    // Kept to the end: whoever sees it held knows that this machine runs.
    let _held = context.config.hold_fd.and_then(descriptors::inherited);
    let (lineage, bundle) = match LineageWriter::open(&context.object_dir) {
        Ok(opened) => opened,
        Err(error) => return refuse_all(context, &error).await,
    };
    step("verify");
    match Box::pin(context.activate(lineage, bundle)).await {
        Ok(left) => left,
        Err((context, error)) => refuse_all(*context, &error).await,
    }
}

/// A host that lacks what the runtime would mount.
const CODE_MOUNT: &str = "mount_failed";
