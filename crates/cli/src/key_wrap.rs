//! Encrypts what must not travel in clear — the waiting key and the secrets — to a named recipient, in the age format.
//!
//! An owner's key has an age identity of its own, derived from it, so that one file is enough: the creator of an object can
//! import it on any machine where that key lies. Others are named by their `age1…` recipient.

use std::fs;
use std::io::{Read as _, Write as _};
use std::iter;
use std::path::Path;

use age::x25519;
use anyhow::Context as _;
use bech32::{Bech32, Hrp};
use suijuris_core::id::Digest;
use suijuris_core::key::SecretKey;
use suijuris_store::capsule::Decrypted;
use suijuris_supervisor::serve::packing::KeyWrap;
use zeroize::{Zeroize as _, Zeroizing};

use crate::owner;

/// What is hashed before the owner's seed, so that the identity is of no use as an owner's key.
const DERIVATION: &[u8] = b"suijuris owner's age identity, version 1\0";

/// Size of an identity file at most, bytes.
const MAX_IDENTITY_FILE: u64 = 64 << 10;

/// Size of what is sealed at most once it is open, bytes.
const MAX_OPEN: u64 = 2 << 20;

/// The age identity that belongs to an owner's key.
fn identity_of(owner: &SecretKey) -> anyhow::Result<x25519::Identity> {
    let mut seed = Digest::of_parts(&[DERIVATION, owner.seed().as_slice()]);
    let text = bech32::encode::<Bech32>(Hrp::parse("age-secret-key-")?, &seed.0).map(Zeroizing::new);
    seed.0.zeroize();
    let upper = Zeroizing::new(text?.to_ascii_uppercase());
    upper
        .parse()
        .map_err(|why| anyhow::anyhow!("the owner's key yields no age identity: {why}"))
}

/// The recipient that belongs to an owner's key, as others may write it after `--to`.
pub(crate) fn recipient_of(owner: &SecretKey) -> anyhow::Result<String> {
    Ok(identity_of(owner)?.to_public().to_string())
}

