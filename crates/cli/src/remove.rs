//! `remove`: an object leaves the daemon that serves it, by its own rules; a class without instances is forgotten.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::Serialize;
use suijuris_api::daemon::{Class, ClassKey, ClassList, FreeKey, Left, Object, Remove};
use suijuris_core::owner_request::Ask;
use suijuris_core::{ObjectId, RecordId};
use suijuris_custody::migrate::content;

use crate::carrier::route;
use crate::here::{self, SigningContext};
use crate::leaving::{OWNER, Word, recipients, sign};
use crate::server::{Server, encoded};
use crate::transition::tell;
use crate::{Answer, Usage, owner, terminal};

/// Take an object out of the daemon, by its rules, or a class without instances
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The object is asked to sleep, then to leave: its rules `sleep` and `migrate` decide, and what they refuse stays as it is. It
is kept as a capsule, and its volume beside it, in the daemon's archive or in FILE; `suijuris import` brings it back. The key
of an instance stays taken, so that nobody gets another object under its name, until an owner of the class frees it.
Exit codes: 0 it is gone, 1 it refused, 2 usage, 3 broken input or environment.

Example:
  suijuris remove hello
  suijuris remove tenant/acme --to acme.sui
  suijuris remove --free tenant/acme")]
pub(crate) struct Args {
    /// CLASS/KEY, name, id, or a class
    object: String,
    /// Capsule to write; it must not exist [default: in the daemon's archive]
    #[arg(long, value_name = "FILE", conflicts_with = "forget")]
    to: Option<PathBuf>,
    /// Whom its key and secrets are sealed to, an age recipient (age1…) or `owner`; repeatable
    #[arg(long, value_name = "RECIPIENT", default_value = OWNER, conflicts_with = "forget")]
    seal_to: Vec<String>,
    /// Keep nothing of it
    #[arg(long)]
    forget: bool,
    /// Against its rules; recorded in its history as the host's act, and only its owners can restore it
    #[arg(long)]
    force: bool,
    /// Free the key of an instance that was removed: who comes next founds another object
    #[arg(long, conflicts_with_all = ["to", "forget", "force"])]
    free: bool,
    /// Print what was removed as JSON
    #[arg(long)]
    json: bool,
}

/// What `remove --json` prints.
#[derive(Debug, Serialize)]
struct Removed {
    object: String,
    name: String,
    #[serde(flatten)]
    left: Left,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let server = Server::chosen()?;
    if args.free {
        return free(args, &server);
    }
    let classes: ClassList = server.get("/v1/classes")?;
    if classes.classes.iter().any(|class| class.class == args.object) {
        let class: Class = server.delete(&format!("/v1/classes/{}", args.object))?;
        if args.json {
            terminal::print_json(&class)?;
        } else {
            terminal::print(&format!("removed class {}\n", class.class))?;
        }
        return Ok(Answer::Yes);
    }
    let object: Object = server.object(&args.object)?;
    let to = args.to.as_ref().map(std::path::absolute).transpose()?;
    let place = match (&to, args.forget) {
        (_, true) => "nowhere".to_owned(),
        (Some(file), false) => file.to_str().context("FILE is no text")?.to_owned(),
        (None, false) => "archive".to_owned(),
    };
    let Word { sleep, signed } = match args.force {
        // Nobody is asked.
        true => Word::default(),
        false => sign(&server, &object, Ask::Remove, &place)?,
    };
    let seal_to = match args.forget {
        true => Vec::new(),
        false => recipients(&args.seal_to)?,
    };
    let removal = Remove {
        to,
        seal_to,
        forget: args.forget,
        force: args.force,
        sleep,
        signed,
    };
    let mut left: Left = crate::carrier::asked(server.post_slowly(&route(&object, "/remove"), &removal))?;
    if let Some(verdict) = left.refused.take() {
        return tell(&verdict, args.json);
    }
    if args.json {
        terminal::print_json(&Removed {
            object: object.object,
            name: object.name,
            left,
        })?;
        return Ok(Answer::Yes);
    }
    let mut text = format!("removed {}\n", args.object);
    for (what, path) in [
        ("it is in", &left.capsule),
        ("its volume is in", &left.volume),
        ("its data is in", &left.data),
    ] {
        if let Some(path) = path {
            text += &format!("  {what} {}\n", path.display());
        }
    }
    terminal::print(&text)?;
    Ok(Answer::Yes)
}

/// Frees the key of an instance that was removed.
fn free(args: &Args, server: &Server) -> anyhow::Result<Answer> {
    let Some((class, key)) = args.object.split_once('/') else {
        return Err(Usage("name the key that is freed: CLASS/KEY".to_owned()).into());
    };
    let path = format!("/v1/classes/{}/keys/{}", encoded(class), encoded(key));
    let taken: ClassKey = server.get(&path)?;
    let Some(owner) = owner::existing_key()? else {
        bail!("an owner of the class frees it, and no owner's key is here: name one with SUIJURIS_OWNER_KEY");
    };
    let object: ObjectId = taken.object.parse()?;
    let head = SigningContext::of_owner(object, RecordId::from_digest(*object.digest()), &owner);
    let audience = server
        .daemon()?
        .server
        .parse()
        .context("the daemon names no key")?;
    let place = format!("free {}/{}", taken.class, taken.key);
    let signed = here::sign(&head, Ask::Remove, content(object, &place), audience)?;
    let signed = signed.context("it could not be signed")?;
    let signed = Box::new(suijuris_words::owner::document(&signed)?);
    let freed: ClassKey = server.post(&format!("{path}/free"), &FreeKey { signed })?;
    if args.json {
        terminal::print_json(&freed)?;
    } else {
        terminal::print(&format!("freed {}\n", args.object))?;
    }
    Ok(Answer::Yes)
}
