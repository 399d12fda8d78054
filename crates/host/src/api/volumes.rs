//! Volumes: made, forked, restored, extended, destroyed; their snapshots.

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::apps::App;
use crate::clock::{now_ms, rfc3339};
use crate::ids;
use crate::volumes::{Snapshot, Volume, VolumeState};

/// Largest volume, GB.
const MAX_GB: u64 = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Create {
    name: Option<String>,
    region: Option<String>,
    size_gb: Option<u64>,
    fstype: Option<String>,
    snapshot_retention: Option<u64>,
    auto_backup_enabled: Option<bool>,
    snapshot_id: Option<String>,
    source_volume_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Update {
    snapshot_retention: Option<u64>,
    auto_backup_enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extend {
    size_gb: Option<u64>,
}

/// A volume as clients see it.
pub(super) fn shown(call: &Call, volume: &Volume) -> Value {
    let attached = call.host().attached(&volume.id);
    let bytes = volume.size_gb.saturating_mul(1 << 30);
    let used = call.host().volumes.bytes_used(&volume.id);
    let free = bytes.saturating_sub(used) / 4_096;
    json!({
        "id": volume.id, "name": volume.name, "state": volume.state.name(), "size_gb": volume.size_gb, "region": volume.region,
        "zone": "host", "encrypted": call.host().volumes.are_encrypted(), "attached_machine_id": attached, "attached_alloc_id": attached,
        "created_at": rfc3339(volume.created_ms), "blocks": bytes / 4_096, "block_size": 4_096, "blocks_free": free,
        "blocks_avail": free, "bytes_total": bytes, "bytes_used": used, "fstype": volume.fstype,
        "snapshot_retention": volume.snapshot_retention, "auto_backup_enabled": volume.auto_backup_enabled, "host_status": "ok",
        "type": "local",
    })
}

fn retention(days: Option<u64>) -> Result<u64, ApiError> {
    match days.unwrap_or(5) {
        days @ 1..=60 => Ok(days),
        _ => Err(ApiError::invalid("snapshot_retention is 1 to 60 days")),
    }
}

pub(super) fn list(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let all = call
        .host()
        .volumes
        .list(|volume| volume.app == app.name && volume.state != VolumeState::Destroyed);
    let rows: Vec<Value> = all.iter().map(|volume| shown(call, volume)).collect();
    Ok(Answer::ok(Value::Array(rows)))
}

fn named(call: &Call) -> Result<Volume, ApiError> {
    let app = call.app()?;
    let found = call.host().volumes.get(&app.name, call.param("volume_id"));
    found.ok_or_else(|| ApiError::not_found("volume not found"))
}

pub(super) fn show(call: &Call) -> Result<Answer, ApiError> {
    Ok(Answer::ok(shown(call, &named(call)?)))
}

pub(super) async fn create(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app()?;
    let asked: Create = call.body()?;
    let name = asked.name.unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > 30 || !name.bytes().all(plain) {
        return Err(ApiError::invalid("name is 1 to 30 of a-z, 0-9 and _"));
    }
    let regions: Vec<String> = asked
        .region
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::to_owned)
        .filter(|text| !text.is_empty())
        .collect();
    let region = super::machines::region(call, &regions)?;
    let source = source(
        call,
        &app,
        asked.snapshot_id.as_deref(),
        asked.source_volume_id.as_deref(),
    )
    .await?;
    let least = source.as_ref().map_or(1, |source| source.size_gb);
    let size_gb = asked.size_gb.filter(|size| *size > 0).unwrap_or(least.max(3));
    if !(least..=MAX_GB).contains(&size_gb) {
        return Err(ApiError::invalid(format!("size_gb is {least} to {MAX_GB}")));
    }
    let fstype = asked.fstype.unwrap_or_else(|| "ext4".to_owned());
    if fstype != "ext4" {
        return Err(ApiError::invalid(
            "fstype is ext4, by which a directory of the host is meant here",
        ));
    }
    let now_ms = now_ms();
    let volume = Volume {
        id: ids::volume()?,
        app: app.name.clone(),
        org: app.org.clone(),
        name,
        region,
        size_gb,
        state: match &source {
            Some(source) if source.is_elsewhere => VolumeState::Restoring,
            _ => VolumeState::Creating,
        },
        encrypted: call.host().volumes.are_encrypted(),
        fstype,
        snapshot_retention: retention(asked.snapshot_retention)?,
        auto_backup_enabled: asked.auto_backup_enabled.unwrap_or(true),
        created_ms: now_ms,
        updated_ms: now_ms,
        origin: source.map(|source| source.id),
        snapshots: Vec::new(),
    };
    let volume = call
        .host()
        .volumes
        .create(volume)
        .await
        .map_err(|error| failed(&error))?;
    Ok(Answer::ok(shown(call, &volume)))
}

fn failed(error: &crate::volumes::VolumeError) -> ApiError {
    ApiError::new(
        http::StatusCode::INTERNAL_SERVER_ERROR,
        format!("internal: {}", crate::machine::effects::chain(error)),
    )
}

/// What a volume is made from.
struct Source {
    /// Its place among the volumes' content, or among the backups.
    id: String,
    size_gb: u64,
    is_elsewhere: bool,
}

async fn source(
    call: &Call,
    app: &App,
    snapshot: Option<&str>,
    volume: Option<&str>,
) -> Result<Option<Source>, ApiError> {
    let host = call.host();
    match (snapshot, volume) {
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "give snapshot_id or source_volume_id, not both",
        )),
        (Some(id), None) => {
            let all = host.volumes.list(|volume| volume.app == app.name);
            let is_meant = |snapshot: &&Snapshot| snapshot.id == id && snapshot.is_whole();
            let here = all.iter().flat_map(|volume| &volume.snapshots).find(is_meant);
            match here {
                Some(snapshot) => Ok(Some(Source {
                    id: id.to_owned(),
                    size_gb: snapshot.size_gb,
                    is_elsewhere: snapshot.is_elsewhere,
                })),
                None => backed_up(call, app, id).await.map(Some),
            }
        }
        (None, Some(id)) => {
            let found = host
                .volumes
                .get(&app.name, id)
                .filter(|volume| volume.state.is_usable());
            let found = found.ok_or_else(|| ApiError::not_found("volume not found"))?;
            Ok(Some(Source {
                id: found.id,
                size_gb: found.size_gb,
                is_elsewhere: false,
            }))
        }
        (None, None) => Ok(None),
    }
}

