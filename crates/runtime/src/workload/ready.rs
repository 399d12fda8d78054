//! When a workload can serve.
//!
//! A listening socket is found by asking the kernel and not by connecting, for a probe would stand in the program's log
//! as a stray connection. How often is `pace`'s. Where the kernel does not
//! answer (`sockets`), `/proc/net/tcp` is read: that costs milliseconds where its hash table is large, so that it is read
//! when the number of sockets in use has changed, and every [`UNCHANGED_WAIT`] besides.

use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use suijuris_core::manifest::Ready;
use suijuris_core::time::Span;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::pace::Pace;
use super::sockets::Diag;
use super::{Ended, Running};

/// Time between two readings of the table though the number of sockets stays the same: one may have come as another
/// went.
const UNCHANGED_WAIT: Duration = Duration::from_millis(250);

/// Time for one answer to the readiness request.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Time for a command that is asked.
const COMMAND_WITHIN: Duration = Duration::from_secs(10);

/// Time between two commands at least, and at most: each is a program that starts.
const SHORTEST_COMMAND_WAIT: Duration = Duration::from_millis(20);
const LONGEST_COMMAND_WAIT: Duration = Duration::from_millis(250);

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Where a workload listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Where the gate connects.
    pub upstream: SocketAddr,
    /// It listens beyond loopback: in the host's network others can go around the gate.
    pub exposed: bool,
}

/// What had not happened in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No listening socket.
    #[error("nothing listens on port {0}; let it listen on the port of {{port}} or PORT")]
    Listener(u16),
    /// No HTTP answer.
    #[error("it listens but answers no HTTP request")]
    Answer,
    /// An HTTP answer that says no.
    #[error("it answers with status {0}")]
    Status(u16),
    /// No word over the agent socket.
    #[error("it did not say so over the agent socket")]
    Word,
    /// No word to the notification socket.
    #[error(
        "it did not say READY=1 to the socket in NOTIFY_SOCKET; see whether it must be told to, as redis by --supervised systemd"
    )]
    Notification,
    /// No sign of life at the notification socket.
    #[error("it does not say WATCHDOG=1 to the socket in NOTIFY_SOCKET as often as WATCHDOG_USEC asks")]
    Watchdog,
    /// It asked to be ended.
    #[error("it said WATCHDOG=trigger to the socket in NOTIFY_SOCKET")]
    Triggered,
    /// The command that was asked says no.
    #[error("the command that was asked ended with status {0}")]
    Command(i32),
    /// The command that was asked gave no answer.
    #[error("the command that was asked did not end in time")]
    CommandTime,
    /// The command that was asked could not be started.
    #[error("the command that was asked could not be started")]
    CommandStart,
}

/// Why a workload is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It ended first.
    #[error("the workload ended before it was ready: {0}")]
    Ended(Ended),
    /// It took longer than it may.
    #[error("the workload was not ready within {within}: {missing}")]
    TimedOut {
        /// Time that it had.
        within: Span,
        /// What was waited for.
        missing: Missing,
    },
    /// It could be reached by others than the gate.
    #[error(
        "the workload listens on port {0} beyond loopback, where callers go around the gate; bind it to 127.0.0.1"
    )]
    Exposed(u16),
}

impl Running {
    /// Waits until the workload can serve. `agent` turns true when it says so itself.
    ///
    /// Cancel safe: it can be dropped and called again.
    ///
    /// # Errors
    /// [`NotReady`] as soon as the workload ends or is found to listen to others than the gate, or after `within`. It
    /// is not stopped.
    pub async fn ready(
        &self,
        how: &Ready,
        within: Span,
        agent: watch::Receiver<bool>,
    ) -> Result<Listening, NotReady> {
        let limit = Duration::from_millis(u64::try_from(within.0).unwrap_or(0));
        let missing = Mutex::new(Missing::Listener(self.port()));
        tokio::select! {
            biased;
            ended = self.ended() => Err(NotReady::Ended(ended)),
            served = timeout(limit, self.serves(how, agent, &missing)) => match served {
                Ok(found) if found.exposed && is_reached() => Err(NotReady::Exposed(self.port())),
                Ok(found) => Ok(found),
                Err(_elapsed) => {
                    let missing = *missing.lock().unwrap_or_else(PoisonError::into_inner);
                    Err(NotReady::TimedOut { within, missing })
                }
            },
        }
    }

