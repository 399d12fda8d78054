//! `migrate`: an object leaves its directory, if its rules let it, and arrives in another one, or in a capsule from which
//! `import` lets it arrive. Between the two nobody is the object; killed there, it is moved again or taken back.

mod carrying;
mod remote;
mod served;

use std::path::{Path, PathBuf};

use anyhow::bail;
use suijuris_api::Event;
use suijuris_api::event::Stamped;
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::lineage::{Body, Head, Phase};
use suijuris_core::owner_request::{Ask, nobody};
use suijuris_custody::migrate::{Departure, Destination, arrive, content, depart, is_marked};
use suijuris_custody::owner::Asking;
use suijuris_store::{BundleStore, Depth, Reader, Sizes, Writer};
use suijuris_words::verdict;

use crate::carrier::Carrier;
use crate::depots::DepotArg;
use crate::object_paths::ObjectPaths;
use crate::offline::{OfflineObject, Taken};
use crate::terminal::{self, Screen, Tone};
use crate::transition::tell;
use crate::vehicle::{self, Kind};
use crate::{Answer, Usage, clock, here, history, offline};
use suijuris_supervisor::serve::packing::PackedFor;
use suijuris_supervisor::volume;

/// Move an object to another directory, or into a capsule, running or not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The object decides by its own `migrate` rule, which sees where it would go. It departs by a record, and arrives by one;
only one copy can, since whoever arrives claims the witness's mark first. With --to-dir its data, the workload's volume
included, is in DIR then, and `suijuris up OBJECT --data DIR` runs it there. With --to it is in FILE, its volume in
FILE.volume, and `suijuris import` lets it arrive. What stays behind is its history up to the departure, and wakes no more.
One that runs is asked to sleep first; an `up` that runs it ends, a daemon goes on without it. With --to URL another daemon
takes it, if it receives from its owner (`serve --receive`), runs its program and shares the depot; it is asked before.
With --to-vehicle it stays on this host and another vehicle carries it from then on: the next `suijuris up OBJECT` starts it there.
Interrupted after it departed: run it again, or take it back with --back.
Exit codes: 0 it has moved, 1 it refused, or another copy is the object, 2 usage, 3 broken input or environment.

Examples:
  suijuris migrate hello --to-dir /srv/hello
  suijuris migrate hello --to-vehicle qemu")]
pub(crate) struct Args {
    /// Object's directory or data directory, or what a daemon calls it
    object: PathBuf,
    /// Its data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Data directory to make
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "back"])]
    to_dir: Option<PathBuf>,
    /// What carries it from then on: in its data directory, or in the one of --to-dir
    #[arg(long, value_name = "KIND", conflicts_with_all = ["to", "back"])]
    to_vehicle: Option<Kind>,
    /// Capsule to write, which must not exist; or another daemon, `http://ADDRESS:PORT` with the token for its API in
    /// SUIJURIS_API_TOKEN_FILE, or `unix:PATH` of its directory or control socket
    #[arg(long, value_name = "FILE|URL", conflicts_with = "back")]
    to: Option<PathBuf>,
    /// With --to URL: what it is called there [default: as here]
    #[arg(long, value_name = "NAME", requires = "to")]
    name: Option<String>,
    /// Take it back: it departed, and has not arrived anywhere
    #[arg(long)]
    back: bool,
    /// With --to: whom its key and secrets are sealed to, an age recipient (age1…) or `owner`; repeatable
    #[arg(long, value_name = "RECIPIENT", default_value = "owner")]
    seal_to: Vec<String>,
    /// With --to: leave the workload's volume behind
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
    /// Another directory, and what carries it there.
    Dir(PathBuf, Kind),
    /// What carries it in the directory where it is.
    Vehicle(Kind),
    Capsule(PathBuf),
    Server(Box<remote::Remote>),
    /// A server that has it already.
    There(Box<remote::There>),
}

