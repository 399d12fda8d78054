//! The workload is a stranger: a hostile one tries every door in each mode of isolation.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use suijuris_testkit::hostile::{self, Loot};

use crate::rig::{OPEN, Object, STAY, Up, run, stood_by, until};

/// Tells this program that it is the workload.
const PART: &str = "SUIJURIS_HOSTILE";

/// Doors that plain processes leave open: files of the same user are in view, and can be written where the user can.
const OPEN_IN_PLAIN: [&str; 12] = [
    "key of the next epoch",
    "history, read",
    "history, written",
    "secrets of the object",
    "up and over the volume",
    "the way back from the working directory",
    "key of the owner",
    "key of another object",
    "depot, read",
    "depot, written",
    "own rules",
    "own definition",
];

/// Not a test of its own: the workload of those below. Does nothing where it is not asked for.
#[test]
fn plays_its_part() {
    if std::env::var_os(PART).is_none() {
        return;
    }
    let loot = Loot::from_environment().unwrap();
    let without = std::env::var("WITHOUT").unwrap();
    let without: Vec<String> = without.split(',').map(str::to_owned).collect();
    hostile::leave_somebody().unwrap();
    let went: BTreeMap<_, _> = hostile::try_all(&loot, &without).into_iter().collect();
    let report = serde_json::to_vec(&went).unwrap();
    let volume = loot.data.join("volume");
    std::fs::write(volume.join("report.new"), report).unwrap();
    std::fs::rename(volume.join("report.new"), volume.join("report")).unwrap();
    loop {
        std::thread::park();
    }
}

/// Runs the hostile workload as `user`, with these arguments of `up`; what came of each door, which is the same whether the machine was
/// started cold or came of a runtime that stood by.
fn tried(user: Option<u32>, arguments: &[&str], without: &str) -> (BTreeMap<String, String>, String) {
    let cold = tried_from(user, &[arguments, &["--standby", "0"]].concat(), without, false);
    let ahead = tried_from(user, arguments, without, true);
    assert_eq!(ahead, cold);
    ahead
}

/// What is said before anything runs, where something is missing.
const GAPS: &str = "nothing keeps a workload from this user's files, with the keys and the history";

