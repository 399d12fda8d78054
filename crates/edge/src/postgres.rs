//! What clients of PostgreSQL say before TLS: they ask in their own protocol whether there is any, and begin it once told so.
//! The name that TLS asks for is then known before a byte of the session is, as with every other program.
//!
//! Only where a listener ends TLS for raw connections: there every client speaks first, TLS or this, and the first byte
//! tells them apart. Bounded: one question about TLS, one about GSSAPI before it.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// What a client asks: length and code, of eight bytes.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Questions at most.
const QUESTIONS: usize = 2;

/// To a client that begins its session without TLS, as PostgreSQL says it: `FATAL`, `28000`, words.
const NO_TLS: &[u8] =
    b"E\0\0\0\x4cSFATAL\0VFATAL\0C28000\0MTLS is needed here: connect with sslmode=require\0\0";

/// Answers until TLS begins.
///
/// # Errors
/// It does not.
pub async fn until_tls(stream: &mut TcpStream) -> io::Result<()> {
    for _ in 0..=QUESTIONS {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first == [TLS_HANDSHAKE] {
            return Ok(());
        }
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await?;
        match asked {
            SSL_REQUEST => {
                // From here on it is TLS or nothing: what came before the answer is read as TLS, too.
                return stream.write_all(b"S").await;
            }
            GSS_REQUEST => stream.write_all(b"N").await?,
            _ => {
                stream.write_all(NO_TLS).await?;
                let _ = stream.shutdown().await;
                break;
            }
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to these bytes, whether TLS begins, and what is left for it.
    fn said(bytes: &[u8]) -> (Vec<u8>, bool, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let tls = until_tls(&mut server).await.is_ok();
            let mut left = Vec::new();
            server.read_to_end(&mut left).await.unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            (answer, tls, left)
        })
    }

    #[test]
    fn tls_begins_at_once_or_after_a_question() {
        let hello = [TLS_HANDSHAKE, 3, 1, 0, 5];
        assert_eq!(said(&hello), (Vec::new(), true, hello.to_vec()));
        let asked = [&SSL_REQUEST[..], &hello].concat();
        assert_eq!(said(&asked), (b"S".to_vec(), true, hello.to_vec()));
        let both = [&GSS_REQUEST[..], &SSL_REQUEST, &hello].concat();
        assert_eq!(said(&both), (b"NS".to_vec(), true, hello.to_vec()));
    }

    #[test]
    fn what_is_neither_is_told_or_ended() {
        let startup = [&[0, 0, 0, 20, 0, 3, 0, 0][..], b"user\0me\0\0\0\0\0"].concat();
        let (answer, tls, _) = said(&startup);
        assert!(!tls && answer == NO_TLS);
        let length = NO_TLS
            .get(1..5)
            .map(|length| length.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte)));
        assert_eq!(length, Some(NO_TLS.len() - 1));
        let endless = [GSS_REQUEST; 9].concat();
        assert!(!said(&endless).1);
        assert!(!said(b"").1 && !said(&SSL_REQUEST[..3]).1);
    }
}
