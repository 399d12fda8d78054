//! Which machine a request goes to. Pure: what is seen goes in, a choice comes out.
//!
//! Cordoned and unhealthy machines are left out. In the nearest region that has room: under the soft limit, by chance; where all
//! are above it, one more is started, and without one to start the least loaded serves. No machine above its hard limit gets
//! anything: where all are, and none can be started, the request waits.

use std::sync::Arc;

use crate::fleet::State;

/// A machine with the service that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) id: Arc<str>,
    pub(crate) region: Arc<str>,
    pub(crate) state: State,
    pub(crate) cordoned: bool,
    pub(crate) healthy: bool,
    pub(crate) autostart: bool,
    pub(crate) load: usize,
    pub(crate) soft: usize,
    pub(crate) hard: Option<usize>,
    /// About to be put to rest.
    pub(crate) leaving: bool,
}

/// What a request wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The region of the edge: the nearest.
    pub(crate) edge: Arc<str>,
    /// Regions in order of preference: codes and aliases.
    pub(crate) regions: Vec<String>,
    /// No other region will do.
    pub(crate) strict: bool,
    /// This machine and no other.
    pub(crate) only: Option<Arc<str>>,
    /// This machine if it can.
    pub(crate) prefer: Option<Arc<str>>,
    /// Not these.
    pub(crate) except: Vec<Arc<str>>,
}

/// Where a request goes; indices of what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Go(usize),
    /// It is to be started first. Where that fails, the other serves.
    Start {
        machine: usize,
        otherwise: Option<usize>,
    },
    /// All are full.
    Queue,
    Nobody,
}

/// Regions of each alias.
const ALIASES: [(&str, &[&str]); 5] = [
    ("apac", &["bom", "nrt", "sin", "syd", "hkg"]),
    ("eu", &["ams", "arn", "cdg", "fra", "lhr", "mad", "otp", "waw"]),
    (
        "na",
        &[
            "iad", "ord", "dfw", "lax", "sjc", "sea", "ewr", "mia", "den", "atl", "bos", "phx", "yyz", "yul",
            "qro", "gdl",
        ],
    ),
    ("sa", &["gru", "gig", "eze", "scl", "bog"]),
    (
        "us",
        &[
            "iad", "ord", "dfw", "lax", "sjc", "sea", "ewr", "mia", "den", "atl", "bos", "phx",
        ],
    ),
];

/// Whether `word` names `region`: its code, an alias of several, or `any`.
fn names(word: &str, region: &str) -> bool {
    let word = if word == "usa" { "us" } else { word };
    let alias = ALIASES.iter().find(|(alias, _)| *alias == word);
    word == "any" || word == region || alias.is_some_and(|(_, regions)| regions.contains(&region))
}

impl Wanted {
    /// Whether any machine will do.
    pub(crate) fn is_free(&self) -> bool {
        !self.strict && self.only.is_none() && self.prefer.is_none() && self.except.is_empty()
    }

    /// How far away a region is; none where it will not do.
    fn rank(&self, region: &str) -> Option<usize> {
        let far = usize::from(region != &*self.edge);
        if self.regions.is_empty() {
            return Some(far);
        }
        let listed = self.regions.iter().position(|word| names(word, region));
        match listed {
            Some(at) => Some(at * 2 + far),
            None if self.strict => None,
            None => Some(self.regions.len() * 2 + far),
        }
    }
}

/// The choice. `random` decides between equals.
pub(crate) fn choose(seen: &[Seen], wanted: &Wanted, random: u64) -> Choice {
    let usable: Vec<(usize, usize)> = seen
        .iter()
        .enumerate()
        .filter(|(_, machine)| !machine.cordoned && !wanted.except.contains(&machine.id))
        .filter(|(_, machine)| wanted.only.as_ref().is_none_or(|only| *only == machine.id))
        .filter_map(|(at, machine)| Some((at, wanted.rank(&machine.region)?)))
        .collect();
    if let Some(prefer) = &wanted.prefer {
        let preferred: Vec<_> = usable
            .iter()
            .copied()
            .filter(|(at, _)| seen.get(*at).is_some_and(|machine| machine.id == *prefer))
            .collect();
        let choice = of(seen, &preferred, random);
        if !matches!(choice, Choice::Nobody | Choice::Queue) {
            return choice;
        }
    }
    of(seen, &usable, random)
}

