//! Owners' approvals, as files that travel between them; `approve` writes one, `up`, `fork` and `restore` take them in
//! with `--approval`. An approval is for one object and one thing: an amendment of the rules now in force, one child, one
//! restore of one copy. It cannot be used for anything else, nor a second time.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use suijuris_api::daemon::{ApprovalList, OwnerApproval};
use suijuris_bundle::{Built, Style, build};
use suijuris_core::governance::Action;
use suijuris_core::id::{BundleId, ObjectId, RecordId};
use suijuris_core::key::{PublicKey, SecretKey, Signature};
use suijuris_core::lineage::{Approval, Head, Restoration, Statement};
use suijuris_custody::terminate;

use crate::carrier::{Carrier, route};
use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::{Answer, Usage, history, key_wrap, owner, terminal};

/// Size of an approval's file at most, bytes.
const MAX_BYTES: u64 = 4_096;

/// Approve an amendment, a fork, a restore or an end, as one of several owners
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For an object with several owners. Without --child, --restore and --terminate the definition in DIR is
approved, and one of the owners starts `suijuris up DIR --approval FILE…`. `fork` and `restore`
say what to approve when approvals are missing. Reads the history, takes no lock and records
nothing; where a daemon serves the object it is handed in there too, and `amend` counts it. A copy of the data directory will do. An approval holds for one thing only.

Exit codes: 0 approved, 1 nothing to approve, or the key belongs to no owner of the object, 2 usage,
3 broken input.

Example:
  suijuris approve hello -o alice.approval
  suijuris approve hello --key bob.key -o bob.approval
  suijuris up hello --approval alice.approval --approval bob.approval")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Approve this child instead, by its id as `fork` said it
    #[arg(long, value_name = "ID", conflicts_with = "restore")]
    child: Option<ObjectId>,
    /// Approve this restore instead, as `restore` said it
    #[arg(long, value_name = "WHAT")]
    restore: Option<String>,
    /// Approve that the object ends for good instead
    #[arg(long, conflicts_with_all = ["child", "restore"])]
    terminate: bool,
    /// The owner's key [default: as for creating an object]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File to write; standard output where absent
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Print the owner's public key, as `[controllers]` takes it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Makes the key where there is none.

Example:
  suijuris key")]
pub(crate) struct KeyArgs {
    /// The owner's key [default: as for creating an object]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Print the age recipient that belongs to it instead, for others' `export --to`
    #[arg(long)]
    recipient: bool,
}

/// What the file holds, as JSON. Only `key` and `sig` are believed; the rest says what a signature that does not fit
/// was meant for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paper {
    object: String,
    action: String,
    /// The bundle that is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<String>,
    /// What binds the approval of an amendment to the rules now in force, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// The child that is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    child: Option<String>,
    /// The restore that is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restore: Option<String>,
    key: PublicKey,
    sig: Signature,
}

/// What is approved.
#[derive(Debug, Clone)]
pub(crate) enum Matter {
    /// An amendment to this bundle.
    Amend(BundleId),
    /// The birth of this child.
    Fork(ObjectId),
    /// A restore.
    Restore(Restoration),
    /// The end.
    Terminate,
}

impl Matter {
    const fn word(&self) -> &'static str {
        match self {
            Self::Amend(_) => "amend",
            Self::Fork(_) => "fork",
            Self::Restore(_) => "restore",
            Self::Terminate => "terminate",
        }
    }

    /// What owners sign where it is no restore.
    pub(crate) fn statement(&self, head: &Head) -> Option<Statement> {
        let (action, content) = match self {
            Self::Amend(bundle) => (Action::Amend, head.amendment(bundle)),
            Self::Fork(child) => (Action::Fork, *child.digest()),
            Self::Terminate => return Some(terminate::statement(head.object)),
            Self::Restore(_) => return None,
        };
        Some(Statement {
            object: head.object,
            action,
            content,
        })
    }

    /// Approves it with `key`.
    pub(crate) fn approve(&self, head: &Head, key: &SecretKey) -> anyhow::Result<Approval> {
        Ok(match self {
            Self::Restore(restoration) => restoration.approve(key)?,
            _ => self.statement(head).context("nothing is stated")?.approve(key)?,
        })
    }

    /// How many of the object's owners approved it.
    pub(crate) fn approved_by(&self, head: &Head, approvals: &[Approval]) -> usize {
        match self {
            Self::Restore(restoration) => restoration.approved_by(approvals, &head.controllers),
            _ => self
                .statement(head)
                .map_or(0, |statement| statement.approved_by(approvals, &head.controllers)),
        }
    }

    fn paper(&self, head: &Head, approval: &Approval) -> Paper {
        let bundle = match self {
            Self::Amend(bundle) => Some(bundle.to_string()),
            _ => None,
        };
        Paper {
            object: head.object.to_string(),
            action: self.word().to_owned(),
            content: bundle
                .is_some()
                .then(|| self.statement(head))
                .flatten()
                .map(|statement| statement.content.hex()),
            bundle,
            child: match self {
                Self::Fork(child) => Some(child.to_string()),
                _ => None,
            },
            restore: match self {
                Self::Restore(restoration) => Some(what(restoration)),
                _ => None,
            },
            key: approval.key,
            sig: approval.sig,
        }
    }
}

