//! The plain loop as a program: `suijuris-fuzzing [--seconds N] [--seed N] [--jobs N] [--input FILE] [TARGET…]`. `cargo xtask fuzz` and CI run it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use suijuris_fuzzing::{TARGETS, Target, find, run};

/// Where inputs that break a target are put.
const KEEP: &str = "target/fuzz";

#[derive(Debug)]
struct Asked {
    seconds: u64,
    seed: u64,
    /// Targets at a time.
    jobs: usize,
    input: Option<String>,
    targets: Vec<&'static Target>,
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked {
        seconds: 5,
        seed: 1,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        input: None,
        targets: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok());
        match word.as_str() {
            "--seconds" => asked.seconds = number().ok_or("--seconds takes a number")?,
            "--seed" => asked.seed = number().ok_or("--seed takes a number")?,
            "--jobs" => {
                let jobs = number().filter(|jobs| (1..=256).contains(jobs));
                asked.jobs = usize::try_from(jobs.ok_or("--jobs takes 1 to 256")?).unwrap_or(1);
            }
            "--input" => asked.input = Some(words.next().ok_or("--input takes a file")?),
            name => {
                let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                let unknown = || format!("no target is called `{name}`; targets: {}", names.join(" "));
                asked.targets.push(find(name).ok_or_else(unknown)?);
            }
        }
    }
    if asked.targets.is_empty() {
        asked.targets.extend(TARGETS);
    }
    Ok(asked)
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    if let Some(file) = &asked.input {
        return once(&asked.targets, file);
    }
    if all(&asked) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One input, for each of the targets.
fn once(targets: &[&Target], file: &str) -> ExitCode {
    let input = match std::fs::read(file) {
        Ok(input) => input,
        Err(error) => {
            eprintln!("error: {file} cannot be read: {error}");
            return ExitCode::from(2);
        }
    };
    let broken = targets
        .iter()
        .filter_map(|target| Some((target, run::broken(target, &input)?)));
    let told = broken.inspect(|(target, why)| tell(target, why, Path::new(file)));
    if told.count() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Every target for its time, `jobs` of them at a time; whether none broke.
fn all(asked: &Asked) -> bool {
    let time = Duration::from_secs(asked.seconds);
    let waiting = Mutex::new(asked.targets.iter());
    let next = || waiting.lock().ok()?.next();
    let work = || {
        let mut whole = true;
        while let Some(target) = next() {
            let outcome = run::run(target, time, asked.seed, Path::new(KEEP));
            println!("{:<16} {:>9} inputs  {}", target.name, outcome.runs, target.about);
            if let Some((why, path)) = outcome.found {
                whole = false;
                tell(target, &why, &path);
            }
        }
        whole
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..asked.jobs).map(|_| scope.spawn(work)).collect();
        // All are waited for, whatever one of them found.
        let whole: Vec<bool> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(false))
            .collect();
        whole.into_iter().all(|whole| whole)
    })
}

fn tell(target: &Target, why: &str, path: &Path) {
    eprintln!(
        "{} broke: {why}\n  again: cargo run -p suijuris-fuzzing -- {} --input {}",
        target.name,
        target.name,
        path.display()
    );
}
