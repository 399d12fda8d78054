//! Another daemon as the target: it is offered the object before that departs, gets capsule and volume, and lets it arrive. Cut off,
//! the same command goes on; the object may be taken back as long as it has not arrived.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use suijuris_api::Event;
use suijuris_api::daemon::{BundleParts, Object, Offer, Offered, Received};
use suijuris_core::inputs::Host;
use suijuris_core::owner_request::Ask;
use suijuris_custody::migrate::content;
use suijuris_store::BundleStore;
use suijuris_supervisor::control::host_of;
use suijuris_supervisor::serve::receiving::ARRIVES;

use super::say;
use crate::here::{self, SigningContext};
use crate::object_paths::ObjectPaths;
use crate::server::Server;
use crate::{Usage, history, terminal};

/// A server that would take the object.
pub(super) struct Remote {
    pub(super) url: String,
    pub(super) offered: Offered,
    server: Server,
    object: String,
}

/// Offers the object in `data` to the server at `url`, where it would be called `name`.
pub(super) fn offer(url: &str, data: &Path, name: &str) -> anyhow::Result<Remote> {
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
    let offered = server
        .post("/v1/receive", &offer)
        .context("it was not moved: the server does not take it")?;
    Ok(Remote {
        url: url.to_owned(),
        offered,
        server,
        object: head.object.to_string(),
    })
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
        for file in [Some(capsule), volume].into_iter().flatten() {
            // It holds what is served elsewhere now.
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }

    fn carry(&self, capsule: &Path, volume: Option<&Path>) -> anyhow::Result<Object> {
        let route = |what: &str| format!("/v1/receive/{}/{what}", self.object);
        let came: Received = self.server.put_file(&route("capsule"), capsule)?;
        if came.object != self.object {
            bail!("the server took another object for it");
        }
        if let Some(volume) = volume {
            let _came: Received = self.server.put_file(&route("volume"), volume)?;
        }
        Ok(self
            .server
            .post_slowly(&route("arrive"), &serde_json::json!({}))?)
    }
}

/// Where what nobody runs is packed meanwhile.
pub(super) fn outgoing(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".outgoing.sui");
    name.into()
}
