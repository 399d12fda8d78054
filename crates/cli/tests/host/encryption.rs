//! Volumes that are encrypted at rest: in a machine of QEMU, emulated, with Debian's kernel, since the device mapper of this machine is not
//! for tests.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use suijuris_testkit::{program, servers};

/// An emulated machine is slow, and slower beside others.
const WITHIN: Duration = Duration::from_secs(500);

/// What is done there. Each line that begins with @ is told to the test.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C DM_DISABLE_UDEV=1
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs tmp /tmp
$b mount -t tmpfs run /run
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk dm-mod dm-crypt xts ecb af_alg algif_skcipher loop libcrc32c xfs; do
    test ! -e /kernel/$module.ko || $b insmod /kernel/$module.ko
done
until $b test -e /dev/vda; do $b sleep 0.1; done
$b mount -t ext4 /dev/vda /data
$b ip link set lo up
umask 077
$b head -c 64 /dev/urandom > /tmp/key
$b head -c 64 /dev/urandom > /tmp/other
secret=$($b cat /secret)
alive() { $b test -d /proc/$host && ! $b grep -q '^State:.Z' /proc/$host/status; }
start() {
    $b rm -f /tmp/first
    suijuris host --json --host-programs --no-proxy --no-rate-limit --api 127.0.0.1:4280 --data /data/host "$@" > /tmp/first 2> /tmp/said &
    host=$!
    until $b test -s /tmp/first; do
        alive || { echo "@ ended: $($b tail -n 1 /tmp/said)"; return; }
        $b sleep 0.1
    done
    $b grep -o 'sjm_[a-z0-9A-Z_]*' /tmp/first > /tmp/shown && $b cp /tmp/shown /tmp/token
    echo "@ listens"
}
call() {
    path=$1; shift
    $b wget -qO- --header "Authorization: Bearer $($b cat /tmp/token)" "$@" http://127.0.0.1:4280/v1$path
}
value() { $b grep -o "\"$1\":\"\{0,1\}[^,\"}]*" | $b head -n 1 | $b sed 's/.*[:"]//'; }
ended() { wait $host; }
is() { if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi; }

start --volume-key /tmp/key
call /apps --post-data '{"app_name":"a"}' > /dev/null
volume=$(call /apps/a/volumes --post-data '{"name":"data","size_gb":1}' > /tmp/volume; value id < /tmp/volume)
echo "@ encrypted $(value encrypted < /tmp/volume)"
call /apps/a/machines --post-data '{"config":{"image":"host:sh","restart":{"policy":"no"},"mounts":[{"volume":"'$volume'","path":"/mnt"}],"init":{"exec":["/bin/sh","-c","/bin/busybox cp /secret /mnt/secret; /bin/busybox sync; exec /bin/busybox sleep 100000"]}}}' > /tmp/machine
machine=$($b grep -o '"id":"[0-9a-f]\{14\}"' /tmp/machine | $b grep -o '[0-9a-f]\{14\}')
until $b test -s /data/host/volumes/$volume/secret; do $b sleep 0.1; done
echo "@ mount says $(value encrypted < /tmp/machine), written $(is $b grep -q $secret /data/host/volumes/$volume/secret)"
call /apps/a/volumes/$volume/snapshots --post-data '{}' > /dev/null
fork=$(call /apps/a/volumes --post-data '{"name":"fork","size_gb":1,"source_volume_id":"'$volume'"}' | value id)
echo "@ fork has it $(is $b grep -q $secret /data/host/volumes/$fork/secret)"
$b sync
# A daemon that is killed leaves it open, for its machines; the next one finds it so.
$b kill -9 $host; ended
echo "@ mounted without a daemon $(is $b grep -q ' /data/host/volumes ' /proc/mounts)"
start --volume-key /tmp/key
echo "@ still there $(is $b grep -q $secret /data/host/volumes/$volume/secret)"
# Another key is refused though it is open; so is none.
$b kill -9 $host; ended
start --volume-key /tmp/other
start
start --volume-key /tmp/key
call /apps/a/machines/$machine/stop --post-data '{"signal":"SIGKILL"}' > /dev/null
until call /apps/a/machines/$machine | $b grep -q '"state":"stopped"'; do $b sleep 0.1; done
$b kill $host; ended
echo "@ closed: mounted $(is $b grep -q ' /data/host/volumes ' /proc/mounts), devices $($b ls /dev/mapper | $b grep -c suijuris), files $($b ls /data/host/volumes | $b wc -l)"
echo "@ on disk: header $($b head -c 4 /data/host/volumes.luks), mode $($b stat -c %a /data/host/volumes.luks)"
start --volume-key /tmp/other
start --volume-key /tmp/key
echo "@ opened again $(is $b grep -q $secret /data/host/volumes/$volume/secret), fork $(is $b grep -q $secret /data/host/volumes/$fork/secret)"
$b sync
echo "@ end"
$b poweroff -f
"#;

