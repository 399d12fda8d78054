//! The machine that it plays: a first process that speaks over vsock as `suijuris-guest` does, with one of the suite's parts as
//! its program. All it remembers is [`Memory`], so that a snapshot holds all of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use suijuris_guest::wire::{
    Decoder, Ended, Frame, MAX_DATA, Order, Report, STDERR, STDOUT, VSOCK_PORT, WINDOW, words,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::vmm::Paged;

/// Between two things that a program does.
const STEP: Duration = Duration::from_millis(1);

/// Port at which every machine listens, and says back what it hears.
const ECHO_PORT: u32 = 52;

/// What the machine remembers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    said_ready: bool,
    /// The program's arguments, where it was started.
    program: Option<Vec<String>>,
    outputs: [bool; 2],
    has_link: bool,
    /// How much of the program's part is done.
    done: u64,
    paused: bool,
    has_ended: bool,
    /// What may still be sent on each stream.
    credit: BTreeMap<u32, usize>,
    /// What came on each link and was not said back.
    links: BTreeMap<u32, Vec<u8>>,
    /// Its clock was set when it was loaded.
    pub(crate) clock_was_set: bool,
    /// The clock, as it was told at last.
    wall_ms: i64,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Guest {
    memory: Rc<RefCell<Memory>>,
    runs: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Guest {
    /// One that stands still. `vsock` is where its ends of vsock are.
    pub(crate) fn begin(memory: Memory, vsock: Option<PathBuf>, paged: Option<Rc<Paged>>) -> Self {
        let memory = Rc::new(RefCell::new(memory));
        let (runs, running) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(paged) = paged {
            tasks.spawn_local(touch(paged, running.clone()));
        }
        if let Some(path) = vsock {
            if let Ok(listener) = UnixListener::bind(&path) {
                tasks.spawn_local(listen(listener));
            }
            tasks.spawn_local(live(memory.clone(), running, path));
        }
        Self {
            memory,
            runs,
            _tasks: tasks,
        }
    }

    pub(crate) fn run(&self, runs: bool) {
        self.runs.send_replace(runs);
    }

    pub(crate) fn memory(&self) -> Memory {
        self.memory.borrow().clone()
    }
}

/// Touches one page after another while the machine runs. Who does not get one waits, and everything of the machine with it.
async fn touch(paged: Rc<Paged>, mut runs: watch::Receiver<bool>) {
    for page in 0..paged.pages() {
        if runs.wait_for(|runs| *runs).await.is_err() {
            return;
        }
        paged.touch(page);
        sleep(STEP).await;
    }
}

/// Connections from outside: `CONNECT n`, answered by `OK m` where the machine listens.
async fn listen(listener: UnixListener) {
    let mut echoes = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        echoes.spawn_local(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            if line != format!("CONNECT {ECHO_PORT}\n") {
                // Nobody listens there: it is closed without a word.
                return Ok(());
            }
            stream.write_all(b"OK 1073741824\n").await?;
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await.map(drop)
        });
    }
}

async fn live(memory: Rc<RefCell<Memory>>, mut runs: watch::Receiver<bool>, vsock: PathBuf) {
    let socket = PathBuf::from(format!("{}_{VSOCK_PORT}", vsock.display()));
    let mut connection: Option<(UnixStream, Decoder)> = None;
    let mut buffer = vec![0; 32 << 10];
    loop {
        if runs.wait_for(|runs| *runs).await.is_err() {
            return;
        }
        let Some((stream, decoder)) = &mut connection else {
            match UnixStream::connect(&socket).await {
                Ok(stream) => connection = Some((stream, Decoder::default())),
                Err(_nobody) => sleep(STEP).await,
            }
            continue;
        };
        let lived = tokio::select! {
            biased;
            _ = runs.changed() => continue,
            read = stream.read(&mut buffer) => match read {
                Ok(0) | Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => hear(&memory, decoder, buffer.get(..read).unwrap_or_default()),
            },
            () = sleep(STEP) => Ok(memory.borrow_mut().step()),
        };
        let written = match lived {
            Ok(frames) => say(stream, &frames).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            connection = None;
        }
    }
}

async fn say(stream: &mut UnixStream, frames: &[Frame]) -> io::Result<()> {
    for frame in frames {
        stream.write_all(&frame.encode()).await?;
    }
    Ok(())
}

fn hear(memory: &RefCell<Memory>, decoder: &mut Decoder, bytes: &[u8]) -> io::Result<Vec<Frame>> {
    decoder.feed(bytes);
    let mut said = Vec::new();
    while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
        memory.borrow_mut().take(frame, &mut said)?;
    }
    Ok(said)
}

fn report(report: &Report) -> Vec<Frame> {
    words(report).into_iter().collect()
}

