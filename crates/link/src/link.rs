//! The two ends of a link, for programs: typed messages to send and receive, streams to open and accept, signs of life.
//!
//! Handles are cheap to clone and may be used from any task; the [`Driver`] has to be polled as long as the link is used.
//! Called by whoever runs machines, and by the runtime in one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::frame::{StreamId, StreamKind};
use crate::handshake::{Handshake, Side};
use crate::identity::{ActivationId, Nonce, Secret};
use crate::launch::Launch;
use crate::limits::Limits;
use crate::message::{Message, MessageError, ToRuntime, ToSupervisor};
use crate::mux::{OpenError, QueueError};
use crate::state::{LinkError, State};
use crate::stream::Stream;
use crate::transport::Transport;

/// How often a runtime says that it is alive.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);

/// How long a runtime may be silent before it is taken for stuck: a host under load starves it for seconds.
pub const SILENCE: Duration = Duration::from_secs(20);

/// Which end this is: what it says and what it hears.
pub trait End {
    /// Messages that it sends.
    type Says: Message<OwnedFd>;
    /// Messages that it receives.
    type Hears: Message<OwnedFd>;
}

/// Whoever runs the machine.
#[derive(Debug)]
pub enum Supervisor {}

/// The first process in it.
#[derive(Debug)]
pub enum Runtime {}

impl End for Supervisor {
    type Says = ToRuntime<OwnedFd>;
    type Hears = ToSupervisor;
}

impl End for Runtime {
    type Says = ToSupervisor;
    type Hears = ToRuntime<OwnedFd>;
}

/// Ends the link when nobody has it any more.
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut state = self.lock();
        state.push();
        state.end(LinkError::Abandoned);
    }
}

/// One end of a link. Clones are the same end; it closes with the last of them and of its streams.
pub struct Link<E> {
    shared: Arc<Shared>,
    end: PhantomData<fn() -> E>,
}

impl<E> Clone for Link<E> {
    fn clone(&self) -> Self {
        let shared = self.shared.clone();
        Self {
            shared,
            end: PhantomData,
        }
    }
}

impl<E> fmt::Debug for Link<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Moves the bytes of a link; ready, with the reason, when it has ended. Dropped, it ends the link.
#[must_use = "a link moves only while its driver is polled"]
pub struct Driver(Arc<Mutex<State>>);

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Future for Driver {
    type Output = LinkError;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<LinkError> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drive(context)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end(LinkError::Abandoned);
    }
}

/// The supervisor's end.
pub type SupervisorLink = Link<Supervisor>;

/// The runtime's end.
pub type RuntimeLink = Link<Runtime>;

impl SupervisorLink {
    /// To a machine that is just being started: the launch is under way before the runtime has said anything, and messages
    /// may follow at once.
    ///
    /// # Errors
    /// [`QueueError::TooLarge`], for a launch whose request and paths are beyond all bounds.
    pub fn launch(
        transport: impl Transport + 'static,
        launch: Launch<OwnedFd>,
        nonce: Nonce,
    ) -> Result<(Self, Driver), QueueError> {
        let handshake = Handshake::launch(launch.activation, nonce);
        let (link, driver) = Self::start(transport, Side::Supervisor, handshake, Limits::V1);
        link.queue(ToRuntime::Launch(Box::new(launch)))?;
        Ok((link, driver))
    }

    /// To a machine that runs. Nothing is said before both ends have proved the secret.
    pub fn attach(
        transport: impl Transport + 'static,
        activation: ActivationId,
        secret: Secret,
        nonce: Nonce,
    ) -> (Self, Driver) {
        let handshake = Handshake::attach(Side::Supervisor, activation, secret, nonce);
        Self::start(transport, Side::Supervisor, handshake, Limits::V1)
    }
}

impl RuntimeLink {
    /// To whoever has just started this machine; the first message is its launch.
    pub fn launched(transport: impl Transport + 'static, nonce: Nonce) -> (Self, Driver) {
        Self::start(transport, Side::Runtime, Handshake::launched(nonce), Limits::V1)
    }

