//! `token`: tokens for development, as an issuer of callers' tokens would sign them, and the key that signs them.
//!
//! The key is not the owner's: its holder can be any caller of the objects that pin it, and owns nothing. It
//! lies beside the owner's key and is made on first use. A token is shown to the verifier of gates and doors before it is
//! printed, so that what is printed is a token that the definition takes.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use suijuris_core::key::{Domain, PublicKey, SecretKey};
use suijuris_core::manifest::{Algorithm, CallerKey, Manifest};
use suijuris_core::time::{Now, Span};
use suijuris_store::BundleStore;
use suijuris_supervisor::paths::ObjectPaths;

use crate::key_file::{self, KeyFile};
use crate::object_paths::locate;
use crate::server::Server;
use crate::{Answer, Usage, api_token, clock, history, memory, owner, terminal};

/// Environment variable with the path of the key.
const PATH: &str = "SUIJURIS_TOKEN_KEY";

/// What the key is called.
const WHAT: &str = "key of development tokens";

/// Its name beside the owner's key.
const NAME: &str = "token.key";

/// How long a token can be good at most: nobody can take one back.
const MAX_TTL: Span = Span(366 * 24 * 60 * 60 * 1_000);

/// Claims with options of their own, or that are for us to set.
const RESERVED: [&str; 8] = ["iss", "sub", "aud", "exp", "nbf", "iat", "scope", "scp"];

/// DER of an Ed25519 public key before the key's 32 bytes (RFC 8410 section 4).
const SPKI_ED25519: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Issue callers' tokens for development, and tokens of a daemon's control API
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Example:
  suijuris token key --write tenant/callers.pem    # object.toml: [[callers.keys]] file = \"callers.pem\"
  suijuris token issue --claim tenant=acme tenant")]
pub(crate) enum Command {
    Issue(IssueArgs),
    Key(KeyArgs),
    #[command(subcommand)]
    Api(api_token::Command),
}

/// Print a token that the object or class takes, alone on standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The token is a JWT, signed with the development key that `suijuris token key` prints and that the
definition must pin under [callers]. Issuer, key id and audience are those of the pinned key.
VALUE is JSON, or text for a claim that is text.

Exit codes: 0 issued, 2 usage, 3 the definition does not pin the key, or does not take such a token.

Example:
  suijuris token issue --claim tenant=acme --header tenant | curl -H @- http://acme.tenant.localhost:8080/")]
pub(crate) struct IssueArgs {
    /// Directory with object.toml, or what a daemon serves: CLASS, CLASS/KEY, name or id [default: .]
    #[arg(value_name = "DIR|CLASS")]
    of: Option<PathBuf>,
    /// A claim that [callers.claims] declares; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// Subject: who calls
    #[arg(long, value_name = "WHO", default_value = "developer")]
    sub: String,
    /// A scope; may be given several times
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// How long it is good, at most 366 days
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Span,
    /// Print the header that carries it, as `curl -H @FILE` takes it: so it stands in no list of processes
    #[arg(long)]
    header: bool,
    /// The signing key [default: token.key beside the owner's key, made on first use]
    #[arg(long, value_name = "FILE", env = PATH)]
    key: Option<PathBuf>,
}

/// Print the public key of development tokens, as `[[callers.keys]]` takes it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Makes the key where there is none. A file that holds something else is left alone (3).

Example:
  suijuris token key --write examples/tenant/callers.pem")]
