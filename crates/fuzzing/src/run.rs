//! The plain loop: mutated seeds, one after the other, for so long. Panics are caught, and the input that led to one is kept.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::mutate::{self, Random};
use crate::{Target, corpus};

/// An input that takes longer is a finding too: no decoder of ours works for seconds, on a busy machine for minutes.
const SLOW: Duration = Duration::from_secs(120);

/// What came of a target.
#[derive(Debug)]
pub struct Outcome {
    /// Inputs tried.
    pub runs: u64,
    /// What was found, and where its input lies.
    pub found: Option<(String, PathBuf)>,
}

/// Runs `target` for `time`, its seeds first; `keep` is where an input that breaks it is put.
pub fn run(target: &Target, time: Duration, seed: u64, keep: &Path) -> Outcome {
    let seeds = corpus::of(target);
    let mut random = Random(seed);
    let begun = Instant::now();
    let mut runs = 0;
    let mut inputs = seeds.iter().cloned();
    while begun.elapsed() < time || runs == 0 {
        let input = inputs.next().unwrap_or_else(|| mutate::next(&mut random, &seeds));
        runs += 1;
        if let Some(why) = broken(target, &input) {
            let path = keep.join(format!("{}-{seed}-{runs}", target.name));
            let kept = std::fs::create_dir_all(keep).and_then(|()| std::fs::write(&path, &input));
            let why = match kept {
                Ok(()) => why,
                Err(error) => format!("{why} (its input could not be kept: {error})"),
            };
            return Outcome {
                runs,
                found: Some((why, path)),
            };
        }
    }
    Outcome { runs, found: None }
}

/// What is wrong with what `target` makes of `input`.
#[must_use]
pub fn broken(target: &Target, input: &[u8]) -> Option<String> {
    let begun = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    match done {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(text.unwrap_or_else(|| "it panicked".to_owned()))
        }
        Ok(()) if begun.elapsed() > SLOW => Some(format!("it took {:?}", begun.elapsed())),
        Ok(()) => None,
    }
}
