//! gRPC: from an HTTP/2 request to the handler of its method, and the answer
//! back.
//!
//! | module | what flows there |
//! |---|---|
//! | [`routes`] | a path to the handler of its method |
//! | [`messages`] | a body to its messages, each with its permit |
//! | `streams` | the messages of a stream, one at a time, to its handler |
//! | [`budget`] | limits on requests and bytes in memory |
//! | [`connection`] | state shared by a connection's calls and its socket |
//! | [`reply`] | answers to messages and trailers |
//! | `status` | refusals to statuses |
//! | [`callers`] | the tokens of callers |
//! | [`calls`] | answers, counted |
//! | [`checks`] | Envoy's checks, of which the larger part is dropped as it arrives |
//! | [`health`] | `grpc.health.v1`, and the phases of the server |

pub mod budget;
pub mod callers;
pub mod calls;
pub mod checks;
pub mod connection;
mod gzip;
pub mod health;
pub mod messages;
pub mod reply;
pub mod routes;
mod status;
mod streams;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tonic::{Code, Status};

use self::budget::{Budget, timeout};
use self::callers::Callers;
use self::calls::{Calls, Pending};
use self::connection::Connection;
use self::health::Health;
use self::messages::{Message, Messages};
use self::reply::Reply;
use self::routes::{Handler, route};
pub use self::routes::{SERVICES, Service};
use self::status::{exporter_status, not_grpc, refused, status};
use crate::frontends::counters::Counters;
use crate::frontends::envoy::access_log::Stream;
use crate::frontends::envoy::ext_authz;
use crate::frontends::envoy::log::Log;
use crate::frontends::mixer::Mixer;
use crate::journal::PROMPT;
use crate::message::Patience;
use crate::once::Once;
use crate::quoted::quoted;
use crate::refusal::Refusal;

/// The services of every connection.
#[derive(Debug)]
pub struct Services {
    /// Mixer's front end.
    pub mixer: Mixer,
    /// The log services of Envoy's front end.
    pub log: Arc<Log>,
    /// Envoy's external authorization.
    pub ext_authz: ext_authz::Service,
    /// Counters of the front ends.
    pub counters: Arc<Counters>,
    /// The health service.
    pub health: Health,
    /// The tokens of callers, if they need one.
    pub callers: Option<Callers>,
    /// Counters of calls.
    pub calls: Arc<Calls>,
    /// The memory budget of requests.
    pub budget: Arc<Budget>,
    /// Unknown services that were called, logged once each.
    pub unknown: Once,
}

/// Serves the calls of one connection.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    /// The services.
    pub services: Arc<Services>,
    /// The connection of the calls.
    pub connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for Dispatcher {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let patience = Patience::new(self.services.budget.queue_timeout, timeout(&head.headers));
        let mut messages =
            Messages::new(body, Arc::clone(&self.services.budget), Arc::clone(&self.connection), patience);
        messages.headers = size(&head);
        let routed = self.route(&head);
        // Header lists may be large; release them early.
        drop(head);
        let (service, handler, is_packed) = match routed {
            Ok(routed) => routed,
            Err(refusal) => {
                messages.discard();
                return Box::pin(ready(Ok(*refusal)));
            }
        };
        if is_packed {
            messages.unpack();
        }
        messages.terms = handler.terms(SERVICES[service].needs_volume);
        let name = SERVICES[service].name;
        let answered = self.services.calls.begin(service);
        let dispatcher = self.clone();
        match handler {
            Handler::AccessLog => {
                let (stream, counters) = (Stream::new(Arc::clone(&self.services.log)), dispatcher.clone());
                // The stream logs what it refuses, with the name of its node.
                let outcome = streams::take(messages, stream, move |refusal| {
                    counters.services.counters.count(refusal.reason);
                    status(refusal)
                });
                Box::pin(async move {
                    let outcome = outcome.await.map_err(|status| dispatcher.unread(name, status));
                    Ok(response(answered, outcome, handler.unpacks()))
                })
            }
            _ => Box::pin(async move {
                let outcome = dispatcher.answer(name, handler, &mut messages).await;
                messages.discard();
                Ok(response(answered, outcome, handler.unpacks()))
            }),
        }
    }
}

