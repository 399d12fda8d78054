//! Debian's `docker-registry` on a port of its own choice, with its storage in a temporary directory.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "for tests: what is not as expected ends them"
)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Password file with user `alice`, password `open sesame`.
const HTPASSWD: &str = "alice:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

/// A registry that runs until this is dropped.
#[derive(Debug)]
pub struct Real {
    process: Child,
    dir: tempfile::TempDir,
    /// Host and port.
    pub address: String,
}

impl Real {
    /// Without accounts.
    #[must_use]
    pub fn open() -> Self {
        Self::start(|_, _| {})
    }

    /// Only for `alice`.
    #[must_use]
    pub fn with_accounts() -> Self {
        Self::start(|command, dir| {
            std::fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
            command
                .env("REGISTRY_AUTH", "htpasswd")
                .env("REGISTRY_AUTH_HTPASSWD_REALM", "test")
                .env("REGISTRY_AUTH_HTPASSWD_PATH", dir.join("htpasswd"));
        })
    }

    /// With TLS, by a certificate and its key in PEM.
    #[must_use]
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        Self::start(|command, dir| {
            std::fs::write(dir.join("cert.pem"), certificate).unwrap();
            std::fs::write(dir.join("key.pem"), key).unwrap();
            command
                .env("REGISTRY_HTTP_TLS_CERTIFICATE", dir.join("cert.pem"))
                .env("REGISTRY_HTTP_TLS_KEY", dir.join("key.pem"));
        })
    }

    fn start(configure: impl FnOnce(&mut Command, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        std::fs::write(&config, "version: 0.1\nstorage:\n  filesystem: {}\nhttp: {}\n").unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .env(
                "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY",
                dir.path().join("storage"),
            )
            .env("REGISTRY_HTTP_ADDR", "127.0.0.1:0")
            .env("REGISTRY_LOG_LEVEL", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        configure(&mut command, dir.path());
        let mut process = command
            .spawn()
            .expect("docker-registry cannot be started: run tools/setup --test");
        let address = address(&mut process);
        Self {
            process,
            dir,
            address,
        }
    }

    /// The address under another name of this machine.
    #[must_use]
    pub fn at(&self, host: &str) -> String {
        let port = self.address.rsplit_once(':').unwrap().1;
        format!("{host}:{port}")
    }

    /// The file in which it keeps a blob.
    #[must_use]
    pub fn blob(&self, hex: &str) -> PathBuf {
        let blobs = self.dir.path().join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for the line that names the port it listens on; a process that ends first ends the wait.
fn address(process: &mut Child) -> String {
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut seen = String::new();
    loop {
        let from = seen.len();
        if log.read_line(&mut seen).unwrap() == 0 {
            panic!("docker-registry ended: {seen}");
        }
        let Some((_, rest)) = seen[from..].split_once("listening on ") else {
            continue;
        };
        let address: String = rest
            .chars()
            .take_while(|letter| letter.is_ascii_digit() || ".:".contains(*letter))
            .collect();
        // Its log is read on, so that it never waits for us.
        std::thread::spawn(move || {
            let mut sink = [0; 4096];
            while log.read(&mut sink).is_ok_and(|length| length > 0) {}
        });
        return address;
    }
}

/// Bytes that no compression shortens, the same at each call.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes other bytes of the same length over a file.
pub fn falsify(path: &Path) {
    let length = File::open(path).unwrap().metadata().unwrap().len();
    std::fs::write(path, vec![b'!'; usize::try_from(length).unwrap()]).unwrap();
}
