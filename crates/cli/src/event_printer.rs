//! What `up` prints: a live stream for people, or one JSON event a line. A thread of its own writes, so that a terminal that
//! does not move, or a reader that does not read, stops nothing but the printing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};

use suijuris_api::Event;
use suijuris_api::event::{ChangedDecision, Stamped, Verdict};
use suijuris_bundle::Report;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Decision;
use suijuris_supervisor::events::{EventSink, Origin};
use suijuris_words::verdict;

use crate::line_writer::{LineWriter, Place, lost_words};
use crate::terminal;

/// Prints events.
#[derive(Debug)]
pub(crate) struct EventPrinter {
    json: bool,
    /// Only troubles, beside the output of another command.
    aside: bool,
    colour: bool,
    /// Width of the terminal, where it is one.
    columns: Option<usize>,
    /// What happened before `listening`, which scripts read first.
    early: RefCell<Option<Vec<Stamped>>>,
    /// Labels of objects that fall asleep: their workloads end because they are asked to.
    falling_asleep: RefCell<BTreeSet<String>>,
    out: LineWriter,
}

impl EventPrinter {
    /// For a command that is not `up`: troubles are noted on standard error, all else is its own affair.
    pub(crate) fn aside() -> Self {
        Self {
            json: false,
            aside: true,
            colour: false,
            columns: None,
            early: RefCell::new(None),
            falling_asleep: RefCell::default(),
            out: LineWriter::new(Place::Output, lost_words),
        }
    }

    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            aside: false,
            early: RefCell::new(json.then(Vec::new)),
            falling_asleep: RefCell::default(),
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            columns: terminal::columns(),
            out: LineWriter::new(Place::Output, if json { lost_event } else { lost_words }),
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
                terminal::note(message);
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
        if let Some(line) = self.words(label, &stamped.event) {
            self.out
                .line(self.laid_out(stamped, &format!("{label:<16} "), &line));
        }
    }

    fn line(&self, stamped: &Stamped) -> Option<String> {
        let line = self.words("", &stamped.event)?;
        Some(self.laid_out(stamped, "", &line))
    }

    fn words(&self, label: &str, event: &Event) -> Option<Line> {
        let mut falling_asleep = self.falling_asleep.borrow_mut();
        match event {
            Event::Verdict(verdict) if begins_sleep(verdict) => {
                falling_asleep.insert(label.to_owned());
            }
            Event::Woke { .. } | Event::Resumed { .. } | Event::Dormant { .. } | Event::Terminated { .. } => {
                falling_asleep.remove(label);
            }
            Event::Workload { how, .. } if was_asked(how) && falling_asleep.contains(label) => {
                return words(&stopped_on_request(event));
            }
            _ => {}
        }
        words(event)
    }

    fn laid_out(&self, stamped: &Stamped, label: &str, line: &Line) -> String {
        // With its zone: `00:37:51.241Z`.
        let clock = stamped.at.get(11..24).unwrap_or(&stamped.at);
        let Line { colour, word, text } = line;
        let before = clock.len() + 2 + label.chars().count() + word.chars().count().max(10) + 1;
        let text = match self.columns {
            Some(columns) => &terminal::wrapped(text, before, columns, before),
            None => text,
        };
        if self.colour {
            format!("\x1b[2m{clock}\x1b[0m  {label}\x1b[{colour}m{word:<10}\x1b[0m {text}")
        } else {
            format!("{clock}  {label}{word:<10} {text}")
        }
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

/// The code of what stands in the place of events that nobody read in time.
const CODE_DROPPED: &str = "events_dropped";

/// For scripts: so many lines were dropped.
pub(crate) fn lost_event(lines: u64) -> String {
    let event = Event::Error {
        code: CODE_DROPPED.to_owned(),
        message: format!("{lines} lines were dropped: the reader was too slow"),
    };
    let at = format!("{:.3}", jiff::Timestamp::now());
    serde_json::to_string(&Stamped { at, event }).unwrap_or_default()
}

const PLAIN: &str = "0";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const BLUE: &str = "34";
const DIM: &str = "2";

/// A line for people: a word in a colour, and a text.
struct Line {
    colour: &'static str,
    word: &'static str,
    text: String,
}

/// The line of an event; `None` for what people need not see.
fn words(event: &Event) -> Option<Line> {
    let line = |colour, word, text| Some(Line { colour, word, text });
    match event {
        Event::Listening {
            url,
            object,
            name,
            machine,
            agent_socket,
            ..
        } => {
            let text = format!(
                "{url}\n{:>14}object     {name} {object}\n{:>14}machine    {machine}\n{:>14}agent      {agent_socket}\n{:>14}Ctrl-C     puts it to sleep and ends",
                "", "", "", ""
            );
            line(BLUE, "listening", text)
        }
        Event::Proposal {
            action,
            by,
            trigger,
            detail,
        } => line(
            PLAIN,
            "proposal",
            proposal(action, by, trigger.as_deref(), detail),
        ),
        Event::Verdict(verdict) => verdict_words(verdict),
        Event::Woke { epoch, seq } => line(GREEN, "woke", format!("epoch {epoch}, record {seq}")),
        Event::Resumed {
            epoch,
            seq,
            paused_ms,
        } => {
            let suspended = took(u64::try_from(*paused_ms).unwrap_or(0));
            let text = format!("epoch {epoch}, record {seq}, suspended for {suspended}");
            line(GREEN, "resumed", text)
        }
        Event::Dormant { reason, cut: 0, .. } => line(BLUE, "sleep", reason.clone()),
        Event::Dormant { reason, cut, .. } => {
            let connections = if *cut == 1 { "connection" } else { "connections" };
            line(BLUE, "sleep", format!("{reason}; {cut} {connections} cut"))
        }
        Event::Terminated { seq } => line(YELLOW, "ended", format!("for good, record {seq}")),
        Event::Departed { seq, to } => {
            let to = terminal::clean(to);
            line(YELLOW, "departed", format!("to {to}, record {seq}"))
        }
        Event::Arrived { seq } => line(GREEN, "arrived", format!("record {seq}")),
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
            let text = format!("{action}{times}: {why}{}", reasons.join("; "));
            line(RED, "denied", text)
        }
        Event::Mutated { fields, by, seq } => {
            let (fields, by) = (fields.join(", "), verdict::person(by));
            line(PLAIN, "memory", format!("{fields} by {by}, record {seq}"))
        }
        Event::Workload {
            state,
            pid,
            how,
            took_ms,
        } => line(PLAIN, "workload", workload(state, *pid, how, *took_ms)),
        // The workload is a stranger: its bytes do nothing to a terminal.
        Event::Output { line: output } => line(DIM, "  |", terminal::clean(output)),
        Event::Machine { state, detail } if detail.is_empty() => line(DIM, "machine", state.clone()),
        Event::Machine { state, detail } => line(DIM, "machine", format!("{state} ({detail})")),
        Event::Boot { .. } => None,
        Event::Definition {
            state,
            bundle,
            judged,
            would_change,
            changed,
        } => line(
            BLUE,
            "definition",
            definition(state, bundle, (*judged, *would_change), changed),
        ),
        Event::Error { code, message } => line(RED, "error", format!("{message} [{code}]")),
    }
}

