//! The second port: `/metrics` for Prometheus, `/healthz` and `/readyz` for
//! probes that know only HTTP.

use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::health::Phase;
use crate::metrics::{Piece, Sources};
use crate::server::accept;

/// Prometheus, the kubelet, and someone looking: more than that is an attack.
const MAX_CONNECTIONS: usize = 16;
/// How long one may take to ask, and to be told.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Serves the port until the runtime ends.
pub async fn serve(listener: TcpListener, sources: Sources) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("cannot serve metrics error={error}"),
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = accept(&listener).await;
        let sources = sources.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(EXCHANGE, speak(stream, sources)).await;
            drop(place);
        });
    }
}

async fn speak(stream: TcpStream, sources: Sources) {
    let service = service_fn(move |request: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(answer(&request, &sources)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        log::debug!("a connection to the metrics port ended error={error}");
    }
}

fn answer(request: &Request<Incoming>, sources: &Sources) -> Response<Page> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return said(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    let state = sources.health.state();
    match request.uri().path() {
        "/metrics" => {
            let mut response = Response::new(Page::Pieces(sources.clone(), Some(Piece::First)));
            let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert("content-type", kind);
            response
        }
        // Alive as long as it can say so: a full disk is no reason to restart.
        "/healthz" => said(StatusCode::OK, "ok\n"),
        "/readyz" if state.phase != Phase::Serving => said(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" => said(StatusCode::OK, "ok\n"),
        _ => said(StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"),
    }
}

fn said(status: StatusCode, text: &'static str) -> Response<Page> {
    let mut response = Response::new(Page::Text(Some(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response
}

/// What is sent: a few words, or the metrics piece by piece, each made when the
/// last one is on its way.
#[derive(Debug)]
enum Page {
    Text(Option<Bytes>),
    Pieces(Sources, Option<Piece>),
}

impl Body for Page {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Text(text) => text.take(),
            Self::Pieces(sources, next) => next.take().map(|piece| {
                let mut out = Vec::new();
                *next = sources.piece(piece, &mut out);
                out.into()
            }),
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}
