//! Children that begin with the memory of the object's suspended machine.
//!
//! Asked for one, an object in a suspended machine has that stand still for good: it is the object's own next machine, and that of each
//! child, all as copies. Then the object is at rest and open, and a child is made like any other (`suijuris_store::fork`): the rules
//! decide, with `context.warm`, its owners sign for it, the parent records it. What stands still is copied for it last: killed before
//! that, it is a child all the same, whose machine boots.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use suijuris_api::control::{Forked, Reply};
use suijuris_core::decide::{Verdict, View, decide};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::{Decision, Fired, Statement};
use suijuris_core::time::Now;
use suijuris_custody::chain;
use suijuris_custody::write::unwitnessed;
use suijuris_store::fork::{self, ForkError, ForkRequest, Staged};
use suijuris_store::{ObjectDir, Writer};
use suijuris_vehicle::{Driver, Machine as _, State};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::ObjectActor;
use super::requests::{CODE_NOT_NOW, refused};
use crate::control::{CODE_BAD_REQUEST, Forking, What, error};
use crate::machine::copied::Frozen;

/// The bundle does not allow it.
const CODE_NOT_ALLOWED: &str = "warm_forks_not_allowed";

/// Nothing stands still that a child could begin with.
const CODE_NOTHING: &str = "no_suspended_machine";

/// What became of a child.
enum Child {
    /// It waits for its owners.
    Prepared(Staged, Vec<String>, usize),
    /// It is born, by this record of its parent.
    Born(String, u64),
}

impl<D: Driver> ObjectActor<D> {
    /// What is noted of the suspended machine where it is to stand still for good, because a child was asked for; none where it is to end.
    pub(super) fn tag_for_forks(&self) -> Option<String> {
        let mut asked = self.requests.values();
        let asked = asked.any(|request| matches!(request.asked.what, What::Fork(_)));
        let running = &self.machine.as_ref()?.running;
        let may = asked
            && self.prepared.bundle().manifest.warm_forks
            && running.machine.state() == State::Suspended
            // One that has it in its memory gives it to no copy.
            && self.object_dir.key_that_is_kept().is_some();
        let note = running.note.as_ref().filter(|_| may)?;
        let look = |at_door: &super::AtDoor| at_door.look(|state| (state.head().bundle, state.head().epoch));
        let (bundle, epoch) = self.at_door.as_ref().map(look)?;
        Frozen::of(note, bundle, epoch).tag()
    }

    /// Proposes a child to the object.
    pub(super) fn fork(&mut self, forking: Box<Forking>, answer: oneshot::Sender<Reply>) {
        let deny = |code: &str, why: &str| error(code, why.to_owned());
        if !self.prepared.bundle().manifest.warm_forks {
            let why = "the bundle does not allow children with the memory of its machine, in which its workload may have secrets: set \
                       `warm_forks = true` in [lineage] and amend the object, or fork it without --warm";
            return drop(answer.send(deny(CODE_NOT_ALLOWED, why)));
        }
        if !self.services.driver.describe().copies {
            let why = format!(
                "machines of `{}` cannot be copied with their memory: serve the object with --vehicle qemu, or fork it without --warm",
                self.services.driver.describe().vehicle
            );
            return drop(answer.send(error(CODE_NOTHING, why)));
        }
        let reading = self.services.clock.reading();
        let host = self.services.host.clone();
        let Some(at_door) = self.at_door.as_mut() else {
            return drop(answer.send(deny(CODE_NOT_NOW, "the object is moving: try again")));
        };
        let now = at_door.door().now(reading);
        let Some(writer) = at_door.writer() else {
            return drop(answer.send(deny(CODE_NOT_NOW, "the object is moving: try again")));
        };
        let (bundle, epoch) = {
            let state = writer.published();
            (state.head().bundle, state.head().epoch)
        };
        let Some(frozen) = Frozen::for_start(&self.services.driver, &self.paths.data, bundle, epoch) else {
            let why = "the object has no suspended machine that a child could begin with: wake it, let it fall asleep, and ask again";
            return drop(answer.send(deny(CODE_NOTHING, why)));
        };
        self.reporter
            .proposal(Action::Fork, "controller", None, &forking.name);
        let inputs = |by| {
            let mut inputs = Inputs::new(now, by, host.clone());
            inputs.warm = true;
            inputs
        };
        let decision = match decided(writer, self.prepared.bundle(), &forking, inputs) {
            Ok(decision) => decision,
            Err(decision) => {
                let words = self.reporter.verdict(&decision);
                let due = at_door.refused(&decision, Fired::new(), reading);
                let recording = at_door.record(due, reading);
                self.counted = true;
                self.tell(recording, async move {
                    let _ = answer.send(Reply::Verdict(words));
                });
                return;
            }
        };
        let _told = self.reporter.verdict(&decision);
        let random = match random() {
            Ok(random) => random,
            Err(wrong) => return drop(answer.send(error(CODE_BAD_REQUEST, chain(&wrong)))),
        };
        let data = forking.data.clone();
        let made = made(writer, *forking, random, decision, now);
        let needed = writer.published().head().threshold;
        let parent = self.claim.object().to_string();
        let forked = |object: String, seq, left_out, approved| Forked {
            object,
            parent,
            data: data.display().to_string(),
            seq,
            left_out,
            approved,
            needed,
            cold: None,
            url: None,
        };
        match made {
            Err(wrong) => drop(answer.send(error(CODE_BAD_REQUEST, chain(&wrong)))),
            Ok(Child::Prepared(staged, left_out, found)) => {
                let prepared = forked(staged.child.to_string(), None, left_out, found);
                drop(answer.send(Reply::Forked(Box::new(prepared))));
            }
            Ok(Child::Born(child, seq)) => {
                let born = forked(child, Some(seq), Vec::new(), usize::try_from(needed).unwrap_or(0));
                self.give(frozen, born, (data, seq), answer);
            }
        }
    }

