//! Messages of an object: those that wait, and new ones.

use suijuris_api::Problem;
use suijuris_api::history::Sent;
use suijuris_core::message::MessageKey;
use suijuris_custody::deliveries::Deliveries;
use suijuris_depot::{Depot, Posted};
use suijuris_door::{events, http_answers, problems};
use suijuris_vehicle::Driver;

use super::query::Query;
use super::{Answer, Api, Asked, bad, body, json, no_json};
use crate::messages::{self, Act, ActError};
use crate::serve::entry::Entry;

/// Messages of a list, unless told otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

impl<D: Driver> Api<D> {
    pub(super) async fn messages(&self, entry: &Entry, query: &Query) -> Result<Answer, Problem> {
        let limit = query.read("limit", "number")?.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(bad(&format!("`limit` is from 1 to {MAX_PAGE}")));
        }
        let object = entry.origin.object;
        let found = self.depot()?.inbox(object, MAX_PAGE).await;
        let found = found.map_err(|error| problems::depot(&error, object))?;
        let counts = Deliveries::of(&entry.paths.data).counts();
        Ok(json(&messages::listed(&found, &counts, limit)))
    }

    /// How many messages wait, where that can be seen now.
    pub(super) async fn waiting(&self, entry: &Entry) -> Option<u64> {
        let found = self
            .depot()
            .ok()?
            .inbox(entry.origin.object, MAX_PAGE)
            .await
            .ok()?;
        u64::try_from(found.len()).ok()
    }

    /// Tries a message again, or drops it.
    pub(super) async fn act(&self, entry: &Entry, key: &str, act: Act) -> Result<Answer, Problem> {
        let key = key.parse().map(MessageKey).map_err(|_| messages::unknown())?;
        let (object, deliveries) = (entry.origin.object, Deliveries::of(&entry.paths.data));
        match messages::act(self.depot()?, object, &deliveries, key, act).await {
            Ok(outcome) => Ok(json(&outcome)),
            Err(ActError::Unknown) => Err(messages::unknown()),
            Err(ActError::Depot(error)) => Err(problems::depot(&error, object)),
            Err(error @ ActError::Account(_)) => {
                Err(Problem::new(503, "disk_full", "The message is as it was").with_detail(error.to_string()))
            }
        }
    }

    pub(super) async fn send(&self, entry: &Entry, asked: Asked) -> Result<Answer, Problem> {
        let media = http_answers::media_type(&asked.headers);
        if !matches!(
            media.as_deref(),
            Some("application/json" | "application/cloudevents+json")
        ) {
            return Err(no_json());
        }
        let object = entry.origin.object;
        let body = body(asked.body).await?;
        let now = self.roster.services.clock.reading().wall;
        let message = events::read_document(&body, now);
        let message = message.map_err(|error| problems::event(&error, object))?;
        let posted = self.depot()?.post(object, &message).await;
        let outcome = match posted.map_err(|error| problems::depot(&error, object))? {
            Posted::Stored => "stored",
            Posted::Duplicate => "duplicate",
        };
        Ok(json(&Sent {
            outcome: outcome.to_owned(),
            object: object.to_string(),
            key: message.key().0.hex(),
            wakes: self.has_topic(entry, &message.topic),
            id: message.id,
            source: message.source,
        }))
    }

    /// Whether messages of this type wake the object; unknown where its history cannot be read.
    fn has_topic(&self, entry: &Entry, topic: &str) -> Option<bool> {
        let _ = self;
        let reader = crate::history::open(&entry.paths.home()).ok()?;
        let bundle = reader.bundle(&reader.state().head().bundle).ok()?;
        Some(bundle.manifest.triggers.topics.contains(topic))
    }

    fn depot(&self) -> Result<&dyn Depot, Problem> {
        let none = || Problem::new(503, "depot_unreachable", "This daemon has no depot");
        self.roster.depot.as_deref().ok_or_else(none)
    }
}
