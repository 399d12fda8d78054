//! `memory set`: an owner writes fields, through the `up` that runs the object or, where none does, here.

use std::path::{Path, PathBuf};

use suijuris_api::agent::{Memory, Patch};
use suijuris_api::control::Reply;
use suijuris_core::inputs::Inputs;
use suijuris_core::owner_request::{Ask, nobody};
use suijuris_custody::owner::{Asking, content_of};
use suijuris_custody::patch;
use suijuris_custody::record::{self, record_crash};
use suijuris_custody::write::{self, Staged, WriteError, unwitnessed};
use suijuris_store::Sign;
use suijuris_words::verdict;

use crate::carrier::Carrier;
use crate::depots::DepotArg;
use crate::here::SigningContext;
use crate::offline::{self, OfflineObject, Taken};
use crate::terminal;
use crate::{Answer, Usage, clock, control, here, transition};

/// Write memory, as the object's owner
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All writes take effect together or not at all, and are durable when this returns. The object's own
rules decide whether its owner may. VALUE is JSON, or text for a field that holds text; in place
of FIELD=VALUE one field can be written as FIELD VALUE. `--expect FIELD=null` expects a field that
holds nothing. `FIELD=@FILE` takes the value from a file, `FIELD=@-` from standard input, and at a
terminal from a prompt that does not show it: use it for secrets.

If the object is not running, this command claims it in the depot while it writes, as `up` would.

Exit codes: 0 written, 1 refused by the rules, not as expected, or this copy is not the object, 3
it does not fit memory, or the witness that the object requires does not have it.

Example:
  suijuris memory set hello open=false linger=1m
  suijuris memory set hello consent 2026-11-23T08:00:00Z
  suijuris memory set --append jobs='[\"letters\"]' --expect budget=5")]
pub(crate) struct Args {
    /// Object's directory, then what to write
    #[arg(value_name = "DIR|FIELD=VALUE")]
    words: Vec<String>,
    /// Add items to a set, list or map; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    append: Vec<String>,
    /// Add to a counter; may be given several times
    #[arg(long, value_name = "FIELD=NUMBER")]
    add: Vec<String>,
    /// Empty a field; may be given several times
    #[arg(long, value_name = "FIELD")]
    unset: Vec<String>,
    /// Write only if the field holds this now; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    expect: Vec<String>,
    /// Data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The directory, if one is named, and `FIELD=VALUE` texts. A word alone is a directory; so is the first one that
    /// assigns nothing before others that do, or before a field and its value.
    fn read(&self) -> (Option<&Path>, Vec<String>) {
        let assigns = |word: &String| word.contains('=');
        let is_dir = |word: &String, rest: &[String]| {
            !assigns(word)
                && (!super::is_field(word) || matches!(rest.len(), 0 | 2) || rest.iter().any(assigns))
        };
        let (dir, rest) = match self.words.as_slice() {
            [dir, rest @ ..] if is_dir(dir, rest) => (Some(Path::new(dir)), rest),
            words => (None, words),
        };
        match rest {
            [field, value] if super::is_field(field) => (dir, vec![format!("{field}={value}")]),
            texts => (dir, texts.to_vec()),
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let (dir, set) = args.read();
    if set.is_empty() && args.append.is_empty() && args.add.is_empty() && args.unset.is_empty() {
        return Err(
            Usage("say what to write, as in `suijuris memory set hello open=false`".to_owned()).into(),
        );
    }
    let carrier = Carrier::of(dir, args.data.as_deref())?;
    let patch = patch_of(args, &set, &carrier.memory()?)?;
    let reply = control::ask_as_owner(&carrier, Ask::Write, Some(&patch))?;
    match (reply, carrier) {
        (Some(reply), _) => answered(reply, args.json),
        (None, Carrier::Daemon(..)) => anyhow::bail!("the daemon gave no answer: try again"),
        (None, Carrier::Files(place)) => match offline::take(offline::open(&place)?, &args.depot)? {
            Taken::Open(held) => {
                let answer = write(&held, &patch, args.json);
                // Whatever was found, the object is let go; what was written is told only once it may be.
                held.leave()?;
                answer
            }
            Taken::NotTheObject(copy) => {
                offline::tell_not_the_object(&copy, args.json)?;
                Ok(Answer::No)
            }
        },
    }
}

fn patch_of(args: &Args, set: &[String], memory: &Memory) -> Result<Patch, Usage> {
    Ok(Patch {
        set: super::assignments(set, memory)?,
        append: super::assignments(&args.append, memory)?,
        add: super::amounts(&args.add)?,
        unset: args.unset.clone(),
        expect: super::assignments(&args.expect, memory)?,
        expect_root: None,
    })
}

/// What `up` says of the write.
fn answered(reply: Reply, json: bool) -> anyhow::Result<Answer> {
    match reply {
        Reply::Patched { seq, root } => written(seq, &root, json),
        Reply::Verdict(verdict) => transition::tell(&verdict, json),
        Reply::Error { code, message }
            if matches!(
                code.as_str(),
                "memory_conflict" | "refused" | "terminated" | "departed"
            ) =>
        {
            terminal::note(&format!("not written: {message}"));
            Ok(Answer::No)
        }
        Reply::Error { code, message } => anyhow::bail!("not written: {message} [{code}]"),
        Reply::Status { .. } | Reply::Forked(_) => {
            anyhow::bail!("`up` answered another question; use the same version of suijuris for both")
        }
    }
}

fn written(seq: u64, root: &str, json: bool) -> anyhow::Result<Answer> {
    if json {
        terminal::print_json(&serde_json::json!({"seq": seq, "root": root}))?;
    } else {
        terminal::note(&format!("written as record {seq}"));
    }
    Ok(Answer::Yes)
}

/// Writes while nobody runs the object: as the owner whose key is here, or as the host.
fn write(held: &OfflineObject, patch: &Patch, json: bool) -> anyhow::Result<Answer> {
    let (writer, now) = (&held.writer, held.now);
    held.claim.may_write().map_err(WriteError::from)?;
    record_crash(writer, now.at)?;
    let content = content_of(patch);
    let by = {
        let state = writer.published();
        let signed = here::sign(&SigningContext::of(state.head()), Ask::Write, content, nobody())?;
        let asking = Asking {
            ask: Ask::Write,
            content,
            signed: signed.as_ref(),
            server: nobody(),
            now: clock::reading()?.wall,
        };
        asking.principal(state.head())?
    };
    let inputs = Inputs::new(now, by, here::host());
    let staged = write::stage(
        &held.claim,
        writer,
        &held.bundle,
        inputs,
        patch,
        (now.at, Sign::Now),
    );
    match staged.and_then(Staged::wait) {
        Ok(durable) => {
            let acknowledged = held.tokio.block_on(held.claim.acknowledge_write(durable));
            let done =
                acknowledged.map_err(|why| anyhow::anyhow!("not written: {}", unwitnessed(why).detail))?;
            written(done.seq, &done.root, json)
        }
        Err(WriteError::Refused(decision)) => {
            transition::tell(&verdict::verdict(&decision, record::PLACE), json)?;
            if writer.published().head().phase.is_closed() {
                return Ok(Answer::No);
            }
            record::record(writer, record::refusal(&decision), now.at)?;
            Ok(Answer::No)
        }
        Err(WriteError::Patch(error @ (patch::Error::Conflict(_) | patch::Error::RootConflict))) => {
            terminal::note(&format!("not written: {error}"));
            Ok(Answer::No)
        }
        Err(error) => Err(error.into()),
    }
}
