//! The README's first command, with nothing in reach but what a machine with Rust and a C compiler has: no protoc, no CMake, no
//! Go. Built in a directory of its own, so that its time is that of a newcomer's first build.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use xshell::Shell;

/// All that the build and the example may find.
const TOOLS: [&str; 9] = ["cargo", "rustc", "cc", "gcc", "ld", "as", "ar", "sh", "python3"];

/// Where the README's first line begins, and where it says what is run.
const BEGIN: &str = "$ sh tools/setup && ";
const OBJECT: &str = "examples/hello";

/// How long the build may take on a machine that is busy with other things.
const BUILT_WITHIN: Duration = Duration::from_secs(1800);

/// Runs it and asks the object for its page.
// proves G1, G8
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let root = shell.current_dir();
    let readme = fs::read_to_string(root.join("README.md"))?;
    let command = readme
        .lines()
        .find_map(|line| line.strip_prefix(BEGIN))
        .with_context(|| format!("README.md has no line that begins with `{BEGIN}`"))?;
    let room = root.join("target/first");
    if room.exists() {
        fs::remove_dir_all(&room)?;
    }
    let (bin, object) = (room.join("bin"), room.join("hello"));
    tools(&bin)?;
    fs::create_dir_all(&object)?;
    for entry in fs::read_dir(root.join(OBJECT))? {
        let entry = entry?;
        // What it is, and not what an earlier run left.
        if entry.file_name() != ".suijuris" {
            Command::new("cp")
                .arg("-r")
                .arg(entry.path())
                .arg(&object)
                .status()?;
        }
    }
    let own = object.display().to_string();
    let words: Vec<&str> = command
        .split_whitespace()
        .map(|word| if word == OBJECT { own.as_str() } else { word })
        .collect();
    let (Some((program, arguments)), true) = (words.split_first(), words.contains(&own.as_str())) else {
        bail!("README.md's first command does not run {OBJECT}: {command}");
    };
    let start = Instant::now();
    let mut child = Command::new(bin.join(program))
        .args(arguments)
        .current_dir(&root)
        .env("PATH", &bin)
        .env("CARGO_TARGET_DIR", room.join("target"))
        .env("XDG_DATA_HOME", room.join("data"))
        // Of the crates here; what they depend on is built alike.
        .env("RUSTFLAGS", "-D warnings")
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let outcome = ask(&mut child, start);
    // All of them: cargo, and the program that it runs.
    let _ = Command::new("kill")
        .args(["-INT", "--", &format!("-{}", child.id())])
        .status();
    let ended = child.wait()?;
    outcome?;
    if !ended.success() {
        bail!("Ctrl-C did not put the object to sleep: {ended}");
    }
    fs::remove_dir_all(&room)?;
    Ok(())
}

/// Links to the tools, in a directory with nothing else.
fn tools(bin: &Path) -> Result<()> {
    fs::create_dir_all(bin)?;
    let path = env::var_os("PATH").unwrap_or_default();
    for tool in TOOLS {
        // The distribution's own first: what stands before it in a PATH may need more than is here.
        let found = env::split_paths("/usr/bin").chain(env::split_paths(&path));
        let found: Option<PathBuf> = found.map(|dir| dir.join(tool)).find(|path| path.is_file());
        let found = found.with_context(|| format!("`{tool}` is not there: run `sh tools/setup`"))?;
        symlink(found, bin.join(tool))?;
    }
    Ok(())
}

/// Waits for the object's address and gets its page.
fn ask(child: &mut Child, start: Instant) -> Result<()> {
    let output = child.stdout.take().context("its output is not there")?;
    let lines = lines_of(output);
    let address = loop {
        let left = BUILT_WITHIN.saturating_sub(start.elapsed());
        let line = lines
            .recv_timeout(left)
            .context("the object did not say where it listens")?;
        println!("    {line}");
        if let Some((_, url)) = line.split_once("http://") {
            break url.trim_end_matches('/').to_owned();
        }
    };
    println!(
        "    from nothing to an object that listens: {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut page = String::new();
    stream.take(1 << 20).read_to_string(&mut page)?;
    if !page.contains("an object of its own right") {
        bail!("the object answered something else: {page}");
    }
    println!("    and to its page: {:.1} s", start.elapsed().as_secs_f64());
    thread::spawn(move || lines.iter().for_each(|line| println!("    {line}")));
    Ok(())
}

fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
