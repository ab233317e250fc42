//! The one gRPC service table: which front end answers which path.

pub mod calls;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::{Code, Status};

use self::calls::Calls;
use crate::admission::{Admission, MAX_MESSAGE};
use crate::arrival::{deadline, receive};
use crate::frontends::mixer::{Message, Method, Mixer};
use crate::health::{self, Health};
use crate::reply::Reply;
use crate::server::backlog::Backlog;

/// More than any question after health needs.
const MAX_QUESTION: usize = 4 * 1024;

/// What is served, on every connection.
#[derive(Debug)]
pub struct Services {
    /// Mixer's front end.
    pub mixer: Arc<Mixer>,
    /// The number of calls.
    pub calls: Arc<Calls>,
    /// The health service.
    pub health: Health,
    /// What requests may cost.
    pub admission: Arc<Admission>,
}

/// Answers every request of one connection.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What is served.
    pub services: Arc<Services>,
    /// What waits on this connection.
    pub backlog: Arc<Backlog>,
}

/// A method that is served.
#[derive(Clone, Copy, Debug)]
enum Call {
    Check,
    Watch,
    Mixer(Method, usize),
}

impl Call {
    fn at(path: &str) -> Option<Self> {
        match path {
            health::CHECK => Some(Self::Check),
            health::WATCH => Some(Self::Watch),
            _ => Method::at(path).map(|(method, service)| Self::Mixer(method, service)),
        }
    }
}

impl Service<Request<Incoming>> for Adapter {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        if let Some(refusal) = refusal(&head.headers) {
            return Box::pin(std::future::ready(Ok(refusal)));
        }
        let Some(call) = Call::at(head.uri.path()) else {
            let answer = Status::unimplemented("no such method here").into_http();
            return Box::pin(std::future::ready(Ok(answer)));
        };
        // A list of headers may be large; nothing more is needed of it.
        let deadline = deadline(&head.headers);
        let adapter = self.clone();
        Box::pin(async move {
            let outcome = adapter.answer(call, body, deadline).await;
            if let Call::Mixer(_, service) = call {
                let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
                adapter.services.calls.answered(service, code);
            }
            Ok(outcome.map_or_else(Status::into_http, Reply::into_response))
        })
    }
}

impl Adapter {
    async fn answer(&self, call: Call, body: Incoming, deadline: Option<Instant>) -> Result<Reply, Status> {
        let Services { mixer, health, admission, .. } = &*self.services;
        let mut share = admission.admit()?;
        let most = if let Call::Mixer(..) = call { MAX_MESSAGE } else { MAX_QUESTION };
        let bytes = receive(body, most, &mut share).await?;
        let method = match call {
            Call::Check => return health.check(&bytes).map(Reply::Message),
            Call::Watch => return health.watch(&bytes).map(Reply::Statuses),
            Call::Mixer(method, _) => method,
        };
        share.hold(self.backlog.hold(bytes.len()));
        mixer.call(method, Message { bytes, share, deadline }).await.map(Reply::Message)
    }
}

/// Refuses what isn't gRPC, and messages that are compressed: Mixer never
/// compresses, and a bomb is a few bytes until it is unpacked.
fn refusal(headers: &HeaderMap) -> Option<Response<Reply>> {
    let is_grpc =
        headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        let mut refusal = Response::new(Reply::Nothing);
        *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(refusal);
    }
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => None,
        Some(_) => Some(Status::unimplemented("compressed messages are not taken").into_http()),
    }
}
