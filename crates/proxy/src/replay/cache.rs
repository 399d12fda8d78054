//! Replays that are remembered, so that the app which made them is not asked each time. Best effort, bounded: never a proof of
//! anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Replay;

/// Replays that are remembered, at most.
const MOST: usize = 10_000;
/// Of one host at most: they are looked through.
const MOST_OF_HOST: usize = 256;
/// Shortest time that one is remembered for, seconds.
pub(crate) const LEAST_S: u64 = 10;
/// Longest.
const MOST_S: u64 = 86_400;

/// By what of a request a replay is remembered beside its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum By {
    Path,
    Cookie(String, String),
    Header(String, String),
}

#[derive(Debug, Clone)]
struct Entry {
    prefix: String,
    by: By,
    replay: Replay,
    allow_bypass: bool,
    until: Instant,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct ReplayCache {
    hosts: Mutex<HashMap<String, Vec<Entry>>>,
    /// Looked at without a lock: nearly always 0.
    count: AtomicUsize,
}

/// What was found for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    Nothing,
    Hit(Box<Replay>),
    Bypassed,
}

impl ReplayCache {
    /// What is remembered for a request. `value` reads a cookie (true) or a header of it.
    pub(crate) fn look(
        &self,
        host: &str,
        path: &str,
        skip: bool,
        value: impl Fn(bool, &str) -> Option<String>,
        now: Instant,
    ) -> Lookup {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Lookup::Nothing;
        }
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |entry: &&Entry| {
            let by = match &entry.by {
                By::Path => true,
                By::Cookie(name, want) => value(true, name).as_ref() == Some(want),
                By::Header(name, want) => value(false, name).as_ref() == Some(want),
            };
            entry.until > now && path.starts_with(&entry.prefix) && by
        };
        let entries = hosts.get(host).into_iter().flatten();
        let found = entries.filter(fits).max_by_key(|entry| entry.prefix.len());
        match found {
            None => Lookup::Nothing,
            Some(entry) if skip && entry.allow_bypass => Lookup::Bypassed,
            Some(entry) => Lookup::Hit(Box::new(entry.replay.clone())),
        }
    }

    /// Remembers a replay. What is over goes first; where there is no room, it is not remembered.
    pub(crate) fn remember(
        &self,
        host: &str,
        (prefix, by): (&str, By),
        replay: &Replay,
        ttl_s: u64,
        allow_bypass: bool,
        now: Instant,
    ) {
        let until = now + Duration::from_secs(ttl_s.clamp(LEAST_S, MOST_S));
        let entry = Entry {
            prefix: prefix.to_owned(),
            by,
            replay: Replay {
                cache: None,
                ..replay.clone()
            },
            allow_bypass,
            until,
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        // Changed under the lock alone.
        let mut count = self.count.load(Ordering::Relaxed);
        if count >= MOST {
            hosts.retain(|_, entries| {
                entries.retain(|entry| entry.until > now);
                !entries.is_empty()
            });
            count = hosts.values().map(Vec::len).sum();
        }
        if count < MOST {
            let entries = hosts.entry(host.to_owned()).or_default();
            count -= entries.len();
            entries.retain(|old| old.until > now && (old.prefix != entry.prefix || old.by != entry.by));
            if entries.len() < MOST_OF_HOST {
                entries.push(entry);
            }
            count += entries.len();
        }
        self.count.store(count, Ordering::Relaxed);
    }

    /// Forgets what is remembered for requests like this one.
    pub(crate) fn forget(&self, host: &str, path: &str) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = hosts.get_mut(host) {
            entries.retain(|entry| !path.starts_with(&entry.prefix));
        }
        self.count
            .store(hosts.values().map(Vec::len).sum(), Ordering::Relaxed);
    }
}

