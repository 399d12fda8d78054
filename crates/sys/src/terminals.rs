//! Terminals: a pair whose one side a program has as its terminal, its size, and the raw mode of whoever sits before one. Called by
//! `vehicle` and `host` for consoles of machines, and by the command that shows one.

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use crate::{checked, owned};

/// Characters that fit into a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

impl Default for Size {
    /// As terminals have always been.
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

/// A new pseudo terminal: the side that speaks for the person, non-blocking, and the side that a program gets. Both are closed on exec.
///
/// # Errors
/// Where no more can be had.
pub fn pair(size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: takes integers.
    let person =
        unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let person = owned(checked(person.into())?)?;
    // SAFETY: takes an integer.
    checked(unsafe { libc::unlockpt(person.as_raw_fd()) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: this request takes an integer. By descriptor, so that it is the right one whatever is mounted at /dev/pts.
    let program = unsafe { libc::ioctl(person.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    let program = owned(checked(program.into())?)?;
    set_size(person.as_fd(), size)?;
    Ok((person, program))
}

/// Makes a terminal that of this session, whose first process the caller is: its keys become signals here.
///
/// # Errors
/// Where the session has one, or the terminal another session.
pub fn take(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: this request takes an integer.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }.into()).map(drop)
}

/// Says how large a terminal is; its programs are told by a signal.
///
/// # Errors
/// Where it is no terminal.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let told = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one winsize, which outlives the call.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const told) }.into())
        .map(drop)
}

/// How large a terminal is; none where it is no terminal, or does not know.
#[must_use]
pub fn size(terminal: BorrowedFd<'_>) -> Option<Size> {
    // SAFETY: winsize is plain integers, for which zero is valid.
    let mut told: libc::winsize = unsafe { mem::zeroed() };
    // SAFETY: the request writes one winsize, which outlives the call.
    let asked = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut told) };
    let found = Size {
        rows: told.ws_row,
        columns: told.ws_col,
    };
    (asked == 0 && found.rows > 0 && found.columns > 0).then_some(found)
}

/// A terminal that passes each key on as it is, until this is dropped.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: libc::termios,
}

impl Raw {
    /// From now on.
    ///
    /// # Errors
    /// Where it is no terminal.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        // SAFETY: termios is plain integers, for which zero is valid.
        let mut before: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: writes one termios, which outlives the call.
        checked(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut before) }.into())?;
        let mut raw = before;
        // SAFETY: changes one termios, which outlives the call.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // SAFETY: reads one termios, which outlives the call.
        checked(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSADRAIN, &raw const raw) }.into())?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: reads one termios, which outlives the call. A terminal that is gone needs nothing.
        let _ =
            unsafe { libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSADRAIN, &raw const self.before) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::{null, poll, read, write};

    fn heard(person: &OwnedFd) -> Vec<u8> {
        assert!(poll(&[person.as_fd()], 5_000).unwrap()[0]);
        let mut bytes = [0; 64];
        let length = read(person.as_fd(), &mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    #[test]
    fn a_pair_has_a_size_echoes_what_is_typed_and_is_raw_for_a_while() {
        let (person, program) = pair(Size {
            rows: 30,
            columns: 99,
        })
        .unwrap();
        assert_eq!(
            size(program.as_fd()),
            Some(Size {
                rows: 30,
                columns: 99
            })
        );
        set_size(person.as_fd(), Size::default()).unwrap();
        assert_eq!(size(program.as_fd()), Some(Size::default()));
        write(person.as_fd(), b"a\n").unwrap();
        assert_eq!(heard(&person), b"a\r\n", "echoed, with the line's end made whole");
        let raw = Raw::enter(program.as_fd()).unwrap();
        write(program.as_fd(), b"b\n").unwrap();
        assert_eq!(heard(&person), b"b\n");
        drop(raw);
        write(program.as_fd(), b"c\n").unwrap();
        assert_eq!(heard(&person), b"c\r\n");
        let none = null().unwrap();
        assert!(
            size(none.as_fd()).is_none() && Raw::enter(none.as_fd()).is_err() && take(none.as_fd()).is_err()
        );
    }
}
