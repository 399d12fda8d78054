//! A live API asked by schemathesis: whatever its document allows, and what it does not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is asked, and how much.
#[derive(Debug)]
pub(crate) struct Fuzzing<'a> {
    /// Where schemathesis keeps its files.
    pub(crate) home: &'a Path,
    pub(crate) config: &'a Path,
    pub(crate) document: &'a Path,
    pub(crate) url: &'a str,
    pub(crate) header: &'a str,
    /// Examples of each kind for each operation.
    pub(crate) examples: &'a str,
    /// Operations that are not asked.
    pub(crate) left_out: &'a [&'a str],
}

/// The root of the checkout.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Fuzzing<'_> {
    /// Fails where an answer is a fault of the server, or other than the document says.
    #[track_caller]
    pub(crate) fn run(&self) {
        let program = workspace().join("target/test/schemathesis/bin/schemathesis");
        assert!(
            program.exists(),
            "run `tools/setup --test`: it installs schemathesis"
        );
        let mut command = Command::new(program);
        command.current_dir(self.home).env("HOME", self.home);
        command.arg("--config-file").arg(self.config);
        command.arg("run").arg(self.document);
        command.args(["--url", self.url, "--header", self.header]);
        command.args(["--max-examples", self.examples, "--generation-deterministic"]);
        command.args(["--request-timeout", "120", "--continue-on-failure"]);
        command.args([
            "--phases",
            "examples,coverage,fuzzing",
            "--suppress-health-check",
            "all",
        ]);
        for operation in self.left_out {
            command.args(["--exclude-operation-id", operation]);
        }
        let ran = command.stdin(Stdio::null()).output().unwrap();
        let (said, complained) = (
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr),
        );
        assert!(ran.status.success(), "{said}\n{complained}");
    }
}
