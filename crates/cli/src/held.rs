//! An object that nobody runs, open for writing by one command, and held in the depot meanwhile, as `up` would: a copy that
//! is not the object writes nothing. `fork`, `restore` and `memory set` use it.

use std::sync::Arc;

use anyhow::bail;
use suijuris_api::Event;
use suijuris_core::bundle::Bundle;
use suijuris_core::time::{Now, Timestamp};
use suijuris_core::trigger::Timers;
use suijuris_store::{Depth, Sizes, Writer};

use crate::depots::Which;
use crate::place::Place;
use crate::screen::{self, Screen, Tone};
use crate::up::holding::{Holding, NotTheObject};
use crate::up::say::Say;
use crate::{clock, control};

/// The object, open for writing.
pub(crate) fn open(place: &Place) -> anyhow::Result<Writer> {
    if let Some(control::Running { pid, url, .. }) = control::running(place) {
        bail!(
            "{} runs, at {url}: end it first (Ctrl-C, or `kill -INT {pid}`); that puts it to sleep",
            place.name()
        );
    }
    let (writer, _recovery) = Writer::open(&place.home(), Depth::Tail, Sizes::default())?;
    Ok(writer)
}

/// An object that is held.
pub(crate) struct Held {
    pub(crate) writer: Writer,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) now: Now,
    holding: Holding,
    say: Say,
    tokio: tokio::runtime::Runtime,
}

/// Whether this copy is the object.
pub(crate) enum Taken {
    /// It is, or nobody can say otherwise and its bundle lets it go on.
    Held(Box<Held>),
    /// Another copy is; what tells so.
    NotTheObject(Box<Event>),
}

/// Claims the object in `place`, open in `writer`, in the depot.
pub(crate) fn take(place: &Place, writer: Writer, depot: &Which) -> anyhow::Result<Taken> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (now, bundle) = {
        let state = writer.published();
        (
            clock::now(&state)?,
            writer.bundles().bundle(&state.head().bundle)?,
        )
    };
    let say = Say::aside();
    let home = place.home();
    let claimed = tokio.block_on(async {
        let mut holding = Holding::open(depot, &home, &bundle.manifest, &writer, &say).await?;
        let claimed = holding.claim(&writer, now.at, &say).await?;
        anyhow::Ok(claimed.map(|()| holding))
    });
    Ok(match claimed? {
        Ok(holding) => Taken::Held(Box::new(Held {
            writer,
            bundle,
            now,
            holding,
            say,
            tokio,
        })),
        Err(NotTheObject(event)) => Taken::NotTheObject(event),
    })
}

impl Held {
    /// Waits until the witness knows what was written, where it has to; publishes, and lets go.
    pub(crate) fn leave(self) -> anyhow::Result<()> {
        let due = self.due()?;
        let seq = self.writer.published().head().seq;
        let acknowledged = self.tokio.block_on(async {
            let acknowledged = self.holding.acknowledged(seq, &self.bundle.manifest).await;
            self.holding.leave(due, &self.say).await;
            acknowledged
        });
        self.writer.close()?;
        if !acknowledged {
            bail!(
                "record {seq} is written here, and the witness did not take it in time: other copies are not refused yet; \
                 start the object once with the same depot"
            );
        }
        Ok(())
    }

    /// When a timer wants the object woken.
    fn due(&self) -> anyhow::Result<Option<Timestamp>> {
        let timers = Timers::new(&self.bundle.manifest.triggers.timers)?;
        let state = self.writer.published();
        let head = state.head();
        let pending = timers.pending(&head.fired, head.born, self.now.at);
        Ok(if pending.due.is_empty() {
            pending.next
        } else {
            Some(self.now.at)
        })
    }
}

/// Tells that another copy is the object.
pub(crate) fn tell_not_the_object(event: &Event, json: bool) -> anyhow::Result<()> {
    if json {
        screen::print_json(event)?;
    } else if let Event::Refused { reason, reasons, .. } = event {
        let word = Screen::stdout().paint(Tone::Bad, "refused");
        let reasons: Vec<String> = reasons.iter().map(|reason| screen::clean(reason)).collect();
        screen::print(&format!("{word} {reason}\n  {}\n", reasons.join("\n  ")))?;
    }
    Ok(())
}
