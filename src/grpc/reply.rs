//! An answer's body: gRPC's messages, and OK behind the last one.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use tokio_stream::Stream;

/// The messages of an answer that has more than one.
pub type Replies = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// What is left to be said.
#[derive(Default)]
pub enum Reply {
    /// Nothing: the head has said it all, or the trailers have.
    #[default]
    Nothing,
    /// One message.
    Message(Bytes),
    /// A message now and then.
    Messages(Replies),
    /// That it went well.
    Trailers,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

impl Reply {
    /// An answer that went well.
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

/// A message behind gRPC's head of a flag and a length.
fn framed(message: &[u8]) -> Bytes {
    if message.is_empty() {
        return Bytes::from_static(&[0; 5]);
    }
    // What we answer is short; no more than the length's four bytes can tell.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}
