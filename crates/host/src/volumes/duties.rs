//! What time asks of volumes: a snapshot a day, old snapshots gone, destroyed volumes gone once nobody can want them back.

use super::{Snapshot, Volume, VolumeState};

const DAY_MS: u64 = 24 * 3_600_000;

/// Something that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    /// A snapshot of this volume.
    Snapshot(String),
    /// The end of a snapshot, which has been kept for its days.
    Expire {
        /// Its volume.
        volume: String,
        /// Itself.
        snapshot: String,
    },
    /// The end of a volume that was destroyed a day ago.
    Remove(String),
}

/// What is due at `now_ms`. Only where copies share blocks or go into a backup (`is_cheap`) does a day bring a snapshot that nobody
/// asked for: elsewhere each would take as much room as its volume.
pub(super) fn due(volumes: &[Volume], now_ms: u64, is_cheap: bool) -> Vec<Duty> {
    let mut duties = Vec::new();
    for volume in volumes {
        if volume.state == VolumeState::PendingDestroy {
            if is_past(volume.updated_ms, DAY_MS, now_ms) {
                duties.push(Duty::Remove(volume.id.clone()));
            }
            continue;
        }
        let over = |snapshot: &&Snapshot| {
            let kept_for = snapshot.retention_days.saturating_mul(DAY_MS);
            is_past(snapshot.created_ms, kept_for, now_ms)
        };
        duties.extend(volume.snapshots.iter().filter(over).map(|snapshot| Duty::Expire {
            volume: volume.id.clone(),
            snapshot: snapshot.id.clone(),
        }));
        let newest = volume.snapshots.iter().map(|snapshot| snapshot.created_ms).max();
        let since = newest.unwrap_or(volume.created_ms);
        let wanted = volume.auto_backup_enabled && volume.state.is_usable();
        if is_cheap && wanted && is_past(since, DAY_MS, now_ms) {
            duties.push(Duty::Snapshot(volume.id.clone()));
        }
    }
    duties
}

/// Whether `ms` have gone by since `then`. A clock that went back has not gone by.
const fn is_past(then_ms: u64, ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(then_ms) >= ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 100 * DAY_MS;

    fn volume(id: &str, days_old: u64, snapshots: &[(&str, u64, u64)]) -> Volume {
        let snapshot = |(id, days_old, retention_days): &(&str, u64, u64)| Snapshot {
            id: (*id).to_owned(),
            created_ms: NOW - days_old * DAY_MS,
            status: "created".to_owned(),
            bytes: 0,
            size_gb: 1,
            retention_days: *retention_days,
            is_daily: false,
            is_elsewhere: false,
        };
        Volume {
            id: id.to_owned(),
            app: "a".to_owned(),
            org: "personal".to_owned(),
            name: "data".to_owned(),
            region: "fra".to_owned(),
            size_gb: 1,
            state: VolumeState::Created,
            encrypted: false,
            fstype: "ext4".to_owned(),
            snapshot_retention: 5,
            auto_backup_enabled: true,
            created_ms: NOW - days_old * DAY_MS,
            updated_ms: NOW - days_old * DAY_MS,
            origin: None,
            snapshots: snapshots.iter().map(snapshot).collect(),
        }
    }

    #[test]
    fn a_day_brings_a_snapshot_where_it_is_cheap_and_wanted() {
        let snapshot = |id: &str| vec![Duty::Snapshot(id.to_owned())];
        let (new, old) = (volume("new", 0, &[]), volume("old", 1, &[]));
        assert_eq!(due(&[new, old.clone()], NOW, true), snapshot("old"));
        assert_eq!(due(std::slice::from_ref(&old), NOW, false), []);
        let unwanted = Volume {
            auto_backup_enabled: false,
            ..old.clone()
        };
        assert_eq!(due(&[unwanted], NOW, true), []);
        let half_made = Volume {
            state: VolumeState::Creating,
            ..old
        };
        assert_eq!(due(&[half_made], NOW, true), []);
        assert_eq!(due(&[volume("had", 9, &[("s", 0, 5)])], NOW, true), []);
        assert_eq!(
            due(&[volume("had", 9, &[("s", 1, 5)])], NOW, true),
            snapshot("had")
        );
    }

    #[test]
    fn snapshots_stay_for_their_days_and_volumes_for_one() {
        let kept = volume(
            "v",
            20,
            &[
                ("young", 0, 5),
                ("last-day", 4, 5),
                ("over", 5, 5),
                ("long", 10, 60),
            ],
        );
        let over = Duty::Expire {
            volume: "v".to_owned(),
            snapshot: "over".to_owned(),
        };
        assert_eq!(due(&[kept], NOW, true), [over]);
        let gone = |days| Volume {
            state: VolumeState::PendingDestroy,
            ..volume("v", days, &[("s", 9, 1)])
        };
        assert_eq!(due(&[gone(0)], NOW, true), []);
        assert_eq!(due(&[gone(1)], NOW, true), [Duty::Remove("v".to_owned())]);
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_due() {
        let destroyed = Volume {
            state: VolumeState::PendingDestroy,
            ..volume("v", 0, &[])
        };
        assert_eq!(
            due(
                &[destroyed, volume("w", 0, &[("s", 0, 1)])],
                NOW - 50 * DAY_MS,
                true
            ),
            []
        );
    }
}