fn of(seen: &[Seen], usable: &[(usize, usize)], random: u64) -> Choice {
    let with = |fits: &dyn Fn(&Seen) -> bool| -> Vec<(usize, usize)> {
        let fit = |(at, _): &(usize, usize)| seen.get(*at).is_some_and(fits);
        usable.iter().copied().filter(fit).collect()
    };
    let serves = |machine: &Seen| machine.state == State::Started && machine.healthy;
    let room = |machine: &Seen| serves(machine) && machine.hard.is_none_or(|hard| machine.load < hard);
    let starts = |machine: &Seen| {
        machine.state == State::Starting || (machine.state == State::Resting && machine.autostart)
    };
    let mut open = with(&|machine: &Seen| room(machine) && !machine.leaving);
    if open.is_empty() {
        open = with(&room);
    }
    // One that is on its way serves all who wait for it.
    let startable =
        nearest(with(&|machine: &Seen| machine.state == State::Starting)).or_else(|| nearest(with(&starts)));
    let Some(region) = open.iter().map(|(_, rank)| *rank).min() else {
        let full = !with(&serves).is_empty();
        return match startable {
            Some(machine) => Choice::Start {
                machine,
                otherwise: None,
            },
            None if full => Choice::Queue,
            None => Choice::Nobody,
        };
    };
    open.retain(|(_, rank)| *rank == region);
    let load = |at: usize| seen.get(at).map_or(usize::MAX, |machine| machine.load);
    let below: Vec<usize> = open
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| seen.get(*at).is_some_and(|machine| machine.load < machine.soft))
        .collect();
    if let Some(chosen) = pick(&below, random) {
        return Choice::Go(chosen);
    }
    let least = open.iter().map(|(at, _)| load(*at)).min().unwrap_or_default();
    let calm: Vec<usize> = open
        .iter()
        .map(|(at, _)| *at)
        .filter(|at| load(*at) == least)
        .collect();
    let otherwise = pick(&calm, random);
    match (startable, otherwise) {
        (Some(machine), otherwise) => Choice::Start { machine, otherwise },
        (None, Some(chosen)) => Choice::Go(chosen),
        (None, None) => Choice::Nobody,
    }
}

fn nearest(mut found: Vec<(usize, usize)>) -> Option<usize> {
    found.sort_by_key(|(at, rank)| (*rank, *at));
    found.first().map(|(at, _)| *at)
}

