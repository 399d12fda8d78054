//! Credential helpers: programs that keep passwords, asked as Docker asks them.
//!
//! `docker-credential-NAME get` reads the registry's address from its input and writes `{"Username":…, "Secret":…}`;
//! where it has nothing it fails and says so. A helper may ask the user to unlock something, so that it gets the
//! terminal and some time; how long it may take and how much it may say is bounded. Called by [`super::DockerConfig`].

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Credentials, Secret};
use crate::printable;
use crate::reference::Host;

/// Time for a helper to answer: somebody may have to type a passphrase.
pub(super) const WITHIN: Duration = Duration::from_secs(60);

/// Answer of a helper at most, bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Time between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Where Docker Hub's credentials are kept under.
const DOCKER: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");

/// What a helper says where it keeps nothing for the address (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A user's name that says that the secret is an identity token.
const IDENTITY_TOKEN: &str = "<token>";

/// Why a helper gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// A name that could lead to any program.
    #[error("its name is not made of letters, digits, `.`, `_` and `-`; correct it in the configuration")]
    Name,
    /// It is not there, or cannot be run.
    #[error("it cannot be run; install it, or take it out of the configuration")]
    Run(#[source] io::Error),
    /// Too slow.
    #[error("it did not answer in {} s; try again", .0.as_secs())]
    Timeout(Duration),
    /// It says no.
    #[error("it failed ({status}): {says}; log in again")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote, shortened.
        says: String,
    },
    /// It writes more than an answer.
    #[error("it answered more than {MAX_ANSWER_BYTES} bytes; check which program it is")]
    TooLong,
    /// Not the JSON that helpers write. The cause is left out on purpose: it may quote a secret.
    #[error("its answer is not the JSON of a credential helper; check which program it is")]
    Json,
    /// A token that only Docker's own protocol exchanges.
    #[error("it keeps an identity token, which is not supported; log in with a password or an access token")]
    IdentityToken,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// The program of a helper, found as any command is.
pub(super) fn program(name: &str) -> Result<Command, HelperError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(HelperError::Name);
    }
    let mut command = Command::new(format!("docker-credential-{name}"));
    command.arg("get");
    Ok(command)
}

/// Asks a helper for what it keeps for `host`; none where it keeps nothing.
pub(super) fn ask(
    mut program: Command,
    host: &Host,
    within: Duration,
) -> Result<Option<Credentials>, HelperError> {
    let until = Instant::now() + within;
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(HelperError::Run)?;
    let said = told(&mut child, host).and_then(|()| listen(&mut child, until, within));
    let ended = said.and_then(|said| Ok((said, wait(&mut child, until, within)?)));
    if ended.is_err() {
        // It may hang, or be gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (said, status) = ended?;
    read(&said, status)
}

/// Tells it which registry is meant. One that does not read is no error: it may know without.
fn told(child: &mut Child, host: &Host) -> Result<(), HelperError> {
    let address = if host.as_str() == DOCKER.0 {
        DOCKER.1
    } else {
        host.as_str()
    };
    // A host's name is shorter than any pipe, so that this never waits.
    match child
        .stdin
        .take()
        .map(|mut pipe| pipe.write_all(address.as_bytes()))
    {
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(HelperError::Run(error)),
        _ => Ok(()),
    }
}

/// All that it writes, up to the limit and the time.
fn listen(child: &mut Child, until: Instant, within: Duration) -> Result<Zeroizing<Vec<u8>>, HelperError> {
    let Some(pipe) = child.stdout.take() else {
        return Ok(Zeroizing::default());
    };
    let (sender, receiver) = mpsc::sync_channel(1);
    // Ends with the pipe. Where something that the helper started keeps that open, it outlives us by that much only.
    std::thread::spawn(move || {
        // As long as it will get, so that no copy of a secret is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES + 1));
        let limit = u64::try_from(MAX_ANSWER_BYTES + 1).unwrap_or(u64::MAX);
        let read = pipe.take(limit).read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(read);
    });
    match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(Ok(bytes)) if bytes.len() > MAX_ANSWER_BYTES => Err(HelperError::TooLong),
        Ok(read) => read.map_err(HelperError::Run),
        Err(_) => Err(HelperError::Timeout(within)),
    }
}

