//! What comes next for a machine: from its record, and from what is seen of its processes. Pure; the actor performs it.
//!
//! A plan is made anew after each step, so that a daemon that starts anywhere in an operation goes on from there: what is
//! recorded says what is wanted, what is seen says what is there, and every effect may be performed twice.

use suijuris_vehicle::Exit;

use super::{By, Failure, ImageRef, Kind, Machine, Operation, Run, Stamp, State, Step, exit_request};
use crate::config::{RestartPolicy, RootfsPersist};

/// Restarts are counted within this time.
const RESTART_WINDOW_MS: u64 = 300_000;
/// Longest pause before a restart.
const MAX_PAUSE_MS: u64 = 30_000;

/// What is there of a machine's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Running,
    Suspended,
    Ended(Exit),
}

impl Seen {
    /// What the driver says.
    pub(crate) fn of(processes: Option<&suijuris_vehicle::process::Machine>) -> Self {
        use suijuris_vehicle::State;
        match processes.map(suijuris_vehicle::Machine::state) {
            None => Self::Nothing,
            Some(State::Running) => Self::Running,
            Some(State::Suspended) => Self::Suspended,
            Some(State::Exited(exit)) => Self::Ended(exit),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Ended(_) => "ended",
        }
    }

    const fn is_there(self) -> bool {
        matches!(self, Self::Running | Self::Suspended)
    }
}

/// What to do to the world. Each may be done twice, and says afterwards what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Have the image.
    Fetch,
    /// Have the files of the next life.
    Prepare,
    /// Start its processes.
    Launch,
    /// Let it run, and send a signal.
    Signal(i32),
    /// Kill everything.
    Kill,
    /// Suspend.
    Suspend,
    /// Resume.
    Resume,
    /// Remove its files, let its volumes go.
    Clean,
}

impl Effect {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Prepare => "prepare",
            Self::Launch => "launch",
            Self::Signal(_) => "signal",
            Self::Kill => "kill",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Clean => "clean",
        }
    }
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Fetched(ImageRef),
    Failed(String),
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Nothing, until something happens.
    Rest,
    /// Nothing, until something happens or this instant.
    Wait(u64),
    /// This record replaces the present one.
    Record(Box<Machine>),
    /// This is done, and [`after`] says what that means.
    Do(Effect),
}

/// What comes next for `machine`.
pub(crate) fn plan(machine: &Machine, seen: Seen, stamp: &Stamp) -> Next {
    let Some(operation) = &machine.operation else {
        return at_rest(machine, seen, stamp);
    };
    match &operation.kind {
        Kind::Create { launch } => create(machine, operation, *launch, stamp),
        Kind::Start { not_before_ms } => start(machine, operation, *not_before_ms, seen, stamp),
        Kind::Stop {
            signal,
            budget_ms,
            restart,
        } => halt(machine, operation, seen, (*signal, *budget_ms), stamp)
            .unwrap_or_else(|| stopped(machine, operation, *restart, seen, stamp)),
        Kind::Suspend => suspend(machine, operation, seen, stamp),
        Kind::Update { launch, .. } => update(machine, operation, *launch, seen, stamp),
        Kind::Destroy { force } => destroy(machine, operation, *force, seen, stamp),
    }
}

fn record(machine: &Machine, change: impl FnOnce(&mut Machine)) -> Next {
    let mut next = machine.clone();
    change(&mut next);
    Next::Record(Box::new(next))
}

fn at_step(machine: &Machine, step: Step) -> Next {
    record(machine, |next| {
        if let Some(operation) = &mut next.operation {
            operation.step = step;
        }
    })
}

fn at_rest(machine: &Machine, seen: Seen, stamp: &Stamp) -> Next {
    match (machine.state, seen) {
        (State::Started, Seen::Ended(exit)) => ended_by_itself(machine, exit, stamp),
        (State::Started, Seen::Nothing) => ended_by_itself(machine, Exit::Lost, stamp),
        // A suspend that was called off halfway.
        (State::Started, Seen::Suspended) => Next::Do(Effect::Resume),
        (State::Started, Seen::Running) | (State::Suspended, Seen::Suspended) => Next::Rest,
        (State::Suspended, Seen::Running) => Next::Do(Effect::Suspend),
        // The memory is gone; the files stay, and the next start is a cold one.
        (State::Suspended, seen) => record(machine, |next| {
            let exit = if let Seen::Ended(exit) = seen {
                exit
            } else {
                Exit::Lost
            };
            next.run = None;
            next.keeps_rootfs = true;
            next.state = State::Stopped;
            let request = exit_request(exit, false, false, 0, stamp.now_ms);
            next.note(stamp, "exit", By::Flyd, Some(request));
        }),
        (_, Seen::Running | Seen::Suspended) => Next::Do(Effect::Kill),
        (_, Seen::Ended(_) | Seen::Nothing) if machine.run.is_some() => {
            record(machine, |next| next.run = None)
        }
        (_, Seen::Ended(_) | Seen::Nothing) => Next::Rest,
    }
}

