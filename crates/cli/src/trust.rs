//! `suijuris trust`: the certificate authority of development, one for each person. `serve --listen https://…` signs with it
//! where no certificate is named.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use suijuris_edge::authority::{self, Authority, Files};

use crate::{Answer, server, terminal};

/// File names of the authority.
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// Longest name of a client.
const MAX_NAME: usize = 64;

/// Make a certificate authority for development, and say how programs come to trust it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It signs for `localhost` and names below it only. `suijuris serve --listen https://127.0.0.1:8443` uses it where no
certificate is named.

Example:
  suijuris trust
  suijuris trust --client acme      # acme.pem and acme.key, for a caller who shows a certificate")]
pub(crate) struct Args {
    /// Make another one: what trusts the one of before does not trust this one
    #[arg(long, conflicts_with = "client")]
    renew: bool,
    /// Make a certificate for a client of this name, NAME.pem and NAME.key
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Directory for the client's files [default: the current one]
    #[arg(long, value_name = "DIR", requires = "client")]
    out: Option<PathBuf>,
    /// Print where the files are as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let dir = dir()?;
    let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
    if args.renew || !key.exists() {
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        write(&authority::create(today())?, &certificate, &key)?;
    }
    if let Some(name) = &args.client {
        return client(name, args);
    }
    if args.json {
        terminal::print_json(&serde_json::json!({ "certificate": certificate, "key": key }))?;
        return Ok(Answer::Yes);
    }
    let path = certificate.display();
    terminal::print(&format!(
        "the development authority is {path}\n\
         \n\
         curl         curl --cacert {path} https://…\n\
         Debian       sudo cp {path} /usr/local/share/ca-certificates/suijuris.crt && sudo update-ca-certificates\n\
         Fedora       sudo trust anchor {path}\n\
         Firefox      Settings, Certificates, View Certificates, Authorities, Import\n\
         Node         NODE_EXTRA_CA_CERTS={path}\n\
         \n\
         It signs for localhost and names below it only. Its key is yours alone: {}\n",
        key.display()
    ))?;
    Ok(Answer::Yes)
}

fn client(name: &str, args: &Args) -> anyhow::Result<Answer> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.bytes().all(plain) {
        bail!(crate::Usage(format!(
            "`{}` is no name of a client: use 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`",
            name.escape_debug()
        )));
    }
    let authority = load()?.context("the development authority is gone: run `suijuris trust`")?;
    let files = authority.authority.client(name, today())?;
    let dir = args.out.clone().unwrap_or_default();
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    write(&files, &certificate, &key)?;
    if args.json {
        terminal::print_json(&serde_json::json!({ "certificate": certificate, "key": key }))?;
    } else {
        terminal::print(&format!("made {} and {}\n", certificate.display(), key.display()))?;
    }
    Ok(Answer::Yes)
}

/// The development authority, and its certificate's file.
pub(crate) struct Development {
    pub(crate) authority: Arc<Authority>,
    pub(crate) certificate: PathBuf,
}

/// The development authority of this person, where there is one.
pub(crate) fn load() -> anyhow::Result<Option<Development>> {
    let dir = dir()?;
    let key = dir.join(KEY);
    let Ok(found) = fs::metadata(&key) else {
        return Ok(None);
    };
    if found.mode() & 0o077 != 0 {
        bail!(
            "others can read {}: make another authority with `suijuris trust --renew`",
            key.display()
        );
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(&key)?);
    Ok(Some(Development {
        authority: Arc::new(Authority::new(&text)?),
        certificate: dir.join(CERTIFICATE),
    }))
}

fn dir() -> anyhow::Result<PathBuf> {
    Ok(server::default_root()?.with_file_name("trust"))
}

fn today() -> jiff::civil::Date {
    jiff::Zoned::now().date()
}

/// The key first, readable by this person alone: whoever finds the certificate finds its key.
fn write(files: &Files, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    for (path, text, mode) in [(key, &files.key, 0o600), (certificate, &files.certificate, 0o644)] {
        let wrong = || format!("cannot write {}", path.display());
        let staged = path.with_extension("new");
        let _ = fs::remove_file(&staged);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&staged)
            .with_context(wrong)?;
        file.write_all(text.as_bytes()).with_context(wrong)?;
        file.sync_all().with_context(wrong)?;
        fs::rename(&staged, path).with_context(wrong)?;
    }
    Ok(())
}
