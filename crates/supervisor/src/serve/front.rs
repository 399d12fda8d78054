//! The public sockets of a daemon: each connection is read so far that it is known for whom it is, and given to that object.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_core::class::{Key, Source};
use suijuris_core::memory::Value;
use suijuris_door::Credentials;
use suijuris_link::message::Client;
use suijuris_vehicle::Driver;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::class_entry::ClassEntry;
use suijuris_edge::Speaks;

use super::edge::{Edge, Entrance};
use super::entry::Entry;
use super::resolver::{Address, address};
use super::roster::Roster;
use crate::connection::{Arrival, LEAVE_WITHIN, Leaving, PendingConnection, left, read_http};

/// Connections that are read or wait for their object, at most; further ones wait in the sockets' backlog.
const MAX_WAITING: usize = 4_096;

/// Pause after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The event of certificates that changed and cannot be used.
const CODE_CERTIFICATE: &str = "certificate_failed";

/// Accepts until the daemon leaves, and lets those end then who came before.
pub async fn accept<D: Driver>(
    roster: Rc<Roster<D>>,
    edge: Rc<Edge>,
    listener: TcpListener,
    entrance: Entrance,
    way: Way,
) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let mut waiting: JoinSet<()> = JoinSet::new();
    let mut leaving = roster.parting();
    let admit = {
        let leaving = leaving.clone();
        move |socket, peer| {
            admitted(
                roster.clone(),
                edge.clone(),
                (socket, peer, entrance),
                (way.clone(), port),
                leaving.clone(),
            )
        }
    };
    loop {
        tokio::select! {
            () = left(&mut leaving) => break,
            Some(_gone) = waiting.join_next() => {}
            accepted = listener.accept(), if waiting.len() < MAX_WAITING => match accepted {
                Ok((socket, peer)) => drop(waiting.spawn_local(admit(socket, peer))),
                Err(_out_of_descriptors) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    // Who stands in the backlog would be reset with the socket.
    while waiting.len() < MAX_WAITING {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => drop(waiting.spawn_local(admit(socket, peer))),
                Err(_out_of_descriptors) => break,
            },
            () = std::future::ready(()) => break,
        }
    }
    // The next daemon has the socket, or nobody.
    drop(listener);
    let all = async { while waiting.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LEAVE_WITHIN, all).await;
}

/// One connection, from its arrival until an object has it or it was answered.
async fn admitted<D: Driver>(
    roster: Rc<Roster<D>>,
    edge: Rc<Edge>,
    (socket, peer, entrance): (TcpStream, SocketAddr, Entrance),
    (way, port): (Way, u16),
    leaving: Leaving,
) {
    let _ = socket.set_nodelay(true);
    if let Some(why) = edge.complaint() {
        roster.say(CODE_CERTIFICATE, why);
    }
    let speaks = match way {
        Way::Http => Speaks::Http,
        Way::Raw(_) => Speaks::Anything,
    };
    let Some(arrival) = edge.receive(socket, peer, entrance, speaks).await else {
        return;
    };
    match way {
        Way::Http => admit(roster, &edge, arrival, leaving).await,
        Way::Raw(name) => admit_raw(roster, &name, port, arrival).await,
    }
}

async fn admit<D: Driver>(roster: Rc<Roster<D>>, edge: &Edge, arrival: Arrival, leaving: Leaving) {
    let Some(mut connection) = read_http(arrival, leaving).await else {
        return;
    };
    connection.log_to(&roster.services.access_log, None);
    if let Err(problem) = edge.vouch(&mut connection) {
        return connection.refuse(problem).await;
    }
    match roster.resolve(&mut connection).await {
        Ok(entry) => roster.give(&entry, connection).await,
        Err(Elsewhere::Refused(problem)) => connection.refuse(*problem).await,
        Err(Elsewhere::At(url)) => connection.redirect(&url).await,
    }
}

/// A raw connection has no words: it goes to its object, or ends.
async fn admit_raw<D: Driver>(roster: Rc<Roster<D>>, name: &str, port: u16, arrival: Arrival) {
    let connection = PendingConnection::raw(arrival);
    match roster.resolve_raw(name, port, &connection).await {
        Ok(entry) => roster.give(&entry, connection).await,
        Err(problem) => connection.refuse(problem).await,
    }
}

