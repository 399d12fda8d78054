//! An object that nobody runs, open for writing by one command, and held in the depot meanwhile, as `up` would: a copy that
//! is not the object writes nothing. `fork`, `restore` and `memory set` use it.

use std::sync::Arc;

use anyhow::bail;
use suijuris_core::bundle::Bundle;
use suijuris_core::time::{Now, Timestamp};
use suijuris_core::trigger::Timers;
use suijuris_custody::claim::{Acknowledged, Answer, Claim, RefusedCopy};
use suijuris_store::{Depth, Sizes, Writer};

use crate::depots::DepotArg;
use crate::event_printer::EventPrinter;
use crate::object_paths::ObjectPaths;
use crate::terminal::{self, Screen, Tone};
use crate::{claiming, clock, control};

/// The object, open for writing.
pub(crate) fn open(place: &ObjectPaths) -> anyhow::Result<Writer> {
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
pub(crate) struct OfflineObject {
    pub(crate) writer: Writer,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) now: Now,
    pub(crate) claim: Claim,
    say: EventPrinter,
    pub(crate) tokio: tokio::runtime::Runtime,
}

/// Whether this copy is the object.
pub(crate) enum Taken {
    /// It is, or nobody can say otherwise and its bundle lets it go on.
    Open(Box<OfflineObject>),
    /// Another copy is; what tells so.
    NotTheObject(Box<RefusedCopy>),
}

/// Claims the object in `place`, open in `writer`, in the depot.
pub(crate) fn take(writer: Writer, depot: &DepotArg) -> anyhow::Result<Taken> {
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
    let say = EventPrinter::aside();
    let claimed = tokio.block_on(async {
        let claim = claiming::open(depot, &bundle.manifest, &writer, &say).await?;
        let answer = claim.rest(&writer, now.at).await?;
        anyhow::Ok((claim, answer))
    });
    let (claim, answer) = claimed?;
    match answer {
        Answer::Ours => {}
        Answer::Unasked(why) => claiming::say_unasked(&say, &why),
        Answer::Refused(copy) => return Ok(Taken::NotTheObject(copy)),
    }
    Ok(Taken::Open(Box::new(OfflineObject {
        writer,
        bundle,
        now,
        claim,
        say,
        tokio,
    })))
}

impl OfflineObject {
    /// Waits until everything recorded may be told, publishes, and lets go.
    pub(crate) fn leave(self) -> anyhow::Result<()> {
        let due = self.due()?;
        let seq = self.writer.published().head().seq;
        let acknowledged = self.tokio.block_on(async {
            let acknowledged = self.claim.acknowledge(seq).await;
            if let Err(why) = self.claim.leave(due).await {
                self.say.error(claiming::CODE_DEPOT, &why);
            }
            acknowledged
        });
        self.writer.close()?;
        match acknowledged {
            Ok(Acknowledged::Witnessed | Acknowledged::Durable) => Ok(()),
            Err(why) => bail!(
                "record {seq} is written here, and other copies are not refused yet: {why}; start the object once with the \
                 same depot"
            ),
        }
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
pub(crate) fn tell_not_the_object(copy: &RefusedCopy, json: bool) -> anyhow::Result<()> {
    if json {
        return terminal::print_json(&copy.event());
    }
    let word = Screen::stdout().paint(Tone::Bad, "refused");
    Ok(terminal::print(&format!(
        "{word} {}\n  {}\n",
        copy.code,
        terminal::clean(&copy.words())
    ))?)
}
