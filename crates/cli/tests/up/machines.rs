//! Whole virtual machines that are frozen and copied, `up` and the object's memory inside: the kernel of Debian in QEMU,
//! emulated, over depots outside of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suijuris_testkit::servers;

use crate::rig::{OPEN, run};

/// Guard against hanging: an emulated machine is slow, and slower beside others.
const PATIENCE: Duration = Duration::from_secs(400);

/// The address of this host inside.
const HOST: &str = "10.0.2.2";

/// Requests of each copy that are looked at once it is settled which of them is the object.
const AFTERWARDS: usize = 20;

const DEFINITION: &str = r#"
name = "probe"
[workload]
command = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "/object"]
[witness]
lease = "6s"
"#;

const BRIEFLY: &str = r#"@id("brief") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("1s") };"#;

/// Each line on the console is a number of requests to make; each answer is told.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net; do
    test ! -e /kernel/$module.ko || insmod /kernel/$module.ko
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
. /environment
suijuris up /object --data /data --port 8080 --json &
while read count; do
    while test "$count" -gt 0; do
        count=$((count - 1))
        if curl -sf -o /dev/null -m 60 http://127.0.0.1:8080/governance.cedar; then
            echo "@ served"
        else
            echo "@ refused"
        fi
        sleep 0.2
    done
done
"#;

/// A machine that runs.
struct Machine {
    child: Child,
    qmp: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

/// What machines are made of.
struct Parts {
    home: tempfile::TempDir,
    kernel: PathBuf,
}

/// Libraries that a program is linked with, its loader included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = run(Command::new("ldd").arg(program)).code(0).out;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

impl Parts {
    /// A file system with the object, whose depot is at `url`.
    fn new(url: &str, env: &[(&str, &str)], sleep: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        let kernel = servers::installed("kernel");
        for directory in ["bin", "dev", "proc", "sys", "tmp", "root", "object", "kernel"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        let file = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        file("init", INIT);
        run(Command::new("chmod").arg("+x").arg(root.join("init"))).code(0);
        file("object/object.toml", &format!("{DEFINITION}{sleep}"));
        file("object/governance.cedar", &format!("{OPEN}{BRIEFLY}"));
        let depot = url.replace("127.0.0.1", HOST);
        let mut environment = format!("export SUIJURIS_DEPOT='{depot}'\n");
        for (name, value) in env {
            environment += &format!("export {name}='{}'\n", value.replace("127.0.0.1", HOST));
        }
        file("environment", &environment);
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
        let busybox = busybox.iter().find(|path| path.exists());
        let busybox = busybox.expect("busybox is not there: run `sh tools/setup --test`");
        suijuris_testkit::program::copy(busybox, root.join("bin/busybox"));
        for name in ["sh", "mount", "test", "insmod", "ip", "sleep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let programs = [
            ("suijuris", env!("CARGO_BIN_EXE_suijuris")),
            ("curl", "/usr/bin/curl"),
        ];
        for (name, program) in programs {
            let inside = root.join("bin").join(name);
            run(Command::new("strip").arg("-o").arg(&inside).arg(program)).code(0);
            for library in libraries(Path::new(program)) {
                let place = root.join(library.strip_prefix("/").unwrap());
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                suijuris_testkit::program::copy(&library, place);
            }
        }
        for entry in std::fs::read_dir(&kernel).expect("no kernel: run `sh tools/setup --test`") {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "ko") {
                suijuris_testkit::program::copy(&path, root.join("kernel").join(path.file_name().unwrap()));
            }
        }
        let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
        std::fs::create_dir_all(root.join("etc/ssl/certs")).unwrap();
        suijuris_testkit::program::copy(authorities, root.join(authorities.strip_prefix("/").unwrap()));
        let pack = "cd root && find . | cpio -o -H newc --quiet | gzip -1 > ../initrd";
        run(Command::new("sh").args(["-c", pack]).current_dir(home.path())).code(0);
        Self { home, kernel }
    }

    fn snapshot(&self) -> PathBuf {
        self.home.path().join("snapshot")
    }

    /// A machine that boots, or goes on from the snapshot.
    fn start(&self, name: &str, from_snapshot: bool) -> Machine {
        let qmp = self.home.path().join(format!("{name}.qmp"));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "384",
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .args(["-netdev", "user,id=net"])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .arg("-kernel")
            .arg(self.kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.home.path().join("initrd"))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()));
        if from_snapshot {
            let read = format!("exec:cat {}", self.snapshot().display());
            command.args(["-incoming", &read]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu is not there: run `sh tools/setup --test`");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (said, heard) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            let mut said = BufReader::new(said);
            let mut line = Vec::new();
            while said.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                heard.lock().unwrap().push(text);
                line.clear();
            }
        });
        let machine = Machine { child, qmp, lines };
        if from_snapshot {
            machine.wait("it has its memory", |machine| {
                machine.tell("query-status", &json!({}))["status"] != "inmigrate"
            });
            machine.tell("cont", &json!({}));
        }
        machine
    }
}

