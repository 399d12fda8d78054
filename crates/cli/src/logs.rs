//! `logs`: what an object's workload has written, kept by whoever runs the object.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use suijuris_supervisor::output_logs;

use crate::object_paths::ObjectArg;
use crate::terminal::{self, clean};
use crate::{Answer, Usage};

/// Lines that `-n` keeps in memory at most.
const MAX_LAST: usize = 100_000;

/// Longest line that is read in one piece: that of a workload, and its time.
const MAX_LINE: u64 = 64 << 10;

/// Between two looks at a file that is followed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Show what an object's workload has written, oldest line first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The newest lines are kept, some megabytes, running or not. On a terminal control characters are shown as
escapes; into a file or a pipe they go as they were written.

Example:
  suijuris logs hello -n 20
  suijuris logs hello -f")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Only the last N lines
    #[arg(short, long, value_name = "N")]
    number: Option<usize>,
    /// Go on with lines as they are written
    #[arg(short, long)]
    follow: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    at: &'a str,
    line: &'a str,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    if args.number.is_some_and(|number| number > MAX_LAST) {
        return Err(Usage(format!("-n takes at most {MAX_LAST}; leave it out for all")).into());
    }
    let data = args.at.locate()?.data;
    let mut newest = Followed::open(&output_logs::newest(&data))?;
    let before = Followed::open(&output_logs::before(&data))?;
    let mut kept = VecDeque::new();
    for mut file in [before, newest.take()].into_iter().flatten() {
        while let Some(line) = file.next()? {
            match args.number {
                None => show(args, &line)?,
                Some(number) => {
                    kept.push_back(line);
                    if kept.len() > number {
                        kept.pop_front();
                    }
                }
            }
        }
        newest = Some(file);
    }
    for line in kept {
        show(args, &line)?;
    }
    if args.follow {
        follow(args, &output_logs::newest(&data), newest)?;
    }
    Ok(Answer::Yes)
}

/// Shows what is written from now on, for ever.
fn follow(args: &Args, path: &Path, mut file: Option<Followed>) -> anyhow::Result<()> {
    loop {
        if let Some(file) = &mut file {
            while let Some(line) = file.next()? {
                show(args, &line)?;
            }
        }
        let now = path.metadata().ok().map(|metadata| metadata.ino());
        match &mut file {
            Some(open) if now.is_none_or(|now| now == open.number) => std::thread::sleep(LOOK_AGAIN),
            _ => {
                // Put aside: what it still got comes before what the next one has.
                while let Some(line) = file.as_mut().map_or(Ok(None), Followed::next)? {
                    show(args, &line)?;
                }
                match Followed::open(path)? {
                    Some(next) => file = Some(next),
                    None => std::thread::sleep(LOOK_AGAIN),
                }
            }
        }
    }
}

fn show(args: &Args, line: &[u8]) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(line);
    let (at, line) = text.split_once(' ').unwrap_or(("", &text));
    if args.json {
        return terminal::print_json(&Shown { at, line });
    }
    let line = if io::stdout().is_terminal() {
        clean(line)
    } else {
        line.to_owned()
    };
    Ok(terminal::print(&format!("{at}  {line}\n"))?)
}

/// A file that grows.
struct Followed {
    file: BufReader<File>,
    /// Tells it apart from the one that takes its place.
    number: u64,
    /// The beginning of a line whose end is not there yet.
    part: Vec<u8>,
}

impl Followed {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        Ok(Some(Self {
            number: file.metadata()?.ino(),
            file: BufReader::new(file),
            part: Vec::new(),
        }))
    }

    /// The next whole line, if it is there.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let room = MAX_LINE.saturating_sub(self.part.len() as u64);
        (&mut self.file).take(room).read_until(b'\n', &mut self.part)?;
        let is_whole = self.part.last() == Some(&b'\n');
        if !is_whole && (self.part.len() as u64) < MAX_LINE {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.part);
        if is_whole {
            line.pop();
        }
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_line_is_shown_once_it_is_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("output");
        assert!(Followed::open(&path).unwrap().is_none());
        let mut out = File::create(&path).unwrap();
        let mut followed = Followed::open(&path).unwrap().unwrap();
        out.write_all(b"one\ntw").unwrap();
        assert_eq!(followed.next().unwrap().unwrap(), b"one");
        assert_eq!(followed.next().unwrap(), None);
        out.write_all(b"o\n").unwrap();
        assert_eq!(followed.next().unwrap().unwrap(), b"two");
        assert_eq!(followed.next().unwrap(), None);
    }
}
