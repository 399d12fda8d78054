//! Who answers for an object: the daemon that serves it, or its files. The answer is the same: both ask
//! `suijuris_supervisor::history`.

use std::path::Path;

use suijuris_api::agent::Memory;
use suijuris_api::daemon::Object;
use suijuris_api::history::{Log, Rejudge, Rejudged, State, Supposed, Verification, WhatIf, Why};
use suijuris_bundle::{Built, Files};
use suijuris_core::bundle::Bundle;
use suijuris_core::governance::Action;
use suijuris_store::BundleFiles;
use suijuris_supervisor::history::log::Wanted;
use suijuris_supervisor::history::why::DecisionSelector;
use suijuris_supervisor::history::{self, HistoryError, Past};

use crate::object_paths::{NoObject, ObjectArg, ObjectPaths, in_files};
use crate::progress::Progress;
use crate::refusals::Kept;
use crate::server::{Server, ServerError, encoded};
use crate::{Usage, add, clock, control, depots, here};

/// Whoever answers for an object.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// The daemon that serves it.
    Daemon(Server, Box<Object>),
    /// Its files, which this command reads.
    Files(ObjectPaths),
}

impl ObjectArg {
    /// Whoever answers for the object that is meant.
    pub(crate) fn carrier(&self) -> anyhow::Result<Carrier> {
        Carrier::of(self.dir.as_deref(), self.data.as_deref())
    }
}

impl Carrier {
    /// As [`ObjectArg::carrier`], for the object that `dir` (`.` where absent) and `data` mean.
    pub(crate) fn of(dir: Option<&Path>, data: Option<&Path>) -> anyhow::Result<Self> {
        if let Ok(Some(Server::Address(_))) = Server::running() {
            // Who names a daemon elsewhere means an object there.
            let named = dir.unwrap_or(Path::new("."));
            return Self::served(Some(named))?.ok_or_else(|| NoObject(named.to_owned()).into());
        }
        match in_files(dir, data) {
            Ok(paths) => Self::at(paths),
            Err(none) => Self::served(dir)?.ok_or_else(|| none.into()),
        }
    }

    /// Whoever answers for the object whose files are here.
    pub(crate) fn at(paths: ObjectPaths) -> anyhow::Result<Self> {
        let served = |server: Server| Some((server.object_in(&paths.data)?, server));
        Ok(match Server::running()?.and_then(served) {
            Some((object, server)) => Self::Daemon(server, Box::new(object)),
            None => Self::Files(paths),
        })
    }

