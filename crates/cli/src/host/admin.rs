//! What is asked of a host that runs, over the socket in its data directory: tokens, and what it would do next.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::{Answer, terminal};

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make, list and revoke tokens of a host that runs
    #[command(subcommand)]
    Token(Token),
    /// Print what machines of a host that runs have written, this life and the one before
    #[command(
        after_help = "On a terminal control characters are shown as escapes.\n\nExample:\n  suijuris host logs shop -f"
    )]
    Logs(Logs),
    /// Open a terminal in a machine of a host that runs, with a shell or another command
    #[command(after_help = "\
Keys go to the command, Ctrl-C too. At the beginning of a line ~. ends the console and the command; ~~ is a ~. Where standard input is
no terminal, its end is the command's. Exit codes: the command's, 128 and the signal's number after one, 2 usage, 3 no console.

Example:
  suijuris host console shop 148e21ea7d1098
  suijuris host console shop worker -- /bin/busybox top")]
    Console(super::console::Args),
    /// List backups of volumes, and what is still to be sent or brought back
    #[command(
        after_help = "A snapshot that is kept is restored by any host with the same backups and the same app: create a volume with its \
snapshot_id.\n\nExample:\n  suijuris host backups --json"
    )]
    Backups {
        /// One JSON line for each backup
        #[arg(long)]
        json: bool,
    },
    /// Send every machine of a host that runs to another host, with its volumes, under the same id
    #[command(after_help = "\
Each machine is stopped, taken across, and started there if it ran here; what cannot go stays as it was, with the reason. What is
not finished when either side ends goes on by itself. The other host gives the token: `suijuris host token create --receive` there.
Volumes and secrets travel as they are: use a network that is yours alone, or a tunnel. Exit codes: 0 all moved, 1 not all.

Example:
  SUIJURIS_DRAIN_TOKEN=sjm_… suijuris host drain --to http://10.0.0.2:4280")]
    Drain(Drain),
    /// Print who asked the API of a host what, and what came of it, oldest first
    #[command(
        after_help = "Calls that only looked and were allowed to are not in it.\n\nExample:\n  suijuris host audit --json"
    )]
    Audit {
        /// One JSON line for each call
        #[arg(long)]
        json: bool,
    },
    /// Print what a host that runs would do next for each machine
    #[command(after_help = "Example:\n  suijuris host plan --json")]
    Plan {
        /// One JSON line for each machine
        #[arg(long)]
        json: bool,
    },
}

/// Where machines go.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// Address of the other host's API
    #[arg(long, value_name = "URL", required_unless_present = "stop")]
    to: Option<String>,
    /// File with the token of the other host [default: the variable SUIJURIS_DRAIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Call off what is not finished: what the other host has already goes there, all else stays
    #[arg(long, conflicts_with = "to")]
    stop: bool,
    /// One JSON line for each machine
    #[arg(long)]
    json: bool,
}

impl Drain {
    fn token(&self) -> anyhow::Result<String> {
        let text = match &self.token_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => std::env::var("SUIJURIS_DRAIN_TOKEN")
                .context("the other host's token is missing: set SUIJURIS_DRAIN_TOKEN, or name its file with --token-file")?,
        };
        Ok(text.trim().to_owned())
    }
}

/// Prints the audit log of a data directory, oldest first.
fn audit(data: &Path, is_json: bool) -> anyhow::Result<Answer> {
    let directory = data.join("audit");
    let rotated = (1..8)
        .rev()
        .map(|number| directory.join(format!("audit.log.{number}")));
    let mut found = false;
    for path in rotated.chain([directory.join("audit.log")]) {
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file.with_context(|| format!("cannot read {}", path.display()))?,
        };
        found = true;
        for line in std::io::BufRead::lines(std::io::BufReader::new(file)) {
            // One that a daemon died over is not whole.
            let Ok(row) = serde_json::from_str::<Value>(&line?) else {
                continue;
            };
            if is_json {
                terminal::print_json(&row)?;
            } else {
                terminal::print(&terminal::clean(&audited(&row)))?;
                terminal::print("\n")?;
            }
        }
    }
    if !found {
        terminal::note(&format!("no host has run on {}", data.display()));
    }
    Ok(if found { Answer::Yes } else { Answer::No })
}

