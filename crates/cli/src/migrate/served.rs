//! Moving an object that somebody runs: a daemon does all of it, `up` lets go of the object and the command goes on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use suijuris_api::Event;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::daemon::{Left, Migrate, MoveTo, Object};
use suijuris_core::owner_request::Ask;
use suijuris_custody::migrate::content;
use suijuris_supervisor::control::place_of;
use suijuris_supervisor::serve::catalog::Catalog;

use super::{Args, Target, say};
use crate::carrier::{Carrier, asked, route};
use crate::here::{self, SigningContext};
use crate::leaving::{Word, recipients, sign};
use crate::object_paths::ObjectPaths;
use crate::server::Server;
use crate::transition::tell;
use crate::{Answer, control, history, terminal};

/// How long `up` may take to end once its object has departed.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// Why a daemon moves none to another vehicle.
const ON_ITS_OWN: &str = "a daemon carries its objects on its own vehicle: move the object out of it with --to-dir DIR, and then `migrate DIR --to-vehicle KIND`";

/// Lets the daemon that serves it move the object.
pub(super) fn by_daemon(args: &Args, server: &Server, object: &Object) -> anyhow::Result<Answer> {
    if let Server::Address(_) = server {
        bail!("the daemon moves objects for those on its own host: run this there, by its control socket");
    }
    if args.to_vehicle.is_some() {
        bail!("{ON_ITS_OWN}");
    }
    let name = || Ok(object.key.clone().unwrap_or_else(|| object.name.clone()));
    let target = match args.back {
        true => None,
        false => Some(Target::named(args, &object.data, name)?),
    };
    let place = target.as_ref().map(Target::place);
    let to = match &target {
        None => MoveTo::Back,
        Some(Target::Vehicle(_)) => bail!("{ON_ITS_OWN}"),
        Some(Target::Dir(dir, _)) => MoveTo::Dir(dir.clone()),
        Some(Target::Capsule(file)) => MoveTo::File(file.clone()),
        Some(Target::There(there)) => {
            let root = server.daemon()?.root;
            there.tell(&Catalog::outgoing_in(&root, object.object.parse()?), args.json)?;
            return Ok(Answer::Yes);
        }
        Some(Target::Server(remote)) => MoveTo::Server {
            place: remote.offered.place.clone(),
            url: remote.url.clone(),
        },
    };
    let Word { sleep, signed } = match &place {
        Some(place) => sign(server, object, Ask::Migrate, place)?,
        None => Word::default(),
    };
    let seal_to = match &target {
        Some(Target::Capsule(_)) => recipients(&args.seal_to)?,
        Some(Target::Server(remote)) => vec![remote.offered.recipient.clone()],
        Some(Target::Dir(..) | Target::Vehicle(_) | Target::There(_)) | None => Vec::new(),
    };
    let moving = Migrate {
        to,
        seal_to,
        leave_volume: args.leave_volume,
        sleep,
        signed,
    };
    let left: Left = asked(server.post_slowly(&route(object, "/migrate"), &moving))?;
    if let Some(verdict) = &left.refused {
        return tell(verdict, args.json);
    }
    if let (Some(seq), Some(to)) = (left.departed, place) {
        say(args.json, Event::Departed { seq, to })?;
    }
    if let Some(seq) = left.arrived {
        say(args.json, Event::Arrived { seq })?;
    }
    match (target, left.capsule) {
        (Some(Target::Server(remote)), Some(file)) => {
            remote.deliver(
                &file,
                left.volume.as_deref(),
                left.departed.unwrap_or_default(),
                args.json,
            )?;
        }
        (_, Some(file)) => super::note_capsule(&file, args),
        (_, None) => {}
    }
    Ok(Answer::Yes)
}

/// Lets the `up` that runs the object put it to sleep and let it depart; the answer where it does not, or none runs it.
pub(super) fn by_up(args: &Args, paths: &ObjectPaths, target: &Target) -> anyhow::Result<Option<Answer>> {
    let carrier = Carrier::Files(paths.clone());
    let Some(Reply::Status { phase, server, .. }) = control::ask_up(paths, &ControlRequest::Status)? else {
        return Ok(None);
    };
    let head = history::open(paths)?.state().head().clone();
    let departed = head.phase == suijuris_core::lineage::Phase::Departed;
    if !departed && matches!(phase.as_str(), "active" | "waking") {
        match control::ask_as_owner(&carrier, Ask::Sleep, None)? {
            Some(Reply::Verdict(verdict)) if verdict.outcome != "permit" => {
                return tell(&verdict, args.json).map(Some);
            }
            Some(Reply::Error { code, message }) if code == "refused" => {
                terminal::note(&format!("it does not fall asleep: {message}"));
                return Ok(Some(Answer::No));
            }
            Some(Reply::Error { code, message }) => bail!("{message} [{code}]"),
            _ => {}
        }
        wait("the object falls asleep", || {
            !matches!(
                control::ask_up(paths, &ControlRequest::Status),
                Ok(Some(Reply::Status { phase, .. })) if phase == "active" || phase == "waking"
            )
        })?;
    }
    let place = target.place();
    let server = server
        .parse()
        .context("`up` names no key: use the same version of suijuris for both")?;
    let signed = here::sign(
        &SigningContext::of(&head),
        Ask::Migrate,
        content(head.object, &place),
        server,
    )?;
    let signed = signed.map(|signed| suijuris_words::owner::document(&signed));
    let question = ControlRequest::Depart {
        to: place_of(&target.host()),
        place: place.clone(),
        signed: signed.transpose()?.map(Box::new),
    };
    match control::ask_up(paths, &question)? {
        Some(Reply::Verdict(verdict)) if verdict.outcome != "permit" => {
            return tell(&verdict, args.json).map(Some);
        }
        Some(Reply::Error { code, message }) => bail!("{message} [{code}]"),
        _ => {}
    }
    wait("`up` ends", || {
        matches!(control::ask_up(paths, &ControlRequest::Status), Ok(None)) && !paths.home().is_in_use()
    })?;
    let head = history::open(paths)?.state().head().clone();
    say(
        args.json,
        Event::Departed {
            seq: head.seq,
            to: place,
        },
    )?;
    terminal::note("`up` has ended: the object has left it");
    Ok(None)
}

fn wait(what: &str, mut over: impl FnMut() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + ENDS_WITHIN;
    while !over() {
        if Instant::now() > until {
            bail!("in vain: {what}; look what it says in its own terminal, and run this again");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
