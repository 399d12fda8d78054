//! The user that a workload runs as.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use suijuris_sys::spawn::Credentials;

use super::SpawnError;

/// The user that a workload runs as.
pub(super) struct Account {
    /// Absent if we are that user already.
    pub(super) credentials: Option<Credentials>,
    pub(super) home: Option<PathBuf>,
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
    let home = known.as_ref().map(|user| user.dir.clone());
    if uid == geteuid().as_raw() {
        return Ok(Account {
            credentials: None,
            home,
        });
    }
    if !geteuid().is_root() {
        return Err(SpawnError::UserForbidden(text.to_owned()));
    }
    let groups = known
        .and_then(|user| CString::new(user.name).ok())
        .map_or_else(|| vec![gid], |name| supplementary(&name, gid));
    Ok(Account {
        credentials: Some(Credentials { uid, gid, groups }),
        home,
    })
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
