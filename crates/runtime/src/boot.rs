//! From exec to serving, in the order that C1 asks for: open, verify, hydrate, witness, decide, commit, spawn, serve.
//!
//! Whatever is wrong before `commit` means that nothing runs: the gate answers, the machine ends.

mod broken;
mod house;
mod owner;
mod start;
mod witnessing;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Event as Report;
use suijuris_link::message::How;
use suijuris_link::{RuntimeLink, ToSupervisor};
use suijuris_store::ObjectDir;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::Start;
use crate::judge::GateJudge;
use crate::ledger::Ledger;
use crate::pid1::{self, Role, Signals};
use crate::report::Reports;
use crate::shell::Left;
use crate::sys;

use self::broken::refuse_all;
use self::house::House;
use self::start::{Config, Error};

/// Lifecycle events that wait at most; tasks say a handful each.
const EVENTS: usize = 256;

/// Connections handed over that wait at most.
const HANDED_OVER: usize = 1_024;

/// Time to end what is left in the machine when the runtime leaves.
const TEARDOWN: Duration = Duration::from_secs(5);

/// Runs the object to the end of this activation.
///
/// # Errors
/// [`Error`] before anything is opened; everything later is reported and told by the exit code.
pub(crate) async fn run(start: Start) -> Result<ExitCode, Error> {
    let role = pid1::adopt();
    let signals = Signals::new().map_err(|error| Error::System("take signals", error))?;
    let clock = Rc::new(Clock::start(None).map_err(|error| Error::System("start its pulse", error))?);
    let mut sending = tokio::task::JoinSet::new();
    let (config, reports, link, _link_tasks) = match start {
        Start::Linked(number) => {
            let (link, config, tasks) = start::linked(number).await?;
            let (reports, queue) = Reports::to_owner(clock.clone());
            sending.spawn_local(send_reports(link.clone(), queue));
            (config, reports, Some(link), tasks)
        }
        Start::Alone(alone) => {
            let reports = Reports::to_stderr(clock.clone());
            (Config::alone(*alone)?, reports, None, tokio::task::JoinSet::new())
        }
    };
    let judge = Rc::new(GateJudge::default());
    let house = House {
        object_dir: ObjectDir::at(&config.data),
        config,
        link,
        clock,
        reports: reports.clone(),
        signals,
        judge: judge.clone(),
    };
    let left = Box::pin(live(house, role)).await;
    pid1::teardown(role, TEARDOWN).await;
    reports.leaving(how(left), judge.refusing());
    // The judge has the object, which reports too.
    drop(judge);
    drop(reports);
    // What was reported is sent before the link closes; an owner that does not read is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), sending.join_next()).await;
    Ok(ExitCode::from(exit_code(left)))
}

const fn how(left: Left) -> How {
    match left {
        Left::Dormant => How::Stop,
        Left::Refused => How::Refused,
        Left::HostStopped => How::HostStop,
        Left::Broken => How::Failed,
    }
}

const fn exit_code(left: Left) -> u8 {
    match left {
        Left::Dormant => 0,
        Left::Refused => 1,
        Left::Broken => 3,
        Left::HostStopped => 4,
    }
}

async fn send_reports(link: RuntimeLink, mut queue: mpsc::Receiver<ToSupervisor>) {
    while let Some(message) = queue.recv().await {
        if link.send(message).await.is_err() {
            return;
        }
    }
    link.flushed().await;
}

fn descriptor(number: i32) -> Result<OwnedFd, Error> {
    sys::inherited(number).ok_or(Error::Descriptor(number))
}

async fn live(mut house: House, role: Role) -> Left {
    let reports = house.reports.clone();
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
    let _presence = house.config.presence.take();
    let (ledger, bundle) = match Ledger::open(&house.object_dir) {
        Ok(opened) => opened,
        Err(error) => return refuse_all(house, &error).await,
    };
    step("verify");
    match Box::pin(house.furnish(ledger, bundle)).await {
        Ok(left) => left,
        Err((house, error)) => refuse_all(*house, &error).await,
    }
}

/// A host that lacks what the runtime would mount.
const CODE_MOUNT: &str = "mount_failed";
