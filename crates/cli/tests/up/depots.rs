//! Objects over each kind of depot, over depots in trouble, and copies that were frozen meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suijuris_testkit::proxy::Proxy;
use suijuris_testkit::servers;

use crate::rig::{OPEN, Object, Ran, STAY, Up, kill, read_answer, run, until};

const NOTE: &str = "[memory.note]\ntype = \"string\"\n";

/// A depot, and what its clients need in their environment.
struct Kept {
    url: String,
    env: Vec<(&'static str, &'static str)>,
}

/// A prefix that no other depot of this run has.
fn prefix(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

fn s3(test: &str) -> Kept {
    let (url, env) = servers::s3_depot(&prefix(test));
    Kept { url, env }
}

fn azure(test: &str) -> Kept {
    let (url, env) = servers::azure_depot(&prefix(test));
    Kept { url, env }
}

fn etcd(test: &str) -> Kept {
    let url = servers::etcd_depot(&prefix(test));
    Kept { url, env: Vec::new() }
}

/// S3 behind a proxy, which can be told to make trouble.
fn troubled(test: &str) -> (Proxy, Kept) {
    let proxy = Proxy::before(servers::s3());
    let (url, env) = servers::s3_depot(&prefix(test));
    let url = url.replace(&servers::s3().to_string(), &proxy.address.to_string());
    (proxy, Kept { url, env })
}

impl Kept {
    fn command(&self, object: &Object, program: &str, args: &[&str]) -> Command {
        let mut command = object.command(program);
        command
            .args(args)
            .env("SUIJURIS_DEPOT", &self.url)
            .envs(self.env.iter().copied());
        command
    }

    fn up(&self, object: &Object, data: &Path) -> Up {
        let args = ["up", text(object.dir()), "--data", text(data)];
        Up::start(self.command(object, env!("CARGO_BIN_EXE_suijuris"), &args))
    }

    /// `up` where it is not to serve.
    fn up_fails(&self, object: &Object, data: &Path) -> Ran {
        let program = env!("CARGO_BIN_EXE_suijuris");
        let args = [
            "60",
            program,
            "up",
            "--json",
            text(object.dir()),
            "--data",
            text(data),
        ];
        run(&mut self.command(object, "timeout", &args))
    }

    fn refused(&self, object: &Object, data: &Path) -> Value {
        let lines = self.up_fails(object, data).code(1).lines();
        let refused = lines.iter().find(|event| event["event"] == "refused");
        refused.unwrap_or_else(|| panic!("{lines:?}")).clone()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn object(witness: &str) -> Object {
    Object::new(&format!("{NOTE}{witness}"), &format!("{OPEN}{STAY}"))
}

/// The object moves as a capsule, and where it came from it is refused from then on.
fn moves(kept: &Kept) {
    let object = object("");
    let up = kept.up(&object, &object.data());
    let id = up.id.clone();
    up.set(&json!({"note": "travels"}));
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let (file, data) = (object.home().join("probe.sui"), object.home().join("elsewhere"));
    let exported = object
        .ask(&["export", "-o", text(&file), "--json"])
        .code(0)
        .json();
    let imported = object
        .suijuris(&["import", text(&file), "--data", text(&data), "--json"])
        .code(0)
        .json();
    assert_eq!(
        (&imported["object"], &imported["head"]),
        (&json!(id), &exported["head"])
    );
    let mut there = kept.up(&object, &data);
    assert_eq!(there.id, id);
    there.get("/").status(200);
    assert_eq!(there.wait_event("woke")["epoch"], json!(2));
    let note = object.suijuris(&["memory", "get", text(&data), "note"]).code(0);
    assert_eq!(note.out.trim(), "travels");
    // While it runs there the other is a twin, afterwards an older copy.
    assert_eq!(kept.refused(&object, &object.data())["reason"], "twin");
    assert_eq!(there.interrupt(), Some(0));
    let refused = kept.refused(&object, &object.data());
    assert!(
        refused["evidence"]["witnessed"]["seq"].as_u64().is_some(),
        "{refused}"
    );
    object.suijuris(&["verify", text(&data)]).code(0);
}

// proves B4
// proves B6
#[test]
fn an_object_moves_over_s3() {
    moves(&s3("moves"));
}

// proves B4
// proves B6
#[test]
fn an_object_moves_over_etcd() {
    moves(&etcd("moves"));
}

// proves B4
// proves B6
#[test]
fn an_object_moves_over_azure() {
    moves(&azure("moves"));
}

/// Everything that runs of an object, `up` included.
struct SuspendedTree(Vec<u32>);

impl SuspendedTree {
    /// As a host freezes a machine with all that is in it.
    fn suspend(up: &Up) -> Self {
        let mut pids = vec![up.pid()];
        pids.extend(up.machine_pids());
        pids.iter().for_each(|pid| kill(*pid, "STOP"));
        Self(pids)
    }

    /// As when the host loses its power: nothing of it runs again.
    fn end(self, object: &Object) {
        // Some take others along.
        let kill = |pid: &u32| Command::new("kill").args(["-KILL", &pid.to_string()]).output();
        assert!(self.0.iter().all(|pid| kill(pid).is_ok()));
        object.nobody_is_left();
    }

    fn resume(self) {
        self.0.iter().rev().for_each(|pid| kill(*pid, "CONT"));
    }
}

fn image(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Records of an object's data.
fn log(object: &Object, data: &Path, kind: &str) -> Vec<Value> {
    let ran = object
        .suijuris(&["log", text(data), "--json", "--kind", kind])
        .code(0);
    ran.lines()
}

/// Frozen with everything around it, copied, and the copy took over: thawed, it serves no further byte.
fn is_thawed_twice(kept: &Kept) {
    let object = object("[witness]\nlease = \"2s\"\n");
    let mut first = kept.up(&object, &object.data());
    first.get("/before").status(200);
    first.wait_event("woke");
    let suspended = SuspendedTree::suspend(&first);
    let copy = object.home().join("copy");
    image(&object.data(), &copy);
    // Whoever asks the frozen one now waits.
    let mut waiting = first.connect();
    waiting
        .write_all(b"GET /meanwhile HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    // The copy waits out the lease, then it is the object.
    let mut second = kept.up(&object, &copy);
    second.get("/after").status(200);
    assert_eq!(second.wait_event("woke")["epoch"], json!(2));
    suspended.resume();
    let answer = read_answer(&mut waiting);
    assert!(answer.is_none_or(|answer| answer.status != 200));
    let refused = first.wait(json!({"event": "refused", "reason": "twin"}));
    assert!(
        refused["evidence"]["witnessed"]["epoch"].as_u64() >= Some(2),
        "{refused}"
    );
    assert_eq!(first.ended().code(), Some(1));
    assert!(!object.received().contains("/meanwhile"), "{}", object.received());
    second.get("/still").status(200);
    assert_eq!(second.interrupt(), Some(0));
    // The copy's activation is one of its own: what it commits to is not what the frozen one did.
    let commitments: Vec<Value> = log(&object, &copy, "woke")
        .iter()
        .map(|woke| woke["body"]["next"].clone())
        .collect();
    assert_eq!(commitments.len(), 2);
    assert_ne!(commitments[0], commitments[1]);
    assert_eq!(kept.refused(&object, &object.data())["event"], "refused");
}

// proves C6
// proves B6
#[test]
fn of_a_machine_thawed_twice_over_s3_one_goes_on() {
    is_thawed_twice(&s3("twice"));
}

// proves C6
// proves B6
#[test]
fn of_a_machine_thawed_twice_over_etcd_one_goes_on() {
    is_thawed_twice(&etcd("twice"));
}

/// Frozen with everything around it, and no copy was made: it waits for the lease of one that might have been, decides
/// again, and goes on under a fresh name, asleep and awake.
fn goes_on_alone(kept: &Kept) {
    let rules = format!(
        "{OPEN}@id(\"brief\") permit (principal, action == Action::\"remain\", resource) when {{ context.activity.idle < duration(\"500ms\") || !resource.memory.done }};"
    );
    let definition = "[memory]\ndone = { type = \"bool\", default = false }\n[witness]\nlease = \"2s\"\n";
    let object = Object::new(definition, &rules);
    let mut up = kept.up(&object, &object.data());
    up.get("/before").status(200);
    up.wait_event("woke");
    let suspended = SuspendedTree::suspend(&up);
    // Longer than a process that is only slow stands still.
    std::thread::sleep(Duration::from_millis(suijuris_custody::clock::FREEZE_MS + 1_000));
    suspended.resume();
    up.get("/after").status(200);
    up.wait_event("resumed");
    assert!(up.set(&json!({"done": true}))["patched"].is_object());
    up.wait_event("dormant");
    up.get("/again").status(200);
    assert_eq!(up.wait_event("woke")["epoch"], json!(3));
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
    assert_eq!(epochs(&object), [1, 2, 3]);
}

fn epochs(object: &Object) -> Vec<u64> {
    let began = ["woke", "resumed"];
    let log = object.log();
    let began = log
        .iter()
        .filter(|record| began.contains(&record["kind"].as_str().unwrap()));
    began.map(|record| record["epoch"].as_u64().unwrap()).collect()
}

// proves C6
#[test]
fn a_machine_that_stood_still_over_s3_goes_on_once_no_copy_can_run() {
    goes_on_alone(&s3("alone"));
}

// proves C6
#[test]
fn a_machine_that_stood_still_over_etcd_goes_on_once_no_copy_can_run() {
    goes_on_alone(&etcd("alone"));
}

// proves C6
#[test]
fn a_machine_that_stood_still_decides_again_before_the_next_byte() {
    let definition = format!("{NOTE}open = {{ type = \"bool\", default = true }}\n");
    let definition = definition.replace(
        "[memory.note]\ntype = \"string\"\n",
        "[memory]\nnote = \"string\"\n",
    );
    let rules = format!(
        "{OPEN}{STAY}@id(\"closed\") forbid (principal, action in [Action::\"wake\", Action::\"admit\"], resource) when {{ !resource.memory.open }};\n"
    );
    let object = Object::new(&definition, &rules);
    let mut up = object.up();
    up.get("/before").status(200);
    assert_eq!(up.wait_event("woke")["epoch"], json!(1));
    let pids = up.machine_pids();
    pids.iter().for_each(|pid| kill(*pid, "STOP"));
    let mut waiting = up.connect();
    waiting
        .write_all(b"GET /meanwhile HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    // Longer than a process that is only slow stands still.
    std::thread::sleep(Duration::from_millis(suijuris_custody::clock::FREEZE_MS + 1_000));
    pids.iter().rev().for_each(|pid| kill(*pid, "CONT"));
    let answer = read_answer(&mut waiting).unwrap();
    assert_eq!(answer.status, 200);
    let resumed = up.wait_event("resumed");
    assert_eq!(resumed["epoch"], json!(2), "{resumed}");
    assert_eq!(up.interrupt(), Some(0));
    let (woke, resumed) = (object.records("woke"), object.records("resumed"));
    assert_eq!(resumed[0]["verdict"]["action"], "wake");
    assert_ne!(
        woke[0]["body"]["next"], resumed[0]["body"]["next"],
        "the key is fresh"
    );
    object.verify();
}

// proves B6
#[test]
fn while_a_required_witness_is_away_nothing_is_served_or_acknowledged_and_then_it_is_again() {
    let (proxy, kept) = troubled("required");
    let object = object("[witness]\nstrength = \"required\"\nlease = \"2s\"\n");
    let up = kept.up(&object, &object.data());
    up.get("/").status(200);
    assert!(
        up.set(&json!({"note": "kept"}))["patched"].is_object(),
        "acknowledged"
    );
    proxy.refuse();
    // Until its lease is over it may serve; then it may not, and says why.
    let mut last = None;
    until("it stops serving", || up.get("/").status == 503);
    until("it is refused while no witness answers", || {
        let answer = up.get("/");
        answer.status == 503 && answer.body.contains("unavailable")
    });
    last.replace(up.set(&json!({"note": "lost"})));
    assert!(last.unwrap()["patched"].is_null(), "not acknowledged");
    proxy.cut();
    until("it serves again", || up.get("/").status == 200);
    let note = object.ask(&["memory", "get", "note"]).code(0);
    assert!(["kept", "lost"].contains(&note.out.trim()), "{}", note.out);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

#[test]
fn an_optional_witness_that_is_away_lets_the_object_serve_through_its_grace() {
    let (proxy, kept) = troubled("optional");
    let object = object("[witness]\nlease = \"1s\"\ngrace = \"5m\"\n");
    let up = kept.up(&object, &object.data());
    up.get("/").status(200);
    proxy.refuse();
    // Past the lease.
    std::thread::sleep(Duration::from_secs(3));
    up.get("/").status(200);
    assert!(up.set(&json!({"note": "in grace"}))["patched"].is_object());
    proxy.cut();
    assert_eq!(up.interrupt(), Some(0));
    let note = object.ask(&["memory", "get", "note"]).code(0);
    assert_eq!(note.out.trim(), "in grace");
}

#[test]
fn visitors_whom_a_sleeping_object_turns_away_cost_its_depot_no_requests() {
    let (proxy, kept) = troubled("visitors");
    // No rule permits to wake it.
    let object = Object::new(NOTE, "");
    let up = kept.up(&object, &object.data());
    up.get("/").status(403);
    let (before, start) = (proxy.connections(), Instant::now());
    for _ in 0..300 {
        up.get("/").status(403);
    }
    // What it asks for itself, to be held and to look after its inbox, is a few requests a second, whoever comes.
    let (asked, took) = (proxy.connections() - before, start.elapsed());
    assert!(asked <= 20 + 4 * took.as_secs(), "{asked} requests in {took:?}");
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn a_holder_that_never_returns_is_waited_for_as_long_as_its_lease() {
    let kept = s3("never");
    let object = object("[witness]\nlease = \"2s\"\n");
    let mut up = kept.up(&object, &object.data());
    up.get("/").status(200);
    up.wait_event("woke");
    let copy = object.home().join("copy");
    let suspended = SuspendedTree::suspend(&up);
    image(&object.data(), &copy);
    suspended.end(&object);
    let mut there = kept.up(&object, &copy);
    there.get("/").status(200);
    assert_eq!(there.wait_event("woke")["epoch"], json!(2));
    assert_eq!(there.interrupt(), Some(0));
    up.ended();
}

#[test]
fn a_slow_depot_delays_a_wake_and_takes_nothing_away() {
    let (proxy, kept) = troubled("slow");
    let object = object("[witness]\nstrength = \"required\"\n");
    proxy.delay(Duration::from_millis(150));
    let mut up = kept.up(&object, &object.data());
    up.get("/").status(200);
    up.wait_event("woke");
    assert!(up.set(&json!({"note": "slowly"}))["patched"].is_object());
    assert_eq!(up.interrupt(), Some(0));
    proxy.delay(Duration::ZERO);
    let up = kept.up(&object, &object.data());
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let note = object.ask(&["memory", "get", "note"]).code(0);
    assert_eq!(note.out.trim(), "slowly");
    object.verify();
}

/// Answers every connection with words that are no answer of a depot.
fn nonsense() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut asked = [0; 4096];
            let _ = client.read(&mut asked);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nnonsense");
        }
    });
    address
}

#[test]
fn a_server_that_talks_nonsense_is_named_and_nothing_goes_by_its_word() {
    let (url, env) = servers::s3_depot(&prefix("nonsense"));
    let bucket = Kept {
        url: url.replace(&servers::s3().to_string(), &nonsense().to_string()),
        env,
    };
    let cluster = Kept {
        url: format!("etcd://{}/x", nonsense()),
        env: Vec::new(),
    };
    for (kept, name) in [(bucket, "s3://depot"), (cluster, "etcd://")] {
        for (witness, status) in [("", 200), ("[witness]\nstrength = \"required\"\n", 503)] {
            let object = object(witness);
            let mut up = kept.up(&object, &object.data());
            let error = up.wait_event("error");
            assert!(error["message"].as_str().unwrap().contains(name), "{error}");
            // Where its witness is optional it goes on alone.
            up.get("/").status(status);
            up.interrupt();
        }
    }
}

#[test]
fn a_server_that_is_killed_is_missed_and_found_again_by_nobody_but_a_new_one() {
    let server = servers::start_etcd(&[]);
    let object = object("[witness]\nstrength = \"required\"\nlease = \"1s\"\n");
    let kept = Kept {
        url: format!("etcd://{}/killed", server.address),
        env: Vec::new(),
    };
    let up = kept.up(&object, &object.data());
    up.get("/").status(200);
    assert!(up.set(&json!({"note": "kept"}))["patched"].is_object());
    drop(server);
    until("it stops serving", || up.get("/").status == 503);
    assert!(
        up.set(&json!({"note": "lost"}))["patched"].is_null(),
        "not acknowledged"
    );
    up.interrupt();
    // A new server knows nothing of the object: whoever has the newest copy begins there.
    let anew = servers::start_etcd(&[]);
    let kept = Kept {
        url: format!("etcd://{}/killed", anew.address),
        env: Vec::new(),
    };
    let up = kept.up(&object, &object.data());
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    object.verify();
}

/// Runs `up` where its depot is a file system of a few pages of its own, prepared by `prepare`.
fn up_in_a_small_file_system(object: &Object, prepare: &str) -> Ran {
    let depot = object.home().join("small");
    std::fs::create_dir_all(&depot).unwrap();
    let script = format!(
        "set -e; mount -t tmpfs -o size=64k small '{depot}'; mkdir '{depot}/depot'; {prepare}; exec timeout 60 '{program}' up '{dir}' --json --depot 'file://{depot}/depot'",
        depot = text(&depot),
        program = env!("CARGO_BIN_EXE_suijuris"),
        dir = text(object.dir()),
    );
    let mut command = object.command("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    run(&mut command)
}

#[test]
fn a_depot_that_is_full_or_read_only_refuses_an_object_that_needs_it_and_is_named() {
    let full = "head -c 1000000 /dev/zero > \"$HOME/small/filler\" 2>/dev/null || true";
    let read_only = "mount -o remount,ro \"$HOME/small\"";
    for (prepare, word) in [(full, "full"), (read_only, "takes no writes")] {
        let object = object("[witness]\nstrength = \"required\"\n");
        let ran = up_in_a_small_file_system(&object, prepare);
        assert!([1, 3].contains(&ran.code), "{ran:?}");
        let said = format!("{}{}", ran.out, ran.err);
        assert!(said.contains(word), "{word}: {said}");
        assert!(!said.contains("\"woke\""), "{said}");
    }
}

/// The mark of the only object in a local depot.
fn mark_file(depot: &Path) -> PathBuf {
    fn find(at: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => find(&path, found),
                path if entry.file_name() == "mark" => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    find(depot, &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_depot_that_answers_garbage_is_named_and_takes_nothing_away() {
    for (strength, serves) in [("optional", true), ("required", false)] {
        let object = object(&format!("[witness]\nstrength = \"{strength}\"\n"));
        let depot = object.home().join("depot");
        let kept = Kept {
            url: format!("file://{}", text(&depot)),
            env: Vec::new(),
        };
        let up = kept.up(&object, &object.data());
        up.set(&json!({"note": "kept"}));
        assert_eq!(up.interrupt(), Some(0));
        let mark = mark_file(&depot);
        let good = std::fs::read(&mark).unwrap();
        std::fs::write(&mark, b"garbage").unwrap();
        let mut up = kept.up(&object, &object.data());
        let error = up.wait_event("error");
        assert!(error["message"].as_str().unwrap().contains("mark"), "{error}");
        let answer = up.get("/");
        assert_eq!(answer.status, if serves { 200 } else { 503 }, "{answer:?}");
        assert!(serves || answer.body.contains("unavailable"), "{answer:?}");
        up.interrupt();
        assert_eq!(
            std::fs::read(&mark).unwrap(),
            b"garbage",
            "nothing is written over what is not understood"
        );
        std::fs::write(&mark, good).unwrap();
        let up = kept.up(&object, &object.data());
        up.get("/").status(200);
        assert_eq!(up.interrupt(), Some(0));
        let note = object.ask(&["memory", "get", "note"]).code(0);
        assert_eq!(note.out.trim(), "kept");
    }
}
