//! Machines that go to another host: config, volumes, secrets, under the same id; one after the other, each stopped meanwhile.
//!
//! ```text
//! this host                                the other
//! note the move, lease the machine
//! stop it
//! offer it ──────────────────────────────▶ has its image and room for it, wants the image, or says no
//! send an image that was pushed here
//! send each volume and snapshot ──────────────────────▶ takes it aside
//! commit ────────────────────────────────▶ one write makes the machine, its volumes and its app the other's; then it starts
//! destroy it, keep its volumes a day
//! ```
//!
//! The move has a nonce, and is done again from the beginning wherever either side ended, until the other says that it has the
//! machine, or that it does not want it: so it is on exactly one of them in the end. While it is not known which, the lease keeps it
//! stopped here.

mod destination;
mod moving;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::apps::App;
use crate::host::Inner;
use crate::ids::hex;
use crate::machine::actor::Handle;
use crate::machine::effects::chain;
use crate::machine::{Machine, State};
use crate::secrets::unhex;
use crate::volumes::Volume;

pub(crate) use destination::Destination;
use destination::Trouble;

/// Where what is noted of moves stands among the documents.
const MOVE: &str = "move";
const JOB: (&str, &str, &str) = ("drain", "", "job");
/// Between two tries of what could not be finished.
const PAUSES_S: [u64; 6] = [1, 2, 5, 10, 30, 60];

/// What one host tells another of a machine that is to come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) nonce: String,
    pub(crate) machine: Machine,
    pub(crate) app: App,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) secrets: Vec<(String, SecretValue)>,
    /// Whether it ran.
    pub(crate) starts: bool,
    /// Names of the app, as its certificates list them, and its network policies: kind, name, document.
    #[serde(default)]
    pub(crate) documents: Vec<(String, String, Value)>,
}

impl Offer {
    /// What comes in streams of its own: volumes, and their snapshots.
    pub(crate) fn contents(&self) -> Vec<&str> {
        let snapshots = self.volumes.iter().flat_map(|volume| &volume.snapshots);
        let volumes = self.volumes.iter().map(|volume| volume.id.as_str());
        volumes
            .chain(snapshots.map(|snapshot| snapshot.id.as_str()))
            .collect()
    }
}

/// A secret of an app, as one host tells it to another.
pub(crate) struct SecretValue(pub(crate) Zeroizing<String>);

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|value| Self(Zeroizing::new(value)))
    }
}

/// A move that was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Begun {
    nonce: String,
    starts: bool,
}

/// What became of a machine.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Moved,
    /// It is here as it was, for this reason.
    Stays(String),
    /// It is not known yet: it is tried again.
    Pending(String),
}

impl Inner {
    /// Sends every machine to another host. Moves that were begun go there too. What became of each; what is not known yet is
    /// tried again, also by the next daemon.
    pub(crate) async fn drain(self: &Arc<Self>, destination: Destination) -> Result<Vec<Value>, String> {
        // Nothing is stopped for a host that does not answer, or does not know the token.
        let nothing = json!({ "nonce": "" });
        if let Err(Trouble::Refused(why) | Trouble::Unknown(why)) =
            destination.tell("none", "/cancel", &nothing).await
        {
            return Err(why);
        }
        let sealed = self
            .shared
            .world
            .secrets
            .sealer
            .seal(b"drain", destination.token.as_bytes());
        let sealed = hex(&sealed.map_err(|error| chain(&error))?);
        let job = json!({ "to": destination.to.to_string(), "token": sealed });
        self.documents
            .put(JOB, job)
            .await
            .map_err(|error| chain(&error))?;
        let ids: Vec<String> = {
            let machines = self
                .machines
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let alive = machines
                .values()
                .map(Handle::now)
                .filter(|machine| machine.state != State::Destroyed);
            let begun = self.begun().into_iter().map(|(id, _)| id);
            let ids: std::collections::BTreeSet<String> =
                alive.map(|machine| machine.id.clone()).chain(begun).collect();
            ids.into_iter().collect()
        };
        let rows = self.pass(&destination, ids).await;
        if rows
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Pending(_)))
        {
            self.go_on_draining();
        } else {
            self.end_job().await?;
        }
        Ok(rows.into_iter().map(|(id, outcome)| row(&id, &outcome)).collect())
    }

    async fn end_job(&self) -> Result<(), String> {
        let removed = self.documents.remove(JOB.0, JOB.1, JOB.2).await;
        removed.map(drop).map_err(|error| chain(&error))
    }

    /// Calls off what is not finished: where the other host has a machine already, it goes there, and else it stays.
    pub(crate) async fn stop_draining(self: &Arc<Self>) -> Result<Vec<Value>, String> {
        let Some(destination) = self.destination() else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        {
            let _one = self.draining.lock().await;
            for (id, begun) in self.begun() {
                let nonce = json!({ "nonce": begun.nonce });
                let outcome = match destination.tell(&id, "/cancel", &nonce).await {
                    Ok(true) => self.let_go(&id, &begun).await,
                    Ok(false) => self.keep(&id, &begun, "called off".to_owned()).await,
                    Err(Trouble::Refused(why) | Trouble::Unknown(why)) => Outcome::Pending(why),
                };
                rows.push((id, outcome));
            }
        }
        if self.begun().is_empty() {
            self.end_job().await?;
        }
        Ok(rows.into_iter().map(|(id, outcome)| row(&id, &outcome)).collect())
    }

    fn destination(&self) -> Option<Destination> {
        let job = self.documents.get(JOB.0, JOB.1, JOB.2)?;
        let text = |key: &str| job.get(key).and_then(Value::as_str);
        let sealed = unhex(text("token")?)?;
        let token = self
            .shared
            .world
            .secrets
            .sealer
            .open_sealed(b"drain", &sealed)
            .ok()?;
        Destination::new(text("to")?, std::str::from_utf8(&token).ok()?).ok()
    }

    fn begun(&self) -> Vec<(String, Begun)> {
        let all = self.documents.list(MOVE, "");
        let one = |document: Value| {
            let id = document.get("machine")?.as_str()?.to_owned();
            Some((id, serde_json::from_value(document.get("begun")?.clone()).ok()?))
        };
        all.into_iter().filter_map(one).collect()
    }

    /// Goes on with moves that were begun until there are none.
    pub(crate) fn go_on_draining(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.spawn(async move {
            for pause in PAUSES_S.into_iter().chain(std::iter::repeat(60)) {
                let Some(host) = weak.upgrade() else { return };
                let Some(destination) = host.destination() else {
                    return;
                };
                let ids: Vec<String> = host.begun().into_iter().map(|(id, _)| id).collect();
                let rows = host.pass(&destination, ids).await;
                if !rows
                    .iter()
                    .any(|(_, outcome)| matches!(outcome, Outcome::Pending(_)))
                {
                    // The next one finds nothing to do where this one cannot be removed.
                    let _ = host.end_job().await;
                    return;
                }
                drop(host);
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
        });
    }

    async fn pass(&self, destination: &Destination, ids: Vec<String>) -> Vec<(String, Outcome)> {
        let _one = self.draining.lock().await;
        let mut rows = Vec::new();
        for id in ids {
            let outcome = self.move_one(destination, &id).await;
            rows.push((id, outcome));
        }
        rows
    }
}

fn row(id: &str, outcome: &Outcome) -> Value {
    let (outcome, why) = match outcome {
        Outcome::Moved => ("moved", None),
        Outcome::Stays(why) => ("stays", Some(why)),
        Outcome::Pending(why) => ("pending", Some(why)),
    };
    json!({ "machine": id, "outcome": outcome, "why": why })
}
