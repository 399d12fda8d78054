//! The sockets: questions over UDP and TCP, and what is asked of this machine's own resolver.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hickory_server::proto::op::{Message, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::zone::Zone;
use super::{MAX_DATAGRAM, MAX_QUESTION, Reply, encode, reply};
use crate::host::Inner;

/// Connections at one time, and how long one may be without a question.
const MAX_CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);
/// Questions that are with this machine's resolver at one time, and how long each may be.
const MAX_FORWARDED: usize = 256;
const FORWARDED_WITHIN: Duration = Duration::from_secs(5);

/// Answers questions.
struct Server {
    host: Weak<Inner>,
    zone: Mutex<(u64, Arc<Zone>)>,
    /// This machine's own resolvers; none without a way out.
    resolvers: Vec<SocketAddr>,
    forwarded: Arc<Semaphore>,
}

impl Server {
    fn zone(&self) -> Option<Arc<Zone>> {
        let host = self.host.upgrade()?;
        let changes = host.shared.changes.load(Ordering::Acquire);
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        if zone.0 != changes {
            *zone = (changes, Arc::new(Zone::of(&host)));
        }
        Some(Arc::clone(&zone.1))
    }

    /// The answer to the question in `bytes`, of at most `room` bytes where it comes from here.
    async fn answer(&self, bytes: &[u8], from: IpAddr, room: Option<usize>) -> Option<Vec<u8>> {
        let IpAddr::V6(address) = from else { return None };
        let question = Message::from_vec(bytes).ok()?;
        let most = room.unwrap_or(usize::from(u16::MAX));
        let most = match (&question.edns, room) {
            (Some(_), Some(room)) => usize::from(question.max_payload()).clamp(512, room),
            (None, Some(_)) => 512,
            (_, None) => most,
        };
        match reply(&*self.zone()?, address, &question) {
            Reply::Answer(answer) => encode(&answer, most),
            Reply::Forward => match self.forward(bytes, question.metadata.id, room.is_none()).await {
                Some(answer) => Some(answer),
                None => {
                    let mut refused =
                        Message::error_msg(question.metadata.id, OpCode::Query, ResponseCode::Refused);
                    if !self.resolvers.is_empty() {
                        refused.metadata.response_code = ResponseCode::ServFail;
                    }
                    refused.queries = question.queries;
                    encode(&refused, most)
                }
            },
            Reply::Nothing => None,
        }
    }

    /// What this machine's resolver says.
    async fn forward(&self, question: &[u8], id: u16, over_tcp: bool) -> Option<Vec<u8>> {
        let _room = self.forwarded.try_acquire().ok()?;
        for resolver in &self.resolvers {
            let asked = async {
                if over_tcp {
                    let mut stream = TcpStream::connect(resolver).await?;
                    write_framed(&mut stream, question).await?;
                    read_framed(&mut stream, usize::from(u16::MAX)).await
                } else {
                    let any: SocketAddr = if resolver.is_ipv4() {
                        ([0, 0, 0, 0], 0).into()
                    } else {
                        ([0_u16; 8], 0).into()
                    };
                    let socket = UdpSocket::bind(any).await?;
                    socket.connect(resolver).await?;
                    socket.send(question).await?;
                    let mut bytes = vec![0; MAX_QUESTION];
                    let length = socket.recv(&mut bytes).await?;
                    bytes.truncate(length);
                    Ok(bytes)
                }
            };
            let answer = tokio::time::timeout(FORWARDED_WITHIN / 2, asked).await;
            if let Ok(Ok(answer)) = answer
                && answer.starts_with(&id.to_be_bytes())
            {
                return Some(answer);
            }
        }
        None
    }
}

async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await
}

async fn read_framed(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// This machine's own resolvers, as `/etc/resolv.conf` lists them.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines()
        .filter_map(address)
        .take(3)
        .map(|address| (address, 53).into())
        .collect()
}

/// Answers at these two sockets, UDP and TCP, until the host is no more.
pub(crate) async fn serve(
    host: Weak<Inner>,
    sockets: (OwnedFd, OwnedFd),
    has_way_out: bool,
) -> io::Result<()> {
    let (udp, tcp) = sockets;
    let udp = Arc::new(UdpSocket::from_std(udp.into())?);
    let tcp = TcpListener::from_std(tcp.into())?;
    let configured = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = Arc::new(Server {
        host,
        zone: Mutex::new((u64::MAX, Arc::default())),
        resolvers: if has_way_out {
            resolvers(&configured)
        } else {
            Vec::new()
        },
        forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
    });
    let mut tasks = JoinSet::new();
    let mut bytes = vec![0; MAX_QUESTION];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut bytes) => {
                // An answer that reached nobody is no reason to stop.
                let Ok((length, from)) = received else { continue };
                let question = bytes.get(..length).unwrap_or_default().to_vec();
                if tasks.len() >= MAX_FORWARDED + MAX_CONNECTIONS {
                    // Whoever asks asks again.
                    continue;
                }
                let (server, udp) = (Arc::clone(&server), Arc::clone(&udp));
                tasks.spawn(async move {
                    if let Some(answer) = server.answer(&question, from.ip(), Some(usize::from(MAX_DATAGRAM))).await {
                        let _ = udp.send_to(&answer, from).await;
                    }
                });
            }
            accepted = tcp.accept() => {
                let Ok((stream, from)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if tasks.len() < MAX_CONNECTIONS {
                    let server = Arc::clone(&server);
                    tasks.spawn(async move { drop(converse(&server, stream, from.ip()).await) });
                }
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}

async fn converse(server: &Server, mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
    loop {
        let question = tokio::time::timeout(IDLE, read_framed(&mut stream, MAX_QUESTION)).await??;
        let Some(answer) = server.answer(&question, from, None).await else {
            return Ok(());
        };
        tokio::time::timeout(IDLE, write_framed(&mut stream, &answer)).await??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_those_that_are_listed() {
        let found = resolvers("# x\nsearch a\nnameserver 10.0.0.1\nnameserver\tfd00::1\nnameserver no\n");
        let expect: Vec<SocketAddr> = vec!["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(found, expect);
    }
}
