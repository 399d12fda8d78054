//! What happens, for whoever watches: one sink for all objects of a process, which says of whom each event is.

use std::rc::Rc;
use std::time::Duration;

use suijuris_api::Event;
use suijuris_api::event::Stamped;
use suijuris_core::ObjectId;
use suijuris_core::governance::Action;
use suijuris_core::lineage::{Decision, Refused};
use suijuris_words::verdict;

/// Takes events. Returns at once, whatever its reader does: an actor calls it in its loop.
pub trait EventSink {
    /// Something happened to this object.
    fn event(&self, origin: &Origin, event: Stamped);
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub object: ObjectId,
    /// Its name for people.
    pub name: String,
    /// Name of its class and its key there, for an instance.
    pub instance: Option<(String, String)>,
}

/// Tells the events of one object.
#[derive(Clone)]
pub(crate) struct Reporter {
    sink: Rc<dyn EventSink>,
    origin: Rc<Origin>,
}

impl Reporter {
    pub(crate) fn new(sink: Rc<dyn EventSink>, origin: Origin) -> Self {
        let origin = Rc::new(origin);
        Self { sink, origin }
    }

    /// The object that it tells of.
    pub(crate) const fn origin(&self) -> &Rc<Origin> {
        &self.origin
    }

    /// An event that happens here and now; its time.
    pub(crate) fn event(&self, event: Event) -> String {
        let at = format!("{:.3}", jiff::Timestamp::now());
        let stamped = Stamped {
            at: at.clone(),
            event,
        };
        self.stamped(stamped);
        at
    }

    /// An event of the runtime.
    pub(crate) fn stamped(&self, event: Stamped) {
        self.sink.event(&self.origin, event);
    }

    pub(crate) fn proposal(&self, action: Action, by: &str, trigger: Option<&str>, detail: &str) {
        self.event(Event::Proposal {
            action: action.to_string(),
            by: by.to_owned(),
            trigger: trigger.map(str::to_owned),
            detail: detail.to_owned(),
        });
    }

    pub(crate) fn verdict(&self, decision: &Decision) -> suijuris_api::event::Verdict {
        let words = verdict::verdict(decision, "door");
        self.event(Event::Verdict(words.clone()));
        words
    }

    pub(crate) fn refused(&self, recorded: &[Refused]) {
        for refused in recorded {
            self.event(verdict::refused(refused));
        }
    }

    pub(crate) fn machine(&self, state: &str, detail: String) {
        self.event(Event::Machine {
            state: state.to_owned(),
            detail,
        });
    }

    /// The object is left alone; `why` in the workload's case, as in `crashed (exit 1), next try in 4 s`.
    pub(crate) fn paused(&self, pause: Duration, failures: u32, why: Option<&str>) {
        let seconds = pause.as_secs_f32().ceil();
        let times = match failures {
            1 => "1 failure".to_owned(),
            _ => format!("{failures} failures in a row"),
        };
        let detail = match why {
            Some(why) => format!("{why}, next try in {seconds} s ({times})"),
            None => format!("for {seconds} s, after {times}"),
        };
        self.machine("paused", detail);
    }

    pub(crate) fn error(&self, code: &str, message: impl Into<String>) {
        self.event(Event::Error {
            code: code.to_owned(),
            message: message.into(),
        });
    }
}
