//! What the witness costs: reading and swapping a mark, as each wake does, on each backend; beside the bare operation
//! that the backend rests on, in the same run. The local directory is made where the program is started: on a real disk.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench stops where something fails"
)]

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use suijuris_core::ObjectId;
use suijuris_core::id::RecordId;
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::witness::{Holder, HolderId, Mark};
use suijuris_depot::local::Local;
use suijuris_depot::memory::Memory;
use suijuris_depot::relay::{self, Client};
use suijuris_depot::{Depot, Session, Swap, Version};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Settings, interleave};
use tokio::runtime::Runtime;

use suijuris_testkit::servers;

type Outcomes<T> = Result<T, Box<dyn Error>>;

/// A mark that is read and swapped again and again.
struct Claims {
    depot: Arc<dyn Depot>,
    object: ObjectId,
    count: u64,
}

impl Claims {
    fn new(depot: Arc<dyn Depot>) -> Self {
        let object = ObjectId::of(format!("bench {}", std::process::id()).as_bytes());
        Self {
            depot,
            object,
            count: 0,
        }
    }

    fn mark(&self) -> Mark {
        let holder = Holder {
            id: HolderId([7; 16]),
            who: "a bench".to_owned(),
            lease: Span(10_000),
            at: Timestamp(1_700_000_000_000),
            beat: self.count,
        };
        Mark {
            v: 1,
            object: self.object,
            epoch: self.count,
            seq: self.count,
            head: RecordId::of(&self.count.to_be_bytes()),
            holder: Some(holder),
        }
    }

    async fn claim(&mut self) -> Outcomes<()> {
        let present = self.depot.mark(self.object).await?;
        let version: Option<Version> = present.map(|(_, version)| version);
        self.count += 1;
        match self.depot.swap(&self.mark(), version.as_ref()).await? {
            Swap::Done(_) => Ok(()),
            Swap::Conflict(present) => Err(format!("a conflict with {present:?}").into()),
        }
    }
}

/// Microseconds each of `count`.
fn timed(count: usize, mut run: impl FnMut() -> Outcomes<()>) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        if let Err(error) = run() {
            panic!("{error}");
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// What a swap in a directory cannot do without: write, sync, rename, sync.
fn bare_rename(directory: &Path) -> Outcomes<()> {
    let (draft, place) = (directory.join("draft"), directory.join("bare"));
    let mut file = File::create(&draft)?;
    file.write_all(&[7; 200])?;
    file.sync_data()?;
    fs::rename(draft, place)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// One request over a connection of its own.
fn bare_http(address: SocketAddr, request: &str) -> Outcomes<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 1_024];
    let read = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..read]);
    if answer.contains(" 200 ") {
        Ok(())
    } else {
        Err(answer.into())
    }
}

/// One byte there and back between two threads.
fn bare_round_trip(stream: &mut UnixStream) -> Outcomes<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn echo() -> Outcomes<UnixStream> {
    let (here, mut there) = UnixStream::pair()?;
    std::thread::spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
    });
    Ok(here)
}

/// A relay whose serving end has a thread of its own, as `up` has a process.
fn relayed(scope: ObjectId) -> Outcomes<Client> {
    let (here, there) = UnixStream::pair()?;
    there.set_nonblocking(true)?;
    std::thread::spawn(move || {
        let tokio = tokio().expect("tokio starts");
        let served = tokio.block_on(async {
            let there = tokio::net::UnixStream::from_std(there).expect("a socket");
            relay::serve(there, Arc::new(Session::new(Arc::new(Memory::new()))), scope).await
        });
        served.expect("the relay ends in order");
    });
    Ok(Client::new(here)?)
}

fn tokio() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// What all comparisons share.
struct Bench {
    settings: Settings,
    report: Report,
    tokio: Runtime,
}

