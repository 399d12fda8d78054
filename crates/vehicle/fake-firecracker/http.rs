//! Its API's connections.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::vmm::{Answer, Vmm};

/// Bytes of a request's content at most (`HTTP_MAX_PAYLOAD_SIZE`).
const MAX_CONTENT: usize = 51_200;

/// Serves one connection; notes each call in the file `calls` of `dir`, with the number of its connection, and how many bytes it
/// had in `bytes`.
pub(crate) async fn serve(stream: UnixStream, vmm: Rc<Mutex<Vmm>>, dir: PathBuf, number: u32) {
    let mut stream = BufReader::new(stream);
    let note = |name: &str, line: String| {
        let file = File::options().create(true).append(true).open(dir.join(name));
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{line}");
        }
    };
    while let Ok(Some((method, path, content, bytes))) = request(&mut stream).await {
        note("calls", format!("{number} {method} {path}"));
        note("bytes", bytes.to_string());
        let answer = vmm.lock().await.call(&method, &path, &content);
        let exit = match answer {
            Answer::FatalFault(_) => Some(1),
            _ => None,
        };
        if respond(&mut stream, answer).await.is_err() {
            return;
        }
        if let Some(code) = exit {
            std::process::exit(code);
        }
    }
}

/// Method, path and content of the next request, and how many bytes it has in all.
async fn request(stream: &mut BufReader<UnixStream>) -> io::Result<Option<(String, String, Vec<u8>, usize)>> {
    let mut line = String::new();
    let mut bytes = stream.read_line(&mut line).await?;
    if bytes == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        bytes += stream.read_line(&mut line).await?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    if length > MAX_CONTENT {
        return Ok(None);
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    Ok(Some((method, path, content, bytes + length)))
}

async fn respond(stream: &mut BufReader<UnixStream>, answer: Answer) -> io::Result<()> {
    let (status, content): (&str, Option<Value>) = match answer {
        Answer::Done => ("204 ", None),
        Answer::Content(content) => ("200 ", Some(content)),
        Answer::Fault(why) | Answer::FatalFault(why) => ("400 ", Some(json!({ "fault_message": why }))),
    };
    let content = content.map_or_else(String::new, |content| content.to_string());
    let mut head = format!("HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n");
    if !content.is_empty() {
        head.push_str("Content-Type: application/json\r\n");
        head.push_str(&format!("Content-Length: {}\r\n", content.len()));
    }
    stream.write_all(format!("{head}\r\n{content}").as_bytes()).await
}
