//! `schema`: what an object's rules may speak of, and which keys `object.toml` has, for editors.

use std::path::PathBuf;

use anyhow::Context as _;
use suijuris_bundle::{OBJECT_SCHEMA, Style, rules_schema};

use crate::{Answer, terminal};

/// Print the schema that an object's rules are checked against, for Cedar's language server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The schema follows from object.toml: memory fields, claims and headers are in it. Write it anew when
they change. Editors that know `#:schema` find the one of object.toml by themselves; `--object` prints it.

Exit codes: 0 written, 3 object.toml has errors.

Examples:
  suijuris schema hello -o hello/rules.cedarschema
  suijuris schema --object > object.schema.json")]
pub(crate) struct Args {
    /// Object's directory
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Print the JSON schema of object.toml instead
    #[arg(long)]
    object: bool,
    /// Write it there
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let text = match args.object {
        true => OBJECT_SCHEMA.to_owned(),
        false => match rules_schema(&args.dir) {
            Ok(text) => text,
            Err(report) => {
                let style = Style {
                    colour: terminal::colour(&std::io::stderr()),
                    ..Style::PLAIN
                };
                terminal::drawing(&report.render(style));
                return Ok(Answer::Broken);
            }
        },
    };
    match &args.output {
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("`{}` cannot be written", file.display()))?;
        }
        None => terminal::print(text.trim_end())?,
    }
    Ok(Answer::Yes)
}
