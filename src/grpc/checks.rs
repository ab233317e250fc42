//! Envoy's checks: from the message of a call to a verdict. A message may consist
//! mostly of a request's body, which is dropped as it arrives.

use bytes::Bytes;
use hyper::body::Incoming;
use tonic::Status;

use super::messages::{Arrival, Messages};
use crate::frontends::envoy::ext_authz::Service;
use crate::frontends::envoy::ext_authz::service::malformed;
use crate::frontends::envoy::ext_authz::without_body::{MAX_KEPT, without_body};
use crate::refusal::Refusal;

/// Judges the check of a call, of at most `most` bytes. An error concerns the call,
/// such as a second message; a refusal is an invalid check.
pub async fn judge(
    service: &Service,
    messages: &mut Messages<Incoming>,
    most: usize,
) -> Result<Result<Bytes, Refusal>, Status> {
    let mut part = match messages.arrival(most).await? {
        Arrival::Whole(message) => return Ok(service.answer(&message.bytes)),
        Arrival::Part(part) => part,
    };
    let mut message = without_body();
    while let Some(piece) = messages.piece(&mut part).await? {
        match message.push(&piece) {
            Ok(kept) => part.keep(kept, MAX_KEPT).await?,
            Err(error) => return Ok(Err(malformed(error))),
        }
    }
    Ok(message.end().map_err(malformed).and_then(|message| service.answer(&message)))
}