impl Machine {
    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let lines = self.lines.lock().unwrap();
            assert!(Instant::now() < deadline, "in vain: {what}: {lines:#?}");
            drop(lines);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Gives its emulator a command.
    fn tell(&self, command: &str, arguments: &Value) -> Value {
        let stream = loop {
            match UnixStream::connect(&self.qmp) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut ask = |question: Value| {
            (&stream).write_all(format!("{question}\n").as_bytes()).unwrap();
            loop {
                let mut line = String::new();
                assert!(answers.read_line(&mut line).unwrap() > 0, "qemu has ended");
                let answer: Value = serde_json::from_str(&line).unwrap();
                if answer.get("return").is_some() || answer.get("error").is_some() {
                    return answer;
                }
            }
        };
        ask(json!({"execute": "qmp_capabilities"}));
        let answer = ask(json!({"execute": command, "arguments": arguments}));
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// Freezes it and keeps all its memory.
    fn freeze(&self, parts: &Parts) {
        self.tell("stop", &json!({}));
        let write = format!("exec:cat > {}", parts.snapshot().display());
        self.tell("migrate", &json!({"uri": write}));
        self.wait("its memory is kept", |machine| {
            let status = machine.tell("query-migrate", &json!({}))["status"].clone();
            assert_ne!(status, "failed");
            status == "completed"
        });
    }

    /// Makes so many requests in it.
    fn request(&mut self, count: usize) {
        let console = self.child.stdin.as_mut().unwrap();
        console.write_all(format!("{count}\n").as_bytes()).unwrap();
        console.flush().unwrap();
    }

    fn count(&self, holds: impl Fn(&str) -> bool) -> usize {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .filter(|line| holds(line))
            .count()
    }

    fn served(&self) -> usize {
        self.count(|line| line.ends_with("@ served"))
    }

    fn answered(&self) -> usize {
        self.count(|line| line.contains("@ "))
    }

    fn is_twin(&self) -> bool {
        self.count(|line| line.contains(r#""event":"refused""#) && line.contains(r#""reason":"twin""#)) > 0
    }

    fn says(&self, words: &'static str) {
        self.wait(words, |machine| machine.count(|line| line.contains(words)) > 0);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of two copies one turns out to be the object: the other says so, and from then on serves nothing. Which requests of the
/// other were served before.
fn one_is_the_object(first: Machine, second: Machine) -> usize {
    first.wait("one of them is refused", |first| {
        first.is_twin() || second.is_twin()
    });
    let (object, twin) = if first.is_twin() {
        (second, first)
    } else {
        (first, second)
    };
    let before = (object.served(), twin.served(), twin.answered());
    object.wait("it serves", |object| object.served() >= before.0 + AFTERWARDS);
    twin.wait("it answers", |twin| twin.answered() >= before.2 + AFTERWARDS);
    assert_eq!(
        twin.served(),
        before.1,
        "it serves on: {:#?}",
        twin.lines.lock().unwrap()
    );
    assert!(!object.is_twin(), "{:#?}", object.lines.lock().unwrap());
    before.1
}

/// A machine whose object sleeps is frozen, and thawed twice: at most one is active.
fn thawed_twice(url: &str, env: &[(&str, &str)], sleep: &str, asleep: &'static str) {
    let parts = Parts::new(url, env, sleep);
    let mut original = parts.start("original", false);
    original.says(r#""event":"listening""#);
    original.request(1);
    original.says("@ served");
    original.says(asleep);
    original.freeze(&parts);
    drop(original);
    let [mut first, mut second] = ["first", "second"].map(|name| parts.start(name, true));
    for copy in [&mut first, &mut second] {
        copy.request(100_000);
    }
    assert_eq!(one_is_the_object(first, second), 0, "both have served");
}

// proves B6, C6
#[test]
fn of_a_machine_frozen_with_its_object_asleep_and_thawed_twice_one_serves() {
    let (url, env) = servers::s3_depot(&format!("asleep-{}", std::process::id()));
    thawed_twice(&url, &env, "", r#""event":"dormant""#);
}

/// The same with the object's own machine frozen inside, so that it only resumes.
// proves B6, C6
#[test]
fn of_a_machine_frozen_with_its_object_suspended_and_thawed_twice_one_serves() {
    let url = servers::etcd_depot(&format!("suspended-{}", std::process::id()));
    let sleep = "[sleep]\nmode = \"suspend\"\n";
    thawed_twice(&url, &[], sleep, r#""state":"suspended""#);
}

/// One that serves is copied and both go on: no clock tells the copy. They part when the mark is written next.
// proves B6
#[test]
fn of_a_machine_copied_while_it_serves_one_goes_on() {
    let (url, env) = servers::s3_depot(&format!("awake-{}", std::process::id()));
    let parts = Parts::new(&url, &env, "");
    let mut original = parts.start("original", false);
    original.says(r#""event":"listening""#);
    original.request(100_000);
    original.says("@ served");
    original.freeze(&parts);
    original.tell("cont", &json!({}));
    let copy = parts.start("copy", true);
    one_is_the_object(original, copy);
}
