//! Files of an image that say which machine this is: in a copy they say what its original is, and are made anew.
//!
//! `/etc/machine-id`, `/etc/hostname` and the host keys of `sshd`, where the image has them. The workload may have made anything of these
//! names: no link is followed, and what is no plain file is left alone. A server that has read them goes on with what it read.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, unlinkat};
use suijuris_core::key::SecretKey;
use zeroize::Zeroizing;

/// What a host key of `sshd` is called, before and behind its algorithm.
const HOST_KEY: (&str, &str) = ("ssh_host_", "_key");

/// The one that is made anew; of other algorithms none is left.
const ED25519: &str = "ssh_host_ed25519_key";

/// Directory of the host keys.
const SSH: &str = "etc/ssh";

/// Makes them anew below `root`; what of them there was.
///
/// # Errors
/// The system's: one of them still says what the original is.
pub(super) fn renew(root: &Path, hostname: &str) -> io::Result<Vec<String>> {
    let root = File::open(root)?;
    let mut renewed = Vec::new();
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    for (path, text) in [
        ("etc/machine-id", format!("{id}\n")),
        ("etc/hostname", format!("{hostname}\n")),
    ] {
        if rewrite(&root, path, text.as_bytes())? {
            renewed.push(path.to_owned());
        }
    }
    let Some(ssh) = open(&root, SSH, OFlags::RDONLY | OFlags::DIRECTORY)? else {
        return Ok(renewed);
    };
    let ssh = File::from(ssh);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&ssh)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let is_key = |name: &str| {
        let rest = name.strip_prefix(HOST_KEY.0);
        rest.is_some_and(|rest| rest.trim_end_matches(".pub").ends_with(HOST_KEY.1))
    };
    let had = names.iter().any(|name| name == ED25519);
    for name in names.iter().filter(|name| is_key(name)) {
        match unlinkat(&ssh, name.as_str(), AtFlags::empty()) {
            // A directory of this name is no key.
            Err(rustix::io::Errno::ISDIR) => {}
            removed => removed?,
        }
        renewed.push(format!("{SSH}/{name}"));
    }
    if had {
        let (private, public) = host_key(hostname)?;
        create(&ssh, ED25519, private.as_bytes(), Mode::from_raw_mode(0o600))?;
        create(
            &ssh,
            &format!("{ED25519}.pub"),
            public.as_bytes(),
            Mode::from_raw_mode(0o644),
        )?;
    }
    Ok(renewed)
}

/// What is there, reached without a link; nothing where that is not so.
fn open(root: &File, path: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(Some(file)),
        Err(
            rustix::io::Errno::NOENT
            | rustix::io::Errno::LOOP
            | rustix::io::Errno::NOTDIR
            | rustix::io::Errno::ISDIR
            | rustix::io::Errno::NXIO
            | rustix::io::Errno::XDEV,
        ) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Replaces what a plain file holds; whether there is one that holds anything.
fn rewrite(root: &File, path: &str, text: &[u8]) -> io::Result<bool> {
    let Some(file) = open(root, path, OFlags::WRONLY)? else {
        return Ok(false);
    };
    let found = fstat(file.as_fd())?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
        || found.st_size == 0
        || found.st_nlink > 1
    {
        return Ok(false);
    }
    let mut file = File::from(file);
    file.set_len(0)?;
    file.write_all(text)?;
    file.sync_all()?;
    Ok(true)
}

fn create(dir: &File, name: &str, text: &[u8], mode: Mode) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, mode)?;
    let mut file = File::from(file);
    file.write_all(text)?;
    file.sync_all()
}

/// A fresh Ed25519 key as OpenSSH keeps one (its `PROTOCOL.key`), and the public half.
fn host_key(comment: &str) -> io::Result<(Zeroizing<String>, String)> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(io::Error::other)?;
    let public = SecretKey::from_seed(&seed).public().0;
    let text = |to: &mut Vec<u8>, bytes: &[u8]| {
        to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        to.extend_from_slice(bytes);
    };
    let mut blob = Vec::new();
    text(&mut blob, b"ssh-ed25519");
    text(&mut blob, &public);
    let mut check = [0; 4];
    getrandom::fill(&mut check).map_err(io::Error::other)?;
    let mut inside = Zeroizing::new(Vec::new());
    inside.extend_from_slice(&check);
    inside.extend_from_slice(&check);
    inside.extend_from_slice(&blob);
    text(&mut inside, &Zeroizing::new([seed.as_slice(), &public].concat()));
    text(&mut inside, comment.as_bytes());
    for pad in (1_u8..).take((8 - inside.len() % 8) % 8) {
        inside.push(pad);
    }
    let mut whole = Zeroizing::new(b"openssh-key-v1\0".to_vec());
    text(&mut whole, b"none");
    text(&mut whole, b"none");
    text(&mut whole, b"");
    whole.extend_from_slice(&1_u32.to_be_bytes());
    text(&mut whole, &blob);
    text(&mut whole, &inside);
    let encoded = Zeroizing::new(STANDARD.encode(&*whole));
    let mut private = Zeroizing::new("-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned());
    for line in encoded.as_bytes().chunks(70) {
        private.push_str(&String::from_utf8_lossy(line));
        private.push('\n');
    }
    private.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    Ok((
        private,
        format!("ssh-ed25519 {} {comment}\n", STANDARD.encode(blob)),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_says_which_machine_it_is_is_made_anew_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        fs::create_dir_all(root.join("etc/ssh")).unwrap();
        fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(root.join("victim"), "kept").unwrap();
        symlink("../victim", root.join("etc/hostname")).unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", ED25519, "sshd_config"] {
            fs::write(root.join("etc/ssh").join(name), "old").unwrap();
        }
        let renewed = renew(root, "object-1").unwrap();
        assert_eq!(renewed.len(), 4, "{renewed:?}");
        let id = fs::read_to_string(root.join("etc/machine-id")).unwrap();
        assert!(id.len() == 33 && !id.starts_with("0123456789"), "{id}");
        assert_eq!(fs::read_to_string(root.join("victim")).unwrap(), "kept");
        assert_eq!(
            fs::read_to_string(root.join("etc/ssh/sshd_config")).unwrap(),
            "old"
        );
        assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists());
        let key = root.join("etc/ssh").join(ED25519);
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        assert!(public.starts_with("ssh-ed25519 AAAA"), "{public}");
        // OpenSSH reads it, where it is here.
        let read = std::process::Command::new("ssh-keygen")
            .arg("-y")
            .arg("-f")
            .arg(&key)
            .output();
        if let Ok(read) = read {
            let said = String::from_utf8_lossy(&read.stdout).into_owned();
            assert_eq!(
                said.split_whitespace().nth(1),
                public.split_whitespace().nth(1),
                "{read:?}"
            );
        }
        renew(root, "object-2").unwrap();
        assert_ne!(fs::read_to_string(key.with_extension("pub")).unwrap(), public);
    }

    #[test]
    fn a_root_without_any_of_them_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(renew(temp.path(), "x").unwrap(), Vec::<String>::new());
        // A directory of a workload that leads elsewhere.
        fs::create_dir(temp.path().join("elsewhere")).unwrap();
        fs::write(temp.path().join("elsewhere/machine-id"), "theirs").unwrap();
        symlink("elsewhere", temp.path().join("etc")).unwrap();
        assert_eq!(renew(temp.path(), "x").unwrap(), Vec::<String>::new());
        assert_eq!(
            fs::read_to_string(temp.path().join("elsewhere/machine-id")).unwrap(),
            "theirs"
        );
    }
}
