//! What a copy remembers of what it wrote, and when it forgets it.

use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_core::witness::{Holder, HolderId, Mark};
use suijuris_depot::faults::{Call, Fault, Faulty};
use suijuris_depot::memory::Memory;
use suijuris_depot::relay::{self, Client};
use suijuris_depot::{Depot, Own};
use tokio::task::JoinSet;

use crate::samples::{holder, mark, object, run};

fn named(object: ObjectId, name: HolderId, count: u64) -> Mark {
    let mark = mark(object, count);
    let held = mark.holder.map(|held| Holder { id: name, ..held });
    Mark { holder: held, ..mark }
}

// proves B6
#[test]
fn a_copy_knows_what_it_sent_whatever_came_of_it_until_it_takes_a_fresh_name() {
    run(async {
        let object = object();
        let faulty = Arc::new(Faulty::new(Arc::new(Memory::attending())));
        let own = Own::new(Arc::clone(&faulty) as Arc<dyn Depot>);
        own.attend(object, holder(1)).await.unwrap();
        let (lost, refused, another) = (
            named(object, holder(1), 1),
            named(object, holder(1), 2),
            named(object, holder(1), 3),
        );
        faulty.once(Some(Call::Swap), Fault::LostAnswer);
        own.swap(&lost, None).await.unwrap_err();
        own.swap(&refused, None).await.unwrap();
        for (mark, wrote) in [(&lost, true), (&refused, true), (&another, false)] {
            assert_eq!(own.wrote(mark).await.unwrap(), wrote);
        }
        // The same name again changes nothing, and asks nobody.
        let asked = faulty.calls().len();
        own.attend(object, holder(1)).await.unwrap();
        assert_eq!(faulty.calls().len(), asked);
        assert!(own.wrote(&lost).await.unwrap());

        // A depot that cannot be told of the fresh name is told later; forgotten is at once.
        faulty.once(Some(Call::Rename), Fault::LostRequest);
        own.attend(object, holder(2)).await.unwrap_err();
        assert!(!own.wrote(&lost).await.unwrap());
        // Nor is a mark remembered that still had the old name and comes late.
        own.swap(&lost, None).await.unwrap();
        assert!(!own.wrote(&lost).await.unwrap());
        own.attend(object, holder(2)).await.unwrap();
        own.swap(&named(object, holder(2), 1), None).await.unwrap();
        assert!(own.wrote(&named(object, holder(2), 1)).await.unwrap());
    });
}

#[test]
fn machines_behind_a_relay_share_what_was_written() {
    run(async {
        let object = object();
        let own = Arc::new(Own::new(Arc::new(Memory::attending())));
        own.attend(object, holder(1)).await.unwrap();
        let mut serving = JoinSet::new();
        let mut machine = || {
            let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
            there.set_nonblocking(true).unwrap();
            let there = tokio::net::UnixStream::from_std(there).unwrap();
            serving.spawn(relay::serve(there, Arc::clone(&own), object));
            Own::new(Arc::new(Client::new(here).unwrap()))
        };
        let (first, second) = (machine(), machine());
        let before = named(object, holder(1), 1);
        own.swap(&before, None).await.unwrap();
        first.attend(object, holder(1)).await.unwrap();
        assert!(first.wrote(&before).await.unwrap());
        let during = named(object, holder(1), 2);
        first.swap(&during, None).await.unwrap();
        drop(first);
        for depot in [&*own as &dyn Depot, &second] {
            assert!(depot.wrote(&during).await.unwrap());
        }
        // A machine that was copied forgets for all.
        second.attend(object, holder(2)).await.unwrap();
        assert_eq!(own.name(), Some(holder(2)));
        for depot in [&*own as &dyn Depot, &second] {
            assert!(!depot.wrote(&during).await.unwrap());
        }
    });
}