/// Its first program has ended, and nobody had asked for that.
fn ended_by_itself(machine: &Machine, exit: Exit, stamp: &Stamp) -> Next {
    record(machine, |next| {
        let (policy, most) = next.config.restart();
        next.restarts_ms
            .retain(|at| at.saturating_add(RESTART_WINDOW_MS) > stamp.now_ms);
        let so_far = next.restarts_ms.len();
        let again = match policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => {
                exit != Exit::Code(0) && so_far < usize::try_from(most).unwrap_or(usize::MAX)
            }
            RestartPolicy::Always => true,
        };
        next.run = None;
        next.keeps_rootfs = keeps(next, again);
        next.state = State::Stopped;
        let request = exit_request(exit, false, again, so_far, stamp.now_ms);
        next.note(stamp, "exit", By::Flyd, Some(request));
        if again {
            next.restarts_ms.push(stamp.now_ms);
            next.restarts_ms
                .drain(..next.restarts_ms.len().saturating_sub(100));
            begin(
                next,
                Kind::Start {
                    not_before_ms: stamp.now_ms.saturating_add(pause_ms(so_far)),
                },
                By::Flyd,
            );
            next.enter(stamp, State::Starting, "restart", By::Flyd);
        } else if next.config.auto_destroy == Some(true) {
            begin(next, Kind::Destroy { force: true }, By::Flyd);
            next.enter(stamp, State::Destroying, "destroy", By::Flyd);
        }
    })
}

/// The pause before a restart after so many others: none, then doubling from 100 ms.
fn pause_ms(so_far: usize) -> u64 {
    let doublings = u32::try_from(so_far).unwrap_or(u32::MAX).min(20);
    if doublings == 0 {
        0
    } else {
        (50_u64 << doublings).min(MAX_PAUSE_MS)
    }
}

/// Whether the root file system stays for the next start.
fn keeps(machine: &Machine, restarts: bool) -> bool {
    match machine
        .config
        .rootfs
        .as_ref()
        .and_then(|rootfs| rootfs.persist)
        .unwrap_or_default()
    {
        RootfsPersist::Never => false,
        RootfsPersist::Restart => restarts,
        RootfsPersist::Always => true,
    }
}

/// An operation begins.
pub(super) fn begin(machine: &mut Machine, kind: Kind, by: By) {
    machine.failure = None;
    machine.operation = Some(Operation {
        kind,
        step: Step::Begun,
        from: machine.state,
        by,
    });
}

fn create(machine: &Machine, operation: &Operation, launch: bool, stamp: &Stamp) -> Next {
    if operation.step == Step::Begun {
        return Next::Do(Effect::Fetch);
    }
    record(machine, |next| created(next, operation.by, launch, stamp))
}

/// It has its image.
fn created(next: &mut Machine, by: By, launch: bool, stamp: &Stamp) {
    next.operation = None;
    next.enter(stamp, State::Created, "launch", by);
    let idle = next.config.idle_keys();
    if !idle.is_empty() {
        let warning = format!("kept and without effect on this host: {}", idle.join(", "));
        next.tell(stamp, "warning", By::Flyd, &warning);
    }
    if launch {
        begin(next, Kind::Start { not_before_ms: 0 }, by);
    }
}

