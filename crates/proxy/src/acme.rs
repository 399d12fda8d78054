//! Certificates by ACME (RFC 8555) for the names that apps have: ordered when a name appears, renewed when a third of their time
//! is left, proved over HTTP at the proxy's own port 80 (`http-01`). Account, chains and keys are kept in a directory.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use suijuris_edge::tls::{Names, TlsError, expires_s};
use tokio::time::{Instant, sleep};

use crate::fleet::Fleet;
use crate::ids::Ids;

/// Where a server looks for the answer to its challenge.
pub(crate) const PATH: &str = "/.well-known/acme-challenge/";
/// Between two looks at the names that there are.
const LOOK: Duration = Duration::from_secs(1);
/// A name is tried again after this, which doubles,
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// A certificate that ends within this is renewed: a third of the usual 90 days.
const RENEW_S: u64 = 30 * 86_400;
/// Names that are looked after, at most.
const MOST: usize = 1_000;
/// How long an order may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where certificates come from.
#[derive(Debug, Clone)]
pub struct Acme {
    /// The server's directory, `https://…`.
    pub directory: String,
    /// The root that its own certificate is checked by, PEM; none: those of the system.
    pub root: Option<PathBuf>,
    /// Where account, chains and keys are kept; made with mode 0700.
    pub keep: PathBuf,
    /// Told of what went wrong, and why.
    pub complain: fn(&str),
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error("the server of certificates: {0}")]
    Server(#[from] instant_acme::Error),
    #[error("its order is {0:?}: the name has to lead here, and port 80 with it")]
    Order(OrderStatus),
    #[error("it offers no challenge over HTTP")]
    NoChallenge,
    #[error("the request for a certificate cannot be made")]
    Request(#[from] rcgen::Error),
    #[error("it cannot be kept")]
    Keep(#[from] io::Error),
    #[error("the account that is kept cannot be read: remove account.json for another")]
    Account(#[from] serde_json::Error),
    #[error(transparent)]
    Certificate(#[from] TlsError),
}

/// Answers to challenges that are under way.
#[derive(Debug, Default)]
pub(crate) struct Challenges(Mutex<HashMap<String, String>>);

impl Challenges {
    /// The answer to the challenge whose token ends this path.
    pub(crate) fn answer(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PATH)?;
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(token).cloned()
    }

    fn set(&self, token: &str, answer: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => all.insert(token.to_owned(), answer),
            None => all.remove(token),
        };
    }
}

/// Looks after certificates until it is dropped.
pub(crate) async fn run(
    acme: Acme,
    fleet: Arc<dyn Fleet>,
    names: Arc<Names>,
    challenges: Arc<Challenges>,
    ids: Arc<Ids>,
) {
    let mut kept = Kept {
        acme,
        names,
        challenges,
        account: None,
        expires: HashMap::new(),
        later: HashMap::new(),
    };
    loop {
        let now = fleet.now();
        let all = now.hostnames.keys().filter(|name| is_orderable(name));
        let due: Vec<Arc<str>> = all
            .take(MOST)
            .filter(|name| kept.is_due(name, &ids))
            .cloned()
            .collect();
        for name in due {
            kept.attempt(&name).await;
        }
        sleep(LOOK).await;
    }
}

/// A name that a server signs for after a challenge over HTTP, and a file may have.
fn is_orderable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    name.len() <= 253 && name.contains('.') && name.split('.').all(label) && !name.ends_with(".localhost")
}

struct Kept {
    acme: Acme,
    names: Arc<Names>,
    challenges: Arc<Challenges>,
    account: Option<Account>,
    /// Until when certificates count, seconds since 1970.
    expires: HashMap<Arc<str>, u64>,
    /// When a name that failed is tried again, and how long after that.
    later: HashMap<Arc<str>, (Instant, Duration)>,
}

impl Kept {
    fn is_due(&mut self, name: &Arc<str>, ids: &Ids) -> bool {
        if self.later.get(name).is_some_and(|(at, _)| *at > Instant::now()) {
            return false;
        }
        if !self.expires.contains_key(name) {
            // What an earlier proxy kept.
            let _none = self.load(name);
        }
        let left = self
            .expires
            .get(name)
            .map(|until| until.saturating_sub(ids.now().as_secs()));
        left.is_none_or(|left| left < RENEW_S)
    }

    fn load(&mut self, name: &Arc<str>) -> Result<(), AcmeError> {
        let chain = std::fs::read(self.acme.keep.join(format!("{name}.pem")))?;
        let key = std::fs::read(self.acme.keep.join(format!("{name}.key")))?;
        self.names.set(name, &chain, &key)?;
        self.expires
            .insert(Arc::clone(name), expires_s(&chain).unwrap_or_default());
        Ok(())
    }

    async fn attempt(&mut self, name: &Arc<str>) {
        let ordered = tokio::time::timeout(PATIENCE, self.order(name)).await;
        let why = match ordered {
            Ok(Ok(())) => {
                self.later.remove(name);
                return;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "the server of certificates takes too long".to_owned(),
        };
        let pause = self
            .later
            .get(name)
            .map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(LONGEST_PAUSE));
        self.later
            .insert(Arc::clone(name), (Instant::now() + pause, pause));
        (self.acme.complain)(&format!(
            "no certificate for {name}: {why}; tried again in {} s",
            pause.as_secs()
        ));
    }

    async fn order(&mut self, name: &Arc<str>) -> Result<(), AcmeError> {
        let account = self.account().await?;
        let wanted = [Identifier::Dns(name.to_string())];
        let mut order = account.new_order(&NewOrder::new(&wanted)).await?;
        let mut tokens = Vec::new();
        let proved = self.prove(&mut order, &mut tokens).await;
        let ready = match proved {
            Ok(()) => order
                .poll_ready(&RetryPolicy::default())
                .await
                .map_err(AcmeError::from),
            Err(error) => Err(error),
        };
        for token in tokens {
            self.challenges.set(&token, None);
        }
        match ready? {
            OrderStatus::Ready | OrderStatus::Valid => {}
            status => return Err(AcmeError::Order(status)),
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_string()])?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&RetryPolicy::default()).await?;
        let at = |end: &str| self.acme.keep.join(format!("{name}.{end}"));
        private(&at("key"), key.serialize_pem().as_bytes())?;
        private(&at("pem"), chain.as_bytes())?;
        self.load(name)
    }

    /// Answers all challenges, whose tokens are noted.
    async fn prove(&self, order: &mut Order, tokens: &mut Vec<String>) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge = authorization
                .challenge(ChallengeType::Http01)
                .ok_or(AcmeError::NoChallenge)?;
            let answer = challenge.key_authorization().as_str().to_owned();
            tokens.push(challenge.token.clone());
            self.challenges.set(&challenge.token, Some(answer));
            challenge.set_ready().await?;
        }
        Ok(())
    }

    async fn account(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let builder = match &self.acme.root {
            Some(root) => Account::builder_with_root(root)?,
            None => Account::builder()?,
        };
        let mut directory = std::fs::DirBuilder::new();
        directory.recursive(true).mode(0o700).create(&self.acme.keep)?;
        let path = self.acme.keep.join("account.json");
        let account = match std::fs::read(&path) {
            Ok(known) => {
                let credentials: AccountCredentials = serde_json::from_slice(&known)?;
                builder.from_credentials(credentials).await?
            }
            Err(_) => {
                let new = NewAccount {
                    contact: &[],
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let (account, credentials) = builder.create(&new, self.acme.directory.clone(), None).await?;
                private(&path, &serde_json::to_vec(&credentials)?)?;
                account
            }
        };
        self.account = Some(account.clone());
        Ok(account)
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Writes a file for this user alone, whole or not at all.
fn private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_ordered() {
        for name in ["shop.example", "a-1.b.example"] {
            assert!(is_orderable(name), "{name}");
        }
        for name in [
            "",
            "shop",
            "a.localhost",
            "*.example",
            "../x.y",
            "a..b",
            "A.example",
            "a.b/c",
        ] {
            assert!(!is_orderable(name), "{name}");
        }
    }

    #[test]
    fn a_challenge_is_answered_while_it_is_under_way() {
        let challenges = Challenges::default();
        challenges.set("t", Some("t.key".to_owned()));
        assert_eq!(
            challenges.answer("/.well-known/acme-challenge/t").as_deref(),
            Some("t.key")
        );
        assert_eq!(challenges.answer("/.well-known/acme-challenge/"), None);
        assert_eq!(challenges.answer("/t"), None);
        challenges.set("t", None);
        assert_eq!(challenges.answer("/.well-known/acme-challenge/t"), None);
    }
}
