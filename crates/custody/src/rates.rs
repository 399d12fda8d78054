//! How often somebody asked, kept across sleep: `rates.cbor` in the object's data directory, for its user alone.
//!
//! Whoever decides for the object has the table: its door while it sleeps, its runtime while it is awake. It is written when
//! one hands over to the other. Lost, counting begins anew: nothing is promised but a number in the running window.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use suijuris_core::memory::Name;
use suijuris_core::rates::{Asker, MAX_BYTES, Rate, Rates};
use suijuris_core::time::Timestamp;

/// The rates of one object, and where they are kept.
#[derive(Debug)]
pub struct KeptRates {
    declared: BTreeMap<Name, Rate>,
    rates: Rates,
    file: PathBuf,
    changed: bool,
}

impl KeptRates {
    /// The rates that a bundle declares, of the object whose data is in this directory, as they were kept.
    #[must_use]
    pub fn open(declared: &BTreeMap<Name, Rate>, data: &Path) -> Self {
        let mut kept = Self {
            declared: declared.clone(),
            rates: Rates::new(declared),
            file: data.join("rates.cbor"),
            changed: false,
        };
        kept.restore();
        kept
    }

    /// Whether none is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.declared.is_empty()
    }

    /// These are declared from now on.
    pub fn declare(&mut self, declared: &BTreeMap<Name, Rate>) {
        // What cannot be kept is counted anew.
        let _lost = self.keep();
        self.declared.clone_from(declared);
        self.rates = Rates::new(declared);
        self.restore();
    }

    /// Takes in what somebody else kept since.
    pub fn restore(&mut self) {
        if self.is_empty() {
            return;
        }
        let (mut bytes, most) = (Vec::new(), u64::try_from(MAX_BYTES).unwrap_or(u64::MAX));
        let read = File::open(&self.file).and_then(|file| file.take(most).read_to_end(&mut bytes));
        if read.is_ok() {
            self.rates = Rates::restored(&self.declared, &bytes);
            self.changed = false;
        }
    }

    /// As [`Rates::next`], by name.
    #[must_use]
    pub fn next(&self, asker: &Asker<'_>, now: Timestamp) -> BTreeMap<Name, i64> {
        self.rates.named(&self.rates.next(asker, now))
    }

    /// As [`Rates::count`].
    pub fn count(&mut self, asker: &Asker<'_>, now: Timestamp) -> Vec<i64> {
        self.changed = !self.is_empty();
        self.rates.count(asker, now)
    }

    /// Numbers of [`KeptRates::count`] by name.
    #[must_use]
    pub fn named(&self, numbers: &[i64]) -> BTreeMap<Name, i64> {
        self.rates.named(numbers)
    }

    /// Writes what was counted since it was written last.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&mut self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let bytes = self.rates.encode().map_err(io::Error::other)?;
        let new = self.file.with_extension("new");
        let mut options = File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(&new)?.write_all(&bytes)?;
        std::fs::rename(&new, &self.file)?;
        self.changed = false;
        Ok(())
    }
}

impl Drop for KeptRates {
    fn drop(&mut self) {
        // What cannot be kept is counted anew.
        let _lost = self.keep();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use suijuris_core::rates::Per;
    use suijuris_core::time::Span;

    use super::*;

    #[test]
    fn what_one_counted_the_next_goes_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let rate = Rate {
            per: Per::Peer,
            window: Span(60_000),
        };
        let declared = BTreeMap::from([(Name::new("calls").unwrap(), rate)]);
        let asker = Asker {
            subject: None,
            issuer: None,
            peer: "10.0.0.1".parse().unwrap(),
        };
        let next = |kept: &KeptRates| kept.next(&asker, Timestamp(0)).into_values().collect::<Vec<_>>();
        let file = dir.path().join("rates.cbor");
        let mut door = KeptRates::open(&declared, dir.path());
        assert_eq!(next(&door), [1]);
        drop(KeptRates::open(&declared, dir.path()));
        assert!(!file.exists(), "nothing was counted");
        assert_eq!(door.count(&asker, Timestamp(0)), [1]);
        door.keep().unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut runtime = KeptRates::open(&declared, dir.path());
        assert_eq!(runtime.count(&asker, Timestamp(0)), [2]);
        drop(runtime);
        door.restore();
        assert_eq!(next(&door), [3]);
        std::fs::write(&file, "no table").unwrap();
        assert_eq!(next(&KeptRates::open(&declared, dir.path())), [1]);
        let mut none = KeptRates::open(&BTreeMap::new(), dir.path());
        assert_eq!(
            (none.is_empty(), none.count(&asker, Timestamp(0))),
            (true, vec![])
        );
    }
}