/// A restore as people pass it on: the head that goes on, then record, position and epoch that are given up.
pub(crate) fn what(restoration: &Restoration) -> String {
    let Restoration {
        head,
        abandoned,
        seq,
        epoch,
        ..
    } = restoration;
    format!("{head}/{abandoned}/{seq}/{epoch}")
}

/// Reads [`what`] back, for an object whose history is `head`'s.
fn restoration(text: &str, head: &Head) -> Option<Restoration> {
    let mut parts = text.split('/');
    let mut next = || parts.next();
    let goes_on: RecordId = next()?.parse().ok()?;
    let (abandoned, seq, epoch) = (
        next()?.parse().ok()?,
        next()?.parse().ok()?,
        next()?.parse().ok()?,
    );
    let whole = next().is_none();
    let of = Head {
        record: goes_on,
        ..head.clone()
    };
    whole.then(|| Restoration::of(&of, abandoned, seq, epoch))
}

/// Approvals of a matter: those in files, verified, and that of the owner here; each owner once.
///
/// # Errors
/// Which words of a file are not true of it, and what to do.
pub(crate) fn gather(
    matter: &Matter,
    head: &Head,
    papers: &[PathBuf],
    key: Option<&SecretKey>,
) -> anyhow::Result<Vec<Approval>> {
    let mut approvals = Vec::<Approval>::new();
    let mut take = |approval: Approval| {
        if !approvals.iter().any(|have| have.key == approval.key) {
            approvals.push(approval);
        }
    };
    for paper in papers {
        take(read(paper, head, matter)?);
    }
    if let Some(key) = key.filter(|key| head.controllers.contains(&key.public())) {
        take(matter.approve(head, key)?);
    }
    Ok(approvals)
}

/// Whether so many approvals are enough; the count.
pub(crate) fn enough(matter: &Matter, head: &Head, approvals: &[Approval]) -> Result<(), usize> {
    let found = matter.approved_by(head, approvals);
    if u32::try_from(found).is_ok_and(|found| found >= head.threshold) {
        Ok(())
    } else {
        Err(found)
    }
}

fn read(path: &Path, head: &Head, matter: &Matter) -> anyhow::Result<Approval> {
    let file =
        File::open(path).with_context(|| format!("the approval `{}` cannot be read", path.display()))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let word = match matter {
        Matter::Amend(_) => "amendment",
        Matter::Fork(_) => "child",
        Matter::Restore(_) => "restore",
        Matter::Terminate => "end",
    };
    check(&bytes, head, matter).with_context(|| format!("`{}` does not approve this {word}", path.display()))
}

fn check(bytes: &[u8], head: &Head, matter: &Matter) -> anyhow::Result<Approval> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        bail!("it is longer than {MAX_BYTES} bytes: name a file that `suijuris approve` wrote");
    }
    let paper: Paper = serde_json::from_slice(bytes)
        .context("it is not an approval: name a file that `suijuris approve` wrote")?;
    let approval = Approval {
        key: paper.key,
        sig: paper.sig,
    };
    let wanted = matter.paper(head, &approval);
    if paper.object != wanted.object {
        bail!("it is for the object {}", terminal::clean(&paper.object));
    }
    let theirs = |text: &Option<String>| terminal::clean(text.as_deref().unwrap_or("nothing"));
    if paper.action != wanted.action {
        bail!(
            "it approves another thing ({}): approve again",
            terminal::clean(&paper.action)
        );
    }
    if let Some(bundle) = wanted
        .bundle
        .filter(|bundle| Some(bundle) != paper.bundle.as_ref())
    {
        bail!(
            "it is for the definition {}, and the one here is {bundle}: approve again, or restore the definition",
            theirs(&paper.bundle)
        );
    }
    if paper.content != wanted.content {
        bail!("the rules have been amended since: approve again");
    }
    if let Some(child) = wanted.child.filter(|child| Some(child) != paper.child.as_ref()) {
        bail!(
            "it is for the child {}, and this one is {child}: approve again",
            theirs(&paper.child)
        );
    }
    if let Some(what) = wanted.restore.filter(|what| Some(what) != paper.restore.as_ref()) {
        bail!(
            "it is for {}, and this is {what}: approve again",
            theirs(&paper.restore)
        );
    }
    if !head.controllers.contains(&approval.key) {
        bail!("its key {} belongs to no owner of the object", approval.key);
    }
    if matter.approved_by(head, std::slice::from_ref(&approval)) != 1 {
        bail!("its signature is not valid: it was altered");
    }
    Ok(approval)
}

