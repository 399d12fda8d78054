//! `suijuris host`: a Fly-compatible vehicle on this machine. Here its sockets are made and its first lines printed; all else is
//! `suijuris_host`'s.

mod admin;
mod backup;
mod console;
mod proxying;

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use suijuris_host::{Host, Options, serve, serve_control};
use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::{Driver as _, Isolation};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::{server, systemd, terminal};

/// Run a host of machines with Fly's Machines API
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Existing clients of the Machines API work with the base URL and the token that are printed. Machines outlive the daemon: the next
one on the same data directory takes them over, and finishes what the last had begun. Exit codes: 0 ended, 2 usage, 3 broken input
or environment.

Example:
  suijuris host &
  suijuris host token create --app shop --expiry 1h"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<admin::Command>,
    /// Directory of everything the host keeps [default: suijuris/host under your data folder]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// Address of the Machines API (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4280")]
    api: SocketAddr,
    /// Region that this host plays, as fra; may be given several times, the first is the default
    #[arg(long, value_name = "CODE", default_value = "local", value_parser = region)]
    region: Vec<String>,
    #[command(flatten)]
    proxying: proxying::ProxyArgs,
    /// Memory for machines, MB [default: all of this machine's]
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// Answer every call, however many there are
    #[arg(long)]
    no_rate_limit: bool,
    /// One JSON line on standard output once it listens
    #[arg(long)]
    json: bool,
    /// Run machines as plain processes, without namespaces
    #[arg(long)]
    plain: bool,
    /// Directory of this machine below which machines may name OCI layouts, as oci:DIR/app; may be given several times
    #[arg(long, value_name = "DIR")]
    oci_root: Vec<PathBuf>,
    /// Registry that images may be pulled from though it is this machine itself; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    allow_registry: Vec<String>,
    /// Let machines share this machine's network: they reach its loopback, too; by default each has its own, in the private network of its org
    #[arg(long)]
    share_network: bool,
    /// Let machines reach each other and nothing beyond
    #[arg(long, conflicts_with = "share_network")]
    no_egress: bool,
    /// URL under which others reach the API to check the tokens of machines [default: its address]
    #[arg(long, value_name = "URL")]
    oidc_issuer: Option<String>,
    /// Back snapshots of volumes up to s3://bucket/prefix, az://container/prefix or file:///directory
    #[arg(long, value_name = "URL")]
    backup: Option<String>,
    /// File with an age identity, to which backups are sealed [default: they are not sealed]
    #[arg(long, value_name = "FILE", requires = "backup")]
    backup_key: Option<PathBuf>,
    /// File with the key that volumes are encrypted with, 32 random bytes at least: as root, with the kernel's dm-crypt [default: they are not
    /// encrypted]
    #[arg(long, value_name = "FILE")]
    volume_key: Option<PathBuf>,
    /// Let `host:NAME` images run programs of this machine, for tests
    #[arg(long, hide = true)]
    host_programs: bool,
    /// Die at the point of this number, for tests
    #[arg(long, hide = true, value_name = "N")]
    fault: Option<u32>,
}

/// A region's code.
fn region(text: &str) -> Result<String, String> {
    let plain = !text.is_empty()
        && text.len() <= 16
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    plain
        .then(|| text.to_owned())
        .ok_or_else(|| "a region is 1 to 16 of a-z and 0-9, as fra".to_owned())
}

/// The data directory that is meant.
fn data(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    Ok(match given {
        Some(path) => std::path::absolute(path)?,
        None => server::data_folder()?.join("host"),
    })
}

/// Runs the daemon to its end, or asks the one that runs.
///
/// # Errors
/// Whatever keeps it from starting.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let data = data(args.data.as_ref())?;
    if let Some(admin::Command::Console(console)) = &args.command {
        return console::run(console, &data);
    }
    if let Some(command) = &args.command {
        return admin::run(command, &data).map(ExitCode::from);
    }
    // It has the key of its apps' secrets, and machines may run as the same user.
    suijuris_sys::confine::hide_memory();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.block_on(daemon(args, data))
}

