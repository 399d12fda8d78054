//! What every backend promises of the name tables of classes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::{Entry, MAX_WHO, Stage};
use suijuris_depot::faults::{Call, Fault, Faulty};
use suijuris_depot::{Directory as _, Error, NameRemoval, NameSwap, Version};
use tokio::task::JoinSet;

use crate::promises::Shared;
use crate::samples::{holder, object};

/// A class that no other test of this run uses.
pub(crate) fn class() -> ClassId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    ClassId::of(format!("class {count} of {}", std::process::id()).as_bytes())
}

pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub(crate) fn founding() -> Entry {
    Entry::founding(object(), holder(1), "a test".to_owned())
}

pub(crate) fn done(swap: NameSwap) -> Version {
    match swap {
        NameSwap::Done(version) => version,
        NameSwap::Conflict(present) => panic!("a conflict with {present:?}"),
    }
}

pub(crate) async fn an_entry_changes_only_from_the_version_that_is_expected(depot: Shared) {
    let (class, acme) = (class(), key("acme"));
    let mine = founding();
    assert_eq!(depot.name(class, &acme).await.unwrap(), None);
    let first = done(depot.swap_name(class, &acme, &mine, None).await.unwrap());
    assert!(first.0.len() <= 256);
    let present = Some((mine.clone(), first.clone()));
    assert_eq!(depot.name(class, &acme).await.unwrap(), present);
    let again = depot.swap_name(class, &acme, &founding(), None).await.unwrap();
    assert_eq!(again, NameSwap::Conflict(present));

    let founded = mine.at(Stage::Founded);
    let swap = async |expected: &Version| {
        depot
            .swap_name(class, &acme, &founded, Some(expected))
            .await
            .unwrap()
    };
    let second = done(swap(&first).await);
    let present = Some((founded.clone(), second.clone()));
    assert_eq!(swap(&first).await, NameSwap::Conflict(present.clone()));
    for strange in [vec![], vec![0; 8], vec![0xff; 256], b"\"x\"".to_vec()] {
        assert_eq!(swap(&Version(strange)).await, NameSwap::Conflict(present.clone()));
    }
    // One key of one class is nothing to another key, or another class.
    assert_eq!(depot.name(class, &key("acme-2")).await.unwrap(), None);
    assert_eq!(depot.name(self::class(), &acme).await.unwrap(), None);
    let none = depot
        .swap_name(class, &key("acme-2"), &founded, Some(&second))
        .await;
    assert_eq!(none.unwrap(), NameSwap::Conflict(None));
    // The same entry once more has another version.
    assert_ne!(done(swap(&second).await), second);
}

pub(crate) async fn an_entry_is_removed_only_in_the_version_that_is_expected(depot: Shared) {
    let (class, acme) = (class(), key("acme"));
    let entry = founding();
    let first = done(depot.swap_name(class, &acme, &entry, None).await.unwrap());
    let tombstone = entry.at(Stage::Tombstone);
    let second = done(
        depot
            .swap_name(class, &acme, &tombstone, Some(&first))
            .await
            .unwrap(),
    );
    let remove = async |expected: &Version| depot.remove_name(class, &acme, expected).await.unwrap();
    let present = Some((tombstone, second.clone()));
    assert_eq!(remove(&first).await, NameRemoval::Conflict(present.clone()));
    assert_eq!(depot.name(class, &acme).await.unwrap(), present);
    assert_eq!(remove(&second).await, NameRemoval::Done);
    assert_eq!(remove(&second).await, NameRemoval::Conflict(None));
    assert_eq!(depot.name(class, &acme).await.unwrap(), None);
    assert_eq!(depot.names(class, None, 10).await.unwrap(), []);
    let late = depot
        .swap_name(class, &acme, &entry, Some(&second))
        .await
        .unwrap();
    assert_eq!(late, NameSwap::Conflict(None));
    // The key is free, for the same entry too, which nobody mistakes for the former.
    let third = done(depot.swap_name(class, &acme, &entry, None).await.unwrap());
    assert_ne!(third, first);
    let present = Some((entry, third.clone()));
    assert_eq!(remove(&first).await, NameRemoval::Conflict(present));
    assert_eq!(remove(&third).await, NameRemoval::Done);
    let never = depot.remove_name(class, &key("never"), &third).await.unwrap();
    assert_eq!(never, NameRemoval::Conflict(None));
}

pub(crate) async fn of_many_founders_of_one_key_exactly_one_wins(depot: Shared) {
    let class = class();
    // A key that was never there, and one that was freed.
    let freed = done(
        depot
            .swap_name(class, &key("freed"), &founding(), None)
            .await
            .unwrap(),
    );
    let removed = depot.remove_name(class, &key("freed"), &freed).await.unwrap();
    assert_eq!(removed, NameRemoval::Done);
    for acme in [key("fresh"), key("freed")] {
        let mut founders = JoinSet::new();
        for _ in 0..64 {
            let (depot, acme) = (Arc::clone(&depot), acme.clone());
            founders.spawn(async move {
                let mine = founding();
                let answer = depot.swap_name(class, &acme, &mine, None).await;
                (mine, answer)
            });
        }
        let mut winners = Vec::new();
        let mut told = Vec::new();
        for (mine, answer) in founders.join_all().await {
            match answer.unwrap() {
                NameSwap::Done(version) => winners.push((mine, version)),
                NameSwap::Conflict(present) => told.push(present.unwrap()),
            }
        }
        assert_eq!((winners.len(), told.len()), (1, 63));
        assert!(told.iter().all(|present| *present == winners[0]), "{told:?}");
        assert_eq!(depot.name(class, &acme).await.unwrap(), winners.pop());
    }
    assert_eq!(depot.count_names(class).await.unwrap(), 2);
}

