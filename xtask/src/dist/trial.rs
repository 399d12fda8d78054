//! Installs what was made in places that have nothing else, and uses it there.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use xshell::{Shell, cmd};

use super::Made;

/// An object whose program is busybox, the one static program that the tests install.
const OBJECT: &str = r#"name = "trial"

[workload]
command = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "{object}"]
"#;
const RULES: &str = r#"@id("anybody")
permit (principal, action in [Action::"wake", Action::"admit"], resource);
@id("a-while")
permit (principal, action == Action::"remain", resource)
when { context.activity.idle < duration("1s") };
@id("owner")
permit (principal is Controller, action, resource);
"#;

/// Within a place: runs the object, reads its page, ends it, and looks at its history.
const SESSION: &str = r#"set -eu
cd /trial
suijuris --version
suijuris check object
suijuris up object --json >events &
until grep -q '"listening"' events; do sleep 0.1; done
url=$(sed -n 's/.*"url":"\(http:[^"]*\)".*/\1/p' events | head -n 1)
test "$(wget -q -O - "${url%/}/page.html")" = "from a place with nothing else"
# Whatever is installed while it runs, it goes on.
eval "${meanwhile:-}"
until grep -q '"event":"dormant"' events; do sleep 0.1; done
kill -TERM $!
wait $! || { cat events; exit 1; }
suijuris verify object
"#;

/// Of those who make the place and of the place.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn run(shell: &Shell, made: &Made) -> Result<()> {
    if !nix_is_root(shell)? {
        eprintln!("not tried: a place with nothing else needs root (chroot, mount)");
        return Ok(());
    }
    let room = shell.current_dir().join("target/dist-trial");
    if room.exists() {
        fs::remove_dir_all(&room)?;
    }
    archive(shell, made, &room.join("archive"))?;
    if let Some(package) = &made.package {
        debian(shell, package, &room.join("package"))?;
    }
    image(shell, &made.image, &room.join("image"))?;
    Ok(fs::remove_dir_all(room)?)
}

/// The user and group of somebody in particular.
const ORDINARY: u32 = 1_000;

fn nix_is_root(shell: &Shell) -> Result<bool> {
    Ok(cmd!(shell, "id -u").quiet().read()?.trim() == "0")
}

