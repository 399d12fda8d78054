//! What every vehicle does: [`Driver`] makes machines, [`Machine`] is one of them.
//!
//! Callers (the supervisor, `suijuris up`) are generic over [`Driver`]. Futures are `Send`, so that one task may own a
//! machine on any thread. No method decides: a failure is told with its kind, and what to do about it is the caller's.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use crate::description::{Description, Enforced};
use crate::error::{
    AttachError, FreezeError, LinkError, ListError, OutputError, ResumeError, SignalError, StartError,
    SuspendError,
};
use crate::machine::{Exit, Link, MachineId, Signal, State};
use crate::output::{Lines, Since};
use crate::spec::Spec;

/// Starts machines of one kind, and finds those again that outlived an earlier supervisor.
pub trait Driver: fmt::Debug + Send + Sync + 'static {
    /// A machine of this kind.
    type Machine: Machine;

    /// What this driver can do on this host, and what stands against more.
    fn describe(&self) -> &Description;

    /// Starts a machine and returns once its first program has been executed.
    ///
    /// Cancel safe: a dropped start leaves nothing behind, whatever the lifetime asked for.
    fn start(&self, spec: Spec) -> impl Future<Output = Result<Self::Machine, StartError>> + Send;

    /// The machine of this id, started by an earlier supervisor with [`crate::Lifetime::Detached`].
    ///
    /// It is this machine beyond doubt, or [`AttachError`] says what was done about it. A machine that ended meanwhile is
    /// given too: its [`Machine::wait`] answers at once. Cancelled, it may be tried again.
    fn attach(&self, id: &MachineId) -> impl Future<Output = Result<Self::Machine, AttachError>> + Send;

    /// The detached machines that there are, those included that ended while nobody looked. Cancel safe.
    fn list(&self) -> impl Future<Output = Result<Vec<MachineId>, ListError>> + Send;

    /// Makes the next start faster, where that is possible; call it when a start is likely and time is at hand. `next` is like what
    /// will be started, as far as that is known: its program, network and lifetime count.
    ///
    /// # Errors
    /// When that failed; the next start may fail likewise.
    fn prepare(&self, _next: Option<&Spec>) -> Result<(), StartError> {
        Ok(())
    }

    /// What whoever froze a machine for the directory `dir` said of it, where a machine can begin as its copy.
    fn frozen(&self, _dir: &Path) -> Option<String> {
        None
    }

    /// Has the machine that is frozen for directory `from` be frozen for `to` as well, with this tag; memory is shared, disks are
    /// copies. Durable when it returns. Cancelled, it may have happened.
    fn copy_frozen(
        &self,
        _from: &Path,
        _to: &Path,
        _tag: &str,
    ) -> impl Future<Output = Result<(), FreezeError>> + Send {
        async { Err(FreezeError::Unsupported) }
    }

    /// No machine is to begin as a copy of what is frozen for `dir`. Idempotent.
    fn discard_frozen(&self, _dir: &Path) {}
}

/// A machine. Dropping the handle kills it, or lets go of it, as its [`crate::Lifetime`] says.
pub trait Machine: fmt::Debug + Send + Sync + 'static {
    /// Its name in the driver.
    fn id(&self) -> &MachineId;

    /// Where it is now.
    fn state(&self) -> State;

    /// Which of the limits that were asked for hold, and by what.
    fn limits(&self) -> &[Enforced];

    /// Waits until nothing of the machine is left. Cancel safe; any number may wait, also afterwards.
    fn wait(&self) -> impl Future<Output = Exit> + Send;

    /// Sends `signal` to the first program. Cancelled, it may have been sent.
    fn signal(&self, signal: Signal) -> impl Future<Output = Result<(), SignalError>> + Send;

    /// Kills everything in it, suspended or not, and waits until nothing is left. Cancelled, it may be dying.
    fn kill(&self) -> impl Future<Output = Exit> + Send;

    /// Resumes it if need be, sends `signal` to the first program, and kills all that is left after `budget`.
    /// Cancelled, the signal may have been sent, and nothing is killed.
    fn stop(&self, signal: Signal, budget: Duration) -> impl Future<Output = Exit> + Send {
        async move {
            let polite = async {
                // Both may fail because it has ended; whatever else is wrong, the kill below settles it.
                let _ = self.resume().await;
                let _ = self.signal(signal).await;
                self.wait().await
            };
            match timeout(budget, polite).await {
                Ok(exit) => exit,
                Err(_) => self.kill().await,
            }
        }
    }

    /// Stops everything in it from running, and returns once nothing does. Idempotent.
    ///
    /// Cancelled, some of it may stand still while the state says running; [`Self::resume`] mends that.
    fn suspend(&self) -> impl Future<Output = Result<(), SuspendError>> + Send;

    /// Lets everything in it run on. Idempotent; cancelled, call it again.
    fn resume(&self) -> impl Future<Output = Result<(), ResumeError>> + Send;

    /// Ends a suspended machine, and keeps what it was for its one directory, which has all that it wrote: a machine with
    /// [`Spec::frozen`] begins as its copy, once. `tag` is for whoever starts that one. An error leaves the machine as it was.
    fn freeze(&self, _tag: &str) -> impl Future<Output = Result<(), FreezeError>> + Send {
        async { Err(FreezeError::Unsupported) }
    }

    /// Of a machine that began as a copy: from here on what is newest in its directory is what it has there. Before that its end leaves
    /// the directory as it was. Durable when it returns.
    fn settle(&self) -> impl Future<Output = Result<(), FreezeError>> + Send {
        async { Ok(()) }
    }

    /// A new byte stream to the first program. Earlier ones stay open until either end closes them; by convention the
    /// newest counts. Returns without waiting for the program to take it. Cancel safe.
    fn link(&self) -> impl Future<Output = Result<Link, LinkError>> + Send;

    /// What it writes, line by line, where [`crate::Output::Lines`] was asked for.
    ///
    /// # Errors
    /// Where there is nothing to read: see [`OutputError`].
    fn output(&self, since: Since) -> Result<Lines, OutputError>;
}
