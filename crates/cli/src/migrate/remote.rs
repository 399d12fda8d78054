//! Another daemon as the target: it is offered the object before that departs, gets capsule and volume, and lets it arrive. Cut off,
//! the same command goes on; the object may be taken back as long as it has not arrived.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use suijuris_api::Event;
use suijuris_api::daemon::{BundleParts, Object, Offer, Offered, PartState, Received, Receiving};
use suijuris_api::history::Log;
use suijuris_core::inputs::Host;
use suijuris_core::lineage::{Head, Phase};
use suijuris_core::owner_request::Ask;
use suijuris_custody::migrate::content;
use suijuris_store::BundleStore;
use suijuris_supervisor::control::host_of;
use suijuris_supervisor::serve::packing::PackedFor;
use suijuris_supervisor::serve::receiving::ARRIVES;
use suijuris_supervisor::volume;

use super::say;
use crate::here::{self, SigningContext};
use crate::object_paths::ObjectPaths;
use crate::server::{Server, ServerError};
use crate::{Usage, history, terminal};

/// How often it is asked again where a file goes on.
const TRIES: u32 = 5;

/// What a server says of an object that is offered to it.
pub(super) enum Offering {
    /// It would take it.
    Taken(Box<Remote>),
    /// It has it: the answer to its arrival was lost.
    There(Box<There>),
}

/// An object that has arrived at a server.
pub(super) struct There {
    pub(super) url: String,
    /// Where callers reach it.
    object: Object,
    /// The record by which it arrived.
    seq: u64,
}

/// A server that would take the object.
pub(super) struct Remote {
    pub(super) url: String,
    pub(super) offered: Offered,
    server: Server,
    object: String,
}

/// Offers the object in `data` to the server at `url`, where it would be called `name`.
pub(super) fn offer(url: &str, data: &Path, name: &str) -> anyhow::Result<Offering> {
    let server = Server::at(url)?;
    let paths = ObjectPaths {
        object_dir: None,
        data: data.to_owned(),
    };
    let head = history::open(&paths)?.state().head().clone();
    let files = BundleStore::of(&paths.home()).files(&head.bundle)?;
    let audience = server
        .daemon()?
        .server
        .parse()
        .context("the server names no key")?;
    let signed = here::sign(
        &SigningContext::of(&head),
        Ask::Migrate,
        content(head.object, ARRIVES),
        audience,
    )?;
    let Some(signed) = signed else {
        return Err(Usage(
            "a server takes an object by its owner's word alone: name the owner's key with SUIJURIS_OWNER_KEY".to_owned(),
        )
        .into());
    };
    let offer = Offer {
        object: head.object.to_string(),
        name: name.to_owned(),
        bundle: BundleParts {
            manifest: STANDARD.encode(&files.manifest),
            governance: String::from_utf8(files.governance).context("its rules are no text")?,
            program: STANDARD.encode(&files.program),
        },
        signed: Box::new(suijuris_words::owner::document(&signed)?),
    };
    let offered = match server.post("/v1/receive", &offer) {
        Err(ServerError::Refused(_)) if head.phase == Phase::Departed && arrived_behind(&server, &head)? => {
            return Ok(Offering::There(Box::new(There {
                url: url.to_owned(),
                object: server.object(&offer.object)?,
                seq: head.seq + 1,
            })));
        }
        answer => answer.context("it was not moved: the server does not take it")?,
    };
    Ok(Offering::Taken(Box::new(Remote {
        url: url.to_owned(),
        offered,
        server,
        object: offer.object,
    })))
}

/// Whether the server has the history of the object up to this departure, and its arrival behind it.
fn arrived_behind(server: &Server, head: &Head) -> anyhow::Result<bool> {
    let path = format!("/v1/objects/{}/log?from={}&limit=2", head.object, head.seq);
    let log: Log = match server.get(&path) {
        Err(ServerError::Refused(_)) => return Ok(false),
        answer => answer?,
    };
    let record = head.record.to_string();
    Ok(matches!(log.records.as_slice(), [left, came] if left.id == record && came.kind == "arrived"))
}

impl There {
    /// Says so, and removes what was packed for it.
    pub(super) fn tell(&self, capsule: &Path, json: bool) -> anyhow::Result<()> {
        say(json, Event::Arrived { seq: self.seq })?;
        terminal::note(&format!("it is at {} already: {}", self.url, self.object.url));
        PackedFor::remove(capsule);
        Ok(())
    }
}

impl Remote {
    /// Where it would be, as its rules see that.
    pub(super) fn host(&self) -> Host {
        host_of(&self.offered.place)
    }

    /// Carries what departed by the record `departed` there, and lets it arrive.
    pub(super) fn deliver(
        &self,
        capsule: &Path,
        volume: Option<&Path>,
        departed: u64,
        json: bool,
    ) -> anyhow::Result<()> {
        let arrived = self.carry(capsule, volume).with_context(|| {
            "it has departed and not arrived: run this again, or take it back with `suijuris migrate OBJECT --back`"
        })?;
        say(json, Event::Arrived { seq: departed + 1 })?;
        terminal::note(&format!("it is at {} now: {}", self.url, arrived.url));
        PackedFor::remove(capsule);
        Ok(())
    }

    fn route(&self, what: &str) -> String {
        format!("/v1/receive/{}{what}", self.object)
    }

    fn carry(&self, capsule: &Path, volume: Option<&Path>) -> anyhow::Result<Object> {
        self.send("/capsule", capsule, |came| came.capsule)?;
        if let Some(volume) = volume {
            self.send("/volume", volume, |came| came.volume)?;
        }
        let arrive = self.route("/arrive");
        Ok(self.server.post_slowly(&arrive, &serde_json::json!({}))?)
    }

    /// Sends what the server has not yet of a file.
    fn send(&self, what: &str, file: &Path, part: impl Fn(Receiving) -> PartState) -> anyhow::Result<()> {
        let shown = file.display();
        let sha256 = volume::sha256_of(file).with_context(|| format!("`{shown}` cannot be read"))?;
        let mut tries = 0;
        loop {
            let came: Receiving = self.server.get(&self.route(""))?;
            if came.object != self.object {
                bail!("the server took another object for it");
            }
            let came = part(came);
            let same = came.sha256.as_deref() == Some(sha256.as_str());
            if same && came.whole {
                return Ok(());
            }
            let offset = if same { came.bytes } else { 0 };
            let path = self.route(&format!("{what}?sha256={sha256}&offset={offset}"));
            match self.server.put_file::<Received>(&path, file, offset) {
                Ok(_came) => return Ok(()),
                // More of an earlier try came meanwhile.
                Err(error) if tries < TRIES && is_elsewhere(&error) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_elsewhere(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ServerError::Refused(problem)) if problem.code == "wrong_offset")
}

/// Where what nobody runs is packed meanwhile.
pub(super) fn outgoing(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".outgoing.sui");
    name.into()
}
