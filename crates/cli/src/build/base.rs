//! What an object's image is built on.

use std::path::Path;

use anyhow::bail;
use suijuris_bundle::Built;
use suijuris_link::launch;
use suijuris_oci::ContentDigest;
use suijuris_oci::image::Image;
use suijuris_oci::source::Source;

use crate::{Usage, images, terminal};

/// The image below.
pub(super) struct Base {
    /// Where its layers are.
    pub(super) source: Source,
    pub(super) image: Image,
    /// What it says of the workload's program; none where the workload names no image and only uses these files.
    pub(super) told: Option<launch::Image>,
}

/// The image that `built` runs in, or that `named` names for an object without one; none where there is none.
pub(super) async fn of(dir: &Path, built: &Built, named: Option<&str>) -> anyhow::Result<Option<Base>> {
    travels(built)?;
    let workload = &built.manifest.workload;
    let Some(digest) = workload.image else {
        let Some(named) = named else {
            alone(built)?;
            return Ok(None);
        };
        let here = std::env::current_dir()?;
        let (source, image) = images::resolve(named, &here, None).await?;
        let told = None;
        return Ok(Some(Base { source, image, told }));
    };
    if named.is_some() {
        let why = "the definition names the workload's image: leave --base out";
        return Err(Usage(why.to_owned()).into());
    }
    let Some(name) = suijuris_bundle::pins::named_image(dir) else {
        bail!("object.toml names no image, though its bundle does: build it again");
    };
    let wanted = ContentDigest::from_bytes(digest.0);
    let (source, image) = images::resolve(&name, dir, Some(wanted)).await?;
    let unpacked = images::store()?.by_digest(wanted)?.unpacked()?;
    let told = suijuris_supervisor::image::told(digest, image.config(), workload, &unpacked)?;
    let told = Some(told);
    Ok(Some(Base { source, image, told }))
}

/// What an image cannot carry is said before one is built.
fn travels(built: &Built) -> anyhow::Result<()> {
    if let Some(mount) = built.manifest.workload.mounts.first() {
        bail!(
            "workload.mounts shows {} of this host, which an image does not have: put the files into the image or beside object.toml, as {{object}}/…",
            terminal::clean(&mount.from)
        );
    }
    Ok(())
}

/// An object that needs nothing but itself.
fn alone(built: &Built) -> anyhow::Result<()> {
    let argv = &built.manifest.workload.argv;
    let program = argv.first().map_or("", String::as_str);
    if !program.starts_with("{object}/") {
        let why = format!(
            "`{}` names no image, so that `{}` would not be in it: write workload.image in object.toml, build on an image that has it with --base, as in --base python:3.14, or name a static program in the object's directory as {{object}}/…",
            built.manifest.name,
            terminal::clean(program)
        );
        return Err(Usage(why).into());
    }
    terminal::note(
        "no image is named: there is nothing in this one but the runtime and the object's directory",
    );
    Ok(())
}
