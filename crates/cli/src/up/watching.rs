//! `up --watch`: when the definition is saved it is checked, and it is shown which recorded decisions would come out otherwise
//! under it; then it is proposed to the object, at once or when somebody says so. The object decides, as at a start.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::{Event, event};
use suijuris_bundle::{Built, Report};
use suijuris_core::activation::Phase;
use suijuris_core::bundle::Bundle;
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::Approval;
use suijuris_core::manifest::Manifest;
use suijuris_core::owner_request::Ask;
use suijuris_custody::owner::no_content;
use suijuris_supervisor::control::PendingRequest;
use suijuris_supervisor::{Input, ObjectHandle};
use tokio::sync::mpsc;

use super::creation::files;
use crate::approval::{self, Matter};
use crate::event_printer::EventPrinter;
use crate::object_paths::ObjectPaths;
use crate::{here, history, owner, what_if};

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Changed decisions that are told; further ones are counted.
const TOLD: usize = 10;

/// The definition cannot be built.
const CODE_DEFINITION: &str = "definition_broken";

/// What changed takes effect at a start only.
const CODE_RESTART: &str = "restart_needed";

/// What happens to a definition that was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Watch {
    /// It is shown, and `a` proposes it
    Ask,
    /// It is shown and proposed
    Amend,
}

/// What is watched, and for whom.
pub(super) struct Watched {
    pub(super) how: Watch,
    pub(super) paths: ObjectPaths,
    pub(super) approvals: Vec<PathBuf>,
    pub(super) object: ObjectHandle,
    pub(super) server: PublicKey,
    /// The files as they were before this `up` read them.
    pub(super) seen: Files,
    /// The definition that this `up` was started with.
    pub(super) started: Arc<Bundle>,
    pub(super) printer: Rc<EventPrinter>,
}

/// A definition as it was found.
struct Looked {
    built: Built,
    shown: what_if::Amended,
    in_force: bool,
}

/// A definition that is to be proposed.
struct Pending {
    built: Built,
    /// The object was asked to sleep for it: an object is amended asleep.
    asked: bool,
}