/// What comes to a listener.
#[derive(Debug, Clone)]
pub enum Way {
    /// Requests, which say which object they mean.
    Http,
    /// Raw connections for the object or class of this name.
    Raw(Rc<str>),
}

/// What a request is addressed to, with words of its own.
enum Meant {
    Instance(Rc<ClassEntry>, String, Option<String>),
    Object(Rc<Entry>, Option<String>),
    /// A browser, on the one origin that all instances share by path.
    Browser(Rc<ClassEntry>, String, String),
}

/// Why a connection goes to no object here.
enum Elsewhere {
    Refused(Box<Problem>),
    At(String),
}

impl From<Problem> for Elsewhere {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl<D: Driver> Roster<D> {
    /// The object that a connection is for, founded where its class lets that happen.
    async fn resolve(self: &Rc<Self>, connection: &mut PendingConnection) -> Result<Rc<Entry>, Elsewhere> {
        let (class, key, prefix) = match self.meant(connection)? {
            Meant::Object(entry, prefix) => {
                strip(connection, prefix)?;
                return Ok(entry);
            }
            Meant::Browser(class, text, rest) => {
                let key = self.key(&class, &text)?;
                let url = self.url_of(key.as_str(), &class.note.name);
                return Err(Elsewhere::At(format!("{url}{rest}")));
            }
            Meant::Instance(class, text, prefix) => {
                let key = self.key(&class, &text)?;
                (class, key, prefix)
            }
        };
        // Before anything is founded: rules see the path that the instance will see.
        strip(connection, prefix)?;
        Ok(self.instance(&class, &key, connection).await?)
    }

    fn key(&self, class: &ClassEntry, text: &str) -> Result<Key, Problem> {
        let _ = self;
        class.class.key.asked(text.as_bytes()).map_err(|error| {
            Problem::new(400, "bad_key", "The address names no object").with_detail(error.to_string())
        })
    }

    fn meant(&self, connection: &PendingConnection) -> Result<Meant, Problem> {
        let known = connection.client.as_deref();
        let found = connection.look(|head| self.addressed(head, known));
        found.transpose()?.flatten().ok_or_else(no_such)
    }

    /// What a request is addressed to, where that is anything here.
    fn addressed(
        &self,
        head: &suijuris_gate::RequestHead<'_>,
        known: Option<&Client>,
    ) -> Result<Option<Meant>, Problem> {
        let by_words = address(&head.host, &head.path, &self.domain, |name| {
            self.class(name).is_some()
        });
        Ok(match by_words {
            Address::Id(object) => self.entry(object).map(|entry| Meant::Object(entry, None)),
            Address::Named { name, prefix } => match (self.named(name), self.class(name)) {
                (Some(entry), _) => Some(Meant::Object(entry, prefix.map(str::to_owned))),
                (None, Some(class)) => self.by_source(&class, head, known)?,
                (None, None) => None,
            },
            Address::Instance { class, key, prefix } => {
                let class = self.class(class);
                class.and_then(|class| by_address(class, head, key, prefix))
            }
            Address::Nothing => None,
        })
    }

    /// The object that a raw connection to this port is for, founded where its class lets that happen.
    async fn resolve_raw(
        self: &Rc<Self>,
        name: &str,
        port: u16,
        connection: &PendingConnection,
    ) -> Result<Rc<Entry>, Problem> {
        if let Some(entry) = self.named(name) {
            return Ok(entry);
        }
        let class = self.class(name).ok_or_else(no_such)?;
        let known = connection.client.as_deref();
        let mut keys = class.class.from.iter().filter_map(|source| match source {
            Source::Port => Some(port.to_string()),
            source => self.by_tls(&class, source, known?),
        });
        let text = keys.next().ok_or_else(no_such)?;
        let key = self.key(&class, &text)?;
        self.instance(&class, &key, connection).await
    }

