//! A child that begins with the memory of an object's suspended machine, among this daemon's objects.
//!
//! It is prepared in the directory that it will have, which nothing names before it is born; killed after that and before it is kept,
//! the same request ends it.

use std::rc::Rc;

use suijuris_api::Problem;
use suijuris_api::control::Reply;
use suijuris_api::daemon::Fork;
use suijuris_vehicle::Driver;

use super::api::approvals;
use super::catalog::{CatalogError, ObjectNote, check_name};
use super::entry::Entry;
use super::leaving::not_durable;
use super::roster::Roster;
use crate::actor::Input;
use crate::control::{Forking, PendingRequest};
use suijuris_custody::chain;

impl<D: Driver> Roster<D> {
    /// Makes a child of this object.
    pub(super) async fn fork(self: &Rc<Self>, entry: &Rc<Entry>, fork: Fork) -> Result<Reply, Problem> {
        let name_of = |error: &CatalogError| {
            Problem::new(409, "name_taken", "The child cannot have this name").with_detail(chain(error))
        };
        check_name(&fork.to).map_err(|error| name_of(&error))?;
        if self.catalog.has(&fork.to) {
            return Err(name_of(&CatalogError::Taken(fork.to)));
        }
        let _turn = self.turn(entry.origin.object)?;
        let note = ObjectNote {
            name: fork.to.clone(),
            object_dir: entry.paths.object_dir.clone(),
            ports: None,
            received: false,
        };
        let paths = self.catalog.object(&note);
        if let Some(above) = paths.data.parent() {
            std::fs::create_dir_all(above).map_err(|error| not_durable(&error.to_string()))?;
        }
        let (request, answered) = PendingRequest::fork(Forking {
            data: paths.data,
            name: fork.to.clone(),
            secrets: fork.secrets,
            asks: approvals(&fork.asks)?,
            approvals: approvals(&fork.approvals)?,
        });
        let ending = || {
            Problem::new(503, "not_now", "The object is being opened again")
                .with_detail("ask again in a moment")
        };
        let handle = entry.handle().await?;
        let sent = handle.send(Input::Request(Box::new(request))).await;
        sent.map_err(|_over| ending())?;
        let reply = answered.await.map_err(|_over| ending())?;
        let Reply::Forked(mut child) = reply else {
            return Ok(reply);
        };
        if child.seq.is_some() {
            self.catalog
                .keep_object(&note)
                .map_err(|error| not_durable(&chain(&error)))?;
            self.take_object(&note);
            if let Some(born) = self.named(&fork.to) {
                child.url = Some(self.url(&born.origin));
            }
        }
        Ok(Reply::Forked(child))
    }
}
