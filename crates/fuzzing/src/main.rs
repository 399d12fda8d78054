//! The plain loop as a program: `suijuris-fuzzing [--seconds N] [--seed N] [--input FILE] [TARGET…]`. `cargo xtask fuzz` and CI run it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use suijuris_fuzzing::{TARGETS, Target, find, run};

/// Where inputs that break a target are put.
const KEEP: &str = "target/fuzz";

#[derive(Debug)]
struct Asked {
    seconds: u64,
    seed: u64,
    input: Option<String>,
    targets: Vec<&'static Target>,
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked {
        seconds: 5,
        seed: 1,
        input: None,
        targets: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok());
        match word.as_str() {
            "--seconds" => asked.seconds = number().ok_or("--seconds takes a number")?,
            "--seed" => asked.seed = number().ok_or("--seed takes a number")?,
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
    let mut broken = 0;
    for target in &asked.targets {
        let found = match &asked.input {
            Some(file) => match std::fs::read(file) {
                Ok(input) => run::broken(target, &input).map(|why| (why, file.into())),
                Err(error) => {
                    eprintln!("error: {file} cannot be read: {error}");
                    return ExitCode::from(2);
                }
            },
            None => {
                let time = Duration::from_secs(asked.seconds);
                let outcome = run::run(target, time, asked.seed, Path::new(KEEP));
                println!("{:<16} {:>9} inputs  {}", target.name, outcome.runs, target.about);
                outcome.found
            }
        };
        if let Some((why, path)) = found {
            broken += 1;
            eprintln!("{} broke: {why}", target.name);
            eprintln!(
                "  again: cargo run -p suijuris-fuzzing -- {} --input {}",
                target.name,
                path.display()
            );
        }
    }
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
