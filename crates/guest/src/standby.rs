//! A program that was executed in a machine's namespaces before anybody knew whose machine it will be, and waits for that to be said.
//!
//! ```text
//! shim ──socket── program, which says READY once it has prepared itself
//!      ── Assignment, with files ──>
//!      <── DONE, or why not ──
//! ```
//!
//! The one message makes it a machine's first program; there is no second one. Until then it has no key, no file and no mount of any
//! object, runs one thread and sleeps. It draws no random numbers of its own beforehand that would outlast this: who needs some asks
//! the kernel, then. Used by `vehicle`'s shim at one end, and by programs that can stand by, as the runtime, at the other.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use suijuris_sys::descriptors::{self, poll};
use suijuris_sys::{confine, environment, sockets};

use crate::assignment::{Assignment, Failed, Part};

/// Numbers that are kept free in the program for the files that a machine is given: from the first up to this one, where the socket is.
pub const FREE: std::ops::Range<i32> = 3..SOCKET;
/// Number of the socket.
pub const SOCKET: i32 = 16;

/// What the program says once it stands by; another version of these messages has another word.
const READY: &[u8] = b"standing by 1";
/// The answer of a program that took its assignment; any other says why it did not.
const DONE: &[u8] = b"done";
/// Most bytes of an assignment; a longer one is left to a cold start.
const MOST_BYTES: usize = 128 << 10;
/// Most bytes of an answer.
const MOST_ANSWER: usize = 4 << 10;

/// The program's end.
#[derive(Debug)]
pub struct Waiting(OwnedFd);

impl Waiting {
    /// Takes the inherited socket, and keeps the numbers free that a machine's files may get; none where this process was not started to
    /// stand by. To be called before anything is opened.
    #[must_use]
    pub fn at(number: i32) -> Option<Self> {
        if FREE.contains(&number) {
            return None;
        }
        let socket = descriptors::inherited(number)?;
        // The first copy is closed before its number is given away.
        let null = descriptors::copy_above(descriptors::null().ok()?.as_fd(), SOCKET).ok()?;
        for number in FREE {
            descriptors::place(null.as_fd(), number).ok()?;
        }
        Some(Self(socket))
    }

    /// Says that the program is prepared, waits, and does what is assigned: files, view, directory, environment, limits. Then this
    /// process is the machine's first program, with the arguments that are returned, the zeroth included; none where nobody wants it
    /// any more. To be called in a process of one thread.
    ///
    /// # Errors
    /// The assignment cannot be taken: this process is fit for nothing but its end.
    pub fn wait(self) -> io::Result<Option<Vec<OsString>>> {
        match sockets::send(self.0.as_fd(), READY, &[]) {
            // Nobody waits for it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
            sent => drop(sent?),
        }
        let Some(message) = receive(&self.0, MOST_BYTES, -1)? else {
            return Ok(None);
        };
        let taken = serde_json::from_slice::<Assignment>(&message.bytes)
            .map_err(|error| Failed::new(Part::Files, "", error.into()))
            .and_then(|assignment| take(assignment, message.descriptors));
        let (answer, taken) = match taken {
            Ok(argv) => (DONE.to_vec(), Ok(argv)),
            Err(failed) => {
                let mut why = format!("{:?} {}: {}", failed.part, failed.subject, failed.error).into_bytes();
                why.truncate(MOST_ANSWER);
                (why, Err(failed.error))
            }
        };
        // Whoever does not hear it takes this process for stuck, and ends it.
        sockets::send(self.0.as_fd(), &answer, &[])?;
        let words = |argv: Vec<CString>| argv.into_iter().map(|word| OsString::from_vec(word.into_bytes()));
        taken.map(|argv| Some(words(argv).collect()))
    }
}

/// Becomes the first program of the machine that `assignment` tells of.
fn take(assignment: Assignment, files: Vec<OwnedFd>) -> Result<Vec<CString>, Failed> {
    let place = |(file, number): (OwnedFd, i32)| {
        descriptors::place(file.as_fd(), number)
            .map_err(|error| Failed::new(Part::Files, number.to_string(), error))
    };
    let numbers = [1, 2].into_iter().chain(assignment.numbers.iter().copied());
    if assignment.numbers.iter().any(|number| !FREE.contains(number))
        || files.len() != numbers.clone().count()
    {
        let error = io::ErrorKind::InvalidData.into();
        return Err(Failed::new(Part::Files, "", error));
    }
    files.into_iter().zip(numbers).try_for_each(place)?;
    FREE.filter(|number| !assignment.numbers.contains(number))
        .for_each(descriptors::vacate);
    if assignment.is_apart {
        assignment.assemble_view()?;
    }
    assignment.enter_directory()?;
    environment::replace(&assignment.env).map_err(|error| Failed::new(Part::Environment, "", error))?;
    if !assignment.may_mount {
        confine::give_up_mounting().map_err(|error| Failed::new(Part::Mounts, "", error))?;
    }
    assignment.limit()?;
    Ok(assignment.argv)
}

/// The shim's end.
#[derive(Debug)]
pub struct Standby(OwnedFd);

/// Why a program did not take its assignment.
#[derive(Debug, thiserror::Error)]
pub enum Unassigned {
    /// It has ended, or said something else.
    #[error("it does not stand by")]
    Gone,
    /// It does not answer in time.
    #[error("it does not answer")]
    Slow,
    /// It could not become the machine.
    #[error("{0}")]
    Refused(String),
    /// The assignment cannot be said.
    #[error("it cannot be assigned")]
    Unsaid(#[from] io::Error),
}

/// Both ends; the program's is inherited under [`SOCKET`].
///
/// # Errors
/// When no more descriptors can be had.
pub fn pair() -> io::Result<(Standby, OwnedFd)> {
    let (ours, theirs) = sockets::packet_pair()?;
    Ok((Standby(ours), theirs))
}

impl Standby {
    /// Whether what the program says first, which is there to be read, is that it stands by.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let said = sockets::receive(self.0.as_fd(), MOST_ANSWER);
        said.is_ok_and(|said| said.is_some_and(|said| said.bytes == READY))
    }

    /// Makes the program the first one of a machine, with files 1, 2 and those behind them. Returns once it is, within `limit_ms`.
    ///
    /// # Errors
    /// Why it is not; it is to be killed then.
    pub fn assign(
        &self,
        assignment: &Assignment,
        files: &[BorrowedFd<'_>],
        limit_ms: i32,
    ) -> Result<(), Unassigned> {
        let bytes = serde_json::to_vec(assignment).map_err(io::Error::from)?;
        if bytes.len() > MOST_BYTES {
            return Err(io::Error::from_raw_os_error(libc::E2BIG).into());
        }
        sockets::send(self.0.as_fd(), &bytes, files)?;
        match receive(&self.0, MOST_ANSWER, limit_ms) {
            Ok(Some(answer)) if answer.bytes == DONE => Ok(()),
            Ok(Some(answer)) => Err(Unassigned::Refused(
                String::from_utf8_lossy(&answer.bytes).into_owned(),
            )),
            Ok(None) => Err(Unassigned::Gone),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Unassigned::Slow),
            Err(error) => Err(error.into()),
        }
    }
}

impl std::os::fd::AsFd for Standby {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The next message within `limit_ms` (-1: no limit).
fn receive(socket: &OwnedFd, most: usize, limit_ms: i32) -> io::Result<Option<sockets::Message>> {
    loop {
        poll(&[socket.as_fd()], limit_ms)?;
        match sockets::receive(socket.as_fd(), most) {
            // Woken by a signal.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && limit_ms < 0 => {}
            received => return received,
        }
    }
}
