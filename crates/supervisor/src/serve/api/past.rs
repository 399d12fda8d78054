//! Questions about an object's past and its rules, answered by [`crate::history`] from its files, which its actor or its
//! machine may be writing.

use suijuris_api::Problem;
use suijuris_api::history::{Rejudge, Supposed};
use suijuris_api::routes::Operation;
use suijuris_core::governance::Action;
use suijuris_custody::chain;
use suijuris_store::{ObjectDir, Reader};
use suijuris_vehicle::Driver;
use tokio::sync::Semaphore;

use super::{Answer, Api, Asked, adding, bad, elsewhere, json, read};
use crate::history::log::{MAX_PAGE, Wanted, known};
use crate::history::state::Running;
use crate::history::why::DecisionSelector;
use crate::history::{self, HistoryError, Past};
use crate::serve::entry::Entry;

/// Records of a page, unless told otherwise.
const PAGE: usize = 100;

impl<D: Driver> Api<D> {
    pub(super) async fn question(
        &self,
        operation: Operation,
        entry: &Entry,
        which: &str,
        asked: Asked,
    ) -> Result<Answer, Problem> {
        let reading = self.roster.services.clock.reading();
        match operation {
            Operation::State => {
                let running = self.running(entry);
                let state = move |reader: &Reader| history::state::state(reader, running, reading);
                let mut state = self.of_reader(entry, state).await?;
                state.messages = self.waiting(entry).await;
                Ok(json(&state))
            }
            Operation::Memory => {
                let memory = move |reader: &Reader| Ok(history::follow::memory(reader, reading));
                Ok(json(&self.of_reader(entry, memory).await?))
            }
            Operation::Log => {
                let wanted = wanted(&asked)?;
                let page = move |reader: &Reader| history::log::page(reader, &wanted);
                Ok(json(&self.of_reader(entry, page).await?))
            }
            Operation::Why => {
                let which = DecisionSelector::read(which)
                    .ok_or_else(|| bad("write `last`, the position of a record, or a refusal's id"))?;
                let action: Option<Action> = asked.query.read("action", "action")?;
                let why = move |reader: &Reader| history::why::why(past(reader), &which, action);
                let why = self.of_reader(entry, why).await?;
                Ok(json(&why.ok_or_else(no_decision)?))
            }
            Operation::WhatIf => {
                let supposed: Supposed = read(asked).await?;
                let host = self.roster.services.host.clone();
                let what_if =
                    move |reader: &Reader| history::what_if::what_if(reader, &supposed, reading, host);
                Ok(json(&self.of_reader(entry, what_if).await?))
            }
            Operation::Rejudge => {
                let Rejudge { bundle } = read(asked).await?;
                let bundle = adding::files(&bundle)?.open();
                let bundle = bundle.map_err(|error| bad(&chain(&error)))?;
                let rejudge = move |reader: &Reader| history::rejudge::rejudge(past(reader), &bundle);
                Ok(json(&self.of_reader(entry, rejudge).await?))
            }
            Operation::Verify => {
                let compiles = self.compiles;
                let verify = move |home: &ObjectDir| history::verify::verify(home, &compiles, &|_| {});
                Ok(json(&of_home(&self.questions, entry, verify).await?))
            }
            _ => Err(elsewhere()),
        }
    }

    /// How this daemon says that the object is; nothing where its actor does not run it.
    fn running(&self, entry: &Entry) -> Option<Running> {
        let runs = matches!(entry.status(), crate::serve::entry::Status::Live(_));
        runs.then(|| Running {
            phase: entry.phase().to_owned(),
            pid: std::process::id(),
            url: self.roster.url(&entry.origin),
            paused: entry.paused(),
            holds: entry.holds(),
        })
    }

    /// Asks the object as it stands.
    pub(super) async fn of_reader<T: Send + 'static>(
        &self,
        entry: &Entry,
        ask: impl FnOnce(&Reader) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Problem> {
        of_reader(&self.questions, entry, ask).await
    }
}

/// Asks the object as it stands.
pub(super) async fn of_reader<T: Send + 'static>(
    questions: &Semaphore,
    entry: &Entry,
    ask: impl FnOnce(&Reader) -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Problem> {
    let ask = move |home: &ObjectDir| ask(&history::open(home)?);
    of_home(questions, entry, ask).await
}

/// Asks beside everything else; a few at once.
async fn of_home<T: Send + 'static>(
    questions: &Semaphore,
    entry: &Entry,
    ask: impl FnOnce(&ObjectDir) -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Problem> {
    if matches!(entry.status(), crate::serve::entry::Status::Archived) {
        // Whoever looks at it uses it.
        entry.handle().await?;
    }
    let _turn = questions.acquire().await;
    let home = entry.paths.home();
    let answer = tokio::task::spawn_blocking(move || ask(&home)).await;
    let answer = answer.map_err(|error| unreadable(&error.to_string()))?;
    answer.map_err(|error| match error {
        HistoryError::Asked(why) => bad(&why),
        HistoryError::Misfit(why) => {
            Problem::new(422, "memory_refused", "It does not fit memory").with_detail(why)
        }
        error => unreadable(&chain(&error)),
    })
}

fn past(reader: &Reader) -> Past<'_> {
    Past {
        reader,
        heard: &|_| {},
    }
}

/// Kinds of records that a request wants; all where it names none.
pub(super) fn kinds(asked: &Asked) -> Result<Vec<String>, Problem> {
    let kinds: Vec<String> = asked.query.all("kind").map(str::to_owned).collect();
    known(&kinds).map_err(|error| bad(&error.to_string()))?;
    Ok(kinds)
}

/// Which records a request wants.
fn wanted(asked: &Asked) -> Result<Wanted, Problem> {
    let limit = asked.query.read("limit", "number")?.unwrap_or(PAGE);
    if limit > MAX_PAGE {
        return Err(bad(&format!("`limit` is {MAX_PAGE} at most")));
    }
    Ok(Wanted {
        kinds: kinds(asked)?,
        from: asked.query.read("from", "position of a record")?.unwrap_or(0),
        limit,
        last: asked.query.read("last", "true or false")?.unwrap_or(false),
    })
}

fn unreadable(why: &str) -> Problem {
    Problem::new(503, "history_unreadable", "The object's history cannot be read").with_detail(why)
}

fn no_decision() -> Problem {
    Problem::new(404, "no_decision", "Nothing has been decided yet")
        .with_detail("ask what would be with what-if")
}
