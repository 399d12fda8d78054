//! `build`: an object as an image, its workload's image with the runtime and the bundle on top.

mod base;
mod files;
mod layers;
mod reference;

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Serialize;
use suijuris_bundle::{Built, Style};
use suijuris_oci::build::Build;
use suijuris_oci::image::Platform;
use suijuris_runtime::resident::files::DIRECTORY;
use suijuris_supervisor::RuntimeProgram;

use self::base::Base;
use self::layers::Layers;
use crate::oci::{Reach, reference};
use crate::runtime_program::runtime_program;
use crate::{Answer, images, terminal};

/// Port that the gate of such an image listens on unless it is told another.
pub(crate) const PORT: u16 = 8474;

/// Build an object as an image: its workload's image, the runtime and the bundle
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The image is what the workload's image is, with layers on top: the runtime, which the image now
starts and which starts the workload's program, and the bundle with the object's directory. The
workload's image itself is not changed; what it says of program, environment, user, directory and
signal is the workload's. The same input gives the same image.

Where the definition names no image, --base names one whose files the command finds; without it
there is nothing in the image but the runtime and the object. What lies in the object's directory
goes along, without names that begin with a dot, layouts, and files that only you may read.

--by-reference writes no image: the bundle becomes an artifact that refers to the workload's image.

Exit codes: 0 built, 2 usage, 3 it cannot be built.

Example:
  suijuris build examples/image -o image.oci
  suijuris build shop --push registry.example/shop:v1")]