fn wait(child: &mut Child, until: Instant, within: Duration) -> Result<ExitStatus, HelperError> {
    loop {
        if let Some(status) = child.try_wait().map_err(HelperError::Run)? {
            return Ok(status);
        }
        if Instant::now() >= until {
            return Err(HelperError::Timeout(within));
        }
        std::thread::sleep(LOOK);
    }
}

fn read(said: &[u8], status: ExitStatus) -> Result<Option<Credentials>, HelperError> {
    if !status.success() {
        let says = String::from_utf8_lossy(said);
        if says.trim() == NOT_FOUND {
            return Ok(None);
        }
        return Err(HelperError::Failed {
            status,
            says: printable(says.trim()),
        });
    }
    let answer: Answer = serde_json::from_slice(said).map_err(|_| HelperError::Json)?;
    match answer.username.as_str() {
        "" => Ok(None),
        IDENTITY_TOKEN => Err(HelperError::IdentityToken),
        _ => Ok(Some(Credentials::Basic {
            user: answer.username,
            password: answer.secret,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(script: &str, host: &str) -> Result<Option<Credentials>, HelperError> {
        within(script, host, WITHIN)
    }

    fn within(script: &str, host: &str, limit: Duration) -> Result<Option<Credentials>, HelperError> {
        let mut command = Command::new("sh");
        command.args(["-c", script, "docker-credential-test", "get"]);
        ask(command, &host.parse().unwrap(), limit)
    }

    /// Answers with the address as the user's name.
    const ECHO: &str =
        r#"[ "$1" = get ] && printf '{"ServerURL":"x","Username":"%s","Secret":"open sesame"}' "$(cat)""#;

    #[test]
    fn a_helper_is_asked_for_the_address_and_answers() {
        for (host, address) in [
            ("registry.example:5000", "registry.example:5000"),
            ("docker.io", "https://index.docker.io/v1/"),
        ] {
            let wanted = Credentials::Basic {
                user: address.to_owned(),
                password: Secret::new("open sesame"),
            };
            assert_eq!(asked(ECHO, host).unwrap(), Some(wanted));
        }
        // One that asks nobody.
        let fixed = r#"exec <&-; echo '{"Username":"u","Secret":"s"}'"#;
        assert!(asked(fixed, "a.example").unwrap().is_some());
    }

    #[test]
    fn nothing_kept_is_nobody() {
        let none = "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(asked(none, "a.example").unwrap(), None);
        let empty = r#"echo '{"Username":"","Secret":""}'"#;
        assert_eq!(asked(empty, "a.example").unwrap(), None);
    }

    #[test]
    fn each_fault_is_said_and_no_secret_is() {
        for (script, expect) in [
            ("printf 'locked \\033[2J'; exit 3", "exit status: 3"),
            ("printf 'locked \\033[2J'; exit 3", "locked \\u{1b}[2J; log in"),
            ("head -c 70000 /dev/zero", "more than 65536 bytes"),
            ("echo hello sesame", "not the JSON"),
            (r#"echo '{"Username":7,"Secret":"sesame"}'"#, "not the JSON"),
            (
                r#"echo '{"Username":"<token>","Secret":"sesame"}'"#,
                "identity token",
            ),
        ] {
            let error = asked(script, "a.example").unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        }
        let absent = ask(
            Command::new("/no/such/helper"),
            &"a.example".parse().unwrap(),
            WITHIN,
        );
        assert!(absent.unwrap_err().to_string().contains("install it"));
    }

    #[test]
    fn one_that_hangs_is_ended() {
        for script in [
            "exec sleep 600",
            "exec >&-; exec sleep 600",
            "exec yes >/dev/null",
        ] {
            let from = Instant::now();
            let error = within(script, "a.example", Duration::from_millis(300)).unwrap_err();
            assert!(matches!(error, HelperError::Timeout(_)), "{script}: {error}");
            assert!(from.elapsed() < Duration::from_secs(30), "{script}");
        }
    }

    #[test]
    fn a_name_leads_to_no_other_program() {
        assert!(program("pass").is_ok());
        assert!(program("ecr-login.v2").is_ok());
        for name in ["", "../x", "a/b", "a b", "a\0", "ä"] {
            assert!(matches!(program(name), Err(HelperError::Name)), "{name:?}");
        }
    }
}
