//! Programs that a test writes and then runs.
//!
//! Where one thread has a file open for writing while another one forks, the file is open for writing in that child too until it execs, and
//! to run the file fails in the meantime with `ETXTBSY` ("Text file busy"). A test suite forks all the time. So a child writes the
//! file here, and is gone before anybody runs it: this process never has it open. Tidy asks for [`copy`] in place of `fs::copy`.

#![expect(
    clippy::expect_used,
    reason = "test equipment: what fails here fails the test"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a file with its mode.
///
/// # Panics
///
/// Where it cannot be copied.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let copied = Command::new("cp").arg("--").args([from, to]).output();
    let copied = copied.expect("cp is not there");
    assert!(
        copied.status.success(),
        "{} was not copied: {copied:?}",
        from.display()
    );
}

/// Writes a program's text, for everybody to read and run (0755).
///
/// # Panics
///
/// Where it cannot be written.
pub fn script(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    let mut command = Command::new("install");
    command
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped());
    let mut child = command.spawn().expect("install is not there");
    let mut input = child.stdin.take().expect("a pipe was asked for");
    input.write_all(text.as_bytes()).expect("install does not read");
    drop(input);
    let status = child.wait().expect("install cannot be waited for");
    assert!(status.success(), "{} was not written: {status}", path.display());
}