impl Bench {
    /// Measures one backend beside its bare operation, and adds the row.
    fn compare(
        &mut self,
        what: &str,
        mut claims: Claims,
        peer: &str,
        mut bare: impl FnMut() -> Outcomes<()>,
    ) {
        let (rounds, each) = (self.settings.scale(20), 20);
        let tokio = &self.tokio;
        let samples = interleave(
            rounds,
            &mut [
                Contender::new("depot", || timed(each, || tokio.block_on(claims.claim()))),
                Contender::new(peer, || timed(each, &mut bare)),
            ],
        );
        let (ours, theirs) = (&samples[0], &samples[1]);
        self.report.row(Row {
            what: format!("mark read and swapped, {what}"),
            unit: "µs",
            better: Better::Lower,
            ours: ours.median(),
            peer: peer.to_owned(),
            theirs: theirs.median(),
            budget: None,
        });
        self.report
            .note(format!("{what}: slowest round {:.0} µs", ours.at(100)));
    }

    fn local(&mut self) -> Outcomes<()> {
        let directory: PathBuf = tempfile::Builder::new().tempdir_in(".")?.keep();
        let depot = Arc::new(Local::open(&directory.join("depot"))?);
        let bare = || bare_rename(&directory);
        self.compare(
            "local directory",
            Claims::new(depot),
            "write, sync, rename, sync",
            bare,
        );
        Ok(fs::remove_dir_all(&directory)?)
    }

    fn relay(&mut self) -> Outcomes<()> {
        let mut socket = echo()?;
        let mut claims = Claims::new(Arc::new(Memory::new()));
        claims.depot = Arc::new(relayed(claims.object)?);
        self.compare("relay to memory", claims, "one byte there and back", || {
            bare_round_trip(&mut socket)
        });
        Ok(())
    }

    fn s3(&mut self) -> Outcomes<()> {
        let address = servers::s3();
        let url = format!("s3://depot/bench?endpoint=http://{address}&region=us-east-1");
        let keys = |name: &str| {
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
                .contains(&name)
                .then(|| "testing".to_owned())
        };
        let depot = self.tokio.block_on(suijuris_depot::open(&url, &keys))?;
        let request = format!(
            "GET /depot?list-type=2&prefix=none HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
            servers::SIGNED
        );
        let bare = || bare_http(address, &request);
        self.compare(
            "S3 (moto)",
            Claims::new(depot),
            "one LIST of nothing by hand",
            bare,
        );
        Ok(())
    }

    fn azure(&mut self) -> Outcomes<()> {
        let address = servers::azure();
        let (account, key) = servers::AZURE_ACCOUNT;
        let url = format!("az://depot/bench?endpoint=http://{address}/{account}&account={account}");
        let keys = |name: &str| (name == "AZURE_STORAGE_KEY").then(|| key.to_owned());
        let depot = self.tokio.block_on(suijuris_depot::open(&url, &keys))?;
        let bare = || {
            TcpStream::connect(address)?;
            Ok(())
        };
        self.compare("Azure (Azurite)", Claims::new(depot), "a connection alone", bare);
        Ok(())
    }

    fn etcd(&mut self) -> Outcomes<()> {
        let address = servers::etcd();
        let url = format!("etcd://{address}/bench");
        let depot = self.tokio.block_on(suijuris_depot::open(&url, &|_| None))?;
        let body = r#"{"key":"YmFyZQ==","value":"eA=="}"#;
        let length = body.len();
        let request =
            format!("POST /v3/kv/put HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
        let bare = || bare_http(address, &request);
        self.compare("etcd", Claims::new(depot), "one put by etcd's JSON gateway", bare);
        Ok(())
    }
}

fn main() -> Outcomes<()> {
    let settings = Settings::from_env();
    let mut bench = Bench {
        report: Report::new("depot", &settings),
        tokio: tokio()?,
        settings,
    };
    bench.local()?;
    bench.relay()?;
    bench.s3()?;
    bench.azure()?;
    bench.etcd()?;
    bench.report.note(
        "the servers run on this machine: their network costs nothing here, and moto and Azurite are no S3 and no Azure",
    );
    bench.report.publish(&bench.settings)?;
    Ok(())
}
