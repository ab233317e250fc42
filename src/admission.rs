//! What a request may cost before it is understood: a bounded number of them,
//! bounded bytes in flight, a bounded time to arrive.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;

/// The largest message taken; Mixer's largest known is 1.1 MB.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Messages being received or not yet rendered, in bytes.
const MAX_BYTES: usize = 6 * 1024 * 1024;
/// Requests being received or waiting for the writer.
const MAX_REQUESTS: usize = 4096;
/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// The bounds, shared by all connections.
#[derive(Clone, Debug)]
pub struct Admission {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    patience: Duration,
}

/// A request's share of the bounds, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Admission {
    /// `patience` is how long a request waits for bytes to come free.
    pub fn new(patience: Duration) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { requests: semaphore(MAX_REQUESTS), bytes: semaphore(MAX_BYTES), patience }
    }

    /// How many requests are in flight.
    pub fn requests_in_flight(&self) -> usize {
        MAX_REQUESTS - self.requests.available_permits()
    }

    /// Admits a request once the length of its message is known.
    pub async fn admit(&self, body: Incoming) -> Result<(Arriving, Share), Status> {
        let request = Arc::clone(&self.requests).try_acquire_owned();
        let request = request.map_err(|_| {
            Status::resource_exhausted(format!("more than {MAX_REQUESTS} requests in flight"))
        })?;
        let mut body = Arriving { body, first: None, alarm: None };
        let length = body.read_length().await?;
        if length > MAX_MESSAGE {
            let text =
                format!("a message of {length} bytes; at most {MAX_MESSAGE} are taken, send fewer instances");
            return Err(Status::resource_exhausted(text));
        }
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(length as u32);
        let bytes = match tokio::time::timeout(self.patience, bytes).await {
            Ok(Ok(bytes)) => bytes,
            _ => {
                return Err(Status::resource_exhausted(
                    "the queue to the volume is full, and too many bytes wait for it; it is slow or stalled",
                ));
            }
        };
        Ok((body, Share { _request: request, _bytes: bytes }))
    }
}

/// A body that must be here in time.
#[derive(Debug)]
pub struct Arriving {
    body: Incoming,
    first: Option<Frame<Bytes>>,
    /// Set only if the body isn't here at once.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// Reads until the length of the message is known, behind gRPC's flag, and
    /// keeps what it read. A peer short of window may send a byte at a time.
    async fn read_length(&mut self) -> Result<usize, Status> {
        let mut start = Bytes::new();
        loop {
            if let [_, a, b, c, d, ..] = *start {
                self.first = Some(Frame::data(start));
                return Ok(u32::from_be_bytes([a, b, c, d]) as usize);
            }
            let next = std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await;
            match next.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) if start.is_empty() => start = data,
                Some(Ok(data)) => start = [start, data].concat().into(),
                // No message at all, or the start of one: tonic says what it lacks.
                Some(Err(trailers)) => {
                    self.first = Some(trailers);
                    return Ok(0);
                }
                None => {
                    self.first = (!start.is_empty()).then(|| Frame::data(start));
                    return Ok(0);
                }
            }
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))));
        }
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL)));
        ready!(alarm.as_mut().poll(context));
        Poll::Ready(Some(Err(Status::deadline_exceeded("the request took too long to arrive"))))
    }
}

/// When the caller stops waiting, by its `grpc-timeout`.
pub fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("9998717u", Some(10)),
            ("2S", Some(2)),
            ("3M", Some(180)),
            ("99999999H", Some(359_999_996_400)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1x", None),
            ("1é", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_bytes(text.as_bytes()).unwrap());
            let left = deadline(&headers).map(|deadline| deadline.saturating_duration_since(Instant::now()));
            assert_eq!(left.map(|left| left.as_secs_f64().ceil() as u64), expected, "{text}");
        }
    }
}
