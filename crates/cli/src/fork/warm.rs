//! `fork --warm`: children that begin with the memory of the parent's suspended machine, made by the daemon that has it. The owner's key
//! stays here: what is asked is signed, and then each child's id.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;
use suijuris_api::control::{Forked, Reply};
use suijuris_api::daemon::{Fork, Object};
use suijuris_core::ObjectId;
use suijuris_core::governance::Action;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Approval, Head, Statement};
use suijuris_store::{Depth, ObjectDir, Reader};

use super::Args;
use crate::approval::{self, Matter};
use crate::carrier::{Carrier, route};
use crate::object_paths::NoObject;
use crate::server::Server;
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, owner, transition};

/// What `--json` prints of each child.
#[derive(Debug, Serialize)]
struct Born<'c> {
    data: &'c str,
    object: &'c str,
    parent: &'c str,
    seq: u64,
    left_out: &'c [String],
    warm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'c str>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let to = args.to.to_str().filter(|to| !to.contains('/'));
    let to = to.ok_or_else(|| {
        Usage("with --warm, --to is what the child is called in the daemon: a-z, 0-9 and -".to_owned())
    })?;
    let (server, object) = match args.at.carrier()? {
        Carrier::Daemon(server, object) => (server, object),
        // A definition of that name may lie here, too.
        Carrier::Files(paths) if !paths.home().holds_object()? && named(args)?.is_some() => {
            named(args)?.ok_or_else(|| NoObject(paths.data.clone()))?
        }
        Carrier::Files(paths) => bail!(
            "{} is not served by a daemon, and has no suspended machine that a child could begin with: run `suijuris serve --vehicle \
             qemu`, `suijuris add` it, wake it and let it fall asleep; or fork it without --warm",
            paths.name()
        ),
    };
    let key = owner::key_if_any(args.key.as_deref())?;
    let names: Vec<String> = match args.count {
        None => vec![to.to_owned()],
        Some(count) => (1..=count).map(|number| format!("{to}-{number}")).collect(),
    };
    let mut answer = Answer::Yes;
    for name in names {
        answer = one(args, (&server, &object), key.as_ref(), &name)?;
        if !matches!(answer, Answer::Yes) {
            break;
        }
    }
    Ok(answer)
}

/// The object that a daemon serves under the name that was given.
fn named(args: &Args) -> anyhow::Result<Option<(Server, Box<Object>)>> {
    let Some(name) = args.at.dir.as_deref().and_then(Path::to_str) else {
        return Ok(None);
    };
    let Some(server) = Server::running()? else {
        return Ok(None);
    };
    let found = server.object(name).ok();
    Ok(found.map(|object| (server, Box::new(object))))
}

/// Makes one child.
fn one(
    args: &Args,
    (server, object): (&Server, &Object),
    key: Option<&SecretKey>,
    name: &str,
) -> anyhow::Result<Answer> {
    let ask = |asks: &[Approval], approvals: &[Approval]| -> anyhow::Result<Reply> {
        let documents = |list: &[Approval]| list.iter().map(suijuris_words::owner::approval).collect();
        let fork = Fork {
            to: name.to_owned(),
            secrets: args.secrets,
            asks: documents(asks),
            approvals: documents(approvals),
        };
        Ok(server.post_slowly(&route(object, "/fork"), &fork)?)
    };
    let home = ObjectDir::at(&object.data);
    let head = || anyhow::Ok(Reader::open(&home, Depth::Tail)?.state().head().clone());
    let before = head()?;
    let mut reply = ask(&asking(&before, key)?, &[])?;
    if let Reply::Forked(prepared) = &reply
        && prepared.seq.is_none()
    {
        let now = head()?;
        let child: ObjectId = prepared
            .object
            .parse()
            .context("the daemon names a child by no id")?;
        let matter = Matter::Fork(child);
        let approvals = approval::gather(&matter, &now, &args.approvals, key)?;
        if approval::enough(&matter, &now, &approvals).is_err() || approvals.is_empty() {
            return missing(args, prepared, approvals.len(), now.threshold);
        }
        reply = ask(&asking(&now, key)?, &approvals)?;
    }
    match reply {
        Reply::Forked(child) if child.seq.is_some() => told(args, &child),
        Reply::Forked(child) => missing(args, &child, child.approved, child.needed),
        Reply::Verdict(verdict) => {
            transition::tell(&verdict, args.json)?;
            Ok(Answer::No)
        }
        Reply::Error { code, message } if code == "warm_forks_not_allowed" => {
            terminal::note(&format!("not forked: {message}"));
            Ok(Answer::No)
        }
        Reply::Error { code, message } => bail!("{message} [{code}]"),
        Reply::Status { .. } | Reply::Patched { .. } => {
            bail!("another question was answered; use the same version of suijuris for both")
        }
    }
}

/// The owner here, who signs for the answer to this one question.
fn asking(head: &Head, key: Option<&SecretKey>) -> anyhow::Result<Vec<Approval>> {
    let statement = Statement {
        object: head.object,
        action: Action::Fork,
        content: *head.record.digest(),
    };
    let own = key.filter(|key| head.controllers.contains(&key.public()));
    Ok(own
        .map(|key| statement.approve(key))
        .transpose()?
        .into_iter()
        .collect())
}

fn missing(args: &Args, child: &Forked, approved: usize, needed: u32) -> anyhow::Result<Answer> {
    if args.json {
        terminal::print_json(&super::Missing {
            code: "approvals_missing",
            object: child.object.clone(),
            approved,
            needed,
        })?;
    } else {
        terminal::print(&format!(
            "{} {approved} of the {needed} owners needed approved it; name an owner's key with --key\n  object {}\n",
            Screen::stdout().paint(Tone::Bad, "not born"),
            child.object,
        ))?;
    }
    Ok(Answer::No)
}

fn told(args: &Args, child: &Forked) -> anyhow::Result<Answer> {
    let seq = child.seq.unwrap_or_default();
    if let Some(why) = &child.cold {
        terminal::note(&format!(
            "the child's machine will boot, and not begin with its parent's memory: {why}"
        ));
    }
    if args.json {
        terminal::print_json(&Born {
            data: &child.data,
            object: &child.object,
            parent: &child.parent,
            seq,
            left_out: &child.left_out,
            warm: child.cold.is_none(),
            url: child.url.as_deref(),
        })?;
        return Ok(Answer::Yes);
    }
    let mut text = format!(
        "{}\n  object {}\n  parent {}, record {seq}\n",
        child.data, child.object, child.parent
    );
    if let Some(url) = &child.url {
        text += &format!("  {url}\n");
    }
    if child.cold.is_none() {
        text += "  its workload goes on with its parent's memory; secrets in there are the child's, too\n";
    }
    if !child.left_out.is_empty() {
        text += &format!("  not given to the child: {}\n", child.left_out.join(", "));
    }
    terminal::print(&text)?;
    Ok(Answer::Yes)
}
