//! A test that runs itself again under other conditions.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Set for a test that runs itself again under other conditions.
const INNER: &str = "CONFORMANCE_INNER";

/// This very test again, as `command` prepares it, from a directory that any user may read: build
/// directories may be closed to others.
pub(crate) struct Again {
    open: TempDir,
    test: &'static str,
}

impl Again {
    pub(crate) fn new(test: &'static str) -> Self {
        let open = TempDir::new().unwrap();
        fs::set_permissions(open.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let actor = PathBuf::from(env!("CARGO_BIN_EXE_vehicle-actor"));
        for (from, name) in [(env::current_exe().unwrap(), "suite"), (actor, "actor")] {
            suijuris_testkit::program::copy(from, open.path().join(name));
        }
        Self { open, test }
    }

    /// Runs the copy by way of `around`, as `user`, once `entering` has dealt with its number.
    pub(crate) fn run(&self, around: &[&str], user: u32, entering: impl FnOnce(u32)) {
        let suite = self.open.path().join("suite");
        let line = [
            around,
            &[suite.to_str().unwrap(), "--exact", self.test, "--nocapture"],
        ]
        .concat();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir("/").uid(user).gid(user);
        command
            .env(INNER, "1")
            .env("ACTOR", self.open.path().join("actor"));
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        entering(child.id());
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "the test did run: {said}");
    }

    /// Whether this is the copy; it then has its conditions.
    pub(crate) fn is_this() -> bool {
        let inner = env::var_os(INNER).is_some();
        if inner {
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        inner
    }
}
