//! `suijuris host console`: this terminal becomes that of a command in a machine. The protocol is that of the host's API.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use suijuris_sys::terminals::{self, Raw, Size};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::terminal;

/// As the host's API calls it.
const PROTOCOL: &str = "suijuris-console";
/// Kinds of frames.
const BYTES: u8 = 0;
const SIZE: u8 = 1;
const ENDED: u8 = 2;
/// Pieces of what is typed that wait to be sent.
const WAITING: usize = 16;
/// Bytes that are read at once.
const CHUNK: usize = 4 << 10;
/// What a terminal sends for the end of input.
const END_OF_INPUT: u8 = 4;
/// What is added to the number of a signal that a command died of.
const DIED: u8 = 128;
/// No console, or none any more.
const BROKEN: u8 = 3;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// App
    app: String,
    /// Machine, by its id or name
    machine: String,
    /// The command with its arguments [default: /bin/sh]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Something for the other side.
enum Typed {
    Bytes(Vec<u8>),
    /// The person has had enough.
    Leave,
}

/// Opens a console and stays until it ends; the exit code is its command's.
///
/// # Errors
/// There is none to be had.
pub(super) fn run(args: &Args, data: &Path) -> anyhow::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio.block_on(console(args, data)).map(ExitCode::from)
}

fn size() -> Option<Size> {
    terminals::size(io::stdin().as_fd()).or_else(|| terminals::size(io::stdout().as_fd()))
}

async fn console(args: &Args, data: &Path) -> anyhow::Result<u8> {
    let connection = open(args, data).await?;
    let is_terminal = io::IsTerminal::is_terminal(&io::stdin());
    // Back as it was when this ends.
    let raw = is_terminal.then(|| Raw::enter(io::stdin().as_fd())).transpose()?;
    let (sender, typed) = mpsc::channel(WAITING);
    // A thread that waits for keys keeps nobody from ending.
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || read_keys(&sender, is_terminal))?;
    let ended = converse(connection, typed, is_terminal).await;
    drop(raw);
    match ended? {
        Ended::Command(code) => Ok(code),
        Ended::Left => {
            terminal::note("the console is closed");
            Ok(0)
        }
        Ended::Lost => {
            terminal::note("the host closed the console: the machine or the daemon ended");
            Ok(BROKEN)
        }
    }
}

/// Asks the host for one.
async fn open(args: &Args, data: &Path) -> anyhow::Result<TokioIo<Upgraded>> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if !plain(&args.app) || !plain(&args.machine) {
        let text = "an app and a machine are named by letters, digits, - and _";
        return Err(crate::Usage(text.to_owned()).into());
    }
    let mut asked = json!({});
    if let Some(asked) = asked.as_object_mut() {
        if !args.command.is_empty() {
            asked.insert("command".to_owned(), json!(args.command));
        }
        if let Some(size) = size() {
            asked.insert("rows".to_owned(), json!(size.rows));
            asked.insert("columns".to_owned(), json!(size.columns));
        }
        if let Ok(term) = std::env::var("TERM") {
            asked.insert("term".to_owned(), json!(term));
        }
    }
    let (mut sender, connection) = super::admin::connect(data).await?;
    let request = Request::post(format!("/console/{}/{}", args.app, args.machine))
        .header("host", "localhost")
        .header("connection", "upgrade")
        .header("upgrade", PROTOCOL)
        .body(Full::new(Bytes::from(asked.to_string())))?;
    let asking = async {
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(hyper::upgrade::on(response).await?);
        }
        let bytes = response.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let why = answer.get("error").and_then(Value::as_str);
        anyhow::bail!(
            "{}",
            why.unwrap_or("the host opens no console: is it of this version?")
                .to_owned()
        )
    };
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let mut asking = std::pin::pin!(asking);
    let upgraded: Upgraded = tokio::select! {
        asked = &mut asking => asked?,
        ended = &mut connection => {
            ended.context("the host hung up")?;
            asking.await?
        }
    };
    Ok(TokioIo::new(upgraded))
}

/// How it came to an end.
enum Ended {
    Command(u8),
    Left,
    Lost,
}

