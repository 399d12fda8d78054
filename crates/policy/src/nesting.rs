//! Bounds on how deep a text nests, checked before it is parsed: Cedar's parser and validator recurse as deep as their input
//! does, and a stack that overflows ends the process, with no error to tell.
//!
//! Brackets nest, and so do chains (`a && b && c`, `if … else if …`, `a.b.c`): each link is one level of the tree.

use crate::diagnostic::{Diagnostic, Severity};

/// Brackets within brackets at most.
const MAX_BRACKETS: usize = 100;

/// Operators of one rule at most, dots included.
const MAX_OPERATORS: usize = 2_048;

/// Stack for text within these bounds, bytes: some 100 KiB a level, which an unoptimised build may need. It is reserved and
/// not used by rules that people write.
const STACK_BYTES: usize = 256 << 20;

/// Whether `source` is within the bounds.
///
/// # Errors
/// The place at which it is not.
pub(crate) fn check(source: &str) -> Result<(), Box<Diagnostic>> {
    let mut depth = 0usize;
    let mut operators = 0usize;
    let bytes = source.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let mut width = 1;
        match byte {
            b'"' => width = string(bytes, at),
            b'/' if next == Some(b'/') => {
                width = bytes.iter().skip(at).take_while(|byte| **byte != b'\n').count();
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' => operators = 0,
            b'&' | b'|' | b'+' | b'-' | b'*' | b'.' | b'!' | b'<' | b'>' | b'=' => {
                operators += 1;
                // `&&`, `||` and what ends in `=` are one operator.
                width +=
                    usize::from(next == Some(b'=') || (next == Some(*byte) && matches!(byte, b'&' | b'|')));
            }
            byte if is_word(*byte) => {
                let word = bytes.iter().skip(at).take_while(|byte| is_word(**byte)).count();
                width = word.max(1);
                operators += usize::from(source.get(at..at + width) == Some("if"));
            }
            _ => {}
        }
        if depth > MAX_BRACKETS {
            let message = format!("brackets are nested more than {MAX_BRACKETS} deep");
            return Err(too_deep(message, at, "write the rule with fewer brackets"));
        }
        if operators > MAX_OPERATORS {
            let message = format!("a rule has more than {MAX_OPERATORS} operators");
            let help = "divide it into several rules, or compare with a set: [\"a\", \"b\"].contains(…)";
            return Err(too_deep(message, at, help));
        }
        at += width;
    }
    Ok(())
}

fn too_deep(message: String, at: usize, help: &str) -> Box<Diagnostic> {
    let fault = Diagnostic::new(Severity::Error, "rules.too_deep", message);
    Box::new(fault.at(at, at + 1, None).help(help))
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Length of the text in quotes that begins at `start`; to the end where it has none.
fn string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            None => return bytes.len() - start,
            Some(b'"') => return at + 1 - start,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Runs `work` where there is room for text within the bounds.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let worker = thread.spawn_scoped(scope, work)?;
        match worker.join() {
            Ok(done) => Ok(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_texts_and_comments_do_not_nest() {
        let many = "(".repeat(1_000);
        for fine in [
            format!("\"{many}\""),
            format!("\"\\\"{many}\""),
            format!("// {many}\n"),
            "()".repeat(1_000),
            "a.b;".repeat(10_000),
            format!("\"{many}"),
            "\"\\".to_owned(),
        ] {
            assert!(check(&fine).is_ok(), "{fine}");
        }
        for deep in [
            many.clone(),
            format!("\"\"{many}"),
            "[".repeat(101),
            "a.".repeat(5_000),
            "if ".repeat(5_000),
        ] {
            assert_eq!(check(&deep).unwrap_err().code, "rules.too_deep");
        }
    }
}
