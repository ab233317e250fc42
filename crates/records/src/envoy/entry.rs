//! One entry of an access log, read in one pass into a flat struct that borrows from
//! the message.

use super::address::Address;
use super::flags::Flags;
use super::keys::{common, connection, entry, google, metadata, request, response, tls};
use crate::protobuf::object::{Pair, Pairs, pair};
use crate::protobuf::wire::MAX_ENTRIES;
use crate::protobuf::wire::{Malformed, Reader};
use crate::record::{Instant, sort_pairs};

/// The kind of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// An HTTPAccessLogEntry.
    #[default]
    Http,
    /// A TCPAccessLogEntry.
    Tcp,
}

/// The map of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// Logged request headers.
    RequestHeaders,
    /// Logged response headers.
    ResponseHeaders,
    /// Logged response trailers.
    ResponseTrailers,
    /// Custom tags.
    Tags,
    /// Filter state objects, each an Any.
    FilterState,
    /// Filter metadata, each a Struct.
    Metadata,
}

/// The number of maps.
const MAPS: usize = 6;

/// The AccessLogType of an entry at the end of a request, and of one without a type.
const DOWNSTREAM_END: i32 = 6;
const NOT_SET: i32 = 0;

/// The content of an entry and its maps. Reused for all entries, so that a message
/// allocates only once.
#[derive(Debug, Default)]
pub struct Entry<'a> {
    /// Its fields, without its maps.
    pub fields: Fields<'a>,
    /// Its pairs, by map.
    pairs: [Pairs<'a>; MAPS],
    has_pairs: bool,
    /// Scratch space for rendering nested objects.
    pub(super) nested: Pairs<'a>,
}

/// The fields of an entry. Texts are unchecked bytes of the sender; absent fields are
/// empty, zero or `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Its kind.
    pub kind: Kind,
    /// The client's address, as reported by proxies in front.
    pub downstream_remote_address: Address<'a>,
    /// The destination address of the client's connection.
    pub downstream_local_address: Address<'a>,
    /// The requested server name (SNI) of the client's TLS handshake.
    pub sni: &'a [u8],
    /// The start time.
    pub start_time: Option<Instant>,
    /// The selected upstream host.
    pub upstream_remote_address: Address<'a>,
    /// The local address of the connection to this host.
    pub upstream_local_address: Address<'a>,
    /// The selected upstream cluster.
    pub upstream_cluster: &'a [u8],
    /// Reasons for a local reply or a failure.
    pub response_flags: Flags,
    /// The reason for a failed connection to the host.
    pub upstream_transport_failure_reason: &'a [u8],
    /// The route's name.
    pub route_name: &'a [u8],
    /// The duration; `None` for an intermediate entry.
    pub duration: Option<Instant>,
    /// The reason for the termination of the connection.
    pub connection_termination_details: &'a [u8],
    /// The id of the request or connection. For a request it is the client's
    /// `x-request-id`, unsanitized.
    pub stream_id: &'a [u8],
    /// Whether more entries of the same request or connection follow.
    pub is_intermediate: bool,
    /// The event that triggered the entry, an AccessLogType.
    pub access_log_type: i32,
    /// The HTTP version, an HTTPVersion.
    pub protocol: i32,
    /// The method, a RequestMethod: zero if unknown to Envoy.
    pub method: i32,
    /// The `:authority` or `host`.
    pub authority: &'a [u8],
    /// The path with its query, as sent upstream.
    pub path: &'a [u8],
    /// The path before Envoy's rewrite.
    pub original_path: &'a [u8],
    /// The `user-agent`.
    pub user_agent: &'a [u8],
    /// The `x-forwarded-for`.
    pub forwarded_for: &'a [u8],
    /// The `x-request-id`, sanitized.
    pub request_id: &'a [u8],
    /// The HTTP status.
    pub response_code: u32,
    /// The origin of the response, or the reason for its absence.
    pub response_code_details: &'a [u8],
    /// Bytes of the request's body, or received from the client.
    pub received_bytes: u64,
    /// Bytes of the response's body, or sent to the client.
    pub sent_bytes: u64,
}

impl<'a> Entry<'a> {
    /// Reads an entry, replacing the previous one.
    ///
    /// # Errors
    ///
    /// The bytes are not a protobuf message, or the entry's maps have more than 32,768
    /// pairs. The fields up to the error are kept.
    pub fn read(&mut self, kind: Kind, message: &'a [u8]) -> Result<(), Malformed> {
        self.fields = Fields { kind, ..Fields::default() };
        if std::mem::take(&mut self.has_pairs) {
            self.pairs.iter_mut().for_each(Pairs::clear);
        }
        self.nested.clear();
        match kind {
            Kind::Http => self.http(message)?,
            Kind::Tcp => self.tcp(message)?,
        }
        if self.has_pairs {
            self.pairs.iter_mut().for_each(|pairs| sort_pairs(pairs, 0));
        }
        Ok(())
    }

    /// Whether any map has a pair.
    pub fn has_pairs(&self) -> bool {
        self.has_pairs
    }

    /// The pairs of a map, sorted by unique keys.
    pub fn pairs(&self, map: Map) -> &[Pair<'a>] {
        &self.pairs[map as usize]
    }

