//! An event loop of the backend's own, so that its network works under any executor of the caller's.
//!
//! Called by object storage and etcd.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinSet};
use tokio::time::error::Elapsed;

use crate::{Answer, Error};

/// How long a small operation may take before it counts as unanswered.
pub(crate) const QUICK: Duration = Duration::from_secs(10);

/// The same of one that moves a segment or a bundle, or lists much.
pub(crate) const LONG: Duration = Duration::from_secs(25);

/// One thread that drives the network of a backend.
#[derive(Debug)]
pub(crate) struct Driver {
    runtime: Option<Runtime>,
    handle: Handle,
    name: String,
}

impl Driver {
    /// `name` is what errors call the depot.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("depot-net")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            name: name.to_owned(),
        })
    }

    /// Runs `work` from now on, whether or not the answer is waited for, but no longer than `limit`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Answer<'static, T> {
        let task = self
            .handle
            .spawn(async move { tokio::time::timeout(limit, work).await });
        let answered = answered(self.name.clone(), limit);
        Box::pin(async move { answered(task.await) })
    }

    /// The same of what changes nothing and lasts: it ends when nobody waits for the answer any more.
    pub(crate) fn run_while_awaited<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Answer<'static, T> {
        let mut task = JoinSet::new();
        task.spawn_on(
            async move { tokio::time::timeout(limit, work).await },
            &self.handle,
        );
        let answered = answered(self.name.clone(), limit);
        Box::pin(async move {
            match task.join_next().await {
                Some(outcome) => answered(outcome),
                // There is one task in it.
                None => std::future::pending().await,
            }
        })
    }

    /// For tasks that go on behind the answers.
    #[cfg(feature = "etcd")]
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The last owner may be a task of an event loop, where waiting for another is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a task with a limit ended.
type Outcome<T> = Result<Result<Result<T, Error>, Elapsed>, JoinError>;

/// What a task of at most `limit` comes to, in the words of the depot `name`.
fn answered<T>(name: String, limit: Duration) -> impl FnOnce(Outcome<T>) -> Result<T, Error> {
    move |outcome| match outcome {
        Ok(Ok(answer)) => answer,
        Ok(Err(_elapsed)) => {
            let why = format!("nothing for {} s", limit.as_secs());
            Err(Error::Unreachable(name, Some(why.into())))
        }
        Err(error) => Err(Error::Unreachable(name, Some(error.into()))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Work that says when it has begun, goes on once it is told to, and ends with the sender that it has.
    async fn work(
        begun: oneshot::Sender<()>,
        go_on: oneshot::Receiver<()>,
        done: mpsc::Sender<()>,
    ) -> Result<(), Error> {
        let _ = begun.send(());
        if go_on.await.is_ok() {
            let _ = done.send(()).await;
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_is_run_goes_on_when_its_answer_is_dropped_and_what_is_awaited_ends() {
        let driver = Driver::new("depot").unwrap();
        for ends in [false, true] {
            let (begun, begins) = oneshot::channel();
            let (go_on, told) = oneshot::channel();
            let (done, mut does) = mpsc::channel(1);
            let work = work(begun, told, done);
            let answer = if ends {
                driver.run_while_awaited(LONG, work)
            } else {
                driver.run(LONG, work)
            };
            begins.await.unwrap();
            drop(answer);
            if !ends {
                go_on.send(()).unwrap();
            }
            // Without a word the channel closes only when the work is gone.
            assert_eq!(does.recv().await.is_none(), ends);
        }
    }

    #[tokio::test]
    async fn both_answer_with_what_the_work_came_to() {
        let driver = Driver::new("depot").unwrap();
        assert_eq!(driver.run(QUICK, async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(driver.run_while_awaited(QUICK, async { Ok(2) }).await.unwrap(), 2);
        let late = driver.run_while_awaited::<()>(Duration::ZERO, std::future::pending());
        assert!(matches!(late.await, Err(Error::Unreachable(name, Some(_))) if name == "depot"));
    }
}
