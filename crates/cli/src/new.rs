//! `new`: a directory to start an object from.

use std::path::PathBuf;

use suijuris_bundle::{ScaffoldError, scaffold, templates};

use crate::{Answer, Usage, terminal};

/// The template whose directory is no object.
const CLASS: &str = "class";

fn template_list() -> String {
    let line = |template: &suijuris_bundle::Template| format!("  {:6} {}\n", template.name, template.summary);
    let lines: String = templates().iter().map(line).collect();
    format!(
        "Templates:\n{lines}\nExample:\n  suijuris new http hello && suijuris check hello && suijuris up hello"
    )
}

/// Start an object from a template
#[derive(Debug, clap::Args)]
#[command(after_help = template_list())]
pub(crate) struct Args {
    /// Template: http, tcp, agent or class
    template: String,
    /// Directory, new or empty
    dir: PathBuf,
    /// Name of the object [default: that of the directory]
    #[arg(long)]
    name: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let path = std::path::absolute(&args.dir)?;
            path.file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        }
    };
    let written = scaffold(&args.template, &args.dir, &name).map_err(|error| match error {
        ScaffoldError::UnknownTemplate(_) => Usage(error.to_string()).into(),
        ScaffoldError::Name(_) if args.name.is_none() => {
            Usage(format!("{error}; give it with --name")).into()
        }
        ScaffoldError::Name(_) => Usage(error.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    for file in written {
        terminal::print(&format!("{}\n", file.display()))?;
    }
    let dir = terminal::quoted(&args.dir.display().to_string());
    // A class is a template: there is no object of it to run.
    let next = if args.template == CLASS { "check" } else { "up" };
    terminal::note(&format!(
        "`{name}` is ready: read {dir}/README.md, then `suijuris {next} {dir}`"
    ));
    Ok(Answer::Yes)
}
