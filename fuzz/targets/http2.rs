//! Any bytes on a connection: nothing panics, and the connection ends after the
//! peer's last byte.
//! If the first byte is odd, HTTP/2's preface and empty SETTINGS go before the
//! others.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use mygrpcadapter_fuzz::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Less than any deadline of the adapter that would end it, too.
const PATIENCE: Duration = Duration::from_secs(9);

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(Server::start("http2"));
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [first, frames @ ..] = input else { return };
    let preface = if first & 1 == 1 { PREFACE } else { &[] };
    SERVER.with_borrow(|server| {
        server.runtime.block_on(async {
            let stream = TcpStream::connect(server.address).await.expect("a connection");
            let (mut from, mut to) = stream.into_split();
            let bytes = [preface, frames].concat();
            let writing = tokio::spawn(async move {
                // The adapter may close before it has read everything.
                let _ = to.write_all(&bytes).await;
                let _ = to.shutdown().await;
            });
            let mut answer = Vec::new();
            let reading = tokio::time::timeout(PATIENCE, from.read_to_end(&mut answer)).await;
            // A reset is an end, too.
            drop(reading.expect("a connection that ends"));
            writing.abort();
        });
    });
});
