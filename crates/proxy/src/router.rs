//! Where a request goes: now where a machine serves it, and later where one has to be started, has to be waited for, or somebody
//! has to be asked first. Replays and second attempts come through here too.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use suijuris_gate::{Refusal, Verdict};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::acme::Challenges;
use crate::asked::Asked;
use crate::choice::{Choice, Seen, choose};
use crate::fleet::{App, Fleet, Machine, Service, Snapshot, State};
use crate::hook::{self, Hook};
use crate::ids::Ids;
use crate::metrics::Metrics;
use crate::passage::{Back, Goal, Left, Passage, Proved, Story, wanted};
use crate::problems::{self, refusal};
use crate::relay::Relay;
use crate::replay::cache::{By, LEAST_S, ReplayCache, prefix_of};
use crate::replay::state::{Key, LASTS_S};
use crate::replay::{self, Fallback, MAX_REPLAYS, Replay};
use crate::starts::Starts;

/// Between two looks at machines that are full or on their way.
const LOOK: Duration = Duration::from_millis(10);
/// The shortest pause before a machine is tried again that takes no connections,
const FIRST_PAUSE: Duration = Duration::from_micros(500);
/// the longest,
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// and between them this part of the time that it has taken none so far: whoever waits for it waits that much too long at most.
const PAUSE_PART: u32 = 8;
/// The pause after a machine ended the connection without an answer; it doubles.
const SILENT_PAUSE: Duration = Duration::from_millis(10);
/// Attempts at machines that end the connection without an answer.
const SILENT_ATTEMPTS: u32 = 3;

/// Hooks that the machines of an app may name for one port.
const MAX_HOOKS: usize = 4;

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) hold: Duration,
    pub(crate) unreachable: Duration,
    pub(crate) hooks: HashMap<Arc<str>, Hook>,
    pub(crate) cache: ReplayCache,
    pub(crate) key: Key,
    #[cfg(feature = "traces")]
    pub(crate) tracer: Option<crate::traces::Tracer>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) starts: Arc<Starts>,
    pub(crate) relay: Option<Relay>,
}

/// Why a request goes nowhere.
#[derive(Debug)]
pub(crate) struct Failed {
    refusal: Box<Refusal>,
    /// As `fly-replay-failed` says it.
    reason: &'static str,
}

impl Failed {
    fn new(reason: &'static str, refusal: Box<Refusal>) -> Self {
        Self { refusal, reason }
    }
}

/// A machine with the service that is asked for.
type Found<'a> = (&'a Arc<Machine>, &'a Arc<Service>, usize);

fn look(app: &App, port: u16) -> (Vec<Found<'_>>, Vec<Seen>) {
    let found: Vec<Found<'_>> = app
        .machines
        .iter()
        .filter_map(|machine| machine.service(port).map(|(service, at)| (machine, service, at)))
        .collect();
    let seen = |(machine, service, _): &Found<'_>| Seen {
        id: Arc::clone(&machine.id),
        region: Arc::clone(&machine.region),
        state: machine.state,
        cordoned: machine.cordoned,
        healthy: service.healthy,
        autostart: service.autostart,
        load: service.load.now(),
        soft: service.soft,
        hard: service.hard,
        leaving: service.load.is_leaving(),
    };
    let all = found.iter().map(seen).collect();
    (found, all)
}

/// The hooks that machines of an app name for a port, each once.
fn hooks_inside<'a>(now: &'a Snapshot, app: &str, port: u16) -> Vec<&'a str> {
    let machines = now.apps.get(app).map(|app| app.machines.as_slice());
    let services = machines
        .unwrap_or_default()
        .iter()
        .filter_map(|machine| machine.service(port));
    let mut hooks: Vec<&str> = services
        .filter_map(|(service, _)| service.hook.as_deref())
        .collect();
    hooks.sort_unstable();
    hooks.dedup();
    hooks
}

impl Router {
    /// A machine that serves now, if one does without anything being started.
    pub(crate) fn at_once(
        &self,
        now: &Snapshot,
        asked: &Rc<Asked>,
        goal: &Goal,
        story: &Story,
    ) -> Option<Passage> {
        let app = now.apps.get(&goal.app)?;
        if let [machine] = app.machines.as_slice()
            && let Some((service, port)) = machine.service(asked.port)
            && goal.wanted.is_free()
            && machine.state == State::Started
            && !machine.cordoned
            && service.healthy
            && service.load.now() < service.soft
        {
            // What would be chosen below, without looking at a list of one.
            return self.enter(&(machine, service, port), asked, goal, story);
        }
        let (found, seen) = look(app, asked.port);
        match choose(&seen, &goal.wanted, self.ids.number()) {
            Choice::Go(at) => self.enter(found.get(at)?, asked, goal, story),
            _ => None,
        }
    }

