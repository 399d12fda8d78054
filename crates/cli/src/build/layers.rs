//! The layers that come on top: the runtime, and the object. Two, so that another bundle sends no runtime.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use suijuris_bundle::Built;
use suijuris_oci::build::{LayerWriter, Scratch};
use suijuris_runtime::resident::files::{BASE, BUNDLE, BUNDLE_FILES, DIRECTORY, IMAGE};
use suijuris_supervisor::{Placed, RuntimeProgram};

use super::base::Base;
use super::files;

/// Layers in files that are removed with this.
pub(crate) struct Layers {
    dir: Scratch,
    pub(super) runtime: PathBuf,
    pub(super) object: PathBuf,
    /// What starts the runtime.
    pub(crate) entrypoint: Vec<String>,
}

impl Layers {
    pub(super) fn write(
        dir: &Path,
        built: &Built,
        base: Option<&Base>,
        runtime: &RuntimeProgram,
    ) -> anyhow::Result<Self> {
        let temp = Scratch::new()?;
        let placed = Placed::of(runtime, Path::new(DIRECTORY))?;
        let argv = placed.program.argv.iter().skip(1);
        let entrypoint = std::iter::once(placed.program.exe.as_os_str().to_owned()).chain(argv.cloned());
        let entrypoint = entrypoint
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let layers = Self {
            runtime: temp.path().join("runtime.tar"),
            object: temp.path().join("object.tar"),
            dir: temp,
            entrypoint,
        };
        layer(&layers.runtime, |tar| of_runtime(tar, &placed))?;
        layer(&layers.object, |tar| {
            of_bundle(tar, built, base)?;
            files::add(tar, dir)
        })?;
        Ok(layers)
    }

    /// A directory for what is on its way.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }
}

/// A layer that is being written.
pub(super) type Tar = LayerWriter<BufWriter<File>>;

fn layer(path: &Path, fill: impl FnOnce(&mut Tar) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let shown = || format!("`{}` cannot be written", path.display());
    let file = File::create_new(path).with_context(shown)?;
    let mut tar = LayerWriter::new(BufWriter::new(file));
    tar.directory(inside(Path::new(DIRECTORY)), 0o755)?;
    fill(&mut tar)?;
    tar.end()?.flush().with_context(shown)
}

/// A path of ours as a layer has it.
fn inside(path: &Path) -> &str {
    path.to_str().unwrap_or_default().trim_start_matches('/')
}

fn of_runtime(tar: &mut Tar, placed: &Placed) -> anyhow::Result<()> {
    let library = Path::new(DIRECTORY).join("lib");
    if !placed.is_static {
        tar.directory(inside(&library), 0o755)?;
    }
    for (from, to) in &placed.files {
        let file = File::open(from).with_context(|| format!("`{}` cannot be read", from.display()))?;
        let size = file.metadata()?.len();
        tar.file(inside(to), 0o755, size, file)?;
    }
    Ok(())
}

fn of_bundle(tar: &mut Tar, built: &Built, base: Option<&Base>) -> anyhow::Result<()> {
    let mut put = |name: &str, bytes: &[u8]| {
        let path = Path::new(DIRECTORY).join(name);
        tar.file(inside(&path), 0o644, bytes.len() as u64, bytes)
    };
    if let Some(told) = base.and_then(|base| base.told.as_ref()) {
        put(IMAGE, &suijuris_core::codec::encode(told)?)?;
    }
    let files = built.files();
    let contents = [files.manifest, files.governance.into_bytes(), files.program];
    tar.directory(inside(&Path::new(DIRECTORY).join(BUNDLE)), 0o755)?;
    for (name, bytes) in BUNDLE_FILES.iter().zip(&contents) {
        let path = Path::new(DIRECTORY).join(BUNDLE).join(name);
        tar.file(inside(&path), 0o644, bytes.len() as u64, bytes.as_slice())?;
    }
    let Some(base) = base else { return Ok(()) };
    tar.directory(inside(&Path::new(DIRECTORY).join(BASE)), 0o755)?;
    let documents = [
        ("manifest.json", base.image.manifest()),
        ("config.json", base.image.config_bytes()),
    ];
    for (name, bytes) in documents {
        let path = Path::new(DIRECTORY).join(BASE).join(name);
        tar.file(inside(&path), 0o644, bytes.len() as u64, bytes)?;
    }
    Ok(())
}