pub(crate) fn key(args: &KeyArgs) -> anyhow::Result<Answer> {
    let key = owner::key(args.key.as_deref())?;
    let text = if args.recipient {
        key_wrap::recipient_of(&key)?
    } else {
        key.public().to_string()
    };
    terminal::print(&format!("{text}\n"))?;
    Ok(Answer::Yes)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let reader = history::open(&place)?;
    let head = reader.state().head();
    let matter = match (&args.child, &args.restore) {
        (Some(child), _) => Matter::Fork(*child),
        (None, Some(text)) => Matter::Restore(restoration(text, head).ok_or_else(|| {
            Usage(format!(
                "`{text}` is not a restore: write what `suijuris restore` said to approve"
            ))
        })?),
        (None, None) if args.terminate => Matter::Terminate,
        (None, None) => {
            let Some(dir) = &place.object_dir else {
                bail!("name the object's directory, with the definition to approve; its data with --data");
            };
            Matter::Amend(built(dir)?.id)
        }
    };
    if let Matter::Amend(bundle) = &matter
        && *bundle == head.bundle
    {
        terminal::note("nothing to approve: the definition is the one in force");
        return Ok(Answer::No);
    }
    let key = owner::key(args.key.as_deref())?;
    if !head.controllers.contains(&key.public()) {
        terminal::note(&format!(
            "the key {} belongs to no owner of the object; name an owner's key with --key",
            key.public()
        ));
        return Ok(Answer::No);
    }
    let paper = matter.paper(head, &matter.approve(head, &key)?);
    let text = format!("{}\n", serde_json::to_string(&paper)?);
    if let Some(waiting) = hand_in(&place, &paper)? {
        let approved = waiting
            .approvals
            .iter()
            .filter(|one| Some(&one.bundle) == paper.bundle.as_ref());
        let count = approved.count();
        terminal::note(&format!(
            "handed in to the daemon that serves it: {count} of the {} owners needed approved this definition; `suijuris amend` counts them",
            waiting.threshold
        ));
    }
    match &args.output {
        None => terminal::print(&text)?,
        Some(path) => File::create(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write `{}`", path.display()))?,
    }
    terminal::note(&format!(
        "approved {} for `{}`; {} of {} owners must",
        match &matter {
            Matter::Amend(bundle) => bundle.short(),
            Matter::Fork(child) => format!("the child …{}", child.short()),
            Matter::Restore(_) => "the restore".to_owned(),
            Matter::Terminate => "the end".to_owned(),
        },
        terminal::clean(&head.name),
        head.threshold,
        head.controllers.len()
    ));
    Ok(Answer::Yes)
}

/// Gives the approval of an amendment to the daemon that serves the object, where one does; what waits there then.
fn hand_in(place: &ObjectPaths, paper: &Paper) -> anyhow::Result<Option<ApprovalList>> {
    let (Some(bundle), Some(content)) = (&paper.bundle, &paper.content) else {
        return Ok(None);
    };
    let Carrier::Daemon(server, object) = Carrier::at(place.clone())? else {
        return Ok(None);
    };
    let approval = OwnerApproval {
        object: paper.object.clone(),
        action: paper.action.clone(),
        bundle: bundle.clone(),
        content: content.clone(),
        key: paper.key.to_string(),
        sig: paper.sig.to_string(),
    };
    Ok(Some(server.post(&route(&object, "/approvals"), &approval)?))
}

fn built(dir: &Path) -> anyhow::Result<Built> {
    build(dir).map_err(|report| {
        let style = Style {
            colour: terminal::colour(&std::io::stderr()),
            ..Style::PLAIN
        };
        anyhow::anyhow!("the definition has errors\n{}", report.render(style).trim_end())
    })
}
