//! An object arrives from another server, carried by a command: it is offered and looked at before it departs there; capsule and
//! volume are written beside everything else, verified whole, put where objects are by one rename; then it arrives by a record, as
//! whoever claims the witness's mark first. Done again, it goes on where it was cut off: an offer that the same owners make again keeps the
//! key that the object is sealed to, and the files that came (`parts`).
//!
//! What comes is foreign: it is taken from the owners alone who are listed, runs programs of this host that are listed, in machines of
//! their own, and has no more of the host than these see of it ([`crate::capability`]).

mod parts;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use suijuris_api::Problem;
use suijuris_api::daemon::{Offer, Offered};
use suijuris_core::ObjectId;
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::{Head, Phase as Recorded};
use suijuris_core::manifest::Manifest;
use suijuris_core::owner_request::{Ask, Expected, OwnerRequestError};
use suijuris_custody::chain;
use suijuris_custody::migrate;
use suijuris_custody::owner::not_an_owner;
use suijuris_store::capsule::{self, Decrypted};
use suijuris_store::{BundleStore, ObjectDir, Sizes};
use suijuris_vehicle::Driver;

use super::catalog::{Catalog, OBJECT_NOTE, ObjectNote, check_name, note, write};
use super::entry::{Entry, Status};
use super::roster::Roster;
use crate::capability::CODE_NOT_RECEIVED;
pub use crate::capability::Receive;
use crate::control::place_of;
use crate::events::Origin;
use crate::volume;

pub(super) use parts::{Begins, Part, Uploads, sweep_received};

/// What an owner signs to have an object received, as the place that it goes to.
pub const ARRIVES: &str = "arrives at this server";

/// The note of an offer.
const NOTE: &str = "offer.json";

impl Receive {
    /// The file in a daemon's directory that says so, with what the command line adds.
    ///
    /// # Errors
    /// [`super::catalog::CatalogError`].
    pub fn read(root: &Path, more: Self) -> Result<Self, super::catalog::CatalogError> {
        let path = root.join("receive.json");
        let mut all: Self = match path.exists() {
            true => note(&path)?,
            false => Self::default(),
        };
        all.receive.extend(more.receive);
        all.commands.extend(more.commands);
        all.network |= more.network;
        Ok(all)
    }
}

/// What is being received.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    name: String,
    /// Who signed the offer: an owner of the object, as its history has to say.
    by: Vec<PublicKey>,
    /// Opens what is sealed for this offer.
    identity: String,
    /// Whom that is sealed to.
    recipient: String,
}

impl<D: Driver> Roster<D> {
    /// Looks at what is offered; what it is to be sealed to, and where it would be, as its rules see that.
    pub(super) async fn offered(&self, offer: Offer) -> Result<Offered, Problem> {
        let object: ObjectId = offer
            .object
            .parse()
            .map_err(|_| bad("`object` is no id of an object"))?;
        let by = self.signers(object, &offer)?;
        check_name(&offer.name).map_err(|error| bad(&error.to_string()))?;
        let files = super::api::files(&offer.bundle)?;
        let bundle = files.open().map_err(|error| bad(&chain(&error)))?;
        self.may_run(&bundle.manifest)?;
        if self
            .entry(object)
            .is_none_or(|entry| !is_here_for(&entry, &offer.name))
        {
            if self.entry(object).is_some() {
                return Err(taken(
                    "the object is served here, under another name, or has not left",
                ));
            }
            if self.catalog.has(&offer.name) {
                return Err(taken(
                    "something of this name is served here: name the object otherwise with --name",
                ));
            }
        }
        let Some(depot) = &self.depot else {
            return Err(other_depot());
        };
        let mark = depot.mark(object).await.map_err(|error| {
            Problem::new(503, "depot_unreachable", "The depot does not answer").with_detail(chain(&error))
        })?;
        if mark.is_none() {
            return Err(other_depot());
        }
        Ok(Offered {
            recipient: self.expect(object, offer.name, by).await?,
            place: place_of(&self.services.host),
        })
    }

    /// Makes a place for what was offered, or keeps the one that an earlier offer of the same owners made; whom it is sealed to.
    async fn expect(&self, object: ObjectId, name: String, by: Vec<PublicKey>) -> Result<String, Problem> {
        self.is_not_arriving(object)?;
        // Whoever begins again goes on with what has come by then.
        self.uploads.end(object).await;
        let dir = self.receiving(object);
        let earlier = note::<Noted>(&dir.join(NOTE)).ok();
        let noted = match earlier.filter(|earlier| earlier.by == by) {
            Some(earlier) => Noted { name, ..earlier },
            None => {
                self.has_room(object)?;
                let (identity, recipient) = self.wrap.fresh().map_err(|why| not_durable(&why))?;
                // What was sealed for somebody else's offer cannot be opened any more.
                discard(&dir).map_err(|error| not_durable(&error.to_string()))?;
                Noted {
                    name,
                    by,
                    identity: identity.to_string(),
                    recipient,
                }
            }
        };
        let made = crate::paths::make_private_dir(&self.receiving_dir())
            .and_then(|()| crate::paths::make_private_dir(&dir));
        made.map_err(|error| not_durable(&error.to_string()))?;
        write(&dir, NOTE, &noted).map_err(|error| not_durable(&chain(&error)))?;
        Ok(noted.recipient)
    }

