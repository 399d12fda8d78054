//! The resident object: the one place where its state, its rules, its clock and its holds meet.
//!
//! Everything here runs on the runtime's one thread; whoever wants something of the object asks here, and nothing is
//! answered that is not durable. What to do next is decided by the lifecycle (`shell`), not here.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use suijuris_api::agent::{self, Patch, Patched, Status, Token};
use suijuris_api::{Event, Problem, event, verdict};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{self, Refused, Verdict, View};
use suijuris_core::governance::{self, Action, Folded, RuleSet};
use suijuris_core::inputs::{Caller, Host, Inputs, Principal, Witnessed};
use suijuris_core::lifecycle::{self, Phase};
use suijuris_core::lineage::{Body, Count, Decision, Fired, Mutated};
use suijuris_core::manifest::Witness;
use suijuris_core::memory::{Change, Plain, Write};
use suijuris_core::time::{Now, Span};
use suijuris_gate::Traffic;
use tokio::sync::{Notify, mpsc, watch};

use crate::agent::Feed;
use crate::callers::Callers;
use crate::clock::{Clock, Continuity, ResumeDetector};
use crate::config::Launch;
use crate::holds::{self, Holds};
use crate::ledger::{self, Ledger, Sign};
use crate::patch;
use crate::refusals::Refusals;
use crate::report::{Reports, chain};

/// Length of an identity token at most.
const MAX_TOKEN: Duration = Duration::from_secs(3_600);

/// The resident object.
#[derive(Debug)]
pub struct Resident {
    id: String,
    bundle: Arc<Bundle>,
    ledger: Ledger,
    clock: Rc<Clock>,
    detector: RefCell<ResumeDetector>,
    paused: Cell<Span>,
    workload_pid: Cell<Option<i32>>,
    host: Host,
    /// Why the machine runs; for a pause that nobody announced, what it was started for.
    launch: RefCell<Launch>,
    callers: Callers,
    anonymous: Arc<Caller>,
    holds: Holds,
    traffic: Rc<Traffic>,
    active_since: Cell<Instant>,
    phase: Cell<Phase>,
    epoch_text: RefCell<String>,
    /// Rules of `admit` with the state at this position folded in.
    folded: RefCell<Option<(u64, Folded)>>,
    admitted: RefCell<Vec<(RuleSet, u64)>>,
    refusals: RefCell<Refusals>,
    changes: Feed,
    notices: Feed,
    /// Something that `remain` may depend on has changed.
    stirred: Notify,
    workload_ready: watch::Sender<bool>,
    events: mpsc::Sender<lifecycle::Event>,
    reports: Reports,
}

/// What a resident object is made of.
pub struct Parts {
    /// The object on disk, open for writing.
    pub ledger: Ledger,
    /// Its bundle.
    pub bundle: Arc<Bundle>,
    /// The clock.
    pub clock: Rc<Clock>,
    /// Where the machine runs.
    pub host: Host,
    /// Verifies callers' tokens.
    pub callers: Callers,
    /// The gate's counters.
    pub traffic: Rc<Traffic>,
    /// Where lifecycle events go.
    pub events: mpsc::Sender<lifecycle::Event>,
    /// Where reports go.
    pub reports: Reports,
}

