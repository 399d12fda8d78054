//! For how long a judgement stays the same while nothing happens but that time passes.
//!
//! Lengths of time that an action's rules compare grow with the clock: `now`, the time idle, active and awake. Each is
//! followed as a line through the sums and differences that it goes into, and the first comparison that such a line
//! crosses says when to judge again. Freshness is not followed here: memory knows its own deadlines.

use std::collections::BTreeMap;

use super::action::Action;
use super::eval::Eval;
use super::facts::Facts;
use super::node::{Const, Node, NodeId};
use super::program::Program;
use super::slot::Slot;
use crate::time::Span;

const DAY_MS: i64 = 86_400_000;

/// A number as it goes on from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    value: i64,
    /// Change in a millisecond.
    slope: i64,
    /// Milliseconds after which it is another line.
    breaks: Option<i64>,
}

fn sooner(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

impl Line {
    const fn level(value: i64) -> Self {
        Self {
            value,
            slope: 0,
            breaks: None,
        }
    }

    /// The first millisecond from now at which `value + slope * t` is above `most`; none where it never is, zero where it
    /// is now.
    fn above(self, most: i64) -> Option<i64> {
        let missing = most.checked_sub(self.value)?;
        match (missing < 0, self.slope > 0) {
            (true, _) => Some(0),
            (false, true) => (missing / self.slope).checked_add(1),
            (false, false) => None,
        }
    }

    fn negated(self) -> Option<Self> {
        Some(Self {
            value: self.value.checked_neg()?,
            slope: self.slope.checked_neg()?,
            breaks: self.breaks,
        })
    }

    fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            value: self.value.checked_add(other.value)?,
            slope: self.slope.checked_add(other.slope)?,
            breaks: sooner(self.breaks, other.breaks),
        })
    }

    /// The product; none where both change, which is no line.
    fn times(self, other: Self) -> Option<Self> {
        let (line, factor) = if self.slope == 0 {
            (other, self)
        } else {
            (self, other)
        };
        (factor.slope == 0).then_some(())?;
        Some(Self {
            value: line.value.checked_mul(factor.value)?,
            slope: line.slope.checked_mul(factor.value)?,
            breaks: sooner(line.breaks, factor.breaks),
        })
    }

    /// Divided towards zero: level until the next quotient.
    fn divided(self, by: i64) -> Option<Self> {
        let value = self.value.checked_div(by)?;
        let next = match self.slope.signum() {
            0 => None,
            1 if self.value >= 0 => self.above(value.checked_add(1)?.checked_mul(by)?.checked_sub(1)?),
            1 => self.above(value.checked_mul(by)?),
            // Downwards it is followed as its mirror image is upwards.
            _ => return self.negated()?.divided(by)?.negated(),
        };
        Some(Self {
            value,
            slope: 0,
            breaks: sooner(self.breaks, next),
        })
    }

    /// Until the next day begins.
    fn day_breaks(self) -> Option<i64> {
        match self.slope {
            0 => self.breaks,
            1 => sooner(self.breaks, Some(DAY_MS - self.value.rem_euclid(DAY_MS))),
            // No clock of ours.
            _ => Some(1),
        }
    }

    /// Milliseconds until `self <= 0` has another answer.
    fn crosses(self) -> Option<i64> {
        let change = match self.above(0) {
            Some(0) => self.negated().and_then(|line| line.above(-1)),
            later => later,
        };
        sooner(change, self.breaks)
    }
}

impl Program {
    /// For how long the judgement of `action` on `facts` is known to stay the same if time passes and nothing else
    /// happens: at least a millisecond; none where no comparison with a clock can change its answer. Where a time goes into
    /// anything but sums and comparisons (a set, a product with another time) it is not followed: ask again now and then all
    /// the same.
    #[must_use]
    pub fn steady_for(&self, action: Action, facts: &Facts<'_>) -> Option<Span> {
        let bodies = self.bodies(action, facts.principal.kind());
        let reached = self.reached(bodies.flat_map(|body| body.clauses.iter().map(|(node, _)| *node)));
        let mut lines = BTreeMap::new();
        let mut soonest = None;
        // Operands stand before what they are operands of.
        for (id, node) in reached {
            let gap = |a: &NodeId, b: &NodeId| lines.get(a).copied().zip(lines.get(b).copied());
            let difference = |a, b| {
                let (a, b): (Line, Line) = gap(a, b)?;
                a.plus(b.negated()?)
            };
            let change = match node {
                Node::AtMost(a, b) => difference(a, b).and_then(Line::crosses),
                // Of whole numbers, less than is at most one less.
                Node::Less(a, b) => difference(a, b)
                    .and_then(|line| line.plus(Line::level(1)))
                    .and_then(Line::crosses),
                Node::Equal(a, b) => difference(a, b).and_then(|line| {
                    let below = line.plus(Line::level(1)).and_then(Line::crosses);
                    sooner(line.crosses(), below)
                }),
                _ => None,
            };
            soonest = sooner(soonest, change);
            if let Some(line) = self.line(node, &lines, facts) {
                lines.insert(id, line);
            }
        }
        soonest.map(|ms| Span(ms.max(1)))
    }