    /// Refuses while the object is being unpacked.
    fn is_not_arriving(&self, object: ObjectId) -> Result<(), Problem> {
        if self.leaving.borrow().contains(&object) {
            return Err(
                Problem::new(409, "not_now", "The object is leaving or arriving already")
                    .with_detail("wait until that has come to an end"),
            );
        }
        Ok(())
    }

    /// Who of those that are listed signed the offer.
    fn signers(&self, object: ObjectId, offer: &Offer) -> Result<Vec<PublicKey>, Problem> {
        if self.receive.receive.is_empty() {
            return Err(Problem::new(403, CODE_NOT_RECEIVED, "This server receives from nobody").with_detail(
                "its operator lists the owners whose objects it takes: `suijuris serve --receive KEY`, or receive.json in its directory",
            ));
        }
        let wrong = |error: OwnerRequestError| match error {
            OwnerRequestError::NotAnOwner(key) => Problem::new(
                403,
                CODE_NOT_RECEIVED,
                "This server does not receive from this owner",
            )
            .with_detail(format!(
                "its operator lists {key}: `suijuris serve --receive {key}`"
            )),
            error => not_an_owner(&error),
        };
        let signed = suijuris_words::owner::read(&offer.signed).map_err(wrong)?;
        let now = self.services.clock.reading().wall;
        let signers = signed
            .verify(&Expected {
                object,
                ask: Ask::Migrate,
                content: migrate::content(object, ARRIVES),
                audience: self.services.server,
                head: suijuris_core::RecordId::from_digest(*object.digest()),
                controllers: &self.receive.receive,
                now,
            })
            .map_err(wrong)?;
        self.services.spent.spend(&signed.request, now).map_err(wrong)?;
        Ok(signers.keys().to_vec())
    }

    /// Refuses what a foreign definition may not have here.
    fn may_run(&self, manifest: &Manifest) -> Result<(), Problem> {
        self.can_carry(manifest)?;
        let about = self.services.driver.describe();
        self.receive.may_run(about, manifest).map_err(|why| {
            Problem::new(403, CODE_NOT_RECEIVED, "This server does not run this object").with_detail(why)
        })
    }

    fn receiving_dir(&self) -> PathBuf {
        self.catalog.root().join("receiving")
    }

    fn receiving(&self, object: ObjectId) -> PathBuf {
        self.receiving_dir().join(object.to_string())
    }

    /// The place of what was offered.
    fn noted(&self, object: &str) -> Result<(ObjectId, PathBuf, Noted), Problem> {
        let shown: String = object.chars().take(128).collect();
        let unknown = || {
            Problem::new(404, "unknown_object", "Nothing is received under this id")
                .with_detail(format!("`{shown}` was not offered: `POST /v1/receive`"))
        };
        let object: ObjectId = object.parse().map_err(|_| unknown())?;
        let dir = self.receiving(object);
        if !dir.join(NOTE).exists() {
            return Err(unknown());
        }
        let noted = note(&dir.join(NOTE)).map_err(|error| not_durable(&chain(&error)))?;
        Ok((object, dir, noted))
    }

    /// Lets an object arrive whose parts are here.
    pub(super) async fn receive(self: &Rc<Self>, object: &str) -> Result<Rc<Entry>, Problem> {
        let (object, dir, noted) = self.noted(object)?;
        let _turn = self.turn(object)?;
        let entry = match self.entry(object) {
            // Placed before and cut off, or back where it once was.
            Some(entry) if is_here_for(&entry, &noted.name) => {
                self.unpacked(&dir, &entry.paths.data, object, &noted).await?;
                entry
            }
            Some(_) => return Err(taken("the object is served here already")),
            None => self.place_received(object, &dir, &noted).await?,
        };
        let opened = self.arrived(&entry, &entry.paths).await?;
        let entry = self.keep(entry.origin.clone(), entry.paths.clone(), Some(opened));
        // Its key was good for this one time.
        let _ = fs::remove_dir_all(&dir);
        Ok(entry)
    }

    /// Verifies what came, and puts it where objects are.
    async fn place_received(
        self: &Rc<Self>,
        object: ObjectId,
        dir: &Path,
        noted: &Noted,
    ) -> Result<Rc<Entry>, Problem> {
        if self.catalog.has(&noted.name) {
            return Err(taken(
                "something of this name is served here by now: begin again with --name",
            ));
        }
        let data = dir.join("data");
        discard(&data).map_err(|error| not_durable(&error.to_string()))?;
        self.unpacked(dir, &data, object, noted).await?;
        let note = ObjectNote {
            name: noted.name.clone(),
            object_dir: None,
            ports: None,
            received: true,
        };
        let paths = self.catalog.object(&note);
        write(&data, OBJECT_NOTE, &note)
            .and_then(|()| Catalog::place(&data, &paths))
            .map_err(|error| not_durable(&chain(&error)))?;
        self.take_object(&note);
        let entry = self
            .entry(object)
            .ok_or_else(|| not_durable("it cannot be opened"))?;
        // Whoever keeps it finds that it has departed, and waits for its arrival.
        let mut status = entry.status.subscribe();
        let _ = status.wait_for(|status| !matches!(status, Status::Opening)).await;
        Ok(entry)
    }

