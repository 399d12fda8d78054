//! The machine's way to its depot, and how another takes its place.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use suijuris_custody::chain;
use suijuris_depot::Depot;
use suijuris_depot::relay::Client;
use suijuris_link::RuntimeLink;
use suijuris_link::frame::StreamKind;
use suijuris_link::launch::DepotRoute;
use tokio::task::JoinSet;

/// The way to a depot that the supervisor serves. Clones are the same way.
#[derive(Debug, Clone, Default)]
pub(super) struct Relay(Rc<Way>);

#[derive(Debug, Default)]
struct Way {
    client: RefCell<Option<Arc<Client>>>,
    /// Moves what goes over a stream of the link.
    moves: RefCell<JoinSet<()>>,
}

impl Relay {
    /// The depot that `route` leads to, where there is one; `link` is the supervisor's.
    ///
    /// # Errors
    /// In words: it cannot be used.
    pub(super) async fn open(
        &self,
        route: DepotRoute<OwnedFd>,
        link: Option<&RuntimeLink>,
    ) -> Result<Option<Arc<dyn Depot>>, String> {
        if let DepotRoute::Url(url) = &route {
            let variable = |name: &str| std::env::var(name).ok();
            let opened = suijuris_depot::open(url, &variable).await;
            return opened.map(Some).map_err(|error| chain(&error));
        }
        let socket = self.socket(route, link).map_err(|error| chain(&error))?;
        let Some(socket) = socket else { return Ok(None) };
        let client = Arc::new(Client::here(socket).map_err(|error| chain(&error))?);
        self.0.client.replace(Some(client.clone()));
        Ok(Some(client))
    }

    /// Whether the depot is reached by way of the supervisor.
    pub(super) fn is_used(&self) -> bool {
        self.0.client.borrow().is_some()
    }

    /// Goes on over another way to the same depot, where it began over a way of the supervisor's.
    ///
    /// # Errors
    /// The system's; nothing has changed.
    pub(super) fn replace(&self, route: DepotRoute<OwnedFd>, link: &RuntimeLink) -> io::Result<()> {
        let Some(client) = self.0.client.borrow().clone() else {
            return Ok(());
        };
        match self.socket(route, Some(link))? {
            Some(socket) => client.replace(socket),
            None => Ok(()),
        }
    }

    fn socket(
        &self,
        route: DepotRoute<OwnedFd>,
        link: Option<&RuntimeLink>,
    ) -> io::Result<Option<UnixStream>> {
        match (route, link) {
            (DepotRoute::Descriptor(socket), _) => Ok(Some(socket.into())),
            (DepotRoute::Link, Some(link)) => {
                let stream = link.open(StreamKind::Depot).map_err(io::Error::other)?;
                let (socket, moves) = stream.into_socket()?;
                let mut all = self.0.moves.borrow_mut();
                // Those of former ways have ended with their links.
                while all.try_join_next().is_some() {}
                all.spawn_local(moves);
                Ok(Some(socket))
            }
            (DepotRoute::None | DepotRoute::Url(_) | DepotRoute::Link, _) => Ok(None),
        }
    }
}
