//! Running many worlds: how many, on as many threads as there are.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The number that this environment variable holds, if it is set.
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Does `work` for the first worlds, on as many threads as there are; what came of each, until one yields nothing.
pub(crate) fn each_seed<T: Send>(count: u64, work: impl Fn(u64) -> Option<T> + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let worker = || {
        let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let mine = seeds.take_while(|seed| *seed < count && !over.load(Ordering::Relaxed));
        let done = mine.map_while(|seed| {
            let done = work(seed);
            over.fetch_or(done.is_none(), Ordering::Relaxed);
            done
        });
        done.collect::<Vec<_>>()
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    })
}