/// A root with busybox, the object and nothing else.
fn bare(shell: &Shell, root: &Path) -> Result<()> {
    for directory in [
        "bin",
        "proc",
        "dev",
        "sys",
        "tmp",
        "etc",
        "root",
        "trial/object",
        "var/lib",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = cmd!(shell, "which busybox")
        .quiet()
        .read()
        .context("busybox is not there: run `sh tools/setup --test`")?;
    fs::copy(busybox.trim(), root.join("bin/busybox"))?;
    for name in [
        "sh", "sleep", "grep", "sed", "head", "wget", "timeout", "test", "kill", "mkdir", "cp", "mv", "rm",
        "rmdir", "find", "sort", "dirname", "id", "cat", "mount",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    let object = root.join("trial/object");
    fs::write(object.join("object.toml"), OBJECT)?;
    fs::write(object.join("governance.cedar"), RULES)?;
    Ok(fs::write(
        object.join("page.html"),
        "from a place with nothing else\n",
    )?)
}

/// Runs a script as root of that place, with /proc and the few devices that every program may expect.
fn within(shell: &Shell, root: &Path, script: &str) -> Result<String> {
    within_as(shell, root, "0:0", script)
}

/// As this user and group.
fn within_as(shell: &Shell, root: &Path, user: &str, script: &str) -> Result<String> {
    let enter = r#"set -e
mount -t proc proc "$1/proc"; mount -t tmpfs dev "$1/dev"
for name in null zero random urandom; do touch "$1/dev/$name"; mount --bind "/dev/$name" "$1/dev/$name"; done
exec chroot --userspec="$3" "$1" /bin/sh -c "$2""#;
    let said = cmd!(
        shell,
        "timeout 300 unshare --mount --pid --fork sh -c {enter} enter {root} {script} {user}"
    )
    .env("PATH", PATH)
    .env("HOME", "/root")
    .env_remove("XDG_DATA_HOME")
    .quiet()
    .read()
    .with_context(|| format!("in {}", root.display()))?;
    Ok(said)
}

/// Installed, installed over, used, and removed again with the object left.
fn archive(shell: &Shell, made: &Made, root: &Path) -> Result<()> {
    bare(shell, root)?;
    let (archive, to) = (&made.archive, root.join("trial"));
    cmd!(shell, "tar --extract --gzip --file {archive} --directory {to}")
        .quiet()
        .run()?;
    let script = format!(
        "cd /trial/suijuris-*; ./install.sh; ./install.sh; meanwhile=$PWD/install.sh\n{SESSION}\n/usr/local/share/suijuris/uninstall.sh; test ! -e /usr/local/bin/suijuris; test -d /trial/object/.suijuris"
    );
    let said = within(shell, root, &script)?;
    ensure!(
        said.contains("installed suijuris") && said.contains("removed from /usr/local"),
        "{said}"
    );
    // Where it may not write it says so, and leaves nothing half made.
    let refused = within(
        shell,
        root,
        "mkdir -p /ro; cd /trial/suijuris-*; ./install.sh --prefix /proc/none 2>&1 && exit 1; exit 0",
    )?;
    ensure!(refused.contains("cannot be written"), "{refused}");
    let refused = within(
        shell,
        root,
        "mkdir -p /usr/local; mount -t tmpfs -o ro none /usr/local; cd /trial/suijuris-*; ./install.sh 2>&1 && exit 1; exit 0",
    )?;
    ensure!(refused.contains("/usr/local cannot be written"), "{refused}");
    ordinary(shell, root)
}

/// An ordinary user installs below its home, uses it from there and removes it; its object stays.
fn ordinary(shell: &Shell, root: &Path) -> Result<()> {
    let home = root.join("trial/home");
    fs::create_dir_all(&home)?;
    let object = root.join("trial/object");
    let _ = fs::remove_dir_all(object.join(".suijuris"));
    for theirs in [&home, &object, &root.join("trial")] {
        std::os::unix::fs::chown(theirs, Some(ORDINARY), Some(ORDINARY))?;
    }
    let user = format!("{ORDINARY}:{ORDINARY}");
    let script = format!(
        "export HOME=/trial/home; rm -f /trial/events; cd /trial/suijuris-*; ./install.sh; PATH=$HOME/.local/bin:$PATH\n{SESSION}\n\
         $HOME/.local/share/suijuris/uninstall.sh; test ! -e $HOME/.local/bin/suijuris; test -d /trial/object/.suijuris"
    );
    let said = within_as(shell, root, &user, &script)?;
    ensure!(said.contains("in /trial/home/.local/bin"), "{said}");
    Ok(())
}

fn debian(shell: &Shell, package: &Path, root: &Path) -> Result<()> {
    bare(shell, root)?;
    for directory in ["updates", "info"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(directory))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let within_it = format!("--root={}", root.display());
    let words = ["--force-not-root", "--force-script-chrootless", "--log=/dev/null"];
    cmd!(shell, "dpkg {within_it} {words...} --install {package}")
        .quiet()
        .ignore_stdout()
        .run()?;
    // Over itself, as an upgrade does.
    cmd!(shell, "dpkg {within_it} {words...} --install {package}")
        .quiet()
        .ignore_stdout()
        .run()?;
    within(shell, root, SESSION)?;
    cmd!(shell, "dpkg {within_it} {words...} --remove suijuris")
        .quiet()
        .ignore_stdout()
        .run()?;
    if root.join("usr/bin/suijuris").exists() || !root.join("trial/object/.suijuris").exists() {
        bail!("removing the package left the program, or took the object");
    }
    Ok(())
}

fn field(document: &serde_json::Value, pointer: &str) -> serde_json::Value {
    document.pointer(pointer).cloned().unwrap_or_default()
}

/// The layers laid over each other, with busybox beside them: what a machine made of the image runs.
fn image(shell: &Shell, layout: &Path, root: &Path) -> Result<()> {
    bare(shell, root)?;
    let read = |path: &Path| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &serde_json::Value| {
        let digest = field(descriptor, "/digest")
            .as_str()
            .unwrap_or_default()
            .replace("sha256:", "");
        layout.join("blobs/sha256").join(digest)
    };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(&field(&index, "/manifests/0")))?;
    let layers = field(&manifest, "/layers")
        .as_array()
        .cloned()
        .context("it has no layers")?;
    for layer in layers {
        let layer = blob(&layer);
        cmd!(shell, "tar --extract --gzip --file {layer} --directory {root}")
            .quiet()
            .run()?;
    }
    let config = read(&blob(&field(&manifest, "/config")))?;
    ensure!(
        field(&config, "/config/Entrypoint/0") == "/usr/bin/suijuris",
        "{config}"
    );
    within(shell, root, SESSION).map(drop)
}
