//! Adding classes and objects: checked, kept durably, and then served.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use suijuris_api::Problem;
use suijuris_api::daemon::{AddClass, AddObject, AmendClass, BundleParts, Owners};
use suijuris_api::owner::Approval as Document;
use suijuris_core::class::template_statement;
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::Approval;
use suijuris_custody::chain;
use suijuris_store::{BundleFiles, BundleStore, Creation, ObjectDir, create};
use suijuris_vehicle::Driver;
use zeroize::Zeroizing;

use super::{Answer, Api, bad, json};
use crate::serve::catalog::{CatalogError, ClassNote, ObjectNote, check_name};

/// Owners of one object or class at most.
const MAX_OWNERS: usize = 64;

impl<D: Driver> Api<D> {
    pub(super) async fn add_class(&self, add: AddClass) -> Result<Answer, Problem> {
        let AddClass {
            class: name,
            bundle,
            owners,
            object_dir,
            ports,
        } = add;
        self.check_free(&name)?;
        let files = files(&bundle)?;
        let opened = files.open().map_err(|error| bad(&chain(&error)))?;
        if opened.manifest.class.is_none() {
            return Err(bad("the bundle is that of a single object: add it as an object"));
        }
        self.roster.can_carry(&opened.manifest)?;
        // Before anything is kept: another program may have them.
        let bound = ports
            .map(|ports| self.roster.bind_ports(&ports, &opened))
            .transpose()?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| not_kept(&chain(&error)))?;
        let note = ClassNote {
            name: name.clone(),
            bundle_name: opened.manifest.name.clone(),
            controllers: keys(&owners)?,
            threshold: owners.threshold,
            nonce,
            bundle: opened.id(),
            object_dir,
            ports: bound.as_ref().map(|bound| bound.ports),
        };
        let dir = self.roster.catalog.class_dir(&name);
        std::fs::create_dir_all(dir.path()).map_err(|error| not_kept(&error.to_string()))?;
        BundleStore::of(&dir)
            .put(&files)
            .map_err(|error| not_kept(&chain(&error)))?;
        self.roster
            .catalog
            .keep_class(&note)
            .map_err(|error| refused(&error))?;
        self.roster.take_class(note).map_err(|why| not_kept(&why))?;
        if let Some(bound) = bound {
            self.roster.open_ports(&name, bound);
        }
        let class = self
            .roster
            .class(&name)
            .ok_or_else(|| not_kept("it is gone again"))?;
        Ok(json(&self.class(&class)))
    }

    pub(super) async fn add_object(&self, add: AddObject) -> Result<Answer, Problem> {
        let AddObject {
            name,
            bundle,
            owners,
            object_dir,
            ports,
        } = add;
        self.check_free(&name)?;
        let files = files(&bundle)?;
        let opened = files.open().map_err(|error| bad(&chain(&error)))?;
        if opened.manifest.class.is_some() {
            return Err(bad("the bundle is that of a class: add it as a class"));
        }
        self.roster.can_carry(&opened.manifest)?;
        let bound = ports
            .map(|ports| self.roster.bind_ports(&ports, &opened))
            .transpose()?;
        let note = ObjectNote {
            name: name.clone(),
            object_dir,
            ports: bound.as_ref().map(|bound| bound.ports),
            received: false,
        };
        let paths = self.roster.catalog.object(&note);
        let random = |error: getrandom::Error| not_kept(&chain(&error));
        let mut seed = Zeroizing::new([0; 32]);
        let mut nonce = vec![0; 16];
        getrandom::fill(seed.as_mut_slice()).map_err(random)?;
        getrandom::fill(&mut nonce).map_err(random)?;
        let creation = Creation {
            name: opened.manifest.name.clone(),
            controllers: keys(&owners)?,
            threshold: owners.threshold,
            nonce,
            parent: None,
            class: None,
            at: self.roster.services.clock.reading().wall,
            bundle: files,
            seed,
        };
        let dir = ObjectDir::at(&paths.data);
        let created = tokio::task::spawn_blocking(move || create(&dir, creation));
        let created = created.await.map_err(|error| not_kept(&error.to_string()))?;
        created.map_err(|error| not_kept(&chain(&error)))?;
        self.roster
            .catalog
            .keep_object(&note)
            .map_err(|error| refused(&error))?;
        self.roster.take_object(&note);
        if let Some(bound) = bound {
            self.roster.open_ports(&name, bound);
        }
        let entry = self
            .roster
            .named(&name)
            .ok_or_else(|| not_kept("it cannot be opened"))?;
        Ok(json(&self.document(&entry)))
    }

    /// Replaces the template of a class, by its owners' word.
    pub(super) async fn amend_class(&self, name: &str, amend: AmendClass) -> Result<Answer, Problem> {
        let class = self.find_class(name)?;
        let files = files(&amend.bundle)?;
        let opened = files.open().map_err(|error| bad(&chain(&error)))?;
        if opened.manifest.class.is_none() {
            return Err(bad("the bundle is that of a single object"));
        }
        self.roster.can_carry(&opened.manifest)?;
        let mut note = class.note.clone();
        let statement = template_statement(class.id, note.bundle, opened.id());
        let found = statement.approved_by(&approvals(&amend.approvals)?, &note.controllers);
        if u32::try_from(found).is_ok_and(|found| found < note.threshold) {
            let why = format!("{found} of the {} owners needed signed it", note.threshold);
            return Err(Problem::new(403, "approvals_missing", "Too few owners approved").with_detail(why));
        }
        let dir = self.roster.catalog.class_dir(name);
        BundleStore::of(&dir)
            .put(&files)
            .map_err(|error| not_kept(&chain(&error)))?;
        note.bundle = opened.id();
        self.roster
            .catalog
            .keep_class(&note)
            .map_err(|error| refused(&error))?;
        let bundle = std::sync::Arc::new(opened);
        let amended = self.roster.amend_class(&class, note, &bundle);
        let amended = amended.map_err(|why| not_kept(&why))?;
        Ok(json(&self.class(&amended)))
    }

    fn check_free(&self, name: &str) -> Result<(), Problem> {
        check_name(name).map_err(|error| refused(&error))?;
        if self.roster.catalog.has(name) {
            return Err(refused(&CatalogError::Taken(name.to_owned())));
        }
        Ok(())
    }
}