    /// Gives the child that was born what it begins with.
    fn give(
        &mut self,
        frozen: Frozen,
        mut born: Forked,
        (to, seq): (PathBuf, u64),
        answer: oneshot::Sender<Reply>,
    ) {
        let (claim, services, from) = (self.claim.clone(), self.services.clone(), self.paths.data.clone());
        self.tasks.spawn_local(async move {
            if let Err(why) = claim.acknowledge(seq).await {
                return drop(answer.send(refused(&unwitnessed(why))));
            }
            let volumes = (from.join("volume"), to.clone());
            let copied = tokio::task::spawn_blocking(move || copy_volume(&volumes.0, &volumes.1)).await;
            let copied = copied.unwrap_or_else(|gone| Err(gone.to_string()));
            let given = match (copied, frozen.for_child().tag()) {
                (Ok(()), Some(tag)) => {
                    let given = services.driver.copy_frozen(&from, &to, &tag).await;
                    given.map_err(|error| chain(&error))
                }
                (Err(why), _) => Err(why),
                (_, None) => Err("its machine cannot be noted".to_owned()),
            };
            born.cold = given.err();
            let _ = answer.send(Reply::Forked(Box::new(born)));
        });
    }
}

fn random() -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), getrandom::Error> {
    let (mut seed, mut nonce) = (Zeroizing::new([0; 32]), vec![0; 16]);
    getrandom::fill(seed.as_mut_slice())?;
    getrandom::fill(&mut nonce)?;
    Ok((seed, nonce))
}

/// The object's own decision.
fn decided(
    writer: &Writer,
    bundle: &suijuris_core::bundle::Bundle,
    forking: &Forking,
    inputs: impl Fn(Principal) -> Inputs,
) -> Result<Decision, Box<Decision>> {
    let state = writer.published();
    let head = state.head();
    let statement = Statement {
        object: head.object,
        action: Action::Fork,
        content: *head.record.digest(),
    };
    let by = Principal::approving(&statement, &forking.asks, &head.controllers);
    match decide(
        View::new(&state, &bundle.rules),
        Action::Fork,
        head.object,
        inputs(by),
    ) {
        Verdict::Permit(_, decision) => Ok(*decision),
        Verdict::Refuse(decision) => Err(decision),
    }
}

/// Prepares the child, or lets the prepared one be born.
fn made(
    writer: &Writer,
    forking: Forking,
    (seed, nonce): (Zeroizing<[u8; 32]>, Vec<u8>),
    decision: Decision,
    now: Now,
) -> Result<Child, ForkError> {
    let home = ObjectDir::at(&forking.data);
    if let Some(parent) = fork::finish(writer.object_dir(), &home)? {
        // The parent had recorded it, and whoever did had no time for more.
        let child = suijuris_store::Reader::open(&home, suijuris_store::Depth::Tail)?;
        return Ok(Child::Born(child.state().head().object.to_string(), parent.seq));
    }
    let threshold = writer.published().head().threshold;
    if forking.approvals.is_empty() {
        let id = writer.published().head().bundle;
        let request = ForkRequest {
            name: forking.name,
            controllers: None,
            nonce,
            at: now.at,
            bundle: writer.bundles().files(&id)?,
            seed,
            secrets: forking.secrets,
        };
        let prepared = fork::stage(writer, &home, request)?;
        let left_out = prepared.left_out.iter().map(ToString::to_string).collect();
        return Ok(Child::Prepared(prepared.staged, left_out, 0));
    }
    let staged = fork::staged(&home)?.ok_or_else(|| ForkError::NothingStaged(forking.data.clone()))?;
    let found = {
        let state = writer.published();
        staged
            .statement()
            .approved_by(&forking.approvals, &state.head().controllers)
    };
    if u32::try_from(found).is_ok_and(|found| found < threshold) {
        return Ok(Child::Prepared(staged, Vec::new(), found));
    }
    let child = staged.child.to_string();
    let parent = fork::commit(writer, &home, decision, forking.approvals, now.at)?;
    Ok(Child::Born(child, parent.seq))
}

/// Copies the workload's files, of shared blocks where the file system can do that; whole or not at all.
fn copy_volume(from: &Path, child: &Path) -> Result<(), String> {
    let (coming, to) = (child.join("volume.coming"), child.join("volume"));
    if from.symlink_metadata().is_err() || to.symlink_metadata().is_ok() {
        return Ok(());
    }
    let _ = std::fs::remove_dir_all(&coming);
    let mut command = Command::new("cp");
    command
        .args(["-a", "--reflink=auto", "--sparse=always", "--"])
        .arg(from)
        .arg(&coming)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let ran = command
        .output()
        .map_err(|error| format!("the volume cannot be copied: {error}"))?;
    if !ran.status.success() {
        let _ = std::fs::remove_dir_all(&coming);
        let why = String::from_utf8_lossy(&ran.stderr);
        return Err(format!(
            "the volume cannot be copied: {}",
            why.lines().last().unwrap_or_default()
        ));
    }
    std::fs::rename(&coming, &to).map_err(|error| format!("the volume cannot be copied: {error}"))
}
