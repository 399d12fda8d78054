//! An event loop of the backend's own, so that its network works under any executor of the caller's.
//!
//! Called by object storage and etcd.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

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
        let name = self.name.clone();
        let task = self
            .handle
            .spawn(async move { tokio::time::timeout(limit, work).await });
        Box::pin(async move {
            match task.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => {
                    let why = format!("nothing for {} s", limit.as_secs());
                    Err(Error::Unreachable(name, Some(why.into())))
                }
                Err(error) => Err(Error::Unreachable(name, Some(error.into()))),
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
