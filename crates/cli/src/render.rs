//! Decisions as people read them on a terminal: what `why` and `what-if` have in common.

use suijuris_api::event::Verdict;
use suijuris_api::history::{Explained, RuleText};

use crate::terminal::{Screen, Table, Tone, clean};

/// The first line about a decision.
pub(crate) fn headline(verdict: &Verdict, explained: &Explained, terminal: Screen) -> String {
    let word = match verdict.outcome.as_str() {
        "permit" => terminal.paint(Tone::Good, "permitted"),
        _ => terminal.paint(Tone::Bad, "denied"),
    };
    let (action, proposed) = (clean(&verdict.action), clean(&explained.proposed));
    format!("{word}: {action}, proposed by {proposed}\n")
}

/// Everything that led to a decision but memory, indented.
pub(crate) fn grounds(explained: &Explained) -> String {
    let mut text: String = explained
        .grounds
        .iter()
        .map(|ground| format!("  {}\n", clean(ground)))
        .collect();
    let mut table = Table::default();
    for fact in &explained.facts {
        table.row([&fact.name, &fact.text]);
    }
    text += &format!("\nfacts\n{}", table.text(2));
    text
}

/// The rules that decided, as they are written.
pub(crate) fn rules_shown(rules: &[RuleText]) -> String {
    let mut text = String::new();
    for rule in rules {
        text += &format!("\ngovernance.cedar:{}  {}\n", rule.line, clean(&rule.id));
        for line in rule.text.lines() {
            text += &format!("  {}\n", clean(line));
        }
    }
    text
}
