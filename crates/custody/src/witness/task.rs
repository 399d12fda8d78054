//! One object's share of the witness service: a task that feeds its keeper and performs what that says.
//!
//! The end of the lease is set before anything the keeper says is done, so that whoever hears of a loss has stopped
//! serving already. Each question runs as a task of its own with the time that the keeper gives it; one that panics ends
//! this task, and with it the renewals of this one object.

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::witness::{
    Effect, Failure, HolderId, Input, Keeper, Lent, Mark, Notice, Point, Swapped, Verdict,
};
use suijuris_depot::{Marks as _, Presence, Session, Swap, Version};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{ClaimError, Claimed, Command, Config, History, Lease, LeaseEvent};
use crate::chain;
use crate::clock;

/// The task's ends of what connects it with the handle.
pub(super) struct Channels {
    pub(super) lease: Lease,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) newest: watch::Receiver<Point>,
    pub(super) covered: watch::Sender<Option<u64>>,
    pub(super) news: watch::Sender<LeaseEvent>,
}

/// What a question came to.
struct Answered {
    input: Result<Input<Version>, ClaimError>,
    /// The depot's words, where it did not answer; `None` leaves the last ones.
    trouble: Option<Option<String>>,
}

/// Everything that the loop works with but the keeper.
pub(super) struct Task {
    object: ObjectId,
    config: Config,
    depot: Arc<Session>,
    history: Arc<dyn History>,
    channels: Channels,
    era: u64,
    postponed: Option<Command>,
    asking: JoinSet<Answered>,
    /// Writes on their way.
    writing: JoinSet<Answered>,
    claiming: Vec<oneshot::Sender<Result<Claimed, ClaimError>>>,
    releasing: Vec<oneshot::Sender<bool>>,
    handing_over: Vec<oneshot::Sender<Option<Lent<Version>>>>,
    trouble: Option<String>,
}

impl Task {
    pub(super) fn new(
        config: Config,
        depot: Arc<Session>,
        history: Arc<dyn History>,
        channels: Channels,
    ) -> Self {
        Self {
            object: config.object,
            config,
            depot,
            history,
            channels,
            era: 0,
            postponed: None,
            asking: JoinSet::new(),
            writing: JoinSet::new(),
            claiming: Vec::new(),
            releasing: Vec::new(),
            handing_over: Vec::new(),
            trouble: None,
        }
    }

    /// Runs until the handle is dropped.
    pub(super) async fn run(mut self, mut keeper: Keeper<Version>) {
        while let Some(input) = self.next(&keeper).await {
            let lent = keeper.lent();
            let (next, effects) = keeper.on(clock::moment(), input);
            keeper = next;
            self.channels.lease.set(self.era, keeper.good_until());
            for effect in effects {
                self.perform(keeper.id(), effect);
            }
            for done in self.handing_over.drain(..) {
                // Whoever asked may not wait any more.
                let _ = done.send(lent.clone());
            }
        }
    }

    /// The keeper, which has nothing or goes on with what was lent.
    pub(super) fn begin(&mut self) -> Keeper<Version> {
        let Config {
            object,
            id,
            who,
            terms,
            newest,
            lent,
        } = &mut self.config;
        let Some(lent) = lent.take() else {
            return Keeper::new(*object, *id, who, *terms, *newest);
        };
        let covered = lent.mark.seq;
        let keeper = Keeper::from_lent(*object, *id, who, *terms, *newest, lent);
        self.channels.lease.set(self.era, keeper.good_until());
        self.channels.covered.send_replace(Some(covered));
        keeper
    }

    /// What happens next; `None` ends the task.
    async fn next(&mut self, keeper: &Keeper<Version>) -> Option<Input<Version>> {
        if let Some(command) = self.postponed.take() {
            return Some(self.take(command).await);
        }
        let wait = keeper.wait_until().map(|until| until.since(clock::moment().mono));
        let alarm = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(alarm);
        loop {
            tokio::select! {
                command = self.channels.commands.recv() => {
                    let command = command?;
                    // What was noted before the order was given is known before it is taken.
                    if !self.channels.newest.has_changed().unwrap_or(false) {
                        return Some(self.take(command).await);
                    }
                    self.postponed = Some(command);
                    return Some(Input::Note(*self.channels.newest.borrow_and_update()));
                }
                changed = self.channels.newest.changed() => {
                    changed.ok()?;
                    return Some(Input::Note(*self.channels.newest.borrow_and_update()));
                }
                Some(answered) = self.asking.join_next(), if !self.asking.is_empty() => match answered {
                    Ok(answered) => return Some(self.hear(answered)),
                    Err(given_up) if given_up.is_cancelled() => {}
                    Err(_) => return None,
                },
                Some(wrote) = self.writing.join_next(), if !self.writing.is_empty() => match wrote {
                    Ok(wrote) => return Some(self.hear(wrote)),
                    Err(given_up) if given_up.is_cancelled() => {}
                    Err(_) => return None,
                },
                () = &mut alarm => return Some(Input::Tick),
            }
        }
    }

    async fn take(&mut self, command: Command) -> Input<Version> {
        match command {
            Command::Claim(purpose, answer) => {
                self.claiming.push(answer);
                Input::Claim(purpose)
            }
            Command::Resumed(id, era) => {
                self.era = era;
                self.answer(&Err(ClaimError::Overtaken));
                // What is on its way may be under the old name. A write that lands after the mark was read under the new one
                // would look like the sign of life of another copy, so it lands before; it has its time, as each question.
                self.asking.abort_all();
                while self.writing.join_next().await.is_some() {}
                Input::Resumed(id)
            }
            Command::HandOver(done) => {
                self.answer(&Err(ClaimError::Overtaken));
                // What is on its way is given up.
                self.asking.abort_all();
                self.writing.abort_all();
                self.handing_over.push(done);
                Input::HandOver
            }
            Command::Release(within, released) => {
                self.releasing.push(released);
                Input::Release(within)
            }
        }
    }

