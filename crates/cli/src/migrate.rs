//! `migrate`: an object leaves its directory, if its rules let it, and arrives in another one, or in a capsule from which
//! `import` lets it arrive. Between the two nobody is the object; killed there, it is moved again or taken back.

mod carrying;

use std::path::{Path, PathBuf};

use anyhow::bail;
use suijuris_api::Event;
use suijuris_api::event::Stamped;
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::lineage::{Head, Phase};
use suijuris_core::owner_request::{Ask, nobody};
use suijuris_custody::migrate::{Departure, Destination, arrive, content, depart, is_marked};
use suijuris_custody::owner::Asking;
use suijuris_store::{Depth, Reader, Sizes, Writer};
use suijuris_words::verdict;

use crate::depots::DepotArg;
use crate::object_paths::{ObjectPaths, locate};
use crate::offline::{OfflineObject, Taken};
use crate::terminal::{self, Screen, Tone};
use crate::transition::tell;
use crate::{Answer, Usage, clock, here, history, offline};

/// Move an object that nobody runs to another directory, or into a capsule
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The object decides by its own `migrate` rule, which sees where it would go. It departs by a record, and arrives by one;
only one copy can, since whoever arrives claims the witness's mark first. With --to-dir its data, the workload's volume
included, is in DIR then, and `suijuris up OBJECT --data DIR` runs it there. With --to it is in FILE, which `suijuris import`
lets arrive. What stays behind is its history up to the departure, and wakes no more.
Interrupted after it departed: run it again, or take it back with --back.
Exit codes: 0 it has moved, 1 it refused, or another copy is the object, 2 usage, 3 broken input or environment.

Example:
  suijuris migrate hello --to-dir /srv/hello")]
pub(crate) struct Args {
    /// Object's directory or data directory
    object: PathBuf,
    /// Its data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Data directory to make
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "back"])]
    to_dir: Option<PathBuf>,
    /// Capsule to write; it must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "back")]
    to: Option<PathBuf>,
    /// Take it back: it departed, and has not arrived anywhere
    #[arg(long)]
    back: bool,
    /// With --to: whom its key and secrets are sealed to, an age recipient (age1…) or `owner`; repeatable
    #[arg(long, value_name = "RECIPIENT", default_value = "owner")]
    seal_to: Vec<String>,
    /// With --to: leave the workload's volume behind, which no capsule holds
    #[arg(long)]
    leave_volume: bool,
    #[command(flatten)]
    depot: DepotArg,
    /// Print events as JSON, one a line
    #[arg(long)]
    json: bool,
}

/// Where it goes.
enum Target {
    Dir(PathBuf),
    Capsule(PathBuf),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let paths = locate(Some(&args.object), args.data.as_deref())?;
    if args.back {
        let before = history::open(&paths)?.state().head().clone();
        if before.phase != Phase::Departed {
            bail!("{} has not departed: there is nothing to take back", paths.name());
        }
        return arrived_at(&paths.data, &args.depot, args.json);
    }
    let target = target(args, &paths)?;
    let held = match offline::take(offline::open(&paths)?, &args.depot)? {
        Taken::Open(held) => held,
        Taken::NotTheObject(copy) => {
            offline::tell_not_the_object(&copy, args.json)?;
            return Ok(Answer::No);
        }
    };
    if !held.claim.agrees() {
        held.leave()?;
        bail!(
            "no witness knows where the object is, so it could become two: name the depot that it is known in with --depot"
        );
    }
    if let Some(answer) = leave_for(&held, &target, args)? {
        held.leave()?;
        return Ok(answer);
    }
    let carried = carrying::carry(&held, &paths, &target, &args.seal_to);
    if let Err(error) = carried {
        // Nobody has it but us: it stays.
        take_back(&held, args.json)?;
        held.leave()?;
        return Err(error.context("it was not moved, and stays where it is"));
    }
    // From here on it is whoever arrives first.
    held.leave()?;
    match target {
        Target::Dir(dir) => arrived_at(&dir, &args.depot, args.json),
        Target::Capsule(file) => {
            terminal::note(&format!(
                "it is in {file}: `suijuris import {file} --data DIR` with this depot lets it arrive; `suijuris migrate {name} --back` \
                 takes it back before",
                file = file.display(),
                name = args.object.display()
            ));
            Ok(Answer::Yes)
        }
    }
}

fn target(args: &Args, paths: &ObjectPaths) -> anyhow::Result<Target> {
    let absolute = |path: &Path| std::path::absolute(path);
    match (&args.to_dir, &args.to) {
        (Some(dir), _) => {
            let dir = absolute(dir)?;
            if dir == paths.data {
                return Err(Usage("it is in this directory already: name another one".to_owned()).into());
            }
            Ok(Target::Dir(dir))
        }
        (None, Some(file)) if file.to_string_lossy().contains("://") => Err(Usage(
            "nothing is sent to another daemon yet: move into a file (--to FILE), and `suijuris import` it there".to_owned(),
        )
        .into()),
        (None, Some(file)) => {
            let has_volume = std::fs::read_dir(paths.data.join("volume"))
                .is_ok_and(|mut entries| entries.next().is_some());
            if has_volume && !args.leave_volume {
                return Err(Usage(
                    "a capsule holds no volume, and the workload's has files: move with --to-dir, or leave them with --leave-volume"
                        .to_owned(),
                )
                .into());
            }
            let file = absolute(file)?;
            let left = history::open(paths)?.state().head().phase == Phase::Departed;
            if file.exists() && !left {
                return Err(Usage(format!("`{}` exists: name another file", file.display())).into());
            }
            Ok(Target::Capsule(file))
        }
        (None, None) => Err(Usage("say where to: --to-dir DIR or --to FILE".to_owned()).into()),
    }
}

