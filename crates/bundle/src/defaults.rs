//! What a key of `object.toml` means where it is absent. `docs/object-toml.md` repeats these; a test compares.

use suijuris_core::time::Span;

/// Time from spawn to ready: an interpreter with imports on a busy machine starts within this.
pub const READY_WITHIN: Span = Span(10_000);

/// Time between two questions whether a workload still can serve: often enough that callers rarely wait for a stuck one.
pub const LIVE_EVERY: Span = Span(10_000);

/// Answers missing one after the other until it is ended: a pause of half a minute, as for a large collection, is none.
pub const LIVE_FAILURES: u32 = 3;

/// Signal that asks the workload to stop: `SIGTERM`, which programs expect.
pub const STOP_SIGNAL: i32 = 15;

/// Time from that signal to `SIGKILL`: what container engines grant.
pub const STOP_WITHIN: Span = Span(10_000);

/// Requests held while the object wakes: a page with its parts for a few visitors.
pub const MAX_HELD: u32 = 128;

/// How long a request is held: clients give up soon after.
pub const HOLD: Span = Span(30_000);

/// Connections open at once: below the usual limit of 1,024 descriptors, of which a connection takes two.
pub const MAX_CONNECTIONS: u32 = 480;

/// How long requests in flight may take when the object goes to sleep: as long as the workload may take to stop.
pub const DRAIN: Span = Span(10_000);

/// How long a refused machine stays: the few requests of a browser's burst arrive within this.
pub const LINGER: Span = Span(500);

/// Zone of a cron timer: the one that never changes its clocks.
pub const ZONE: &str = "UTC";

/// Time to the signed record behind a mutation: a crash leaves at most a second unsealed.
pub const SEAL_WITHIN: Span = Span(1_000);

/// Controllers that must sign where the file does not say: all of them would lock owners out when one key is lost.
pub const THRESHOLD: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_gives_these_defaults() {
        let reference = include_str!("../../../docs/object-toml.md");
        for (key, value) in [
            ("ready_within", READY_WITHIN.to_string()),
            ("stop_within", STOP_WITHIN.to_string()),
            ("live_every", LIVE_EVERY.to_string()),
            ("live_failures", LIVE_FAILURES.to_string()),
            ("max_held", MAX_HELD.to_string()),
            ("hold", HOLD.to_string()),
            ("max_connections", MAX_CONNECTIONS.to_string()),
            ("drain", DRAIN.to_string()),
            ("linger", LINGER.to_string()),
            ("zone", format!("\"{ZONE}\"")),
            ("lease", suijuris_core::manifest::LEASE.to_string()),
            ("seal_within", SEAL_WITHIN.to_string()),
            ("threshold", THRESHOLD.to_string()),
        ] {
            let row = reference
                .lines()
                .find(|line| line.starts_with(&format!("| `{key}` |")));
            assert!(
                row.is_some_and(|row| row.contains(&format!("`{value}`"))),
                "{key} = {value}: {row:?}"
            );
        }
    }
}
