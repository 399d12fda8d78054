//! A machine's way from nothing to its program: the monitor, the channel, the first process's order and its answer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use suijuris_guest::wire::{self, Mark, Order, Report, STDERR, STDOUT};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::VirtualMachines;
use super::channel::Channel;
use super::console::Console;
use super::disk::Taken;
use super::monitor::{Hardware, Monitor};
use super::plan::order;
use crate::driver::Machine as _;
use crate::error::StartError;
use crate::machine::MachineId;
use crate::spec::{Output, Spec};

/// How long a machine may take to start its program: a kernel boots in two seconds, emulated on a host that has time.
const START_WITHIN: Duration = Duration::from_secs(180);

/// A machine whose program runs.
pub(super) struct Booted {
    pub(super) monitor: Monitor,
    pub(super) channel: Channel,
    pub(super) console: Arc<Console>,
    pub(super) consoles: JoinSet<()>,
    pub(super) outputs: Vec<UnixStream>,
    pub(super) streams: JoinSet<()>,
}

impl VirtualMachines {
    /// Boots, and starts the program; with an error, whether the program may have begun.
    pub(super) async fn boot(
        &self,
        id: &MachineId,
        spec: &Spec,
        exe: PathBuf,
        hardware: &Hardware,
        (disks, mark): (&[Taken], Option<Mark>),
    ) -> Result<Booted, (StartError, bool)> {
        let before = |error: io::Error| (StartError::Io(error), false);
        let mut channel = Channel::new();
        let (outputs, streams) = match mark {
            // What it writes is kept.
            Some(_) => (Vec::new(), JoinSet::new()),
            None => outputs(&channel, spec).map_err(before)?,
        };
        let mut monitor = hardware
            .run(&self.inner, disks, false)
            .await
            .map_err(|error| (error, false))?;
        let (console, mut consoles) = (Arc::new(Console::default()), JoinSet::new());
        monitor.keep_console(&console, &mut consoles);
        let ended = monitor.process().wait();
        let begun = async {
            monitor.connect(&mut channel).await?;
            match channel.report().await {
                Some(Report::Ready) => {}
                other => return Ok(other),
            }
            // Its clock is set by this: not before it listens.
            let mut order = order(id, spec, (exe, &self.options.guest.0), hardware.network)?;
            order.mark = mark;
            let order = wire::words(&Order::Start(Box::new(order))).map_err(io::Error::other)?;
            channel.session().send(order).await;
            io::Result::Ok(channel.report().await)
        };
        let answered = tokio::select! {
            report = tokio::time::timeout(START_WITHIN, begun) => match report {
                Ok(Ok(report)) => Some(Ok(report)),
                Ok(Err(error)) => return Err(before(error)),
                Err(late) => Some(Err(late)),
            },
            _ = ended => None,
        };
        let late = StartError::Slow {
            limit_s: START_WITHIN.as_secs(),
        };
        let error = match answered {
            Some(Ok(Some(Report::Started))) => {
                return Ok(Booted {
                    monitor,
                    channel,
                    console,
                    consoles,
                    outputs,
                    streams,
                });
            }
            Some(Ok(Some(Report::Failed { why }))) => StartError::Failed(why.into()),
            Some(Err(_late)) => late,
            Some(Ok(_)) | None => {
                // What it said last.
                let _ = tokio::time::timeout(Duration::from_secs(1), consoles.join_next()).await;
                let tail = console.tail();
                StartError::Failed(
                    format!("the machine ended before its program began; its console: {tail}").into(),
                )
            }
        };
        let _ = monitor.process().kill().await;
        Err((error, true))
    }
}

/// Where the machine's output can be read, and what carries it there.
fn outputs(channel: &Channel, spec: &Spec) -> io::Result<(Vec<UnixStream>, JoinSet<()>)> {
    let (mut outputs, mut streams) = (Vec::new(), JoinSet::new());
    for (output, stream) in [(&spec.stdout, STDOUT), (&spec.stderr, STDERR)] {
        if matches!(output, Output::Lines) {
            let (ours, inside) = UnixStream::pair()?;
            streams.spawn(channel.session().begin(stream).carry_in(inside));
            outputs.push(ours);
        }
    }
    Ok((outputs, streams))
}
