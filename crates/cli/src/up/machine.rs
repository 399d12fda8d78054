//! The machine of one activation: the runtime as a process of its own, in namespaces where the host allows them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_api::channel::{self, Channel};
use suijuris_core::manifest;
use suijuris_custody::claim::LeaseGrant;
use suijuris_runtime::config::Launch;
use suijuris_vehicle::process::{Machine, Process};
use suijuris_vehicle::{Driver as _, Machine as _, Network, Output, Program, Since, Spec};
use tokio::task::JoinSet;

use super::say::Say;
use crate::place::Place;

/// Number of the listening socket inside the machine.
const LISTEN_FD: i32 = 3;
/// Number of the channel inside the machine.
const CONTROL_FD: i32 = 4;
/// Number of the way to the depot inside the machine.
const RELAY_FD: i32 = 5;
/// Number of what keeps the object held as long as the machine runs.
const HOLD_FD: i32 = 6;

/// A running machine and the channel to its runtime.
pub(super) struct Running {
    pub(super) machine: Machine,
    pub(super) channel: Rc<Channel>,
}

/// Why a runtime did not know what it was asked, in words.
pub(super) fn another_version() -> String {
    let (program, _) = runtime();
    format!(
        "the runtime `{}` is of another version than this program: build or install both together, or remove it",
        program.display()
    )
}

/// The program that is the runtime, and its first arguments: a static `suijuris-init` beside this program, or this
/// program itself.
fn runtime() -> (PathBuf, Vec<OsString>) {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("suijuris-init")));
    match beside.filter(|path| path.is_file()) {
        Some(path) => (path, vec!["suijuris-init".into()]),
        None => (
            PathBuf::from("/proc/self/exe"),
            vec!["suijuris".into(), "__init".into()],
        ),
    }
}

/// Starts a machine for the object of `place`.
pub(super) async fn start(
    driver: &Process,
    place: &Place,
    listener: &TcpListener,
    wanted: manifest::Network,
    launch: &Launch,
    grant: LeaseGrant,
) -> anyhow::Result<Running> {
    let (ours, theirs) = channel::pair().context("no channel to the machine can be made")?;
    let (exe, mut argv) = runtime();
    let object_dir = place.object_dir.as_deref().unwrap_or(&place.data);
    let argument = |name: &str, path: &Path| [OsString::from(name), path.as_os_str().to_owned()];
    argv.extend(argument("--data", &place.data));
    argv.extend(argument("--object", object_dir));
    argv.extend(argument("--agent-socket", &place.agent_socket()));
    argv.extend([OsString::from("--listen-fd"), LISTEN_FD.to_string().into()]);
    argv.extend([OsString::from("--control-fd"), CONTROL_FD.to_string().into()]);
    argv.extend([OsString::from("--launch"), serde_json::to_string(launch)?.into()]);
    let mut inherit = vec![
        (OwnedFd::from(listener.try_clone()?), LISTEN_FD),
        (theirs, CONTROL_FD),
    ];
    if let Some(depot) = grant.relay {
        argv.extend([OsString::from("--relay-fd"), RELAY_FD.to_string().into()]);
        inherit.push((depot, RELAY_FD));
    }
    if let Some(held) = grant.presence.as_ref().and_then(|held| held.descriptor()) {
        argv.extend([OsString::from("--hold-fd"), HOLD_FD.to_string().into()]);
        inherit.push((held.try_clone_to_owned()?, HOLD_FD));
    }
    let private = wanted == manifest::Network::Private && driver.describe().private_network;
    let spec = Spec {
        program: Program::Command {
            exe: exe.clone(),
            argv,
        },
        env: environment(),
        cwd: object_dir.to_owned(),
        inherit,
        network: if private { Network::Private } else { Network::Host },
        stdout: Output::Lines,
        stderr: Output::Lines,
        ..Spec::new("object", exe)
    };
    let machine = driver
        .start(spec)
        .await
        .context("the machine cannot be started")?;
    Ok(Running {
        machine,
        channel: Rc::new(Channel::new(ours)?),
    })
}

/// What the runtime sees of the environment; the workload gets less.
fn environment() -> BTreeMap<OsString, OsString> {
    let kept = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE"];
    kept.iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}

impl Running {
    /// Prints what machine and workload write, line by line; the task ends with the machine.
    pub(super) fn forward_output(&self, say: &Rc<Say>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Ok(mut lines) = self.machine.output(Since::Kept) {
            let say = say.clone();
            tasks.spawn_local(async move {
                while let Some(line) = lines.next().await {
                    let line = line.text.trim_end().to_owned();
                    say.event(Event::Output { line });
                }
            });
        }
        tasks
    }
}
