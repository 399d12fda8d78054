//! The proxy of `suijuris host`: its options, its sockets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use suijuris_edge::tls::Source;
use suijuris_edge::trust::{Trust, network};
use suijuris_host::{Acme, BadHook, Entry, Hook, Host, Proxy, proxy, relay};

use crate::systemd;

/// Where the proxy listens unless told otherwise.
const PORT: u16 = 8080;

#[derive(Debug, clap::Args)]
pub(super) struct ProxyArgs {
    /// Where apps are reached, as NAME.localhost; repeats. After the address may come `,port=N`, the port that it stands for (80,
    /// and 443 for TLS, unless said), `,region=CODE`, the region whose edge it is, and `,proxy`, where a PROXY header comes first.
    /// Port 8080 of both loopback addresses unless said
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    proxy: Vec<Listen>,
    /// Serve the API alone
    #[arg(long, conflicts_with = "proxy")]
    no_proxy: bool,
    /// How long a request waits for its machine, seconds
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    hold: u64,
    /// How often machines without traffic are looked for, seconds; 0: never
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    autostop_every: u64,
    /// Ask this address before a request of an app, or of one of its ports, passes or starts anything: APP=http://HOST:PORT/PATH, or APP:PORT=…;
    /// repeats
    #[arg(long, value_name = "APP=URL", value_parser = hook)]
    authz: Vec<(String, Hook)>,
    /// Certificate chain for TLS at the proxy, PEM; read again when it changes [default: made by `suijuris trust`'s authority]
    #[arg(long, value_name = "FILE", requires = "proxy_key")]
    proxy_certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "proxy_certificate")]
    proxy_key: Option<PathBuf>,
    /// Authorities whose certificates clients may show at the proxy, PEM; machines whose metadata has `client_tls` learn of them
    #[arg(long, value_name = "FILE")]
    proxy_client_ca: Option<PathBuf>,
    /// Directory of an ACME server, https://…: names of apps get certificates from it, proved over HTTP at port 80; naming it
    /// agrees to its terms
    #[arg(long, value_name = "URL", value_parser = acme)]
    acme: Option<String>,
    /// Root by which that server itself is known, PEM [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "acme")]
    acme_root: Option<PathBuf>,
    /// Network of proxies whose PROXY headers count; repeats
    #[arg(long, value_name = "CIDR", value_parser = network)]
    proxy_trust: Vec<ipnet::IpNet>,
    /// Collector that requests and calls are told to by OTLP over HTTP, http://HOST:4318
    #[cfg(feature = "traces")]
    #[arg(long, value_name = "URL")]
    traces: Option<suijuris_host::traces::Collector>,
    /// Threads of the proxy [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    proxy_threads: Option<u16>,
}

/// One `--proxy`.
#[derive(Debug, Clone)]
struct Listen {
    address: SocketAddr,
    port: Option<u16>,
    region: Option<String>,
    proxy_header: bool,
}

fn listen(text: &str) -> Result<Listen, String> {
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let mut listen = Listen {
        address: address
            .parse()
            .map_err(|_| format!("`{}` is no address: write 127.0.0.1:8080", address.escape_debug()))?,
        port: None,
        region: None,
        proxy_header: false,
    };
    for part in parts {
        match part.split_once('=') {
            None if part == "proxy" => listen.proxy_header = true,
            Some(("port", port)) => {
                let number = port.parse().ok().filter(|port| *port > 0);
                listen.port = Some(number.ok_or("port is 1 to 65535")?);
            }
            Some(("region", code)) => listen.region = Some(super::region(code)?),
            _ => return Err("after the address come port=N, region=CODE and proxy".to_owned()),
        }
    }
    Ok(listen)
}

fn hook(text: &str) -> Result<(String, Hook), String> {
    let (app, url) = text
        .split_once('=')
        .filter(|(app, _)| match app.split_once(':') {
            Some((app, port)) => !app.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
            None => !app.is_empty(),
        })
        .ok_or("write APP=http://HOST:PORT/PATH, or APP:PORT=… for one port")?;
    let hook = url.parse().map_err(|error: BadHook| error.to_string())?;
    Ok((app.to_owned(), hook))
}

/// The authority of this person, where there is one.
#[cfg(feature = "tls")]
fn development() -> anyhow::Result<Option<Source>> {
    let own = crate::trust::load()?;
    Ok(own.map(|own| Source::Development(own.authority)))
}

#[cfg(not(feature = "tls"))]
fn development() -> anyhow::Result<Option<Source>> {
    Ok(None)
}

fn acme(text: &str) -> Result<String, String> {
    let plain = text.starts_with("https://") && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain
        .then(|| text.to_owned())
        .ok_or_else(|| "an ACME directory is an address, https://…".to_owned())
}

/// Sockets of the proxy, and where they are reached.
pub(super) struct Sockets {
    entries: Vec<Entry>,
    pub(super) urls: Vec<String>,
}