fn audited(row: &Value) -> String {
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    if let Some(lost) = row.get("lost") {
        return format!(
            "{}  {lost} calls before this could not be written: the disk was full",
            text("at")
        );
    }
    let who = match row.get("who") {
        Some(Value::String(who)) => who.clone(),
        Some(who) => match (who.pointer("/token/id"), who.get("machine")) {
            (Some(id), _) => format!("token {}", id.as_str().unwrap_or_default()),
            (_, Some(id)) => format!("machine {}", id.as_str().unwrap_or_default()),
            _ => "?".to_owned(),
        },
        None => "?".to_owned(),
    };
    let status = row.get("status").and_then(Value::as_u64).unwrap_or_default();
    format!(
        "{}  {status}  {who}  {} {}",
        text("at"),
        text("method"),
        text("path")
    )
}

/// Whose lines, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// App of the machines
    app: String,
    /// Id or name of a machine [default: all of the app]
    machine: Option<String>,
    /// Go on with lines as they are written
    #[arg(short, long)]
    follow: bool,
    /// One JSON line for each line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// Make a token; it is printed this once
    #[command(after_help = "Example:\n  suijuris host token create --org personal --app shop --expiry 1h")]
    Create {
        /// Org of the token
        #[arg(long, default_value = "personal")]
        org: String,
        /// App that it is limited to
        #[arg(long)]
        app: Option<String>,
        /// Let it look, and nothing else
        #[arg(long, conflicts_with = "exec")]
        read_only: bool,
        /// Let it run commands in machines and look, and nothing else
        #[arg(long)]
        exec: bool,
        /// Let machines of any org come from another host (`host drain`), and nothing else
        #[arg(long, conflicts_with_all = ["exec", "read_only", "app"])]
        receive: bool,
        /// How long it holds, as 1h [default: until it is revoked]
        #[arg(long, value_name = "DURATION")]
        expiry: Option<String>,
        /// Print a JSON document with its id
        #[arg(long)]
        json: bool,
    },
    /// List tokens, without what they are
    #[command(after_help = "Example:\n  suijuris host token list --json")]
    List {
        /// One JSON line for each token
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token by its id
    #[command(after_help = "Example:\n  suijuris host token revoke 01J9ZQ3V8M5K2X7W4T6R1N0PBC")]
    Revoke {
        /// Its id
        id: String,
    },
}

pub(super) fn run(command: &Command, data: &Path) -> anyhow::Result<Answer> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ask = |method: Method, path: &str, body: Option<Value>| tokio.block_on(ask(data, method, path, body));
    match command {
        Command::Token(Token::Create {
            org,
            app,
            read_only,
            exec,
            receive,
            expiry,
            json,
        }) => {
            let access = match (read_only, exec, receive) {
                (true, ..) => "read",
                (_, true, _) => "exec",
                (.., true) => "receive",
                _ => "full",
            };
            let asked = json!({ "org": org, "app": app, "access": access, "expiry": expiry });
            let (_, made) = ask(Method::POST, "/tokens", Some(asked))?;
            if *json {
                terminal::print_json(&made)?;
            } else {
                let token = made.get("token").and_then(Value::as_str).unwrap_or_default();
                terminal::print(&format!("{token}\n"))?;
            }
            Ok(Answer::Yes)
        }
        Command::Token(Token::List { json }) => rows(
            &ask(Method::GET, "/tokens", None)?.1,
            *json,
            &["id", "org", "app", "access", "expires_at"],
        ),
        Command::Token(Token::Revoke { id }) => {
            let (status, _) = ask(Method::DELETE, &format!("/tokens/{id}"), None)?;
            if status == StatusCode::NOT_FOUND {
                terminal::note("no such token: `suijuris host token list` shows those there are");
                return Ok(Answer::No);
            }
            Ok(Answer::Yes)
        }
        Command::Console(_) => anyhow::bail!("a console has an exit code of its own"),
        Command::Logs(logs) => tokio.block_on(print_logs(data, logs)),
        Command::Backups { json } => rows(
            &ask(Method::GET, "/backups", None)?.1,
            *json,
            &[
                "org",
                "app",
                "volume",
                "snapshot",
                "state",
                "created_at",
                "problem",
            ],
        ),
        Command::Drain(drain) => {
            let (_, answer) = if drain.stop {
                ask(Method::DELETE, "/drain", None)?
            } else {
                let asked = json!({ "to": drain.to, "token": drain.token()? });
                ask(Method::POST, "/drain", Some(asked))?
            };
            rows(&answer, drain.json, &["machine", "outcome", "why"])?;
            let stays = |row: &Value| row.get("outcome").and_then(Value::as_str) != Some("moved");
            let all_moved = !answer.as_array().is_some_and(|rows| rows.iter().any(stays));
            Ok(if all_moved || drain.stop {
                Answer::Yes
            } else {
                Answer::No
            })
        }
        Command::Audit { json } => audit(data, *json),
        Command::Plan { json } => rows(
            &ask(Method::GET, "/plan", None)?.1,
            *json,
            &["app", "machine", "recorded", "seen", "next"],
        ),
    }
}

