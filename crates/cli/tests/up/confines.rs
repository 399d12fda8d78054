//! What a workload may use up, what it sees of its host, and what is kept of what it writes.

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY, Up, as_somebody, run, until};

/// An object whose workload is `sh -c script`, with these further keys.
fn shell(script: &str, keys: &str) -> Object {
    let script = serde_json::to_string(script).unwrap();
    let definition = format!(
        "name = \"confined\"\n[workload]\ncommand = [\"sh\", \"-c\", {script}]\nready = \"spawned\"\n{keys}"
    );
    Object::defined(&definition, &[OPEN, STAY].concat())
}

/// Wakes it by a request, whatever that is answered.
fn wake(object: &Object) -> Up {
    let up = object.up();
    up.get("/");
    up
}

fn line(up: &mut Up, text: &str) -> Value {
    up.wait(json!({"event": "output", "line": text}))
}

// proves C12
#[test]
fn a_workload_that_takes_too_much_memory_ends_and_that_is_named() {
    let hungry = "exec python3 -c 'import time; time.sleep(1); b = bytearray(400 << 20); print(len(b))'";
    let object = shell(hungry, "[workload.limits]\nmemory = \"64MiB\"\n");
    let mut up = wake(&object);
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    let detail = started["detail"].as_str().unwrap();
    let ended = up.wait(json!({"event": "workload", "state": "exited"}));
    let how = ended["how"].as_str().unwrap();
    if detail.contains("memory by control group") {
        assert!(how.contains("oom_killed"), "{how}");
    } else {
        assert!(detail.contains("memory by a limit per process"), "{detail}");
        assert_eq!(how, "exited 1", "python says MemoryError");
    }
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
}

// proves C12
#[test]
fn without_privilege_memory_is_limited_for_each_process_and_nobody_says_that_it_was_killed_for_it() {
    let hungry = "python3 -c 'b = bytearray(400 << 20)' 2>/dev/null; echo ended $?; exec sleep 600";
    let object = shell(hungry, "[workload.limits]\nmemory = \"64MiB\"\ndisk = \"1MiB\"\n");
    let mut command = as_somebody(&object);
    command.arg("up").arg(object.dir());
    let mut up = Up::start(command);
    up.get("/");
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    let detail = started["detail"].as_str().unwrap();
    if !detail.contains("memory by control group") {
        assert!(detail.contains("memory by a limit per process"), "{detail}");
        line(&mut up, "ended 1");
    }
    assert!(
        !up.events()
            .iter()
            .any(|event| event.to_string().contains("oom_killed"))
    );
    assert_eq!(up.interrupt(), Some(0));
    // Before anything runs it is said too.
    let mut check = as_somebody(&object);
    let check = run(check.arg("check").arg(object.dir())).code(0).err;
    assert!(
        check.contains("limits on this host: ") && check.contains("memory by "),
        "{check}"
    );
}

/// What the kernel says of a program, and what comes of calls that lead out of its machine.
const TAKEN: &str = r#"
import ctypes, os, platform, socket, time
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print("new privileges", status["NoNewPrivs"], flush=True)
print("filter", status["Seccomp"], flush=True)
# Of capabilities over namespaces, tracing, modules, devices, mounts, networks, raw input and output: none, now or later.
far = sum(1 << number for number in (12, 13, 16, 17, 19, 21, 22, 27, 38, 39))
print("far", int(status["CapBnd"], 16) & int(status["CapPrm"], 16) & far, flush=True)
call = ctypes.CDLL(None, use_errno=True).syscall
calls = {"ring": 425, "bpf": 321, "keys": 248} if platform.machine() == "x86_64" else {"ring": 425, "bpf": 280, "keys": 217}
for name, number in calls.items():
    went = call(number, 8, 0, 0, 0, 0)
    print(name, "open" if went >= 0 or os.strerror(ctypes.get_errno()) == "Bad address" else "shut", flush=True)
try:
    os.setuid(0) if os.getuid() else socket.sethostname("mine")
    print("way up open", flush=True)
except OSError:
    print("way up shut", flush=True)
time.sleep(600)
"#;

