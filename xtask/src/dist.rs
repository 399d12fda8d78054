//! What is handed out: static programs with their manual, completions and units, as an archive with an installer, as a Debian
//! package and as an image; their digests and what they are made of.
//!
//! The same sources give the same bytes: times are those of the last commit, names are sorted, owners are root.

mod image;
mod materials;
mod trial;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::init::{self, Linking, PROFILE, Program};
use crate::workspace::{cargo, metadata, shell};

/// How and where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Directory for the results
    #[arg(long, value_name = "DIR", default_value = "target/dist-out")]
    out: PathBuf,
    /// Install and use each of them where nothing else is (as root, with busybox)
    #[arg(long)]
    check: bool,
}

/// What was made.
pub(crate) struct Made {
    /// An archive with an installer.
    archive: PathBuf,
    /// None where this machine cannot make it.
    package: Option<PathBuf>,
    /// A directory, an OCI layout.
    image: PathBuf,
}

/// What the programs are called in names of files.
struct Release {
    version: String,
    /// As Rust calls it.
    architecture: &'static str,
    /// Seconds since 1970.
    at: u64,
}

/// Makes everything and says where it is.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let made = make(&arguments.out)?;
    if arguments.check {
        trial::run(&shell()?, &made)?;
    }
    for path in [Some(&made.archive), made.package.as_ref(), Some(&made.image)]
        .into_iter()
        .flatten()
    {
        println!("{}", path.display());
    }
    Ok(())
}

/// Makes everything, and installs and uses it where nothing else is.
// proves G8
pub(crate) fn check() -> Result<()> {
    run(&Arguments {
        out: PathBuf::from("target/dist-out"),
        check: true,
    })
}

fn make(out: &Path) -> Result<Made> {
    let shell = shell()?;
    let release = Release::current(&shell)?;
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    let out = out.canonicalize()?;
    let name = format!("suijuris-{}-{}-linux", release.version, release.architecture);
    let staged = out.join(&name);
    stage(&shell, &staged)?;
    let materials = out.join(format!("{name}.cdx.json"));
    fs::write(&materials, materials::document(&release)?)?;
    let made = Made {
        archive: archive(&shell, &release, &out, &name)?,
        package: package(&shell, &release, &out, &staged)?,
        image: image::write(&shell, &release, &out, &staged)?,
    };
    digests(&shell, &out)?;
    fs::remove_dir_all(staged)?;
    Ok(made)
}

impl Release {
    fn current(shell: &Shell) -> Result<Self> {
        let metadata = metadata()?;
        let package = metadata
            .packages
            .iter()
            .find(|package| package.name.as_str() == "suijuris-cli");
        let version = package
            .context("suijuris-cli is not in the workspace")?
            .version
            .to_string();
        let at = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(at) => at.parse().context("SOURCE_DATE_EPOCH is no number")?,
            Err(_) => cmd!(shell, "git log -1 --format=%ct")
                .quiet()
                .read()?
                .trim()
                .parse()?,
        };
        let architecture = std::env::consts::ARCH;
        Ok(Self {
            version,
            architecture,
            at,
        })
    }

    /// As Debian and as OCI call it.
    fn debian(&self) -> &'static str {
        match self.architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}

/// Builds both programs and lays everything out as it lies below a prefix.
fn stage(shell: &Shell, staged: &Path) -> Result<()> {
    let (runtime, _) = init::build(Program::Init)?;
    let program = build_program(shell)?;
    let place = |from: &Path, to: &str, mode: u32| -> Result<()> {
        let to = staged.join(to);
        fs::create_dir_all(to.parent().context("it has a directory")?)?;
        fs::copy(from, &to).with_context(|| format!("{} is not there", from.display()))?;
        Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
    };
    place(&program, "bin/suijuris", 0o755)?;
    place(&runtime, "bin/suijuris-init", 0o755)?;
    for unit in ["suijuris.service", "suijuris.socket"] {
        place(
            &shell.current_dir().join("tools").join(unit),
            &format!("lib/systemd/system/{unit}"),
            0o644,
        )?;
    }
    for text in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "THREAT_MODEL.md",
    ] {
        place(
            &shell.current_dir().join(text),
            &format!("share/doc/suijuris/{text}"),
            0o644,
        )?;
    }
    for script in ["install.sh", "uninstall.sh"] {
        place(&shell.current_dir().join("tools").join(script), script, 0o755)?;
    }
    let manual = staged.join("share/man/man1");
    fs::create_dir_all(&manual)?;
    cmd!(shell, "{program} manual {manual}").quiet().run()?;
    for (kind, to) in [
        ("bash", "share/bash-completion/completions/suijuris"),
        ("zsh", "share/zsh/site-functions/_suijuris"),
        ("fish", "share/fish/vendor_completions.d/suijuris.fish"),
    ] {
        let script = cmd!(shell, "{program} completions {kind}").quiet().read()?;
        let to = staged.join(to);
        fs::create_dir_all(to.parent().context("it has a directory")?)?;
        fs::write(to, script + "\n")?;
    }
    Ok(())
}