    /// Unpacks what came to `data`, and holds it to what was offered. What cannot arrive any more, since it was taken back or is
    /// elsewhere, is refused before anything of it is here.
    async fn unpacked(
        &self,
        dir: &Path,
        data: &Path,
        object: ObjectId,
        noted: &Noted,
    ) -> Result<(), Problem> {
        let (by, capsule) = (noted.by.clone(), dir.join(Part::Capsule.file()));
        let inspect = move || inspect(&capsule, object, &by);
        let head = tokio::task::spawn_blocking(inspect).await;
        let head = head.map_err(|error| not_durable(&error.to_string()))??;
        self.check_marked(&head).await?;
        let (dir, data, identity, wrap) = (
            dir.to_owned(),
            data.to_owned(),
            noted.identity.clone(),
            self.wrap.clone(),
        );
        let receive = move || unpack(&dir, &data, &head, |sealed| wrap.open(sealed, &identity));
        let unpacked = tokio::task::spawn_blocking(receive).await;
        let manifest = unpacked.map_err(|error| not_durable(&error.to_string()))??;
        self.may_run(&manifest)
    }
}

/// Whether this is the object that was received under this name and has not arrived yet.
fn is_here_for(entry: &Entry, name: &str) -> bool {
    let Origin {
        name: is, instance, ..
    } = &entry.origin;
    is == name && instance.is_none() && matches!(entry.status(), Status::Departed)
}

/// What came, verified whole before anything of it is written: it is the object that one of these owners offered, and it left. Its
/// last record.
fn inspect(capsule: &Path, object: ObjectId, by: &[PublicKey]) -> Result<Head, Problem> {
    let verified = capsule::verify(opened(capsule)?, |_| {});
    let verified = verified.map_err(|error| damaged(chain(&error)))?;
    let head = verified.state.head();
    let not = |why: &str| Problem::new(403, CODE_NOT_RECEIVED, "It is not what was offered").with_detail(why);
    if head.object != object {
        return Err(not("the capsule is another object's"));
    }
    if head.phase != Recorded::Departed {
        return Err(not("its history does not say that it departed"));
    }
    if !by.iter().any(|key| head.controllers.contains(key)) {
        return Err(not("whoever offered it is not its owner"));
    }
    Ok(head.clone())
}

fn opened(capsule: &Path) -> Result<BufReader<File>, Problem> {
    let file = File::open(capsule);
    let file = file.map_err(|error| damaged(format!("the capsule did not come: {error}")))?;
    Ok(BufReader::with_capacity(256 << 10, file))
}

/// Unpacks what was inspected; its definition.
fn unpack(
    dir: &Path,
    data: &Path,
    head: &Head,
    open: impl Fn(&[u8]) -> Result<Decrypted, String>,
) -> Result<Manifest, Problem> {
    let home = ObjectDir::at(data);
    let unsealed = |sealed: Option<&[u8]>| match sealed {
        Some(sealed) => open(sealed).map(Some).map_err(std::io::Error::other),
        None => Err(std::io::Error::other("its key did not come along")),
    };
    let source = opened(&dir.join(Part::Capsule.file()))?;
    capsule::import(source, &home, Sizes::default(), unsealed, |_| {})
        .map_err(|error| damaged(chain(&error)))?;
    let packed = dir.join(Part::Volume.file());
    let files = data.join("volume");
    if packed.exists() {
        volume::unpack(&packed, &head.record, &files).map_err(|error| damaged(chain(&error)))?;
    } else {
        // Of the time when it was here before.
        discard(&files).map_err(|error| not_durable(&error.to_string()))?;
    }
    let bundle = BundleStore::of(&home).bundle(&head.bundle);
    Ok(bundle.map_err(|error| damaged(chain(&error)))?.manifest.clone())
}

fn discard(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn bad(detail: &str) -> Problem {
    Problem::new(400, "bad_request", "The request cannot be understood").with_detail(detail)
}

fn damaged(why: String) -> Problem {
    Problem::new(422, "bad_capsule", "What came cannot be used").with_detail(why)
}

fn taken(why: &str) -> Problem {
    Problem::new(409, "name_taken", "It cannot be received under this name").with_detail(why)
}

fn not_durable(why: &str) -> Problem {
    Problem::new(507, "not_durable", "It could not be kept").with_detail(why)
}

fn other_depot() -> Problem {
    Problem::new(409, "other_depot", "This server does not know the object").with_detail(
        "nothing keeps two copies from both being it where their depots differ: serve both from one depot (--depot)",
    )
}
