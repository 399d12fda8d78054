//! `send`: a message into an object's inbox.

use std::fs::File;
use std::io::{Read as _, stdin};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use suijuris_api::daemon::Object;
use suijuris_api::history::Sent;
use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::message::{MAX_BYTES, Message, VERSION};
use suijuris_core::time::Timestamp;
use suijuris_depot::Posted;
use suijuris_words::cloudevents;

use crate::carrier::{Carrier, asked, route};
use crate::depots::DepotArg;
use crate::server::{Server, ServerError};
use crate::terminal;
use crate::{Answer, Usage, history};

/// Send a message to an object, asleep or awake
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The message is a CloudEvents 1.0 event. It is stored durably in the object's inbox before this
command says so, wakes a sleeping object that declares the type as a topic and whose rules permit
it, and is read by the workload on the agent socket. Two with the same source and id are one.

Exit codes: 0 stored, now or before, 1 not allowed, or the inbox is full, 2 usage, 3 the depot
cannot be reached.

Example:
  suijuris send agent --type job.posted --data '{\"job\": 7}'")]
pub(crate) struct Args {
    /// The object: its directory, its data directory, or its id
    #[arg(value_name = "OBJ")]
    object: String,
    /// Topic: the `type` of the event
    #[arg(long = "type", value_name = "TYPE")]
    topic: String,
    /// Id within the source [default: 32 random hexadecimal digits]
    #[arg(long)]
    id: Option<String>,
    /// Where it comes from: a URI reference
    #[arg(long, default_value = "/suijuris/send")]
    source: String,
    /// What it is about
    #[arg(long)]
    subject: Option<String>,
    /// Data, as text
    #[arg(long, value_name = "TEXT", conflicts_with = "data_file")]
    data: Option<String>,
    /// Data, from a file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// Media type of the data
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let message = message(args)?;
    // So that what is wrong with it is told before anybody is asked.
    message.encode().map_err(|error| Usage(error.to_string()))?;
    let sent = match Target::of(args)? {
        Target::Daemon(server, object) => to_daemon(&server, &object, &message)?,
        Target::Depot(object, wakes) => to_depot(args, object, wakes, &message)?,
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(why) => {
            terminal::note(&why);
            return Ok(Answer::No);
        }
    };
    if sent.wakes == Some(false) {
        terminal::note(&format!(
            "`{}` is not a topic of the object: the message waits and does not wake it",
            terminal::clean(&args.topic)
        ));
    }
    if args.json {
        terminal::print_json(&sent)?;
    } else {
        let (outcome, object) = (terminal::clean(&sent.outcome), terminal::clean(&sent.object));
        terminal::print(&format!("{outcome}  {} for {object}\n", message.id))?;
    }
    Ok(Answer::Yes)
}

/// Whose inbox, and who puts it there.
enum Target {
    Daemon(Server, Box<Object>),
    /// With whether its type wakes the object, where that is known here.
    Depot(ObjectId, Option<bool>),
}

impl Target {
    fn of(args: &Args) -> anyhow::Result<Self> {
        // Where a daemon serves the object, its inbox is where that daemon looks.
        if let Ok(object) = args.object.parse() {
            return Ok(match Server::running()? {
                Some(server) => match server.object(&args.object) {
                    Ok(object) => Self::Daemon(server, Box::new(object)),
                    Err(ServerError::Refused(problem)) if problem.status == 404 => Self::Depot(object, None),
                    Err(error) => return Err(error.into()),
                },
                None => Self::Depot(object, None),
            });
        }
        match Carrier::of(Some(Path::new(&args.object)), None)? {
            Carrier::Daemon(server, object) => Ok(Self::Daemon(server, object)),
            Carrier::Files(place) => {
                let reader = history::open(&place)?;
                let head = reader.state().head();
                let bundle = reader.bundle(&head.bundle)?;
                let wakes = bundle.manifest.triggers.topics.contains(&args.topic);
                Ok(Self::Depot(head.object, Some(wakes)))
            }
        }
    }
}

/// Stores it by a daemon's hand; why it may not be.
fn to_daemon(server: &Server, object: &Object, message: &Message) -> anyhow::Result<Result<Sent, String>> {
    let event = cloudevents::to_json(message);
    match server.post(&route(object, "/messages"), &event) {
        Err(ServerError::Refused(problem))
            if matches!(problem.code.as_str(), "inbox_full" | "depot_read_only") =>
        {
            Ok(Err(format!("{}: {}", problem.title, problem.detail)))
        }
        answer => Ok(Ok(asked(answer)?)),
    }
}

/// Stores it in the depot; why it may not be.
fn to_depot(
    args: &Args,
    object: ObjectId,
    wakes: Option<bool>,
    message: &Message,
) -> anyhow::Result<Result<Sent, String>> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let posted = tokio.block_on(async {
        let depot = args.depot.open().await?;
        depot.post(object, message).await
    });
    let outcome = match posted {
        Ok(Posted::Stored) => "stored",
        Ok(Posted::Duplicate) => "duplicate",
        Err(error @ (suijuris_depot::Error::InboxFull | suijuris_depot::Error::NotAllowed(_))) => {
            return Ok(Err(suijuris_custody::chain(&error)));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Ok(Sent {
        outcome: outcome.to_owned(),
        object: object.to_string(),
        id: message.id.clone(),
        source: message.source.clone(),
        key: message.key().0.hex(),
        wakes,
    }))
}

fn message(args: &Args) -> anyhow::Result<Message> {
    let data = match (&args.data, &args.data_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => read(path)?,
        (None, None) => Vec::new(),
    };
    let id = match &args.id {
        Some(id) => id.clone(),
        None => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).context("the system provides no randomness")?;
            Digest(bytes).hex().chars().take(32).collect()
        }
    };
    let now = jiff::Timestamp::now();
    Ok(Message {
        v: VERSION,
        id,
        source: args.source.clone(),
        topic: args.topic.clone(),
        subject: args.subject.clone(),
        time: Some(format!("{now:.3}")),
        datacontenttype: (!data.is_empty()).then(|| args.content_type.clone()),
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data,
        accepted: Timestamp(now.as_millisecond()),
    })
}

/// At most one byte more than a message may have: what is longer is refused by its length.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut data = Vec::new();
    if path == Path::new("-") {
        stdin().take(limit).read_to_end(&mut data)?;
    } else {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("`{shown}` cannot be read"))?;
        file.take(limit).read_to_end(&mut data)?;
    }
    Ok(data)
}
