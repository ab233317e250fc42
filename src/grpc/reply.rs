//! The body of an answer: gRPC messages, and an OK status after the last.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use tokio_stream::Stream;

/// The messages of a server stream.
pub type Replies = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The rest of the answer.
#[derive(Default)]
pub enum Reply {
    /// Nothing: the head or the trailers were the end.
    #[default]
    Nothing,
    /// One message.
    Message(Bytes),
    /// A stream of messages.
    Messages(Replies),
    /// The OK status.
    Trailers,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

impl Reply {
    /// A successful answer.
    pub fn into_response(self) -> Response<Self> {
        let mut response = Response::new(self);
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut *self {
            Self::Nothing => None,
            Self::Message(message) => {
                let frame = Frame::data(framed(message));
                *self = Self::Trailers;
                Some(frame)
            }
            Self::Messages(messages) => match std::task::ready!(messages.as_mut().poll_next(context)) {
                Some(message) => Some(Frame::data(framed(&message))),
                None => self.trailers(),
            },
            Self::Trailers => self.trailers(),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

impl Reply {
    fn trailers(&mut self) -> Option<Frame<Bytes>> {
        *self = Self::Nothing;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Frame::trailers(trailers))
    }
}

/// A message with gRPC's prefix of a flag and a length.
fn framed(message: &[u8]) -> Bytes {
    if message.is_empty() {
        return Bytes::from_static(&[0; 5]);
    }
    // Our answers are short; the cast cannot saturate.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}