impl Memory {
    fn take(&mut self, frame: Frame, said: &mut Vec<Frame>) -> io::Result<()> {
        match frame {
            Frame::Words(words) => match serde_json::from_slice(&words)? {
                Order::Start(start) => {
                    self.wall_ms = start.now.wall_ms;
                    self.outputs = start.outputs;
                    self.has_link = start.link.is_some();
                    let args = start.argv.iter().skip(1);
                    self.program = Some(args.map(|arg| arg.0.to_string_lossy().into_owned()).collect());
                    for stream in [STDOUT, STDERR] {
                        self.credit.insert(stream, WINDOW);
                    }
                    said.extend(report(&Report::Started));
                }
                Order::Signal(number) => said.extend(self.signalled(number)),
                Order::Pause => {
                    self.paused = true;
                    said.extend(report(&Report::Paused));
                }
                Order::Resumed(now) => {
                    self.paused = false;
                    self.wall_ms = now.wall_ms;
                }
                // Its driver makes no copies.
                Order::Copied(_) => return Err(io::ErrorKind::Unsupported.into()),
            },
            Frame::Open(id) if self.has_link => {
                self.credit.insert(id, WINDOW);
                self.links.insert(id, Vec::new());
            }
            Frame::Open(id) => said.push(Frame::Cut(id)),
            Frame::Data(id, bytes) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.extend(bytes);
                }
            }
            Frame::End(id) | Frame::Cut(id) => {
                if self.links.remove(&id).is_some() {
                    said.push(Frame::End(id));
                }
            }
            Frame::Credit(id, bytes) => {
                if let Some(credit) = self.credit.get_mut(&id) {
                    *credit += usize::try_from(bytes).unwrap_or(0);
                }
            }
        }
        Ok(())
    }

    fn signalled(&mut self, number: i32) -> Vec<Frame> {
        let part = self.program.as_ref().and_then(|args| args.first());
        match (part.map(String::as_str), number) {
            (Some("polite"), 15) => self.end(Ended::Code(7)),
            (Some("deaf"), 1..=15) if number != 9 => Vec::new(),
            // As Firecracker ends when its guest has died.
            (Some("panics"), _) => {
                println!("Kernel panic - not syncing: asked to");
                std::process::exit(0)
            }
            (Some("vanishes"), _) => std::process::exit(0),
            _ => self.end(Ended::Signal(number)),
        }
    }

    fn end(&mut self, ended: Ended) -> Vec<Frame> {
        self.has_ended = true;
        let outputs = [STDOUT, STDERR].map(Frame::End).into_iter().zip(self.outputs);
        let mut frames: Vec<Frame> = outputs
            .filter_map(|(end, wanted)| wanted.then_some(end))
            .collect();
        frames.extend(report(&Report::Exited(ended)));
        frames
    }

    /// A line of the program's output, where there is room for it.
    fn line(&mut self, text: &str) -> Vec<Frame> {
        let [wanted, _] = self.outputs;
        let credit = self.credit.entry(STDOUT).or_default();
        if !wanted {
            return Vec::new();
        }
        if *credit < text.len() {
            self.done = self.done.saturating_sub(1);
            return Vec::new();
        }
        *credit -= text.len();
        vec![Frame::Data(STDOUT, text.as_bytes().to_vec())]
    }

    /// What happens next by itself.
    fn step(&mut self) -> Vec<Frame> {
        if self.paused || self.has_ended {
            return Vec::new();
        }
        let Some(program) = self.program.clone() else {
            let first = !std::mem::replace(&mut self.said_ready, true);
            return if first { report(&Report::Ready) } else { Vec::new() };
        };
        let part: Vec<&str> = program.iter().map(String::as_str).collect();
        let first = self.done == 0;
        self.done += 1;
        match part.as_slice() {
            ["exit", code] => self.end(Ended::Code(code.parse().unwrap_or(99))),
            ["counts"] => self.line(&format!("{}\n", self.done - 1)),
            ["says", lines @ ..] => {
                let mut frames = self.line(&lines.join("\n"));
                frames.extend(self.end(Ended::Code(0)));
                frames
            }
            ["floods"] => self.line(&"flood\n".repeat(MAX_DATA / 12)),
            ["clock"] => self.line(&format!("{} {}\n", self.wall_ms, self.clock_was_set)),
            ["polite" | "deaf"] if first => self.line("ready\n"),
            ["echoes", _] if first => self.line("ready\n"),
            ["echoes", _] => self.echo(),
            ["polite" | "deaf" | "panics" | "vanishes"] => Vec::new(),
            _ => self.end(Ended::Code(98)),
        }
    }

    fn echo(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (id, came) in &mut self.links {
            let credit = self.credit.entry(*id).or_default();
            let some = came.len().min(*credit).min(MAX_DATA);
            if some > 0 {
                *credit -= some;
                let bytes: Vec<u8> = came.drain(..some).collect();
                frames.push(Frame::Credit(*id, u32::try_from(some).unwrap_or(0)));
                frames.push(Frame::Data(*id, bytes));
            }
        }
        frames
    }
}