    async fn serves(
        &self,
        how: &Ready,
        mut agent: watch::Receiver<bool>,
        missing: &Mutex<Missing>,
    ) -> Listening {
        let port = self.port();
        let note = |what| *missing.lock().unwrap_or_else(PoisonError::into_inner) = what;
        let wherever = || listening(port).ok().flatten().unwrap_or(expected(port));
        match how {
            Ready::Tcp => listens(port).await,
            Ready::Http(path) => {
                let found = listens(port).await;
                note(Missing::Answer);
                answers(found.upstream, path, note).await;
                found
            }
            Ready::Agent => {
                note(Missing::Word);
                if agent.wait_for(|ready| *ready).await.is_err() {
                    // The agent socket is gone: nobody can say it any more.
                    std::future::pending::<()>().await;
                }
                wherever()
            }
            Ready::Notify => {
                note(Missing::Notification);
                match self.notify() {
                    Some(notify) => notify.ready().await,
                    None => std::future::pending().await,
                }
                wherever()
            }
            Ready::Command(_) => {
                self.says_yes(note).await;
                wherever()
            }
            Ready::Spawned => expected(port),
        }
    }

    /// Asks the command until it ends with status 0.
    async fn says_yes(&self, note: impl Fn(Missing)) {
        let Some(question) = &self.questions().ready else {
            return std::future::pending().await;
        };
        let since = Instant::now();
        while let Err(missing) = question.ask(self.pid(), COMMAND_WITHIN).await {
            note(missing);
            tokio::time::sleep((since.elapsed() / 50).clamp(SHORTEST_COMMAND_WAIT, LONGEST_COMMAND_WAIT))
                .await;
        }
    }
}

const fn expected(port: u16) -> Listening {
    Listening {
        upstream: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        exposed: false,
    }
}

async fn listens(port: u16) -> Listening {
    let mut seen = (None, Instant::now());
    let mut diag = Diag::new().ok();
    let mut pace = Pace::new(diag.is_some());
    loop {
        match diag.as_mut().map(|diag| diag.listeners(port)) {
            Some(Ok(found)) => {
                if let Some(found) = choose(&found, port) {
                    return found;
                }
                pace.next().await;
                continue;
            }
            Some(Err(_)) => {
                diag = None;
                pace.coarse();
            }
            None => {}
        }
        let in_use = sockets_in_use();
        if in_use.is_none() || in_use != seen.0 || seen.1.elapsed() >= UNCHANGED_WAIT {
            if let Some(found) = look(port).await {
                return found;
            }
            seen = (in_use, Instant::now());
        }
        pace.next().await;
    }
}

async fn look(port: u16) -> Option<Listening> {
    match listening(port) {
        Ok(found) => found,
        // No /proc: the stray connection is the price.
        Err(_) => TcpStream::connect(expected(port).upstream)
            .await
            .ok()
            .map(|_| expected(port)),
    }
}

/// The kernel's counts of TCP sockets that listen or are connected, IPv4 and IPv6: cheap to ask.
fn sockets_in_use() -> Option<(String, Option<String>)> {
    let count = |path: &str, row: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(row))?;
        line.split_ascii_whitespace().nth(1).map(str::to_owned)
    };
    Some((
        count("/proc/net/sockstat", "TCP:")?,
        count("/proc/net/sockstat6", "TCP6:"),
    ))
}

async fn answers(upstream: SocketAddr, path: &str, note: impl Fn(Missing)) {
    let mut pace = Pace::new(false);
    loop {
        match timeout(ANSWER_WITHIN, status(upstream, path)).await {
            Ok(Ok(Some(status))) if status < 500 => return,
            Ok(Ok(Some(status))) => note(Missing::Status(status)),
            _ => note(Missing::Answer),
        }
        pace.next().await;
    }
}

/// The status of one GET; `None` if the answer is not HTTP.
pub(super) async fn status(upstream: SocketAddr, path: &str) -> io::Result<Option<u16>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let path = request_path(path);
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {upstream}\r\nuser-agent: suijuris-ready\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(status_of(&head))
}

