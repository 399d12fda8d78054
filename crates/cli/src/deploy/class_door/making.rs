//! An instance of a class is made: volume, machine, and the object that begins there. What is there already is gone on with, so that a door
//! that dies in between leaves nothing that is made twice.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use suijuris_core::ObjectId;
use suijuris_core::class::Instantiation;
use suijuris_core::class::founder::FirstWord;
use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::ticket;
use suijuris_core::time::Span;

use super::{ClassAtDoor, Instance, OF_KEY, OF_OBJECT};
use crate::deploy::id_of;
use crate::deploy::machine::Wanted;

/// A first word is good for a little less than it may be at most: clocks differ.
const GOOD_FOR: Span = Span(ticket::MAX_LIFETIME.0 - 60_000);
/// How long an instance may take to begin.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl ClassAtDoor {
    /// The volume, the machine, and the object that has begun there; what is there already is gone on with.
    pub(super) async fn make(&self, instance: Instantiation) -> anyhow::Result<Instance> {
        let key = instance.key.as_str().to_owned();
        let machines = self.machines().await?;
        let of_key = |machine: &&Value| {
            let found = machine.pointer(&format!("/config/metadata/{OF_KEY}"));
            found.and_then(Value::as_str) == Some(&key)
        };
        let old = machines.iter().find(of_key);
        let volume = self.volume(&key).await?;
        let word = FirstWord {
            by: self.appointed.clone(),
            instance,
            volume: volume.clone(),
            expires: self.clock.reading().wall.saturating_add(GOOD_FOR),
        };
        let word = URL_SAFE_NO_PAD.encode(codec::encode(&word.sign(&self.key)?)?);
        let wanted = Wanted {
            image: &self.config.image,
            volume: &volume,
            ticket: &word,
            depot: self.config.depot.as_deref(),
            bundle: &self.bundle,
            protocol: self.protocol,
            port: self.config.port,
            autostop: &self.config.autostop,
            amend: None,
        };
        let mut config = wanted.config();
        if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert(OF_KEY.to_owned(), json!(key));
        }
        let path = match old {
            Some(machine) => self.path(&format!("machines/{}", id_of(machine, "machine")?)),
            None => self.path("machines"),
        };
        let mut body = json!({ "config": config });
        if let (None, Some(region), Some(body)) = (old, &self.config.region, body.as_object_mut()) {
            body.insert("region".to_owned(), json!(region));
        }
        let made = self.api.call(Method::POST, &path, Some(&body)).await?;
        let machine = id_of(&made.good("the machine cannot be made")?, "machine")?;
        self.api.started(&self.config.app, &machine).await?;
        let object = self.begun(&machine).await?;
        let path = self.path(&format!("machines/{machine}/metadata/{OF_OBJECT}"));
        let value = json!({ "value": object.to_string() });
        let noted = self.api.call(Method::POST, &path, Some(&value)).await?;
        noted.good("the machine's object cannot be noted")?;
        Ok(Instance { machine, object })
    }

    /// The volume of a key, made where there is none: its name says whose it is.
    async fn volume(&self, key: &str) -> anyhow::Result<String> {
        let digest = Digest::of_parts(&[b"suijuris/v1/volume", key.as_bytes()]);
        let name: String = digest
            .0
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = format!("i_{name}");
        let path = self.path("volumes");
        let found = self.api.call(Method::GET, &path, None).await?;
        let found = found.good("volumes cannot be listed")?;
        let is_ours = |volume: &&Value| {
            let text = |key| volume.get(key).and_then(Value::as_str);
            text("name") == Some(&name) && !text("state").is_some_and(|state| state.contains("destroy"))
        };
        if let Some(volume) = found.as_array().into_iter().flatten().find(is_ours) {
            return self.usable(volume).await;
        }
        let mut body = json!({ "name": name, "size_gb": self.config.volume_gb });
        if let (Some(region), Some(body)) = (&self.config.region, body.as_object_mut()) {
            body.insert("region".to_owned(), json!(region));
        }
        let made = self.api.call(Method::POST, &path, Some(&body)).await?;
        self.usable(&made.good("the volume cannot be made")?).await
    }

    /// The id of a volume, once a machine may have it: one that an earlier door asked for may still be on its way.
    async fn usable(&self, volume: &Value) -> anyhow::Result<String> {
        let id = id_of(volume, "volume")?;
        let is_ready = |volume: &Value| {
            let state = volume.get("state").and_then(Value::as_str);
            state.is_none_or(|state| state == "created")
        };
        let path = self.path(&format!("volumes/{id}"));
        let deadline = Instant::now() + BEGUN_WITHIN;
        let mut ready = is_ready(volume);
        while !ready {
            anyhow::ensure!(Instant::now() < deadline, "volume {id} is not made in time");
            tokio::time::sleep(LOOK_AGAIN).await;
            let found = self.api.call(Method::GET, &path, None).await?;
            ready = is_ready(&found.good("the volume cannot be looked at")?);
        }
        Ok(id)
    }

    /// The object that has begun in the machine.
    async fn begun(&self, machine: &str) -> anyhow::Result<ObjectId> {
        let command: Vec<&str> = self.config.entrypoint.iter().map(String::as_str).collect();
        let command = [&command[..], &["--identify"]].concat();
        let body = json!({ "command": command, "timeout": 10 });
        let path = self.path(&format!("machines/{machine}/exec"));
        let deadline = Instant::now() + BEGUN_WITHIN;
        loop {
            let answer = self.api.call(Method::POST, &path, Some(&body)).await?;
            if answer.status == 412 {
                self.api.started(&self.config.app, machine).await?;
            }
            let said = answer
                .body
                .get("stdout")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let said: Value = serde_json::from_str(said).unwrap_or_default();
            if let Some(object) = said.get("object").and_then(Value::as_str) {
                return Ok(object.parse()?);
            }
            if Instant::now() > deadline {
                let why = answer.body.get("stderr").or_else(|| answer.body.get("error"));
                anyhow::bail!(
                    "machine {machine} is up and no object has begun in it: {}",
                    why.and_then(Value::as_str).unwrap_or("its log says more")
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