impl Resident {
    /// The object, not yet awake.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            ledger,
            bundle,
            clock,
            host,
            callers,
            traffic,
            events,
            reports,
        } = parts;
        Self {
            id: ledger.published(|state| state.head().object.to_string()),
            detector: RefCell::new(clock.detector()),
            paused: Cell::default(),
            workload_pid: Cell::new(None),
            bundle,
            ledger,
            clock,
            host,
            launch: RefCell::default(),
            callers,
            anonymous: Arc::default(),
            holds: Holds::default(),
            traffic,
            active_since: Cell::new(Instant::now()),
            phase: Cell::new(Phase::Dormant),
            epoch_text: RefCell::default(),
            folded: RefCell::default(),
            admitted: RefCell::default(),
            refusals: RefCell::default(),
            changes: Feed::default(),
            notices: Feed::default(),
            stirred: Notify::new(),
            workload_ready: watch::Sender::new(false),
            events,
            reports,
        }
    }

    /// Identity, as text.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bundle in force.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The object on disk.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where reports go.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Counters of the gate.
    #[must_use]
    pub fn traffic(&self) -> &Rc<Traffic> {
        &self.traffic
    }

    /// Notices to the workload.
    #[must_use]
    pub fn notice_feed(&self) -> &Feed {
        &self.notices
    }

    /// Memory changes to the workload.
    #[must_use]
    pub fn memory_feed(&self) -> &Feed {
        &self.changes
    }

    /// Says an event to the lifecycle. A full queue means that the lifecycle is about to end.
    pub fn say(&self, event: lifecycle::Event) {
        let _ = self.events.try_send(event);
    }

    /// The lifecycle has moved.
    pub fn enter(&self, phase: Phase) {
        if phase == Phase::Active && self.phase.get() != Phase::Active {
            self.active_since.set(Instant::now());
            let epoch = self.ledger.published(|state| state.head().epoch);
            *self.epoch_text.borrow_mut() = epoch.to_string();
        }
        self.phase.set(phase);
        self.stirred.notify_one();
    }

    /// Phase of the lifecycle.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Resolves when something that `remain` may depend on has changed.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }

    // Time.

    /// The time that a decision uses.
    #[must_use]
    pub fn now(&self) -> Now {
        self.ledger.now(self.clock.reading())
    }

    /// Whether the machine was suspended since the last look; the first to notice tells the lifecycle.
    #[must_use]
    pub fn jumped(&self) -> bool {
        let (_, continuity) = self.clock.check(&mut self.detector.borrow_mut());
        if let Continuity::Jumped { paused, .. } = continuity {
            self.paused.set(paused);
            self.thawed();
        }
        matches!(self.phase.get(), Phase::Resuming | Phase::Suspended)
    }

    /// The machine was suspended and runs again: nothing is forwarded until `wake` is decided again. The host says so,
    /// or the clocks do.
    pub fn thawed(&self) {
        if matches!(self.phase.get(), Phase::Active | Phase::Suspended) {
            self.phase.set(Phase::Resuming);
            self.say(lifecycle::Event::Thawed);
        }
    }

    /// How long the machine stood still when it was last suspended; negative for a clock that went back.
    #[must_use]
    pub fn paused(&self) -> Span {
        self.paused.get()
    }

    /// The machine was started, or runs again, for this reason.
    pub fn relaunch(&self, launch: Launch) {
        self.launch.replace(launch);
    }

    /// Timer occurrences that the machine runs for.
    #[must_use]
    pub fn launch_fired(&self) -> Fired {
        std::mem::take(&mut self.launch.borrow_mut().fired)
    }

    // Deciding.

    /// What a decision to wake looks at: why the machine runs, as its owner says.
    #[must_use]
    pub fn launch_inputs(&self) -> Inputs {
        let launch = self.launch.borrow().clone();
        let principal = match launch.by.as_str() {
            "caller" => Principal::Caller(Box::new(launch.caller.unwrap_or_default())),
            "timer" => Principal::Timer,
            "controller" => {
                Principal::Controller(self.ledger.published(|state| state.head().controllers.clone()))
            }
            _ => Principal::Host,
        };
        let mut inputs = self.inputs(principal);
        inputs.trigger = Some(launch.trigger);
        inputs.request = launch.request;
        if self.bundle.manifest.witness == Witness::Required {
            // No witness is configured in this release; a bundle that requires one does not wake without.
            inputs.standing.witness = Witnessed::Missing;
        }
        inputs
    }

    /// Facts that every decision has.
    #[must_use]
    pub fn inputs(&self, principal: Principal) -> Inputs {
        let mut inputs = Inputs::new(self.now(), principal);
        inputs.host = self.host.clone();
        inputs.holds = self.holds.names(Instant::now());
        inputs
    }

    /// As [`Resident::inputs`], with how busy the object is.
    #[must_use]
    pub fn busy_inputs(&self, principal: Principal) -> Inputs {
        let mut inputs = self.inputs(principal);
        let (now, since) = (Instant::now(), self.active_since.get());
        let span = |from: Instant| {
            Span(i64::try_from(now.saturating_duration_since(from).as_millis()).unwrap_or(i64::MAX))
        };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        inputs.activity = Some(suijuris_core::inputs::Activity {
            active: span(since),
            idle: span(since.max(self.traffic.last_activity())),
            connections: count(self.traffic.connections()),
            in_flight: count(self.traffic.in_flight()),
        });
        inputs
    }

    /// Decides about the object as it was last staged, so that the decision can be recorded next.
    #[must_use]
    pub fn decide(&self, action: Action, inputs: Inputs) -> Verdict {
        self.ledger.staged(|state| {
            decide::decide(
                View::new(state, &self.bundle.rules),
                action,
                state.head().object,
                inputs,
            )
        })
    }

    /// As [`Resident::decide`], for the words alone.
    #[must_use]
    pub fn consider(&self, action: Action, inputs: Inputs) -> Decision {
        self.ledger
            .staged(|state| decide::consider(View::new(state, &self.bundle.rules), action, inputs))
    }

    /// Runs `run` with the durable object as rules see it, borrowed.
    pub fn with_object<R>(&self, run: impl FnOnce(View<'_>, governance::Object<'_>) -> R) -> R {
        self.ledger.published(|state| {
            let view = View::new(state, &self.bundle.rules);
            let lineage = decide::lineage_facts(view.head);
            run(
                view,
                governance::Object {
                    id: &self.id,
                    name: &view.head.name,
                    memory: view.memory,
                    lineage,
                },
            )
        })
    }

    /// Runs `run` with the durable object as rules see it, and with the rules of `admit` into which it is folded.
    pub fn with_folded<R>(
        &self,
        run: impl FnOnce(View<'_>, governance::Object<'_>, Option<&Folded>) -> R,
    ) -> R {
        self.with_object(|view, object| {
            let now = self.now();
            let mut folded = self.folded.borrow_mut();
            let current = folded
                .as_ref()
                .is_some_and(|(seq, folded)| *seq == view.head.seq && folded.is_valid(now));
            if !current {
                // Rules too large to fold are judged whole.
                let fold = view.program.fold(Action::Admit, object, now).ok();
                *folded = fold.map(|fold| (view.head.seq, fold));
            }
            run(view, object, folded.as_ref().map(|(_, folded)| folded))
        })
    }

    /// Where the machine runs, as rules see it.
    #[must_use]
    pub fn host_facts(&self) -> governance::Host<'_> {
        decide::host(&self.host)
    }

    /// A caller without a token.
    #[must_use]
    pub fn anonymous(&self) -> Arc<Caller> {
        self.anonymous.clone()
    }

    /// The caller of an `Authorization` header.
    ///
    /// # Errors
    /// Why the token is not valid.
    pub fn verify_caller(&self, header: &[u8]) -> Result<Arc<Caller>, String> {
        if self.callers.is_empty() {
            return Ok(self.anonymous());
        }
        let header = std::str::from_utf8(header).map_err(|_| "the header is not text".to_owned())?;
        self.callers
            .verify(header, self.now())
            .map_err(|error| error.to_string())
    }

    /// Runs `run` with the epoch as text, for headers.
    pub fn with_epoch_text<R>(&self, run: impl FnOnce(&str) -> R) -> R {
        run(&self.epoch_text.borrow())
    }

    /// Counts an admission by the rules that gave it.
    pub fn count_admission(&self, answer: &Result<(decide::Permit, RuleSet), Refused>) {
        let Ok((_, rules)) = answer else { return };
        let mut admitted = self.admitted.borrow_mut();
        match admitted.iter_mut().find(|(have, _)| have == rules) {
            Some((_, times)) => *times = times.saturating_add(1),
            None => admitted.push((*rules, 1)),
        }
    }

    /// Admissions counted since this was last asked.
    #[must_use]
    pub fn take_admitted(&self) -> Vec<Count> {
        let ids = |rules: &RuleSet| {
            let id = |index| self.bundle.rules.program.rule(index).map(|rule| rule.id.clone());
            rules.iter().filter_map(id).collect()
        };
        let admitted = self.admitted.take();
        admitted
            .iter()
            .map(|(rules, times)| Count {
                rules: ids(rules),
                times: *times,
            })
            .collect()
    }

    /// Takes note of a refused request; the first of its kind is reported and recorded.
    pub fn refused_at_gate(&self, decision: Decision) {
        self.refusals
            .borrow_mut()
            .add(decision, self.clock.reading().wall);
        self.stirred.notify_one();
    }

    /// Refusals that are to be recorded now.
    #[must_use]
    pub fn take_refusals(&self, all: bool) -> Vec<suijuris_core::lineage::Refused> {
        self.refusals.borrow_mut().take(self.clock.reading().wall, all)
    }

    // Holds.

    /// Names of the holds in force.
    #[must_use]
    pub fn hold_names(&self) -> BTreeSet<String> {
        self.holds.names(Instant::now())
    }

    /// When the next hold ends.
    #[must_use]
    pub fn next_hold_end(&self) -> Option<Instant> {
        self.holds.next_end(Instant::now())
    }

    /// Takes or prolongs a hold.
    ///
    /// # Errors
    /// As [`Holds::take`].
    pub fn take_hold(&self, name: &str, length: Duration) -> Result<(), holds::Error> {
        self.holds.take(name, length, Instant::now())?;
        self.stirred.notify_one();
        Ok(())
    }

    /// Releases a hold; whether it was in force.
    pub fn release_hold(&self, name: &str) -> bool {
        let released = self.holds.release(name, Instant::now());
        self.stirred.notify_one();
        released
    }

    // The agent socket.

    /// How the object is.
    #[must_use]
    pub fn status(&self) -> Status {
        let phase = match self.phase.get() {
            Phase::Dormant | Phase::Suspended => "dormant",
            Phase::Waking => "waking",
            Phase::Active => "active",
            Phase::Resuming => "resuming",
            Phase::Draining | Phase::Left => "draining",
        };
        let holds = crate::agent::holds_left(self.holds.left(Instant::now()));
        self.ledger.published(|state| Status {
            object: self.id.clone(),
            name: state.head().name.clone(),
            phase: phase.to_owned(),
            epoch: state.head().epoch,
            seq: state.head().seq,
            head: state.head().record.to_string(),
            bundle: state.head().bundle.to_string(),
            memory_root: state.memory().root().hex(),
            holds,
        })
    }

    /// Memory, secrets veiled.
    #[must_use]
    pub fn memory(&self) -> agent::Memory {
        let now = self.now();
        self.ledger.published(|state| crate::words::memory(state, now))
    }

    /// The value of a secret field; `None` for any other field.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub fn secret(&self, name: &str) -> Result<Option<serde_json::Value>, Problem> {
        let secret = self.ledger.secret(name).map_err(|error| {
            Problem::new(500, "secret_unreadable", "The secret cannot be read").with_detail(chain(&error))
        })?;
        Ok(secret.map(|value| serde_json::to_value(Plain(&value)).unwrap_or_default()))
    }

    /// The workload says that it can serve.
    pub fn workload_says_ready(&self) {
        self.workload_ready.send_replace(true);
    }

    /// Turns true when the workload has said that it can serve.
    #[must_use]
    pub fn workload_ready(&self) -> watch::Receiver<bool> {
        self.workload_ready.subscribe()
    }

    /// The workload runs as this process.
    pub fn workload_runs(&self, pid: i32) {
        self.workload_pid.set(Some(pid));
    }

    /// Process of the workload.
    #[must_use]
    pub fn workload_pid(&self) -> Option<i32> {
        self.workload_pid.get()
    }

    /// Passes a signal on that is meant for the workload.
    pub fn forward_signal(&self, number: i32) {
        if let Some(pid) = self.workload_pid.get() {
            // A workload that has just ended needs no signal.
            let _ = crate::sys::kill(-pid, number);
        }
    }

    /// Writes memory if the rules let `by`; answered when it is durable.
    ///
    /// # Errors
    /// The problem to answer with: not a fitting change, refused by the rules, or the disk failed.
    pub async fn patch(&self, by: Principal, patch: &Patch) -> Result<Patched, Problem> {
        let parsed = self
            .ledger
            .staged(|state| patch::parse(patch, state.memory()))
            .map_err(|error| {
                let (status, code) = error.status();
                memory_problem(status, code, &error)
            })?;
        let fields: BTreeSet<String> = parsed
            .change
            .keys()
            .chain(parsed.secrets.keys())
            .map(ToString::to_string)
            .collect();
        self.may_write(by.clone(), &fields)?;
        let mut change = parsed.change;
        for (name, value) in parsed.secrets {
            let commitment = self
                .ledger
                .keep_secret(&value)
                .map_err(|error| disk_problem(&error))?;
            change.insert(
                name,
                Write::Set(suijuris_core::memory::Value::Commitment(commitment)),
            );
        }
        self.mutate(by.as_str(), change, fields)
            .await
            .map_err(|error| disk_problem(&error))
    }

    fn may_write(&self, by: Principal, fields: &BTreeSet<String>) -> Result<(), Problem> {
        let mut inputs = self.inputs(by);
        inputs.fields.clone_from(fields);
        match self.decide(Action::Mutate, inputs) {
            Verdict::Permit(..) => Ok(()),
            Verdict::Refuse(decision) => {
                let problem = verdict::problem(&decision, &self.id);
                self.refused_at_gate(*decision);
                Err(problem)
            }
        }
    }

    async fn mutate(
        &self,
        by: &str,
        change: Change,
        fields: BTreeSet<String>,
    ) -> Result<Patched, ledger::Error> {
        let body = Body::Mutated(Mutated {
            by: by.to_owned(),
            change,
        });
        let sign = if self.bundle.manifest.seal_within.0 == 0 {
            Sign::Now
        } else {
            Sign::Later
        };
        let committed = self.ledger.commit(body, self.now().at, sign).await?;
        let root = self.ledger.published(|state| state.memory().root().hex());
        let fields: Vec<String> = fields.into_iter().collect();
        self.changes.send("memory", &self.memory());
        self.reports.event(Event::Mutated {
            fields,
            by: by.to_owned(),
            seq: committed.seq,
        });
        self.stirred.notify_one();
        Ok(Patched {
            seq: committed.seq,
            root,
        })
    }

    /// Decides a proposal to sleep and, if permitted, begins it.
    ///
    /// # Errors
    /// The refusal.
    pub fn propose_sleep(&self, by: Principal) -> Result<event::Verdict, Problem> {
        self.reports.event(Event::Proposal {
            action: Action::Sleep.to_string(),
            by: by.as_str().to_owned(),
            trigger: None,
            detail: String::new(),
        });
        let verdict = self.decide(Action::Sleep, self.busy_inputs(by));
        let words = verdict::verdict(verdict.decision(), "runtime");
        self.reports.event(Event::Verdict(words.clone()));
        match verdict {
            Verdict::Permit(permit, decision) => {
                self.say(lifecycle::Event::Permitted(permit, decision));
                Ok(words)
            }
            Verdict::Refuse(decision) => {
                let problem = verdict::problem(&decision, &self.id);
                self.refused_at_gate(*decision);
                Err(problem)
            }
        }
    }

    /// An identity token: a JWT by the epoch's key.
    ///
    /// # Errors
    /// When the length is out of range, or no epoch runs.
    pub fn identity_token(&self, audience: &str, length: Duration) -> Result<Token, Problem> {
        if audience.is_empty() || audience.len() > 1_024 || length.is_zero() || length > MAX_TOKEN {
            return Err(
                Problem::new(422, "bad_token_request", "Not a token that can be given")
                    .with_detail("name an audience of 1 to 1024 characters and a length from 1ms to 1h"),
            );
        }
        let length = Span(i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
        let (now, expires) = (self.now().at, self.now().at.saturating_add(length));
        let claims = self.ledger.published(|state| {
            serde_json::json!({
                "iss": self.id, "sub": self.id, "aud": audience, "iat": now.0 / 1_000, "exp": expires.0 / 1_000,
                "name": state.head().name, "epoch": state.head().epoch, "head": state.head().record.to_string(),
            })
        });
        let token = self.ledger.sign_token(&claims).ok_or_else(|| {
            Problem::new(409, "no_epoch", "No activation runs")
                .with_detail("ask again once the object is awake")
        })?;
        Ok(Token {
            token,
            expires: expires.to_string(),
        })
    }
}

fn memory_problem(status: u16, code: &'static str, error: &patch::Error) -> Problem {
    let problem = match code {
        "memory_conflict" => Problem::new(status, "memory_conflict", "Memory has changed"),
        _ => Problem::new(status, "memory_refused", "The write does not fit memory"),
    };
    problem.with_detail(error.to_string())
}

fn disk_problem(error: &dyn std::error::Error) -> Problem {
    Problem::new(
        507,
        "not_durable",
        "The write could not be made durable; nothing was written",
    )
    .with_detail(chain(error))
}