pub(crate) struct KeyArgs {
    /// Write it to this file instead, for `file = \"…\"` in object.toml
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The signing key [default: token.key beside the owner's key, made on first use]
    #[arg(long, value_name = "FILE", env = PATH)]
    key: Option<PathBuf>,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<Answer> {
    match command {
        Command::Issue(args) => issue(args),
        Command::Key(args) => print_key(args),
        Command::Api(command) => api_token::run(command),
    }
}

fn print_key(args: &KeyArgs) -> anyhow::Result<Answer> {
    let pem = pem_of(signing_key(args.key.as_deref())?.public());
    let Some(file) = &args.write else {
        terminal::print(&pem)?;
        return Ok(Answer::Yes);
    };
    let cannot = || format!("cannot write {}", file.display());
    match std::fs::File::create_new(file) {
        Ok(mut created) => created.write_all(pem.as_bytes()).with_context(cannot)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::read_to_string(file).ok().as_deref() != Some(pem.as_str()) {
                bail!(
                    "{} holds something else than your key: name another file, or remove it first",
                    file.display()
                );
            }
        }
        Err(error) => return Err(anyhow::Error::new(error).context(cannot())),
    }
    Ok(Answer::Yes)
}

fn issue(args: &IssueArgs) -> anyhow::Result<Answer> {
    if !(Span(1_000)..=MAX_TTL).contains(&args.ttl) {
        return Err(Usage(format!("--ttl {}: from 1s up to 366 days", args.ttl)).into());
    }
    let target = Target::named(args.of.as_deref())?;
    let secret = signing_key(args.key.as_deref())?;
    let pinned = target.pinned(&pem_of(secret.public()))?;
    let audience = target.audience_of(pinned)?;
    let claims = args.claims(&target.manifest)?;
    let now = clock::reading()?;
    let token = sign(&secret, pinned, args, &audience, claims, now.wall.0 / 1_000)?;
    let takes = suijuris_auth::Callers::new(&target.manifest.callers, &target.manifest.claims, &audience)?;
    let now = Now {
        at: now.wall,
        quality: now.quality,
    };
    let shown = format!("Bearer {token}");
    takes
        .verify(&shown, now)
        .context("the definition does not take such a token")?;
    let line = if args.header {
        format!("Authorization: {shown}\n")
    } else {
        format!("{token}\n")
    };
    terminal::print(&line)?;
    Ok(Answer::Yes)
}

impl IssueArgs {
    /// The declared claims that the command line gives.
    fn claims(&self, manifest: &Manifest) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
        let mut claims = serde_json::Map::new();
        for text in &self.claim {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| Usage(format!("`{text}`: write NAME=VALUE")))?;
            if RESERVED.contains(&name) {
                let usage = format!("`{name}` is no claim to choose: use --sub, --scope and --ttl");
                return Err(Usage(usage).into());
            }
            let declared = manifest.claims.iter().find(|(known, _)| known.as_str() == name);
            let Some((_, kind)) = declared else {
                let known: Vec<&str> = manifest.claims.keys().map(|name| name.as_str()).collect();
                bail!(
                    "[callers.claims] declares no `{name}`, so that no rule can see it; it declares {}",
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                );
            };
            let value = memory::as_typed(Some(kind), value);
            if claims.insert(name.to_owned(), value).is_some() {
                return Err(Usage(format!("claim `{name}` is named twice")).into());
            }
        }
        Ok(claims)
    }
}

/// Whose callers the token is for.
struct Target {
    /// As people call it.
    name: String,
    /// The definition that verifies the token.
    manifest: Manifest,
    /// The object's id, where there is one object.
    object: Option<String>,
}

impl Target {
    /// A directory, or what a daemon serves.
    fn named(of: Option<&Path>) -> anyhow::Result<Self> {
        let name = of.unwrap_or(Path::new(".")).display().to_string();
        let paths = match locate(of, None) {
            Ok(paths) => paths,
            Err(none) => match class(&name)? {
                Some(manifest) => {
                    return Ok(Self {
                        name,
                        manifest,
                        object: None,
                    });
                }
                None => return Err(none.into()),
            },
        };
        Self::at(name, &paths)
    }

    /// The rules in force where there is an object, else the definition.
    fn at(name: String, paths: &ObjectPaths) -> anyhow::Result<Self> {
        if paths.data.join("lineage").is_dir() {
            let reader = history::open(paths)?;
            let head = reader.state().head();
            let manifest = reader.bundle(&head.bundle)?.manifest.clone();
            let object = Some(head.object.to_string());
            return Ok(Self {
                name,
                manifest,
                object,
            });
        }
        let dir = paths.object_dir.as_deref().unwrap_or(&paths.data);
        let built = suijuris_bundle::build(dir).map_err(|report| {
            terminal::drawing(&report.render(suijuris_bundle::Style::PLAIN));
            anyhow::anyhow!("the definition has errors; `suijuris check` shows them again")
        })?;
        Ok(Self {
            name,
            manifest: built.manifest,
            object: None,
        })
    }

