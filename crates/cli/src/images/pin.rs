//! What the name in a definition means is looked up once and written beside it (`image.lock`), and the image is brought
//! here, before a bundle is built: so the bundle's id stands for one image.

use std::path::Path;

use suijuris_bundle::pins::{Pins, named_image};
use suijuris_core::id::Digest;
use suijuris_oci::ContentDigest;

use super::pulling::{self, From, pull};
use super::{Pulled, store};
use crate::terminal;

/// What may be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Files of this machine.
    Local,
    /// Registries too, for names that are not pinned.
    All,
    /// Names that are pinned, too.
    Again,
}

/// Pins the image of the definition in `dir`, and pulls it where it is not here; none where it names none. What a file of
/// this machine has is looked up each time: it is its author's, as the definition is.
pub(crate) async fn pin(dir: &Path, which: Lookup) -> anyhow::Result<Option<Pulled>> {
    let Some(name) = named_image(dir) else {
        return Ok(None);
    };
    let from = From::parse(&name, dir)?;
    // One that cannot be read is told with its place when the bundle is built.
    let mut pins = Pins::read(dir).unwrap_or_default();
    let pinned = pins
        .digest(&name)
        .map(|digest| ContentDigest::from_bytes(digest.0));
    let pinned = pinned.filter(|_| !from.is_local() && which != Lookup::Again);
    if which == Lookup::Local && !from.is_local() {
        return Ok(None);
    }
    let store = store()?;
    if let Some(digest) = pinned {
        if let Ok(hold) = store.by_digest(digest) {
            let layers = hold.image().layers();
            return Ok(Some(Pulled {
                name: store.names_of(digest)?.into_iter().next().unwrap_or(name),
                digest,
                layers: layers.len(),
                bytes: layers.iter().map(|layer| layer.descriptor.size).sum(),
            }));
        }
        return Ok(Some(pull(&store, &from.at(digest)).await?));
    }
    let pulled = pull(&store, &from).await?;
    if pins.pin(&name, Digest(pulled.digest.bytes())) {
        pins.write(dir)?;
        terminal::note(&format!(
            "{} is {}, pinned in image.lock",
            terminal::clean(&name),
            pulled.digest
        ));
    }
    Ok(Some(pulled))
}

/// As [`pin`], where nothing runs yet.
pub(crate) fn pin_blocking(dir: &Path, which: Lookup) -> anyhow::Result<Option<Pulled>> {
    if named_image(dir).is_none() {
        return Ok(None);
    }
    pulling::runtime()?.block_on(pin(dir, which))
}
