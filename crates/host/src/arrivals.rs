//! Machines that come from another host ([`drain`](crate::drain) says how). What is not committed is nobody's: the next daemon
//! removes it. Called by hosts with a token made for it, `host token create --receive`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path as Directory;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::api::network;
use crate::audit::{Entry, Who};
use crate::clock::now_ms;
use crate::drain::Offer;
use crate::host::{Host, Inner};
use crate::ids;
use crate::machine::actor::stamp;
use crate::machine::effects::chain;
use crate::machine::plan::Outcome;
use crate::machine::requests::{Request, accept};
use crate::machine::{By, Machine, State as Phase};
use crate::store::{Table, Write};
use crate::tokens::Access;
use crate::volumes::{Snapshot, Volume, VolumeState};

/// What says that a machine came, by its id and the nonce of its move.
const ARRIVED: &str = "arrived";
/// Most bytes of what is told of a machine: its versions and secrets among it.
const MAX_OFFER: usize = 64 << 20;
/// How long a part of a volume may be waited for.
const PART_WITHIN: Duration = Duration::from_secs(60);
/// Most machines that are on their way at one time.
const MAX_COMING: usize = 64;

/// Machines that were offered to this daemon and are not committed yet, by id.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(tokio::sync::Mutex<BTreeMap<String, Coming>>);

#[derive(Debug)]
struct Coming {
    offer: Offer,
    /// Volumes and snapshots that are there whole.
    whole: BTreeSet<String>,
    /// Its image is here.
    has_image: bool,
}

type Told = Result<Json<Value>, (StatusCode, String)>;

fn refused(text: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::UNPROCESSABLE_ENTITY, text.into())
}

/// Nothing is said of where the machine is: it is asked again.
fn again(text: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::CONFLICT, text.into())
}

fn answer(told: Told) -> Response {
    match told {
        Ok(document) => document.into_response(),
        Err((status, text)) => (status, Json(json!({ "error": text }))).into_response(),
    }
}

/// The routes by which machines come.
pub(crate) fn router(host: Host) -> Router {
    Router::new()
        .route("/arrivals/{id}", post(offer))
        .route("/arrivals/{id}/image", put(image))
        .route("/arrivals/{id}/volumes/{volume}", put(volume))
        .route("/arrivals/{id}/commit", post(commit))
        .route("/arrivals/{id}/cancel", post(cancel))
        .layer(axum::middleware::from_fn_with_state(host.clone(), audited))
        .with_state(host)
}

async fn audited(
    State(host): State<Host>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let who = Who::of(&host.0, request.headers());
    let entry = Entry::made(who, request.method(), request.uri().path());
    let response = next.run(request).await;
    if let Some(entry) = entry.ended(response.status()) {
        host.0.audit.note(entry).await;
    }
    response
}

fn may(host: &Inner, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = host.tokens.authenticate(shown.unwrap_or_default(), now_ms());
    match token {
        Some(token) if token.access == Access::Receive => Ok(()),
        Some(_) => Err((
            StatusCode::FORBIDDEN,
            "this token does not let machines come: make one with `host token create --receive`".to_owned(),
        )),
        None => Err((
            StatusCode::UNAUTHORIZED,
            "this host does not know the token".to_owned(),
        )),
    }
}

