//! Machines: listed, made, shown, updated, destroyed; their events and versions.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::claims;
use crate::clock::{now_ms, rfc3339};
use crate::config::{MachineConfig, Mount};
use crate::ids;
use crate::machine::requests::{Request, Update};
use crate::machine::{By, Kind, Lease, Machine, Operation, Shown, State, Step, Version};

/// Longest lease, seconds.
pub(super) const MAX_LEASE_S: u64 = 3_600;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    config: Option<Value>,
    name: Option<String>,
    #[serde(deserialize_with = "texts")]
    region: Vec<String>,
    skip_launch: Option<bool>,
    skip_service_registration: Option<bool>,
    lease_ttl: Option<u64>,
    min_secrets_version: Option<u64>,
    skip_secrets: Option<bool>,
    current_version: Option<String>,
}

/// A text, or a list of texts; commas part them too.
fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    let all =
        match Form::deserialize(deserializer).map_err(|_| serde::de::Error::custom("region is a text"))? {
            Form::One(text) => vec![text],
            Form::Many(texts) => texts,
        };
    let parts = all.iter().flat_map(|text| text.split(','));
    Ok(parts
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect())
}

/// A machine as clients see it.
pub(super) fn shown(host: &crate::host::Inner, machine: &Machine) -> Value {
    let checks = host
        .handle(&machine.id)
        .map(|handle| handle.checks())
        .unwrap_or_default();
    document(machine, &checks)
}

fn document(machine: &Machine, checks: &[Value]) -> Value {
    let image = machine.image.clone().unwrap_or_default();
    json!({
        "id": machine.id, "name": machine.name, "state": machine.state.name(), "region": machine.region, "image_ref": image,
        "instance_id": machine.version, "version": machine.version, "private_ip": machine.address(),
        "created_at": rfc3339(machine.created_ms), "updated_at": rfc3339(machine.updated_ms), "config": machine.config.shown(),
        "events": machine.events, "checks": checks, "host_status": "ok", "cordoned": machine.cordoned,
    })
}

/// The same as text. A list of a thousand machines at rest is made of texts that are there already.
fn written<'a>(host: &crate::host::Inner, machine: &'a Machine) -> Cow<'a, str> {
    let handle = host.handle(&machine.id);
    if handle.is_some_and(|handle| !handle.checks.borrow().is_empty()) {
        // What checks say is no part of the record.
        return shown(host, machine).to_string().into();
    }
    machine.shown.text(|| document(machine, &[]).to_string()).into()
}

/// The same, short.
pub(super) fn summary(machine: &Machine) -> Value {
    let config = machine.config.shown();
    let part = |name: &str| config.get(name).cloned().unwrap_or_else(|| json!({}));
    json!({
        "id": machine.id, "name": machine.name, "state": machine.state.name(), "region": machine.region,
        "instance_id": machine.version, "version": machine.version, "private_ip": machine.address(), "app_name": machine.app,
        "created_at": rfc3339(machine.created_ms), "updated_at": rfc3339(machine.updated_ms),
        "config": {"image": part("image"), "guest": part("guest"), "metadata": part("metadata")},
    })
}

pub(super) fn list(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let states = states(call)?;
    let regions = call.query_all("region");
    let all = call.host().machines_of(&app.name);
    let meant = |machine: &&Arc<Machine>| {
        let metadata = machine.config.metadata();
        let asked_for = states.contains(&State::Destroyed) || call.flag("include_deleted");
        (machine.state != State::Destroyed || asked_for)
            && (states.is_empty() || states.contains(&machine.state))
            && (regions.is_empty() || regions.contains(&machine.region.as_str()))
            && call
                .query_with("metadata.")
                .all(|(key, value)| metadata.get(key).is_some_and(|known| known == value))
    };
    let mut found = all.iter().filter(meant);
    if call.flag("summary") {
        return Ok(Answer::ok(found.map(|machine| summary(machine)).collect()));
    }
    let mut text = String::from("[");
    if let Some(first) = found.next() {
        text.push_str(&written(call.host(), first));
    }
    for machine in found {
        text.push(',');
        text.push_str(&written(call.host(), machine));
    }
    text.push(']');
    Ok(Answer::Written(text))
}

/// The states that the query names.
pub(super) fn states(call: &Call) -> Result<Vec<State>, ApiError> {
    let named = call.query_all("state").into_iter();
    let known = |name: &str| {
        State::named(name).ok_or_else(|| ApiError::invalid("state is one as started, stopped, suspended"))
    };
    named.map(known).collect()
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    if !call.flag("include_leases") {
        return Ok(Answer::Written(written(call.host(), &machine).into_owned()));
    }
    let mut document = shown(call.host(), &machine);
    if let (Some(lease), Some(document)) = (machine.lease_at(now_ms()), document.as_object_mut()) {
        document.insert("lease".to_owned(), super::leases::shown(lease, &machine.version));
    }
    Ok(Answer::ok(document))
}

