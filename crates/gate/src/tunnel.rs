//! Bytes copied both ways: raw TCP connections and what an HTTP connection becomes after `101 Switching Protocols`.
//!
//! Decided at connect or by the upgrade request; what was decided at connect is decided again when the control says so.
//! Half-closes travel; an error on one side ends both.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Poll;

use crate::buffer::Buffer;
use crate::connection_status::{ConnectionStatus, Reviewed, StatusSource};
use crate::control::Timer;
use crate::forward::Origin;
use crate::gate::Shared;
use crate::stream::{ReadHalf, Stream, WriteHalf};
use crate::{Admission, Authorizer};

/// Both ends of a tunnel.
pub(crate) struct Ends<'x, 's, 'u> {
    pub(crate) client: (&'x mut ReadHalf<'s>, &'x mut WriteHalf<'s>),
    pub(crate) workload: (ReadHalf<'u>, WriteHalf<'u>),
}

/// Copies until both directions ended, for as long as `source` lets it. What the buffers hold already goes first.
/// False: cut short.
pub(crate) async fn run<A>(
    gate: &Shared<A>,
    source: &dyn StatusSource,
    ends: Ends<'_, '_, '_>,
    (input, answer): (&mut Buffer, &mut Buffer),
    (inward, outward): (&Timer, &Timer),
) -> bool {
    let moved_ms = Cell::new(gate.control.now_ms());
    let Ends { client, mut workload } = ends;
    let idle_ms = gate.limits.tunnel_idle_ms;
    let direction = |timer| Direction {
        timer,
        source,
        idle_ms,
        moved_ms: &moved_ms,
    };
    let (inward, outward) = (direction(inward), direction(outward));
    let touch = |count: usize| {
        moved_ms.set(gate.control.now_ms());
        gate.traffic.touch();
        count
    };
    let to_workload = inward.copy(client.0, &mut workload.1, input, |bytes| {
        gate.traffic.count_in(touch(bytes));
    });
    let to_client = outward.copy(&mut workload.0, client.1, answer, |bytes| {
        gate.traffic.count_out(touch(bytes));
    });
    tokio::try_join!(to_workload, to_client).is_ok()
}

/// The tunnel broke or passed nothing for too long.
struct Cut;

struct Direction<'x> {
    timer: &'x Timer,
    source: &'x dyn StatusSource,
    idle_ms: u64,
    /// When either direction last moved: one may be silent while the other streams.
    moved_ms: &'x Cell<u64>,
}

impl Direction<'_> {
    async fn copy(
        &self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        buffer: &mut Buffer,
        count: impl Fn(usize),
    ) -> Result<(), Cut> {
        loop {
            if !buffer.is_empty() {
                to.write_all(buffer.filled(), self.timer, self.idle_ms)
                    .await
                    .map_err(|_| Cut)?;
                count(buffer.filled().len());
                buffer.clear();
            }
            match self
                .timer
                .within(self.idle_ms, |cx| match self.source.status() {
                    ConnectionStatus::Good => buffer.poll_fill(from, cx),
                    // The timer wakes us when the control has news.
                    ConnectionStatus::Held => Poll::Pending,
                    ConnectionStatus::Revoked => Poll::Ready(Err(ErrorKind::PermissionDenied.into())),
                })
                .await
            {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => break,
                Ok(Err(_)) => return Err(Cut),
                Err(_) if self.moved_ms.get() + self.idle_ms > self.timer.control().now_ms() => {}
                Err(_) => return Err(Cut),
            }
        }
        to.shutdown().await;
        Ok(())
    }
}

/// Serves one raw connection: decided before the workload sees anything. False: refused or cut short.
pub(crate) async fn serve<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    stream: &mut Stream,
    origin: &Origin,
    prefix: &[u8],
) -> bool {
    let (inward, outward) = (gate.control.timer(), gate.control.timer());
    let Some(permit) = admit(gate, origin, &inward).await else {
        return false;
    };
    let _admitted = gate.traffic.admitted();
    let Ok(mut lease) = gate.lease(&permit, true).await else {
        return false;
    };
    let reviewed = Reviewed::new(gate, origin, permit);
    let (mut read, mut write) = stream.split();
    let (mut inbound, mut outbound) = (gate.inbound(), gate.outbound.loan());
    let ends = Ends {
        client: (&mut read, &mut write),
        workload: lease.stream.split(),
    };
    inbound.input.append(prefix) == prefix.len()
        && run(
            gate,
            &reviewed,
            ends,
            (&mut inbound.input, &mut outbound.answer),
            (&inward, &outward),
        )
        .await
}

/// The verdict on a raw connection, waiting while it is held. The connection is not read meanwhile.
pub(crate) async fn admit<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    origin: &Origin,
    timer: &Timer,
) -> Option<A::Permit> {
    let mut held = None;
    loop {
        match gate.connect(origin.peer()) {
            Admission::Forward(permit) => return Some(permit),
            Admission::Hold if gate.hold(&mut held, timer).await.is_ok() => {}
            Admission::Hold | Admission::Refuse(_) | Admission::Later(_) | Admission::Answer(_) => break,
        }
    }
    gate.traffic.count_refused();
    None
}

/// Reads and drops what a refused client still sends, bounded, so that it sees the answer and not a reset.
pub(crate) async fn linger(stream: &mut Stream, timer: &Timer, linger_ms: u64, mut bytes: usize) {
    let (mut read, mut write) = stream.split();
    write.shutdown().await;
    let mut sink = Buffer::new(4 * 1024);
    timer.arm(linger_ms);
    while bytes > 0 {
        sink.clear();
        match timer.until(|cx| sink.poll_fill(&mut read, cx)).await {
            Ok(Ok(read @ 1..)) => bytes = bytes.saturating_sub(read),
            _ => return,
        }
    }
}
