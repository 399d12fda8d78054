//! The door of the daemon: proxies ask whether a request may pass, senders leave messages, and what is counted is shown. The
//! routes are those of `suijuris door` (docs/door.md), and so is the code. Nothing is started from here: a request that passes
//! comes to the daemon's own listener, where the object's actor decides again and wakes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use suijuris_api::Problem;
use suijuris_api::routes::Needs;
use suijuris_core::ObjectId;
use suijuris_door::config::{Limits, Location};
use suijuris_door::heads::Trust;
use suijuris_door::routes::{Names, Routes};
use suijuris_door::waker::Elsewhere;
use suijuris_door::{Door, OwnedCheck, Passed, http_answers};
use suijuris_vehicle::Driver;

use super::{Answer, Api, boxed};
use crate::actor::Input;
use crate::control::Check;
use crate::serve::resolver::{Address, address};
use crate::serve::roster::Roster;

/// Text of metrics.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who asks on the socket.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The daemon's names.
pub(super) struct RosterNames<D: Driver>(Rc<Roster<D>>);

impl<D: Driver> Names for RosterNames<D> {
    fn object(&self, host: &str) -> Option<ObjectId> {
        let roster = &self.0;
        let found = match address(host, "/", &roster.domain, |name| roster.class(name).is_some()) {
            Address::Id(object) => return Some(object),
            Address::Named { name, .. } => roster.named(name)?,
            Address::Instance { class, key, .. } => roster.find(&format!("{class}/{key}"))?,
            Address::Nothing => return None,
        };
        Some(found.origin.object)
    }

    async fn check(&self, object: ObjectId, asked: OwnedCheck) -> Option<Result<Passed, Problem>> {
        let entry = self.0.entry(object)?;
        let ask = async {
            let (check, answered) = Check::of(asked);
            let sent = entry.handle().await?.send(Input::Check(Box::new(check))).await;
            sent.map_err(|_over| moving())?;
            answered.await.map_err(|_over| moving())?
        };
        Some(ask.await)
    }
}

fn moving() -> Problem {
    Problem::new(503, "object_moving", "The object is falling asleep or waking")
        .with_detail("ask again in a moment")
}

/// The label of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

/// A door over the daemon's depot; none where it has none.
pub(super) fn of<D: Driver>(roster: &Rc<Roster<D>>) -> Option<Routes<RosterNames<D>>> {
    let depot = roster.depot.clone()?;
    let here = &roster.services.host;
    let place = Location {
        region: here.region.clone(),
        provider: here.provider.clone(),
        class: here.class.clone(),
        id: here.id.clone(),
    };
    let clock = roster.services.clock.clone();
    let clock = Arc::new(move || clock.reading());
    let door = Door::with_waker(
        depot,
        Box::new(Elsewhere),
        Limits::default(),
        Trust::default(),
        &place,
        clock,
        None,
    );
    Some(Routes {
        door: Arc::new(door),
        names: RosterNames(roster.clone()),
    })
}

/// What a request to the door needs; nothing where its path is none of the door's. A proxy that asks sends the host of the
/// request that it asks about.
pub(super) fn needs(path: &str) -> Option<(Needs, bool)> {
    let (first, below) = path
        .strip_prefix('/')?
        .split_once('/')
        .unwrap_or((path.get(1..)?, ""));
    Some(match first {
        "ext_authz" => (Needs::Read, true),
        "metrics" | "healthz" if below.is_empty() => (Needs::Read, false),
        "objects" if below.ends_with("/messages") => (Needs::Operate, false),
        _ => return None,
    })
}

impl<D: Driver> Api<D> {
    pub(super) async fn at_door(
        &self,
        request: Request<Incoming>,
        peer: Option<SocketAddr>,
    ) -> Result<Answer, Problem> {
        let Some(routes) = &self.door else {
            return Err(Problem::new(503, "depot_unreachable", "This daemon has no depot")
                .with_detail("start it with one"));
        };
        if request.uri().path() == "/metrics" && request.method() == http::Method::GET {
            let text = routes.door.metrics_text(Some(&self.counted()));
            return Ok(http_answers::text(StatusCode::OK, METRICS_TYPE, text).map(boxed));
        }
        let answer = routes.answer(request, peer.unwrap_or(HERE)).await;
        Ok(answer.map(boxed))
    }

    /// What the daemon counts, now.
    fn counted(&self) -> Registry {
        let mut registry = Registry::with_prefix("suijuris_serve");
        let objects = Family::<Phase, Gauge>::default();
        let awake = Gauge::<i64>::default();
        for entry in self.roster.entries() {
            let phase = Phase { phase: entry.phase() };
            objects.get_or_create(&phase).inc();
            awake.inc_by(i64::try_from(entry.awake().as_secs()).unwrap_or(i64::MAX));
        }
        let classes = Gauge::<i64>::default();
        classes.set(i64::try_from(self.roster.classes().len()).unwrap_or(i64::MAX));
        registry.register("objects", "Objects of this daemon, by phase", objects);
        registry.register("classes", "Classes of this daemon", classes);
        let help = "Time that its objects were awake since it started, all together";
        registry.register_with_unit("awake", help, Unit::Seconds, awake);
        registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_has_its_own_paths() {
        let read = Some((Needs::Read, false));
        assert_eq!(needs("/ext_authz"), Some((Needs::Read, true)));
        assert_eq!(needs("/ext_authz/a/b"), Some((Needs::Read, true)));
        assert_eq!(needs("/metrics"), read);
        assert_eq!(needs("/healthz"), read);
        assert_eq!(needs("/objects/x/messages"), Some((Needs::Operate, false)));
        for path in [
            "",
            "/",
            "/v1",
            "/metrics/x",
            "/objects",
            "/objects/",
            "/ext_authzx",
        ] {
            assert_eq!(needs(path), None, "{path}");
        }
    }
}
