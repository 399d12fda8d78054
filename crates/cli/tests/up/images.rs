//! Workloads in images: what runs is what the image says, in its files, and nothing of the host.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use suijuris_testkit::hostile::{self, Loot};

use crate::rig::{OPEN, Object, STAY, Up, run, until};

/// An object over the image of `examples/image`, with these further keys of `[workload]`.
fn object(keys: &str) -> Object {
    let object = Object::example("image");
    run(&mut object.command(object.dir().join("make-image"))).code(0);
    object.file(
        "object.toml",
        &format!("name = \"image\"\n[workload]\nimage = \"oci:layout\"\n{keys}"),
    );
    object.file("governance.cedar", &[OPEN, STAY].concat());
    object
}

fn shell(script: &str, keys: &str) -> Object {
    let script = serde_json::to_string(script).unwrap();
    object(&format!(
        "command = [\"/bin/sh\", \"-c\", {script}]\nready = \"spawned\"\n{keys}"
    ))
}

/// Lines that the workload writes, up to `end`.
fn says(up: &mut Up, end: &str) -> Vec<String> {
    up.wait(json!({"event": "output", "line": end}));
    let events = up.events();
    let lines = events.iter().filter(|event| event["event"] == "output");
    lines
        .map(|event| event["line"].as_str().unwrap().to_owned())
        .collect()
}

fn as_nobody(object: &Object) -> Up {
    let mut command = nobody(object, false);
    command.arg("up").arg(object.dir());
    Up::start(command)
}

