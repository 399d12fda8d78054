//! A machine that carries its object by itself: before the boot that every machine goes through, and when it leaves.

use std::fs;
use std::time::Duration;

use suijuris_api::{Event as Report, Problem};
use suijuris_words::verdict;
use tokio::signal::unix::{SignalKind, signal};

use crate::lifecycle_driver::ExitReason;
use crate::report::Reports;
use crate::resident::founding::{Founded, Founding, FoundingError, OBJECT};
use crate::resident::platform::{Ask, CODE_PLATFORM, Platform};
use suijuris_custody::chain;

use super::broken::answer_all;
use super::context::BootContext;
use super::exit_code;
use super::start::Own;

/// Nothing was founded.
pub(super) const CODE_NOT_FOUNDED: &str = "not_founded";

/// How long a platform that said that it stops the machine may take, before the machine ends by itself.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// Sees to it that the volume holds the object; founds it where its owners let it begin here.
pub(super) async fn found(own: &Own, reports: &Reports) -> Result<(), FoundingError> {
    let volume_id = match &own.platform {
        Some(platform) => platform.volume_at(&own.volume).await.unwrap_or_else(|error| {
            // What carries the machine need not say what it is made of.
            reports.error(CODE_PLATFORM, &error);
            None
        }),
        None => None,
    };
    let depot = match &own.depot {
        Some(url) => {
            let variable = |name: &str| std::env::var(name).ok();
            let opened = suijuris_depot::open(url, &variable).await;
            Some(opened.map_err(|error| FoundingError::Depot(chain(&error)))?)
        }
        None => None,
    };
    let founding = Founding {
        volume: &own.volume,
        bundle: own.bundle.clone(),
        ticket: own.ticket.as_deref(),
        app: own.platform.as_ref().map(|platform| platform.app().to_owned()),
        volume_id,
        depot,
        now: reports.now(),
    };
    if let Founded::Now(object) = founding.run().await? {
        reports.event(Report::Boot {
            step: format!("founded {object}"),
        });
    }
    for folder in ["volume", "run"] {
        let path = own.volume.join(OBJECT).join(folder);
        fs::create_dir_all(&path).map_err(|error| FoundingError::Volume(path, error))?;
    }
    Ok(())
}

/// Others in the machine's private network find the object by its id, wherever it runs.
pub(super) async fn call_itself(own: &Own, object: &str, reports: &Reports) {
    if let Some(platform) = &own.platform
        && let Err(error) = platform.be_named(object).await
    {
        // It serves all the same.
        reports.error(CODE_PLATFORM, &error);
    }
}

/// Whoever waits is told that there is no object here; why is for the owner.
pub(super) async fn refuse(context: BootContext, error: &FoundingError) -> ExitReason {
    context.reports.error(CODE_NOT_FOUNDED, error);
    let problem = Problem::new(503, CODE_NOT_FOUNDED, "No object has begun here");
    answer_all(context, problem.with_detail(verdict::OWNER_KNOWS)).await;
    ExitReason::Refused
}

/// Leaves the machine: asks the platform to stop it, and ends in a way that is not restarted; the exit code.
pub(super) async fn leave(left: ExitReason, platform: Option<Platform>, reports: &Reports) -> u8 {
    if left == ExitReason::Broken {
        return exit_code(left);
    }
    if let Some(platform) = platform.filter(|_| left != ExitReason::HostStopped) {
        match platform.ask(Ask::Stop).await {
            Ok(()) => stopped().await,
            Err(error) => reports.error(CODE_PLATFORM, &error),
        }
    }
    0
}

/// Waits for the signal that the platform said it would send.
async fn stopped() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = tokio::time::sleep(STOPPED_WITHIN) => {}
    }
}
