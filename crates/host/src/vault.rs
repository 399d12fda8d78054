//! Where backups of volumes go: named bytes outside this machine. Object storage, a directory of another file system, and whether
//! the bytes are sealed on their way are the program's affair that embeds the host.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// What a vault answers, some time later. Dropping it gives up waiting; the operation may still happen.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, VaultError>> + Send + 'a>>;

/// Why a vault did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It does not answer, or not now: asked again later it may.
    #[error("the backups cannot be reached: {0}")]
    Unreachable(String),
    /// What is there is not what was put there, or is sealed with another key.
    #[error("a backup is damaged: {0}")]
    Damaged(String),
}

/// Named bytes outside this machine. Names are parts of `a-z`, `0-9`, `_`, `-` and `.`, joined by `/`.
pub trait Vault: fmt::Debug + Send + Sync {
    /// Puts `bytes` at `name`, over what is there; durable once answered.
    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> Pending<'a, ()>;
    /// The bytes at `name`, of which there are `max` at most; none where nothing is there.
    fn get<'a>(&'a self, name: &'a str, max: usize) -> Pending<'a, Option<Vec<u8>>>;
    /// All names below the folder `under`, whole.
    fn list<'a>(&'a self, under: &'a str) -> Pending<'a, Vec<String>>;
    /// Removes `name`; one that is not there is no error.
    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, ()>;
    /// A secret where bytes are sealed: names of blocks are made with it, so that they tell nothing of what is in them.
    fn secret(&self) -> Option<&[u8]>;
}
