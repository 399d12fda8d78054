//! How often somebody asked of objects that sleep, as far as this door refused it: what it lets through, their gates count.
//!
//! In memory alone. Of more objects, or more askers, than it has room for it forgets the object that was refused longest ago:
//! counting begins anew there, as rates may.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use suijuris_core::ObjectId;
use suijuris_core::memory::Name;
use suijuris_core::rates::{Asker, Rate, Rates};
use suijuris_core::time::Timestamp;

/// Objects that are counted for at one time.
const MAX_OBJECTS: usize = 1_000;

/// Askers told apart, of all objects together: some 20 MiB.
const MAX_ASKERS: usize = 200_000;

/// The rates of many objects.
#[derive(Debug, Default)]
pub(crate) struct RateTables(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    objects: HashMap<ObjectId, Counted>,
    askers: usize,
    turn: u64,
}

#[derive(Debug)]
struct Counted {
    declared: BTreeMap<Name, Rate>,
    rates: Rates,
    /// When it was counted last.
    turn: u64,
}

impl RateTables {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often `asker` asked of this object, whose bundle declares these rates, this time included; nothing is counted.
    pub(crate) fn next(
        &self,
        object: ObjectId,
        declared: &BTreeMap<Name, Rate>,
        asker: &Asker<'_>,
        now: Timestamp,
    ) -> BTreeMap<Name, i64> {
        if declared.is_empty() {
            return BTreeMap::new();
        }
        let tables = self.lock();
        match tables
            .objects
            .get(&object)
            .filter(|counted| counted.declared == *declared)
        {
            Some(Counted { rates, .. }) => rates.named(&rates.next(asker, now)),
            None => declared.keys().map(|name| (name.clone(), 1)).collect(),
        }
    }

    /// Counts what was refused.
    pub(crate) fn count(
        &self,
        object: ObjectId,
        declared: &BTreeMap<Name, Rate>,
        asker: &Asker<'_>,
        now: Timestamp,
    ) {
        if declared.is_empty() {
            return;
        }
        let mut tables = self.lock();
        tables.turn += 1;
        let turn = tables.turn;
        let mut counted = match tables.objects.remove(&object) {
            Some(counted) => {
                tables.askers -= counted.rates.askers();
                counted
            }
            None => Counted {
                declared: BTreeMap::new(),
                rates: Rates::default(),
                turn,
            },
        };
        if counted.declared != *declared {
            counted.declared.clone_from(declared);
            counted.rates = Rates::new(declared);
        }
        counted.rates.count(asker, now);
        counted.turn = turn;
        tables.askers += counted.rates.askers();
        tables.objects.insert(object, counted);
        tables.forget();
    }
}

impl Tables {
    fn forget(&mut self) {
        while self.objects.len() > 1 && (self.objects.len() > MAX_OBJECTS || self.askers > MAX_ASKERS) {
            let oldest = self.objects.iter().min_by_key(|(_, counted)| counted.turn);
            let Some(oldest) = oldest.map(|(object, _)| *object) else {
                return;
            };
            if let Some(counted) = self.objects.remove(&oldest) {
                self.askers -= counted.rates.askers();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use suijuris_core::id::Digest;
    use suijuris_core::rates::Per;
    use suijuris_core::time::Span;

    use super::*;

    fn object(number: usize) -> ObjectId {
        let mut bytes = [0; 32];
        bytes
            .iter_mut()
            .zip(number.to_be_bytes())
            .for_each(|(to, from)| *to = from);
        ObjectId::from_digest(Digest(bytes))
    }

    fn asker(number: u32) -> Asker<'static> {
        Asker {
            subject: None,
            issuer: None,
            peer: std::net::Ipv4Addr::from_bits(number).into(),
        }
    }

    fn declared(window: u64) -> BTreeMap<Name, Rate> {
        let rate = Rate {
            per: Per::Peer,
            window: Span(window.try_into().unwrap()),
        };
        [(Name::new("calls").unwrap(), rate)].into()
    }

    #[test]
    fn what_is_refused_counts_for_its_object_and_asker_until_other_rates_are_declared() {
        let (tables, minute) = (RateTables::default(), declared(60_000));
        let next = |object, by, declared: &_| {
            tables
                .next(object, declared, &asker(by), Timestamp(0))
                .into_values()
                .collect::<Vec<_>>()
        };
        tables.count(object(1), &minute, &asker(1), Timestamp(0));
        tables.count(object(1), &minute, &asker(1), Timestamp(0));
        assert_eq!(next(object(1), 1, &minute), [3]);
        assert_eq!(next(object(1), 2, &minute), [1]);
        assert_eq!(next(object(2), 1, &minute), [1]);
        assert_eq!(next(object(1), 1, &declared(1_000)), [1]);
        assert_eq!(next(object(1), 1, &BTreeMap::new()), [0; 0]);
        tables.count(object(3), &BTreeMap::new(), &asker(1), Timestamp(0));
        assert_eq!(tables.lock().objects.len(), 1);
    }

    #[test]
    fn of_too_many_the_one_refused_longest_ago_is_forgotten() {
        let (tables, minute) = (RateTables::default(), declared(60_000));
        for number in 0..=MAX_OBJECTS {
            tables.count(object(number), &minute, &asker(1), Timestamp(0));
        }
        let next = |object| {
            tables
                .next(object, &minute, &asker(1), Timestamp(0))
                .into_values()
                .next()
        };
        assert_eq!((next(object(0)), next(object(1))), (Some(1), Some(2)));
        let tables = tables.lock();
        assert_eq!((tables.objects.len(), tables.askers), (MAX_OBJECTS, MAX_OBJECTS));
    }

    #[test]
    fn of_too_many_askers_too() {
        let (tables, minute) = (RateTables::default(), declared(60_000));
        for number in 0..21 {
            for by in 0..10_000 {
                tables.count(object(number), &minute, &asker(by), Timestamp(0));
            }
        }
        let tables = tables.lock();
        assert!(
            tables.askers <= MAX_ASKERS && tables.objects.len() == 20,
            "{}",
            tables.askers
        );
        assert!(!tables.objects.contains_key(&object(0)));
    }
}
