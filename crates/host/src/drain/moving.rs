//! One machine on its way to another host: leased and stopped, taken across, then let go here or kept.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::destination::{Destination, Packed, Trouble, has_arrived};
use super::{Begun, MOVE, Offer, Outcome, SecretValue};
use crate::api::network;
use crate::clock::now_ms;
use crate::host::Inner;
use crate::ids;
use crate::machine::effects::chain;
use crate::machine::requests::Request;
use crate::machine::{By, Machine, State};
use crate::volumes::{Snapshot, Volume, VolumeState};

/// The lease outlasts every move.
const LEASE_MS: u64 = 100 * 365 * 24 * 3_600_000;
/// How long a machine is waited for beyond what it may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(360);

impl Inner {
    pub(super) async fn move_one(&self, destination: &Destination, id: &str) -> Outcome {
        let begun = match self.begin(destination, id).await {
            Ok(begun) => begun,
            Err(outcome) => return outcome,
        };
        self.shared.faults.pass();
        match self.carry(destination, id, &begun).await {
            Ok(()) => self.let_go(id, &begun).await,
            Err(Trouble::Refused(why)) => self.keep(id, &begun, why).await,
            Err(Trouble::Unknown(why)) => Outcome::Pending(why),
        }
    }

    /// Notes the move, and has the machine for itself, stopped.
    async fn begin(&self, destination: &Destination, id: &str) -> Result<Begun, Outcome> {
        let pending = |why: String| Outcome::Pending(why);
        let stays = |why: &dyn std::fmt::Display| Outcome::Stays(why.to_string());
        let handle = self.handle(id).ok_or_else(|| stays(&"it is gone"))?;
        let noted = self.begun().into_iter().find(|(machine, _)| machine == id);
        let begun = match noted {
            Some((_, begun)) => begun,
            None => {
                let machine = handle.now();
                if let Some(lease) = machine.lease_at(now_ms()) {
                    return Err(stays(&format!(
                        "{} has a lease on it; ask again when that is over",
                        lease.owner
                    )));
                }
                if machine
                    .config
                    .image
                    .as_deref()
                    .is_some_and(|image| image.starts_with("host:"))
                {
                    return Err(stays(&"it runs a program of this host"));
                }
                let begun = Begun {
                    nonce: ids::nonce().map_err(|error| stays(&error))?,
                    starts: matches!(
                        machine.state,
                        State::Started | State::Starting | State::Restarting
                    ),
                };
                let document = json!({ "machine": id, "begun": begun });
                let kept = self.documents.put((MOVE, "", id), document).await;
                kept.map_err(|error| stays(&chain(&error)))?;
                begun
            }
        };
        self.shared.faults.pass();
        let machine = handle.now();
        if machine.state == State::Destroyed {
            return Ok(begun);
        }
        if machine
            .lease
            .as_ref()
            .is_none_or(|lease| lease.nonce != begun.nonce)
        {
            let lease = Request::Lease {
                ttl_ms: LEASE_MS,
                nonce: begun.nonce.clone(),
                owner: format!("drain to {}", destination.authority()),
                description: "it is going to another host".to_owned(),
            };
            if let Err(refusal) = self.ask(&handle, lease, None, By::Flyd).await {
                return Err(self.keep(id, &begun, refusal.to_string()).await);
            }
        }
        let stop = Request::Stop {
            signal: None,
            budget_ms: None,
        };
        let is_at_rest = |machine: &Machine| {
            matches!(
                machine.state,
                State::Created | State::Stopped | State::Failed | State::Destroyed
            ) && machine.operation.is_none()
        };
        if !is_at_rest(&handle.now()) {
            // What is under way ends first; a machine that is being stopped or destroyed refuses, and ends all the same.
            let mut record = handle.record.clone();
            let settled = record.wait_for(|machine| machine.state.is_settled());
            let settled = tokio::time::timeout(STOP_WITHIN, settled).await.is_ok();
            if settled && !is_at_rest(&handle.now()) {
                let asked = self.ask(&handle, stop, Some(begun.nonce.clone()), By::Flyd).await;
                asked.map_err(|refusal| pending(refusal.to_string()))?;
            }
            let rested = tokio::time::timeout(STOP_WITHIN, record.wait_for(|machine| is_at_rest(machine)));
            if !matches!(rested.await, Ok(Ok(_))) {
                return Err(pending("it did not stop in time".to_owned()));
            }
        }
        Ok(begun)
    }

