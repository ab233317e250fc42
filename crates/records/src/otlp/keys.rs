//! The encoded tags of the fields that are read: of OTLP's `logs_service.proto`,
//! `logs.proto`, `resource.proto` and `common.proto`.

use crate::protobuf::wire::bytes;

/// ExportLogsServiceRequest.
pub(super) const RESOURCE_LOGS: u64 = bytes(1);

pub(super) mod resource_logs {
    use crate::protobuf::wire::bytes;

    pub(crate) const RESOURCE: u64 = bytes(1);
    pub(crate) const SCOPE_LOGS: u64 = bytes(2);
}

pub(super) mod scope_logs {
    use crate::protobuf::wire::bytes;

    pub(crate) const SCOPE: u64 = bytes(1);
    pub(crate) const LOG_RECORDS: u64 = bytes(2);
}

pub(super) mod resource {
    use crate::protobuf::wire::bytes;

    pub(crate) const ATTRIBUTES: u64 = bytes(1);
}

/// InstrumentationScope.
pub(super) mod scope {
    use crate::protobuf::wire::bytes;

    pub(crate) const NAME: u64 = bytes(1);
    pub(crate) const VERSION: u64 = bytes(2);
    pub(crate) const ATTRIBUTES: u64 = bytes(3);
}

pub(super) mod record {
    use crate::protobuf::wire::{bytes, fixed64, varint};

    pub(crate) const TIME: u64 = fixed64(1);
    pub(crate) const SEVERITY_NUMBER: u64 = varint(2);
    pub(crate) const SEVERITY_TEXT: u64 = bytes(3);
    pub(crate) const BODY: u64 = bytes(5);
    pub(crate) const ATTRIBUTES: u64 = bytes(6);
    pub(crate) const TRACE_ID: u64 = bytes(9);
    pub(crate) const SPAN_ID: u64 = bytes(10);
    pub(crate) const OBSERVED_TIME: u64 = fixed64(11);
}

/// AnyValue and its lists.
pub(super) mod value {
    use crate::protobuf::wire::{bytes, fixed64, varint};

    pub(crate) const STRING: u64 = bytes(1);
    pub(crate) const BOOL: u64 = varint(2);
    pub(crate) const INT: u64 = varint(3);
    pub(crate) const DOUBLE: u64 = fixed64(4);
    pub(crate) const ARRAY: u64 = bytes(5);
    pub(crate) const KVLIST: u64 = bytes(6);
    pub(crate) const BYTES: u64 = bytes(7);
    /// In ArrayValue and KeyValueList.
    pub(crate) const VALUES: u64 = bytes(1);
}
