//! Where backups of the host's volumes go: object storage by the client of the depot, or a directory; sealed in the age format where a
//! key is named. What a backup consists of is `suijuris_host`'s.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use suijuris_host::{Pending, Vault, VaultError};

/// The vault that `url` names, sealed where there is a key.
pub(super) fn open(url: &str, key: Option<&Path>) -> anyhow::Result<Arc<dyn Vault>> {
    let vault: Arc<dyn Vault> = match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Arc::new(Folder::open(Path::new(path))?),
        Some(_) => {
            return Err(crate::Usage("a directory has three slashes: file:///directory".to_owned()).into());
        }
        None => bucket(url)?,
    };
    match key {
        Some(key) => sealed(vault, key),
        None => Ok(vault),
    }
}

/// A directory: of another disk, or of another machine's.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn open(path: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("`{}` cannot hold backups", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Result<T, VaultError> {
        let path = self.0.join(name);
        let done = tokio::task::spawn_blocking(move || work(path)).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|error| VaultError::Unreachable(format!("file://{}: {error}", self.0.display())))
    }
}

/// Puts a file in place whole, durably.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = folder.join(format!(".new-{name}"));
    let mut file = fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    fs::File::open(folder)?.sync_all()
}

fn get(path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::other(format!("it has more than {max} bytes")));
    }
    Ok(Some(bytes))
}

fn list(root: &Path, under: &Path, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(under) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(root, &path, found)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str)
            && !entry.file_name().as_encoded_bytes().starts_with(b".")
        {
            found.push(name.to_owned());
        }
    }
    Ok(())
}

impl Vault for Folder {
    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> Pending<'a, ()> {
        Box::pin(self.blocking(name, move |path| put(&path, &bytes)))
    }

    fn get<'a>(&'a self, name: &'a str, max: usize) -> Pending<'a, Option<Vec<u8>>> {
        Box::pin(self.blocking(name, move |path| get(&path, max)))
    }

    fn list<'a>(&'a self, under: &'a str) -> Pending<'a, Vec<String>> {
        let root = self.0.clone();
        Box::pin(self.blocking(under, move |under| {
            let mut found = Vec::new();
            list(&root, &under, &mut found)?;
            found.sort();
            Ok(found)
        }))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, ()> {
        Box::pin(self.blocking(name, |path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }))
    }

    fn secret(&self) -> Option<&[u8]> {
        None
    }
}

#[cfg(not(feature = "remote"))]
fn bucket(url: &str) -> anyhow::Result<Arc<dyn Vault>> {
    anyhow::bail!(
        "`{url}`: this program was built without object storage (feature `remote`); file:///directory works"
    )
}

#[cfg(feature = "remote")]
fn bucket(url: &str) -> anyhow::Result<Arc<dyn Vault>> {
    let bucket = suijuris_depot::Bucket::open(url, &|name| std::env::var(name).ok())?;
    Ok(Arc::new(Remote(bucket)))
}

/// A bucket.
#[cfg(feature = "remote")]
#[derive(Debug)]
struct Remote(suijuris_depot::Bucket);

#[cfg(feature = "remote")]
fn told(error: suijuris_depot::Error) -> VaultError {
    let is_damaged = matches!(error, suijuris_depot::Error::Garbage { .. });
    let text = format!("{:#}", anyhow::Error::new(error));
    if is_damaged {
        VaultError::Damaged(text)
    } else {
        VaultError::Unreachable(text)
    }
}

#[cfg(feature = "remote")]
impl Vault for Remote {
    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> Pending<'a, ()> {
        Box::pin(async move { self.0.put(name, bytes).await.map_err(told) })
    }

    fn get<'a>(&'a self, name: &'a str, max: usize) -> Pending<'a, Option<Vec<u8>>> {
        Box::pin(async move { self.0.get(name, max).await.map_err(told) })
    }

    fn list<'a>(&'a self, under: &'a str) -> Pending<'a, Vec<String>> {
        Box::pin(async move { self.0.list(under).await.map_err(told) })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, ()> {
        Box::pin(async move { self.0.remove(name).await.map_err(told) })
    }

    fn secret(&self) -> Option<&[u8]> {
        None
    }
}

#[cfg(not(feature = "sealing"))]
fn sealed(_: Arc<dyn Vault>, _: &Path) -> anyhow::Result<Arc<dyn Vault>> {
    anyhow::bail!("this program was built without sealing (feature `sealing`): leave --backup-key out")
}

#[cfg(feature = "sealing")]
fn sealed(vault: Arc<dyn Vault>, key: &Path) -> anyhow::Result<Arc<dyn Vault>> {
    use std::os::unix::fs::MetadataExt as _;
    let shown = key.display();
    let metadata = fs::metadata(key).with_context(|| format!("`{shown}` cannot be read"))?;
    anyhow::ensure!(
        metadata.mode() & 0o077 == 0,
        "others may read `{shown}`, which opens all backups: run chmod 600 on it"
    );
    let sealer = crate::key_wrap::Sealer::open(key)?;
    Ok(Arc::new(Sealed { vault, sealer }))
}

/// A vault that sees sealed bytes alone.
#[cfg(feature = "sealing")]
#[derive(Debug)]
struct Sealed {
    vault: Arc<dyn Vault>,
    sealer: crate::key_wrap::Sealer,
}

#[cfg(feature = "sealing")]
impl Vault for Sealed {
    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> Pending<'a, ()> {
        Box::pin(async move {
            let sealed = self.sealer.seal(&bytes);
            let sealed = sealed.map_err(|error| VaultError::Damaged(format!("{name}: {error:#}")))?;
            self.vault.put(name, sealed).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, max: usize) -> Pending<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let room = crate::key_wrap::Sealer::room(max);
            let Some(sealed) = self.vault.get(name, room).await? else {
                return Ok(None);
            };
            let opened = self.sealer.open_sealed(&sealed, max);
            let opened = opened.map_err(|error| VaultError::Damaged(format!("{name}: {error:#}")))?;
            Ok(Some(opened))
        })
    }

    fn list<'a>(&'a self, under: &'a str) -> Pending<'a, Vec<String>> {
        self.vault.list(under)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, ()> {
        self.vault.remove(name)
    }

    fn secret(&self) -> Option<&[u8]> {
        Some(self.sealer.secret())
    }
}
