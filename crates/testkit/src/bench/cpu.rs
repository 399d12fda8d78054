//! CPU time of threads and processes, and which CPU they run on.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// CPU time that the calling thread has used.
///
/// # Errors
/// The kernel's, where it has no such clock.
pub fn thread_cpu() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// CPU time that process `pid` has used: exact for its living threads where the kernel keeps `schedstat`, else in clock ticks (10 ms).
///
/// A thread that runs right now lags behind by up to a tick (4 ms): ask while the process waits, or over much longer.
/// Threads that have ended count in ticks only: compare processes whose threads live as long as the measurement.
///
/// # Errors
/// `NotFound` where there is no such process; `InvalidData` where `/proc` is not Linux's.
pub fn process_cpu(pid: u32) -> io::Result<Duration> {
    match threads_cpu(pid) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        }
        other => other,
    }
}

fn threads_cpu(pid: u32) -> io::Result<Duration> {
    let mut all = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => all += Duration::from_nanos(number(text.split(' ').next())?),
            // A thread may end between the listing and the reading; the last one to be missing means no schedstat at all.
            Err(error) if error.kind() == ErrorKind::NotFound && all > Duration::ZERO => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// User and system time from `/proc/PID/stat`, fields 14 and 15; the name in field 2 may hold blanks and brackets.
fn ticks(stat: &str) -> io::Result<Duration> {
    let mut fields = stat
        .rsplit_once(") ")
        .map(|(_, after)| after.split(' '))
        .ok_or(ErrorKind::InvalidData)?
        .skip(11);
    let ticks = number(fields.next())? + number(fields.next())?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0);
    Ok(Duration::from_nanos(
        ticks * (1_000_000_000 / per_second.unwrap_or(100)),
    ))
}

fn number(field: Option<&str>) -> io::Result<u64> {
    field
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Processes that the threads of `pid` have started and that still live, with their own in turn: nginx's workers, Envoy behind its launcher.
///
/// # Errors
/// `NotFound` where there is no such process, or the kernel does not list children.
pub fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("children"))?;
        for child in text.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            found.extend(children(child).unwrap_or_default());
        }
    }
    Ok(found)
}

/// CPUs that this process may run on.
///
/// # Errors
/// The kernel's.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect())
}

/// Keeps thread `pid` on `cpus`; 0 is the calling thread, and what it starts later inherits the set.
///
/// # Errors
/// `InvalidInput` where none of `cpus` is there or allowed.
pub fn pin(pid: u32, cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    let pid = i32::try_from(pid).map_err(|_| ErrorKind::InvalidInput)?;
    Ok(sched_setaffinity(Pid::from_raw(pid), &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_thread_and_in_the_process() {
        let (thread, process) = (thread_cpu().unwrap(), process_cpu(std::process::id()).unwrap());
        let mut sum = 0_u64;
        while thread_cpu().unwrap() < thread + Duration::from_millis(30) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_cpu(std::process::id()).unwrap() > process);
    }

    #[test]
    fn ticks_are_found_behind_a_hostile_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        let expected = Duration::from_secs(200) / u32::try_from(per_second).unwrap();
        assert_eq!(ticks(stat).unwrap(), expected);
        assert!(ticks("7 (x").is_err());
    }

    #[test]
    fn children_of_children_are_found_and_a_dead_process_is_an_error() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let mine = children(std::process::id()).unwrap();
        let sleeper = children(shell.id()).unwrap();
        assert_eq!(sleeper.len(), 1);
        assert!(mine.contains(&shell.id()) && mine.contains(sleeper.first().unwrap()));
        nix::sys::signal::kill(
            Pid::from_raw(i32::try_from(sleeper[0]).unwrap()),
            nix::sys::signal::SIGKILL,
        )
        .unwrap();
        shell.wait().unwrap();
        assert!(process_cpu(shell.id()).is_err());
    }

    #[test]
    fn a_pinned_thread_stays_where_it_was_put() {
        std::thread::spawn(|| {
            let last = *allowed_cpus().unwrap().last().unwrap();
            pin(0, &[last]).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [last]);
        })
        .join()
        .unwrap();
    }
}
