//! A bucket by itself: whole objects by name. For those who keep other things than a depot's in object storage, by the same client, URLs
//! and credentials.

use object_store::path::Path;

use super::connect;
use super::store::Store;
use crate::Error;
use crate::open::{DepotUrl, Environment};

/// Objects of a bucket below a prefix. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Bucket(Store);

impl Bucket {
    /// The bucket that `url` names: `s3://bucket/prefix?endpoint=…&region=…` or `az://container/prefix?endpoint=…&account=…`.
    /// Nothing is asked yet. Credentials come from the environment.
    ///
    /// # Errors
    /// [`Error::Url`], which says what to write.
    pub fn open(url: &str, environment: Environment<'_>) -> Result<Self, Error> {
        let place = DepotUrl::parse(url)?;
        if !matches!(place.scheme.as_str(), "s3" | "az") {
            return Err(place.refuse("it is no bucket: write s3://bucket/prefix or az://container/prefix"));
        }
        let prefix = Path::parse(&place.path).map_err(|error| place.refuse(&error.to_string()))?;
        Ok(Self(Store {
            inner: connect::bucket(&place, environment)?,
            prefix,
            url: place.url(),
        }))
    }

    /// Puts `bytes` at `name`, over what is there. Parts of a name are joined by `/`.
    ///
    /// # Errors
    /// Where the server does not confirm it; it may have happened.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        self.0.put(name, bytes).await
    }

    /// What is at `name`, at most `max` bytes; none where there is nothing.
    ///
    /// # Errors
    /// Where the server does not answer, or more is there.
    pub async fn get(&self, name: &str, max: usize) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(name, max).await?.map(|found| found.bytes))
    }

    /// All names below the folder `under`, in their order.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list(&self, under: &str) -> Result<Vec<String>, Error> {
        self.0.list(under).await
    }

    /// Removes `name`; one that is not there is no error.
    ///
    /// # Errors
    /// Where the server does not confirm it; it may have happened.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.0.delete(name).await
    }
}
