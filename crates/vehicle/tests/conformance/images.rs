//! Machines with the files of an image: what they see, what they cannot reach, and what is left of them.
//!
//! The images here are directories of layers, with Debian's static busybox as their only program.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use suijuris_vehicle::process::{Entering, Family, Step, StepFailed, Want};
use suijuris_vehicle::{
    Account, Driver as _, Exit, ImageFiles, ImageRoot, ImageUsers, Isolation, Mount, Network, Output, Owner,
    Root, Spec, StartError,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::process::{Again, NOBODY, Stage};

const BUSYBOX: &str = "/bin/busybox";

/// A layer in `stage` with these files.
fn layer(stage: &Stage, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let tree = stage.path(name);
    fs::create_dir(&tree).unwrap();
    for (file, text) in files {
        let file = tree.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    tree
}

/// The lowest layer: a shell.
fn shell(stage: &Stage) -> PathBuf {
    let tree = layer(stage, "shell", &[("etc/motd", "lower\n"), ("etc/keep", "kept\n")]);
    fs::create_dir(tree.join("bin")).unwrap();
    suijuris_testkit::program::copy(BUSYBOX, tree.join("bin/busybox"));
    fs::set_permissions(tree.join("bin/busybox"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("busybox", tree.join("bin/sh")).unwrap();
    tree
}

fn image(stage: &Stage, files: ImageFiles) -> Root {
    Root::Image(ImageRoot {
        files,
        scratch: stage.path("scratch"),
        user: (0, 0),
    })
}

/// A machine that runs `script` in the image's shell.
fn runs(stage: &Stage, files: ImageFiles, script: &str) -> Spec {
    let mut spec = Spec::new("image", "/bin/busybox").with_args(["sh", "-c", script]);
    spec.root = image(stage, files);
    spec.env.insert("PATH".into(), "/bin".into());
    spec.network = Network::Private;
    (spec.stdout, spec.stderr) = (Output::Lines, Output::Inherit);
    spec
}

async fn sees_its_image(stage: &Stage) {
    let lower = shell(stage);
    let upper = layer(stage, "upper", &[("etc/motd", "upper\n"), ("srv/new", "n\n")]);
    // What is not where it should be leads nowhere else.
    symlink("/etc", upper.join("run")).unwrap();
    fs::write(upper.join("proc"), "no directory").unwrap();
    let given = layer(stage, "given", &[("file", "given\n")]);
    let secret = stage.path("secret");
    fs::write(&secret, "of the host").unwrap();
    let script = format!(
        "busybox cat /etc/motd /etc/keep /srv/new /given/file; busybox id -u; busybox ls /; echo $$; \
         busybox ls {} 2>/dev/null || echo no host; echo x > /etc/motd && busybox cat /etc/motd; \
         (echo x > /given/file) 2>/dev/null || echo read-only; echo kept > /own/file; \
         (echo x > /sys/x) 2>/dev/null || echo no sys; echo gone > /tmp/x && echo gone > /dev/null && \
         busybox ls -d /dev/pts /dev/shm /proc/self/fd; \
         busybox wc -l < /proc/mounts >/dev/null; busybox grep -c {} /proc/mounts",
        secret.display(),
        stage.path("shell").display(),
    );
    let own = stage.path("own");
    fs::create_dir(&own).unwrap();
    let bind = |from: &Path, to: &str, read_only| Mount::Bind {
        from: from.into(),
        to: to.into(),
        read_only,
    };
    let mut spec = runs(
        stage,
        ImageFiles::Layers(vec![lower.clone(), upper.clone()]),
        &script,
    );
    spec.mounts = vec![bind(&given, "/given", true), bind(&own, "/own", false)];
    let (said, exit) = stage.play(spec).await;
    let uid = 0;
    let expect = format!(
        "upper\nkept\nn\ngiven\n{uid}\nbin\ndev\netc\ngiven\nown\nproc\nrun\nsrv\nsys\ntmp\n1\nno host\nx\n\
         read-only\nno sys\n/dev/pts\n/dev/shm\n/proc/self/fd\n0\n"
    );
    assert_eq!(said, expect);
    assert_eq!(exit, Exit::Code(1), "grep found none");
    assert_eq!(fs::read_to_string(own.join("file")).unwrap(), "kept\n");
    assert_eq!(fs::read_to_string(upper.join("etc/motd")).unwrap(), "upper\n");
    assert!(!lower.join("srv").exists() && upper.join("run").is_symlink());
    assert!(
        !stage.path("scratch").exists(),
        "nothing is left of what it wrote"
    );
}

/// A program is looked up in the image, not on the host; what cannot be found is said.
async fn looks_up_its_program(stage: &Stage) {
    let layers = || ImageFiles::Layers(vec![stage.path("shell")]);
    let mut spec = runs(stage, layers(), "echo found");
    spec.program.exe = "sh".into();
    assert_eq!(stage.output(spec).await, "found\n");
    let mut spec = runs(stage, layers(), "");
    spec.program.exe = "true".into();
    let error = stage.driver().start(spec).await.unwrap_err();
    let StartError::Failed(error) = error else {
        panic!("{error}")
    };
    let failed: &StepFailed = error.downcast_ref().unwrap();
    assert_eq!(failed.fault.step, Step::Exec, "{failed}");
    assert!(!stage.path("scratch").exists());
}

/// A copy of all files takes the place of overlayfs, and goes with its machine.
async fn runs_in_a_copy(stage: &Stage) {
    let copy = stage.path("copy");
    fs::rename(stage.path("shell"), &copy).unwrap();
    let script = "busybox cat /etc/motd; echo new > /etc/new; busybox cat /etc/new";
    let said = stage.output(runs(stage, ImageFiles::Copy(copy.clone()), script));
    assert_eq!(said.await, "lower\nnew\n");
    assert!(!copy.exists() && !stage.path("scratch").exists());
}

/// Whether images can be had is found out by trying.
async fn says_whether_it_can(stage: &Stage) {
    stage.driver().try_overlay(&stage.path("scratch")).await.unwrap();
    assert!(stage.driver().describe().images);
    assert!(!stage.path("scratch").exists());
}

/// As many layers as overlayfs takes, whose paths together are longer than what the kernel takes as options.
async fn has_many_layers(stage: &Stage) {
    let mut layers = vec![stage.path("shell")];
    for number in 1..500 {
        let name = format!("layer-{number}-with-a-name-that-is-rather-long");
        layers.push(layer(stage, &name, &[(&format!("n/{number}"), "")]));
    }
    let spec = runs(
        stage,
        ImageFiles::Layers(layers.clone()),
        "busybox ls /n | busybox wc -l",
    );
    assert_eq!(stage.output(spec).await, "499\n");
    layers.push(stage.path("given"));
    let error = stage
        .driver()
        .start(runs(stage, ImageFiles::Layers(layers), ""))
        .await;
    assert!(matches!(error, Err(StartError::Spec(_))), "{error:?}");
}

/// A stranger's program in an image's shell.
fn strange(stage: &Stage, uid: u32, script: &str) -> Spec {
    let mut spec = runs(stage, ImageFiles::Layers(vec![stage.path("shell")]), script);
    spec.stranger = Some(stranger(uid));
    if let Root::Image(root) = &mut spec.root {
        root.user = (uid, uid);
    }
    spec
}

fn stranger(uid: u32) -> Account {
    Account {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

/// What a stranger tries.
const TRIES: &str = "busybox id -u; busybox id -g; busybox grep NoNewPrivs /proc/self/status; \
    (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo no settings; \
    (busybox mount -t tmpfs x /mnt) 2>/dev/null || echo no mounts; \
    (busybox mknod /sda b 8 0) 2>/dev/null || echo no devices; \
    (busybox head -c 1 /proc/1/exe) >/dev/null 2>&1 || echo no way to process 1";

/// What comes of it.
fn nothing_came_of_it(uid: u32) -> String {
    format!("{uid}\n{uid}\nNoNewPrivs:\t1\nno settings\nno mounts\nno devices\nno way to process 1\n")
}

/// A stranger's program has its image's account, and nothing with which it could reach the host. Process 1 is ours: it buries
/// orphans, passes a signal on to whom nobody's handler would, and the program's status.
async fn strangers_are_confined(stage: &Stage, uid: u32) {
    assert_eq!(
        stage.output(strange(stage, uid, TRIES)).await,
        nothing_came_of_it(uid)
    );
    let orphans = "echo $$; (busybox true & exec busybox true); while busybox ps -o stat | busybox grep -q Z; do :; done; exit 7";
    let (said, exit) = stage.play(strange(stage, uid, orphans)).await;
    assert_eq!((said.as_str(), exit), ("2\n", Exit::Code(7)));
    let mut missing = strange(stage, uid, "");
    missing.program.exe = "nowhere".into();
    let missing = stage.driver().start(missing).await.unwrap_err();
    assert!(missing.to_string().contains("cannot execute"), "{missing}");
}

/// A command in a machine is no freer than the machine's program.
async fn commands_are_confined(stage: &Stage, uid: u32) {
    let spec = strange(stage, uid, "echo up; exec busybox sleep 1000");
    let machine = stage.driver().start(spec).await.unwrap();
    let mut lines = suijuris_vehicle::Machine::output(&machine, suijuris_vehicle::Since::Kept).unwrap();
    assert_eq!(lines.next().await.unwrap().text, "up");
    let run = |argv: &[&str]| {
        let entering = Entering {
            argv: argv.iter().map(Into::into).collect(),
            env: vec![("PATH".into(), "/bin".into()), ("A".into(), "its own".into())],
            cwd: "/".into(),
            stranger: Some(stranger(uid)),
            terminal: false,
        };
        machine.enter(&stage.shim(), entering).unwrap().output().unwrap()
    };
    let ran = run(&[
        "sh",
        "-c",
        &format!("{TRIES}; echo $A; busybox pidof busybox; exit 3"),
    ]);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(
        ran.status.code(),
        Some(3),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let rest = said
        .strip_prefix(&nothing_came_of_it(uid))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(rest.starts_with("its own\n"), "{rest}");
    assert!(
        rest.split_whitespace().any(|pid| pid == "2"),
        "it sees the machine's processes: {rest}"
    );
    assert_eq!(run(&["nowhere"]).status.code(), Some(127));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.code(), None);
    suijuris_vehicle::Machine::signal(&machine, suijuris_vehicle::Signal::TERM)
        .await
        .unwrap();
    assert_eq!(suijuris_vehicle::Machine::wait(&machine).await, Exit::Code(143));
}

/// A machine with a network of its own has its own ports, and whoever holds its handle connects to them.
async fn has_its_own_ports(stage: &Stage) {
    let serve = |text: &str| {
        format!(
            "busybox mkdir /w && echo {text} > /w/index.html && exec busybox httpd -f -p 127.0.0.1:80 -h /w"
        )
    };
    let mut machines = Vec::new();
    for text in ["one", "two"] {
        let mut spec = strange(stage, 0, &serve(text));
        if let Root::Image(root) = &mut spec.root {
            root.scratch = stage.path(&format!("scratch-{text}"));
        }
        machines.push((text, stage.driver().start(spec).await.unwrap()));
    }
    for (text, machine) in &machines {
        let said = loop {
            let socket = machine.socket(&stage.shim(), Family::V4).unwrap();
            let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
            // Until it listens.
            let Ok(mut stream) = socket.connect("127.0.0.1:80".parse().unwrap()).await else {
                tokio::task::yield_now().await;
                continue;
            };
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            break said;
        };
        assert!(said.ends_with(&format!("{text}\n")), "{said}");
    }
    for (_, machine) in machines {
        suijuris_vehicle::Machine::kill(&machine).await;
        assert!(
            machine.socket(&stage.shim(), Family::V4).is_err(),
            "nothing is made in the network of who is gone"
        );
    }
}

/// What was written stays for the next machine that asks for it, and goes with the first that does not.
async fn keeps_what_was_written(stage: &Stage) {
    let count = "echo x >> /written; busybox wc -l < /written";
    for (keeps, expect) in [
        (true, "1\n"),
        (true, "2\n"),
        (false, "1\n"),
        (true, "1\n"),
        (false, "1\n"),
    ] {
        let mut spec = runs(stage, ImageFiles::Layers(vec![stage.path("shell")]), count);
        spec.keeps_written = keeps;
        assert_eq!(stage.output(spec).await, expect);
    }
    assert!(!stage.path("scratch").exists());
}

/// A detached machine keeps its image when its handle is gone.
async fn is_cleared_away_when_killed(stage: &Stage) {
    let script = "busybox mkdir -p /a/b && busybox chmod 0 /a/b /a && echo up && busybox sleep 1000";
    let spec = runs(stage, ImageFiles::Layers(vec![stage.path("shell")]), script);
    let machine = stage.driver().start(spec).await.unwrap();
    let mut lines = suijuris_vehicle::Machine::output(&machine, suijuris_vehicle::Since::Kept).unwrap();
    assert_eq!(lines.next().await.unwrap().text, "up");
    assert!(stage.path("scratch").exists());
    suijuris_vehicle::Machine::kill(&machine).await;
    suijuris_vehicle::Machine::wait(&machine).await;
    drop(machine);
    assert!(!stage.path("scratch").exists());
}

fn on_stage(isolation: Isolation, play: impl AsyncFnOnce(&Stage)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let want = Want {
            isolation: Some(isolation),
            ..Want::default()
        };
        let Some(stage) = Stage::new(want).await else {
            return;
        };
        play(&stage).await;
    });
}

fn conforms(isolation: Isolation) {
    on_stage(isolation, async |stage| {
        sees_its_image(stage).await;
        looks_up_its_program(stage).await;
        is_cleared_away_when_killed(stage).await;
        keeps_what_was_written(stage).await;
        for uid in [0, 1000] {
            strangers_are_confined(stage, uid).await;
            commands_are_confined(stage, uid).await;
        }
        has_its_own_ports(stage).await;
        has_many_layers(stage).await;
        says_whether_it_can(stage).await;
        runs_in_a_copy(stage).await;
    });
}

/// Who has no numbers is told, and what to do about it.
async fn has_one_user(stage: &Stage) {
    let about = stage.driver().describe();
    assert_eq!(about.users, ImageUsers::One);
    let mut missing = about.limit_shortfalls.iter().map(ToString::to_string);
    let why = missing.find(|why| why.starts_with("several users in an image"));
    assert!(
        why.as_ref().is_some_and(|why| why.contains("/etc/subuid")),
        "{why:?}"
    );
}

#[test]
fn machines_run_in_images() {
    if nix::unistd::geteuid().is_root() {
        conforms(Isolation::Namespaces);
    }
    conforms(Isolation::UserNamespaces);
}

#[test]
fn machines_run_in_images_without_root() {
    if Again::is_this() {
        conforms(Isolation::UserNamespaces);
        on_stage(Isolation::UserNamespaces, has_one_user);
    } else if nix::unistd::geteuid().is_root() {
        Again::new("images::machines_run_in_images_without_root").run(&[], NOBODY, |_| ());
    }
}

/// The lowest layer with another user, and what belongs to that user.
fn with_users(stage: &Stage) -> PathBuf {
    let users = "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n";
    layer(
        stage,
        "users",
        &[("etc/passwd", users), ("srv/data/file", "of www-data\n")],
    )
}

/// Whoever starts the machine is the image's user, and the image's other users are subordinate numbers.
async fn has_all_users_of_its_image(stage: &Stage) {
    assert_eq!(stage.driver().describe().users, ImageUsers::Mapped);
    let layers = ImageFiles::Layers(vec![shell(stage), with_users(stage)]);
    let own = stage.path("own");
    fs::create_dir(&own).unwrap();
    let script = "busybox stat -c %u:%g /srv/data /srv/data/file /etc/motd; echo x > /own/file; \
                  busybox chown 33:33 /own/file; busybox stat -c %u:%g /own/file; busybox su -s /bin/sh www-data -c '\
                  busybox id -u; busybox id -g; echo mine > /srv/data/file && busybox mkdir -m 700 /srv/data/closed && \
                  echo x > /srv/data/closed/file; (echo x > /etc/motd) 2>/dev/null || echo denied'";
    let mut spec = runs(stage, layers, script);
    spec.owners = ["srv/data", "srv/data/file"]
        .map(|path| Owner {
            path: path.into(),
            uid: 33,
            gid: 33,
        })
        .into();
    spec.mounts = vec![Mount::Bind {
        from: own.clone(),
        to: "/own".into(),
        read_only: false,
    }];
    let said = stage.output(spec).await;
    assert_eq!(said, "33:33\n33:33\n0:0\n33:33\n33\n33\ndenied\n");
    let layer = stage.path("users/srv/data/file");
    assert_eq!(fs::read_to_string(layer).unwrap(), "of www-data\n");
    let owner = fs::metadata(own.join("file")).unwrap().uid();
    assert_eq!(owner, NOBODY, "what it left is the caller's again");
    assert!(
        !stage.path("scratch").exists(),
        "also what only others could enter is removed"
    );

    // The image's own user is the caller, whichever it is, and has the groups that it is given.
    let (_, groups) = (
        stage.output(strange(stage, 1000, "busybox id -u")).await,
        "busybox id -u; busybox id -G; (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo no settings",
    );
    let mut spec = strange(stage, 1000, groups);
    spec.stranger = Some(Account {
        groups: vec![4],
        ..stranger(1000)
    });
    let said = stage.output(spec).await;
    assert!(
        said == "1000\n1000 4\nno settings\n" || said == "1000\n4 1000\nno settings\n",
        "{said}"
    );

    // A supervisor that died has left what it may not remove itself.
    let left =
        "busybox mkdir -m 700 /srv/left && busybox touch /srv/left/file && busybox chown -R 33:33 /srv/left";
    let mut spec = runs(
        stage,
        ImageFiles::Layers(vec![stage.path("shell"), stage.path("users")]),
        left,
    );
    spec.keeps_written = true;
    assert_eq!(stage.output(spec).await, "");
    let upper = stage.path("scratch/upper/srv/left");
    assert_eq!(
        fs::read_dir(upper).unwrap_err().kind(),
        std::io::ErrorKind::PermissionDenied
    );
    let layers = ImageFiles::Layers(vec![stage.path("shell")]);
    assert_eq!(stage.output(runs(stage, layers, "echo again")).await, "again\n");
    assert!(!stage.path("scratch").exists());
}

/// As an ordinary user to whom an administrator gave numbers. Skipped aloud without `newuidmap`.
#[test]
fn an_ordinary_user_with_subordinate_numbers_has_all_users_of_an_image() {
    const TEST: &str = "images::an_ordinary_user_with_subordinate_numbers_has_all_users_of_an_image";
    if Again::is_this() {
        return on_stage(Isolation::UserNamespaces, has_all_users_of_its_image);
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/newuidmap").exists() {
        eprintln!("SKIPPED: needs root, and newuidmap: run `sh tools/setup --test`");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let ranges = temp.path().join("ranges");
    fs::write(&ranges, format!("{NOBODY}:300000:65536\n")).unwrap();
    fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // In a view of its own: this host's stay as they are.
    let script = format!(
        "for file in /etc/subuid /etc/subgid; do test -e $file || touch $file; mount --bind {} $file || exit 9; done; \
         exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\"",
        ranges.display()
    );
    let around = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    Again::new(TEST).run(&around, 0, |_| ());
}