impl Target {
    fn place(&self) -> String {
        match self {
            Self::Dir(dir) => dir.display().to_string(),
            Self::Capsule(file) => file.display().to_string(),
        }
    }

    /// As rules see it: another directory of this host, or nowhere yet.
    fn host(&self) -> Host {
        const CAPSULE: Vehicle<'_> = Vehicle {
            provider: "capsule",
            class: "",
        };
        match self {
            Self::Dir(_) => here::host(),
            Self::Capsule(_) => Host::of(CAPSULE, None, ""),
        }
    }
}

/// Lets the object depart; the answer where it does not.
fn leave_for(held: &OfflineObject, target: &Target, args: &Args) -> anyhow::Result<Option<Answer>> {
    let place = target.place();
    let by = {
        let state = held.writer.published();
        let head = state.head();
        let content = content(head.object, &place);
        let signed = here::sign(&here::SigningContext::of(head), Ask::Migrate, content, nobody())?;
        let asking = Asking {
            ask: Ask::Migrate,
            content,
            signed: signed.as_ref(),
            server: nobody(),
            now: clock::reading()?.wall,
        };
        asking.principal(head)?
    };
    let to = Destination {
        host: target.host(),
        place: place.clone(),
    };
    match depart(&held.writer, by, to, held.now, here::host())? {
        Departure::Left => Ok(None),
        Departure::Terminated => bail!("the object has been terminated: it stays where it is"),
        Departure::Refused(decision, ticket) => {
            ticket.wait()?;
            tell(&verdict::verdict(&decision, "door"), args.json).map(Some)
        }
        Departure::Leaves(_, ticket) => {
            let seq = ticket.seq();
            ticket.wait()?;
            say(args.json, Event::Departed { seq, to: place })?;
            Ok(None)
        }
    }
}

fn take_back(held: &OfflineObject, json: bool) -> anyhow::Result<()> {
    if let Some(ticket) = arrive(&held.writer, held.now, here::host())? {
        let seq = ticket.seq();
        ticket.wait()?;
        say(json, Event::Arrived { seq })?;
    }
    Ok(())
}

/// Lets the departed object in `data` arrive there, if the witness knows of its departure and of nothing behind it.
pub(crate) fn arrived_at(data: &Path, depot: &DepotArg, json: bool) -> anyhow::Result<Answer> {
    let paths = ObjectPaths {
        object_dir: None,
        data: data.to_owned(),
    };
    let (writer, _recovery) = Writer::open(&paths.home(), Depth::Tail, Sizes::default())?;
    let head = writer.published().head().clone();
    if head.phase != Phase::Departed {
        return Ok(Answer::Yes);
    }
    if !marked(depot, &head)? {
        let word = Screen::stdout().paint(Tone::Bad, "not arrived");
        let why = "the witness does not know of this departure, or of something behind it: another copy arrived or was taken \
                   back, or this is not the depot that it left from (--depot)";
        terminal::note(&format!("{word}: {why}"));
        return Ok(Answer::No);
    }
    match offline::take(writer, depot)? {
        Taken::Open(held) => {
            take_back(&held, json)?;
            held.leave()?;
            Ok(Answer::Yes)
        }
        Taken::NotTheObject(copy) => {
            offline::tell_not_the_object(&copy, json)?;
            Ok(Answer::No)
        }
    }
}

fn marked(depot: &DepotArg, head: &Head) -> anyhow::Result<bool> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio.block_on(async {
        let depot = depot.open().await?;
        Ok(is_marked(&*depot, head).await?)
    })
}

/// Whether what lies in `data` departed and can arrive.
pub(crate) fn has_departed(data: &Path) -> anyhow::Result<bool> {
    let paths = ObjectPaths {
        object_dir: None,
        data: data.to_owned(),
    };
    let reader = Reader::open(&paths.home(), Depth::Tail)?;
    Ok(reader.state().head().phase == Phase::Departed)
}

/// Says an event: JSON for scripts, a line for people.
fn say(json: bool, event: Event) -> anyhow::Result<()> {
    let line = if json {
        let at = format!("{:.3}", jiff::Timestamp::now());
        serde_json::to_string(&Stamped { at, event })?
    } else {
        match event {
            Event::Departed { seq, to } => format!("departed  to {}, record {seq}", terminal::clean(&to)),
            Event::Arrived { seq } => format!("arrived  record {seq}"),
            _ => return Ok(()),
        }
    };
    Ok(terminal::print(&format!("{line}\n"))?)
}
