//! An object of this daemon moves: it leaves, is carried to where it goes, and arrives there; or it is taken back.

use std::path::Path;
use std::rc::Rc;

use suijuris_api::daemon::{Left, Migrate, MoveTo};
use suijuris_api::{Event, Problem};
use suijuris_core::lineage::{Head, Phase as Recorded};
use suijuris_core::owner_request::Ask;
use suijuris_custody::chain;
use suijuris_custody::migrate::{Destination, arrive, is_marked};
use suijuris_custody::write::unwitnessed;
use suijuris_vehicle::Driver;

use super::catalog::Catalog;
use super::entry::{Entry, Status};
use super::keeper::{NotOpened, Opened};
use super::leaving::{Going, Word, absolute, bad, capsule_host, head_of, not_durable, taken};
use super::packing::{PackedFor, carry};
use super::roster::Roster;
use crate::control::host_of;
use crate::paths::ObjectPaths;

impl<D: Driver> Roster<D> {
    /// Moves an object to another place.
    pub(super) async fn migrate(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        moving: Migrate,
    ) -> Result<Left, Problem> {
        let _turn = self.turn(entry.origin.object)?;
        let word = Word {
            sleep: moving.sleep,
            signed: moving.signed,
        };
        match moving.to {
            MoveTo::Back => self.take_back(entry).await,
            MoveTo::Dir(dir) => self.to_dir(entry, &dir, word).await,
            to @ (MoveTo::File(_) | MoveTo::Server { .. }) => {
                let to_server = matches!(to, MoveTo::Server { .. });
                let (file, to) = match to {
                    MoveTo::Server { place, url } => {
                        let host = host_of(&place);
                        let file = self.catalog.outgoing(entry.origin.object);
                        let file = file.map_err(|error| not_durable(&chain(&error)))?;
                        (file, Destination { host, place: url })
                    }
                    MoveTo::File(file) | MoveTo::Dir(file) => {
                        let place = absolute(&file)?;
                        if file.exists() && !matches!(entry.status(), Status::Departed) {
                            return Err(taken(&file));
                        }
                        let host = capsule_host("capsule");
                        (file, Destination { host, place })
                    }
                    MoveTo::Back => return self.take_back(entry).await,
                };
                let parcel = self.sealed_parcel(file, moving.seal_to, !moving.leave_volume)?;
                let head = match self.leave(entry, Ask::Migrate, to, word).await? {
                    Going::Refused(verdict) => return Ok(Left::refused(verdict)),
                    Going::Departed(head) => head,
                };
                let volume = match to_server {
                    true => self.pack_for_server(&entry.paths, &parcel, &head.record).await,
                    false => self.pack(&entry.paths, &parcel).await,
                };
                let volume = volume.map_err(|why| stays(&why))?;
                Ok(Left {
                    departed: Some(head.seq),
                    capsule: Some(parcel.file),
                    volume,
                    ..Left::default()
                })
            }
        }
    }

    async fn to_dir(self: &Rc<Self>, entry: &Rc<Entry>, dir: &Path, word: Word) -> Result<Left, Problem> {
        let place = absolute(dir)?;
        if dir.starts_with(&entry.paths.data) || entry.paths.data.starts_with(dir) {
            return Err(bad("it is in this directory already: name another one"));
        }
        let to = Destination {
            host: self.services.host.clone(),
            place,
        };
        let head = match self.leave(entry, Ask::Migrate, to, word).await? {
            Going::Refused(verdict) => return Ok(Left::refused(verdict)),
            Going::Departed(head) => head,
        };
        let there = ObjectPaths {
            object_dir: entry.paths.object_dir.clone(),
            data: dir.to_owned(),
        };
        let (from, to) = (entry.paths.clone(), there.clone());
        let carried = tokio::task::spawn_blocking(move || carry(&from, &to));
        let carried = carried.await.map_err(|error| stays(&error.to_string()))?;
        carried.map_err(|why| stays(&why))?;
        let opened = self.arrived(entry, &there).await?;
        let arrived = opened.writer.published().head().seq;
        if let Err(why) = opened.claim.leave(None).await {
            self.say("depot_failed", why);
        }
        Ok(Left {
            departed: Some(head.seq),
            arrived: Some(arrived),
            data: Some(there.data),
            ..Left::default()
        })
    }

    /// Takes an object back that departed from here and has not arrived.
    async fn take_back(self: &Rc<Self>, entry: &Rc<Entry>) -> Result<Left, Problem> {
        if !matches!(entry.status(), Status::Departed) {
            return Err(Problem::new(409, "not_departed", "The object has not departed")
                .with_detail("there is nothing to take back"));
        }
        let opened = self.arrived(entry, &entry.paths).await?;
        let arrived = opened.writer.published().head().seq;
        // Nobody is to get what was packed of it.
        PackedFor::remove(&Catalog::outgoing_in(self.catalog.root(), entry.origin.object));
        self.keep(entry.origin.clone(), entry.paths.clone(), Some(opened));
        Ok(Left {
            arrived: Some(arrived),
            ..Left::default()
        })
    }

    /// Lets the departed object in `paths` arrive there, if the witness knows of its departure and of nothing behind it.
    pub(super) async fn arrived(&self, entry: &Entry, paths: &ObjectPaths) -> Result<Opened, Problem> {
        let head = head_of(paths.home()).await.map_err(|why| not_durable(&why))?;
        if head.phase == Recorded::Departed {
            self.check_marked(&head).await?;
        }
        let opened = self.open_departed(paths).await.map_err(|error| match error {
            NotOpened::Lost(why) => elsewhere(&why),
            NotOpened::Broken(why) => not_durable(&why),
            NotOpened::Departed => not_durable("it has departed"),
        })?;
        if !opened.claim.agrees() {
            return Err(no_witness());
        }
        let at = self.services.clock.reading();
        let now = suijuris_core::time::Ratchet::new(opened.writer.published().head().at).observe(at);
        let ticket = arrive(&opened.writer, now, self.services.host.clone());
        let ticket = ticket.map_err(|error| not_durable(&chain(&error)))?;
        if let Some(ticket) = ticket {
            let seq = ticket.seq();
            ticket.await.map_err(|error| not_durable(&chain(&error)))?;
            let acknowledged = opened.claim.acknowledge(seq).await;
            acknowledged.map_err(unwitnessed)?;
            self.tell(entry, Event::Arrived { seq });
        }
        Ok(opened)
    }

    /// Refuses where the depot does not know of this departure, or knows of something behind it.
    pub(super) async fn check_marked(&self, head: &Head) -> Result<(), Problem> {
        let Some(depot) = &self.depot else {
            return Err(no_witness());
        };
        match is_marked(&**depot, head).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(elsewhere(
                "another copy arrived or was taken back, or this is not the depot that it left from",
            )),
            Err(error) => Err(
                Problem::new(503, "depot_unreachable", "The depot does not answer")
                    .with_detail(format!("{}: ask again", chain(&error))),
            ),
        }
    }
}

/// It departed, and what follows failed.
fn stays(why: &str) -> Problem {
    Problem::new(
        507,
        "not_durable",
        "The object departed and could not be carried on",
    )
    .with_detail(format!(
        "{why}; ask again once that is mended, or take it back with `suijuris migrate OBJECT --back`"
    ))
}
fn elsewhere(why: &str) -> Problem {
    Problem::new(409, "rolled_back", "The object does not arrive here").with_detail(why)
}

fn no_witness() -> Problem {
    Problem::new(409, "no_witness", "No witness knows where the object is")
        .with_detail("it could become two: give the daemon the depot that the object is known in (--depot)")
}