async fn read<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, (StatusCode, String)> {
    let bytes = tokio::time::timeout(PART_WITHIN, Limited::new(body, MAX_OFFER).collect()).await;
    let bytes = bytes.map_err(|_| again("the body did not arrive in time"))?;
    let bytes = bytes
        .map_err(|_| again("the body is too large, or broke off"))?
        .to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| again(format!("the body: {error}; are both hosts of one version?")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nonce {
    nonce: String,
}

fn arrival(id: &str, nonce: &str) -> String {
    format!("{id}-{nonce}")
}

impl Inner {
    fn has_arrived(&self, id: &str, nonce: &str) -> bool {
        self.documents.get(ARRIVED, "", &arrival(id, nonce)).is_some()
    }

    fn aside(&self, volume: &str) -> std::path::PathBuf {
        // No volume's id has a dot: what is left of it belongs to nothing, and is removed at the next start.
        self.volumes.directory().join(format!("arriving.{volume}"))
    }
}

async fn offer(State(host): State<Host>, Path(id): Path<String>, headers: HeaderMap, body: Body) -> Response {
    answer(take_offer(&host.0, &id, &headers, body).await)
}

async fn take_offer(host: &Arc<Inner>, id: &str, headers: &HeaderMap, body: Body) -> Told {
    may(host, headers)?;
    let mut offer: Offer = read(body).await?;
    if offer.machine.id != id {
        return Err(refused("the machine's id is not the one in the path"));
    }
    if host.has_arrived(id, &offer.nonce) {
        return Ok(Json(json!({ "arrived": true })));
    }
    check(host, &offer).map_err(refused)?;
    for region in std::iter::once(&mut offer.machine.region)
        .chain(offer.volumes.iter_mut().map(|volume| &mut volume.region))
    {
        if !host.options.regions.contains(region)
            && let Some(first) = host.options.regions.first()
        {
            region.clone_from(first);
        }
    }
    let had = offer.machine.image.as_ref().map(|image| image.digest.clone());
    let had = had.filter(|had| !had.is_empty());
    let wants_image = match host
        .shared
        .world
        .fetch(&offer.machine.config, &offer.machine.org)
        .await
    {
        Outcome::Fetched(image) if had.as_ref().is_none_or(|had| *had == image.digest) => None,
        Outcome::Fetched(image) => Some(format!(
            "its image has another digest here ({}): name it by its digest, and update the machine",
            image.digest
        )),
        Outcome::Failed(why) => Some(format!("its image cannot be had here: {why}")),
        _ => return Err(again("its image is not there")),
    };
    if let (Some(why), None) = (&wants_image, &had) {
        return Err(refused(why.clone()));
    }
    let mut coming = host.arrivals.0.lock().await;
    if coming.len() >= MAX_COMING && !coming.contains_key(id) {
        return Err(again("too many machines are coming at one time"));
    }
    let (whole, has_image) = (BTreeSet::new(), wants_image.is_none());
    let new = Coming {
        offer,
        whole,
        has_image,
    };
    coming.insert(id.to_owned(), new);
    host.shared.faults.pass();
    Ok(Json(json!({ "arrived": false, "wants_image": wants_image })))
}

async fn image(
    State(host): State<Host>,
    Path(id): Path<String>,
    Query(Nonce { nonce }): Query<Nonce>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(take_image(&host.0, (&id, &nonce), &headers, body).await)
}

/// Has the image that goes along with a machine: a layout, of which the digest says that it is the one.
async fn take_image(host: &Arc<Inner>, (id, nonce): (&str, &str), headers: &HeaderMap, body: Body) -> Told {
    may(host, headers)?;
    let is_meant = |coming: &Coming| coming.offer.nonce == nonce;
    let not_offered = || again("the machine was not offered to this daemon: offer it again");
    let digest = {
        let coming = host.arrivals.0.lock().await;
        let coming = coming
            .get(id)
            .filter(|coming| is_meant(coming))
            .ok_or_else(not_offered)?;
        let image = coming.offer.machine.image.as_ref();
        image.map(|image| image.digest.clone()).unwrap_or_default()
    };
    let aside = host.aside(&format!("image-{id}"));
    let taken = async {
        let unpacked = unpack(&aside, body).await;
        unpacked.map_err(|error| again(format!("the image: {error}; is the disk full?")))?;
        let taken = host.shared.world.images.take_in(&aside, &digest).await;
        taken.map_err(|error| again(chain(&error)))
    };
    let taken = taken.await;
    let _ = tokio::fs::remove_dir_all(&aside).await;
    taken?;
    host.shared.faults.pass();
    let mut coming = host.arrivals.0.lock().await;
    let coming = coming
        .get_mut(id)
        .filter(|coming| is_meant(coming))
        .ok_or_else(not_offered)?;
    coming.has_image = true;
    Ok(Json(json!({})))
}

/// Whether the machine may come.
fn check(host: &Inner, offer: &Offer) -> Result<(), String> {
    let Offer {
        machine,
        app,
        volumes,
        ..
    } = offer;
    let is_id = machine.id.len() == 14
        && machine
            .id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_volume = |volume: &Volume| {
        let rest = volume.id.strip_prefix("vol_").unwrap_or_default();
        !rest.is_empty()
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && volume.app == app.name
    };
    let is_snapshot = |snapshot: &Snapshot| {
        let rest = snapshot.id.strip_prefix("vs_").unwrap_or_default();
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) && snapshot.travels()
    };
    let mut snapshots = volumes.iter().flat_map(|volume| &volume.snapshots);
    if !is_id
        || !ids::is_name(&app.name)
        || !ids::is_name(&app.org)
        || !volumes.iter().all(is_volume)
        || !snapshots.all(is_snapshot)
    {
        return Err("an id or a name is none".to_owned());
    }
    if machine.app != app.name
        || machine.org != app.org
        || machine.operation.is_some()
        || machine.run.is_some()
    {
        return Err("the machine is not one of its app at rest".to_owned());
    }
    let mounted: Vec<&str> = machine
        .config
        .mounts
        .iter()
        .flatten()
        .filter_map(|mount| mount.volume.as_deref())
        .collect();
    if mounted.len() != volumes.len() || !volumes.iter().all(|volume| mounted.contains(&volume.id.as_str())) {
        return Err("its volumes are not those that it mounts".to_owned());
    }
    if host
        .handle(&machine.id)
        .is_some_and(|handle| handle.now().state != Phase::Destroyed)
    {
        return Err("there is a machine of this id here already".to_owned());
    }
    let is_taken = |volume: &&Volume| {
        let usable =
            |found: &Volume| !matches!(found.state, VolumeState::PendingDestroy | VolumeState::Destroyed);
        !host
            .volumes
            .list(|found| found.id == volume.id && usable(found))
            .is_empty()
    };
    if let Some(volume) = volumes.iter().find(is_taken) {
        return Err(format!("there is a volume {} here already", volume.id));
    }
    let comes = |snapshot: &Snapshot| {
        let mut coming = volumes.iter().flat_map(|volume| &volume.snapshots);
        coming.any(|coming| coming.id == snapshot.id)
    };
    let of_others = |found: &Volume| {
        volumes.iter().all(|volume| volume.id != found.id) && found.snapshots.iter().any(comes)
    };
    if let Some(other) = host.volumes.list(of_others).first() {
        return Err(format!(
            "a snapshot of volume {} here has the id of one that comes",
            other.id
        ));
    }
    match host.app(&app.name) {
        Some(known) if known.org != app.org || known.network != app.network => Err(format!(
            "app {} is another org's here, or in another network",
            app.name
        )),
        Some(known) if known.leaving => Err(format!("app {} is being deleted here", app.name)),
        _ => Ok(()),
    }
}

async fn volume(
    State(host): State<Host>,
    Path((id, volume)): Path<(String, String)>,
    Query(Nonce { nonce }): Query<Nonce>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(take_volume(&host.0, (&id, &volume, &nonce), &headers, body).await)
}

async fn take_volume(
    host: &Arc<Inner>,
    (id, volume, nonce): (&str, &str, &str),
    headers: &HeaderMap,
    body: Body,
) -> Told {
    may(host, headers)?;
    let is_meant = |coming: &Coming| coming.offer.nonce == nonce && coming.offer.contents().contains(&volume);
    if !host.arrivals.0.lock().await.get(id).is_some_and(is_meant) {
        return Err(again(
            "the machine was not offered to this daemon: offer it again",
        ));
    }
    let to = host.aside(volume);
    let unpacked = unpack(&to, body).await;
    unpacked.map_err(|error| again(format!("volume {volume}: {error}; is the disk full?")))?;
    host.shared.faults.pass();
    let mut coming = host.arrivals.0.lock().await;
    match coming.get_mut(id).filter(|coming| is_meant(coming)) {
        Some(coming) => {
            coming.whole.insert(volume.to_owned());
            Ok(Json(json!({})))
        }
        None => Err(again("the machine was called off meanwhile")),
    }
}

/// Puts what `tar` packed into the new directory `to`, durably.
async fn unpack(to: &Directory, mut body: Body) -> io::Result<()> {
    match tokio::fs::remove_dir_all(to).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tokio::fs::create_dir(to).await?;
    let mut command = Command::new("tar");
    command
        .args([
            "--extract",
            "--numeric-owner",
            "--xattrs",
            "--preserve-permissions",
            "--file=-",
            "--directory",
        ])
        .arg(to);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut tar = command.spawn()?;
    let mut stdin = tar.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut broken = None;
    loop {
        match tokio::time::timeout(PART_WITHIN, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_default();
                if stdin.write_all(&data).await.is_err() {
                    // It says why.
                    break;
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                broken = Some("it broke off");
                break;
            }
            Err(_) => {
                broken = Some("it did not arrive in time");
                break;
            }
        }
    }
    drop(stdin);
    let output = tar.wait_with_output().await?;
    if let Some(broken) = broken {
        return Err(io::Error::other(broken));
    }
    if !output.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    let to = to.to_owned();
    let synced = tokio::task::spawn_blocking(move || -> io::Result<()> {
        Ok(rustix::fs::syncfs(std::fs::File::open(to)?)?)
    });
    synced.await.map_err(io::Error::other)?
}

async fn commit(
    State(host): State<Host>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(take(&host.0, &id, &headers, body).await)
}

async fn take(host: &Arc<Inner>, id: &str, headers: &HeaderMap, body: Body) -> Told {
    may(host, headers)?;
    let Nonce { nonce } = read(body).await?;
    if host.has_arrived(id, &nonce) {
        return Ok(Json(json!({ "arrived": true })));
    }
    // Whoever hangs up meanwhile asks again, and hears what became of it.
    let (sender, done) = tokio::sync::oneshot::channel();
    let (of_task, id) = (Arc::clone(host), id.to_owned());
    host.spawn(async move { drop(sender.send(of_task.adopt(&id, &nonce).await)) });
    match done.await {
        Ok(Ok(())) => Ok(Json(json!({ "arrived": true }))),
        Ok(Err(why)) => Err(again(why)),
        Err(_) => Err(again("the daemon is ending")),
    }
}

impl Inner {
    /// One write makes what was offered this host's.
    async fn adopt(self: &Arc<Self>, id: &str, nonce: &str) -> Result<(), String> {
        let told = |error: &dyn std::error::Error| chain(error);
        // Held to the end: nobody is told meanwhile that it has not come.
        let mut all = self.arrivals.0.lock().await;
        let is_whole = |coming: &Coming| {
            coming.offer.nonce == nonce
                && coming.has_image
                && coming.whole.len() == coming.offer.contents().len()
        };
        let coming = if all.get(id).is_some_and(is_whole) {
            all.remove(id)
        } else {
            None
        };
        let Some(Coming { offer, .. }) = coming else {
            return Err(
                "the machine was not offered to this daemon, or not all of it: offer it again".to_owned(),
            );
        };
        let _one = self.naming.lock().await;
        // What came since it was offered.
        check(self, &offer)?;
        let Offer {
            nonce,
            mut machine,
            app,
            mut volumes,
            secrets,
            starts,
            documents,
        } = offer;
        let is_new = self.app(&app.name).is_none();
        if is_new && !secrets.is_empty() {
            let values = secrets
                .into_iter()
                .map(|(name, value)| (name, Some(value.0)))
                .collect();
            let changed = self
                .shared
                .world
                .secrets
                .change(&app.name, values, now_ms())
                .await;
            changed.map_err(|error| told(&error))?;
        }
        machine.secrets_version = self.shared.world.secrets.of(&app.name).version;
        let machine = arrived(machine, starts, |next| self.shared.capacity.reserve(next).is_ok());
        for volume in &mut volumes {
            volume.state = VolumeState::Created;
            let (aside, place) = (self.aside(&volume.id), self.volumes.directory().join(&volume.id));
            // One of this id that is to be destroyed, as after a move there and back.
            if place.exists() {
                self.volumes
                    .forget(&volume.id)
                    .await
                    .map_err(|error| told(&error))?;
            }
            tokio::fs::rename(&aside, &place)
                .await
                .map_err(|error| format!("volume {}: {error}", volume.id))?;
            for snapshot in &volume.snapshots {
                let (aside, place) = (
                    self.aside(&snapshot.id),
                    self.volumes.directory().join(&snapshot.id),
                );
                // Of a commit that failed.
                let _none = tokio::fs::remove_dir_all(&place).await;
                tokio::fs::rename(&aside, &place)
                    .await
                    .map_err(|error| format!("snapshot {}: {error}", snapshot.id))?;
            }
        }
        for (kind, name, document) in documents {
            let is_kind = [network::CERTIFICATE, network::POLICY].contains(&kind.as_str());
            if is_kind && self.documents.get(&kind, &app.name, &name).is_none() {
                let kept = self.documents.put((&kind, &app.name, &name), document).await;
                kept.map_err(|error| told(&error))?;
            }
        }
        let came = json!({ "at": crate::clock::rfc3339(now_ms()) });
        let key = arrival(&machine.id, &nonce);
        let mut writes = vec![
            Write::set(Table::Machines, &machine.id, &machine),
            Write::set(Table::Documents, &format!("{ARRIVED}//{key}"), &came),
        ];
        if is_new {
            writes.push(Write::set(Table::Apps, &app.name, &app));
        }
        writes.extend(
            volumes
                .iter()
                .map(|volume| Write::set(Table::Volumes, &volume.id, volume)),
        );
        let writes = writes
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| told(&error))?;
        self.shared.faults.pass();
        self.shared
            .store
            .commit(writes)
            .await
            .map_err(|error| told(&error))?;
        self.shared.faults.pass();
        if is_new {
            let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
            apps.insert(app.name.clone(), app);
        }
        for volume in volumes {
            self.volumes.adopt(volume);
        }
        // Written already: this makes it known.
        self.documents
            .put((ARRIVED, "", &key), came)
            .await
            .map_err(|error| told(&error))?;
        self.add(machine, None, None);
        Ok(())
    }
}

