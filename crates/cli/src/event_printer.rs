//! What `up` prints: a live stream for people, or one JSON event a line. A thread of its own writes, so that a terminal that
//! stands still, or a reader that does not read, stops nothing but the printing.

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};

use suijuris_api::event::{Stamped, Verdict};
use suijuris_api::{Event, verdict};
use suijuris_bundle::Report;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Decision;
use suijuris_supervisor::events::{EventSink, Origin};

use crate::line_writer::LineWriter;

/// Prints events.
#[derive(Debug)]
pub(crate) struct EventPrinter {
    json: bool,
    /// Only troubles, beside the output of another command.
    aside: bool,
    colour: bool,
    /// What happened before `listening`, which scripts read first.
    early: RefCell<Option<Vec<Stamped>>>,
    out: LineWriter,
}

impl EventPrinter {
    /// For a command that is not `up`: troubles are noted on standard error, all else is its own affair.
    pub(crate) fn aside() -> Self {
        Self {
            json: false,
            aside: true,
            colour: false,
            early: RefCell::new(None),
            out: LineWriter::default(),
        }
    }

    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            aside: false,
            early: RefCell::new(json.then(Vec::new)),
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            out: LineWriter::default(),
        }
    }

    /// Prints an event that happens here and now.
    pub(crate) fn event(&self, event: Event) {
        let at = jiff::Timestamp::now();
        self.stamped(&Stamped {
            at: format!("{at:.3}"),
            event,
        });
    }

    /// Prints an event of the runtime.
    pub(crate) fn stamped(&self, stamped: &Stamped) {
        if self.aside {
            if let Event::Error { message, .. } = &stamped.event {
                crate::terminal::note(message);
            }
            return;
        }
        if let Some(early) = &mut *self.early.borrow_mut()
            && !matches!(stamped.event, Event::Listening { .. })
        {
            early.push(stamped.clone());
            return;
        }
        self.print(stamped);
        let early = self.early.take();
        early.iter().flatten().for_each(|stamped| self.print(stamped));
    }

    fn print(&self, stamped: &Stamped) {
        let line = if self.json {
            serde_json::to_string(stamped).ok()
        } else {
            self.line(stamped)
        };
        if let Some(line) = line {
            self.out.line(line);
        }
    }

    pub(crate) fn proposal(&self, action: Action, by: &str, trigger: Option<&str>, detail: &str) {
        self.event(Event::Proposal {
            action: action.to_string(),
            by: by.to_owned(),
            trigger: trigger.map(str::to_owned),
            detail: detail.to_owned(),
        });
    }

    pub(crate) fn verdict(&self, decision: &Decision, place: &str) {
        self.event(Event::Verdict(verdict::verdict(decision, place)));
    }

    pub(crate) fn error(&self, code: &str, message: &str) {
        self.event(Event::Error {
            code: code.to_owned(),
            message: message.to_owned(),
        });
    }

    /// Prints what is wrong with a definition.
    pub(crate) fn report(&self, report: &Report) {
        let style = suijuris_bundle::Style {
            colour: self.colour && std::io::stderr().is_terminal(),
            ..suijuris_bundle::Style::PLAIN
        };
        let _ = write!(std::io::stderr(), "{}", report.render(style));
    }

    /// Whether scripts read.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line as it is.
    pub(crate) fn raw(&self, line: String) {
        self.out.line(line);
    }

    /// Prints an event of one object among many.
    pub(crate) fn labelled(&self, label: &str, stamped: &Stamped) {
        if let Some((colour, word, text)) = words(&stamped.event) {
            let clock = stamped.at.get(11..23).unwrap_or(&stamped.at);
            self.out.line(if self.colour {
                format!("\x1b[2m{clock}\x1b[0m  {label:<16} \x1b[{colour}m{word:<10}\x1b[0m {text}")
            } else {
                format!("{clock}  {label:<16} {word:<10} {text}")
            });
        }
    }

    fn line(&self, stamped: &Stamped) -> Option<String> {
        let (colour, word, text) = words(&stamped.event)?;
        let clock = stamped.at.get(11..23).unwrap_or(&stamped.at);
        Some(if self.colour {
            format!("\x1b[2m{clock}\x1b[0m  \x1b[{colour}m{word:<10}\x1b[0m {text}")
        } else {
            format!("{clock}  {word:<10} {text}")
        })
    }
}

