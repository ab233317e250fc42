//! Any bytes to the services of logs of a whole adapter: as the messages of a
//! stream, as the raw body of one, and as exports, packed or not. Every call is
//! answered, and what is written is lines.
//!
//! The first byte chooses, and the second is the length of a piece.
#![no_main]

#[allow(dead_code, reason = "the tests, who share it, use more of it")]
#[path = "../../tests/adapter/support/client.rs"]
mod client;

use std::cell::RefCell;

use bytes::Bytes;
use mygrpcadapter_fuzz::assert_is_line;
use mygrpcadapter_fuzz::server::Server;

use crate::client::{Client, Reply, framed};

const STREAM: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// gRPC's codes for what a caller may get wrong, and INTERNAL for what is no message.
const EXPECTED: [u32; 4] = [0, 3, 8, 13];
struct Stand {
    server: Server,
    client: Client,
}

thread_local! {
    static STAND: RefCell<Stand> = RefCell::new({
        let server = Server::start("logs");
        let client = server.runtime.block_on(Client::connect(server.address)).expect("a connection");
        Stand { server, client }
    });
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, step, rest @ ..] = input else { return };
    STAND.with_borrow_mut(|stand| {
        stand.server.before_call();
        let reply = stand.server.runtime.block_on(call(&stand.client, *choice, usize::from(*step) + 1, rest));
        assert_is_line(&reply.message);
        assert!(EXPECTED.contains(&reply.status), "{reply:?}");
    });
});

async fn call(client: &Client, choice: u8, step: usize, bytes: &[u8]) -> Reply {
    let (path, headers): (_, &[_]) = match choice % 4 {
        0 | 1 => (STREAM, &[]),
        2 => (EXPORT, &[]),
        _ => (EXPORT, &[("grpc-encoding", "gzip")]),
    };
    let mut call = client.open_with(path, headers).await.expect("a call");
    match choice % 4 {
        0 => bytes.chunks(step * 8).for_each(|message| call.send(framed(message), false).expect("a stream")),
        1 => bytes.chunks(step).for_each(|piece| {
            call.send(Bytes::copy_from_slice(piece), false).expect("a stream");
        }),
        2 => call.send(framed(bytes), false).expect("a call"),
        _ => {
            let mut body = framed(bytes).to_vec();
            body[0] = 1;
            call.send(body.into(), false).expect("a call");
        }
    }
    // The answer may have come before the end.
    let _ = call.send(Bytes::new(), true);
    call.reply().await.expect("an answer")
}
