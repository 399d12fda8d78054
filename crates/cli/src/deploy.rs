//! `deploy`: an object onto a vehicle that carries machines: Fly, or a host of ours.
//!
//! Each step looks first at what is there, so that it can be done again: the same app, volume and machine, and so the same object.

mod class;
pub(crate) mod class_door;
mod client;
mod machine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use suijuris_core::codec;
use suijuris_core::id::{BundleId, Digest};
use suijuris_core::key::{Domain, PublicKey, SecretKey};
use suijuris_core::lineage::Head;
use suijuris_core::ticket::{MAX_LIFETIME, MAX_NAME, SignedTicket, Ticket, VERSION};
use suijuris_core::time::Span;
use suijuris_oci::{Options, Registry, Transport};
use zeroize::Zeroizing;

use self::client::Vehicle;
use self::machine::{MARK, VOLUME_NAME, Wanted};
use crate::approval::{self, Matter};
use crate::build::{self, ObjectImage};
use crate::{Answer, Usage, clock, images, oci, owner, terminal};

/// A ticket is good for a little less than it may be at most: clocks differ.
const GOOD_FOR: Span = Span(MAX_LIFETIME.0 - 60_000);
/// Secret of apps, and variable of machines, with the key of replays.
const REPLAY_KEY: &str = "SUIJURIS_REPLAY_KEY";
/// Size of a head at most, bytes.
const MAX_HEAD: usize = 64 << 10;
/// How often a machine is asked whether its object has begun.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long it may take to begin.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// Deploy an object onto Fly or a host of your own, as a machine that carries it by itself
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Builds the image (see `build`), pushes it to the vehicle's registry, and makes what is not there yet: the
app, its volume `object`, the machine. You sign a ticket, good for 14 minutes, by which the object begins on
that volume. Again, it updates the machine in place: the same object. The token is read from
SUIJURIS_TOKEN, FLY_API_TOKEN or a file. app and primary_region of a fly.toml in DIR are the defaults.

Exit codes: 0 it is there, 1 the object refuses the changed definition, 2 usage, 3 it cannot be built or the vehicle refuses.

Example:
  SUIJURIS_TOKEN=… suijuris deploy shop --vehicle http://127.0.0.1:4280 --app shop --region fra
  FLY_API_TOKEN=… suijuris deploy shop --vehicle fly --app shop --region fra")]
pub(crate) struct Args {
    /// Object's directory
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// `fly`, or the base URL of a Machines API
    #[arg(long, value_name = "URL", required_unless_present = "emit_fly_toml")]
    vehicle: Option<String>,
    /// App; made where there is none
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Region of volume and machine
    #[arg(long, value_name = "CODE")]
    region: Option<String>,
    /// Organization that an app is made in
    #[arg(long, value_name = "SLUG", default_value = "personal")]
    org: String,
    /// Size of a volume that is made, GiB
    #[arg(long, value_name = "GB", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    volume_size: u32,
    /// An image that `build` made and that the vehicle can pull, instead of building and pushing one
    #[arg(long, value_name = "REF", conflicts_with = "layout")]
    image: Option<String>,
    /// Write the image as a layout there instead of pushing it, for a host with that --oci-root
    #[arg(long, value_name = "OUT")]
    layout: Option<PathBuf>,
    /// Image to build on, where the definition names none
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// Take a runtime that is linked dynamically too, with its libraries
    #[arg(long)]
    dynamic: bool,
    /// Depot that the machine reaches, where heads are witnessed and tickets spent
    #[arg(long, value_name = "URL")]
    depot: Option<String>,
    /// What the platform does when nobody comes; the object falls asleep by its own rules anyway
    #[arg(long, value_name = "WHAT", default_value = "off", value_parser = ["off", "stop", "suspend"])]
    autostop: String,
    /// Port that the gate listens on in the machine
    #[arg(long, value_name = "PORT", default_value_t = build::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    internal_port: u16,
    /// File with the key by which apps prove to each other which object a replayed request is for, 32 bytes in base64url; else one that
    /// all apps of your owner's key in the org have
    #[arg(long, value_name = "FILE")]
    replay_key_file: Option<PathBuf>,
    /// What another owner's `suijuris approve` wrote of the changed definition; may be given several times
    #[arg(long = "approval", value_name = "FILE")]
    approvals: Vec<PathBuf>,
    /// Key of another owner, where several sign; may be given several times
    #[arg(long, value_name = "FILE")]
    owner_key: Vec<PathBuf>,
    /// File with the vehicle's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Write a fly.toml that says the same, and deploy nothing
    #[arg(long, value_name = "FILE")]
    emit_fly_toml: Option<PathBuf>,
    /// Print events as JSON lines
    #[arg(long)]
    json: bool,
}

