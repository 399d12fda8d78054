//! The floor of a start: a tokio runtime on one thread that listens and says so. The peer of `suijuris-init` in
//! `bench_runtime`, linked as that is; no part of the product.
//!
//! `bare-listener PORT` listens on loopback, writes one line to standard error, and accepts for ever.

use std::io::Write as _;

use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args()
        .nth(1)
        .ok_or("usage: bare-listener PORT")?
        .parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        std::io::stderr().write_all(b"{\"listening\":true}\n")?;
        loop {
            drop(listener.accept().await?);
        }
    })
}
