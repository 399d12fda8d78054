//! Performing effects: none is awaited here, each that has an answer is a task.

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::activation::{Ask, Attached, Effect, Event, HostStop, ProposalId, Report, Run, Word};
use suijuris_core::codec;
use suijuris_core::lineage::Fired;
use suijuris_core::witness::{Purpose, Verdict};
use suijuris_custody::chain;
use suijuris_custody::claim::Handoff;
use suijuris_depot::Session;
use suijuris_door::{Proposal, prepared};
use suijuris_link::launch::Unattended;
use suijuris_link::message::Present;
use suijuris_link::{Cause, Launch, Secret, ToRuntime};
use suijuris_store::{Depth, Reader, Stamps};
use suijuris_vehicle::{Driver, Isolation, Machine as _, Signal, Since};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::custody::{prepare_spare, rest, take_back};
use super::done::{Back, CODE_DEPOT, CODE_MACHINE, CODE_NOT_DURABLE, Done, TakenOver};
use super::words::WorkloadEnd;
use super::{ObjectActor, Started};
use crate::destinations::KnownPlace;
use crate::limits;
use crate::machine::copied::Frozen;
use crate::machine::{self, NoMachine, Running};

/// Time for what a machine said last to arrive after its end.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(500);

/// Between two looks whether a silent runtime has said anything.
const PROBE_EVERY: Duration = Duration::from_millis(200);

/// The object was asked to sleep because its host stops it, and refused.
const CODE_SLEEP_REFUSED: &str = "sleep_refused";

