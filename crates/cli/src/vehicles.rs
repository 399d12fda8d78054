//! `vehicles`: what can carry machines on this host, and what is in the way of the others.

use serde::Serialize;
use serde_json::{Value, json};
use suijuris_vehicle::Description;
use suijuris_vehicle::process::Process;

use crate::terminal::{self, Table};
use crate::vehicle::{self, Kind};
use crate::{Answer, registry};

/// What carries machines on this host, and why not more
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Found out by trying: a machine of processes is started that ends at once, and the processor is asked to
run a loop in a virtual machine. Of virtual machines' programs and kernel it is looked whether they are here
(`suijuris kernel install`, SUIJURIS_KERNEL).

Exit codes: 0 some vehicle is available, 1 none is.

Example:
  suijuris vehicles --json")]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// One kind of vehicle.
#[derive(Debug, Serialize)]
struct Shown {
    vehicle: &'static str,
    available: bool,
    /// In words; none where it is available.
    why_not: Option<String>,
    capabilities: Value,
}

/// Runs the command.
///
/// # Errors
/// Nothing can be tried or printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let all = tokio.block_on(look_at_all());
    if args.json {
        terminal::print_json(&all)?;
    } else {
        terminal::print(&text(&all))?;
    }
    Ok(if all.iter().any(|vehicle| vehicle.available) {
        Answer::Yes
    } else {
        Answer::No
    })
}

async fn look_at_all() -> Vec<Shown> {
    let inner = vehicle::processes(false).await;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let looked = match &inner {
            Ok(inner) => vehicle::look(kind, inner),
            Err(error) => Err(format!("{error:#}")),
        };
        let images = match (&looked, &inner, kind) {
            (Ok(about), Ok(inner), Kind::Process) if about.images => Some(overlay(inner).await),
            _ => None,
        };
        all.push(shown(kind, looked, images));
    }
    all
}

/// What the driver says of itself; of images, whether their layers are laid over one another or copied.
fn shown(kind: Kind, looked: Result<Description, String>, overlay: Option<Result<(), String>>) -> Shown {
    let (capabilities, why_not) = match looked {
        Ok(about) => (capabilities(&about, overlay), None),
        Err(why) => (Value::Null, Some(why)),
    };
    Shown {
        vehicle: kind.name(),
        available: why_not.is_none(),
        why_not,
        capabilities,
    }
}

fn capabilities(about: &Description, overlay: Option<Result<(), String>>) -> Value {
    let (images, no_overlay) = match overlay {
        None => (about.images.then_some("disk"), None),
        Some(Ok(())) => (Some("overlayfs"), None),
        Some(Err(why)) => (Some("copies"), Some(why)),
    };
    let mut missing: Vec<String> = about.shortfalls.iter().map(ToString::to_string).collect();
    missing.extend(about.limit_shortfalls.iter().map(ToString::to_string));
    missing.extend(no_overlay.map(|why| format!("overlayfs: {why}")));
    json!({
        "isolation": about.isolation,
        "suspend": about.suspending,
        "limits": about.limits,
        "images": images,
        "users_in_images": images.map(|_| about.users),
        "mounts": about.mounts,
        "private_network": about.private_network,
        "egress": about.private_network.then_some("as the bundle says"),
        "descriptors": about.descriptors,
        "detached": about.detached,
        "missing": missing,
    })
}

/// Tried where images are kept: it depends on that file system.
async fn overlay(driver: &Process) -> Result<(), String> {
    let home = registry::home().ok_or_else(|| "there is no place for images: set HOME".to_owned())?;
    std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let scratch = home.join(format!(".overlay-{}", std::process::id()));
    let tried = driver.try_overlay(&scratch).await;
    let _ = suijuris_vehicle::process::remove_strange(&scratch);
    tried.map_err(|error| suijuris_custody::chain(&error))
}

fn text(all: &[Shown]) -> String {
    let mut table = Table::default();
    table.row(["VEHICLE", "AVAILABLE", "WHAT"]);
    let mut missing = String::new();
    for vehicle in all {
        let about = &vehicle.capabilities;
        let word = |name: &str| about[name].as_str().unwrap_or("no").replace('_', " ");
        let what = match &vehicle.why_not {
            Some(why) => why.clone(),
            None if about["images"].is_null() => {
                format!("{}, suspended by {}", word("isolation"), word("suspend"))
            }
            None => format!(
                "{}, suspended by {}, images by {}",
                word("isolation"),
                word("suspend"),
                word("images")
            ),
        };
        let what = match (&vehicle.why_not, about["egress"].as_str()) {
            (Some(_), _) => what,
            (None, Some(egress)) => format!("{what}, egress {egress}"),
            (None, None) => format!("{what}, egress not limited"),
        };
        let is = if vehicle.available { "yes" } else { "no" };
        table.row([vehicle.vehicle, is, &terminal::clean(&what)]);
        for lack in about["missing"].as_array().into_iter().flatten() {
            let lack = terminal::clean(lack.as_str().unwrap_or_default());
            missing.extend([vehicle.vehicle, ": missing: ", &lack, "\n"]);
        }
    }
    format!("{}{missing}", table.text(0))
}
