//! `messages`: what waits in an object's inbox, and what becomes of those that were set aside.

use anyhow::Context as _;
use serde_json::Value;
use suijuris_api::agent::Messages;
use suijuris_api::history::MessageOutcome;
use suijuris_core::message::MessageKey;
use suijuris_custody::deliveries::Deliveries;
use suijuris_depot::MAX_WAITING;
use suijuris_supervisor::messages::{self, Act};

use crate::carrier::{Carrier, asked, route};
use crate::depots::DepotArg;
use crate::object_paths::ObjectArg;
use crate::terminal::{self, Table};
use crate::{Answer, Usage, history};

/// Digits of a key that are shown, and that name a message where no other begins so.
const SHORT: usize = 12;

/// See the messages that wait for an object, and try again or drop those set aside
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
A message whose readers ended five times with it in hand is set aside: it is kept, and neither
wakes the object nor is delivered, until it is tried again or dropped.")]
pub(crate) enum Command {
    Ls(LsArgs),
    Retry(ActArgs),
    Drop(ActArgs),
}

/// List the messages that wait
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  suijuris messages ls agent --json | jq '.messages[] | select(.set_aside)'"
)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    at: ObjectArg,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A message of an object
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 done, 1 no such message waits, 2 usage, 3 the depot cannot be reached.

Example:
  suijuris messages retry agent 5f0c2a91d3b7")]
pub(crate) struct ActArgs {
    /// The object: its directory, its data directory, or as a daemon names it
    #[arg(value_name = "OBJ")]
    object: std::path::PathBuf,
    /// Keys of messages, as `messages ls` shows them: 64 hexadecimal digits, or as many as name one
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object for each
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<Answer> {
    match command {
        Command::Ls(args) => ls(args),
        Command::Retry(args) => act(args, Act::Retry),
        Command::Drop(args) => act(args, Act::Drop),
    }
}

fn ls(args: &LsArgs) -> anyhow::Result<Answer> {
    let found = listed(&args.at.carrier()?, &args.depot)?;
    if args.json {
        terminal::print_json(&found)?;
        return Ok(Answer::Yes);
    }
    if found.messages.is_empty() {
        terminal::note("no messages wait");
        return Ok(Answer::Yes);
    }
    let mut table = Table::default();
    table.row(["KEY", "TYPE", "ID", "ACCEPTED", "STATE"]);
    for message in &found.messages {
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = text("key");
        let deliveries = message.get("deliveries").and_then(Value::as_u64).unwrap_or(0);
        let state = match message.get("set_aside").and_then(Value::as_bool) {
            Some(true) => format!("set aside after {}", times(deliveries)),
            _ if deliveries > 0 => format!("waits, delivered {}", times(deliveries)),
            _ => "waits".to_owned(),
        };
        table.row([
            key.get(..SHORT).unwrap_or(key),
            text("type"),
            text("id"),
            text("accepted"),
            &state,
        ]);
    }
    terminal::print(&table.text(0))?;
    Ok(Answer::Yes)
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

fn act(args: &ActArgs, act: Act) -> anyhow::Result<Answer> {
    let carrier = Carrier::of(Some(&args.object), None)?;
    let waiting = listed(&carrier, &args.depot)?;
    let mut answer = Answer::Yes;
    for named in &args.keys {
        let Some(key) = meant(&waiting, named)? else {
            terminal::note(&format!(
                "no message with the key `{}` waits: see `suijuris messages ls`",
                terminal::clean(named)
            ));
            answer = Answer::No;
            continue;
        };
        let done = done(&carrier, &args.depot, key, act)?;
        if args.json {
            terminal::print_json(&done)?;
        } else {
            let key = done.key.get(..SHORT).unwrap_or(&done.key);
            terminal::print(&format!("{}  {key}\n", done.outcome))?;
        }
    }
    Ok(answer)
}

/// The one waiting message whose key begins so.
fn meant(waiting: &Messages, named: &str) -> Result<Option<MessageKey>, Usage> {
    let keys = waiting
        .messages
        .iter()
        .filter_map(|message| message.get("key")?.as_str());
    let found: Vec<&str> = keys.filter(|key| key.starts_with(named)).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(one.parse().ok().map(MessageKey)),
        _ => Err(Usage(format!(
            "{} messages have keys that begin with `{named}`: write more digits",
            found.len()
        ))),
    }
}

fn listed(carrier: &Carrier, depot: &DepotArg) -> anyhow::Result<Messages> {
    match carrier {
        Carrier::Daemon(server, object) => asked(server.get(&route(object, "/messages?limit=1000"))),
        Carrier::Files(paths) => {
            let object = history::open(paths)?.state().head().object;
            let found = waiting(async {
                let depot = depot.open().await?;
                depot.inbox(object, MAX_WAITING).await
            })?;
            let counts = Deliveries::of(&paths.data).counts();
            Ok(messages::listed(&found, &counts, MAX_WAITING))
        }
    }
}

fn done(carrier: &Carrier, depot: &DepotArg, key: MessageKey, act: Act) -> anyhow::Result<MessageOutcome> {
    match carrier {
        Carrier::Daemon(server, object) => {
            let path = route(object, &format!("/messages/{}", key.0.hex()));
            match act {
                Act::Retry => asked(server.post(&format!("{path}/retry"), &serde_json::json!({}))),
                Act::Drop => asked(server.delete(&path)),
            }
        }
        Carrier::Files(paths) => {
            let object = history::open(paths)?.state().head().object;
            let deliveries = Deliveries::of(&paths.data);
            waiting(async {
                let depot = depot.open().await?;
                Ok(messages::act(&*depot, object, &deliveries, key, act).await)
            })?
            .context("nothing was changed")
        }
    }
}

fn waiting<T>(asked: impl Future<Output = Result<T, suijuris_depot::Error>>) -> anyhow::Result<T> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(tokio.block_on(asked)?)
}