    fn hear(&mut self, answered: Answered) -> Input<Version> {
        if let Some(trouble) = answered.trouble {
            self.trouble = trouble;
        }
        answered.input.unwrap_or_else(|error| {
            self.answer(&Err(error));
            Input::HandOver
        })
    }

    /// Answers all who claimed; some may not wait any more.
    fn answer(&mut self, answer: &Result<Claimed, ClaimError>) {
        for claiming in self.claiming.drain(..) {
            let _ = claiming.send(answer.clone());
        }
    }

    fn perform(&mut self, id: HolderId, effect: Effect<Version>) {
        let depot = Arc::clone(&self.depot);
        let object = self.object;
        match effect {
            Effect::Read(ask, within) => {
                self.ask(within, move |answer| Input::Read(ask, answer), async move {
                    // Before the mark can name us, the depot must know that we run: one that can tell would take us for gone.
                    let (_, mark) = tokio::try_join!(depot.register(object, id), depot.mark(object))?;
                    Ok(mark)
                });
            }
            Effect::Swap(ask, mark, expected, within) => {
                let swapped = move |answer| Input::Swapped(ask, answer);
                let write = async move { swap(&depot, &mark, expected.as_ref()).await };
                self.writing.spawn(answered(within, swapped, write));
            }
            Effect::Recall(ask, mark, within) => {
                let recalled =
                    move |answer: Result<_, Failure>| Input::Recalled(ask, answer.unwrap_or_default());
                self.ask(within, recalled, async move { depot.is_own_write(&mark).await });
            }
            Effect::Look(ask, holder, within) => {
                let looked = move |answer: Result<_, Failure>| Input::Looked(ask, answer.unwrap_or_default());
                self.ask(within, looked, async move {
                    Ok(match depot.presence(object, holder).await? {
                        Presence::Here => Some(true),
                        Presence::Gone => Some(false),
                        Presence::Unknown => None,
                    })
                });
            }
            Effect::Find(ask, seq, record) => {
                let history = Arc::clone(&self.history);
                self.asking.spawn_blocking(move || {
                    let found = history.holds(seq, &record);
                    Answered {
                        input: found
                            .map(|found| Input::Found(ask, found))
                            .map_err(ClaimError::History),
                        trouble: None,
                    }
                });
            }
            Effect::Say(notice) => self.say(notice),
        }
    }

    fn ask<T: 'static>(
        &mut self,
        within: Duration,
        input: impl FnOnce(Result<T, Failure>) -> Input<Version> + Send + 'static,
        question: impl Future<Output = Result<T, suijuris_depot::Error>> + Send + 'static,
    ) {
        self.asking.spawn(answered(within, input, question));
    }

    fn say(&mut self, notice: Notice) {
        match notice {
            Notice::Verdict(verdict) => {
                if matches!(verdict, Verdict::Agrees(_)) {
                    // Whatever became of an earlier lease.
                    self.tell(LeaseEvent::Quiet);
                }
                let trouble = self.trouble.clone();
                self.answer(&Ok(Claimed { verdict, trouble }));
            }
            Notice::Covered(seq) => drop(self.channels.covered.send_replace(Some(seq))),
            Notice::Expired => self.tell(LeaseEvent::Expired),
            Notice::Renewed => self.tell(LeaseEvent::Renewed),
            Notice::Over => self.tell(LeaseEvent::Over),
            Notice::Lost(evidence) => self.tell(LeaseEvent::Lost(evidence.into())),
            Notice::Released(clean) => {
                for releasing in self.releasing.drain(..) {
                    // Whoever asked may not wait any more.
                    let _ = releasing.send(clean);
                }
            }
        }
    }

    fn tell(&self, news: LeaseEvent) {
        self.channels.news.send_replace(news);
    }
}

impl Drop for Task {
    /// Nobody renews any more, however it came to that: whoever still looks finds the lease over at once.
    fn drop(&mut self) {
        self.channels.lease.set(self.era, None);
    }
}

/// What the depot answers within this time.
async fn answered<T>(
    within: Duration,
    input: impl FnOnce(Result<T, Failure>) -> Input<Version>,
    question: impl Future<Output = Result<T, suijuris_depot::Error>>,
) -> Answered {
    let (answer, trouble) = match tokio::time::timeout(within, question).await {
        Ok(Ok(answer)) => (Ok(answer), None),
        Ok(Err(error)) => (Err(failure(&error)), Some(chain(&error))),
        Err(_) => (
            Err(Failure::Unknown),
            Some(format!("the depot did not answer within {within:?}")),
        ),
    };
    Answered {
        input: Ok(input(answer)),
        trouble: Some(trouble),
    }
}

const fn failure(error: &suijuris_depot::Error) -> Failure {
    match error {
        suijuris_depot::Error::Unreachable(..) => Failure::Unknown,
        _ => Failure::Denied,
    }
}

async fn swap(
    depot: &Session,
    mark: &Mark,
    expected: Option<&Version>,
) -> Result<Swapped<Version>, suijuris_depot::Error> {
    Ok(match depot.swap(mark, expected).await? {
        Swap::Done(version) => Swapped::Done(version),
        Swap::Conflict(present) => Swapped::Conflict(present),
    })
}
