//! The one gRPC service table: which front end answers which path.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Status};

use crate::codec::Raw;
use crate::health::{self, Health, Statuses};
use crate::mixer::{Method, Mixer};

/// The largest message taken; Mixer's largest known is 1.1 MB.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Answers every request of every connection.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Mixer's front end.
    pub mixer: Arc<Mixer>,
    /// The health service.
    pub health: Health,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;

impl Service<Request<Incoming>> for Adapter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let adapter = self.clone();
        Box::pin(async move { Ok(adapter.answer(request).await) })
    }
}

impl Adapter {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut grpc = Grpc::new(Raw).max_decoding_message_size(MAX_MESSAGE);
        match request.uri().path() {
            health::CHECK => grpc.unary(Check(self.health.clone()), request).await,
            health::WATCH => grpc.server_streaming(Watch(self.health.clone()), request).await,
            path => match Method::at(path) {
                Some(method) => grpc.unary(Call { mixer: Arc::clone(&self.mixer), method }, request).await,
                None => Status::new(Code::Unimplemented, "no such method here").into_http(),
            },
        }
    }
}

struct Check(Health);

impl UnaryService<Bytes> for Check {
    type Response = Bytes;
    type Future = std::future::Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        std::future::ready(self.0.check(request.get_ref()).map(tonic::Response::new))
    }
}

struct Watch(Health);

impl ServerStreamingService<Bytes> for Watch {
    type Response = Bytes;
    type ResponseStream = Statuses;
    type Future = std::future::Ready<Result<tonic::Response<Statuses>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        std::future::ready(self.0.watch(request.get_ref()).map(tonic::Response::new))
    }
}

struct Call {
    mixer: Arc<Mixer>,
    method: Method,
}

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (mixer, method) = (Arc::clone(&self.mixer), self.method);
        Box::pin(async move { mixer.call(method, request.into_inner()).await.map(tonic::Response::new) })
    }
}