fn rows(answer: &Value, json: bool, columns: &[&str]) -> anyhow::Result<Answer> {
    let mut text = String::new();
    for row in answer.as_array().into_iter().flatten() {
        if json {
            text.push_str(&row.to_string());
        } else {
            let cell = |column: &&str| match row.get(*column) {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => "-".to_owned(),
                Some(other) => other.to_string(),
            };
            let cells: Vec<String> = columns.iter().map(cell).collect();
            text.push_str(&cells.join("  "));
        }
        text.push('\n');
    }
    terminal::print(&text)?;
    Ok(Answer::Yes)
}

/// Prints lines as they come.
async fn print_logs(data: &Path, logs: &Logs) -> anyhow::Result<Answer> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !plain(&logs.app) || !logs.machine.as_deref().is_none_or(plain) {
        return Err(
            crate::Usage("an app and a machine are named by letters, digits and -".to_owned()).into(),
        );
    }
    let machine = logs
        .machine
        .as_ref()
        .map(|machine| format!("&machine={machine}"))
        .unwrap_or_default();
    let path = format!("/logs/{}?follow={}{machine}", logs.app, logs.follow);
    let (mut sender, connection) = connect(data).await?;
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Full::new(Bytes::new()))?;
    let printing = async {
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            terminal::note("there is no such machine of this app; destroyed ones have no logs");
            return anyhow::Ok(Answer::No);
        }
        let mut body = response.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                print_line(&line, logs)?;
            }
        }
        Ok(Answer::Yes)
    };
    tokio::pin!(connection);
    tokio::pin!(printing);
    tokio::select! {
        printed = &mut printing => printed,
        ended = &mut connection => {
            ended?;
            // What had come is printed.
            printing.await
        }
    }
}

fn print_line(line: &[u8], logs: &Logs) -> anyhow::Result<()> {
    let row: Value = serde_json::from_slice(line)?;
    if logs.json {
        return terminal::print_json(&row);
    }
    let part = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let text = if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        terminal::clean(part("line"))
    } else {
        part("line").to_owned()
    };
    let of = if logs.machine.is_none() {
        format!("{}  ", part("machine"))
    } else {
        String::new()
    };
    Ok(terminal::print(&format!("{of}{text}\n"))?)
}

type Connection = hyper::client::conn::http1::Connection<TokioIo<tokio::net::UnixStream>, Full<Bytes>>;
type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

pub(super) async fn connect(data: &Path) -> anyhow::Result<(Sender, Connection)> {
    let nobody = || {
        format!(
            "no host runs on {}: start it with `suijuris host`, or name its directory with --data",
            data.display()
        )
    };
    let stream = tokio::net::UnixStream::connect(data.join("host.sock"))
        .await
        .with_context(nobody)?;
    Ok(hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?)
}

async fn ask(
    data: &Path,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<(StatusCode, Value)> {
    let (mut sender, connection) = connect(data).await?;
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Full::new(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(anyhow::Error::from_boxed)?
            .to_bytes();
        anyhow::Ok((status, bytes))
    };
    let (status, bytes) = tokio::select! {
        answered = exchange => answered?,
        ended = connection => {
            ended?;
            anyhow::bail!("the host hung up; look at what it printed");
        }
    };
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_client_error() && status != StatusCode::NOT_FOUND || status.is_server_error() {
        anyhow::bail!(
            "{}",
            answer
                .get("error")
                .and_then(Value::as_str)
                .unwrap_or("the host refused")
        );
    }
    Ok((status, answer))
}
