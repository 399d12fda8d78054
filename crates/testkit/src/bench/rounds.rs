//! Rounds in which each contender runs once, so that a slow minute of the machine hits all of them.

/// One of the things compared. `run` performs one round and returns its figure (time, rate, count): the same unit for all.
pub struct Contender<'a> {
    /// Name in the report.
    pub name: &'a str,
    /// One round.
    pub run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender called `name`.
    pub fn new(name: &'a str, run: impl FnMut() -> f64 + 'a) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }
}

/// The figures of one contender, in order of size.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// Name of the contender.
    pub name: String,
    sorted: Vec<f64>,
}

impl Samples {
    fn new(name: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            name: name.to_owned(),
            sorted: values,
        }
    }

    /// The middle figure; NaN where there is none.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at(50)
    }

    /// Figure below which `percent` of the others lie; NaN where there is none.
    #[must_use]
    pub fn at(&self, percent: usize) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted
            .get(last * percent.min(100) / 100)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// Distance between the quartiles as a share of the median: how much a difference between two contenders must exceed to mean anything.
    #[must_use]
    pub fn spread(&self) -> f64 {
        (self.at(75) - self.at(25)) / self.median()
    }
}

/// Runs every contender once unmeasured, then `rounds` times in turn; who begins changes from round to round.
pub fn interleave(rounds: usize, contenders: &mut [Contender<'_>]) -> Vec<Samples> {
    let mut each: Vec<(&str, Round<'_, 1>)> = contenders
        .iter_mut()
        .map(|Contender { name, run }| (*name, Box::new(move || [run()]) as Round<'_, 1>))
        .collect();
    let samples = interleave_many(rounds, &mut each);
    samples.into_iter().map(|[only]| only).collect()
}

/// One round of a contender that yields `N` figures.
pub type Round<'a, const N: usize> = Box<dyn FnMut() -> [f64; N] + 'a>;

/// As [`interleave`], for contenders whose rounds yield several figures each.
pub fn interleave_many<const N: usize>(
    rounds: usize,
    contenders: &mut [(&str, Round<'_, N>)],
) -> Vec<[Samples; N]> {
    let mut values = vec![Vec::with_capacity(rounds); contenders.len()];
    let count = contenders.len().max(1);
    for (_, run) in contenders.iter_mut() {
        run();
    }
    for round in 0..rounds {
        let order = (0..contenders.len()).map(|place| (place + round) % count);
        for index in order {
            if let (Some((_, run)), Some(values)) = (contenders.get_mut(index), values.get_mut(index)) {
                values.push(run());
            }
        }
    }
    let figures = |name: &str, values: &[[f64; N]]| {
        std::array::from_fn(|figure| {
            let of_round = |all: &[f64; N]| all.get(figure).copied().unwrap_or(f64::NAN);
            Samples::new(name, values.iter().map(of_round).collect())
        })
    };
    contenders
        .iter()
        .zip(values)
        .map(|((name, _), values)| figures(name, &values))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn rounds_alternate_who_begins_and_the_first_is_unmeasured() {
        let order = RefCell::new(String::new());
        let note = |name: char, figure: f64| {
            order.borrow_mut().push(name);
            figure
        };
        let mut contenders = [
            Contender::new("a", || note('a', 1.0)),
            Contender::new("b", || note('b', 2.0)),
        ];
        let samples = interleave(2, &mut contenders);
        assert_eq!(*order.borrow(), "ababba");
        assert_eq!(
            samples.iter().map(Samples::median).collect::<Vec<_>>(),
            [1.0, 2.0]
        );
    }

    #[test]
    fn medians_and_quantiles_do_not_depend_on_order() {
        let samples = Samples::new("x", vec![9.0, 1.0, 5.0, 3.0, 7.0]);
        assert_eq!(
            (samples.at(0), samples.median(), samples.at(100)),
            (1.0, 5.0, 9.0)
        );
        assert_eq!(samples.spread(), 0.8);
        assert!(Samples::new("none", vec![]).median().is_nan());
    }
}
