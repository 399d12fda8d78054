//! Performs what the lifecycle decides: the runtime's one loop.
//!
//! Tasks say events, the lifecycle answers with effects, and the driver performs them in order. It decides nothing.

mod committing;
mod workload_watch;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use suijuris_api::Event as Report;
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal, WorkloadEnd};
use suijuris_core::lifecycle::{Effect, Event, Leave, Lifecycle, Notice, Phase};
use suijuris_core::lineage::{Decision, Fired};
use suijuris_core::manifest::SleepMode;
use suijuris_core::time::Span;
use suijuris_gate::{Control, Phase as GatePhase};
use suijuris_link::message::How;
use suijuris_words::verdict;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::authorizer::ObjectAuthorizer;
use crate::lineage_writer::{self};
use crate::resident::Resident;
use crate::resident::platform::{Ask, CODE_PLATFORM, Platform};
use crate::workload::{self, Output, Placement, Running, Secrets};
use suijuris_custody::chain;

/// How the runtime ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitReason {
    /// Dormant: the machine is to be stopped.
    Dormant,
    /// Dormant, since its workload crashed, never became ready or ended before it had done anything.
    WorkloadFailed,
    /// The wake was refused.
    Refused,
    /// The host stopped the machine.
    HostStopped,
    /// Something broke; nothing was acknowledged after it.
    Broken,
    /// The machine is a copy of a suspended one: it begins as what it is told, and its workload goes on.
    Copied,
}

/// The workload of a machine, from one activation to that of its copy.
pub(crate) type Carried = Rc<RefCell<Option<Rc<Running>>>>;

/// Time to answer who was taken in at the very end of the linger; a connection that merely stays open is not waited
/// for any longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Time for clients to close connections on which they were answered, before the machine is suspended.
const LEFT_WITHIN: Duration = Duration::from_millis(100);

/// The loop and what it works on.
pub(crate) struct LifecycleDriver {
    resident: Rc<Resident>,
    authorizer: Rc<ObjectAuthorizer>,
    gate: Control,
    placement: Placement,
    events: mpsc::Receiver<Event>,
    fired: Fired,
    workload: Option<Rc<Running>>,
    tasks: JoinSet<()>,
    left: Option<Leave>,
    /// What becomes of the machine once the object sleeps.
    sleep: SleepMode,
    /// The gate answers with a refusal: whoever waits is to get it before the machine goes.
    refusing: bool,
    /// Until when it does so at least, where nothing outside keeps the refused from starting the machine.
    stays_until: Option<Instant>,
    carried: Carried,
}

impl LifecycleDriver {
    /// A driver for a resident object.
    #[must_use]
    pub(crate) fn new(
        resident: Rc<Resident>,
        authorizer: Rc<ObjectAuthorizer>,
        gate: Control,
        placement: Placement,
        events: mpsc::Receiver<Event>,
        fired: Fired,
    ) -> Self {
        let (workload, tasks, left) = (None, JoinSet::new(), None);
        let sleep = resident.bundle().manifest.sleep;
        Self {
            resident,
            authorizer,
            gate,
            placement,
            events,
            fired,
            workload,
            tasks,
            left,
            sleep,
            refusing: false,
            stays_until: None,
            carried: Carried::default(),
        }
    }

    /// Goes on with the workload that is there, and leaves it there for a copy of the machine.
    #[must_use]
    pub(crate) fn carrying(mut self, carried: Carried) -> Self {
        self.carried = carried;
        self
    }

    /// Refuses until then at least: what a refused request costs is bounded, however many come.
    #[must_use]
    pub(crate) const fn staying(mut self, until: Instant) -> Self {
        self.stays_until = Some(until);
        self
    }

    /// Runs one life, from the first decision to the end.
    pub(crate) async fn run(mut self, inputs: Inputs) -> ExitReason {
        let inputs = match self.await_reason(inputs).await {
            Ok(Some(inputs)) => inputs,
            Ok(None) => return ExitReason::HostStopped,
            Err(error) => return self.break_down(&error).await,
        };
        let mut lifecycle = Lifecycle::dormant(self.sleep);
        let mut next = Some(self.decide_wake(inputs));
        while self.left.is_none() {
            let event = match next.take() {
                Some(event) => event,
                None => match self.events.recv().await {
                    Some(event) => event,
                    None => return ExitReason::Broken,
                },
            };
            if matches!(event, Event::Drained) && !self.resident.reports().is_attended() {
                // Nobody is there to suspend the machine, or to resume it.
                self.sleep = SleepMode::Stop;
                lifecycle = lifecycle.sleeping(self.sleep);
            }
            let (after, effects) = lifecycle.on(event);
            lifecycle = after;
            self.resident.enter(lifecycle.phase());
            for effect in effects {
                match self.perform(effect).await {
                    Ok(Some(event)) => next = Some(event),
                    Ok(None) => {}
                    Err(error) => return self.break_down(&error).await,
                }
            }
        }
        match self.left {
            Some(Leave::Stop) => {
                self.linger().await;
                match self.resident.has_workload_failed() {
                    true => ExitReason::WorkloadFailed,
                    false => ExitReason::Dormant,
                }
            }
            Some(Leave::Refused) => {
                self.linger().await;
                ExitReason::Refused
            }
            Some(Leave::HostStop) | None => ExitReason::HostStopped,
        }
    }