fn start(machine: &Machine, operation: &Operation, not_before_ms: u64, seen: Seen, stamp: &Stamp) -> Next {
    if machine.state != State::Starting {
        return record(machine, |next| {
            next.enter(stamp, State::Starting, "start", operation.by);
        });
    }
    match (operation.step, seen) {
        (Step::Launching, Seen::Running | Seen::Ended(_)) => started(machine, operation.by, stamp),
        (Step::Launching, Seen::Suspended) => Next::Do(Effect::Resume),
        (Step::Launching, Seen::Nothing) => Next::Do(Effect::Launch),
        (Step::Begun, _) if not_before_ms > stamp.now_ms => Next::Wait(not_before_ms),
        (Step::Begun, Seen::Suspended) if machine.run.is_some() => Next::Do(Effect::Resume),
        (Step::Begun, Seen::Running) if machine.run.is_some() => started(machine, operation.by, stamp),
        // What was suspended is gone: a cold start on the files that it had.
        (Step::Begun, Seen::Nothing | Seen::Ended(_)) if machine.run.is_some() => record(machine, |next| {
            next.run = None;
            next.keeps_rootfs |= operation.from == State::Suspended;
        }),
        (Step::Begun, Seen::Nothing | Seen::Ended(_)) => Next::Do(Effect::Prepare),
        (_, Seen::Running | Seen::Suspended) => Next::Do(Effect::Kill),
        (_, _) => record(machine, |next| launching(next, stamp)),
    }
}

/// Its next life has a name from here on, under which its processes are found whatever happens.
fn launching(next: &mut Machine, stamp: &Stamp) {
    next.lives += 1;
    next.run = Some(Run {
        name: format!("{}-{}", next.id, next.lives),
        since_ms: stamp.now_ms,
        image: next
            .image
            .as_ref()
            .map(|image| image.digest.clone())
            .unwrap_or_default(),
    });
    set_step(next, Step::Launching);
}

fn started(machine: &Machine, by: By, stamp: &Stamp) -> Next {
    record(machine, |next| {
        next.operation = None;
        next.enter(stamp, State::Started, "start", by);
    })
}

/// The steps until nothing of a machine runs; `None` once that is so.
fn halt(
    machine: &Machine,
    operation: &Operation,
    seen: Seen,
    (signal, budget_ms): (i32, u64),
    stamp: &Stamp,
) -> Option<Next> {
    match operation.step {
        Step::Halted => None,
        _ if !seen.is_there() => None,
        Step::Halting { until_ms, .. } if stamp.now_ms >= until_ms => Some(Next::Do(Effect::Kill)),
        Step::Halting { signalled: false, .. } => Some(Next::Do(Effect::Signal(signal))),
        Step::Halting { until_ms, .. } => Some(Next::Wait(until_ms)),
        _ => Some(at_step(
            machine,
            Step::Halting {
                until_ms: stamp.now_ms.saturating_add(budget_ms),
                signalled: false,
            },
        )),
    }
}

/// Notes the end of its processes, where they had been there.
fn note_end(next: &mut Machine, seen: Seen, restarts: bool, stamp: &Stamp) {
    next.restarts_ms.clear();
    next.keeps_rootfs = keeps(next, restarts);
    if next.run.take().is_some() {
        let exit = if let Seen::Ended(exit) = seen {
            exit
        } else {
            Exit::Lost
        };
        let request = exit_request(exit, true, restarts, 0, stamp.now_ms);
        next.note(stamp, "exit", By::Flyd, Some(request));
    }
}

fn stopped(machine: &Machine, operation: &Operation, restart: bool, seen: Seen, stamp: &Stamp) -> Next {
    record(machine, |next| {
        next.operation = None;
        next.state = if restart { State::Starting } else { State::Stopped };
        note_end(next, seen, restart, stamp);
        if restart {
            begin(next, Kind::Start { not_before_ms: 0 }, operation.by);
            next.note(stamp, "restart", operation.by, None);
        } else {
            next.note(stamp, "stop", operation.by, None);
        }
    })
}

fn suspend(machine: &Machine, operation: &Operation, seen: Seen, stamp: &Stamp) -> Next {
    match seen {
        Seen::Running => Next::Do(Effect::Suspend),
        Seen::Suspended => record(machine, |next| {
            next.operation = None;
            next.enter(stamp, State::Suspended, "suspend", operation.by);
        }),
        // It ended while it was being suspended: as if nobody had asked.
        Seen::Ended(_) | Seen::Nothing => record(machine, |next| {
            next.operation = None;
            next.state = State::Started;
        }),
    }
}

