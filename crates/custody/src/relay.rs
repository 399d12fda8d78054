//! The depot, served to machines that reach it in no other way: one thread for all machines of a process, so that nothing
//! whoever starts them does delays a renewal.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_depot::{Session, relay};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Serves machines. Clones are the same service; its thread, and with it every machine's way to the depot, ends with the last of them.
#[derive(Debug, Clone)]
pub struct Service(Arc<Running>);

#[derive(Debug)]
struct Running {
    tokio: Handle,
    /// Dropping it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's answer where it starts no thread.
    pub fn start() -> io::Result<Self> {
        let tokio = Builder::new_current_thread().enable_all().build()?;
        let handle = tokio.handle().clone();
        let (running, over) = oneshot::channel();
        std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                // It says nothing and ends with the last handle.
                let _ = tokio.block_on(over);
                tokio.shutdown_background();
            })?;
        Ok(Self(Arc::new(Running {
            tokio: handle,
            _running: running,
        })))
    }

    /// Serves `session` over `stream` to a machine of `object`, until it hangs up.
    ///
    /// # Errors
    /// The system's answer where the stream cannot be waited for.
    pub fn serve(&self, stream: UnixStream, session: Arc<Session>, object: ObjectId) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let _entered = self.0.tokio.enter();
        let stream = tokio::net::UnixStream::from_std(stream)?;
        // The machine finds out by itself when nobody answers any more.
        drop(self.0.tokio.spawn(relay::serve(stream, session, object)));
        Ok(())
    }
}