    /// The key under `[callers]` that is ours.
    fn pinned(&self, pem: &str) -> anyhow::Result<&CallerKey> {
        let ours = |key: &&CallerKey| key.algorithm == Algorithm::EdDsa && key.pem.trim() == pem.trim();
        self.manifest.callers.iter().find(ours).with_context(|| {
            format!(
                "{} does not take tokens of your development key: write the key with `suijuris token key --write \
                 DIR/callers.pem`, and pin it in object.toml: [[callers.keys]] algorithm = \"EdDSA\", file = \
                 \"callers.pem\"",
                self.name
            )
        })
    }

    fn audience_of(&self, key: &CallerKey) -> anyhow::Result<String> {
        let audience = key.audience.clone().or_else(|| self.object.clone());
        audience.with_context(|| {
            format!(
                "the key that {} pins has no audience, so that each object takes only tokens for its own id: name \
                 the object, or give the key an `audience` in object.toml",
                self.name
            )
        })
    }
}

/// The definition in force of a class that a daemon of this host serves.
fn class(name: &str) -> anyhow::Result<Option<Manifest>> {
    let Some(server) = Server::running()? else {
        return Ok(None);
    };
    let Some(class) = server.class(name)? else {
        return Ok(None);
    };
    let dir = suijuris_supervisor::serve::catalog::Catalog::class_dir_in(&server.daemon()?.root, name);
    let bundle = BundleStore::of(&dir).bundle(&class.bundle.parse()?)?;
    Ok(Some(bundle.manifest.clone()))
}

fn signing_key(file: Option<&Path>) -> Result<SecretKey, key_file::Error> {
    let beside = owner::path().map(|path| path.with_file_name(NAME));
    let path = file.map(Path::to_owned).or(beside);
    let path = path.ok_or(key_file::Error::NoHome {
        what: WHAT,
        variable: PATH,
    })?;
    let file = KeyFile {
        what: WHAT,
        path: &path,
    };
    file.read_or_make("it is not an owner's key; its holder can be any caller of the objects that pin it")
}

/// The public key as PEM (RFC 7468, SPKI).
fn pem_of(key: PublicKey) -> String {
    let der = [SPKI_ED25519.as_slice(), &key.0].concat();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(der)
    )
}

/// A JWT in compact form (RFC 7515 section 3.1), issued at `now`, seconds.
fn sign(
    secret: &SecretKey,
    pinned: &CallerKey,
    args: &IssueArgs,
    audience: &str,
    claims: serde_json::Map<String, serde_json::Value>,
    now: i64,
) -> anyhow::Result<String> {
    let header = match &pinned.kid {
        Some(kid) => serde_json::json!({"alg": "EdDSA", "typ": "JWT", "kid": kid}),
        None => serde_json::json!({"alg": "EdDSA", "typ": "JWT"}),
    };
    let mut payload = claims;
    let expires = now.saturating_add(args.ttl.0.saturating_add(999) / 1_000);
    payload.insert("aud".to_owned(), audience.into());
    payload.insert("sub".to_owned(), args.sub.as_str().into());
    payload.insert("iat".to_owned(), now.into());
    payload.insert("exp".to_owned(), expires.into());
    if let Some(issuer) = &pinned.issuer {
        payload.insert("iss".to_owned(), issuer.as_str().into());
    }
    if !args.scope.is_empty() {
        payload.insert("scope".to_owned(), args.scope.join(" ").into());
    }
    let encode = |json: &[u8]| URL_SAFE_NO_PAD.encode(json);
    let signed = format!(
        "{}.{}",
        encode(&serde_json::to_vec(&header)?),
        encode(&serde_json::to_vec(&payload)?)
    );
    // The domain of plain JWS: nothing of ours stands before what is signed.
    let signature = secret.sign(Domain::IdentityToken, signed.as_bytes());
    Ok(format!("{signed}.{}", encode(&signature.0)))
}
