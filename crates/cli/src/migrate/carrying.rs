//! Carrying a departed object to where it goes: its history by a capsule that is verified on the way in, its volume beside it.
//! Interrupted, it is done again from the start: nobody has arrived. What is packed for a server is carried on as it is.

use std::fs;
use std::path::Path;

use anyhow::anyhow;
use suijuris_supervisor::serve::packing::{self, PackedFor};
use suijuris_supervisor::volume;

use super::{Args, Target};
use crate::object_paths::ObjectPaths;
use crate::{export, history, vehicle};

/// Carries what lies in `paths` to `target`.
pub(super) fn carry(paths: &ObjectPaths, target: &Target, args: &Args) -> anyhow::Result<()> {
    match target {
        Target::Capsule(file) => {
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            pack(paths, file, &args.seal_to, !args.leave_volume)
        }
        Target::Server(remote) => {
            let file = super::remote::outgoing(&paths.data);
            let seal_to = std::slice::from_ref(&remote.offered.recipient);
            let head = history::open(paths)?.state().head().record;
            let packed_for = PackedFor::new(&head, seal_to, !args.leave_volume);
            if packed_for.is(&file) {
                return Ok(());
            }
            PackedFor::remove(&file);
            pack(paths, &file, seal_to, !args.leave_volume)?;
            packed_for.note(&file).map_err(|why| anyhow!(why))
        }
        // Nothing of it is carried any more.
        Target::There(_) => Ok(()),
        Target::Vehicle(kind) => vehicle::note(&paths.data, *kind),
        Target::Dir(dir, kind) => {
            let there = ObjectPaths {
                object_dir: None,
                data: dir.clone(),
            };
            packing::carry(paths, &there).map_err(|why| anyhow!(why))?;
            vehicle::note(&there.data, *kind)
        }
    }
}

/// Packs the volume beside `file`, and the history in it.
fn pack(paths: &ObjectPaths, file: &Path, seal_to: &[String], volume: bool) -> anyhow::Result<()> {
    let packed = volume::beside(file);
    if volume && volume::has_files(&paths.data) {
        let head = history::open(paths)?.state().head().record;
        volume::pack(&paths.data.join("volume"), &head, &packed)?;
    } else {
        // Of an earlier move, to the same place.
        let _ = fs::remove_file(&packed);
    }
    export::write(&paths.home(), file, seal_to)?;
    Ok(())
}
