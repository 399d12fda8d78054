//! A person's home with one object in it, and a `suijuris` that is small enough to go into images.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub(crate) use crate::ran::{Ran, run};

/// Where programs of the system are; the tests see no other environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program without its symbols: it goes into every image of these tests as their runtime.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_suijuris"));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy");
        std::fs::create_dir_all(&dir).unwrap();
        let (small, fresh) = (
            dir.join("suijuris"),
            dir.join(format!("new.{}", std::process::id())),
        );
        let age = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
        if age(&small) < age(built) {
            run(Command::new("strip").arg("-o").arg(&fresh).arg(built)).code(0);
            std::fs::rename(&fresh, &small).unwrap();
        }
        small
    })
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// An object's directory in a home of its own.
pub(crate) struct Home {
    temp: tempfile::TempDir,
}

impl Home {
    /// With a copy of an example of this repository.
    pub(crate) fn with_example(name: &str) -> Self {
        let home = Self::empty();
        let from = repository().join("examples").join(name);
        run(home.command("cp").arg("-r").arg(from).arg(home.dir())).code(0);
        home
    }

    /// With the image of `examples/image`, and the object over it.
    pub(crate) fn with_image() -> Self {
        let home = Self::with_example("image");
        run(&mut home.command(home.dir().join("make-image"))).code(0);
        home
    }

    pub(crate) fn empty() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// The object's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.path().join("object")
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.dir()).unwrap();
        std::fs::write(self.dir().join(name), text).unwrap();
    }

    /// `program` in this home, with nothing else in its environment.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).env_clear().env("PATH", PATH);
        command.env("HOME", self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `suijuris` with these arguments.
    pub(crate) fn suijuris(&self, args: &[&str]) -> Ran {
        run(self.command(program()).args(args))
    }
}