/// What it says of it.
const EXPECTED: [&str; 16] = [
    "listens",
    "encrypted true",
    "mount says true, written yes",
    "fork has it yes",
    "mounted without a daemon yes",
    "listens",
    "still there yes",
    "ended: {\"error\":{\"message\":\"the key does not open the volumes in /data/host/volumes: give the one that they were encrypted with\",\"exit_code\":3}}",
    "ended: {\"error\":{\"message\":\"the volumes in /data/host/volumes are encrypted: start the host with their key, --volume-key FILE\",\"exit_code\":3}}",
    "listens",
    "closed: mounted no, devices 0, files 0",
    "on disk: header LUKS, mode 600",
    "ended: {\"error\":{\"message\":\"the key does not open the volumes in /data/host/volumes: give the one that they were encrypted with\",\"exit_code\":3}}",
    "listens",
    "opened again yes, fork yes",
    "end",
];

/// Puts a program with its libraries and its loader into a file system, under its own path.
fn add(root: &Path, found: &Path) {
    let place = |path: &Path| {
        let to = root.join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        program::copy(path, to);
    };
    place(found);
    let listed = Command::new("ldd").arg(found).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        place(Path::new(library));
    }
}

fn which(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
    let found = places.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not there: run `sh tools/setup --test`"))
}

/// The first file system of the machine, packed.
fn initrd(dir: &Path, kernel: &Path, secret: &str) -> PathBuf {
    let root = dir.join("root");
    for directory in [
        "bin", "dev", "proc", "sys", "tmp", "run", "root", "data", "mnt", "kernel", "etc",
    ] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::write(root.join("init"), INIT).unwrap();
    std::fs::write(root.join("secret"), secret).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    let shell = |text: &str| {
        let ran = Command::new("sh")
            .args(["-c", text])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{text}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    };
    program::copy(which("busybox"), root.join("bin/busybox"));
    for name in ["sh", "test", "mount", "umount"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let suijuris = Path::new(env!("CARGO_BIN_EXE_suijuris"));
    add(&root, suijuris);
    shell(&format!(
        "strip -o root/bin/suijuris {0} && rm root{0}",
        suijuris.display()
    ));
    for name in ["cryptsetup", "mkfs.xfs", "cp"] {
        add(&root, &which(name));
    }
    for from in [kernel.to_owned(), kernel.join("encryption")] {
        for entry in std::fs::read_dir(&from)
            .unwrap_or_else(|_| panic!("{} is not there: run `sh tools/setup --test`", from.display()))
        {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "ko") {
                program::copy(&path, root.join("kernel").join(path.file_name().unwrap()));
            }
        }
    }
    shell("chmod +x root/init && cd root && find . | cpio -o -H newc --quiet | gzip -1 > ../initrd");
    dir.join("initrd")
}

// proves F4
#[test]
fn volumes_are_encrypted_under_a_key_that_alone_opens_them() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = servers::installed("kernel");
    let secret = format!("MARK{}", dir.path().file_name().unwrap().to_string_lossy());
    let initrd = initrd(dir.path(), &kernel, &secret);
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(900 << 20).unwrap();
    let made = Command::new(which("mkfs.ext4"))
        .arg("-q")
        .arg(&disk)
        .status()
        .unwrap();
    assert!(made.success());
    let mut machine = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "1300",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(initrd)
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu is not there: run `sh tools/setup --test`");
    let (sender, said) = sync_channel(1_000);
    let mut console = BufReader::new(machine.stdout.take().unwrap());
    std::thread::spawn(move || {
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let (limit, mut all, mut told) = (Instant::now() + WITHIN, Vec::new(), Vec::new());
    while told.last().is_none_or(|last| last != "end") {
        match said.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                told.extend(line.strip_prefix("@ ").map(str::to_owned));
                all.push(line);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = machine.kill();
    let _ = machine.wait();
    assert_eq!(told, EXPECTED, "{all:#?}");
    // Nothing of it is anywhere on the disk; what is outside of the container is.
    let on_disk = |text: &str| {
        let searched = Command::new("grep")
            .args(["-qzF", "-e", text])
            .arg(&disk)
            .status();
        searched.unwrap().code()
    };
    assert_eq!((on_disk(&secret), on_disk("volumes.luks")), (Some(1), Some(0)));
}

#[test]
fn where_volumes_cannot_be_encrypted_the_host_says_why_and_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let start = |data: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
        command.args(["host", "--api", "127.0.0.1:0", "--no-proxy", "--volume-key"]);
        let ended = command.arg(&key).arg("--data").arg(data).output().unwrap();
        assert_eq!(ended.status.code(), Some(3));
        String::from_utf8(ended.stderr).unwrap()
    };
    std::fs::write(&key, [7; 64]).unwrap();
    let said = start(&dir.path().join("data"));
    let why = if !nix::unistd::geteuid().is_root() {
        "only root can encrypt volumes"
    } else if !Path::new("/dev/mapper/control").exists() {
        "this kernel has no device mapper"
    } else {
        // The file is everybody's to read.
        "the volumes' key in"
    };
    assert!(said.contains(why), "{said}");
}
