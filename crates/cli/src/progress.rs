//! A bar on standard error for what takes longer than a second, on a terminal only.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes less needs no bar.
const QUIET: Duration = Duration::from_secs(1);

/// Steps from one look at the clock to the next.
const STRIDE: u64 = 256;

/// Counts records that are gone through; the bar goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// A bar for `total` records, where that is known, that are being `done` ("verified").
    pub(crate) fn of(total: Option<u64>, done: &'static str) -> Self {
        let template = match total {
            Some(_) => format!("{{bar:30}} {{pos}} of {{len}} records {done}, {{eta}} left"),
            None => format!("{{spinner}} {{pos}} records {done}, {{per_sec}}"),
        };
        let style =
            ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_style(style);
        Self {
            bar,
            started: Instant::now(),
        }
    }

    /// A bar for bytes that are being `done` ("pushed").
    pub(crate) fn bytes(done: &'static str) -> Self {
        let progress = Self::of(None, done);
        let template = format!("{{bar:30}} {{bytes}} of {{total_bytes}} {done}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            progress.bar.set_style(style);
        }
        progress
    }

    /// So many bytes of so many are done.
    pub(crate) fn bytes_at(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.show(done);
    }

    /// So many are done.
    pub(crate) fn at(&self, records: u64) {
        if !records.is_multiple_of(STRIDE) {
            return;
        }
        self.show(records);
    }

    fn show(&self, done: u64) {
        if self.bar.is_hidden() && self.started.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