/// What happens, a line each.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    App {
        app: &'a str,
        made: bool,
    },
    Image {
        image: &'a str,
        digest: &'a str,
        bundle: &'a str,
    },
    Volume {
        volume: &'a str,
        made: bool,
    },
    Machine {
        machine: &'a str,
        made: bool,
        state: &'a str,
    },
    Amended {
        bundle: &'a str,
        taken: bool,
    },
    Class {
        app: &'a str,
        instances: &'a str,
        machine: &'a str,
        url: &'a str,
    },
    Deployed {
        app: &'a str,
        machine: &'a str,
        volume: &'a str,
        object: Option<&'a str>,
        url: &'a str,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let toml = FlyToml::read(&args.dir)?;
    let app = args.app.clone().or(toml.app);
    let Some(app) = app.filter(|app| is_name(app)) else {
        let why = "name the app with --app, or in fly.toml: letters, digits and hyphens";
        return Err(Usage(why.to_owned()).into());
    };
    let region = args.region.clone().or(toml.primary_region);
    if let Some(file) = &args.emit_fly_toml {
        images::pin_blocking(&args.dir, images::Lookup::All)?;
        let protocol = build::definition(&args.dir)?.manifest.gate.protocol;
        let text = machine::fly_toml(
            &app,
            region.as_deref(),
            (protocol, args.internal_port),
            &args.autostop,
        );
        std::fs::write(file, text).with_context(|| format!("`{}` cannot be written", file.display()))?;
        return Ok(Answer::Yes);
    }
    let named = args.vehicle.as_deref().unwrap_or_default();
    let vehicle = Vehicle::new(named, args.token_file.as_deref())?;
    let deployment = Deployment {
        args,
        app,
        region,
        vehicle,
    };
    images::runtime()?.block_on(deployment.run())
}

/// What of a `fly.toml` matters here; everything else is Fly's tools'.
#[derive(Debug, Default, serde::Deserialize)]
struct FlyToml {
    app: Option<String>,
    primary_region: Option<String>,
}

impl FlyToml {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("fly.toml");
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = suijuris_oci::file::bytes(&path, 1 << 20)?;
        let text = String::from_utf8(bytes).with_context(|| format!("`{}` is no text", path.display()))?;
        toml::from_str(&text).with_context(|| format!("`{}` cannot be read", path.display()))
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
}

struct Deployment<'a> {
    args: &'a Args,
    app: String,
    region: Option<String>,
    vehicle: Vehicle,
}