    /// To somebody who says to be this machine's supervisor.
    pub fn attach(
        transport: impl Transport + 'static,
        activation: ActivationId,
        secret: Secret,
        nonce: Nonce,
    ) -> (Self, Driver) {
        let handshake = Handshake::attach(Side::Runtime, activation, secret, nonce);
        Self::start(transport, Side::Runtime, handshake, Limits::V1)
    }

    /// What the first message says. Cancellation safe.
    ///
    /// # Errors
    /// [`LinkError`]; a first message that is no launch is [`LinkError::Message`].
    pub async fn first(&self) -> Result<Launch<OwnedFd>, LinkError> {
        match self.receive().await? {
            Some(ToRuntime::Launch(launch)) => Ok(*launch),
            Some(_) => Err(self.fail(MessageError::NoLaunch)),
            None => Err(LinkError::Closed),
        }
    }

    /// Says that this runtime is alive; see [`HEARTBEAT_EVERY`].
    pub fn beat(&self, number: u64) {
        let mut state = self.shared.lock();
        state.mux.beat(number);
        state.push();
    }
}

impl<E: End> Link<E> {
    pub(crate) fn start(
        transport: impl Transport + 'static,
        side: Side,
        handshake: Handshake,
        limits: Limits,
    ) -> (Self, Driver) {
        let state = State::new(Box::new(transport), side, handshake, limits);
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::new(Shared(state.clone()));
        shared.lock().push();
        (
            Self {
                shared,
                end: PhantomData,
            },
            Driver(state),
        )
    }

    /// Sends a message without waiting: what the transport takes is on its way when this returns, the rest follows.
    ///
    /// # Errors
    /// [`QueueError`]; nothing was sent.
    pub fn queue(&self, message: E::Says) -> Result<(), QueueError> {
        let (body, descriptors) = pack::<E>(message)?;
        let mut state = self.shared.lock();
        if state.is_over() {
            return Err(QueueError::Ended);
        }
        if !descriptors.is_empty() && !state.passes_descriptors {
            return Err(QueueError::NoDescriptors);
        }
        state.mux.queue(body, descriptors)?;
        state.push();
        Ok(())
    }

    /// Sends a message if nothing waits before it: it has left when this returns, but where the transport is just full. For
    /// what should not be lost when this process ends.
    ///
    /// # Errors
    /// [`QueueError::Full`] while others wait before it.
    pub fn send_now(&self, message: E::Says) -> Result<(), QueueError> {
        if !self.shared.lock().is_flushed() {
            return Err(QueueError::Full);
        }
        self.queue(message)
    }

    /// Sends a message, as soon as the other end has taken others before it. Cancellation safe: sent whole or not at all.
    ///
    /// # Errors
    /// [`QueueError::TooLarge`] and [`QueueError::Ended`].
    pub async fn send(&self, message: E::Says) -> Result<(), QueueError> {
        let (body, descriptors) = pack::<E>(message)?;
        let mut packed = Some((body, descriptors));
        poll_fn(|context| {
            let mut state = self.shared.lock();
            if state.is_over() {
                return Poll::Ready(Err(QueueError::Ended));
            }
            let wanted = packed
                .as_ref()
                .map_or(0, |(body, fds)| Limits::cost(body.len(), fds.len()));
            if !state.mux.has_room_for(wanted) {
                state.senders.add(context.waker());
                return Poll::Pending;
            }
            let (body, descriptors) = packed.take().unwrap_or_default();
            if !descriptors.is_empty() && !state.passes_descriptors {
                return Poll::Ready(Err(QueueError::NoDescriptors));
            }
            let queued = state.mux.queue(body, descriptors);
            state.push();
            Poll::Ready(queued)
        })
        .await
    }

