//! What a machine needs of a held image: directories to lay on each other, and the account that its program runs as.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::{Hold, ImageStore, StoreError, check_name};
use crate::descriptor::{ContentDigest, Descriptor};
use crate::file::{self, FileError};
use crate::image::Image;
use crate::{MAX_MANIFEST_BYTES, printable};

/// Length of an image's `/etc/passwd` or `/etc/group` at most, bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;
/// Groups of one account at most.
const MAX_GROUPS: usize = 1_024;

/// The layers of an image as directories. They stay as long as the hold that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Lowest first. For overlayfs, where that can take them.
    pub layers: Vec<PathBuf>,
    /// Whether overlayfs can: no, where their file system could not keep whiteouts. Then [`super::Root::copy_to`] puts them
    /// into one directory.
    pub overlay: bool,
}

/// Whom a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory, where the image says one.
    pub home: Option<String>,
}

/// A user that an image does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} `{name}` in the image: name one of its /etc/{file}, or write a number")]
pub struct NoSuchAccount {
    what: &'static str,
    name: String,
    file: &'static str,
}

impl Hold {
    /// The layers as directories.
    ///
    /// # Errors
    /// As [`Hold::root`].
    pub fn unpacked(&self) -> Result<Unpacked, StoreError> {
        let root = self.root()?;
        Ok(match root.overlay() {
            Some(layers) => Unpacked {
                layers: layers.into_iter().map(Path::to_owned).collect(),
                overlay: true,
            },
            None => Unpacked {
                layers: root.layers().iter().map(|layer| layer.tree.clone()).collect(),
                overlay: false,
            },
        })
    }
}

impl ImageStore {
    /// The image with this manifest, under whatever name it was pulled, held.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`], and what [`ImageStore::hold`] says.
    pub fn by_digest(&self, digest: ContentDigest) -> Result<Hold, StoreError> {
        let path = self.blob_path(digest);
        let bytes = match file::bytes(&path, MAX_MANIFEST_BYTES) {
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoSuchImage(digest.to_string()));
            }
            bytes => bytes?,
        };
        let named = self.list()?.into_iter().map(|listed| listed.manifest);
        let mut known = named.filter(|manifest| manifest.digest == digest);
        // Without a name it may go at any moment, and is not taken for one that is kept.
        let manifest: Descriptor = known
            .next()
            .ok_or_else(|| StoreError::NoSuchImage(digest.to_string()))?;
        crate::image::hold("manifest", &bytes, &manifest)?;
        let config = crate::image::config_of(&bytes, &manifest.media_type)?;
        let config = file::bytes(&self.blob_path(config.digest), MAX_MANIFEST_BYTES)?;
        self.hold(Image::read(bytes, manifest.media_type, config)?)
    }

    /// The names of the image with this manifest.
    ///
    /// # Errors
    /// As [`ImageStore::list`].
    pub fn names_of(&self, digest: ContentDigest) -> Result<Vec<String>, StoreError> {
        let listed = self.list()?.into_iter();
        let found = listed.filter(|listed| listed.manifest.digest == digest);
        Ok(found.map(|listed| listed.name).collect())
    }

    /// Gives an image another name, which then keeps it as the first does.
    ///
    /// # Errors
    /// [`StoreError::Name`], [`StoreError::Disk`].
    pub fn name_also(&self, name: &str, hold: &Hold) -> Result<(), StoreError> {
        check_name(name)?;
        self.name(name, hold.image())
    }
}

impl Unpacked {
    /// Whom `user` (`name`, `uid`, `name:group`, `uid:gid` …) is in this image. By its own files, read here: what looks names
    /// up in the system would follow what the image says of where to look.
    ///
    /// # Errors
    /// [`NoSuchAccount`]; files that cannot be read count as empty.
    pub fn account(&self, user: &str) -> Result<Account, NoSuchAccount> {
        let text = |path: &str| {
            let bytes = self.file(path).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        account(user, &text("etc/passwd"), &text("etc/group"))
    }

    /// A small file of the image, where it is a plain one whose directories are none but directories.
    ///
    /// # Errors
    /// The disk's.
    pub fn file(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        for layer in self.layers.iter().rev() {
            match look(layer, path)? {
                Look::Found(file) => {
                    let mut bytes = Vec::new();
                    file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes)?;
                    return Ok(Some(bytes));
                }
                Look::Hidden => return Ok(None),
                Look::Below => {}
            }
        }
        Ok(None)
    }
}

/// What a layer says of a path.
enum Look {
    Found(File),
    /// It is something else here, or hidden; what lower layers say does not count.
    Hidden,
    Below,
}

fn look(layer: &Path, path: &str) -> io::Result<Look> {
    const STEP: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let mut here = rustix::fs::open(layer, STEP | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = path.split('/').peekable();
    let mut opaque = false;
    while let Some(name) = names.next() {
        let next = match rustix::fs::openat(&here, name, STEP, Mode::empty()) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOENT) if opaque => return Ok(Look::Hidden),
            Err(rustix::io::Errno::NOENT) => return Ok(Look::Below),
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
        match (names.peek(), kind) {
            (None, FileType::RegularFile) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Ok(Look::Found(
                    rustix::fs::openat(&here, name, flags, Mode::empty())?.into(),
                ));
            }
            (Some(_), FileType::Directory) => {
                let real = rustix::fs::openat(&here, name, STEP | OFlags::DIRECTORY, Mode::empty())?;
                opaque |= is_opaque(&here, name);
                here = real;
            }
            _ => return Ok(Look::Hidden),
        }
    }
    Ok(Look::Below)
}