pub(super) async fn create(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    if app.leaving {
        return Err(ApiError::not_found("app not found"));
    }
    let asked: Asked = call.body()?;
    let mut config =
        MachineConfig::read(asked.config.clone().unwrap_or_default()).map_err(ApiError::invalid)?;
    let region = region(call, &asked.region)?;
    let secrets_version = secrets_version(call, &app.name, &asked)?;
    if config.guest().memory_mb > call.host().shared.capacity.memory_mb() {
        let text = "no capacity: the machine is larger than this host; choose a smaller guest";
        return Err(ApiError::new(http::StatusCode::BAD_REQUEST, text).with_code("insufficient_capacity"));
    }
    let one = call.host().naming.lock().await;
    let name = match &asked.name {
        Some(name) if ids::is_name(name) => name.clone(),
        Some(_) => return Err(ApiError::invalid("name is 1 to 63 of a-z, 0-9 and -")),
        None => ids::name()?,
    };
    if call.host().is_name_taken(&app.name, &name) {
        let text = format!(
            "already_exists: unique machine name violation, machine with name {name} already exists; choose another"
        );
        return Err(ApiError::new(http::StatusCode::CONFLICT, text));
    }
    for mount in config.mounts.iter_mut().flatten() {
        resolve(call, &app.name, &region, mount)?;
    }
    let id = ids::machine()?;
    let volumes = config.mounts.iter().flatten();
    let volumes = volumes.filter_map(|mount| mount.volume.as_deref().map(claims::volume));
    let keys = volumes.chain([claims::name(&app.name, &name)]).collect();
    let claim = call.host().claims.take(&id, keys);
    // The name and the volume are taken from here on.
    drop(one);
    let now_ms = now_ms();
    let version = ids::ulid(now_ms)?;
    let lease = lease(call, &asked, now_ms)?;
    let first = Version {
        version: version.clone(),
        config: config.clone(),
    };
    let machine = Machine {
        id: id.clone(),
        app: app.name,
        org: app.org,
        network: app.network,
        name,
        region,
        state: State::Creating,
        version,
        config,
        image: None,
        created_ms: now_ms,
        updated_ms: now_ms,
        events: VecDeque::new(),
        versions: VecDeque::from([first]),
        cordoned: asked.skip_service_registration.unwrap_or(false),
        lease: lease.clone(),
        operation: Some(Operation {
            kind: Kind::Create {
                launch: !asked.skip_launch.unwrap_or(false),
            },
            step: Step::Begun,
            from: State::Creating,
            by: By::User,
        }),
        run: None,
        lives: 0,
        restarts_ms: Vec::new(),
        keeps_rootfs: false,
        secrets_version,
        failure: None,
        not_before_ms: None,
        awake: Default::default(),
        shown: Shown::default(),
    };
    if asked.skip_launch != Some(true)
        && let Err(refusal) = call.host().shared.capacity.reserve(&machine)
    {
        let mut mounts = machine.config.mounts.iter().flatten();
        let volume = mounts.find_map(|mount| mount.volume.clone());
        return Err(match volume {
            // Fly's own words: the machine can go to no other host, since its volume is here.
            Some(volume) => ApiError::precondition(format!(
                "insufficient resources to create new machine with existing volume '{volume}': {refusal}"
            )),
            None => refusal.into(),
        });
    }
    let begun = call.host().create(machine).await;
    drop(claim);
    let created = match begun {
        Ok(begun) => begun.wait().await,
        Err(refusal) => Err(refusal),
    };
    if created.is_err() {
        call.host().shared.capacity.release(&id);
    }
    Ok(Answer::ok(with_nonce(call, &*created?, lease)))
}

fn with_nonce(call: &Call, machine: &Machine, lease: Option<Lease>) -> Value {
    let mut document = shown(call.host(), machine);
    if let (Some(lease), Some(document)) = (lease, document.as_object_mut()) {
        document.insert("nonce".to_owned(), json!(lease.nonce));
    }
    document
}

fn lease(call: &Call, asked: &Asked, now_ms: u64) -> Result<Option<Lease>, ApiError> {
    let Some(ttl) = asked.lease_ttl.filter(|ttl| *ttl > 0) else {
        return Ok(None);
    };
    Ok(Some(Lease {
        nonce: ids::nonce()?,
        made_ms: now_ms,
        expires_ms: now_ms.saturating_add(ttl.min(MAX_LEASE_S) * 1_000),
        owner: call.token.id.clone(),
        description: String::new(),
    }))
}

/// The first of the regions that this host has.
pub(super) fn region(call: &Call, asked: &[String]) -> Result<String, ApiError> {
    let known = &call.host().options.regions;
    let first = known.first().cloned().unwrap_or_default();
    if asked.is_empty() {
        return Ok(first);
    }
    let found = asked.iter().find_map(|asked| match asked.as_str() {
        "any" => Some(first.clone()),
        alias if super::platform::is_alias(alias) => known
            .iter()
            .find(|code| super::platform::is_in(code, alias))
            .cloned(),
        code => known.iter().find(|known| *known == code).cloned(),
    });
    found.ok_or_else(|| ApiError::invalid(format!("region is one of this host's: {}", known.join(", "))))
}

