//! The user that a workload runs as.

use std::ffi::CString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist};
use suijuris_link::launch::Image;
use suijuris_sys::spawn::{Credentials, User as RunsAs};

use super::SpawnError;

/// The user that a workload runs as.
pub(super) struct Account {
    /// Absent if we are that user already.
    pub(super) user: Option<RunsAs>,
}

impl Account {
    /// As `uid`: another user of this machine where it has others, else ours under that number.
    fn of(uid: u32, gid: u32, groups: impl FnOnce() -> Vec<u32>) -> Self {
        let user = match may_change_user() {
            true => RunsAs::Other(Credentials {
                uid,
                gid,
                groups: groups(),
            }),
            false => RunsAs::Renamed { uid, gid },
        };
        Self { user: Some(user) }
    }

    /// Whose the workload's files are to be, where not ours: a user who is renamed has them already.
    pub(super) const fn owner(&self) -> Option<&Credentials> {
        match &self.user {
            Some(RunsAs::Other(credentials)) => Some(credentials),
            Some(RunsAs::Renamed { .. }) | None => None,
        }
    }
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
        return Ok(Account { user: None });
    }
    let groups = || {
        let name = known.and_then(|user| CString::new(user.name).ok());
        name.map_or_else(|| vec![gid], |name| supplementary(&name, gid))
    };
    Ok(Account::of(uid, gid, groups))
}

/// Whom an image's program runs as: numbers that whoever started the machine found. Nothing is looked up here, for the
/// image would say where.
pub(super) fn of_image(image: &Image) -> Account {
    let (uid, gid, groups) = &image.account;
    if (*uid, *gid) == (geteuid().as_raw(), getegid().as_raw()) && groups.is_empty() {
        return Account { user: None };
    }
    Account::of(*uid, *gid, || {
        [*gid].into_iter().chain(groups.iter().copied()).collect()
    })
}

/// Whether there are other users than ours: not in a user namespace that has one.
fn may_change_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids = map
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    geteuid().is_root() && ids.sum::<u64>() > 1
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
        assert!(me.user.is_none());
    }
}