pub(in crate::serve) fn files(parts: &BundleParts) -> Result<BundleFiles, Problem> {
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| bad("the bundle is not base64"));
    Ok(BundleFiles {
        manifest: bytes(&parts.manifest)?,
        governance: parts.governance.clone().into_bytes(),
        program: bytes(&parts.program)?,
    })
}

/// Whose it is.
fn keys(owners: &Owners) -> Result<Vec<PublicKey>, Problem> {
    let count = owners.controllers.len();
    let most = u32::try_from(count).unwrap_or(u32::MAX);
    if !(1..=MAX_OWNERS).contains(&count) || !(1..=most).contains(&owners.threshold) {
        return Err(bad(&format!(
            "1 to {MAX_OWNERS} owners, and a threshold from 1 up to their number"
        )));
    }
    let key = |text: &String| {
        text.parse()
            .map_err(|_| bad("`controllers` are keys: 64 hexadecimal digits"))
    };
    owners.controllers.iter().map(key).collect()
}

/// What owners signed.
pub(in crate::serve) fn approvals(documents: &[Document]) -> Result<Vec<Approval>, Problem> {
    let read = documents.iter().map(suijuris_words::owner::read_approval);
    read.collect::<Result<_, _>>()
        .map_err(|error| bad(&format!("`approvals`: {error}")))
}

fn refused(error: &CatalogError) -> Problem {
    match error {
        CatalogError::Name(_) => bad(&error.to_string()),
        CatalogError::Taken(_) => {
            Problem::new(409, "name_taken", "The name is taken").with_detail(error.to_string())
        }
        _ => not_kept(&chain(error)),
    }
}

fn not_kept(why: &str) -> Problem {
    Problem::new(507, "not_durable", "It could not be kept; nothing was added").with_detail(why)
}
