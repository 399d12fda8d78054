//! Does the jobs of its object one by one, and shows its state over HTTP.
//!
//! It never decides whether to stay awake: it does its work, and the object's rules see that there is none left. All
//! it knows of Suijuris is the agent socket, HTTP and JSON (`docs/agent-socket.md`), which any language can speak.
#![expect(clippy::print_stdout, reason = "what a program prints, `up` shows")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// How long a job takes.
const JOB: Duration = Duration::from_millis(500);

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| io::Error::other("usage: agent PORT"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    std::thread::spawn(move || listener.incoming().flatten().map(show).for_each(drop));
    ask("POST", "/v1/ready", &Value::Null)?;
    // Awake without a job: the timer or a person woke it, and wants the housekeeping done.
    change(&json!({"jobs": ["housekeeping"]}), &json!({"jobs": []}))?;
    // The first event is memory as it is, the others follow its changes.
    for line in BufReader::new(request("GET", "/v1/memory/watch", "")?).lines() {
        if line?.starts_with("data: ") {
            while do_one()? {}
        }
    }
    Ok(())
}

/// What the worker reads of its object's memory.
struct Memory {
    jobs: Vec<String>,
    done: i64,
}

fn memory() -> io::Result<Memory> {
    let (_, answer) = ask("GET", "/v1/memory", &Value::Null)?;
    let value = |path| answer.pointer(path).cloned().unwrap_or_default();
    Ok(Memory {
        jobs: serde_json::from_value(value("/fields/jobs/value"))?,
        done: serde_json::from_value(value("/fields/done/value"))?,
    })
}

/// Does one job under a hold, so that it is not cut in the middle; whether there was one.
fn do_one() -> io::Result<bool> {
    let Some(job) = memory()?.jobs.into_iter().next() else {
        return Ok(false);
    };
    ask("PUT", "/v1/holds/job", &json!({"for": "1m"}))?;
    println!("working on {job}");
    std::thread::sleep(JOB);
    while !finish(&job)? {}
    ask("DELETE", "/v1/holds/job", &Value::Null)?;
    Ok(true)
}

/// Takes the job off the list and counts it, together or not at all; false where somebody wrote meanwhile.
fn finish(job: &str) -> io::Result<bool> {
    let Memory { jobs, done } = memory()?;
    let left: Vec<_> = jobs.iter().filter(|other| *other != job).collect();
    change(
        &json!({"jobs": left, "done": done + 1}),
        &json!({"jobs": jobs, "done": done}),
    )
}

/// Writes `fields` if memory is as `expected`; whether it was. Durable when this returns.
fn change(fields: &Value, expected: &Value) -> io::Result<bool> {
    match ask("PATCH", "/v1/memory", &json!({"set": fields, "expect": expected}))? {
        (200, _) => Ok(true),
        (409, _) => Ok(false),
        (_, problem) => Err(io::Error::other(format!("memory cannot be written: {problem}"))),
    }
}

/// One question to the object; the answer's status and JSON.
fn ask(method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut answer = String::new();
    request(method, path, &body)?.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// HTTP/1.0 suffices: no chunks, and the answer ends with the connection.
fn request(method: &str, path: &str, body: &str) -> io::Result<UnixStream> {
    let socket = std::env::var_os("SUIJURIS_AGENT_SOCKET").unwrap_or_default();
    let mut socket = UnixStream::connect(socket)?;
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    Ok(socket)
}

/// Answers a caller whom the gate let through with what there is to do and what is done.
fn show(mut socket: TcpStream) -> io::Result<()> {
    for line in BufReader::new(&socket).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let Memory { jobs, done } = memory()?;
    let body = json!({"jobs": jobs, "done": done}).to_string();
    let length = body.len();
    write!(
        socket,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}