    /// Takes the machine across.
    async fn carry(&self, destination: &Destination, id: &str, begun: &Begun) -> Result<(), Trouble> {
        let unknown = |why: String| Trouble::Unknown(why);
        let handle = self.handle(id).ok_or_else(|| unknown("it is gone".to_owned()))?;
        let machine = handle.now();
        let nonce = json!({ "nonce": begun.nonce });
        if machine.state == State::Destroyed {
            // Destroyed since it was begun, or let go by a daemon that ended then: the other host says which.
            return match destination.tell(id, "/cancel", &nonce).await? {
                true => Ok(()),
                false => Err(Trouble::Refused("it was destroyed".to_owned())),
            };
        }
        let app = self
            .app(&machine.app)
            .ok_or_else(|| Trouble::Refused("its app is gone".to_owned()))?;
        let mounted = machine
            .config
            .mounts
            .iter()
            .flatten()
            .filter_map(|mount| mount.volume.clone());
        let mut volumes: Vec<Volume> = mounted
            .filter_map(|volume| self.volumes.get(&app.name, &volume))
            .collect();
        for volume in &mut volumes {
            // Those that are among the backups only are restored from there.
            volume.snapshots.retain(Snapshot::travels);
        }
        let kinds = [network::CERTIFICATE, network::POLICY];
        let documents = kinds.into_iter().flat_map(|kind| {
            let named = self.documents.named(kind, &app.name).into_iter();
            named.map(move |(name, document)| (kind.to_owned(), name, document))
        });
        let documents = documents.collect();
        let secrets = self.shared.world.secrets.environment(&app.name, u64::MAX);
        let secrets = secrets
            .into_iter()
            .map(|(name, value)| (name, SecretValue(value)))
            .collect();
        let offer = Offer {
            nonce: begun.nonce.clone(),
            machine: Machine::clone(&machine),
            app,
            secrets,
            starts: begun.starts,
            volumes,
            documents,
        };
        let answer = destination.say(id, "", &offer).await?;
        if has_arrived(&answer) {
            return Ok(());
        }
        self.shared.faults.pass();
        if let Some(why) = answer.get("wants_image").and_then(Value::as_str) {
            self.carry_image(destination, (id, begun), &machine, why).await?;
        }
        for content in offer.contents() {
            let packed = Packed::of(&self.volumes.directory().join(content));
            let packed = packed.map_err(|error| unknown(format!("tar: {error}")))?;
            let path = format!("/arrivals/{id}/volumes/{content}?nonce={}", begun.nonce);
            destination.send(Method::PUT, &path, packed.boxed()).await?;
            self.shared.faults.pass();
        }
        match destination.tell(id, "/commit", &nonce).await? {
            true => Ok(()),
            false => Err(unknown("the other host did not take it".to_owned())),
        }
    }

    /// Takes the image across, which the other host cannot have otherwise: one that was pushed to this host.
    async fn carry_image(
        &self,
        destination: &Destination,
        (id, begun): (&str, &Begun),
        machine: &Machine,
        why: &str,
    ) -> Result<(), Trouble> {
        let image = machine.config.image.as_deref().unwrap_or_default();
        let digest = machine.image.as_ref().map_or("", |image| image.digest.as_str());
        let Some(layout) = self.shared.world.images.pushed(image, &machine.org, digest) else {
            let nonce = json!({ "nonce": begun.nonce });
            return match destination.tell(id, "/cancel", &nonce).await? {
                true => Ok(()),
                false => Err(Trouble::Refused(why.to_owned())),
            };
        };
        let packed = Packed::of(layout.path());
        let packed = packed.map_err(|error| Trouble::Unknown(format!("tar: {error}")))?;
        let path = format!("/arrivals/{id}/image?nonce={}", begun.nonce);
        destination.send(Method::PUT, &path, packed.boxed()).await?;
        self.shared.faults.pass();
        Ok(())
    }

    /// The other host has it: here it is destroyed, and its volumes are kept a day.
    pub(super) async fn let_go(&self, id: &str, begun: &Begun) -> Outcome {
        self.shared.faults.pass();
        if let Some(handle) = self
            .handle(id)
            .filter(|handle| handle.now().state != State::Destroyed)
        {
            let machine = handle.now();
            for volume in machine
                .config
                .mounts
                .iter()
                .flatten()
                .filter_map(|mount| mount.volume.as_deref())
            {
                let changed = self.volumes.change(volume, |volume| {
                    volume.state = VolumeState::PendingDestroy;
                    volume.updated_ms = now_ms();
                });
                if let Err(error) = changed.await {
                    return Outcome::Pending(chain(&error));
                }
            }
            self.shared.faults.pass();
            let destroy = Request::Destroy { force: true };
            if let Err(refusal) = self
                .ask(&handle, destroy, Some(begun.nonce.clone()), By::Flyd)
                .await
            {
                return Outcome::Pending(refusal.to_string());
            }
            let mut record = handle.record.clone();
            let gone = record.wait_for(|machine| machine.state == State::Destroyed);
            if tokio::time::timeout(STOP_WITHIN, gone).await.is_err() {
                return Outcome::Pending("it has moved, and cannot be destroyed here yet".to_owned());
            }
        }
        self.shared.faults.pass();
        match self.documents.remove(MOVE, "", id).await {
            Ok(_) => Outcome::Moved,
            Err(error) => Outcome::Pending(chain(&error)),
        }
    }

    /// The other host has nothing of it: it is as it was.
    pub(super) async fn keep(&self, id: &str, begun: &Begun, why: String) -> Outcome {
        let nonce = || Some(begun.nonce.clone());
        if let Some(handle) = self
            .handle(id)
            .filter(|handle| handle.now().state != State::Destroyed)
        {
            let is_ours = |machine: &Machine| {
                machine
                    .lease
                    .as_ref()
                    .is_some_and(|lease| lease.nonce == begun.nonce)
            };
            if begun.starts && is_ours(&handle.now()) {
                // It may not fit any more; then it stays stopped, and its events say why.
                let _ = self.ask(&handle, Request::Start, nonce(), By::Flyd).await;
            }
            if is_ours(&handle.now())
                && let Err(refusal) = self.ask(&handle, Request::Release, nonce(), By::Flyd).await
            {
                return Outcome::Pending(refusal.to_string());
            }
        }
        match self.documents.remove(MOVE, "", id).await {
            Ok(_) => Outcome::Stays(why),
            Err(error) => Outcome::Pending(chain(&error)),
        }
    }
}
