//! Machines that start because of requests: one start for all who wait for the same machine, whoever of them leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fleet::{Fleet, StartError};
use crate::metrics::Metrics;

/// Starts under way at most.
const MOST: usize = 256;

type Outcome = Option<Result<(), StartError>>;

/// Those under way.
#[derive(Debug)]
pub(crate) struct Starts {
    fleet: Arc<dyn Fleet>,
    metrics: Arc<Metrics>,
    /// Where they run: not on the thread of one who waits.
    handle: Handle,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    by_machine: HashMap<Arc<str>, watch::Receiver<Outcome>>,
}

impl Starts {
    pub(crate) fn new(fleet: Arc<dyn Fleet>, metrics: Arc<Metrics>, handle: Handle) -> Self {
        Self {
            fleet,
            metrics,
            handle,
            under_way: Mutex::default(),
        }
    }

    /// Starts a machine, or waits for the start that is under way. Cancel safe: the start goes on.
    pub(crate) async fn start(
        self: &Arc<Self>,
        app: &Arc<str>,
        machine: &Arc<str>,
    ) -> Result<(), StartError> {
        let mut outcome = self.join(app, machine)?;
        let ended = outcome.wait_for(Option::is_some).await;
        let lost = || Err(StartError("the start was given up".to_owned()));
        ended.map_or_else(|_| lost(), |outcome| outcome.clone().unwrap_or_else(lost))
    }

    fn join(
        self: &Arc<Self>,
        app: &Arc<str>,
        machine: &Arc<str>,
    ) -> Result<watch::Receiver<Outcome>, StartError> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        while under_way.tasks.try_join_next().is_some() {}
        if let Some(outcome) = under_way.by_machine.get(machine) {
            return Ok(outcome.clone());
        }
        if under_way.by_machine.len() >= MOST {
            return Err(StartError("too many machines are starting: ask again".to_owned()));
        }
        let (tell, outcome) = watch::channel(None);
        let starting = self.fleet.start(machine);
        let (starts, app, id) = (Arc::clone(self), Arc::clone(app), Arc::clone(machine));
        let task = async move {
            let ended = starting.await;
            starts.metrics.started(&app, ended.is_ok());
            let mut under_way = starts.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.by_machine.remove(&id);
            tell.send_replace(Some(ended));
        };
        under_way.tasks.spawn_on(task, &self.handle);
        under_way.by_machine.insert(Arc::clone(machine), outcome.clone());
        Ok(outcome)
    }

    /// Gives up all of them.
    pub(crate) fn abort(&self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.tasks.abort_all();
        under_way.by_machine.clear();
    }
}
