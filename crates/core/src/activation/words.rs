//! What an activation is told, what it wants done, and what it says. No descriptors and no texts of people: who proposes
//! and what they sent is kept by the caller under a number.

use std::time::Duration;

use crate::witness::Purpose;

/// Number of something that was asked of custody; its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ask(pub(super) u64);

/// Number of a machine of this object, from the order to start it until its end is known. Never used twice by one
/// [`Activation`](super::Activation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run(pub(super) u64);

/// The caller's number for a proposal: under it lie the trigger, the principal, the request, the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProposalId(pub u64);

/// What a proposal to wake comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// A connection with a request.
    Request,
    /// Timers that are due.
    Timer,
    /// A message that waits.
    Message,
    /// A write to a field that wakes.
    Memory,
    /// An owner. Passes every pause.
    Owner,
}

/// A proposal to wake that the door permitted, or that goes to the gate of an object that is awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// Its number.
    pub id: ProposalId,
    /// What it comes by.
    pub by: By,
    /// Machines that it was tried with so far.
    pub tries: u8,
}

impl Proposal {
    /// A proposal that was not tried yet.
    #[must_use]
    pub const fn new(id: u64, by: By) -> Self {
        Self {
            id: ProposalId(id),
            by,
            tries: 0,
        }
    }
}

/// How the host stops an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The object is asked to sleep; what has not ended after this time is killed.
    Graceful(Duration),
    /// What runs is killed.
    Now,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A proposal to wake was permitted at the door, or there is none because the object is awake or about to be.
    Proposed(Proposal),
    /// Whoever proposed has left: no answer is due.
    Gone(ProposalId),
    /// Answer to [`Effect::Claim`].
    Claimed(Ask, Claimed),
    /// Answer to [`Effect::Start`] and [`Effect::Resume`]: the machine runs.
    Started(Run),
    /// Answer to [`Effect::Start`]: there is no machine.
    StartFailed(Run),
    /// Answer to [`Effect::Resume`]: the machine is as it was.
    ResumeFailed(Run),
    /// Answer to [`Effect::Suspend`].
    Suspended(Run),
    /// Answer to [`Effect::Suspend`]: the machine runs on.
    SuspendFailed(Run),
    /// Answer to [`Effect::Attach`].
    Attached(Run, Attached),
    /// The runtime in the machine said this.
    Heard(Run, Word),
    /// The machine has ended, by itself or because it was told to. Said for every machine that was started or attached to.
    Exited(Run),
    /// Answer to [`Effect::RecordEnd`].
    Recorded(Ask, Recorded),
    /// Answer to [`Effect::Publish`], whether it succeeded or not.
    Published(Ask),
    /// A witness answers that had not: what failed for want of it may be tried again.
    Witnessed,
    /// Another copy has the object.
    Lost(Loss),
    /// An owner's write needs the store that a suspended machine holds, and its door does not let the owner wake it: the
    /// machine is given up, which is all that its runtime would do.
    GiveUp,
    /// The host stops the object. The last thing that happens to it here; a second one may be harder.
    Stop(Stop),
    /// [`Activation::deadline`](super::Activation::deadline) has passed.
    Tick,
}

/// Answer to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// This copy holds the object, or needs no witness and none answers.
    Won,
    /// This copy is not the object.
    Refused(Loss),
    /// A witness is required and none answered.
    Failed,
}

/// Why this copy is not the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Another copy holds the object, or its history is another one.
    Twin,
    /// This copy is an older one.
    RolledBack,
}

/// What attaching to a machine of an earlier process found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Its runtime waits for the result of a claim.
    Waiting,
    /// Its runtime has that result, and has not said that the object woke.
    Waking,
    /// The object is awake.
    Serving,
    /// The object falls asleep.
    Draining,
    /// The machine is suspended, the object dormant in it.
    Suspended,
    /// There is no machine.
    Nothing,
    /// It could not be proved that it is this object's machine and we its keeper.
    Failed,
}

/// A word of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is there.
    Heartbeat,
    /// The wake is permitted inside and recorded: `woke`, or `resumed`.
    Woke,
    /// The gate is open: the workload can serve.
    Serving,
    /// The gate has taken a connection; it is the runtime's alone.
    Taken(ProposalId),
    /// The object falls asleep: the gate takes nothing new.
    Draining,
    /// The object refused inside to wake or to go on; when its rules say to ask again. The machine leaves.
    Refused(Option<Duration>),
    /// The object does not let itself be put to sleep by its host.
    SleepRefused,
    /// The object is dormant, durably, and its machine is to be suspended.
    Suspend,
    /// The runtime leaves, and its machine ends.
    Leaving(Leave),
    /// The way to the runtime is closed.
    Closed,
}

/// How a runtime leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The object fell asleep.
    Slept,
    /// Its workload crashed, never became ready, or ended before anything came of it.
    WorkloadFailed,
    /// It was asked to stop by its host.
    Stopped,
}

/// What custody found and recorded when it took the object back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The history ends with the object's own act, or no activation began.
    Clean,
    /// An activation ended without the object's own act; that is recorded now.
    Crashed,
    /// This copy is not the object.
    Refused(Loss),
    /// The object cannot be opened, or not be written to.
    Failed,
}