pub(crate) struct Args {
    /// Object's directory
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Layout to write, a new or empty directory
    #[arg(short, long, value_name = "OUT", required_unless_present = "push")]
    output: Option<PathBuf>,
    /// Push it there, as registry.example/shop:v1
    #[arg(long, value_name = "REFERENCE")]
    push: Option<String>,
    /// Image to build on, where the definition names none: as in `images pull`
    #[arg(long, value_name = "IMAGE", conflicts_with = "by_reference")]
    base: Option<String>,
    /// The bundle as an artifact that refers to the untouched image
    #[arg(long)]
    by_reference: bool,
    /// Take a runtime that is linked dynamically too, with its libraries: for development
    #[arg(long)]
    dynamic: bool,
    #[command(flatten)]
    reach: Reach,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `build --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    /// Digest of the manifest.
    pub(crate) digest: String,
    /// The layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layout: Option<String>,
    /// Where it was pushed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    pub(crate) bundle: String,
    /// Digest of the image that it is built on or refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<String>,
    pub(crate) layers: usize,
    /// Bytes of its layers as they travel.
    pub(crate) bytes: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let tokio = images::runtime()?;
    let done = tokio.block_on(async {
        if args.by_reference {
            return reference::build(args).await;
        }
        images::pin(&args.dir, images::Lookup::All).await?;
        if definition(&args.dir)?.manifest.class.is_some() {
            bail!(
                "`{}` defines a class, and an image carries one object: take [class] out of object.toml, serve the class with `suijuris serve`, or `suijuris deploy` it with its door",
                args.dir.display()
            );
        }
        let image = image(&args.dir, args.base.as_deref(), args.dynamic).await?;
        let written = image.write(args.output.as_deref()).await?;
        let pushed = match &args.push {
            Some(to) => {
                let to = reference(to)?;
                let registry = args.reach.registry(&to)?;
                image.build.push(&registry, &to, image.layers.scratch()).await?;
                Some(to.to_string())
            }
            None => None,
        };
        image.done(written, pushed)
    })?;
    tell(&done, args.json)
}

fn tell(done: &Done, json: bool) -> anyhow::Result<Answer> {
    if json {
        terminal::print_json(done)?;
        return Ok(Answer::Yes);
    }
    let mut text = format!(
        "{}  {}, {}\n",
        done.digest,
        terminal::count(done.layers as u64, "layer"),
        images::size(done.bytes)
    );
    let rows = [
        ("layout", done.layout.as_deref()),
        ("pushed", done.reference.as_deref()),
        ("base", done.base.as_deref()),
        ("bundle", Some(done.bundle.as_str())),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            text += &format!("  {name:<6}  {}\n", terminal::clean(value));
        }
    }
    terminal::print(&text)?;
    Ok(Answer::Yes)
}

/// An image that can be written or pushed.
pub(crate) struct ObjectImage {
    pub(crate) build: Build,
    pub(crate) built: Built,
    pub(crate) layers: Layers,
    base: Option<String>,
}

impl ObjectImage {
    /// Writes it as a layout, where one is wanted; where it is.
    pub(crate) async fn write(&self, to: Option<&Path>) -> anyhow::Result<Option<String>> {
        let Some(to) = to else { return Ok(None) };
        self.build
            .write_layout(to, Some(&self.built.manifest.name))
            .await?;
        Ok(Some(to.display().to_string()))
    }

    /// What is said of it.
    pub(crate) fn done(&self, layout: Option<String>, reference: Option<String>) -> anyhow::Result<Done> {
        let image = self.build.image()?;
        let layers = image.layers();
        Ok(Done {
            digest: image.digest().to_string(),
            layout,
            reference,
            bundle: self.built.id.to_string(),
            base: self.base.clone(),
            layers: layers.len(),
            bytes: layers.iter().map(|layer| layer.descriptor.size).sum(),
        })
    }
}

/// The image of the object in `dir`.
pub(crate) async fn image(dir: &Path, base: Option<&str>, dynamic: bool) -> anyhow::Result<ObjectImage> {
    let runtime = runtime(dynamic)?;
    images::pin(dir, images::Lookup::All).await?;
    let built = definition(dir)?;
    let base = base::of(dir, &built, base).await?;
    let layers = Layers::write(dir, &built, base.as_ref(), &runtime)?;
    let build = match &base {
        Some(Base { source, image, .. }) => Build::on(source, image.clone()),
        None => Build::from_scratch(&Platform::host())?,
    };
    let mut entrypoint = layers.entrypoint.clone();
    entrypoint.extend(["--resident".to_owned(), DIRECTORY.to_owned()]);
    let build = build
        .append_layer(&layers.runtime)?
        .append_layer(&layers.object)?
        .with_entrypoint(entrypoint, Some(Vec::new()))
        // The runtime gives up what it need not have; what asks it to stop is a signal that it takes.
        .with_setting("User", "0:0".into())
        .with_setting("WorkingDir", "/".into())
        .with_setting("StopSignal", "SIGTERM".into())
        .with_setting("ExposedPorts", serde_json::json!({ format!("{PORT}/tcp"): {} }));
    Ok(ObjectImage {
        build,
        built,
        layers,
        base: base.map(|base| base.image.digest().to_string()),
    })
}

/// The object's bundle; what is wrong with the definition is said.
pub(crate) fn definition(dir: &Path) -> anyhow::Result<Built> {
    match suijuris_bundle::build(dir) {
        Ok(built) => Ok(built),
        Err(report) => {
            let style = Style {
                colour: terminal::colour(&std::io::stderr()),
                ..Style::PLAIN
            };
            terminal::drawing(&report.render(style));
            bail!("the definition has errors; `suijuris check` shows them again")
        }
    }
}

/// The runtime, as it goes into an image.
fn runtime(dynamic: bool) -> anyhow::Result<RuntimeProgram> {
    let runtime = runtime_program();
    let placed = suijuris_supervisor::Placed::of(&runtime, Path::new(DIRECTORY))?;
    if !placed.is_static && !dynamic {
        anyhow::bail!(
            "there is no static runtime beside this program: `cargo xtask init` builds suijuris-init, the packages have it; or take the one that is here, with its libraries, by --dynamic"
        );
    }
    Ok(runtime)
}
