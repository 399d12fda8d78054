//! A class onto a vehicle: two apps, one whose machine is the class's door, and one for the instances' machines, which that door makes.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use suijuris_core::class::Source;
use suijuris_core::class::founder::{Appointment, MAX_TERM, SignedAppointment};
use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::key::{Domain, SecretKey};
use suijuris_core::manifest::Protocol;
use suijuris_core::ticket::VERSION;
use suijuris_core::time::Span;
use zeroize::Zeroizing;

use super::class_door::{self, Config};
use super::machine::MARK;
use super::{Deployment, Event, id_of, is_name};
use crate::build::ObjectImage;
use crate::{Answer, Usage, clock, owner, terminal};

/// A door is appointed for a little less than it may be at most: clocks differ.
const TERM: Span = Span(MAX_TERM.0 - 86_400_000);
/// Metadata of a door's machine: what its token is called, and those of doors before it that are still good.
const TOKEN_OF_DOOR: &str = "suijuris_token";
const EARLIER_TOKENS: &str = "suijuris_tokens_before";
/// Tokens that are taken back at once.
const MOST_TOKENS: usize = 16;
/// How long the token of a door is good, as the vehicle is asked.
const TOKEN_FOR: &str = "8760h";

impl Deployment<'_> {
    /// The app of the instances' machines.
    fn instances(&self) -> String {
        format!("{}-objects", self.app)
    }

    /// Deploys the door of a class; instances come with their first permitted use.
    pub(super) async fn class(&self, image: &ObjectImage) -> anyhow::Result<Answer> {
        let class = image.built.manifest.class.as_ref().context("it is no class")?;
        let named = |source: &Source| {
            matches!(
                source,
                Source::Host | Source::Header(_) | Source::Claim(_) | Source::ClientCert
            )
        };
        if !class.from.iter().any(named) || image.built.manifest.gate.protocol != Protocol::Http {
            let why = "a class is deployed with a door that reads HTTP: let class.from name host, header NAME, claim NAME or client_cert, and gate.protocol be http";
            return Err(Usage(why.to_owned()).into());
        }
        let instances = self.instances();
        for app in [self.app.as_str(), &instances] {
            self.app(app).await?;
            self.replay_key(app).await?;
        }
        let reference = self.image(image, &self.app).await?;
        let entrypoint = door_entrypoint(image)?;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        let key = SecretKey::from_seed(&seed);
        let config = Config {
            app: instances.clone(),
            image: reference.clone(),
            entrypoint: image.layers.entrypoint.clone(),
            region: self.region.clone(),
            volume_gb: self.args.volume_size,
            port: self.args.internal_port,
            autostop: self.args.autostop.clone(),
            depot: self.args.depot.clone(),
            appointment: self.appointment(image, &key)?,
        };
        let (token, id) = self.door_token(&instances).await?;
        let secrets = json!({ "values": {
            class_door::KEY: URL_SAFE_NO_PAD.encode(seed.as_slice()),
            class_door::TOKEN: token.as_str(),
        } });
        let path = format!("/apps/{}/secrets", self.app);
        let set = self.vehicle.call(Method::POST, &path, Some(&secrets)).await?;
        set.good("the door's secrets cannot be set")?;
        let mut machine = class_door::machine(&reference, &config, &self.args.autostop)?;
        if let Some(machine) = machine.as_object_mut() {
            machine.insert("init".to_owned(), json!({ "exec": entrypoint }));
        }
        let machine = self.door_machine(machine, id.as_deref()).await?;
        let url = self.url();
        self.tell(&Event::Class {
            app: &self.app,
            instances: &instances,
            machine: &machine,
            url: &url,
        })?;
        Ok(Answer::Yes)
    }

    /// What owners sign of the door.
    fn appointment(&self, image: &ObjectImage, door: &SecretKey) -> anyhow::Result<String> {
        let (keys, controllers, threshold) = self.owners(image)?;
        // One class for an owner, an app and a name, however often it is deployed.
        let asked = format!("class {} of {}", image.built.manifest.name, self.instances());
        let signed = owner::owner_key()?.sign(Domain::Replay, asked.as_bytes());
        let digest = Digest::of_parts(&[b"suijuris/v1/class-nonce", &signed.0]).0;
        let mut nonce = [0; 16];
        nonce.copy_from_slice(digest.get(..16).unwrap_or_default());
        let appointment = Appointment {
            v: VERSION,
            bundle: image.built.id,
            app: self.instances(),
            name: image.built.manifest.name.clone(),
            nonce,
            controllers,
            threshold,
            door: door.public(),
            expires: clock::reading()?.wall.saturating_add(TERM),
        };
        let signatures: Result<Vec<_>, _> = keys.iter().map(|key| appointment.sign(key)).collect();
        let signed = SignedAppointment {
            appointment,
            signatures: signatures?,
        };
        Ok(URL_SAFE_NO_PAD.encode(codec::encode(&signed)?))
    }

    /// A token that reaches the instances' app and nothing else.
    async fn door_token(&self, app: &str) -> anyhow::Result<(Zeroizing<String>, Option<String>)> {
        let path = format!("/apps/{app}/deploy_token");
        let asked = json!({ "expiry": TOKEN_FOR });
        let made = self.vehicle.call(Method::POST, &path, Some(&asked)).await?;
        let made = made.good("a token for the door cannot be made")?;
        let text = |key: &str| made.get(key).and_then(Value::as_str).map(str::to_owned);
        let token = text("token").context("the vehicle's answer has no token")?;
        // A vehicle that says what the token is called takes it back by that.
        Ok((Zeroizing::new(token), text("id").filter(|id| is_name(id))))
    }

    /// Takes back the tokens of doors that are no more, and forgets each that is gone.
    async fn take_back(&self, door: &str, tokens: &[String]) -> anyhow::Result<()> {
        let mut gone = true;
        for token in tokens {
            let path = format!("/apps/{}/deploy_token/{token}", self.instances());
            let revoked = self.vehicle.call(Method::DELETE, &path, None).await;
            gone &= revoked.is_ok_and(|answer| [204, 404].contains(&answer.status));
        }
        if gone {
            let path = format!("/apps/{}/machines/{door}/metadata/{EARLIER_TOKENS}", self.app);
            let forgotten = self.vehicle.call(Method::DELETE, &path, None).await?;
            forgotten.good("what the door's machine says of earlier tokens cannot be removed")?;
        } else {
            terminal::note("the token of the door before is still good: deploy again to take it back");
        }
        Ok(())
    }

    /// The door's machine, made or given its new config; the tokens of earlier doors are good until it runs, and no longer.
    async fn door_machine(&self, mut config: Value, token: Option<&str>) -> anyhow::Result<String> {
        let path = format!("/apps/{}/machines", self.app);
        let found = self.vehicle.call(Method::GET, &path, None).await?;
        let found = found.good("machines cannot be listed")?;
        let is_door = |machine: &&Value| {
            let mark = machine.pointer(&format!("/config/metadata/{MARK}"));
            mark.and_then(Value::as_str) == Some("door")
        };
        let old = found.as_array().into_iter().flatten().find(is_door);
        let earlier = old.map(tokens_of).unwrap_or_default();
        if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.extend(token.map(|token| (TOKEN_OF_DOOR.to_owned(), json!(token))));
            if !earlier.is_empty() {
                metadata.insert(EARLIER_TOKENS.to_owned(), json!(earlier.join(",")));
            }
        }
        let mut body = json!({ "config": config });
        let path = match old {
            Some(machine) => format!("{path}/{}", id_of(machine, "machine")?),
            None => {
                self.in_region(&mut body);
                path
            }
        };
        let made = self.vehicle.call(Method::POST, &path, Some(&body)).await?;
        let id = id_of(&made.good("the door's machine cannot be made")?, "machine")?;
        self.vehicle.started(&self.app, &id).await?;
        match (earlier.as_slice(), old) {
            ([], Some(_)) => terminal::note(
                "the token of the door before is not known by name, and stays good for a year from when it was made: revoke it at the vehicle",
            ),
            ([], None) => {}
            (earlier, _) => self.take_back(&id, earlier).await?,
        }
        self.tell(&Event::Machine {
            machine: &id,
            made: old.is_none(),
            state: "started",
        })?;
        Ok(id)
    }
}

/// What a door's machine says of the tokens that it and those before it had.
fn tokens_of(machine: &Value) -> Vec<String> {
    let of = |key: &str| {
        machine
            .pointer(&format!("/config/metadata/{key}"))
            .and_then(Value::as_str)
    };
    let known = [of(TOKEN_OF_DOOR), of(EARLIER_TOKENS)].into_iter().flatten();
    let all = known.flat_map(|ids| ids.split(',')).filter(|id| is_name(id));
    all.take(MOST_TOKENS).map(str::to_owned).collect()
}

/// What starts the door in the same image.
fn door_entrypoint(image: &ObjectImage) -> anyhow::Result<Vec<String>> {
    let mut entrypoint = image.layers.entrypoint.clone();
    match entrypoint.iter_mut().rfind(|word| *word == "__init") {
        Some(role) => "__class-door".clone_into(role),
        None => bail!(
            "the runtime that would go into the image is suijuris-init, which is no door: deploy a class with a `suijuris` that has none beside it, and --dynamic where it is not static"
        ),
    }
    Ok(entrypoint)
}
