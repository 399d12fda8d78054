//! The kernel of virtual machines: an image and the modules that it needs, in a directory of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Kind;

/// Name of the image in the directory.
pub const IMAGE: &str = "vmlinuz";

/// Name of the image as Firecracker takes it: not compressed.
pub const PLAIN_IMAGE: &str = "vmlinux";

/// Name of the kernel's own list of what is built into it, where it came with one.
pub const BUILT_IN: &str = "modules.builtin";

/// What no machine runs without.
pub const NEEDED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_console", "ext4"];

/// What no machine of Firecracker runs without, beside [`NEEDED`] ones but those of its own kind.
pub const NEEDED_BY_FIRECRACKER: [&str; 4] =
    ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "ext4"];

/// What is used where it is there.
pub const USED: [&str; 5] = [
    "virtio_rng",
    "virtio_net",
    "overlay",
    "virtio_mmio",
    "vmw_vsock_virtio_transport",
];

/// Modules of one kernel at most.
const MAX_MODULES: usize = 1_000;

/// Bytes of a module at most.
const MAX_MODULE: u64 = 64 << 20;

/// A kernel that machines can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    image: PathBuf,
    dir: PathBuf,
}

/// Why a directory holds no kernel for machines.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Nothing is there.
    #[error("{} holds no kernel (`{IMAGE}`): `suijuris kernel install` fetches the distribution's", .0.display())]
    Missing(PathBuf),
    /// None that Firecracker takes.
    #[error("{} holds no uncompressed kernel (`{PLAIN_IMAGE}`), which Firecracker needs: `suijuris kernel install` makes one", .0.display())]
    Compressed(PathBuf),
    /// A kernel without what machines need.
    #[error("the kernel in {} has no driver {}: take the distribution's kernel (`suijuris kernel install`), or build it with them", .0.display(), .1)]
    Drivers(PathBuf, String),
    /// What is there cannot be read.
    #[error("cannot read the kernel in {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// A module's name as the kernel says it: files are called either way.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

impl Kernel {
    /// The kernel in `dir`.
    ///
    /// # Errors
    /// [`KernelError`] says what is missing and what to do.
    pub fn open(dir: &Path) -> Result<Self, KernelError> {
        let image = dir.join(IMAGE);
        if !image.is_file() {
            return Err(KernelError::Missing(dir.to_owned()));
        }
        let fault = |error| KernelError::Io(dir.to_owned(), error);
        // The emulator has another working directory.
        let absolute = dir.canonicalize().map_err(fault)?;
        let kernel = Self {
            image: absolute.join(IMAGE),
            dir: absolute,
        };
        kernel.has(&NEEDED)?;
        Ok(kernel)
    }

    /// Whether it has these drivers, as far as it says.
    fn has(&self, needed: &[&str]) -> Result<(), KernelError> {
        let fault = |error| KernelError::Io(self.dir.clone(), error);
        let Some(built_in) = self.built_in().map_err(fault)? else {
            return Ok(());
        };
        let files = self.files().map_err(fault)?;
        let has = |name: &str| built_in.contains(name) || files.iter().any(|(found, _)| found == name);
        let missing: Vec<&str> = needed.iter().copied().filter(|name| !has(name)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(KernelError::Drivers(self.dir.clone(), missing.join(", "))),
        }
    }

    /// Path of its image for machines of this kind.
    ///
    /// # Errors
    /// What machines of this kind need of it and it lacks.
    pub fn image(&self, kind: &Kind) -> Result<PathBuf, KernelError> {
        match kind {
            Kind::Qemu(_) => Ok(self.image.clone()),
            Kind::Firecracker(_) => {
                let image = self.dir.join(PLAIN_IMAGE);
                if !image.is_file() {
                    return Err(KernelError::Compressed(self.dir.clone()));
                }
                self.has(&NEEDED_BY_FIRECRACKER)?;
                Ok(image)
            }
        }
    }