// proves C10
#[test]
fn in_each_mode_privileges_are_taken_and_calls_filtered() {
    let definition =
        "name = \"taken\"\n[workload]\ncommand = [\"python3\", \"{object}/taken.py\"]\nready = \"spawned\"\n";
    for (user, arguments) in [(false, &[][..]), (true, &[]), (true, &["--plain"])] {
        let object = Object::defined(definition, &[OPEN, STAY].concat());
        object.file("taken.py", TAKEN);
        let mut command = match user {
            true => as_somebody(&object),
            false => object.command(env!("CARGO_BIN_EXE_suijuris")),
        };
        command.arg("up").arg(object.dir()).args(arguments);
        let mut up = Up::start(command);
        up.get("/");
        for text in [
            "new privileges 1",
            "filter 2",
            "far 0",
            "ring shut",
            "bpf shut",
            "keys shut",
            "way up shut",
        ] {
            line(&mut up, text);
        }
        assert_eq!(up.interrupt(), Some(0));
    }
}

// proves C12
#[test]
fn open_files_and_processes_are_limited_and_the_runtime_is_not() {
    let script =
        "echo files $(ulimit -n); i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; echo all; wait";
    let object = shell(
        script,
        "[workload.limits]\nopen_files = 33\nprocesses = 12\ndisk = \"1MiB\"\n",
    );
    let mut up = wake(&object);
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    let detail = started["detail"].as_str().unwrap().to_owned();
    for part in [
        "open files by a limit per process",
        "processes by",
        "disk by a limit per file",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
    line(&mut up, "files 33");
    if detail.contains("processes by control group") {
        // Its end may be told before what it wrote.
        let exited = json!({"event": "workload", "state": "exited"});
        until("it has ended", || up.count(&exited) > 0);
        let events = up.events();
        let ended = events.iter().find(|event| crate::heard::is_like(event, &exited));
        let ended = ended.unwrap();
        assert!(
            ended["how"].as_str().unwrap().contains("out of processes"),
            "{ended}"
        );
        up.wait(json!({"event": "machine", "state": "stopped"}));
    }
    assert_eq!(up.interrupt(), Some(0));
}

// proves C12
#[test]
fn processors_time_is_limited_where_a_control_group_can() {
    // Time on processors for each second that passes, of two processes that want one each.
    let burn = "import os, time; os.fork(); began = time.monotonic()\n\
                while time.monotonic() - began < 3: pass\n\
                print('share', time.process_time() / (time.monotonic() - began), flush=True)";
    let script = format!("python3 -c {}; exec sleep 600", shell_word(burn));
    let object = shell(&script, "[workload.limits]\ncpu = 0.2\n");
    let mut up = wake(&object);
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    let detail = started["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("cpu by "), "{detail}");
    let mut share = || {
        let line = up.wait(json!({"event": "output"}));
        let text = line["line"].as_str().unwrap().to_owned();
        text.strip_prefix("share ").unwrap().parse::<f64>().unwrap()
    };
    let both = share() + share();
    // However busy this host is, they get no more than their part, and a period in which that is seen.
    assert!(
        !detail.contains("cpu by control group") || both < 0.3,
        "{both}: {detail}"
    );
    assert_eq!(up.interrupt(), Some(0));
}

/// One word of a shell.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

// proves C12
#[test]
fn a_file_above_the_limit_of_the_disk_is_cut_and_a_volume_above_it_is_named() {
    let script = "head -c 3000000 /dev/zero > {data}/big || echo cut $(stat -c %s {data}/big); rm {data}/big; \
                  head -c 900000 /dev/zero > {data}/a; head -c 900000 /dev/zero > {data}/b; echo two; exec sleep 600";
    let object = shell(script, "[workload.limits]\ndisk = \"1MiB\"\n");
    let mut up = wake(&object);
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    let detail = started["detail"].as_str().unwrap();
    assert!(
        detail.contains("disk by a limit per file; the whole is measured"),
        "{detail}"
    );
    line(&mut up, "cut 1048576");
    line(&mut up, "two");
    let error = up.wait(json!({"event": "error", "code": "disk_limit"}));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("workload.limits.disk is 1048576"), "{message}");
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn it_sees_what_it_is_shown_and_writes_where_it_may() {
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().canonicalize().unwrap();
    std::fs::write(outside_path.join("model"), "weights").unwrap();
    let script = "cat /mnt/model; echo; touch /mnt/new 2>/dev/null || echo shut; touch /srv/x 2>/dev/null || echo closed; \
                  touch {object}/x 2>/dev/null || echo rules; touch /tmp/x {data}/x && echo own; exec sleep 600";
    let mounts = format!("[[workload.mounts]]\nfrom = {outside_path:?}\nto = \"/mnt\"\n");
    let object = shell(script, &mounts);
    let mut up = wake(&object);
    if up.machine.starts_with("plain") {
        assert_eq!(up.interrupt(), Some(0));
        return;
    }
    for text in ["weights", "shut", "closed", "rules", "own"] {
        line(&mut up, text);
    }
    assert_eq!(up.interrupt(), Some(0));
    assert!(object.data().join("volume/x").exists());
    writes_where_it_is_let(script, outside_path.to_str().unwrap());
    let private = format!(
        "[[workload.mounts]]\nfrom = {:?}\nto = \"/mnt\"\n",
        object.home().canonicalize().unwrap()
    );
    let definition = std::fs::read_to_string(object.dir().join("object.toml")).unwrap();
    object.file("object.toml", &definition.replace(&mounts, &private));
    let mut up = wake(&object);
    let error = up.wait(json!({"event": "error", "code": "workload_failed"}));
    assert!(
        error["message"].as_str().unwrap().contains("the object's own"),
        "{error}"
    );
    up.wait(json!({"event": "machine", "state": "stopped"}));
    assert_eq!(up.interrupt(), Some(0));
}

/// The same workload, let write where its user may, and into what it is shown.
fn writes_where_it_is_let(script: &str, outside: &str) {
    let keys =
        format!("read_only = false\n[[workload.mounts]]\nfrom = {outside:?}\nto = \"/mnt\"\nwrite = true\n");
    // A directory of the host that is not below /tmp, which is the workload's own.
    let beside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let written = beside.path().join("y");
    let script = script.replace("/srv/x", written.to_str().unwrap());
    let object = shell(&script, &keys);
    let mut up = wake(&object);
    for text in ["weights", "rules", "own"] {
        line(&mut up, text);
    }
    for text in ["shut", "closed"] {
        assert_eq!(up.count(&json!({"event": "output", "line": text})), 0, "{text}");
    }
    assert_eq!(up.interrupt(), Some(0));
    assert!(written.exists() && std::path::Path::new(outside).join("new").exists());
}

#[test]
fn another_user_has_its_volume_its_home_and_its_socket() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let script = "touch $SUIJURIS_DATA/mine && echo data; touch $HOME/home && echo home; \
                  python3 -c 'import os, socket; socket.socket(socket.AF_UNIX).connect(os.environ[\"SUIJURIS_AGENT_SOCKET\"]); print(\"socket\")'; \
                  exec sleep 600";
    let object = shell(script, "user = \"nobody\"\n");
    // Its user passes through what is above; the data directory itself is root's alone.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(object.home(), mode).unwrap();
    let volume = object.data().join("volume");
    std::fs::create_dir_all(volume.join("left")).unwrap();
    std::fs::write(volume.join("left/file"), "of an earlier user").unwrap();
    let mut up = wake(&object);
    if !up.machine.starts_with("plain") {
        for text in ["data", "home", "socket"] {
            line(&mut up, text);
        }
    }
    use std::os::unix::fs::MetadataExt as _;
    assert_ne!(volume.join("left/file").metadata().unwrap().uid(), 0);
    assert_eq!(up.interrupt(), Some(0));
}

/// On a terminal nothing that a workload writes does anything, also where it is followed.
fn shown_on_a_terminal(object: &Object) {
    let follow = format!(
        "{} logs {} -f",
        env!("CARGO_BIN_EXE_suijuris"),
        object.dir().display()
    );
    let mut script = object.command("script");
    let mut child = script
        .args(["-qfc", &follow, "/dev/null"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let shown: Vec<String> = lines.map(Result::unwrap).take(3).collect();
    assert!(
        shown[1].contains("    two ") && shown[2].contains("escape \\u{1b}[2J"),
        "{shown:?}"
    );
    assert!(shown.iter().all(|line| !line.contains('\u{1b}')), "{shown:?}");
    // It goes on: the command that follows has not ended. With its terminal it does.
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `up` at a terminal shows escapes as words; what is told carries its zone, and lines end between words.
#[test]
fn what_it_writes_does_nothing_to_the_terminal_of_up() {
    let object = shell(
        "printf 'escape \\033[2J\\007\\n'; exec sleep 600",
        "[gate]\nwakes = false\n",
    );
    let up = format!(
        "stty cols 80; {} up {} --port 0",
        env!("CARGO_BIN_EXE_suijuris"),
        object.dir().display()
    );
    let mut script = object.command("script");
    let mut child = script
        .args(["-qfc", &up, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until("it listens", || object.data().join("run/up.sock").exists());
    object.ask(&["wake"]).code(0);
    let mut shown = Vec::new();
    let mut stdin = child.stdin.take().unwrap();
    for line in std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())) {
        let line = line.unwrap();
        if line.contains("escape") {
            // Ctrl-C, as the terminal's driver takes it.
            std::io::Write::write_all(&mut stdin, b"\x03").unwrap();
        }
        shown.push(line);
    }
    let last = shown.iter().find(|line| line.contains("escape")).unwrap();
    assert!(last.contains("escape \\u{1b}[2J\\u{7}"), "{shown:#?}");
    let text = |line: &String| console_free(line);
    let proposal = shown
        .iter()
        .map(text)
        .find(|line| line.contains("proposal"))
        .unwrap();
    assert!(proposal.as_bytes()[12] == b'Z', "a time has its zone: {proposal}");
    for line in shown
        .iter()
        .map(text)
        .filter(|line| !line.contains('/') && !line.contains("object"))
    {
        assert!(line.trim_end().chars().count() <= 80, "{line}");
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    object.nobody_is_left();
}

/// A line without the colours of `up` itself.
fn console_free(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest));
    rest.fold(first, |text, part| text + part)
}

// proves C13
#[test]
fn what_it_writes_is_kept_and_read_later() {
    let object = shell(
        "printf 'one\\n  two \\n'; printf 'escape \\033[2J\\n'; exec sleep 600",
        "",
    );
    let mut up = wake(&object);
    line(&mut up, "one");
    line(&mut up, "  two ");
    line(&mut up, "escape \u{1b}[2J");
    until("the lines are kept", || {
        object.ask(&["logs", "--json"]).code(0).lines().len() == 3
    });
    shown_on_a_terminal(&object);
    let lines = object.ask(&["logs", "--json", "-n", "2"]).code(0).lines();
    assert_eq!(lines[0]["line"], "  two ");
    assert!(lines[0]["at"].as_str().unwrap().ends_with('Z'));
    // The terminal is closed.
    up.signal("HUP");
    up.wait_event("dormant");
    assert_eq!(up.ended().code(), Some(0));
    assert_eq!(object.ask(&["logs", "--json"]).code(0).lines().len(), 3);
    object.nobody_is_left();
}

#[test]
fn a_value_of_memory_comes_from_a_file_and_stands_in_no_argument() {
    let object = Object::defined(
        "name = \"secret\"\n[workload]\ncommand = [\"sleep\", \"600\"]\nready = \"spawned\"\n[memory]\nname = \"string\"\n",
        &[OPEN, STAY].concat(),
    );
    let up = object.up();
    object.file("value", "from a file\n");
    let file = object.dir().join("value");
    object
        .ask(&["memory", "set", &format!("name=@{}", file.display())])
        .code(0);
    let got = object.ask(&["memory", "get", "name"]).code(0);
    assert!(got.out.contains("from a file"), "{}", got.out);
    object.ask(&["memory", "set", "name=@@someone"]).code(0);
    assert!(
        object
            .ask(&["memory", "get", "name"])
            .code(0)
            .out
            .contains("@someone")
    );
    object.ask(&["memory", "set", "name=@/nowhere"]).code(2);
    // From standard input; and asked for at a terminal, which does not show it.
    let set = format!(
        "{} memory set {} name=@-",
        env!("CARGO_BIN_EXE_suijuris"),
        object.dir().display()
    );
    let shell = format!("printf 'from a pipe\\n' | {set}");
    run(object.command("sh").args(["-c", &shell])).code(0);
    assert!(
        object
            .ask(&["memory", "get", "name"])
            .code(0)
            .out
            .contains("from a pipe")
    );
    let typed = format!("(sleep 2; echo in-confidence; sleep 1) | script -qec '{set}' /dev/null");
    let shown = run(object.command("sh").args(["-c", &typed])).code(0).out;
    assert!(
        shown.contains("name (not shown)") && !shown.contains("in-confidence"),
        "{shown}"
    );
    assert!(
        object
            .ask(&["memory", "get", "name"])
            .code(0)
            .out
            .contains("in-confidence")
    );
    assert_eq!(up.interrupt(), Some(0));
}
