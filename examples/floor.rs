//! The floor: what a request costs on this stack before anything is done with
//! it. Reads each body, drops it undecoded and answers an empty message, with
//! the adapter's own server, codec, allocator and runtime. What the adapter
//! costs beyond it is the adapter's own affair; `make bench` compares the two.
//!
//! `floor [PORT]`: 0, the default, takes any free one. Ends on SIGTERM.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{self, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use mygrpcadapter::admission::MAX_MESSAGE;
use mygrpcadapter::codec::Raw;
use mygrpcadapter::counters::Counters;
use mygrpcadapter::health::Health;
use mygrpcadapter::server::{self, Limits};
use mygrpcadapter::shutdown::{self, Signals};
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers every path alike.
#[derive(Clone)]
struct Floor;

impl Service<Request<Incoming>> for Floor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(Drop, request).await)
        })
    }
}

struct Drop;

impl UnaryService<Bytes> for Drop {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        drop(request);
        ready(Ok(tonic::Response::new(Bytes::new())))
    }
}

fn main() -> io::Result<ExitCode> {
    let port = std::env::args().nth(1).map_or(Ok(0), |word| word.parse()).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut signals = Signals::register()?;
        let listener = server::bind(port, false)?;
        writeln!(io::stderr(), "listening on \"{}\"", listener.local_addr()?)?;
        let health = Health::new([]);
        let limits =
            Limits { counters: Arc::new(Counters::default()), connections: 64, connection_age: None };
        tokio::select! {
            served = server::serve(listener, Floor, limits, health.states()) => {
                served.map(|()| ExitCode::SUCCESS)
            }
            code = shutdown::drain(&mut signals, &health, Duration::ZERO) => Ok(ExitCode::from(code)),
        }
    })
}