    /// The key that TLS gives: of the name that it asked for, or of the certificate that was shown.
    fn by_tls(&self, class: &ClassEntry, source: &Source, known: &Client) -> Option<String> {
        match source {
            Source::Sni => match address(
                known.session.as_ref()?.server_name.as_deref()?,
                "/",
                &self.domain,
                |_| false,
            ) {
                Address::Instance {
                    class: named, key, ..
                } if named == class.note.name => Some(key.to_owned()),
                _ => None,
            },
            Source::ClientCert => known.session.as_ref()?.certificate.as_ref()?.name.clone(),
            _ => None,
        }
    }

    /// The instance that something beside host and path names, on the host of the class itself.
    ///
    /// # Errors
    /// A token that is not valid, or is needed.
    fn by_source(
        &self,
        class: &Rc<ClassEntry>,
        head: &suijuris_gate::RequestHead<'_>,
        known: Option<&Client>,
    ) -> Result<Option<Meant>, Problem> {
        let mut needs_token = false;
        for source in &class.class.from {
            let key = match source {
                Source::Header(name) => head
                    .exposed(name)
                    .ok()
                    .flatten()
                    .map(std::borrow::Cow::into_owned),
                Source::Claim(name) if head.authorization.is_some() => self.by_claim(class, head, name)?,
                Source::Claim(_) => {
                    needs_token = true;
                    None
                }
                source => known.and_then(|known| self.by_tls(class, source, known)),
            };
            if let Some(key) = key {
                return Ok(Some(Meant::Instance(class.clone(), key, None)));
            }
        }
        if needs_token {
            return Err(
                Problem::new(401, "token_required", "A caller's token is required").with_detail(
                    "which object is meant is a claim of the token: send Authorization: Bearer TOKEN",
                ),
            );
        }
        Ok(None)
    }

    /// The key that a verified token gives.
    fn by_claim(
        &self,
        class: &ClassEntry,
        head: &suijuris_gate::RequestHead<'_>,
        name: &str,
    ) -> Result<Option<String>, Problem> {
        let credentials = Credentials {
            wants: head.object,
            authorization: head.authorization,
        };
        let reading = self.services.clock.reading();
        let caller = class.door.borrow_mut().caller(credentials, reading)?;
        let claim = caller.claims.iter().find(|(claim, _)| claim.as_str() == name);
        Ok(match claim {
            Some((_, Value::String(key))) => Some(key.clone()),
            _ => None,
        })
    }
}

/// The instance that host or path name, where the class takes its keys from there.
fn by_address(
    class: Rc<ClassEntry>,
    head: &suijuris_gate::RequestHead<'_>,
    key: &str,
    prefix: Option<&str>,
) -> Option<Meant> {
    let way = if prefix.is_some() {
        Source::Path
    } else {
        Source::Host
    };
    class.class.from.contains(&way).then_some(())?;
    if let Some(prefix) = prefix
        && !class.class.paths
        && is_browser(head)
    {
        let path = head.path.strip_prefix(prefix).unwrap_or_default();
        let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
        let rest = format!("{}{query}", path.trim_start_matches('/'));
        return Some(Meant::Browser(class, key.to_owned(), rest));
    }
    Some(Meant::Instance(class, key.to_owned(), prefix.map(str::to_owned)))
}

/// Takes the prefix off that named the object.
fn strip(connection: &mut PendingConnection, prefix: Option<String>) -> Result<(), Problem> {
    match prefix {
        Some(prefix) => connection.strip_prefix(&prefix).map_err(|()| no_such()),
        None => Ok(()),
    }
}

fn is_browser(head: &suijuris_gate::RequestHead<'_>) -> bool {
    head.headers().any(|(name, _)| {
        name.to_ascii_lowercase().starts_with("sec-fetch-") || name.eq_ignore_ascii_case("service-worker")
    })
}

fn no_such() -> Problem {
    Problem::new(404, "unknown_object", "No object is at this address").with_detail(
        "objects are at http://KEY.CLASS.localhost/, http://NAME.localhost/ and /o/CLASS/KEY/ or /o/NAME/: see `suijuris ps`",
    )
}