impl Drop for EventPrinter {
    /// What ends before it listens says why.
    fn drop(&mut self) {
        let early = self.early.take();
        early.iter().flatten().for_each(|stamped| self.print(stamped));
    }
}

impl EventSink for EventPrinter {
    fn event(&self, _origin: &Origin, event: Stamped) {
        self.stamped(&event);
    }
}

const PLAIN: &str = "0";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const BLUE: &str = "34";
const DIM: &str = "2";

/// Colour, word and text of an event; `None` for what people need not see.
fn words(event: &Event) -> Option<(&'static str, &'static str, String)> {
    Some(match event {
        Event::Listening {
            url,
            object,
            name,
            machine,
            agent_socket,
            ..
        } => {
            let text = format!(
                "{url}\n{:>13}object     {name} {object}\n{:>13}machine    {machine}\n{:>13}agent      {agent_socket}\n{:>13}Ctrl-C     puts it to sleep and ends",
                "", "", "", ""
            );
            (BLUE, "listening", text)
        }
        Event::Proposal {
            action,
            by,
            trigger,
            detail,
        } => {
            let trigger = trigger
                .as_deref()
                .map(|trigger| {
                    if trigger == "manual" {
                        " by hand".to_owned()
                    } else {
                        format!(" on {trigger}")
                    }
                })
                .unwrap_or_default();
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(": {detail}")
            };
            (PLAIN, "proposal", format!("{action} by {by}{trigger}{detail}"))
        }
        Event::Verdict(verdict) => verdict_words(verdict),
        Event::Woke { epoch, seq } => (GREEN, "woke", format!("epoch {epoch}, record {seq}")),
        Event::Resumed {
            epoch,
            seq,
            paused_ms,
        } => (
            GREEN,
            "resumed",
            format!("epoch {epoch}, record {seq}, stood still for {paused_ms} ms"),
        ),
        Event::Dormant { seq, reason } => (BLUE, "dormant", format!("record {seq}: {reason}")),
        Event::Refused {
            action,
            reason,
            reasons,
            times,
            evidence,
            ..
        } => {
            let why = evidence
                .as_ref()
                .map_or_else(String::new, |_| format!("{reason}: "));
            let times = if *times == 1 {
                String::new()
            } else {
                format!(", {times} times")
            };
            (
                RED,
                "refused",
                format!("{action}{times}: {why}{}", reasons.join("; ")),
            )
        }
        Event::Mutated { fields, by, seq } => (
            PLAIN,
            "memory",
            format!("{} by {by}, record {seq}", fields.join(", ")),
        ),
        Event::Workload {
            state,
            pid,
            how,
            took_ms,
        } => {
            let pid = pid.map(|pid| format!(" pid {pid}")).unwrap_or_default();
            let took = took_ms.map(|ms| format!(" after {ms} ms")).unwrap_or_default();
            let how = if how.is_empty() {
                String::new()
            } else {
                format!(": {how}")
            };
            (PLAIN, "workload", format!("{state}{pid}{took}{how}"))
        }
        // The workload is a stranger: its bytes do nothing to a terminal.
        Event::Output { line } => (DIM, "  |", crate::terminal::clean(line)),
        Event::Machine { state, detail } => {
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(" ({detail})")
            };
            (DIM, "machine", format!("{state}{detail}"))
        }
        Event::Boot { .. } => return None,
        Event::Error { code, message } => (RED, "error", format!("{message} [{code}]")),
    })
}

fn verdict_words(verdict: &Verdict) -> (&'static str, &'static str, String) {
    let (colour, word) = if verdict.outcome == "permit" {
        (GREEN, "permit")
    } else {
        (YELLOW, "refuse")
    };
    let rules = if verdict.rules.is_empty() {
        String::new()
    } else {
        format!(" by {}", verdict.rules.join(", "))
    };
    let reasons = if verdict.reasons.is_empty() {
        String::new()
    } else {
        format!(": {}", verdict.reasons.join("; "))
    };
    (
        colour,
        word,
        format!("{} ({}){rules}{reasons}", verdict.action, verdict.place),
    )
}