/// What the caller has to do, in this order. None is awaited: where an answer is due, it comes as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Claim the object for this; answered by [`Event::Claimed`]. For [`Purpose::Wake`] the claim goes beside the machine's
    /// start, under a presence of the activation's own.
    Claim(Ask, Purpose),
    /// Record what is still only counted, let go of the store, and start a machine for this proposal; answered by
    /// [`Event::Started`] or [`Event::StartFailed`].
    Start(Run, ProposalId),
    /// Attach to the machine that an earlier process left; answered by [`Event::Attached`].
    Attach(Run),
    /// Hand the claim's result to the runtime of this machine: only now it may commit `woke` and spawn the workload.
    HandOver(Run),
    /// Hand this connection to the runtime, and keep it until it is taken or answered.
    Deliver(Run, ProposalId),
    /// Ask the runtime to put the object to sleep.
    Sleep(Run),
    /// Suspend the machine; answered by [`Event::Suspended`] or [`Event::SuspendFailed`].
    Suspend(Run),
    /// Resume the machine for this proposal; answered by [`Event::Started`] or [`Event::ResumeFailed`]. What was refused
    /// meanwhile goes to its runtime to be recorded.
    Resume(Run, ProposalId),
    /// Ask the runtime whether it is there; any [`Event::Heard`] is an answer.
    Probe(Run),
    /// Ask the machine to end; one that is suspended is resumed for it. May come before its start was answered.
    Stop(Run),
    /// Kill the machine; the only answer is [`Event::Exited`] (or [`Event::StartFailed`]). May come before its start was
    /// answered, and more than once.
    Kill(Run),
    /// The machine is gone: open the object at rest, record how it ended and what is unrecorded, and claim it for resting.
    /// Answered by [`Event::Recorded`]. A claim that was not answered yet is given up.
    RecordEnd(Ask),
    /// Publish the object as it rests; answered by [`Event::Published`].
    Publish(Ask),
    /// Look now at the timers that are due and the messages that wait.
    Look,
    /// Answer this proposal. It is not waiting here any more.
    Answer(Proposal, Answer),
    /// Tell whoever watches.
    Report(Report),
}

/// Answer to a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The object woke, or is awake.
    Woke,
    /// The door decides again, and whoever it permits is proposed again as in this answer.
    Again,
    /// It goes no further.
    Refused(Refusal),
}

/// Why a proposal goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The machine failed, in this way.
    #[error("{0}")]
    Failed(Failure),
    /// The object's own rules refused inside; what its gate told everybody there is to be told.
    #[error("the object refused to wake")]
    Inside(Option<Duration>),
    /// This copy is not the object.
    #[error("{0}")]
    NotTheObject(Loss),
    /// The object failed a moment ago and is left alone for this time.
    #[error("the object failed a moment ago and is not started again yet")]
    Paused(Duration),
    /// How the last machine ended cannot be recorded; that is tried again after this time.
    #[error("the end of the last machine cannot be recorded yet")]
    NotRecorded(Duration),
    /// Too many wait.
    #[error("too many requests are waiting for this object")]
    Full,
    /// The host stops the object.
    #[error("the host is stopping this object")]
    Stopping,
}

impl Refusal {
    /// When to ask again, where that is known: `Retry-After`.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Paused(after) | Self::NotRecorded(after) => Some(*after),
            Self::Inside(after) => *after,
            Self::Failed(_) | Self::NotTheObject(_) | Self::Full | Self::Stopping => None,
        }
    }
}

/// How a machine failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error("the machine cannot be started")]
    Start,
    /// It could not be resumed.
    #[error("the machine cannot be resumed")]
    Resume,
    /// It did not wake in time.
    #[error("the machine did not wake in time")]
    Late,
    /// No witness answered, and one is required.
    #[error("this object requires a witness, and none answers")]
    Unwitnessed,
    /// It ended and said nothing.
    #[error("the machine ended unexpectedly")]
    Died,
    /// Its workload ended and had not been asked to.
    #[error("the workload ended unexpectedly")]
    Workload,
    /// Its runtime does not answer.
    #[error("the runtime does not answer")]
    Stuck,
    /// It could not be attached to after a restart.
    #[error("cannot attach to the machine that an earlier process left running")]
    NotAttached,
    /// Its runtime went on without the claim's result.
    #[error("the runtime woke before it was allowed to")]
    Breach,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Twin => "another copy holds the object",
            Self::RolledBack => "this copy is older than the one the witness knows",
        })
    }
}

/// What whoever watches is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Another copy is the object; nothing more happens here.
    Lost(Loss),
    /// A machine failed.
    Failed(Failure),
    /// The object is left alone for this time, after so many failures in a row.
    Paused(Duration, u32),
    /// The object refuses to sleep; its machine is stopped without a record of its own.
    SleepRefused,
    /// A machine that cannot be suspended is stopped.
    NotSuspended,
    /// A machine was killed and does not end.
    Unkillable(Run),
    /// How a machine ended is not recorded; that is tried again after this time.
    NotRecorded(Duration),
    /// The object is stopped for good here; whether all was recorded and published.
    Stopped(bool),
    /// The object is stopped for good here and this machine has not ended.
    Abandoned(Run),
}
