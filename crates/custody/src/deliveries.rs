//! How often each waiting message was given to a reader that did not acknowledge it, and which are set aside for that: a
//! message that ends its reader must not end every further one.
//!
//! A file beside the history, for whoever reads the inbox: the runtime counts, whoever watches for a sleeping object skips
//! what is set aside, owners try it again or drop it. It holds keys and counts and no message; lost, every count begins anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suijuris_core::activation::pace::{Fate, fate};
use suijuris_core::id::Digest;
use suijuris_core::message::MessageKey;

/// Readers that may end with a message in hand before it is set aside.
pub const MOST: u32 = 5;

/// Messages counted at most: as many as wait in an inbox at most. What is not known counts as new.
const MAX_COUNTED: usize = 10_000;

/// Bytes of the file that are read at most: that many keys with their counts.
const MAX_BYTES: u64 = 2 << 20;

/// The account of one object.
#[derive(Debug, Clone)]
pub struct Deliveries {
    file: PathBuf,
}

/// What is counted, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<MessageKey, u32>);

/// The file: hexadecimal keys and counts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    deliveries: BTreeMap<String, u32>,
}

impl Counts {
    /// How often the message was given to a reader.
    #[must_use]
    pub fn of(&self, message: &MessageKey) -> u32 {
        self.0.get(message).copied().unwrap_or(0)
    }

    /// Whether it is set aside.
    #[must_use]
    pub fn is_aside(&self, message: &MessageKey) -> bool {
        fate(self.of(message), MOST) == Fate::SetAside
    }

    /// How many are set aside.
    #[must_use]
    pub fn aside(&self) -> usize {
        let aside = |count: &&u32| fate(**count, MOST) == Fate::SetAside;
        self.0.values().filter(aside).count()
    }
}

impl Deliveries {
    /// The account of the object whose data is in this directory.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self {
            file: data.join("deliveries.json"),
        }
    }

    /// What is counted; nothing where the file is not there or cannot be understood.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut text = String::new();
        let read = File::open(&self.file).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        let document: Document = match read {
            Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
            Err(_) => Document::default(),
        };
        let counts = document.deliveries.into_iter().take(MAX_COUNTED);
        let counts = counts.filter_map(|(key, count)| Some((MessageKey(key.parse::<Digest>().ok()?), count)));
        Counts(counts.collect())
    }

    /// These are given to a reader now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn given(&self, messages: &[MessageKey]) -> io::Result<()> {
        self.change(|counts| {
            for message in messages {
                let known = counts.contains_key(message);
                if known || counts.len() < MAX_COUNTED {
                    let count = counts.entry(*message).or_default();
                    *count = count.saturating_add(1);
                }
            }
        })
    }

    /// These were acknowledged or dropped, or their reader ended well, or an owner lets them be tried from the beginning.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn forget(&self, messages: &[MessageKey]) -> io::Result<()> {
        if messages.iter().all(|message| self.counts().of(message) == 0) {
            return Ok(());
        }
        self.change(|counts| counts.retain(|message, _| !messages.contains(message)))
    }

    /// One change at a time, whichever process makes it; readers see the file as it was or as it is.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<MessageKey, u32>)) -> io::Result<()> {
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.file.with_extension("lock"))?;
        lock.lock()?;
        let Counts(mut counts) = self.counts();
        change(&mut counts);
        let deliveries = counts.into_iter().map(|(key, count)| (key.0.hex(), count));
        let document = Document {
            deliveries: deliveries.collect(),
        };
        let new = self.file.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&document)?)?;
        std::fs::rename(&new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MessageKey {
        MessageKey(Digest([byte; 32]))
    }

    #[test]
    fn a_message_is_set_aside_after_so_many_readers_and_tried_again_when_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let deliveries = Deliveries::of(dir.path());
        assert_eq!(deliveries.counts(), Counts::default());
        for given in 1..=MOST {
            deliveries.given(&[key(1)]).unwrap();
            let counts = deliveries.counts();
            assert_eq!(
                (counts.of(&key(1)), counts.is_aside(&key(1))),
                (given, given == MOST)
            );
        }
        deliveries.given(&[key(2)]).unwrap();
        assert_eq!(deliveries.counts().aside(), 1);
        // Another process has the same account.
        Deliveries::of(dir.path()).forget(&[key(1), key(3)]).unwrap();
        assert_eq!(
            (deliveries.counts().aside(), deliveries.counts().of(&key(2))),
            (0, 1)
        );
    }

    #[test]
    fn what_is_no_account_counts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let deliveries = Deliveries::of(dir.path());
        for text in [
            "",
            "[]",
            "{\"deliveries\":{\"zz\":9}}",
            "{\"deliveries\":{\"00\":-1}}",
        ] {
            std::fs::write(dir.path().join("deliveries.json"), text).unwrap();
            assert_eq!(deliveries.counts(), Counts::default(), "{text}");
        }
        deliveries.given(&[key(1)]).unwrap();
        assert_eq!(deliveries.counts().of(&key(1)), 1);
    }
}
