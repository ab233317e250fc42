//! A client's stream, read one message at a time until it ends or its connection shuts
//! down.

use std::future::Future;
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

/// How long to read data in flight after a stream was ended; the peer then stops
/// sending.
const LATE: Duration = Duration::from_secs(5);

/// Reads a stream of access logs, and answers when it ends.
///
/// It runs in its own task: a received message is kept, even if its call ends. The
/// future that waits for the answer is small, as thousands of streams may be open.
pub(super) fn take(
    mut messages: Messages<Incoming>,
    mut stream: Stream,
    refused: impl Fn(&Refusal) -> Status + Send + 'static,
) -> impl Future<Output = Result<Reply, Status>> + Send {
    let (answer, answered) = oneshot::channel();
    match messages.open() {
        Ok(open) => drop(tokio::spawn(async move {
            let outcome = take_all(&mut messages, &mut stream, refused).await;
            let is_ended_well = outcome.is_ok();
            let _ = answer.send(outcome.map(|()| Reply::Message(Bytes::new())));
            if is_ended_well {
                Box::pin(take_late(&mut messages, &mut stream)).await;
            }
            messages.discard();
            drop(open);
        })),
        Err(status) => {
            messages.discard();
            let _ = answer.send(Err(status));
        }
    }
    async { answered.await.unwrap_or_else(|_| Err(Status::cancelled("the stream was dropped"))) }
}

/// Reads messages until the stream ends, or its connection shuts down.
async fn take_all(
    messages: &mut Messages<Incoming>,
    stream: &mut Stream,
    refused: impl Fn(&Refusal) -> Status,
) -> Result<(), Status> {
    let mut closing = messages.closing();
    loop {
        let next = messages.next(MAX_MESSAGE, &mut closing).await?;
        let Some(message) = next else { return Ok(()) };
        // Boxed: an idle stream needs no memory for it.
        Box::pin(stream.take(message)).await.map_err(|refusal| refused(&refusal))?;
        if *closing.borrow() {
            return Ok(());
        }
    }
}

/// Reads messages that the peer sent before it learned that the stream has ended.
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
