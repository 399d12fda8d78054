//! The relay itself: a process of one thread whose file 0 is the socket at which proxies come, one at a time.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use suijuris_sys::descriptors::watch;
use suijuris_sys::{confine, processes, sockets};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::{Carry, Leads, MESSAGE_BYTES, Said, stream};
use crate::raw::join;

/// Files that are not connections: the socket, the channel, those of the runtime.
const OWN_FILES: usize = 32;
/// Connections at most, however many files there may be.
const MOST: usize = 65_536;
/// How long the first proxy may take to come.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// The relay's whole life.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    // What passes through it is others'.
    confine::hide_memory();
    // Ctrl-C is for the proxy; what is open stays.
    processes::own_session()?;
    let files = processes::raise_open_files();
    let most = (files.saturating_sub(OWN_FILES) / 2).min(MOST);
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(LocalSet::new().run_until(async move {
        let listener = watch(listener, Interest::READABLE)?;
        serve(&listener, most).await
    }))
}

/// The proxy that is there, what it is still to be told, and what it gave before it is told that it was taken: one that goes meanwhile
/// may have taken that back.
#[derive(Default)]
struct Caller {
    channel: Option<AsyncFd<OwnedFd>>,
    news: VecDeque<Said>,
    given: BTreeMap<u64, (Leads, OwnedFd, OwnedFd)>,
}

async fn serve(listener: &AsyncFd<OwnedFd>, most: usize) -> io::Result<()> {
    let carried = Rc::new(RefCell::new(BTreeMap::<u64, Leads>::new()));
    let mut tasks: JoinSet<u64> = JoinSet::new();
    let first = timeout(FIRST_WITHIN, accept(listener)).await??;
    let mut caller = Caller::default();
    caller.greet(first, &carried.borrow(), most)?;
    loop {
        if caller.channel.is_none() && tasks.is_empty() {
            return Ok(());
        }
        tokio::select! {
            next = accept(listener) => caller.greet(next?, &carried.borrow(), most)?,
            said = hear(caller.channel.as_ref()) => match said {
                Ok((Carry { id, leads }, client, machine)) => {
                    caller.given.insert(id, (leads, client, machine));
                    caller.news.push_back(Said::Took { id });
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(_) => caller = Caller::default(),
            },
            Some(ended) = tasks.join_next() => if let Ok(id) = ended {
                carried.borrow_mut().remove(&id);
                if caller.channel.is_some() {
                    caller.news.push_back(Said::Ended { id });
                }
            },
            told = tell(caller.channel.as_ref(), caller.news.front()) => match told {
                Ok(()) => {
                    if let Some(Said::Took { id }) = caller.news.pop_front()
                        && let Some((leads, client, machine)) = caller.given.remove(&id)
                    {
                        carried.borrow_mut().insert(id, leads);
                        tasks.spawn_local(async move {
                            between(client, machine).await;
                            id
                        });
                    }
                }
                Err(_) => caller = Caller::default(),
            },
        }
    }
}

impl Caller {
    /// A proxy comes, in place of the one before.
    fn greet(&mut self, channel: OwnedFd, carried: &BTreeMap<u64, Leads>, most: usize) -> io::Result<()> {
        let has = |(id, leads): (&u64, &Leads)| Said::Has {
            id: *id,
            leads: leads.clone(),
        };
        self.news = carried.iter().map(has).collect();
        self.news.push_back(Said::Ready { most });
        self.given.clear();
        self.channel = Some(watch(channel, Interest::READABLE | Interest::WRITABLE)?);
        Ok(())
    }
}

async fn between(client: OwnedFd, machine: OwnedFd) {
    if let (Ok(mut client), Ok(machine)) = (stream(client), stream(machine)) {
        join(&mut client, machine).await;
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    let accept = |listener: &OwnedFd| sockets::accept(listener.as_fd());
    listener.async_io(Interest::READABLE, accept).await
}

async fn hear(channel: Option<&AsyncFd<OwnedFd>>) -> io::Result<(Carry, OwnedFd, OwnedFd)> {
    let Some(channel) = channel else {
        return std::future::pending().await;
    };
    let read = |socket: &OwnedFd| sockets::receive(socket.as_fd(), MESSAGE_BYTES);
    let message = channel.async_io(Interest::READABLE, read).await?;
    let message = message.ok_or(io::ErrorKind::BrokenPipe)?;
    let carry = serde_json::from_slice(&message.bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    let [client, machine] =
        <[OwnedFd; 2]>::try_from(message.descriptors).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((carry, client, machine))
}

async fn tell(channel: Option<&AsyncFd<OwnedFd>>, news: Option<&Said>) -> io::Result<()> {
    let (Some(channel), Some(news)) = (channel, news) else {
        return std::future::pending().await;
    };
    let message = serde_json::to_vec(news)?;
    let write = |socket: &OwnedFd| sockets::send(socket.as_fd(), &message, &[]);
    channel.async_io(Interest::WRITABLE, write).await.map(drop)
}