/// `suijuris` as an ordinary user; with `numbers` one who has some from an administrator, as this process alone sees it.
fn nobody(object: &Object, numbers: bool) -> std::process::Command {
    let program = object.home().join("suijuris");
    suijuris_testkit::program::copy(env!("CARGO_BIN_EXE_suijuris"), &program);
    run(object
        .command("chown")
        .args(["-R", "65534:65534"])
        .arg(object.home()))
    .code(0);
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    if !numbers {
        let mut command = object.command("setpriv");
        command.args(user).arg(program);
        return command;
    }
    let ranges = object.home().join("ranges");
    std::fs::write(&ranges, "65534:300000:65536\n").unwrap();
    let mut command = object.command("unshare");
    let script = "for file in /etc/subuid /etc/subgid; do test -e $file || touch $file; mount --bind \"$1\" $file || exit 9; done; shift; exec setpriv \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(ranges);
    command.args(user).arg(program);
    command
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

const LOOK: &str = "id -u; id -g; pwd; ls /; echo $GREETING $HOME; echo kept > $SUIJURIS_DATA/kept; echo gone > /tmp/gone; busybox cat $SUIJURIS_DATA/* ; \
                    ls /run/suijuris/object; echo done; exec busybox sleep 1000";
const SEEN: [&str; 15] = [
    "1000",
    "1000",
    "/www",
    "bin",
    "dev",
    "etc",
    "proc",
    "run",
    "sys",
    "tmp",
    "www",
    "hello /www",
    "kept",
    "volume",
    "done",
];

/// What a workload sees, whoever runs it.
fn sees_its_image(mut up: Up, object: &Object) {
    up.get("/");
    let started = up.wait(json!({"event": "machine", "state": "started"}));
    assert_eq!(says(&mut up, "done"), SEEN);
    assert!(
        started["detail"].as_str().unwrap().contains("image sha256:"),
        "{started}"
    );
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
    assert!(!object.data().join("scratch").exists());
    let kept = std::fs::read_to_string(object.data().join("volume/kept")).unwrap();
    assert_eq!(kept, "kept\n");
}

// proves C12
#[test]
fn a_workload_runs_in_its_image_as_its_user() {
    let object = shell(
        &format!("PATH=/bin; alias ls='busybox ls' id='busybox id'; {LOOK}"),
        "",
    );
    let up = object.up();
    sees_its_image(up, &object);
}

// proves C12, C8
#[test]
fn an_ordinary_user_runs_an_image() {
    if !is_root() {
        // The other tests have shown it.
        return;
    }
    let object = shell(
        &format!("PATH=/bin; alias ls='busybox ls' id='busybox id'; {LOOK}"),
        "",
    );
    let up = as_nobody(&object);
    sees_its_image(up, &object);
}

/// Where an administrator gave the user numbers, an image has all its users; what they leave is the user's. `check` says which there are.
// proves C12
#[test]
fn an_ordinary_user_with_numbers_has_all_users_of_an_image() {
    if !is_root() || !Path::new("/usr/bin/newuidmap").exists() {
        eprintln!("SKIPPED: needs root, and newuidmap: run `sh tools/setup --test`");
        return;
    }
    let script = "PATH=/bin; busybox id -u; busybox stat -c %u:%g /www/of-web /etc/passwd; busybox touch $SUIJURIS_DATA/file && \
                  busybox chown web $SUIJURIS_DATA/file && busybox stat -c %u $SUIJURIS_DATA/file; busybox su web -c 'busybox id -u; \
                  echo x > /www/of-web && echo written; (echo x > /etc/passwd) 2>/dev/null || echo denied'; \
                  (busybox ls /run/suijuris/object/lineage) 2>/dev/null || echo no history; echo done; exec busybox sleep 1000";
    let object = shell(script, "user = \"root\"\n");
    let made = std::fs::read_to_string(object.dir().join("make-image")).unwrap();
    let owned = "mkdir -p more/www && echo x >more/www/of-web && \
                 tar --append --owner=1000 --group=1000 --numeric-owner -C more -f layer.new www/of-web && rm -r more\n\
                 # Puts file $1";
    suijuris_testkit::program::script(
        object.dir().join("make-image"),
        &made.replacen("# Puts file $1", owned, 1),
    );
    run(&mut object.command(object.dir().join("make-image"))).code(0);
    for (numbers, users) in [
        (false, "the workload's is the only one in its image"),
        (true, "all of the image's, as numbers of this user in /etc/subuid"),
    ] {
        let checked = run(nobody(&object, numbers).arg("check").arg(object.dir())).code(0);
        assert!(checked.err.contains(users), "{}", checked.err);
    }
    let mut command = nobody(&object, true);
    command.arg("up").arg(object.dir());
    let mut up = Up::start(command);
    up.get("/");
    let seen = [
        "0",
        "1000:1000",
        "0:0",
        "1000",
        "1000",
        "written",
        "denied",
        "no history",
        "done",
    ];
    assert_eq!(says(&mut up, "done"), seen);
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
    assert!(!object.data().join("scratch").exists());
    let left = std::fs::metadata(object.data().join("volume/file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&left), 65534);
}

#[test]
fn the_definition_says_otherwise_where_it_wants_to() {
    let script = "busybox id -u; pwd; echo $GREETING; busybox touch /x 2>/dev/null || echo read-only; busybox cat /given/note; \
                  busybox touch /given/x 2>/dev/null || echo given; echo done; exec busybox sleep 1000";
    let object = shell(
        script,
        "user = \"root\"\ncwd = \"/etc\"\nread_only = true\nenv = { GREETING = \"moin\" }\nmounts = [{ from = \"{object}/site\", to = \"/given\" }]\n",
    );
    object.file("site/note", "from the host\n");
    let mut up = object.up();
    up.get("/");
    let expect = ["0", "/etc", "moin", "read-only", "from the host", "given", "done"];
    assert_eq!(says(&mut up, "done"), expect);
    assert_eq!(up.interrupt(), Some(0));
}

/// Another image under the same name is another definition, which the object is asked about.
#[test]
fn another_image_is_an_amendment() {
    let object = object("port = 8080\n");
    let up = object.up();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let lock = || std::fs::read_to_string(object.dir().join("image.lock")).unwrap();
    let before = lock();
    object.file("site/index.html", "another page");
    run(&mut object.command(object.dir().join("make-image"))).code(0);
    let up = object.up();
    assert_ne!(lock(), before);
    assert_eq!(up.get("/").status(200).body, "another page");
    assert_eq!(up.interrupt(), Some(0));
    assert!(object.kinds().contains(&"amended".to_owned()));
    object.verify();
    let listed: Value =
        serde_json::from_str(&object.suijuris(&["images", "ls", "--json"]).code(0).out).unwrap();
    let listed = listed.as_array().unwrap().clone();
    assert_eq!(listed.len(), 2, "{listed:?}");
    // Nothing of what is forgotten stays, but what another image needs.
    let names: Vec<&str> = listed
        .iter()
        .map(|image| image["digest"].as_str().unwrap())
        .collect();
    object.suijuris(&["images", "rm", names[0], names[1]]).code(0);
    assert_eq!(
        object.suijuris(&["images", "ls", "--json"]).code(0).out.trim(),
        "[]"
    );
    object.suijuris(&["images", "rm", "nginx"]).code(1);
    let layers = object.home().join(".local/share/suijuris/images/layers");
    assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0);
}

/// An image may go while an object sleeps that needs it: one that is suspended has its files and goes on, one that is stopped says what
/// is missing, and wakes once it is there again.
#[test]
fn an_image_that_is_removed_while_its_object_sleeps_is_missed_or_not_needed() {
    let remove = |object: &Object| {
        let listed = object.suijuris(&["images", "ls", "--json"]).code(0).json();
        let digest = listed[0]["digest"].as_str().unwrap().to_owned();
        object.suijuris(&["images", "rm", &digest]).code(0);
        object.suijuris(&["images", "gc"]).code(0);
        let listed = object.suijuris(&["images", "ls", "--json"]).code(0);
        assert_eq!(listed.out.trim(), "[]");
    };
    let host = r#"@id("host") permit (principal is Host, action == Action::"sleep", resource);"#;
    for mode in ["suspend", "stop"] {
        let object = object(&format!("port = 8080\n[sleep]\nmode = \"{mode}\"\n"));
        object.file("governance.cedar", &[OPEN, STAY, host].concat());
        let mut up = object.up();
        up.get("/").status(200);
        object.ask(&["sleep"]).code(0);
        let state = if mode == "suspend" { "suspended" } else { "stopped" };
        up.wait(json!({"event": "machine", "state": state}));
        remove(&object);
        if mode == "suspend" {
            up.get("/").status(200);
            up.wait(json!({"event": "resumed"}));
        } else {
            up.get("/").status(503);
            let error = up.wait_event("error");
            assert!(
                error["message"]
                    .as_str()
                    .unwrap()
                    .contains("suijuris images pull"),
                "{error}"
            );
            let dir = object.dir().to_str().unwrap().to_owned();
            object
                .suijuris(&["images", "pull", &format!("oci:{dir}/layout")])
                .code(0);
            // Left alone for a moment, since it did not wake.
            until("the object wakes", || up.get("/").status == 200);
        }
        assert_eq!(up.interrupt(), Some(0));
        object.nobody_is_left();
        object.verify();
    }
}

/// What is missing is said, and nothing runs instead of it.
#[test]
fn an_image_that_is_not_there_is_not_replaced_by_anything() {
    let definition = format!(
        "name = \"probe\"\n[workload]\nimage = \"sha256:{}\"\nport = 8080\n",
        "a".repeat(64)
    );
    let object = Object::defined(&definition, &[OPEN, STAY].concat());
    let mut up = object.up();
    up.get("/").status(503);
    up.wait_event("error");
    let events = up.events();
    assert_eq!(up.count(&json!({"event": "machine", "state": "started"})), 0);
    let told = serde_json::to_string(&events).unwrap();
    assert!(
        told.contains("is not on this machine") && told.contains("suijuris images pull"),
        "{told}"
    );
    assert_eq!(up.interrupt(), Some(0));
    object.file(
        "object.toml",
        "name = \"probe\"\n[workload]\nimage = \"oci:nowhere\"\nport = 8080\n",
    );
    let refused = object.ask(&["check"]).code(3);
    assert!(refused.err.contains("object.unpinned"), "{}", refused.err);
}

/// An image whose program is a link out of it, whose directories are links, whose user is nobody's.
#[test]
fn evil_images_reach_nothing_of_the_host() {
    let object = shell("cat /etc/hostname; echo done", "");
    let layout = object.dir();
    let script = std::fs::read_to_string(layout.join("make-image")).unwrap();
    let evil = "ln -s /../../../../../etc/shadow root.new/shadow\nln -s / root.new/run\nln -s /proc root.new/dev\nln -s /etc root.new/tmp\n\
                cp \"$busybox\" root.new/bin/su && chmod 4755 root.new/bin/su\n";
    let script = script.replace("chmod -R", &format!("{evil}chmod -R"));
    object.file("make-image", &script);
    run(&mut object.command(object.dir().join("make-image"))).code(0);
    let secret = object.home().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let script = format!(
        "PATH=/bin; busybox cat /shadow {} 2>/dev/null || echo nothing; busybox test -u /bin/su && /bin/su -c 'busybox id -u' 2>/dev/null; \
         echo done; exec busybox sleep 1000",
        secret.display()
    );
    let script = serde_json::to_string(&script).unwrap();
    object.file(
        "object.toml",
        &format!("name = \"image\"\n[workload]\nimage = \"oci:layout\"\ncommand = [\"/bin/sh\", \"-c\", {script}]\nready = \"spawned\"\n"),
    );
    let mut up = object.up();
    up.get("/");
    assert_eq!(says(&mut up, "done"), ["nothing", "done"]);
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
}

/// Who runs `up`.
#[derive(Clone, Copy)]
enum Who {
    Tester,
    /// An ordinary user, with numbers for other users or without.
    Nobody {
        numbers: bool,
    },
}

/// The hostile workload in an image: its program and its libraries are the host's, mounted; what it is after is where it is
/// in the machine and where it is on the host.
fn tried(who: Who, data: &dyn Fn(&Object) -> std::path::PathBuf) -> BTreeMap<String, String> {
    let object = object("");
    let home = object.home().canonicalize().unwrap();
    let script = std::fs::read_to_string(object.dir().join("make-image")).unwrap();
    let links = "for name in lib lib64; do ln -s usr/$name root.new/$name; done\n";
    suijuris_testkit::program::script(
        object.dir().join("make-image"),
        &script.replace("chmod -R", &format!("{links}chmod -R")),
    );
    run(&mut object.command(object.dir().join("make-image"))).code(0);
    std::fs::create_dir(home.join("program")).unwrap();
    suijuris_testkit::program::copy(std::env::current_exe().unwrap(), home.join("program/hostile"));
    let dir = object.dir().canonicalize().unwrap();
    let places = [
        data(&object),
        dir.clone(),
        home.join("other/.suijuris"),
        home.join(".config/suijuris/owner.key"),
        home.join(".local/share/suijuris/depot"),
        dir.join(".suijuris/run/up.sock"),
    ];
    let pairs = Loot::VARIABLES.iter().zip(&places);
    let variables: String = pairs
        .map(|(name, place)| format!("{name} = {place:?}\n"))
        .collect();
    let program = home.join("program");
    object.file(
        "object.toml",
        &format!(
            "name = \"image\"\n[workload]\nimage = \"oci:layout\"\nuser = \"root\"\nready = \"spawned\"\nread_only = true\n\
             command = [\"/program/hostile\", \"--exact\", \"stranger::plays_its_part\", \"--nocapture\"]\n\
             mounts = [{{ from = \"/usr\", to = \"/usr\" }}, {{ from = {program:?}, to = \"/program\" }}]\n\
             [workload.env]\nSUIJURIS_HOSTILE = \"1\"\nWITHOUT = \"\"\n{variables}"
        ),
    );
    let up = match who {
        Who::Tester => object.up(),
        Who::Nobody { numbers } => {
            let mut command = nobody(&object, numbers);
            command.arg("up").arg(object.dir());
            Up::start(command)
        }
    };
    up.get("/");
    let report = object.data().join("volume/report");
    until("the report is there", || {
        report.exists() || up.count(&json!({"event": "workload", "state": "failed"})) > 0
    });
    let went = std::fs::read(&report).unwrap_or_else(|error| panic!("{error}: {:?}", up.events()));
    assert_eq!(up.interrupt(), Some(0));
    object.nobody_is_left();
    object.verify();
    serde_json::from_slice(&went).unwrap()
}

/// Names of the doors that stood open.
fn open(went: &BTreeMap<String, String>) -> Vec<&str> {
    let open = went.iter().filter(|(_, how)| *how == hostile::OPEN);
    open.map(|(name, _)| name.as_str()).collect()
}

fn in_the_machine(_: &Object) -> std::path::PathBuf {
    Path::new("/run/suijuris/object").to_owned()
}

// proves C10, C12
#[test]
fn a_stranger_in_an_image_gets_through_no_door() {
    let went = tried(Who::Tester, &in_the_machine);
    assert_eq!(open(&went), [""; 0], "{went:#?}");
}

// proves C10, C12
#[test]
fn a_stranger_in_an_image_of_an_ordinary_user_gets_through_no_door() {
    if !is_root() {
        return;
    }
    for numbers in [false, true] {
        if numbers && !Path::new("/usr/bin/newuidmap").exists() {
            eprintln!("SKIPPED in part: no newuidmap: run `sh tools/setup --test`");
            continue;
        }
        let went = tried(Who::Nobody { numbers }, &in_the_machine);
        assert_eq!(open(&went), [""; 0], "with numbers: {numbers}: {went:#?}");
    }
}

/// What this host can do with images is said as it is.
#[test]
fn vehicles_say_what_they_can_do() {
    let object = Object::defined("", "");
    let all: Value = serde_json::from_str(&object.suijuris(&["vehicles", "--json"]).code(0).out).unwrap();
    let process = &all[0];
    assert_eq!(
        (&process["vehicle"], &process["available"]),
        (&json!("process"), &json!(true))
    );
    assert_eq!(process["why_not"], Value::Null);
    assert_eq!(process["capabilities"]["images"], "overlayfs");
    assert_eq!(all[2]["vehicle"], "firecracker");
    assert!(all[2]["why_not"].is_string() && all[2]["available"] == false);
    let text = object.suijuris(&["vehicles"]).code(0).out;
    assert!(text.contains("images by overlayfs"), "{text}");
}

/// Limits hold for what runs in an image as for any other.
#[test]
fn limits_hold_in_an_image() {
    let script = "ulimit -n; exec busybox sleep 1000";
    let object = shell(script, "limits = { open_files = 40 }\n");
    let mut up = object.up();
    up.get("/");
    assert_eq!(says(&mut up, "40"), ["40"]);
    assert_eq!(up.interrupt(), Some(0));
}