    /// What is built into it, where that is known.
    fn built_in(&self) -> io::Result<Option<BTreeSet<String>>> {
        let text = match fs::read_to_string(self.dir.join(BUILT_IN)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let name = |line: &str| Some(plain(line.rsplit('/').next()?.strip_suffix(".ko")?));
        Ok(Some(text.lines().filter_map(name).collect()))
    }

    /// Names and files of its modules.
    pub(super) fn files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)?.take(MAX_MODULES) {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.and_then(|name| name.strip_suffix(".ko")) {
                files.push((plain(name), path.clone()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// The modules that machines use, each after those it needs, and their bytes.
    pub(super) fn modules(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let files = self.files()?;
        let mut ordered: Vec<(String, Vec<u8>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for name in NEEDED.iter().chain(&USED) {
            add(name, &files, &mut seen, &mut ordered)?;
        }
        Ok(ordered)
    }
}

/// Adds a module behind those it needs; one that is not there is built in, or was missed by [`Kernel::open`].
fn add(
    name: &str,
    files: &[(String, PathBuf)],
    seen: &mut BTreeSet<String>,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    // Before those it needs: one that needs itself ends here.
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let Some((_, path)) = files.iter().find(|(found, _)| found == name) else {
        return Ok(());
    };
    let bytes = read(path)?;
    for needed in depends(&bytes) {
        add(&needed, files, seen, ordered)?;
    }
    for served in wants_before(&bytes) {
        for (found, path) in files {
            if *found == served || fields(&read(path)?, "alias").any(|alias| plain(&alias) == served) {
                add(found, files, seen, ordered)?;
            }
        }
    }
    ordered.push((name.to_owned(), bytes));
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path.metadata()?.len() > MAX_MODULE {
        let why = format!("{} is too large for a kernel module", path.display());
        return Err(io::Error::other(why));
    }
    fs::read(path)
}

/// What a module says of itself under `name`, each time that it does.
fn fields<'a>(module: &'a [u8], name: &str) -> impl Iterator<Item = String> + 'a {
    let field = format!("\0{name}=").into_bytes();
    let length = field.len();
    module
        .windows(length)
        .enumerate()
        .filter(move |(_, bytes)| *bytes == field)
        .map(move |(at, _)| {
            let rest = module.get(at + length..).unwrap_or_default();
            let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        })
}

/// What a module says that it needs.
fn depends(module: &[u8]) -> Vec<String> {
    let all = fields(module, "depends").next().unwrap_or_default();
    all.split(',')
        .filter(|name| !name.is_empty())
        .map(plain)
        .collect()
}

/// What it asks the kernel for and does not call itself: names of modules, or of what several serve (`crc32c`).
fn wants_before(module: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for wants in fields(module, "softdep") {
        let words = wants
            .split_whitespace()
            .skip_while(|word| *word != "pre:")
            .skip(1);
        names.extend(words.take_while(|word| !word.ends_with(':')).map(plain));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules: &[(&str, &str)], built_in: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IMAGE), "kernel").unwrap();
        for (name, depends) in modules {
            let bytes = format!("\x7fELF license=GPL\0depends={depends}\0retpoline=Y\0");
            fs::write(dir.path().join(format!("{name}.ko")), bytes).unwrap();
        }
        if let Some(text) = built_in {
            fs::write(dir.path().join(BUILT_IN), text).unwrap();
        }
        dir
    }

    #[test]
    fn modules_follow_those_they_need() {
        let dir = kernel(
            &[
                ("virtio_pci", "virtio_ring,virtio"),
                ("virtio_blk", "virtio"),
                ("virtio", ""),
                ("virtio-rng", "virtio"),
                ("virtio_console", "virtio_ring,virtio_console"),
                ("virtio_ring", "virtio"),
                ("unused", ""),
            ],
            Some("kernel/fs/ext4/ext4.ko\n"),
        );
        let modules = Kernel::open(dir.path()).unwrap().modules().unwrap();
        let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_ring",
                "virtio_pci",
                "virtio_blk",
                "virtio_console",
                "virtio_rng"
            ]
        );
    }

    #[test]
    fn what_a_module_asks_the_kernel_for_comes_before_it_whatever_serves_it() {
        let dir = kernel(
            &[
                ("virtio_pci", ""),
                ("virtio_blk", ""),
                ("virtio_console", ""),
                ("ext4", "jbd2\0softdep=pre: crc32c post: late"),
                ("jbd2", ""),
                ("crc32c_generic", "\0alias=crypto-crc32c\0alias=crc32c"),
                ("late", ""),
            ],
            Some(""),
        );
        let modules = Kernel::open(dir.path()).unwrap().modules().unwrap();
        let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[names.len() - 3..], ["jbd2", "crc32c_generic", "ext4"]);
        assert!(!names.contains(&"late"), "{names:?}");
    }

    #[test]
    fn firecracker_takes_an_uncompressed_kernel_with_its_own_drivers() {
        let kind = Kind::Firecracker(crate::vm::Firecracker::default());
        let modules = [("virtio_pci", ""), ("virtio_blk", ""), ("virtio_console", "")];
        let dir = kernel(&modules, Some("kernel/fs/ext4/ext4.ko\n"));
        let opened = Kernel::open(dir.path()).unwrap();
        let error = opened.image(&kind).unwrap_err().to_string();
        assert!(
            error.contains(PLAIN_IMAGE) && error.contains("suijuris kernel install"),
            "{error}"
        );
        fs::write(dir.path().join(PLAIN_IMAGE), "kernel").unwrap();
        let error = opened.image(&kind).unwrap_err().to_string();
        assert!(
            error.contains("virtio_mmio, vmw_vsock_virtio_transport"),
            "{error}"
        );
        for name in ["virtio_mmio", "vmw-vsock-virtio-transport"] {
            fs::write(dir.path().join(format!("{name}.ko")), "").unwrap();
        }
        assert!(opened.image(&kind).unwrap().ends_with(PLAIN_IMAGE));
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = kernel(&[("virtio_pci", "")], Some("kernel/fs/ext4/ext4.ko\n"));
        let error = Kernel::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("virtio_blk, virtio_console"), "{error}");
        assert!(error.contains("suijuris kernel install"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        let error = Kernel::open(empty.path()).unwrap_err().to_string();
        assert!(error.contains("suijuris kernel install"), "{error}");
        // One that says nothing of itself is tried.
        assert!(Kernel::open(kernel(&[], None).path()).is_ok());
    }
}