async fn converse(
    connection: TokioIo<Upgraded>,
    mut typed: mpsc::Receiver<Typed>,
    is_terminal: bool,
) -> anyhow::Result<Ended> {
    let (mut from, mut to) = tokio::io::split(connection);
    let mut resized = signal(SignalKind::window_change())?;
    let said = async {
        loop {
            tokio::select! {
                piece = typed.recv() => match piece {
                    Some(Typed::Bytes(bytes)) => send(&mut to, BYTES, &bytes).await?,
                    Some(Typed::Leave) => return io::Result::Ok(()),
                    // The command goes on without.
                    None => std::future::pending::<()>().await,
                },
                _ = resized.recv(), if is_terminal => {
                    if let Some(size) = size() {
                        let [rows, columns] = [size.rows.to_be_bytes(), size.columns.to_be_bytes()];
                        send(&mut to, SIZE, &[rows, columns].concat()).await?;
                    }
                }
            }
        }
    };
    tokio::select! {
        heard = hear(&mut from) => Ok(heard?),
        left = said => {
            left?;
            Ok(Ended::Left)
        }
    }
}

async fn send(to: &mut (impl tokio::io::AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> io::Result<()> {
    let [high, low] = u16::try_from(bytes.len())
        .map_err(io::Error::other)?
        .to_be_bytes();
    to.write_all(&[&[kind, high, low], bytes].concat()).await?;
    to.flush().await
}

/// Prints what the command writes, until it has ended.
async fn hear(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> anyhow::Result<Ended> {
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; 3];
        if from.read_exact(&mut head).await.is_err() {
            return Ok(Ended::Lost);
        }
        let [kind, high, low] = head;
        bytes.resize(usize::from(u16::from_be_bytes([high, low])), 0);
        if from.read_exact(&mut bytes).await.is_err() {
            return Ok(Ended::Lost);
        }
        match kind {
            BYTES => {
                // As they are: they are for this terminal.
                let mut out = io::stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
            }
            ENDED => {
                let ended: Value = serde_json::from_slice(&bytes)?;
                let number = |name: &str| ended.get(name).and_then(Value::as_i64).unwrap_or_default();
                let byte = |number: i64| u8::try_from(number).unwrap_or(u8::MAX);
                return Ok(Ended::Command(match number("exit_signal") {
                    0 => byte(number("exit_code")),
                    signal => DIED.saturating_add(byte(signal)),
                }));
            }
            _ => {}
        }
    }
}

/// Reads standard input until it ends, or the person leaves.
fn read_keys(to: &mpsc::Sender<Typed>, is_terminal: bool) {
    let mut escape = Escape::default();
    let mut chunk = vec![0; CHUNK];
    let mut at_line_end = true;
    loop {
        let length = match io::stdin().lock().read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let read = chunk.get(..length).unwrap_or_default();
        let (bytes, leaves) = if is_terminal {
            escape.pass(read)
        } else {
            (read.to_vec(), false)
        };
        at_line_end = bytes.last().map_or(at_line_end, |last| *last == b'\n');
        if !bytes.is_empty() && to.blocking_send(Typed::Bytes(bytes)).is_err() {
            return;
        }
        if leaves {
            let _gone = to.blocking_send(Typed::Leave);
            return;
        }
    }
    if is_terminal {
        // The terminal itself is gone.
        let _gone = to.blocking_send(Typed::Leave);
        return;
    }
    // Within a line the first one only hands over what stands there.
    let end = if at_line_end {
        vec![END_OF_INPUT]
    } else {
        vec![END_OF_INPUT; 2]
    };
    let _gone = to.blocking_send(Typed::Bytes(end));
}

/// What of the keys is for this program: `~.` and `~~` at the beginning of a line.
#[derive(Debug)]
struct Escape {
    at_beginning: bool,
    held: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self {
            at_beginning: true,
            held: false,
        }
    }
}

impl Escape {
    /// What of `keys` goes on, and whether the person leaves.
    fn pass(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(keys.len());
        for key in keys {
            match (self.held, self.at_beginning, *key) {
                (true, _, b'.') => return (out, true),
                (false, true, b'~') => {
                    self.held = true;
                    continue;
                }
                (true, _, b'~') => out.push(b'~'),
                (true, _, other) => out.extend([b'~', other]),
                (false, _, other) => out.push(other),
            }
            self.held = false;
            self.at_beginning = matches!(key, b'\r' | b'\n');
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_and_a_dot_leave_at_the_beginning_of_a_line_only() {
        let check = |keys: &[&str], out: &str, leaves: bool| {
            let mut escape = Escape::default();
            let mut all = Vec::new();
            let mut left = false;
            for part in keys {
                let (bytes, leaves) = escape.pass(part.as_bytes());
                all.extend(bytes);
                left |= leaves;
            }
            assert_eq!(
                (String::from_utf8(all).unwrap().as_str(), left),
                (out, leaves),
                "{keys:?}"
            );
        };
        check(&["ls\r~."], "ls\r", true);
        check(&["~", "."], "", true);
        check(&["a~.b"], "a~.b", false);
        check(&["~~.\r~x\n~", "/"], "~.\r~x\n~/", false);
    }
}
