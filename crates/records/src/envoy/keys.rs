//! The encoded tags of the fields that are read: of
//! `envoy/service/accesslog/v3/als.proto`, `envoy/data/accesslog/v3/accesslog.proto`
//! and their messages.

pub(super) mod stream {
    use crate::protobuf::wire::bytes;

    pub(crate) const IDENTIFIER: u64 = bytes(1);
    pub(crate) const HTTP_LOGS: u64 = bytes(2);
    pub(crate) const TCP_LOGS: u64 = bytes(3);
    /// In HTTPAccessLogEntries and TCPAccessLogEntries.
    pub(crate) const LOG_ENTRY: u64 = bytes(1);
}

pub(super) mod identifier {
    use crate::protobuf::wire::bytes;

    pub(crate) const NODE: u64 = bytes(1);
    pub(crate) const LOG_NAME: u64 = bytes(2);
}

pub(super) mod node {
    use crate::protobuf::wire::bytes;

    pub(crate) const ID: u64 = bytes(1);
    pub(crate) const METADATA: u64 = bytes(3);
}

/// HTTPAccessLogEntry and TCPAccessLogEntry.
pub(super) mod entry {
    use crate::protobuf::wire::{bytes, varint};

    pub(crate) const COMMON: u64 = bytes(1);
    /// ConnectionProperties, in a TCP entry.
    pub(crate) const CONNECTION: u64 = bytes(2);
    /// The HTTP version, in an HTTP entry.
    pub(crate) const PROTOCOL: u64 = varint(2);
    pub(crate) const REQUEST: u64 = bytes(3);
    pub(crate) const RESPONSE: u64 = bytes(4);
}

pub(super) mod connection {
    use crate::protobuf::wire::varint;

    pub(crate) const RECEIVED_BYTES: u64 = varint(1);
    pub(crate) const SENT_BYTES: u64 = varint(2);
}

/// AccessLogCommon.
pub(super) mod common {
    use crate::protobuf::wire::{bytes, varint};

    pub(crate) const DOWNSTREAM_REMOTE_ADDRESS: u64 = bytes(2);
    pub(crate) const DOWNSTREAM_LOCAL_ADDRESS: u64 = bytes(3);
    pub(crate) const TLS_PROPERTIES: u64 = bytes(4);
    pub(crate) const START_TIME: u64 = bytes(5);
    pub(crate) const UPSTREAM_REMOTE_ADDRESS: u64 = bytes(13);
    pub(crate) const UPSTREAM_LOCAL_ADDRESS: u64 = bytes(14);
    pub(crate) const UPSTREAM_CLUSTER: u64 = bytes(15);
    pub(crate) const RESPONSE_FLAGS: u64 = bytes(16);
    pub(crate) const METADATA: u64 = bytes(17);
    pub(crate) const UPSTREAM_TRANSPORT_FAILURE_REASON: u64 = bytes(18);
    pub(crate) const ROUTE_NAME: u64 = bytes(19);
    pub(crate) const FILTER_STATE_OBJECTS: u64 = bytes(21);
    pub(crate) const CUSTOM_TAGS: u64 = bytes(22);
    pub(crate) const DURATION: u64 = bytes(23);
    pub(crate) const CONNECTION_TERMINATION_DETAILS: u64 = bytes(25);
    pub(crate) const STREAM_ID: u64 = bytes(26);
    pub(crate) const INTERMEDIATE_LOG_ENTRY: u64 = varint(27);
    pub(crate) const ACCESS_LOG_TYPE: u64 = varint(33);
}

/// TLSProperties.
pub(super) mod tls {
    use crate::protobuf::wire::bytes;

    pub(crate) const SNI_HOSTNAME: u64 = bytes(3);
}

/// Metadata.
pub(super) mod metadata {
    use crate::protobuf::wire::bytes;

    pub(crate) const FILTER_METADATA: u64 = bytes(1);
}

/// HTTPRequestProperties.
pub(super) mod request {
    use crate::protobuf::wire::{bytes, varint};

    pub(crate) const METHOD: u64 = varint(1);
    pub(crate) const AUTHORITY: u64 = bytes(3);
    pub(crate) const PATH: u64 = bytes(5);
    pub(crate) const USER_AGENT: u64 = bytes(6);
    pub(crate) const FORWARDED_FOR: u64 = bytes(8);
    pub(crate) const REQUEST_ID: u64 = bytes(9);
    pub(crate) const ORIGINAL_PATH: u64 = bytes(10);
    pub(crate) const BODY_BYTES: u64 = varint(12);
    pub(crate) const HEADERS: u64 = bytes(13);
}

/// HTTPResponseProperties.
pub(super) mod response {
    use crate::protobuf::wire::{bytes, varint};

    pub(crate) const CODE: u64 = bytes(1);
    pub(crate) const BODY_BYTES: u64 = varint(3);
    pub(crate) const HEADERS: u64 = bytes(4);
    pub(crate) const TRAILERS: u64 = bytes(5);
    pub(crate) const CODE_DETAILS: u64 = bytes(6);
}

/// Address, SocketAddress, Pipe and EnvoyInternalAddress.
pub(super) mod address {
    use crate::protobuf::wire::{bytes, varint};

    pub(crate) const SOCKET: u64 = bytes(1);
    pub(crate) const SOCKET_HOST: u64 = bytes(2);
    pub(crate) const SOCKET_PORT: u64 = varint(3);
    pub(crate) const SOCKET_NAMED_PORT: u64 = bytes(4);
    pub(crate) const PIPE: u64 = bytes(2);
    pub(crate) const PIPE_PATH: u64 = bytes(1);
    pub(crate) const INTERNAL: u64 = bytes(3);
    pub(crate) const INTERNAL_LISTENER: u64 = bytes(1);
    pub(crate) const INTERNAL_ENDPOINT: u64 = bytes(2);
}

/// `google.protobuf`: Any, Struct, Value, ListValue, and the wrappers.
pub(super) mod google {
    use crate::protobuf::wire::{bytes, fixed64, varint};

    pub(crate) const ANY_TYPE_URL: u64 = bytes(1);
    pub(crate) const ANY_VALUE: u64 = bytes(2);
    pub(crate) const STRUCT_FIELDS: u64 = bytes(1);
    pub(crate) const VALUE_NULL: u64 = varint(1);
    pub(crate) const VALUE_NUMBER: u64 = fixed64(2);
    pub(crate) const VALUE_STRING: u64 = bytes(3);
    pub(crate) const VALUE_BOOL: u64 = varint(4);
    pub(crate) const VALUE_STRUCT: u64 = bytes(5);
    pub(crate) const VALUE_LIST: u64 = bytes(6);
    pub(crate) const LIST_VALUES: u64 = bytes(1);
    /// In UInt32Value.
    pub(crate) const WRAPPED_NUMBER: u64 = varint(1);
    /// In Timestamp and Duration.
    pub(crate) const SECONDS: u64 = varint(1);
    pub(crate) const NANOS: u64 = varint(2);
    /// In StringValue and BytesValue.
    pub(crate) const WRAPPED: u64 = bytes(1);
}