async fn daemon(args: &Args, data: PathBuf) -> anyhow::Result<ExitCode> {
    // Sockets that the daemon before left with systemd.
    let mut left = Left(systemd::sockets()?);
    let listener = left.listen("api", args.api);
    let listener = listener.with_context(|| {
        format!(
            "cannot listen on {}: another program may have it; choose another one with --api",
            args.api
        )
    })?;
    systemd::store("api", listener.as_fd());
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let first = args.region.first().map_or("", String::as_str);
    let sockets = args.proxying.bind(first, &mut left)?;
    drop(left);
    let urls = sockets.urls.clone();
    let want = Want {
        isolation: args.plain.then_some(Isolation::Plain),
        ..Want::default()
    };
    let driver = Process::detect(Shim::itself("__shim"), want)
        .await
        .context("machines cannot be started on this host")?;
    if let Some(warning) = driver.describe().warning() {
        terminal::note(&warning);
    }
    let options = Options {
        data: data.clone(),
        regions: args.region.clone(),
        memory_mb: args.memory,
        rate_limit: !args.no_rate_limit,
        host_programs: args.host_programs,
        share_network: args.share_network,
        egress: !args.no_egress,
        oci_roots: args.oci_root.clone(),
        registries: args.allow_registry.clone(),
        issuer: match &args.oidc_issuer {
            Some(url) => url.clone(),
            None => format!("http://{}", listener.local_addr()?),
        },
        own_registries: own_registries(listener.local_addr()?),
        backups: args
            .backup
            .as_ref()
            .map(|url| backup::open(url, args.backup_key.as_deref()))
            .transpose()?,
        volume_key: args.volume_key.clone(),
        fault: args.fault,
    };
    let (host, token) = Host::open(options, driver).await?;
    for shortfall in host.shortfalls() {
        terminal::note(&shortfall);
    }
    let control = serve_control(&host).context("the control socket cannot be made in the data directory")?;
    // Whoever reads `listening` may end this program.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tasks = JoinSet::new();
    let proxy = args.proxying.serve(&host, &sockets, &data, &mut tasks)?;
    announce(
        args.json,
        &format!("http://{}", listener.local_addr()?),
        &urls,
        token.as_deref(),
        &first_image(&args.oci_root),
    )?;
    // Its threads have them now.
    drop(sockets);
    tasks.spawn(control);
    tasks.spawn(serve(host.clone(), listener));
    systemd::notify("READY=1");
    tasks.spawn(systemd::beat());
    tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
    }
    systemd::notify("STOPPING=1");
    tasks.shutdown().await;
    if let Some(proxy) = proxy {
        proxy.close().await;
    }
    host.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Sockets that systemd has for this service.
struct Left(Vec<(String, std::net::TcpListener)>);

impl Left {
    /// The socket of this name, where it listens where it shall; else a new one.
    fn listen(&mut self, name: &str, address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
        let fits = |(named, socket): &(String, std::net::TcpListener)| {
            let at = socket.local_addr();
            let same = |at: SocketAddr| at == address || (address.port() == 0 && at.ip() == address.ip());
            named == name && at.is_ok_and(same)
        };
        match self.0.iter().position(fits) {
            Some(index) => Ok(self.0.swap_remove(index).1),
            None => std::net::TcpListener::bind(address),
        }
    }
}

/// Names of the host's own registry: what clients push to, and what they would push to at Fly.
fn own_registries(api: SocketAddr) -> Vec<String> {
    let port = api.port();
    let local = ["localhost", "127.0.0.1", "[::1]", "_api.internal"].map(|name| format!("{name}:{port}"));
    [api.to_string(), "registry.fly.io".to_owned()]
        .into_iter()
        .chain(local)
        .collect()
}

/// An image that a first machine can be made from: a layout that this host opens to machines, else one of Docker Hub.
fn first_image(roots: &[PathBuf]) -> String {
    const ELSEWHERE: &str = "nginx:alpine";
    let is_layout = |path: &PathBuf| path.join("oci-layout").is_file();
    // What an error message, a log or another terminal line shows of it must be one that can be pasted.
    let plain = |path: &PathBuf| {
        path.to_str()
            .is_some_and(|path| !path.contains(['\'', '\n', '"', '\\']))
    };
    let below = |root: &PathBuf| {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut inner: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        inner.sort();
        std::iter::once(root.clone()).chain(inner)
    };
    let absolute = roots.iter().filter_map(|root| root.canonicalize().ok());
    let mut layouts = absolute
        .flat_map(|root| below(&root))
        .filter(is_layout)
        .filter(plain);
    layouts.next().map_or_else(
        || ELSEWHERE.to_owned(),
        |layout| format!("oci:{}", layout.display()),
    )
}

/// Says where it listens, the first token, which is shown this once, and how a first machine is made.
fn announce(
    is_json: bool,
    api: &str,
    proxy: &[String],
    token: Option<&str>,
    image: &str,
) -> anyhow::Result<()> {
    if is_json {
        return terminal::print_json(
            &json!({ "event": "listening", "api": api, "proxy": proxy, "token": token }),
        );
    }
    let apps: String = proxy
        .iter()
        .map(|url| format!("proxy      {url}   (apps as NAME.localhost)\n"))
        .collect();
    let mut text = match token {
        Some(token) => format!(
            "listening  {api}\n{apps}token      {token}   (org personal; shown this once)\ntry        TOKEN={token}\n"
        ),
        None => format!(
            "listening  {api}\n{apps}token      the one you have; `suijuris host token create` makes another\ntry        TOKEN=…\n"
        ),
    };
    let call = |path: &str, body: &serde_json::Value| {
        format!("           curl -H \"Authorization: Bearer $TOKEN\" {api}/v1/{path} -d '{body}'\n")
    };
    text.push_str(&call("apps", &json!({ "app_name": "hello" })));
    text.push_str(&call(
        "apps/hello/machines",
        &json!({ "config": {"image": image} }),
    ));
    Ok(terminal::print(&text)?)
}
