//! The machine's program: process 1 of namespaces of its own, so that it ends with all that it has started.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use suijuris_sys::fork::{self, Fork};
use suijuris_sys::{descriptors, signals};

use crate::image::Image;
use crate::wire::Start;

/// Exit code of a child that never became the program; nobody sees it.
const EXIT_FAULT: i32 = 127;

/// A program to be executed, in the kernel's terms.
#[derive(Debug)]
pub(crate) struct Program {
    exe: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    open_files: Option<u32>,
    image: Option<Image>,
}

impl Program {
    pub(crate) fn of(start: &Start, image: Option<Image>) -> io::Result<Self> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let variable = |(name, value): (&crate::wire::Text, &crate::wire::Text)| {
            let parts = [name.0.as_bytes(), b"=", value.0.as_bytes()];
            CString::new(parts.concat()).map_err(io::Error::from)
        };
        Ok(Self {
            exe: text(start.exe.as_os_str())?,
            argv: start
                .argv
                .iter()
                .map(|arg| text(&arg.0))
                .collect::<Result<_, _>>()?,
            env: start.env.iter().map(variable).collect::<Result<_, _>>()?,
            cwd: text(start.cwd.as_os_str())?,
            open_files: start.open_files,
            image,
        })
    }

    /// Starts it with these files and their numbers; its process number. One thread may run.
    pub(crate) fn start(&self, files: Vec<(OwnedFd, i32)>) -> io::Result<i32> {
        let (mut said, says) = io::pipe()?;
        let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
        match fork::fork(flags.bits(), None)? {
            Fork::Child => self.enter(files, says.as_fd()),
            Fork::Parent { pid, .. } => {
                drop(says);
                drop(files);
                let mut why = String::new();
                said.read_to_string(&mut why)?;
                match why.is_empty() {
                    true => i32::try_from(pid).map_err(io::Error::other),
                    false => Err(io::Error::other(why)),
                }
            }
        }
    }

    fn enter(&self, files: Vec<(OwnedFd, i32)>, says: BorrowedFd<'_>) -> ! {
        let tell = |what: &str, error: &io::Error| {
            let exe = self.exe.to_string_lossy();
            let _ = nix::unistd::write(says, format!("cannot {what} {exe}: {error}").as_bytes());
        };
        let (what, error) = match self.become_first(files, says) {
            Ok(never) => match never {},
            Err(failed) => failed,
        };
        tell(what, &error);
        fork::exit_now(EXIT_FAULT)
    }

    fn become_first(
        &self,
        files: Vec<(OwnedFd, i32)>,
        says: BorrowedFd<'_>,
    ) -> Result<Infallible, (&'static str, io::Error)> {
        let errno = |what: &'static str| move |errno: nix::Error| (what, io::Error::from(errno));
        let dead = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        match &self.image {
            Some(image) => image.enter().map_err(|error| ("enter the image of", error))?,
            None => {
                mount(Some("proc"), "/proc", Some("proc"), dead, None::<&str>)
                    .map_err(errno("mount /proc for"))?;
            }
        }
        nix::unistd::chdir(self.cwd.as_c_str()).map_err(errno("enter the working directory of"))?;
        signals::default_all();
        SigSet::empty()
            .thread_set_mask()
            .and_then(|()| nix::unistd::setsid())
            .map_err(errno("make a session for"))?;
        if let Some(most) = self.open_files {
            let most = u64::from(most);
            setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(errno("limit the open files of"))?;
        }
        // Above all numbers that files get, so that placing one closes no other.
        let above = files.iter().map(|(_, number)| *number).max().unwrap_or(2).max(2) + 1;
        let copy =
            |(file, number): (OwnedFd, i32)| Ok((descriptors::copy_above(file.as_fd(), above)?, number));
        let files: Vec<_> = files
            .into_iter()
            .map(copy)
            .collect::<io::Result<_>>()
            .map_err(|error| ("open the files of", error))?;
        let says = descriptors::copy_above(says, above).map_err(|error| ("open the files of", error))?;
        fork::execute(&files, (&self.exe, &self.argv, &self.env), |_, error| {
            let exe = self.exe.to_string_lossy();
            let _ = nix::unistd::write(says.as_fd(), format!("cannot execute {exe}: {error}").as_bytes());
        })
    }
}