/// `changed: 12 recorded decisions replayed, 3 would change`, and those.
fn definition(
    state: &str,
    bundle: &str,
    (judged, changes): (u64, u64),
    changed: &[ChangedDecision],
) -> String {
    if state == "in_force" {
        return format!("in force, bundle {bundle}");
    }
    let mut text = format!(
        "{state}: {} replayed, {changes} would change",
        terminal::count(judged, "recorded decision")
    );
    for one in changed {
        let times = if one.times > 1 {
            format!(", {} times", one.times)
        } else {
            String::new()
        };
        let reasons = terminal::clean(&one.reasons.join("; "));
        text += &format!(
            "\n{:>14}record {:<6} {}: {} → {}{times}  {reasons}",
            "", one.seq, one.action, one.was, one.would_be
        );
    }
    text
}

/// `caller requested wake: GET /`, `timer requested wake: nightly`, `owner requested sleep`.
fn proposal(action: &str, by: &str, trigger: Option<&str>, detail: &str) -> String {
    let by = verdict::person(by);
    // What made them is plain from who they are, mostly.
    let trigger = match trigger {
        Some(trigger @ ("message" | "memory" | "boot")) => format!(" on {trigger}"),
        _ => String::new(),
    };
    let detail = if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    };
    format!("{by} requested {action}{trigger}{detail}")
}

/// `started, pid 12`, `ready, pid 12, after 210 ms`, `exited 0, pid 12, after 5.0 s`.
fn workload(state: &str, pid: Option<u32>, how: &str, took_ms: Option<u64>) -> String {
    let what = match (state, how) {
        ("spawned", _) => "started",
        (state, "") => state,
        (_, how) => how,
    };
    let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let after = took_ms
        .map(|ms| format!(", after {}", took(ms)))
        .unwrap_or_default();
    format!("{what}{pid}{after}")
}

