//! `suijuris kernel`: the kernel of virtual machines, from the distribution's package, unpacked and not installed.
//!
//! The package is fetched by apt, which verifies it by the distribution's signatures, and taken apart by dpkg. Neither
//! needs root.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use suijuris_vehicle::vm::{BUILT_IN, IMAGE, Kernel, NEEDED, PLAIN_IMAGE, USED};

use crate::server::data_folder;
use crate::{Answer, terminal};

/// The package that always names the newest kernel.
const PACKAGE: &str = "linux-image-amd64";

/// Files of a package that are looked through at most, and directories below one another.
const MAX_FILES: usize = 100_000;

/// The kernel of virtual machines
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KernelCommand {
    /// Fetch the distribution's kernel for virtual machines: downloaded and verified by apt, unpacked into your data folder, not
    /// installed
    #[command(after_help = "Example:\n  suijuris kernel install && suijuris up --vehicle qemu")]
    Install {
        /// Package to take it from; one that depends on a kernel stands for that
        #[arg(long, default_value = PACKAGE)]
        package: String,
    },
}

/// Where the fetched kernel lies.
pub(crate) fn place() -> anyhow::Result<PathBuf> {
    Ok(data_folder()?.join("kernel"))
}

/// Runs the command.
pub(crate) fn run(command: &KernelCommand) -> anyhow::Result<Answer> {
    let KernelCommand::Install { package } = command;
    let place = place()?;
    install(package, &place)?;
    terminal::print(&format!("{}\n", place.display()))?;
    Ok(Answer::Yes)
}

fn install(package: &str, place: &Path) -> anyhow::Result<()> {
    let fresh = place.with_extension("fresh");
    let old = place.with_extension("old");
    for left in [&fresh, &old] {
        remove(left)?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&fresh)?;
    let unpacked = fresh.join("package");
    fs::create_dir(&unpacked)?;
    fetch(package, &unpacked)?;
    collect(&unpacked, &fresh)?;
    remove(&unpacked)?;
    match uncompressed(&fresh.join(IMAGE)) {
        Some(plain) => fs::write(fresh.join(PLAIN_IMAGE), plain)?,
        None => terminal::note(
            "the kernel cannot be uncompressed, as Firecracker needs it: install the program that does (xz, zstd or gzip) and run this again",
        ),
    }
    Kernel::open(&fresh)?;
    match fs::rename(place, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::rename(&fresh, place)?;
    remove(&old)?;
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Downloads and unpacks.
fn fetch(package: &str, into: &Path) -> anyhow::Result<()> {
    let well_formed = package
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".+-:".contains(&byte));
    if package.starts_with('-') || !well_formed {
        bail!("`{package}` is no name of a package");
    }
    let depends = ran(Command::new("apt-cache").args(["depends", package]), into)?;
    // Of `Depends: linux-image-6.1.0-48-amd64`, what the package stands for.
    let found = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let exact = found.map_or_else(|| package.to_owned(), |name| format!("linux-image-{name}"));
    terminal::note(&format!("fetching {exact}"));
    let mut download = Command::new("apt-get");
    // As whoever asks: the directory is theirs.
    download.args(["download", "-q", "-o", "APT::Sandbox::User=root", &exact]);
    ran(&mut download, into).with_context(|| {
        format!("apt cannot fetch {exact}: run `apt-get update`, or name another package with --package")
    })?;
    let package = fs::read_dir(into)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt fetched nothing")?;
    ran(Command::new("dpkg-deb").arg("-x").arg(&package).arg("."), into)?;
    Ok(())
}

/// What a tool of the distribution printed.
fn ran(command: &mut Command, dir: &Path) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.current_dir(dir).stdin(Stdio::null()).env("LC_ALL", "C");
    let ran = command.output().with_context(|| {
        format!("`{name}` cannot be run: where the distribution is not Debian's, put a kernel into a directory and name it with --kernel")
    })?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        bail!("`{name}` failed: {}", said.trim());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// Takes image, modules and the list of what is built in out of an unpacked package.
fn collect(unpacked: &Path, into: &Path) -> anyhow::Result<()> {
    let mut left = vec![unpacked.to_owned()];
    let mut seen = 0;
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            seen += 1;
            if seen > MAX_FILES {
                bail!("the package holds more than {MAX_FILES} files: it is no kernel");
            }
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type()?;
            let name = name.to_string_lossy();
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() && (is_wanted(&name) || name.starts_with(IMAGE)) {
                let to = if name.starts_with(IMAGE) { IMAGE } else { &*name };
                fs::copy(&path, into.join(to))?;
            }
        }
    }
    Ok(())
}