impl<D: Driver> ObjectActor<D> {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Claim(ask, Purpose::Wake) => self.claim_to_wake(ask),
            Effect::Claim(ask, Purpose::Rest) => self.claim_to_rest(ask),
            Effect::Start(run, proposal) => self.start(run, proposal),
            Effect::Attach(run) => self.attach(run),
            Effect::HandOver(_) => self.hand_over(),
            Effect::Deliver(_, proposal) => self.deliver(proposal),
            Effect::Sleep(_) => self.ask_to_sleep(),
            Effect::Suspend(run) => self.suspend(run),
            Effect::Resume(run, proposal) => self.resume(run, proposal),
            Effect::Probe(run) => self.probe(run),
            Effect::Stop(_) => self.stop(),
            Effect::Kill(_) => self.kill(),
            Effect::RecordEnd(ask) => self.record_end(ask),
            Effect::Publish(ask) => self.publish(ask),
            Effect::Look => self.look(),
            Effect::Answer(proposal, answer) => self.answer(proposal, answer),
            Effect::Report(report) => self.report(report),
        }
    }

    /// A task whose answer comes back.
    pub(super) fn task(&mut self, task: impl Future<Output = Done<D::Machine>> + 'static) -> AbortHandle {
        let answers = self.answers.clone();
        self.tasks.spawn_local(async move {
            let done = task.await;
            // The actor has ended where nobody takes answers any more.
            let _ = answers.send(done).await;
        })
    }

    /// Publishes from now on, and nothing older: what was under way would overwrite it.
    fn publishing(&mut self, task: AbortHandle) {
        if let Some(older) = self.publishing.replace(task) {
            older.abort();
        }
    }

    // Starting.

    fn claim_to_wake(&mut self, ask: Ask) {
        if self.machine.is_some() {
            // A resumed runtime claims for itself, once it is told that it runs on.
            self.resuming = Some(ask);
            return;
        }
        let (lending, lent) = oneshot::channel();
        self.lending = Some(lending);
        let (claim, services) = (self.claim.clone(), self.services.clone());
        let (dir, making_key) = (self.object_dir.clone(), self.making_key.clone());
        self.task(async move {
            let handed = match lent.await {
                Ok(()) => {
                    let key = async {
                        // A machine with files of its own makes its keys there.
                        match services.driver.describe().descriptors {
                            true => prepare_spare(dir, making_key).await,
                            false => None,
                        }
                    };
                    let (claim, spare) = tokio::join!(claim.claim_for(&services.clock), key);
                    Handoff { claim, spare }
                }
                // Nothing was lent: there will be no machine.
                Err(_gone) => Handoff::default(),
            };
            Done::Claimed(ask, handed)
        });
    }

    fn start(&mut self, run: Run, id: ProposalId) {
        let cause = self.cause(id);
        let (Some(cause), Some(mut at_door)) = (cause, self.at_door.take()) else {
            self.events.push_back(Event::StartFailed(run));
            return;
        };
        self.begin_wake();
        let reading = self.services.clock.reading();
        // The runtime takes the lock; what is only counted is recorded before.
        let due = at_door.due(Fired::new(), reading, true);
        let recording = at_door.record(due, reading);
        let (give_up, given_up) = oneshot::channel();
        self.give_up = Some(give_up);
        let lending = self.lending.take();
        self.stop_verifying();
        let isolation = self.services.driver.describe().isolation;
        // A machine with a kernel of its own looks for itself. What changed meanwhile the runtime finds.
        let verified = self
            .verified
            .take()
            .filter(|_| isolation != Isolation::VirtualMachine);
        let (services, claim, reporter) = (self.services.clone(), self.claim.clone(), self.reporter.clone());
        let (paths, front) = (self.paths.clone(), self.front.clone());
        let workload = self.prepared.bundle().manifest.workload.clone();
        let (object, served_as) = (self.claim.object(), self.served_as.clone());
        let (bundle, epoch) = at_door.look(|state| (state.head().bundle, state.head().epoch));
        let frozen = Frozen::for_start(&self.services.driver, &paths.data, bundle, epoch);
        self.task(async move {
            let started = async {
                let recorded = recording?.durable().await?;
                reporter.refused(&recorded);
                drop(at_door);
                let grant = claim.lend(&services.clock, &services.relay).await;
                let grant = grant.map_err(NoMachine::Link)?;
                let unattended = if services.machines.is_some() {
                    Unattended::Serve
                } else {
                    Unattended::Stop
                };
                let verified = verified.and_then(|stamps| codec::encode(&stamps).ok());
                let launch = machine::launch(
                    &paths,
                    &front,
                    (cause, services.server),
                    grant,
                    (unattended, served_as),
                    verified,
                )?;
                let launch = Launch {
                    requests: services.access_log.detail(),
                    places: services.destinations.iter().map(KnownPlace::host).collect(),
                    ..launch
                };
                if let Some(lending) = lending {
                    let _ = lending.send(());
                }
                tokio::select! {
                    started = machine::start(&services, object, launch, &workload, frozen) => started,
                    _ = given_up => Err(NoMachine::GivenUp),
                }
            };
            Done::Started(run, started.await.map(Box::new))
        });
    }

    /// What was known of the last activation counts no more.
    fn begin_wake(&mut self) {
        self.inbox.pause();
        (self.wake_verdict, self.problem, self.handed) = (None, None, Handoff::default());
        self.workload_end = WorkloadEnd::default();
        self.pause.take();
        self.counted = false;
    }

    /// Why a machine is started, or runs on.
    fn cause(&self, id: ProposalId) -> Option<Cause> {
        let permitted = self.proposals.get(&id)?.permitted.clone()?;
        let Proposal {
            trigger,
            principal,
            request,
            fired,
        } = permitted;
        Some(Cause {
            trigger,
            request,
            by: principal,
            fired,
            host: self.services.host.clone(),
        })
    }

    /// A machine runs.
    pub(super) fn started(&mut self, run: Run, running: Running<D::Machine>) {
        self.give_up = None;
        let workload = &self.prepared.bundle().manifest.workload;
        let limited = limits::limited(&workload.limits, self.services.driver.describe());
        let mut detail = self.described();
        if let Some(image) = &running.image {
            detail = format!("{detail}; {image}");
        }
        if !limited.words.is_empty() {
            detail = format!("{detail}; limits: {}", limited.words.join(", "));
        }
        if !workload.egress.is_empty() && !self.services.driver.describe().private_network {
            detail = format!("{detail}; what the workload reaches is not limited");
        }
        self.reporter.machine("started", detail);
        self.run_on(run, running);
        self.events.push_back(Event::Started(run));
    }

    /// Hears a machine, and waits for its end.
    fn run_on(&mut self, run: Run, running: Running<D::Machine>) {
        let mut output = JoinSet::new();
        if let Ok(mut lines) = running.machine.output(Since::Kept) {
            let (reporter, services, data) = (
                self.reporter.clone(),
                self.services.clone(),
                self.paths.data.clone(),
            );
            output.spawn_local(async move {
                while let Some(line) = lines.next().await {
                    let at = reporter.event(suijuris_api::Event::Output {
                        line: line.text.clone(),
                    });
                    services.logs.keep(&data, &at, &line.text);
                }
            });
        }
        let mut words = JoinSet::new();
        let egress = &self.prepared.bundle().manifest.workload.egress;
        if !egress.is_empty() {
            words.spawn_local(crate::egress::serve(running.link.clone(), egress.clone()));
        }
        let (link, answers) = (running.link.clone(), self.answers.clone());
        words.spawn_local(async move {
            let why = loop {
                match link.receive().await {
                    Ok(Some(message)) => {
                        if answers.send(Done::Said(run, Box::new(message))).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(chain(&error)),
                }
            };
            let _ = answers.send(Done::LinkEnded(run, why)).await;
        });
        let (machine, answers) = (running.machine.clone(), self.answers.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            let exit = machine.wait().await;
            // What it said and wrote before comes first.
            let last = async { while words.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_WORDS_WITHIN, last).await;
            let last = async { while output.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_WORDS_WITHIN, last).await;
            let _ = answers.send(Done::Exited(run, exit)).await;
        });
        self.machine = Some(Started {
            running,
            _tasks: tasks,
        });
    }

    // Taking over.

    fn attach(&mut self, run: Run) {
        let Some(note) = self.left.take() else {
            self.events.push_back(Event::Attached(run, Attached::Nothing));
            return;
        };
        let services = self.services.clone();
        self.task(async move {
            let attached = machine::attach(&services, note).await;
            let taken = attached.map(|(running, present)| Box::new(TakenOver { running, present }));
            Done::Attached(run, taken)
        });
    }

    /// The machine of an earlier process is ours now.
    pub(super) fn attached(&mut self, run: Run, mut running: Running<D::Machine>, present: Option<&Present>) {
        let how = match present.map(|present| present.phase.as_str()) {
            None => Attached::Suspended,
            Some("active") => Attached::Serving,
            Some("draining") => Attached::Draining,
            // What it was told to wait for is not known any more.
            Some(_) => Attached::Failed,
        };
        let server = self.services.server;
        let _ = running.link.queue(ToRuntime::Server { key: server });
        let detail = self.services.access_log.detail();
        let _ = running.link.queue(ToRuntime::Requests { detail });
        if let Some(depot) = &self.services.depot
            && let Ok((ours, theirs)) = std::os::unix::net::UnixStream::pair()
        {
            // What the machine wrote before, this process does not remember. What either writes from now on the other knows to be its own:
            // the claim is the machine's while that runs, and this process's while it is suspended.
            let session = self.claim.session();
            let session = session.unwrap_or_else(|| Arc::new(Session::new(depot.clone())));
            let object = self.claim.object();
            if self.services.relay.serve(ours, session, object).is_ok() {
                let passes = self.services.driver.describe().descriptors;
                let route = running.depot_route(passes, theirs.into());
                let _ = running.link.queue(ToRuntime::Depot { route });
            }
        }
        self.run_on(run, running);
        self.reporter.machine("attached", self.described());
        self.events.push_back(Event::Attached(run, how));
    }

    fn hand_over(&mut self) {
        let handed = std::mem::take(&mut self.handed);
        let first = |machine: &&Started<D::Machine>| machine.running.generation == 0;
        let Some(machine) = self.machine.as_ref().filter(first) else {
            return;
        };
        // It holds for a machine that has the clocks and the files of this host; another one asks for itself.
        let shared = self.services.driver.describe().descriptors;
        let handed = Some(handed).filter(|_| shared);
        let grant = handed
            .and_then(|handed| codec::encode(&handed).ok())
            .map(Into::into);
        // A runtime that has just left asks nothing either: the end of its machine follows.
        let _ = machine.running.link.queue(ToRuntime::Granted { grant });
    }

    // Suspending and resuming.

    fn suspend(&mut self, run: Run) {
        let Some(machine) = self.the_machine() else { return };
        self.task(async move { Done::Suspended(run, machine.suspend().await) });
    }

    fn claim_to_rest(&mut self, ask: Ask) {
        let (claim, services, dir) = (self.claim.clone(), self.services.clone(), self.object_dir.clone());
        self.task(async move { Done::Rests(ask, rest(&claim, &services.clock, dir).await) });
    }

    fn resume(&mut self, run: Run, id: ProposalId) {
        let (cause, ask, at_door) = (self.cause(id), self.resuming.take(), self.at_door.take());
        let (Some(mut cause), Some(ask), Some(at_door)) = (cause, ask, at_door) else {
            self.events.push_back(Event::ResumeFailed(run));
            return;
        };
        self.begin_wake();
        let unrecorded = at_door.into_unrecorded(self.services.clock.reading());
        let mut fired = unrecorded.fired;
        fired.append(&mut cause.fired);
        cause.fired = fired;
        let numbers: Vec<u64> = unrecorded.refused.iter().map(|_| self.number()).collect();
        let Some(machine) = &mut self.machine else { return };
        let running = &mut machine.running;
        if let Some(seed) = self.object_dir.key_that_is_kept() {
            // First: without it nothing can be recorded.
            let seed = Secret::from_bytes(*seed);
            let _ = running.link.queue(ToRuntime::Key { seed });
        }
        for (id, refused) in numbers.into_iter().zip(unrecorded.refused) {
            running.told.insert(id, refused.clone());
            // What does not arrive stays unrecorded, and is recorded here when the machine ends.
            let refused = Box::new(refused);
            let _ = running.link.queue(ToRuntime::Record { id, refused });
        }
        // The runtime holds its gate since it announced the pause; now it decides again, whether it hears of it first from
        // us or from its clocks.
        running.generation += 1;
        if let (Some(notes), Some(note)) = (&self.services.machines, &mut running.note) {
            note.generation = running.generation;
            // Where it is not noted the next process is told by the runtime.
            let _ = notes.write(self.claim.object(), note);
        }
        let (generation, cause) = (running.generation, Box::new(cause));
        let _ = running.link.queue(ToRuntime::Resumed { generation, cause });
        let machine = running.machine.clone();
        let (claim, services, answers) = (self.claim.clone(), self.services.clone(), self.answers.clone());
        self.task(async move {
            claim.lend_again(&services.clock).await;
            // Before it runs, so that nothing it says comes first.
            let _ = answers.send(Done::Resuming(ask, run)).await;
            Done::Resumed(run, machine.resume().await)
        });
    }

    // While it runs.

    /// Asks the object to sleep because its host stops it: by its owner's word, where their key is here.
    fn ask_to_sleep(&mut self) {
        let id = self.number();
        self.stopping = Some(id);
        let Some(machine) = &self.machine else { return };
        let link = machine.running.link.clone();
        let (services, dir) = (self.services.clone(), self.object_dir.clone());
        self.tasks.spawn_local(async move {
            let head = tokio::task::spawn_blocking(move || {
                let reader = Reader::open(&dir, Depth::Tail).ok()?;
                Some(reader.state().head().clone())
            });
            let head = head.await.ok().flatten();
            let sign = services.sign_sleep.as_ref().zip(head);
            let signed = sign
                .and_then(|(sign, head)| sign(&head, services.server))
                .map(Box::new);
            let _ = link.queue(ToRuntime::Sleep { id, signed });
        });
    }

    fn probe(&mut self, run: Run) {
        let Some(machine) = &self.machine else { return };
        let link = machine.running.link.clone();
        let (asked, terms) = (tokio::time::Instant::now(), self.services.terms);
        if link.heard_at() + terms.beat_within > asked {
            self.events.push_back(Event::Heard(run, Word::Heartbeat));
            return;
        }
        let answers = self.answers.clone();
        self.tasks.spawn_local(async move {
            let heard = async {
                while link.heard_at() <= asked {
                    tokio::time::sleep(PROBE_EVERY).await;
                }
            };
            if tokio::time::timeout(terms.probe_within, heard).await.is_ok() {
                let _ = answers.send(Done::Alive(run)).await;
            }
        });
    }

    // Ending.

    fn stop(&mut self) {
        self.give_up = None;
        let Some(machine) = self.the_machine() else { return };
        self.tasks.spawn_local(async move {
            // Both may fail because it has ended; whatever else is wrong, a kill follows.
            let _ = machine.resume().await;
            let _ = machine.signal(Signal::TERM).await;
        });
    }

    fn kill(&mut self) {
        self.give_up = None;
        let Some(machine) = self.the_machine() else { return };
        let tag = self.tag_for_forks();
        self.tasks.spawn_local(async move {
            // Its memory is for children; where it cannot be kept they begin without.
            if let Some(tag) = tag
                && machine.freeze(&tag).await.is_ok()
            {
                return;
            }
            // How it ended is told by whoever waits for that.
            let _ = machine.kill().await;
        });
    }

    fn record_end(&mut self, ask: Ask) {
        let unrecorded = std::mem::take(&mut self.unrecorded);
        // A claim that was not answered is given up.
        (self.lending, self.resuming) = (None, None);
        let (claim, services, dir) = (self.claim.clone(), self.services.clone(), self.object_dir.clone());
        let (reporter, making_key) = (self.reporter.clone(), self.making_key.clone());
        self.task(async move {
            let _made = making_key.lock().await;
            let unasked = |why| reporter.error(CODE_DEPOT, format!("the witness cannot be asked: {why}"));
            let back = match take_back(&claim, &services.clock, dir, unrecorded, unasked).await {
                Ok((open, crashed, recorded)) => {
                    reporter.refused(&recorded);
                    Back::Ours(Box::new(open), crashed)
                }
                Err(back) => back,
            };
            Done::Back(ask, back)
        });
    }

    // At rest.

    fn publish(&mut self, ask: Ask) {
        let due = self.due();
        if self.activation.host_stop() == HostStop::None {
            let publishing = self.claim.publish(due);
            let task = self.task(async move {
                let published = match publishing {
                    Some(publishing) => publishing.await,
                    None => Ok(()),
                };
                Done::Published(ask, published)
            });
            return self.publishing(task);
        }
        // The last thing that is done for the object here.
        let reading = self.services.clock.reading();
        let recording = self.at_door.as_mut().map(|at_door| {
            let due = at_door.due(Fired::new(), reading, true);
            at_door.record(due, reading)
        });
        let (claim, reporter) = (self.claim.clone(), self.reporter.clone());
        let task = self.task(async move {
            if let Some(recording) = recording {
                let recorded = async { recording?.durable().await };
                match recorded.await {
                    Ok(recorded) => reporter.refused(&recorded),
                    Err(error) => return Done::Broken(error),
                }
            }
            Done::Published(ask, claim.leave(due).await)
        });
        self.publishing(task);
    }

    /// When a timer wants the object woken.
    fn due(&mut self) -> Option<suijuris_core::time::Timestamp> {
        let reading = self.services.clock.reading();
        prepared::due(&self.at_door.as_mut()?.timers(reading))
    }

    /// What an actor does first with an object at rest.
    pub(super) fn publish_at_rest(&mut self) {
        let due = self.due();
        if let Some(publishing) = self.claim.publish(due) {
            let (services, reporter) = (self.services.clone(), self.reporter.clone());
            let task = self.tasks.spawn_local(async move {
                // It is closed by nobody.
                let _turn = services.publishing.acquire().await;
                if let Err(why) = publishing.await {
                    reporter.error(CODE_DEPOT, why);
                }
            });
            self.publishing(task);
        }
    }

    /// Verifies the history whole while the object rests, one object after the other, so that its next machine need not.
    pub(super) fn verify_at_rest(&mut self, after: Duration) {
        self.verified = None;
        let (services, dir) = (self.services.clone(), self.object_dir.clone());
        let task = self.task(async move {
            tokio::time::sleep(after).await;
            // It is closed by nobody.
            let _turn = services.verifying.acquire().await;
            let verified = tokio::task::spawn_blocking(move || Stamps::verify(&dir)).await;
            Done::Verified(match verified {
                Ok(verified) => verified.map_err(|error| chain(&error)),
                Err(_gone) => Ok(None),
            })
        });
        self.verifying = Some(task);
    }

    /// What is not verified by now is read by its machine.
    pub(super) fn stop_verifying(&mut self) {
        if let Some(verifying) = self.verifying.take() {
            verifying.abort();
        }
    }

    /// Keeps asking a witness that is required and does not answer.
    pub(super) fn ask_again(&mut self) {
        if let Some(asking) = self.claim.again() {
            self.task(async move { Done::Witnessed(Box::new(asking.await)) });
        }
    }

    pub(super) fn witnessed(&mut self, verdict: Verdict) {
        let claim = self.claim.clone();
        self.task(async move { Done::Refused(claim.take(verdict).await.map(Box::new)) });
    }

    /// What can be done ahead for the next start.
    pub(super) fn prewarm(&self) {
        let next = machine::next(&self.services, &self.prepared.bundle().manifest.workload);
        if let Err(error) = self.services.driver.prepare(next.as_ref()) {
            self.reporter.error(CODE_MACHINE, chain(&error));
        }
    }

    pub(super) fn described(&self) -> String {
        self.services.driver.describe().to_string()
    }

    fn the_machine(&self) -> Option<Arc<D::Machine>> {
        Some(self.machine.as_ref()?.running.machine.clone())
    }

    fn report(&mut self, report: Report) {
        match report {
            // What went wrong was said where it was found out.
            Report::Lost(_) | Report::Failed(_) | Report::NotSuspended | Report::Stopped(_) => {}
            Report::Paused(pause, failures) => {
                let why = self.workload_end.words();
                self.reporter.paused(pause, failures, why.as_deref());
                let why = why.unwrap_or_else(|| "it did not wake".to_owned());
                self.pause
                    .replace(Some((tokio::time::Instant::now() + pause, why)));
            }
            Report::SleepRefused => {
                self.refused_to_sleep = true;
                let why = "the object refuses to sleep; its machine is stopped without a dormancy record";
                self.reporter.error(CODE_SLEEP_REFUSED, why);
            }
            Report::Unkillable(_) => {
                let why = "the machine did not end after it was killed; it is killed again";
                self.reporter.error(CODE_MACHINE, why);
            }
            Report::NotRecorded(again) => {
                let seconds = again.as_secs();
                let why =
                    format!("the end of the last machine is not recorded; the next try is in {seconds} s");
                self.reporter.error(CODE_NOT_DURABLE, why);
            }
            Report::Abandoned(_) => {
                let why = "the machine did not end in time and is left behind";
                self.reporter.error(CODE_MACHINE, why);
            }
        }
    }
}
