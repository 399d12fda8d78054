//! Other objects: where a request goes that is for one of them, and whether a request that was sent here is for this one.
//!
//! Only on a platform whose proxy replays (`FLY_APP_NAME` is set). Where another object lives is known from the bundle
//! (`[elsewhere]`), else from the table of places in the depot, in which each object of the same owners writes its own; what is
//! read there is believed for [`FRESH`]. A replay's `state` says whom the request is for, signed with the key of the owner's
//! apps (`core::replay`). Here it is believed once: a request that was replayed is served or refused, never sent on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::http;
use suijuris_api::Problem;
use suijuris_core::class::founding::{Entry, Stage};
use suijuris_core::class::{ClassId, Identity, Key};
use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::Head;
use suijuris_core::manifest::Place;
use suijuris_core::replay::{MAX_LIFETIME, Replayed};
use suijuris_custody::claim::fresh_id;
use suijuris_depot::{Depot, Error, NameSwap};
use suijuris_gate::{Control, RequestHead};
use suijuris_store::{Depth, Reader};
use zeroize::Zeroizing;

use super::{Resident, platform};

/// Variable with the key of replays: 32 bytes in base64url.
const KEY: &str = "SUIJURIS_REPLAY_KEY";

/// How long what the depot said of a place is believed.
const FRESH: Duration = Duration::from_secs(5);
/// Objects whose places are remembered at most.
const MAX_KNOWN: usize = 4_096;
/// Questions to the depot at one time.
const MAX_ASKED: usize = 16;
/// Name of the table of places, beside the classes of the same owners.
const TABLE: &str = "places";
/// Tries of writing one's own place against others who write.
const TRIES: u32 = 3;

/// Another object sent the request, or its proxy remembered where it went, and nothing proves whom it is for.
const CODE_UNPROVEN: &str = "replay_unproven";
/// The request is for a later history than this copy has.
const CODE_STALE: &str = "replay_stale";

/// Whom a request is for.
#[derive(Debug)]
pub(crate) enum Scope {
    /// This object.
    Ours,
    /// Another one: this answer sends it there.
    Elsewhere(Box<http::Response<Bytes>>),
    /// Where that is, is being asked.
    Looking,
    /// It is served by nobody here.
    Refused(Box<Problem>),
}

/// What is known of other objects.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// This machine, as others reach it.
    here: String,
    key: Option<SecretKey>,
    found: RefCell<HashMap<ObjectId, Found>>,
    /// The newest answer to whether a record is of this history.
    contains: Cell<Option<(u64, RecordId, bool)>>,
    control: Control,
}

#[derive(Debug, Clone)]
enum Found {
    Asked,
    Known(Instant, Result<Option<Place>, ()>, Option<(u64, RecordId)>),
}

impl Elsewhere {
    /// None where nobody replays. A key that cannot be read is as none, and said.
    pub(crate) fn of(
        environment: impl Fn(&str) -> Option<String>,
        control: Control,
        unusable: impl FnOnce(&str),
    ) -> Option<Self> {
        let app = environment(platform::APP).filter(|app| !app.is_empty())?;
        let place = [("instance", platform::MACHINE), ("region", "FLY_REGION")];
        let place = place.map(|(key, name)| environment(name).map(|text| format!(";{key}={text}")));
        let text = environment(KEY).map(Zeroizing::new);
        let key = text.as_ref().and_then(|text| {
            let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim()).ok()?);
            Some(SecretKey::from_seed(bytes.as_slice().try_into().ok()?))
        });
        if text.is_some() && key.is_none() {
            unusable(
                "SUIJURIS_REPLAY_KEY is not 32 bytes in base64url: deploy again; until then no replay is served",
            );
        }
        Some(Self {
            here: format!("app={app}{}", place.into_iter().flatten().collect::<String>()),
            key,
            found: RefCell::default(),
            contains: Cell::default(),
            control,
        })
    }
}

/// The table of the places of an owner's objects.
fn table(head: &Head) -> Option<ClassId> {
    let owners = Identity {
        controllers: head.controllers.clone(),
        threshold: head.threshold,
        name: TABLE.to_owned(),
        nonce: [0; 16],
    };
    owners.id().ok()
}

fn key_of(object: ObjectId) -> Option<Key> {
    object.to_string().parse().ok()
}

/// What an entry of the table says.
fn place(entry: &Entry, object: ObjectId) -> Option<Place> {
    let value = |key: &str| {
        let mut pairs = entry.who.split(';').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(name, _)| *name == key).map(|(_, value)| value)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        found.bytes().all(plain).then(|| found.to_owned())
    };
    (entry.object == object && entry.state == Stage::Founded).then(|| Place {
        object,
        app: value("app"),
        region: None,
        instance: value("instance"),
        json: false,
    })
}

