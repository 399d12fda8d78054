//! Instruction counts by callgrind: the same on a noisy machine as on a quiet one.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};

/// Instructions that one iteration of `program` executes in user space; `None` where valgrind is not installed.
///
/// `program` runs twice under callgrind, with the arguments that `arguments` gives for `low` and for `high` iterations; the difference is free of
/// start and end of the process. Bench programs pass their own executable and an argument that makes them loop and stop.
///
/// # Errors
/// `InvalidInput` unless `low < high`; `Other` where the program fails under callgrind; `InvalidData` where its output has no total.
pub fn per_iteration<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl Fn(u64) -> Vec<A>,
    low: u64,
    high: u64,
) -> io::Result<Option<f64>> {
    let iterations = high
        .checked_sub(low)
        .filter(|number| *number > 0)
        .ok_or(ErrorKind::InvalidInput)?;
    let Some(few) = count(program, &arguments(low))? else {
        return Ok(None);
    };
    let Some(many) = count(program, &arguments(high))? else {
        return Ok(None);
    };
    Ok(Some(as_float(many.saturating_sub(few)) / as_float(iterations)))
}

/// Counts stay far below 2^53, where every integer is a float.
fn as_float(number: u64) -> f64 {
    number as f64
}

fn count<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> io::Result<Option<u64>> {
    let folder = tempfile::tempdir()?;
    let profile = folder.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(arguments);
    let output = match command.stdin(Stdio::null()).stdout(Stdio::null()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !output.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    total(&std::fs::read_to_string(profile)?).map(Some)
}

/// The `totals:` line of a callgrind profile.
fn total(profile: &str) -> io::Result<u64> {
    let line = profile
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals:"));
    line.and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_in_a_shell_costs_the_same_each_time_or_valgrind_is_absent() {
        let script = |iterations: u64| {
            vec![
                "-c".to_owned(),
                format!("i=0; while [ $i -lt {iterations} ]; do i=$((i+1)); done"),
            ]
        };
        let cost = per_iteration(Path::new("/bin/sh"), script, 10, 110).unwrap();
        assert!(cost.is_none_or(|instructions| instructions > 10.0));
    }

    #[test]
    fn the_total_is_read_or_refused() {
        assert_eq!(total("events: Ir\nfn=a\n1 2\ntotals: 12345\n").unwrap(), 12345);
        assert!(total("events: Ir\n").is_err());
        assert!(per_iteration::<&str>(Path::new("/bin/true"), |_| vec![], 1, 1).is_err());
    }
}