fn pick(among: &[usize], random: u64) -> Option<usize> {
    let at = random.checked_rem(u64::try_from(among.len()).ok()?)?;
    among.get(usize::try_from(at).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, region: &str, state: State, load: usize) -> Seen {
        Seen {
            id: id.into(),
            region: region.into(),
            state,
            cordoned: false,
            healthy: true,
            autostart: true,
            load,
            soft: 2,
            hard: Some(4),
            leaving: false,
        }
    }

    fn up(id: &str, load: usize) -> Seen {
        machine(id, "fra", State::Started, load)
    }

    fn wanted() -> Wanted {
        Wanted {
            edge: "fra".into(),
            ..Wanted::default()
        }
    }

    /// Where each of some requests goes, as `id`, `+id` for a start, `…` and `-`.
    fn goes(seen: &[Seen], wanted: &Wanted) -> Vec<String> {
        let mut went: Vec<String> = (0..8)
            .map(|random| match choose(seen, wanted, random) {
                Choice::Go(at) => seen[at].id.to_string(),
                Choice::Start { machine, otherwise } => {
                    let other = otherwise.map_or(String::new(), |at| format!("/{}", seen[at].id));
                    format!("+{}{other}", seen[machine].id)
                }
                Choice::Queue => "…".to_owned(),
                Choice::Nobody => "-".to_owned(),
            })
            .collect();
        went.sort();
        went.dedup();
        went
    }

    #[test]
    fn limits_decide_inside_a_region() {
        let rest = |id: &str| machine(id, "fra", State::Resting, 0);
        for (seen, went) in [
            (vec![up("a", 0), up("b", 1)], vec!["a", "b"]),
            (vec![up("a", 2), up("b", 1)], vec!["b"]),
            (vec![up("a", 2), up("b", 3)], vec!["a"]),
            (vec![up("a", 2), rest("c")], vec!["+c/a"]),
            (vec![up("a", 4), rest("c")], vec!["+c"]),
            (vec![up("a", 4), up("b", 3)], vec!["b"]),
            (vec![up("a", 4), up("b", 4)], vec!["…"]),
            (vec![rest("c"), rest("d")], vec!["+c"]),
            (vec![], vec!["-"]),
        ] {
            assert_eq!(goes(&seen, &wanted()), went, "{seen:?}");
        }
    }

    #[test]
    fn who_is_left_out() {
        let cordoned = Seen {
            cordoned: true,
            ..up("a", 0)
        };
        let sick = Seen {
            healthy: false,
            ..up("b", 0)
        };
        let leaving = Seen {
            leaving: true,
            ..up("c", 0)
        };
        let manual = Seen {
            autostart: false,
            ..machine("d", "fra", State::Resting, 0)
        };
        let away = machine("e", "fra", State::Away, 0);
        let all = [
            cordoned.clone(),
            sick.clone(),
            leaving.clone(),
            manual.clone(),
            away.clone(),
        ];
        assert_eq!(
            goes(&all, &wanted()),
            ["c"],
            "one that leaves serves where nobody else does"
        );
        assert_eq!(goes(&[leaving, up("f", 1)], &wanted()), ["f"]);
        assert_eq!(goes(&[cordoned, sick, manual, away], &wanted()), ["-"]);
    }

    #[test]
    fn one_start_serves_all_who_wait() {
        let seen = [
            machine("a", "fra", State::Resting, 0),
            machine("b", "fra", State::Starting, 0),
        ];
        assert_eq!(goes(&seen, &wanted()), ["+b"]);
    }

    #[test]
    fn another_region_serves_where_the_near_one_has_no_room() {
        let far = |load| machine("far", "iad", State::Started, load);
        assert_eq!(
            goes(&[up("a", 3), far(0)], &wanted()),
            ["a"],
            "soft limits act inside a region"
        );
        assert_eq!(goes(&[up("a", 4), far(0)], &wanted()), ["far"]);
        assert_eq!(
            goes(
                &[
                    Seen {
                        healthy: false,
                        ..up("a", 0)
                    },
                    far(0)
                ],
                &wanted()
            ),
            ["far"]
        );
        let list = |words: &[&str], strict| Wanted {
            regions: words.iter().map(|word| (*word).to_owned()).collect(),
            strict,
            ..wanted()
        };
        let both = [up("a", 0), far(0)];
        assert_eq!(goes(&both, &list(&["iad"], false)), ["far"]);
        assert_eq!(goes(&both, &list(&["us"], true)), ["far"]);
        assert_eq!(goes(&both, &list(&["usa", "eu"], true)), ["far"]);
        assert_eq!(goes(&both, &list(&["syd", "any"], true)), ["a"]);
        assert_eq!(goes(&both, &list(&["syd"], true)), ["-"]);
        assert_eq!(goes(&both, &list(&["syd"], false)), ["a"]);
    }

    #[test]
    fn one_machine_is_meant() {
        let seen = [up("a", 0), up("b", 9), machine("c", "fra", State::Resting, 0)];
        let only = |id: &str| Wanted {
            only: Some(id.into()),
            ..wanted()
        };
        let prefer = |id: &str| Wanted {
            prefer: Some(id.into()),
            ..wanted()
        };
        assert_eq!(goes(&seen, &only("c")), ["+c"]);
        assert_eq!(goes(&seen, &only("b")), ["…"]);
        assert_eq!(goes(&seen, &only("x")), ["-"]);
        assert_eq!(goes(&seen, &prefer("c")), ["+c"]);
        assert_eq!(goes(&seen, &prefer("b")), ["a"]);
        assert_eq!(goes(&seen, &prefer("x")), ["a"]);
        let except = Wanted {
            except: vec!["a".into(), "b".into()],
            ..wanted()
        };
        assert_eq!(goes(&seen, &except), ["+c"]);
    }
}
