//! What the gate asks: which app a request is for, where it goes, and what becomes of its answer. One for each listener and kind
//! of connection.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION};
use suijuris_gate::{
    Admission, AnswerHead, Answered, Authorizer, Forwarding, Later, RequestHead, Route, Why,
};
use tokio::time::Instant;

use crate::asked::{Asked, Entrance, app_of, cookie};
use crate::fleet::Snapshot;
use crate::hook::Question;
use crate::passage::{Goal, Passage, Story};
use crate::problems;
use crate::replay::cache::Lookup;
use crate::router::Router;

/// The proxy's part of a gate.
#[derive(Debug)]
pub(crate) struct EdgeAuthorizer {
    pub(crate) router: Arc<Router>,
    pub(crate) entrance: Entrance,
}

impl EdgeAuthorizer {
    /// The app that a request is for.
    fn app(&self, now: &Snapshot, head: &RequestHead<'_>) -> Option<Arc<str>> {
        let host: &str = &head.host;
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if let Some(app) = address.parse().ok().and_then(|ip| now.addresses.get(&ip)) {
            return Some(Arc::clone(app));
        }
        if let Some(app) = now.hostnames.get(host) {
            return Some(Arc::clone(app));
        }
        now.apps
            .get_key_value(app_of(host)?)
            .map(|(name, _)| Arc::clone(name))
    }

    /// Where https is served: at the same listener, which tells TLS from clear text.
    fn secured(head: &RequestHead<'_>) -> Option<http::Response<Bytes>> {
        let authority = match head.port {
            Some(80) | None => head.host.to_string(),
            Some(port) => format!("{}:{port}", head.host),
        };
        let query = head.query.map_or(String::new(), |query| format!("?{query}"));
        let location = format!("https://{authority}{}{query}", head.path);
        let mut answer = http::Response::new(Bytes::new());
        *answer.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
        let location = HeaderValue::from_str(&location).ok()?;
        answer.headers_mut().insert(LOCATION, location);
        Some(answer)
    }

    /// Where it goes first, and what it is told of the cache: replays that are remembered are followed at once.
    fn goal(&self, now: &Snapshot, head: &RequestHead<'_>, asked: &Asked) -> (Goal, Story) {
        let mut story = Story::default();
        let own = Goal {
            app: Arc::clone(&asked.app),
            wanted: asked.wanted.clone(),
            until: Instant::now() + self.router.hold,
            back: None,
        };
        let skip = head
            .header("fly-replay-cache-control")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"skip"));
        let value = |is_cookie: bool, name: &str| match is_cookie {
            true => cookie(head, name),
            false => head
                .header(name)
                .map(|value| String::from_utf8_lossy(value).into_owned()),
        };
        let found = self
            .router
            .cache
            .look(&asked.host, asked.path(), skip, value, asked.began);
        match found {
            Lookup::Nothing => (own, story),
            Lookup::Bypassed => {
                story.cache = Some("bypass");
                (own, story)
            }
            Lookup::Hit(replay) => match self.router.cached(now, asked, &replay) {
                Some(goal) => {
                    story.cache = Some("hit");
                    (goal, story)
                }
                None => (own, story),
            },
        }
    }
}

impl Authorizer for EdgeAuthorizer {
    type Permit = Passage;

    const EDGE: bool = true;

    fn admit(&self, head: &RequestHead<'_>, out: &mut Forwarding) -> Admission<Passage> {
        let router = &self.router;
        if !self.entrance.tls
            && let Some(answer) = router.challenges.answer(&head.path)
        {
            return Admission::Answer(Box::new(http::Response::new(answer.into())));
        }
        let now = router.fleet.now();
        let Some(name) = self.app(&now, head) else {
            return Admission::Refuse(problems::unknown_app(&head.host));
        };
        let port = now.apps.get(&name).and_then(|app| app.port(self.entrance.port));
        let Some(port) = port.filter(|port| port.http) else {
            return Admission::Refuse(problems::no_service(self.entrance.port));
        };
        if port.force_https && !self.entrance.tls {
            return match Self::secured(head) {
                Some(answer) => Admission::Answer(Box::new(answer)),
                None => Admission::Refuse(problems::no_service(self.entrance.port)),
            };
        }
        let mut asked = Asked::new(head, name, &self.entrance, router.ids.ulid());
        for rule in &port.replay_cache {
            let value = match rule.cookie {
                true => cookie(head, &rule.name),
                false => head
                    .header(&rule.name)
                    .map(|value| String::from_utf8_lossy(value).into_owned()),
            };
            if let Some(value) = value {
                asked.keyed.push((rule.cookie, rule.name.clone(), value));
            }
        }
        #[cfg(feature = "traces")]
        if let Some(tracer) = &router.tracer {
            let span = tracer.begin(
                format!("{} {}", head.method, asked.app),
                head.header(crate::traces::FIELD),
            );
            let span = span
                .with("http.request.method", head.method)
                .with("url.path", &*head.path)
                .with("server.address", &*head.host)
                .with("fly.app", &*asked.app);
            asked.span = Some(span.with("fly.request_id", asked.id.as_str()));
        }
        if now.hooked || !router.hooks.is_empty() {
            asked.question = Question::of(head);
        }
        let asked = Rc::new(asked);
        let (goal, story) = self.goal(&now, head, &asked);
        if !router.asks(&now, &goal.app, asked.port)
            && let Some(passage) = router.at_once(&now, &asked, &goal, &story)
        {
            passage.write(&router.proved(&passage), out);
            return Admission::Forward(passage);
        }
        Admission::Later(Later::new(Arc::clone(router).verdict(asked, goal, story)))
    }

    fn connect(&self, _peer: suijuris_gate::Peer<'_>) -> Admission<Passage> {
        Admission::Refuse(problems::no_service(self.entrance.port))
    }

    fn route<'p>(&self, permit: &'p Passage) -> Option<&'p dyn Route> {
        Some(permit)
    }

    fn answered(&self, permit: &Passage, head: &AnswerHead<'_>, out: &mut Forwarding) -> Answered {
        if let Some(max_body) = permit.replays(head) {
            return Answered::Take { max_body };
        }
        let invalidates = || {
            let value = head.header("fly-replay-cache");
            value.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"invalidate"))
        };
        if permit.story.cache.is_some() && invalidates() {
            self.router.cache.forget(&permit.asked.host, permit.asked.path());
        }
        #[cfg(feature = "traces")]
        if let Some(span) = &permit.asked.span {
            span.answered(head.status);
        }
        permit
            .in_flight
            .metrics()
            .answered(&permit.goal.app, head.status, permit.asked.began);
        permit.answer(out);
        Answered::Relay
    }

    fn elsewhere(&self, permit: Passage, why: Why<'_>, repeatable: bool) -> Option<Later<Passage>> {
        let router = Arc::clone(&self.router);
        match why {
            Why::Taken(body) => Some(Later::new(router.follow(permit, body, repeatable))),
            // Nothing of it was sent.
            Why::Unreachable(_) if repeatable => Some(Later::new(router.after_failure(permit, false))),
            Why::Silent if Router::repeats(&permit, repeatable) => {
                Some(Later::new(router.after_failure(permit, true)))
            }
            Why::Unreachable(_) | Why::Silent => None,
        }
    }
}