/// `210 ms`, `5.0 s`.
fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
    }
}

/// Whether a workload that was falling asleep ended by the signal that asked it to, and not by SIGKILL later.
fn was_asked(how: &str) -> bool {
    how.starts_with("killed by signal ") && how != "killed by signal 9"
}

/// The same end of a workload that was asked to end.
fn stopped_on_request(event: &Event) -> Event {
    let mut event = event.clone();
    if let Event::Workload { how, .. } = &mut event {
        "stopped on request".clone_into(how);
    }
    event
}

/// Whether the object falls asleep by this answer.
fn begins_sleep(verdict: &Verdict) -> bool {
    match verdict.action.as_str() {
        "sleep" => verdict.outcome == "permit",
        "remain" => verdict.outcome == "refuse" && verdict.invariant.is_none(),
        _ => false,
    }
}

fn verdict_words(verdict: &Verdict) -> Option<Line> {
    let permitted = verdict.outcome == "permit";
    if !permitted && verdict.action == "remain" {
        // The object falls asleep, and the line about that says why.
        return None;
    }
    let reasons = verdict.reasons.join("; ");
    let place = &verdict.place;
    let text = if verdict.rules.is_empty() && !reasons.is_empty() {
        format!("{reasons} ({place})")
    } else {
        let rules = if verdict.rules.is_empty() {
            String::new()
        } else {
            format!(" by {}", verdict.rules.join(", "))
        };
        let reasons = if reasons.is_empty() {
            reasons
        } else {
            format!(": {reasons}")
        };
        format!("{} ({place}){rules}{reasons}", verdict.action)
    };
    let (colour, word) = if permitted {
        (GREEN, "permitted")
    } else {
        (YELLOW, "denied")
    };
    Some(Line { colour, word, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line without its clock.
    fn line(printer: &EventPrinter, event: Event) -> Option<String> {
        let at = "2026-11-24T00:37:51.241Z".to_owned();
        let line = printer.line(&Stamped { at, event })?;
        Some(line.strip_prefix("00:37:51.241Z  ").unwrap().to_owned())
    }

    fn verdict(action: &str, outcome: &str, reason: &str) -> Event {
        Event::Verdict(Verdict {
            action: action.to_owned(),
            outcome: outcome.to_owned(),
            rules: Vec::new(),
            reasons: vec![reason.to_owned()],
            invariant: None,
            retry_after: None,
            place: "runtime".to_owned(),
        })
    }

    fn exited() -> Event {
        Event::Workload {
            state: "exited".to_owned(),
            pid: Some(12),
            how: "killed by signal 15".to_owned(),
            took_ms: Some(5_012),
        }
    }

    #[test]
    fn a_nap_is_one_calm_line() {
        let printer = EventPrinter::new(false);
        let why = "no rule permits remain; closest is stay, which failed at `context.activity.idle < duration(\"2s\")`";
        assert_eq!(line(&printer, verdict("remain", "refuse", why)), None);
        assert_eq!(
            line(&printer, exited()).as_deref(),
            Some("workload   stopped on request, pid 12, after 5.0 s")
        );
        let dormant = Event::Dormant {
            seq: 4,
            reason: "idle 2.0 s (stay no longer holds)".to_owned(),
            cut: 0,
        };
        assert_eq!(
            line(&printer, dormant).as_deref(),
            Some("sleep      idle 2.0 s (stay no longer holds)")
        );
    }

    #[test]
    fn a_workload_that_dies_by_itself_was_not_asked_to() {
        let printer = EventPrinter::new(false);
        let killed = Some("workload   killed by signal 15, pid 12, after 5.0 s".to_owned());
        assert_eq!(line(&printer, exited()), killed);
        line(&printer, verdict("sleep", "permit", ""));
        line(&printer, Event::Woke { epoch: 2, seq: 7 });
        assert_eq!(line(&printer, exited()), killed, "that was the activation before");
    }

    #[test]
    fn people_read_owner_and_what_was_requested() {
        let printer = EventPrinter::new(false);
        let proposal = Event::Proposal {
            action: "sleep".to_owned(),
            by: "controller".to_owned(),
            trigger: Some("manual".to_owned()),
            detail: String::new(),
        };
        assert_eq!(
            line(&printer, proposal).as_deref(),
            Some("proposal   owner requested sleep")
        );
    }
}
