//! 10,000 connections that stay and say nothing: what they take, and how long others wait meanwhile.

use std::io::{self, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use suijuris_testkit::bench::host::answer;
use suijuris_testkit::bench::{
    Better, Report, Row, Running, Settings, drive, memory, peers, raise_descriptors, server,
};

use crate::{Result, ours};

/// Connections that stay.
const IDLE: usize = 10_000;
/// Addresses that they come from: one alone may not have all places.
const CLIENTS: usize = 8;
/// Requests of somebody else, each over a connection of its own.
const REQUESTS: usize = 300;
/// What a proxy may take of connections at most.
const ROOM: usize = 16_384;

/// What was seen of a proxy.
struct Seen {
    /// KiB for each connection.
    each_kib: f64,
    /// Of the idle ones, how many were still there.
    kept: usize,
    p50_ms: f64,
    p99_ms: f64,
}

/// A connection from `127.1.0.number` to `port`.
fn from(number: usize, port: u16) -> io::Result<TcpStream> {
    let last = u8::try_from(number % 250 + 1).map_err(io::Error::other)?;
    let made = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&made);
    bind(fd, &SockaddrIn::new(127, 1, 0, last, 0))?;
    connect(fd, &SockaddrIn::new(127, 0, 0, 1, port))?;
    Ok(TcpStream::from(made))
}

/// One request, whole.
fn request(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET /public/page HTTP/1.1\r\nHost: a.localhost\r\n\r\n")?;
    match answer(&mut BufReader::new(stream))? {
        (200, _) => Ok(()),
        (status, _) => Err(io::Error::other(format!("{status}"))),
    }
}

/// Whether the other side has not ended it.
fn is_open(stream: &TcpStream) -> bool {
    let ended = |stream: &TcpStream| -> io::Result<bool> {
        stream.set_nonblocking(true)?;
        Ok(stream.peek(&mut [0])? == 0)
    };
    ended(stream).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn look(port: u16, proxy: &Running, idle: usize) -> Result<Seen> {
    let mut first = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    request(&mut first)?;
    let pids: Vec<u32> = std::iter::once(proxy.pid())
        .chain(suijuris_testkit::bench::children(proxy.pid())?)
        .collect();
    let resident = || {
        pids.iter()
            .try_fold(0, |all, pid| Ok::<_, io::Error>(all + memory(*pid)?.resident))
    };
    let before = resident()?;
    let mut open = Vec::with_capacity(idle);
    for number in 0..idle {
        let mut stream = from(number % CLIENTS, port)?;
        // One in eight has said nothing at all.
        if number % 8 != 0 {
            request(&mut stream)?;
        }
        open.push(stream);
    }
    let ask = |(): &mut (), _: usize| request(&mut TcpStream::connect((Ipv4Addr::LOCALHOST, port))?);
    let others = drive(1, REQUESTS, || Ok(()), ask)?;
    let grown = resident()?.saturating_sub(before);
    let kept = open.iter().filter(|stream| is_open(stream)).count();
    Ok(Seen {
        each_kib: grown as f64 / 1_024.0 / idle as f64,
        kept,
        p50_ms: others.ms(50),
        p99_ms: others.ms(99),
    })
}

/// The table of this bench.
pub(crate) fn measure(settings: &Settings) -> Result<()> {
    let descriptors = raise_descriptors()?;
    let mut report = Report::new("proxy-idle", settings);
    // A proxy may have a connection to the server for each.
    let most = usize::try_from(descriptors)?.saturating_sub(1_000) / 2;
    let idle = settings.scale(IDLE).min(most);
    if idle < settings.scale(IDLE) {
        report.note(format!(
            "{idle} connections only: the system allows {descriptors} descriptors"
        ));
    }
    let room = ROOM.min(usize::try_from(descriptors)?.saturating_sub(200) / 2);
    let folder = tempfile::tempdir()?;
    crate::certify(folder.path())?;
    let (upstream, _server) = server::spawn()?;
    let (port, proxy) = ours(folder.path(), upstream)?;
    let own = look(port, &proxy, idle)?;
    report.note(format!("proxy: {} of {idle} were still there", own.kept));
    drop(proxy);
    for (name, peer) in [
        ("nginx", peers::nginx_for(room, folder.path(), upstream, None)?),
        (
            "HAProxy",
            peers::haproxy_for(room, folder.path(), upstream, None)?,
        ),
    ] {
        let seen = look(peer.port, &peer.running, idle)?;
        report.note(format!("{name}: {} of {idle} were still there", seen.kept));
        for (what, unit, ours, theirs) in [
            (
                "memory for each idle connection",
                "KiB",
                own.each_kib,
                seen.each_kib,
            ),
            (
                "others meanwhile, connect to answer, p50",
                "ms",
                own.p50_ms,
                seen.p50_ms,
            ),
            ("the same, p99", "ms", own.p99_ms, seen.p99_ms),
        ] {
            report.row(Row {
                what: what.to_owned(),
                unit,
                better: Better::Lower,
                ours,
                peer: name.to_owned(),
                theirs,
                budget: None,
            });
        }
    }
    report.note(format!(
        "{idle} connections from {CLIENTS} addresses, seven of eight after one request; others come from another address"
    ));
    report.publish(settings)?;
    Ok(())
}
