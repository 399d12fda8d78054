//! What workload and owner ask of the resident object besides memory: how it is, to sleep, a token; and its process.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use suijuris_api::agent::{Status, Token};
use suijuris_api::{Event, Problem, event};
use suijuris_core::decide::Verdict;
use suijuris_core::governance::{Action, TriggerKind};
use suijuris_core::inputs::Principal;
use suijuris_core::lifecycle::{self, Phase};
use suijuris_core::manifest::Protocol;
use suijuris_core::time::Span;
use suijuris_words::verdict;
use tokio::sync::watch;

use super::Resident;

/// Length of an identity token at most: what other objects take.
const MAX_TOKEN: Duration = Duration::from_millis(suijuris_auth::MAX_LIFE.0.unsigned_abs());

/// What is known of the workload of this activation.
#[derive(Debug, Default)]
pub(super) struct WorkloadAccount {
    /// It wrote memory or acknowledged messages.
    acted: Cell<bool>,
    failed: Cell<bool>,
}

impl Resident {
    /// What a status says beside the state: the phase in a word, and the milliseconds that holds have left.
    pub(super) fn phase_and_holds(&self) -> (&'static str, BTreeMap<String, u64>) {
        let phase = match self.phase.get() {
            Phase::Dormant | Phase::Suspended => "dormant",
            Phase::Waking => "waking",
            Phase::Active => "active",
            Phase::Resuming => "resuming",
            Phase::Draining | Phase::Left => "draining",
        };
        (phase, crate::agent::holds_left(self.holds.left(Instant::now())))
    }

    /// How the object is.
    #[must_use]
    pub fn status(&self) -> Status {
        let (phase, holds) = self.phase_and_holds();
        self.lineage
            .published(|state| suijuris_words::memory::status(state, phase, holds))
    }

    /// The workload says that it can serve.
    pub fn workload_says_ready(&self) {
        self.workload_ready.send_replace(true);
    }

    /// Turns true when the workload has said that it can serve.
    #[must_use]
    pub fn workload_ready(&self) -> watch::Receiver<bool> {
        self.workload_ready.subscribe()
    }

    /// The workload goes on that could serve before.
    pub fn workload_was_ready(&self) {
        self.workload_ready.send_replace(true);
    }

    /// The workload runs as this process.
    pub fn workload_runs(&self, pid: i32) {
        self.workload_pid.set(Some(pid));
    }

    /// Process of the workload.
    #[must_use]
    pub fn workload_pid(&self) -> Option<i32> {
        self.workload_pid.get()
    }

    /// The workload wrote memory or acknowledged messages.
    pub fn workload_acted(&self) {
        self.workload.acted.set(true);
    }

    /// Whether anything has come of this activation: a caller had an answer, the workload wrote or acknowledged something,
    /// or it is awake for a timer, which need not show.
    #[must_use]
    pub fn has_been_of_use(&self) -> bool {
        let whole = self.bundle.manifest.gate.protocol == Protocol::FdPassing;
        let served = self.traffic.bytes_out() > 0 || (whole && self.traffic.requests() > 0);
        served || self.workload.acted.get() || self.cause.borrow().trigger.kind == TriggerKind::Timer
    }

    /// The workload crashed, never became ready, or ended before anything came of it.
    pub fn workload_failed(&self) {
        self.workload.failed.set(true);
    }

    /// Whether [`Resident::workload_failed`] was said.
    #[must_use]
    pub fn has_workload_failed(&self) -> bool {
        self.workload.failed.get()
    }

    /// Passes a signal on that is meant for the workload.
    pub fn forward_signal(&self, number: i32) {
        if let Some(pid) = self.workload_pid.get() {
            // A workload that has just ended needs no signal.
            let _ = suijuris_sys::kill(-pid, number);
        }
    }

    /// Decides a proposal to sleep and, if permitted, begins it.
    ///
    /// # Errors
    /// The refusal.
    pub fn propose_sleep(&self, by: Principal) -> Result<event::Verdict, Problem> {
        self.reports.event(Event::Proposal {
            action: Action::Sleep.to_string(),
            by: by.as_str().to_owned(),
            trigger: None,
            detail: String::new(),
        });
        let verdict = self.decide(Action::Sleep, self.busy_inputs(by));
        let words = verdict::verdict(verdict.decision(), "runtime");
        self.reports.event(Event::Verdict(words.clone()));
        match verdict {
            Verdict::Permit(permit, decision) => {
                self.say(lifecycle::Event::Permitted(permit, decision));
                Ok(words)
            }
            Verdict::Refuse(decision) => {
                let problem = verdict::problem(&decision, &self.id);
                self.refused(&decision);
                Err(problem)
            }
        }
    }

    /// An identity token: a JWT by the epoch's key.
    ///
    /// # Errors
    /// When the length is out of range, or no epoch runs.
    pub fn identity_token(&self, audience: &str, length: Duration) -> Result<Token, Problem> {
        if audience.is_empty() || audience.len() > 1_024 || length.is_zero() || length > MAX_TOKEN {
            return Err(
                Problem::new(422, "bad_token_request", "This token cannot be issued")
                    .with_detail("name an audience of 1 to 1024 characters and a duration from 1ms to 5m"),
            );
        }
        let length = Span(i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
        let (now, expires) = (self.now().at, self.now().at.saturating_add(length));
        let claims = self.lineage.published(|state| {
            serde_json::json!({
                "iss": self.id, "sub": self.id, "aud": audience, "iat": now.0 / 1_000, "exp": expires.0 / 1_000,
                "name": state.head().name, "epoch": state.head().epoch, "head": state.head().record.to_string(),
            })
        });
        let token = self.lineage.sign_token(&claims).ok_or_else(|| {
            Problem::new(409, "no_epoch", "No activation runs")
                .with_detail("try again once the object is awake")
        })?;
        Ok(Token {
            token,
            expires: expires.to_string(),
        })
    }
}
