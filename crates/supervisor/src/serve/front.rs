//! The public sockets of a daemon: each connection is read so far that it is known for whom it is, and given to that object.

use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_core::class::{Key, Source};
use suijuris_vehicle::Driver;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::class_entry::ClassEntry;
use super::entry::Entry;
use super::resolver::{Address, address};
use super::roster::Roster;
use crate::connection::{PendingConnection, read_http};

/// Connections that are read or wait for their object, at most; further ones wait in the sockets' backlog.
const MAX_WAITING: usize = 4_096;

/// Pause after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until dropped.
pub async fn accept<D: Driver>(roster: Rc<Roster<D>>, listener: TcpListener) {
    let mut waiting: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            Some(_gone) = waiting.join_next() => {}
            accepted = listener.accept(), if waiting.len() < MAX_WAITING => match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    waiting.spawn_local(admit(roster.clone(), socket, peer));
                }
                Err(_out_of_descriptors) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn admit<D: Driver>(roster: Rc<Roster<D>>, socket: TcpStream, peer: std::net::SocketAddr) {
    let Some(mut connection) = read_http(socket, peer).await else {
        return;
    };
    match roster.resolve(&mut connection).await {
        Ok(entry) => roster.give(&entry, connection).await,
        Err(Elsewhere::Refused(problem)) => connection.refuse(*problem).await,
        Err(Elsewhere::At(url)) => connection.redirect(&url).await,
    }
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
        let found = connection.look(|head| {
            let by_words = address(&head.host, &head.path, &self.domain, |name| {
                self.class(name).is_some()
            });
            match by_words {
                Address::Id(object) => Some(Meant::Object(self.entry(object)?, None)),
                Address::Named { name, prefix } => {
                    if let Some(entry) = self.named(name) {
                        return Some(Meant::Object(entry, prefix.map(str::to_owned)));
                    }
                    let class = self.class(name)?;
                    self.by_header(&class, head)
                }
                Address::Instance { class, key, prefix } => {
                    let class = self.class(class)?;
                    let way = if prefix.is_some() {
                        Source::Path
                    } else {
                        Source::Host
                    };
                    class.class.from.contains(&way).then_some(())?;
                    let prefix = prefix.map(str::to_owned);
                    if let Some(prefix) = &prefix
                        && !class.class.paths
                        && is_browser(head)
                    {
                        let path = head.path.strip_prefix(prefix.as_str()).unwrap_or_default();
                        let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
                        let rest = format!("{}{query}", path.trim_start_matches('/'));
                        return Some(Meant::Browser(class, key.to_owned(), rest));
                    }
                    Some(Meant::Instance(class, key.to_owned(), prefix))
                }
                Address::Nothing => None,
            }
        });
        found.flatten().ok_or_else(no_such)
    }

    /// The instance that a header names, on the host of the class itself.
    fn by_header(&self, class: &Rc<ClassEntry>, head: &suijuris_gate::RequestHead<'_>) -> Option<Meant> {
        let _ = self;
        let names = class.class.from.iter().filter_map(|source| match source {
            Source::Header(name) => Some(name),
            _ => None,
        });
        let mut found = names.filter_map(|name| head.exposed(name).ok().flatten());
        let key = found.next()?.into_owned();
        Some(Meant::Instance(class.clone(), key, None))
    }
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