    /// A number of the rules as it goes on, by those of its operands.
    fn line(&self, node: &Node, lines: &BTreeMap<NodeId, Line>, facts: &Facts<'_>) -> Option<Line> {
        let of = |id: &NodeId| lines.get(id).copied();
        match node {
            Node::Const(Const::Number(value)) => Some(Line::level(*value)),
            Node::Slot(slot) => {
                let grows = match slot {
                    Slot::Now | Slot::Active | Slot::Idle => true,
                    Slot::Awake => facts.object.lineage.awake_since.is_some(),
                    _ => false,
                };
                Some(Line {
                    value: slot.number(facts)?,
                    slope: i64::from(grows),
                    breaks: None,
                })
            }
            Node::Add(a, b) => of(a)?.plus(of(b)?),
            Node::Subtract(a, b) => of(a)?.plus(of(b)?.negated()?),
            Node::Multiply(a, b) => of(a)?.times(of(b)?),
            Node::Negate(a) => of(a)?.negated(),
            Node::Divide(a, by) => of(a)?.divided(*by),
            Node::StartOfDay(a) => {
                let line = of(a)?;
                let value = line.value.checked_sub(line.value.rem_euclid(DAY_MS))?;
                Some(Line {
                    value,
                    slope: 0,
                    breaks: line.day_breaks(),
                })
            }
            Node::TimeOfDay(a) => {
                let line = of(a)?;
                Some(Line {
                    value: line.value.rem_euclid(DAY_MS),
                    slope: line.slope,
                    breaks: line.day_breaks(),
                })
            }
            // When its test changes is found where the test is compared.
            Node::If(test, then, or) => {
                let linked = self.linked();
                let eval = Eval::new(&linked.nodes, &linked.fallible, facts);
                of(if eval.bool(*test).ok()? { then } else { or })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governance::{
        Activity, Body, Clause, Effect, Group, Host, Lineage, Listing, Object, Outcome, Principal,
        PrincipalKind, Rule, TextSpan,
    };
    use crate::memory::{Memory, Schema};
    use crate::time::{Now, Quality, Timestamp};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// One permit of `remain` by the workload, whose condition is the last of `nodes`.
    fn permitting(nodes: Vec<Node>) -> Program {
        let span = TextSpan { start: 0, end: 1 };
        let text = "x".to_owned();
        let last = NodeId::try_from(nodes.len() - 1).unwrap();
        Program::new(Listing {
            version: Listing::VERSION,
            rules: vec![Rule {
                id: "stay".to_owned(),
                effect: Effect::Permit,
                reason: None,
                retry_after: None,
                status: None,
                span,
                clauses: vec![Clause { span, text }],
            }],
            nodes,
            bodies: vec![Body {
                rule: 0,
                clauses: vec![(last, 0)],
            }],
            groups: vec![Group {
                action: Action::Remain,
                principal: PrincipalKind::Workload,
                bodies: vec![0],
            }],
        })
        .unwrap()
    }

    /// An object that is idle for `idle` ms, awake for `active` and asked at `now`, `later` ms on.
    fn at<R>((now, idle, active): (i64, i64, i64), later: i64, run: impl FnOnce(&Facts<'_>) -> R) -> R {
        let memory = Memory::new(Arc::new(Schema::try_from(BTreeMap::new()).unwrap()));
        let lineage = Lineage {
            awake: Span(7),
            awake_since: Some(Timestamp(now - active)),
            ..Lineage::default()
        };
        let object = Object {
            id: "o",
            name: "o",
            memory: &memory,
            lineage,
            instance: None,
        };
        let now = Now {
            at: Timestamp(now + later),
            quality: Quality::Host,
        };
        let mut facts = Facts::new(Principal::Workload, object, now, Host::default());
        facts.activity = Some(Activity {
            active: Span(active + later),
            idle: Span(idle + later),
            connections: 0,
            in_flight: 0,
        });
        run(&facts)
    }

    fn judged(program: &Program, start: (i64, i64, i64), later: i64) -> Outcome {
        at(start, later, |facts| program.judge(Action::Remain, facts).outcome)
    }

    fn steady(program: &Program, start: (i64, i64, i64)) -> Option<i64> {
        at(start, 0, |facts| {
            program.steady_for(Action::Remain, facts).map(|span| span.0)
        })
    }

    fn number(n: i64) -> Node {
        Node::Const(Const::Number(n))
    }

    #[test]
    fn a_rule_that_looks_at_the_time_idle_is_asked_again_when_it_turns() {
        let idle_below = |ms| permitting(vec![Node::Slot(Slot::Idle), number(ms), Node::Less(0, 1)]);
        assert_eq!(steady(&idle_below(20), (0, 0, 0)), Some(20));
        assert_eq!(steady(&idle_below(20), (0, 19, 500)), Some(1));
        assert_eq!(
            steady(&idle_below(20), (0, 20, 500)),
            None,
            "it never permits again by itself"
        );
        let held = permitting(vec![Node::Slot(Slot::Pending), number(3), Node::Less(0, 1)]);
        assert_eq!(steady(&held, (0, 0, 0)), None, "no clock turns it");
    }

    #[test]
    fn days_end_and_seconds_pass() {
        let morning = permitting(vec![
            Node::Slot(Slot::Now),
            Node::TimeOfDay(0),
            number(3_600_000),
            Node::Less(1, 2),
        ]);
        assert_eq!(steady(&morning, (3_599_000, 0, 0)), Some(1_000));
        assert_eq!(steady(&morning, (DAY_MS * 3 - 5, 0, 0)), Some(5));
        let seconds = permitting(vec![
            Node::Slot(Slot::Active),
            Node::Divide(0, 1_000),
            number(2),
            Node::AtMost(1, 2),
        ]);
        assert_eq!(steady(&seconds, (0, 0, 2_400)), Some(600));
        assert_eq!(
            steady(&seconds, (0, 0, 3_000)),
            Some(1_000),
            "the quotient moves, the answer does not"
        );
    }

    /// A number of rules, out of numbers before it.
    fn arithmetic(kind: u8, (a, b): (NodeId, NodeId), n: i64) -> Node {
        match kind % 12 {
            0 => Node::Slot(Slot::Now),
            1 => Node::Slot(Slot::Idle),
            2 => Node::Slot(Slot::Active),
            3 => Node::Slot(Slot::Awake),
            4 => number(n),
            5 => Node::Add(a, b),
            6 => Node::Subtract(a, b),
            7 => Node::Multiply(a, 1),
            8 => Node::Negate(a),
            9 => Node::Divide(a, n.unsigned_abs().cast_signed().max(1)),
            10 => Node::StartOfDay(a),
            _ => Node::TimeOfDay(a),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn nothing_turns_before_it_is_said_to(
            numbers in prop::collection::vec((any::<u8>(), any::<(u16, u16)>(), -90_i64..90), 1..8),
            (left, right, how) in any::<(u16, u16, u8)>(),
            from_midnight in -50_i64..50,
            (idle, active) in (0_i64..60, 0_i64..60),
        ) {
            let mut nodes = vec![Node::Slot(Slot::Idle), number(40)];
            let pick = |n: u16, len: usize| NodeId::try_from(usize::from(n) % len).unwrap();
            for (kind, (a, b), n) in numbers {
                let operands = (pick(a, nodes.len()), pick(b, nodes.len()));
                nodes.push(arithmetic(kind, operands, n));
            }
            let (a, b) = (pick(left, nodes.len()), pick(right, nodes.len()));
            nodes.push(match how % 3 {
                0 => Node::Less(a, b),
                1 => Node::AtMost(a, b),
                _ => Node::Equal(a, b),
            });
            let program = permitting(nodes);
            let start = (DAY_MS * 2 + from_midnight, idle, active);
            let now = judged(&program, start, 0);
            let watches = at(start, 0, |facts| program.judge(Action::Remain, facts).erring.is_empty());
            prop_assume!(watches);
            let steady = steady(&program, start).unwrap_or(200).min(200);
            for later in 0..steady {
                prop_assert_eq!(judged(&program, start, later), now, "turned {} ms early", steady - later);
            }
        }
    }
}
