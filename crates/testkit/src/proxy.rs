//! A TCP proxy in front of a server, that keeps answers back or cuts connections when it is told to.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "for tests: what is not as expected ends them"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    holds: AtomicBool,
    delays_ms: AtomicU64,
    refuses: AtomicBool,
    connections: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

/// A proxy that runs until the test process ends.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy in front of `server`.
    #[must_use]
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                theirs.connections.fetch_add(1, Ordering::SeqCst);
                if !theirs.refuses.load(Ordering::SeqCst) {
                    pass(&theirs, client, server);
                }
            }
        });
        Self { address, state }
    }

    /// How many connections were made so far, refused ones included: one for each request, where the server keeps none open.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// From now on requests arrive and answers do not, until [`Proxy::cut`].
    pub fn hold_answers(&self) {
        self.state.holds.store(true, Ordering::SeqCst);
    }

    /// From now on each piece of an answer comes so much later.
    pub fn delay(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.state.delays_ms.store(ms, Ordering::SeqCst);
    }

    /// From now on connections are accepted and closed, until [`Proxy::cut`].
    pub fn refuse(&self) {
        self.state.refuses.store(true, Ordering::SeqCst);
        self.close();
    }

    /// Ends all connections; later ones are passed on whole.
    pub fn cut(&self) {
        self.close();
        self.state.holds.store(false, Ordering::SeqCst);
        self.state.refuses.store(false, Ordering::SeqCst);
    }

    fn close(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(state: &Arc<State>, client: TcpStream, server: SocketAddr) {
    let Ok(server) = TcpStream::connect(server) else {
        return;
    };
    let clone = |stream: &TcpStream| stream.try_clone().unwrap();
    state
        .streams
        .lock()
        .unwrap()
        .extend([clone(&client), clone(&server)]);
    let (from, to) = (clone(&client), clone(&server));
    std::thread::spawn(move || copy(from, to, None));
    let state = Arc::clone(state);
    std::thread::spawn(move || copy(server, client, Some(&state)));
}

fn copy(mut from: TcpStream, mut to: TcpStream, answers: Option<&State>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if answers.is_some_and(|state| state.holds.load(Ordering::SeqCst)) {
            continue;
        }
        let delay = answers.map_or(0, |state| state.delays_ms.load(Ordering::SeqCst));
        std::thread::sleep(Duration::from_millis(delay));
        if to.write_all(bytes.get(..count).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