    /// An object that a daemon serves under this name.
    fn served(name: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(name) = name.and_then(Path::to_str) else {
            return Ok(None);
        };
        let Some(server) = Server::running()? else {
            return Ok(None);
        };
        match server.object(name) {
            Ok(object) => Ok(Some(Self::Daemon(server, Box::new(object)))),
            Err(ServerError::Refused(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a word names an object for [`Carrier::of`], where none is named otherwise.
    pub(crate) fn is_here(data: Option<&Path>) -> bool {
        in_files(None, data).is_ok()
    }

    /// Its files, where they can be followed from here.
    pub(crate) const fn files(&self) -> Option<&ObjectPaths> {
        match self {
            Self::Daemon(..) => None,
            Self::Files(paths) => Some(paths),
        }
    }

    /// As it stands.
    pub(crate) fn state(&self) -> anyhow::Result<State> {
        match self {
            Self::Daemon(server, object) => asked(server.get(&route(object, "/state"))),
            Self::Files(paths) => {
                let reader = crate::history::open(paths)?;
                let running = control::running_up(paths);
                let mut state = known(history::state::state(&reader, running, clock::reading()?))?;
                state.messages = depots::waiting(reader.state().head().object);
                Ok(state)
            }
        }
    }

    /// Its memory now.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        match self {
            Self::Daemon(server, object) => asked(server.get(&route(object, "/memory"))),
            Self::Files(paths) => {
                let reader = crate::history::open(paths)?;
                Ok(history::follow::memory(&reader, clock::reading()?))
            }
        }
    }

    /// A page of its log.
    pub(crate) fn log(&self, wanted: &Wanted) -> anyhow::Result<Log> {
        match self {
            Self::Daemon(server, object) => {
                let kinds: String = wanted
                    .kinds
                    .iter()
                    .map(|kind| format!("&kind={}", encoded(kind)))
                    .collect();
                let (from, limit, last) = (wanted.from, wanted.limit, wanted.last);
                let query = format!("/log?from={from}&limit={limit}&last={last}{kinds}");
                asked(server.get(&route(object, &query)))
            }
            Self::Files(paths) => known(history::log::page(&crate::history::open(paths)?, wanted)),
        }
    }

    /// A recorded decision explained; nothing where nothing was decided yet.
    pub(crate) fn why(&self, which: &str, action: Option<Action>) -> anyhow::Result<Option<Why>> {
        match self {
            Self::Daemon(server, object) => {
                let action = action.map(|action| format!("?action={action}"));
                let query = format!("/why/{}{}", encoded(which), action.unwrap_or_default());
                match server.get(&route(object, &query)) {
                    Err(ServerError::Refused(problem)) if problem.code == NO_DECISION => Ok(None),
                    answer => asked(answer).map(Some),
                }
            }
            Self::Files(paths) => {
                let which = DecisionSelector::read(which)
                    .ok_or_else(|| Usage(format!("`{which}` is neither a position nor a refusal's id")))?;
                past(paths, "gone through", |past| {
                    history::why::why(past, &which, action)
                })
            }
        }
    }

    /// A refusal that a door has kept, explained; nothing where it is another object's, or a daemon has this one's history.
    pub(crate) fn why_of_door(&self, kept: &Kept) -> anyhow::Result<Option<Why>> {
        match self {
            Self::Files(paths) if crate::history::open(paths)?.state().head().object == kept.object => {
                let ask = |past: Past<'_>| history::why::of_a_door(past, &kept.refused);
                past(paths, "gone through", ask).map(Some)
            }
            Self::Files(_) | Self::Daemon(..) => Ok(None),
        }
    }

    /// What it would decide.
    pub(crate) fn what_if(&self, supposed: &Supposed) -> anyhow::Result<WhatIf> {
        match self {
            Self::Daemon(server, object) => asked(server.post(&route(object, "/what-if"), supposed)),
            Self::Files(paths) => known(history::what_if::what_if(
                &crate::history::open(paths)?,
                supposed,
                clock::reading()?,
                here::host(),
            )),
        }
    }

    /// What it decided, under the rules of `built`.
    pub(crate) fn rejudge(&self, built: &Built) -> anyhow::Result<Rejudged> {
        match self {
            Self::Daemon(server, object) => {
                let bundle = add::parts(built);
                asked(server.post(&route(object, "/what-if/rules"), &Rejudge { bundle }))
            }
            Self::Files(paths) => {
                let bundle = opened(built)?;
                past(paths, "gone through", |past| {
                    history::rejudge::rejudge(past, &bundle)
                })
            }
        }
    }

    /// Whether its whole history holds.
    pub(crate) fn verify(&self) -> anyhow::Result<Verification> {
        match self {
            Self::Daemon(server, object) => asked(server.get(&route(object, "/verify"))),
            Self::Files(paths) => {
                let progress = Progress::of(None, "verified");
                known(history::verify::verify(&paths.home(), &compiles, &|records| {
                    progress.at(records);
                }))
            }
        }
    }
}

/// The code of a daemon that has no decision to explain.
const NO_DECISION: &str = "no_decision";

/// A definition that was built, as objects carry it.
pub(crate) fn opened(built: &Built) -> anyhow::Result<Bundle> {
    let Files {
        manifest,
        governance,
        program,
    } = built.files();
    let files = BundleFiles {
        manifest,
        governance: governance.into_bytes(),
        program,
    };
    Ok(files.open()?)
}

/// What does not hold of a bundle's parts: its text compiles to the very program that decides.
pub(crate) fn compiles(files: BundleFiles) -> Result<(), String> {
    let governance =
        String::from_utf8(files.governance).map_err(|error| format!("its rules are not text: {error}"))?;
    let files = Files {
        manifest: files.manifest,
        governance,
        program: files.program,
    };
    files.verify().map_err(|error| suijuris_custody::chain(&error))?;
    Ok(())
}

/// The route of something of an object.
pub(crate) fn route(object: &Object, rest: &str) -> String {
    format!("/v1/objects/{}{rest}", object.object)
}

/// What a daemon answered; where it could not understand, the command line was not meant so.
pub(crate) fn asked<T>(answer: Result<T, ServerError>) -> anyhow::Result<T> {
    match answer {
        Err(ServerError::Refused(problem)) if problem.status == 400 => Err(Usage(problem.detail).into()),
        answer => Ok(answer?),
    }
}

fn known<T>(answer: Result<T, HistoryError>) -> anyhow::Result<T> {
    match answer {
        Err(HistoryError::Asked(why)) => Err(Usage(why).into()),
        answer => Ok(answer?),
    }
}

/// Asks the past in these files, with a bar where that takes long.
fn past<T>(
    paths: &ObjectPaths,
    done: &'static str,
    ask: impl FnOnce(Past<'_>) -> Result<T, HistoryError>,
) -> anyhow::Result<T> {
    let reader = crate::history::open(paths)?;
    let end = reader.state().head().seq.saturating_add(1);
    let progress = Progress::of(Some(end), done);
    let past = Past {
        reader: &reader,
        heard: &|seq| progress.at(seq),
    };
    known(ask(past))
}