    /// Where nothing outside decides for whom a machine starts: a platform starts it for whoever comes, and says nothing of
    /// them. What the rules do not wake the object for as it is, they are asked for each request. None where the machine
    /// is to be stopped meanwhile.
    async fn await_reason(&mut self, inputs: Inputs) -> Result<Option<Inputs>, lineage_writer::Error> {
        let Some(until) = self.stays_until else {
            return Ok(Some(inputs));
        };
        if self.resident.need_not_be_asked() {
            return Ok(Some(inputs));
        }
        let mut heard = self.authorizer.ask_to_wake(until);
        self.gate.set(GatePhase::Open);
        let stopped = loop {
            tokio::select! {
                cause = &mut heard => {
                    if let Ok(cause) = cause {
                        self.resident.started_for(cause);
                    }
                    break false;
                }
                () = tokio::time::sleep_until(until.into()) => break false,
                event = self.events.recv() => {
                    if matches!(event, None | Some(Event::HostStops)) {
                        break true;
                    }
                }
            }
        };
        self.gate.set(GatePhase::Holding);
        self.authorizer.asked_enough();
        for refused in self.resident.take_refusals(true) {
            self.resident.record_refused(refused).await?;
        }
        Ok((!stopped).then(|| self.resident.launch_inputs()))
    }

    async fn perform(&mut self, effect: Effect) -> Result<Option<Event>, lineage_writer::Error> {
        match effect {
            Effect::Commit(commit) => {
                self.commit(commit).await?;
                return Ok(Some(Event::Durable));
            }
            Effect::SpawnWorkload => return Ok(self.spawn()),
            Effect::OpenGate => {
                self.resident.reports().event(Report::Boot {
                    step: "serve".to_owned(),
                });
                self.resident.may_answer().await;
                self.resident.serves();
                self.gate.set(GatePhase::Open);
            }
            // Until it is suspended the gate stays shut as it drained: it takes nobody into a suspended machine.
            Effect::HoldGate if self.resident.phase() == Phase::Suspended => {}
            Effect::HoldGate => self.gate.set(GatePhase::Holding),
            Effect::RefuseGate(decision) => {
                self.refusing = true;
                let id = self.resident.refusal_id(&decision);
                let mut problem = self.resident.public_problem(&decision, &id);
                if let Some(until) = self.stays_until {
                    // Before that nothing is decided again.
                    let stays = until.saturating_duration_since(Instant::now()).as_secs();
                    problem.retry_after = problem.retry_after.or(Some(stays.max(1)));
                }
                self.authorizer.refuse(problem);
                self.gate.set(GatePhase::Open);
                self.gate.ask_again();
            }
            Effect::DrainGate => self.drain(),
            Effect::StopWorkload => return Ok(self.stop_workload()),
            Effect::Tell(notice) => self.tell(notice),
            Effect::Suspend => self.ask_to_be_suspended().await,
            Effect::DecideAgain => return Ok(Some(self.decide_again().await)),
            Effect::Leave(leave) => self.left = Some(leave),
        }
        Ok(None)
    }

    // Deciding.

    fn decide_wake(&self, inputs: Inputs) -> Event {
        self.resident.reports().event(Report::Boot {
            step: "decide".to_owned(),
        });
        match self.resident.decide(Action::Wake, inputs) {
            Verdict::Permit(permit, decision) => {
                self.say_verdict(&decision);
                Event::Permitted(permit, decision)
            }
            Verdict::Refuse(decision) => {
                self.say_verdict(&decision);
                Event::WakeRefused(decision)
            }
        }
    }