    /// A place at a machine; none where it was filled meanwhile.
    fn enter(
        &self,
        (machine, service, port): &Found<'_>,
        asked: &Rc<Asked>,
        goal: &Goal,
        story: &Story,
    ) -> Option<Passage> {
        let taken = service.load.take(service.hard)?;
        Some(Passage {
            asked: Rc::clone(asked),
            machine: Arc::clone(machine),
            service: Arc::clone(service),
            port: *port,
            goal: goal.clone(),
            story: story.clone(),
            said: std::cell::RefCell::default(),
            fleet: Arc::clone(&self.fleet),
            _taken: taken,
            in_flight: self.metrics.begin(),
        })
    }

    /// The operator's hook for a port of an app.
    fn hook_of(&self, app: &Arc<str>, port: u16) -> Option<&Hook> {
        if self.hooks.is_empty() {
            return None;
        }
        let of_port: Arc<str> = format!("{app}:{port}").into();
        self.hooks.get(&of_port).or_else(|| self.hooks.get(app))
    }

    /// Whether somebody is asked before a request passes to an app's port.
    pub(crate) fn asks(&self, now: &Snapshot, app: &Arc<str>, port: u16) -> bool {
        self.hook_of(app, port).is_some() || (now.hooked && !hooks_inside(now, app, port).is_empty())
    }

    /// Whether all who are to be asked let the request pass: the operator's hook, and those that machines name for the service.
    async fn permitted(&self, asked: &Asked, app: &Arc<str>) -> Result<(), Box<Refusal>> {
        let all = async {
            if let Some(hook) = self.hook_of(app, asked.port) {
                hook.ask(asked, TcpStream::connect(hook.authority())).await?;
            }
            let now = self.fleet.now();
            if now.hooked {
                let inside = hooks_inside(&now, app, asked.port);
                if inside.len() > MAX_HOOKS {
                    return Err(hook::failed(format!(
                        "its machines name more than {MAX_HOOKS} who decide on it"
                    )));
                }
                for text in inside {
                    self.ask_inside(&now, asked, app, text).await?;
                }
            }
            Ok(())
        };
        // However many are asked: a second in all.
        timeout(hook::WITHIN, all)
            .await
            .unwrap_or_else(|_| Err(hook::late()))
    }

    /// Asks a machine of another app of the same org and network.
    async fn ask_inside(
        &self,
        now: &Snapshot,
        asked: &Asked,
        app: &Arc<str>,
        text: &str,
    ) -> Result<(), Box<Refusal>> {
        let hook = text.parse::<Hook>().ok();
        let place = hook.as_ref().and_then(|hook| Some((hook, hook.inside()?)));
        let Some((hook, (name, port))) = place else {
            let form = "what its machine names to decide on it is no http://APP.internal:PORT/PATH";
            return Err(hook::failed(form.to_owned()));
        };
        let own = now.apps.get(app);
        let same =
            |other: &&Arc<App>| own.is_some_and(|own| own.org == other.org && own.network == other.network);
        let machines = now.apps.get(name).filter(same).map(|app| app.machines.as_slice());
        let started = |machine: &&Arc<Machine>| machine.state == State::Started;
        let Some(machine) = machines.unwrap_or_default().iter().find(started) else {
            let text = format!(
                "what decides on this request, the app {name} of the same org, has no started machine"
            );
            return Err(hook::failed(text));
        };
        hook.ask(asked, self.fleet.connect(&machine.id, port)).await
    }

    /// A machine that serves, started where that is needed, once the app's hook permits it.
    pub(crate) async fn resolve(
        &self,
        asked: &Rc<Asked>,
        goal: &Goal,
        story: &Story,
    ) -> Result<Passage, Failed> {
        let permitted = self.permitted(asked, &goal.app).await;
        permitted.map_err(|refusal| Failed::new("no_candidate", refusal))?;
        self.admitted(asked, goal, story.clone()).await
    }