/// The machine as it is here.
fn arrived(mut machine: Machine, starts: bool, has_room: impl FnOnce(&Machine) -> bool) -> Machine {
    let stamp = stamp();
    machine.lease = None;
    machine.keeps_rootfs = false;
    machine.restarts_ms.clear();
    machine.failure = None;
    machine.tell(&stamp, "launch", By::Flyd, "migrated=true");
    if starts {
        match accept(&machine, &Request::Start, None, By::Flyd, &stamp) {
            Ok(next) if has_room(&next) => return next,
            _ => machine.tell(
                &stamp,
                "warning",
                By::Flyd,
                "it came stopped: there is no room for it to run; start it when there is",
            ),
        }
    }
    machine
}

async fn cancel(
    State(host): State<Host>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(call_off(&host.0, &id, &headers, body).await)
}

async fn call_off(host: &Arc<Inner>, id: &str, headers: &HeaderMap, body: Body) -> Told {
    may(host, headers)?;
    let Nonce { nonce } = read(body).await?;
    // A commit that was begun has ended once this is had.
    let mut all = host.arrivals.0.lock().await;
    let is_meant = all.get(id).is_some_and(|coming| coming.offer.nonce == nonce);
    let gone = if is_meant { all.remove(id) } else { None };
    if let Some(coming) = gone {
        for content in coming.offer.contents() {
            let _ = tokio::fs::remove_dir_all(host.aside(content)).await;
        }
    }
    Ok(Json(json!({ "arrived": host.has_arrived(id, &nonce) })))
}
