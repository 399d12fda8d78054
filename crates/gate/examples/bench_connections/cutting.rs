//! From the order to cut until the clients of handed-over connections see the end. Gate and workload run in threads
//! of this process, so that one clock tells both moments.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use suijuris_gate::{
    Admission, Authorizer, Control, Forwarding, Gate, Limits, Peer, Phase, Protocol, RequestHead, Upstream,
};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Settings, interleave, server};
use tokio::sync::{mpsc, oneshot};

/// Connections open when they are cut.
const OPEN: [usize; 2] = [1, 256];
const ROUNDS: usize = 50;
/// What the design asks for, µs.
const BUDGET_US: f64 = 1_000.0;

struct Everyone;

impl Authorizer for Everyone {
    type Permit = ();

    fn admit(&self, _: &RequestHead<'_>, _: &mut Forwarding) -> Admission<()> {
        Admission::Forward(())
    }

    fn connect(&self, _: Peer<'_>) -> Admission<()> {
        Admission::Forward(())
    }
}

type Order = oneshot::Sender<Instant>;

/// A gate in connection mode that cuts everything when ordered, and says when it began to.
struct Cutter {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    _gate: JoinHandle<()>,
}

pub(crate) fn measure(report: &mut Report, settings: &Settings) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let cutter = start(&folder.path().join("take.sock"))?;
    for open in OPEN {
        let round = || cut(&cutter, open).unwrap_or(f64::NAN);
        let samples = interleave(settings.scale(ROUNDS), &mut [Contender::new("cut", round)]);
        for (what, percent) in [("median", 50), ("95th percentile", 95)] {
            report.row(Row {
                what: format!("cut of {open} handed over, until the last client sees it, {what}"),
                unit: "µs",
                better: Better::Lower,
                ours: samples.first().map_or(f64::NAN, |samples| samples.at(percent)),
                peer: "budget".to_owned(),
                theirs: BUDGET_US,
                budget: Some(1.0),
            });
        }
    }
    Ok(())
}

fn start(path: &Path) -> Result<Cutter, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let taking = path.to_owned();
    std::thread::spawn(move || server::serve_handed_over(&taking));
    let (orders, mut ordered) = mpsc::channel::<Order>(1);
    let path = path.to_owned();
    let gate = std::thread::spawn(move || {
        let control = Control::new(Phase::Open);
        let limits = Limits::default();
        let upstream = Upstream::Unix(path);
        let gate = Gate::new(Everyone, upstream, Protocol::FdPassing, limits, control.clone());
        let (_handing, handed_over) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let obey = async {
                while let Some(order) = ordered.recv().await {
                    let begun = Instant::now();
                    control.cut_all();
                    let _nobody_waits = order.send(begun);
                }
            };
            tokio::select! {
                _served = gate.serve(listener, handed_over) => {}
                () = obey => {}
            }
        });
    });
    Ok(Cutter {
        address,
        orders,
        _gate: gate,
    })
}

/// Opens connections that have served a request, has them cut, and waits until all ended: µs.
fn cut(cutter: &Cutter, open: usize) -> Result<f64, Box<dyn Error>> {
    let live = |_| -> std::io::Result<TcpStream> {
        let begin = Instant::now();
        // The workload's socket may not be there yet in the very first round.
        loop {
            let mut stream = TcpStream::connect(cutter.address)?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
            if matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                return Ok(stream);
            }
            if begin.elapsed().as_secs() > 5 {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
    };
    let mut clients = (0..open).map(live).collect::<std::io::Result<Vec<_>>>()?;
    let (tell, told) = oneshot::channel();
    cutter.orders.blocking_send(tell)?;
    for client in &mut clients {
        let _ended = client.read(&mut [0; 16])?;
    }
    let ended = Instant::now();
    Ok(ended.duration_since(told.blocking_recv()?).as_secs_f64() * 1e6)
}