fn tried_from(
    user: Option<u32>,
    arguments: &[&str],
    without: &str,
    is_ahead: bool,
) -> (BTreeMap<String, String>, String) {
    let other = Object::new("", &[OPEN, STAY].concat());
    let object = Object::defined("", &[OPEN, STAY].concat());
    let home = object.home().canonicalize().unwrap();
    let dir = object.dir().canonicalize().unwrap();
    let program = home.join("hostile");
    suijuris_testkit::program::copy(std::env::current_exe().unwrap(), &program);
    let suijuris = home.join("suijuris");
    suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_suijuris"), &suijuris);
    let places = [
        dir.join(".suijuris"),
        dir.clone(),
        home.join("other/.suijuris"),
        home.join(".config/suijuris/owner.key"),
        home.join(".local/share/suijuris/depot"),
        dir.join(".suijuris/run/up.sock"),
    ];
    let variables: String = Loot::VARIABLES
        .iter()
        .zip(&places)
        .map(|(name, place)| format!("{name} = {place:?}\n"))
        .collect();
    object.file(
        "object.toml",
        &format!(
            "name = \"hostile\"\n[workload]\ncommand = [{program:?}, \"--exact\", \"stranger::plays_its_part\", \"--nocapture\"]\n\
             ready = \"spawned\"\n[workload.env]\n{PART} = \"1\"\nWITHOUT = {without:?}\n{variables}"
        ),
    );
    crate::rig::copy(other.dir(), &home.join("other"));
    let start = |dir: &Path| {
        let mut command = match user {
            Some(user) => as_user(&object, user),
            None => object.command(&suijuris),
        };
        command.arg("up").arg(dir).args(arguments);
        Up::start(command)
    };
    if let Some(user) = user {
        let owner = format!("{user}:{user}");
        run(object.command("chown").args(["-R", &owner]).arg(&home)).code(0);
    }
    let neighbour = start(&home.join("other"));
    let up = start(&dir);
    if is_ahead {
        up.is_ready_to_wake();
    }
    up.get("/");
    assert_eq!(stood_by(up.runtime_pid()), is_ahead);
    let report = object.data().join("volume/report");
    until("the report is there", || {
        report.exists()
            || !up.events().is_empty() && up.count(&json!({"event": "workload", "state": "failed"})) > 0
    });
    let machine = up.machine.clone();
    assert_eq!(
        up.complaints().contains(GAPS),
        machine.starts_with("plain"),
        "{machine}: {}",
        up.complaints()
    );
    let went = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    // Whatever was tried, the object is awake, and falls asleep when it is asked to; nobody stays behind.
    assert_eq!(up.count(&json!({"event": "dormant"})), 0, "{:?}", up.events());
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(neighbour.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
    (went, machine)
}

fn as_user(object: &Object, user: u32) -> Command {
    let mut command = object.command("setpriv");
    let user = user.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    command.arg(object.home().join("suijuris"));
    command
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Names of the doors that stood open.
fn open(went: &BTreeMap<String, String>) -> Vec<&str> {
    let open = went.iter().filter(|(_, how)| *how == hostile::OPEN);
    open.map(|(name, _)| name.as_str()).collect()
}

// proves C10
#[test]
fn root_in_its_machine_gets_through_no_door() {
    if !is_root() {
        return;
    }
    let (went, machine) = tried(None, &[], "");
    assert!(machine.starts_with("namespaces,"), "{machine}");
    assert_eq!(open(&went), [""; 0], "{went:#?}");
}

// proves C10
#[test]
fn a_user_in_a_user_namespace_gets_through_no_door() {
    if !is_root() {
        return;
    }
    let (went, machine) = tried(Some(65_534), &[], "");
    if machine.starts_with("namespaces without privilege") {
        assert_eq!(open(&went), [""; 0], "{went:#?}");
    }
}

// proves C10
#[test]
fn plain_processes_leave_files_open_and_no_more() {
    let without = if suijuris_sys::confine::can_keep_signals_within() {
        ""
    } else {
        "standstill of the runtime,end of the runtime"
    };
    let (went, machine) = tried(is_root().then_some(65_534), &["--plain"], without);
    assert!(machine.starts_with("plain processes"), "{machine}");
    let unexpected: Vec<&str> = open(&went)
        .into_iter()
        .filter(|name| !OPEN_IN_PLAIN.contains(name) && *name != "a file beside the rules")
        .collect();
    assert_eq!(unexpected, [""; 0], "{went:#?}");
    assert!(
        open(&went).contains(&"key of the next epoch"),
        "say so where this is not so any more: {went:#?}"
    );
}

// proves C10
#[test]
fn check_says_what_a_workload_is_not_kept_from_on_this_host() {
    let object = Object::new("", &[OPEN, STAY].concat());
    let dir = object.dir().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_suijuris");
    // Nothing is missing for who can make namespaces; who cannot has plain processes.
    let here = object.suijuris(&["check", dir, "--json"]).code(0).json();
    let said = object.suijuris(&["check", dir]).code(0).err;
    assert_eq!(
        said.contains(GAPS),
        here["machine"]["isolation"] == "plain",
        "{said}"
    );
    let forbid = r#"echo 0 > /proc/sys/user/max_pid_namespaces && exec "$0" "$@""#;
    let without = |args: &[&str]| {
        let mut command = object.command("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", forbid]);
        run(command.args(args))
    };
    if without(&["true"]).code != 0 {
        return eprintln!("not on this host");
    }
    let plain = without(&[program, "check", dir]).code(0);
    assert!(
        plain.err.contains("plain processes") && plain.err.contains(GAPS),
        "{}",
        plain.err
    );
}
