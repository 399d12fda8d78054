//! The user that a workload runs as.

use std::ffi::CString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use suijuris_sys::spawn::Credentials;

use super::SpawnError;

/// The user that a workload runs as.
pub(super) struct Account {
    /// Absent if we are that user already.
    pub(super) credentials: Option<Credentials>,
}

/// A user by name, by number, or as `uid:gid`.
pub(super) fn resolve_user(text: &str) -> Result<Account, SpawnError> {
    let unknown = || SpawnError::UserUnknown(text.to_owned());
    let (name, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let known = match name.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    let known = known.ok().flatten();
    let uid = known
        .as_ref()
        .map(|user| user.uid.as_raw())
        .or_else(|| name.parse().ok())
        .ok_or_else(unknown)?;
    let gid = match group {
        Some(group) => group.parse().map_err(|_| unknown())?,
        None => known.as_ref().map_or(uid, |user| user.gid.as_raw()),
    };
    if uid == geteuid().as_raw() {
        return Ok(Account { credentials: None });
    }
    if !geteuid().is_root() {
        return Err(SpawnError::UserForbidden(text.to_owned()));
    }
    let groups = known
        .and_then(|user| CString::new(user.name).ok())
        .map_or_else(|| vec![gid], |name| supplementary(&name, gid));
    Ok(Account {
        credentials: Some(Credentials { uid, gid, groups }),
    })
}

/// Makes `root` and all in it the property of a user, where it is not yet. The root comes last, so that an interrupted
/// change is taken up again.
pub(super) fn give_tree(root: &Path, to: &Credentials) -> io::Result<()> {
    let is_theirs = |metadata: &Metadata| metadata.uid() == to.uid && metadata.gid() == to.gid;
    if is_theirs(&root.symlink_metadata()?) {
        return Ok(());
    }
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            lchown(&path, Some(to.uid), Some(to.gid))?;
        }
    }
    lchown(root, Some(to.uid), Some(to.gid))
}

fn supplementary(name: &CString, gid: u32) -> Vec<u32> {
    getgrouplist(name, Gid::from_raw(gid)).map_or_else(
        |_| vec![gid],
        |groups| groups.into_iter().map(Gid::as_raw).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_or_named_as_missing() {
        assert!(matches!(
            resolve_user("no-such-user-here"),
            Err(SpawnError::UserUnknown(_))
        ));
        let me = resolve_user(&geteuid().to_string()).unwrap();
        assert!(me.credentials.is_none());
    }
}