fn is_opaque(above: &impl std::os::fd::AsFd, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::openat(above, name, flags, Mode::empty()) else {
        return false;
    };
    let mut value = [0_u8; 1];
    rustix::fs::fgetxattr(directory, "user.overlay.opaque", &mut value).is_ok_and(|length| length == 1)
        && value == *b"y"
}

fn account(user: &str, passwd: &str, group: &str) -> Result<Account, NoSuchAccount> {
    let (name, wanted) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<String>>();
    let field = |line: &[String], at: usize| line.get(at).cloned().unwrap_or_default();
    let number = |line: &[String], at: usize| field(line, at).parse::<u32>().ok();
    let mut lines = passwd.lines().map(fields);
    let by_number = name.parse::<u32>().ok();
    let entry = lines.find(|line| field(line, 0) == name && number(line, 2).is_some());
    let entry = entry.or_else(|| {
        let mut lines = passwd.lines().map(fields);
        lines.find(|line| by_number.is_some() && number(line, 2) == by_number)
    });
    let uid = entry.as_ref().and_then(|line| number(line, 2)).or(by_number);
    let uid = uid.ok_or_else(|| NoSuchAccount {
        what: "user",
        name: printable(name),
        file: "passwd",
    })?;
    let groups: Vec<Vec<String>> = group.lines().map(fields).collect();
    let gid = match wanted {
        Some(wanted) => {
            let named = groups.iter().find(|line| field(line, 0) == wanted);
            let gid = named.and_then(|line| number(line, 2));
            gid.or_else(|| wanted.parse().ok()).ok_or_else(|| NoSuchAccount {
                what: "group",
                name: printable(wanted),
                file: "group",
            })?
        }
        // As Docker has it: a user that nobody knows is in root's group.
        None => entry.as_ref().and_then(|line| number(line, 3)).unwrap_or(0),
    };
    let login = entry.as_ref().map(|line| field(line, 0)).unwrap_or_default();
    let is_in =
        |line: &&Vec<String>| !login.is_empty() && field(line, 3).split(',').any(|member| member == login);
    let mut further: Vec<u32> = groups
        .iter()
        .filter(is_in)
        .filter_map(|line| number(line, 2))
        .filter(|further| *further != gid)
        .take(MAX_GROUPS)
        .collect();
    if wanted.is_some() {
        further.clear();
    }
    let home = entry
        .map(|line| field(&line, 5))
        .filter(|home| home.starts_with('/'));
    Ok(Account {
        uid,
        gid,
        groups: further,
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nodd:x:nan:0\n\n12:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:\nwww:x:35:other,web\nweb:x:34:web\n";

    fn check(user: &str, expect: (u32, u32, &[u32], Option<&str>)) {
        let found = account(user, PASSWD, GROUP).unwrap();
        let seen = (found.uid, found.gid, &*found.groups, found.home.as_deref());
        assert_eq!(seen, expect, "{user}");
    }

    #[test]
    fn accounts_are_those_of_the_image() {
        check("", (0, 0, &[], Some("/root")));
        check("web", (33, 34, &[35], Some("/srv")));
        check("33", (33, 34, &[35], Some("/srv")));
        check("web:www", (33, 35, &[], Some("/srv")));
        check("web:9", (33, 9, &[], Some("/srv")));
        check("1000", (1000, 0, &[], None));
        check("1000:1001", (1000, 1001, &[], None));
        check(":www", (0, 35, &[], Some("/root")));
        // A name that looks like a number is a name first, as everywhere.
        check("12", (7, 7, &[], Some("/seven")));
        for unknown in ["nobody", "odd", "web:none", "-1", "99999999999"] {
            let told = account(unknown, PASSWD, GROUP).unwrap_err().to_string();
            assert!(told.contains("in the image"), "{told}");
        }
        assert!(
            account("web\u{1b}[2J", PASSWD, GROUP)
                .unwrap_err()
                .to_string()
                .is_ascii()
        );
    }

    #[test]
    fn a_file_is_that_of_the_highest_layer_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let tree = temp.path().join(name);
            fs::create_dir_all(tree.join("etc")).unwrap();
            tree
        };
        let (low, high, linked) = (layer("low"), layer("high"), layer("linked"));
        fs::write(low.join("etc/passwd"), "low").unwrap();
        fs::write(high.join("etc/group"), "high").unwrap();
        let outside = temp.path().join("outside");
        fs::write(&outside, "of the host").unwrap();
        symlink(&outside, linked.join("etc/passwd")).unwrap();
        let read = |layers: &[&PathBuf], path: &str| {
            let layers = layers.iter().map(|layer| (*layer).clone()).collect();
            let bytes = Unpacked {
                layers,
                overlay: true,
            }
            .file(path)
            .unwrap();
            bytes.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(read(&[&low, &high], "etc/passwd").as_deref(), Some("low"));
        assert_eq!(read(&[&low, &high], "etc/group").as_deref(), Some("high"));
        assert_eq!(read(&[&low, &linked], "etc/passwd"), None);
        assert_eq!(read(&[&low], "etc/none"), None);
        fs::remove_dir_all(high.join("etc")).unwrap();
        symlink(temp.path().join("low/etc"), high.join("etc")).unwrap();
        assert_eq!(read(&[&low, &high], "etc/passwd"), None);
    }
}
