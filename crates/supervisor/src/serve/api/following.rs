//! The log and the memory of one object as they grow, to whoever follows them: read from its files, which its actor or its machine
//! writes, each reader at its own pace.

use std::rc::Rc;

use serde::Serialize;
use suijuris_api::Problem;
use suijuris_api::agent::Memory;
use suijuris_custody::clock::Clock;
use suijuris_store::Reader;
use suijuris_vehicle::Driver;
use tokio::sync::Semaphore;

use super::past::{kinds, of_reader};
use super::{Answer, Api, Asked};
use crate::history::HistoryError;
use crate::history::follow::{self, Follow, LOOK_EVERY};
use crate::history::log::{self, Wanted};
use crate::serve::entry::{Entry, Status};
use crate::serve::stream::{Gone, Outlet};

/// Records that are read at once for one reader.
const PAGE: usize = 32;

/// An object that is followed.
struct Followed {
    entry: Rc<Entry>,
    questions: Rc<Semaphore>,
    clock: std::sync::Arc<Clock>,
    seen: Follow,
}

impl<D: Driver> Api<D> {
    /// Records behind `Last-Event-ID`, or from `from` on, or from now on.
    pub(super) async fn follow_log(&self, entry: &Rc<Entry>, asked: &Asked) -> Result<Answer, Problem> {
        let kinds = kinds(asked)?;
        let from = match asked.last_event() {
            Some(last) => Some(last.saturating_add(1)),
            None => asked.query.read("from", "position of a record")?,
        };
        let followed = self.followed(entry).await?;
        let head = followed.look(|reader| Ok(reader.state().head().seq)).await?;
        let from = from.unwrap_or(head.saturating_add(1));
        self.stream(asked, move |to| followed.tell_records(kinds, from, to))
    }

    /// Fields as they are written, behind `Last-Event-ID` or from now on.
    pub(super) async fn watch_memory(&self, entry: &Rc<Entry>, asked: &Asked) -> Result<Answer, Problem> {
        let last = asked.last_event();
        let followed = self.followed(entry).await?;
        let before = followed.memory().await?;
        self.stream(asked, move |to| followed.tell_memory(before, last, to))
    }

    async fn followed(&self, entry: &Rc<Entry>) -> Result<Followed, Problem> {
        if matches!(entry.status(), Status::Archived) {
            // Whoever looks at it uses it.
            entry.handle().await?;
        }
        Ok(Followed {
            seen: Follow::new(&entry.paths.home()),
            entry: entry.clone(),
            questions: self.questions.clone(),
            clock: self.roster.services.clock.clone(),
        })
    }
}

impl Followed {
    async fn tell_records(mut self, kinds: Vec<String>, mut from: u64, to: Outlet) -> Option<()> {
        loop {
            let wanted = Wanted {
                kinds: kinds.clone(),
                from,
                limit: PAGE,
                last: false,
            };
            let page = self.look(move |reader| log::page(reader, &wanted)).await.ok()?;
            for record in &page.records {
                send(&to, record.seq, record).await.ok()?;
            }
            from = page.next;
            if !page.more {
                self.grows(&to).await.ok()?;
            }
        }
    }

    async fn tell_memory(mut self, mut before: Memory, last: Option<u64>, to: Outlet) -> Option<()> {
        if let Some(last) = last {
            let reading = self.clock.reading();
            let since = move |reader: &Reader| {
                let now = follow::memory(reader, reading);
                Ok((follow::changed_since(reader, last, &now)?, now))
            };
            let (missed, now) = self.look(since).await.ok()?;
            if let Some(missed) = missed {
                send(&to, missed.seq, &missed).await.ok()?;
            }
            before = now;
        }
        loop {
            self.grows(&to).await.ok()?;
            let now = self.memory().await.ok()?;
            if let Some(change) = follow::changed(&before, &now) {
                send(&to, change.seq, &change).await.ok()?;
            }
            before = now;
        }
    }

    async fn memory(&self) -> Result<Memory, Problem> {
        let reading = self.clock.reading();
        self.look(move |reader| Ok(follow::memory(reader, reading))).await
    }

    async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Reader) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Problem> {
        of_reader(&self.questions, &self.entry, ask).await
    }

    /// Waits until something may have been written. An archived object stays where it is.
    async fn grows(&mut self, to: &Outlet) -> Result<(), Gone> {
        loop {
            tokio::select! {
                () = to.gone() => return Err(Gone),
                () = tokio::time::sleep(LOOK_EVERY) => to.alive().await?,
            }
            if matches!(self.entry.status(), Status::Archived) {
                let mut status = self.entry.status.subscribe();
                let back = status.wait_for(|status| !matches!(status, Status::Archived));
                tokio::select! {
                    _back = back => {}
                    still = idle(to) => return still,
                }
            }
            let home = self.entry.paths.home();
            let mut seen = std::mem::replace(&mut self.seen, Follow::nothing());
            let look = tokio::task::spawn_blocking(move || {
                let grown = seen.has_grown(&home);
                (seen, grown)
            });
            let (seen, grown) = look.await.map_err(|_ended| Gone)?;
            self.seen = seen;
            if grown {
                return Ok(());
            }
        }
    }
}

/// Keeps a reader who waits; until it is gone.
async fn idle(to: &Outlet) -> Result<(), Gone> {
    loop {
        to.idle().await?;
    }
}

async fn send(to: &Outlet, number: u64, document: &impl Serialize) -> Result<(), Gone> {
    let text = serde_json::to_string(document).map_err(|_none| Gone)?;
    to.event(number, &text).await
}