impl ProxyArgs {
    /// Takes the sockets; `region` is the default.
    pub(super) fn bind(&self, region: &str, left: &mut super::Left) -> anyhow::Result<Sockets> {
        let mut sockets = Sockets {
            entries: Vec::new(),
            urls: Vec::new(),
        };
        let plain = |address: SocketAddr| Listen {
            address,
            port: None,
            region: None,
            proxy_header: false,
        };
        if self.proxy.is_empty() && !self.no_proxy {
            sockets.add(&plain((Ipv4Addr::LOCALHOST, PORT).into()), region, left)?;
            // Not every machine has it.
            let _without = sockets.add(&plain((Ipv6Addr::LOCALHOST, PORT).into()), region, left);
        }
        for listen in &self.proxy {
            if listen.proxy_header && self.proxy_trust.is_empty() {
                anyhow::bail!(
                    "nobody may come to {}: name the network of your proxies with --proxy-trust",
                    listen.address
                );
            }
            sockets.add(listen, region, left)?;
        }
        Ok(sockets)
    }

    fn tls(&self) -> anyhow::Result<Option<Source>> {
        if let (Some(certificate), Some(key)) = (&self.proxy_certificate, &self.proxy_key) {
            let (certificate, key) = (certificate.clone(), key.clone());
            return Ok(Some(Source::Files { certificate, key }));
        }
        development()
    }

    /// Serves; none without sockets.
    pub(super) fn serve(
        &self,
        host: &Host,
        sockets: &Sockets,
        data: &Path,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> anyhow::Result<Option<Proxy>> {
        #[cfg(feature = "traces")]
        let tracer = self.traces.clone().map(|collector| {
            let (tracer, sends) = suijuris_host::traces::Tracer::to(collector, "suijuris-host");
            host.trace(tracer.clone());
            tasks.spawn(sends);
            tracer
        });
        #[cfg(not(feature = "traces"))]
        let _nobody_is_told = tasks;
        if sockets.entries.is_empty() {
            return Ok(None);
        }
        let tls = self.tls()?;
        let threads = match self.proxy_threads {
            Some(threads) => threads.into(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let serving = proxy(host, &sockets.entries, |options| {
            options.threads = threads;
            options.connections = connections();
            options.hold = Duration::from_secs(self.hold);
            options.autostop = (self.autostop_every > 0).then(|| Duration::from_secs(self.autostop_every));
            options.hooks = self
                .authz
                .iter()
                .map(|(app, hook)| (Arc::from(app.as_str()), hook.clone()))
                .collect();
            #[cfg(feature = "traces")]
            {
                options.tracer = tracer;
            }
            options.relay = Some(relay::Setup {
                directory: data.to_owned(),
                program: PathBuf::from("/proc/self/exe"),
                arguments: vec!["__relay".to_owned()],
            });
            options.tls = tls;
            options.client_ca.clone_from(&self.proxy_client_ca);
            options.acme = self.acme.clone().map(|directory| Acme {
                directory,
                root: self.acme_root.clone(),
                keep: data.join("acme"),
                complain: crate::terminal::note,
            });
            options.trust = Trust::new(self.proxy_trust.clone());
        });
        Ok(Some(serving.context("the proxy cannot be started")?))
    }
}

impl Sockets {
    fn add(&mut self, listen: &Listen, region: &str, left: &mut super::Left) -> anyhow::Result<()> {
        let name = format!("proxy-{}", self.entries.len());
        let listener = left.listen(&name, listen.address).with_context(|| {
            format!(
                "the proxy cannot listen on {}: another program may have it; choose another address with --proxy, or --no-proxy",
                listen.address
            )
        })?;
        systemd::store(&name, listener.as_fd());
        self.urls.push(format!("http://{}", listener.local_addr()?));
        self.entries.push(Entry {
            listener,
            port: listen.port,
            region: listen.region.as_deref().unwrap_or(region).into(),
            proxy_header: listen.proxy_header,
        });
        Ok(())
    }
}

/// Descriptors that the daemon lets itself have at most: machines inherit the number, and some programs go through all of them.
const DESCRIPTORS: u64 = 65_536;

/// Has as many descriptors as it may from here on; how many connections of clients these are enough for, each of which may have
/// one to a machine.
fn connections() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1_024, 1_024));
    let more = hard.min(DESCRIPTORS).max(soft);
    let now = setrlimit(Resource::RLIMIT_NOFILE, more, hard).map_or(soft, |()| more);
    usize::try_from(now / 2).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_what_stands_behind_them() {
        let read = listen("127.0.0.1:0,port=5432,region=iad,proxy").unwrap();
        assert_eq!(
            (read.port, read.region.as_deref(), read.proxy_header),
            (Some(5432), Some("iad"), true)
        );
        assert!(listen("[::1]:80").is_ok());
        for bad in [
            "",
            "localhost:80",
            "127.0.0.1",
            "127.0.0.1:1,port=0",
            "127.0.0.1:1,x",
            "127.0.0.1:1,region=FRA!",
        ] {
            assert!(listen(bad).is_err(), "{bad}");
        }
        assert_eq!(hook("a=http://h:1/x").unwrap().0, "a");
        assert_eq!(hook("a:443=http://h:1/x").unwrap().0, "a:443");
        assert!(acme("https://ca/dir").is_ok() && acme("http://ca/dir").is_err());
        for bad in [
            "a",
            "a:0=http://h/",
            ":1=http://h/",
            "=http://h/",
            "a=https://h/",
            "a=h",
        ] {
            assert!(hook(bad).is_err(), "{bad}");
        }
    }
}
