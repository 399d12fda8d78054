//! rustls with ring beside rustls with aws-lc-rs, in memory: what a server's part of a handshake costs, and what it writes. Both
//! have the same certificate (P-256) and the same key exchange (X25519), and no session is resumed.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Handshakes of a round, MiB of a round, rounds of each.
const HANDSHAKES: u32 = 500;
const MIB: usize = 64;
const ROUNDS: usize = 9;

struct Pair {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Only X25519: aws-lc-rs would do a key exchange against quantum computers besides, which ring has not.
fn provider(mut provider: CryptoProvider) -> Arc<CryptoProvider> {
    provider
        .kx_groups
        .retain(|group| group.name() == rustls::NamedGroup::X25519);
    Arc::new(provider)
}

fn pair(
    provider: &Arc<CryptoProvider>,
    version: &'static rustls::SupportedProtocolVersion,
    (chain, key): (&str, &str),
) -> Result<Pair> {
    let chain = CertificateDer::from_pem_slice(chain.as_bytes())?;
    let mut roots = RootCertStore::empty();
    roots.add(chain.clone())?;
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[version])?
        .with_no_client_auth()
        .with_single_cert(vec![chain], PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Pair {
        client: Arc::new(client),
        server: Arc::new(server),
    })
}

/// A whole handshake: what the server took of the CPU, and the server.
fn handshake(pair: &Pair) -> Result<(Duration, ServerConnection)> {
    let name = ServerName::try_from("localhost")?;
    let mut client = ClientConnection::new(Arc::clone(&pair.client), name)?;
    let begin = cpu()?;
    let mut server = ServerConnection::new(Arc::clone(&pair.server))?;
    let mut took = cpu()? - begin;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes)?;
        }
        let begin = cpu()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes)?;
        }
        took += cpu()? - begin;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    Ok((took, server))
}

/// CPU of a server's handshake, µs.
fn handshakes(pair: &Pair) -> Result<f64> {
    let mut took = Duration::ZERO;
    for _ in 0..HANDSHAKES {
        took += handshake(pair)?.0;
    }
    Ok(took.as_secs_f64() * 1e6 / f64::from(HANDSHAKES))
}

/// What a server writes in records of 16 KiB, MB a second of CPU.
fn written(pair: &Pair) -> Result<f64> {
    let (_, mut server) = handshake(pair)?;
    let (piece, mut out) = (vec![7; 16 << 10], Vec::with_capacity(20 << 10));
    let begin = cpu()?;
    for _ in 0..MIB << 6 {
        std::io::Write::write_all(&mut server.writer(), &piece)?;
        out.clear();
        while server.wants_write() {
            server.write_tls(&mut out)?;
        }
    }
    Ok((MIB << 20) as f64 / 1e6 / (cpu()? - begin).as_secs_f64())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let chain = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let (chain, key) = (chain.pem(), key.serialize_pem());
    let providers = [
        provider(rustls::crypto::ring::default_provider()),
        provider(rustls::crypto::aws_lc_rs::default_provider()),
    ];
    println!("{:<40} {:>10} {:>12} {:>8}", "of the server", "ring", "aws-lc-rs", "ratio");
    for (name, version) in [("TLS 1.3", &TLS13), ("TLS 1.2", &TLS12)] {
        let pairs = [
            pair(&providers[0], version, (&chain, &key))?,
            pair(&providers[1], version, (&chain, &key))?,
        ];
        for (what, measure) in [
            ("handshake, CPU µs", handshakes as fn(&Pair) -> Result<f64>),
            ("written, MB per CPU second", written),
        ] {
            let mut figures = [Vec::new(), Vec::new()];
            for round in 0..ROUNDS {
                for at in [round % 2, 1 - round % 2] {
                    figures[at].push(measure(&pairs[at])?);
                }
            }
            let [ring, aws] = figures.map(median);
            println!("{:<40} {ring:>10.1} {aws:>12.1} {:>8.2}", format!("{name}, {what}"), ring / aws);
        }
    }
    Ok(())
}
