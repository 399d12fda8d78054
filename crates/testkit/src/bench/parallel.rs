//! The same work from several threads at once: how often a second, and how long each took.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// How often.
    pub count: usize,
    /// How often a second.
    pub rate: f64,
    /// How long each took, ms, in order of size.
    sorted_ms: Vec<f64>,
}

impl Figures {
    /// Milliseconds within which `percent` of them ended; NaN where there was none.
    #[must_use]
    pub fn ms(&self, percent: usize) -> f64 {
        let last = self.sorted_ms.len().saturating_sub(1);
        let at = last * percent.min(100) / 100;
        self.sorted_ms.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Does number 0 to `count` from `threads` threads, each with what `begin` gives it; the first error ends it.
///
/// # Errors
/// What `begin` or `one` says.
pub fn drive<T>(
    threads: usize,
    count: usize,
    begin: impl Fn() -> io::Result<T> + Sync,
    one: impl Fn(&mut T, usize) -> io::Result<()> + Sync,
) -> io::Result<Figures> {
    let next = AtomicUsize::new(0);
    let all: Mutex<io::Result<Vec<f64>>> = Mutex::new(Ok(Vec::with_capacity(count)));
    let work = || -> io::Result<Vec<f64>> {
        let mut mine = begin()?;
        let mut took = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(took);
            }
            let since = Instant::now();
            one(&mut mine, number)?;
            took.push(since.elapsed().as_secs_f64() * 1e3);
        }
    };
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let done = work();
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *all, done) {
                    (Ok(all), Ok(mut done)) => all.append(&mut done),
                    (all @ Ok(_), Err(error)) => {
                        // The others need not go on.
                        next.store(count, Ordering::Relaxed);
                        *all = Err(error);
                    }
                    (Err(_), _) => {}
                }
            });
        }
    });
    let elapsed = since.elapsed().as_secs_f64();
    let mut sorted_ms = all.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    sorted_ms.sort_by(f64::total_cmp);
    Ok(Figures {
        count: sorted_ms.len(),
        rate: sorted_ms.len() as f64 / elapsed,
        sorted_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_done_once_and_an_error_ends_it() {
        let seen = Mutex::new(Vec::new());
        let one = |(): &mut (), number| {
            seen.lock().unwrap().push(number);
            Ok(())
        };
        let figures = drive(4, 100, || Ok(()), one).unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!((figures.count, seen), (100, (0..100).collect::<Vec<_>>()));
        assert!(figures.rate > 0.0 && figures.ms(50) <= figures.ms(99));
        let failed = drive(2, 10, || Ok(()), |(), _| Err(io::Error::other("no")));
        assert!(failed.is_err());
    }
}
