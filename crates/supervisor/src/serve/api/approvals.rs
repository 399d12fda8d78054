//! Owners' approvals of an amendment, kept until enough of them are there. What is kept proves itself: a signature of one of
//! the owners, over the rules in force and those that are to be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use suijuris_api::Problem;
use suijuris_api::daemon::{ApprovalList, OwnerApproval};
use suijuris_core::governance::Action;
use suijuris_core::id::BundleId;
use suijuris_core::lineage::{Approval, Head, Statement};
use suijuris_custody::chain;
use suijuris_store::BundleFiles;
use suijuris_vehicle::Driver;

use super::{Answer, Api, bad, json};
use crate::serve::catalog;
use crate::serve::entry::Entry;

/// Approvals that are kept for one object at most.
const MAX_KEPT: usize = 256;

/// Directory of what is kept, in the daemon's.
const DIR: &str = "approvals";

impl<D: Driver> Api<D> {
    pub(super) async fn approvals(&self, entry: &Entry) -> Result<Answer, Problem> {
        let head = self.head(entry).await?;
        Ok(json(&ApprovalList {
            threshold: head.threshold,
            approvals: self.kept(entry, &head),
        }))
    }

    pub(super) async fn approve(&self, entry: &Entry, approval: OwnerApproval) -> Result<Answer, Problem> {
        let head = self.head(entry).await?;
        read(&approval, &head).map_err(|why| {
            Problem::new(403, "not_signed", "It is no owner's approval of this object").with_detail(why)
        })?;
        let mut kept = self.kept(entry, &head);
        if !kept.contains(&approval) {
            if kept.len() >= MAX_KEPT {
                return Err(bad("too many approvals wait: amend the object first"));
            }
            kept.push(approval);
            self.keep(entry, &kept)?;
        }
        Ok(json(&ApprovalList {
            threshold: head.threshold,
            approvals: kept,
        }))
    }

    /// Approvals of this definition: those that came with it, and those that are kept.
    pub(super) async fn with_kept(
        &self,
        entry: &Entry,
        files: &BundleFiles,
        mut approvals: Vec<Approval>,
    ) -> Result<Vec<Approval>, Problem> {
        let bundle = files.open().map_err(|error| bad(&chain(&error)))?.id();
        let head = self.head(entry).await?;
        for kept in self.kept(entry, &head) {
            if let Ok((of, approval)) = read(&kept, &head)
                && of == bundle
                && !approvals.iter().any(|have| have.key == approval.key)
            {
                approvals.push(approval);
            }
        }
        Ok(approvals)
    }

    async fn head(&self, entry: &Entry) -> Result<Head, Problem> {
        let head = |reader: &suijuris_store::Reader| Ok(reader.state().head().clone());
        self.of_reader(entry, head).await
    }

    /// Those that hold for this head. What does not is of an earlier amendment.
    fn kept(&self, entry: &Entry, head: &Head) -> Vec<OwnerApproval> {
        let path = self.kept_in().join(file(entry));
        let kept: BTreeMap<String, Vec<OwnerApproval>> = catalog::note(&path).unwrap_or_default();
        let kept = kept.into_values().flatten();
        kept.filter(|approval| read(approval, head).is_ok()).collect()
    }

    fn keep(&self, entry: &Entry, kept: &[OwnerApproval]) -> Result<(), Problem> {
        let dir = self.kept_in();
        let note = BTreeMap::from([("approvals", kept)]);
        let written = crate::paths::make_private_dir(&dir)
            .map_err(|error| error.to_string())
            .and_then(|()| catalog::write(&dir, &file(entry), &note).map_err(|error| chain(&error)));
        written.map_err(|why| Problem::new(507, "not_durable", "It could not be kept").with_detail(why))
    }

    fn kept_in(&self) -> PathBuf {
        self.roster.catalog.root().join(DIR)
    }
}

fn file(entry: &Entry) -> String {
    format!("{}.json", entry.origin.object)
}

/// The approval of an owner of the object with this head, and what it approves; or what it is not.
fn read(approval: &OwnerApproval, head: &Head) -> Result<(BundleId, Approval), String> {
    if approval.object != head.object.to_string() {
        return Err("it is for another object".to_owned());
    }
    if approval.action != Action::Amend.to_string() {
        return Err("approvals of `amend` are kept here, and of nothing else".to_owned());
    }
    let bundle: BundleId = approval
        .bundle
        .parse()
        .map_err(|_| "`bundle` is no id of a definition".to_owned())?;
    let content = head.amendment(&bundle);
    if approval.content != content.hex() {
        return Err("the rules have been amended since: approve again".to_owned());
    }
    let found = Approval {
        key: approval.key.parse().map_err(|_| "`key` is no key".to_owned())?,
        sig: approval
            .sig
            .parse()
            .map_err(|_| "`sig` is no signature".to_owned())?,
    };
    let statement = Statement {
        object: head.object,
        action: Action::Amend,
        content,
    };
    if statement.approved_by(std::slice::from_ref(&found), &head.controllers) != 1 {
        return Err("no owner of the object signed it".to_owned());
    }
    Ok((bundle, found))
}
