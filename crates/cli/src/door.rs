//! `door`: the server that decides for sleeping objects of a depot.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use suijuris_core::inputs::Host;
use suijuris_custody::clock::Clock;
use suijuris_door::config::Location;
use suijuris_door::{Config, Listener, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::depots::DepotArg;
use crate::line_writer::{LineWriter, Place, lost_words};
use crate::{Answer, Usage, event_printer, here, refusals, terminal};

/// Size of a configuration file at most, bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Where it listens unless told otherwise: on loopback, any free port.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Decide for sleeping objects, in front of a proxy, and take messages for them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Answers `/ext_authz/…` for Envoy, nginx auth_request, Traefik and Caddy, takes CloudEvents at
`/objects/ID/messages`, and shows `/objects/ID`, `/metrics` and `/healthz`. It has no authority:
the object decides again. docs/door.md has configurations of proxies, and the keys of FILE.

Exit codes: 0 ended by Ctrl-C, 2 usage, 3 the address or the depot cannot be used.

Example:
  suijuris door --listen 127.0.0.1:9000")]
pub(crate) struct Args {
    /// Address to listen on; repeatable [default: any free port of 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    depot: DepotArg,
    /// Configuration in TOML: map, waker, trust, place, preload, limits
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON event a line on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio.block_on(door(args))
}

async fn door(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = config(args)?;
    let which = DepotArg {
        depot: args
            .depot
            .depot
            .clone()
            .or_else(|| Some(config.depot.clone()).filter(|url| !url.is_empty())),
    };
    let depot = which.open().await?;
    let wanted = match (args.listen.as_slice(), config.listen.as_slice()) {
        ([], []) => vec![LISTEN],
        ([], configured) => configured.to_vec(),
        (named, _) => named.to_vec(),
    };
    let mut listeners = Vec::new();
    for address in wanted {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}: choose another address with --listen"))?;
        listeners.push(listener);
    }
    // Whoever reads `listening` may rely on all of them.
    for listener in &listeners {
        say_listening(listener, &depot.describe(), args.json)?;
    }
    fill_in(&mut config.place, here::host());
    let clock = Clock::start(None).context("the clock thread cannot be started")?;
    let clock = Arc::new(move || clock.reading());
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let told = (teller(args.json), refusals::keeper());
    serve(listeners, depot, config, clock, told, shutdown).await;
    Ok(Answer::Yes.into())
}

/// Prints what happens, however slowly it is read.
fn teller(json: bool) -> Listener {
    let lines = match json {
        true => LineWriter::new(Place::Output, event_printer::lost_event),
        false => LineWriter::new(Place::Error, lost_words),
    };
    let lines = Mutex::new(lines);
    Arc::new(move |object, event| {
        let told = serde_json::json!({"object": object.to_string(), "what": event});
        let line = if json {
            told.to_string()
        } else {
            format!("suijuris: {told}")
        };
        lines.lock().unwrap_or_else(PoisonError::into_inner).line(line);
    })
}

/// What the configuration leaves open of where the machines are is where this door is.
fn fill_in(place: &mut Location, here: Host) {
    let missing = |told: &mut String, found: String| {
        if told.is_empty() {
            *told = found;
        }
    };
    missing(&mut place.region, here.region);
    missing(&mut place.provider, here.provider);
    missing(&mut place.class, here.class);
    missing(&mut place.id, here.id);
}

fn say_listening(listener: &TcpListener, depot: &str, json: bool) -> anyhow::Result<()> {
    let url = format!("http://{}/", listener.local_addr()?);
    if json {
        return terminal::print_json(&serde_json::json!({"event": "listening", "url": url, "depot": depot}));
    }
    Ok(terminal::print(&format!("listening  {url}  depot {depot}\n"))?)
}

fn config(args: &Args) -> anyhow::Result<Config> {
    use std::io::Read as _;
    let Some(path) = &args.config else {
        return Ok(Config::new(String::new()));
    };
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("`{shown}` cannot be read"))?;
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("`{shown}` cannot be read"))?;
    parse(&bytes).map_err(|error| Usage(format!("`{shown}`: {error}")).into())
}

/// The configuration in these bytes of a file, of which one more than [`MAX_CONFIG`] are read at most.
fn parse(bytes: &[u8]) -> Result<Config, String> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_CONFIG) {
        return Err(format!(
            "a configuration has {MAX_CONFIG} bytes at most, and this one has more"
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not text: {error}"))?;
    toml::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_whole_or_refused_with_what_is_wrong() {
        let depot = "depot = \"file:///d\"\n";
        let long = |bytes: usize| format!("{depot}#{}", "x".repeat(bytes - depot.len() - 1)).into_bytes();
        let limit = usize::try_from(MAX_CONFIG).unwrap();
        assert_eq!(parse(&long(limit)).unwrap().depot, "file:///d");
        for (bytes, says) in [
            (long(limit + 1), "1048576 bytes at most"),
            (b"depot = \"\xff\"".to_vec(), "not text"),
            (format!("{depot}colour = 1").into_bytes(), "colour"),
            (b"listen = []".to_vec(), "depot"),
        ] {
            let error = parse(&bytes).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