impl Watched {
    /// Watches until dropped.
    pub(super) async fn run(self) {
        let Some(dir) = self.paths.object_dir.clone() else {
            return;
        };
        let mut keys = self.keys();
        let mut seen = self.seen.clone();
        let mut changing = false;
        let mut proposed: Option<Built> = None;
        let mut pending: Option<Pending> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(line) = keys.recv() => {
                    if line.trim() == "a" {
                        pending = proposed.take().map(|built| Pending { built, asked: false }).or(pending);
                    }
                }
            }
            let now = fingerprint(&dir);
            if now != seen {
                // An editor may not be done.
                (seen, changing) = (now, true);
            } else if std::mem::take(&mut changing) {
                (proposed, pending) = (None, None);
                let Some(built) = self.look(&dir).await else {
                    continue;
                };
                match self.how {
                    Watch::Ask => proposed = Some(built),
                    Watch::Amend => pending = Some(Pending { built, asked: false }),
                }
            }
            if let Some(waiting) = pending.take() {
                pending = self.amend(waiting).await;
            }
        }
    }

    /// Lines that somebody types, where they are asked.
    fn keys(&self) -> mpsc::Receiver<String> {
        let (typed, keys) = mpsc::channel(1);
        if self.how == Watch::Ask {
            // Ends with this program: nobody can be made to stop reading a terminal.
            std::thread::spawn(move || {
                for line in std::io::stdin().lines().map_while(Result::ok) {
                    if typed.blocking_send(line).is_err() {
                        return;
                    }
                }
            });
        }
        keys
    }

    /// Builds and shows what was saved; that which can be proposed.
    async fn look(&self, dir: &Path) -> Option<Built> {
        let (dir, paths) = (dir.to_owned(), self.paths.clone());
        let looked = tokio::task::spawn_blocking(move || look(&dir, &paths)).await;
        let Looked {
            built,
            shown,
            in_force,
        } = match looked {
            Ok(Ok(Ok(looked))) => looked,
            Ok(Ok(Err(report))) => {
                self.printer.report(&report);
                let message = "the definition has errors: the one in force goes on; save it again";
                self.printer.error(CODE_DEFINITION, message);
                return None;
            }
            Ok(Err(error)) => {
                self.printer.error(CODE_DEFINITION, &format!("{error:#}"));
                return None;
            }
            Err(_panicked) => return None,
        };
        let state = if in_force { "in_force" } else { "changed" };
        self.tell(state, &built, shown);
        if in_force {
            return None;
        }
        if let Some(what) = needs_start(&built.manifest, &self.started.manifest) {
            let message = format!(
                "{what} changes at a start only: end `up` and start it again to propose this definition"
            );
            self.printer.error(CODE_RESTART, &message);
            return None;
        }
        if self.how == Watch::Ask && !self.printer.is_json() {
            crate::terminal::note("type `a` and Enter to propose it to the object");
        }
        Some(built)
    }

    fn tell(&self, state: &str, built: &Built, shown: what_if::Amended) {
        let (judged, would_change) = (shown.judged(), shown.would_change());
        self.printer.event(Event::Definition {
            state: state.to_owned(),
            bundle: built.id.to_string(),
            judged,
            would_change,
            changed: shown.into_changed(TOLD),
        });
    }

    /// Proposes it where the object rests; what is still to be proposed.
    async fn amend(&self, mut pending: Pending) -> Option<Pending> {
        match self.object.phase() {
            Phase::Resting | Phase::BackingOff | Phase::Suspended => {}
            Phase::Starting | Phase::Running | Phase::Resuming if !pending.asked => {
                pending.asked = true;
                self.ask_to_sleep().await;
                return Some(pending);
            }
            Phase::Lost => return None,
            _ => return Some(pending),
        }
        let approvals = match self.approvals(&pending.built) {
            Ok(approvals) => approvals,
            Err(error) => {
                self.printer.error("approvals_missing", &format!("{error:#}"));
                return None;
            }
        };
        let (request, answered) = PendingRequest::amend(files(&pending.built), approvals);
        match self.ask(request, answered).await? {
            Reply::Verdict(event::Verdict { outcome, .. }) if outcome == "permit" => {
                self.tell("in_force", &pending.built, what_if::Amended::nothing());
                None
            }
            // The object's answer was told as it gave it.
            Reply::Verdict(_) => None,
            // It woke between our look and its answer.
            Reply::Error { code, .. } if code == "not_now" => Some(pending),
            Reply::Error { code, message } => {
                self.printer.error(&code, &message);
                None
            }
            Reply::Patched { .. } | Reply::Forked(_) | Reply::Status { .. } => None,
        }
    }

    async fn ask(
        &self,
        request: PendingRequest,
        answered: tokio::sync::oneshot::Receiver<Reply>,
    ) -> Option<Reply> {
        // The actor has ended where it takes or answers nothing any more.
        self.object.send(Input::Request(Box::new(request))).await.ok()?;
        answered.await.ok()
    }

    /// An object is amended asleep: it is asked to sleep as by `suijuris sleep`, and waited for where it refuses.
    async fn ask_to_sleep(&self) {
        let message = "the object is amended when it sleeps: it is asked to";
        if !self.printer.is_json() {
            crate::terminal::note(message);
        }
        let signed = history::open(&self.paths).ok().and_then(|reader| {
            let head = reader.state().head();
            here::sign_quietly(
                &here::SigningContext::of(head),
                Ask::Sleep,
                no_content(),
                self.server,
            )
            .ok()
            .flatten()
            .and_then(|signed| suijuris_words::owner::document(&signed).ok())
        });
        let asks = match signed {
            Some(signed) => ControlRequest::Owner {
                signed: Box::new(signed),
                patch: None,
            },
            None => ControlRequest::Sleep,
        };
        if let Ok((request, answered)) = PendingRequest::of(asks) {
            // Its verdict is told as it gives it; a refusal leaves the definition waiting.
            let _ = self.ask(request, answered).await;
        }
    }

    fn approvals(&self, built: &Built) -> anyhow::Result<Vec<Approval>> {
        let reader = history::open(&self.paths)?;
        let key = owner::existing_key()?;
        let head = reader.state().head();
        approval::gather(&Matter::Amend(built.id), head, &self.approvals, key.as_ref())
    }
}

fn look(dir: &Path, paths: &ObjectPaths) -> anyhow::Result<Result<Looked, Report>> {
    let built = match suijuris_bundle::build(dir) {
        Ok(built) => built,
        Err(report) => return Ok(Err(report)),
    };
    let reader = history::open(paths).context("the history cannot be read")?;
    let in_force = reader.state().head().bundle == built.id;
    let shown = if in_force {
        what_if::Amended::nothing()
    } else {
        what_if::under_rules(&reader, &built)?
    };
    Ok(Ok(Looked {
        built,
        shown,
        in_force,
    }))
}

/// What of a definition this process cannot change while it runs.
fn needs_start(proposed: &Manifest, started: &Manifest) -> Option<&'static str> {
    if proposed.class.is_some() != started.class.is_some() {
        return Some("[class]");
    }
    if proposed.gate.protocol != started.gate.protocol {
        return Some("gate.protocol");
    }
    let witness = |manifest: &Manifest| (manifest.witness, manifest.lease, manifest.grace);
    (witness(proposed) != witness(started)).then_some("[witness]")
}

/// Names, times and sizes of the files that a definition may consist of.
pub(super) type Files = Vec<(std::ffi::OsString, Option<SystemTime>, u64)>;

/// The files in `dir`, as they are now.
pub(super) fn fingerprint(dir: &Path) -> Files {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let file = |entry: std::fs::DirEntry| {
        let data = std::fs::metadata(entry.path())
            .ok()
            .filter(std::fs::Metadata::is_file)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        (!hidden).then(|| (entry.file_name(), data.modified().ok(), data.len()))
    };
    let mut files: Files = entries.filter_map(file).collect();
    files.sort_unstable();
    files
}