    /// The same for a request that the hook has permitted.
    async fn admitted(&self, asked: &Rc<Asked>, goal: &Goal, mut story: Story) -> Result<Passage, Failed> {
        let mut goal = goal.clone();
        let mut last = None;
        loop {
            let now = self.fleet.now();
            let Some(app) = now.apps.get(&goal.app) else {
                return Err(Failed::new("no_candidate", problems::unknown_app(&goal.app)));
            };
            let (found, seen) = look(app, asked.port);
            if found.is_empty() {
                return Err(Failed::new("no_candidate", problems::no_service(asked.port)));
            }
            let late = Instant::now() >= goal.until;
            match choose(&seen, &goal.wanted, self.ids.number()) {
                Choice::Go(at) => {
                    let place = found
                        .get(at)
                        .and_then(|found| self.enter(found, asked, &goal, &story));
                    match place {
                        Some(passage) => return Ok(passage),
                        None => sleep(LOOK).await,
                    }
                }
                Choice::Start { .. } if late => {
                    return Err(Failed::new("timeout", problems::start_timeout()));
                }
                Choice::Start { machine, .. } => {
                    let Some((machine, ..)) = found.get(machine) else {
                        continue;
                    };
                    if let Err(failed) = self.start(&goal, machine).await {
                        goal.wanted.except.push(Arc::clone(&machine.id));
                        last = Some(failed);
                    }
                    story.started = true;
                }
                Choice::Queue if late => return Err(Failed::new("timeout", problems::full())),
                Choice::Queue => sleep(LOOK).await,
                Choice::Nobody => {
                    // One that is about to rest can be started in a moment.
                    let moving =
                        |seen: &Seen| seen.state == State::Moving && !seen.cordoned && seen.autostart;
                    if late || !seen.iter().any(moving) || last.is_some() {
                        let none = || Failed::new("no_candidate", problems::no_candidate());
                        return Err(last.unwrap_or_else(none));
                    }
                    sleep(LOOK).await;
                }
            }
        }
    }

    async fn start(&self, goal: &Goal, machine: &Machine) -> Result<(), Failed> {
        let starting = self.starts.start(&goal.app, &machine.id);
        match timeout_at(goal.until, starting).await {
            Err(_late) => Err(Failed::new("timeout", problems::start_timeout())),
            Ok(Err(why)) => Err(Failed::new("retries_exhausted", problems::start_failed(&why.0))),
            Ok(Ok(())) => {
                // What is seen may lag behind by a moment.
                let seen = self.fleet.now();
                let started = |found: &&Arc<Machine>| found.id == machine.id && found.state == State::Started;
                let machines = seen.apps.get(&goal.app).map(|app| &app.machines);
                if !machines.into_iter().flatten().any(|found| started(&found)) {
                    sleep(LOOK).await;
                }
                Ok(())
            }
        }
    }

    /// The verdict on a request: where it goes, with the fields for it.
    pub(crate) async fn verdict(
        self: Arc<Self>,
        asked: Rc<Asked>,
        goal: Goal,
        story: Story,
    ) -> Verdict<Passage> {
        let resolved = self.resolve(&asked, &goal, &story).await;
        match resolved {
            Ok(passage) => Ok(self.with_fields(passage)),
            Err(failed) => self.back(asked, goal, story, failed).await,
        }
    }

    fn with_fields(&self, passage: Passage) -> (Passage, suijuris_gate::Forwarding) {
        let forwarding = passage.forwarding(&self.proved(&passage));
        (passage, forwarding)
    }

    /// What the proxy says to the machine of this passage.
    pub(crate) fn proved(&self, passage: &Passage) -> Proved {
        Proved {
            state: self.signature(passage),
            tls: self.client_tls(passage),
        }
    }

