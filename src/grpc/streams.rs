//! A client's stream of messages, taken one at a time until it ends or its
//! connection is to close.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use super::budget::MAX_MESSAGE;
use super::messages::Messages;
use super::reply::Reply;
use crate::frontends::envoy::access_log::Stream;
use crate::refusal::Refusal;

/// How long to take what was on its way when a stream was ended: its peer sends no
/// more once it knows.
const LATE: Duration = Duration::from_secs(5);

/// Takes a stream of access logs, and answers when it ends.
///
/// It is a task of its own: a message that was read is kept, whatever becomes of
/// the call that it came on.
pub(super) async fn take(
    mut messages: Messages<Incoming>,
    mut stream: Stream,
    refused: impl Fn(&Refusal) -> Status + Send + 'static,
) -> Result<Reply, Status> {
    let open = match messages.open() {
        Ok(open) => open,
        Err(status) => {
            messages.discard();
            return Err(status);
        }
    };
    let (answer, answered) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = take_all(&mut messages, &mut stream, refused).await;
        let is_ended_well = outcome.is_ok();
        let _ = answer.send(outcome.map(|()| Reply::Message(Bytes::new())));
        if is_ended_well {
            take_late(&mut messages, &mut stream).await;
        }
        messages.discard();
        drop(open);
    });
    answered.await.unwrap_or_else(|_| Err(Status::cancelled("the stream was dropped")))
}

/// Takes messages until the stream ends, or its connection is to close.
async fn take_all(
    messages: &mut Messages<Incoming>,
    stream: &mut Stream,
    refused: impl Fn(&Refusal) -> Status,
) -> Result<(), Status> {
    let mut closing = messages.closing();
    while let Some(message) = messages.next(MAX_MESSAGE, &mut closing).await? {
        stream.take(message).await.map_err(|refusal| refused(&refusal))?;
        if *closing.borrow() {
            break;
        }
    }
    Ok(())
}

/// Takes what its peer sent before it knew that the stream is ended.
async fn take_late(messages: &mut Messages<Incoming>, stream: &mut Stream) {
    let (_, mut never) = watch::channel(false);
    let deadline = Instant::now() + LATE;
    while let Ok(Ok(Some(message))) =
        tokio::time::timeout_at(deadline, messages.next(MAX_MESSAGE, &mut never)).await
    {
        if stream.take(message).await.is_err() {
            break;
        }
    }
}