    async fn decide_again(&self) -> Event {
        let claim = self.resident.claim();
        let asked = match claim.resumed().await {
            Ok(()) => claim.wake().await.map(drop).map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        if let Err(message) = asked {
            // What the witness said before the pause counts no more; the decision finds it missing.
            let code = CODE_NO_WITNESS.to_owned();
            self.resident.reports().event(Report::Error { code, message });
        }
        let inputs = self.resident.launch_inputs();
        self.decide_wake(inputs)
    }

    fn say_verdict(&self, decision: &Decision) {
        self.resident
            .reports()
            .event(Report::Verdict(verdict::verdict(decision, "runtime")));
    }

    /// The decision that ends an activation because of its workload.
    fn workload_decision(&self, end: WorkloadEnd) -> Box<Decision> {
        let mut inputs = self.resident.busy_inputs(Principal::Workload);
        inputs.conditions.workload = Some(end);
        Box::new(self.resident.evaluate(Action::Remain, inputs))
    }

    // The workload.

    fn spawn(&mut self) -> Option<Event> {
        let resident = self.resident.clone();
        resident.reports().event(Report::Boot {
            step: "spawn".to_owned(),
        });
        let going_on = self.carried.borrow().clone();
        if let Some(running) = going_on.filter(|running| running.poll_ended().is_none()) {
            // It had said so before, or it would not have been suspended.
            self.resident.workload_was_ready();
            self.runs(running);
            return None;
        }
        let manifest = &resident.bundle().manifest;
        let field = |name: &str| resident.lineage().secret(name);
        self.placement.secrets = match Secrets::gather(manifest, field) {
            Ok(secrets) => secrets,
            Err(error) => {
                resident.reports().error(error.code(), &error);
                return Some(self.not_spawned(&error));
            }
        };
        let spawned = workload::spawn(&manifest.workload, &self.placement, Output::inherited());
        // Of what it was given, nothing is needed any more.
        self.placement.secrets = Secrets::default();
        match spawned {
            Ok(running) => {
                self.runs(Rc::new(running));
                None
            }
            Err(error) => {
                resident.reports().error(CODE_WORKLOAD_FAILED, &error);
                Some(self.not_spawned(&error))
            }
        }
    }

    /// The workload runs: it is watched from here on.
    fn runs(&mut self, running: Rc<Running>) {
        let resident = self.resident.clone();
        resident.workload_runs(running.pid());
        // So that the gate's end sees the workload go.
        self.placement.connections = None;
        self.workload = Some(running.clone());
        self.carried.replace(Some(running.clone()));
        let pid = u32::try_from(running.pid()).ok();
        let state = "spawned".to_owned();
        resident.reports().event(Report::Workload {
            state,
            pid,
            how: String::new(),
            took_ms: None,
        });
        if let Some(limit) = resident.bundle().manifest.workload.limits.disk {
            let volume = self.placement.data_dir.clone();
            self.tasks
                .spawn_local(workload_watch::measure(resident.clone(), volume, limit));
        }
        self.tasks
            .spawn_local(workload_watch::watch(resident, running, self.gate.clone()));
    }

    /// The activation ends for want of a workload, and says so in the history.
    fn not_spawned(&self, error: &dyn std::error::Error) -> Event {
        self.resident.workload_failed();
        Event::WorkloadEnded(chain(error), self.workload_decision(WorkloadEnd::Failed))
    }

    fn stop_workload(&mut self) -> Option<Event> {
        match &self.workload {
            Some(running) => {
                let (running, within) = (
                    running.clone(),
                    self.resident.bundle().manifest.workload.stop_within,
                );
                let signal = self
                    .placement
                    .stop_signal(&self.resident.bundle().manifest.workload);
                self.tasks.spawn_local(async move {
                    running.stop(signal, within).await;
                });
                None
            }
            None => Some(Event::WorkloadEnded(
                "none".to_owned(),
                self.workload_decision(WorkloadEnd::Gone),
            )),
        }
    }

    fn drain(&mut self) {
        self.gate.begin_drain();
        let (resident, gate) = (self.resident.clone(), self.gate.clone());
        let within = duration(resident.bundle().manifest.gate.drain);
        self.tasks.spawn_local(async move {
            gate.last_turn().await;
            if tokio::time::timeout(within, resident.traffic().quiet())
                .await
                .is_err()
            {
                resident.cuts(resident.traffic().in_flight());
                // Also where no workload is stopped, whose end would tell them.
                gate.end_drain();
            }
            resident.say(Event::Drained);
        });
    }

    fn tell(&self, notice: Notice) {
        let name = match notice {
            Notice::Woke => "woke",
            Notice::Resumed => "resumed",
            Notice::Draining => "draining",
        };
        self.resident.notice_feed().send(name, &self.resident.status());
    }

    // Leaving.

    /// Answers the burst that woke an object that refuses or cannot run. What the gate has not taken by then is
    /// answered by whoever handed it over.
    async fn linger(&self) {
        if !self.refusing {
            return;
        }
        let linger = duration(self.resident.bundle().manifest.gate.linger);
        let stays = self
            .stays_until
            .map(|until| until.saturating_duration_since(Instant::now()));
        tokio::time::sleep(linger.max(stays.unwrap_or_default())).await;
        let _ = tokio::time::timeout(ANSWER_WITHIN, self.resident.traffic().empty()).await;
    }

    /// Nobody is to wait in a suspended machine: who was answered has left, who only stays connected is cut, and
    /// who was handed over stays the owner's.
    async fn ask_to_be_suspended(&mut self) {
        self.resident.intake().close();
        let traffic = self.resident.traffic();
        if tokio::time::timeout(LEFT_WITHIN, traffic.empty()).await.is_err() {
            self.gate.cut_all();
            let _ = tokio::time::timeout(ANSWER_WITHIN, traffic.empty()).await;
        }
        if self.resident.bundle().manifest.warm_forks && self.resident.reports().platform().is_none() {
            self.resident.awaits_word();
            match self.resident.give_key_away().await {
                Ok(true) => {}
                Ok(false) => self.resident.reports().event(Report::Error {
                    code: CODE_KEY.to_owned(),
                    message: "the object's key was not kept outside its machine: it is suspended with it, and no child can begin as its copy"
                        .to_owned(),
                }),
                Err(error) => self.resident.reports().error(CODE_KEY, &error),
            }
        }
        self.resident.reports().leaving(How::Suspend, None);
        if let Some(platform) = self.resident.reports().platform() {
            // Who comes before it is suspended waits, and is let in or not once it goes on.
            self.gate.set(GatePhase::Holding);
            self.tasks
                .spawn_local(suspended_by(platform, self.resident.clone()));
        }
    }

    /// The disk failed: nothing may be acknowledged any more, so nothing is served any more.
    async fn break_down(&mut self, error: &lineage_writer::Error) -> ExitReason {
        self.resident.reports().error(error.code(), error);
        self.gate.set(GatePhase::Closed);
        if let Some(running) = &self.workload {
            let manifest = &self.resident.bundle().manifest.workload;
            running.stop(manifest.stop_signal, manifest.stop_within).await;
        }
        ExitReason::Broken
    }
}

/// The waiting key stays in the machine.
const CODE_KEY: &str = "key_not_kept";

/// The witness could not be asked.
const CODE_NO_WITNESS: &str = "no_witness";

/// Between two looks at the clocks of a machine that is about to be suspended: they run on when it is resumed.
const LOOK_FOR_RESUME: Duration = Duration::from_millis(20);

/// How long a platform may take to suspend the machine, before it is left.
const SUSPENDED_WITHIN: Duration = Duration::from_secs(30);

/// How long a platform that said that it suspends the machine may take to begin: started after that, it was resumed.
const BEGUN_WITHIN: Duration = Duration::from_secs(3);

/// Has the platform suspend the machine, and sees it resume: by the clocks, or after a pause too short for them by the
/// platform's word. Where it does neither, the machine is left.
async fn suspended_by(platform: Rc<Platform>, resident: Rc<Resident>) {
    if let Err(error) = platform.ask(Ask::Suspend).await {
        resident.reports().error(CODE_PLATFORM, &error);
        return resident.say(Event::HostStops);
    }
    let asked = Instant::now();
    let mut begun = false;
    while resident.phase() == Phase::Suspended && asked.elapsed() < SUSPENDED_WITHIN {
        // One that jumped says so to the lifecycle.
        if resident.jumped() && resident.phase() != Phase::Suspended {
            return;
        }
        match platform.state().await.ok().flatten().as_deref() {
            Some("started") if begun || asked.elapsed() > BEGUN_WITHIN => return resident.machine_resumed(),
            Some("started") | None => {}
            Some(_under_way) => begun = true,
        }
        tokio::time::sleep(LOOK_FOR_RESUME).await;
    }
    if resident.phase() == Phase::Suspended {
        resident.say(Event::HostStops);
    }
}

/// A span of a checked manifest as a duration.
fn duration(span: Span) -> Duration {
    Duration::from_millis(u64::try_from(span.0).unwrap_or(0))
}

/// The workload could not be started, or did not become ready.
const CODE_WORKLOAD_FAILED: &str = "workload_failed";
