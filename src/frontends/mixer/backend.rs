//! `InfrastructureBackend`: sessions without state, and validation of a handler's
//! params.

use super::authorization;
use super::config::{self, Any, Config};
use crate::pb::google::rpc::Status;
use crate::pb::istio::mixer::adapter::model::v1beta1::{
    CloseSessionResponse, CreateSessionResponse, ValidateRequest, ValidateResponse,
};
use crate::refusal::{Reason, Refusal};
use crate::volume::Volume;

const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 3;

/// Validates the params of a handler.
pub fn validate(request: &ValidateRequest, volume: Option<&Volume>) -> ValidateResponse {
    let any = request
        .adapter_config
        .as_ref()
        .map(|any| Any { type_url: any.type_url.as_bytes(), value: &any.value });
    let config = config::read(any.unwrap_or_default());
    let status = match config.and_then(|config| check(&config, volume)) {
        Ok(()) => status(OK, String::new()),
        Err(refusal) => status(INVALID_ARGUMENT, refusal.text.to_string()),
    };
    ValidateResponse { status: Some(status) }
}

fn check(config: &Config, volume: Option<&Volume>) -> Result<(), Refusal> {
    authorization::check(config)?;
    match (config.file_path(), volume) {
        (b"", _) => Ok(()),
        (_, None) => {
            Err(Refusal::new(Reason::NoVolume, "file_path: there is no volume to write to: --volume none"))
        }
        (path, Some(volume)) => {
            volume.resolve(path).map(drop).map_err(|rule| Refusal::new(Reason::Config, rule))
        }
    }
}

/// A session is only a name: every request is self-contained.
pub fn create_session(id: u64) -> CreateSessionResponse {
    CreateSessionResponse { session_id: format!("{id:016x}"), status: Some(status(OK, String::new())) }
}

/// There is nothing to release.
pub fn close_session() -> CloseSessionResponse {
    CloseSessionResponse { status: Some(status(OK, String::new())) }
}

fn status(code: i32, message: String) -> Status {
    Status { code, message, details: Vec::new() }
}
