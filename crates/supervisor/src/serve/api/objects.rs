//! Objects and classes: their documents, and what is asked of an object's actor.

use std::rc::Rc;

use suijuris_api::Problem;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::daemon::{Amend, Class, ClassList, Object, ObjectList, PatchMemory, Signed, Terminate};
use suijuris_api::owner::SignedRequest;
use suijuris_api::routes::Operation;
use suijuris_core::id::ObjectId;
use suijuris_vehicle::Driver;
use tokio::sync::oneshot;

use super::query::Query;
use super::{Answer, Api, Asked, adding, bad, elsewhere, json, read};
use crate::actor::Input;
use crate::control::{CODE_BAD_REQUEST, PendingRequest};
use crate::messages::Act;
use crate::serve::class_entry::ClassEntry;
use crate::serve::entry::Entry;

/// Objects of a page, unless told otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 10_000;

impl<D: Driver> Api<D> {
    pub(super) async fn of_object(
        &self,
        operation: Operation,
        entry: &Rc<Entry>,
        which: &str,
        asked: Asked,
    ) -> Result<Answer, Problem> {
        match operation {
            Operation::ShowObject => Ok(json(&self.document(entry))),
            Operation::RemoveObject => {
                let (roster, entry, removal) = (self.roster.clone(), entry.clone(), read(asked).await?);
                let work = async move { roster.remove(&entry, removal).await };
                Ok(json(&self.roster.to_the_end(work).await?))
            }
            Operation::Migrate => {
                let (roster, entry, moving) = (self.roster.clone(), entry.clone(), read(asked).await?);
                let work = async move { roster.migrate(&entry, moving).await };
                Ok(json(&self.roster.to_the_end(work).await?))
            }
            Operation::Fork => {
                let (roster, entry, fork) = (self.roster.clone(), entry.clone(), read(asked).await?);
                let work = async move { roster.fork(&entry, fork).await };
                Ok(json(&self.roster.to_the_end(work).await?))
            }
            Operation::Wake => {
                let Signed { signed } = read(asked).await?;
                self.ask(entry, question(signed, None, ControlRequest::Wake))
                    .await
            }
            Operation::Sleep => {
                let Signed { signed } = read(asked).await?;
                self.ask(entry, question(signed, None, ControlRequest::Sleep))
                    .await
            }
            Operation::Amend => {
                let Amend { bundle, approvals } = read(asked).await?;
                let files = adding::files(&bundle)?;
                let approvals = adding::approvals(&approvals)?;
                let approvals = self.with_kept(entry, &files, approvals).await?;
                let (request, answered) = PendingRequest::amend(files, approvals);
                self.put(entry, request, answered).await
            }
            Operation::Terminate => {
                let Terminate { approvals } = read(asked).await?;
                // What is no signature is told before the object is asked.
                adding::approvals(&approvals)?;
                self.ask(entry, ControlRequest::Terminate { approvals }).await
            }
            Operation::PatchMemory => {
                let PatchMemory { patch, signed } = read(asked).await?;
                let unsigned = ControlRequest::Patch(patch.clone());
                self.ask(entry, question(signed, Some(patch), unsigned)).await
            }
            Operation::ListMessages => self.messages(entry, &asked.query).await,
            Operation::RetryMessage => self.act(entry, which, Act::Retry).await,
            Operation::DropMessage => self.act(entry, which, Act::Drop).await,
            Operation::Send => self.send(entry, asked).await,
            Operation::ListApprovals => self.approvals(entry).await,
            Operation::Approve => self.approve(entry, read(asked).await?).await,
            Operation::FollowLog => self.follow_log(entry, &asked).await,
            Operation::WatchMemory => self.watch_memory(entry, &asked).await,
            Operation::State
            | Operation::Memory
            | Operation::Log
            | Operation::Why
            | Operation::WhatIf
            | Operation::Rejudge
            | Operation::Verify => self.question(operation, entry, which, asked).await,
            _ => Err(elsewhere()),
        }
    }

    /// Asks the object's actor.
    async fn ask(&self, entry: &Entry, question: ControlRequest) -> Result<Answer, Problem> {
        match PendingRequest::of(question) {
            Ok((request, answered)) => self.put(entry, request, answered).await,
            Err(Reply::Error { code, message }) if code == CODE_BAD_REQUEST => Err(bad(&message)),
            Err(reply) => Ok(json(&reply)),
        }
    }