    /// The value for a key in a map.
    pub fn lookup(&self, map: Map, key: &[u8]) -> Option<&'a [u8]> {
        self.pairs(map).iter().find(|pair| pair.0 == key).map(|pair| pair.1)
    }

    /// Whether it is the final entry of an HTTP request, so that a request counts once.
    /// Other entries are not: those of connections, of upstream requests, and of
    /// unknown types.
    pub fn ends_request(&self) -> bool {
        let ends = match self.fields.access_log_type {
            DOWNSTREAM_END => true,
            // Older Envoys send no type.
            NOT_SET => !self.fields.is_intermediate,
            _ => false,
        };
        ends && self.fields.kind == Kind::Http
    }

    fn http(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                entry::COMMON => self.common(field.bytes)?,
                entry::PROTOCOL => self.fields.protocol = field.number as i32,
                entry::REQUEST => self.request(field.bytes)?,
                entry::RESPONSE => self.response(field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn tcp(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                entry::COMMON => self.common(field.bytes)?,
                entry::CONNECTION => self.connection(field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn common(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                common::DOWNSTREAM_REMOTE_ADDRESS => {
                    self.fields.downstream_remote_address.add(field.bytes)?
                }
                common::DOWNSTREAM_LOCAL_ADDRESS => self.fields.downstream_local_address.add(field.bytes)?,
                common::TLS_PROPERTIES => self.tls(field.bytes)?,
                common::START_TIME => instant(&mut self.fields.start_time, field.bytes)?,
                common::UPSTREAM_REMOTE_ADDRESS => self.fields.upstream_remote_address.add(field.bytes)?,
                common::UPSTREAM_LOCAL_ADDRESS => self.fields.upstream_local_address.add(field.bytes)?,
                common::UPSTREAM_CLUSTER => self.fields.upstream_cluster = field.bytes,
                common::RESPONSE_FLAGS => self.fields.response_flags.add(field.bytes)?,
                common::METADATA => self.metadata(field.bytes)?,
                common::UPSTREAM_TRANSPORT_FAILURE_REASON => {
                    self.fields.upstream_transport_failure_reason = field.bytes;
                }
                common::ROUTE_NAME => self.fields.route_name = field.bytes,
                common::FILTER_STATE_OBJECTS => self.push(Map::FilterState, field.bytes)?,
                common::CUSTOM_TAGS => self.push(Map::Tags, field.bytes)?,
                common::DURATION => instant(&mut self.fields.duration, field.bytes)?,
                common::CONNECTION_TERMINATION_DETAILS => {
                    self.fields.connection_termination_details = field.bytes;
                }
                common::STREAM_ID => self.fields.stream_id = field.bytes,
                common::INTERMEDIATE_LOG_ENTRY => self.fields.is_intermediate = field.number != 0,
                common::ACCESS_LOG_TYPE => self.fields.access_log_type = field.number as i32,
                _ => {}
            }
        }
        Ok(())
    }

    fn tls(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(name) = reader.next_of(tls::SNI_HOSTNAME)? {
            self.fields.sni = name;
        }
        Ok(())
    }

    fn metadata(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(of_filter) = reader.next_of(metadata::FILTER_METADATA)? {
            self.push(Map::Metadata, of_filter)?;
        }
        Ok(())
    }

    fn request(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                request::METHOD => self.fields.method = field.number as i32,
                request::AUTHORITY => self.fields.authority = field.bytes,
                request::PATH => self.fields.path = field.bytes,
                request::USER_AGENT => self.fields.user_agent = field.bytes,
                request::FORWARDED_FOR => self.fields.forwarded_for = field.bytes,
                request::REQUEST_ID => self.fields.request_id = field.bytes,
                request::ORIGINAL_PATH => self.fields.original_path = field.bytes,
                request::BODY_BYTES => self.fields.received_bytes = field.number,
                request::HEADERS => self.push(Map::RequestHeaders, field.bytes)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn response(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                response::CODE => self.code(field.bytes)?,
                response::BODY_BYTES => self.fields.sent_bytes = field.number,
                response::HEADERS => self.push(Map::ResponseHeaders, field.bytes)?,
                response::TRAILERS => self.push(Map::ResponseTrailers, field.bytes)?,
                response::CODE_DETAILS => self.fields.response_code_details = field.bytes,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads a UInt32Value.
    fn code(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            if field.key == google::WRAPPED_NUMBER {
                self.fields.response_code = field.number as u32;
            }
        }
        Ok(())
    }

    fn connection(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                connection::RECEIVED_BYTES => self.fields.received_bytes = field.number,
                connection::SENT_BYTES => self.fields.sent_bytes = field.number,
                _ => {}
            }
        }
        Ok(())
    }

    fn push(&mut self, map: Map, message: &'a [u8]) -> Result<(), Malformed> {
        if self.pairs.iter().map(Vec::len).sum::<usize>() >= MAX_ENTRIES {
            return Err(Malformed::Entries);
        }
        self.pairs[map as usize].push(pair(message)?);
        self.has_pairs = true;
        Ok(())
    }
}

/// Merges a Timestamp or a Duration into `known`.
fn instant(known: &mut Option<Instant>, message: &[u8]) -> Result<(), Malformed> {
    let held = known.get_or_insert_default();
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field.key {
            google::SECONDS => held.seconds = field.number as i64,
            google::NANOS => held.nanos = field.number as i32,
            _ => {}
        }
    }
    Ok(())
}