fn update(machine: &Machine, operation: &Operation, launch: bool, seen: Seen, stamp: &Stamp) -> Next {
    if operation.step == Step::Begun {
        return Next::Do(Effect::Fetch);
    }
    if let Some(next) = halt(machine, operation, seen, machine.stopping(), stamp) {
        return next;
    }
    let Kind::Update { next: version, .. } = operation.kind.clone() else {
        return Next::Rest;
    };
    record(machine, |next| {
        next.operation = None;
        next.adopt(*version);
        next.state = match operation.from {
            State::Created => State::Created,
            _ if launch => State::Starting,
            _ => State::Stopped,
        };
        note_end(next, seen, launch, stamp);
        next.note(stamp, "update", operation.by, None);
        if launch {
            begin(next, Kind::Start { not_before_ms: 0 }, operation.by);
        }
    })
}

fn destroy(machine: &Machine, operation: &Operation, force: bool, seen: Seen, stamp: &Stamp) -> Next {
    if force && seen.is_there() {
        return Next::Do(Effect::Kill);
    }
    if let Some(next) = halt(machine, operation, seen, machine.stopping(), stamp) {
        return next;
    }
    if operation.step == Step::Halted {
        return Next::Do(Effect::Clean);
    }
    record(machine, |next| {
        note_end(next, seen, false, stamp);
        if let Some(operation) = &mut next.operation {
            operation.step = Step::Halted;
        }
    })
}

/// What `effect` and its outcome mean for the record; `None`: what is seen says it all.
pub(crate) fn after(machine: &Machine, effect: Effect, outcome: &Outcome, stamp: &Stamp) -> Option<Machine> {
    let mut next = machine.clone();
    let operation = next.operation.clone();
    let by = operation.as_ref().map_or(By::Flyd, |operation| operation.by);
    match (effect, outcome) {
        (Effect::Fetch, Outcome::Fetched(image)) => {
            next.image = Some(image.clone());
            set_step(&mut next, Step::Fetched);
            // What follows from that needs no record of its own, each of which the disk is waited for.
            if let Some(Kind::Create { launch }) = operation.map(|operation| operation.kind) {
                created(&mut next, by, launch, stamp);
            }
        }
        (Effect::Prepare, Outcome::Done) => launching(&mut next, stamp),
        (Effect::Signal(_), _) => {
            if let Some(Operation {
                step: Step::Halting { signalled, .. },
                ..
            }) = &mut next.operation
            {
                *signalled = true;
            }
        }
        (Effect::Suspend, Outcome::Failed(why)) if operation.is_some() => {
            fail(&mut next, State::Started, why, stamp);
        }
        // Suspended it should be, and cannot be: it runs, and says so.
        (Effect::Suspend, Outcome::Failed(why)) => {
            next.state = State::Started;
            next.tell(stamp, "start", By::Flyd, why);
        }
        // What cannot be resumed is started anew.
        (Effect::Resume, Outcome::Failed(_)) => set_step(&mut next, Step::Prepared),
        (Effect::Launch | Effect::Prepare, Outcome::Failed(why)) => {
            next.run = None;
            fail(&mut next, State::Failed, why, stamp);
        }
        (Effect::Fetch, Outcome::Failed(why)) => {
            let from = operation
                .as_ref()
                .map_or(State::Failed, |operation| operation.from);
            fail(&mut next, from, why, stamp);
            if from == State::Creating {
                // A machine that never was: what had been given to it is taken back.
                next.state = State::Destroying;
                next.operation = operation.map(|operation| Operation {
                    kind: Kind::Destroy { force: true },
                    step: Step::Halted,
                    ..operation
                });
            }
        }
        (Effect::Clean, _) => {
            next.operation = None;
            next.lease = None;
            next.enter(stamp, State::Destroyed, "destroy", by);
        }
        _ => return None,
    }
    Some(next)
}

fn set_step(machine: &mut Machine, step: Step) {
    if let Some(operation) = &mut machine.operation {
        operation.step = step;
    }
}

/// The operation comes to nothing.
fn fail(machine: &mut Machine, state: State, why: &str, stamp: &Stamp) {
    let operation = machine.operation.take();
    machine.state = state;
    let name = operation.as_ref().map_or("", |operation| operation.kind.name());
    let by = operation.as_ref().map_or(By::Flyd, |operation| operation.by);
    machine.failure = Some(Failure {
        operation: name.to_owned(),
        why: why.to_owned(),
    });
    machine.tell(stamp, name, by, why);
}
