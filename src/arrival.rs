//! A request's body to the one message in it, within its bounds and in time.
//!
//! gRPC puts five bytes before a message: a flag and its length. tonic would
//! keep a message in a buffer that grows by doubling; here it is as large as it
//! says, or no copy at all where it came in one frame.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Sleep;
use tonic::Status;

use crate::admission::Share;

/// The flag and the length.
const HEAD: usize = 5;
/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Reads the message of a request, of at most `most` bytes.
pub async fn receive(body: Incoming, most: usize, share: &mut Share) -> Result<Bytes, Status> {
    let mut body = Arriving { body, alarm: None };
    let mut start = Bytes::new();
    // A peer short of window may send a byte at a time.
    while start.len() < HEAD {
        match body.data().await? {
            Some(data) if start.is_empty() => start = data,
            Some(data) => start = [start, data].concat().into(),
            None => return Err(Status::internal("a request without a message")),
        }
    }
    let length = length(&start.split_to(HEAD), most)?;
    share.reserve(length).await?;
    let message = body.message(start, length).await?;
    body.end().await?;
    Ok(message)
}

/// What gRPC's head says of the message behind it.
fn length(head: &[u8], most: usize) -> Result<usize, Status> {
    let [flag, a, b, c, d] = *head else { return Err(Status::internal("half a head")) };
    if flag != 0 {
        return Err(Status::internal("a message is marked as compressed; none are taken"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > most {
        let text = format!("a message of {length} bytes; at most {most} are taken, send less at once");
        return Err(Status::resource_exhausted(text));
    }
    Ok(length)
}

/// A body that must be here in time.
struct Arriving {
    body: Incoming,
    /// Set only if the body isn't here at once.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// The message, of which `start` is here.
    async fn message(&mut self, start: Bytes, length: usize) -> Result<Bytes, Status> {
        if start.len() >= length {
            return if start.len() == length { Ok(start) } else { Err(too_long()) };
        }
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(&start);
        drop(start);
        while message.len() < length {
            match self.data().await? {
                Some(data) if data.len() > length - message.len() => return Err(too_long()),
                Some(data) => message.extend_from_slice(&data),
                None => return Err(Status::internal("the request ends inside its message")),
            }
        }
        Ok(message.into())
    }

    /// Nothing may follow.
    async fn end(&mut self) -> Result<(), Status> {
        while !self.body.is_end_stream() {
            match self.data().await? {
                Some(data) if data.is_empty() => {}
                Some(_) => return Err(too_long()),
                None => break,
            }
        }
        Ok(())
    }

    /// The next piece of the body.
    async fn data(&mut self) -> Result<Option<Bytes>, Status> {
        let frame = std::future::poll_fn(|context| {
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
                return Poll::Ready(Ok(frame));
            }
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL)));
            alarm.as_mut().poll(context).map(Err)
        });
        match frame.await {
            Ok(Some(Ok(frame))) => Ok(frame.into_data().ok()),
            Ok(Some(Err(error))) => Err(Status::from_error(error.into())),
            Ok(None) => Ok(None),
            Err(()) => Err(Status::deadline_exceeded("the request took too long to arrive")),
        }
    }
}

fn too_long() -> Status {
    Status::internal("a request with more than one message")
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