pub(crate) async fn entries_are_listed_page_by_page_and_counted(depot: Shared) {
    let class = class();
    let mut entries = BTreeMap::new();
    let mut versions = BTreeMap::new();
    for text in ["b", "a", "a-2", "a1", "z", "0", "b-b"] {
        let entry = founding();
        let version = done(depot.swap_name(class, &key(text), &entry, None).await.unwrap());
        entries.insert(key(text), entry);
        versions.insert(key(text), version);
    }
    assert_eq!(depot.count_names(class).await.unwrap(), 7);
    // One is founded, one a tombstone, one gone.
    for (text, state) in [("a", Stage::Founded), ("b", Stage::Tombstone)] {
        let entry = entries[&key(text)].at(state);
        let swapped = depot
            .swap_name(class, &key(text), &entry, Some(&versions[&key(text)]))
            .await;
        done(swapped.unwrap());
        entries.insert(key(text), entry);
    }
    assert_eq!(depot.count_names(class).await.unwrap(), 6);
    let gone = depot.remove_name(class, &key("a1"), &versions[&key("a1")]).await;
    assert_eq!(gone.unwrap(), NameRemoval::Done);
    entries.remove(&key("a1"));
    assert_eq!(depot.count_names(class).await.unwrap(), 5);

    let mut found = Vec::new();
    loop {
        let after = found.last().map(|(key, _): &(Key, Entry)| key.clone());
        let page = depot.names(class, after.as_ref(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, entries.into_iter().collect::<Vec<_>>());
    assert_eq!(depot.names(class, None, 0).await.unwrap(), []);
    assert_eq!(depot.names(class, None, usize::MAX).await.unwrap(), found);
    // After a key that is not there.
    assert_eq!(
        depot.names(class, Some(&key("a1")), 1).await.unwrap(),
        found[3..4]
    );
    assert_eq!(depot.names(self::class(), None, 9).await.unwrap(), []);
    assert_eq!(depot.count_names(self::class()).await.unwrap(), 0);
}

pub(crate) async fn an_entry_that_cannot_be_read_back_is_not_stored(depot: Shared) {
    let (class, acme) = (class(), key("acme"));
    let long = Entry::founding(object(), holder(1), "w".repeat(MAX_WHO + 1));
    let late = Entry { v: 99, ..founding() };
    for refused in [long, late] {
        let error = depot.swap_name(class, &acme, &refused, None).await.unwrap_err();
        assert!(matches!(error, Error::NotAllowed(_)), "{error}");
    }
    assert_eq!(depot.name(class, &acme).await.unwrap(), None);
    assert_eq!(depot.count_names(class).await.unwrap(), 0);
    let longest = key(&"k".repeat(63));
    let entry = Entry::founding(object(), holder(1), "w".repeat(MAX_WHO));
    done(depot.swap_name(class, &longest, &entry, None).await.unwrap());
    assert_eq!(depot.names(class, None, 9).await.unwrap(), [(longest, entry)]);
}

/// Whoever founds, and hears nothing, looks: the entry is its own, or there is none.
pub(crate) async fn a_founder_whose_answer_is_lost_finds_its_entry(depot: Shared) {
    let faulty = Faulty::new(depot);
    let (class, acme) = (class(), key("acme"));
    let mine = founding();
    faulty.once(Some(Call::SwapName), Fault::LostRequest);
    faulty.once(Some(Call::SwapName), Fault::LostAnswer);
    faulty.once(Some(Call::RemoveName), Fault::LostAnswer);
    let lost = |error: Error| assert!(matches!(error, Error::Unreachable(..)), "{error}");
    lost(faulty.swap_name(class, &acme, &mine, None).await.unwrap_err());
    assert_eq!(faulty.name(class, &acme).await.unwrap(), None);
    lost(faulty.swap_name(class, &acme, &mine, None).await.unwrap_err());
    let (found, version) = faulty.name(class, &acme).await.unwrap().unwrap();
    assert_eq!(found, mine);
    let again = faulty.swap_name(class, &acme, &mine, None).await.unwrap();
    assert_eq!(again, NameSwap::Conflict(Some((mine, version.clone()))));
    lost(faulty.remove_name(class, &acme, &version).await.unwrap_err());
    let again = faulty.remove_name(class, &acme, &version).await.unwrap();
    assert_eq!(again, NameRemoval::Conflict(None));
    faulty.always(Some(Fault::ReadOnly));
    let refused = faulty
        .swap_name(class, &acme, &founding(), None)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::ReadOnly(..)), "{refused}");
    assert_eq!(faulty.names(class, None, 9).await.unwrap(), []);
    assert_eq!(faulty.count_names(class).await.unwrap(), 0);
    assert!(
        faulty
            .calls()
            .ends_with(&[Call::SwapName, Call::Names, Call::CountNames])
    );
}
