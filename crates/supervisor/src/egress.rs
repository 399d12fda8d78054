//! What a workload may reach, as its bundle says: the connections outside its machine, which has no other way out.
//!
//! Whatever the machine asks for is looked up in the bundle here, whoever asks. Called by the actor for each machine that runs.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use suijuris_core::manifest::Destination;
use suijuris_core::manifest::egress::{CARRIER, is_anybodys};
use suijuris_link::frame::{Reset, StreamKind};
use suijuris_link::{Stream, SupervisorLink};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections of one machine at a time at most.
const MAX_CONNECTIONS: usize = 256;

/// Time for a machine to say where a connection is to go.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// Time for a name to be looked up, and for each of its addresses to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// Why a connection is not made.
#[derive(Debug)]
enum Refused {
    /// Nothing says that it may be.
    Forbidden,
    /// It cannot be.
    Failed,
}

/// Makes the connections that `allowed` lets the machine have, until its link ends.
pub(crate) async fn serve(link: SupervisorLink, allowed: BTreeSet<Destination>) {
    let mut carried = JoinSet::new();
    while let Some(stream) = link.accept(StreamKind::Egress).await {
        while carried.try_join_next().is_some() {}
        if carried.len() >= MAX_CONNECTIONS {
            stream.reset(Reset::Refused);
            continue;
        }
        let allowed = allowed.clone();
        carried.spawn_local(carry(stream, allowed));
    }
}

async fn carry(mut stream: Stream, allowed: BTreeSet<Destination>) {
    let connected = async {
        let wanted = timeout(SAID_WITHIN, wanted(&mut stream)).await;
        let wanted = wanted.ok().and_then(Result::ok).ok_or(Refused::Failed)?;
        connect(&wanted, &allowed).await
    };
    match connected.await {
        // What breaks it is found out at both ends.
        Ok(mut outside) => drop(tokio::io::copy_bidirectional(&mut stream, &mut outside).await),
        Err(Refused::Forbidden) => stream.reset(Reset::Refused),
        Err(Refused::Failed) => stream.reset(Reset::Failed),
    }
}

/// Where a stream is to go, as the machine says first.
async fn wanted(stream: &mut Stream) -> io::Result<String> {
    let mut text = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut text).await?;
    String::from_utf8(text).map_err(io::Error::other)
}

async fn connect(wanted: &str, allowed: &BTreeSet<Destination>) -> Result<TcpStream, Refused> {
    let (host, port) = wanted.rsplit_once(':').ok_or(Refused::Forbidden)?;
    let port: u16 = port.parse().map_err(|_| Refused::Forbidden)?;
    if !allowed.iter().any(|destination| destination.permits(host, port)) {
        return Err(Refused::Forbidden);
    }
    let found: Vec<IpAddr> = match host.parse::<Ipv4Addr>() {
        _ if host == CARRIER => vec![Ipv4Addr::LOCALHOST.into()],
        Ok(address) => vec![address.into()],
        Err(_name) => {
            let found = timeout(ANSWERED_WITHIN, lookup_host((host, port))).await;
            let found = found.ok().and_then(Result::ok).ok_or(Refused::Failed)?;
            found.map(|address| address.ip()).collect()
        }
    };
    // A name may mean anything to whoever answers for it.
    let reached = |address: &IpAddr| host == CARRIER || is_anybodys(*address);
    let found: Vec<IpAddr> = found.into_iter().filter(reached).collect();
    if found.is_empty() {
        return Err(Refused::Forbidden);
    }
    for address in found {
        let connecting = TcpStream::connect(SocketAddr::new(address, port));
        if let Ok(Ok(connected)) = timeout(ANSWERED_WITHIN, connecting).await {
            let _ = connected.set_nodelay(true);
            return Ok(connected);
        }
    }
    Err(Refused::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tried(wanted: &str, allowed: &[&str]) -> Result<TcpStream, Refused> {
        connect(
            wanted,
            &allowed.iter().map(|text| text.parse().unwrap()).collect(),
        )
        .await
    }

    #[tokio::test]
    async fn nothing_is_connected_to_but_what_is_allowed() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let here = format!("host.internal:{port}");
        assert!(tried(&here, &[&here]).await.is_ok());
        let every = format!("0.0.0.0/0:{port}");
        let name = format!("localhost.localdomain:{port}");
        for (wanted, allowed) in [
            (here.as_str(), every.as_str()),
            (&format!("127.0.0.1:{port}"), &every),
            (&format!("127.0.0.1:{port}"), &here),
            (&format!("169.254.169.254:{port}"), &every),
            (&format!("0.0.0.0:{port}"), &every),
            (&format!("localhost:{port}"), &here),
            (&format!("host.internal:{}", port ^ 1), &here),
            ("host.internal", &here),
            ("", &here),
            ("host.internal:", &here),
            ("host.internal:99999", &here),
        ] {
            let tried = tried(wanted, &[allowed]).await;
            assert!(
                matches!(tried, Err(Refused::Forbidden)),
                "{wanted} by {allowed}: {tried:?}"
            );
        }
        // A name whose address is this host's own, or that has none.
        assert!(tried(&name, &[&name]).await.is_err());
    }
}
