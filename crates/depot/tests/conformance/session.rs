//! What a copy remembers of what it wrote, and when it forgets it.

use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_core::witness::{Holder, HolderId, Mark};
use suijuris_depot::faults::{Call, Fault, Faulty};
use suijuris_depot::memory::Memory;
use suijuris_depot::relay::{self, Client};
use suijuris_depot::{Archive as _, Depot, Directory as _, Inbox as _, Marks as _, Session};
use tokio::task::JoinSet;

use crate::names;
use crate::samples::{holder, mark, message, object, run};

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
        let faulty = Arc::new(Faulty::new(Arc::new(Memory::with_presence())));
        let session = Session::new(Arc::clone(&faulty) as Arc<dyn Depot>);
        session.register(object, holder(1)).await.unwrap();
        let (lost, refused, another) = (
            named(object, holder(1), 1),
            named(object, holder(1), 2),
            named(object, holder(1), 3),
        );
        faulty.once(Some(Call::Swap), Fault::LostAnswer);
        session.swap(&lost, None).await.unwrap_err();
        session.swap(&refused, None).await.unwrap();
        for (mark, wrote) in [(&lost, true), (&refused, true), (&another, false)] {
            assert_eq!(session.is_own_write(mark).await.unwrap(), wrote);
        }
        // The same name again changes nothing, and asks nobody.
        let asked = faulty.calls().len();
        session.register(object, holder(1)).await.unwrap();
        assert_eq!(faulty.calls().len(), asked);
        assert!(session.is_own_write(&lost).await.unwrap());

        // A depot that cannot be told of the fresh name is told later; forgotten is at once.
        faulty.once(Some(Call::Rename), Fault::LostRequest);
        session.register(object, holder(2)).await.unwrap_err();
        assert!(!session.is_own_write(&lost).await.unwrap());
        // Nor is a mark remembered that still had the old name and comes late.
        session.swap(&lost, None).await.unwrap();
        assert!(!session.is_own_write(&lost).await.unwrap());
        session.register(object, holder(2)).await.unwrap();
        session.swap(&named(object, holder(2), 1), None).await.unwrap();
        assert!(session.is_own_write(&named(object, holder(2), 1)).await.unwrap());
    });
}

#[test]
fn the_rest_of_the_depot_is_as_it_is_behind_a_session() {
    run(async {
        let memory: Arc<dyn Depot> = Arc::new(Memory::new());
        let session = Session::new(Arc::clone(&memory));
        let (class, acme, entry) = (names::class(), names::key("acme"), names::founding());
        let version = names::done(session.swap_name(class, &acme, &entry, None).await.unwrap());
        assert_eq!(memory.name(class, &acme).await.unwrap(), Some((entry, version)));
        assert_eq!(session.count_names(class).await.unwrap(), 1);
        let object = object();
        session.announce(object, b"asleep", None).await.unwrap();
        assert_eq!(
            memory.announcement(object).await.unwrap().as_deref(),
            Some(&b"asleep"[..])
        );
        session.post(object, &message("a")).await.unwrap();
        assert_eq!(memory.inbox(object, 9).await.unwrap().len(), 1);
    });
}

#[test]
fn machines_behind_a_relay_share_what_was_written() {
    run(async {
        let object = object();
        let session = Arc::new(Session::new(Arc::new(Memory::with_presence())));
        session.register(object, holder(1)).await.unwrap();
        let mut serving = JoinSet::new();
        let mut machine = || {
            let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
            there.set_nonblocking(true).unwrap();
            let there = tokio::net::UnixStream::from_std(there).unwrap();
            serving.spawn(relay::serve(there, Arc::clone(&session), object));
            Session::new(Arc::new(Client::new(here).unwrap()))
        };
        let (first, second) = (machine(), machine());
        let before = named(object, holder(1), 1);
        session.swap(&before, None).await.unwrap();
        first.register(object, holder(1)).await.unwrap();
        assert!(first.is_own_write(&before).await.unwrap());
        let during = named(object, holder(1), 2);
        first.swap(&during, None).await.unwrap();
        drop(first);
        for depot in [&*session as &dyn Depot, &second] {
            assert!(depot.is_own_write(&during).await.unwrap());
        }
        // A machine that was copied forgets for all.
        second.register(object, holder(2)).await.unwrap();
        assert_eq!(session.name(), Some(holder(2)));
        for depot in [&*session as &dyn Depot, &second] {
            assert!(!depot.is_own_write(&during).await.unwrap());
        }
    });
}
