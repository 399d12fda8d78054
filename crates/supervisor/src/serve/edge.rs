//! The edge: what lies between a public socket and the objects. Here a connection becomes one whose client is known: a
//! PROXY header is heard where the listener requires one, TLS ends, and what trusted proxies say is believed, once.
//!
//! What each of these steps is stands in crate `edge`.
//!
//! Everything else is told by a client about itself, and neither judged nor forwarded. Not here: which object is meant.

use std::net::SocketAddr;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_edge::handshakes::Handshakes;
use suijuris_edge::tls::Tls;
use suijuris_edge::trust::Trust;
use suijuris_edge::{Speaks, forwarded, postgres, proxy_header};
use suijuris_link::launch::Address;
use suijuris_link::message::Client;
use tokio::net::TcpStream;

use crate::connection::{Arrival, ClientStream, PendingConnection};

/// Time for a PROXY header and TLS together.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);

/// How a listener takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entrance {
    /// Each connection begins with a header of the PROXY protocol, and comes from a trusted proxy.
    pub proxy: bool,
    /// TLS ends here.
    pub tls: bool,
}

/// What all listeners of a daemon share.
#[derive(Debug)]
pub struct Edge {
    trust: Trust,
    tls: Option<Tls>,
    handshakes: Handshakes,
}

impl Edge {
    /// An edge that believes these proxies, and ends TLS with these certificates where there are any.
    #[must_use]
    pub fn new(trust: Trust, tls: Option<Tls>) -> Self {
        Self {
            trust,
            tls,
            handshakes: Handshakes::default(),
        }
    }

    /// Whether TLS can end here.
    pub(crate) const fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether any proxy is trusted.
    pub(crate) fn trusts_anybody(&self) -> bool {
        !self.trust.is_empty()
    }

    /// What is wrong with certificates that changed, once for each change.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.tls.as_ref()?.refresh().err()
    }

    /// A connection whose client is known as far as the connection itself goes. None where it is turned away without a
    /// word: no proxy of ours where one is required, no header, no TLS, or none in time.
    pub(crate) async fn receive(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        entrance: Entrance,
        speaks: Speaks,
    ) -> Option<Arrival> {
        let _turn = match entrance.proxy || entrance.tls {
            true => Some(self.handshakes.begin(peer.ip(), self.trust.has(peer.ip()))?),
            false => None,
        };
        let arriving = self.arrive(socket, peer, entrance, speaks);
        tokio::time::timeout(ARRIVE_WITHIN, arriving).await.ok().flatten()
    }

    async fn arrive(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
        entrance: Entrance,
        speaks: Speaks,
    ) -> Option<Arrival> {
        let mut client = Client {
            address: Address(peer),
            tls: entrance.tls,
            session: None,
            prefix: None,
            once: false,
        };
        if entrance.proxy {
            if !self.trust.has(peer.ip()) {
                return None;
            }
            if let Some(address) = proxy_header::read(&mut socket).await.ok()? {
                client.address = Address(address);
            }
        }
        let stream = if entrance.tls {
            if speaks == Speaks::Anything {
                postgres::until_tls(&mut socket).await.ok()?;
            }
            let (stream, found) = self.tls.as_ref()?.accept(socket, speaks).await?;
            client.session = Some(Box::new(found));
            ClientStream::Tls(Box::new(stream))
        } else {
            ClientStream::Plain(socket)
        };
        Some(Arrival {
            stream,
            peer,
            client: Some(Box::new(client)),
        })
    }

    /// Believes what a trusted proxy says of the request: from here on the client is whom it speaks for, for this one request.
    ///
    /// # Errors
    /// The answer to a proxy that cannot be believed.
    pub(crate) fn vouch(&self, connection: &mut PendingConnection) -> Result<(), Problem> {
        let peer = connection.peer();
        if !self.trust.has(peer.ip()) {
            return Ok(());
        }
        if connection.is_http2() {
            return Err(
                Problem::new(505, "http_version", "A trusted proxy speaks HTTP/1.1 here")
                    .with_detail("requests of several clients on one connection: let the proxy speak HTTP/1.1, or send a PROXY header"),
            );
        }
        let Some(said) = connection.look_at_all(|head| forwarded::read(head, peer, &self.trust)) else {
            return Ok(());
        };
        let said = said.map_err(|error| {
            Problem::new(400, "bad_request", "The proxy's header fields cannot be read")
                .with_detail(error.to_string())
        })?;
        let port = if said.client == peer.ip().to_canonical() {
            peer.port()
        } else {
            0
        };
        connection.vouched(SocketAddr::new(said.client, port), |client| {
            client.tls = said.tls.unwrap_or(client.tls);
            // It is the proxy's own, and says nothing of the client.
            client.session = None;
            client.prefix = said.prefix;
            // The next request of the proxy is another client's, or another object's.
            client.once = true;
        });
        Ok(())
    }
}
