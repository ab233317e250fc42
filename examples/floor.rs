//! The floor: the cost of a request on this stack without any work. Reads each body
//! through tonic, drops it undecoded and answers with an empty message, on the
//! adapter's own server, allocator and runtime. `make bench` compares the two.
//!
//! `floor [PORT]`: 0, the default, takes any free port. Ends on SIGTERM.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{self, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use mygrpcadapter::grpc::budget::{Budget, MAX_MESSAGE};
use mygrpcadapter::grpc::connection::Connection;
use mygrpcadapter::grpc::health::Health;
use mygrpcadapter::server::{self, Limits};
use mygrpcadapter::shutdown::{self, Signals};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, UnaryService};

/// tonic's default of 8 KiB at each end exceeds most reports.
fn buffers() -> BufferSettings {
    BufferSettings::new(512, 4096)
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A codec that does not decode messages.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Answers every path the same way.
#[derive(Clone)]
struct Floor(Arc<Connection>);

impl Service<Request<Incoming>> for Floor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let drop = Drop(Arc::clone(&self.0));
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(drop, request).await)
        })
    }
}

/// More than the headers of a call.
const HEADERS: usize = 1024;

/// Drops a message, and accounts for it on its connection: bytes that belong to no
/// message count as a flood.
struct Drop(Arc<Connection>);

impl UnaryService<Bytes> for Drop {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        self.0.useful(HEADERS + request.get_ref().len());
        drop(request);
        ready(Ok(tonic::Response::new(Bytes::new())))
    }
}

fn main() -> io::Result<ExitCode> {
    let port = std::env::args().nth(1).map_or(Ok(0), |word| word.parse()).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut signals = Signals::register()?;
        let listener = server::bind(None, port, false)?;
        writeln!(io::stderr(), "listening on \"{}\"", listener.local_addr()?)?;
        let health = Health::new(&[]);
        let limits = Limits {
            open: Arc::default(),
            budget: Arc::new(Budget::new(Duration::ZERO, 64)),
            connections: 64,
            told: Arc::default(),
            connection_age: None,
            tls: None,
        };
        tokio::select! {
            served = server::serve(listener, Floor, limits, health.states()) => {
                served.map(|()| ExitCode::SUCCESS)
            }
            code = shutdown::drain(&mut signals, &health, Duration::ZERO) => Ok(ExitCode::from(code)),
        }
    })
}