/// A path that cannot end the request line, whatever the manifest says.
fn request_path(path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    path.bytes().fold(slash.to_owned(), |mut out, byte| {
        use std::fmt::Write as _;
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head).ok()?.strip_prefix("HTTP/1.")?;
    let (_, status) = line.split_once(' ')?;
    status.parse().ok().filter(|status| (100..=599).contains(status))
}

/// Where somebody in this network namespace listens on TCP `port`, if anybody does.
///
/// # Errors
/// If the kernel does not answer, and `/proc/net/tcp` cannot be read.
pub fn listening(port: u16) -> io::Result<Option<Listening>> {
    if let Ok(found) = Diag::new().and_then(|mut diag| diag.listeners(port)) {
        return Ok(choose(&found, port));
    }
    let mut found = listeners(open("/proc/net/tcp")?, port)?;
    // A machine without IPv6 has no such table.
    if let Ok(table) = open("/proc/net/tcp6") {
        found.extend(listeners(table, port)?);
    }
    Ok(choose(&found, port))
}

/// Whether this network has more than loopback: a route, or an IPv6 address elsewhere. One that cannot be looked at has.
fn is_reached() -> bool {
    let routed = std::fs::read_to_string("/proc/net/route").map_or(true, |table| table.lines().count() > 1);
    // A machine without IPv6 has no such table.
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    routed
        || addresses
            .lines()
            .any(|line| line.split_ascii_whitespace().last() != Some("lo"))
}

fn open(path: &str) -> io::Result<impl BufRead> {
    std::fs::File::open(path).map(|file| io::BufReader::with_capacity(4_096, file))
}

/// Addresses that listen on `port`. Reads the listening sockets only, which come first.
fn listeners(table: impl BufRead, port: u16) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (local, state) = (words.nth(1), words.nth(1));
        if state != Some(LISTEN) {
            break;
        }
        if let Some((address, at)) = local.and_then(local_address)
            && at == port
        {
            found.push(address);
        }
    }
    Ok(found)
}

/// Reads `0100007F:1F90` and its longer IPv6 sister: 32-bit words as they stand in memory.
fn local_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let octets: Vec<u8> = (0..4).filter_map(word).flatten().collect();
            IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// The best way in: IPv4 loopback where it leads there, else IPv6 loopback, else the address itself.
fn choose(found: &[IpAddr], port: u16) -> Option<Listening> {
    let exposed = found.iter().any(|address| !address.is_loopback());
    let loopback = |address: &&IpAddr| address.is_unspecified() || **address == Ipv4Addr::LOCALHOST;
    let way = match found.iter().find(loopback) {
        Some(_) => Ipv4Addr::LOCALHOST.into(),
        None if found.contains(&Ipv6Addr::LOCALHOST.into()) => Ipv6Addr::LOCALHOST.into(),
        None => *found.first()?,
    };
    Some(Listening {
        upstream: SocketAddr::new(way, port),
        exposed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0100007F:1F91 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 0100007F:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
";

    fn in_v4(port: u16) -> Option<Listening> {
        choose(&listeners(V4.as_bytes(), port).unwrap(), port)
    }

    #[test]
    fn listeners_are_found_and_connections_are_not() {
        let local = in_v4(0x1F90).unwrap();
        assert_eq!(
            (local.upstream.to_string(), local.exposed),
            ("127.0.0.1:8080".to_owned(), false)
        );
        assert!(in_v4(22).unwrap().exposed, "0.0.0.0 is open to all");
        assert_eq!(in_v4(0x1F91), None);
    }

    #[test]
    fn the_way_in_fits_the_listener() {
        let way = |address: &str| {
            let (address, port) = local_address(address).unwrap();
            choose(&[address], port)
                .map(|found| (found.upstream.to_string(), found.exposed))
                .unwrap()
        };
        let zero = "0".repeat(24);
        assert_eq!(
            way(&format!("{zero}01000000:0050")),
            ("[::1]:80".to_owned(), false)
        );
        assert_eq!(
            way(&format!("{zero}00000000:0050")),
            ("127.0.0.1:80".to_owned(), true)
        );
        assert_eq!(
            way("0000000000000000FFFF00000100007F:0050"),
            ("127.0.0.1:80".to_owned(), false)
        );
        assert_eq!(way("0200000A:0050"), ("10.0.0.2:80".to_owned(), true));
    }

    #[test]
    fn a_ready_path_stays_on_its_line() {
        assert_eq!(request_path("/health?x=1"), "/health?x=1");
        assert_eq!(request_path("a b\r\nhost: c"), "/a%20b%0D%0Ahost:%20c");
    }

    proptest! {
        #[test]
        fn no_table_and_no_answer_is_a_panic(bytes: Vec<u8>, text in ".{0,60}") {
            let _ = listeners(bytes.as_slice(), 80);
            let _ = status_of(&bytes);
            let _ = local_address(&text);
        }
    }
}
