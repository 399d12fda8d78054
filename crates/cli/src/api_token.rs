//! `token api`: tokens for the control API of a daemon on an address. The daemon that runs makes and revokes them; where none
//! runs, this command does, in the daemon's directory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use suijuris_api::daemon::{ApiToken, ApiTokenList, MakeApiToken, NewApiToken, Scope};
use suijuris_supervisor::serve::api::tokens::Tokens;
use suijuris_supervisor::serve::catalog::Catalog;

use crate::server::{self, Server, encoded};
use crate::terminal::{self, Table};
use crate::{Answer, clock};

/// Make, list and revoke tokens of a daemon's control API on an address
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
A token lets its holder look (`read`), or also ask for what rules permit the host (`operate`). It makes nobody an owner:
what owners ask they sign, whatever the token. Requests carry it as `Authorization: Bearer TOKEN`.

Example:
  suijuris token api create ci --scope read -o ci.token
  SUIJURIS_API_TOKEN_FILE=ci.token suijuris --server http://127.0.0.1:9000 log hello
  suijuris token api revoke ci")]
pub(crate) enum Command {
    Create(CreateArgs),
    Ls(LsArgs),
    Revoke(RevokeArgs),
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Allows {
    Read,
    Operate,
}

/// Make a token, and print it; it is shown once
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  suijuris token api create ci --scope read -o ci.token")]
pub(crate) struct CreateArgs {
    /// Its name, to revoke it by
    name: String,
    /// What it allows
    #[arg(long, value_enum, default_value = "read")]
    scope: Allows,
    /// File to write it to, for this user alone; standard output where absent
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// List tokens; their texts are kept nowhere
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  suijuris token api ls --json")]
pub(crate) struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Revoke a token; what its holder has open ends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 revoked, 1 there is no such token.\n\nExample:\n  suijuris token api revoke ci"
)]
pub(crate) struct RevokeArgs {
    /// Its name
    name: String,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<Answer> {
    match command {
        Command::Create(args) => create(args),
        Command::Ls(args) => list(args),
        Command::Revoke(args) => revoke(args),
    }
}

/// Whoever keeps the tokens.
enum Keeper {
    Daemon(Server),
    /// Nobody else opens them while the catalog is locked.
    Here(Tokens, #[expect(dead_code, reason = "held for its lock")] Catalog),
}

impl Keeper {
    fn of() -> anyhow::Result<Self> {
        if let Some(server) = Server::running()? {
            return Ok(Self::Daemon(server));
        }
        let root = server::named_root()?;
        let catalog = Catalog::open(&root)?;
        Ok(Self::Here(Tokens::open(&root)?, catalog))
    }
}

fn create(args: &CreateArgs) -> anyhow::Result<Answer> {
    let scope = match args.scope {
        Allows::Read => Scope::Read,
        Allows::Operate => Scope::Operate,
    };
    // Before it is made: a token that cannot be written down is good for nobody.
    let output = args.output.as_deref().map(make_file).transpose()?;
    let made: NewApiToken = match Keeper::of()? {
        Keeper::Daemon(server) => {
            let name = args.name.clone();
            server.post("/v1/tokens", &MakeApiToken { name, scope })?
        }
        Keeper::Here(tokens, _) => tokens.create(&args.name, scope, clock::reading()?.wall)?,
    };
    let line = format!("{}\n", made.token);
    match output {
        Some(mut file) => {
            file.write_all(line.as_bytes())
                .context("the token cannot be written: revoke it, and make another one")?;
            terminal::note(&format!("made the token `{}`", args.name));
        }
        None => terminal::print(&line)?,
    }
    Ok(Answer::Yes)
}

fn make_file(path: &Path) -> anyhow::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| {
            format!(
                "cannot make `{}`: name a file that is not there yet",
                path.display()
            )
        })
}

fn list(args: &LsArgs) -> anyhow::Result<Answer> {
    let list = match Keeper::of()? {
        Keeper::Daemon(server) => server.get("/v1/tokens")?,
        Keeper::Here(tokens, _) => ApiTokenList {
            tokens: tokens.list(),
        },
    };
    if args.json {
        terminal::print_json(&list.tokens)?;
        return Ok(Answer::Yes);
    }
    let mut table = Table::default();
    for token in &list.tokens {
        table.row([&token.name, word(token.scope), &token.created]);
    }
    terminal::print(&table.text(0))?;
    Ok(Answer::Yes)
}

const fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Operate => "operate",
    }
}

fn revoke(args: &RevokeArgs) -> anyhow::Result<Answer> {
    let revoked: Option<ApiToken> = match Keeper::of()? {
        Keeper::Daemon(server) => match server.delete(&format!("/v1/tokens/{}", encoded(&args.name))) {
            Err(server::ServerError::Refused(problem)) if problem.status == 404 => None,
            answer => Some(answer?),
        },
        Keeper::Here(tokens, _) => tokens.revoke(&args.name)?,
    };
    if revoked.is_none() {
        terminal::note(&format!(
            "there is no token `{}`: see `suijuris token api ls`",
            terminal::clean(&args.name)
        ));
        return Ok(Answer::No);
    }
    terminal::note(&format!("revoked the token `{}`", args.name));
    Ok(Answer::Yes)
}