    async fn put(
        &self,
        entry: &Entry,
        request: PendingRequest,
        answered: oneshot::Receiver<Reply>,
    ) -> Result<Answer, Problem> {
        let ending = || {
            Problem::new(503, "not_now", "The object is being opened again")
                .with_detail("ask again in a moment")
        };
        let handle = entry.handle().await?;
        let sent = handle.send(Input::Request(Box::new(request))).await;
        sent.map_err(|_over| ending())?;
        let reply: Reply = answered.await.map_err(|_over| ending())?;
        Ok(json(&reply))
    }

    pub(super) fn objects(&self, query: &Query) -> Result<ObjectList, Problem> {
        let after: Option<ObjectId> = query.read("after", "id of an object")?;
        let limit = query.read("limit", "number")?.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(bad(&format!("`limit` is from 1 to {MAX_PAGE}")));
        }
        let wanted = |entry: &Rc<Entry>| {
            let class = entry.origin.instance.as_ref().map(|(class, _)| class.as_str());
            query.get("class").is_none_or(|wanted| class == Some(wanted))
                && query.get("phase").is_none_or(|wanted| entry.phase() == wanted)
                && query
                    .get("data")
                    .is_none_or(|wanted| entry.paths.data.as_os_str() == wanted)
                && after.is_none_or(|after| entry.origin.object > after)
        };
        let entries = self.roster.entries();
        let mut found = entries.iter().filter(|entry| wanted(entry));
        let objects: Vec<Object> = found
            .by_ref()
            .take(limit)
            .map(|entry| self.document(entry))
            .collect();
        let more = found.next().is_some();
        let next = objects.last().filter(|_| more).map(|last| last.object.clone());
        Ok(ObjectList { objects, next })
    }

    pub(super) fn document(&self, entry: &Entry) -> Object {
        let origin = &entry.origin;
        Object {
            object: origin.object.to_string(),
            name: origin.name.clone(),
            class: origin.instance.as_ref().map(|(class, _)| class.clone()),
            key: origin.instance.as_ref().map(|(_, key)| key.clone()),
            phase: entry.phase().to_owned(),
            url: self.roster.url(origin),
            data: entry.paths.data.clone(),
            object_dir: entry.paths.object_dir.clone(),
            awake_seconds: entry.awake().as_secs(),
            epoch: entry.epoch(),
        }
    }

    pub(super) fn classes(&self) -> ClassList {
        let classes = self.roster.classes();
        let classes = classes.iter().map(|class| self.class(class)).collect();
        ClassList { classes }
    }

    pub(super) fn find_class(&self, name: &str) -> Result<Rc<ClassEntry>, Problem> {
        let shown: String = name.chars().take(128).collect();
        let no_class = || {
            Problem::new(404, "unknown_object", "No such class is here")
                .with_detail(format!("`{shown}` is no class of this daemon"))
        };
        self.roster.class(name).ok_or_else(no_class)
    }

    pub(super) fn class(&self, class: &ClassEntry) -> Class {
        Class {
            class: class.note.name.clone(),
            id: class.id.to_string(),
            instances: u64::try_from(class.len()).unwrap_or(u64::MAX),
            max_instances: class.max_instances(),
            awake_seconds: self.awake_seconds(&class.note.name),
            bundle: class.note.bundle.to_string(),
            url: self.roster.url_of("KEY", &class.note.name),
            object_dir: class.note.object_dir.clone(),
        }
    }

    /// How long the instances of a class were awake.
    fn awake_seconds(&self, class: &str) -> u64 {
        let entries = self.roster.entries();
        let of_class = entries.iter().filter(|entry| {
            let instance = entry.origin.instance.as_ref();
            instance.is_some_and(|(name, _)| name == class)
        });
        of_class.map(|entry| entry.awake().as_secs()).sum()
    }
}

/// The request as an actor takes it.
fn question(
    signed: Option<Box<SignedRequest>>,
    patch: Option<suijuris_api::agent::Patch>,
    unsigned: ControlRequest,
) -> ControlRequest {
    match signed {
        Some(signed) => ControlRequest::Owner { signed, patch },
        None => unsigned,
    }
}
