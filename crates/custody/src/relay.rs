//! The depot, served to machines that reach it in no other way: one thread for all machines of a process, so that nothing
//! whoever starts them does delays a renewal.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_depot::{Session, relay};

use crate::event_loop::EventLoop;

/// Serves machines. Clones are the same service; its thread, and with it every machine's way to the depot, ends with the last of them.
#[derive(Debug, Clone)]
pub struct Service(EventLoop);

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's answer where it starts no thread.
    pub fn start() -> io::Result<Self> {
        EventLoop::start("relay").map(Self)
    }

    /// Serves `session` over `stream` to a machine of `object`, until it hangs up.
    ///
    /// # Errors
    /// The system's answer where the stream cannot be waited for.
    pub fn serve(&self, stream: UnixStream, session: Arc<Session>, object: ObjectId) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let _entered = self.0.tokio().enter();
        let stream = tokio::net::UnixStream::from_std(stream)?;
        // The machine finds out by itself when nobody answers any more.
        drop(self.0.tokio().spawn(relay::serve(stream, session, object)));
        Ok(())
    }
}
