//! Server-sent events of a daemon, as a command reads them.

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};

use super::MAX_ANSWER;

/// Reads events until they end: of each its number and its text. What breaks off has ended.
pub(super) async fn read<B>(
    mut body: B,
    mut hear: impl FnMut(u64, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut waiting = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(bytes) = frame.into_data() else { continue };
        waiting.extend_from_slice(&bytes);
        while let Some(end) = waiting.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = waiting.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            if let Some((number, data)) = event_of(&text) {
                hear(number, data)?;
            }
        }
        if waiting.len() > MAX_ANSWER {
            anyhow::bail!("the daemon sent an event without end");
        }
    }
    Ok(())
}

/// Number and text of an event; none of a comment.
fn event_of(text: &str) -> Option<(u64, &str)> {
    let (mut number, mut data) = (None, None);
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => number = id.parse().ok(),
            Some(("data", text)) => data = Some(text),
            _ => {}
        }
    }
    Some((number?, data?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Frame;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    struct Parts(VecDeque<Bytes>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
        }
    }

    #[tokio::test]
    async fn events_are_read_however_they_are_cut() {
        let text =
            b": alive\n\nid: 7\ndata: {\"a\":1}\n\nevent: missed\ndata: {}\n\nid: 8\ndata: x\n\nid: 9\nda";
        for size in [1, 3, 1_000] {
            let parts = text.chunks(size).map(Bytes::copy_from_slice).collect();
            let mut heard = Vec::new();
            let read = read(Parts(parts), |number, data| {
                heard.push((number, data.to_owned()));
                Ok(())
            });
            read.await.unwrap();
            assert_eq!(heard, [(7, "{\"a\":1}".to_owned()), (8, "x".to_owned())]);
        }
    }
}
