//! Sessions of READMEs: what they say to type, and what they show.

/// A command and the lines it is said to answer with, in order; `…` stands for anything, alone for any lines.
pub(crate) struct Exchange {
    pub(crate) command: String,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn exchanges(readme: &str) -> Vec<Exchange> {
    let blocks = readme
        .split("```console\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => exchanges.push(Exchange {
                command: command.to_owned(),
                lines: Vec::new(),
            }),
            None => exchanges
                .last_mut()
                .expect("a command comes first")
                .lines
                .push(line.to_owned()),
        }
    }
    exchanges
}

/// Whether `line` has the parts of `pattern` between its `…`, in order.
fn fits(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || pattern.ends_with('…')
}

pub(crate) fn check(exchange: &Exchange, output: &str) {
    let mut lines = output.lines();
    for pattern in exchange.lines.iter().filter(|pattern| *pattern != "…") {
        let found = lines.any(|line| fits(line, pattern));
        assert!(
            found,
            "$ {}\nhas no line `{pattern}` where it should:\n{output}",
            exchange.command
        );
    }
}

#[test]
fn patterns_fit_what_they_mean() {
    assert!(fits("a b c", "a … c") && fits("a b c", "a…") && fits("a b c", "…b…") && fits("abc", "abc"));
    assert!(!fits("a b c", "a b") && !fits("a b c", "b…") && !fits("a b c", "a … d"));
}