impl Deployment<'_> {
    async fn run(&self) -> anyhow::Result<Answer> {
        let image = build::image(&self.args.dir, self.args.base.as_deref(), self.args.dynamic).await?;
        if image.built.manifest.class.is_some() {
            return self.class(&image).await;
        }
        self.app(&self.app).await?;
        self.replay_key(&self.app).await?;
        let reference = self.image(&image, &self.app).await?;
        let volume = self.volume().await?;
        let bundle = image.built.id.to_string();
        let ticket = self.ticket(&image, &volume)?;
        let wanted = Wanted {
            image: &reference,
            volume: &volume,
            ticket: &ticket,
            depot: self.args.depot.as_deref(),
            bundle: &bundle,
            protocol: image.built.manifest.gate.protocol,
            port: self.args.internal_port,
            autostop: &self.args.autostop,
            amend: None,
        };
        let machine = self.machine(&volume, &wanted.config()).await?;
        let entrypoint = &image.layers.entrypoint;
        let said = self.begun(&machine, entrypoint).await?;
        let taken = match said.as_ref().and_then(head_of) {
            Some(head) if head.bundle != image.built.id => {
                self.amended(&head, image.built.id, (&machine, wanted), entrypoint)
                    .await?
            }
            _ => true,
        };
        let object = said
            .as_ref()
            .and_then(|said| said.get("object"))
            .and_then(Value::as_str);
        let url = self.url();
        self.tell(&Event::Deployed {
            app: &self.app,
            machine: &machine,
            volume: &volume,
            object,
            url: &url,
        })?;
        Ok(if taken { Answer::Yes } else { Answer::No })
    }

    /// Proposes the definition to the object in the machine, which goes by another: approved here, decided there by the rules
    /// in force, when its machine starts again. Whether it takes it.
    async fn amended(
        &self,
        head: &Head,
        to: BundleId,
        (machine, wanted): (&str, Wanted<'_>),
        entrypoint: &[String],
    ) -> anyhow::Result<bool> {
        let matter = Matter::Amend(to);
        let mut approvals =
            approval::gather(&matter, head, &self.args.approvals, Some(&owner::owner_key()?))?;
        for file in &self.args.owner_key {
            approvals.extend(approval::gather(
                &matter,
                head,
                &[],
                Some(&owner::key(Some(file))?),
            )?);
        }
        if let Err(found) = approval::enough(&matter, head, &approvals) {
            bail!(
                "{found} of the {} owners needed approve the definition: name their keys with --owner-key, or what `suijuris approve` wrote with --approval; the object stays as it is",
                head.threshold
            );
        }
        let text = URL_SAFE_NO_PAD.encode(codec::encode(&approvals)?);
        let proposed = Wanted {
            amend: Some(&text),
            ..wanted
        };
        self.machine(proposed.volume, &proposed.config()).await?;
        // The object can be asked who it is before it has dealt with what is proposed.
        let deadline = tokio::time::Instant::now() + BEGUN_WITHIN;
        let said = loop {
            let said = self.begun(machine, entrypoint).await?;
            let dealt_with = said.as_ref().and_then(|said| said.get("proposed"));
            let is_late = tokio::time::Instant::now() > deadline;
            if said.is_none() || dealt_with.and_then(Value::as_str) == Some(&text) || is_late {
                break said;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let taken = said
            .as_ref()
            .and_then(head_of)
            .is_some_and(|head| head.bundle == to);
        if !taken {
            // What it has refused is not proposed again at each start.
            let back = Wanted {
                amend: None,
                ..proposed
            };
            self.machine(back.volume, &back.config()).await?;
        }
        let bundle = to.to_string();
        self.tell(&Event::Amended {
            bundle: &bundle,
            taken,
        })?;
        Ok(taken)
    }

    /// The app, made where there is none.
    async fn app(&self, app: &str) -> anyhow::Result<()> {
        let path = format!("/apps/{app}");
        let found = self.vehicle.call(Method::GET, &path, None).await?;
        let made = found.status == 404;
        if made {
            let body = json!({ "app_name": app, "name": app, "org_slug": self.args.org });
            let answer = self.vehicle.call(Method::POST, "/apps", Some(&body)).await?;
            answer.good("the app cannot be made")?;
        } else {
            found.good("the app cannot be looked at")?;
        }
        self.tell(&Event::App { app, made })
    }

    /// Sees to it that the app has the key by which apps of one owner prove to each other which object a request is for.
    async fn replay_key(&self, app: &str) -> anyhow::Result<()> {
        let path = format!("/apps/{app}/secrets");
        let given = match &self.args.replay_key_file {
            Some(file) => {
                let bytes = Zeroizing::new(suijuris_oci::file::bytes(file, 1 << 10)?);
                let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
                let sound = URL_SAFE_NO_PAD.decode(text).is_ok_and(|key| key.len() == 32);
                if !sound {
                    bail!(
                        "`{}` is not a key of replays: 32 bytes in base64url",
                        file.display()
                    );
                }
                Some(Zeroizing::new(text.to_owned()))
            }
            None => None,
        };
        let listed = self.vehicle.call(Method::GET, &path, None).await?;
        let listed = listed.good("the app's secrets cannot be listed")?;
        let names = listed
            .get("secrets")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let mut names = names.filter_map(|secret| secret.get("name").and_then(Value::as_str));
        if names.any(|name| name == REPLAY_KEY) && given.is_none() {
            return Ok(());
        }
        let key = match given {
            Some(key) => key,
            None => {
                // The same for all apps that this owner has in the org, and nothing that anybody else can make.
                let asked = format!("key of replays in {}", self.args.org);
                let signed = owner::owner_key()?.sign(Domain::Replay, asked.as_bytes());
                Zeroizing::new(URL_SAFE_NO_PAD.encode(Digest::of_parts(&[&signed.0]).0))
            }
        };
        let body = json!({ "values": { REPLAY_KEY: key.as_str() } });
        let answer = self.vehicle.call(Method::POST, &path, Some(&body)).await?;
        answer.good("the app's key of replays cannot be set").map(drop)
    }

    /// Has the image where the vehicle takes it from; how that is called.
    async fn image(&self, image: &ObjectImage, app: &str) -> anyhow::Result<String> {
        let digest = image.build.image()?.digest();
        let reference = match (&self.args.image, &self.args.layout) {
            (Some(named), _) => named.clone(),
            (None, Some(out)) => {
                if !out.exists() {
                    image.write(Some(out)).await?;
                }
                let here = out.canonicalize()?;
                format!("oci:{}", here.display())
            }
            (None, None) => self.push(image, &digest.hex(), app).await?,
        };
        let bundle = image.built.id.to_string();
        let digest = digest.to_string();
        self.tell(&Event::Image {
            image: &reference,
            digest: &digest,
            bundle: &bundle,
        })?;
        Ok(reference)
    }

    async fn push(&self, image: &ObjectImage, digest: &str, app: &str) -> anyhow::Result<String> {
        let tag = digest.get(..16).unwrap_or(digest);
        let text = format!("{}/{app}:{tag}", self.vehicle.registry);
        let to = oci::reference(&text)?;
        let options = Options {
            credentials: self.vehicle.credentials(),
            transport: Transport::ByHost,
            ..Options::default()
        };
        let registry = Registry::new(to.host(), options)?;
        let scratch = image.layers.scratch();
        image
            .build
            .push(&registry, &to, scratch)
            .await
            .context("the image cannot be pushed to the vehicle")?;
        Ok(text)
    }

    /// The id of the app's volume for the object, made where there is none.
    async fn volume(&self) -> anyhow::Result<String> {
        let path = format!("/apps/{}/volumes", self.app);
        let found = self
            .vehicle
            .call(Method::GET, &path, None)
            .await?
            .good("volumes cannot be listed")?;
        let is_ours = |volume: &&Value| {
            let text = |key| volume.get(key).and_then(Value::as_str);
            let there = self
                .region
                .as_deref()
                .is_none_or(|region| text("region") == Some(region));
            text("name") == Some(VOLUME_NAME)
                && there
                && !text("state").is_some_and(|state| state.contains("destroy"))
        };
        let old = found.as_array().into_iter().flatten().find(is_ours).cloned();
        let made = old.is_none();
        let volume = match old {
            Some(volume) => volume,
            None => {
                let mut body = json!({ "name": VOLUME_NAME, "size_gb": self.args.volume_size });
                self.in_region(&mut body);
                self.vehicle
                    .call(Method::POST, &path, Some(&body))
                    .await?
                    .good("the volume cannot be made")?
            }
        };
        let id = id_of(&volume, "volume")?;
        self.tell(&Event::Volume { volume: &id, made })?;
        Ok(id)
    }

    fn in_region(&self, body: &mut Value) {
        if let (Some(region), Some(body)) = (&self.region, body.as_object_mut()) {
            body.insert("region".to_owned(), json!(region));
        }
    }

    /// The owner's word by which the object may begin on this volume.
    fn ticket(&self, image: &ObjectImage, volume: &str) -> anyhow::Result<String> {
        let (keys, controllers, threshold) = self.owners(image)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let ticket = Ticket {
            v: VERSION,
            bundle: image.built.id,
            app: self.app.clone(),
            volume: volume.to_owned(),
            nonce,
            controllers,
            threshold,
            expires: clock::reading()?.wall.saturating_add(GOOD_FOR),
        };
        let signatures: Result<Vec<_>, _> = keys.iter().map(|key| ticket.sign(key)).collect();
        let signatures = signatures?;
        Ok(URL_SAFE_NO_PAD.encode(codec::encode(&SignedTicket { ticket, signatures })?))
    }

    /// The keys of owners that are here, and who all owners are.
    fn owners(&self, image: &ObjectImage) -> anyhow::Result<(Vec<SecretKey>, Vec<PublicKey>, u32)> {
        let key = owner::owner_key()?;
        let (controllers, threshold) = match &image.built.controllers {
            Some(declared) => (declared.keys.clone(), declared.threshold),
            None => (vec![key.public()], 1),
        };
        let mut keys = vec![key];
        for file in &self.args.owner_key {
            let other = owner::key(Some(file))?;
            if keys.iter().all(|key| key.public() != other.public()) {
                keys.push(other);
            }
        }
        keys.retain(|key| controllers.contains(&key.public()));
        if u32::try_from(keys.len()).unwrap_or(u32::MAX) < threshold {
            bail!(
                "{threshold} of the object's owners sign its ticket, and {} of their keys are here: name the others' with --owner-key FILE, or yourself with a threshold of 1 in object.toml for the first deployment",
                keys.len()
            );
        }
        Ok((keys, controllers, threshold))
    }

    /// The machine with the object's volume, made or updated, and up; its id.
    async fn machine(&self, volume: &str, config: &Value) -> anyhow::Result<String> {
        let path = format!("/apps/{}/machines", self.app);
        let found = self
            .vehicle
            .call(Method::GET, &path, None)
            .await?
            .good("machines cannot be listed")?;
        let mounts = |machine: &Value| {
            let mounts = machine.pointer("/config/mounts").and_then(Value::as_array);
            mounts
                .into_iter()
                .flatten()
                .any(|mount| mount.get("volume").and_then(Value::as_str) == Some(volume))
        };
        let old = found
            .as_array()
            .into_iter()
            .flatten()
            .find(|machine| mounts(machine));
        let (path, made) = match old {
            Some(machine) => {
                if machine.pointer(&format!("/config/metadata/{MARK}")).is_none() {
                    bail!(
                        "the volume {volume} is mounted by a machine that carries no object: name another app"
                    );
                }
                (format!("{path}/{}", id_of(machine, "machine")?), false)
            }
            None => (path, true),
        };
        let mut body = json!({ "config": config });
        if made {
            self.in_region(&mut body);
        }
        let what = if made {
            "the machine cannot be made"
        } else {
            "the machine cannot be updated"
        };
        let machine = self
            .vehicle
            .call(Method::POST, &path, Some(&body))
            .await?
            .good(what)?;
        let id = id_of(&machine, "machine")?;
        let state = self.vehicle.started(&self.app, &id).await?;
        self.tell(&Event::Machine {
            machine: &id,
            made,
            state: &state,
        })?;
        Ok(id)
    }

    /// The object in the machine, once it has begun; none where the vehicle runs no commands in machines.
    async fn begun(&self, machine: &str, entrypoint: &[String]) -> anyhow::Result<Option<Value>> {
        let path = format!("/apps/{}/machines/{machine}/exec", self.app);
        let command: Vec<&str> = entrypoint
            .iter()
            .map(String::as_str)
            .chain(["--identify"])
            .collect();
        let body = json!({ "command": command, "timeout": 10 });
        let deadline = tokio::time::Instant::now() + BEGUN_WITHIN;
        loop {
            let answer = self.vehicle.call(Method::POST, &path, Some(&body)).await?;
            if [403, 404, 405, 501].contains(&answer.status) {
                terminal::note(
                    "the vehicle runs no commands in machines: which object it is, its first answer says",
                );
                return Ok(None);
            }
            if answer.status == 412 {
                // It fell asleep, or a timer stopped it, before anybody asked.
                self.vehicle.started(&self.app, machine).await?;
            }
            let said = answer
                .body
                .get("stdout")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let said: Value = serde_json::from_str(said).unwrap_or_default();
            if said.get("object").is_some_and(Value::is_string) {
                return Ok(Some(said));
            }
            if tokio::time::Instant::now() > deadline {
                let why = answer.body.get("stderr").or_else(|| answer.body.get("error"));
                let why = why.and_then(Value::as_str).unwrap_or("its log says more");
                bail!(
                    "the machine is up and no object has begun in it: {}",
                    terminal::clean(why)
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn url(&self) -> String {
        if self.vehicle.is_fly {
            format!("https://{}.fly.dev/", self.app)
        } else {
            format!("http://{}.localhost{}/", self.app, self.vehicle.port_of_apps())
        }
    }

    fn tell(&self, event: &Event<'_>) -> anyhow::Result<()> {
        if self.args.json {
            return Ok(terminal::print(&format!("{}\n", serde_json::to_string(event)?))?);
        }
        let made = |made: bool| if made { "made" } else { "there" };
        let text = match event {
            Event::App { app, made: new } => format!("app      {app}, {}\n", made(*new)),
            Event::Image { image, .. } => format!("image    {}\n", terminal::clean(image)),
            Event::Volume { volume, made: new } => format!("volume   {volume}, {}\n", made(*new)),
            Event::Machine {
                machine,
                made: new,
                state,
            } => {
                format!(
                    "machine  {machine}, {}, {state}\n",
                    if *new { "made" } else { "updated" }
                )
            }
            Event::Amended { bundle, taken: true } => format!("amended  {bundle}\n"),
            Event::Amended { .. } => {
                "amended  no: the object's rules refuse this definition, and it goes on by its own\n"
                    .to_owned()
            }
            Event::Class { instances, url, .. } => format!(
                "class    its instances come with their first permitted use, as machines of {instances}\ntry      curl {url}\n"
            ),
            Event::Deployed { object, url, .. } => {
                format!(
                    "object   {}\ntry      curl {url}\n",
                    object.unwrap_or("begins with its machine")
                )
            }
        };
        Ok(terminal::print(&text)?)
    }
}

/// The head of the object that a machine says it carries.
fn head_of(said: &Value) -> Option<Head> {
    let bytes = URL_SAFE_NO_PAD.decode(said.get("head")?.as_str()?).ok()?;
    codec::decode(&bytes, MAX_HEAD).ok()
}

/// The id in an answer, which becomes part of paths.
fn id_of(answer: &Value, what: &str) -> anyhow::Result<String> {
    let id = answer.get("id").and_then(Value::as_str).filter(|id| is_name(id));
    Ok(id
        .with_context(|| format!("the vehicle's answer has no id of the {what}"))?
        .to_owned())
}
