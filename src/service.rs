//! The one gRPC service table: which front end answers which path.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};

use crate::admission::{Admission, MAX_MESSAGE, Share, deadline};
use crate::codec::Raw;
use crate::health::{self, Health, Statuses};
use crate::mixer::{Message, Method, Mixer};

/// More than any question after health needs.
const MAX_QUESTION: usize = 4 * 1024;

/// Answers every request of every connection.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Mixer's front end.
    pub mixer: Arc<Mixer>,
    /// The health service.
    pub health: Health,
    /// What a request may cost.
    pub admission: Admission,
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
        let (head, body) = request.into_parts();
        if let Some(refusal) = refusal(&head.headers) {
            return refusal;
        }
        let deadline = deadline(&head.headers);
        let path = head.uri.path();
        let mut grpc = Grpc::new(Raw);
        match path {
            health::CHECK | health::WATCH => {
                grpc = grpc.max_decoding_message_size(MAX_QUESTION);
                let request = Request::new(body);
                let health = self.health.clone();
                return match path {
                    health::CHECK => grpc.unary(Check(health), request).await,
                    _ => grpc.server_streaming(Watch(health), request).await,
                };
            }
            _ => {}
        }
        let Some((method, service)) = Method::at(path) else {
            return Status::unimplemented("no such method here").into_http();
        };
        // A list of headers may be large; nothing more is needed of it.
        drop(head);
        match self.admission.admit(body).await {
            Ok((body, share)) => {
                let call =
                    Call { mixer: Arc::clone(&self.mixer), method, service, share: Some(share), deadline };
                grpc.max_decoding_message_size(MAX_MESSAGE).unary(call, Request::new(body)).await
            }
            Err(status) => {
                self.mixer.counters.answered(service, status.code());
                status.into_http()
            }
        }
    }
}

/// Refuses what isn't gRPC, and messages that are compressed: Mixer never
/// compresses, and a bomb is a few bytes until it is unpacked.
fn refusal(headers: &HeaderMap) -> Option<Response<Body>> {
    let is_grpc =
        headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(refusal);
    }
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => None,
        Some(_) => Some(Status::unimplemented("compressed messages are not taken").into_http()),
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
    service: usize,
    share: Option<Share>,
    deadline: Option<Instant>,
}

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (mixer, method, service) = (Arc::clone(&self.mixer), self.method, self.service);
        let Some(share) = self.share.take() else {
            return Box::pin(std::future::ready(Err(Status::internal("a call is made once"))));
        };
        let message = Message { bytes: request.into_inner(), share, deadline: self.deadline };
        Box::pin(async move {
            let outcome = mixer.call(method, message).await;
            mixer.counters.answered(service, outcome.as_ref().err().map_or(tonic::Code::Ok, Status::code));
            outcome.map(tonic::Response::new)
        })
    }
}