impl Dispatcher {
    /// The service and the handler of a request, and whether its messages may be
    /// compressed; or the error response.
    fn route(&self, head: &Parts) -> Result<(usize, Handler, bool), Box<Response<Reply>>> {
        if let Some(refusal) = not_grpc(&head.method, &head.headers) {
            self.log_foreign(refusal.status());
            return Err(Box::new(refusal));
        }
        let path = head.uri.path();
        let routed = route(path);
        self.admit(head, routed)?;
        let routed = routed.ok_or_else(|| {
            self.log_unknown(path);
            Box::new(Status::unimplemented("no such method here").into_http())
        });
        let (service, handler) = routed?;
        match head.headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok((service, handler, false)),
            Some(b"gzip") if handler.unpacks() => Ok((service, handler, true)),
            Some(_) => {
                let status = Status::unimplemented("messages compressed like this are not taken");
                let status = self.unread(SERVICES[service].name, status);
                Err(Box::new(refused(status, handler.unpacks())))
            }
        }
    }

    /// Refuses a caller without a valid token, except for health checks: the kubelet
    /// cannot send one.
    fn admit(&self, head: &Parts, routed: Option<(usize, Handler)>) -> Result<(), Box<Response<Reply>>> {
        let Some(callers) = &self.services.callers else { return Ok(()) };
        if routed.is_some_and(|(_, handler)| handler.is_open()) {
            return Ok(());
        }
        callers.admit(&head.headers, self.connection.peer).map_err(|refusal| {
            if let Some((service, _)) = routed {
                self.services.calls.begin(service).with(Code::Unauthenticated);
            }
            self.services.counters.count(refusal.reason);
            Box::new(refused(status(&refusal), false))
        })
    }

    /// Logs a peer that speaks HTTP/2, but not gRPC.
    fn log_foreign(&self, status: StatusCode) {
        let peer = self.connection.peer;
        if self.services.unknown.is_due(format!("HTTP {peer}").as_bytes()) {
            log::warn!(
                "a request on the gRPC port is not gRPC; probes and metrics are on the metrics port \
                 status={} peer={peer}",
                status.as_u16()
            );
        }
    }

    /// Logs an unknown service, such as one for traces or metrics, or an unknown method
    /// of a known one.
    fn log_unknown(&self, path: &str) {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let is_known = SERVICES.iter().any(|known| known.name == service);
        let (key, what) = if is_known { (path, "method") } else { (service, "service") };
        if self.services.unknown.is_due(key.as_bytes()) {
            log::warn!(
                "a {what} was called that is not served here {what}={} peer={}; point its caller elsewhere",
                quoted(key.as_bytes()),
                self.connection.peer,
            );
        }
    }

    async fn answer(
        &self,
        service: &str,
        handler: Handler,
        messages: &mut Messages<Incoming>,
    ) -> Result<Reply, Status> {
        let Services { mixer, log, health, .. } = &*self.services;
        let most = handler.max_message();
        let unread = |status| self.unread(service, status);
        // Boxed where Mixer's calls would pay for the size of the others.
        match handler {
            Handler::Check => {
                let message = messages.only(most).await.map_err(unread)?;
                health.check(&message.bytes).map(Reply::Message)
            }
            Handler::Watch => {
                let message = messages.only(most).await.map_err(unread)?;
                health.watch(&message.bytes, self.connection.closing()).map(Reply::Messages)
            }
            Handler::Mixer(method) => {
                let message = messages.only(most).await.map_err(unread)?;
                let answer = mixer.call(method, message).await;
                answer.map(Reply::Message).map_err(|refusal| self.refused(service, &refusal, status))
            }
            Handler::LogRecords => {
                let message = messages.only(most).await.map_err(unread)?;
                let answer = Box::pin(export(log, message)).await;
                answer.map(Reply::Message).map_err(|refusal| self.refused(service, &refusal, exporter_status))
            }
            Handler::ExtAuthz => Box::pin(self.check(service, messages, most)).await.map(Reply::Message),
            // A stream, with any number of messages.
            Handler::AccessLog => Err(Status::internal("not a unary call")),
        }
    }

    /// Answers a check. Without a verdict, the operator's setting selects a denial or
    /// UNAVAILABLE.
    async fn check(
        &self,
        service: &str,
        messages: &mut Messages<Incoming>,
        most: usize,
    ) -> Result<Bytes, Status> {
        let ext_authz = &self.services.ext_authz;
        let judged = checks::judge(ext_authz, messages, most).await;
        let judged = judged.map_err(|status| self.unread(service, status));
        let judged =
            judged.and_then(|answer| answer.map_err(|refusal| self.refused(service, &refusal, status)));
        judged.or_else(|status| ext_authz.failed().ok_or_else(|| Status::unavailable(status.message())))
    }

    fn refused(&self, service: &str, refusal: &Refusal, status: fn(&Refusal) -> Status) -> Status {
        self.services.counters.refused(service, Some(self.connection.peer), refusal);
        status(refusal)
    }

    /// Logs why a message was not received. Callers cancel at will; a stream logs what
    /// it finds invalid.
    fn unread(&self, service: &str, status: Status) -> Status {
        if !matches!(status.code(), Code::Cancelled | Code::InvalidArgument) {
            let reason = format!("code={:?}", status.code());
            self.services.counters.log(service, Some(self.connection.peer), &reason, "", status.message());
        }
        status
    }
}

/// Answers an export. It causes back-pressure on its connection only while the volume
/// is prompt: Envoy sends its checks on the same connection.
async fn export(log: &Log, mut message: Message) -> Result<Bytes, Refusal> {
    let held = message.held.take_connection().filter(|_| log.is_prompt());
    let mut answer = std::pin::pin!(log.export(message));
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        () = tokio::time::sleep(PROMPT) => drop(held),
    }
    answer.await
}

/// The size of a request's headers as HTTP/2 defines it, with 32 bytes for each: no
/// less than what they take on the wire.
fn size(head: &Parts) -> usize {
    const EACH: usize = 32;
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let listed: usize =
        head.headers.iter().map(|(name, value)| EACH + name.as_str().len() + value.len()).sum();
    4 * EACH + authority + path + listed
}

/// The response to a call, which is counted.
fn response(answered: Pending, outcome: Result<Reply, Status>, unpacks: bool) -> Response<Reply> {
    answered.with(outcome.as_ref().err().map_or(Code::Ok, Status::code));
    outcome.map_or_else(|status| refused(status, unpacks), Reply::into_response)
}