/// Builds `suijuris`, which needs nothing of the machine that it runs on, as `cargo install` builds it for its users.
fn build_program(shell: &Shell) -> Result<PathBuf> {
    let Linking { target, flags } = init::linking(shell)?;
    let target_directory = metadata()?.target_directory.into_std_path_buf();
    let root = target_directory.join("dist-installed");
    let installed = root.display().to_string();
    let mut words = vec!["install", "--path", "crates/cli", "--bin", "suijuris"];
    words.extend(["--locked", "--force", "--no-track", "--root", &installed]);
    words.extend(["--profile", PROFILE, "--target", &target]);
    // What is written in C calls nothing of a C library that musl's lacks; the compiler for it is the one that is there.
    let compiler = format!("CC_{}", target.replace('-', "_"));
    cargo(shell, &words)
        .env("RUSTFLAGS", flags)
        .env(compiler, "cc")
        .run()?;
    Ok(root.join("bin/suijuris"))
}

/// The options that make tar forget who packed and when.
fn tar(shell: &Shell, release: &Release, directory: &Path, what: &[&str], to: &Path) -> Result<()> {
    let at = format!("--mtime=@{}", release.at);
    Ok(cmd!(shell, "tar --create --sort=name --owner=0 --group=0 --numeric-owner {at} --format=gnu --file {to} --directory {directory} {what...}")
        .quiet()
        .run()?)
}

fn archive(shell: &Shell, release: &Release, out: &Path, name: &str) -> Result<PathBuf> {
    let plain = out.join(format!("{name}.tar"));
    tar(shell, release, out, &[name], &plain)?;
    cmd!(shell, "gzip --no-name --best --force {plain}")
        .quiet()
        .run()?;
    Ok(out.join(format!("{name}.tar.gz")))
}

/// A Debian package of the same files below /usr; none where `dpkg-deb` is not there.
fn package(shell: &Shell, release: &Release, out: &Path, staged: &Path) -> Result<Option<PathBuf>> {
    if cmd!(shell, "dpkg-deb --version")
        .quiet()
        .ignore_stdout()
        .run()
        .is_err()
    {
        eprintln!("no Debian package: dpkg-deb is not on this machine");
        return Ok(None);
    }
    let root = out.join("deb");
    let usr = root.join("usr");
    fs::create_dir_all(&usr)?;
    for part in ["bin", "lib", "share"] {
        let (from, to) = (staged.join(part), usr.join(part));
        cmd!(shell, "cp --archive {from} {to}").quiet().run()?;
    }
    let unit = usr.join("lib/systemd/system/suijuris.service");
    fs::write(
        &unit,
        fs::read_to_string(&unit)?.replace("/usr/local/bin", "/usr/bin"),
    )?;
    let bytes: u64 = cmd!(shell, "du --summarize --bytes {usr}")
        .quiet()
        .read()?
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .parse()?;
    let control = root.join("DEBIAN");
    fs::create_dir_all(&control)?;
    fs::write(
        control.join("control"),
        format!(
            "Package: suijuris\nVersion: {}\nArchitecture: {}\nMaintainer: The Suijuris authors <suijuris@localhost>\nInstalled-Size: {}\nSection: admin\nPriority: optional\nDescription: machines that decide for themselves\n Objects with memory, rules, an identity and a history of their own, which decide\n whether to wake, serve and sleep. Removing the package leaves objects where they are.\n",
            release.version,
            release.debian(),
            bytes.div_ceil(1024),
        ),
    )?;
    let to = out.join(format!("suijuris_{}_{}.deb", release.version, release.debian()));
    let at = release.at.to_string();
    cmd!(shell, "dpkg-deb --root-owner-group --build {root} {to}")
        .env("SOURCE_DATE_EPOCH", at)
        .quiet()
        .ignore_stdout()
        .run()?;
    fs::remove_dir_all(root)?;
    Ok(Some(to))
}

/// SHA256SUMS of the files in `out`, as `sha256sum --check` reads them.
fn digests(shell: &Shell, out: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("nothing was made");
    }
    let _there = shell.push_dir(out);
    let sums = cmd!(shell, "sha256sum {names...}").quiet().read()?;
    Ok(fs::write(out.join("SHA256SUMS"), sums + "\n")?)
}