/// How compressed kernels begin, and what uncompresses them.
const COMPRESSED: [(&[u8], &str); 3] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b\x08", "gzip"),
];

/// Bytes of an uncompressed kernel at most.
const MAX_KERNEL: u64 = 512 << 20;

/// The kernel within an image that uncompresses itself, as the kernel's own `scripts/extract-vmlinux` finds it.
fn uncompressed(image: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(image).ok()?;
    COMPRESSED.iter().find_map(|(begins, program)| {
        let places = bytes.windows(begins.len()).enumerate();
        let mut places = places.filter(|(_, window)| window == begins).map(|(at, _)| at);
        places
            .find_map(|at| filtered(program, bytes.get(at..)?).filter(|plain| plain.starts_with(b"\x7fELF")))
    })
}

/// What a program makes of bytes; whatever follows their end it may complain about.
fn filtered(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let (mut stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
    let plain = std::thread::scope(|scope| {
        // One that has read enough ends before it has read all.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        let mut plain = Vec::new();
        stdout.take(MAX_KERNEL).read_to_end(&mut plain).ok()?;
        Some(plain)
    });
    let _ = child.wait();
    plain
}

/// All modules of the drivers that machines use and of what those may need; the kernel's list of what is built in.
fn is_wanted(name: &str) -> bool {
    if name == BUILT_IN {
        return true;
    }
    let Some(module) = name.strip_suffix(".ko") else {
        return false;
    };
    let module = module.replace('-', "_");
    let needed = [
        "virtio",
        "virtio_ring",
        "virtio_pci_modern_dev",
        "virtio_pci_legacy_dev",
        "failover",
        "net_failover",
        "rng_core",
        "jbd2",
        "mbcache",
        "crc16",
        "crc32c_generic",
        "libcrc32c",
        "vsock",
        "vmw_vsock_virtio_transport_common",
    ];
    NEEDED
        .iter()
        .chain(&USED)
        .chain(&needed)
        .any(|wanted| *wanted == module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_in_the_image_that_uncompresses_it() {
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join(IMAGE);
        let plain = b"\x7fELF and all of the kernel".repeat(1000);
        fs::write(temp.path().join("plain"), &plain).unwrap();
        let packed = Command::new("gzip")
            .arg("-c")
            .arg(temp.path().join("plain"))
            .output();
        // What looks like the beginning and is none stands before, as in real ones; code follows.
        let parts = [
            &b"\x1f\x8b\x08 no beginning"[..],
            &packed.unwrap().stdout,
            b"trailer",
        ];
        fs::write(&image, parts.concat()).unwrap();
        assert_eq!(uncompressed(&image), Some(plain));
        fs::write(&image, "no kernel").unwrap();
        assert_eq!(uncompressed(&image), None);
    }

    #[test]
    fn a_package_is_taken_apart() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        let modules = from.join("lib/modules/6.1/kernel/drivers");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir_all(from.join("boot")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("boot/vmlinuz-6.1"), "kernel").unwrap();
        fs::write(from.join("boot/config-6.1"), "").unwrap();
        fs::write(
            from.join("lib/modules/6.1/modules.builtin"),
            "kernel/fs/ext4/ext4.ko\n",
        )
        .unwrap();
        for name in [
            "virtio_pci",
            "virtio_blk",
            "virtio_console",
            "virtio-rng",
            "sound",
        ] {
            fs::write(modules.join(format!("{name}.ko")), "").unwrap();
        }
        collect(&from, &to).unwrap();
        let mut names: Vec<_> = fs::read_dir(&to)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "modules.builtin",
                "virtio-rng.ko",
                "virtio_blk.ko",
                "virtio_console.ko",
                "virtio_pci.ko",
                "vmlinuz"
            ]
        );
        Kernel::open(&to).unwrap();
    }

    #[test]
    fn a_name_that_is_an_option_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["-o", "a b", "../x"] {
            assert!(
                fetch(name, temp.path())
                    .unwrap_err()
                    .to_string()
                    .contains("no name of a package")
            );
        }
    }
}