/// A snapshot of this app that is among the backups: of this host, or of another one with the same backups.
async fn backed_up(call: &Call, app: &App, id: &str) -> Result<Source, ApiError> {
    let not_found = || ApiError::not_found("snapshot not found");
    let backups = call.host().volumes.backups().filter(|_| ids::is_snapshot(id));
    let found = backups.ok_or_else(not_found)?.find(&app.org, &app.name, id).await;
    let found = found.map_err(|error| {
        let text = format!("unavailable: {}", crate::machine::effects::chain(&error));
        ApiError::new(http::StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let size_gb = found.ok_or_else(not_found)?;
    Ok(Source {
        id: id.to_owned(),
        size_gb,
        is_elsewhere: true,
    })
}

pub(super) async fn update(call: &Call) -> Result<Answer, ApiError> {
    let volume = named(call)?;
    let asked: Update = call.body()?;
    let days = asked
        .snapshot_retention
        .map(|days| retention(Some(days)))
        .transpose()?;
    let volume = changed(call, &volume, |volume| {
        volume.snapshot_retention = days.unwrap_or(volume.snapshot_retention);
        volume.auto_backup_enabled = asked.auto_backup_enabled.unwrap_or(volume.auto_backup_enabled);
    })
    .await?;
    Ok(Answer::ok(shown(call, &volume)))
}

/// Changes a volume; 404 where it went meanwhile.
async fn changed(call: &Call, volume: &Volume, change: impl FnOnce(&mut Volume)) -> Result<Volume, ApiError> {
    let changed = call
        .host()
        .volumes
        .change(&volume.id, |volume| {
            change(volume);
            volume.updated_ms = now_ms();
        })
        .await?;
    changed.ok_or_else(|| ApiError::not_found("volume not found"))
}

pub(super) async fn delete(call: &Call) -> Result<Answer, ApiError> {
    let volume = named(call)?;
    if let Some(machine) = call.host().attached(&volume.id) {
        let text = format!("volume is currently bound to machine: {machine}; destroy that one first");
        return Err(ApiError::precondition(text));
    }
    let volume = changed(call, &volume, |volume| volume.state = VolumeState::PendingDestroy).await?;
    Ok(Answer::ok(shown(call, &volume)))
}

pub(super) async fn extend(call: &Call) -> Result<Answer, ApiError> {
    let volume = named(call)?;
    let asked: Extend = call.body()?;
    let size_gb = asked.size_gb.unwrap_or(0);
    if !(volume.size_gb..=MAX_GB).contains(&size_gb) {
        return Err(ApiError::invalid(format!(
            "size_gb is {} to {MAX_GB}: volumes only grow",
            volume.size_gb
        )));
    }
    // Two at once: the larger one stands.
    let volume = changed(call, &volume, |volume| {
        volume.size_gb = volume.size_gb.max(size_gb);
    })
    .await?;
    Ok(Answer::ok(
        json!({ "volume": shown(call, &volume), "needs_restart": false }),
    ))
}

fn shown_snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id, "size": snapshot.bytes, "volume_size": snapshot.size_gb.saturating_mul(1 << 30), "digest": "",
        "created_at": rfc3339(snapshot.created_ms), "status": snapshot.status, "retention_days": snapshot.retention_days,
    })
}

pub(super) fn snapshots(call: &Call) -> Result<Answer, ApiError> {
    let volume = named(call)?;
    let rows: Vec<Value> = volume.snapshots.iter().map(shown_snapshot).collect();
    Ok(Answer::ok(Value::Array(rows)))
}

pub(super) async fn snapshot(call: &Call) -> Result<Answer, ApiError> {
    let volume = named(call)?;
    if volume.snapshots.len() >= 100 {
        return Err(ApiError::precondition("a volume has 100 snapshots at most"));
    }
    let id = ids::snapshot()?;
    let snapshot = call
        .host()
        .volumes
        .snapshot(&volume, &id, now_ms(), false)
        .await
        .map_err(|error| failed(&error))?;
    // Clients read the id in the one place or the other.
    let mut answer = shown_snapshot(&snapshot);
    if let Some(answer) = answer.as_object_mut() {
        answer.insert(
            "Msg".to_owned(),
            json!({ "backup": {"graph_id": id, "status": snapshot.status} }),
        );
    }
    Ok(Answer::ok(answer))
}