    /// The next message; `None` when the other end is gone and all that it said was taken. Cancellation safe.
    ///
    /// # Errors
    /// [`LinkError`], where the link did not just end.
    pub async fn receive(&self) -> Result<Option<E::Hears>, LinkError> {
        let (message, most) = poll_fn(|context| {
            let mut state = self.shared.lock();
            let message = state.mux.take();
            if message.is_none() && state.ended.is_none() {
                state.takers.add(context.waker());
                return Poll::Pending;
            }
            // Taking gives credit.
            state.push();
            let most = state.limits.max_message_bytes;
            Poll::Ready(match (message, &state.ended) {
                (Some(message), _) => Ok((Some(message), most)),
                (None, None | Some(LinkError::Closed | LinkError::Abandoned)) => Ok((None, most)),
                (None, Some(error)) => Err(error.clone()),
            })
        })
        .await?;
        let Some(message) = message else { return Ok(None) };
        let unpacked = E::Hears::unpack(&message.body, message.descriptors, most);
        unpacked.map(Some).map_err(|error| self.fail(error))
    }

    fn fail(&self, error: MessageError) -> LinkError {
        let error = LinkError::Message(Arc::new(error));
        self.shared.lock().end(error.clone());
        error
    }

    /// The activation, once both ends know that they belong together. Cancellation safe.
    ///
    /// # Errors
    /// [`LinkError`] says why they do not.
    pub async fn established(&self) -> Result<ActivationId, LinkError> {
        poll_fn(|context| {
            let mut state = self.shared.lock();
            match (state.activation, &state.ended) {
                (Some(activation), _) => Poll::Ready(Ok(activation)),
                (None, Some(error)) => Poll::Ready(Err(error.clone())),
                (None, None) => {
                    state.established.add(context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Opens a stream. A message that names it, queued afterwards, finds it there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, kind: StreamKind) -> Result<Stream, OpenError> {
        let mut state = self.shared.lock();
        if state.is_over() {
            return Err(OpenError::Ended);
        }
        let id = state.mux.open(kind)?;
        state.push();
        drop(state);
        Ok(Stream::new(self.shared.clone(), id, kind))
    }

    /// The next stream of this kind that the other end opens; `None` when the link has ended. Cancellation safe.
    pub async fn accept(&self, kind: StreamKind) -> Option<Stream> {
        let id = poll_fn(|context| {
            let mut state = self.shared.lock();
            match (state.mux.accept(Some(kind)), &state.ended) {
                (Some((id, _)), _) => Poll::Ready(Some(id)),
                (None, Some(_)) => Poll::Ready(None),
                (None, None) => {
                    state.acceptors.add(context.waker());
                    Poll::Pending
                }
            }
        })
        .await?;
        Some(Stream::new(self.shared.clone(), id, kind))
    }

    /// The stream that a message of the other end names; `None` where it is over or somebody's already.
    #[must_use]
    pub fn accept_this(&self, number: u64) -> Option<Stream> {
        let id = StreamId::new(number)?;
        let kind = self.shared.lock().mux.accept_this(id)?;
        Some(Stream::new(self.shared.clone(), id, kind))
    }

    /// Whether messages can carry descriptors here.
    #[must_use]
    pub fn passes_descriptors(&self) -> bool {
        self.shared.lock().passes_descriptors
    }

    /// Waits until all that was queued has left, or cannot. Cancellation safe.
    pub async fn flushed(&self) {
        poll_fn(|context| {
            let mut state = self.shared.lock();
            if state.is_flushed() {
                return Poll::Ready(());
            }
            state.flushers.add(context.waker());
            Poll::Pending
        })
        .await;
    }

    /// When the other end last said anything, a heartbeat at least; when the link was made, where it never did.
    #[must_use]
    pub fn heard_at(&self) -> Instant {
        self.shared.lock().heard
    }

    /// Waits until the other end has said nothing for this long, counted from `since` where that is later. Cancellation
    /// safe.
    pub async fn silent(&self, patience: Duration, since: Instant) {
        loop {
            let until = self.heard_at().max(since) + patience;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

fn pack<E: End>(message: E::Says) -> Result<(Vec<u8>, Vec<OwnedFd>), QueueError> {
    message.pack().map_err(|_unencodable| QueueError::Encoding)
}