fn secrets_version(call: &Call, app: &str, asked: &Asked) -> Result<u64, ApiError> {
    let version = call.host().shared.world.secrets.of(app).version;
    if let Some(least) = asked.min_secrets_version
        && version < least
    {
        let text = format!(
            "min_secrets_version {least} is not reached: the app's secrets are at version {version}; set them, or ask for less"
        );
        return Err(ApiError::precondition(text));
    }
    Ok(if asked.skip_secrets == Some(true) {
        0
    } else {
        version
    })
}

/// Finds the volume that a mount means, and that nobody else has it.
fn resolve(call: &Call, app: &str, region: &str, mount: &mut Mount) -> Result<(), ApiError> {
    let host = call.host();
    let volumes = host
        .volumes
        .list(|volume| volume.app == app && volume.state.is_usable());
    let meant = |id: &str, name: Option<&str>| {
        id == mount.volume.as_deref().unwrap_or_default()
            || name.is_some_and(|name| mount.volume.is_none() && mount.name.as_deref() == Some(name))
    };
    let mut found = volumes
        .iter()
        .filter(|volume| meant(&volume.id, Some(&volume.name)));
    let free = found
        .clone()
        .find(|volume| host.attached(&volume.id).is_none() && volume.region == region);
    match (free, found.next()) {
        (Some(volume), _) => {
            mount.volume = Some(volume.id.clone());
            mount.name = Some(volume.name.clone());
            mount.encrypted = Some(host.volumes.are_encrypted());
            mount.size_gb = Some(volume.size_gb);
            Ok(())
        }
        (None, Some(volume)) if volume.region != region => {
            let text = format!(
                "volume {} is in region {}, and the machine in {region}; create it there",
                volume.id, volume.region
            );
            Err(ApiError::invalid(text))
        }
        (None, Some(volume)) => {
            let holder = host.attached(&volume.id).unwrap_or_default();
            let text = format!(
                "volume {} is already attached to machine {holder}; destroy that one, or take another volume",
                volume.id
            );
            Err(ApiError::precondition(text))
        }
        (None, None) => Err(ApiError::new(http::StatusCode::BAD_REQUEST, "volume not found")),
    }
}

pub(super) async fn update(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: Asked = call.body()?;
    let before = call.machine()?.now();
    let mut config =
        MachineConfig::read(asked.config.clone().unwrap_or_default()).map_err(ApiError::invalid)?;
    for mount in config.mounts.iter_mut().flatten() {
        let had = before.config.mounts.iter().flatten().next();
        match had.filter(|had| mount.volume.is_none() || had.volume == mount.volume) {
            Some(had) => mount.volume.clone_from(&had.volume),
            None => resolve(call, &app.name, &before.region, mount)?,
        }
    }
    let now_ms = now_ms();
    let lease = lease(call, &asked, now_ms)?;
    let update = Update {
        config,
        current: asked
            .current_version
            .clone()
            .filter(|version| !version.is_empty()),
        version: ids::ulid(now_ms)?,
        skip_launch: asked.skip_launch.unwrap_or(false),
        name: asked.name.clone().filter(|name| !name.is_empty()),
        region: asked.region.first().cloned(),
        secrets_version: Some(secrets_version(call, &app.name, &asked)?),
        cordon: asked.skip_service_registration.unwrap_or(false),
        lease: lease.clone(),
    };
    let updated = call.ask(Request::Update(Box::new(update))).await?;
    Ok(Answer::ok(with_nonce(call, &updated, lease)))
}

pub(super) async fn delete(call: &Call) -> Result<Answer, ApiError> {
    let force = call.flag("force") || call.flag("kill");
    call.ask(Request::Destroy { force }).await?;
    Ok(Answer::done())
}

pub(super) fn events(call: &Call) -> Result<Answer, ApiError> {
    let limit = call.number("limit", 20, 1..=50)?;
    let machine = call.machine()?.now();
    let events: Vec<_> = machine.events.iter().take(limit).collect();
    Ok(Answer::ok(json!(events)))
}

pub(super) fn versions(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    let shown =
        |version: &Version| json!({ "version": version.version, "user_config": version.config.shown() });
    let versions: Vec<Value> = machine.versions.iter().map(shown).collect();
    Ok(Answer::ok(Value::Array(versions)))
}

impl crate::host::Inner {
    /// The machine that has a volume in its config.
    pub(crate) fn attached(&self, volume: &str) -> Option<String> {
        // First those that are being recorded: they are among the others before they are among these no more.
        if let Some(machine) = self.claims.holder(&claims::volume(volume)) {
            return Some(machine);
        }
        let machines = self
            .machines
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let has = |machine: &Arc<Machine>| {
            let mounts = machine.config.mounts.iter().flatten();
            machine.state != State::Destroyed
                && mounts
                    .into_iter()
                    .any(|mount| mount.volume.as_deref() == Some(volume))
        };
        let found = machines
            .values()
            .map(crate::machine::actor::Handle::now)
            .find(has);
        found.map(|machine| machine.id.clone())
    }
}