/// Seals to these recipients: `age1…`, or `owner` for this owner.
pub(crate) fn encrypt(clear: &Decrypted, to: &[String]) -> anyhow::Result<Vec<u8>> {
    let recipients = to
        .iter()
        .map(|name| recipient(name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let encryptor = age::Encryptor::with_recipients(
        recipients
            .iter()
            .map(|recipient| recipient as &dyn age::Recipient),
    )?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(&clear.encode()?)?;
    writer.finish()?;
    Ok(sealed)
}

/// Seals what leaves a daemon, which has no owner: recipients are named as such.
#[derive(Debug)]
pub(crate) struct Age;

impl KeyWrap for Age {
    fn seal(&self, clear: &Decrypted, to: &[String]) -> Result<Vec<u8>, String> {
        self.check(to)?;
        encrypt(clear, to).map_err(|error| format!("{error:#}"))
    }

    fn check(&self, to: &[String]) -> Result<(), String> {
        let check = |name: &String| match name.as_str() {
            "owner" => Err("`owner` is nobody to a daemon: name an age recipient".to_owned()),
            name => recipient(name).map(drop).map_err(|error| format!("{error:#}")),
        };
        to.iter().try_for_each(check)
    }

    fn fresh(&self) -> Result<(Zeroizing<String>, String), String> {
        use age::secrecy::ExposeSecret as _;
        let identity = x25519::Identity::generate();
        let text = Zeroizing::new(identity.to_string().expose_secret().to_owned());
        Ok((text, identity.to_public().to_string()))
    }

    fn open(&self, sealed: &[u8], identity: &str) -> Result<Decrypted, String> {
        let identity: x25519::Identity = identity.parse().map_err(|why: &str| why.to_owned())?;
        open(sealed, &[identity]).map_err(|error| format!("{error:#}"))
    }
}

fn recipient(name: &str) -> anyhow::Result<x25519::Recipient> {
    if name == "owner" {
        return Ok(identity_of(&owner::owner_key()?)?.to_public());
    }
    name.parse().map_err(|why| {
        crate::Usage(format!(
            "`{name}` is not a recipient ({why}): write one that begins with `age1`, or `owner`"
        ))
        .into()
    })
}

/// Opens what was sealed, with the key in `file`, or with this owner's. The file holds an owner's key or age identities.
pub(crate) fn decrypt(sealed: &[u8], file: Option<&Path>) -> anyhow::Result<Decrypted> {
    let identities = match file {
        None => vec![identity_of(&owner::owner_key()?)?],
        Some(path) => identities(path)?,
    };
    open(sealed, &identities)
}

fn open(sealed: &[u8], identities: &[x25519::Identity]) -> anyhow::Result<Decrypted> {
    let refs = identities.iter().map(|identity| identity as &dyn age::Identity);
    let reader = age::Decryptor::new_buffered(sealed)
        .context("the sealed section is not in the age format")?
        .decrypt(refs)
        .context("it is sealed to somebody else; name their key with --key")?;
    let mut bytes = Zeroizing::new(Vec::new());
    reader.take(MAX_OPEN).read_to_end(&mut bytes)?;
    Ok(Decrypted::decode(&bytes)?)
}

/// Seals bytes to the first age identity of a file, and opens what was sealed to any of them.
#[cfg(feature = "host")]
pub(crate) struct Sealer {
    identities: Vec<x25519::Identity>,
    secret: Zeroizing<Vec<u8>>,
}

#[cfg(feature = "host")]
impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

#[cfg(feature = "host")]
impl Sealer {
    /// The sealer of a file of age identities.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        use age::secrecy::ExposeSecret as _;
        let identities = identities(path)?;
        let first = identities.first().context("the file holds no age identity")?;
        let secret = Zeroizing::new(first.to_string().expose_secret().as_bytes().to_vec());
        Ok(Self { identities, secret })
    }

    /// Bytes that `max` bytes have at most once they are sealed: a header, and a tag for each 64 KiB.
    pub(crate) const fn room(max: usize) -> usize {
        max.saturating_add(max / (64 << 10) * 16).saturating_add(4_096)
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    pub(crate) fn seal(&self, clear: &[u8]) -> anyhow::Result<Vec<u8>> {
        let to = self.identities.first().map(x25519::Identity::to_public);
        let to = to.context("there is no age identity")?;
        let encryptor = age::Encryptor::with_recipients(iter::once(&to as &dyn age::Recipient))?;
        let mut sealed = Vec::with_capacity(Self::room(clear.len()));
        let mut writer = encryptor.wrap_output(&mut sealed)?;
        writer.write_all(clear)?;
        writer.finish()?;
        Ok(sealed)
    }

    /// What was sealed, of which there are `max` bytes at most.
    pub(crate) fn open_sealed(&self, sealed: &[u8], max: usize) -> anyhow::Result<Vec<u8>> {
        let refs = self
            .identities
            .iter()
            .map(|identity| identity as &dyn age::Identity);
        let reader = age::Decryptor::new_buffered(sealed)
            .context("it is not in the age format: was it sealed?")?
            .decrypt(refs)
            .context("it is sealed to another key than that of --backup-key")?;
        let mut bytes = Vec::new();
        reader.take(max as u64 + 1).read_to_end(&mut bytes)?;
        anyhow::ensure!(bytes.len() <= max, "it has more than {max} bytes");
        Ok(bytes)
    }
}

fn identities(path: &Path) -> anyhow::Result<Vec<x25519::Identity>> {
    let shown = path.display();
    let file = fs::File::open(path).with_context(|| format!("`{shown}` cannot be read"))?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_IDENTITY_FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("`{shown}` is not a key"))?;
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    if lines.iter().any(|line| line.starts_with("AGE-SECRET-KEY-")) {
        let parse = |line: &&str| {
            line.parse()
                .map_err(|why| anyhow::anyhow!("`{shown}` holds a line that is not an age identity: {why}"))
        };
        return lines.iter().map(parse).collect();
    }
    Ok(iter::once(identity_of(&owner::key(Some(path))?)?).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decrypted() -> Decrypted {
        Decrypted {
            next_key: SecretKey::from_seed(&[7; 32]),
            secrets: vec![],
        }
    }

    #[test]
    fn what_is_sealed_opens_for_its_recipient_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (ours, theirs) = (x25519::Identity::generate(), x25519::Identity::generate());
        let write = |name: &str, identity: &x25519::Identity| {
            use age::secrecy::ExposeSecret as _;
            let path = temp.path().join(name);
            fs::write(
                &path,
                format!("# made for a test\n{}\n", identity.to_string().expose_secret()),
            )
            .unwrap();
            path
        };
        let sealed = encrypt(&decrypted(), &[ours.to_public().to_string()]).unwrap();
        let open_with = |name: &str, identity| decrypt(&sealed, Some(&write(name, identity)));
        assert_eq!(
            open_with("ours", &ours).unwrap().next_key.public(),
            decrypted().next_key.public()
        );
        assert!(
            open_with("theirs", &theirs)
                .unwrap_err()
                .to_string()
                .contains("somebody else")
        );
        let seed = SecretKey::from_seed(&[7; 32]);
        assert!(!sealed.windows(32).any(|window| window == seed.seed().as_slice()));
    }

    #[test]
    fn an_owners_key_has_one_recipient() {
        let (one, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        assert_eq!(recipient_of(&one).unwrap(), recipient_of(&one).unwrap());
        assert_ne!(recipient_of(&one).unwrap(), recipient_of(&other).unwrap());
        assert!(recipient_of(&one).unwrap().starts_with("age1"));
        assert!(recipient("age1nonsense").is_err());
    }
}
