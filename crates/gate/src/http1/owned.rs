//! A request that the object answers itself: its body is read whole, bounded, and nothing is forwarded.

use bytes::Bytes;

use super::{End, Next, Session};
use crate::Authorizer;
use crate::buffer::Inbound;
use crate::control::Phase;
use crate::head::{Framing, Reject, Version, Wire};
use crate::own::OwnAsk;
use crate::refusal::Refusal;
use crate::response::Body;

impl<A: Authorizer> Session<'_, A> {
    pub(super) async fn own(&mut self, buffers: &mut Inbound, ask: OwnAsk, wire: Wire) -> Next {
        let _busy = self.usage.begin();
        buffers.input.consume(wire.head_len);
        let body = match self.read_whole(buffers, ask.max_body, &wire).await {
            Ok(body) => body,
            Err(Some(refusal)) => return self.refuse(buffers, &refusal, None).await,
            Err(None) => return Next::End(End::Close),
        };
        let reply = match (ask.answer)(body).await {
            Ok(reply) => reply,
            // Its body is read, so the connection may go on like one that was answered.
            Err(refusal) => return self.refuse_read(&refusal, &wire).await,
        };
        let again = self.goes_on(&wire);
        let mut outbound = self.gate.outbound.loan();
        reply.render_into(again, &mut outbound.reply);
        let bytes = std::mem::take(&mut outbound.reply);
        drop(outbound);
        self.note(200, None, &bytes);
        self.send(&bytes, again).await
    }

    async fn refuse_read(&mut self, refusal: &Refusal, wire: &Wire) -> Next {
        self.gate.traffic.count_refused();
        let again = self.goes_on(wire);
        let bytes = crate::refusal::render_http1(refusal, again, None);
        self.note(refusal.problem.status, Some(&refusal.problem.code), &bytes);
        self.send(&bytes, again).await
    }

    fn goes_on(&self, wire: &Wire) -> bool {
        self.gate.control.phase() <= Phase::Open && wire.keep_alive && wire.version == Version::Http11
    }

    async fn send(&mut self, bytes: &[u8], again: bool) -> Next {
        let bound_ms = self.gate.limits.body_idle_ms;
        match self.write.write_all(bytes, &self.outward, bound_ms).await {
            Ok(()) if again => Next::Again,
            Ok(()) => Next::End(End::Linger),
            Err(_) => Next::End(End::Close),
        }
    }

    /// The body; or what to answer in place of it, nothing where the client left.
    async fn read_whole(
        &mut self,
        buffers: &mut Inbound,
        max: usize,
        wire: &Wire,
    ) -> Result<Bytes, Option<Box<Refusal>>> {
        let mut body = Body::new(wire.body);
        let mut whole = Vec::new();
        let mut expects = wire.expects;
        let bound_ms = self.gate.limits.body_idle_ms;
        loop {
            let fed = body
                .feed(buffers.input.filled())
                .map_err(|error| Some(Box::new(Refusal::from(Reject::from(error)))))?;
            let part = buffers.input.filled().get(..fed.forward).unwrap_or_default();
            if whole.len() + part.len() > max {
                return Err(Some(Box::new(Refusal::body_too_large())));
            }
            whole.extend_from_slice(part);
            buffers.input.consume(fed.used);
            if fed.done {
                return Ok(match wire.body {
                    Framing::Chunked => decoded(&whole).into(),
                    _ => whole.into(),
                });
            }
            if std::mem::take(&mut expects) {
                let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
                let sent = self.write.write_all(go_on, &self.outward, bound_ms).await;
                sent.map_err(|_| None)?;
            }
            let (read, input) = (&mut self.read, &mut buffers.input);
            match self.inward.within(bound_ms, |cx| input.poll_fill(read, cx)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(None),
                Err(_) => return Err(Some(Box::new(Refusal::body_timeout()))),
            }
        }
    }
}

/// The data of a chunked body that was validated: sizes, extensions and line ends fall away.
pub(super) fn decoded(mut chunks: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(chunks.len());
    while let Some(end) = chunks.windows(2).position(|two| two == b"\r\n") {
        let (line, rest) = chunks.split_at(end);
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = str::from_utf8(digits).unwrap_or_default();
        let size = usize::from_str_radix(digits, 16).unwrap_or_default();
        let Some(part) = rest
            .get(2..size.saturating_add(2))
            .filter(|part| !part.is_empty())
        else {
            break;
        };
        data.extend_from_slice(part);
        chunks = rest.get(size + 4..).unwrap_or_default();
    }
    data
}

#[cfg(test)]
mod tests {
    #[test]
    fn chunks_become_their_data() {
        let check = |chunks: &str, data: &str| {
            assert_eq!(super::decoded(chunks.as_bytes()), data.as_bytes(), "{chunks:?}");
        };
        check("0\r\n", "");
        check("3\r\nabc\r\n0\r\n", "abc");
        check("1;x=y\r\na\r\nA\r\n0123\r\n5678\r\n0\r\n", "a0123\r\n5678");
        check("", "");
        check("ffffffffffffffff\r\nabc", "");
    }
}