    /// Says what TLS of the client came to, where it ended here and the machine wants to know.
    fn client_tls(&self, passage: &Passage) -> Option<String> {
        let session = passage.asked.session.as_ref()?;
        let machine = passage.service.tells_tls.then_some(&*passage.machine.id)?;
        let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(session).ok()?);
        let expires_s = self.ids.now().as_secs() + LASTS_S;
        let signed = self.key.of_machine(machine).sign(machine, expires_s, &text);
        Some(format!("session={text};expires={expires_s};hmac-sha256={signed}"))
    }

    /// Says that the proxy carried the state of a replay to this machine.
    fn signature(&self, passage: &Passage) -> Option<String> {
        let (_, state) = passage.story.source.as_ref()?;
        let state = state.as_deref().unwrap_or_default();
        let expires_s = self.ids.now().as_secs() + LASTS_S;
        let key = self.key.of_app(&passage.goal.app);
        let signed = key.sign(&passage.machine.id, expires_s, state);
        Some(format!("expires={expires_s};hmac-sha256={signed}"))
    }

    /// Back to the machine that replayed, where it wants that; else the refusal.
    async fn back(&self, asked: Rc<Asked>, goal: Goal, story: Story, failed: Failed) -> Verdict<Passage> {
        let Some(back) = goal.back else {
            return Err(failed.refusal);
        };
        let again = Goal {
            until: Instant::now() + self.hold,
            wanted: back.wanted(&asked.edge),
            app: Arc::clone(&back.app),
            back: None,
        };
        let elapsed_ms = back.began.elapsed().as_millis();
        let instance = goal.wanted.only.as_deref().unwrap_or_default();
        let (app, region, source) = (&goal.app, goal.wanted.regions.join(","), &back.machine);
        let reason = failed.reason;
        let story = Story {
            is_last: true,
            failed: Some(format!(
                "instance={instance};app={app};region={region};replay_source={source};reason={reason};elapsed_ms={elapsed_ms}"
            )),
            replays: story.replays,
            ..Story::default()
        };
        let passage = self.admitted(&asked, &again, story).await;
        passage
            .map(|passage| self.with_fields(passage))
            .map_err(|failed| failed.refusal)
    }

    /// Where a request goes whose machine took no connection, or took it and said nothing.
    pub(crate) async fn after_failure(self: Arc<Self>, passage: Passage, silent: bool) -> Verdict<Passage> {
        let Left {
            asked,
            machine,
            goal,
            mut story,
        } = passage.leave();
        story.attempts += 1;
        story.silent += u32::from(silent);
        let since = *story.failing.get_or_insert_with(Instant::now);
        let other = Goal {
            wanted: {
                let mut wanted = goal.wanted.clone();
                wanted.except.push(machine.id.clone());
                wanted
            },
            ..goal.clone()
        };
        if let Some(mut passage) = self.at_once(&self.fleet.now(), &asked, &other, &story) {
            // The next attempt may try the one that failed again.
            passage.goal = goal;
            return Ok(self.with_fields(passage));
        }
        let limit = if story.started {
            goal.until
        } else {
            goal.until.min(since + self.unreachable)
        };
        if Instant::now() >= limit {
            let failed = Failed::new("retries_exhausted", problems::unreachable(story.attempts));
            return self.back(asked, goal, story, failed).await;
        }
        let pause = if silent {
            SILENT_PAUSE.saturating_mul(1 << story.silent.saturating_sub(1).min(4))
        } else {
            (since.elapsed() / PAUSE_PART).clamp(FIRST_PAUSE, LONGEST_PAUSE)
        };
        sleep_until(limit.min(Instant::now() + pause)).await;
        match self.admitted(&asked, &goal, story.clone()).await {
            Ok(passage) => Ok(self.with_fields(passage)),
            Err(failed) => self.back(asked, goal, story, failed).await,
        }
    }

    /// Whether a request goes to another machine, or again to the same, that ended the connection without an answer.
    pub(crate) fn repeats(passage: &Passage, repeatable: bool) -> bool {
        repeatable && passage.asked.idempotent && passage.story.silent < SILENT_ATTEMPTS
    }

    /// Follows a replay.
    pub(crate) async fn follow(
        self: Arc<Self>,
        passage: Passage,
        body: Vec<u8>,
        repeatable: bool,
    ) -> Verdict<Passage> {
        let said = passage.said.take().unwrap_or_default();
        let read = match &said.header {
            Some(text) => replay::header(text),
            None => replay::json(&body),
        };
        let replay = read.map_err(|why| refusal(502, "replay_invalid", format!("PA03: {why}")))?;
        if passage.story.is_last || passage.story.replays >= MAX_REPLAYS {
            let detail =
                format!("PA02: a request is replayed {MAX_REPLAYS} times at most, and not after a fallback");
            return Err(refusal(502, "replay_loop", detail));
        }
        if !repeatable {
            let detail = "PA01: requests of more than 1 MiB cannot be replayed: answer before the body has arrived, or send less";
            return Err(refusal(502, "replay_body", detail));
        }
        let goal = self.replayed(&passage, &replay)?;
        let remembered = self.remember(&passage, &said, &replay);
        self.metrics.replayed(&passage.goal.app);
        let Left {
            asked,
            machine,
            story,
            ..
        } = passage.leave();
        let now_us = self.ids.now().as_micros();
        let source = format!("instance={};region={};t={now_us}", machine.id, machine.region);
        let story = Story {
            replays: story.replays + 1,
            source: Some((source, replay.state)),
            transform: replay.transform,
            cache: remembered
                .then_some("miss")
                .or(story.cache.filter(|status| *status == "bypass")),
            ..Story::default()
        };
        self.verdict(asked, goal, story).await
    }

    /// What a replay asks for, where it may.
    fn replayed(&self, passage: &Passage, replay: &Replay) -> Result<Goal, Box<Refusal>> {
        let now = self.fleet.now();
        let responder = now.apps.get(&passage.goal.app);
        let name: Arc<str> = match &replay.app {
            Some(name) => name.as_str().into(),
            None => Arc::clone(&passage.goal.app),
        };
        let target = now.apps.get(&name).ok_or_else(|| {
            let shown = name.escape_debug();
            refusal(502, "replay_refused", format!("PA04: there is no app `{shown}`"))
        })?;
        let same = responder.is_some_and(|from| from.org == target.org && from.network == target.network);
        if !same {
            let detail = "PA05: replays go to apps of the same org and network";
            return Err(refusal(502, "replay_refused", detail));
        }
        let began = Instant::now();
        let patience = replay.timeout.map_or(self.hold, |timeout| timeout.min(self.hold));
        Ok(Goal {
            app: name,
            wanted: wanted(replay, &passage.asked.edge, &passage.machine.id),
            until: began + patience,
            back: replay.fallback.map(|fallback| Back {
                fallback,
                app: Arc::clone(&passage.goal.app),
                machine: Arc::clone(&passage.machine.id),
                began,
            }),
        })
    }

    /// Remembers a replay where its app or the service's config wants that; whether it did.
    fn remember(&self, passage: &Passage, said: &crate::passage::Said, replay: &Replay) -> bool {
        let asked = &passage.asked;
        if !replay.is_cacheable() || passage.story.cache == Some("hit") {
            return false;
        }
        let json = replay.cache.as_ref();
        let pattern = json.map(|cache| cache.prefix.as_str()).or(said.cache.as_deref());
        let ttl_s = json.map_or(said.ttl_s, |cache| cache.ttl_s);
        let allow_bypass = json.map_or(said.allow_bypass, |cache| cache.allow_bypass);
        let now = std::time::Instant::now();
        if json.is_some_and(|cache| cache.invalidate) {
            self.cache.forget(&asked.host, asked.path());
            return false;
        }
        if let Some(prefix) = pattern.and_then(|pattern| prefix_of(pattern, &asked.host))
            && ttl_s >= LEAST_S
        {
            let by = (prefix, By::Path);
            self.cache
                .remember(&asked.host, by, replay, ttl_s, allow_bypass, now);
            return true;
        }
        let rules = passage.served().map_or(&[][..], |port| &port.replay_cache);
        let fits = rules
            .iter()
            .filter(|rule| asked.path().starts_with(&rule.path_prefix));
        let Some(rule) = fits.max_by_key(|rule| rule.path_prefix.len()) else {
            return false;
        };
        let Some(value) = asked
            .keyed
            .iter()
            .find(|(cookie, name, _)| *cookie == rule.cookie && *name == rule.name)
        else {
            return false;
        };
        let (name, value) = (rule.name.clone(), value.2.clone());
        let by = if rule.cookie {
            By::Cookie(name, value)
        } else {
            By::Header(name, value)
        };
        let key = (rule.path_prefix.as_str(), by);
        self.cache
            .remember(&asked.host, key, replay, rule.ttl_s, rule.allow_bypass, now);
        true
    }

    /// What of a cached replay a goal is; none where its app is gone.
    pub(crate) fn cached(&self, now: &Snapshot, asked: &Asked, replay: &Replay) -> Option<Goal> {
        let app: Arc<str> = match &replay.app {
            Some(name) => name.as_str().into(),
            None => Arc::clone(&asked.app),
        };
        let (from, to) = (now.apps.get(&asked.app)?, now.apps.get(&app)?);
        let nobody: Arc<str> = "".into();
        (from.org == to.org && from.network == to.network).then(|| Goal {
            app,
            wanted: wanted(replay, &asked.edge, &nobody),
            until: Instant::now() + self.hold,
            back: None,
        })
    }
}

impl Back {
    fn wanted(&self, edge: &Arc<str>) -> crate::choice::Wanted {
        let mut wanted = crate::choice::Wanted {
            edge: Arc::clone(edge),
            ..crate::choice::Wanted::default()
        };
        match self.fallback {
            Fallback::ForceSelf => wanted.only = Some(Arc::clone(&self.machine)),
            Fallback::PreferSelf => wanted.prefer = Some(Arc::clone(&self.machine)),
        }
        wanted
    }
}