/// Takes it back to where and to what it departed from.
fn back(paths: &ObjectPaths, args: &Args) -> anyhow::Result<Answer> {
    let reader = history::open(paths)?;
    let head = reader.state().head();
    if head.phase != Phase::Departed {
        bail!("{} has not departed: there is nothing to take back", paths.name());
    }
    if let Some(Body::Departed(departed)) = reader.find(&head.record)?.map(|last| last.record.body)
        && let Some(kind) = Kind::named(&departed.decision.inputs.host.provider)
    {
        vehicle::note(&paths.data, kind)?;
    }
    let answer = arrived_at(&paths.data, &args.depot, args.json)?;
    if matches!(answer, Answer::Yes) {
        // Nobody is to get what was packed of it.
        PackedFor::remove(&remote::outgoing(&paths.data));
    }
    Ok(answer)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let paths = match Carrier::of(Some(&args.object), args.data.as_deref())? {
        Carrier::Daemon(server, object) => return served::by_daemon(args, &server, &object),
        Carrier::Files(paths) => paths,
    };
    if args.back {
        return back(&paths, args);
    }
    let name = || Ok(history::open(&paths)?.state().head().name.clone());
    let target = Target::named(args, &paths.data, name)?;
    if let Target::There(there) = &target {
        there.tell(&remote::outgoing(&paths.data), args.json)?;
        return Ok(Answer::Yes);
    }
    if let Target::Capsule(file) = &target {
        let left = history::open(&paths)?.state().head().phase == Phase::Departed;
        if file.exists() && !left {
            return Err(Usage(format!("`{}` exists: name another file", file.display())).into());
        }
    }
    // What cannot be carried there does not depart.
    if let Target::Dir(_, kind) | Target::Vehicle(kind) = &target
        && args.to_vehicle.is_some()
    {
        let bundle = history::open(&paths)?.state().head().bundle;
        let bundle = BundleStore::of(&paths.home()).bundle(&bundle)?;
        vehicle::can_carry(*kind, &bundle.manifest)?;
    }
    if let Some(answer) = served::by_up(args, &paths, &target)? {
        return Ok(answer);
    }
    if suijuris_vehicle::vm::recover(&paths.data)? {
        terminal::note(
            "the machine that ran last was not ended in order: what it had written is back from its disk",
        );
    }
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
    let from = here::host_on(vehicle::noted(&paths.data)?.facts());
    if let Some(answer) = leave_for(&held, &target, from.clone(), args)? {
        held.leave()?;
        return Ok(answer);
    }
    let carried = carrying::carry(&paths, &target, args);
    if let Err(error) = carried {
        // Nobody has it but us: it stays.
        take_back(&held, from, args.json)?;
        held.leave()?;
        return Err(error.context("it was not moved, and stays where it is"));
    }
    // From here on it is whoever arrives first.
    held.leave()?;
    match target {
        Target::Dir(dir, _) => arrived_at(&dir, &args.depot, args.json),
        Target::Vehicle(_) => arrived_at(&paths.data, &args.depot, args.json),
        Target::Server(remote) => {
            let departed = history::open(&paths)?.state().head().seq;
            let file = remote::outgoing(&paths.data);
            let volume = Some(volume::beside(&file)).filter(|volume| volume.exists());
            remote.deliver(&file, volume.as_deref(), departed, args.json)?;
            Ok(Answer::Yes)
        }
        Target::Capsule(file) => {
            note_capsule(&file, args);
            Ok(Answer::Yes)
        }
        Target::There(_) => Ok(Answer::Yes),
    }
}

fn note_capsule(file: &Path, args: &Args) {
    terminal::note(&format!(
        "it is in {file}: `suijuris import {file} --data DIR` with this depot lets it arrive; `suijuris migrate {name} --back` \
         takes it back before",
        file = terminal::quoted(&file.display().to_string()),
        name = terminal::quoted(&args.object.display().to_string())
    ));
}

/// Whether another daemon is meant.
fn is_url(to: &Path) -> bool {
    let to = to.to_string_lossy();
    to.contains("://") || to.starts_with("unix:")
}

impl Target {
    /// Where the command line says, for an object whose data is in `data`.
    fn named(
        args: &Args,
        data: &Path,
        name: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path);
        let on = |kind: Option<Kind>| kind.map_or_else(|| vehicle::noted(data), Ok);
        match (&args.to_dir, &args.to) {
            (Some(dir), _) => {
                let dir = absolute(dir)?;
                if dir == data {
                    return Err(Usage("it is in this directory already: name another one".to_owned()).into());
                }
                Ok(Self::Dir(dir, on(args.to_vehicle)?))
            }
            (None, Some(to)) if is_url(to) => {
                let name = args.name.clone().map_or_else(name, Ok)?;
                Ok(match remote::offer(&to.to_string_lossy(), data, &name)? {
                    remote::Offering::Taken(remote) => Self::Server(remote),
                    remote::Offering::There(there) => Self::There(there),
                })
            }
            (None, Some(file)) => Ok(Self::Capsule(absolute(file)?)),
            (None, None) => match args.to_vehicle {
                Some(kind) if kind == vehicle::noted(data)? && !has_departed(data)? => {
                    let name = kind.name();
                    Err(Usage(format!("{name} carries it already: name another vehicle")).into())
                }
                Some(kind) => Ok(Self::Vehicle(kind)),
                None => {
                    let why = "say where to: --to-vehicle KIND, --to-dir DIR, --to FILE or --to URL";
                    Err(Usage(why.to_owned()).into())
                }
            },
        }
    }
}

impl Target {
    fn place(&self) -> String {
        match self {
            Self::Dir(dir, _) => dir.display().to_string(),
            Self::Vehicle(kind) => kind.name().to_owned(),
            Self::Capsule(file) => file.display().to_string(),
            Self::Server(remote) => remote.url.clone(),
            Self::There(there) => there.url.clone(),
        }
    }

    /// As rules see it: another directory of this host, or nowhere yet.
    fn host(&self) -> Host {
        const CAPSULE: Vehicle<'_> = Vehicle {
            provider: "capsule",
            class: "",
        };
        match self {
            Self::Dir(_, kind) | Self::Vehicle(kind) => here::host_on(kind.facts()),
            Self::Capsule(_) | Self::There(_) => Host::of(CAPSULE, None, ""),
            Self::Server(remote) => remote.host(),
        }
    }
}

/// Lets the object depart; the answer where it does not.
fn leave_for(
    held: &OfflineObject,
    target: &Target,
    from: Host,
    args: &Args,
) -> anyhow::Result<Option<Answer>> {
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
    match depart(&held.writer, by, to, held.now, from)? {
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

fn take_back(held: &OfflineObject, host: Host, json: bool) -> anyhow::Result<()> {
    if let Some(ticket) = arrive(&held.writer, held.now, host)? {
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
            let host = here::host_on(vehicle::noted(data)?.facts());
            take_back(&held, host, json)?;
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