/// The path's beginning that a `fly-replay-cache` for a request to `host` names; none where it names another host.
pub(crate) fn prefix_of<'a>(pattern: &'a str, host: &str) -> Option<&'a str> {
    let pattern = pattern.trim();
    let path = match pattern.find('/') {
        Some(0) => pattern,
        Some(at) => {
            let (named, path) = pattern.split_at(at);
            let named = named.trim_start_matches('[').trim_end_matches(']');
            named.eq_ignore_ascii_case(host).then_some(path)?
        }
        None => return None,
    };
    Some(path.strip_suffix('*').unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(app: &str) -> Replay {
        Replay {
            app: Some(app.to_owned()),
            ..Replay::default()
        }
    }

    #[test]
    fn the_longest_path_wins_until_it_is_over_or_forgotten() {
        let cache = ReplayCache::default();
        let now = Instant::now();
        let none = |_: bool, _: &str| None;
        assert_eq!(cache.look("h", "/a", false, none, now), Lookup::Nothing);
        cache.remember("h", ("/", By::Path), &replay("root"), 1, false, now);
        cache.remember("h", ("/a/", By::Path), &replay("a"), 60, true, now);
        let look = |path: &str, skip: bool, after: u64| {
            cache.look("h", path, skip, none, now + Duration::from_secs(after))
        };
        assert_eq!(look("/a/x", false, 0), Lookup::Hit(Box::new(replay("a"))));
        assert_eq!(look("/b", false, 0), Lookup::Hit(Box::new(replay("root"))));
        assert_eq!(look("/a/x", true, 0), Lookup::Bypassed);
        assert_eq!(
            look("/b", true, 0),
            Lookup::Hit(Box::new(replay("root"))),
            "only where that is allowed"
        );
        assert_eq!(
            look("/b", false, 9),
            Lookup::Hit(Box::new(replay("root"))),
            "10 s at least"
        );
        assert_eq!(look("/b", false, 11), Lookup::Nothing);
        cache.forget("h", "/a/x");
        assert_eq!(look("/a/x", false, 0), Lookup::Nothing);
        assert_eq!(cache.look("other", "/a", false, none, now), Lookup::Nothing);
    }

    #[test]
    fn a_cookie_or_header_may_decide() {
        let cache = ReplayCache::default();
        let now = Instant::now();
        let by = By::Cookie("user".to_owned(), "7".to_owned());
        cache.remember("h", ("/", by), &replay("seven"), 60, false, now);
        let with = |user: &'static str| {
            move |cookie: bool, name: &str| (cookie && name == "user").then(|| user.to_owned())
        };
        assert_eq!(
            cache.look("h", "/", false, with("7"), now),
            Lookup::Hit(Box::new(replay("seven")))
        );
        assert_eq!(cache.look("h", "/", false, with("8"), now), Lookup::Nothing);
    }

    #[test]
    fn it_does_not_grow_beyond_its_bound() {
        let cache = ReplayCache::default();
        let now = Instant::now();
        for n in 0..MOST_OF_HOST + 50 {
            cache.remember("h", (&format!("/{n}"), By::Path), &replay("a"), 60, false, now);
        }
        assert_eq!(cache.count.load(Ordering::Relaxed), MOST_OF_HOST);
        for n in 0..MOST + 50 {
            cache.remember(&format!("h{n}"), ("/", By::Path), &replay("a"), 60, false, now);
        }
        assert_eq!(cache.count.load(Ordering::Relaxed), MOST);
        let later = now + Duration::from_secs(61);
        cache.remember("new", ("/", By::Path), &replay("a"), 60, false, later);
        assert_eq!(cache.count.load(Ordering::Relaxed), 1, "what is over makes room");
    }

    #[test]
    fn a_pattern_is_for_the_request_s_own_host() {
        for (pattern, prefix) in [
            ("/a/*", Some("/a/")),
            ("/a", Some("/a")),
            ("h/a/*", Some("/a/")),
            ("[h]/a/*", Some("/a/")),
            ("H/*", Some("/")),
            ("other/a/*", None),
            ("", None),
            ("invalidate", None),
        ] {
            assert_eq!(prefix_of(pattern, "h"), prefix, "{pattern}");
        }
    }
}