/// The place and the newest record of `object`.
async fn ask(
    depot: &dyn Depot,
    table: ClassId,
    object: ObjectId,
) -> Result<Option<(Place, (u64, RecordId))>, Error> {
    let Some(key) = key_of(object) else {
        return Ok(None);
    };
    let Some((entry, _)) = depot.name(table, &key).await? else {
        return Ok(None);
    };
    let Some((mark, _)) = depot.mark(object).await? else {
        return Ok(None);
    };
    Ok(place(&entry, object).map(|place| (place, (mark.seq, mark.head))))
}

/// An answer that sends the request there.
fn sent_to(place: &Place, state: &str) -> http::Response<Bytes> {
    let pairs = [
        ("app", place.app.as_deref()),
        ("region", place.region.as_deref()),
        ("instance", place.instance.as_deref()),
        ("state", Some(state)),
    ];
    let pairs = pairs.into_iter().filter_map(|(key, value)| Some((key, value?)));
    // Where no proxy hears it, it is the answer to a request that went to the wrong place.
    let answer = http::Response::builder().status(421);
    let answer = if place.json {
        let document: serde_json::Map<_, _> =
            pairs.map(|(key, value)| (key.to_owned(), value.into())).collect();
        answer
            .header("content-type", "application/vnd.fly.replay+json")
            .body(serde_json::Value::from(document).to_string().into())
    } else {
        let pair = |(key, value): (&str, &str)| match value.contains(',') {
            true => format!("{key}=\"{value}\""),
            false => format!("{key}={value}"),
        };
        answer
            .header("fly-replay", pairs.map(pair).collect::<Vec<_>>().join(";"))
            .body(Bytes::new())
    };
    answer.unwrap_or_default()
}

fn unproven(why: &str) -> Problem {
    let title = "Nothing proves whom the replayed request is for";
    Problem::new(421, CODE_UNPROVEN, title).with_detail(why)
}

impl Resident {
    /// Whom a request is for. What was replayed here is ours or refused.
    pub(crate) fn scope(self: &Rc<Self>, head: &RequestHead<'_>) -> Scope {
        let Some(others) = &self.elsewhere else {
            return Scope::Ours;
        };
        let text = |name: &str| head.header(name).and_then(|value| str::from_utf8(value).ok());
        let label = || head.host.split('.').next()?.parse().ok();
        let named: Option<ObjectId> = head.object.map_or_else(label, |object| object.parse().ok());
        let own = self.lineage.published(|state| state.head().object);
        if let Some(source) = text("fly-replay-src") {
            let proven = self.proven(others, own, source);
            return proven.map_or_else(|problem| Scope::Refused(Box::new(problem)), |()| Scope::Ours);
        }
        // A proxy that remembers where a request went proves nothing; the request may say itself whom it is for.
        if text("fly-replay-cache-status") == Some("hit") && named != Some(own) {
            let why = "the proxy remembered where such a request went: name the object in X-Suijuris-Object, or wait until it forgets";
            return Scope::Refused(Box::new(unproven(why)));
        }
        match self.bundle.manifest.elsewhere.get(&*head.host) {
            Some(place) if place.object != own => self.send(others, place, None),
            Some(_) => Scope::Ours,
            None => match named {
                Some(object) if object != own => self.look_up(object),
                _ => Scope::Ours,
            },
        }
    }

    fn send(&self, others: &Elsewhere, place: &Place, head: Option<(u64, RecordId)>) -> Scope {
        let Some(key) = &others.key else {
            let title = "The request is for another object, and this machine cannot send it there";
            let problem = Problem::new(421, "wrong_object", title);
            return Scope::Refused(Box::new(problem.with_detail("its owner deploys it again")));
        };
        let replayed = Replayed {
            target: place.object,
            head,
            expires: self.now().at.saturating_add(MAX_LIFETIME),
        };
        Scope::Elsewhere(Box::new(sent_to(place, &replayed.sign(key))))
    }

