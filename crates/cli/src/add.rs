//! `add`: what a daemon serves.

use std::path::{Path, PathBuf};

use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use suijuris_api::daemon::{AddClass, AddObject, BundleParts, Class, Object, Owners, Ports};
use suijuris_bundle::Built;

use crate::server::Server;
use crate::terminal;
use crate::{Answer, owner};

/// Add an object or a class to the daemon that `suijuris serve` runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A definition with [class] becomes a class: one object per key, founded on its first permitted use.

Example:
  suijuris add examples/hello
  suijuris add examples/tenant --name shop")]
pub(crate) struct AddArgs {
    /// Directory with object.toml and governance.cedar
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// What it is called in the daemon: a-z, 0-9 and - [default: the name in object.toml]
    #[arg(long)]
    name: Option<String>,
    /// Port for raw connections (protocol = "tcp"), 0: any free one; FIRST-LAST where a class says from = ["port"]
    #[arg(long, value_name = "PORT", value_parser = ports)]
    port: Option<Ports>,
    /// A trusted proxy begins each raw connection with a PROXY header
    #[arg(long, requires = "port")]
    proxy: bool,
    /// Print what was added as JSON
    #[arg(long)]
    json: bool,
}

/// `PORT` or `FIRST-LAST`.
fn ports(text: &str) -> Result<Ports, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => Ok(Ports {
            first,
            last,
            proxy: false,
        }),
        _ => Err(format!("`{text}` is no port: write 5432, or 6000-6099")),
    }
}

pub(crate) fn add(args: &AddArgs) -> anyhow::Result<Answer> {
    let dir = std::path::absolute(&args.dir)?;
    let server = Server::chosen()?;
    server.daemon()?;
    let built = build(&dir)?;
    let bundle = parts(&built);
    let owners = match &built.controllers {
        Some(declared) => Owners {
            controllers: declared.keys.iter().map(ToString::to_string).collect(),
            threshold: declared.threshold,
        },
        None => Owners {
            controllers: vec![owner::owner_key()?.public().to_string()],
            threshold: 1,
        },
    };
    let name = args.name.clone().unwrap_or_else(|| built.manifest.name.clone());
    let object_dir = Some(dir);
    let ports = args.port.map(|ports| Ports {
        proxy: args.proxy,
        ..ports
    });
    if built.manifest.class.is_some() {
        let class: Class = server.post(
            "/v1/classes",
            &AddClass {
                class: name,
                bundle,
                owners,
                object_dir,
                ports,
            },
        )?;
        if args.json {
            terminal::print_json(&class)?;
        } else {
            terminal::print(&format!("added class {}\n  {}\n", class.class, class.url))?;
        }
        return Ok(Answer::Yes);
    }
    let object: Object = server.post(
        "/v1/objects",
        &AddObject {
            name,
            bundle,
            owners,
            object_dir,
            ports,
        },
    )?;
    if args.json {
        terminal::print_json(&object)?;
    } else {
        terminal::print(&format!(
            "added {} {}\n  {}\n",
            object.name, object.object, object.url
        ))?;
    }
    Ok(Answer::Yes)
}

/// Builds the definition in `dir`; what is wrong with it is shown.
pub(crate) fn build(dir: &Path) -> anyhow::Result<Built> {
    crate::images::pin_blocking(dir, crate::images::Lookup::All)?;
    match suijuris_bundle::build(dir) {
        Ok(built) => Ok(built),
        Err(report) => {
            terminal::drawing(&report.render(suijuris_bundle::Style::PLAIN));
            bail!("the definition has errors; `suijuris check` shows them again");
        }
    }
}

/// A definition as it travels.
pub(crate) fn parts(built: &Built) -> BundleParts {
    let files = built.files();
    BundleParts {
        manifest: STANDARD.encode(&files.manifest),
        governance: files.governance,
        program: STANDARD.encode(&files.program),
    }
}
