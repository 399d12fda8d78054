//! Signals by name or number, as the API takes them, and how a machine is stopped unless its config says otherwise.

use nix::sys::signal::Signal;

/// What a stop begins with: SIGINT, as Fly's API and `fly.toml` have it.
pub(crate) const DEFAULT: i32 = Signal::SIGINT as i32;
/// How long a stop may take before everything is killed.
pub(crate) const DEFAULT_BUDGET_MS: u64 = 5_000;
/// What a signal is.
pub(crate) const ADVICE: &str = "a signal is a name as SIGTERM or a number from 1 to 64";

/// The number of a signal, from `SIGTERM`, `TERM`, `term` or `15`.
pub(crate) fn named(text: &str) -> Option<i32> {
    let number = match text.parse::<i32>() {
        Ok(number) => number,
        Err(_) => {
            let upper = text.to_ascii_uppercase();
            let full = if upper.starts_with("SIG") {
                upper
            } else {
                format!("SIG{upper}")
            };
            full.parse::<Signal>().ok()? as i32
        }
    };
    (1..=64).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_signals() {
        for text in ["SIGTERM", "TERM", "sigterm", "15"] {
            assert_eq!(named(text), Some(15), "{text}");
        }
        for bad in ["", "SIG", "SIGFOO", "0", "65", "-9", "SIGSIGTERM"] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