    /// Where the depot says that `object` lives.
    fn look_up(self: &Rc<Self>, object: ObjectId) -> Scope {
        let Some(others) = &self.elsewhere else {
            return Scope::Ours;
        };
        let mut found = others.found.borrow_mut();
        match found.get(&object) {
            Some(Found::Asked) => return Scope::Looking,
            Some(Found::Known(since, known, head)) if since.elapsed() < FRESH => {
                return match known {
                    Ok(Some(place)) => self.send(others, place, *head),
                    // Who lives here is not said.
                    Ok(None) => Scope::Ours,
                    Err(()) => Scope::Refused(Box::new(unreachable())),
                };
            }
            _ => {}
        }
        let table = self.lineage.published(|state| table(state.head()));
        let (Some(depot), Some(table)) = (self.claim.depot(), table) else {
            return Scope::Ours;
        };
        let asked = found
            .values()
            .filter(|found| matches!(found, Found::Asked))
            .count();
        if asked >= MAX_ASKED {
            return Scope::Refused(Box::new(unreachable()));
        }
        if found.len() >= MAX_KNOWN {
            found.retain(|_, found| matches!(found, Found::Asked));
        }
        found.insert(object, Found::Asked);
        let resident = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answer = ask(&*depot, table, object).await;
            let Some(others) = &resident.elsewhere else { return };
            let (place, head) = match answer {
                Ok(found) => {
                    let (place, head) = found.unzip();
                    (Ok(place), head)
                }
                Err(_unreachable) => (Err(()), None),
            };
            let known = Found::Known(Instant::now(), place, head);
            others.found.borrow_mut().insert(object, known);
            others.control.ask_again();
        });
        Scope::Looking
    }

    /// Whether the state of a replay from `source` says that the request is for this object.
    fn proven(&self, others: &Elsewhere, own: ObjectId, source: &str) -> Result<(), Problem> {
        let state = source
            .split(';')
            .find_map(|pair| pair.trim().strip_prefix("state="));
        let state = state
            .ok_or_else(|| unproven("another machine sent it and did not say which object it is for"))?;
        let key = others
            .key
            .as_ref()
            .ok_or_else(|| unproven("this machine has no key to verify it by: its owner deploys it again"))?;
        let replayed = Replayed::read(state, &key.public(), self.now().at)
            .map_err(|error| unproven(&error.to_string()))?;
        if replayed.target != own {
            let problem = Problem::new(421, "wrong_object", "Another object lives here");
            return Err(problem.with_detail("the machine that sent the request is behind: send it again"));
        }
        match replayed.head {
            Some((seq, record)) if !self.has_record(others, seq, record) => {
                let title = "The request is for a later history than this copy of the object has";
                Err(Problem::new(421, CODE_STALE, title))
            }
            _ => Ok(()),
        }
    }

    /// Whether `record` stands at `seq` of this history. One that is not the last is read from disk, once.
    fn has_record(&self, others: &Elsewhere, seq: u64, record: RecordId) -> bool {
        let (last, head) = self
            .lineage
            .published(|state| (state.head().seq, state.head().record));
        if seq >= last {
            return seq == last && record == head;
        }
        if let Some((at, known, has)) = others.contains.get()
            && (at, known) == (seq, record)
        {
            return has;
        }
        let read = || {
            let reader = Reader::open(self.lineage.writer().object_dir(), Depth::Tail).ok()?;
            let found = reader.records(seq..seq.saturating_add(1)).ok()?.next()?.ok()?;
            Some(found.id == record)
        };
        let has = read().unwrap_or(false);
        others.contains.set(Some((seq, record, has)));
        has
    }

    /// Writes where this object lives now into the table of places, where there is a depot.
    pub(crate) async fn say_where(self: Rc<Self>) {
        let (Some(others), Some(depot)) = (&self.elsewhere, self.claim.depot()) else {
            return;
        };
        let (object, table) = self
            .lineage
            .published(|state| (state.head().object, table(state.head())));
        let (Some(table), Some(key)) = (table, key_of(object)) else {
            return;
        };
        if let Err(error) = say(&depot, (table, &key), object, &others.here).await {
            self.reports.error("depot_failed", &error);
        }
    }
}

async fn say(
    depot: &Arc<dyn Depot>,
    (table, key): (ClassId, &Key),
    object: ObjectId,
    here: &str,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let there = depot.name(table, key).await?;
        if there.as_ref().is_some_and(|(entry, _)| entry.who == here) {
            return Ok(());
        }
        let Ok(holder) = fresh_id() else { return Ok(()) };
        let entry = Entry::founding(object, holder, here.to_owned()).at(Stage::Founded);
        let version = there.as_ref().map(|(_, version)| version);
        if let NameSwap::Done(_) = depot.swap_name(table, key, &entry, version).await? {
            return Ok(());
        }
    }
    Ok(())
}

fn unreachable() -> Problem {
    let mut problem = Problem::new(503, "depot_unreachable", "The depot does not answer");
    problem.retry_after = Some(1);
    problem.with_detail("where the object of this request lives cannot be said now: try again")
}
