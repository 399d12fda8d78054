//! The environment of a process that learns late which one it has. Called by `guest`, for programs that stand by.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use crate::fork;

/// Makes `variables` (`NAME=value`) the whole environment; what has no name is left out. To be called before anything is made of the
/// old one.
///
/// # Errors
/// `EBUSY` unless this process has one thread: another may be reading.
pub fn replace(variables: &[CString]) -> io::Result<()> {
    fork::one_thread()?;
    for (name, _) in std::env::vars_os() {
        // SAFETY: nobody reads the environment meanwhile, as this is the only thread.
        unsafe { std::env::remove_var(name) };
    }
    for variable in variables {
        let bytes = variable.as_bytes();
        let name = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0);
        let Some((name, value)) = name.and_then(|at| bytes.split_at_checked(at)) else {
            continue;
        };
        let value = value.get(1..).unwrap_or_default();
        // SAFETY: as above.
        unsafe { std::env::set_var(OsStr::from_bytes(name), OsStr::from_bytes(value)) };
    }
    Ok(())
}
